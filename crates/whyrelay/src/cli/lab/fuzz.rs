//! `whyrelay lab fuzz`.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use whyrelay_lab::fuzz::{Kind, generate, problems, shrink};
use whyrelay_lab::scenario::Scenario;

use super::super::{FINDING, HEALTHY, answer};
use super::args::FuzzArgs;
use super::work;

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
    let (begun, count) = (Instant::now(), AtomicUsize::new(0));
    let mut wrong = Vec::new();
    for seeds in batches(args.seed, args.worlds) {
        let results = work::each(
            &seeds,
            work::cores(),
            |seed| problems(&generate(*seed, kind)).map(|problems| (*seed, problems)),
            |_| {
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                if number.is_multiple_of(1000) {
                    crate::tell!("{number} worlds, {:.1} s", begun.elapsed().as_secs_f64());
                }
            },
        );
        for result in results {
            let (seed, problems) = result?;
            if !problems.is_empty() {
                wrong.push((seed, problems));
            }
        }
    }
    crate::tell!("{} worlds in {:.1} s", args.worlds, begun.elapsed().as_secs_f64());
    let mut text = format!("{} worlds from seed {}, {} wrong\n", args.worlds, args.seed, wrong.len());
    for (seed, problem) in &wrong {
        let _ = writeln!(text, "  seed {seed}: {}", problem.join("; "));
    }
    for (seed, _) in wrong.iter().take(SHOWN) {
        let small = shrink(&generate(*seed, kind));
        let said = problems(&small)?.join("; ");
        let scenario = Scenario::of("fuzz", small.file)?;
        let _ = writeln!(text, "\n# seed {seed}, made small: {said}\n{}", scenario.to_toml());
    }
    answer(&text)?;
    Ok(if wrong.is_empty() { HEALTHY } else { FINDING })
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
}
