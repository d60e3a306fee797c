//! What attackers try (SECURITY, item by item).

use std::time::Duration;

use proptest::prelude::*;

use std::net::Ipv4Addr;

use super::super::*;
use super::fixture::*;
use crate::wire::attribute::AttributeType;
use crate::wire::stun::{MessageBuilder, TransactionId};

const FORBIDDEN: [&str; 14] = [
    "127.0.0.1",
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "192.168.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "192.0.2.9",
    "198.18.0.1",
    "203.0.113.1",
    "198.41.0.99",
];

const FORBIDDEN_IPV6: [&str; 17] = [
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::1",
    "2002:a00:1::1",
    "2001:0:808:808:0:0:80ff:fffe",
    "fe80::1",
    "fd00::1",
    "ff02::1",
    "2001:db8::5",
    "64:ff9b::c629:63",
    "2a00::5efe:7f00:1",
];

#[test]
fn security_1_no_forbidden_peer_is_reached_by_permission_channel_or_send() {
    let mut fixture = Fixture::with(|config| config.external_ipv4 = Some("198.41.0.99".parse().unwrap()));
    let mut alice = Caller::alice();
    alice.greet(&mut fixture);
    let request = alice.allocation_request().attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    assert_eq!(alice.once(&mut fixture, request).code(), 0);
    for ip in FORBIDDEN.iter().chain(&FORBIDDEN_IPV6) {
        let peer = SocketAddr::new(ip.parse().unwrap(), 80).to_string();
        assert_eq!(alice.permit(&mut fixture, &[&peer]), 403, "{peer} by CreatePermission");
        assert_eq!(alice.bind(&mut fixture, 0x4000, &peer), 403, "{peer} by ChannelBind");
        assert_eq!(alice.send(&mut fixture, &peer, b"x"), [], "{peer} by Send");
        assert_eq!(fixture.raw(alice.client, &[0x40, 0, 0, 1, b'x']), [], "{peer} by ChannelData");
    }
    assert_eq!(fixture.server.counters().policy_refusals, 2 * (FORBIDDEN.len() + FORBIDDEN_IPV6.len()) as u64);
    assert_eq!(alice.permit(&mut fixture, &[PEER, PEER_IPV6]), 0, "the honest peer");
}

/// As stunner scans: one address of every 4096, all over IPv4 and in four spellings of IPv6. What is let through is on the
/// Internet by the standard library's judgement, too.
#[test]
fn security_1_a_scan_of_all_ranges_through_the_relay_reaches_the_internet_only() {
    let mut fixture = Fixture::with(|config| {
        config.limits.new_peers_per_second = None;
        config.limits.permissions = 4096;
    });
    let policy = PeerPolicy::default();
    let (mut alice, mut let_through) = (Caller::alice(), 0);
    assert_eq!(alice.allocate(&mut fixture).code(), 0);
    for network in 0..0x0010_0000_u32 {
        let ip = Ipv4Addr::from(network << 12 | network & 0xFFF);
        let is_special = ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_multicast();
        let is_nobodys = ip.is_unspecified() || ip.is_broadcast() || ip.is_documentation() || ip.octets()[0] >= 240;
        let [a, b, ..] = ip.octets();
        let is_others = a == 100 && b & 0xC0 == 64 || a == 0 || a == 198 && b & 0xFE == 18;
        let refused = policy.check(SocketAddr::new(ip.into(), 5000)).is_err();
        assert!(refused || !(is_special || is_nobodys || is_others), "{ip}");
        let bits = u128::from(ip.to_bits());
        let spelled = [0xFFFF_u128 << 32 | bits, 0x64_FF9B << 96 | bits, 0x2002_u128 << 112 | bits << 80, bits]
            .map(std::net::Ipv6Addr::from_bits);
        let through = |ip: &std::net::Ipv6Addr| policy.check(SocketAddr::new((*ip).into(), 5000)).is_ok();
        assert!(!refused || !spelled.iter().any(through), "{ip} as IPv6");
        // By the protocol itself, where that costs little.
        if network % 0x101 == 0 {
            let peer = SocketAddr::new(ip.into(), 5000).to_string();
            let code = alice.permit(&mut fixture, &[&peer]);
            assert_eq!(code, if refused { 403 } else { 0 }, "{ip}");
            assert_eq!(alice.send(&mut fixture, &peer, b"x").len(), usize::from(!refused), "{ip}");
            let_through += u32::from(!refused);
        }
    }
    assert!((3000..4080).contains(&let_through), "{let_through} of 4080 were let through");
}

