//! The client against our own router in virtual time, and against answers that no router should give.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use super::router::{MappingRouter, RouterConfig};
use super::{ExchangeId, Input, LEASE, Output, PortMapper, REPEATS};
use crate::random::Random;
use crate::time::Timestamp;
use crate::trace::event::EventKind;
use crate::trace::measurement::{Measurement, PortMapperProtocol};
use crate::wire::portmap::igd::Fault;
use crate::wire::portmap::{self, pcp, ssdp};

const START: Timestamp = Timestamp::from_micros(1_000_000_000);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// One protocol each, then all.
fn routers() -> [RouterConfig; 4] {
    let none = RouterConfig { internal: GATEWAY, external: OUTSIDE, nat_pmp: false, pcp: false, upnp: None };
    [
        RouterConfig { pcp: true, ..none },
        RouterConfig { nat_pmp: true, ..none },
        RouterConfig { upnp: Some(5000), ..none },
        RouterConfig { pcp: true, nat_pmp: true, upnp: Some(5000), ..none },
    ]
}

/// A client, its router, and how many of its datagrams get lost at first.
struct World {
    now: Timestamp,
    client: PortMapper,
    router: MappingRouter,
    lose: u32,
    sent: u32,
    facts: Vec<Measurement>,
}

impl World {
    fn new(config: RouterConfig) -> Self {
        let client = PortMapper::new(START, HOST, GATEWAY, Random::from_number(1));
        let router = MappingRouter::new(START, config);
        Self { now: START, client, router, lose: 0, sent: 0, facts: Vec::new() }
    }

    /// Runs until the client says something that is not for the network.
    fn run(&mut self) -> Output {
        for _ in 0..1000 {
            match self.client.poll_output() {
                Output::Transmit { remote, bytes } => {
                    self.sent += 1;
                    if self.lose > 0 {
                        self.lose -= 1;
                        continue;
                    }
                    let source = SocketAddr::from((HOST, 4000));
                    let Some(answer) = self.router.datagram(self.now, source, remote.port(), &bytes) else { continue };
                    let remote = SocketAddr::from((GATEWAY, remote.port()));
                    self.client.handle_input(self.now, Input::Datagram { remote, bytes: &answer });
                }
                Output::Exchange { exchange, remote, request } => {
                    assert_eq!(remote.ip(), IpAddr::V4(GATEWAY));
                    let answer = self.router.http(self.now, IpAddr::V4(HOST), &request).unwrap();
                    self.client.handle_input(self.now, Input::Exchanged { exchange, bytes: &answer });
                }
                Output::Event(EventKind::Measured(fact)) => self.facts.push(fact),
                Output::Timeout(at) => {
                    assert!(at > self.now, "it would spin");
                    self.now = at;
                    self.client.handle_input(self.now, Input::Timeout);
                }
                said => return said,
            }
        }
        panic!("it does not end");
    }

    /// The exchange that the client wants next.
    fn exchange(&mut self) -> (ExchangeId, Vec<u8>) {
        match self.client.poll_output() {
            Output::Exchange { exchange, request, .. } => (exchange, request),
            other => panic!("{other:?}"),
        }
    }

    /// Which protocols were told as there, with the external address that they told.
    fn found(&self) -> Vec<(PortMapperProtocol, Option<IpAddr>)> {
        let mut found: Vec<_> = self
            .facts
            .iter()
            .filter_map(|fact| match fact {
                Measurement::PortMapper { protocol, found: true, external, .. } => Some((*protocol, *external)),
                _ => None,
            })
            .collect();
        found.sort();
        found
    }

    fn detail(&self, wanted: PortMapperProtocol) -> String {
        let details = self.facts.iter().filter_map(|fact| match fact {
            Measurement::PortMapper { protocol, detail: Some(detail), .. } if *protocol == wanted => {
                Some(detail.clone())
            }
            _ => None,
        });
        details.collect::<Vec<_>>().join("; ")
    }
}

fn text(request: &[u8]) -> String {
    String::from_utf8_lossy(request).into_owned()
}

