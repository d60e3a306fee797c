//! What a drawing of the two networks shows: hosts, NATs, servers, and where each flow of checks stops.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::flows::{self, Flow};
use crate::diagnosis::evidence::{Evidence, SideEvidence};
use crate::diagnosis::session::Session;
use crate::ice::candidate::{CandidateTransport, CandidateType};
use crate::trace::event::{InterfaceUse, Transport, Vantage};

/// Most addresses of a host or NAT that are listed.
const MAX_ADDRESSES: usize = 4;

/// Most servers that are listed.
const MAX_SERVERS: usize = 3;

/// Two networks and what went between them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Network {
    /// A's.
    pub a: NetworkSide,
    /// B's.
    pub b: NetworkSide,
    /// STUN and TURN servers, those in use first.
    pub servers: Vec<NetworkServer>,
    /// How many more servers there were.
    pub servers_left_out: usize,
    /// The flows of checks, the one that data goes over first.
    pub flows: Vec<Flow>,
}

/// One side: its host and what stands in front of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkSide {
    /// Its id in signaling.
    pub id: Option<String>,
    /// Whether it was recorded.
    pub recorded: bool,
    /// Addresses of the host that candidates come from.
    pub addresses: Vec<HostAddress>,
    /// How many more addresses there were.
    pub addresses_left_out: usize,
    /// What translates its addresses.
    pub nat: Nat,
}

/// An address of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostAddress {
    /// The address.
    pub address: IpAddr,
    /// Its interface, where known.
    pub interface: Option<String>,
}

/// Whether there is a NAT in front of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Nat {
    /// Others see the host's own address.
    None,
    /// Others see other addresses.
    Translates {
        /// Which.
        external: Vec<SocketAddr>,
        /// Whether one socket was seen from several: the mapping depends on the destination.
        varies: bool,
    },
    /// Nobody outside told what they see.
    Unknown,
}

/// A STUN or TURN server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkServer {
    /// Its name, or its address where that is all there is.
    pub name: String,
    /// Its address.
    pub address: Option<IpAddr>,
    /// Whether it relays for A or B, or was asked to.
    pub is_relay: bool,
    /// How it answers A.
    pub a: Option<Reach>,
    /// How it answers B.
    pub b: Option<Reach>,
}

/// How a server answers one side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// Requests, repeated ones included.
    pub requests: u32,
    /// Requests that were answered.
    pub answered: u32,
    /// Relayed addresses that it gave.
    pub relayed: Vec<SocketAddr>,
}

impl Network {
    /// One side.
    pub const fn side(&self, vantage: Vantage) -> &NetworkSide {
        match vantage {
            Vantage::A => &self.a,
            Vantage::B => &self.b,
        }
    }
}

pub(super) fn network(session: &Session<'_>) -> Network {
    let mut servers = servers(session.evidence);
    let servers_left_out = servers.len().saturating_sub(MAX_SERVERS);
    servers.truncate(MAX_SERVERS);
    Network {
        a: side(session, Vantage::A),
        b: side(session, Vantage::B),
        flows: flows::flows(session, &servers),
        servers,
        servers_left_out,
    }
}

fn side(session: &Session<'_>, vantage: Vantage) -> NetworkSide {
    let evidence = session.evidence;
    let (own, other) = (evidence.side(vantage), evidence.side(vantage.other()));
    let mut found: Vec<(IpAddr, Option<String>)> = Vec::new();
    let bases = own.local_candidates.iter().filter(|local| !own.is_relayed(local.base));
    found.extend(bases.map(|local| (local.base.ip(), local.interface.clone())));
    if found.is_empty() {
        let used = own.interfaces.iter().filter(|(_, _, _, used)| *used == InterfaceUse::Used);
        let of = |(_, name, addresses, _): &(u64, String, Vec<IpAddr>, InterfaceUse)| {
            addresses.iter().map(|address| (*address, Some(name.clone()))).collect::<Vec<_>>()
        };
        found.extend(used.flat_map(of));
    }
    if own.events == 0 {
        let hosts = other.remote_candidates.iter().filter(|remote| remote.candidate.kind == CandidateType::Host);
        found.extend(hosts.filter_map(|remote| Some((remote.address?.ip(), None))));
    }
    let mut addresses: Vec<HostAddress> = Vec::new();
    // A browser hides addresses: what it tells instead is the unspecified one.
    for (address, interface) in found.into_iter().filter(|(address, _)| !address.is_unspecified()) {
        if !addresses.iter().any(|known| known.address == address) {
            addresses.push(HostAddress { address, interface });
        }
    }
    let addresses_left_out = addresses.len().saturating_sub(MAX_ADDRESSES);
    addresses.truncate(MAX_ADDRESSES);
    let id = own.id.clone();
    NetworkSide { id, recorded: own.events > 0, addresses, addresses_left_out, nat: nat(session, vantage) }
}

