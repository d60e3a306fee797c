//! the path broke: consent expired.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::trace::event::{IceState, IceStateReason};

pub(super) const RULE: Rule = Rule {
    code: "WR506",
    name: "consent-lost",
    title: "the path broke: consent expired",
    meaning: "The selected pair worked and then the peer's answers stopped for so long that sending on is not allowed (RFC 7675). The mapping in a NAT expired, an interface or route changed, or the peer is gone.",
    detection: "No consent check was answered for 30 seconds, and the agent gave the pair up; or none was answered any more when the session ended.",
    proof: "What the cited side's host facts after the event show changed against before: interface, address, route.",
    doubt: "An answer after the cited event: then the path was only slow.",
    fixes: &[
        Fix::safe("Look at what changed on either side at that time: interface, route, VPN, sleep."),
        Fix::safe("If it happens after idle time: send keep-alives more often than the NAT forgets (15 to 25 s)."),
    ],
    threads: &["firezone/firezone#9524"],
    depends_on: &["WR131", "WR705", "WR205", "WR411"],
    needs: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        let seq = match (side.ice_state(), side.outage()) {
            (Some((seq, IceState::Failed, IceStateReason::ConsentExpired)), _) => seq,
            // The session ended, or goes on, while ICE was still trying to get the path back.
            (_, Some(outage)) if session.path == Path::Failed && is_silence(outage.reason) => outage.seq,
            _ => continue,
        };
        let pair = side.selected_pair().map(|(_, pair)| format!(" from {} to {}", pair.local, pair.remote));
        faults.push(Fault {
            blame: Blame::Path,
            severity: Severity::Error,
            summary: format!("{} lost consent on the path{}", vantage.name(), pair.unwrap_or_default()),
            evidence: vec![seq],
            ..Fault::default()
        });
    }
    Examination::of(faults)
}

const fn is_silence(reason: IceStateReason) -> bool {
    matches!(reason, IceStateReason::ConsentSilent | IceStateReason::ConsentExpired)
}
