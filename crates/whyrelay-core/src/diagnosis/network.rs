//! What the NAT and firewall in front of a side are like, put together from everything that tells of them: servers'
//! answers to the session's own sockets, what the peer saw, and discovery where it was made.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::evidence::{Check, SideEvidence, Taken};
use super::routes::{Rivals, is_refused};
use super::session::Session;
use super::views::{Otherwise, mapped_otherwise};
use crate::host::{Probe, ProbeAim, ProbeOutcome, leads_to_guests};
use crate::ice::candidate::{CandidateTransport, CandidateType};
use crate::nat::behavior::{FilteringBehavior, MappingBehavior};
use crate::trace::address::AddressClass;
use crate::trace::event::{BY_PORT_MAPPING, SignalingState, Transport, Vantage};
use crate::trace::measurement::Measurement;

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

/// What servers outside told of a side's sockets over UDP, in the order of the events. Not where an early packet that the
/// side had sent to itself may have taken the port: that is an experiment, and tells of nobody else.
pub fn told(side: &SideEvidence) -> Vec<Told> {
    let (mut told, early) = (Vec::new(), side.measured.early_packets());
    for ((transport, local, server), path) in &side.servers {
        for (mapped, seq) in path.mapped.iter().filter(|_| *transport == Transport::Udp) {
            if early.iter().any(|early| early.may_have_changed(*local, *server, *mapped)) {
                continue;
            }
            if matches!(AddressClass::of(mapped.ip()), AddressClass::Public | AddressClass::CarrierGrade) {
                told.push(Told { seq: *seq, local: *local, server: *server, mapped: *mapped });
            }
        }
    }
    told.sort_unstable();
    told
}

/// Questions of plain sockets to servers that met the network in front of the session's own sockets.
pub fn asked_plainly(side: &SideEvidence) -> impl Iterator<Item = &Taken<Probe>> {
    side.host.probes_with(|aim| *aim == ProbeAim::PlainServer).filter(|probe| meets_network(side, &probe.fact))
}

/// Whether a plain socket's packets meet the network in front of its address: the host sends them by no tunnel and by no
/// other interface, nor refuses them, as far as it told.
fn meets_network(side: &SideEvidence, probe: &Probe) -> bool {
    let home = side.host.addresses.iter().find(|own| own.fact.address == probe.local.ip());
    let of_it = side.host.probe_answers.iter().filter(|answer| {
        let question = &answer.fact.question;
        let socket = question.source.zip(question.source_port);
        question.destination == probe.remote.ip() && socket == Some((probe.local.ip(), probe.local.port()))
    });
    of_it.into_iter().all(|answer| {
        let device = answer.fact.device();
        let tunnel = device.and_then(|device| side.host.link(device)).is_some_and(|link| link.fact.is_tunnel());
        let strays = home.zip(device).is_some_and(|(home, device)| home.fact.device != device);
        !is_refused(&answer.fact) && !tunnel && !strays
    })
}

/// How the NAT in front of an address maps, by discovery and by what else two ports of one server saw: servers at two
/// addresses alone say only that it depends on the address at least. And whether that is exact.
pub fn mapping_in_front(
    side: &SideEvidence,
    local: IpAddr,
    (behavior, exact): (MappingBehavior, bool),
) -> (MappingBehavior, bool) {
    if exact || behavior != MappingBehavior::AddressDependent {
        return (behavior, exact);
    }
    let mut by_server: BTreeMap<(SocketAddr, IpAddr), BTreeMap<SocketAddr, SocketAddr>> = BTreeMap::new();
    for told in told(side).into_iter().filter(|told| told.local.ip() == local) {
        by_server.entry((told.local, told.server.ip())).or_default().insert(told.server, told.mapped);
    }
    // A third party that had sent nothing before stands at another port of the server that told the mapped address.
    let controls = side.measured.facts.iter().filter_map(|(_, fact)| match fact {
        Measurement::EarlyArrival { local: socket, mapped, control, .. } if socket.ip() == local => {
            Some(mapped != control)
        }
        _ => None,
    });
    let of_ports = by_server.values().filter(|ports| ports.len() > 1).map(|ports| {
        let mut mapped = ports.values();
        let first = mapped.next();
        mapped.any(|other| Some(other) != first)
    });
    match of_ports.chain(controls).reduce(|any, differs| any || differs) {
        Some(true) => (MappingBehavior::AddressAndPortDependent, true),
        Some(false) => (behavior, true),
        None => (behavior, exact),
    }
}

