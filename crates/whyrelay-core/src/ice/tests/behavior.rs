//! One behavior, one test.

use std::time::Duration;

use crate::ice::candidate::{CandidateAddress, CandidateTransport, CandidateType};
use crate::ice::{Credentials, Input, LocalCandidate};
use crate::random::Random;
use crate::trace::event::{
    EventKind, FailReason, IceState, IceStateReason, NominateReason, PairState, PruneReason, RefuseReason, Role, Side,
    StateReason,
};

use super::hostile::Lone;
use super::network::{A, B, Happening, Link, Network, START};
use super::{candidate, host};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_peer_reflexive_remote_candidate_is_used_without_waiting() {
    let mut network = Network::new(1, Link::of_delay(5));
    network.unsignaled(A, host("192.0.2.1:1000"), "192.0.2.1:1000");
    network.host(B, "192.0.2.2:2000");
    network.start_both();
    assert!(network.run_until(SECOND, Network::are_completed));
    let selected = network.agents[B].selected_pair().unwrap();
    assert_eq!(selected.remote.kind, CandidateType::PeerReflexive);
}

#[test]
fn a_candidate_with_a_name_waits_for_its_address_and_keeps_the_agent_from_failing() {
    let mut network = Network::new(1, Link::of_delay(5));
    network.host(A, "192.0.2.1:1000");
    network.unsignaled(B, host("192.0.2.2:2000"), "192.0.2.2:2000");
    network.blocked.insert(("192.0.2.2".parse().unwrap(), "192.0.2.1".parse().unwrap()));
    let mut named = host("192.0.2.2:2000");
    named.address = CandidateAddress::Name { name: "b.local".to_owned(), port: 2000 };
    network.later(A, Duration::ZERO, Happening::Candidate(named.clone()));
    network.start_both();
    network.run(SECOND * 8);
    assert_ne!(network.agents[A].state(), IceState::Failed);
    network.blocked.clear();
    network.later(A, Duration::ZERO, Happening::Resolved(named, "192.0.2.2:2000".parse().unwrap()));
    assert!(network.run_until(SECOND, Network::are_completed));
}

#[test]
fn a_restart_keeps_the_old_pair_until_the_new_generation_selects() {
    let mut network = Network::new(1, Link::of_delay(5));
    network.host(A, "192.0.2.1:1000");
    network.host(B, "192.0.2.2:2000");
    network.start_both();
    assert!(network.run_until(SECOND, Network::are_completed));
    let before = network.pair(A);
    network.restart(A);
    assert_eq!(network.pair(A), before);
    assert_eq!(network.agents[A].state(), IceState::Checking);
    // The old pair goes on: longer than consent would last without answers.
    network.run(SECOND * 40);
    assert_eq!(network.pair(A), before);
    network.host(A, "192.0.2.1:1001");
    network.host(B, "192.0.2.2:2001");
    network.start_both();
    assert!(network.run_until(SECOND, Network::are_completed));
    assert_ne!(network.pair(A), before);
    assert_eq!(network.pair(A).remote, network.pair(B).local);
    assert_eq!(network.agents[A].generation(), 1);
    let restarted =
        |side| move |event: &EventKind| matches!(event, EventKind::IceRestarted { side: s, .. } if *s == side);
    assert_eq!(network.count_events(A, restarted(Side::Local)), 1);
    assert_eq!(network.count_events(B, restarted(Side::Remote)), 1);
    assert!(network.has_event(
        A,
        |event| matches!(event, EventKind::PairSelected { replaces: Some(pair), .. } if *pair == before)
    ));
}

#[test]
fn credentials_that_change_without_a_restart_are_refused() {
    let mut network = Network::new(1, Link::of_delay(5));
    network.describe(B);
    network.run(SECOND);
    let ufrag = network.agents[A].remote_ufrag().unwrap().to_owned();
    network.input(A, Input::RemoteCredentials(Credentials::generate(&mut Random::from_number(9))));
    assert_eq!(network.agents[A].remote_ufrag(), Some(ufrag.as_str()));
    assert!(network.has_event(A, |event| matches!(event, EventKind::SignalRefused { .. })));
}