#[test]
fn each_protocol_is_found_mapped_and_removed_and_discovery_maps_nothing() {
    use PortMapperProtocol::{NatPmp, Pcp, Upnp};
    let outside = Some(IpAddr::V4(OUTSIDE));
    let told = [(Upnp, outside), (NatPmp, outside), (Pcp, None)];
    let wanted = [vec![told[2]], vec![told[1]], vec![told[0]], told.to_vec()];
    for (config, wanted) in routers().into_iter().zip(wanted) {
        let mut world = World::new(config);
        assert_eq!(world.run(), Output::Discovered);
        assert_eq!(world.found(), wanted, "{config:?}");
        assert_eq!(world.facts.len(), 3, "each protocol is told of once: {:?}", world.facts);
        assert_eq!(world.router.forwards(world.now).count(), 0);
        world.client.handle_input(world.now, Input::Map { internal_port: 4000 });
        let Output::Mapped { protocol, external, external_port } = world.run() else { panic!("{config:?}") };
        assert_eq!((protocol, external), (wanted.last().unwrap().0, outside));
        let internal = "192.168.1.2:4000".parse().unwrap();
        assert_eq!(world.router.forward(world.now, external_port), Some(internal));
        world.client.handle_input(world.now, Input::Unmap);
        assert_eq!(world.run(), Output::Unmapped { confirmed: true });
        assert_eq!(world.router.forwards(world.now).count(), 0);
    }
}

#[test]
fn a_mapping_that_is_renewed_in_time_outlives_its_lease_and_one_that_cannot_be_stands_until_its_end() {
    for config in routers() {
        let mut world = World::new(config);
        assert_eq!(world.run(), Output::Discovered);
        world.client.handle_input(world.now, Input::Map { internal_port: 4000 });
        let made = world.run();
        let Output::Mapped { external_port, .. } = made else { panic!("{config:?}: {made:?}") };
        for _ in 0..5 {
            world.now += LEASE / 2;
            world.client.handle_input(world.now, Input::Renew);
            assert_eq!(world.run(), made, "{config:?}");
        }
        assert_eq!(world.router.forwards(world.now).count(), 1, "{config:?}");
        // The router hears nothing any more, by datagrams.
        if config.upnp.is_none() {
            world.lose = 100;
            world.client.handle_input(world.now, Input::Renew);
            assert!(matches!(world.run(), Output::MapFailed { .. }), "{config:?}");
            assert!(world.router.forward(world.now, external_port).is_some(), "{config:?}");
            world.lose = 0;
            world.client.handle_input(world.now, Input::Renew);
            assert_eq!(world.run(), made, "{config:?}");
        }
        world.client.handle_input(world.now, Input::Unmap);
        assert_eq!(world.run(), Output::Unmapped { confirmed: true });
        assert_eq!(world.router.forwards(world.now).count(), 0);
    }
}

#[test]
fn lost_datagrams_are_sent_again() {
    for config in routers() {
        // All of the first transmission: one to each of three places, and the group.
        for lose in [4, 8] {
            let mut world = World::new(config);
            world.lose = lose;
            assert_eq!(world.run(), Output::Discovered);
            assert!(!world.found().is_empty(), "{config:?}");
            let all = config.upnp.is_some() && config.pcp;
            assert!(!all || world.now - START <= REPEATS[1], "{:?}", world.now - START);
            world.client.handle_input(world.now, Input::Map { internal_port: 4000 });
            world.lose = if config.upnp.is_some() && !config.pcp { 0 } else { 2 };
            assert!(matches!(world.run(), Output::Mapped { .. }));
        }
    }
}

#[test]
fn a_router_without_any_is_told_so_within_its_patience_and_nothing_can_be_mapped() {
    let config = RouterConfig { pcp: false, ..routers()[0] };
    let mut world = World::new(config);
    assert_eq!(world.run(), Output::Discovered);
    assert_eq!((world.found().len(), world.facts.len()), (0, 3));
    assert_eq!(world.now - START, super::PATIENCE);
    assert!(world.sent <= 12);
    world.client.handle_input(world.now, Input::Map { internal_port: 4000 });
    assert!(matches!(world.run(), Output::MapFailed { .. }));
    world.client.handle_input(world.now, Input::Unmap);
    assert_eq!(world.run(), Output::Unmapped { confirmed: true });
}

