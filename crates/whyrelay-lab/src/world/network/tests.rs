//! Routers count hops, and say where a packet died, to whoever sent it.

use std::net::{IpAddr, SocketAddr};

use super::{About, Packet, Place, USUAL_TTL};
use crate::scenario::Scenario;
use crate::world::{START, from_topology};

/// Where the packet of a host behind two NATs dies and who says so; `None`: it arrives, or nobody says anything.
fn died(icmp: bool, ttl: u8) -> (Option<(IpAddr, About)>, bool) {
    let text = format!(
        "title = \"two NATs\"\n[router.inner]\npreset = \"home-router\"\noutside = \"outer\"\nicmp = {icmp}\n\
         [router.outer]\npreset = \"home-router\"\n[host.a]\nbehind = \"inner\"\n[host.b]\n[expect]\npath = \"direct\"\n"
    );
    let scenario = Scenario::parse("hops", &text).unwrap();
    let mut world = from_topology::build(&scenario.topology);
    let source = SocketAddr::new(scenario.topology.hosts[0].addresses().next().unwrap(), 40_000);
    let server = SocketAddr::new(scenario.topology.server_address(), 3478);
    let mut packet = Packet::new(source, server, vec![0; 20]);
    packet.ttl = ttl;
    let mut places = vec![(START, Place::From(world.peers[0].host), packet)];
    let mut arrived = false;
    while let Some((now, place, packet)) = places.pop() {
        if matches!(place, Place::At(..)) {
            arrived = true;
        } else {
            places.extend(world.network.step(now, place, packet));
        }
    }
    (world.network.complaints().first().map(|complaint| (complaint.offender, complaint.about)), arrived)
}

#[test]
fn a_packet_dies_at_the_hop_that_its_ttl_says_and_the_sender_is_told() {
    let text =
        "title = \"t\"\n[host.a]\nbehind = [\"home-router\", \"home-router\"]\n[host.b]\n[expect]\npath = \"direct\"\n";
    let topology = Scenario::parse("t", text).unwrap().topology;
    let way = topology.way_out(topology.hosts[0].interfaces[0].segment.unwrap());
    let routers: Vec<IpAddr> = way.iter().map(|router| router.inside_addresses[0].address).collect();
    assert_eq!(routers.len(), 2);
    for (ttl, router) in (1..).zip(&routers) {
        assert_eq!(died(true, ttl), (Some((*router, About::TimeExceeded)), false), "TTL {ttl}");
    }
    assert_eq!(died(false, 1), (None, false), "it sends no ICMP errors");
    assert_eq!(died(false, 2), (Some((routers[1], About::TimeExceeded)), false));
    for ttl in [3, USUAL_TTL] {
        assert_eq!(died(true, ttl), (None, true), "TTL {ttl}");
    }
}
