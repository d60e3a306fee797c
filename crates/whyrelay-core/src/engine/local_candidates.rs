//! The local candidates as they are found: foundation, priority, redundancy (RFC 8445 §5.1).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::ice::candidate::{Candidate, CandidateAddress, CandidateTransport, CandidateType};
use crate::trace::event::{RefuseReason, Transport};

/// Local candidates of one session; a host with twenty interfaces and three servers has fewer.
pub(super) const MAX_CANDIDATES: usize = 128;

/// RFC 6544 §4.5: the port of a candidate that accepts no connections.
const DISCARD_PORT: u16 = 9;

/// What a candidate is made of.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) kind: CandidateType,
    pub(super) transport: CandidateTransport,
    pub(super) address: SocketAddr,
    pub(super) base: SocketAddr,
    pub(super) related: Option<SocketAddr>,
    pub(super) interface: Option<String>,
    /// The server's address and the transport to it.
    pub(super) server: Option<(IpAddr, Transport)>,
}

/// The candidates that were kept.
#[derive(Debug, Default)]
pub(super) struct LocalCandidates {
    foundations: BTreeMap<Foundation, usize>,
    interfaces: Vec<Option<String>>,
    preferences: BTreeSet<(CandidateType, u16)>,
    kept: BTreeSet<(CandidateTransport, SocketAddr, SocketAddr)>,
}

/// RFC 8445 §5.1.1.3: candidates have the same foundation if and only if these agree.
type Foundation = (CandidateType, CandidateTransport, IpAddr, Option<(IpAddr, Transport)>);

impl LocalCandidates {
    /// Makes a candidate and keeps it, or says why it was not kept.
    pub(super) fn add(&mut self, found: &Found) -> (Candidate, Option<RefuseReason>) {
        let address = match found.transport {
            CandidateTransport::TcpActive => SocketAddr::new(found.address.ip(), DISCARD_PORT),
            _ => found.address,
        };
        let foundation = (found.kind, found.transport, found.base.ip(), found.server);
        let next = self.foundations.len() + 1;
        let unusable = !is_usable(address);
        // RFC 8445 §5.1.3. A candidate found later never has a higher priority for the same address and base.
        let key = (found.transport, address, found.base);
        let refusal = if unusable {
            Some(RefuseReason::Unusable)
        } else if self.kept.contains(&key) {
            Some(RefuseReason::Redundant)
        } else if self.kept.len() >= MAX_CANDIDATES {
            Some(RefuseReason::TooMany { limit: MAX_CANDIDATES as u32 })
        } else {
            None
        };
        let preference = self.local_preference(found);
        let candidate = Candidate {
            foundation: self.foundations.get(&foundation).copied().unwrap_or(next).to_string(),
            component: 1,
            transport: found.transport,
            priority: Candidate::compute_priority(found.kind, preference),
            address: CandidateAddress::Ip(address),
            kind: found.kind,
            related: found.related,
            extensions: Vec::new(),
        };
        if refusal.is_none() {
            self.foundations.entry(foundation).or_insert(next);
            self.preferences.insert((found.kind, preference));
            self.kept.insert(key);
        }
        (candidate, refusal)
    }

    /// The candidate with this address is gone; the same address may come again.
    pub(super) fn forget(&mut self, address: SocketAddr) {
        self.kept.retain(|(_, kept, _)| *kept != address);
    }

    /// The local preference (RFC 8445 §5.1.2.1), unique per type.
    ///
    /// The three highest bits rank the transport, as RFC 6544 §4.2's direction preference does: UDP, then TCP active,
    /// then TCP passive; for relayed candidates the transport to the server. Below them interfaces in the order in
    /// which they were named, IPv6 before IPv4 on each, so that the families alternate (RFC 8421 §4), link-local last.
    fn local_preference(&mut self, found: &Found) -> u16 {
        let transport = match (found.kind, found.transport, found.server) {
            (CandidateType::Relayed, _, Some((_, Transport::Tcp))) => 6,
            (CandidateType::Relayed, _, Some((_, Transport::Tls))) => 5,
            (_, CandidateTransport::TcpActive, _) => 6,
            (_, CandidateTransport::TcpPassive, _) => 4,
            (_, CandidateTransport::TcpSimultaneousOpen, _) => 2,
            (_, CandidateTransport::Udp, _) => 7,
        };
        let rank = self.interfaces.iter().position(|interface| *interface == found.interface);
        let rank = rank.unwrap_or_else(|| {
            self.interfaces.push(found.interface.clone());
            self.interfaces.len() - 1
        });
        let family = match found.address.ip() {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => 2,
            IpAddr::V6(_) => 0,
            IpAddr::V4(_) => 1,
        };
        let rank = rank.min(60) as u16;
        let mut preference = transport * 8192 + 8191 - rank * 128 - family * 32;
        while self.preferences.contains(&(found.kind, preference)) {
            preference -= 1;
        }
        preference
    }
}

