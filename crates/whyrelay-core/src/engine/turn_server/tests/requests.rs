//! What requests do, rule by rule of RFC 8656 and RFC 8489 §9.2.

use std::time::Duration;

use super::super::*;
use super::fixture::*;
use crate::wire::attribute::AttributeType;
use crate::wire::integrity::Integrity;
use crate::wire::stun::{MessageBuilder, TransactionId};

#[test]
fn security_5_the_first_answer_is_a_401_of_56_bytes_with_realm_and_nonce() {
    let mut fixture = Fixture::new();
    let response = Caller::alice().greet(&mut fixture);
    assert_eq!(response.code(), 401);
    assert_eq!(response.0.len(), 56);
    let message = response.message();
    assert_eq!(message.text(AttributeType::REALM), Some("whyrelay"));
    assert!(message.has(AttributeType::NONCE) && !message.has(AttributeType::SOFTWARE));
    assert_eq!(fixture.server.allocations(), 0);
}

#[test]
fn an_allocation_has_relayed_address_mapped_address_and_lifetime_and_is_signed() {
    let mut fixture = Fixture::new();
    let mut alice = Caller::alice();
    let response = alice.allocate(&mut fixture);
    assert_eq!(response.code(), 0);
    assert_eq!(response.relayed(), "192.0.2.1:50001".parse().unwrap());
    assert_eq!(response.lifetime(), 600);
    let message = response.message();
    assert_eq!(message.xor_address(AttributeType::XOR_MAPPED_ADDRESS), Some(alice.client.source));
    assert_eq!(message.check_integrity(&alice.key()), Integrity::Valid);
    assert_eq!((fixture.server.allocations(), fixture.relays.len()), (1, 1));
}

#[test]
fn security_2_nobody_allocates_without_a_right_password() {
    let expired = SharedSecret::new("north").unwrap().credentials("eve", START);
    let distant =
        SharedSecret::new("north").unwrap().credentials("eve", START + LONGEST_VALIDITY + Duration::from_secs(1));
    let forged = SharedSecret::new("south").unwrap().credentials("eve", START + Duration::from_secs(60));
    let strangers = [
        ("alice".to_owned(), "wrong".to_owned()),
        ("nobody".into(), "wonderland".into()),
        (String::new(), String::new()),
        (expired.username, expired.password),
        (distant.username, distant.password),
        (forged.username, forged.password),
    ];
    let mut fixture = Fixture::new();
    for (at, (username, password)) in strangers.iter().enumerate() {
        let mut caller = Caller::new(udp(&format!("198.18.1.{at}:40000")), username, password);
        assert_eq!(caller.allocate(&mut fixture).code(), 401, "{username:?}");
    }
    assert_eq!((fixture.server.allocations(), fixture.relays.len()), (0, 0));
}

#[test]
fn time_limited_credentials_let_in_until_they_expire() {
    let mut fixture = Fixture::new();
    let made = SharedSecret::new("north").unwrap().credentials("carol", START + Duration::from_secs(1000));
    let mut carol = Caller::new(udp("198.18.0.3:4000"), &made.username, &made.password);
    assert_eq!(carol.allocate(&mut fixture).code(), 0);
    // The allocation lives on with the password that made it; a new one needs new credentials.
    fixture.wait(500);
    assert_eq!(carol.refresh(&mut fixture, 3600).code(), 0);
    fixture.wait(1000);
    assert_eq!(carol.refresh(&mut fixture, 600).code(), 0);
    let mut again = Caller::new(udp("198.18.0.3:4001"), &made.username, &made.password);
    assert_eq!(again.allocate(&mut fixture).code(), 401);
}

