//! `cargo xtask bench`: our figures beside those of the program a user would pick instead.
//!
//! Only ratios of figures taken side by side in one run mean anything, so a bench runs both,
//! interleaved, and says what the ratio is to be. To add one: a module with a function that
//! answers [`Comparison`]s, and a line in [`BENCHES`].

mod open;

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::interop;
use crate::step;
use crate::test::cargo;

/// Every bench, in the order in which they run.
const BENCHES: &[Bench] = &[Bench {
    name: "open",
    what: "process start of the offerer to data channel open, loopback pair, answerer waiting",
    run: open::run,
}];

/// What `cargo xtask bench NAME` runs.
struct Bench {
    name: &'static str,
    what: &'static str,
    /// Called in a network namespace of its own, with only loopback, and with whyrelay and
    /// the peers built.
    run: fn() -> Result<Vec<Comparison>>,
}

/// One row: our figure, the peer's, and what their ratio is to be.
pub(crate) struct Comparison {
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    /// None: it could not be measured, which is no pass.
    pub(crate) ours: Option<f64>,
    pub(crate) peer: &'static str,
    pub(crate) theirs: f64,
    pub(crate) goal: Goal,
}

/// What a row is to reach.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    /// Ours divided by theirs is at most this.
    RatioAtMost(f64),
    /// Our own figure is at most this, whatever theirs is.
    AtMost(f64),
}

impl Goal {
    fn met(self, ours: f64, ratio: f64) -> bool {
        match self {
            Self::RatioAtMost(limit) => ratio <= limit,
            Self::AtMost(limit) => ours <= limit,
        }
    }

    fn text(self) -> String {
        match self {
            Self::RatioAtMost(limit) => format!("<= {limit} x"),
            Self::AtMost(limit) => format!("<= {limit}"),
        }
    }
}

/// Runs the bench called `wanted`, or all of them, and prints a table for each.
pub(crate) fn run(wanted: Option<&str>) -> Result<()> {
    let benches = select(wanted)?;
    let release = cargo(&["build", "--release", "--package", "whyrelay"]);
    step::run("release build", release, std::time::Duration::from_secs(30 * 60))?;
    let tools = interop::prepare()?;
    let this = std::env::current_exe().context("finding this program")?;
    for bench in benches {
        // Traffic stays in there, and nothing else disturbs its counters.
        let mut isolated = Command::new("unshare");
        isolated.args(["--net", "--"]).arg(&this);
        isolated.args(["bench-isolated", bench.name]);
        isolated.envs(tools.variables());
        let status = isolated.status().context("starting unshare")?;
        if !status.success() {
            bail!("bench {}: {status}", bench.name);
        }
    }
    Ok(())
}

/// The inside of [`run`]: one bench, in the namespace made for it.
pub(crate) fn run_isolated(name: &str) -> Result<()> {
    let mut loopback = Command::new("ip");
    step::output(loopback.args(["link", "set", "lo", "up"]))?;
    for bench in select(Some(name))? {
        step::announce(&format!("bench {}: {}", bench.name, bench.what));
        for row in (bench.run)()? {
            print(&row);
        }
    }
    Ok(())
}

/// The inside of a bench: starts the program that `arguments` name and measures it.
pub(crate) fn measure(arguments: &[&str]) -> Result<()> {
    open::measure(arguments)
}

fn select(wanted: Option<&str>) -> Result<Vec<&'static Bench>> {
    let chosen: Vec<&Bench> = BENCHES.iter().filter(|bench| wanted.is_none_or(|wanted| wanted == bench.name)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        bail!("there is no such bench; there are: {}", names.join(", "));
    }
    Ok(chosen)
}

fn print(row: &Comparison) {
    let Comparison { what, unit, peer, theirs, goal, .. } = row;
    let goal_text = goal.text();
    let Some(ours) = row.ours else {
        println!("{what}: ours not measured, {peer} {theirs:.1} {unit}, goal {goal_text}");
        return;
    };
    let ratio = ours / theirs;
    let verdict = if goal.met(ours, ratio) { "met" } else { "MISSED" };
    println!("{what}: ours {ours:.1}, {peer} {theirs:.1} {unit}, ratio {ratio:.2}, goal {goal_text}: {verdict}");
}

#[cfg(test)]
mod tests {
    use super::{Goal, select};

    #[test]
    fn a_goal_is_met_at_its_limit_and_missed_above() {
        assert!(Goal::RatioAtMost(1.0).met(5.0, 1.0));
        assert!(!Goal::RatioAtMost(1.0).met(0.1, 1.01));
        assert!(Goal::AtMost(0.0).met(0.0, f64::NAN));
        assert!(!Goal::AtMost(0.0).met(1.0, 0.1));
    }

    #[test]
    fn an_unknown_bench_is_an_error_that_names_the_known_ones() {
        let error = select(Some("nothing")).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("open"), "{error}");
    }
}
