//! TURN over TCP and TLS.

use super::super::*;
use super::bench::{Bench, RELAYED, Script, TurnScript, address, config};
use crate::ice::candidate::CandidateTransport;
use crate::trace::event::ServerFailure;
use crate::wire::stun::Method;

const SOCKET: &str = "192.0.2.1:40000";
const TCP: &str = "198.51.100.2:3478";
const TLS: &str = "198.51.100.2:5349";

fn connected(url: &str, at: &str) -> Bench {
    let mut bench = Bench::new(config(&[url]));
    bench.trickle = true;
    bench.turn(at, TurnScript::default());
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(1000);
    bench
}

#[test]
fn a_relayed_candidate_comes_over_tcp_and_over_tls() {
    for (url, at, tls, priority) in [
        ("turn:198.51.100.2?transport=tcp", TCP, None, 14_671_871),
        ("turns:198.51.100.2", TLS, Some("198.51.100.2".to_owned()), 12_574_719),
    ] {
        let bench = connected(url, at);
        let connect = bench.outputs.iter().find(|(_, output)| matches!(output, Output::ConnectStream { .. }));
        let local = address(SOCKET).ip();
        let expected = Output::ConnectStream { id: StreamId(0), local, remote: address(at), tls };
        assert_eq!(connect.unwrap().1, expected);
        let lines = bench.candidate_lines();
        assert_eq!(lines.len(), 2, "no reflexive candidate: the mapping is TCP's: {lines:?}");
        let relay = format!("candidate:2 1 udp {priority} 198.51.100.2 50000 typ relay raddr 203.0.113.1 rport 61000");
        assert_eq!(lines[1], relay);
        // A round trip to connect, two to allocate.
        assert_eq!(bench.ended_at(), Some(60));
    }
}

#[test]
fn data_in_channels_is_padded_on_a_stream_and_its_padding_is_stripped() {
    let mut bench = connected("turn:198.51.100.2?transport=tcp", TCP);
    let (relayed, peer) = (address(RELAYED), address("203.0.113.9:7000"));
    bench.input(Input::NeedPermission { relayed, peer: peer.ip() });
    bench.input(Input::BindChannel { relayed, peer });
    bench.run_for(100);
    bench.input(Input::SendToPeer { relayed, peer, data: b"five!" });
    bench.run_for(100);
    assert_eq!(bench.transmits().last().unwrap().bytes.len(), 12);
    assert_eq!(bench.script(TCP).sent, [("0x4000".to_owned(), b"five!".to_vec())]);
    let bytes = [0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0, 0x40, 0, 0, 1, 6, 0, 0, 0];
    for chunk in bytes.chunks(7) {
        bench.input(Input::StreamData { id: StreamId(0), bytes: chunk });
    }
    assert!(bench.has(&Output::RelayedData { relayed, peer, data: vec![1, 2, 3, 4, 5] }));
    assert!(bench.has(&Output::RelayedData { relayed, peer, data: vec![6] }));
}

#[test]
fn a_connection_that_cannot_be_made_is_named() {
    let mut bench = Bench::new(config(&["turn:198.51.100.2?transport=tcp"]));
    bench.refuse_streams = true;
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(1000);
    let failed = |detail: &str| ("Allocate".to_owned(), ServerFailure::ConnectionFailed { detail: detail.to_owned() });
    assert_eq!(bench.failures(), [failed("connection refused")]);
    assert_eq!(bench.ended_at(), Some(20));

    let mut silent = Bench::new(config(&["turns:198.51.100.2"]));
    silent.socket(SOCKET, "eth0", CandidateTransport::Udp);
    silent.complete();
    silent.run_for(5000);
    assert_eq!(silent.failures(), [failed("no connection within 3 s")]);
    assert!(silent.has(&Output::CloseStream { id: StreamId(0) }));
    assert_eq!(silent.ended_at(), Some(3000));
}

#[test]
fn a_server_that_connects_and_says_nothing_is_named() {
    let mut bench = Bench::new(config(&["turn:198.51.100.2?transport=tcp"]));
    bench.servers.insert(address(TCP), Script::Silent);
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(5000);
    assert!(matches!(bench.failures()[0].1, ServerFailure::Timeout { transmissions: 1, took_us: 3_000_000 }));
    assert!(bench.has(&Output::CloseStream { id: StreamId(0) }));
    assert_eq!(bench.ended_at(), Some(3020));
}