fn reason_of(network: &Network, side: usize) -> Vec<NominateReason> {
    let events = network.events[side].iter();
    let reasons = events.filter_map(|(_, event)| match event {
        EventKind::PairNominated { reason, .. } => Some(*reason),
        _ => None,
    });
    reasons.collect()
}

fn state_changes(network: &Network, side: usize) -> Vec<(IceState, IceStateReason)> {
    let events = network.events[side].iter();
    let changes = events.filter_map(|(_, event)| match event {
        EventKind::IceStateChanged { to, reason, .. } => Some((*to, *reason)),
        _ => None,
    });
    changes.collect()
}

#[test]
fn a_check_is_repeated_with_the_same_transaction_id_until_its_schedule_ends() {
    for (patient, count, ends) in [(false, 7, Duration::from_millis(2550)), (true, 7, Duration::from_millis(39_500))] {
        let mut lone = Lone::with(|config| config.patient = patient).meet();
        lone.network.input(A, Input::RoundTripHint(Duration::from_millis(20)));
        lone.candidate("192.0.2.2:2000");
        lone.network.input(A, Input::LocalEndOfCandidates);
        lone.network.input(A, Input::RemoteEndOfCandidates);
        assert!(lone.network.run_until(SECOND * 60, |n| n.agents[A].state() == IceState::Failed));
        assert_eq!(lone.network.now - START, ends);
        let requests = lone.requests();
        assert_eq!(requests.len(), count);
        assert!(requests.iter().all(|(_, id, _)| *id == requests[0].1));
        assert_eq!(lone.failure(), Some(FailReason::Timeout { transmissions: 7 }));
        let last = state_changes(&lone.network, A).pop();
        assert_eq!(last, Some((IceState::Failed, IceStateReason::NothingLeft)));
    }
}

#[test]
fn new_checks_are_paced() {
    let mut lone = Lone::new(Role::Controlling).meet();
    for n in 0..20 {
        lone.candidate(&format!("198.51.100.{n}:5"));
    }
    lone.network.run(Duration::from_millis(99));
    let requests = lone.requests();
    assert_eq!(requests.len(), 20);
    for (n, (at, ..)) in requests.iter().enumerate() {
        assert_eq!(*at - START, Duration::from_millis(5) * n as u32);
    }
}

#[test]
fn a_pair_is_frozen_while_another_of_its_foundation_is_busy() {
    let kin = || ["198.51.100.1:1", "198.51.100.1:2", "198.51.100.1:3"];
    // Each step: after this long, so many pairs are not frozen.
    for (patient, after, thawed) in [(false, 90, 1), (false, 110, 2), (false, 330, 3), (true, 30_000, 1)] {
        let mut lone = Lone::with(|config| config.patient = patient).meet();
        kin().into_iter().for_each(|address| lone.candidate(address));
        lone.network.run(Duration::from_millis(after));
        let pairs = lone.network.agents[A].checklist();
        let count = pairs.iter().filter(|pair| pair.state != PairState::Frozen).count();
        assert_eq!(count, thawed, "patient {patient}, after {after} ms");
    }
    let mut lone = Lone::with(|config| config.role = Role::Controlled).meet();
    kin().into_iter().for_each(|address| lone.candidate(address));
    lone.answer("198.51.100.1:1");
    let frozen = |pair: &crate::ice::PairSnapshot| pair.state == PairState::Frozen;
    assert!(!lone.network.agents[A].checklist().iter().any(frozen));
}

