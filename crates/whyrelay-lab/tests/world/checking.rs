//! The same seed gives the same events; recordings hold no secret and read back whole.

use std::time::Duration;

use whyrelay_core::nat::behavior::{Behavior, FilteringBehavior as Filtering, MappingBehavior as Mapping};
use whyrelay_core::trace::recording::Recording;
use whyrelay_lab::world::{Link, Router, Setup, Site, run};

use crate::runs;

fn busy(seed: u64) -> Setup {
    let behavior = Behavior::new(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent);
    let mut a = Site::behind(vec![Router::nat(behavior.clone())]).dual_stack();
    a.link = Link {
        loss: 1500,
        duplication: 1000,
        reordering: 1000,
        held: Duration::from_millis(90),
        jitter: Duration::from_millis(30),
        ..Link::with_delay(Duration::from_millis(15))
    };
    let mut setup = Setup::new(seed, a, Site::behind(vec![Router::nat(behavior)]));
    setup.offerer.turn_tcp = true;
    setup.restart = Some((Duration::from_secs(1), true));
    setup
}

#[test]
fn the_same_seed_gives_the_same_recordings_byte_for_byte() {
    for seed in 0..runs(10) {
        let (one, two) = (run(&busy(seed)), run(&busy(seed)));
        assert!(one.a.recording.len() > 10_000, "there is something to compare");
        assert_eq!(one.a.recording, two.a.recording);
        assert_eq!(one.b.recording, two.b.recording);
    }
}

#[test]
fn another_seed_gives_another_recording() {
    assert_ne!(run(&busy(1)).a.recording, run(&busy(2)).a.recording);
}

#[test]
fn recordings_read_back_whole_and_merge() {
    let outcome = run(&busy(3));
    let read = |text: &str| Recording::read(text.as_bytes()).unwrap();
    let (a, b) = (read(&outcome.a.recording), read(&outcome.b.recording));
    for line in outcome.a.recording.lines() {
        assert_eq!(read(line).unknown, 0, "{line}");
    }
    assert_eq!((a.unknown, a.unreadable, a.cut_off), (0, 0, false));
    assert_eq!(a.events, outcome.a.events);
    let merged = Recording::merge([a, b]).unwrap();
    assert_eq!(merged.events.len(), outcome.a.events.len() + outcome.b.events.len());
}

#[test]
fn no_password_enters_a_recording() {
    let outcome = run(&busy(4));
    for recording in [&outcome.a.recording, &outcome.b.recording] {
        assert!(!recording.contains("lab-password"));
    }
}
