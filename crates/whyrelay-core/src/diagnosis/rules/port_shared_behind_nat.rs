//! Another host behind the NAT uses the same port.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::network::told;
use crate::diagnosis::session::{Path, Session};
use crate::host::{ProbeAim, ProbeOutcome};
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR207",
    name: "port-shared-behind-nat",
    title: "another host behind the NAT uses the same port",
    meaning: "Two hosts behind one NAT use the same port, as every NetBird or WireGuard host does by default (51820). The NAT can preserve the port for one of them only: for the other the mapping depends on the destination, although the NAT is endpoint-independent for every other port.",
    detection: "The mapping of the session's port differs from server to server, and that of another port of the same host does not.",
    proof: "The router's connection table has entries of another host with the same port.",
    doubt: "A mapping that differs for another port, too: then the NAT is endpoint-dependent by itself.",
    fixes: &[Fix::safe(
        "Give this host another port: whyrelay --port, netbird up --wireguard-port 51821, tailscaled --port, or randomizeClientPort.",
    )],
    threads: &["tailscale/tailscale#16300", "netbirdio/netbird#2703"],
    depends_on: &["WR801"],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let told = told(side);
    let dependent = told.iter().find_map(|first| {
        let other = told.iter().find(|other| {
            other.local == first.local
                && other.server != first.server
                && other.mapped.ip() == first.mapped.ip()
                && other.mapped.port() != first.mapped.port()
        })?;
        Some((first, other))
    });
    let (first, other) = dependent?;
    // Another socket of the same address, with one mapping for servers at different addresses.
    let by_socket = told.iter().find_map(|a| {
        let elsewhere = a.local != first.local && a.local.ip() == first.local.ip();
        let same = told.iter().find(|b| b.local == a.local && b.server.ip() != a.server.ip() && b.mapped == a.mapped);
        same.filter(|_| elsewhere).map(|_| (a.local.port(), a.seq))
    });
    let by_probe = || {
        let mut mapped =
            side.host.probes_with(|aim| *aim == ProbeAim::OtherPort).filter_map(|probe| match probe.fact.result {
                ProbeOutcome::Answered { mapped: Some(mapped), .. } => {
                    Some((probe.fact.local, mapped, probe.fact.remote, probe.seq))
                }
                _ => None,
            });
        let (local, address, remote, seq) = mapped.next()?;
        mapped.any(|(l, m, r, _)| l == local && m == address && r.ip() != remote.ip()).then_some((local.port(), seq))
    };
    let (port, seq) = by_socket.or_else(by_probe)?;
    Some(Fault {
        blame: Blame::side(vantage),
        severity: if session.path == Path::Direct { Severity::Info } else { Severity::Warning },
        summary: format!(
            "The NAT of {0} maps port {1} differently for each server ({2}, {3}) and port {port} of {0} always alike: another host uses port {1}",
            vantage.name(),
            first.local.port(),
            first.mapped,
            other.mapped
        ),
        evidence: vec![first.seq, other.seq, seq],
        ..Fault::default()
    })
}
