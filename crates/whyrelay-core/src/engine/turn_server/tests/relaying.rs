//! Application data both ways, and relay to relay.

use super::super::*;
use super::fixture::*;
use crate::wire::attribute::AttributeType;
use crate::wire::stun::MessageBuilder;
use crate::wire::turn::ChannelData;

fn to_peer(bytes: &[u8]) -> Vec<Seen> {
    vec![Seen::ToPeer { peer: PEER.parse().unwrap(), bytes: bytes.to_vec(), dont_fragment: false }]
}

/// A server on which alice has an allocation.
fn allocated() -> (Fixture, Caller) {
    let mut fixture = Fixture::new();
    let mut alice = Caller::alice();
    assert_eq!(alice.allocate(&mut fixture).code(), 0);
    (fixture, alice)
}

#[test]
fn indications_carry_data_both_ways_once_there_is_a_permission() {
    let (mut fixture, mut alice) = allocated();
    assert_eq!(alice.send(&mut fixture, PEER, b"early"), []);
    assert_eq!(fixture.peer_sends(RelayId(0), PEER, b"early"), []);
    assert_eq!(alice.permit(&mut fixture, &[PEER]), 0);
    assert_eq!(alice.send(&mut fixture, PEER, b"there"), to_peer(b"there"));
    assert_eq!(alice.send(&mut fixture, PEER, b""), to_peer(b""));
    let response = alice.response(fixture.peer_sends(RelayId(0), PEER, b"back"));
    let message = response.message();
    assert_eq!((message.class, message.method), (Class::Indication, Method::DATA));
    assert_eq!(message.xor_address(AttributeType::XOR_PEER_ADDRESS), Some(PEER.parse().unwrap()));
    assert_eq!(message.attribute(AttributeType::DATA).unwrap().value, b"back");
}

#[test]
fn a_permission_is_for_an_address_with_all_its_ports_and_no_other_address() {
    let (mut fixture, mut alice) = allocated();
    alice.permit(&mut fixture, &["198.41.0.4:1"]);
    assert_eq!(fixture.peer_sends(RelayId(0), PEER, b"x").len(), 1);
    assert_eq!(alice.send(&mut fixture, PEER, b"x").len(), 1);
    assert_eq!(fixture.peer_sends(RelayId(0), "198.41.0.5:1", b"x"), []);
    assert_eq!(alice.send(&mut fixture, "198.41.0.5:1", b"x"), []);
}

#[test]
fn permissions_end_after_five_minutes_and_channels_after_ten() {
    let (mut fixture, mut alice) = allocated();
    alice.refresh(&mut fixture, 3600);
    assert_eq!(alice.bind(&mut fixture, 0x4000, PEER), 0);
    fixture.wait(299);
    assert_eq!(fixture.peer_sends(RelayId(0), PEER, b"x").len(), 1);
    fixture.wait(1);
    assert_eq!(fixture.peer_sends(RelayId(0), PEER, b"x"), []);
    assert_eq!(alice.permit(&mut fixture, &[PEER]), 0);
    fixture.wait(299);
    assert_eq!(fixture.raw(alice.client, &[0x40, 0, 0, 1, b'x']), to_peer(b"x"));
    fixture.wait(1);
    alice.permit(&mut fixture, &[PEER]);
    assert_eq!(fixture.raw(alice.client, &[0x40, 0, 0, 1, b'x']), []);
    let response = alice.response(fixture.peer_sends(RelayId(0), PEER, b"x"));
    assert_eq!(response.message().method, Method::DATA, "an indication again");
}

#[test]
fn channel_data_is_padded_on_streams_and_not_in_datagrams() {
    let clients = [(udp("198.18.0.1:40000"), 9), (stream(1, "198.18.0.1:40000"), 12)];
    for (client, length) in clients {
        let mut fixture = Fixture::new();
        let mut alice = Caller::new(client, "alice", "wonderland");
        assert_eq!(alice.allocate(&mut fixture).code(), 0);
        assert_eq!(alice.bind(&mut fixture, 0x4123, PEER), 0);
        assert_eq!(fixture.raw(client, &[0x41, 0x23, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0]), to_peer(&[1, 2, 3, 4, 5]));
        let response = alice.response(fixture.peer_sends(RelayId(0), PEER, b"hello"));
        assert_eq!(response.0.len(), length);
        assert_eq!(ChannelData::decode(&response.0), Some(ChannelData { number: 0x4123, data: b"hello" }));
    }
}

