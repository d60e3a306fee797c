//! How right the diagnosis is: what was planted against what was found.

mod page;
pub mod scenarios;
mod trace;

use std::collections::BTreeMap;

use whyrelay_core::diagnosis::evidence::Evidence;
use whyrelay_core::diagnosis::finding::{Blame, Finding, Severity};
use whyrelay_core::diagnosis::rules::{RULES, diagnose};
use whyrelay_core::diagnosis::session::Session;
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::Vantage;

pub use trace::leaves_trace;

pub use page::{Accuracy, FULL, HELD_OUT, HELD_OUT_SEED, SAMPLE, SEED, Size, tally};

use crate::fuzz::{Culprit, Planted, World};
use crate::run::Observed;
use crate::scenario::file::{InterfaceKind, Path};

/// Findings that say what was seen of a fault and not what it is; beside the fault's own they are no mistake.
pub(crate) const SYMPTOMS: &[&str] = &[
    "checks-not-arriving",
    "checks-unanswered",
    "checks-not-answered",
    "answers-lost",
    "no-reachable-candidates",
    "no-relay-available",
    "turn-server-unreachable",
];

/// What came of one world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Score {
    /// It is direct all the same: what was planted does no harm there.
    pub harmless: bool,
    /// For each planted fault, whether it was found with the right blame.
    pub found: Vec<bool>,
    /// The first finding of severity error or warning names a planted fault, with the right blame.
    pub first_is_right: bool,
    /// Findings of severity error or warning, as `name (blame)`.
    pub findings: Vec<String>,
    /// Those that name something that is not there.
    pub wrong: Vec<String>,
    /// What the account of one side alone says wrongly: `A: name (blame)`.
    pub wrong_alone: Vec<String>,
}

impl Score {
    /// Whether everything is right.
    pub fn is_right(&self) -> bool {
        self.problems().is_empty()
    }

    /// What is not.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.wrong.iter().map(|name| format!("{name} is wrong")).collect();
        let found = if self.findings.is_empty() { "nothing".to_owned() } else { self.findings.join(", ") };
        if !self.harmless && !self.found.is_empty() {
            if !self.first_is_right {
                problems.push(format!("the first finding is not what was planted: {found}"));
            } else if self.found.contains(&false) {
                problems.push(format!("not all that was planted was found: {found}"));
            }
        }
        problems
    }
}

/// Compares what was planted in a world with the account of it.
pub fn score(world: &World, observed: &Observed) -> Score {
    let report = &observed.report;
    let severe = severe(report);
    let direct = observed.path == Some(Path::Direct) && !report.over_tcp;
    let names = |finding: &Finding| {
        world.planted.iter().any(|planted| is_named(planted, finding)) || !direct && shares_port(world, finding)
    };
    // What a fault shows where no packet of the other side comes is what a side alone can know of it.
    let half_seen = |finding: &Finding| {
        world.planted.iter().any(|planted| {
            (is_hidden(world, planted) || is_idle(world, planted))
                && planted.fault.alone.contains(&finding.name)
                && finding.blame == blame_of(planted.side)
        })
    };
    // So is what follows from two addresses that share a port, which nobody planted.
    let shared = !direct && severe.iter().any(|finding| shares_port(world, finding));
    let is_symptom = |finding: &Finding| is_symptom(world, finding, shared);
    let wrong = severe.iter().filter(|finding| !names(finding) && !half_seen(finding) && !is_symptom(finding));
    let mut wrong_alone = Vec::new();
    for vantage in [Vantage::A, Vantage::B] {
        let own = observed.events.iter().filter(|event| event.vantage == vantage);
        let evidence = Evidence::of(own);
        let findings = diagnose(&Session::of(&evidence)).findings;
        let also = |finding: &Finding| {
            let known = |planted: &&Planted| planted.fault.alone.contains(&finding.name);
            let mut known = world.planted.iter().filter(known);
            known.any(|planted| finding.blame == blame_of(planted.side) || finding.blame == Blame::Path)
        };
        let severe = findings.iter().filter(|finding| finding.severity != Severity::Info);
        let alone = severe.filter(|finding| !names(finding) && !also(finding) && !is_symptom(finding));
        wrong_alone.extend(alone.map(|finding| format!("{}: {}", vantage.name(), shown(finding))));
    }
    Score {
        harmless: direct,
        found: world
            .planted
            .iter()
            .map(|planted| {
                // Where another fault hides it, it may be told as what does no harm by itself, or as what it looks like.
                let harmless = is_hidden(world, planted) || is_idle(world, planted);
                let told = report.findings.iter().filter(|finding| harmless || finding.severity != Severity::Info);
                told.into_iter().any(|finding| {
                    is_named(planted, finding)
                        || harmless
                            && planted.fault.alone.contains(&finding.name)
                            && finding.blame == blame_of(planted.side)
                })
            })
            .collect(),
        first_is_right: severe
            .first()
            .is_some_and(|finding| world.planted.iter().any(|planted| is_named(planted, finding))),
        wrong: wrong.map(|finding| shown(finding)).collect(),
        findings: severe.iter().map(|finding| shown(finding)).collect(),
        wrong_alone,
    }
}

