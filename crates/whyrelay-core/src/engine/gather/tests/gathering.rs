//! Host and reflexive candidates, names, time limits.

use std::time::Duration;

use super::super::*;
use super::bench::{Bench, Script, TurnScript, address, config, ip, server};
use crate::ice::candidate::CandidateTransport;
use crate::trace::event::ServerFailure;
use crate::wire::attribute::AttributeType;
use crate::wire::stun::{Class, MessageBuilder, Method};

const ETH0: &str = "192.0.2.1:40000";

#[test]
fn a_host_candidate_comes_at_once_and_gathering_without_servers_ends_at_once() {
    let mut bench = Bench::new(config(&[]));
    bench.socket(ETH0, "eth0", CandidateTransport::Udp);
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
    let mut bench = Bench::new(config(&["stun:198.51.100.1", "turn:198.51.100.2"]));
    bench.stun("198.51.100.1:3478", "203.0.113.1:61000");
    bench.turn("198.51.100.2:3478", TurnScript::default());
    bench.socket(ETH0, "eth0", CandidateTransport::Udp);
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
    assert_eq!(bench.codes(), [(401, true)]);
    let measured: Vec<_> = bench
        .outputs
        .iter()
        .filter_map(|(_, output)| match output {
            Output::RoundTrip { server, rtt, exact: true } => Some((server.as_str(), rtt.as_millis())),
            _ => None,
        })
        .collect();
    let turn = "turn:198.51.100.2:3478";
    assert_eq!(measured, [("stun:198.51.100.1:3478", 20), (turn, 20), (turn, 20)]);
}

