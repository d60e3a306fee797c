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
        let mut mine: Vec<_> =
            diversions(session, vantage).into_iter().filter(|diversion| is_mine(&diversion.by)).collect();
        if mine.is_empty() {
            let hidden = session.hidden_diversions(vantage).iter().filter(|diversion| is_mine(&diversion.by));
            mine.extend(hidden.cloned());
        }
        let Some(first) = mine.first() else { continue };
        let (mut summary, mut more, advice) = say(session, vantage, first);
        summary.push_str(&behind(first));
        more.extend(first.behind.iter().map(|(_, seq)| *seq));
        let (proven, probes) = counterfactual(session.evidence.side(vantage));
        let answers = mine.iter().flat_map(|diversion| {
            [Some(diversion.answer.seq), diversion.server.as_ref().map(|server| server.seq)].into_iter().flatten()
        });
        faults.push(Fault {
            blame: Blame::side(vantage),
            severity: session.harm(),
            family: one_family(mine.iter().map(|diversion| diversion.answer.fact.question.destination)),
            summary: summary + &proven,
            hidden: !first.behind.is_empty(),
            evidence: answers.take(4).chain(more).chain(probes).collect(),
            advice,
            ..Fault::default()
        });
    }
    Examination::of(faults)
}

/// What a diversion is hidden by, for the end of a sentence that tells of it as if it were not; empty where it is not.
pub(super) fn behind(diversion: &Diversion<'_>) -> String {
    let words: Vec<&str> = diversion.behind.iter().map(|(words, _)| words.as_str()).collect();
    match words.as_slice() {
        [] => String::new(),
        _ => format!(
            "; that comes to light once {} is mended: by the rules and routes of this host it stops them then",
            words.join(" and ")
        ),
    }
}
