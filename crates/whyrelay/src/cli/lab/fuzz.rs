//! `whyrelay lab fuzz`.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use whyrelay_lab::fuzz::{Kind, World, generate, shrink_by, try_world};
use whyrelay_lab::run::run_virtual;
use whyrelay_lab::scenario::ScenarioError;
use whyrelay_lab::work;

use super::super::{FINDING, HEALTHY, answer};
use super::args::FuzzArgs;

/// Most wrong worlds that are made small and printed.
const SHOWN: usize = 3;

/// Worlds at a time: however many are asked for, few are held.
const BATCH: u64 = 10_000;

pub(super) fn run(args: &FuzzArgs) -> anyhow::Result<u8> {
    let kind = match args.faults {
        None => Kind::Theory,
        Some(0) => Kind::Healthy,
        Some(faults) => Kind::Faults(faults.into()),
    };
    let progress = Mutex::new(Progress::new(args.worlds, io::stderr().is_terminal()));
    let mut wrong = Vec::new();
    for seeds in batches(args.seed, args.worlds) {
        let results = work::each(
            &seeds,
            args.jobs.map_or_else(work::cores, usize::from),
            |seed| problems(&generate(*seed, kind)).map(|problems| (*seed, problems)),
            |result| {
                let done = result.as_ref().ok().map(|(seed, problems)| (*seed, problems.as_slice()));
                let told = progress.lock().unwrap_or_else(PoisonError::into_inner).done(done, Instant::now());
                // A closed stderr is no reason to stop.
                let _ = io::stderr().write_all(told.as_bytes());
            },
        );
        for result in results {
            let (seed, problems) = result?;
            if !problems.is_empty() {
                wrong.push((seed, problems));
            }
        }
    }
    let progress = progress.into_inner().unwrap_or_else(PoisonError::into_inner);
    let _ = io::stderr().write_all(progress.end().as_bytes());
    let mut text = format!("{} worlds from seed {}, {} wrong\n", args.worlds, args.seed, wrong.len());
    for (seed, problem) in &wrong {
        let _ = writeln!(text, "  seed {seed}: {}", problem.join("; "));
    }
    for (seed, _) in wrong.iter().take(SHOWN) {
        let small = shrink_by(&generate(*seed, kind), &|world| problems(world).unwrap_or_default());
        let tried = try_world(&small, &run_virtual)?;
        let said = tried.problems.join("; ");
        let _ = writeln!(text, "\n# seed {seed}, made small: {said}\n{}", tried.scenario.to_toml()?);
    }
    if !wrong.is_empty() {
        text.push_str("\n# save this as FILE; `whyrelay lab run FILE` fails until the fault is fixed\n");
    }
    answer(&text)?;
    Ok(if wrong.is_empty() { HEALTHY } else { FINDING })
}

/// What is wrong with a world.
fn problems(world: &World) -> Result<Vec<String>, ScenarioError> {
    Ok(try_world(world, &run_virtual)?.problems)
}

/// Between two lines of progress: one that is rewritten, on a terminal; else each a new one.
const LIVE: Duration = Duration::from_secs(1);
const PLAIN: Duration = Duration::from_secs(10);

/// What is told while worlds are run.
struct Progress {
    worlds: u64,
    terminal: bool,
    begun: Instant,
    last: Instant,
    done: u64,
    wrong: u64,
}

impl Progress {
    fn new(worlds: u64, terminal: bool) -> Self {
        let now = Instant::now();
        Self { worlds, terminal, begun: now, last: now, done: 0, wrong: 0 }
    }

    /// One more is done: what to say now. A wrong one is told at once.
    fn done(&mut self, result: Option<(u64, &[String])>, now: Instant) -> String {
        self.done += 1;
        let mut told = String::new();
        if let Some((seed, problems)) = result.filter(|(_, problems)| !problems.is_empty()) {
            self.wrong += 1;
            let _ = writeln!(told, "{}wrong: seed {seed}: {}", self.clear(), problems.join("; "));
        }
        if now.saturating_duration_since(self.last) < if self.terminal { LIVE } else { PLAIN } {
            return told;
        }
        self.last = now;
        let (done, worlds, wrong) = (self.done, self.worlds, self.wrong);
        let seconds = now.saturating_duration_since(self.begun).as_secs_f64();
        let end = if self.terminal { "" } else { "\n" };
        let _ = write!(told, "{}{done} of {worlds} worlds, {wrong} wrong, {seconds:.0} s{end}", self.clear());
        told
    }

    fn end(&self) -> String {
        format!("{}{} worlds in {:.1} s\n", self.clear(), self.done, self.begun.elapsed().as_secs_f64())
    }

    /// Takes the live line away.
    const fn clear(&self) -> &'static str {
        if self.terminal { "\r\x1b[K" } else { "" }
    }
}

/// The seeds of so many worlds, some at a time.
fn batches(first: u64, worlds: u64) -> impl Iterator<Item = Vec<u64>> {
    (0..worlds.div_ceil(BATCH)).map(move |batch| {
        let begin = batch * BATCH;
        (begin..worlds.min(begin.saturating_add(BATCH))).map(|number| first.wrapping_add(number)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_worlds_are_run_some_at_a_time_and_each_once() {
        let seeds: Vec<u64> = batches(7, 2 * BATCH + 5).flatten().collect();
        assert!(seeds.iter().copied().eq(7..7 + 2 * BATCH + 5));
        let first: Vec<u64> = batches(u64::MAX, u64::MAX).next().unwrap_or_default();
        assert_eq!((first.len() as u64, first[0], first[1]), (BATCH, u64::MAX, 0));
        assert_eq!(batches(1, 1).collect::<Vec<_>>(), [[1]]);
    }

    #[test]
    fn a_wrong_world_is_told_at_once_and_the_rest_once_a_second() {
        let problems = ["relayed, expected direct".to_owned()];
        let mut progress = Progress::new(500, true);
        let (begun, after) = (progress.begun, Duration::from_millis);
        assert_eq!(progress.done(Some((1, &[])), begun + after(300)), "");
        let told = progress.done(Some((2, &problems)), begun + after(400));
        assert_eq!(told, "\r\x1b[Kwrong: seed 2: relayed, expected direct\n");
        let told = progress.done(Some((3, &[])), begun + after(1200));
        assert_eq!(told, "\r\x1b[K3 of 500 worlds, 1 wrong, 1 s");
        assert_eq!(progress.done(Some((4, &[])), begun + after(1900)), "");

        let mut plain = Progress::new(500, false);
        assert_eq!(plain.done(Some((1, &[])), plain.begun + after(9900)), "");
        assert_eq!(
            plain.done(Some((2, &problems)), plain.begun + after(9950)),
            "wrong: seed 2: relayed, expected direct\n"
        );
        assert_eq!(plain.done(None, plain.begun + after(10_100)), "3 of 500 worlds, 1 wrong, 10 s\n");
    }
}
