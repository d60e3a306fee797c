//! The proof of a direct path is one: a session that needs the relay does not survive its cut, whatever is said of it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{LIMIT, Outcome, Path, from_topology, happen};
use crate::run::observe;
use crate::scenario::Scenario;

/// A scenario, with the relay cut or not, whatever its path is.
fn run(name: &str, cut: bool) -> Outcome {
    let scenario = Scenario::find(name).unwrap_or_else(|error| panic!("{error}"));
    happen(from_topology::build(&scenario.topology), LIMIT, &AtomicBool::new(false), |_| cut)
}

fn said_to_be(path: Path, outcome: &Outcome) -> Outcome {
    let mut outcome = outcome.clone();
    (outcome.a.path, outcome.b.path) = (path, path);
    outcome
}

#[test]
fn the_cut_ends_a_relayed_session_and_leaves_a_direct_one() {
    for (name, path, survives) in [("symmetric-against-home", Path::Relayed, false), ("two-homes", Path::Direct, true)]
    {
        let (whole, cut) = (run(name, false), run(name, true));
        assert_eq!((whole.path(), cut.path()), (Some(path), Some(path)), "{name}");
        assert!(whole.a.data_received > 0 && whole.b.data_received > 0, "{name}: no data although nothing is cut");
        assert_eq!(cut.a.data_received > 0 && cut.b.data_received > 0, survives, "{name}: {cut:?}");
        assert_eq!((cut.relay_cut, whole.relay_cut), (true, false), "{name}");
    }
}

#[test]
fn a_world_ends_in_the_middle_when_it_is_interrupted() {
    let scenario = Scenario::find("two-homes").unwrap_or_else(|error| panic!("{error}"));
    let interrupted = AtomicBool::new(false);
    let ended = happen(from_topology::build(&scenario.topology), LIMIT, &interrupted, |_| {
        interrupted.store(true, Ordering::Relaxed);
        false
    });
    assert_eq!(ended.path(), Some(Path::Direct), "it was connected when the flag was set");
    assert_eq!((ended.a.data_received, ended.b.data_received), (0, 0));
}

#[test]
fn a_path_that_is_not_what_is_said_of_it_is_told() {
    let (whole, cut) = (run("symmetric-against-home", false), run("symmetric-against-home", true));
    // Nothing is wrong with what is true.
    assert_eq!(observe(whole.clone()).unproven(), [""; 0]);
    assert_eq!(observe(run("two-homes", true)).unproven(), [""; 0]);
    // A relayed path that is called direct, cut as such and not; a direct one without the proof; one called relayed.
    for (outcome, told) in [
        (said_to_be(Path::Direct, &cut), "connected, and yet no data arrived"),
        (said_to_be(Path::Direct, &whole), "direct, and yet the relay carried data"),
        (said_to_be(Path::Direct, &whole), "the relay was not cut"),
        (run("two-homes", false), "the relay was not cut"),
        (said_to_be(Path::Relayed, &run("two-homes", false)), "relayed, and yet the relay carried nothing"),
        (said_to_be(Path::Failed, &whole), "failed, and yet data arrived"),
    ] {
        let problems = observe(outcome).unproven();
        assert!(problems.iter().any(|problem| problem.contains(told)), "{told:?} is not in {problems:?}");
    }
}
