//! What is asked of a side's addresses for each of its pairs and checks: found without looking through its lists.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::seen::{LocalCandidate, RemoteCandidate};
use crate::host::Family;
use crate::ice::candidate::CandidateType;

/// Most sockets of one address, and candidates of one base or address, that are looked at: an agent has fewer.
const MAX_ALIKE: usize = 64;

/// A side's addresses, as its candidates, sockets, interfaces and servers told of them.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Relayed addresses.
    relayed: BTreeSet<SocketAddr>,
    /// Addresses that the peer told of as relayed.
    told_relayed: BTreeSet<SocketAddr>,
    /// Servers that were asked.
    servers: BTreeSet<SocketAddr>,
    /// Bases by their network: its family, the length of its prefix, its first address.
    networks: BTreeMap<(Family, u8, IpAddr), BTreeSet<IpAddr>>,
    /// The families and lengths of these.
    lengths: BTreeSet<(Family, u8)>,
    /// The lengths of the prefixes of this host's own addresses, as it told them.
    prefixes: BTreeMap<IpAddr, u8>,
    /// Bases by their address; of a relayed candidate it is the relay's.
    bases: BTreeMap<IpAddr, BTreeSet<SocketAddr>>,
    /// Addresses of sockets, interfaces and the host.
    own: BTreeSet<IpAddr>,
    /// Positions of local candidates by their address, in their order.
    locals: BTreeMap<SocketAddr, Vec<usize>>,
    /// The same by their base.
    by_base: BTreeMap<SocketAddr, Vec<usize>>,
    /// The position of the first remote candidate of an address.
    remotes: BTreeMap<SocketAddr, usize>,
}

impl Known {
    pub(super) fn add_local(&mut self, position: usize, local: &LocalCandidate) {
        let (base, address) = (local.base, local.candidate.address.ip());
        self.add_to_network(base.ip());
        insert_bounded(self.bases.entry(base.ip()).or_default(), base);
        push_bounded(self.by_base.entry(base).or_default(), position);
        if let Some(address) = address {
            push_bounded(self.locals.entry(address).or_default(), position);
            if local.candidate.kind == CandidateType::Relayed {
                self.relayed.insert(address);
            }
        }
    }

    pub(super) fn add_remote(&mut self, position: usize, remote: &RemoteCandidate) {
        let Some(address) = remote.address else { return };
        self.remotes.entry(address).or_insert(position);
        if remote.candidate.kind == CandidateType::Relayed {
            self.told_relayed.insert(address);
        }
    }

    pub(super) fn add_relayed(&mut self, address: SocketAddr) {
        self.relayed.insert(address);
    }

    pub(super) fn add_server(&mut self, server: SocketAddr) {
        self.servers.insert(server);
    }

    pub(super) fn add_own(&mut self, address: IpAddr) {
        self.own.insert(address);
    }

    /// The length of the prefix of one of this host's addresses. One that leaves room for nobody else (a provider's /32,
    /// a tunnel's) says nothing of who is near.
    pub(super) fn add_prefix(&mut self, address: IpAddr, length: u8) {
        let longest = if address.is_ipv4() { 30 } else { 126 };
        if length > longest || self.prefixes.get(&address) == Some(&length) {
            return;
        }
        let before = self.network_of(address);
        self.prefixes.insert(address, length);
        if self.networks.get_mut(&before).is_some_and(|bases| bases.remove(&address)) {
            self.networks.retain(|_, bases| !bases.is_empty());
            self.add_to_network(address);
        }
    }

    fn add_to_network(&mut self, base: IpAddr) {
        let network = self.network_of(base);
        self.lengths.insert((network.0, network.1));
        self.networks.entry(network).or_default().insert(base);
    }

    /// The network of an address: by the prefix that the host told, else the usual /24 or /64.
    fn network_of(&self, address: IpAddr) -> (Family, u8, IpAddr) {
        let usual = if address.is_ipv4() { USUAL_V4 } else { USUAL_V6 };
        let length = self.prefixes.get(&address).copied().unwrap_or(usual);
        (Family::of(address), length, first_of(address, length))
    }

    /// The bases that have an address on their network.
    fn bases_near(&self, address: IpAddr) -> impl Iterator<Item = &BTreeSet<IpAddr>> {
        let of_family = self.lengths.iter().filter(move |(family, _)| *family == Family::of(address));
        of_family.filter_map(move |(family, length)| self.networks.get(&(*family, *length, first_of(address, *length))))
    }

    pub(super) fn is_relayed(&self, address: SocketAddr) -> bool {
        self.relayed.contains(&address)
    }

