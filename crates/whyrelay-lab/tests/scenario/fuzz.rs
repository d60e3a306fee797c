//! Random worlds come out as they must, and one that does not is handed out as a scenario that shows it again.

use whyrelay_core::diagnosis::finding::{Finding, Severity};
use whyrelay_core::nat::behavior::{FilteringBehavior, MappingBehavior, PortAllocation};
use whyrelay_lab::fuzz::{FAULTS, Kind, Leaves, World, generate, shrink_by, try_world};
use whyrelay_lab::run::{Observed, judge, run_virtual};
use whyrelay_lab::scenario::file::Path;
use whyrelay_lab::scenario::topology::Translation;
use whyrelay_lab::scenario::{LARGEST_SEED, Scenario, Topology};
use whyrelay_lab::work;

/// A laboratory with its diagnosis.
type Run = dyn Fn(&Topology) -> Observed;

/// What is wrong with a world that is run so.
fn problems(seed: u64, kind: Kind, run: &Run) -> Vec<String> {
    try_world(&generate(seed, kind), run).unwrap_or_else(|error| panic!("seed {seed}: {error}")).problems
}

#[test]
fn hundreds_of_random_worlds_come_out_as_theory_says() {
    let worlds: Vec<(Kind, u64)> =
        (1..=600).map(|seed| (Kind::Theory, seed)).chain((1..=300).map(|seed| (Kind::Healthy, seed))).collect();
    let wrong_with = |(kind, seed): &(Kind, u64)| {
        let problems = problems(*seed, *kind, &run_virtual);
        (!problems.is_empty()).then(|| format!("{kind:?}, seed {seed}: {}", problems.join("; ")))
    };
    let wrong = work::each(&worlds, work::cores(), wrong_with, |_| ());
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{} of {} worlds:\n{}", wrong.len(), worlds.len(), wrong.join("\n"));
}

/// Faults that keep a path from being direct, or a relay from being had, do that and nothing else, whatever the diagnosis
/// makes of it: also where the one hides the other, and both on one side.
#[test]
fn a_world_with_faults_comes_to_the_path_that_they_leave() {
    let kinds = [(Kind::Faults(1), 240), (Kind::Faults(2), 120), (Kind::AnyFaults(2), 120), (Kind::OneSide(2), 120)];
    let mut worlds: Vec<(Kind, u64)> =
        kinds.into_iter().flat_map(|(kind, worlds)| (1..=worlds).map(move |seed| (kind, seed))).collect();
    // A relay whose address is wrong reaches the peer's router and not the peer, who takes what it asked for alone.
    worlds.push((Kind::Faults(2), 2858));
    let of_path = |(kind, seed): &(Kind, u64)| {
        let world = generate(*seed, *kind);
        let tried = try_world(&world, &run_virtual).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let wrong: Vec<_> = tried.problems.into_iter().filter(|problem| problem.starts_with("the path is ")).collect();
        let planted: Vec<_> = world.planted.iter().map(|planted| planted.fault.name).collect();
        let told = (!wrong.is_empty()).then(|| format!("{kind:?}, seed {seed}, {planted:?}: {}", wrong.join("; ")));
        (tried.scenario.topology.expect.path, told)
    };
    let results = work::each(&worlds, work::cores(), of_path, |_| ());
    let wrong: Vec<&str> = results.iter().filter_map(|(_, told)| told.as_deref()).collect();
    assert!(wrong.is_empty(), "{} of {} worlds:\n{}", wrong.len(), worlds.len(), wrong.join("\n"));
    for path in [Path::Direct, Path::Relayed, Path::Failed] {
        let expected = results.iter().filter(|(expected, _)| *expected == path).count();
        assert!(expected > 2, "{path:?} is expected of {expected} worlds");
    }
}

/// Of all faults only those that refuse one address of the peer's may leave either path.
#[test]
fn only_a_fault_that_refuses_one_address_leaves_either_path() {
    let either: Vec<&str> =
        FAULTS.iter().filter(|fault| fault.leaves == Leaves::OtherAddresses).map(|fault| fault.name).collect();
    assert!(either.iter().all(|name| name.starts_with("route-") || name.starts_with("rule-")), "{either:?}");
    for fault in FAULTS {
        let refuses_one = fault.piece.contains("to = \"peer\"\n");
        assert_eq!(fault.leaves == Leaves::OtherAddresses, refuses_one, "{}", fault.name);
    }
}

/// A laboratory whose hosts have no rules, routes or filters of their own, so that nothing planted there does anything.
fn without_host_faults(topology: &Topology) -> Observed {
    let mut topology = topology.clone();
    for host in &mut topology.hosts {
        (host.rules, host.routes, host.firewall) = (Vec::new(), Vec::new(), Vec::new());
        host.conntrack_full = false;
        host.wrong_checksum = None;
    }
    run_virtual(&topology)
}

