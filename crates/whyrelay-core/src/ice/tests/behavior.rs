//! One behavior, one test.

use std::time::Duration;

use crate::ice::candidate::{CandidateAddress, CandidateType};
use crate::ice::{Credentials, Input};
use crate::random::Random;
use crate::trace::event::{EventKind, IceState, Side};

use super::host;
use super::network::{A, B, Happening, Link, Network};

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
