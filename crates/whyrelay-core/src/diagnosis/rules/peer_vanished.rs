//! the peer vanished.

use std::time::Duration;

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::{Outage, SideEvidence};
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::session::Session;
use crate::trace::event::{EndReason, SignalingState, Vantage};

pub(super) const RULE: Rule = Rule {
    code: "WR705",
    name: "peer-vanished",
    title: "the peer vanished",
    meaning: "A side left in the middle of the session: its user interrupted it, its program or machine was stopped, or it lost all of its network. Where checks had no time to be answered before that, no rule blames that they were not.",
    detection: "The signaling server says that the peer left, or the recording ends for that reason, before the session was finished; or it said itself that it was interrupted, to the other side or in its own recording; where the connection was kept open (--stay), that the path fell silent and the peer left then, or its system says that nobody is at its port any more.",
    proof: "The end of the other side's own recording.",
    doubt: "The other side's recording, if it goes on after the cited event: then only its signaling broke.",
    fixes: &[Fix::safe("Look at the end of the other side's recording.")],
    threads: &["feross/simple-peer#696", "peers/peerjs#58"],
    depends_on: &["WR601"],
    needs: &[Need::OtherSide],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let (side, other) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
        let told = session.evidence.interrupted(vantage.other());
        let end = match (side.ended, side.outage()) {
            // It was told to end because the path had broken.
            (Some((_, EndReason::PeerLeft)), Some(_)) if told.is_some() => continue,
            (Some((end, EndReason::PeerLeft)), _) => end,
            // It says so itself: it was told to end before there was a path.
            (Some((end, EndReason::Failed)), None) if told.is_some() && side.selected.is_empty() => end,
            // Kept open, and the path fell silent at about the time when the peer was gone.
            (_, Some(outage))
                if other.ended.is_none() && (left_by(side, outage) || port_closed(session, vantage).is_some()) =>
            {
                outage.seq
            }
            _ => continue,
        };
        // A peer that ended in good order has only left first.
        if matches!(other.ended, Some((_, EndReason::Finished | EndReason::Failed | EndReason::TimeLimit))) {
            continue;
        }
        let cut_short = session.cut_short().is_some();
        let left = side
            .signaling
            .iter()
            .filter(|(_, _, state)| matches!(state, SignalingState::PeerLeft | SignalingState::PeerInterrupted));
        faults.push(Fault {
            blame: Blame::side(vantage.other()),
            // Once checks had their time, what they showed is the cause, and this only how it ended.
            severity: if told.is_some() && !cut_short { Severity::Info } else { Severity::Error },
            summary: match told {
                Some(_) if side.selected.is_empty() => {
                    format!("{} was interrupted (Ctrl-C or a signal) before there was a path", vantage.other().name())
                }
                Some(_) => format!("{} was interrupted (Ctrl-C or a signal)", vantage.other().name()),
                None => format!("{} vanished in the middle of the session", vantage.other().name()),
            },
            evidence: left
                .map(|(seq, ..)| *seq)
                .chain([end])
                .chain(told)
                .chain(port_closed(session, vantage))
                .collect(),
            advice: told.map(|_| Remedy::safe("Run both again, and let them come to their end")).into_iter().collect(),
            advice_is_all: told.is_some(),
            ..Fault::default()
        });
    }
    Examination::of(faults)
}

/// Whether a side vanished: what it left behind half done is then no cause.
pub(super) fn is_found(session: &Session<'_>) -> bool {
    matches!(examine(session), Examination::Found(_))
}

/// A signaling server keeps the place of a client whose connection broke for some seconds, and whole networks are missed
/// later still.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);

/// Whether the peer had left when the path broke, or was then found to have.
fn left_by(side: &SideEvidence, outage: &Outage) -> bool {
    side.peer_left.is_some_and(|(_, at)| at <= outage.at + NOTICED_WITHIN)
}

/// The event that shows that no program is at the peer's port any more: on the pair that carried data its system
/// answers "port unreachable". At a relayed address it is the relay's system.
fn port_closed(session: &Session<'_>, vantage: Vantage) -> Option<u64> {
    let (side, other) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let (selected, pair) = side.selected_pair()?;
    if other.is_relayed(pair.remote) || side.known.is_told_as_relayed(pair.remote) {
        return None;
    }
    let on_pair = side.icmp_errors.iter().filter(|((local, remote, kind, code), error)| {
        let is_port = matches!((remote.is_ipv4(), kind, code), (true, 3, 3) | (false, 1, 4));
        is_port && (*local, *remote) == (pair.local, pair.remote) && error.seq > selected
    });
    on_pair.map(|(_, error)| error.seq).min()
}
