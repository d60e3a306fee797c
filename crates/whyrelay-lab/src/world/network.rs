//! Hosts, segments and routers: where a packet goes and what becomes of its addresses.
//!
//! A segment is a network where everybody reaches everybody: the Internet, a carrier's inside, a home. A router joins
//! an inside segment to an outside one; it translates, filters, or just routes.

mod connect;
mod egress;
mod invalid;
mod own;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, SocketAddr};

use whyrelay_core::nat::table::Table;
use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;

use crate::alg;
use crate::port_mapping::Mappings;
use crate::scenario::file::{Alg, InterfaceKind};
use crate::scenario::value::{Cidr, Span32};

pub(super) use connect::TcpWay;
pub use egress::Egress;
pub(super) use invalid::Invalid;

use super::kernel::Kernel;
use super::link::{Link, LinkState, MOST_UNDER_WAY, size_of};

/// The TTL that hosts give their packets (net.ipv4.ip_default_ttl).
pub(super) const USUAL_TTL: u8 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostId(usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RouterId(usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentId(usize);

/// A UDP packet under way.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) bytes: Vec<u8>,
    /// Which peer sent it, from where to where and when, for errors that come back.
    pub(super) origin: Option<(usize, SocketAddr, SocketAddr, Timestamp)>,
    /// Routers that it may still pass (RFC 791 §3.2).
    pub(super) ttl: u8,
    /// Its UDP checksum is for another source address.
    pub(super) wrong_checksum: bool,
}

/// An ICMP error that a router or host sends about a packet.
#[derive(Clone, Debug)]
pub(super) struct Complaint {
    /// The packet, as it had become.
    pub(super) packet: Packet,
    /// Whose address it comes from.
    pub(super) offender: IpAddr,
    pub(super) about: About,
}

/// What an ICMP error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// Nobody listens at that port.
    PortUnreachable,
    /// A filter refuses it.
    Prohibited,
    /// The last hop that it was allowed is behind it.
    TimeExceeded,
    /// The next link takes smaller packets only, in bytes.
    TooBig { mtu: u16 },
}

impl About {
    /// Type and code in the family of an address (RFC 792, RFC 1812 §5.2.7.1, RFC 4443).
    pub(super) const fn icmp(self, ipv4: bool) -> (u8, u8) {
        match (self, ipv4) {
            (Self::PortUnreachable, true) => (3, 3),
            (Self::PortUnreachable, false) => (1, 4),
            (Self::Prohibited, true) => (3, 13),
            (Self::Prohibited, false) => (1, 1),
            (Self::TimeExceeded, true) => (11, 0),
            (Self::TimeExceeded, false) => (3, 0),
            (Self::TooBig { .. }, true) => (3, 4),
            (Self::TooBig { .. }, false) => (2, 0),
        }
    }
}

impl Packet {
    pub(super) const fn new(source: SocketAddr, destination: SocketAddr, bytes: Vec<u8>) -> Self {
        Self { source, destination, bytes, origin: None, ttl: USUAL_TTL, wrong_checksum: false }
    }
}

/// Where a packet is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// Leaving a host.
    From(HostId),
    /// Leaving a host by one of its interfaces for a next hop, or for a destination on the link.
    Leaving(HostId, usize, Option<IpAddr>),
    /// On a segment, for a next hop, or for a destination there.
    OnLink(SegmentId, Option<IpAddr>),
    /// On a segment, looking for its destination; it came from a host there (`true`) or from a router.
    On(SegmentId, bool),
    /// At a router's inside.
    Inside(RouterId),
    /// At a router's outside.
    Outside(RouterId),
    /// At its destination, by one of its interfaces.
    At(HostId, usize),
}

/// What a router does with one family of addresses.
#[derive(Clone, Debug)]
pub(super) enum Gate {
    /// Does not route it.
    Closed,
    /// Translates, or filters, or both: a filter without translation is a table that maps each host to itself.
    Table(Box<Table>),
}

#[derive(Debug)]
struct Host {
    interfaces: Vec<Interface>,
}

/// An interface of a host. Without a segment, nothing that it sends arrives.
#[derive(Clone, Debug)]
pub(super) struct Interface {
    pub(super) segment: Option<SegmentId>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) link: Link,
}