fn severe(report: &Report) -> Vec<&Finding> {
    report.findings.iter().filter(|finding| finding.severity != Severity::Info).collect()
}

fn shown(finding: &Finding) -> String {
    format!("{} ({})", finding.name, finding.blame.name())
}

const fn blame_of(side: usize) -> Blame {
    if side == 0 { Blame::A } else { Blame::B }
}

/// Whether a fault on the other side keeps a planted one from showing.
fn is_hidden(world: &World, hidden: &Planted) -> bool {
    world.planted.iter().any(|planted| planted.side != hidden.side && planted.fault.hides(hidden.fault))
}

/// Whether another fault of the same side keeps a planted one from doing harm.
fn is_idle(world: &World, idle: &Planted) -> bool {
    let mut others = world.planted.iter().filter(|planted| planted.fault.name != idle.fault.name);
    others.any(|planted| planted.side == idle.side && planted.fault.idles(idle.fault))
}

/// Whether a host of the world has a tunnel: where its first packets get lost, those from the tunnel's address, which
/// leave by the uplink, may take the port in the NAT. That nobody planted; it is so all the same.
fn has_tunnel(world: &World, side: usize) -> bool {
    let host = world.file.host.get(["a", "b"][side]);
    host.is_some_and(|host| host.interface.iter().any(|interface| interface.kind == InterfaceKind::Tunnel))
}

fn shares_port(world: &World, finding: &Finding) -> bool {
    let of_tunnel = |side| finding.blame == blame_of(side) && has_tunnel(world, side);
    finding.name == "port-shared-behind-nat" && (of_tunnel(0) || of_tunnel(1))
}

/// Whether a finding names a planted fault, on its side.
fn is_named(planted: &Planted, finding: &Finding) -> bool {
    let side = blame_of(planted.side);
    let blamed = match planted.fault.culprit {
        Culprit::Own => finding.blame == side,
        Culprit::Server => finding.blame == Blame::Relay,
        Culprit::Signaling => finding.blame == Blame::Signaling,
        Culprit::Anybody => true,
    };
    blamed && planted.fault.findings.contains(&finding.name)
}

/// Whether a finding only says what was seen of a planted fault, or of a port that two addresses share, and blames no
/// side that has none.
fn is_symptom(world: &World, finding: &Finding, shared: bool) -> bool {
    (!world.planted.is_empty() || shared)
        && SYMPTOMS.contains(&finding.name)
        && match finding.blame {
            Blame::A => world.planted.iter().any(|planted| planted.side == 0),
            Blame::B => world.planted.iter().any(|planted| planted.side == 1),
            _ => true,
        }
}

/// How often a rule fired, and should have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Worlds in which it was looked at.
    pub worlds: u64,
    /// Worlds in which it should fire.
    pub should: u64,
    /// Those of them in which it did.
    pub fired: u64,
    /// Worlds in which it fired and should not have.
    pub wrong: u64,
}

impl Counts {
    /// Counts one world.
    pub fn count(&mut self, should: bool, fired: bool, wrong: bool) {
        self.worlds += 1;
        self.should += u64::from(should);
        self.fired += u64::from(should && fired);
        self.wrong += u64::from(wrong);
    }

    /// Adds counts of other worlds.
    pub const fn add(&mut self, other: Self) {
        self.worlds += other.worlds;
        self.should += other.should;
        self.fired += other.fired;
        self.wrong += other.wrong;
    }
}

/// A fault that was not found, the one beside it, and whether both are on one side.
pub type Pair = (&'static str, &'static str, bool);

/// Counts of many worlds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Worlds.
    pub worlds: u64,
    /// Worlds that were direct although faults were planted.
    pub harmless: u64,
    /// Worlds that were not direct and whose first finding is a planted fault.
    pub first_right: u64,
    /// Worlds that were not direct and in which all planted faults were found.
    pub all_found: u64,
    /// Findings of severity error or warning.
    pub findings: u64,
    /// Those that name what is not there.
    pub wrong: u64,
    /// Worlds of which one side's account alone says something wrong.
    pub wrong_alone: u64,
    /// For each fault: planted and harmful, found.
    pub by_fault: BTreeMap<&'static str, (u64, u64)>,
    /// For each fault beside one that keeps it from showing: planted and harmful, found all the same.
    pub by_hidden: BTreeMap<&'static str, (u64, u64)>,
    /// Of these that were not found, those that left no trace.
    pub untraced: BTreeMap<&'static str, u64>,
    /// For each fault that was not found and the one beside it, by whether both are on one side: how many of them left a
    /// trace, and how many none.
    pub by_pair: BTreeMap<Pair, (u64, u64)>,
    /// Worlds that have such a fault.
    pub hiding: u64,
    /// Worlds that were not direct and in which each fault that was not found left no trace.
    pub all_seen: u64,
    /// Worlds that were not direct and in which each fault that was not found left no trace and is argued to be untold
    /// ([`Fault::untold_beside`](crate::fuzz::Fault::untold_beside)).
    pub all_argued: u64,
    /// For each rule, by its name.
    pub by_rule: BTreeMap<&'static str, Counts>,
    /// Seeds that came out wrong, with what was said.
    pub misses: Vec<(u64, String)>,
}

