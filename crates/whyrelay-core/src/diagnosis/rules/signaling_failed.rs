//! signaling failed.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::trace::event::{Side, SignalingState};

pub(super) const RULE: Rule = Rule {
    code: "WR701",
    name: "signaling-failed",
    title: "signaling failed",
    meaning: "The signaling server could not be reached or refused this side. Without signaling the two sides cannot learn each other's candidates, so nothing else can work.",
    detection: "The signaling connection was given up before the peer's description came.",
    proof: "The error of the connection, and curl to the server's /health from this machine.",
    doubt: "The peer's description arriving all the same.",
    fixes: &[
        Fix::safe("Open the server's /health address with curl from this machine."),
        Fix::firewall("Check the URL of --signal, the proxy and the firewall for the server's port."),
    ],
    threads: &["netbirdio/netbird#5404"],
    depends_on: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        let met = side.descriptions.iter().any(|description| description.side == Side::Remote);
        let Some((seq, server, SignalingState::Failed { detail })) = side.signaling.last().filter(|_| !met) else {
            continue;
        };
        faults.push(Fault {
            blame: Blame::Signaling,
            severity: Severity::Error,
            summary: format!("{} could not use the signaling server {server}: {detail}", vantage.name()),
            evidence: vec![*seq],
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
