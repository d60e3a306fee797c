//! Allocations: challenge, refusal, redirection, refresh, release.

use std::collections::{BTreeMap, VecDeque};

use super::super::*;
use super::bench::{Bench, PASSWORD, RELAYED, SOCKET, TURN, TurnScript, address, config, relayed, server};
use crate::ice::candidate::CandidateTransport;
use crate::trace::event::ServerFailure;
use crate::wire::attribute::AttributeType;
use crate::wire::stun::Method;

fn relay_count(bench: &Bench) -> usize {
    bench.candidates().iter().filter(|found| found.candidate.kind == CandidateType::Relayed).count()
}

#[test]
fn the_first_401_is_normal_and_the_second_names_wrong_credentials() {
    let bench = relayed(TurnScript { password: "another", ..TurnScript::default() });
    assert_eq!(bench.codes(), [(401, true), (401, false)]);
    assert_eq!(bench.ended_at(), Some(40));
    assert_eq!(bench.candidates().len(), 1, "the host candidate only");
    assert_eq!(bench.sent_to(TURN), 2);
}

#[test]
fn without_credentials_the_401_says_so() {
    let anonymous = Server { username: None, password: None, ..server("turn:198.51.100.2") };
    let mut bench = Bench::new(GatherConfig { servers: vec![anonymous], ..GatherConfig::default() });
    bench.turn(TURN, TurnScript::default());
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(1000);
    assert_eq!(bench.codes(), [(401, false)]);
    assert_eq!(bench.failures()[1], ("Allocate".to_owned(), ServerFailure::NoCredentials));
    assert_eq!(bench.ended_at(), Some(20));
}

#[test]
fn an_allocation_is_described_in_full() {
    let bench = relayed(TurnScript::default());
    assert!(bench.events().contains(&&EventKind::Allocated {
        server: "turn:198.51.100.2:3478".to_owned(),
        local: address(SOCKET),
        relayed: address(RELAYED),
        mapped: Some(address("203.0.113.1:61000")),
        lifetime_s: 600,
    }));
    let candidate = bench.candidates()[2].clone();
    assert_eq!((candidate.base, candidate.interface.as_deref()), (address(RELAYED), Some("eth0")));
}

#[test]
fn a_stale_nonce_is_renewed_and_an_endless_one_is_not() {
    let mut bench = relayed(TurnScript::default());
    bench.script(TURN).nonce = "nonce-2".to_owned();
    bench.input(Input::NeedPermission { relayed: address(RELAYED), peer: "203.0.113.9".parse().unwrap() });
    bench.run_for(100);
    assert_eq!(bench.codes(), [(401, true), (438, true)]);
    assert_eq!(bench.script(TURN).count(Method::CREATE_PERMISSION), 1);

    let mut endless = relayed(TurnScript { always: BTreeMap::from([(3, 438)]), ..TurnScript::default() });
    let codes = endless.codes();
    assert_eq!(codes.iter().filter(|(code, _)| *code == 438).count(), 5);
    assert_eq!(codes.last(), Some(&(438, false)));
    assert!(endless.ended_at().is_some());
    assert_eq!(endless.script(TURN).count(Method::ALLOCATE), 5);
}

#[test]
fn a_new_realm_gets_a_new_key() {
    let mut bench = relayed(TurnScript::default());
    bench.script(TURN).realm = "example.net";
    bench.input(Input::NeedPermission { relayed: address(RELAYED), peer: "203.0.113.9".parse().unwrap() });
    bench.run_for(100);
    assert_eq!(bench.codes(), [(401, true), (401, true)]);
    assert_eq!(bench.script(TURN).count(Method::CREATE_PERMISSION), 1);
}

