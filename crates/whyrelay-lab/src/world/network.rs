//! Hosts, segments and routers: where a packet goes and what becomes of its addresses.
//!
//! A segment is a network where everybody reaches everybody: the Internet, a carrier's inside, a home. A router joins
//! an inside segment to an outside one; it translates, filters, or just routes.

use std::net::{IpAddr, SocketAddr};

use whyrelay_core::nat::table::Table;
use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;

use super::link::Link;

/// Routers that a packet may pass before it counts as going round in circles.
const MAX_HOPS: u8 = 32;

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
    hops: u8,
}

impl Packet {
    pub(super) const fn new(source: SocketAddr, destination: SocketAddr, bytes: Vec<u8>) -> Self {
        Self { source, destination, bytes, hops: 0 }
    }
}

/// Where a packet is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// Leaving a host.
    From(HostId),
    /// On a segment, looking for its destination; it came from a host there (`true`) or from a router.
    On(SegmentId, bool),
    /// At a router's inside.
    Inside(RouterId),
    /// At a router's outside.
    Outside(RouterId),
    /// At its destination.
    At(HostId),
}

/// What a router does with one family of addresses.
#[derive(Clone, Debug)]
pub(super) enum Gate {
    /// Does not route it.
    Closed,
    /// Translates, or filters, or both: a filter without translation is a table that maps each host to itself.
    Table(Box<Table>),
}

/// Which packets a router lets out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Egress {
    /// All of them.
    #[default]
    Everything,
    /// No UDP. TCP passes.
    NoUdp,
    /// UDP to these ports only, like a firewall that allows what STUN needs and nothing else. TCP passes.
    UdpTo(Vec<u16>),
    /// UDP is dropped, and TCP passes to these ports only.
    TcpTo(Vec<u16>),
}

impl Egress {
    fn lets_udp(&self, to: SocketAddr) -> bool {
        match self {
            Self::Everything => true,
            Self::NoUdp | Self::TcpTo(_) => false,
            Self::UdpTo(ports) => ports.contains(&to.port()),
        }
    }

    fn lets_tcp(&self, to: SocketAddr) -> bool {
        match self {
            Self::TcpTo(ports) => ports.contains(&to.port()),
            _ => true,
        }
    }
}

#[derive(Debug)]
struct Host {
    segment: SegmentId,
    addresses: Vec<IpAddr>,
    link: Link,
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
}