/// By a wall clock that is `ahead` of the machine's time; `None`: no wall clock was ever told.
fn strict_expiry_ends_it(ahead: Option<Duration>) {
    let mut fixture = Fixture::with(|config| config.strict_expiry = true);
    let wall = START + ahead.unwrap_or_default();
    if ahead.is_some() {
        fixture.server.set_wall_clock(START, wall);
    }
    let made = SharedSecret::new("north").unwrap().credentials("carol", wall + Duration::from_secs(700));
    let mut carol = Caller::new(udp("198.18.0.3:4000"), &made.username, &made.password);
    assert_eq!(carol.allocate(&mut fixture).lifetime(), 600);
    fixture.wait(300);
    assert_eq!(carol.refresh(&mut fixture, 3600).lifetime(), 400);
    fixture.wait(399);
    assert_eq!(fixture.server.allocations(), 1);
    fixture.wait(1);
    assert_eq!(fixture.server.allocations(), 0);
}

#[test]
fn security_2_strict_expiry_ends_the_allocation_with_its_credentials() {
    strict_expiry_ends_it(None);
}

#[test]
fn security_2_strict_expiry_follows_the_wall_clock() {
    strict_expiry_ends_it(Some(Duration::from_secs(1_000_000)));
}

/// A machine that starts before its clock is set, and one whose clock is set back while it serves.
#[test]
fn security_2_credentials_expire_by_the_wall_clock_and_nothing_else_follows_it() {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    let mut fixture = Fixture::new();
    let mut alice = Caller::alice();
    assert_eq!(alice.allocate(&mut fixture).lifetime(), 600);
    let late =
        |wall: Timestamp| SharedSecret::new("north").unwrap().credentials("carol", wall + Duration::from_secs(700));
    let mut port = 4000;
    let mut carol = |made: &TimeLimited, fixture: &mut Fixture| {
        port += 1;
        Caller::new(udp(&format!("198.18.0.3:{port}")), &made.username, &made.password).allocate(fixture).code()
    };
    let (before, ahead, behind) =
        (START, START + YEAR, Timestamp::from_micros(START.as_micros() - YEAR.as_micros() as u64));
    let made = [before, ahead, behind].map(late);
    assert_eq!(made.each_ref().map(|made| carol(made, &mut fixture)), [0, 401, 401]);
    for (wall, codes) in [(ahead, [401, 0, 401]), (behind, [401, 401, 0]), (before, [0, 401, 401])] {
        fixture.server.set_wall_clock(fixture.now, wall);
        assert_eq!(made.each_ref().map(|made| carol(made, &mut fixture)), codes, "at {wall:?}");
        // What lives goes on living for as long as it would have, and a nonce is as good as before.
        assert_eq!(alice.refresh(&mut fixture, 600).lifetime(), 600);
        fixture.wait(10);
    }
    fixture.wait(589);
    assert!(fixture.server.has_allocation(&alice.client));
    fixture.wait(2);
    assert!(!fixture.server.has_allocation(&alice.client));
}

/// Also while the allocation lives; but a clock that is set back prolongs nothing.
#[test]
fn security_2_strict_expiry_follows_a_wall_clock_that_is_set_meanwhile() {
    for (strict, lives) in [(true, false), (false, true)] {
        let mut fixture = Fixture::with(|config| config.strict_expiry = strict);
        let made = SharedSecret::new("north").unwrap().credentials("carol", START + Duration::from_secs(3000));
        let mut carol = Caller::new(udp("198.18.0.3:4000"), &made.username, &made.password);
        assert_eq!(carol.allocate(&mut fixture).lifetime(), 600);
        fixture.server.set_wall_clock(fixture.now, START + Duration::from_secs(2900));
        fixture.wait(99);
        assert_eq!(fixture.server.allocations(), 1);
        fixture.server.set_wall_clock(fixture.now, START);
        fixture.wait(2);
        assert_eq!(fixture.server.allocations(), usize::from(lives), "strict: {strict}");
        fixture.wait(500);
        assert_eq!(fixture.server.allocations(), 0);
    }
}

