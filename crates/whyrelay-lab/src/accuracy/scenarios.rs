//! The scenarios: each with both recordings, and with one side's alone.

use std::collections::BTreeMap;

use whyrelay_core::diagnosis::evidence::Evidence;
use whyrelay_core::diagnosis::finding::Severity;
use whyrelay_core::diagnosis::rules::{RULES, diagnose};
use whyrelay_core::diagnosis::session::Session;
use whyrelay_core::trace::event::Vantage;

use super::{Counts, SYMPTOMS};
use crate::run::{cannot_virtually, judge, run_virtual};
use crate::scenario::file::Path;
use crate::scenario::{Scenario, ScenarioError, Topology};

/// What came of all scenarios that a virtual world can express.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scenarios {
    /// How many.
    pub run: u64,
    /// How many came out as they say.
    pub right: u64,
    /// By the name of a rule.
    pub by_rule: BTreeMap<&'static str, Counts>,
    /// What did not, a line each.
    pub misses: Vec<String>,
}

impl Scenarios {
    /// Runs all of them.
    pub fn run() -> Result<Self, ScenarioError> {
        let mut scenarios = Self::default();
        for (name, text) in Scenario::embedded() {
            let scenario = Scenario::parse(name, text)?;
            if cannot_virtually(&scenario.topology).is_none() {
                scenarios.add(&scenario);
            }
        }
        Ok(scenarios)
    }

    fn add(&mut self, scenario: &Scenario) {
        let Scenario { name, topology, .. } = scenario;
        let observed = run_virtual(topology);
        let verdict = judge(topology, &observed);
        self.run += 1;
        self.right += u64::from(verdict.passed());
        for problem in &verdict.problems {
            self.misses.push(format!("scenario {name}: {problem}"));
        }
        let named = |list: &[String], rule: &str| list.iter().any(|name| name == rule);
        let expected: Vec<String> = topology.expect.finding.iter().map(|finding| finding.name.clone()).collect();
        let found: Vec<String> = verdict.findings.iter().map(|finding| finding.name.clone()).collect();
        for rule in RULES {
            let should = named(&expected, rule.name) || named(&expected, rule.code);
            let fired = named(&found, rule.name);
            // Effects of an expected cause are no mistake; where nothing is expected, nothing may be found.
            let allowed = !expected.is_empty() || named(&topology.expect.also, rule.name);
            self.by_rule.entry(rule.name).or_default().count(should, fired, fired && !should && !allowed);
        }
        for vantage in [Vantage::A, Vantage::B] {
            let evidence = Evidence::of(observed.events.iter().filter(|event| event.vantage == vantage));
            for finding in diagnose(&Session::of(&evidence)).findings {
                let known = SYMPTOMS.contains(&finding.name) || named(&found, finding.name);
                if finding.severity != Severity::Info && !known && !excused(topology, &expected, finding.name) {
                    let (side, blame) = (vantage.name(), finding.blame.name());
                    self.misses.push(format!("scenario {name}, {side} alone: {} ({blame}) is wrong", finding.name));
                }
            }
        }
    }
}

/// What one side cannot tell apart from the cause as long as it does not know what the other saw.
fn excused(topology: &Topology, expected: &[String], found: &str) -> bool {
    // A host that hears nothing over TCP either may have a dead server or no network.
    let hears_nothing = topology.expect.path == Path::Failed;
    let dead = ("udp-blocked", "stun-server-silent");
    let pairs = [
        ("replies-dropped-in-front", "udp-blocked"),
        ("replies-dropped-in-front", "stun-server-silent"),
        ("input-firewall-drops", "checks-rejected-on-the-way"),
    ];
    let mut pairs = pairs.into_iter().chain(hears_nothing.then_some(dead));
    pairs.any(|(cause, seen)| seen == found && expected.iter().any(|name| name == cause))
}
