//! What is asked of a side's addresses for each of its pairs and checks: found without looking through its lists.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::seen::{LocalCandidate, RemoteCandidate};
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
    /// Bases by their /24 or /64.
    networks: BTreeMap<IpAddr, BTreeSet<IpAddr>>,
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
        self.networks.entry(network(base.ip())).or_default().insert(base.ip());
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
        self.networks.contains_key(&network(address))
    }

    /// The same for a base that is another address.
    pub fn has_neighbor(&self, address: IpAddr) -> bool {
        self.networks.get(&network(address)).is_some_and(|bases| bases.len() > 1 || !bases.contains(&address))
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

/// The /24 or /64 of an address: what [`crate::trace::address::same_subnet`] compares.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let [one, two, three, _] = v4.octets();
            Ipv4Addr::new(one, two, three, 0).into()
        }
        IpAddr::V6(v6) => {
            let [one, two, three, four, ..] = v6.segments();
            Ipv6Addr::new(one, two, three, four, 0, 0, 0, 0).into()
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
