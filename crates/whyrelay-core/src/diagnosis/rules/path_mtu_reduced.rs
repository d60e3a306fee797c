//! The path takes smaller packets than the interface.

use std::net::SocketAddr;

use super::errno::EMSGSIZE;
use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::host::{ProbeAim, ProbeOutcome};

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
    needs: &[Need::Sockets],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        let icmp = side.icmp_errors.iter().find_map(|((_, remote, icmp_type, code), error)| {
            is_too_big(*remote, *icmp_type, *code).then_some((*remote, error.seq))
        });
        let refused = || {
            let refused = side.send_failures.iter().find(|((_, _, errno), _)| *errno == EMSGSIZE);
            refused.map(|((_, remote, _), failure)| (*remote, failure.seq))
        };
        // Of a padded probe, which asked for it: nothing of the session's own was too large.
        let probed = || {
            side.host.probes_with(|aim| matches!(aim, ProbeAim::Padded { .. })).find_map(|probe| {
                match probe.fact.result {
                    ProbeOutcome::Icmp { icmp_type, icmp_code, mtu, .. }
                        if is_too_big(probe.fact.remote, icmp_type, icmp_code) =>
                    {
                        Some((probe.fact.remote, probe.seq, mtu))
                    }
                    _ => None,
                }
            })
        };
        let own = icmp.or_else(refused).map(|(remote, seq)| (remote, seq, None));
        // The agent's checks are small: whoever connected is told, whoever did not has another cause.
        let harmless = session.path == Path::Failed || own.is_none();
        let severity = if harmless { Severity::Info } else { Severity::Warning };
        let Some((remote, seq, mtu)) = own.or_else(probed) else { continue };
        let at_most = mtu.map_or(String::new(), |mtu| format!(": {mtu} bytes at most"));
        faults.push(Fault {
            blame: Blame::Path,
            severity,
            summary: format!(
                "The path from {} to {remote} takes smaller packets than the interface{at_most}",
                vantage.name()
            ),
            evidence: vec![seq],
            ..Fault::default()
        });
    }
    Examination::of(faults)
}

/// "Fragmentation needed" (RFC 1191 §4), "packet too big" (RFC 4443 §3.2).
fn is_too_big(remote: SocketAddr, icmp_type: u8, code: u8) -> bool {
    if remote.is_ipv4() { (icmp_type, code) == (3, 4) } else { icmp_type == 2 }
}
