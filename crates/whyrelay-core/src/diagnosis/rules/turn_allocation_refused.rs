//! the TURN server refuses an allocation.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::wire::stun::Method;

pub(super) const RULE: Rule = Rule {
    code: "WR405",
    name: "turn-allocation-refused",
    title: "the TURN server refuses an allocation",
    meaning: "The TURN server answered and refused to allocate a relayed address: 486 the quota of the user is used up, 508 the server has no more addresses or bandwidth, 440 and 442 the address family or transport is not offered, 437 the socket has an allocation already, 403 it is forbidden.",
    detection: "An error response other than 401, 438 and 300 to Allocate.",
    proof: "The error code in the cited answer.",
    doubt: "The same request with success.",
    fixes: &[
        Fix::safe("486, 508: raise the quota or the port range of the server, or wait until old allocations expire."),
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
        for ((_, _, server), path) in side.servers.iter().filter(|(_, path)| path.allocation.is_none()) {
            let refused = path
                .errors
                .iter()
                .find(|((method, code, _), _)| *method == Method::ALLOCATE && !matches!(code, 300 | 401 | 438));
            let Some(((_, code, _), (_, seq))) = refused else { continue };
            faults.push(Fault {
                blame: Blame::Relay,
                severity: if granted { Severity::Info } else { Severity::Warning },
                summary: format!("{server} refuses an allocation to {} with {code}", vantage.name()),
                evidence: vec![*seq],
                ..Fault::default()
            });
        }
    }
    Examination::of(faults)
}