/// Whether a peer could send there at all.
pub(super) fn is_usable(address: SocketAddr) -> bool {
    let ip = address.ip();
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(kind: CandidateType, address: &str, base: &str, interface: &str) -> Found {
        Found {
            kind,
            transport: CandidateTransport::Udp,
            address: address.parse().unwrap(),
            base: base.parse().unwrap(),
            related: None,
            interface: Some(interface.to_owned()),
            server: None,
        }
    }

    fn host(address: &str, interface: &str) -> Found {
        found(CandidateType::Host, address, address, interface)
    }

    fn reflexive(address: &str, base: &str, server: &str) -> Found {
        let server = Some((server.parse().unwrap(), Transport::Udp));
        Found { server, ..found(CandidateType::ServerReflexive, address, base, "eth0") }
    }

    fn kept(candidates: &mut LocalCandidates, found: &Found) -> Candidate {
        let (candidate, refusal) = candidates.add(found);
        assert_eq!(refusal, None, "{found:?}");
        candidate
    }

    #[test]
    fn ipv6_comes_before_ipv4_on_each_interface_udp_before_tcp_and_no_priority_twice() {
        let mut candidates = LocalCandidates::default();
        let tcp = |transport, address| Found { transport, ..host(address, "eth0") };
        let order = [
            host("[2001:db8::1]:1000", "eth0"),
            host("192.0.2.1:1000", "eth0"),
            host("[fe80::1]:1000", "eth0"),
            host("[2001:db8::2]:1000", "wlan0"),
            host("192.0.2.2:1000", "wlan0"),
            host("192.0.2.2:1001", "wlan0"),
            tcp(CandidateTransport::TcpActive, "192.0.2.1:0"),
            tcp(CandidateTransport::TcpPassive, "192.0.2.1:1000"),
        ];
        let priorities: Vec<u32> = order.iter().map(|found| kept(&mut candidates, found).priority).collect();
        assert!(priorities.is_sorted_by(|a, b| a > b), "{priorities:?}");
    }

    #[test]
    fn foundations_follow_type_base_server_and_transport() {
        let mut candidates = LocalCandidates::default();
        let mut foundation = |found: Found| kept(&mut candidates, &found).foundation;
        let one = foundation(host("192.0.2.1:1000", "eth0"));
        assert_eq!(foundation(host("192.0.2.1:1001", "eth0")), one);
        assert_ne!(foundation(host("192.0.2.2:1000", "eth0")), one);
        let mapped = foundation(reflexive("203.0.113.1:5000", "192.0.2.1:1000", "198.51.100.1"));
        assert_ne!(mapped, one);
        assert_eq!(foundation(reflexive("203.0.113.1:5001", "192.0.2.1:1001", "198.51.100.1")), mapped);
        assert_ne!(foundation(reflexive("203.0.113.1:5002", "192.0.2.1:1000", "198.51.100.2")), mapped);
    }

    #[test]
    fn the_same_address_and_base_is_redundant_and_another_mapping_of_the_same_base_is_not() {
        let mut candidates = LocalCandidates::default();
        kept(&mut candidates, &host("192.0.2.1:1000", "eth0"));
        let unmapped = candidates.add(&reflexive("192.0.2.1:1000", "192.0.2.1:1000", "198.51.100.1"));
        assert_eq!(unmapped.1, Some(RefuseReason::Redundant));
        let first = kept(&mut candidates, &reflexive("203.0.113.1:5000", "192.0.2.1:1000", "198.51.100.1"));
        let again = candidates.add(&reflexive("203.0.113.1:5000", "192.0.2.1:1000", "198.51.100.2"));
        assert_eq!(again.1, Some(RefuseReason::Redundant));
        let second = kept(&mut candidates, &reflexive("203.0.113.1:5001", "192.0.2.1:1000", "198.51.100.2"));
        assert_ne!(first.priority, second.priority);
    }

    #[test]
    fn unusable_addresses_and_the_129th_candidate_are_refused() {
        let mut candidates = LocalCandidates::default();
        for address in ["0.0.0.0:1000", "192.0.2.1:0", "224.0.0.1:1000", "[::]:1000"] {
            assert_eq!(candidates.add(&host(address, "eth0")).1, Some(RefuseReason::Unusable), "{address}");
        }
        for port in 0..MAX_CANDIDATES {
            kept(&mut candidates, &host(&format!("192.0.2.1:{}", port + 1), "eth0"));
        }
        let refused = candidates.add(&host("192.0.2.1:9999", "eth0"));
        assert_eq!(refused.1, Some(RefuseReason::TooMany { limit: 128 }));
    }
}