#[test]
fn security_5_a_flood_of_first_requests_gets_ten_answers_a_second_and_leaves_no_state() {
    let mut fixture = Fixture::new();
    let mut answers = 0;
    for at in 0..20_000_u16 {
        let client = udp(&format!("198.51.100.7:{}", 1024 + at));
        let request = MessageBuilder::new(Class::Request, Method::ALLOCATE, TransactionId([1; 12])).build();
        answers += fixture.raw(client, &request).len();
        fixture.now += Duration::from_micros(100);
    }
    assert_eq!(answers, 20, "in two seconds");
    assert_eq!(fixture.server.allocations(), 0);
    assert_eq!(fixture.server.poll_output(), Output::Timeout(None));
    assert_eq!(Caller::alice().allocate(&mut fixture).code(), 0, "the honest client");
}

#[test]
fn security_3_an_allocation_flood_ends_at_the_quota() {
    let mut fixture = Fixture::with(|config| config.limits.allocations_per_user = 5);
    for port in 1..200 {
        let mut flooder = Caller::new(udp(&format!("198.18.7.{port}:{port}")), "bob", "builder");
        flooder.allocate(&mut fixture);
    }
    assert_eq!((fixture.server.allocations(), fixture.relays.len()), (5, 5));
    assert_eq!(Caller::alice().allocate(&mut fixture).code(), 0, "the honest client");
}

#[test]
fn security_3_a_rate_limit_holds_for_one_allocation_in_both_directions_together() {
    let mut fixture = Fixture::with(|config| config.limits.bytes_per_second = Some(10_000));
    let (mut alice, mut bob) = (Caller::alice(), Caller::bob());
    for caller in [&mut alice, &mut bob] {
        assert_eq!(caller.allocate(&mut fixture).code(), 0);
        assert_eq!(caller.permit(&mut fixture, &[PEER]), 0);
    }
    let relay = *fixture.relays.keys().next().unwrap();
    let mut relayed = 0;
    for step in 0..4000_u64 {
        let seen = if step % 2 == 0 {
            alice.send(&mut fixture, PEER, &[0; 100])
        } else {
            fixture.peer_sends(relay, PEER, &[0; 100])
        };
        relayed += 100 * seen.len();
        fixture.now += Duration::from_millis(1);
    }
    // 400,000 bytes in four seconds; half a second's worth may come at once.
    assert!((40_000..=45_100).contains(&relayed), "{relayed}");
    assert_eq!(bob.send(&mut fixture, PEER, &[0; 100]).len(), 1, "another allocation has its own");
    let counters = fixture.server.counters();
    assert_eq!(counters.datagrams_limited, counters.datagrams_dropped);
}

#[test]
fn security_3_a_rate_limit_holds_for_all_allocations_together() {
    let mut fixture = Fixture::with(|config| config.limits.total_bytes_per_second = Some(10_000));
    let mut callers = [Caller::alice(), Caller::bob()];
    for caller in &mut callers {
        assert_eq!(caller.allocate(&mut fixture).code(), 0);
        assert_eq!(caller.permit(&mut fixture, &[PEER]), 0);
    }
    let mut relayed = [0, 0];
    for _ in 0..2000_u64 {
        for (caller, relayed) in callers.iter_mut().zip(&mut relayed) {
            *relayed += 100 * caller.send(&mut fixture, PEER, &[0; 100]).len();
            fixture.now += Duration::from_millis(1);
        }
    }
    // 400,000 bytes in four seconds; half a second's worth may come at once.
    let together = relayed[0] + relayed[1];
    assert!((40_000..=45_100).contains(&together), "{relayed:?}");
    let counters = fixture.server.counters();
    assert_eq!(counters.datagrams_limited, (400_000 - together as u64) / 100);
}