#[test]
fn an_incomplete_signature_is_400() {
    let mut fixture = Fixture::new();
    let mut alice = Caller::alice();
    alice.greet(&mut fixture);
    let parts = [
        (AttributeType::USERNAME, "alice".to_owned()),
        (AttributeType::REALM, "whyrelay".to_owned()),
        (AttributeType::NONCE, alice.nonce.clone()),
    ];
    for (missing, _) in &parts {
        let mut request = alice.allocation_request();
        for (kind, value) in parts.iter().filter(|(kind, _)| kind != missing) {
            request = request.text(*kind, value);
        }
        let seen = fixture.raw(alice.client, &request.integrity(&alice.key()).build());
        assert_eq!(alice.response(seen).code(), 400, "without {missing}");
    }
}

#[test]
fn a_stale_nonce_is_438_with_a_new_one() {
    let mut fixture = Fixture::new();
    let mut alice = Caller::alice();
    alice.allocate(&mut fixture);
    let old = alice.nonce.clone();
    fixture.wait(500);
    assert_eq!(alice.refresh(&mut fixture, 3600).code(), 0);
    fixture.wait(3400);
    let response = alice.refresh(&mut fixture, 600);
    assert_eq!(response.code(), 438);
    alice.nonce = response.message().text(AttributeType::NONCE).unwrap().to_owned();
    assert_ne!(alice.nonce, old);
    assert_eq!(alice.refresh(&mut fixture, 600).code(), 0);
}

#[test]
fn security_4_a_second_allocate_is_437_and_a_retransmission_gets_the_same_answer() {
    let mut fixture = Fixture::new();
    let mut alice = Caller::alice();
    alice.greet(&mut fixture);
    let request = alice.allocation_request();
    let bytes = alice.sign(request);
    let first = alice.response(fixture.raw(alice.client, &bytes));
    let again = alice.response(fixture.raw(alice.client, &bytes));
    assert_eq!(first.0, again.0);
    let request = alice.allocation_request();
    assert_eq!(alice.once(&mut fixture, request).code(), 437);
    assert_eq!(fixture.relays.len(), 1);
}

#[test]
fn a_retransmission_while_the_relay_opens_is_answered_once() {
    let mut fixture = Fixture::new();
    fixture.slow = true;
    let mut alice = Caller::alice();
    alice.greet(&mut fixture);
    let request = alice.allocation_request();
    let bytes = alice.sign(request);
    assert_eq!(fixture.raw(alice.client, &bytes), []);
    assert_eq!(fixture.raw(alice.client, &bytes), []);
    let answers = fixture.open_relays();
    assert_eq!(alice.response(answers).code(), 0);
    assert_eq!(fixture.relays.len(), 1);
}

#[test]
fn a_relay_that_opens_after_its_client_left_is_closed() {
    let mut fixture = Fixture::new();
    fixture.slow = true;
    let mut alice = Caller::new(stream(1, "198.18.0.1:40000"), "alice", "wonderland");
    alice.greet(&mut fixture);
    let request = alice.allocation_request();
    let bytes = alice.sign(request);
    fixture.raw(alice.client, &bytes);
    fixture.input(Input::StreamClosed { client: alice.client });
    let seen = fixture.open_relays();
    assert_eq!(seen, [Seen::Closed(RelayId(0))]);
    assert_eq!((fixture.server.allocations(), fixture.relays.len()), (0, 0));
}

