//! Links on which no session works as it does elsewhere: neither world runs them.

use crate::scenario::Topology;
use crate::scenario::topology::Link;

/// Bits a second below which the handshake of the data channel, some 6 kB each way, outlasts its time limit.
const SLOWEST: u64 = 32_000;

/// Bytes that every link must take (RFC 8200 §5): packets of the data channel's handshake are as large, and nobody
/// fragments them.
const SMALLEST: u16 = 1280;

/// Why no session works by a topology's links; `None` when one may.
pub(crate) fn exceeded(topology: &Topology) -> Option<String> {
    let hosts = topology.hosts.iter().flat_map(|host| {
        host.interfaces.iter().map(move |own| (format!("{}'s link {}", host.name, own.name), &own.link))
    });
    let routers = topology.routers.iter().map(|router| (format!("the link of {}", router.name), &router.link));
    let mut links = hosts.chain(routers).chain([("the server's link".to_owned(), &topology.server.link)]);
    links.find_map(|(whose, link)| why_not(link).map(|why| format!("{whose}: {why}")))
}

/// What only a kernel would notice of a host that is no peer: virtual time has none there, as such a host sends nothing.
pub(crate) fn without_kernel(topology: &Topology) -> Option<String> {
    topology.hosts.iter().skip(topology.sessions.len()).find_map(|host| {
        let said = [
            ("route", !host.routes.is_empty()),
            ("rule", !host.rules.is_empty()),
            ("sysctl", !host.sysctls.is_empty()),
            ("firewall", !host.firewall.is_empty()),
            ("silent-neighbor", !host.silent_neighbors.is_empty()),
            ("conntrack-full", host.conntrack_full),
        ];
        let (key, _) = said.into_iter().find(|(_, said)| *said)?;
        Some(format!("host.{}.{key}: only a and b have a kernel in virtual time", host.name))
    })
}

fn why_not(link: &Link) -> Option<String> {
    if let Some(rate) = link.rate.filter(|rate| *rate < SLOWEST) {
        return Some(format!("{rate} bit/s, and the handshake of the data channel needs {SLOWEST}"));
    }
    let mtu = link.mtu.filter(|mtu| *mtu < SMALLEST)?;
    Some(format!("packets of {mtu} bytes, and the handshake of the data channel needs {SMALLEST}"))
}
