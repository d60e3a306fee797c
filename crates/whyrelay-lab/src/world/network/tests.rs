//! Routers count hops, and say where a packet died, to whoever sent it; and what they do to the ports of single packets.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use whyrelay_core::nat::behavior::{Behavior, FilteringBehavior, MappingBehavior};
use whyrelay_core::nat::table::Table;
use whyrelay_core::random::Random;

use super::{About, Egress, Gate, Network, Packet, Place, RouterExtras, USUAL_TTL};
use crate::scenario::Scenario;
use crate::world::link::{Link, MOST_UNDER_WAY};
use crate::world::queue::Queue;
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

/// Where packets go on that hosts of a scenario send, one after the other: the source that each arrives with.
fn seen(text: &str, sent: &[(usize, u16, SocketAddr)]) -> Vec<Option<SocketAddr>> {
    let text = format!("title = \"t\"\n{text}[expect]\npath = \"direct\"\n");
    let topology = Scenario::parse("t", &text).unwrap().topology;
    let mut world = from_topology::build(&topology);
    let arrive = |&(host, port, destination): &(usize, u16, SocketAddr)| {
        let source = SocketAddr::new(topology.hosts[host].addresses().next().unwrap(), port);
        let packet = Packet::new(source, destination, vec![0; 20]);
        let mut places = vec![(START, Place::From(world.peers[host].host), packet)];
        while let Some((now, place, packet)) = places.pop() {
            if matches!(place, Place::At(..)) {
                return Some(packet.source);
            }
            places.extend(world.network.step(now, place, packet));
        }
        None
    };
    sent.iter().map(arrive).collect()
}

/// The same in namespaces: `lab::two_hosts_behind_one_nat_may_use_one_port`.
#[test]
fn two_hosts_behind_one_nat_may_use_one_port() {
    let [first, second] = [1, 2].map(|host| SocketAddr::from(([198, 51, 100, host], 3478)));
    for overloading in [true, false] {
        let text =
            format!("[router.r]\noverloading = {overloading}\n[host.a]\nbehind = \"r\"\n[host.b]\nbehind = \"r\"\n");
        let sent = [(0, 40_000, first), (1, 40_000, second), (1, 40_000, first), (0, 40_000, second)];
        let ports: Vec<u16> = seen(&text, &sent).into_iter().map(|source| source.unwrap().port()).collect();
        let [one, elsewhere, clash, last] = ports[..] else { panic!("{ports:?}") };
        assert_eq!(one, 40_000);
        assert_ne!(clash, 40_000, "two hosts have one port toward one destination");
        assert_eq!(elsewhere, if overloading { 40_000 } else { clash }, "overloading {overloading}");
        assert_eq!(last != 40_000, overloading, "toward the second the port is the other host's");
    }
}

#[test]
fn a_stateless_filter_stands_in_front_of_a_nat_and_knows_its_ports_outside() {
    let text = "[router.r]\nports = \"sequential\"\noverloading = false\nstateless-inbound = [\"1024\"]\n\
                [host.a]\nbehind = \"r\"\n[host.b]\n";
    let topology =
        Scenario::parse("t", &format!("title = \"t\"\n{text}[expect]\npath = \"direct\"\n")).unwrap().topology;
    let mut world = from_topology::build(&topology);
    let source = SocketAddr::new(topology.hosts[0].addresses().next().unwrap(), 40_000);
    let other = SocketAddr::new(source.ip(), 1024);
    let server = SocketAddr::new(topology.server_address(), 3478);
    let mut carried = |place, source, destination| {
        let mut places = vec![(START, place, Packet::new(source, destination, vec![0; 20]))];
        while let Some((now, place, packet)) = places.pop() {
            if matches!(place, Place::At(..)) {
                return Some(packet);
            }
            places.extend(world.network.step(now, place, packet));
        }
        None
    };
    let (a, far) = (world.peers[0].host, world.server.host);
    // The first has port 1024 outside, the other, whose own is 1024, the next.
    for (own, comes_back) in [(source, true), (other, false)] {
        let mapped = carried(Place::From(a), own, server).unwrap().source;
        let back = carried(Place::From(far), server, mapped).map(|packet| packet.destination);
        assert_eq!(back, comes_back.then_some(own), "{mapped}");
    }
}

