//! The diagnosis is as accurate as docs/accuracy.md says: the first worlds of each kind again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{Event, EventKind};
use whyrelay_lab::accuracy::{Accuracy, SAMPLE, SEED, leaves_trace, score};
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
    let one_side = accuracy.both_seen_on_one_side();
    assert!(one_side >= 0.95, "both found, or without a trace, on one side: {one_side}");
    assert!(accuracy.false_findings() < 0.005, "false findings: {}", accuracy.false_findings());
    assert!(accuracy.wrong_alone() == 0.0, "one side alone says something wrong: {}", accuracy.wrong_alone());
    no_rule_is_worse_than_the_page_says(&accuracy, &page);
    // The numbers mean something only as long as most faults keep the path from being direct.
    assert!(accuracy.one.harmless * 10 < accuracy.one.worlds, "{} worlds are direct", accuracy.one.harmless);
}

/// These worlds are some of those that the page counts: of none of its rows can more be missed or wrong here than there.
fn no_rule_is_worse_than_the_page_says(accuracy: &Accuracy, page: &str) {
    let rows = counted(page);
    assert!(rows.len() >= 30, "only {} rules have a row in docs/accuracy.md", rows.len());
    let rules = accuracy.rules();
    let mut worse = Vec::new();
    for (name, counts) in &rules {
        let (missed, wrong) = (counts.should - counts.fired, counts.wrong);
        let [may_miss, may_be_wrong] = rows.get(*name).copied().unwrap_or_default();
        if missed > may_miss || wrong > may_be_wrong {
            worse.push(format!("{name}: {missed} missed of {}, {wrong} for nothing", counts.should));
        }
    }
    for name in rows.keys() {
        if rules.get(name.as_str()).is_none_or(|counts| counts.fired == 0) {
            worse.push(format!("{name}: nothing here fires it"));
        }
    }
    assert!(worse.is_empty(), "worse than docs/accuracy.md says:\n{}", worse.join("\n"));
}

/// The table "By rule": how often each missed its fault, and how often it fired for nothing.
fn counted(page: &str) -> BTreeMap<String, [u64; 2]> {
    let missing = |cell: &str| {
        let (part, whole) = cell.trim().split_once(" of ")?;
        whole.parse::<u64>().ok()?.checked_sub(part.parse().ok()?)
    };
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| WR")?.split('|');
        let (_, name) = cells.next()?.trim().split_once(' ')?;
        Some((name.to_owned(), [missing(cells.next()?)?, missing(cells.next()?)?]))
    };
    page.lines().filter_map(row).collect()
}

#[test]
fn a_rule_that_got_worse_is_told_by_the_page() {
    let page = "| WR101 one | 3 of 4 | 9 of 9 |\n| WR102 two | 5 of 5 | 8 of 9 |\n";
    let rows = counted(page);
    assert_eq!((rows["one"], rows["two"]), ([1, 0], [0, 1]));
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
fn two_faults_are_planted_on_one_side() {
    let mut pairs = BTreeSet::new();
    for seed in 0..200 {
        let world = generate(seed, Kind::OneSide(2));
        let [one, two] = world.planted[..] else { continue };
        assert_eq!(one.side, two.side, "seed {seed}");
        assert!(one.fault.is_of_side() && two.fault.is_of_side(), "{} + {}", one.fault.name, two.fault.name);
        pairs.insert((one.fault.name, two.fault.name));
    }
    assert!(pairs.len() > 100, "{}", pairs.len());
}

/// A rule that selects by the mark leads all of a side's packets to a dead uplink, those for the servers as well; beside
/// it something else diverts those for the peer. That the servers say nothing is neither theirs nor the network's fault.
#[test]
fn a_mark_that_leads_nowhere_is_found_beside_another_diversion() {
    let world = generate(342, Kind::OneSide(2));
    let planted: Vec<_> = world.planted.iter().map(|planted| planted.fault.name).collect();
    assert!(planted.contains(&"mark-to-dead-uplink"), "{planted:?}");
    let scenario = Scenario::of("fuzz", world.file.clone()).unwrap_or_else(|error| panic!("{error}"));
    let score = score(&world, &run_virtual(&scenario.topology));
    assert!(score.wrong.is_empty() && score.wrong_alone.is_empty(), "{planted:?}: {score:?}");
    assert!(score.findings.iter().any(|found| found.starts_with("mark-rule-collision")), "{planted:?}: {score:?}");
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

#[test]
fn a_fault_alone_leaves_a_trace_and_one_that_another_hides_may_leave_none() {
    let observe = |world: &World| {
        run_virtual(&Scenario::of("fuzz", world.file.clone()).unwrap_or_else(|error| panic!("{error}")).topology)
    };
    for seed in 1..=12 {
        let world = generate(seed, Kind::Faults(1));
        let observed = observe(&world);
        let harmful = !score(&world, &observed).harmless;
        let names: Vec<_> = world.planted.iter().map(|planted| planted.fault.name).collect();
        assert!(!harmful || leaves_trace(&world, &observed, 0), "{names:?} of seed {seed} left no trace");
    }
    let hidden = (1..=40).filter(|seed| {
        let world = generate(*seed, Kind::AnyFaults(2));
        let observed = observe(&world);
        let score = score(&world, &observed);
        let untraced = (0..world.planted.len()).filter(|at| !leaves_trace(&world, &observed, *at));
        // What is found has left a trace, unless the host's own rules and routes prove what another hides.
        let proven = observed.report.findings.iter().any(|finding| finding.hidden);
        let unseen: Vec<bool> = untraced.map(|at| !score.found[at]).collect();
        assert!(proven || !unseen.contains(&false), "seed {seed}: found, and left no trace");
        !unseen.is_empty()
    });
    assert!(hidden.count() > 0, "nothing is ever hidden");
}
