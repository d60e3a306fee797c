//! The accuracy of the diagnosis as a page: docs/accuracy.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use whyrelay_core::diagnosis::rules::RULES;

use super::{Counts, Tally, leaves_trace, scenarios, score};
use crate::fuzz::{FAULTS, Fault, Kind, Shows, World, generate};
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
    /// With two of which one may keep the other from showing.
    pub any: u64,
    /// With two on one side.
    pub one_side: u64,
}

/// What `cargo xtask accuracy` runs.
pub const FULL: Size = Size { healthy: 2000, one: 10_000, two: 4000, any: 0, one_side: 400 };

/// What CI runs: the first worlds of those.
pub const SAMPLE: Size = Size { healthy: 80, one: 240, two: 120, any: 0, one_side: 80 };

/// The first seed.
pub const SEED: u64 = 1;

/// The first of the seeds that no rule was ever tuned on. A range is used up once its misses were read and rules were
/// mended after that: so were those from 1,000,001, 2,000,001, 3,000,001, 4,000,001, 5,000,001, 6,000,001, 7,000,001,
/// 8,000,001 and 9,000,001 on.
pub const HELD_OUT_SEED: u64 = 13_000_001;

/// How many of those.
pub const HELD_OUT: Size = Size { healthy: 500, one: 3000, two: 1500, any: 1500, one_side: 1500 };

/// Everything that was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accuracy {
    /// Worlds in which nothing is wrong.
    pub healthy: Tally,
    /// Worlds with one fault.
    pub one: Tally,
    /// Worlds with two.
    pub two: Tally,
    /// Worlds with two of which one may keep the other from showing.
    pub any: Tally,
    /// Worlds with two on one side.
    pub one_side: Tally,
    /// Scenarios.
    pub scenarios: scenarios::Scenarios,
}

/// The share of worlds with two faults in which both are wanted to be found.
const GOAL: f64 = 0.95;

/// A row of the first table: what it says, of how many worlds, the share, the goal.
type Row = (&'static str, fn(&Accuracy) -> u64, fn(&Accuracy) -> f64, &'static str);

/// What worlds of each kind have, in the order of [`Accuracy::tallies`].
const KINDS: [&str; 5] = ["healthy", "one fault", "two faults", "any two faults", "two faults on one side"];

/// Runs worlds of one kind on so many threads. The result does not depend on their number.
pub fn tally(kind: Kind, begin: u64, worlds: u64, threads: u64) -> Result<Tally, ScenarioError> {
    let threads = threads.clamp(1, worlds.max(1));
    let each = worlds.div_ceil(threads);
    let part = |thread: u64| {
        let first = begin + thread * each;
        let last = (first + each).min(begin + worlds);
        let mut tally = Tally::default();
        for seed in first..last {
            let world: World = generate(seed, kind);
            let Scenario { topology, .. } = Scenario::of("fuzz", world.file.clone())?;
            let observed = run_virtual(&topology);
            let score = score(&world, &observed);
            // Only where faults may hide each other one of them may leave no trace.
            let may_hide = matches!(kind, Kind::AnyFaults(_) | Kind::OneSide(_)) && !score.harmless;
            let untraced = score.found.iter().enumerate();
            let untraced: Vec<bool> =
                untraced.map(|(at, found)| may_hide && !found && !leaves_trace(&world, &observed, at)).collect();
            tally.add(seed, &world, &score, &untraced);
        }
        Ok(tally)
    };
    let mut sum = Tally::default();
    for part in parts(threads, part) {
        sum.merge(part?);
    }
    Ok(sum)
}

/// What each of so many threads makes of its number, in order. A panic in one is a panic here: figures without the
/// worlds of that thread would be about others than the page says.
fn parts<T: Send>(threads: u64, part: impl Fn(u64) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let part = &part;
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || part(thread))).collect();
        let joined = running.into_iter().map(|part| part.join());
        joined.map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

