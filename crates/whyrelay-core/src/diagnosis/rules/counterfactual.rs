//! What the probes say about a fault of local routing: the same check made otherwise, and answered.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::diagnosis::evidence::{SideEvidence, Taken};
use crate::host::{Probe, ProbeAim, ProbeOutcome};

/// A sentence to go behind a finding's own, and the events that show it. Empty where nothing was probed or answered.
pub(super) fn counterfactual(side: &SideEvidence) -> (String, Vec<u64>) {
    let (mut text, mut evidence) = (String::new(), Vec::new());
    let answered = |probe: &&Taken<Probe>| {
        matches!(probe.fact.result, ProbeOutcome::Answered { .. }) && !is_server(side, probe.fact.remote)
    };
    let device = side.host.probes_with(|aim| matches!(aim, ProbeAim::Device { .. })).find(answered);
    if let Some(probe) = device
        && let ProbeAim::Device { device } = &probe.fact.aim
    {
        let _ = write!(text, "; bound to {device} a check of the peer is answered");
        evidence.push(probe.seq);
    }
    let plain = side.host.probes_with(|aim| matches!(aim, ProbeAim::Plain | ProbeAim::WithoutMark)).find(answered);
    if let Some(probe) = plain {
        let whose =
            if probe.fact.aim == ProbeAim::Plain { "from a plain program's socket" } else { "without the mark" };
        let _ = write!(text, "; {whose} one is answered");
        evidence.push(probe.seq);
    }
    (text, evidence)
}

/// Whether an address is a server's that this side asked.
pub(super) fn is_server(side: &SideEvidence, remote: SocketAddr) -> bool {
    side.known.is_server(remote)
}