#[test]
fn what_allocate_cannot_grant_has_the_code_of_the_rfc() {
    let transport = |value: &'static [u8]| (AttributeType::REQUESTED_TRANSPORT, value);
    const UDP: &[u8] = &[17, 0, 0, 0];
    let family = |value: &'static [u8]| (AttributeType::REQUESTED_ADDRESS_FAMILY, value);
    let additional = |value: &'static [u8]| (AttributeType::ADDITIONAL_ADDRESS_FAMILY, value);
    let even_port = (AttributeType::EVEN_PORT, &[0x80][..]);
    let token = (AttributeType::RESERVATION_TOKEN, &[1; 8][..]);
    type Row<'a> = (&'a str, Vec<(AttributeType, &'a [u8])>, u16);
    let table: [Row<'_>; 19] = [
        ("no transport", vec![], 400),
        ("TCP", vec![transport(&[6, 0, 0, 0])], 442),
        ("a transport of three bytes", vec![transport(&[17, 0, 0])], 400),
        ("IPv4", vec![transport(UDP), family(&[1, 0, 0, 0])], 0),
        ("IPv6", vec![transport(UDP), family(&[2, 0, 0, 0])], 0),
        ("family 3", vec![transport(UDP), family(&[3, 0, 0, 0])], 440),
        ("a family of one byte", vec![transport(UDP), family(&[1])], 400),
        ("both", vec![transport(UDP), additional(&[2, 0, 0, 0])], 0),
        ("IPv4 in addition", vec![transport(UDP), additional(&[1, 0, 0, 0])], 400),
        ("family and additional family", vec![transport(UDP), family(&[1, 0, 0, 0]), additional(&[2, 0, 0, 0])], 400),
        ("an even port", vec![transport(UDP), (AttributeType::EVEN_PORT, &[0])], 0),
        ("an even port of two bytes", vec![transport(UDP), (AttributeType::EVEN_PORT, &[0, 0])], 400),
        ("a pair of ports", vec![transport(UDP), even_port], 508),
        ("a pair of ports and both families", vec![transport(UDP), even_port, additional(&[2, 0, 0, 0])], 400),
        ("a reservation", vec![transport(UDP), token], 508),
        ("a reservation and an even port", vec![transport(UDP), token, even_port], 400),
        ("a reservation and a family", vec![transport(UDP), token, family(&[1, 0, 0, 0])], 400),
        ("something unknown", vec![transport(UDP), (AttributeType(0x7777), &[])], 420),
        ("a lifetime of two bytes", vec![transport(UDP), (AttributeType::LIFETIME, &[1, 2])], 400),
    ];
    for (what, attributes, code) in table {
        let mut fixture = Fixture::new();
        let mut alice = Caller::alice();
        alice.greet(&mut fixture);
        let mut request = alice.start(Method::ALLOCATE);
        for (kind, value) in &attributes {
            request = request.attribute(*kind, value);
        }
        let response = alice.once(&mut fixture, request);
        assert_eq!(response.code(), code, "{what}");
        assert_eq!(response.message().check_integrity(&alice.key()), Integrity::Valid, "{what}");
        assert_eq!(fixture.server.allocations(), usize::from(code == 0), "{what}");
    }
}

#[test]
fn a_family_that_is_not_offered_is_440() {
    let mut fixture = Fixture::with(|config| config.relay_ipv6 = false);
    let mut alice = Caller::alice();
    alice.greet(&mut fixture);
    let request = alice.allocation_request().attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    assert_eq!(alice.once(&mut fixture, request).code(), 440);
}

#[test]
fn one_allocation_may_have_both_families_and_each_may_be_let_go() {
    let mut fixture = Fixture::new();
    let mut alice = Caller::alice();
    alice.greet(&mut fixture);
    let request = alice.allocation_request().attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    let response = alice.once(&mut fixture, request);
    let message = response.message();
    let relayed: Vec<SocketAddr> = message.xor_addresses(AttributeType::XOR_RELAYED_ADDRESS).collect();
    assert_eq!(relayed.iter().map(|address| address.is_ipv4()).collect::<Vec<_>>(), [true, false]);
    assert_eq!(alice.permit(&mut fixture, &[PEER, PEER_IPV6]), 0);
    let request = alice
        .start(Method::REFRESH)
        .attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0])
        .u32(AttributeType::LIFETIME, 0);
    assert_eq!(alice.once(&mut fixture, request).code(), 0);
    assert_eq!(fixture.relays.len(), 1);
    assert_eq!(alice.permit(&mut fixture, &[PEER]), 443);
    assert_eq!(alice.permit(&mut fixture, &[PEER_IPV6]), 0);
}

