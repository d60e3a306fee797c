//! Loss, delay, jitter, reordering, duplication; and how fast a session ends that cannot connect.

use std::time::Duration;

use whyrelay_core::nat::behavior::{Behavior, FilteringBehavior as Filtering, MappingBehavior as Mapping};
use whyrelay_lab::world::{Egress, Link, Outcome, Path, Router, Setup, Site};

use crate::{decisions, expect_path, observe, runs};

fn nat(mapping: Mapping) -> Router {
    Router::nat(Behavior::new(mapping, Filtering::AddressAndPortDependent))
}

/// A direct pair of networks and a relayed one, with a link in the offerer's way to the Internet.
fn networks(link: Link) -> [(Site, Site, Path); 2] {
    let mut router = nat(Mapping::EndpointIndependent);
    router.link = link;
    let a = Site::behind(vec![router]);
    let b = |mapping| Site::behind(vec![nat(mapping)]);
    [
        (a.clone(), b(Mapping::EndpointIndependent), Path::Direct),
        (a, b(Mapping::AddressAndPortDependent), Path::Relayed),
    ]
}

#[test]
fn delays_from_one_millisecond_to_one_second_change_nothing() {
    for milliseconds in [1, 5, 20, 50, 100, 200, 350, 500, 750, 1000] {
        let delay = Duration::from_millis(milliseconds);
        for (a, b, path) in networks(Link::with_delay(delay)) {
            for seed in 0..runs(4) {
                let mut setup = Setup::new(seed, a.clone(), b.clone());
                setup.offerer.signaling_delay = delay;
                setup.answerer.signaling_delay = delay;
                expect_path(&setup, &observe(&setup), path);
            }
        }
    }
}

#[test]
fn duplicates_reordering_and_jitter_change_nothing() {
    let link = Link::with_delay(Duration::from_millis(20));
    let links = [
        Link { duplication: 10_000, ..link },
        Link { duplication: 3000, jitter: Duration::from_millis(80), ..link },
        Link { reordering: 5000, held: Duration::from_millis(150), ..link },
        Link { jitter: Duration::from_millis(400), ..link },
        Link {
            duplication: 5000,
            reordering: 3000,
            held: Duration::from_millis(300),
            jitter: Duration::from_millis(100),
            ..link
        },
    ];
    for link in links {
        for (a, b, path) in networks(link) {
            for seed in 0..runs(20) {
                let setup = Setup::new(seed, a.clone(), b.clone());
                expect_path(&setup, &observe(&setup), path);
            }
        }
    }
}

/// Loss is luck: below 30 % nearly every session must end as it would without, and none may end apart.
#[test]
fn with_loss_up_to_thirty_percent_sessions_connect() {
    for (percent, bound) in [(5, 0), (10, 0), (20, 1), (30, 3)] {
        for (a, b, path) in networks(Link::with_delay(Duration::from_millis(20)).losing(percent)) {
            let count = runs(100);
            let mut otherwise: Vec<(u64, Path, Path)> = Vec::new();
            for seed in 0..count {
                let setup = Setup::new(seed, a.clone(), b.clone());
                let outcome = observe(&setup);
                if (outcome.a.path, outcome.b.path) != (path, path) {
                    otherwise.push((seed, outcome.a.path, outcome.b.path));
                }
            }
            let allowed = count * bound / 100;
            assert!(otherwise.len() as u64 <= allowed, "{percent} % loss, {path:?} expected: {otherwise:?} of {count}");
        }
    }
}

fn failed_after(outcome: &Outcome) -> Duration {
    let ended = [&outcome.a, &outcome.b].map(|peer| peer.failed_after);
    ended.into_iter().map(|ended| ended.unwrap_or(Duration::MAX)).max().unwrap_or(Duration::MAX)
}

/// "Failed" is said within three seconds of silence, where Pion takes thirty.
#[test]
fn a_session_that_cannot_connect_fails_promptly() {
    let blocked = Site::behind(vec![nat(Mapping::EndpointIndependent).letting_out(Egress::UdpTo(vec![3478]))]);
    let symmetric = || Site::behind(vec![nat(Mapping::AddressAndPortDependent)]);
    for (a, b) in [(symmetric(), symmetric()), (blocked.clone(), Site::public()), (blocked.clone(), blocked)] {
        for seed in 0..runs(10) {
            let mut setup = Setup::new(seed, a.clone(), b.clone());
            setup.offerer.turn_udp = false;
            setup.answerer.turn_udp = false;
            let outcome = observe(&setup);
            expect_path(&setup, &outcome, Path::Failed);
            assert!(
                failed_after(&outcome) < Duration::from_secs(3),
                "{:?} {setup:?}\n{}",
                failed_after(&outcome),
                decisions(&outcome)
            );
        }
    }
}

#[test]
fn a_patient_session_takes_the_rfcs_time_to_fail() {
    let symmetric = || Site::behind(vec![nat(Mapping::AddressAndPortDependent)]);
    let mut setup = Setup::new(1, symmetric(), symmetric());
    for peer in [&mut setup.offerer, &mut setup.answerer] {
        peer.turn_udp = false;
        peer.patient = true;
    }
    let outcome = observe(&setup);
    expect_path(&setup, &outcome, Path::Failed);
    let after = failed_after(&outcome);
    assert!(after >= Duration::from_millis(39_500) && after < Duration::from_secs(60), "{after:?}");
}
