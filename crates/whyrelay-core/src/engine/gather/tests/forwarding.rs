//! Permissions, channels, data.

use std::collections::{BTreeMap, VecDeque};

use super::super::*;
use super::bench::{Bench, RELAYED, SOCKET, TURN, TurnScript, address, ip, relayed};
use crate::trace::event::ServerFailure;
use crate::wire::attribute::AttributeType;
use crate::wire::stun::{Class, MessageBuilder, Method, TransactionId};

const PEER: &str = "203.0.113.9:7000";

fn permitted() -> Bench {
    let mut bench = relayed(TurnScript::default());
    bench.input(Input::NeedPermission { relayed: address(RELAYED), peer: address(PEER).ip() });
    bench.run_for(100);
    bench
}

fn denials(bench: &Bench) -> Vec<(IpAddr, Option<u16>)> {
    let denial = |(_, output): &(Timestamp, Output)| match output {
        Output::PermissionDenied { peer, code, .. } => Some((*peer, *code)),
        _ => None,
    };
    bench.outputs.iter().filter_map(denial).collect()
}

#[test]
fn data_waits_for_the_permission_then_goes_in_send_indications_then_in_the_channel() {
    let mut bench = relayed(TurnScript::default());
    let (relayed, peer) = (address(RELAYED), address(PEER));
    bench.input(Input::SendToPeer { relayed, peer, data: b"lost" });
    bench.run_for(100);
    assert!(bench.has(&Output::PermissionGranted { relayed, peer: peer.ip() }));
    bench.input(Input::SendToPeer { relayed, peer, data: b"one" });
    bench.input(Input::BindChannel { relayed, peer });
    bench.run_for(100);
    bench.input(Input::BindChannel { relayed, peer });
    bench.input(Input::SendToPeer { relayed, peer, data: b"two" });
    bench.run_for(100);
    let script = bench.script(TURN);
    assert_eq!(script.sent, [(peer.to_string(), b"one".to_vec()), ("0x4000".to_owned(), b"two".to_vec())]);
    assert_eq!((script.count(Method::CREATE_PERMISSION), script.count(Method::CHANNEL_BIND)), (1, 1));
    assert!(bench.events().contains(&&EventKind::PermissionCreated { relayed, peer: ip("203.0.113.9") }));
    assert!(bench.events().contains(&&EventKind::ChannelBound { relayed, peer, channel: 0x4000 }));

    let data = |bytes: &[u8]| Output::RelayedData { relayed, peer, data: bytes.to_vec() };
    assert!(bench.deliver(SOCKET, TURN, &[0x40, 0x00, 0x00, 0x03, 1, 2, 3]));
    assert!(bench.has(&data(&[1, 2, 3])));
    assert!(!bench.deliver(SOCKET, TURN, &[0x40, 0x01, 0x00, 0x03, 1, 2, 3]), "a channel that nobody bound");
    assert!(!bench.deliver(SOCKET, TURN, &[0x40, 0x00, 0x00, 0x04, 1, 2, 3]), "a length beyond the datagram");
}

#[test]
fn a_channel_is_understood_before_its_answer_arrives() {
    let mut bench = permitted();
    let (relayed, peer) = (address(RELAYED), address(PEER));
    bench.input(Input::BindChannel { relayed, peer });
    assert!(bench.deliver(SOCKET, TURN, &[0x40, 0x00, 0x00, 0x01, 7]));
    assert!(bench.has(&Output::RelayedData { relayed, peer, data: vec![7] }));
}