#[test]
fn an_additional_family_that_cannot_be_had_is_reported_beside_the_other() {
    let mut fixture = Fixture::new();
    fixture.broken = vec![Family::Ipv6];
    let mut alice = Caller::alice();
    alice.greet(&mut fixture);
    let request = alice.allocation_request().attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    let response = alice.once(&mut fixture, request);
    assert_eq!(response.code(), 0);
    assert!(response.relayed().is_ipv4());
    let failed = response.message().attribute(AttributeType::ADDRESS_ERROR_CODE).unwrap().value.to_vec();
    assert_eq!(failed, [2, 0, 5, 8]);
}

#[test]
fn no_socket_for_the_relay_is_508_and_leaves_nothing() {
    let mut fixture = Fixture::new();
    fixture.broken = vec![Family::Ipv4];
    let mut alice = Caller::alice();
    assert_eq!(alice.allocate(&mut fixture).code(), 508);
    assert_eq!(fixture.server.allocations(), 0);
    fixture.broken.clear();
    assert_eq!(alice.allocate(&mut fixture).code(), 0);
}

#[test]
fn dont_fragment_is_420_where_it_is_not_obeyed() {
    for (obeyed, code) in [(true, 0), (false, 420)] {
        let mut fixture = Fixture::with(|config| config.dont_fragment = obeyed);
        let mut alice = Caller::alice();
        alice.greet(&mut fixture);
        let request = alice.allocation_request().attribute(AttributeType::DONT_FRAGMENT, &[]);
        let response = alice.once(&mut fixture, request);
        assert_eq!(response.code(), code);
        if code == 420 {
            let message = response.message();
            assert_eq!(message.attribute(AttributeType::UNKNOWN_ATTRIBUTES).unwrap().value, [0x00, 0x1A]);
        }
    }
}

#[test]
fn an_alternate_server_of_the_same_family_is_named_to_who_has_a_password() {
    let alternate: SocketAddr = "198.51.100.1:3478".parse().unwrap();
    let mut fixture = Fixture::with(|config| config.alternate_servers = vec![alternate]);
    let response = Caller::alice().allocate(&mut fixture);
    assert_eq!(response.code(), 300);
    assert_eq!(response.message().address(AttributeType::ALTERNATE_SERVER), Some(alternate));
    let mut v6 = Caller::new(udp("[2a00::1]:40000"), "alice", "wonderland");
    assert_eq!(v6.allocate(&mut fixture).code(), 0);
}

#[test]
fn a_server_that_drains_lets_nobody_in_and_keeps_who_is_there() {
    let mut fixture = Fixture::new();
    let mut alice = Caller::alice();
    assert_eq!(alice.allocate(&mut fixture).code(), 0);
    fixture.server.drain();
    assert_eq!(Caller::bob().allocate(&mut fixture).code(), 508);
    let alternate: SocketAddr = "198.51.100.1:3478".parse().unwrap();
    fixture.server.set_alternate_servers(vec!["[2001:db8::1]:3478".parse().unwrap(), alternate]);
    let sent_away = Caller::bob().allocate(&mut fixture);
    assert_eq!(sent_away.code(), 300);
    assert_eq!(sent_away.message().address(AttributeType::ALTERNATE_SERVER), Some(alternate));
    assert_eq!(alice.refresh(&mut fixture, 600).code(), 0);
    assert_eq!(alice.permit(&mut fixture, &[PEER]), 0);
    assert_eq!(alice.send(&mut fixture, PEER, b"x").len(), 1);
    alice.refresh(&mut fixture, 0);
    assert_eq!(fixture.server.allocations(), 0);
}