#[test]
fn conflicting_roles_are_settled_by_the_tie_breakers() {
    for role in [Role::Controlling, Role::Controlled] {
        for (of_a, of_b) in [(1, 9), (9, 1)] {
            for silent in [None, Some(A), Some(B)] {
                let mut network = Network::with(1, Link::of_delay(20), |[a, b]| {
                    (a.role, b.role) = (role, role);
                    (a.tie_breaker, b.tie_breaker) = (Some(of_a), Some(of_b));
                });
                network.host(A, "192.0.2.1:1000");
                network.host(B, "192.0.2.2:2000");
                network.start_both();
                // One side's first checks are lost: the other learns of the conflict by 487 or by a check, not both.
                let path = match silent {
                    Some(A) => Some(("192.0.2.1", "192.0.2.2")),
                    Some(_) => Some(("192.0.2.2", "192.0.2.1")),
                    None => None,
                };
                if let Some((from, to)) = path {
                    network.blocked.insert((from.parse().unwrap(), to.parse().unwrap()));
                    network.run(Duration::from_millis(150));
                    network.blocked.clear();
                }
                assert!(network.run_until(SECOND * 5, Network::are_completed));
                let expected = if of_a > of_b { Role::Controlling } else { Role::Controlled };
                assert_eq!(network.agents[A].role(), expected);
                assert_ne!(network.agents[B].role(), expected);
                assert_eq!(network.pair(A).remote, network.pair(B).local);
                let conflict = |event: &EventKind| matches!(event, EventKind::RoleConflict { .. });
                assert!(network.has_event(A, conflict) || network.has_event(B, conflict));
            }
        }
    }
}

#[test]
fn a_nat_unknown_to_signaling_gives_peer_reflexive_candidates_on_both_sides() {
    let mut network = Network::new(1, Link::of_delay(10));
    network.mapped.insert("10.0.0.1:1000".parse().unwrap(), "198.51.100.1:7000".parse().unwrap());
    network.host(A, "10.0.0.1:1000");
    network.host(B, "192.0.2.2:2000");
    network.start_both();
    assert!(network.run_until(SECOND, Network::are_completed));
    let (ours, theirs) = (network.agents[A].selected_pair().unwrap(), network.agents[B].selected_pair().unwrap());
    assert_eq!(ours.local.kind, CandidateType::PeerReflexive);
    assert_eq!(theirs.remote.kind, CandidateType::PeerReflexive);
    assert_eq!(ours.local.address, theirs.remote.address);
    assert!(network.has_event(A, |event| matches!(event, EventKind::LocalCandidate { candidate, .. }
        if candidate.kind == CandidateType::PeerReflexive)));
}

#[test]
fn a_peer_reflexive_candidate_gets_its_proper_type_when_signaling_arrives() {
    let mut lone = Lone::new(Role::Controlled).meet();
    lone.check("192.0.2.2:2000", false);
    let kinds = |lone: &Lone| lone.network.agents[A].remote_candidates().map(|c| c.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&lone), [CandidateType::PeerReflexive]);
    let before = lone.network.agents[A].checklist()[0].priority;
    lone.candidate("192.0.2.2:2000");
    assert_eq!(kinds(&lone), [CandidateType::Host]);
    let pairs = lone.network.agents[A].checklist();
    assert_eq!(pairs.len(), 1);
    assert!(pairs[0].priority > before);
}

#[test]
fn candidates_with_the_same_base_make_one_pair() {
    let mut network = Network::new(1, Link::of_delay(10));
    network.natted(A, "10.0.0.1:1000", "198.51.100.1:7000");
    network.host(B, "192.0.2.2:2000");
    network.start_both();
    assert!(network.run_until(SECOND, Network::are_completed));
    assert_eq!(network.agents[A].checklist().len(), 1);
    let outside = "198.51.100.1:7000".parse().unwrap();
    assert!(network.has_event(A, |event| matches!(event, EventKind::PairPruned {
        reason: PruneReason::Redundant { candidate: Some(address), .. }, .. } if *address == outside)));
    // The peer sees the server-reflexive address, so that is the candidate in use.
    assert_eq!(network.agents[A].selected_pair().unwrap().local.kind, CandidateType::ServerReflexive);
}