#[test]
fn sha256_is_used_where_the_nonce_announces_it() {
    let list = vec![0, 2, 0, 0, 0, 1, 0, 0];
    let mut bench = relayed(TurnScript {
        sha256: true,
        algorithms: Some(list.clone()),
        nonce: "obMatJos2gAAAabc".to_owned(),
        ..TurnScript::default()
    });
    assert_eq!(relay_count(&bench), 1, "{:?}", bench.failures());
    let (_, kinds, _) = &bench.script(TURN).requests[0];
    assert!(kinds.contains(&AttributeType::PASSWORD_ALGORITHM));
    assert!(kinds.contains(&AttributeType::MESSAGE_INTEGRITY_SHA256));
    assert!(!kinds.contains(&AttributeType::MESSAGE_INTEGRITY));
}

#[test]
fn a_nonce_that_announces_algorithms_without_a_list_is_a_bid_down() {
    let bench = relayed(TurnScript { nonce: "obMatJos2gAAAabc".to_owned(), ..TurnScript::default() });
    let detail = "the nonce announces password algorithms, the list is missing".to_owned();
    assert_eq!(bench.failures()[1].1, ServerFailure::BadResponse { detail });
    assert_eq!((relay_count(&bench), bench.sent_to(TURN)), (0, 1));
}

#[test]
fn each_refusal_is_an_event_and_ends_the_attempt() {
    for code in [400, 403, 441, 442, 486, 500, 508] {
        let mut bench = relayed(TurnScript { always: BTreeMap::from([(3, code)]), ..TurnScript::default() });
        assert_eq!(bench.codes(), [(401, true), (code, false)]);
        assert_eq!((bench.ended_at(), bench.script(TURN).count(Method::ALLOCATE)), (Some(40), 1), "{code}");
    }
}

#[test]
fn an_allocation_left_behind_by_an_earlier_run_is_ended_first() {
    let errors = VecDeque::from([(Method::ALLOCATE, 437)]);
    let mut bench = relayed(TurnScript { errors, ..TurnScript::default() });
    assert_eq!(bench.codes(), [(401, true), (437, true)]);
    let script = bench.script(TURN);
    let asked: Vec<_> = script.requests.iter().map(|(method, _, lifetime)| (*method, *lifetime)).collect();
    let expected = [(Method::ALLOCATE, None), (Method::REFRESH, Some(0)), (Method::ALLOCATE, None)];
    assert_eq!(asked, expected);
    assert_eq!(relay_count(&bench), 1);

    let bench = relayed(TurnScript { always: BTreeMap::from([(3, 437)]), ..TurnScript::default() });
    assert_eq!(bench.codes(), [(401, true), (437, true), (437, false)]);
}

#[test]
fn a_family_that_the_server_lacks_is_replaced_by_the_other() {
    let errors = VecDeque::from([(Method::ALLOCATE, 440)]);
    let script = TurnScript { errors, relayed: vec!["[2001:db8::2]:50000"], ..TurnScript::default() };
    let mut bench = relayed(script);
    assert_eq!(bench.codes(), [(401, true), (440, true)]);
    let kinds = |script: &TurnScript, index: usize| script.requests[index].1.clone();
    let script = bench.script(TURN);
    assert!(kinds(script, 0).contains(&AttributeType::ADDITIONAL_ADDRESS_FAMILY));
    assert!(kinds(script, 1).contains(&AttributeType::REQUESTED_ADDRESS_FAMILY));
    assert_eq!(relay_count(&bench), 1);
}

#[test]
fn a_single_stack_host_is_given_both_families_on_one_allocation() {
    let relayed_addresses = vec![RELAYED, "[2001:db8::2]:50000"];
    let mut bench = relayed(TurnScript { relayed: relayed_addresses, ..TurnScript::default() });
    assert_eq!(relay_count(&bench), 2);
    let (v4, v6) = (address(RELAYED), address("[2001:db8::2]:50000"));
    bench.input(Input::NeedPermission { relayed: v6, peer: "2001:db8::99".parse().unwrap() });
    bench.input(Input::NeedPermission { relayed: v4, peer: "2001:db8::99".parse().unwrap() });
    bench.run_for(100);
    let peer = "2001:db8::99".parse().unwrap();
    assert!(bench.has(&Output::PermissionGranted { relayed: v6, peer }));
    assert!(bench.has(&Output::PermissionDenied { relayed: v4, peer, code: None }), "the families differ");
}

