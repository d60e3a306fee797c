//! the peer never came.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::trace::event::{EndReason, Side, SignalingState};

pub(super) const RULE: Rule = Rule {
    code: "WR702",
    name: "peer-never-came",
    title: "the peer never came",
    meaning: "One side waited in the room and the other never sent its description: it was not started, is in another room, or reaches another server.",
    detection: "The recording has no description of the peer although signaling worked.",
    proof: "The other side's own output.",
    doubt: "The other side's recording, if it shows that its description was sent.",
    fixes: &[
        Fix::safe("Start the other side with the same --signal and --room."),
        Fix::safe("Compare the ids: each side must be the one that the other waits for."),
    ],
    threads: &["awslabs/amazon-kinesis-video-streams-webrtc-sdk-android#65"],
    depends_on: &["WR701", "WR704"],
    needs: &[Need::OtherSide],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        let met = side.descriptions.iter().any(|description| description.side == Side::Remote);
        let connected = side.signaling.iter().find(|(_, _, state)| matches!(state, SignalingState::Connected { .. }));
        let given_up = matches!(side.ended, Some((_, EndReason::Failed | EndReason::TimeLimit | EndReason::PeerLeft)));
        let Some((seq, server, _)) = connected.filter(|_| !met && given_up) else { continue };
        let (here, there) = (vantage.name(), vantage.other().name());
        let other = session.evidence.side(vantage.other());
        let sent = other.descriptions.iter().any(|description| description.side == Side::Local);
        // An answerer that has no offer has nothing to say: what it waits for is the fault.
        if other.events > 0 && !sent {
            continue;
        }
        let (blame, what) = match sent {
            true => (
                Blame::Signaling,
                format!("{there} sent its description, and it never reached {here}, which waited at {server}"),
            ),
            false => (
                Blame::side(vantage.other()),
                format!("{there} never sent its description to {here}, which waited at {server}"),
            ),
        };
        faults.push(Fault {
            blame,
            severity: Severity::Error,
            summary: what,
            evidence: vec![*seq],
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
