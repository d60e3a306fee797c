//! The diagnosis is as accurate as docs/accuracy.md says: the first worlds of each kind again.

use std::collections::BTreeSet;
use std::path::Path;

use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{Event, EventKind};
use whyrelay_lab::accuracy::{Accuracy, SAMPLE, SEED};
use whyrelay_lab::fuzz::{DECOYS, FAULTS, Kind, World, generate, shrink_by};
use whyrelay_lab::run::run_virtual;
use whyrelay_lab::scenario::Scenario;

#[test]
fn the_first_worlds_reach_the_goals_and_every_miss_is_listed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/accuracy.md");
    let page = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{error}"));
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let accuracy = Accuracy::measure(SAMPLE, SEED, threads).unwrap_or_else(|error| panic!("{error}"));
    let new: Vec<_> = accuracy.misses().into_iter().filter(|miss| !page.contains(miss)).collect();
    assert!(new.is_empty(), "these are not in docs/accuracy.md:\n{}", new.join("\n"));
    assert!(accuracy.first_right() >= 0.99, "first finding: {}", accuracy.first_right());
    assert!(accuracy.both_found() >= 0.95, "both found: {}", accuracy.both_found());
    assert!(accuracy.false_findings() < 0.005, "false findings: {}", accuracy.false_findings());
    // The numbers mean something only as long as most faults keep the path from being direct.
    assert!(accuracy.one.harmless * 10 < accuracy.one.worlds, "{} worlds are direct", accuracy.one.harmless);
}

/// Experiment L1: two Linux routers that accept what comes to themselves, both directions, and one STUN server.
#[test]
fn one_stun_server_is_enough_to_see_that_an_early_packet_took_the_port() {
    let scenario = Scenario::find("early-packet-on-both-sides").unwrap_or_else(|error| panic!("{error}"));
    let mut events = run_virtual(&scenario.topology).events;
    let server = |event: &Event| match &event.kind {
        EventKind::Datagram(datagram) if datagram.remote.port() == 3478 => Some(datagram.remote.ip()),
        _ => None,
    };
    let all: BTreeSet<_> = events.iter().filter_map(server).collect();
    assert_eq!(all.len(), 2, "the server has two addresses");
    let second = all.last().copied();
    events.retain(|event| server(event).is_none() || server(event) != second);
    let findings = Report::from_events(&events).findings;
    let first: Vec<_> = findings.iter().take(2).map(|finding| (finding.name, finding.blame)).collect();
    let name = "port-taken-by-early-packet";
    assert!(!first.is_empty() && first.iter().all(|(found, _)| *found == name), "{first:?}");
}

#[test]
fn every_fault_is_named_by_a_rule_that_exists() {
    for fault in FAULTS {
        assert!(!fault.findings.is_empty());
        for name in fault.findings.iter().chain(fault.alone) {
            assert!(whyrelay_core::diagnosis::rules::find(name).is_some(), "{}: {name}", fault.name);
        }
    }
}

#[test]
fn every_fault_and_every_decoy_is_planted_sooner_or_later() {
    let mut faults: Vec<&str> = FAULTS.iter().map(|fault| fault.name).collect();
    let mut decoys: Vec<&str> = DECOYS.iter().map(|(name, _)| *name).collect();
    for seed in 0..3000 {
        let worlds = [generate(seed, Kind::Faults(2)), generate(seed, Kind::Healthy)];
        for world in worlds {
            faults.retain(|name| world.planted.iter().all(|planted| planted.fault.name != *name));
            decoys.retain(|name| !world.decoys.contains(name));
        }
        if faults.is_empty() && decoys.is_empty() {
            return;
        }
    }
    panic!("never planted: {faults:?} {decoys:?}");
}

/// What a world is not wrong by goes: the other fault, decoys, and the conditions of links.
#[test]
fn a_wrong_world_is_made_small_down_to_the_fault_that_makes_it_wrong() {
    let mut shrunk = 0;
    for seed in 0..60 {
        let world = generate(seed, Kind::Faults(2));
        let [first, second] = world.planted[..] else { continue };
        let kept = if seed % 2 == 0 { first } else { second };
        let there = |world: &World| {
            let is = |name: &&str| *name == kept.fault.name;
            world
                .planted
                .iter()
                .map(|planted| planted.fault.name)
                .filter(is)
                .map(|name| format!("{name} {seed}"))
                .collect()
        };
        let small = shrink_by(&world, &there);
        let left: Vec<(&str, usize)> = small.planted.iter().map(|planted| (planted.fault.name, planted.side)).collect();
        assert_eq!(left, [(kept.fault.name, kept.side)], "seed {seed}");
        assert!(small.decoys.is_empty(), "seed {seed}: {:?}", small.decoys);
        let links = small.file.host.values().filter(|host| host.link.delay.is_some());
        assert_eq!(links.count(), 0, "seed {seed}: {:?}", small.file.host);
        let (before, after) = (world.file.host.len(), small.file.host.len());
        assert_eq!(before, after, "seed {seed}");
        Scenario::of("small", small.file).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        shrunk += 1;
    }
    assert!(shrunk > 30, "only {shrunk} worlds had two faults");
}