#[test]
fn a_dual_stack_host_asks_for_each_family_over_itself() {
    let mut bench = Bench::new(config(&[]));
    let mut both = server("turn:turn.example.org");
    both.addresses = vec!["198.51.100.2".parse().unwrap(), "2001:db8::2".parse().unwrap()];
    bench.input(Input::Server(both));
    bench.turn(TURN, TurnScript::default());
    let relayed = vec!["[2001:db8::2]:50000"];
    bench.turn("[2001:db8::2]:3478", TurnScript { relayed, mapped: "[2001:db8::1]:40000", ..TurnScript::default() });
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.socket("[2001:db8::1]:40000", "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(100);
    assert_eq!(relay_count(&bench), 2);
    let family = |kinds: &[AttributeType]| {
        let has = |kind| kinds.contains(&kind);
        (has(AttributeType::REQUESTED_ADDRESS_FAMILY), has(AttributeType::ADDITIONAL_ADDRESS_FAMILY))
    };
    assert_eq!(family(&bench.script("[2001:db8::2]:3478").requests[0].1), (true, false));
}

#[test]
fn an_alternate_server_is_followed() {
    let alternate = Some(address("198.51.100.3:3478"));
    let mut bench = Bench::new(config(&["turn:198.51.100.2"]));
    bench.turn(TURN, TurnScript { always: BTreeMap::from([(3, 300)]), alternate, ..TurnScript::default() });
    bench.turn("198.51.100.3:3478", TurnScript { relayed: vec!["198.51.100.3:50000"], ..TurnScript::default() });
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(1000);
    assert_eq!(bench.codes(), [(401, true), (300, true), (401, true)]);
    assert_eq!(relay_count(&bench), 1);
    assert_eq!(bench.ended_at(), Some(80));
}

#[test]
fn redirection_in_a_circle_away_or_without_end_is_not_followed() {
    let detail = |bench: &Bench| match &bench.failures().last().unwrap().1 {
        ServerFailure::BadResponse { detail } => detail.clone(),
        other => panic!("{other:?}"),
    };
    for (to, why) in [
        (TURN, "back to a server that already redirected us"),
        ("127.0.0.1:3478", "which cannot be reached from this socket"),
        ("[2001:db8::9]:3478", "which cannot be reached from this socket"),
        ("198.51.100.2:0", "which cannot be reached from this socket"),
    ] {
        let script =
            TurnScript { always: BTreeMap::from([(3, 300)]), alternate: Some(address(to)), ..TurnScript::default() };
        let bench = relayed(script);
        assert_eq!(detail(&bench), format!("the server redirects to {to}, {why}"));
        assert_eq!(bench.ended_at(), Some(40));
    }

    let mut bench = Bench::new(config(&["turn:198.51.100.2"]));
    for number in 2..20 {
        let alternate = Some(address(&format!("198.51.100.{}:3478", number + 1)));
        let script = TurnScript { always: BTreeMap::from([(3, 300)]), alternate, ..TurnScript::default() };
        bench.turn(&format!("198.51.100.{number}:3478"), script);
    }
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(5000);
    assert_eq!(detail(&bench), "the server redirects to 198.51.100.6:3478, once more, after three redirections");
    assert!(bench.ended_at().is_some());
}

#[test]
fn a_forged_success_is_ignored_and_named_once() {
    let bench = relayed(TurnScript { forged: true, ..TurnScript::default() });
    let detail = "the answer's message integrity does not match".to_owned();
    let failures = bench.failures();
    let forged = failures.iter().filter(|(_, f)| *f == ServerFailure::BadResponse { detail: detail.clone() });
    assert_eq!(forged.count(), 1, "{failures:?}");
    assert_eq!(relay_count(&bench), 0);
    assert!(matches!(failures.last().unwrap().1, ServerFailure::Timeout { transmissions: 5, .. }));
}

#[test]
fn an_answer_without_a_usable_relayed_address_is_named_and_given_back() {
    for addresses in [vec![], vec!["0.0.0.0:50000"], vec!["224.0.0.1:50000"], vec!["198.51.100.2:0"]] {
        let mut bench = relayed(TurnScript { relayed: addresses, ..TurnScript::default() });
        let detail = "the answer carries no usable XOR-RELAYED-ADDRESS".to_owned();
        assert_eq!(bench.failures().last().unwrap().1, ServerFailure::BadResponse { detail });
        assert!(bench.ended_at().is_some());
        assert!(!bench.script(TURN).allocated, "no allocation is left behind");
    }
}

#[test]
fn the_allocation_is_refreshed_well_before_its_end() {
    for (lifetime_s, expected) in [(600, 7), (3600, 1), (60, 120)] {
        let mut bench = relayed(TurnScript { lifetime_s, ..TurnScript::default() });
        bench.run_for(3_600_000);
        let refreshes = bench.script(TURN).count(Method::REFRESH);
        assert!(refreshes.abs_diff(expected) <= 1, "lifetime {lifetime_s}: {refreshes}");
        assert!(!bench.outputs.iter().any(|(_, output)| matches!(output, Output::AllocationLost { .. })));
    }
}

#[test]
fn an_allocation_that_the_server_no_longer_knows_is_lost_at_once() {
    let errors = VecDeque::from([(Method::REFRESH, 437)]);
    let mut bench = relayed(TurnScript { errors, ..TurnScript::default() });
    bench.script(TURN).always.insert(Method::ALLOCATE.0, 486);
    bench.run_for(545_000);
    let detail = "the server no longer knows it (437)".to_owned();
    let relayed = address(RELAYED);
    assert!(bench.has(&Output::AllocationLost { relayed, detail: detail.clone() }));
    assert!(bench.events().contains(&&EventKind::Deallocated { relayed, detail }));
    bench.input(Input::NeedPermission { relayed, peer: "203.0.113.9".parse().unwrap() });
    assert!(bench.has(&Output::PermissionDenied { relayed, peer: "203.0.113.9".parse().unwrap(), code: None }));
}

#[test]
fn an_allocation_whose_server_died_is_lost_when_its_lifetime_is_over() {
    let mut bench = relayed(TurnScript::default());
    bench.servers.clear();
    bench.run_for(590_000);
    assert!(bench.failures().iter().any(|(method, _)| method == "Refresh"));
    assert!(!bench.outputs.iter().any(|(_, output)| matches!(output, Output::AllocationLost { .. })));
    bench.run_for(11_000);
    let detail = "its lifetime ran out and no refresh was granted".to_owned();
    assert!(bench.has(&Output::AllocationLost { relayed: address(RELAYED), detail }));
}

#[test]
fn credentials_that_expire_keep_the_allocation_for_its_lifetime() {
    let mut bench = relayed(TurnScript::default());
    bench.script(TURN).password = "another";
    bench.run_for(545_000);
    assert_eq!(bench.codes().last(), Some(&(401, false)));
    assert!(!bench.outputs.iter().any(|(_, output)| matches!(output, Output::AllocationLost { .. })));
    bench.run_for(60_000);
    assert!(bench.outputs.iter().any(|(_, output)| matches!(output, Output::AllocationLost { .. })));
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

#[test]
fn closing_renews_a_stale_nonce() {
    let mut bench = relayed(TurnScript::default());
    bench.script(TURN).nonce = "nonce-2".to_owned();
    bench.input(Input::Close);
    bench.run_for(100);
    assert!(bench.has(&Output::Closed));
    assert!(!bench.script(TURN).allocated);
}

#[test]
fn closing_at_any_moment_leaves_no_allocation() {
    for moment in 0..60 {
        let mut bench = Bench::new(config(&["turn:198.51.100.2", "stun:198.51.100.1", "stun:a.example.org"]));
        bench.turn(TURN, TurnScript::default());
        bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
        bench.complete();
        bench.run_for(moment);
        bench.input(Input::Close);
        bench.run_for(1100);
        assert!(bench.has(&Output::Closed), "closed at {moment} ms");
        assert!(!bench.script(TURN).allocated, "closed at {moment} ms");
        let sent = bench.transmits().len();
        bench.run_for(10_000);
        assert_eq!(bench.transmits().len(), sent, "closed at {moment} ms, silent after it");
    }
}

#[test]
fn closing_takes_a_second_at_most_with_a_silent_server() {
    let mut bench = relayed(TurnScript::default());
    bench.servers.clear();
    let before = bench.now;
    bench.input(Input::Close);
    bench.run_for(5000);
    let closed = bench.outputs.iter().find(|(_, output)| *output == Output::Closed).unwrap().0;
    assert!(closed.since(before) <= Duration::from_secs(1));
}

#[test]
fn an_allocation_whose_answer_was_lost_is_given_back() {
    let mut bench = Bench::new(config(&["turn:198.51.100.2"]));
    bench.turn(TURN, TurnScript::default());
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.complete();
    // Behind the challenge and before the answer to the authenticated Allocate, answers stop.
    bench.run_for(25);
    bench.deaf = true;
    bench.run_for(2600);
    assert!(bench.ended_at().is_some());
    assert!(!bench.script(TURN).allocated);
}

/// Up to the moment in which the authenticated Allocate leaves, which is answered in so many milliseconds.
fn asked_for_good(round_trip: u64) -> Bench {
    let mut bench = Bench::new(config(&["turn:198.51.100.2"]));
    bench.turn(TURN, TurnScript::default());
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(15);
    bench.one_way = Duration::from_millis(round_trip / 2);
    bench.run_for(10);
    bench
}

#[test]
fn closing_does_not_wait_for_the_answer_of_an_allocate_to_give_back_what_it_makes() {
    let mut bench = asked_for_good(1800);
    bench.input(Input::Close);
    // So much that whoever waits 100 ms for us has sent it twice.
    bench.run_for(100);
    let sent = bench.transmits();
    let refreshes = sent.iter().rev().take_while(|sent| sent.bytes[1] == Method::REFRESH.0 as u8).count();
    assert_eq!(refreshes, 2);
    bench.run_for(1900);
    assert!(bench.has(&Output::Closed));
    let script = bench.script(TURN);
    assert!(script.count(Method::ALLOCATE) > 0 && !script.allocated);
    let came = |event: &&EventKind| matches!(event, EventKind::Allocated { .. } | EventKind::Deallocated { .. });
    assert_eq!(bench.events().into_iter().filter(came).count(), 0, "it came too late to be told of");
}

#[test]
fn an_allocation_that_comes_while_it_is_given_back_is_told_of_and_gone() {
    let mut bench = asked_for_good(200);
    bench.input(Input::Close);
    bench.run_for(1000);
    assert!(bench.has(&Output::Closed) && !bench.script(TURN).allocated);
    let events = bench.events();
    let at = |event: &dyn Fn(&EventKind) -> bool| events.iter().position(|kind| event(kind)).unwrap();
    assert!(
        at(&|event| matches!(event, EventKind::Allocated { .. }))
            < at(&|event| matches!(event, EventKind::Deallocated { .. }))
    );
}

#[test]
fn an_allocation_that_comes_after_it_was_given_up_is_given_back() {
    // Given up 2.5 s after it was asked for; the last words of then are all lost, the answer is not.
    let mut bench = asked_for_good(3800);
    bench.run_for(2450);
    bench.loss = 100;
    bench.run_for(1200);
    bench.loss = 0;
    assert!(bench.ended_at().is_some() && bench.script(TURN).allocated);
    bench.run_for(3000);
    assert!(!bench.script(TURN).allocated);
    assert_eq!(relay_count(&bench), 0);
    let sent = bench.transmits().len();
    bench.run_for(10_000);
    assert_eq!(bench.transmits().len(), sent, "once, however often it is granted");
}

#[test]
fn closing_waits_for_what_is_given_back_of_an_allocation_that_was_given_up() {
    let mut bench = asked_for_good(20);
    bench.deaf = true;
    bench.run_for(2400);
    bench.loss = 100;
    bench.run_for(150);
    assert!(bench.ended_at().is_some() && bench.script(TURN).allocated);
    (bench.loss, bench.deaf) = (0, false);
    bench.input(Input::Close);
    assert!(!bench.has(&Output::Closed));
    bench.run_for(1000);
    assert!(bench.has(&Output::Closed) && !bench.script(TURN).allocated);
}

#[test]
fn closing_while_an_allocation_of_an_earlier_run_is_ended_asks_for_no_new_one() {
    let mut bench = Bench::new(config(&["turn:198.51.100.2", "turn:198.51.100.3"]));
    let errors = [(Method::ALLOCATE, 437)].into();
    bench.turn(TURN, TurnScript { errors, ..TurnScript::default() });
    // Still closing when the first has ended.
    bench.turn("198.51.100.3:3478", TurnScript { relayed: vec!["198.51.100.3:50000"], ..TurnScript::default() });
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(45);
    bench.servers.remove(&address("198.51.100.3:3478"));
    bench.input(Input::Close);
    bench.run_for(1100);
    assert!(bench.has(&Output::Closed));
    let script = bench.script(TURN);
    assert_eq!((script.count(Method::ALLOCATE), script.allocated), (1, false));
}

#[test]
fn the_same_relayed_address_twice_is_refused() {
    let mut bench = Bench::new(config(&["turn:198.51.100.2", "turn:198.51.100.3"]));
    bench.turn(TURN, TurnScript::default());
    bench.turn("198.51.100.3:3478", TurnScript::default());
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(1000);
    assert_eq!(relay_count(&bench), 1);
    let detail = "the relayed address is that of another allocation".to_owned();
    assert!(bench.failures().contains(&("Allocate".to_owned(), ServerFailure::BadResponse { detail })));
    assert!(!bench.script("198.51.100.3:3478").allocated);
    assert!(bench.script(TURN).allocated);
}

#[test]
fn of_many_interfaces_the_first_ones_get_an_allocation() {
    let mut bench = Bench::new(config(&["turn:198.51.100.2"]));
    bench.turn(TURN, TurnScript::default());
    for number in 0..10 {
        bench.socket(&format!("192.0.2.{}:40000", number + 1), "eth0", CandidateTransport::Udp);
    }
    bench.run_for(10);
    let mut asking: Vec<SocketAddr> = bench.transmits().iter().map(|sent| sent.local).collect();
    bench.run_for(100);
    asking.extend(bench.transmits().iter().map(|sent| sent.local));
    asking.sort();
    asking.dedup();
    assert_eq!(asking.len(), 4);
}

#[test]
fn no_output_and_no_debug_text_shows_the_password() {
    let mut bench = relayed(TurnScript::default());
    bench.input(Input::Close);
    bench.run_for(100);
    let shown = format!("{:?} {:?}", bench.gatherer, bench.outputs);
    assert!(shown.contains("Password(hidden)") && !shown.contains(PASSWORD));
}

#[test]
fn the_integrity_of_datagrams_is_known_to_the_trace() {
    let bench = relayed(TurnScript::default());
    let verify = |remote: &str, bytes: &[u8]| bench.gatherer.verify(address(SOCKET), address(remote), bytes);
    let sent = bench.transmits();
    assert_eq!(verify(TURN, &sent[0].bytes), Some(Integrity::Absent));
    assert_eq!(verify(TURN, &sent[1].bytes), Some(Integrity::Valid));
    assert_eq!(verify("198.51.100.9:1", &sent[1].bytes), None);
    assert_eq!(verify(TURN, b"no STUN"), None);
}
