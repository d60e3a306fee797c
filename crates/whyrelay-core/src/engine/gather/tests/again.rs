//! What fails in the middle is asked again: a lost allocation, and the next address of a silent server's name.

use std::collections::VecDeque;

use super::super::*;
use super::bench::{Bench, RELAYED, SOCKET, Script, TURN, TurnScript, address, config, ip, relayed};
use crate::ice::candidate::CandidateTransport;
use crate::trace::event::ServerFailure;
use crate::wire::stun::Method;

/// Times at which a relayed candidate came, in milliseconds since the start.
fn relays(bench: &Bench) -> Vec<u64> {
    let is_relay = |output: &Output| matches!(output, Output::Candidate(found) if found.base == address(RELAYED));
    let relays = bench.outputs.iter().filter(|(_, output)| is_relay(output));
    relays.map(|(at, _)| at.since(super::bench::START).as_millis() as u64).collect()
}

fn losses(bench: &Bench) -> usize {
    bench.outputs.iter().filter(|(_, output)| matches!(output, Output::AllocationLost { .. })).count()
}

#[test]
fn an_allocation_that_the_server_forgot_is_made_again_at_once() {
    let errors = VecDeque::from([(Method::REFRESH, 437)]);
    let mut bench = relayed(TurnScript { errors, ..TurnScript::default() });
    bench.run_for(545_000);
    let relays = relays(&bench);
    assert_eq!((losses(&bench), relays.len()), (1, 2));
    // The refresh, the loss, and an Allocate with its challenge: three round trips of 20 ms.
    assert!((540_000..540_200).contains(&relays[1]), "{relays:?}");
    bench.input(Input::NeedPermission { relayed: address(RELAYED), peer: ip("203.0.113.9") });
    bench.run_for(100);
    assert!(bench.has(&Output::PermissionGranted { relayed: address(RELAYED), peer: ip("203.0.113.9") }));
    assert!(bench.events().iter().filter(|event| matches!(event, EventKind::Allocated { .. })).count() == 2);
}

#[test]
fn a_doubtful_path_finds_a_lost_allocation_out_before_its_refresh() {
    let mut bench = relayed(TurnScript::default());
    bench.input(Input::VerifyAllocations);
    bench.run_for(100);
    assert_eq!(losses(&bench), 0, "the server still knows it");
    bench.script(TURN).errors.push_back((Method::REFRESH, 437));
    bench.input(Input::VerifyAllocations);
    bench.run_for(100);
    assert_eq!((losses(&bench), relays(&bench).len()), (1, 2));
}

#[test]
fn a_server_that_is_gone_is_asked_ever_less_often_and_found_again() {
    let mut bench = relayed(TurnScript::default());
    let Some(script) = bench.servers.remove(&address(TURN)) else { unreachable!("it is there") };
    bench.run_for(600_000);
    assert_eq!(losses(&bench), 1);
    let before = bench.sent_to(TURN);
    bench.run_for(3_600_000);
    // Five transmissions for each attempt, one attempt a minute.
    let asked = bench.sent_to(TURN) - before;
    assert!((200..=340).contains(&asked), "{asked} datagrams in an hour");
    bench.servers.insert(address(TURN), script);
    bench.run_for(70_000);
    assert_eq!(relays(&bench).len(), 2);
}

#[test]
fn a_broken_connection_is_made_again() {
    let mut bench = Bench::new(config(&["turn:198.51.100.2?transport=tcp"]));
    bench.turn(TURN, TurnScript::default());
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(1000);
    bench.refuse_streams = true;
    bench.input(Input::StreamClosed { id: StreamId(0), detail: "connection reset" });
    bench.run_for(500);
    bench.refuse_streams = false;
    bench.run_for(3000);
    assert_eq!((losses(&bench), relays(&bench).len()), (1, 2), "{:?}", bench.failures());
    bench.input(Input::Close);
    bench.run_for(1000);
    assert!(bench.has(&Output::Closed));
    assert!(!bench.script(TURN).allocated);
}

#[test]
fn what_was_never_there_and_what_was_closed_is_not_made_again() {
    let mut refused = relayed(TurnScript { password: "another", ..TurnScript::default() });
    refused.run_for(600_000);
    assert_eq!(refused.sent_to(TURN), 2);

    let errors = VecDeque::from([(Method::REFRESH, 437)]);
    let mut closed = relayed(TurnScript { errors, ..TurnScript::default() });
    closed.script(TURN).always.insert(Method::ALLOCATE.0, 486);
    closed.run_for(545_000);
    closed.input(Input::Close);
    closed.run_for(100);
    let sent = closed.transmits().len();
    closed.run_for(600_000);
    assert!(closed.has(&Output::Closed));
    assert_eq!(closed.transmits().len(), sent);
}

#[test]
fn the_next_address_of_a_silent_server_is_asked() {
    let addresses = [ip("198.51.100.8"), ip("2001:db8::8"), ip("198.51.100.2"), ip("198.51.100.9")];
    for url in ["stun:a.example.org", "turn:a.example.org", "turn:a.example.org?transport=tcp"] {
        let mut bench = Bench::new(config(&[url]));
        match url.starts_with("stun") {
            true => bench.stun(TURN, "203.0.113.1:61000"),
            false => bench.turn(TURN, TurnScript::default()),
        }
        bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
        bench.complete();
        bench.input(Input::Resolved { name: "a.example.org", addresses: &addresses });
        bench.run_for(10_000);
        assert!(bench.candidates().len() > 1, "{url}: {:?}", bench.failures());
        assert_eq!(bench.failures().len() - bench.codes().len(), 1, "{url}: the first address was silent");
        assert!(bench.ended_at().is_some_and(|at| at < 4000), "{url}");
        assert_eq!(bench.sent_to("198.51.100.9:3478"), 0, "{url}: the third is not needed");
    }
}

#[test]
fn who_has_3_s_for_everything_gives_a_silent_turn_server_up_after_half_of_it() {
    let took = |quick: bool| {
        let mut bench = Bench::new(GatherConfig { quick, ..config(&["turn:198.51.100.9"]) });
        bench.servers.insert(address("198.51.100.9:3478"), Script::Silent);
        bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
        bench.complete();
        bench.run_for(10_000);
        assert!(matches!(bench.failures()[..], [(_, ServerFailure::Timeout { .. })]), "{:?}", bench.failures());
        bench.ended_at().unwrap()
    };
    assert!(took(true) <= 1510, "{} ms", took(true));
    assert!(took(false) >= 2500, "{} ms", took(false));
}

#[test]
fn a_name_with_many_silent_addresses_is_given_up() {
    let addresses: Vec<IpAddr> = (1..=20).map(|last| ip(&format!("198.51.100.{last}"))).collect();
    let mut bench = Bench::new(config(&["stun:a.example.org"]));
    bench.servers.insert(address("198.51.100.77:3478"), Script::Silent);
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.input(Input::Resolved { name: "a.example.org", addresses: &addresses });
    bench.run_for(60_000);
    assert_eq!(bench.failures().len(), 3);
    assert!(bench.ended_at().is_some_and(|at| at < 8000), "{:?}", bench.ended_at());
}