#[test]
fn every_error_is_counted_by_its_code_and_the_first_are_kept_for_the_log() {
    let mut fixture = Fixture::new();
    let change = |id| {
        MessageBuilder::new(Class::Request, Method::BINDING, TransactionId([id; 12]))
            .u32(AttributeType::CHANGE_REQUEST, 6)
    };
    let client = udp("198.18.0.9:9");
    assert_eq!(fixture.raw(client, &change(1).build()).len(), 1);
    Caller::alice().greet(&mut fixture);
    let counters = fixture.server.counters();
    assert_eq!((counters.bindings, counters.errors.get(&420), counters.errors.get(&401)), (0, Some(&1), None));
    assert_eq!(counters.challenges, 1, "the first 401 of an honest client is no refusal");
    let mut wrong = Caller::new(udp("198.18.0.8:8"), "alice", "hunter2");
    assert_eq!(wrong.allocate(&mut fixture).code(), 401);
    let counters = fixture.server.counters();
    assert_eq!((counters.challenges, counters.errors.get(&401)), (2, Some(&1)));
    let kept = [(Method::BINDING, 420, client.source), (Method::ALLOCATE, 401, wrong.client.source)];
    let kept = kept.map(|(method, code, source)| Refused { method, code, source });
    assert_eq!(Vec::from(fixture.server.take_refusals()), kept);
    (0..200).for_each(|id| drop(fixture.raw(udp(&format!("198.18.1.{id}:9")), &change(id).build())));
    assert_eq!(fixture.server.take_refusals().len(), MOST_REFUSALS);
    assert_eq!(fixture.server.counters().errors.get(&420), Some(&201));
    // Over UDP any source can be forged.
    let answered = (0..100).filter(|id| !fixture.raw(client, &change(*id).build()).is_empty()).count();
    assert_eq!((answered, fixture.server.counters().unauthenticated_withheld), (9, 91));
}

#[test]
fn security_4_lifetimes_are_bounded_and_zero_ends_the_allocation() {
    let mut fixture = Fixture::new();
    let mut alice = Caller::alice();
    alice.allocate(&mut fixture);
    for (asked, granted) in [(1, 600), (600, 600), (1000, 1000), (3600, 3600), (u32::MAX, 3600)] {
        assert_eq!(alice.refresh(&mut fixture, asked).lifetime(), granted, "{asked}");
    }
    assert_eq!(alice.refresh(&mut fixture, 0).lifetime(), 0);
    assert_eq!((fixture.server.allocations(), fixture.relays.len()), (0, 0));
    assert_eq!(alice.refresh(&mut fixture, 0).code(), 437);
}

#[test]
fn an_allocation_that_is_not_refreshed_ends_and_its_socket_closes() {
    let mut fixture = Fixture::new();
    Caller::alice().allocate(&mut fixture);
    assert_eq!(fixture.server.poll_output(), Output::Timeout(Some(START + Duration::from_secs(600))));
    assert_eq!(fixture.wait(599), []);
    assert_eq!(fixture.wait(1), [Seen::Closed(RelayId(0))]);
    assert_eq!(fixture.server.allocations(), 0);
    assert_eq!(fixture.server.poll_output(), Output::Timeout(None));
}

#[test]
fn without_an_allocation_everything_is_437() {
    let mut fixture = Fixture::new();
    let mut alice = Caller::alice();
    alice.greet(&mut fixture);
    assert_eq!(alice.refresh(&mut fixture, 600).code(), 437);
    assert_eq!(alice.permit(&mut fixture, &[PEER]), 437);
    assert_eq!(alice.bind(&mut fixture, 0x4000, PEER), 437);
}

#[test]
fn another_users_requests_on_an_allocation_are_441() {
    let mut fixture = Fixture::new();
    let mut alice = Caller::alice();
    alice.allocate(&mut fixture);
    let mut bob = Caller::new(alice.client, "bob", "builder");
    bob.nonce = alice.nonce.clone();
    assert_eq!(bob.refresh(&mut fixture, 0).code(), 441);
    assert_eq!(bob.permit(&mut fixture, &[PEER]), 441);
    assert_eq!(bob.bind(&mut fixture, 0x4000, PEER), 441);
    assert_eq!(fixture.server.allocations(), 1);
}

