//! What the rules about diverted packets have in common.

use super::counterfactual::counterfactual;
use super::{Examination, Fault, one_family};
use crate::diagnosis::finding::{Blame, Remedy};
use crate::diagnosis::routes::{By, Diversion, diversions};
use crate::diagnosis::session::{Path, Session};
use crate::trace::event::Vantage;

/// What a rule says of its diversions on one side: summary, evidence beyond the answers themselves, advice.
pub(super) type Said = (String, Vec<u64>, Vec<Remedy>);

/// Finds the diversions that a rule is about; one finding a side.
pub(super) fn examine(
    session: &Session<'_>,
    is_mine: fn(&By<'_>) -> bool,
    say: fn(&Session<'_>, Vantage, &Diversion<'_>) -> Said,
) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let mine: Vec<_> =
            diversions(session, vantage).into_iter().filter(|diversion| is_mine(&diversion.by)).collect();
        let Some(first) = mine.first() else { continue };
        let (summary, more, advice) = say(session, vantage, first);
        let (proven, probes) = counterfactual(session.evidence.side(vantage));
        let answers = mine.iter().flat_map(|diversion| {
            [Some(diversion.answer.seq), diversion.server.map(|server| server.seq)].into_iter().flatten()
        });
        faults.push(Fault {
            blame: Blame::side(vantage),
            severity: session.harm(),
            family: one_family(mine.iter().map(|diversion| diversion.answer.fact.question.destination)),
            summary: summary + &proven,
            evidence: answers.take(4).chain(more).chain(probes).collect(),
            advice,
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