/// What servers outside told plain sockets of a side, in the order of the events.
pub fn told_plainly(side: &SideEvidence) -> Vec<Told> {
    told_to(asked_plainly(side))
}

/// The same of all sockets that were made as a plain program's, whatever else they were for.
pub fn told_all_plainly(side: &SideEvidence) -> Vec<Told> {
    let early = !side.options.relay_only && asked_plainly(side).next().is_some();
    let plain = side.host.probes_with(move |aim| match aim {
        ProbeAim::PlainServer | ProbeAim::Plain | ProbeAim::WithoutMark => true,
        ProbeAim::EarlyArrival | ProbeAim::AfterOpener { .. } => early,
        _ => false,
    });
    let servers =
        plain.filter(|probe| side.known.is_server(probe.fact.remote) || probe.fact.aim == ProbeAim::PlainServer);
    told_to(servers.filter(|probe| meets_network(side, &probe.fact)))
}

/// What servers told a side at all: its own sockets, and plain ones.
pub fn told_anyhow(side: &SideEvidence) -> Vec<Told> {
    let mut all = told(side);
    all.append(&mut told_plainly(side));
    all
}

/// The port of a side that a router would have to forward: of the socket that servers see behind a NAT, not of one on an
/// interface to the host's own guests.
pub fn port_to_forward(side: &SideEvidence) -> Option<u16> {
    let told = told(side);
    let hosts = side.local_candidates.iter().filter(|local| {
        let to_guests = local.interface.as_deref().is_some_and(leads_to_guests);
        local.candidate.kind == CandidateType::Host
            && local.candidate.transport == CandidateTransport::Udp
            && local.base.is_ipv4()
            && !to_guests
    });
    let translated =
        |base: SocketAddr| told.iter().any(|told| told.local == base && told.mapped.ip() != told.local.ip());
    let mut bases = hosts.map(|local| local.base);
    let first = bases.clone().next();
    bases.find(|base| translated(*base)).or(first).map(|base| base.port())
}

/// Whether a port of a side's router leads in to it already: the session has a candidate by a mapping that it asked for and
/// the router made (one that speaks the protocols may refuse), a packet from outside came in by one that a check asked for,
/// or a check that the peer sent to the address that a server told came in, although the NAT has another port for the peer.
pub fn has_way_in(session: &Session<'_>, vantage: Vantage) -> bool {
    let (side, other) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let by_mapping = side
        .local_candidates
        .iter()
        .any(|local| local.server.as_deref() == Some(BY_PORT_MAPPING) && local.base.is_ipv4());
    let reached =
        side.measured.facts.iter().any(|(_, fact)| matches!(fact, Measurement::PortMapped { reached: Some(true), .. }));
    let told = told(side);
    let differs = |to: SocketAddr| {
        let of_socket = || told.iter().filter(|told| told.mapped == to).map(|told| told.local);
        of_socket().any(|local| told.iter().any(|other| other.local == local && other.mapped != to))
    };
    let direct = |check: &Check| check.pair.transport == CandidateTransport::Udp && !other.is_relayed(check.pair.local);
    by_mapping
        || reached
        || other
            .sent
            .iter()
            .any(|(id, check)| direct(check) && side.received.contains_key(id) && differs(check.pair.remote))
}

fn told_to<'a>(probes: impl Iterator<Item = &'a Taken<Probe>>) -> Vec<Told> {
    let told = probes.filter_map(|probe| match probe.fact.result {
        ProbeOutcome::Answered { mapped: Some(mapped), .. } => {
            Some(Told { seq: probe.seq, local: probe.fact.local, server: probe.fact.remote, mapped })
        }
        _ => None,
    });
    let is_outside =
        |told: &Told| matches!(AddressClass::of(told.mapped.ip()), AddressClass::Public | AddressClass::CarrierGrade);
    let mut told: Vec<Told> = told.filter(is_outside).collect();
    told.sort_unstable();
    told
}

/// For the end of a sentence about what a plain socket was told: why one was asked.
pub const fn why_plainly(side: &SideEvidence) -> &'static str {
    if side.options.relay_only {
        "; asked by a plain program's socket, as the session asks a relay alone"
    } else {
        "; asked by a plain program's socket, as no server answers the session's own"
    }
}