#[test]
fn link_local_addresses_pair_with_their_like_and_get_a_scope() {
    let mut lone = Lone::new(Role::Controlling).meet();
    let base = "[fe80::1]:1000".parse().unwrap();
    let local = LocalCandidate { candidate: host("[fe80::1]:1000"), base, interface_index: 3 };
    lone.network.input(A, Input::LocalCandidate(local));
    lone.candidate("[2001:db8::5]:5");
    lone.candidate("[fe80::5]:5");
    assert_eq!(lone.network.agents[A].checklist().len(), 1);
    assert_eq!(lone.requests()[0].2, "[fe80::5%3]:5");
}

#[test]
fn a_tcp_connection_between_link_local_addresses_names_the_interface_at_both_ends() {
    use CandidateTransport::{TcpActive, TcpPassive};
    let mut lone = Lone::new(Role::Controlling).meet();
    let active = candidate(CandidateType::Host, TcpActive, "[fe80::1]:9", 9);
    let local = LocalCandidate { candidate: active, base: "[fe80::1]:9".parse().unwrap(), interface_index: 3 };
    lone.network.input(A, Input::LocalCandidate(local));
    let passive = candidate(CandidateType::Host, TcpPassive, "[fe80::5]:5", 9);
    lone.network.input(A, Input::RemoteCandidate { candidate: passive, resolved: None });
    lone.network.run(SECOND);
    let asked: Vec<_> = lone.network.connecting.iter().map(|(from, to)| format!("{from} {to}")).collect();
    assert_eq!(asked, ["[fe80::1%3]:0 [fe80::5%3]:5"]);
}

#[test]
fn a_relayed_pair_waits_for_a_direct_one_and_the_direct_one_wins() {
    let mut network = Network::new(1, Link::of_delay(20));
    // The direct path opens only after 300 ms.
    network.host(A, "192.0.2.1:1000");
    network.relay(A, "203.0.113.1:4000");
    network.host(B, "192.0.2.2:2000");
    for (from, to) in [("192.0.2.1", "192.0.2.2"), ("192.0.2.2", "192.0.2.1")] {
        network.blocked.insert((from.parse().unwrap(), to.parse().unwrap()));
    }
    network.start_both();
    network.run(Duration::from_millis(300));
    assert_eq!(network.agents[A].state(), IceState::Connected);
    assert_eq!(network.agents[A].is_relayed(), Some(true));
    assert!(network.agents[A].selected_pair().is_none());
    network.blocked.clear();
    assert!(network.run_until(SECOND, Network::are_completed));
    assert_eq!(network.agents[A].is_relayed(), Some(false));
    assert_eq!(network.selected[A].len(), 1);
}

#[test]
fn a_direct_pair_that_succeeds_late_replaces_a_relayed_one_on_both_sides() {
    let mut network = Network::new(1, Link::of_delay(20));
    network.host(A, "192.0.2.1:1000");
    network.relay(A, "203.0.113.1:4000");
    network.host(B, "192.0.2.2:2000");
    for (from, to) in [("192.0.2.1", "192.0.2.2"), ("192.0.2.2", "192.0.2.1")] {
        network.blocked.insert((from.parse().unwrap(), to.parse().unwrap()));
    }
    network.start_both();
    assert!(network.run_until(SECOND * 2, Network::are_selected));
    assert_eq!(network.agents[A].is_relayed(), Some(true));
    assert_eq!(reason_of(&network, A), [NominateReason::BestSoFar]);
    network.blocked.clear();
    assert!(network.run_until(SECOND * 2, |n| n.agents.iter().all(|agent| agent.is_relayed() == Some(false))));
    assert_eq!(reason_of(&network, A), [NominateReason::BestSoFar, NominateReason::Replacement]);
    network.run(SECOND);
    assert_eq!(network.pair(A).remote, network.pair(B).local);
    assert_eq!(network.agents[B].state(), IceState::Completed);
    assert!(network.agents.iter().all(|agent| agent.selected_pair().is_some()));
}