/// What others saw of a side's UDP sockets: servers, and the peer where no relay stood between.
fn nat(session: &Session<'_>, vantage: Vantage) -> Nat {
    let evidence = session.evidence;
    let (own, other) = (evidence.side(vantage), evidence.side(vantage.other()));
    let mut seen: BTreeMap<SocketAddr, BTreeSet<SocketAddr>> = BTreeMap::new();
    let early = own.measured.early_packets();
    for ((transport, local, server), path) in &own.servers {
        if *transport == Transport::Udp {
            let changed = |mapped| early.iter().any(|early| early.may_have_changed(*local, *server, mapped));
            seen.entry(*local).or_default().extend(path.mapped.keys().copied().filter(|mapped| !changed(*mapped)));
        }
    }
    let udp = |transport| transport == CandidateTransport::Udp;
    for (id, check) in own.sent.iter().filter(|(_, check)| udp(check.pair.transport)) {
        if own.is_relayed(check.pair.local) || other.is_relayed(check.pair.remote) {
            continue;
        }
        let by_peer = other.received.get(id).map(|received| received.pair.remote).or_else(|| check.mapped());
        // What a relay of the peer saw is one of our mappings, too, but the peer then sees the relay.
        let from = by_peer.filter(|from| !other.is_relayed(*from));
        seen.entry(check.pair.local).or_default().extend(from);
    }
    if own.events == 0 {
        for remote in &other.remote_candidates {
            if let (CandidateType::ServerReflexive, Some(base), Some(address)) =
                (remote.candidate.kind, remote.candidate.related, remote.address)
            {
                seen.entry(base).or_default().insert(address);
            }
        }
    }
    let is_other = |local: &SocketAddr, mapped: &SocketAddr| local.ip() != mapped.ip() && !own.is_relayed(*mapped);
    let translated = seen.iter().flat_map(|(local, seen)| seen.iter().filter(move |mapped| is_other(local, mapped)));
    let external: BTreeSet<SocketAddr> = translated.copied().collect();
    if !external.is_empty() {
        let varies = seen.iter().any(|(local, seen)| seen.iter().filter(|mapped| is_other(local, mapped)).count() > 1);
        return Nat::Translates { external: external.into_iter().take(MAX_ADDRESSES).collect(), varies };
    }
    if seen.values().any(|seen| !seen.is_empty()) { Nat::None } else { Nat::Unknown }
}

/// Servers of both sides, one for each host.
fn servers(evidence: &Evidence) -> Vec<NetworkServer> {
    let mut servers: Vec<NetworkServer> = Vec::new();
    for vantage in [Vantage::A, Vantage::B] {
        let own = evidence.side(vantage);
        for (_, url, _) in &own.servers_known {
            let host = host_of(url);
            let addresses = resolve(own, host);
            let is_relay = url.starts_with("turn");
            if addresses.is_empty() {
                let at = position(&mut servers, host, None);
                servers[at].is_relay |= is_relay;
            }
            for address in addresses {
                let at = position(&mut servers, host, Some(address));
                servers[at].is_relay |= is_relay;
            }
        }
        for ((_, _, remote), path) in &own.servers {
            let at = position(&mut servers, &remote.ip().to_string(), Some(remote.ip()));
            let server = &mut servers[at];
            let reach = match vantage {
                Vantage::A => &mut server.a,
                Vantage::B => &mut server.b,
            };
            let reach = reach.get_or_insert_default();
            reach.requests = reach.requests.saturating_add(path.transmissions());
            let answered: u32 = path.requests.values().map(|tally| tally.answered).sum();
            reach.answered = reach.answered.saturating_add(answered);
            if let Some(allocation) = &path.allocation {
                server.is_relay = true;
                let new = allocation.relayed.iter().filter(|relayed| !reach.relayed.contains(relayed));
                let new: Vec<_> = new.copied().collect();
                reach.relayed.extend(new);
                reach.relayed.truncate(MAX_ADDRESSES);
            }
        }
    }
    let is_used = |reach: &Option<Reach>| reach.as_ref().is_some_and(|reach| reach.answered > 0);
    servers.sort_by_key(|server| (!server.is_relay, !is_used(&server.a) && !is_used(&server.b)));
    servers
}

fn position(servers: &mut Vec<NetworkServer>, name: &str, address: Option<IpAddr>) -> usize {
    let found = servers.iter().position(|server| match address {
        Some(address) => server.address == Some(address),
        None => server.name == name,
    });
    found.unwrap_or_else(|| {
        servers.push(NetworkServer { name: name.to_owned(), address, is_relay: false, a: None, b: None });
        servers.len() - 1
    })
}

/// The host of a STUN or TURN URL (RFC 7064, RFC 7065).
fn host_of(url: &str) -> &str {
    let rest = url.split_once(':').map_or(url, |(_, rest)| rest);
    let rest = rest.split('?').next().unwrap_or(rest);
    match rest.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => rest.split(':').next().unwrap_or(rest),
    }
}

fn resolve(side: &SideEvidence, host: &str) -> Vec<IpAddr> {
    if let Ok(address) = host.parse() {
        return vec![address];
    }
    let names = side.names.iter().filter(|(_, name, ..)| name == host);
    names.flat_map(|(_, _, addresses, _)| addresses.iter().copied()).take(MAX_ADDRESSES).collect()
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn hosts_of_urls() {
        for (url, host) in [
            ("stun:stun.example.org:3478", "stun.example.org"),
            ("turns:turn.example.org?transport=tcp", "turn.example.org"),
            ("turn:[2001:db8::1]:3478?transport=udp", "2001:db8::1"),
            ("stun:192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(host_of(url), host);
        }
    }
}