/// What a router is beside its tables.
#[derive(Debug, Default)]
pub(super) struct RouterExtras {
    /// Its own addresses inside; none: any gateway is meant for it.
    pub(super) inside_addresses: Vec<IpAddr>,
    /// Its own addresses outside.
    pub(super) outside_addresses: Vec<IpAddr>,
    /// UDP comes in to these ports of the outside only, replies included.
    pub(super) stateless_inbound: Option<Vec<Span32>>,
    pub(super) alg: Option<Alg>,
    /// It sends ICMP errors.
    pub(super) icmp: bool,
    /// What it does not let out it refuses, instead of dropping it.
    pub(super) rejects: Option<About>,
    /// It takes unsolicited packets for packets to itself.
    pub(super) accepts_input: bool,
    /// What it maps ports by.
    pub(super) mappings: Option<Mappings>,
    /// What becomes of packets with a wrong checksum, of IPv4 and of IPv6.
    pub(super) invalid: [Invalid; 2],
}

/// A link and the way through it, for what it remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Host(usize, usize, bool),
    Router(usize, bool),
}

#[derive(Debug)]
struct Router {
    inside: SegmentId,
    outside: SegmentId,
    ipv4: Gate,
    ipv6: Gate,
    /// Connections have a table of their own.
    tcp: Gate,
    egress: Egress,
    link: Link,
    extras: RouterExtras,
}

impl Router {
    fn table(&mut self, address: IpAddr) -> Option<&mut Table> {
        match if address.is_ipv4() { &mut self.ipv4 } else { &mut self.ipv6 } {
            Gate::Closed => None,
            Gate::Table(table) => Some(table),
        }
    }

    /// Begins and ends the forwards that hosts have asked for.
    fn follow(&mut self, now: Timestamp) {
        let (Some(mappings), Gate::Table(table)) = (&mut self.extras.mappings, &mut self.ipv4) else { return };
        for (external, internal) in mappings.changes(now) {
            table.forward(external, internal);
        }
    }

    fn owns(&self, address: IpAddr) -> bool {
        match if address.is_ipv4() { &self.ipv4 } else { &self.ipv6 } {
            Gate::Closed => false,
            Gate::Table(table) => table.is_external(address),
        }
    }
}

#[derive(Debug, Default)]
struct Segment {
    /// Hosts do not reach each other, as in a guest network.
    isolated: bool,
    /// Its networks: who has none of its addresses and is looked for there is not found.
    networks: Vec<Cidr>,
}

/// The whole network.
#[derive(Debug)]
pub(super) struct Network {
    hosts: Vec<Host>,
    routers: Vec<Router>,
    segments: Vec<Segment>,
    states: BTreeMap<Way, LinkState>,
    /// When packets arrive that are under way.
    under_way: BTreeMap<Way, BinaryHeap<Reverse<Timestamp>>>,
    random: Random,
    /// For the jitter of connections alone, so that a world in which there is none draws the same.
    luck: Random,
    complaints: Vec<Complaint>,
}

impl Network {
    pub(super) const INTERNET: SegmentId = SegmentId(0);

    /// The Internet alone; what happens by chance follows a seed.
    pub(super) fn new(random: Random, seed: u64) -> Self {
        Self {
            hosts: Vec::new(),
            routers: Vec::new(),
            segments: vec![Segment::default()],
            states: BTreeMap::new(),
            under_way: BTreeMap::new(),
            random,
            luck: Random::from_number(!seed),
            complaints: Vec::new(),
        }
    }

    /// ICMP errors since the last call.
    pub(super) fn complaints(&mut self) -> Vec<Complaint> {
        std::mem::take(&mut self.complaints)
    }

    /// What is drawn for connections.
    pub(super) const fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// The same, and what is drawn for their jitter.
    pub(super) const fn chances(&mut self) -> (&mut Random, &mut Random) {
        (&mut self.random, &mut self.luck)
    }

    pub(super) fn add_segment(&mut self, isolated: bool) -> SegmentId {
        self.segments.push(Segment { isolated, networks: Vec::new() });
        SegmentId(self.segments.len() - 1)
    }