#[test]
fn nothing_is_checked_over_a_relay_before_its_permission() {
    let mut network = Network::new(1, Link::of_delay(20));
    network.relay(A, "203.0.113.1:4000");
    network.host(B, "192.0.2.2:2000");
    network.start_both();
    // Candidate at 20 ms, permission 20 ms after that.
    network.run(Duration::from_millis(39));
    assert_eq!(network.sent[A].len(), 0);
    assert!(network.run_until(SECOND * 3, Network::are_completed));
    assert_eq!(network.agents[A].is_relayed(), Some(true));
}

#[test]
fn a_denied_permission_fails_the_pair_at_once() {
    let mut network = Network::new(1, Link::of_delay(20));
    network.deny = Some(403);
    network.relay(A, "203.0.113.1:4000");
    network.host(B, "192.0.2.2:2000");
    network.start_both();
    assert!(network.run_until(SECOND, |n| n.agents[A].state() == IceState::Failed));
    let denied = StateReason::Failed(FailReason::NoPermission { code: Some(403) });
    assert!(
        network.has_event(A, |event| matches!(event, EventKind::PairStateChanged { reason, .. } if *reason == denied))
    );
    let checks = network.sent[A].iter().filter(|(_, sent)| {
        crate::wire::stun::Message::decode(&sent.bytes).unwrap().class == crate::wire::stun::Class::Request
    });
    assert_eq!(checks.count(), 0);
}

#[test]
fn relay_only_offers_and_answers_on_relayed_candidates_only() {
    let mut lone = Lone::with(|config| config.relay_only = true).meet();
    assert!(lone.network.has_event(A, |event| matches!(
        event,
        EventKind::LocalCandidateDiscarded { reason: RefuseReason::RelayOnly, .. }
    )));
    lone.candidate("192.0.2.2:2000");
    lone.check("192.0.2.2:2000", false);
    assert_eq!(lone.sent(), 0);
    assert!(lone.network.has_event(A, |event| matches!(event, EventKind::CheckRefused { code: None, .. })));

    let mut network = Network::with(1, Link::of_delay(10), |[a, _]| a.relay_only = true);
    network.host(A, "192.0.2.1:1000");
    network.relay(A, "203.0.113.1:4000");
    network.host(B, "192.0.2.2:2000");
    network.start_both();
    assert!(network.run_until(SECOND, Network::are_selected));
    assert_eq!(network.agents[A].is_relayed(), Some(true));
    assert_eq!(reason_of(&network, A), [NominateReason::BestPossible]);
}

pub(super) fn tcp(network: &mut Network) {
    use CandidateTransport::{TcpActive, TcpPassive};
    let active = candidate(CandidateType::Host, TcpActive, "192.0.2.1:9", 9);
    network.gathered(A, active, "192.0.2.1:9");
    let passive = candidate(CandidateType::Host, TcpPassive, "192.0.2.2:443", 9);
    network.gathered(B, passive, "192.0.2.2:443");
}

#[test]
fn an_active_and_a_passive_tcp_candidate_connect() {
    let mut network = Network::new(1, Link::of_delay(10));
    tcp(&mut network);
    network.start_both();
    assert!(network.run_until(SECOND, Network::are_completed));
    assert_eq!(network.pair(A).local, network.pair(B).remote);
    assert_ne!(network.pair(A).local.port(), 9);
    assert_eq!(network.agents[A].selected_pair().unwrap().local.kind, CandidateType::Host);
    assert!(
        network.has_event(B, |event| matches!(
            event,
            EventKind::PairPruned { reason: PruneReason::WaitsForConnection, .. }
        ))
    );
    let pair = network.pair(A);
    network.input(A, Input::TcpClosed { pair, detail: "reset".to_owned() });
    assert_eq!(network.agents[A].state(), IceState::Failed);
}

