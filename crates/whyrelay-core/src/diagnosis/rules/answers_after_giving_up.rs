//! Answers come after the agent has given up.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::trace::event::IceState;

pub(super) const RULE: Rule = Rule {
    code: "WR510",
    name: "answers-after-giving-up",
    title: "answers come after the agent has given up",
    meaning: "Checks are answered, but later than the agent waits for them: the round trip is long (satellite, a congested line), or the peer was slow to begin. The path would work with more patience.",
    detection: "A check of a pair was answered with success after the agent had declared failure.",
    proof: "The round trip of the late answers, next to the agent's time-out.",
    doubt: "A session with --patient that fails all the same.",
    fixes: &[Fix::safe(
        "Run with --patient (RFC 8445's own schedule, 39.5 s); for NetBird raise NB_ICE_FAILED_TIMEOUT_SEC and NB_ICE_DISCONNECTED_TIMEOUT_SEC.",
    )],
    threads: &[
        "netbirdio/netbird#4211",
        "sipwise/rtpengine#84",
        "pion/ice#255",
        "firezone/firezone#2745",
        "feross/simple-peer#590",
    ],
    depends_on: &["WR801"],
    needs: &[Need::Sockets],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded().filter(|_| session.path != Path::Direct) {
        let side = session.evidence.side(vantage);
        let failed = side.ice_states.iter().find(|(_, state, _)| *state == IceState::Failed).map(|(seq, ..)| *seq);
        let Some(failed) = failed else { continue };
        let late = side.sent.values().filter(|check| check.seq < failed && check.succeeded()).filter_map(|check| {
            let answer = check.answer.as_ref().filter(|answer| answer.seq > failed)?;
            Some((answer.at - check.first, check.pair.remote, answer.seq))
        });
        let Some((took, remote, seq)) = late.min_by_key(|(.., seq)| *seq) else { continue };
        faults.push(Fault {
            blame: Blame::Path,
            severity: if session.path == Path::Failed { Severity::Error } else { Severity::Warning },
            summary: format!(
                "{} gave up on {remote}, and its check was answered {:.1} s after it was sent",
                vantage.name(),
                took.as_secs_f64()
            ),
            evidence: vec![failed, seq],
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