#[test]
fn data_of_a_peer_without_permission_is_dropped() {
    let mut bench = permitted();
    let indication = |peer: &str| {
        MessageBuilder::new(Class::Indication, Method::DATA, TransactionId([3; 12]))
            .xor_address(AttributeType::XOR_PEER_ADDRESS, address(peer))
            .attribute(AttributeType::DATA, b"hello")
            .build()
    };
    let received =
        |bench: &Bench| bench.outputs.iter().filter(|(_, o)| matches!(o, Output::RelayedData { .. })).count();
    assert!(bench.deliver(SOCKET, TURN, &indication("203.0.113.10:7000")));
    assert_eq!(received(&bench), 0);
    assert!(bench.deliver(SOCKET, TURN, &indication("203.0.113.9:9999")), "any port of a permitted peer");
    assert_eq!(received(&bench), 1);
    assert!(!bench.deliver(SOCKET, "198.51.100.77:3478", &indication(PEER)), "not from the server");
    assert_eq!(received(&bench), 1);
}

#[test]
fn a_permission_that_exists_is_granted_again_without_asking() {
    let mut bench = permitted();
    let granted = Output::PermissionGranted { relayed: address(RELAYED), peer: ip("203.0.113.9") };
    assert_eq!(bench.outputs.iter().filter(|(_, output)| *output == granted).count(), 1);
    bench.input(Input::NeedPermission { relayed: address(RELAYED), peer: ip("203.0.113.9") });
    assert_eq!(bench.outputs.iter().filter(|(_, output)| *output == granted).count(), 2);
    assert_eq!(bench.script(TURN).count(Method::CREATE_PERMISSION), 1);
}

#[test]
fn a_refused_permission_says_its_code_and_a_silent_server_says_none() {
    let mut bench = relayed(TurnScript { always: BTreeMap::from([(8, 403)]), ..TurnScript::default() });
    bench.input(Input::NeedPermission { relayed: address(RELAYED), peer: ip("10.0.0.1") });
    bench.run_for(100);
    assert_eq!(denials(&bench), [(ip("10.0.0.1"), Some(403))]);
    assert_eq!(bench.codes(), [(401, true), (403, false)]);

    let mut silent = relayed(TurnScript::default());
    silent.servers.clear();
    silent.input(Input::NeedPermission { relayed: address(RELAYED), peer: ip("10.0.0.1") });
    silent.run_for(3000);
    assert_eq!(denials(&silent), [(ip("10.0.0.1"), None)]);
    let failure = silent.failures().pop().unwrap();
    assert!(failure.0 == "CreatePermission" && matches!(failure.1, ServerFailure::Timeout { transmissions: 5, .. }));
}

#[test]
fn permissions_and_channels_in_use_never_end() {
    let mut bench = permitted();
    let (relayed, peer) = (address(RELAYED), address(PEER));
    bench.input(Input::BindChannel { relayed, peer });
    let mut asked = Vec::new();
    for _ in 0..720 {
        bench.run_for(5000);
        let before = bench.script(TURN).sent.len();
        bench.input(Input::SendToPeer { relayed, peer, data: b"consent" });
        bench.run_for(20);
        let script = bench.script(TURN);
        assert_eq!(script.sent.len(), before + 1, "every datagram passes");
        assert_eq!(script.sent[before].0, "0x4000");
        asked.push((script.count(Method::CREATE_PERMISSION), script.count(Method::CHANNEL_BIND)));
    }
    assert_eq!(denials(&bench), []);
    // In an hour: a channel every 480 s at least, permissions between the channels' own renewals.
    let (permissions, channels) = *asked.last().unwrap();
    assert!((7..=9).contains(&channels), "{channels}");
    assert!((7..=16).contains(&permissions), "{permissions}");
    // No five minutes without one or the other.
    for window in asked.windows(58) {
        assert_ne!(window[0], window[57]);
    }
}

#[test]
fn a_permission_that_nobody_uses_ends_quietly_and_comes_back_when_needed() {
    let mut bench = permitted();
    bench.run_for(700_000);
    let renewed = bench.script(TURN).count(Method::CREATE_PERMISSION);
    assert_eq!((renewed, denials(&bench)), (2, vec![]));
    bench.input(Input::NeedPermission { relayed: address(RELAYED), peer: ip("203.0.113.9") });
    bench.run_for(100);
    assert_eq!(bench.script(TURN).count(Method::CREATE_PERMISSION), 3);
}