#[test]
fn over_tcp_nothing_is_repeated_and_a_refused_connection_fails_the_pair() {
    let mut network = Network::new(1, Link::of_delay(10));
    tcp(&mut network);
    network.blackout = true;
    network.start_both();
    assert!(network.run_until(SECOND * 6, |n| n.agents.iter().all(|agent| agent.state() == IceState::Failed)));
    assert!(network.has_event(A, |event| matches!(
        event,
        EventKind::PairStateChanged { reason: StateReason::Failed(FailReason::ConnectionFailed { .. }), .. }
    )));
    assert!(network.sent.iter().all(Vec::is_empty));
}

#[test]
fn consent_becomes_doubtful_then_comes_back_then_expires() {
    let mut network = Network::new(1, Link::of_delay(10));
    network.host(A, "192.0.2.1:1000");
    network.host(B, "192.0.2.2:2000");
    network.start_both();
    assert!(network.run_until(SECOND, Network::are_completed));
    network.run(SECOND * 100);
    assert!(network.are_completed());
    network.blackout = true;
    let silence = network.now;
    assert!(network.run_until(SECOND * 12, |n| n.agents[A].state() == IceState::Disconnected));
    assert!(network.now - silence > SECOND, "{:?}", network.now - silence);
    network.blackout = false;
    assert!(network.run_until(SECOND * 5, |n| n.agents[A].state() == IceState::Completed));
    network.run(SECOND * 5);
    network.blackout = true;
    assert!(network.run_until(SECOND * 40, |n| n.agents.iter().all(|agent| agent.state() == IceState::Failed)));
    assert!(network.agents.iter().all(|agent| agent.selected_pair().is_none()));
    let reasons: Vec<IceStateReason> = state_changes(&network, A).into_iter().map(|(_, reason)| reason).collect();
    let expected = [
        IceStateReason::ConsentSilent,
        IceStateReason::ConsentBack,
        IceStateReason::ConsentSilent,
        IceStateReason::ConsentExpired,
    ];
    assert_eq!(reasons[reasons.len() - 4..], expected);
}

#[test]
fn the_controlling_side_replaces_a_pair_whose_consent_expired() {
    let mut network = Network::new(1, Link::of_delay(10));
    network.host(A, "192.0.2.1:1000");
    network.host(A, "192.0.3.1:1000");
    network.host(B, "192.0.2.2:2000");
    // The better pair answers last, so both succeed before one is nominated.
    network.link.jitter = Duration::from_millis(1);
    network.start_both();
    assert!(network.run_until(SECOND, Network::are_completed));
    network.run(SECOND);
    let dead = network.pair(A);
    let others = network.agents[A].checklist().into_iter().filter(|pair| pair.state == PairState::Succeeded).count();
    assert!(others >= 2, "both paths were checked");
    network.blocked.insert((dead.local.ip(), dead.remote.ip()));
    network.blocked.insert((dead.remote.ip(), dead.local.ip()));
    assert!(network.run_until(SECOND * 45, |n| n.selected[A].len() == 2 && n.selected[B].len() == 2));
    assert_ne!(network.pair(A), dead);
    assert_eq!(network.pair(A).remote, network.pair(B).local);
    assert_eq!(reason_of(&network, A).pop(), Some(NominateReason::Replacement));
    network.run(SECOND * 60);
    assert!(network.are_completed());
}

