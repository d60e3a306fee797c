//! The scenarios: each with both recordings, and with one side's alone.

use std::collections::BTreeMap;

use whyrelay_core::diagnosis::evidence::Evidence;
use whyrelay_core::diagnosis::finding::{Blame, Finding, Severity};
use whyrelay_core::diagnosis::rules::{RULES, diagnose};
use whyrelay_core::diagnosis::session::Session;
use whyrelay_core::trace::event::Vantage;

use super::{Counts, SYMPTOMS};
use crate::run::{cannot_virtually, judge, run_virtual};
use crate::scenario::file::{self, Path};
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
            // Effects of an expected cause are no mistake where the scenario names them.
            let allowed = named(&topology.expect.also, rule.name);
            self.by_rule.entry(rule.name).or_default().count(should, fired, fired && !should && !allowed);
        }
        for vantage in [Vantage::A, Vantage::B] {
            let evidence = Evidence::of(observed.events.iter().filter(|event| event.vantage == vantage));
            for finding in diagnose(&Session::of(&evidence)).findings {
                let known = SYMPTOMS.contains(&finding.name) || named(&found, finding.name);
                if finding.severity != Severity::Info && !known && !excused(topology, vantage, &finding) {
                    let (side, blame) = (vantage.name(), finding.blame.name());
                    self.misses.push(format!("scenario {name}, {side} alone: {} ({blame}) is wrong", finding.name));
                }
            }
        }
    }
}

/// What one side cannot tell apart from the cause as long as it does not know what the other saw.
fn excused(topology: &Topology, vantage: Vantage, finding: &Finding) -> bool {
    let pairs = [
        ("replies-dropped-in-front", "udp-blocked"),
        ("replies-dropped-in-front", "stun-server-silent"),
        ("input-firewall-drops", "checks-rejected-on-the-way"),
    ];
    // What comes to the interface of the other side all the same, only its own recording shows: where the scenario has both.
    if finding.name == "endpoint-dependent-mapping" && topology.expect.also.iter().any(|also| also == finding.name) {
        return true;
    }
    let expected = |cause: &str| topology.expect.finding.iter().find(|expected| expected.name == cause);
    let looks_like = pairs.iter().any(|(cause, seen)| *seen == finding.name && expected(cause).is_some());
    // All that it hears may be its own router, which refuses.
    let heard = ["stun-server-silent", "checks-rejected-on-the-way"].contains(&finding.name);
    looks_like
        || (hears_nothing(topology, vantage) || asks_one_port(topology, vantage))
            && heard
            && finding.blame == Blame::Path
}

/// Whether this side, whose network lets no UDP out, asks one port over UDP only, as with TURN over TLS: it may be closed
/// at the server as well.
fn asks_one_port(topology: &Topology, vantage: Vantage) -> bool {
    topology.server.faults.certificate.is_some() && is_blocked(topology, vantage)
}

/// Whether this side hears nothing over UDP, nor over TCP, or there would be a relayed path: then its network may be
/// closed and its servers may be dead. To blame a server for that would be wrong all the same, and so it would be on the
/// other side.
fn hears_nothing(topology: &Topology, vantage: Vantage) -> bool {
    topology.expect.path == Path::Failed && is_blocked(topology, vantage)
}

fn is_blocked(topology: &Topology, vantage: Vantage) -> bool {
    let blocked = topology.expect.finding.iter().find(|expected| expected.name == "udp-blocked");
    let own = match vantage {
        Vantage::A => file::Blame::A,
        Vantage::B => file::Blame::B,
    };
    blocked.is_some_and(|blocked| blocked.blame == Some(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hears_nothing_may_say_that_servers_are_silent_and_may_blame_none_of_them() {
        let topology = |path: &str| {
            let text = format!(
                "title = \"t\"\n[host.a]\n[host.b]\n[expect]\npath = \"{path}\"\n\
                 [[expect.finding]]\nname = \"udp-blocked\"\nblame = \"a\"\n"
            );
            Scenario::parse("test", &text).unwrap_or_else(|error| panic!("{error}")).topology
        };
        assert!(hears_nothing(&topology("failed"), Vantage::A));
        assert!(!hears_nothing(&topology("failed"), Vantage::B), "the other side hears");
        assert!(!hears_nothing(&topology("relayed"), Vantage::A), "over TCP it hears");
        // A finding of this name that blames the relay, and one that blames the path.
        let named = |blame| {
            let observed = run_virtual(
                &Scenario::find("link-loses-everything").unwrap_or_else(|error| panic!("{error}")).topology,
            );
            let evidence = Evidence::of(observed.events.iter().filter(|event| event.vantage == Vantage::A));
            let mut findings = diagnose(&Session::of(&evidence)).findings.into_iter();
            let mut finding =
                findings.find(|finding| finding.name == "stun-server-silent").unwrap_or_else(|| panic!("it is silent"));
            finding.blame = blame;
            finding
        };
        assert!(excused(&topology("failed"), Vantage::A, &named(Blame::Path)));
        assert!(!excused(&topology("failed"), Vantage::A, &named(Blame::Relay)));
        assert!(!excused(&topology("failed"), Vantage::B, &named(Blame::Path)));
        // With TURN over TLS it asks one port over UDP.
        let mut over_tls = topology("relayed");
        assert!(!excused(&over_tls, Vantage::A, &named(Blame::Path)));
        over_tls.server.faults.certificate = Some(file::Certificate::Good);
        assert!(excused(&over_tls, Vantage::A, &named(Blame::Path)));
        assert!(!excused(&over_tls, Vantage::A, &named(Blame::Relay)));
        assert!(!excused(&over_tls, Vantage::B, &named(Blame::Path)));
    }
}
