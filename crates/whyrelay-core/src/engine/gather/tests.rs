//! Gathering in virtual time, against a scripted server.

mod bench;

use self::bench::{Bench, TurnScript, address, ip, server};
use super::*;
use crate::ice::candidate::CandidateTransport;
use crate::trace::event::ServerFailure;
use crate::wire::stun::Method;

fn config(servers: Vec<Server>) -> GatherConfig {
    GatherConfig { servers, ..GatherConfig::default() }
}

#[test]
fn a_host_candidate_comes_at_once_and_gathering_without_servers_ends_at_once() {
    let mut bench = Bench::new(config(vec![]));
    bench.socket("192.0.2.1:40000", "eth0", CandidateTransport::Udp);
    bench.socket("192.0.2.1:0", "eth0", CandidateTransport::TcpActive);
    bench.socket("192.0.2.1:40001", "eth0", CandidateTransport::TcpPassive);
    bench.complete();
    assert_eq!(
        bench.candidate_lines(),
        [
            "candidate:1 1 udp 2130698239 192.0.2.1 40000 typ host",
            "candidate:2 1 tcp 2128601087 192.0.2.1 9 typ host tcptype active",
            "candidate:3 1 tcp 2124406783 192.0.2.1 40001 typ host tcptype passive",
        ]
    );
    assert_eq!(bench.ended_at(), Some(0));
}

#[test]
fn host_reflexive_and_relayed_candidates_come_over_udp() {
    let mut bench = Bench::new(config(vec![server("stun:198.51.100.1"), server("turn:198.51.100.2")]));
    bench.stun("198.51.100.1:3478", "203.0.113.1:61000");
    bench.turn("198.51.100.2:3478", TurnScript::default());
    bench.socket("192.0.2.1:40000", "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(5000);
    assert_eq!(
        bench.candidate_lines(),
        [
            "candidate:1 1 udp 2130698239 192.0.2.1 40000 typ host",
            "candidate:2 1 udp 1694490623 203.0.113.1 61000 typ srflx raddr 192.0.2.1 rport 40000",
            "candidate:3 1 udp 16769023 198.51.100.2 50000 typ relay raddr 203.0.113.1 rport 61000",
        ]
    );
    // Two round trips of 20 ms behind the pacing of 5 ms.
    assert_eq!(bench.ended_at(), Some(45));
    let failures = bench.failures();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert!(matches!(&failures[0].1, ServerFailure::ErrorResponse { code: 401, expected: true, .. }));
}

const SOCKET: &str = "192.0.2.1:40000";
const TURN: &str = "198.51.100.2:3478";
const RELAYED: &str = "198.51.100.2:50000";

/// A bench with one socket and one TURN server, gathered.
fn relayed(script: TurnScript) -> Bench {
    let mut bench = Bench::new(config(vec![server("turn:198.51.100.2")]));
    bench.turn(TURN, script);
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(3000);
    bench
}

#[test]
fn the_first_401_is_normal_and_the_second_names_wrong_credentials() {
    let bench = relayed(TurnScript { password: "another", ..TurnScript::default() });
    assert_eq!(bench.codes(), [(401, true), (401, false)]);
    assert_eq!(bench.ended_at(), Some(40));
    assert_eq!(bench.candidates().len(), 1, "the host candidate only");
}

#[test]
fn data_waits_for_the_permission_then_goes_in_send_indications_then_in_the_channel() {
    let mut bench = relayed(TurnScript::default());
    let (relayed, peer) = (address(RELAYED), address("203.0.113.9:7000"));
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
}

#[test]
fn closing_gives_the_allocation_back() {
    let mut bench = relayed(TurnScript::default());
    assert!(bench.script(TURN).allocated);
    bench.input(Input::Close);
    bench.run_for(50);
    assert!(bench.has(&Output::Closed));
    assert!(!bench.script(TURN).allocated);
    let gone = EventKind::Deallocated { relayed: address(RELAYED), detail: "closed by this side".to_owned() };
    assert!(bench.events().contains(&&gone));
}