#[test]
fn security_3_quotas_per_user_are_486_and_in_all_508() {
    let mut fixture = Fixture::with(|config| {
        config.limits.allocations_per_user = 2;
        config.limits.allocations = 3;
    });
    let secret = SharedSecret::new("north").unwrap();
    let mut codes = Vec::new();
    for port in 0..3_u16 {
        // Other usernames, the same name.
        let made = secret.credentials("carol", START + Duration::from_secs(60 + u64::from(port)));
        let client = udp(&format!("198.18.0.3:{}", 4000 + port));
        codes.push(Caller::new(client, &made.username, &made.password).allocate(&mut fixture).code());
    }
    assert_eq!(codes, [0, 0, 486]);
    assert_eq!(Caller::alice().allocate(&mut fixture).code(), 0);
    let mut bob = Caller::bob();
    assert_eq!(bob.allocate(&mut fixture).code(), 508);
    fixture.wait(600);
    assert_eq!(bob.allocate(&mut fixture).code(), 0);
}

#[test]
fn create_permission_takes_all_peers_or_none() {
    let mut fixture = Fixture::with(|config| config.limits.permissions = 3);
    let mut alice = Caller::alice();
    let relay = RelayId(0);
    alice.allocate(&mut fixture);
    assert_eq!(alice.permit(&mut fixture, &[]), 400);
    assert_eq!(alice.permit(&mut fixture, &[PEER, "10.0.0.1:1"]), 403);
    assert_eq!(alice.permit(&mut fixture, &[PEER, PEER_IPV6]), 443);
    assert_eq!(alice.permit(&mut fixture, &["1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1", PEER]), 508);
    assert_eq!(fixture.peer_sends(relay, PEER, b"no"), []);
    assert_eq!(alice.permit(&mut fixture, &[PEER, "1.1.1.1:1", "1.1.1.2:1", PEER]), 0);
    assert_eq!(fixture.peer_sends(relay, PEER, b"yes").len(), 1);
    let malformed = alice
        .start(Method::CREATE_PERMISSION)
        .xor_address(AttributeType::XOR_PEER_ADDRESS, PEER.parse().unwrap())
        .attribute(AttributeType::XOR_PEER_ADDRESS, &[0, 3, 1, 2, 3, 4, 5, 6]);
    assert_eq!(alice.once(&mut fixture, malformed).code(), 400);
}

#[test]
fn peers_behind_the_signature_do_not_count() {
    let mut fixture = Fixture::new();
    let mut alice = Caller::alice();
    alice.allocate(&mut fixture);
    let request =
        alice.start(Method::CREATE_PERMISSION).xor_address(AttributeType::XOR_PEER_ADDRESS, PEER.parse().unwrap());
    let mut bytes = alice.sign(request);
    let id = Message::decode(&bytes).unwrap().transaction;
    let added = MessageBuilder::new(Class::Request, Method::CREATE_PERMISSION, id)
        .xor_address(AttributeType::XOR_PEER_ADDRESS, "1.1.1.1:1".parse().unwrap())
        .build();
    bytes.extend_from_slice(&added[20..]);
    let length = (bytes.len() - 20) as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    assert_eq!(alice.response(fixture.raw(alice.client, &bytes)).code(), 0);
    assert_eq!(fixture.peer_sends(RelayId(0), PEER, b"x").len(), 1);
    assert_eq!(fixture.peer_sends(RelayId(0), "1.1.1.1:1", b"x"), []);
}