    /// Says which networks are on a segment.
    pub(super) fn set_networks(&mut self, segment: SegmentId, networks: Vec<Cidr>) {
        self.segments[segment.0].networks = networks;
    }

    pub(super) fn add_host(&mut self, segment: SegmentId, addresses: Vec<IpAddr>, link: Link) -> HostId {
        self.add_host_with(vec![Interface { segment: Some(segment), addresses, link }])
    }

    pub(super) fn add_host_with(&mut self, interfaces: Vec<Interface>) -> HostId {
        self.hosts.push(Host { interfaces });
        HostId(self.hosts.len() - 1)
    }

    pub(super) fn add_router(
        &mut self,
        inside: SegmentId,
        outside: SegmentId,
        (ipv4, ipv6, tcp): (Gate, Gate, Gate),
        egress: Egress,
        link: Link,
        extras: RouterExtras,
    ) -> RouterId {
        self.routers.push(Router { inside, outside, ipv4, ipv6, tcp, egress, link, extras });
        RouterId(self.routers.len() - 1)
    }

    /// Moves a packet one step: the places where it or its copies are next, and when. Nothing: it is gone.
    pub(super) fn step(&mut self, now: Timestamp, place: Place, mut packet: Packet) -> Vec<(Timestamp, Place, Packet)> {
        if let Place::Inside(router) = place
            && self.is_own(router, packet.destination.ip())
        {
            return self.answer(now, router, packet);
        }
        if let Place::Inside(router) | Place::Outside(router) = place {
            packet.ttl = packet.ttl.saturating_sub(1);
            if packet.ttl == 0 {
                self.complain(router, matches!(place, Place::Inside(_)), About::TimeExceeded, packet);
                return Vec::new();
            }
        }
        match place {
            Place::From(host) => {
                let Interface { segment, link, .. } = self.hosts[host.0].interfaces[0].clone();
                let Some(segment) = segment else { return Vec::new() };
                self.carry(now, Way::Host(host.0, 0, true), link, Place::On(segment, true), packet)
            }
            Place::Leaving(host, interface, gateway) => {
                let Interface { segment, link, .. } = self.hosts[host.0].interfaces[interface].clone();
                let Some(segment) = segment else { return Vec::new() };
                self.carry(now, Way::Host(host.0, interface, true), link, Place::OnLink(segment, gateway), packet)
            }
            Place::OnLink(segment, gateway) => match gateway.filter(|_| segment != Self::INTERNET) {
                Some(gateway) => match self.router_with(segment, gateway) {
                    Some(router) => vec![(now, Place::Inside(RouterId(router)), packet)],
                    None => Vec::new(),
                },
                None => self.find(now, segment, true, packet),
            },
            Place::On(segment, from_host) => self.find(now, segment, from_host, packet),
            Place::Inside(router) => self.leave(now, router, packet),
            Place::Outside(router) => self.enter(now, router, packet),
            Place::At(host, interface) => vec![(now, Place::At(host, interface), packet)],
        }
    }

    /// Whether a host's kernel hears from a neighbor. Tunnels have no neighbors to ask.
    pub(super) fn answers_to(&self, kernel: &Kernel, host: HostId, interface: usize, neighbor: IpAddr) -> bool {
        let asks = kernel.host.interfaces[interface].kind != InterfaceKind::Tunnel;
        let silent = kernel.host.silent_neighbors.contains(&neighbor);
        !asks || (!silent && self.answers(host, interface, neighbor))
    }

    /// Whether a neighbor answers on the link of an interface.
    fn answers(&self, host: HostId, interface: usize, neighbor: IpAddr) -> bool {
        let own = &self.hosts[host.0].interfaces[interface];
        let Some(segment) = own.segment else { return false };
        if segment == Self::INTERNET {
            return true;
        }
        let isolated = self.segments[segment.0].isolated;
        let has = |interface: &Interface| interface.segment == Some(segment) && interface.addresses.contains(&neighbor);
        (!isolated && self.hosts.iter().any(|host| host.interfaces.iter().any(has)))
            || self.router_with(segment, neighbor).is_some()
            || self.routers.iter().any(|router| {
                router.outside == segment
                    && (router.extras.outside_addresses.contains(&neighbor) || router.owns(neighbor))
            })
    }