#[test]
fn closed_ports_are_known_at_once() {
    let mut world = World::new(RouterConfig { pcp: false, ..routers()[0] });
    let remote = SocketAddr::from((GATEWAY, portmap::PORT));
    world.client.handle_input(START, Input::SendFailed { remote });
    assert_eq!(world.run(), Output::Discovered);
    assert_eq!(world.detail(PortMapperProtocol::Pcp), "the port is closed");
    assert_eq!(world.detail(PortMapperProtocol::NatPmp), "the port is closed");
}

#[test]
fn each_version_tells_that_the_other_is_not_there() {
    let mut world = World::new(routers()[1]);
    world.run();
    assert_eq!(world.detail(PortMapperProtocol::Pcp), "it speaks NAT-PMP only");
    let mut world = World::new(routers()[0]);
    world.run();
    assert_eq!(world.detail(PortMapperProtocol::NatPmp), "it speaks PCP only");
}

#[test]
fn a_mapping_in_the_making_is_taken_back_when_it_is_interrupted() {
    for config in &routers()[..3] {
        let mut world = World::new(*config);
        world.run();
        world.client.handle_input(world.now, Input::Map { internal_port: 4000 });
        // The request reaches the router, and its answer is lost.
        match world.client.poll_output() {
            Output::Transmit { bytes, .. } => {
                let source = SocketAddr::from((HOST, 4000));
                world.router.datagram(world.now, source, portmap::PORT, &bytes);
            }
            Output::Exchange { request, .. } => drop(world.router.http(world.now, IpAddr::V4(HOST), &request)),
            other => panic!("{other:?}"),
        }
        assert_eq!(world.router.forwards(world.now).count(), 1);
        world.client.handle_input(world.now, Input::Unmap);
        assert_eq!(world.run(), Output::Unmapped { confirmed: true });
        assert_eq!(world.router.forwards(world.now).count(), 0, "{config:?}");
    }
}

