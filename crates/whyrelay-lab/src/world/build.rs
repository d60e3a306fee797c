//! Making a world out of a setup: addresses, tables, hosts.
//!
//! Addresses are from documentation blocks outside and private ones inside. A segment behind a router that translates
//! has a block of its own; one behind a router that only filters shares its outside's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use whyrelay_core::nat::behavior::{Behavior, FilteringBehavior, MappingBehavior};
use whyrelay_core::nat::table::Table;
use whyrelay_core::random::Random;
use whyrelay_core::trace::event::Vantage;

use super::network::{Gate, Network, RouterExtras, SegmentId};
use super::peer::Peer;
use super::server::{Server, ServerFaults};
use super::setup::{Ipv6, Neighbor, PeerSetup, Router, RouterKind, Setup, Site};
use super::{Link, SignalingWay, World};

/// The server's addresses.
const SERVER_IPV4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const SERVER_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xDB8, 0xFFFF, 0, 0, 0, 0, 1);

/// Connections through a router live as long as RFC 5382 asks at least.
pub(super) const TCP_LIFETIME: Duration = Duration::from_secs(7440);

/// A block of addresses that is given out one by one.
struct Block {
    prefix: [u8; 3],
    next: u8,
}

impl Block {
    fn take(&mut self) -> IpAddr {
        let [a, b, c] = self.prefix;
        self.next += 1;
        IpAddr::from([a, b, c, self.next])
    }
}

/// A site that has been laid out: where its hosts go and what their addresses are.
struct Laid {
    segment: SegmentId,
    addresses: Vec<Vec<IpAddr>>,
}

pub(super) fn build(setup: &Setup) -> World {
    let mut random = Random::from_number(setup.seed);
    let mut network = Network::new(random.fork(), setup.seed);
    let server_addresses = vec![IpAddr::V4(SERVER_IPV4), IpAddr::V6(SERVER_IPV6)];
    let server_host = network.add_host(Network::INTERNET, server_addresses.clone(), setup.server);
    let server = Server::new(server_host, server_addresses.clone(), ServerFaults::default(), random.fork());

    let neighbors = if matches!(setup.b, Neighbor::OnSameSegment(_)) { 2 } else { 1 };
    let a = lay_out(&mut network, &mut random, &setup.a, 0, neighbors);
    let (b, b_link) = match &setup.b {
        Neighbor::At(site) => (lay_out(&mut network, &mut random, site, 1, 1), site.link),
        Neighbor::OnSameSegment(link) => {
            let shared = Laid { segment: a.segment, addresses: a.addresses[1..].to_vec() };
            (shared, *link)
        }
    };
    let mut peer = |laid: &Laid, link: Link, setup: &PeerSetup, vantage| {
        let addresses = laid.addresses[0].clone();
        let host = network.add_host(laid.segment, addresses.clone(), link);
        Peer::new(host, setup.clone(), vantage, addresses, server_addresses.clone(), None, random.fork())
    };
    let peers = [peer(&a, setup.a.link, &setup.offerer, Vantage::A), peer(&b, b_link, &setup.answerer, Vantage::B)];

    let signaling = [&setup.offerer, &setup.answerer].map(|peer| SignalingWay {
        description: peer.signaling_delay,
        candidates: peer.signaling_delay + peer.candidates_delay,
        lose_candidates: false,
        lose_all: false,
    });
    let starts = [setup.offerer.starts, setup.answerer.starts];
    World::assemble(network, peers, starts, signaling, server, setup.restart)
}