impl Accuracy {
    /// Runs everything, the worlds of the seeds from `begin` on.
    pub fn measure(size: Size, begin: u64, threads: u64) -> Result<Self, ScenarioError> {
        Ok(Self {
            healthy: tally(Kind::Healthy, begin, size.healthy, threads)?,
            one: tally(Kind::Faults(1), begin, size.one, threads)?,
            two: tally(Kind::Faults(2), begin, size.two, threads)?,
            any: tally(Kind::AnyFaults(2), begin, size.any, threads)?,
            one_side: tally(Kind::OneSide(2), begin, size.one_side, threads)?,
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
        let all = self.tallies();
        share(all.iter().map(|tally| tally.wrong).sum(), all.iter().map(|tally| tally.findings).sum())
    }

    /// The share of worlds of which the account of one side alone says something wrong.
    pub fn wrong_alone(&self) -> f64 {
        let all = self.tallies();
        share(all.iter().map(|tally| tally.wrong_alone).sum(), all.iter().map(|tally| tally.worlds).sum())
    }

    fn tallies(&self) -> [&Tally; 5] {
        [&self.healthy, &self.one, &self.two, &self.any, &self.one_side]
    }

    /// The share of worlds with two harmful faults on one side in which both are found, or left no trace.
    pub fn both_seen_on_one_side(&self) -> f64 {
        share(self.one_side.all_seen, self.one_side.harmful())
    }

    /// Everything that came out wrong, a line each.
    pub fn misses(&self) -> Vec<String> {
        let worlds = KINDS.into_iter().zip(self.tallies()).flat_map(|(kind, tally)| {
            tally.misses.iter().map(move |(seed, what)| format!("{kind}, seed {seed}: {what}"))
        });
        worlds.chain(self.scenarios.misses.iter().cloned()).collect()
    }

    /// For each rule, by its name, over worlds and scenarios.
    pub fn rules(&self) -> BTreeMap<&'static str, Counts> {
        let mut rules: BTreeMap<&'static str, Counts> = BTreeMap::new();
        let worlds = self.tallies().into_iter().map(|tally| &tally.by_rule);
        for (name, counts) in worlds.chain([&self.scenarios.by_rule]).flatten() {
            rules.entry(name).or_default().add(*counts);
        }
        rules
    }

    fn worlds(&self) -> u64 {
        self.tallies().iter().map(|tally| tally.worlds).sum()
    }

    /// The page, beside what seeds say on which nothing was tuned.
    pub fn markdown(&self, held_out: &Self) -> String {
        let mut page = String::from(
            "# Accuracy of the diagnosis\n\nWritten by `cargo xtask accuracy` from virtual worlds; the same seeds give the same page. CI runs the first worlds of \
             each kind and all scenarios again and fails when a share falls below its goal, when one side alone says something wrong in any of these first worlds (in all of them it may: see the row of it below), when a miss appears that is not listed here, \
             or when a rule misses a fault or fires for nothing more often than its row below says of all worlds.\n\n",
        );
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        let _ = writeln!(page, "| | worlds | result | held-out worlds | result | goal |\n|---|--:|--:|--:|--:|--:|");
        let rows: [Row; 10] = [
            ("first finding is the planted cause (one fault)", |of| of.one.harmful(), Self::first_right, "≥ 99 %"),
            ("both found (two faults)", |of| of.two.harmful(), Self::both_found, "≥ 95 %"),
            (
                "both found (any two faults, one may hide the other)",
                |of| of.any.harmful(),
                |of| share(of.any.all_found, of.any.harmful()),
                "",
            ),
            (
                "both found, but for one that left no trace (any two faults)",
                |of| of.any.harmful(),
                |of| share(of.any.all_seen, of.any.harmful()),
                "≥ 95 %",
            ),
            (
                "both found, but for one of a pair that is argued below (any two faults)",
                |of| of.any.harmful(),
                |of| share(of.any.all_argued, of.any.harmful()),
                "≥ 95 %",
            ),
            (
                "both found (two faults on one side, one may hide the other)",
                |of| of.one_side.harmful(),
                |of| share(of.one_side.all_found, of.one_side.harmful()),
                "",
            ),
            (
                "both found, but for one that left no trace (two faults on one side)",
                |of| of.one_side.harmful(),
                Self::both_seen_on_one_side,
                "≥ 95 %",
            ),
            (
                "both found, but for one of a pair that is argued below (two faults on one side)",
                |of| of.one_side.harmful(),
                |of| share(of.one_side.all_argued, of.one_side.harmful()),
                "≥ 95 %",
            ),
            ("findings that name what is not there (all worlds)", Self::worlds, Self::false_findings, "< 0.5 %"),
            ("worlds of which one side's recording alone says something wrong", Self::worlds, Self::wrong_alone, "0"),
        ];
        for (what, worlds, result, goal) in rows {
            let shown = |of: &Self| if worlds(of) == 0 { "-".to_owned() } else { percent(result(of)) };
            let (here, there) = (shown(self), shown(held_out));
            let _ = writeln!(page, "| {what} | {} | {here} | {} | {there} | {goal} |", worlds(self), worlds(held_out));
        }
        for (at, kind) in KINDS.into_iter().enumerate() {
            let worlds = |of: &Self| of.tallies()[at].worlds;
            let shown = |of: &Self| {
                let tally = of.tallies()[at];
                if tally.worlds == 0 { "-".to_owned() } else { percent(share(tally.wrong, tally.findings)) }
            };
            let (here, there) = (shown(self), shown(held_out));
            let _ = writeln!(
                page,
                "| findings that name what is not there ({kind}) | {} | {here} | {} | {there} | |",
                worlds(self),
                worlds(held_out)
            );
        }
        let (run, right) = (self.scenarios.run, self.scenarios.right);
        let _ = writeln!(page, "| scenarios whose account is as they say | {run} | {right} of {run} | - | - | all |");
        let plain = [
            (held_out.any.all_found, held_out.any.harmful()),
            (held_out.one_side.all_found, held_out.one_side.harmful()),
        ];
        let [any, one_side] = plain.map(|(found, worlds)| share(found, worlds));
        let short = if any.min(one_side) < GOAL {
            format!(": short of the {} that are wanted of two faults", percent(GOAL))
        } else {
            String::new()
        };
        let _ = writeln!(
            page,
            "\nIn the rows of any two faults and of two faults on one side, a fault counts as found where a finding of error or warning has its name and blame. Where the other one keeps it from showing or from doing harm, it counts as well where it is told as information, or as what it looks like from its side alone. With \"but for one that left no trace\" a fault also counts that was not found and without which no event would differ but by time, address and configuration. Without that, both are found in {} of the held-out worlds with any two faults and in {} of those with two on one side{short}.",
            percent(any),
            percent(one_side)
        );
        let _ = writeln!(
            page,
            "\nThe seeds from {SEED} on are those on which rules were mended. The held-out seeds begin at {HELD_OUT_SEED}; none of their misses was read before a rule was mended (those from 1000001, 2000001, 3000001, 4000001, 5000001, 6000001, 7000001, 8000001, 9000001, 10000001, 11000001, 12000001 and 20000001 on were used up so). The columns of held-out worlds come from them, and so does what is headed so below; the rows of any two faults come from nothing else."
        );
        let _ = writeln!(
            page,
            "\nA world is two places, links with delay and jitter, and what is planted: every kind of fault of [`fuzz::faults`](../crates/whyrelay-lab/src/fuzz/faults.rs), \
             on either side, beside a harmless decoy in every other world. {} worlds with one fault and {} with two were direct all the same and count for the findings only. \
             Two faults are on different sides, and none hides the other: what touches no packet leaves no trace. Those on one side are a row of their own: what the first of two does to a packet, the second does not. Not among them are pairs of which one is no fault for what the other brings: a VPN that lets a mark past, with a session that has the mark; and what is wrong with IPv4, on a host that has no IPv4. A second one is found all the same where the host's own rules, routes, filter and neighbors prove it. What cannot be seen: what a network does to packets that the host does not send (a NAT that gives ports away to early packets, a firewall that drops answers, clients that are kept apart); a world without such a fault may differ by its place alone, which counts as a trace. \
             A finding counts as right when name and blame are; symptoms (checks not arriving, no relay to fall back to) beside the cause are no mistake and no hit. \
             Where a fault is all that one side sees of it (its recording alone, or because the other side's fault hides the rest), what it looks like from there is right, too. A scenario's host that hears nothing, neither over UDP nor over TCP, may say by itself that its servers are silent, as dead ones look the same from there; to blame the relay for it counts as wrong, and so it does on the other side. \
             A host with a tunnel sends from two addresses with one port: where its first packets get lost, that its NAT gave the port to the other address is so, whatever was planted, and so is what follows from it.\n",
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
            "\nNot planted, because random worlds do not vary it (TLS, packet sizes, checksums, other programs, probes) or because it is a symptom; where each is proven says the last table: {}.\n",
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
        held_out.hidden(&mut page);
        let _ = writeln!(
            page,
            "\n## Misses on held-out seeds\n\n`cargo run --release -p whyrelay-lab --example accuracy show KIND SEED FOLDER` writes the scenario and the recordings of one world and prints what was planted and found; KIND is `healthy`, `one`, `two`, `any` (any two faults) or `side` (two faults on one side).\n"
        );
        let misses = held_out.misses();
        if misses.is_empty() {
            let _ = writeln!(page, "None.");
        }
        for miss in misses {
            let _ = writeln!(page, "- {miss}");
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

    /// Which faults others keep from showing, why, and how many of them were found all the same.
    fn hidden(&self, page: &mut String) {
        let _ = writeln!(
            page,
            "\n## Pairs that hide each other (held-out seeds)\n\nOf {} pairs of kinds of faults, one on each side, {} are left out of \"two faults\" above, because the one keeps the other from touching a packet. \
             With all pairs in, {} of {} worlds had such a pair. Of what a hidden fault leaves in the host's facts alone, rules and routes for an address of the peer that is known, and a filter that surely takes its packets, prove that it does harm once they come as far; a counter that did not move proves nothing.\n\n\
             Whether one is really hidden is measured, too: for each that was not found the world is run again with nothing wrong in its place. Where no event differs but by time, address and configuration (no packet, answer, error, counter or answer of routing), it left no trace, and no rule could find it. What left one and was not found is listed below as a miss. A hidden fault counts as found also where it is told as information, since it does no harm by itself there, or as what it looks like from its side; so does one that another of the same side keeps from doing harm: what a fault of a side keeps its own host from sending, no second one there stops, and where the other side learns no address of it, nothing arrives.\n",
            FAULTS.len() * (FAULTS.len() - 1) / 2,
            pairs().filter(|(one, two)| one.hides(two) || two.hides(one)).count(),
            self.any.hiding,
            self.any.worlds,
        );
        let _ = writeln!(page, "| shows | hidden by | kinds so hidden | why |\n|---|---|---|---|");
        for shows in [Shows::InArrivals, Shows::InSending, Shows::AtServers, Shows::TowardsRelay, Shows::AtRelay] {
            let why = shows.untold();
            let so = || FAULTS.iter().filter(|fault| fault.shows == shows);
            let hiders: Vec<_> =
                FAULTS.iter().filter(|by| so().any(|fault| by.hides(fault))).map(|fault| fault.name).collect();
            let names: Vec<_> = so().map(|fault| fault.name).collect();
            let _ = writeln!(page, "| {shows:?} | {} | {} | {why} |", hiders.join(", "), names.join(", "));
        }
        let _ =
            writeln!(page, "\n| fault | hidden by that table, and found all the same | left no trace |\n|---|--:|--:|");
        let names: BTreeSet<_> = self.any.by_hidden.keys().chain(self.any.untraced.keys()).collect();
        for name in names {
            let (planted, found) = self.any.by_hidden.get(name).copied().unwrap_or_default();
            let untraced = self.any.untraced.get(name).copied().unwrap_or_default();
            let _ = writeln!(page, "| {name} | {found} of {planted} | {untraced} |");
        }
        self.unfound(page);
    }

    /// The pairs of which one was not found, and why.
    fn unfound(&self, page: &mut String) {
        let _ = writeln!(
            page,
            "\n## Pairs of which one was not found (held-out seeds)\n\nIn how many of the {} worlds with any two faults and {} with two on one side. \"No trace\": no event differs from those of the same world without the fault but by time, address and configuration. Where nothing that is recorded can tell of the fault as long as the other is there, the last column says why; the others are open.\n\n| not found | beside, on | no trace | a trace | why it cannot be told |\n|---|---|--:|--:|---|",
            self.any.harmful(),
            self.one_side.harmful()
        );
        let find = |name: &str| FAULTS.iter().find(|fault| fault.name == name);
        // Beside what, in how many worlds without a trace, in how many with one.
        type Row = (Vec<String>, u64, u64);
        let mut rows: BTreeMap<(bool, &str, &str), Row> = BTreeMap::new();
        let pairs = self.any.by_pair.iter().chain(&self.one_side.by_pair);
        for (&(name, beside, on_one_side), (traced, untraced)) in pairs {
            let why = find(name).zip(find(beside)).and_then(|(own, other)| own.untold_beside(other, on_one_side));
            let row = rows.entry((on_one_side, why.unwrap_or("open"), name)).or_default();
            row.0.push(format!("{beside} {}", traced + untraced));
            (row.1, row.2) = (row.1 + untraced, row.2 + traced);
        }
        for ((on_one_side, why, name), (beside, untraced, traced)) in rows {
            let side = if on_one_side { "the same side" } else { "the other side" };
            let _ = writeln!(page, "| {name} | {side}: {} | {untraced} | {traced} | {why} |", beside.join(", "));
        }
    }
}

/// Every two kinds of faults, once.
fn pairs() -> impl Iterator<Item = (&'static Fault, &'static Fault)> {
    FAULTS.iter().enumerate().flat_map(|(index, one)| FAULTS[index + 1..].iter().map(move |two| (one, two)))
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_is_left_out() {
        assert_eq!(parts(3, |thread| thread * 10), [0, 10, 20]);
        let broken = std::panic::catch_unwind(|| parts(3, |thread| assert_ne!(thread, 1)));
        assert!(broken.is_err(), "the second thread's share is missing");
    }
}