#[test]
fn channel_data_that_is_cut_or_unbound_is_dropped() {
    let (mut fixture, mut alice) = allocated();
    alice.bind(&mut fixture, 0x4000, PEER);
    for bytes in [
        &[0x40, 0, 0, 2, b'x'][..],
        &[0x40],
        &[0x40, 0, 0],
        &[0x40, 1, 0, 1, b'x'],
        &[0x50, 0, 0, 1, b'x'],
        &[0x7F, 0xFF, 0, 0],
    ] {
        assert_eq!(fixture.raw(alice.client, bytes), [], "{bytes:?}");
    }
    assert_eq!(fixture.raw(udp("198.18.0.1:40009"), &[0x40, 0, 0, 1, b'x']), [], "another 5-tuple");
}

#[test]
fn dont_fragment_is_passed_on() {
    let (mut fixture, mut alice) = allocated();
    alice.permit(&mut fixture, &[PEER]);
    let id = alice.id();
    let bytes = MessageBuilder::new(Class::Indication, Method::SEND, id)
        .xor_address(AttributeType::XOR_PEER_ADDRESS, PEER.parse().unwrap())
        .attribute(AttributeType::DONT_FRAGMENT, &[])
        .attribute(AttributeType::DATA, b"x")
        .build();
    let seen = fixture.raw(alice.client, &bytes);
    assert_eq!(seen, [Seen::ToPeer { peer: PEER.parse().unwrap(), bytes: b"x".to_vec(), dont_fragment: true }]);
}

#[test]
fn a_stream_that_closes_takes_its_allocation_with_it() {
    let mut fixture = Fixture::new();
    let client = stream(7, "198.18.0.1:40000");
    let mut alice = Caller::new(client, "alice", "wonderland");
    alice.allocate(&mut fixture);
    assert_eq!(fixture.input(Input::StreamClosed { client }), [Seen::Closed(RelayId(0))]);
    assert_eq!(fixture.server.allocations(), 0);
}

#[test]
fn behind_a_1_to_1_nat_the_external_address_is_advertised() {
    let mut fixture = Fixture::with(|config| config.external_ipv4 = Some("198.41.0.99".parse().unwrap()));
    let mut alice = Caller::alice();
    assert_eq!(alice.allocate(&mut fixture).relayed(), "198.41.0.99:50001".parse().unwrap());
    for own in ["198.41.0.99:22", "192.0.2.1:50001", "192.0.2.1:22"] {
        assert_eq!(alice.permit(&mut fixture, &[own]), 403, "{own}");
    }
}

/// Alice and bob, both relaying through one server, each with a permission for the other.
fn two_relayed(change: impl FnOnce(&mut TurnConfig)) -> (Fixture, [(Caller, SocketAddr); 2]) {
    let mut fixture = Fixture::with(change);
    let (mut alice, mut bob) = (Caller::alice(), Caller::bob());
    let (a, b) = (alice.allocate(&mut fixture).relayed(), bob.allocate(&mut fixture).relayed());
    assert_eq!(alice.permit(&mut fixture, &[&b.to_string()]), 0);
    assert_eq!(bob.permit(&mut fixture, &[&a.to_string()]), 0);
    (fixture, [(alice, a), (bob, b)])
}

#[test]
fn two_clients_of_one_server_reach_each_other_without_leaving_it() {
    let changes: [fn(&mut TurnConfig); 2] =
        [|_| {}, |config| config.external_ipv4 = Some("198.41.0.99".parse().unwrap())];
    for change in changes {
        let (mut fixture, [(mut alice, a), (mut bob, b)]) = two_relayed(change);
        let seen = alice.send(&mut fixture, &b.to_string(), b"hello");
        let response = bob.response(seen);
        assert_eq!(response.message().xor_address(AttributeType::XOR_PEER_ADDRESS), Some(a));
        assert_eq!(response.message().attribute(AttributeType::DATA).unwrap().value, b"hello");
        assert_eq!(bob.bind(&mut fixture, 0x4000, &a.to_string()), 0);
        assert_eq!(alice.bind(&mut fixture, 0x4001, &b.to_string()), 0);
        let seen = fixture.raw(bob.client, &[0x40, 0, 0, 2, b'h', b'i']);
        assert_eq!(seen, [Seen::ToClient(alice.client, vec![0x40, 1, 0, 2, b'h', b'i'])]);
    }
}