/// Lays out a site from the Internet inward.
fn lay_out(network: &mut Network, random: &mut Random, site: &Site, number: u8, hosts: usize) -> Laid {
    let mut block = Block { prefix: [203, 0, 113], next: 10 + number * 100 };
    let mut outside = Network::INTERNET;
    let ipv6: Vec<IpAddr> = (0..hosts)
        .map(|host| IpAddr::V6(Ipv6Addr::new(0x2001, 0xDB8, u16::from(number) + 1, 0, 0, 0, 0, host as u16 + 2)))
        .collect();
    let depth = site.routers.len();
    let mut addresses: Vec<Vec<IpAddr>> = vec![Vec::new(); hosts];
    if depth == 0 && site.ipv4 {
        addresses.iter_mut().for_each(|host| host.push(block.take()));
    }
    for (index, router) in site.routers.iter().enumerate().rev() {
        let inside = network.add_segment(router.isolated);
        let mut inner = match router.kind {
            RouterKind::Firewall(_) => Block { prefix: block.prefix, next: block.next },
            _ if index == 0 => Block { prefix: [10, number, 0], next: 1 },
            _ => Block { prefix: [100, 64 + number, index as u8], next: 1 },
        };
        // What lives on the inside: the next router's external addresses, or the hosts.
        let mut ahead = Block { prefix: inner.prefix, next: inner.next };
        let inhabitants: Vec<IpAddr> = match index.checked_sub(1).map(|next| &site.routers[next]) {
            Some(next) => (0..external_addresses(next, hosts)).map(|_| ahead.take()).collect(),
            None => (0..hosts).map(|_| ahead.take()).collect(),
        };
        let external: Vec<IpAddr> = (0..external_addresses(router, hosts)).map(|_| block.take()).collect();
        let gates = gates(router, &external, &inhabitants, &ipv6, random);
        network.add_router(inside, outside, gates, router.egress.clone(), router.link, RouterExtras::default());
        if index == 0 && site.ipv4 {
            addresses.iter_mut().for_each(|host| host.push(inner.take()));
        }
        block = inner;
        outside = inside;
    }
    if site.ipv6 {
        addresses.iter_mut().zip(&ipv6).for_each(|(host, address)| host.push(*address));
    }
    Laid { segment: outside, addresses }
}

fn external_addresses(router: &Router, hosts: usize) -> usize {
    match router.kind {
        RouterKind::Nat(_) => usize::from(router.external.max(1)),
        RouterKind::OneToOne(_) => hosts,
        RouterKind::Firewall(_) => 0,
    }
}

fn gates(
    router: &Router,
    external: &[IpAddr],
    inhabitants: &[IpAddr],
    ipv6: &[IpAddr],
    random: &mut Random,
) -> (Gate, Gate, Gate) {
    let filter = |filtering| Behavior::new(MappingBehavior::EndpointIndependent, filtering);
    let mut table = |behavior: &Behavior| Table::new(behavior.clone(), external.to_vec(), random.fork());
    let one_to_one = |table: Table, pairs: &mut dyn Iterator<Item = (IpAddr, IpAddr)>| {
        pairs.fold(table, |table, (inside, outside)| table.with_one_to_one(inside, outside))
    };
    let identity = |addresses: &[IpAddr]| addresses.iter().map(|address| (*address, *address)).collect::<Vec<_>>();
    let mut ipv4 = |behavior: &Behavior| match router.kind {
        RouterKind::Nat(_) => table(behavior),
        RouterKind::OneToOne(_) => {
            one_to_one(table(behavior), &mut inhabitants.iter().copied().zip(external.iter().copied()))
        }
        RouterKind::Firewall(_) => one_to_one(table(behavior), &mut identity(inhabitants).into_iter()),
    };
    let behavior = match &router.kind {
        RouterKind::Nat(behavior) => behavior.clone(),
        RouterKind::OneToOne(filtering) | RouterKind::Firewall(filtering) => filter(*filtering),
    };
    let udp = ipv4(&behavior);
    let tcp_filter = Behavior {
        lifetime: TCP_LIFETIME,
        ..Behavior::new(behavior.mapping, FilteringBehavior::AddressAndPortDependent)
    };
    let routed = if router.ipv6 == Ipv6::Closed { &[] } else { ipv6 };
    let tcp = one_to_one(ipv4(&tcp_filter), &mut identity(routed).into_iter());
    let ipv6 = match router.ipv6 {
        Ipv6::Closed => Gate::Closed,
        Ipv6::Filtered(filtering) => {
            let table = Table::new(filter(filtering), Vec::new(), random.fork());
            Gate::Table(Box::new(one_to_one(table, &mut identity(ipv6).into_iter())))
        }
    };
    (Gate::Table(Box::new(udp)), ipv6, Gate::Table(Box::new(tcp)))
}