#[test]
fn security_4_channel_numbers_end_at_0x4fff_and_are_bound_once() {
    let mut fixture = Fixture::with(|config| config.limits.channels = 2);
    let mut alice = Caller::alice();
    alice.allocate(&mut fixture);
    for number in [0x0000, 0x3FFF, 0x5000, 0x7FFF, 0xFFFF] {
        assert_eq!(alice.bind(&mut fixture, number, PEER), 400, "{number:x}");
    }
    assert_eq!(alice.bind(&mut fixture, 0x4000, PEER), 0);
    assert_eq!(alice.bind(&mut fixture, 0x4000, PEER), 0, "a refresh");
    assert_eq!(alice.bind(&mut fixture, 0x4001, PEER), 400, "the peer has another channel");
    assert_eq!(alice.bind(&mut fixture, 0x4000, "198.41.0.4:7001"), 400, "the channel has another peer");
    assert_eq!(alice.bind(&mut fixture, 0x4FFF, "198.41.0.4:7001"), 0);
    assert_eq!(alice.bind(&mut fixture, 0x4001, "198.41.0.4:7002"), 508);
    assert_eq!(alice.bind(&mut fixture, 0x4001, PEER_IPV6), 443);
    assert_eq!(alice.bind(&mut fixture, 0x4001, "127.0.0.1:80"), 403);
    let no_peer = alice.start(Method::CHANNEL_BIND).attribute(AttributeType::CHANNEL_NUMBER, &[0x40, 1, 0, 0]);
    assert_eq!(alice.once(&mut fixture, no_peer).code(), 400);
    let no_number =
        alice.start(Method::CHANNEL_BIND).xor_address(AttributeType::XOR_PEER_ADDRESS, PEER.parse().unwrap());
    assert_eq!(alice.once(&mut fixture, no_number).code(), 400);
}

#[test]
fn security_4_of_duplicate_peers_the_first_is_bound() {
    let mut fixture = Fixture::new();
    let mut alice = Caller::alice();
    alice.allocate(&mut fixture);
    let request = alice
        .start(Method::CHANNEL_BIND)
        .attribute(AttributeType::CHANNEL_NUMBER, &[0x40, 0, 0, 0])
        .xor_address(AttributeType::XOR_PEER_ADDRESS, PEER.parse().unwrap())
        .xor_address(AttributeType::XOR_PEER_ADDRESS, "127.0.0.1:80".parse().unwrap());
    assert_eq!(alice.once(&mut fixture, request).code(), 0);
    let seen = fixture.raw(alice.client, &[0x40, 0, 0, 1, b'x']);
    assert_eq!(seen, [Seen::ToPeer { peer: PEER.parse().unwrap(), bytes: b"x".to_vec(), dont_fragment: false }]);
}

#[test]
fn sha_256_integrity_is_answered_in_kind() {
    let mut fixture = Fixture::new();
    let mut alice = Caller::alice();
    alice.greet(&mut fixture);
    let request = alice.allocation_request();
    let bytes = request.long_term_credential("alice", "whyrelay", &alice.nonce).integrity_sha256(&alice.key()).build();
    let response = alice.response(fixture.raw(alice.client, &bytes));
    assert_eq!(response.code(), 0);
    assert!(response.message().has(AttributeType::MESSAGE_INTEGRITY_SHA256));
    assert_eq!(response.message().check_integrity(&alice.key()), Integrity::Valid);
}

#[test]
fn a_changed_secret_keeps_allocations_and_refuses_new_ones() {
    let mut fixture = Fixture::new();
    let mut alice = Caller::alice();
    alice.allocate(&mut fixture);
    fixture.server.set_credentials(Credentials::none().with_user("bob", "builder"));
    assert_eq!(alice.refresh(&mut fixture, 600).code(), 0);
    let mut second = Caller::new(udp("198.18.0.1:40009"), "alice", "wonderland");
    assert_eq!(second.allocate(&mut fixture).code(), 401);
    assert_eq!(Caller::bob().allocate(&mut fixture).code(), 0);
}