    /// Whether the peer told of an address as relayed.
    pub fn is_told_as_relayed(&self, address: SocketAddr) -> bool {
        self.told_relayed.contains(&address)
    }

    /// Whether the peer told of a candidate with an address.
    pub fn is_told(&self, address: IpAddr) -> bool {
        let of_it = SocketAddr::new(address, 0)..=SocketAddr::new(address, u16::MAX);
        self.remotes.range(of_it).next().is_some()
    }

    /// Whether an address is a server's that this side asked.
    pub fn is_server(&self, address: SocketAddr) -> bool {
        self.servers.contains(&address)
    }

    /// Whether a base is on the network of an address.
    pub fn shares_network(&self, address: IpAddr) -> bool {
        self.bases_near(address).next().is_some()
    }

    /// The same for a base that is another address.
    pub fn has_neighbor(&self, address: IpAddr) -> bool {
        self.bases_near(address).any(|bases| bases.len() > 1 || !bases.contains(&address))
    }

    /// Whether an address is on the network of one of this host's own.
    pub fn is_near(&self, own: IpAddr, other: IpAddr) -> bool {
        let (family, length, first) = self.network_of(own);
        Family::of(other) == family && first_of(other, length) == first
    }

    /// Whether an address is one of this side's host.
    pub fn is_own(&self, address: IpAddr) -> bool {
        let at_home = |bases: &BTreeSet<SocketAddr>| bases.iter().any(|base| !self.relayed.contains(base));
        self.own.contains(&address) || self.bases.get(&address).is_some_and(at_home)
    }

    /// Positions of the local candidates with an address.
    pub fn locals_at(&self, address: SocketAddr) -> &[usize] {
        self.locals.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Positions of the local candidates with a base.
    pub fn locals_of(&self, base: SocketAddr) -> &[usize] {
        self.by_base.get(&base).map_or(&[], Vec::as_slice)
    }

    /// The position of the first remote candidate with an address.
    pub fn remote_at(&self, address: SocketAddr) -> Option<usize> {
        self.remotes.get(&address).copied()
    }
}

/// The lengths of prefixes that most links have: what [`crate::trace::address::same_subnet`] compares.
const USUAL_V4: u8 = 24;
const USUAL_V6: u8 = 64;

/// The first address of the network of an address.
fn first_of(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(u32::from(length))).unwrap_or(0);
            Ipv4Addr::from(u32::from(v4) & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(u32::from(length))).unwrap_or(0);
            Ipv6Addr::from(u128::from(v6) & mask).into()
        }
    }
}

fn push_bounded(list: &mut Vec<usize>, position: usize) {
    if list.len() < MAX_ALIKE {
        list.push(position);
    }
}

fn insert_bounded(set: &mut BTreeSet<SocketAddr>, address: SocketAddr) {
    if set.len() < MAX_ALIKE {
        set.insert(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_is_as_large_as_its_interface_says() {
        let mut known = Known::default();
        known.add_to_network(ip("192.168.0.5"));
        // Until the prefix is known: what most links have.
        assert!(known.shares_network(ip("192.168.0.9")) && !known.shares_network(ip("192.168.3.9")));
        known.add_prefix(ip("192.168.0.5"), 22);
        for (other, near) in [("192.168.3.9", true), ("192.168.4.9", false), ("192.168.0.5", true)] {
            assert_eq!(known.shares_network(ip(other)), near, "{other}");
            assert_eq!(known.is_near(ip("192.168.0.5"), ip(other)), near, "{other}");
        }
        assert!(known.has_neighbor(ip("192.168.3.9")) && !known.has_neighbor(ip("192.168.0.5")));
        // The prefix may be told first.
        known.add_prefix(ip("10.1.2.130"), 25);
        known.add_to_network(ip("10.1.2.130"));
        assert!(known.shares_network(ip("10.1.2.200")) && !known.shares_network(ip("10.1.2.100")));
        // A provider's /32 and a tunnel's /128 say nothing of who is near.
        known.add_prefix(ip("10.128.0.2"), 32);
        known.add_prefix(ip("fd00::1"), 128);
        assert!(known.is_near(ip("10.128.0.2"), ip("10.128.0.3")) && known.is_near(ip("fd00::1"), ip("fd00::2")));
        known.add_prefix(ip("2001:db8::1"), 48);
        assert!(known.is_near(ip("2001:db8::1"), ip("2001:db8:0:7::1")));
        assert!(!known.is_near(ip("2001:db8::1"), ip("192.168.0.1")));
        known.add_prefix(ip("1.2.3.4"), 0);
        assert!(known.is_near(ip("1.2.3.4"), ip("9.9.9.9")));
    }
}
