//! Role conflict, restart, relay-only, and either side first.

use std::time::Duration;

use whyrelay_core::nat::behavior::{Behavior, FilteringBehavior as Filtering, MappingBehavior as Mapping};
use whyrelay_core::trace::event::{EventKind, Role};
use whyrelay_lab::world::{Link, Path, Router, Setup, Site};

use crate::{decisions, expect_path, observe, runs};

fn home() -> Site {
    Site::behind(vec![Router::nat(Behavior::new(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent))])
}

fn symmetric() -> Site {
    let behavior = Behavior::new(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent);
    Site::behind(vec![Router::nat(behavior)])
}

#[test]
fn a_role_conflict_ends_with_one_of_each() {
    for role in [Role::Controlling, Role::Controlled] {
        for tie_breakers in [(Some(1), Some(2)), (Some(2), Some(1)), (None, None)] {
            for (b, path) in [(home(), Path::Direct), (symmetric(), Path::Relayed)] {
                for seed in 0..runs(10) {
                    let mut setup = Setup::new(seed, home(), b.clone());
                    (setup.offerer.role, setup.answerer.role) = (role, role);
                    (setup.offerer.tie_breaker, setup.answerer.tie_breaker) = tie_breakers;
                    let outcome = observe(&setup);
                    expect_path(&setup, &outcome, path);
                    assert_ne!(outcome.a.role, outcome.b.role, "{setup:?}");
                    let conflicts = outcome.a.events.iter().chain(&outcome.b.events);
                    let switched =
                        conflicts.filter(|event| matches!(event.kind, EventKind::RoleConflict { .. })).count();
                    assert!(switched >= 1, "{setup:?}");
                }
            }
        }
    }
}

#[test]
fn a_restart_by_either_side_ends_on_the_same_path() {
    for (b, path) in [(home(), Path::Direct), (symmetric(), Path::Relayed)] {
        for by_offerer in [true, false] {
            for later in [Duration::ZERO, Duration::from_secs(2)] {
                for seed in 0..runs(5) {
                    let mut setup = Setup::new(seed, home(), b.clone());
                    setup.restart = Some((later, by_offerer));
                    let outcome = observe(&setup);
                    expect_path(&setup, &outcome, path);
                    assert_eq!((outcome.a.generation, outcome.b.generation), (1, 1), "{}", decisions(&outcome));
                }
            }
        }
    }
}

#[test]
fn a_restart_survives_loss() {
    for seed in 0..runs(50) {
        let mut setup = Setup::new(seed, home(), home());
        setup.a.link = Link::with_delay(Duration::from_millis(10)).losing(10);
        setup.restart = Some((Duration::from_secs(1), seed % 2 == 0));
        expect_path(&setup, &observe(&setup), Path::Direct);
    }
}

#[test]
fn relay_only_on_one_side_relays() {
    for (offerer, answerer) in [(true, false), (false, true), (true, true)] {
        let mut setup = Setup::new(2, Site::public(), Site::public());
        (setup.offerer.relay_only, setup.answerer.relay_only) = (offerer, answerer);
        expect_path(&setup, &observe(&setup), Path::Relayed);
    }
}

#[test]
fn turn_over_tcp_alone_relays() {
    let mut setup = Setup::new(2, symmetric(), symmetric());
    for peer in [&mut setup.offerer, &mut setup.answerer] {
        (peer.turn_udp, peer.turn_tcp) = (false, true);
    }
    expect_path(&setup, &observe(&setup), Path::Relayed);
}

#[test]
fn either_side_may_start_first() {
    for (offerer, answerer) in [(0, 5000), (5000, 0), (0, 100), (100, 0)] {
        for (b, path) in [(home(), Path::Direct), (symmetric(), Path::Relayed)] {
            let mut setup = Setup::new(9, home(), b);
            setup.offerer.starts = Duration::from_millis(offerer);
            setup.answerer.starts = Duration::from_millis(answerer);
            expect_path(&setup, &observe(&setup), path);
        }
    }
}