#[test]
fn a_turn_server_alone_gives_a_reflexive_candidate_too() {
    let mut bench = Bench::new(config(&["turn:198.51.100.2"]));
    bench.turn("198.51.100.2:3478", TurnScript::default());
    bench.socket(ETH0, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(100);
    let types: Vec<&str> = bench.candidates().iter().map(|found| found.candidate.kind.name()).collect();
    assert_eq!(types, ["host", "srflx", "relay"]);
    assert_eq!(bench.candidates()[1].server.as_deref(), Some("turn:198.51.100.2:3478"));
}

#[test]
fn blocked_udp_is_named_within_three_seconds() {
    let mut bench = Bench::new(config(&["stun:198.51.100.1", "stun:198.51.100.3", "turn:198.51.100.2"]));
    bench.socket(ETH0, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(10_000);
    let timeout = |method: &str| (method.to_owned(), ServerFailure::Timeout { transmissions: 5, took_us: 2_500_000 });
    assert_eq!(bench.failures(), [timeout("Binding"), timeout("Binding"), timeout("Allocate")]);
    assert_eq!(bench.ended_at(), Some(2510));
    assert_eq!(bench.sent_to("198.51.100.1:3478"), 5);
}

#[test]
fn patience_keeps_the_schedule_of_rfc_8489() {
    let mut bench = Bench::new(GatherConfig { patient: true, ..config(&["stun:198.51.100.1"]) });
    bench.socket(ETH0, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(60_000);
    assert_eq!(bench.ended_at(), Some(39_500));
    assert_eq!(bench.sent_to("198.51.100.1:3478"), 7);
}

#[test]
fn a_round_trip_of_one_second_gathers_everything() {
    let mut bench = Bench::new(config(&["stun:198.51.100.1", "turn:198.51.100.2"]));
    bench.one_way = Duration::from_millis(500);
    bench.stun("198.51.100.1:3478", "203.0.113.1:61000");
    bench.turn("198.51.100.2:3478", TurnScript::default());
    bench.socket(ETH0, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(5000);
    assert_eq!(bench.candidates().len(), 3);
    assert_eq!(bench.codes(), [(401, true)], "duplicate answers change nothing");
    assert_eq!(bench.ended_at(), Some(2005));
}

#[test]
fn thirty_percent_loss_is_survived_nearly_always() {
    let (mut reflexive, mut relayed) = (0, 0);
    for seed in 0..400 {
        let mut bench = Bench::seeded(config(&["stun:198.51.100.1", "turn:198.51.100.2"]), seed);
        bench.loss = 30;
        bench.stun("198.51.100.1:3478", "203.0.113.9:61009");
        bench.turn("198.51.100.2:3478", TurnScript::default());
        bench.socket(ETH0, "eth0", CandidateTransport::Udp);
        bench.complete();
        bench.run_for(10_000);
        let end = bench.ended_at().unwrap();
        assert!(end <= 5100, "seed {seed}: ended at {end} ms");
        let of = |server: &str| bench.candidates().iter().any(|found| found.server.as_deref() == Some(server));
        reflexive += u32::from(of("stun:198.51.100.1:3478"));
        relayed += u32::from(of("turn:198.51.100.2:3478"));
    }
    // 1 - 0.51^5 = 96.5 % of transactions; an allocation needs two of them.
    assert!(reflexive >= 374, "{reflexive} of 400");
    assert!(relayed >= 354, "{relayed} of 400");
}

#[test]
fn the_same_seed_gives_the_same_session() {
    let run = |seed| {
        let mut bench = Bench::seeded(config(&["stun:198.51.100.1", "turn:198.51.100.2"]), seed);
        bench.loss = 30;
        bench.stun("198.51.100.1:3478", "203.0.113.1:61000");
        bench.turn("198.51.100.2:3478", TurnScript::default());
        bench.socket(ETH0, "eth0", CandidateTransport::Udp);
        bench.complete();
        bench.run_for(5000);
        bench.input(Input::Close);
        bench.run_for(1000);
        bench.outputs
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn one_mapping_from_two_servers_is_one_candidate_and_two_mappings_are_two() {
    for (second, expected) in [("203.0.113.1:61000", 1), ("203.0.113.1:61001", 2), ("203.0.113.2:61000", 2)] {
        let mut bench = Bench::new(config(&["stun:198.51.100.1", "stun:198.51.100.2"]));
        bench.stun("198.51.100.1:3478", "203.0.113.1:61000");
        bench.stun("198.51.100.2:3478", second);
        bench.socket(ETH0, "eth0", CandidateTransport::Udp);
        bench.complete();
        bench.run_for(1000);
        assert_eq!(bench.candidates().len(), 1 + expected, "{second}");
        let redundant = |event: &&EventKind| {
            matches!(event, EventKind::LocalCandidateDiscarded { reason: RefuseReason::Redundant, .. })
        };
        assert_eq!(bench.events().iter().filter(|event| redundant(event)).count(), 2 - expected);
        let bases: Vec<SocketAddr> = bench.candidates().iter().map(|found| found.base).collect();
        assert!(bases.iter().all(|base| *base == address(ETH0)), "{bases:?}");
    }
}

#[test]
fn without_a_nat_the_reflexive_candidate_is_redundant() {
    let mut bench = Bench::new(config(&["stun:198.51.100.1"]));
    bench.stun("198.51.100.1:3478", ETH0);
    bench.socket(ETH0, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(1000);
    assert_eq!(bench.candidates().len(), 1);
    assert_eq!(bench.ended_at(), Some(20));
}

#[test]
fn each_socket_asks_each_server_of_its_family_and_scope() {
    let mut bench =
        Bench::new(config(&["stun:198.51.100.1", "stun:[2001:db8::5]", "stun:127.0.0.1", "stun:[fe80::5]"]));
    for local in [ETH0, "[2001:db8::1]:40000", "127.0.0.1:40000", "[fe80::1]:40000"] {
        bench.socket(local, "eth0", CandidateTransport::Udp);
    }
    bench.socket("192.0.2.1:40001", "eth0", CandidateTransport::TcpPassive);
    bench.complete();
    bench.run_for(100);
    let mut asked: Vec<(String, String)> =
        bench.transmits().iter().map(|sent| (sent.local.to_string(), sent.remote.to_string())).collect();
    asked.sort();
    let expected = [
        ("127.0.0.1:40000", "127.0.0.1:3478"),
        (ETH0, "198.51.100.1:3478"),
        ("[2001:db8::1]:40000", "[2001:db8::5]:3478"),
        ("[fe80::1]:40000", "[fe80::5]:3478"),
    ];
    assert_eq!(asked, expected.map(|(local, remote)| (local.to_owned(), remote.to_owned())));
}

#[test]
fn a_server_that_no_socket_reaches_is_named() {
    let mut bench = Bench::new(config(&["stun:[2001:db8::5]"]));
    bench.socket(ETH0, "eth0", CandidateTransport::Udp);
    bench.complete();
    assert_eq!(bench.failures(), [("Binding".to_owned(), ServerFailure::NoLocalAddress)]);
    assert_eq!(bench.ended_at(), Some(0));
}

#[test]
fn gathering_waits_for_no_name() {
    let mut bench = Bench::new(config(&["stun:stun.example.org", "stun:stun.example.org:3479", "stun:198.51.100.1"]));
    bench.stun("198.51.100.1:3478", "203.0.113.1:61000");
    bench.stun("198.51.100.7:3478", "203.0.113.1:61001");
    bench.stun("198.51.100.7:3479", "203.0.113.1:61002");
    bench.socket(ETH0, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(1000);
    assert_eq!(bench.resolves(), ["stun.example.org"], "asked once for two servers");
    assert_eq!(bench.candidates().len(), 2, "host and reflexive, the name unresolved");
    assert_eq!(bench.ended_at(), None);
    bench.input(Input::Resolved { name: "stun.example.org", addresses: &[ip("2001:db8::7"), ip("198.51.100.7")] });
    bench.run_for(100);
    assert_eq!(bench.candidates().len(), 4);
    assert_eq!(bench.ended_at(), Some(1025));
}

#[test]
fn a_name_that_is_not_resolved_ends_with_its_reason() {
    let mut bench = Bench::new(config(&["turn:turn.example.org"]));
    bench.socket(ETH0, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(50);
    bench.input(Input::Unresolved { name: "turn.example.org", detail: "no such name" });
    let unresolved = |detail: &str| ServerFailure::Unresolved { detail: detail.to_owned() };
    assert_eq!(bench.failures(), [("Allocate".to_owned(), unresolved("no such name"))]);
    assert_eq!(bench.ended_at(), Some(50));

    let mut silent = Bench::new(config(&["stun:stun.example.org"]));
    silent.socket(ETH0, "eth0", CandidateTransport::Udp);
    silent.complete();
    silent.run_for(10_000);
    assert_eq!(silent.failures()[0].1, unresolved("no answer from the resolver within 3 s"));
    assert_eq!(silent.ended_at(), Some(3000));
}

#[test]
fn a_server_announced_later_is_asked_from_the_sockets_there_are() {
    let mut bench = Bench::new(config(&[]));
    bench.stun("198.51.100.1:3478", "203.0.113.1:61000");
    bench.socket(ETH0, "eth0", CandidateTransport::Udp);
    bench.run_for(500);
    assert_eq!(bench.ended_at(), None, "not all is named");
    bench.input(Input::Server(server("stun:198.51.100.1")));
    bench.input(Input::Server(server("stun:198.51.100.1:3478")));
    bench.complete();
    bench.run_for(500);
    assert_eq!(bench.candidates().len(), 2);
    assert_eq!(bench.sent_to("198.51.100.1:3478"), 1, "the same server under two spellings is one");
    assert_eq!(bench.ended_at(), Some(520));
}

#[test]
fn relay_only_shows_no_address_of_ours() {
    let mut bench = Bench::new(GatherConfig {
        relay_only: true,
        ..config(&["stun:198.51.100.1", "stun:stun.example.org", "turn:198.51.100.2"])
    });
    bench.stun("198.51.100.1:3478", "203.0.113.1:61000");
    bench.turn("198.51.100.2:3478", TurnScript::default());
    bench.socket(ETH0, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(1000);
    assert_eq!(
        bench.candidate_lines(),
        ["candidate:3 1 udp 16769023 198.51.100.2 50000 typ relay raddr 0.0.0.0 rport 0"]
    );
    let kept_back = |event: &&EventKind| {
        matches!(event, EventKind::LocalCandidateDiscarded { reason: RefuseReason::RelayOnly, .. })
    };
    assert_eq!(bench.events().iter().filter(|event| kept_back(event)).count(), 2);
    assert_eq!((bench.sent_to("198.51.100.1:3478"), bench.resolves().len()), (0, 0));
}

#[test]
fn servers_over_udp_are_known_also_where_only_relays_are_wanted() {
    let servers = |relay_only: bool, no_turn: bool| {
        let urls = [
            "stun:198.51.100.1",
            "turn:198.51.100.1:3479",
            "turn:198.51.100.2?transport=tcp",
            "stun:example.org",
            "turn:example.org:5349",
        ];
        let mut bench = Bench::new(GatherConfig { relay_only, no_turn, ..config(&urls) });
        bench.input(Input::Resolved { name: "example.org", addresses: &[ip("198.51.100.3")] });
        bench.gatherer.servers_over_udp().map(|server| server.to_string()).collect::<Vec<_>>()
    };
    let all = ["198.51.100.1:3478", "198.51.100.1:3479", "198.51.100.3:3478", "198.51.100.3:5349"];
    assert_eq!(servers(false, false), all);
    assert_eq!(servers(true, false), all, "a name is known by its relay");
    assert_eq!(servers(false, true), [all[0], all[2]]);
}

#[test]
fn without_turn_no_turn_server_is_asked() {
    let mut bench =
        Bench::new(GatherConfig { no_turn: true, ..config(&["turn:198.51.100.2", "turn:turn.example.org"]) });
    bench.turn("198.51.100.2:3478", TurnScript::default());
    bench.socket(ETH0, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(1000);
    assert!(bench.transmits().is_empty());
    assert_eq!((bench.resolves().len(), bench.failures().len(), bench.ended_at()), (0, 0, Some(0)));
}

#[test]
fn sends_that_the_system_refuses_end_a_transaction_early_and_one_refusal_does_not() {
    for (refusals, expected) in [(1, 2500), (9, 500)] {
        let mut bench = Bench::new(config(&["stun:198.51.100.1", "turn:198.51.100.1"]));
        bench.refuse_sends = refusals;
        bench.socket(ETH0, "eth0", CandidateTransport::Udp);
        bench.complete();
        bench.run_for(5000);
        let refused = bench.failures().contains(&("Binding".to_owned(), ServerFailure::SendFailed { errno: 1 }));
        assert_eq!(refused, expected == 500);
        assert!(bench.ended_at().unwrap().abs_diff(expected) <= 10, "{:?}", bench.ended_at());
    }
}

#[test]
fn an_answer_from_another_address_is_named_and_not_used() {
    let mut bench = Bench::new(config(&["stun:198.51.100.1", "turn:198.51.100.2"]));
    bench.answer_from = Some(address("198.51.100.99:3478"));
    bench.stun("198.51.100.1:3478", "203.0.113.1:61000");
    bench.turn("198.51.100.2:3478", TurnScript::default());
    bench.socket(ETH0, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(5000);
    assert_eq!(bench.candidates().len(), 1);
    let elsewhere = |asked: &str| {
        let detail = format!("the answer to a request to {asked} came from 198.51.100.99:3478");
        ServerFailure::BadResponse { detail }
    };
    let failures = bench.failures();
    assert!(failures.contains(&("Binding".to_owned(), elsewhere("198.51.100.1:3478"))), "{failures:?}");
    assert!(failures.contains(&("Allocate".to_owned(), elsewhere("198.51.100.2:3478"))), "{failures:?}");
}

#[test]
fn only_what_answers_a_request_of_ours_is_consumed() {
    let stun = "198.51.100.1:3478";
    let mut bench = Bench::new(config(&["stun:198.51.100.1"]));
    bench.socket(ETH0, "eth0", CandidateTransport::Udp);
    bench.run_for(1);
    let asked = crate::wire::stun::Message::decode(&bench.transmits()[0].bytes).unwrap().transaction;
    let message = |class, id| {
        MessageBuilder::new(class, Method::BINDING, id)
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address("203.0.113.1:61000"))
            .build()
    };
    let other = crate::wire::stun::TransactionId([9; 12]);
    assert!(!bench.deliver(ETH0, stun, &message(Class::Request, other)), "a check from a server's address");
    assert!(!bench.deliver(ETH0, stun, &message(Class::Success, other)), "an answer to somebody else");
    assert!(!bench.deliver(ETH0, stun, &[22, 254, 253]), "DTLS");
    assert!(!bench.deliver("192.0.2.9:1", stun, &message(Class::Success, asked)), "a socket that is not ours");
    assert_eq!(bench.candidates().len(), 1);
    assert!(bench.deliver(ETH0, stun, &message(Class::Success, asked)));
    assert_eq!(bench.candidates().len(), 2);
    assert!(bench.deliver(ETH0, stun, &message(Class::Success, asked)), "a duplicate is nobody else's");
    assert_eq!(bench.candidates().len(), 2);
}

#[test]
fn an_error_response_and_an_empty_success_are_named() {
    for (code, expected) in [
        (Some(400), ServerFailure::ErrorResponse { code: 400, reason: "Bad Request".to_owned(), expected: false }),
        (None, ServerFailure::BadResponse { detail: "the answer carries no mapped address".to_owned() }),
    ] {
        let mut bench = Bench::new(config(&["stun:198.51.100.1"]));
        bench.socket(ETH0, "eth0", CandidateTransport::Udp);
        bench.run_for(1);
        let asked = crate::wire::stun::Message::decode(&bench.transmits()[0].bytes).unwrap().transaction;
        let answer = match code {
            Some(code) => MessageBuilder::new(Class::Error, Method::BINDING, asked).error(code, "Bad\nRequest"),
            None => MessageBuilder::new(Class::Success, Method::BINDING, asked),
        };
        assert!(bench.deliver(ETH0, "198.51.100.1:3478", &answer.build()));
        assert_eq!(bench.failures(), [("Binding".to_owned(), expected)]);
    }
}

#[test]
fn sockets_and_servers_are_bounded() {
    let servers: Vec<String> = (1..=40).map(|number| format!("stun:198.51.100.{number}")).collect();
    let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
    let mut bench = Bench::new(config(&servers));
    for port in 0..200 {
        bench.socket(&format!("192.0.2.1:{}", 40_000 + port), "eth0", CandidateTransport::Udp);
    }
    bench.complete();
    bench.run_for(60_000);
    assert_eq!(bench.candidates().len(), 64);
    let mut remotes: Vec<SocketAddr> = bench.transmits().iter().map(|sent| sent.remote).collect();
    remotes.sort();
    remotes.dedup();
    assert_eq!(remotes.len(), 16);
    assert!(bench.ended_at().is_some());
}

#[test]
fn a_stun_server_that_answers_garbage_is_as_silent_as_one_that_does_not_answer() {
    let mut bench = Bench::new(config(&["stun:198.51.100.1"]));
    bench.servers.insert(address("198.51.100.1:3478"), Script::Garbage);
    bench.socket(ETH0, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(5000);
    assert_eq!(bench.ended_at(), Some(2500));
    assert!(matches!(bench.failures()[0].1, ServerFailure::Timeout { .. }));
}
