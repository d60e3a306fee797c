//! The path takes smaller packets than the interface.

use super::errno::EMSGSIZE;
use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};

pub(super) const RULE: Rule = Rule {
    code: "WR604",
    name: "path-mtu-reduced",
    title: "the path takes smaller packets than the interface",
    meaning: "A router on the way said that packets are too large for its next link. The system has noted it and sends smaller ones; a tunnel on top must do the same.",
    detection: "An ICMP message \"fragmentation needed\" (type 3, code 4) or \"packet too big\" (ICMPv6 type 2) came back, or sends were refused with EMSGSIZE.",
    proof: "ip route get ADDRESS shows the MTU with \"cache expires\".",
    doubt: "A larger packet that arrives.",
    fixes: &[Fix::safe("Lower the tunnel's MTU to what the path takes minus its own overhead (WireGuard: 80 bytes).")],
    threads: &["tailscale/tailscale#11290"],
    depends_on: &["WR603"],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        let icmp = side.icmp_errors.iter().find_map(|((_, remote, icmp_type, code), error)| {
            let too_big = if remote.is_ipv4() { (*icmp_type, *code) == (3, 4) } else { *icmp_type == 2 };
            too_big.then_some((*remote, error.seq))
        });
        let refused = || {
            let refused = side.send_failures.iter().find(|((_, _, errno), _)| *errno == EMSGSIZE);
            refused.map(|((_, remote, _), failure)| (*remote, failure.seq))
        };
        let Some((remote, seq)) = icmp.or_else(refused) else { continue };
        // The agent's checks are small: whoever connected is told, whoever did not has another cause.
        let severity = if session.path == Path::Failed { Severity::Info } else { Severity::Warning };
        faults.push(Fault {
            blame: Blame::Path,
            severity,
            summary: format!("The path from {} to {remote} takes smaller packets than the interface", vantage.name()),
            evidence: vec![seq],
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
