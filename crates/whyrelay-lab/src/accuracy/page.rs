//! The accuracy of the diagnosis as a page: docs/accuracy.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use whyrelay_core::diagnosis::rules::RULES;

use super::{Counts, Tally, scenarios, score};
use crate::fuzz::{Kind, World, generate};
use crate::run::run_virtual;
use crate::scenario::{Scenario, ScenarioError};

/// How many worlds of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Healthy ones.
    pub healthy: u64,
    /// With one fault.
    pub one: u64,
    /// With two.
    pub two: u64,
}

/// What `cargo xtask accuracy` runs.
pub const FULL: Size = Size { healthy: 2000, one: 10_000, two: 4000 };

/// What CI runs: the first worlds of those.
pub const SAMPLE: Size = Size { healthy: 80, one: 240, two: 120 };

/// The first seed.
pub const SEED: u64 = 1;

/// Everything that was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accuracy {
    /// Worlds in which nothing is wrong.
    pub healthy: Tally,
    /// Worlds with one fault.
    pub one: Tally,
    /// Worlds with two.
    pub two: Tally,
    /// Scenarios.
    pub scenarios: scenarios::Scenarios,
}

/// Runs worlds of one kind on so many threads. The result does not depend on their number.
pub fn tally(kind: Kind, worlds: u64, threads: u64) -> Result<Tally, ScenarioError> {
    let threads = threads.clamp(1, worlds.max(1));
    let each = worlds.div_ceil(threads);
    let part = |thread: u64| {
        let first = SEED + thread * each;
        let last = (first + each).min(SEED + worlds);
        let mut tally = Tally::default();
        for seed in first..last {
            let world: World = generate(seed, kind);
            let Scenario { topology, .. } = Scenario::of("fuzz", world.file.clone())?;
            tally.add(seed, &world, &score(&world, &run_virtual(&topology)));
        }
        Ok(tally)
    };
    let parts: Vec<Result<Tally, ScenarioError>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || part(thread))).collect();
        // A world that panics has shown it already; the rest is of no use without it.
        running.into_iter().filter_map(|part| part.join().ok()).collect()
    });
    let mut sum = Tally::default();
    for part in parts {
        sum.merge(part?);
    }
    Ok(sum)
}

impl Accuracy {
    /// Runs everything.
    pub fn measure(size: Size, threads: u64) -> Result<Self, ScenarioError> {
        Ok(Self {
            healthy: tally(Kind::Healthy, size.healthy, threads)?,
            one: tally(Kind::Faults(1), size.one, threads)?,
            two: tally(Kind::Faults(2), size.two, threads)?,
            scenarios: scenarios::Scenarios::run()?,
        })
    }

    /// The share of worlds with one harmful fault whose first finding names it.
    pub fn first_right(&self) -> f64 {
        share(self.one.first_right, self.one.harmful())
    }

    /// The share of worlds with two harmful faults in which both are found.
    pub fn both_found(&self) -> f64 {
        share(self.two.all_found, self.two.harmful())
    }

    /// The share of findings that name what is not there, in all worlds.
    pub fn false_findings(&self) -> f64 {
        let all = [&self.healthy, &self.one, &self.two];
        share(all.iter().map(|tally| tally.wrong).sum(), all.iter().map(|tally| tally.findings).sum())
    }

    /// The share of worlds of which the account of one side alone says something wrong.
    pub fn wrong_alone(&self) -> f64 {
        let all = [&self.healthy, &self.one, &self.two];
        share(all.iter().map(|tally| tally.wrong_alone).sum(), all.iter().map(|tally| tally.worlds).sum())
    }

    /// Everything that came out wrong, a line each.
    pub fn misses(&self) -> Vec<String> {
        let kinds = [("healthy", &self.healthy), ("one fault", &self.one), ("two faults", &self.two)];
        let worlds = kinds.into_iter().flat_map(|(kind, tally)| {
            tally.misses.iter().map(move |(seed, what)| format!("{kind}, seed {seed}: {what}"))
        });
        worlds.chain(self.scenarios.misses.iter().cloned()).collect()
    }