#[test]
fn an_interrupted_request_over_http_has_its_end_before_it_is_taken_back() {
    let refusal = {
        let body = Fault::body(Fault::CONFLICT, "ConflictInMappingEntry");
        format!("HTTP/1.1 500 Internal Server Error\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    // Made, refused because the port is somebody else's, and no word of it.
    for refused in [Some(false), Some(true), None] {
        let mut world = World::new(routers()[2]);
        world.run();
        world.client.handle_input(world.now, Input::Map { internal_port: 4000 });
        let (exchange, request) = world.exchange();
        world.client.handle_input(world.now, Input::Unmap);
        assert!(matches!(world.client.poll_output(), Output::Timeout(_)), "the router may serve the second one first");
        let made = world.router.http(world.now, IpAddr::V4(HOST), &request).unwrap();
        match refused {
            Some(false) => world.client.handle_input(world.now, Input::Exchanged { exchange, bytes: &made }),
            Some(true) => {
                world.client.handle_input(world.now, Input::Exchanged { exchange, bytes: refusal.as_bytes() });
            }
            None => {}
        }
        let began = world.now;
        assert_eq!(world.run(), Output::Unmapped { confirmed: true }, "{refused:?}");
        assert!(world.now - began <= super::EXCHANGE_PATIENCE, "{:?}", world.now - began);
        // What was refused to us was not taken away from anybody.
        let left = usize::from(refused == Some(true));
        assert_eq!(world.router.forwards(world.now).count(), left, "{refused:?}");
    }
}

#[test]
fn what_one_protocol_did_not_answer_is_taken_back_though_another_made_the_mapping() {
    let mut world = World::new(routers()[3]);
    world.run();
    world.client.handle_input(world.now, Input::Map { internal_port: 4000 });
    // PCP's request reaches the router each time, and its answers are lost.
    loop {
        match world.client.poll_output() {
            Output::Transmit { bytes, .. } if bytes[0] == 2 => {
                world.router.datagram(world.now, SocketAddr::from((HOST, 4000)), portmap::PORT, &bytes);
            }
            Output::Transmit { remote, bytes } => {
                let source = SocketAddr::from((HOST, 4000));
                let bytes = world.router.datagram(world.now, source, remote.port(), &bytes).unwrap();
                world.client.handle_input(world.now, Input::Datagram { remote, bytes: &bytes });
                break;
            }
            Output::Timeout(at) => {
                world.now = at;
                world.client.handle_input(at, Input::Timeout);
            }
            other => panic!("{other:?}"),
        }
    }
    let Output::Mapped { protocol: PortMapperProtocol::NatPmp, .. } = world.run() else { panic!("by NAT-PMP") };
    let sent = world.sent;
    world.client.handle_input(world.now, Input::Unmap);
    assert_eq!(world.run(), Output::Unmapped { confirmed: true });
    assert_eq!(world.sent - sent, 2, "one by NAT-PMP, one by PCP");
    assert_eq!(world.router.forwards(world.now).count(), 0);
}

#[test]
fn a_port_that_is_taken_or_a_lease_that_is_refused_is_asked_for_otherwise() {
    let mut world = World::new(routers()[2]);
    world.run();
    let other =
        portmap::igd::Action::Add { external_port: 4000, internal: "192.168.1.3:9".parse().unwrap(), lease_s: 0 };
    let target = portmap::igd::Target::of("http://192.168.1.1:5000/ctl/IPConn", GATEWAY, None).unwrap();
    let request = other.request(&target, portmap::igd::ServiceType::Ip1);
    world.router.http(world.now, "192.168.1.3".parse().unwrap(), &request).unwrap();
    world.client.handle_input(world.now, Input::Map { internal_port: 4000 });
    let Output::Mapped { external_port, .. } = world.run() else { panic!("not mapped") };
    assert_ne!(external_port, 4000);
}

#[test]
fn what_the_router_makes_after_patience_is_taken_back_also_where_it_is_permanent() {
    // With a word of the router that comes too late, with none at all, and with a connection that ends before it.
    for late in [Some(true), Some(false), None] {
        let mut world = World::new(routers()[2]);
        world.run();
        world.client.handle_input(world.now, Input::Map { internal_port: 4000 });
        let (exchange, request) = world.exchange();
        assert!(text(&request).contains("<NewLeaseDuration>120<"), "{}", text(&request));
        let body = Fault::body(Fault::ONLY_PERMANENT, "OnlyPermanentLeasesSupported");
        let length = body.len();
        let only_permanent = format!("HTTP/1.1 500 Internal Server Error\r\nContent-Length: {length}\r\n\r\n{body}");
        world.client.handle_input(world.now, Input::Exchanged { exchange, bytes: only_permanent.as_bytes() });
        let (exchange, request) = world.exchange();
        assert!(text(&request).contains("<NewLeaseDuration>0<"), "{}", text(&request));
        let answer = world.router.http(world.now, IpAddr::V4(HOST), &request).unwrap();
        assert_eq!(world.router.deadline(), None, "it is permanent");
        if late.is_none() {
            world.client.handle_input(world.now, Input::ExchangeFailed { exchange, detail: "the connection ended" });
        }
        assert!(matches!(world.run(), Output::MapFailed { .. }));
        if late == Some(true) {
            world.client.handle_input(world.now, Input::Exchanged { exchange, bytes: &answer });
        }
        assert_eq!(world.router.forwards(world.now).count(), 1);
        world.client.handle_input(world.now, Input::Unmap);
        assert_eq!(world.run(), Output::Unmapped { confirmed: true });
        assert_eq!(world.router.forwards(world.now).count(), 0, "{late:?}");
    }
}

#[test]
fn strangers_are_neither_believed_nor_asked() {
    let mut world = World::new(RouterConfig { pcp: false, ..routers()[0] });
    let answer = |location: &str| {
        let (location, target) = (location.to_owned(), ssdp::GATEWAY_DEVICE.to_owned());
        ssdp::Answer { location, target }.encode()
    };
    let stranger: SocketAddr = "192.168.1.66:1900".parse().unwrap();
    for location in ["http://192.168.1.66:80/x", "http://192.168.1.1:5000/rootDesc.xml"] {
        let bytes = answer(location);
        world.client.handle_input(START, Input::Datagram { remote: stranger, bytes: &bytes });
    }
    // PCP from elsewhere.
    let (client, operation) = (IpAddr::V4(HOST), pcp::Operation::Announce);
    let request = pcp::Request { lifetime_s: 0, client, operation };
    let forged = pcp::Response { result: pcp::ResultCode::SUCCESS, lifetime_s: 0, epoch_s: 1, operation };
    assert_eq!(request.operation, forged.operation);
    let remote: SocketAddr = "192.168.1.66:5351".parse().unwrap();
    world.client.handle_input(START, Input::Datagram { remote, bytes: &forged.encode() });
    // The gateway itself, pointing elsewhere.
    let gateway = SocketAddr::from((GATEWAY, 1900));
    let bytes = answer("http://evil.example/rootDesc.xml");
    world.client.handle_input(START, Input::Datagram { remote: gateway, bytes: &bytes });
    assert_eq!(world.run(), Output::Discovered);
    assert!(world.found().is_empty(), "{:?}", world.facts);
    let detail = world.detail(PortMapperProtocol::Upnp);
    assert!(detail.contains("not this host's") && detail.contains("not followed"), "{detail}");
    assert_eq!(world.facts.len(), 4, "one stranger, told of once: {:?}", world.facts);
}

#[test]
fn a_mapping_ends_by_itself() {
    let mut world = World::new(routers()[0]);
    world.run();
    world.client.handle_input(world.now, Input::Map { internal_port: 4000 });
    let Output::Mapped { external_port, .. } = world.run() else { panic!("not mapped") };
    let end = world.router.deadline().unwrap();
    assert_eq!(end, world.now + super::LEASE);
    assert_eq!(world.router.forward(end, external_port), None);
}

#[test]
fn somebody_elses_mapping_is_not_changed_and_many_are_refused() {
    let mut router = MappingRouter::new(START, routers()[3]);
    let ask = |nonce: u8, port: u16, lifetime_s: u32| {
        let external_address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let (nonce, protocol) = ([nonce; 12], pcp::UDP);
        let map = pcp::Map { nonce, protocol, internal_port: port, external_port: port, external_address };
        pcp::Request { lifetime_s, client: IpAddr::V4(HOST), operation: pcp::Operation::Map(map) }.encode()
    };
    let mut result = |bytes: &[u8]| {
        let answer = router.datagram(START, SocketAddr::from((HOST, 4000)), portmap::PORT, bytes).unwrap();
        pcp::Response::decode(&answer).unwrap().result
    };
    assert_eq!(result(&ask(1, 5000, 60)), pcp::ResultCode::SUCCESS);
    assert_eq!(result(&ask(2, 5000, 0)), pcp::ResultCode::NOT_AUTHORIZED);
    for port in 10_000..10_127 {
        assert_eq!(result(&ask(1, port, 60)), pcp::ResultCode::SUCCESS);
    }
    assert_eq!(result(&ask(1, 11_000, 60)), pcp::ResultCode::NO_RESOURCES);
    let translated = SocketAddr::from(([10, 0, 0, 9], 4000));
    let answer = router.datagram(START, translated, portmap::PORT, &ask(1, 5000, 60)).unwrap();
    assert_eq!(pcp::Response::decode(&answer).unwrap().result, pcp::ResultCode::ADDRESS_MISMATCH);
}

/// Else two hosts would have one address outside.
#[test]
fn a_port_that_the_nat_gave_to_another_host_is_mapped_to_nobody_else() {
    let (other, held) = (SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 77), 4000), [4000, 4001]);
    for config in routers() {
        let mut world = World::new(config);
        world.router.hold(held.map(|port| (port, other)).into_iter().chain([(4002, SocketAddrV4::new(HOST, 4000))]));
        assert_eq!(world.run(), Output::Discovered);
        world.client.handle_input(world.now, Input::Map { internal_port: 4000 });
        let mapped = match world.run() {
            Output::Mapped { external_port, .. } => external_port,
            other => panic!("{config:?}: {other:?}"),
        };
        // UPnP alone has no port of the router's choice; its client asks for others.
        assert!(!held.contains(&mapped), "{config:?}: {mapped}");
        assert!(mapped == 4002 || config.upnp.is_some(), "{config:?}: {mapped}");
    }
}