impl Tally {
    /// Counts one world.
    pub fn add(&mut self, seed: u64, world: &World, score: &Score, untraced: &[bool]) {
        self.worlds += 1;
        self.findings += score.findings.len() as u64;
        self.wrong += score.wrong.len() as u64;
        self.wrong_alone += u64::from(!score.wrong_alone.is_empty());
        self.hiding += u64::from(world.planted.iter().any(|planted| is_hidden(world, planted)));
        if score.harmless {
            self.harmless += 1;
        } else {
            self.first_right += u64::from(score.first_is_right);
            self.all_found += u64::from(!score.found.contains(&false));
            self.all_seen += u64::from(score.found.iter().zip(untraced).all(|(found, untraced)| *found || *untraced));
            for (planted, _) in world.planted.iter().zip(untraced).filter(|(_, untraced)| **untraced) {
                *self.untraced.entry(planted.fault.name).or_default() += 1;
            }
            let is_argued = |at: usize| match world.planted.as_slice() {
                [one, two] => {
                    let (own, other) = if at == 0 { (one, two) } else { (two, one) };
                    own.fault.untold_beside(other.fault, own.side == other.side).is_some()
                }
                _ => false,
            };
            let mut all = score.found.iter().zip(untraced).enumerate();
            let all_argued = all.all(|(at, (found, untraced))| *found || *untraced && is_argued(at));
            self.all_argued += u64::from(all_argued);
            if let [one, two] = world.planted.as_slice() {
                for (at, (own, other)) in [(one, two), (two, one)].into_iter().enumerate() {
                    if !score.found[at] {
                        let pair = (own.fault.name, other.fault.name, own.side == other.side);
                        let counts = self.by_pair.entry(pair).or_default();
                        if untraced.get(at) == Some(&true) { counts.1 += 1 } else { counts.0 += 1 }
                    }
                }
            }
            for (planted, found) in world.planted.iter().zip(&score.found) {
                let counts = self.by_fault.entry(planted.fault.name).or_default();
                *counts = (counts.0 + 1, counts.1 + u64::from(*found));
                if is_hidden(world, planted) {
                    let counts = self.by_hidden.entry(planted.fault.name).or_default();
                    *counts = (counts.0 + 1, counts.1 + u64::from(*found));
                }
            }
        }
        for rule in RULES {
            let is = |shown: &String| shown.split_once(" (").is_some_and(|(name, _)| name == rule.name);
            let fired = score.findings.iter().any(is);
            let wrong = score.wrong.iter().any(is);
            // Where any of several findings is right, a fault asks for the one that came.
            let asked = world.planted.iter().any(|planted| {
                let findings = planted.fault.findings;
                findings.contains(&rule.name) && (findings.len() == 1 || fired)
            });
            self.by_rule.entry(rule.name).or_default().count(asked && !score.harmless, fired, wrong);
        }
        let planted: Vec<_> = world.planted.iter().map(|planted| planted.fault.name).collect();
        let mut problems = score.problems();
        // What left no trace is no miss.
        if untraced.iter().zip(&score.found).all(|(untraced, found)| *untraced || *found) {
            problems.retain(|problem| !problem.starts_with("not all that was planted"));
        }
        problems.extend(score.wrong_alone.iter().map(|name| format!("alone, {name} is wrong")));
        if !problems.is_empty() {
            self.misses.push((seed, format!("{}: {}", planted.join(" + "), problems.join("; "))));
        }
    }

    /// Adds the counts of other worlds, which come after these.
    pub fn merge(&mut self, other: Self) {
        self.worlds += other.worlds;
        self.harmless += other.harmless;
        self.first_right += other.first_right;
        self.all_found += other.all_found;
        self.findings += other.findings;
        self.wrong += other.wrong;
        self.wrong_alone += other.wrong_alone;
        for (name, (planted, found)) in other.by_fault {
            let counts = self.by_fault.entry(name).or_default();
            *counts = (counts.0 + planted, counts.1 + found);
        }
        self.hiding += other.hiding;
        self.all_seen += other.all_seen;
        self.all_argued += other.all_argued;
        for (pair, (traced, untraced)) in other.by_pair {
            let counts = self.by_pair.entry(pair).or_default();
            *counts = (counts.0 + traced, counts.1 + untraced);
        }
        for (name, untraced) in other.untraced {
            *self.untraced.entry(name).or_default() += untraced;
        }
        for (name, (planted, found)) in other.by_hidden {
            let counts = self.by_hidden.entry(name).or_default();
            *counts = (counts.0 + planted, counts.1 + found);
        }
        for (name, counts) in other.by_rule {
            self.by_rule.entry(name).or_default().add(counts);
        }
        self.misses.extend(other.misses);
    }

    /// Worlds that were not direct.
    pub fn harmful(&self) -> u64 {
        self.worlds - self.harmless
    }
}