    fn rules(&self) -> BTreeMap<&'static str, Counts> {
        let mut rules: BTreeMap<&'static str, Counts> = BTreeMap::new();
        let all = [&self.healthy.by_rule, &self.one.by_rule, &self.two.by_rule, &self.scenarios.by_rule];
        for (name, counts) in all.into_iter().flatten() {
            rules.entry(name).or_default().add(*counts);
        }
        rules
    }

    /// The page.
    pub fn markdown(&self) -> String {
        let mut page = String::from(
            "# Accuracy of the diagnosis\n\nWritten by `cargo xtask accuracy` from virtual worlds; the same seeds give the same page. CI runs the first worlds of \
             each kind again and fails when a share falls below its goal or a miss appears that is not listed here.\n\n",
        );
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        let _ = writeln!(page, "| | worlds | result | goal |\n|---|--:|--:|--:|");
        let rows = [
            (
                "first finding is the planted cause (one fault)",
                self.one.harmful(),
                percent(self.first_right()),
                "≥ 99 %",
            ),
            ("both found (two faults)", self.two.harmful(), percent(self.both_found()), "≥ 95 %"),
            (
                "findings that name what is not there (all worlds)",
                self.healthy.worlds + self.one.worlds + self.two.worlds,
                percent(self.false_findings()),
                "< 0.5 %",
            ),
            (
                "worlds of which one side's recording alone says something wrong",
                self.healthy.worlds + self.one.worlds + self.two.worlds,
                percent(self.wrong_alone()),
                "0",
            ),
            (
                "scenarios whose account is as they say",
                self.scenarios.run,
                format!("{} of {}", self.scenarios.right, self.scenarios.run),
                "all",
            ),
        ];
        for (what, worlds, result, goal) in rows {
            let _ = writeln!(page, "| {what} | {worlds} | {result} | {goal} |");
        }
        let _ = writeln!(
            page,
            "\nA world is two places, links with delay and jitter, and what is planted: every kind of fault of [`fuzz::faults`](../crates/whyrelay-lab/src/fuzz/faults.rs), \
             on either side, beside a harmless decoy in every other world. {} worlds with one fault and {} with two were direct all the same and count for the findings only. \
             Two faults are on different sides, and none hides the other: what touches no packet leaves no trace. \
             A finding counts as right when name and blame are; symptoms (checks not arriving, no relay to fall back to) beside the cause are no mistake and no hit.\n",
            self.one.harmless, self.two.harmless
        );
        let _ = writeln!(
            page,
            "## By rule\n\nOver all worlds and scenarios.\n\n| rule | fired when it should | silent when it should |\n|---|--:|--:|"
        );
        let rules = self.rules();
        for rule in RULES {
            let Some(counts) = rules.get(rule.name).filter(|counts| counts.should > 0 || counts.wrong > 0) else {
                continue;
            };
            let silent = counts.worlds - counts.should;
            let _ = writeln!(
                page,
                "| {} {} | {} of {} | {} of {silent} |",
                rule.code,
                rule.name,
                counts.fired,
                counts.should,
                silent - counts.wrong
            );
        }
        let never: BTreeSet<_> = RULES
            .iter()
            .filter(|rule| rules.get(rule.name).is_none_or(|counts| counts.should == 0))
            .map(|rule| rule.code)
            .collect();
        let never: Vec<_> = never.into_iter().collect();
        let _ = writeln!(
            page,
            "\nNot planted, because no virtual world can express it (TLS, packet sizes, other programs, probes) or because it is a symptom; each has a case that fires it in `crates/whyrelay-core/tests/account/cases`: {}.\n",
            never.join(", ")
        );
        let _ = writeln!(
            page,
            "## By fault\n\n| fault | found, alone in its world | found, beside another |\n|---|--:|--:|"
        );
        for (name, (planted, found)) in &self.one.by_fault {
            let beside = self.two.by_fault.get(name).copied().unwrap_or_default();
            let _ = writeln!(page, "| {name} | {found} of {planted} | {} of {} |", beside.1, beside.0);
        }
        for (name, (planted, found)) in &self.two.by_fault {
            if !self.one.by_fault.contains_key(name) {
                let _ = writeln!(page, "| {name} | only shows beside another | {found} of {planted} |");
            }
        }
        let misses = self.misses();
        let _ = writeln!(page, "\n## Misses\n");
        if misses.is_empty() {
            let _ = writeln!(page, "None.");
        }
        for miss in misses {
            let _ = writeln!(page, "- {miss}");
        }
        page
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