#[test]
fn security_3_datagrams_are_limited_as_bytes_are() {
    let mut fixture = Fixture::with(|config| config.limits.datagrams_per_second = Some(100));
    let mut alice = Caller::alice();
    assert_eq!(alice.allocate(&mut fixture).code(), 0);
    assert_eq!(alice.permit(&mut fixture, &[PEER]), 0);
    let mut relayed = 0;
    for _ in 0..4000 {
        relayed += alice.send(&mut fixture, PEER, &[0; 1]).len();
        fixture.now += Duration::from_millis(1);
    }
    // 400 in four seconds; half a second's worth may come at once.
    assert!((400..=451).contains(&relayed), "{relayed}");
}

#[test]
fn security_3_a_permission_flood_ends_at_the_limit() {
    let mut fixture = Fixture::with(|config| config.limits.new_peers_per_second = None);
    let mut alice = Caller::alice();
    alice.allocate(&mut fixture);
    let limit = Limits::default().permissions;
    let mut granted = 0;
    for at in 0..1000_u32 {
        let peer = SocketAddr::new(Ipv4Addr::from(0x0808_0000 + at).into(), 1).to_string();
        granted += usize::from(alice.permit(&mut fixture, &[&peer]) == 0);
    }
    assert_eq!(granted, limit);
    for at in 0..1000 {
        alice.bind(&mut fixture, 0x4000 + at, &format!("8.8.0.0:{}", at + 1));
    }
    assert_eq!(fixture.server.counters().errors.get(&508), Some(&(1000 - limit as u64 + 1000 - limit as u64)));
}

#[test]
fn security_3_new_peers_are_a_hundred_a_second_for_each_user_at_an_address_whatever_the_allocation() {
    // Ten first answers a second are its allocations', to the millisecond.
    let mut fixture = Fixture::with(|config| config.limits.unauthenticated_per_second = 20);
    let peer = |at: u32| SocketAddr::new(Ipv4Addr::from(0x0808_0000 + at).into(), 1).to_string();
    let (mut asked, mut granted) = (0, 0);
    // One allocation after the other, each with as many peers as it may have: four seconds long.
    for round in 0..40_u16 {
        let mut flooder = Caller::new(udp(&format!("198.18.7.7:{}", 2000 + round)), "bob", "builder");
        assert_eq!(flooder.allocate(&mut fixture).code(), 0);
        for at in 0..64 {
            asked += 1;
            // By permission and by channel in turn: a channel brings its permission.
            let peer = peer(u32::from(round) * 64 + at);
            let code = match at % 2 {
                0 => flooder.permit(&mut fixture, &[&peer]),
                _ => flooder.bind(&mut fixture, 0x4000 + at as u16, &peer),
            };
            granted += usize::from(code == 0);
            assert!(matches!(code, 0 | 508), "{code}");
        }
        assert_eq!(flooder.refresh(&mut fixture, 0).code(), 0);
        fixture.now += Duration::from_millis(100);
    }
    assert!((400..=510).contains(&granted), "{granted} of {asked}");
    assert_eq!(fixture.server.counters().peers_limited, (asked - granted) as u64);
    // Neither another user there nor the same one elsewhere is held up, nor is what is refreshed new.
    let mut late = Caller::new(udp("198.18.7.7:9000"), "alice", "wonderland");
    let mut elsewhere = Caller::new(udp("198.18.7.8:9000"), "bob", "builder");
    for honest in [&mut late, &mut elsewhere] {
        assert_eq!(honest.allocate(&mut fixture).code(), 0);
        let peers: Vec<String> = (0..60).map(peer).collect();
        let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
        for _ in 0..20 {
            assert_eq!(honest.permit(&mut fixture, &peers), 0);
            assert_eq!(honest.bind(&mut fixture, 0x4000, peers[0]), 0);
        }
    }
}

