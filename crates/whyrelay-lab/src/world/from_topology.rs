//! Making a world out of a scenario's topology.

use std::net::IpAddr;

use whyrelay_core::nat::behavior::{Behavior, FilteringBehavior, MappingBehavior, Unsolicited};
use whyrelay_core::nat::table::Table;
use whyrelay_core::random::Random;
use whyrelay_core::trace::event::{Role, Vantage};

use crate::port_mapping::{self, Mappings};
use crate::scenario::Topology;
use crate::scenario::file::{Ipv6, Refusal};
use crate::scenario::topology::{self, INTERNET, Translation};

use super::build::TCP_LIFETIME;
use super::kernel::Kernel;
use super::link::Link;
use super::network::{About, Egress, Gate, Interface, Invalid, Network, RouterExtras, SegmentId};
use super::peer::Peer;
use super::server::{Server, ServerFaults};
use super::setup::PeerSetup;
use super::{START, SignalingWay, World};

pub(super) fn build(topology: &Topology) -> World {
    let mut random = Random::from_number(topology.seed);
    let mut network = Network::new(random.fork(), topology.seed);
    let segments: Vec<SegmentId> = topology
        .segments
        .iter()
        .enumerate()
        .map(|(index, segment)| match index {
            INTERNET => Network::INTERNET,
            _ => {
                let id = network.add_segment(segment.isolated);
                network.set_networks(id, segment.ipv4.iter().chain(&segment.ipv6).copied().collect());
                id
            }
        })
        .collect();

    let faults = &topology.server.faults;
    let server_addresses: Vec<IpAddr> = topology.server.addresses.iter().map(|cidr| cidr.address).collect();
    let server_host = network.add_host(Network::INTERNET, server_addresses.clone(), Link::from(&topology.server.link));
    let server_faults = ServerFaults {
        no_udp: !faults.answers || !faults.udp || faults.udp_filtered,
        refuses_udp: faults.answers && !faults.udp,
        no_tcp: !faults.answers || !faults.tcp,
        refuses_tcp: faults.answers && !faults.tcp,
        relay_address: faults.relay_address,
        relay_ports_closed: faults.relay_ports_closed,
        answers_after: faults.answers_after.0,
        tls: faults.certificate.map(|certificate| (topology.tls_address(), certificate)),
    };
    let server = Server::new(server_host, server_addresses.clone(), server_faults, random.fork());

    let mut peers = Vec::new();
    for (index, host) in topology.hosts.iter().enumerate() {
        let interfaces = host.interfaces.iter().map(|own| Interface {
            segment: own.segment.map(|segment| segments[segment]),
            addresses: own.addresses.iter().map(|cidr| cidr.address).collect(),
            link: Link::from(&own.link),
        });
        let id = network.add_host_with(interfaces.collect());
        let Some(session) = topology.sessions.get(index) else { continue };
        let role = if index == 0 { Role::Controlling } else { Role::Controlled };
        let turn = faults.turn && !session.no_turn;
        let setup = PeerSetup {
            starts: session.starts,
            relay_only: session.relay_only,
            turn_udp: turn && faults.udp,
            turn_tcp: turn && faults.tcp,
            patient: session.patient,
            port: session.port,
            credentials: topology.server.credentials(),
            tls: faults.certificate.map(|_| topology.tls_address()),
            probe_sizes: limits_sizes(topology),
            probe_causes: true,
            silence: session.silence,
            map_port: session.map_port,
            ..PeerSetup::new(role)
        };
        let vantage = if index == 0 { Vantage::A } else { Vantage::B };
        let kernel = Kernel::new(host.clone(), session.mark.unwrap_or(0), session.uid);
        let addresses = host.addresses().collect();
        peers.push(Peer::new(id, setup, vantage, addresses, server_addresses.clone(), Some(kernel), random.fork()));
    }

    for router in &topology.routers {
        let gates = gates(topology, router, &mut random);
        let extras = RouterExtras {
            inside_addresses: router.inside_addresses.iter().map(|cidr| cidr.address).collect(),
            outside_addresses: router.outside_addresses.iter().map(|cidr| cidr.address).collect(),
            stateless_inbound: router.stateless_inbound.clone(),
            alg: router.alg,
            icmp: router.icmp,
            rejects: router.rejects.map(|refusal| match refusal {
                Refusal::Prohibited => About::Prohibited,
                Refusal::PortUnreachable => About::PortUnreachable,
            }),
            mappings: port_mapping::config(router).map(|config| Mappings::new(START, config)),
            invalid: Invalid::of(router),
            accepts_input: matches!(&router.translation, Translation::Nat(nat) if nat.unsolicited == Unsolicited::Tracked),
        };
        let (inside, outside) = (segments[router.inside], segments[router.outside]);
        network.add_router(inside, outside, gates, egress(&router.egress), Link::from(&router.link), extras);
    }

    let signaling = [0, 1].map(|index| {
        let faults = &topology.signaling[index];
        SignalingWay {
            description: faults.delay,
            candidates: faults.delay + faults.candidates_delay,
            lose_candidates: faults.lose_candidates,
            lose_all: faults.lose_all,
        }
    });
    let starts = [0, 1].map(|index: usize| topology.sessions[index].starts);
    let mut peers = peers.into_iter();
    // The model has a and b first; `resolve` refuses a scenario without them.
    let (Some(a), Some(b)) = (peers.next(), peers.next()) else { unreachable!("a topology has two peers") };
    World::assemble(network, [a, b], starts, signaling, server, None).with_limits(topology)
}