#[test]
fn an_aggressive_peer_gets_the_best_of_its_nominated_pairs() {
    let mut lone = Lone::new(Role::Controlled).meet();
    let remotes = ["192.0.2.2:1", "192.0.2.3:1", "192.0.2.4:1"];
    for (n, remote) in remotes.iter().enumerate() {
        let mut other = host(remote);
        other.priority -= (n as u32) << 8;
        lone.network.input(A, Input::RemoteCandidate { candidate: other, resolved: None });
    }
    // Every check nominates, the middle one is answered first, then the worst, then the best.
    remotes.iter().for_each(|remote| lone.check(remote, true));
    lone.network.run(Duration::from_millis(50));
    let mut selected = Vec::new();
    for n in [1, 2, 0] {
        lone.answer(remotes[n]);
        selected.push(lone.network.pair(A).remote.to_string());
    }
    assert_eq!(selected, [remotes[1], remotes[1], remotes[0]]);
    assert_eq!(reason_of(&lone.network, A), [NominateReason::ByPeerAheadOfCheck; 3]);
}

#[test]
fn a_peer_that_changes_its_mind_is_followed() {
    let mut lone = Lone::new(Role::Controlled).meet();
    let (first, second) = ("192.0.2.2:1", "192.0.2.3:1");
    lone.candidate(first);
    lone.check(first, true);
    lone.answer(first);
    assert_eq!(lone.network.pair(A).remote.to_string(), first);
    // Within the first seconds a lesser pair could be an aggressive peer's next; later it is meant.
    let mut lesser = host(second);
    lesser.priority = 1;
    lone.network.input(A, Input::RemoteCandidate { candidate: lesser, resolved: None });
    lone.network.run(SECOND * 4);
    lone.check(second, true);
    lone.answer(second);
    assert_eq!(lone.network.pair(A).remote.to_string(), second);
}

#[test]
fn end_of_candidates_after_everything_failed_fails_at_once() {
    let mut lone = Lone::new(Role::Controlling).meet();
    lone.candidate("192.0.2.2:2000");
    lone.network.input(A, Input::LocalEndOfCandidates);
    lone.network.run(SECOND * 20);
    assert_eq!(lone.network.agents[A].state(), IceState::Checking);
    lone.network.input(A, Input::RemoteEndOfCandidates);
    assert_eq!(lone.network.agents[A].state(), IceState::Failed);
    // A check of the peer revives it.
    lone.check("192.0.2.2:2000", false);
    assert_eq!(state_changes(&lone.network, A).pop(), Some((IceState::Checking, IceStateReason::PeerChecked)));
    lone.answer("192.0.2.2:2000");
    assert_eq!(lone.network.agents[A].state(), IceState::Connected);
}

#[test]
fn without_any_pair_the_peers_checks_get_one_schedule_to_arrive() {
    let mut lone = Lone::new(Role::Controlling).meet();
    lone.network.input(A, Input::RoundTripHint(Duration::from_millis(20)));
    lone.network.input(A, Input::LocalEndOfCandidates);
    lone.network.input(A, Input::RemoteEndOfCandidates);
    assert!(lone.network.run_until(SECOND * 10, |n| n.agents[A].state() == IceState::Failed));
    assert_eq!(lone.network.now - START, Duration::from_millis(2550));
    assert_eq!(state_changes(&lone.network, A).pop(), Some((IceState::Failed, IceStateReason::NoPairs)));
}

#[test]
fn a_refused_send_is_repeated_and_named_only_if_it_never_works() {
    for works_at in [Some(3), None] {
        let mut lone = Lone::new(Role::Controlling).meet();
        lone.candidate("192.0.2.2:2000");
        let pair = lone.network.agents[A].checklist()[0].pair;
        let mut seen = 0;
        while lone.failure().is_none() {
            if lone.sent() > seen {
                seen = lone.sent();
                if works_at.is_none_or(|at| seen < at) {
                    lone.network.input(A, Input::SendFailed { pair, errno: 1 });
                }
            }
            lone.network.run(Duration::from_millis(10));
        }
        assert_eq!(seen, 7);
        let expected = match works_at {
            Some(_) => FailReason::Timeout { transmissions: 7 },
            None => FailReason::SendFailed { errno: 1 },
        };
        assert_eq!(lone.failure(), Some(expected));
    }
}