/// The public addresses that servers saw a side at, over any transport, each with the first event that says so: those over
/// TCP are known where UDP does not get out, and those of probes where the session's own sockets get nothing out.
pub fn seen_at(side: &SideEvidence) -> BTreeMap<IpAddr, u64> {
    let told = side.servers.values().flat_map(|path| &path.mapped).map(|(mapped, seq)| (mapped.ip(), *seq));
    first_of_each(told.chain(probed(side, |_| true)))
}

/// The same of sockets that were bound to a device, where no other was seen there.
pub fn seen_bound(side: &SideEvidence) -> BTreeMap<IpAddr, u64> {
    let told = side.servers.values().flat_map(|path| &path.mapped).map(|(mapped, _)| mapped.ip());
    let is_bound = |aim: &ProbeAim| matches!(aim, ProbeAim::Device { .. });
    let others: BTreeSet<IpAddr> = told.chain(probed(side, |aim| !is_bound(aim)).map(|(address, _)| address)).collect();
    first_of_each(probed(side, is_bound).filter(|(address, _)| !others.contains(address)))
}

fn probed(side: &SideEvidence, aim: impl Fn(&ProbeAim) -> bool) -> impl Iterator<Item = (IpAddr, u64)> {
    side.host.probes_with(aim).filter_map(|probe| match probe.fact.result {
        ProbeOutcome::Answered { mapped: Some(mapped), .. } => Some((mapped.ip(), probe.seq)),
        _ => None,
    })
}

fn first_of_each(seen: impl Iterator<Item = (IpAddr, u64)>) -> BTreeMap<IpAddr, u64> {
    let mut first: BTreeMap<IpAddr, u64> = BTreeMap::new();
    for (address, seq) in seen.filter(|(address, _)| AddressClass::of(*address) == AddressClass::Public) {
        let known = first.entry(address).or_insert(seq);
        *known = (*known).min(seq);
    }
    first
}

/// The public address at which the signaling server saw the peer of a side last, with the event that says so. Not where it
/// sees both sides alike: that is a proxy in front of it, or a network that both are in.
pub fn seen_by_signaling(side: &SideEvidence, peer: &SideEvidence) -> Option<(IpAddr, u64)> {
    let seen = |side: &SideEvidence| {
        side.signaling.iter().rev().find_map(|(seq, _, state)| match state {
            SignalingState::Connected { seen_as: Some(address), .. } => Some((*address, *seq)),
            _ => None,
        })
    };
    let is_usable = |address: IpAddr| {
        AddressClass::of(address) == AddressClass::Public && seen(side).is_none_or(|(own, _)| own != address)
    };
    seen(peer).filter(|(address, _)| is_usable(*address))
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
        network.hear_views(session, vantage, is_ipv6);
        // Where the session's own sockets were told nothing.
        if network.public.is_empty() {
            network.hear_servers(session.rivals(vantage), &told_plainly(side), is_ipv6);
        }
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

    /// What the peer or its relay saw where only one server was asked.
    fn hear_views(&mut self, session: &Session<'_>, vantage: Vantage, is_ipv6: bool) {
        let Some(Otherwise { told, view, .. }) = mapped_otherwise(session, vantage) else { return };
        if told.mapped.is_ipv6() == is_ipv6 {
            let seen = Told { server: view.observer, mapped: view.seen, ..told };
            let differing = differing(&told, &seen);
            self.mapping = Some(self.mapping.map_or(differing, |known| known.max(differing)));
            self.evidence.push(view.seq);
        }
    }

    /// What the peer saw: checks from the address that a server told say that the mapping is the same for both. A relay
    /// at the server's own address says so only of a NAT that keeps ports: others may map by address.
    fn hear_peer(&mut self, session: &Session<'_>, vantage: Vantage, told: &[Told], is_ipv6: bool) {
        let (side, other) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
        let known: BTreeMap<_, _> = told.iter().map(|told| ((told.local, told.mapped), told)).collect();
        let udp = side.sent.iter().filter(|(_, check)| check.pair.transport == CandidateTransport::Udp);
        for (id, check) in udp.filter(|(_, check)| check.pair.remote.is_ipv6() == is_ipv6) {
            let Some(seen) = other.received.get(id).map(|received| received.pair.remote).or(check.mapped()) else {
                continue;
            };
            let alike = known.get(&(check.pair.local, seen));
            let elsewhere =
                |told: &&&Told| told.server.ip() != check.pair.remote.ip() || told.mapped.port() == told.local.port();
            if alike.filter(elsewhere).is_some() {
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