/// Whether any link of it takes smaller packets than an Ethernet.
fn limits_sizes(topology: &Topology) -> bool {
    let hosts = topology.hosts.iter().flat_map(|host| host.interfaces.iter().map(|interface| &interface.link));
    let mut links = hosts.chain(topology.routers.iter().map(|router| &router.link)).chain([&topology.server.link]);
    links.any(|link| link.mtu.is_some())
}

fn egress(egress: &topology::Egress) -> Egress {
    match (&egress.udp, &egress.tcp) {
        (None, None) => Egress::Everything,
        (udp, tcp) => Egress::Ports { udp: udp.clone(), tcp: tcp.clone() },
    }
}

fn gates(topology: &Topology, router: &topology::Router, random: &mut Random) -> (Gate, Gate, Gate) {
    let filter = |filtering| Behavior::new(MappingBehavior::EndpointIndependent, filtering);
    let external: Vec<IpAddr> = router.external().collect();
    let (behavior, pairs) = match &router.translation {
        Translation::Nat(behavior) => (behavior.clone(), Vec::new()),
        Translation::OneToOne { filtering, lifetime, pairs } => {
            (Behavior { lifetime: *lifetime, ..filter(*filtering) }, pairs.clone())
        }
        Translation::Nothing { filtering, lifetime } => {
            let own = inhabitants(topology, router.inside, true).into_iter().map(|address| (address, address));
            (Behavior { lifetime: *lifetime, ..filter(*filtering) }, own.collect())
        }
    };
    let nat = matches!(router.translation, Translation::Nat(_));
    let mut table = |behavior: &Behavior| {
        let table = Table::new(behavior.clone(), if nat { external.clone() } else { Vec::new() }, random.fork());
        let table = pairs.iter().fold(table, |table, (inside, outside)| table.with_one_to_one(*inside, *outside));
        router.forwards.iter().fold(table, |table, (outside, inside)| table.with_forward(*outside, *inside))
    };
    let udp = table(&behavior);
    let tcp = Behavior {
        lifetime: TCP_LIFETIME,
        ..Behavior::new(behavior.mapping, FilteringBehavior::AddressAndPortDependent)
    };
    let identity = |table: Table, addresses: &[IpAddr]| {
        addresses.iter().fold(table, |table, address| table.with_one_to_one(*address, *address))
    };
    let ipv6 = inhabitants(topology, router.inside, false);
    let filtering = match router.ipv6 {
        Ipv6::None | Ipv6::NoRoute => None,
        Ipv6::Stateful => Some(FilteringBehavior::AddressAndPortDependent),
        Ipv6::Open => Some(FilteringBehavior::EndpointIndependent),
    };
    let tcp = table(&tcp);
    let tcp = if filtering.is_some() { identity(tcp, &ipv6) } else { tcp };
    let ipv6 = match filtering {
        None => Gate::Closed,
        Some(filtering) => {
            let table = Table::new(filter(filtering), Vec::new(), random.fork());
            Gate::Table(Box::new(identity(table, &ipv6)))
        }
    };
    if router.is_astray(topology) {
        return (Gate::Closed, ipv6, Gate::Closed);
    }
    (Gate::Table(Box::new(udp)), ipv6, Gate::Table(Box::new(tcp)))
}

/// The addresses of a family that are behind a router without translation in between.
fn inhabitants(topology: &Topology, segment: usize, ipv4: bool) -> Vec<IpAddr> {
    let on = |own: &topology::Interface| own.segment == Some(segment);
    let hosts = topology.hosts.iter().flat_map(|host| host.interfaces.iter().filter(|own| on(own)));
    let mut found: Vec<IpAddr> = hosts.flat_map(|own| own.addresses.iter().map(|cidr| cidr.address)).collect();
    for router in topology.routers.iter().filter(|router| router.outside == segment) {
        found.extend(router.outside_addresses.iter().map(|cidr| cidr.address));
        if let Translation::OneToOne { pairs, .. } = &router.translation {
            found.extend(pairs.iter().map(|(_, outside)| *outside));
        }
        if !ipv4 || matches!(router.translation, Translation::Nothing { .. }) {
            found.extend(inhabitants(topology, router.inside, ipv4));
        }
    }
    found.retain(|address| address.is_ipv4() == ipv4);
    found
}