    /// A router tells the sender of a packet what became of it, if it does that at all.
    fn complain(&mut self, router: RouterId, from_inside: bool, about: About, packet: Packet) {
        let extras = &self.routers[router.0].extras;
        let own = if from_inside { &extras.inside_addresses } else { &extras.outside_addresses };
        // What was sent to it is refused from where it was sent to (RFC 1812 §4.3.2.4).
        let addressed = own.iter().copied().find(|own| *own == packet.destination.ip());
        let of_family = || own.iter().copied().find(|own| own.is_ipv4() == packet.destination.is_ipv4());
        let offender = addressed.or_else(of_family);
        if let Some(offender) = offender.filter(|_| extras.icmp) {
            self.complaints.push(Complaint { packet, offender, about });
        }
    }

    /// Whether a router that looks for an address on a segment asks in vain: it is of that network, and nobody has it.
    fn is_vacant(&self, segment: SegmentId, address: IpAddr) -> bool {
        let networks = &self.segments[segment.0].networks;
        networks.iter().any(|network| network.contains(address))
            && !self.is_on(segment, address)
            && self.router_with(segment, address).is_none()
    }

    fn router_with(&self, segment: SegmentId, gateway: IpAddr) -> Option<usize> {
        self.routers.iter().position(|router| {
            let own = &router.extras.inside_addresses;
            router.inside == segment && (own.is_empty() || own.contains(&gateway))
        })
    }

    fn enter(&mut self, now: Timestamp, id: RouterId, mut packet: Packet) -> Vec<(Timestamp, Place, Packet)> {
        let invalid = self.invalid(id, &packet);
        let router = &mut self.routers[id.0];
        router.follow(now);
        let (inside, outer, link, outside) = (router.inside, router.outside, router.link, packet.destination);
        // In front of everything else, so that what it drops leaves no trace in a table.
        let closed = |ports: &Vec<Span32>| !ports.iter().any(|ports| ports.contains(outside.port().into()));
        if router.extras.stateless_inbound.as_ref().is_some_and(closed) {
            return Vec::new();
        }
        match invalid {
            Invalid::Translated => {}
            // No error is sent about one.
            Invalid::Lost | Invalid::Outbound => return Vec::new(),
            Invalid::Untracked => return vec![(now, Place::On(inside, false), packet)],
        }
        let refuses = router.extras.accepts_input && router.extras.icmp && outside.is_ipv4();
        let Some(table) = router.table(outside.ip()) else { return Vec::new() };
        let Some(internal) = table.inbound(now, packet.source, outside) else {
            if refuses {
                let about = About::PortUnreachable;
                self.complaints.push(Complaint { packet, offender: outside.ip(), about });
            }
            return Vec::new();
        };
        if let Some(alg) = router.extras.alg {
            alg::rewrite(&mut packet.bytes, alg, outside.ip(), internal.ip());
        }
        packet.destination = internal;
        if !self.is_on(inside, internal.ip()) {
            // An address of another uplink: out again by the default route. No answer is translated twice.
            return self.carry(now, Way::Router(id.0, true), link, Place::On(outer, false), packet);
        }
        vec![(now, Place::On(inside, false), packet)]
    }

    /// Whether somebody has an address on a segment: a host there, or a router that leads further in.
    fn is_on(&self, segment: SegmentId, address: IpAddr) -> bool {
        let inward = |router: &Router| router.outside == segment && router.owns(address);
        self.at(segment, address).is_some() || self.routers.iter().any(inward)
    }

    /// Whether what a router sends to a segment for an address arrives: there, or by default routes further out.
    fn is_reached(&self, segment: SegmentId, address: IpAddr) -> bool {
        let outward = || self.routers.iter().find(|router| router.inside == segment);
        self.is_on(segment, address) || outward().is_some_and(|router| self.is_reached(router.outside, address))
    }

    /// Who has an address on a segment.
    fn at(&self, segment: SegmentId, address: IpAddr) -> Option<(HostId, usize)> {
        self.hosts.iter().enumerate().find_map(|(host, Host { interfaces })| {
            let has = |own: &Interface| own.segment == Some(segment) && own.addresses.contains(&address);
            interfaces.iter().position(has).map(|interface| (HostId(host), interface))
        })
    }

