//! Every scenario in virtual time comes out as it says.

use whyrelay_lab::run::{judge, path_name, run_virtual};
use whyrelay_lab::scenario::Scenario;
use whyrelay_lab::scenario::file::WorldKind;

fn all() -> Vec<Scenario> {
    let scenarios = Scenario::embedded().iter().map(|(name, text)| Scenario::parse(name, text));
    scenarios.map(|scenario| scenario.unwrap_or_else(|error| panic!("{error}"))).collect()
}

#[test]
fn every_scenario_comes_out_in_virtual_time_as_it_says() {
    let mut wrong = Vec::new();
    for Scenario { topology, .. } in all().iter().filter(|s| s.topology.worlds.contains(&WorldKind::Virtual)) {
        let verdict = judge(topology, &run_virtual(topology));
        if !verdict.passed() {
            let findings: Vec<_> = verdict.findings.iter().map(ToString::to_string).collect();
            let (path, problems) = (path_name(verdict.path), verdict.problems.join("; "));
            wrong.push(format!("{}: {path}; {problems}\n    found: {}", topology.name, findings.join(", ")));
        }
    }
    assert!(wrong.is_empty(), "{} scenarios came out otherwise:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_recordings() {
    for Scenario { topology, .. } in all().iter().take(12) {
        assert_eq!(run_virtual(topology).recordings, run_virtual(topology).recordings, "{}", topology.name);
    }
}