/// A laboratory whose server relays nothing.
fn without_relay(topology: &Topology) -> Observed {
    let mut topology = topology.clone();
    topology.server.faults.turn = false;
    run_virtual(&topology)
}

/// A laboratory whose routers are not what they say: each has a port for every destination.
fn with_broken_routers(topology: &Topology) -> Observed {
    let mut topology = topology.clone();
    for router in &mut topology.routers {
        if let Translation::Nat(behavior) = &mut router.translation {
            behavior.mapping = MappingBehavior::AddressAndPortDependent;
            behavior.filtering = FilteringBehavior::AddressAndPortDependent;
            behavior.ports = PortAllocation::Random;
            behavior.overloading = false;
        }
    }
    run_virtual(&topology)
}

/// A diagnosis that does not see what keeps the path from being direct: its root cause is never found.
fn without_the_first_finding(topology: &Topology) -> Observed {
    let mut observed = run_virtual(topology);
    let findings = &mut observed.report.findings;
    if let Some(first) = findings.iter().position(|finding| finding.severity != Severity::Info) {
        findings.remove(first);
    }
    observed
}

/// A diagnosis that blames a firewall of A for everything, before all else.
fn with_a_finding_of_nothing(topology: &Topology) -> Observed {
    let mut observed = run_virtual(topology);
    observed.report.findings.insert(0, made_up());
    observed
}

fn made_up() -> Finding {
    let scenario = Scenario::find("input-drop").unwrap_or_else(|error| panic!("{error}"));
    let findings = run_virtual(&scenario.topology).report.findings;
    let found = findings.into_iter().find(|finding| finding.name == "input-firewall-drops");
    found.unwrap_or_else(|| panic!("input-drop has no such finding"))
}

/// What `lab fuzz` prints, read again as `lab run` reads it: with the fault that was planted in the laboratory or in the
/// diagnosis it is wrong in the very same way, and without it nothing is.
#[test]
fn the_file_of_a_wrong_world_shows_it_again_and_passes_once_the_fault_is_mended() {
    let broken: [(&str, &Run, &[Kind]); 5] = [
        ("routers", &with_broken_routers, &[Kind::Theory, Kind::Healthy]),
        ("hosts", &without_host_faults, &[Kind::Faults(1), Kind::Faults(2)]),
        ("relay", &without_relay, &[Kind::Faults(1), Kind::Faults(2)]),
        ("nothing found", &without_the_first_finding, &[Kind::Faults(1), Kind::Faults(2)]),
        ("found in vain", &with_a_finding_of_nothing, &[Kind::Theory, Kind::Healthy, Kind::Faults(1), Kind::Faults(2)]),
    ];
    for (fault, run, kinds) in broken {
        for kind in kinds {
            let right = |seed: &u64| problems(*seed, *kind, &run_virtual).is_empty();
            let is_wrong = |seed: &u64| !problems(*seed, *kind, run).is_empty();
            let wrong: Vec<u64> = (1..=200).filter(|seed| is_wrong(seed) && right(seed)).take(4).collect();
            assert_eq!(wrong.len(), 4, "{fault}, {kind:?}: hardly any world is wrong");
            for seed in wrong {
                let context = format!("{fault}, {kind:?}, seed {seed}");
                let tried = |world: &World| try_world(world, run).unwrap_or_else(|error| panic!("{context}: {error}"));
                let small = tried(&shrink_by(&generate(seed, *kind), &|world| tried(world).problems));
                let text = small.scenario.to_toml().unwrap_or_else(|error| panic!("{error}"));
                let again =
                    Scenario::parse("again", &text).unwrap_or_else(|error| panic!("{context}: {error}\n{text}"));
                assert!(!small.problems.is_empty(), "{context}: it is right\n{text}");
                let shown = judge(&again.topology, &run(&again.topology)).problems;
                assert_eq!(shown, small.problems, "{context}\n{text}");
                let mended = judge(&again.topology, &run_virtual(&again.topology)).problems;
                assert_eq!(mended, [""; 0], "{context}: still wrong\n{text}");
            }
        }
    }
}

/// TOML has no integers above 2^63: faults are planted all the same, and what is printed can be read.
#[test]
fn worlds_of_large_seeds_have_their_faults_and_can_be_written() {
    for seed in [1 << 63, u64::MAX, LARGEST_SEED] {
        let world = generate(seed, Kind::Faults(1));
        assert_eq!(world.planted.len(), 1, "{seed}");
        let mut scenario = Scenario::of("fuzz", world.file).unwrap_or_else(|error| panic!("{error}"));
        let text = scenario.to_toml().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(Scenario::parse("fuzz", &text).ok().as_ref(), Some(&scenario), "{text}");
        scenario.file.seed = 1 << 63;
        let said = Scenario::of("fuzz", scenario.file).map_err(|error| error.to_string());
        assert!(said.is_err_and(|said| said.contains("seed") && said.contains("9223372036854775807")));
    }
}
