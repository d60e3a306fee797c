//! A random world as a scenario: what it must come to is written into it, so that `lab run` judges it as `lab fuzz` did.

use std::collections::BTreeSet;

use super::{Culprit, Planted, World, theory};
use crate::accuracy::{SYMPTOMS, Score, score};
use crate::predict::{Place, predict};
use crate::run::{Observed, judge};
use crate::scenario::file::{ANYTHING, Blame, Expect, Finding, Path};
use crate::scenario::{Scenario, ScenarioError, Topology};

/// A world that was run.
#[derive(Clone, Debug)]
pub struct Tried {
    /// It, with what it must come to: the path by theory and by what was planted, or the one of two that came where a fault
    /// leaves either ([`Leaves::OtherAddresses`](super::Leaves::OtherAddresses)); found is what was planted and nothing
    /// else, or nothing in vain where the path is direct.
    pub scenario: Scenario,
    /// What is otherwise; nothing: the world is right.
    pub problems: Vec<String>,
}

/// Runs a world and judges it. `run` lets its network happen.
///
/// # Errors
/// When it is no scenario.
pub fn try_world(world: &World, run: &dyn Fn(&Topology) -> Observed) -> Result<Tried, ScenarioError> {
    let Scenario { topology, .. } = Scenario::of("fuzz", world.file.clone())?;
    let observed = run(&topology);
    let mut file = world.file.clone();
    file.expect = expectation(world, &topology, &observed);
    let scenario = Scenario::of("fuzz", file)?;
    let problems = judge(&scenario.topology, &observed).problems;
    Ok(Tried { scenario, problems })
}

fn expectation(world: &World, topology: &Topology, observed: &Observed) -> Expect {
    if !world.is_good {
        let path = predict(Place::of(topology, 0), Place::of(topology, 1), world.first);
        // Theory says nothing of why.
        let also = if path == Path::Direct { Vec::new() } else { vec![ANYTHING.to_owned()] };
        return Expect { path, also, ..Expect::default() };
    }
    if world.planted.is_empty() {
        return Expect::default();
    }
    let score = score(world, observed);
    // A file names one path: where a fault leaves either of two, the one that came, so that the other is not told as wrong.
    let paths = theory::paths(world, topology);
    let came = paths.iter().find(|path| observed.path == Some(**path));
    let path = came.or(paths.first()).copied().unwrap_or(Path::Failed);
    // What does no harm may be found, or not.
    let is_harmless = path == Path::Direct;
    let finding = if is_harmless { Vec::new() } else { world.planted.iter().map(wanted).collect() };
    Expect { path, finding, also: allowed(world, &score, is_harmless), ..Expect::default() }
}

/// The finding that names a planted fault.
fn wanted(planted: &Planted) -> Finding {
    let (name, or) = planted.fault.findings.split_first().map_or(("", &[][..]), |(name, or)| (*name, or));
    let blame = match planted.fault.culprit {
        Culprit::Own if planted.side == 0 => Some(Blame::A),
        Culprit::Own => Some(Blame::B),
        Culprit::Server => Some(Blame::Relay),
        Culprit::Signaling => Some(Blame::Signaling),
        Culprit::Anybody => None,
    };
    Finding { name: name.to_owned(), or: or.iter().map(|&name| name.to_owned()).collect(), blame, first: false }
}

/// What may be found beside what must be: symptoms, what was planted where it does no harm, and what else is right here.
/// Not what is wrong: a name says nothing of whom it may blame.
fn allowed(world: &World, score: &Score, is_harmless: bool) -> Vec<String> {
    let name = |shown: &String| shown.split_once(" (").map_or_else(|| shown.clone(), |(name, _)| name.to_owned());
    let planted = || world.planted.iter().flat_map(|planted| planted.fault.findings);
    let right = score.findings.iter().map(name).filter(|name| !planted().any(|own| own == name));
    let harmless = planted().filter(|_| is_harmless).chain(SYMPTOMS).map(|&name| name.to_owned());
    let wrong: Vec<String> = score.wrong.iter().map(name).collect();
    let names: BTreeSet<String> = right.chain(harmless).filter(|name| !wrong.contains(name)).collect();
    names.into_iter().collect()
}