#[test]
fn a_permission_in_use_that_cannot_be_renewed_ends_with_a_denial() {
    let mut bench = permitted();
    bench.script(TURN).always = BTreeMap::from([(8, 508)]);
    for _ in 0..31 {
        bench.run_for(10_000);
        bench.input(Input::SendToPeer { relayed: address(RELAYED), peer: address(PEER), data: b"x" });
    }
    assert_eq!(denials(&bench).first(), Some(&(ip("203.0.113.9"), None)));
    assert!(bench.codes().contains(&(508, false)));
}

#[test]
fn renewals_go_together_and_one_forbidden_peer_does_not_end_the_others() {
    let mut bench = relayed(TurnScript::default());
    for number in 1..=3 {
        let peer = ip(&format!("203.0.113.{number}"));
        bench.input(Input::NeedPermission { relayed: address(RELAYED), peer });
    }
    bench.run_for(100);
    assert_eq!(bench.script(TURN).count(Method::CREATE_PERMISSION), 3);
    // The batch is refused, then the first of the three.
    let forbidden = (Method::CREATE_PERMISSION, 403);
    bench.script(TURN).errors = VecDeque::from([forbidden, forbidden]);
    bench.run_for(241_000);
    assert_eq!(bench.script(TURN).count(Method::CREATE_PERMISSION), 3 + 1 + 3);
    assert_eq!(denials(&bench), [(ip("203.0.113.1"), Some(403))]);
}

#[test]
fn permissions_are_bounded() {
    let mut bench = relayed(TurnScript::default());
    for number in 0..200u8 {
        let peer = IpAddr::from([203, 0, 113, number]);
        bench.input(Input::NeedPermission { relayed: address(RELAYED), peer });
    }
    bench.run_for(100);
    assert_eq!(bench.script(TURN).count(Method::CREATE_PERMISSION), 128);
    assert_eq!(denials(&bench).len(), 72);
}

#[test]
fn a_refused_channel_leaves_the_send_indications() {
    let mut bench = permitted();
    let (relayed, peer) = (address(RELAYED), address(PEER));
    bench.script(TURN).always = BTreeMap::from([(9, 400)]);
    bench.input(Input::BindChannel { relayed, peer });
    bench.run_for(100);
    bench.input(Input::SendToPeer { relayed, peer, data: b"still" });
    bench.run_for(100);
    assert_eq!(bench.script(TURN).sent, [(peer.to_string(), b"still".to_vec())]);
    assert_eq!(bench.codes().last(), Some(&(400, false)));
}

#[test]
fn an_icmp_error_at_the_relayed_address_is_a_fact() {
    let mut bench = permitted();
    let indication = MessageBuilder::new(Class::Indication, Method::DATA, TransactionId([3; 12]))
        .xor_address(AttributeType::XOR_PEER_ADDRESS, address(PEER))
        .attribute(AttributeType::ICMP, &[0, 0, 3 << 1, 3, 0, 0, 0, 0])
        .build();
    assert!(bench.deliver(SOCKET, TURN, &indication));
    assert!(bench.events().contains(&&EventKind::IcmpError {
        local: address(RELAYED),
        remote: address(PEER),
        offender: None,
        icmp_type: 3,
        icmp_code: 3,
        errno: 0,
    }));
}

#[test]
fn what_does_not_fit_one_datagram_is_not_sent() {
    let mut bench = permitted();
    let (relayed, peer) = (address(RELAYED), address(PEER));
    bench.input(Input::SendToPeer { relayed, peer, data: &vec![0; 70_000] });
    bench.input(Input::SendToPeer { relayed: address("198.51.100.9:1"), peer, data: b"no such allocation" });
    bench.run_for(100);
    assert!(bench.script(TURN).sent.is_empty());
}