#[test]
fn a_request_for_more_peers_than_a_second_allows_passes_and_the_seconds_after_it_pay() {
    let mut fixture = Fixture::with(|config| config.limits.new_peers_per_second = Some(10));
    let mut alice = Caller::alice();
    alice.allocate(&mut fixture);
    let peer = |at: u32| SocketAddr::new(Ipv4Addr::from(0x0808_0000 + at).into(), 1).to_string();
    let peers: Vec<String> = (0..60).map(peer).collect();
    let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
    assert_eq!(alice.permit(&mut fixture, &peers), 0, "sixty at once, of ten a second");
    let mut refused = 0;
    while alice.permit(&mut fixture, &["9.9.9.9:1"]) == 508 {
        refused += 1;
        fixture.now += Duration::from_millis(100);
    }
    assert!((50..=51).contains(&refused), "{refused} tenths of a second until the fifty on credit were paid");
    // On credit only from a full bucket.
    let mut bob = Caller::new(udp("198.18.7.7:2000"), "bob", "builder");
    bob.allocate(&mut fixture);
    assert_eq!(bob.permit(&mut fixture, &["9.9.9.9:1"]), 0);
    assert_eq!(bob.permit(&mut fixture, &peers), 508);
}

#[test]
fn a_channel_that_is_refused_costs_none_of_the_new_peers() {
    let mut fixture = Fixture::with(|config| config.limits.new_peers_per_second = Some(2));
    let mut alice = Caller::alice();
    alice.allocate(&mut fixture);
    assert_eq!(alice.bind(&mut fixture, 0x4000, "8.8.8.8:1"), 0);
    for _ in 0..10 {
        assert_eq!(alice.bind(&mut fixture, 0x4000, "8.8.4.4:1"), 400, "the number is another peer's");
        assert_eq!(alice.bind(&mut fixture, 0x4001, "8.8.8.8:1"), 400, "the peer has another number");
    }
    assert_eq!(alice.bind(&mut fixture, 0x4001, "8.8.4.4:1"), 0);
    assert_eq!(alice.bind(&mut fixture, 0x4002, "9.9.9.9:1"), 508);
}

#[test]
fn a_channel_to_a_peer_that_is_permitted_is_bound_while_permissions_on_credit_are_paid() {
    let mut fixture = Fixture::with(|config| config.limits.new_peers_per_second = Some(2));
    let mut alice = Caller::alice();
    alice.allocate(&mut fixture);
    assert_eq!(alice.permit(&mut fixture, &["8.8.8.8:1", "8.8.4.4:1", "9.9.9.9:1"]), 0, "three at once, of two");
    for (number, peer) in [(0x4000, "8.8.8.8:1"), (0x4001, "8.8.4.4:1"), (0x4002, "8.8.8.8:2")] {
        assert_eq!(alice.bind(&mut fixture, number, peer), 0, "{peer}");
    }
    assert_eq!(alice.bind(&mut fixture, 0x4003, "8.8.8.9:1"), 508, "a new address");
}

#[test]
fn security_10_loops_and_answers_are_not_answered() {
    let mut fixture = Fixture::with(|config| config.policy.own_endpoints = vec!["198.41.0.1:3478".parse().unwrap()]);
    let binding = |class| MessageBuilder::new(class, Method::BINDING, TransactionId([1; 12])).build();
    assert_eq!(fixture.raw(udp("198.41.0.1:3478"), &binding(Class::Request)), [], "from our own address");
    assert_eq!(fixture.raw(udp("198.41.0.9:0"), &binding(Class::Request)), [], "from port 0");
    for class in [Class::Success, Class::Error, Class::Indication] {
        for method in [Method::BINDING, Method::ALLOCATE, Method::REFRESH, Method::DATA, Method(0), Method(0xFFF)] {
            let bytes = MessageBuilder::new(class, method, TransactionId([1; 12])).build();
            assert_eq!(fixture.raw(udp("198.41.0.9:5000"), &bytes), [], "{class:?} {method}");
        }
    }
    assert_eq!(fixture.raw(udp("198.41.0.9:5000"), &binding(Class::Request)).len(), 1);
}