    fn carry(
        &mut self,
        now: Timestamp,
        way: Way,
        link: Link,
        to: Place,
        packet: Packet,
    ) -> Vec<(Timestamp, Place, Packet)> {
        let size = size_of(packet.bytes.len(), packet.destination.is_ipv4());
        let mut forgotten = LinkState::default();
        let state = if link.remembers() { self.states.entry(way).or_default() } else { &mut forgotten };
        let copies = link.pass(now, state, &mut self.random, size);
        // What arrives at this very moment still counts: it may be doubled again before time goes on.
        let under_way = self.under_way.entry(way).or_default();
        while under_way.peek().is_some_and(|Reverse(arrives)| *arrives < now) {
            under_way.pop();
        }
        let mut moved = Vec::new();
        for arrives in copies.map(|later| now + later) {
            if under_way.len() < MOST_UNDER_WAY {
                under_way.push(Reverse(arrives));
                moved.push((arrives, to, packet.clone()));
            }
        }
        moved
    }

    fn find(
        &mut self,
        now: Timestamp,
        segment: SegmentId,
        from_host: bool,
        packet: Packet,
    ) -> Vec<(Timestamp, Place, Packet)> {
        let to = packet.destination.ip();
        if let Some((host, interface)) = self.at(segment, to) {
            if from_host && self.segments[segment.0].isolated {
                return Vec::new();
            }
            let link = self.hosts[host.0].interfaces[interface].link;
            let way = Way::Host(host.0, interface, false);
            return self.carry(now, way, link, Place::At(host, interface), packet);
        }
        let down = self.routers.iter().position(|router| router.outside == segment && router.owns(to));
        if let Some(router) = down {
            let link = self.routers[router].link;
            if let Some(mtu) = link.too_small_for(packet.bytes.len(), packet.destination.is_ipv4()) {
                self.complain(RouterId(router), false, About::TooBig { mtu }, packet);
                return Vec::new();
            }
            return self.carry(now, Way::Router(router, false), link, Place::Outside(RouterId(router)), packet);
        }
        match self.routers.iter().position(|router| router.inside == segment) {
            Some(router) => vec![(now, Place::Inside(RouterId(router)), packet)],
            None => Vec::new(),
        }
    }

    fn leave(&mut self, now: Timestamp, id: RouterId, mut packet: Packet) -> Vec<(Timestamp, Place, Packet)> {
        let invalid = self.invalid(id, &packet);
        let router = &mut self.routers[id.0];
        router.follow(now);
        let (inside, outside, link) = (router.inside, router.outside, router.link);
        if !router.egress.lets_udp(packet.destination) {
            if let Some(about) = router.extras.rejects {
                self.complain(id, true, about, packet);
            }
            return Vec::new();
        }
        if let Some(mtu) = link.too_small_for(packet.bytes.len(), packet.destination.is_ipv4()) {
            self.complain(id, true, About::TooBig { mtu }, packet);
            return Vec::new();
        }
        let Some(table) = router.table(packet.destination.ip()) else { return Vec::new() };
        match invalid {
            Invalid::Translated => {}
            Invalid::Lost => return Vec::new(),
            _ if self.is_vacant(outside, packet.destination.ip()) => return Vec::new(),
            Invalid::Outbound | Invalid::Untracked => {
                return self.carry(now, Way::Router(id.0, true), link, Place::On(outside, false), packet);
            }
        }
        if table.is_external(packet.destination.ip()) {
            let Some((source, destination)) = table.hairpin(now, packet.source, packet.destination) else {
                return Vec::new();
            };
            (packet.source, packet.destination) = (source, destination);
            return vec![(now, Place::On(inside, false), packet)];
        }
        let Some(mapped) = table.outbound(now, packet.source, packet.destination) else { return Vec::new() };
        if let Some(alg) = router.extras.alg {
            alg::rewrite(&mut packet.bytes, alg, packet.source.ip(), mapped.ip());
        }
        packet.source = mapped;
        if self.is_vacant(outside, packet.destination.ip()) {
            // It would say so after three seconds (Linux), when sessions are over.
            return Vec::new();
        }
        self.carry(now, Way::Router(id.0, true), link, Place::On(outside, false), packet)
    }
}

#[cfg(test)]
mod tests;
