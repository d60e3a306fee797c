//! the peer vanished.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::trace::event::{EndReason, SignalingState};

pub(super) const RULE: Rule = Rule {
    code: "WR705",
    name: "peer-vanished",
    title: "the peer vanished",
    meaning: "A side left in the middle of the session without a word: its program or machine was stopped, or it lost all of its network.",
    detection: "The signaling server says that the peer left, or the recording ends for that reason, before the session was finished.",
    proof: "The end of the other side's own recording.",
    doubt: "The other side's recording, if it goes on after the cited event: then only its signaling broke.",
    fixes: &[Fix::safe("Look at the end of the other side's recording.")],
    threads: &[],
    depends_on: &["WR601"],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let (side, other) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
        let Some((end, EndReason::PeerLeft)) = side.ended else { continue };
        // A peer that ended in good order has only left first.
        if matches!(other.ended, Some((_, EndReason::Finished | EndReason::Failed | EndReason::TimeLimit))) {
            continue;
        }
        let left = side.signaling.iter().filter(|(_, _, state)| matches!(state, SignalingState::PeerLeft));
        faults.push(Fault {
            blame: Blame::side(vantage.other()),
            severity: Severity::Error,
            summary: format!("{} vanished in the middle of the session", vantage.other().name()),
            evidence: left.map(|(seq, ..)| *seq).chain([end]).collect(),
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