#[test]
fn a_lost_allocation_fails_its_pairs_and_the_selected_pair_with_them() {
    let mut network = Network::new(1, Link::of_delay(10));
    network.relay(A, "203.0.113.1:4000");
    network.host(B, "192.0.2.2:2000");
    network.start_both();
    assert!(network.run_until(SECOND * 3, Network::are_completed));
    network.input(A, Input::AllocationLost { relayed: "203.0.113.1:4000".parse().unwrap() });
    assert!(network.agents[A].selected_pair().is_none());
    assert_eq!(network.agents[A].state(), IceState::Failed);
    let lost = StateReason::Failed(FailReason::AllocationLost);
    assert!(
        network.has_event(A, |event| matches!(event, EventKind::PairStateChanged { reason, .. } if *reason == lost))
    );
}

#[test]
fn an_allocation_that_comes_back_with_the_same_address_is_used_again_without_a_restart() {
    let relayed = "203.0.113.1:4000";
    for discovered in [false, true] {
        let mut network = Network::new(1, Link::of_delay(10));
        network.relay(A, relayed);
        if discovered {
            let host = candidate(CandidateType::Host, CandidateTransport::Udp, "192.0.2.2:2000", 65_535);
            network.unsignaled(B, host, "192.0.2.2:2000");
        } else {
            network.host(B, "192.0.2.2:2000");
        }
        network.start_both();
        assert!(network.run_until(SECOND * 3, Network::are_completed));
        let before = network.pair(A);
        network.input(A, Input::AllocationLost { relayed: relayed.parse().unwrap() });
        network.run(SECOND);
        network.relay(A, relayed);
        assert!(network.run_until(SECOND * 3, |n| n.agents[A].selected_pair().is_some()), "discovered {discovered}");
        assert_eq!(network.pair(A), before);
        assert!(!network.has_event(A, |event| matches!(event, EventKind::IceRestarted { .. })));
    }
}

#[test]
fn the_time_limit_fails_an_agent_without_a_pair_and_spares_one_with() {
    let mut lone = Lone::new(Role::Controlling).meet();
    lone.candidate("192.0.2.2:2000");
    lone.network.input(A, Input::TimeLimit);
    assert_eq!(state_changes(&lone.network, A).pop(), Some((IceState::Failed, IceStateReason::TimeLimit)));
    let mut lone = Lone::new(Role::Controlling).meet();
    lone.candidate("192.0.2.2:2000");
    lone.answer("192.0.2.2:2000");
    lone.network.input(A, Input::TimeLimit);
    assert_eq!(lone.network.agents[A].state(), IceState::Connected);
}

#[test]
fn a_closed_agent_does_nothing_more() {
    let mut lone = Lone::new(Role::Controlling).meet();
    lone.candidate("192.0.2.2:2000");
    lone.network.input(A, Input::Close);
    let sent = lone.sent();
    lone.check("192.0.2.2:2000", false);
    lone.network.run(SECOND * 60);
    assert_eq!((lone.sent(), lone.network.agents[A].state()), (sent, IceState::Closed));
}

#[test]
fn either_side_may_be_seconds_ahead() {
    for (first, gap) in [(A, 1), (B, 1), (A, 10), (B, 10)] {
        let mut network = Network::new(1, Link { loss: 10, ..Link::of_delay(50) });
        network.natted(A, "10.0.0.1:1000", "198.51.100.1:7000");
        network.natted(B, "10.0.0.2:2000", "198.51.100.2:8000");
        network.describe(1 - first);
        network.done(1 - first);
        network.run(SECOND * gap);
        network.describe(first);
        network.done(first);
        assert!(network.run_until(SECOND * 5, Network::are_completed), "first {first}, {gap} s");
    }
}