/// RFC 6887 §7.3, §8.2 and §13.2.
#[test]
fn what_a_pcp_request_wants_beside_its_mapping_is_honored_or_refused_by_its_error() {
    use pcp::ResultCode as R;
    let map = |external_port: u16, external_address: IpAddr| {
        let (nonce, protocol) = ([external_port as u8; 12], pcp::UDP);
        let map = pcp::Map { nonce, protocol, internal_port: external_port, external_port, external_address };
        pcp::Request { lifetime_s: 60, client: IpAddr::V4(HOST), operation: pcp::Operation::Map(map) }.encode()
    };
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let announce =
        pcp::Request { lifetime_s: 0, client: IpAddr::V4(HOST), operation: pcp::Operation::Announce }.encode();
    let with = |request: &[u8], options: &[u8]| [request, options].concat();
    const PREFERS: [u8; 4] = [2, 0, 0, 0];
    let elsewhere: IpAddr = [192, 0, 2, 1].into();
    let of_another = with(&map(7000, any), &PREFERS);
    for (request, result) in [
        (with(&map(4000, any), &PREFERS), R::SUCCESS),
        (with(&map(4001, OUTSIDE.into()), &PREFERS), R::SUCCESS),
        (with(&map(4002, elsewhere), &PREFERS), R::CANNOT_PROVIDE_EXTERNAL),
        (map(4003, elsewhere), R::SUCCESS),
        (of_another.clone(), R::CANNOT_PROVIDE_EXTERNAL),
        (map(7000, any), R::SUCCESS),
        // Well-known ports are not given.
        (with(&map(80, any), &PREFERS), R::CANNOT_PROVIDE_EXTERNAL),
        // THIRD_PARTY, FILTER, one that nobody knows; and one that may be skipped, with and without padding.
        (with(&map(4010, any), &[&[1, 0, 0, 16][..], &[0; 16]].concat()), R::UNSUPPORTED_OPTION),
        (with(&map(4010, any), &[&[3, 0, 0, 20][..], &[0; 20]].concat()), R::UNSUPPORTED_OPTION),
        (with(&map(4010, any), &[127, 0, 0, 0]), R::UNSUPPORTED_OPTION),
        (with(&announce, &[127, 0, 0, 0]), R::UNSUPPORTED_OPTION),
        (with(&map(4010, any), &[128, 0, 0, 1, 9, 0, 0, 0, 200, 0, 0, 0]), R::SUCCESS),
        (with(&map(4011, any), &[128, 0, 0, 8, 9, 9, 9, 9]), R::MALFORMED_OPTION),
        (with(&map(4011, any), &[2, 0, 0, 4, 0, 0, 0, 0]), R::MALFORMED_OPTION),
        (with(&map(4011, any), &[PREFERS, PREFERS].concat()), R::MALFORMED_OPTION),
        (with(&announce, &PREFERS), R::MALFORMED_OPTION),
        (announce.clone(), R::SUCCESS),
        // Too short for what it is, or for any.
        (map(4011, any)[..56].to_vec(), R::MALFORMED_REQUEST),
        (map(4011, any)[..24].to_vec(), R::MALFORMED_REQUEST),
        (map(4011, any)[..20].to_vec(), R::MALFORMED_REQUEST),
        (with(&map(4011, any), &[0]), R::MALFORMED_REQUEST),
        (with(&map(4011, any), &[128; 1200]), R::MALFORMED_REQUEST),
    ] {
        let mut router = MappingRouter::new(START, routers()[0]);
        router.hold([(7000, SocketAddrV4::new([192, 168, 1, 77].into(), 7000))]);
        let answer = router.datagram(START, SocketAddr::from((HOST, 4000)), portmap::PORT, &request).unwrap();
        let answer = pcp::Response::decode(&answer).unwrap();
        assert_eq!(answer.result, result, "{request:?}");
        let maps = result == R::SUCCESS && request[1] == 1;
        assert_eq!(router.forwards(START).count(), usize::from(maps), "{request:?}");
        assert_eq!(answer.lifetime_s, if maps { 60 } else { 0 }, "{request:?}");
    }
    // A response is answered by nothing.
    let mut router = MappingRouter::new(START, routers()[0]);
    let response = [&[2, 0x81][..], &[0; 20]].concat();
    assert_eq!(router.datagram(START, SocketAddr::from((HOST, 4000)), portmap::PORT, &response), None);
}