/// Each link doubles what comes: without a bound there would be a thousand million of them.
#[test]
fn a_link_holds_so_many_packets_and_drops_the_rest() {
    let link = Link { duplication: 10_000, ..Link::with_delay(Duration::from_millis(1)) };
    let mut network = Network::new(Random::from_number(1), 1);
    let mut outside = Network::INTERNET;
    let far = network.add_host(outside, vec![[203, 0, 113, 9].into()], link);
    for number in 0..20_u8 {
        let inside = network.add_segment(false);
        let behavior = Behavior::new(MappingBehavior::EndpointIndependent, FilteringBehavior::EndpointIndependent);
        let table = Table::new(behavior, vec![[10, number, 0, 1].into()], Random::from_number(2));
        let gates = (Gate::Table(Box::new(table)), Gate::Closed, Gate::Closed);
        network.add_router(inside, outside, gates, Egress::Everything, link, RouterExtras::default());
        outside = inside;
    }
    let near = network.add_host(outside, vec![[10, 99, 0, 2].into()], link);
    let packet = Packet::new(([10, 99, 0, 2], 7).into(), ([203, 0, 113, 9], 7).into(), vec![0; 20]);
    let mut queue = Queue::new();
    queue.push(START, (Place::From(near), packet));
    let (mut arrived, mut steps) = (0, 0);
    while let Some((now, (place, packet))) = queue.pop() {
        steps += 1;
        arrived += usize::from(matches!(place, Place::At(host, 0) if host == far));
        if !matches!(place, Place::At(..)) {
            network
                .step(now, place, packet)
                .into_iter()
                .for_each(|(at, place, packet)| queue.push(at, (place, packet)));
        }
    }
    assert_eq!(arrived, MOST_UNDER_WAY);
    assert!(steps < 50 * MOST_UNDER_WAY, "{steps}");
}

/// What Linux's connection tracking calls invalid it neither translates nor remembers; whoever else translates leaves a wrong
/// checksum as wrong as it was.
#[test]
fn a_wrong_checksum_passes_a_carrier_and_no_linux_that_translates_or_remembers() {
    for (place, out, answered) in [
        ("mobile-carrier", true, true),
        ("home-router", false, false),
        ("cloud", false, false),
        ("stateful-firewall", true, false),
        ("router", true, true),
    ] {
        let text = format!("title = \"t\"\n[host.a]\nbehind = \"{place}\"\n[host.b]\n[expect]\npath = \"direct\"\n");
        let topology = Scenario::parse("t", &text).unwrap().topology;
        let mut world = from_topology::build(&topology);
        let [a, b] = [0, 1].map(|host: usize| topology.hosts[host].addresses().next().unwrap());
        let [from_a, from_b] = [0, 1].map(|host: usize| Place::From(world.peers[host].host));
        let mut arrived = |place, source: SocketAddr, to: SocketAddr, wrong_checksum| {
            let packet = Packet { wrong_checksum, ..Packet::new(source, to, vec![0; 20]) };
            let mut places = vec![(START, place, packet)];
            while let Some((now, place, packet)) = places.pop() {
                if matches!(place, Place::At(..)) {
                    return Some(packet);
                }
                places.extend(world.network.step(now, place, packet));
            }
            None
        };
        let (a, b) = (SocketAddr::new(a, 40_000), SocketAddr::new(b, 40_001));
        let sent = arrived(from_a, a, b, true);
        assert_eq!(sent.as_ref().map(|packet| packet.wrong_checksum), out.then_some(true), "{place}");
        // Where nothing was remembered, what answers is nothing that was asked for; nor does a right one open the way in.
        let Some(sent) = sent else { continue };
        assert_eq!(arrived(from_b, b, sent.source, false).is_some(), answered, "{place}");
        assert!(arrived(from_a, a, b, false).is_some_and(|packet| packet.source == sent.source), "{place}");
        assert_eq!(arrived(from_b, b, sent.source, true).is_some(), answered, "{place}");
        assert!(arrived(from_b, b, sent.source, false).is_some(), "{place}");
    }
}
