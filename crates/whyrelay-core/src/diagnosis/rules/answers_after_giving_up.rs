//! Answers come after the agent has given up.

use std::net::SocketAddr;

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::{LateAnswer, SideEvidence};
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::trace::event::{IceState, Vantage};

pub(super) const RULE: Rule = Rule {
    code: "WR510",
    name: "answers-after-giving-up",
    title: "answers come after the agent has given up",
    meaning: "Checks are answered, but later than the agent waits for them: the round trip is long (satellite, a congested line), or the peer was slow to begin. The path would work with more patience. So are the servers that a check of the network asks: what it did not wait for it did not measure.",
    detection: "A check of a pair was answered with success after the agent had declared failure. Or a server answered a check of the network when that had given its request up.",
    proof: "The round trip of the late answers, next to the agent's time-out.",
    doubt: "A session with --patient that fails all the same.",
    fixes: &[
        Fix::safe(
            "Run with --patient (RFC 8445's own schedule, 39.5 s); for NetBird raise NB_ICE_FAILED_TIMEOUT_SEC and NB_ICE_DISCONNECTED_TIMEOUT_SEC.",
        ),
        Fix::safe("Of a check: give it time (--time 10s)."),
    ],
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
    if session.evidence.is_alone() {
        return of_servers(session.evidence.side(Vantage::A));
    }
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

/// Servers that answered a check of the network later than it waits. One finding: where none answered in time, it
/// is one network that is slow.
fn of_servers(side: &SideEvidence) -> Examination {
    let late: Vec<LateAnswer> = side.late().collect();
    let Some(first) = late.iter().min_by_key(|late| late.after_us) else { return Examination::Clear };
    let mut servers: Vec<SocketAddr> = late.iter().map(|late| late.server).collect();
    servers.sort_unstable();
    servers.dedup();
    let more = if servers.len() > 1 { format!(" and {} more", servers.len() - 1) } else { String::new() };
    let (took, who) = (first.after_us as f64 / 1_000_000.0, format!("{}{more}", first.server));
    let is_network = side.is_slow();
    let summary = if is_network {
        format!(
            "The network is slow: {who} answered A over UDP {took:.1} s after it was asked, when the check waited no longer, so that it measured little"
        )
    } else {
        format!(
            "{who} answered A over UDP {took:.1} s after it was asked, when the check waited no longer; others answered in time, so that it is slow or the way to it, not this network"
        )
    };
    Examination::Found(vec![Fault {
        blame: if is_network { Blame::Path } else { Blame::Relay },
        severity: Severity::Warning,
        summary,
        evidence: late.iter().map(|late| late.seq).collect(),
        advice: vec![Remedy::safe(
            "Check again with --time 10s: then answers are waited for so long as they take here",
        )],
        advice_is_all: true,
        ..Fault::default()
    }])
}