#[test]
fn a_broken_connection_loses_the_allocation() {
    let mut bench = connected("turn:198.51.100.2?transport=tcp", TCP);
    bench.input(Input::StreamClosed { id: StreamId(0), detail: "connection reset" });
    let detail = "the connection to the server is gone: connection reset".to_owned();
    assert!(bench.has(&Output::AllocationLost { relayed: address(RELAYED), detail }));
    bench.input(Input::StreamData { id: StreamId(0), bytes: b"late" });
    bench.input(Input::Close);
    assert!(bench.has(&Output::Closed));
}

#[test]
fn noise_on_a_connection_ends_it() {
    let mut bench = connected("turn:198.51.100.2?transport=tcp", TCP);
    bench.input(Input::StreamData { id: StreamId(0), bytes: b"\xffHTTP/1.1 400 Bad Request" });
    assert!(bench.has(&Output::CloseStream { id: StreamId(0) }));
    assert!(bench.outputs.iter().any(|(_, output)| matches!(output, Output::AllocationLost { .. })));
}

#[test]
fn closing_gives_the_allocation_back_and_then_closes_the_connection() {
    let mut bench = connected("turns:198.51.100.2", TLS);
    bench.input(Input::Close);
    assert!(!bench.has(&Output::CloseStream { id: StreamId(0) }));
    bench.run_for(100);
    assert!(!bench.script(TLS).allocated);
    assert!(bench.has(&Output::CloseStream { id: StreamId(0) }) && bench.has(&Output::Closed));
    assert_eq!(bench.script(TLS).count(Method::REFRESH), 1);
}

#[test]
fn closing_while_connecting_stops_connecting() {
    let mut bench = Bench::new(config(&["turns:198.51.100.2"]));
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.input(Input::Close);
    assert!(bench.has(&Output::CloseStream { id: StreamId(0) }) && bench.has(&Output::Closed));
    bench.input(Input::StreamConnected { id: StreamId(0), local: address(SOCKET) });
    assert!(bench.transmits().is_empty());
}

#[test]
fn a_redirection_keeps_tls_and_the_name_that_the_user_trusts() {
    let mut bench = Bench::new(config(&["turns:turn.example.org"]));
    let alternate = Some(address("198.51.100.3:5349"));
    let always = std::collections::BTreeMap::from([(3, 300)]);
    bench.turn(TLS, TurnScript { always, alternate, ..TurnScript::default() });
    bench.turn("198.51.100.3:5349", TurnScript::default());
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.input(Input::Resolved { name: "turn.example.org", addresses: &["198.51.100.2".parse().unwrap()] });
    bench.run_for(1000);
    let connects: Vec<(SocketAddr, Option<String>)> = bench
        .outputs
        .iter()
        .filter_map(|(_, output)| match output {
            Output::ConnectStream { remote, tls, .. } => Some((*remote, tls.clone())),
            _ => None,
        })
        .collect();
    let name = Some("turn.example.org".to_owned());
    assert_eq!(connects, [(address(TLS), name.clone()), (address("198.51.100.3:5349"), name)]);
    assert_eq!(bench.candidates().len(), 2);
}

#[test]
fn one_connection_is_made_from_each_address() {
    let mut bench = Bench::new(config(&["turn:198.51.100.2?transport=tcp"]));
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.socket("192.0.2.1:0", "eth0", CandidateTransport::TcpActive);
    bench.socket("192.0.2.2:40000", "wlan0", CandidateTransport::Udp);
    bench.run_for(100);
    let connects = bench.outputs.iter().filter(|(_, output)| matches!(output, Output::ConnectStream { .. }));
    assert_eq!(connects.count(), 2);
}

#[test]
fn a_stuns_server_is_asked_once_and_gives_no_candidate() {
    let mut bench = Bench::new(config(&["stuns:198.51.100.2"]));
    bench.stun(TLS, "203.0.113.1:61000");
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.socket("192.0.2.2:40000", "wlan0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(1000);
    assert_eq!(bench.candidates().len(), 2);
    assert!(bench.outputs.iter().any(|(_, output)| matches!(output, Output::RoundTrip { .. })));
    assert!(bench.has(&Output::CloseStream { id: StreamId(0) }));
    assert_eq!(bench.ended_at(), Some(40));
}
