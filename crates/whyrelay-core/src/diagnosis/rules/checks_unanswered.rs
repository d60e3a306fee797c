//! checks are not answered, and where they get lost was not measured.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::session::Session;
use crate::diagnosis::session::{Break, Path, likeliest_first};
use crate::host::Family;
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR505",
    name: "checks-unanswered",
    title: "checks are not answered, and where they get lost was not measured",
    meaning: "Checks of a side stay unanswered. Without the other side's recording it is not known whether they never arrived, were not answered, or the answers got lost.",
    detection: "Checks on pairs that could work have no answer, and the other side's recording is missing or incomplete.",
    proof: "The other side's recording.",
    doubt: "The other side's recording.",
    fixes: &[Fix::safe(
        "Give whyrelay report both sides' recordings; where the other side is not whyrelay, run whyrelay there, too.",
    )],
    threads: &["aiortc/aiortc#756", "centricular/gstwebrtc-demos#125"],
    depends_on: &[
        "WR801", "WR305", "WR101", "WR805", "WR208", "WR302", "WR304", "WR202", "WR206", "WR207", "WR201", "WR504",
        "WR513", "WR510", "WR706", "WR501", "WR502", "WR503", "WR103", "WR104", "WR105", "WR106", "WR107", "WR108",
        "WR109", "WR110", "WR111", "WR112", "WR113", "WR114", "WR115", "WR116", "WR118", "WR119", "WR120", "WR129",
        "WR130", "WR131",
    ],
    needs: &[Need::Sockets],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    let from = |from| Fault::of_families(|family| unanswered(session, from, family));
    Examination::of([Vantage::A, Vantage::B].into_iter().filter_map(from).collect())
}

fn unanswered(session: &Session<'_>, from: Vantage, family: Option<Family>) -> Option<Fault> {
    let could = session.pairs.iter().filter(|pair| session.could_arrive(pair, from) && pair.is_of(family));
    let chains = likeliest_first(could.filter(|pair| pair.from(from).broken == Some(Break::Somewhere)));
    let side = chains.iter().find_map(|pair| pair.side(from))?;
    let heard = chains.iter().any(|pair| pair.from(from.other()).seen.as_ref().is_some_and(|seen| seen.checks > 0));
    let (here, there) = (from.name(), from.other().name());
    // It is whyrelay, and did not live to send what it saw.
    let died = matches!(session.evidence.side(from).peer_program, Some((_, true)))
        && !session.evidence.is_recorded(from.other());
    let again = died.then(|| {
            let text = format!("{there} is whyrelay and ended before it sent its recording: run both again, and {there} with --record FILE, which keeps what it saw until it ends");
            Remedy::safe(text)
        });
    let back = if heard { format!(", although checks of {there} arrive") } else { String::new() };
    Some(Fault {
        blame: Blame::Path,
        severity: Severity::Warning,
        summary: format!("Checks of {here} to {} are not answered{back}", side.pair.remote),
        evidence: chains.iter().flat_map(|pair| pair.from(from).evidence.iter().copied()).collect(),
        advice: again.into_iter().collect(),
        ..Fault::default()
    })
}