impl Router {
    fn table(&mut self, address: IpAddr) -> Option<&mut Table> {
        match if address.is_ipv4() { &mut self.ipv4 } else { &mut self.ipv6 } {
            Gate::Closed => None,
            Gate::Table(table) => Some(table),
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
}

/// The whole network.
#[derive(Debug)]
pub(super) struct Network {
    hosts: Vec<Host>,
    routers: Vec<Router>,
    segments: Vec<Segment>,
    random: Random,
}

impl Network {
    pub(super) const INTERNET: SegmentId = SegmentId(0);

    /// The Internet alone.
    pub(super) fn new(random: Random) -> Self {
        Self { hosts: Vec::new(), routers: Vec::new(), segments: vec![Segment::default()], random }
    }

    pub(super) fn add_segment(&mut self, isolated: bool) -> SegmentId {
        self.segments.push(Segment { isolated });
        SegmentId(self.segments.len() - 1)
    }

    pub(super) fn add_host(&mut self, segment: SegmentId, addresses: Vec<IpAddr>, link: Link) -> HostId {
        self.hosts.push(Host { segment, addresses, link });
        HostId(self.hosts.len() - 1)
    }

    pub(super) fn add_router(
        &mut self,
        inside: SegmentId,
        outside: SegmentId,
        (ipv4, ipv6, tcp): (Gate, Gate, Gate),
        egress: Egress,
        link: Link,
    ) -> RouterId {
        self.routers.push(Router { inside, outside, ipv4, ipv6, tcp, egress, link });
        RouterId(self.routers.len() - 1)
    }

    /// Moves a packet one step: the places where it or its copies are next, and when. Nothing: it is gone.
    pub(super) fn step(&mut self, now: Timestamp, place: Place, mut packet: Packet) -> Vec<(Timestamp, Place, Packet)> {
        packet.hops += 1;
        if packet.hops > MAX_HOPS {
            return Vec::new();
        }
        match place {
            Place::From(host) => {
                let Host { segment, link, .. } = self.hosts[host.0];
                self.carry(now, link, Place::On(segment, true), packet)
            }
            Place::On(segment, from_host) => self.find(now, segment, from_host, packet),
            Place::Inside(router) => self.leave(now, router, packet),
            Place::Outside(router) => {
                let inside = self.routers[router.0].inside;
                let table = self.routers[router.0].table(packet.destination.ip());
                match table.and_then(|table| table.inbound(now, packet.source, packet.destination)) {
                    Some(internal) => {
                        packet.destination = internal;
                        vec![(now, Place::On(inside, false), packet)]
                    }
                    None => Vec::new(),
                }
            }
            Place::At(host) => vec![(now, Place::At(host), packet)],
        }
    }

    /// How a TCP connection leaves: the source address that the far end sees, and the delay one way. `None`: it
    /// cannot be made. Only hosts on the Internet accept connections.
    pub(super) fn connect(
        &mut self,
        now: Timestamp,
        host: HostId,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Option<(HostId, SocketAddr, std::time::Duration)> {
        let (mut segment, mut source) = (self.hosts[host.0].segment, source);
        let mut delay = self.hosts[host.0].link.delay;
        while segment != Self::INTERNET {
            let router = self.routers.iter_mut().find(|router| router.inside == segment)?;
            if !router.egress.lets_tcp(destination) {
                return None;
            }
            if let Gate::Table(table) = &mut router.tcp {
                source = table.outbound(now, source, destination)?;
            } else {
                return None;
            }
            delay += router.link.delay;
            segment = router.outside;
        }
        let far =
            self.hosts.iter().position(|far| far.segment == segment && far.addresses.contains(&destination.ip()))?;
        Some((HostId(far), source, delay + self.hosts[far].link.delay))
    }

    fn carry(&mut self, now: Timestamp, link: Link, to: Place, packet: Packet) -> Vec<(Timestamp, Place, Packet)> {
        link.carry(&mut self.random).map(|later| (now + later, to, packet.clone())).collect()
    }

    fn find(
        &mut self,
        now: Timestamp,
        segment: SegmentId,
        from_host: bool,
        packet: Packet,
    ) -> Vec<(Timestamp, Place, Packet)> {
        let to = packet.destination.ip();
        let host = self.hosts.iter().position(|host| host.segment == segment && host.addresses.contains(&to));
        if let Some(host) = host {
            if from_host && self.segments[segment.0].isolated {
                return Vec::new();
            }
            let link = self.hosts[host].link;
            return self.carry(now, link, Place::At(HostId(host)), packet);
        }
        let down = self.routers.iter().position(|router| router.outside == segment && router.owns(to));
        if let Some(router) = down {
            let link = self.routers[router].link;
            return self.carry(now, link, Place::Outside(RouterId(router)), packet);
        }
        match self.routers.iter().position(|router| router.inside == segment) {
            Some(router) => vec![(now, Place::Inside(RouterId(router)), packet)],
            None => Vec::new(),
        }
    }

    fn leave(&mut self, now: Timestamp, id: RouterId, mut packet: Packet) -> Vec<(Timestamp, Place, Packet)> {
        let router = &mut self.routers[id.0];
        let (inside, outside, link) = (router.inside, router.outside, router.link);
        if !router.egress.lets_udp(packet.destination) {
            return Vec::new();
        }
        let Some(table) = router.table(packet.destination.ip()) else { return Vec::new() };
        if table.is_external(packet.destination.ip()) {
            let Some((source, destination)) = table.hairpin(now, packet.source, packet.destination) else {
                return Vec::new();
            };
            (packet.source, packet.destination) = (source, destination);
            return vec![(now, Place::On(inside, false), packet)];
        }
        let Some(mapped) = table.outbound(now, packet.source, packet.destination) else { return Vec::new() };
        packet.source = mapped;
        self.carry(now, link, Place::On(outside, false), packet)
    }
}