#[test]
fn relay_to_relay_needs_the_other_sides_permission_as_well() {
    let mut fixture = Fixture::new();
    let (mut alice, mut bob) = (Caller::alice(), Caller::bob());
    alice.allocate(&mut fixture);
    let b = bob.allocate(&mut fixture).relayed().to_string();
    assert_eq!(alice.permit(&mut fixture, &[&b]), 0);
    assert_eq!(alice.send(&mut fixture, &b, b"x"), []);
}

#[test]
fn security_1_a_live_relayed_address_opens_no_other_port_of_the_server() {
    let (mut fixture, [(mut alice, _), (mut bob, b)]) = two_relayed(|config| {
        config.policy.own_endpoints = vec!["0.0.0.0:3478".parse().unwrap()];
    });
    for port in [22, 3478, 49_999, 0] {
        let own = SocketAddr::new(b.ip(), port).to_string();
        assert_eq!(alice.send(&mut fixture, &own, b"x"), [], "{own} by Send");
        assert_eq!(alice.bind(&mut fixture, 0x4000, &own), 403, "{own}");
        assert_eq!(fixture.raw(alice.client, &[0x40, 0, 0, 1, b'x']), [], "{own} by channel");
        alice = Caller::new(udp(&format!("198.18.9.9:{}", 1000 + port)), "alice", "wonderland");
        alice.allocate(&mut fixture);
        // RFC 8656 §10.1: a client may leave the port out; nothing can be sent to port 0 all the same.
        let expected = if port == 0 { 0 } else { 403 };
        assert_eq!(alice.permit(&mut fixture, &[&own]), expected, "{own} to who has no permission yet");
        assert_eq!(alice.send(&mut fixture, &own, b"x"), [], "{own} by Send, permitted or not");
        assert_eq!(alice.permit(&mut fixture, &[&b.to_string()]), 0);
    }
    // When bob's allocation ends, his port is nobody's.
    bob.refresh(&mut fixture, 0);
    assert_eq!(alice.send(&mut fixture, &b.to_string(), b"x"), []);
    assert_eq!(alice.permit(&mut fixture, &[&b.to_string(), PEER]), 0, "refreshing spares the other peers");
}

/// Who may reach one relayed address of the server has a permission for its whole address.
#[test]
fn security_1_a_scan_of_all_ports_through_the_relay_finds_the_other_relay_alone() {
    let (mut fixture, [(mut alice, _), (_, b)]) = two_relayed(|config| {
        config.policy.own_endpoints = vec!["0.0.0.0:3478".parse().unwrap()];
    });
    let mut reached = Vec::new();
    for port in 0..=u16::MAX {
        let seen = alice.send(&mut fixture, &SocketAddr::new(b.ip(), port).to_string(), b"x");
        reached.extend(seen.iter().map(|_| port));
    }
    let own = fixture.relays.values().map(SocketAddr::port).find(|port| *port != b.port()).unwrap();
    reached.retain(|port| *port != own);
    assert_eq!(reached, [b.port()]);
}

#[test]
fn channel_numbers_of_rfc_5766_work_where_they_are_allowed() {
    let mut fixture = Fixture::with(|config| config.rfc5766_channels = true);
    let mut alice = Caller::alice();
    alice.allocate(&mut fixture);
    for number in [0x3FFF, 0x8000] {
        assert_eq!(alice.bind(&mut fixture, number, PEER), 400, "{number:x}");
    }
    assert_eq!(alice.bind(&mut fixture, 0x7ABC, PEER), 0);
    assert_eq!(fixture.raw(alice.client, &[0x7A, 0xBC, 0, 1, b'x']), to_peer(b"x"));
    let seen = fixture.peer_sends(RelayId(0), PEER, b"y");
    assert_eq!(seen, [Seen::ToClient(alice.client, vec![0x7A, 0xBC, 0, 1, b'y'])]);
}
