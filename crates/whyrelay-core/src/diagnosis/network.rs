//! What the NAT and firewall in front of a side are like, put together from everything that tells of them: servers'
//! answers to the session's own sockets, what the peer saw, and discovery where it was made.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::evidence::SideEvidence;
use super::routes::Rivals;
use super::session::Session;
use crate::ice::candidate::CandidateTransport;
use crate::nat::behavior::{FilteringBehavior, MappingBehavior};
use crate::trace::address::AddressClass;
use crate::trace::event::{Transport, Vantage};

/// The network in front of one side, for one address family. What was not measured is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Whether addresses are translated.
    pub translates: Option<bool>,
    /// How the NAT maps; a host without one maps endpoint-independently.
    pub mapping: Option<MappingBehavior>,
    /// Whom it lets in.
    pub filtering: Option<FilteringBehavior>,
    /// The addresses that servers see, each once.
    pub public: Vec<IpAddr>,
    /// Events that say so.
    pub evidence: Vec<u64>,
}

/// A server's answer to one of the session's own sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    /// Number of its event.
    pub seq: u64,
    /// Our socket.
    pub local: SocketAddr,
    /// The server.
    pub server: SocketAddr,
    /// The mapped address.
    pub mapped: SocketAddr,
}

/// What servers outside told of a side's sockets over UDP, in the order of the events.
pub fn told(side: &SideEvidence) -> Vec<Told> {
    let mut told = Vec::new();
    for ((transport, local, server), path) in &side.servers {
        for (mapped, seq) in path.mapped.iter().filter(|_| *transport == Transport::Udp) {
            if matches!(AddressClass::of(mapped.ip()), AddressClass::Public | AddressClass::CarrierGrade) {
                told.push(Told { seq: *seq, local: *local, server: *server, mapped: *mapped });
            }
        }
    }
    told.sort_unstable();
    told
}

impl Network {
    /// The network in front of a side; the session keeps it.
    pub fn of<'a>(session: &'a Session<'_>, vantage: Vantage, is_ipv6: bool) -> &'a Self {
        session.network(vantage, is_ipv6)
    }

    pub(super) fn work_out(session: &Session<'_>, vantage: Vantage, is_ipv6: bool) -> Self {
        let side = session.evidence.side(vantage);
        let mut network = Self::default();
        let told = told(side);
        network.hear_servers(session.rivals(vantage), &told, is_ipv6);
        network.hear_discovery(side, is_ipv6);
        network.hear_peer(session, vantage, &told, is_ipv6);
        network.evidence.sort_unstable();
        network.evidence.dedup();
        network
    }

    fn hear_servers(&mut self, rivals: &Rivals<'_>, told: &[Told], is_ipv6: bool) {
        let mut public = BTreeSet::new();
        let mut by_socket: BTreeMap<SocketAddr, Vec<&Told>> = BTreeMap::new();
        for answer in told.iter().filter(|told| told.mapped.is_ipv6() == is_ipv6) {
            if public.insert(answer.mapped.ip()) {
                self.public.push(answer.mapped.ip());
            }
            self.translates = Some(self.translates.unwrap_or(false) || answer.mapped != answer.local);
            self.evidence.push(answer.seq);
            by_socket.entry(answer.local).or_default().push(answer);
        }
        for answers in by_socket.values() {
            for (position, answer) in answers.iter().enumerate() {
                for other in &answers[..position] {
                    if rivals.contend(answer, other) {
                        // Another socket of this host took the port: nothing follows for the NAT.
                    } else if other.mapped != answer.mapped {
                        let differing = differing(answer, other);
                        self.mapping = Some(self.mapping.map_or(differing, |known| known.max(differing)));
                    } else if other.server.ip() != answer.server.ip() {
                        self.mapping.get_or_insert(MappingBehavior::EndpointIndependent);
                    }
                }
            }
        }
        if self.translates == Some(false) {
            self.mapping.get_or_insert(MappingBehavior::EndpointIndependent);
        }
    }

    fn hear_discovery(&mut self, side: &SideEvidence, is_ipv6: bool) {
        for nat in side.measured.nats().into_iter().filter(|nat| nat.local.is_ipv6() == is_ipv6) {
            if let Some((mapping, _)) = nat.mapping {
                self.mapping = Some(self.mapping.map_or(mapping, |known| known.max(mapping)));
            }
            self.filtering = nat.filtering.or(self.filtering);
            self.translates = self.translates.or_else(|| nat.translates());
        }
    }

    /// What the peer saw: checks from the address that a server told say that the mapping is the same for both.
    fn hear_peer(&mut self, session: &Session<'_>, vantage: Vantage, told: &[Told], is_ipv6: bool) {
        let (side, other) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
        let known: BTreeSet<_> = told.iter().map(|told| (told.local, told.mapped)).collect();
        let udp = side.sent.iter().filter(|(_, check)| check.pair.transport == CandidateTransport::Udp);
        for (id, check) in udp.filter(|(_, check)| check.pair.remote.is_ipv6() == is_ipv6) {
            let Some(seen) = other.received.get(id).map(|received| received.pair.remote).or(check.mapped()) else {
                continue;
            };
            if known.contains(&(check.pair.local, seen)) {
                self.mapping.get_or_insert(MappingBehavior::EndpointIndependent);
            }
        }
    }

    /// Whether the mapping depends on the destination; `None`: not measured.
    pub fn is_dependent(&self) -> Option<bool> {
        self.mapping.map(|mapping| mapping != MappingBehavior::EndpointIndependent)
    }
}

fn differing(a: &Told, b: &Told) -> MappingBehavior {
    // From two servers at different addresses it is at least address-dependent; dependence on the port as well is the
    // common case, and what discovery says goes above this.
    if a.server.ip() == b.server.ip() {
        MappingBehavior::AddressAndPortDependent
    } else {
        MappingBehavior::AddressDependent
    }
}