/// A message for each way to be broken that SECURITY names.
#[test]
fn security_9_the_torture_set_changes_nothing() {
    let mut fixture = Fixture::new();
    let mut alice = Caller::alice();
    alice.allocate(&mut fixture);
    let start = || MessageBuilder::new(Class::Request, Method::CREATE_PERMISSION, TransactionId([3; 12]));
    let peer: SocketAddr = PEER.parse().unwrap();
    let good = alice.sign(start().xor_address(AttributeType::XOR_PEER_ADDRESS, peer));
    let mut broken: Vec<Vec<u8>> = vec![
        good[..good.len() - 1].to_vec(),
        [&good[..], &[0; 4]].concat(),
        alice.sign(start()),
        start().xor_address(AttributeType::XOR_PEER_ADDRESS, peer).build(),
        alice.sign(start().attribute(AttributeType::XOR_PEER_ADDRESS, &[0, 0, 1, 1, 1, 1, 1, 1])),
        alice.sign(start().attribute(AttributeType::XOR_PEER_ADDRESS, &[0, 3, 1, 1, 1, 1, 1, 1])),
        alice.sign(start().attribute(AttributeType::XOR_PEER_ADDRESS, &[0, 1, 1])),
        start().text(AttributeType::USERNAME, "").integrity(&alice.key()).build(),
        alice.sign(
            start().text(AttributeType::USERNAME, &"a".repeat(513)).xor_address(AttributeType::XOR_PEER_ADDRESS, peer),
        ),
        alice.sign(
            start()
                .attribute(AttributeType::REALM, &[0xFF, 0, 0xFE])
                .xor_address(AttributeType::XOR_PEER_ADDRESS, peer),
        ),
        vec![0; 65_507],
        vec![0x40; 65_507],
        Vec::new(),
    ];
    for bit in 0..good.len() * 8 {
        // The message type may turn into another good one, and nothing protects what stands behind the HMAC.
        let mut flipped = good.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        broken.push(flipped);
    }
    for bytes in broken {
        for seen in fixture.raw(alice.client, &bytes) {
            let Seen::ToClient(_, bytes) = seen else { panic!("only answers") };
            assert_eq!(Message::decode(&bytes).unwrap().class, Class::Error);
        }
        fixture.now += Duration::from_millis(50);
    }
    assert_eq!(fixture.peer_sends(RelayId(0), PEER, b"x"), [], "no permission was made");
    assert_eq!(alice.permit(&mut fixture, &[PEER]), 0);
}

#[test]
fn a_hundred_thousand_random_datagrams_leave_the_honest_client_served() {
    let mut fixture = Fixture::new();
    let mut alice = Caller::alice();
    alice.allocate(&mut fixture);
    alice.permit(&mut fixture, &[PEER]);
    let mut random = Random::from_number(99);
    for _ in 0..100_000 {
        let mut bytes: [u8; 32] = random.bytes();
        let source: [u8; 6] = random.bytes();
        let client = udp(&format!("198.51.{}.{}:{}", source[0], source[1], u16::from_be_bytes([source[2], source[3]])));
        // Half of them look like STUN up to the cookie.
        if source[4] & 1 == 0 {
            let method = bytes[1] & 0x0F;
            bytes[..8].copy_from_slice(&[0, method, 0, 12, 0x21, 0x12, 0xA4, 0x42]);
        }
        fixture.raw(client, &bytes[..usize::from(source[5] % 33)]);
        fixture.peer_sends(RelayId(0), &client.source.to_string(), &bytes);
    }
    assert_eq!((fixture.server.allocations(), fixture.relays.len()), (1, 1));
    assert_eq!(alice.send(&mut fixture, PEER, b"still here").len(), 1);
}

proptest! {
    /// SECURITY 8: input of an authenticated client.
    #[test]
    fn security_8_no_signed_request_panics_or_reaches_a_forbidden_peer(
        method in 0_u16..12,
        attributes in prop::collection::vec((0_u16..0x30, prop::collection::vec(any::<u8>(), 0..24)), 0..6),
    ) {
        let mut fixture = Fixture::new();
        let mut alice = Caller::alice();
        alice.allocate(&mut fixture);
        let mut request = alice.start(Method(method));
        for (kind, value) in &attributes {
            request = request.attribute(AttributeType(*kind), value);
        }
        let bytes = alice.sign(request);
        for seen in fixture.raw(alice.client, &bytes) {
            let reached = matches!(seen, Seen::ToPeer { .. });
            prop_assert!(!reached, "a datagram to a peer");
        }
    }
}
