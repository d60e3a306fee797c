//! the TURN server refuses an allocation.

use std::net::SocketAddr;

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::SideEvidence;
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::session::Session;
use crate::trace::event::ServerFailure;
use crate::wire::stun::Method;

pub(super) const RULE: Rule = Rule {
    code: "WR405",
    name: "turn-allocation-refused",
    title: "the TURN server refuses an allocation",
    meaning: "The TURN server answered and refused to allocate a relayed address: 486 the quota of the user is used up, 508 the server has no more addresses or bandwidth, or takes nobody new because it is to end soon (it drains), 440 and 442 the address family or transport is not offered, 437 the socket has an allocation already, 403 it is forbidden.",
    detection: "An error response other than 401, 438 and 300 to Allocate.",
    proof: "The error code in the cited answer.",
    doubt: "The same request with success.",
    fixes: &[
        Fix::safe("486: raise the quota of the user at the server, or wait until old allocations expire."),
        Fix::safe(
            "508: name another server beside it (--turn); of one that is full, raise the quota or the port range.",
        ),
        Fix::safe("440, 442: ask for what the server offers."),
    ],
    threads: &["coturn/coturn#243", "coturn/coturn#1568"],
    depends_on: &["WR401", "WR406"],
    needs: &[Need::Sockets],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        // Asked for another address family or over another transport, it may say no: one that it grants is enough.
        let granted = side.servers.values().any(|path| path.allocation.is_some()) || !side.allocated.is_empty();
        for ((_, local, server), path) in side.servers.iter().filter(|(_, path)| path.allocation.is_none()) {
            let refused = path
                .errors
                .iter()
                .find(|((method, code, _), _)| *method == Method::ALLOCATE && !matches!(code, 300 | 401 | 438));
            let Some(((_, code, _), (_, seq))) = refused else { continue };
            let drains = *code == 508 && drains(side, *local);
            let advice = advice(*code, drains);
            let why = if drains { ", as it drains: it is to end soon, and lets nobody new in" } else { "" };
            faults.push(Fault {
                blame: Blame::Relay,
                severity: if granted { Severity::Info } else { Severity::Warning },
                summary: format!("{server} refuses an allocation to {} with {code}{why}", vantage.name()),
                evidence: vec![*seq],
                // What helps against another code does not help against this one.
                advice_is_all: !advice.is_empty(),
                advice,
                ..Fault::default()
            });
        }
    }
    Examination::of(faults)
}

/// Whether the server said, in the reason phrase of its refusal to a socket, that it drains.
fn drains(side: &SideEvidence, local: SocketAddr) -> bool {
    side.server_failures.iter().any(|failed| match &failed.failure {
        ServerFailure::ErrorResponse { code: 508, reason, .. } => {
            failed.local == Some(local) && reason.to_ascii_lowercase().contains("drain")
        }
        _ => false,
    })
}

/// What helps against a code; nothing where the rule knows no more than the code.
fn advice(code: u16, drains: bool) -> Vec<Remedy> {
    let another = || Remedy::safe("Name another TURN server beside this one (--turn)");
    match code {
        486 => vec![Remedy::safe(
            "End old allocations of this user or wait until they expire; who runs the server can raise the user's quota",
        )],
        508 if drains => vec![
            another(),
            Remedy::safe("Or try again when the server is back: nothing is to be raised there, it lets nobody new in"),
        ],
        508 => vec![
            another(),
            Remedy::safe(
                "Or ask who runs it: it is full, and a larger quota or port range helps, or it is about to end (it drains)",
            ),
        ],
        440 | 442 => vec![Remedy::safe("Ask for the address family and transport that the server offers")],
        _ => Vec::new(),
    }
}