/// RFC 6887 §7.4, RFC 6886 §3.5, UPnP Device Architecture 1.1 §3.2.2.
#[test]
fn a_mapping_of_tcp_is_refused_by_each_protocols_own_error() {
    const TCP: u8 = 6;
    let mut router = MappingRouter::new(START, routers()[3]);
    let host = SocketAddr::from((HOST, 4000));
    let external_address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let map = pcp::Map { nonce: [1; 12], protocol: TCP, internal_port: 80, external_port: 80, external_address };
    let ask = pcp::Request { lifetime_s: 60, client: IpAddr::V4(HOST), operation: pcp::Operation::Map(map) };
    let answer = router.datagram(START, host, portmap::PORT, &ask.encode()).unwrap();
    assert_eq!(pcp::Response::decode(&answer).unwrap().result, pcp::ResultCode::UNSUPPORTED_PROTOCOL);

    // Version 0, opcode 2: TCP. Result 5 at bytes 2 and 3 of the answer to opcode 128 + 2.
    let ask = [0, 2, 0, 0, 0, 80, 0, 80, 0, 0, 0, 60];
    let answer = router.datagram(START, host, portmap::PORT, &ask).unwrap();
    assert_eq!(answer[..4], [0, 130, 0, 5]);

    let mut upnp = |protocol: &str, action: &str| {
        let body = format!(
            "<s:Envelope><s:Body><u:{action}><NewExternalPort>80</NewExternalPort><NewProtocol>{protocol}</NewProtocol>\
             <NewInternalPort>80</NewInternalPort><NewInternalClient>{HOST}</NewInternalClient>\
             <NewLeaseDuration>60</NewLeaseDuration></u:{action}></s:Body></s:Envelope>"
        );
        let request = format!(
            "POST /ctl/IPConn HTTP/1.1\r\nHost: {GATEWAY}\r\nContent-Length: {}\r\n\
             SOAPAction: \"urn:schemas-upnp-org:service:WANIPConnection:1#{action}\"\r\n\r\n{body}",
            body.len()
        );
        String::from_utf8(router.http(START, host.ip(), request.as_bytes()).unwrap()).unwrap()
    };
    let refused = upnp("TCP", "AddPortMapping");
    assert!(refused.starts_with("HTTP/1.1 500") && refused.contains("<errorCode>402</errorCode>"), "{refused}");
    let unknown = upnp("UDP", "SetEverything");
    assert!(unknown.contains("<errorCode>401</errorCode>"), "{unknown}");
    let mapped = upnp("UDP", "AddPortMapping");
    assert!(mapped.starts_with("HTTP/1.1 200"), "{mapped}");
    assert_eq!(router.forwards(START).map(|forward| forward.external_port).collect::<Vec<_>>(), [80]);
}
