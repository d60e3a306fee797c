//! `cargo xtask bench`: our figures beside those of the program a user would pick instead.
//!
//! Only ratios of figures taken side by side in one run mean anything, so a bench runs both,
//! interleaved, and says what the ratio is to be. To add one: a module with a function that
//! answers [`Comparison`]s, and a line in [`BENCHES`]. A goal that is missed, or not measured, ends
//! it with exit status 1.

mod channel;
mod check;
mod connect;
mod fail;
mod lab;
mod lab_virtual;
mod peers;
mod report;
mod screen;
mod signaling;
mod turn;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::interop;
use crate::step;
use crate::test::cargo;

/// A release build from nothing, on a slow machine.
const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Starts the PeerJS server, which lies beside this script, at ADDRESS:PORT.
const PEERJS: &str = "#!/bin/sh\nexec node \"$(dirname \"$0\")/node_modules/peer/dist/bin/peerjs.js\" \
                      --host \"${1%:*}\" --port \"${1##*:}\"\n";

/// Every bench, in the order in which they run.
const BENCHES: &[Bench] = &[
    Bench {
        name: "connect",
        what: "process start of the offerer to data channel open, one machine, answerer waiting",
        run: connect::run,
    },
    Bench {
        name: "fail",
        what: "process start of the offerer to the failure named, signaling works and all UDP is dropped",
        run: fail::run,
    },
    Bench { name: "check", what: "what a host learns of its own network, and when", run: check::run },
    Bench { name: "signaling", what: "the signaling server under load", run: signaling::run },
    Bench { name: "stun", what: "a STUN server's CPU time and amplification", run: turn::stun },
    Bench { name: "turn", what: "a TURN server's CPU time and memory", run: turn::turn },
    Bench { name: "turn-library", what: "our TURN server beside the library's engine", run: turn::library },
    Bench { name: "screen", what: "the terminal screen over a live session of the largest size", run: screen::run },
    Bench {
        name: "report",
        what: "the saved report of a session of the largest size, opened in Chromium",
        run: report::run,
    },
    Bench {
        name: "lab",
        what: "the laboratory in namespaces: its router in user space, and how soon a scenario is up",
        run: lab::run,
    },
    Bench { name: "channel", what: "throughput of the open data channel", run: channel::run },
    Bench { name: "lab-virtual", what: "virtual worlds, and the diagnosis's computing", run: lab_virtual::run },
];

/// What `cargo xtask bench NAME` runs.
struct Bench {
    name: &'static str,
    what: &'static str,
    /// Called in a network namespace of its own, with only loopback, and with whyrelay and
    /// the peers built. The argument is how often each side is measured, if the user says so.
    run: fn(Option<usize>) -> Result<Vec<Comparison>>,
}

/// One row: our figure, the peer's, and what their ratio is to be.
pub(crate) struct Comparison {
    what: &'static str,
    unit: &'static str,
    ours: f64,
    peer: &'static str,
    theirs: f64,
    goal: Goal,
}

impl Comparison {
    fn new(what: &'static str, unit: &'static str, ours: f64, peer: &'static str, theirs: f64, goal: Goal) -> Self {
        Self { what, unit, ours, peer, theirs, goal }
    }

    fn ratio(&self) -> f64 {
        self.ours / self.theirs
    }

    fn is_met(&self) -> Option<bool> {
        self.goal.is_met(self.ours, self.ratio())
    }
}

/// What a row is to reach.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    /// Ours divided by theirs is at most this.
    RatioAtMost(f64),
    /// Ours divided by theirs is at least this.
    RatioAtLeast(f64),
    /// Our own figure is at most this, whatever theirs is.
    AtMost(f64),
    /// Our own figure is at least this, whatever theirs is.
    AtLeast(f64),
    /// For information: the two do not do the same.
    None,
}

impl Goal {
    /// Whether it is reached; `None` where there is none. A figure that is missing (NaN) reaches nothing.
    fn is_met(self, ours: f64, ratio: f64) -> Option<bool> {
        Some(match self {
            Self::RatioAtMost(limit) => ratio <= limit,
            Self::RatioAtLeast(limit) => ratio >= limit,
            Self::AtMost(limit) => ours <= limit,
            Self::AtLeast(limit) => ours >= limit,
            Self::None => return None,
        })
    }

    fn text(self) -> String {
        match self {
            Self::RatioAtMost(limit) => format!("<= {limit} x"),
            Self::RatioAtLeast(limit) => format!(">= {limit} x"),
            Self::AtMost(limit) => format!("<= {limit}"),
            Self::AtLeast(limit) => format!(">= {limit}"),
            Self::None => "-".into(),
        }
    }
}

/// `[NAME…] [--runs N]`: runs the benches so called, or all of them, and prints a table for each.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let (names, runs) = match arguments.iter().position(|argument| *argument == "--runs") {
        None => (arguments, None),
        Some(at) => match &arguments[at + 1..] {
            [count] if count.parse::<usize>().is_ok_and(|count| count > 0) => (&arguments[..at], Some(*count)),
            _ => bail!("--runs comes last, with how often to measure"),
        },
    };
    let benches = select(names)?;
    let mut tools: Vec<(String, String)> = interop::prepare()?.variables().collect();
    tools.extend(build()?);
    let this = std::env::current_exe().context("finding this program")?;
    let mut failed = Vec::new();
    for bench in benches {
        // Traffic stays in there, and nothing else disturbs its counters.
        let mut isolated = Command::new("unshare");
        isolated.args(["--net", "--"]).arg(&this);
        isolated.args(["bench-isolated", bench.name]).args(runs);
        isolated.envs(tools.iter().map(|(name, value)| (name, value)));
        if !isolated.status().context("starting unshare")?.success() {
            failed.push(bench.name);
        }
    }
    if !failed.is_empty() {
        bail!("a goal was missed, or not measured: {}", failed.join(", "));
    }
    Ok(())
}

/// Builds ours and the peers that only benches need; answers where the latter are. One that cannot be built is
/// missed by the bench that needs it.
fn build() -> Result<Vec<(String, String)>> {
    let mut release = cargo(&["build", "--release", "--package", "whyrelay", "--bin", "whyrelay"]);
    release.args([
        "--example",
        "signaling_server",
        "--example",
        "signaling_load",
        "--example",
        "turn_load",
        "--example",
        "screen_load",
    ]);
    step::run("release build", release, BUILD_LIMIT)?;
    let mut lab = cargo(&["build", "--release", "--package", "whyrelay-lab"]);
    lab.args(["--example", "router_load", "--example", "lab_up"]);
    step::run("release build of the laboratory's load", lab, BUILD_LIMIT)?;
    let directory = std::env::current_dir()?.join("target/bench-peers");
    let mut built = Vec::new();
    for (variable, name) in [("MATCHBOX", "matchbox"), ("STR0M", "str0m"), ("TURN_PROTO", "turn-proto")] {
        let mut peer = cargo(&["build", "--release", "--quiet", "--manifest-path"]);
        peer.arg(format!("bench-peers/{name}/Cargo.toml")).arg("--target-dir").arg(&directory);
        let outcome = step::run(&format!("build of {name}"), peer, BUILD_LIMIT);
        built.push((variable, outcome.map(|()| directory.join(format!("release/bench-peer-{name}")))));
    }
    built.push(("PEERJS", interop::npm_program("bench-peers/peerjs", &directory.join("peerjs"), PEERJS)));
    built.push(("GOLAB", interop::bench_go_program("xtask/peers/golab/main.go", &directory.join("golab"))));
    Ok(built.into_iter().map(announcement).collect())
}

/// As [`interop`] announces its tools.
fn announcement((variable, outcome): (&str, Result<PathBuf>)) -> (String, String) {
    match outcome {
        Ok(path) => (format!("WHYRELAY_INTEROP_{variable}"), path.display().to_string()),
        Err(error) => (format!("WHYRELAY_INTEROP_{variable}_MISSING"), format!("{error:#}")),
    }
}

/// The inside of [`run`]: one bench, in the namespace made for it.
pub(crate) fn run_isolated(name: &str, runs: Option<&str>) -> Result<()> {
    let runs = runs.map(str::parse).transpose().context("how often to measure")?;
    step::output(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    for bench in select(&[name])? {
        step::announce(&format!("bench {}: {}", bench.name, bench.what));
        let before = load_average();
        let rows = (bench.run)(runs)?;
        println!("| {} | ours | peer | | unit | ratio | goal | |", bench.name);
        println!("|---|---|---|---|---|---|---|---|");
        for row in &rows {
            print(row);
        }
        println!("(load average {before} before, {} after)", load_average());
        all_met(&rows)?;
    }
    Ok(())
}

/// The rule of every bench: a goal that is missed is a failure, whoever reads the table.
fn all_met(rows: &[Comparison]) -> Result<()> {
    let missed: Vec<&str> = rows.iter().filter(|row| row.is_met() == Some(false)).map(|row| row.what).collect();
    if !missed.is_empty() {
        bail!("missed: {}", missed.join("; "));
    }
    Ok(())
}

/// The inside of a bench: starts the program that `arguments` name and measures it.
pub(crate) fn measure(arguments: &[&str]) -> Result<()> {
    peers::measure(arguments)
}

/// As often as there are runs; says which begins, as some take half a minute.
fn counted(runs: usize, what: &str) -> impl Iterator<Item = ()> {
    (1..=runs).map(move |run| step::progress(&format!("{what}: run {run} of {runs}")))
}

/// Over one minute: what else this machine did.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn select(wanted: &[&str]) -> Result<Vec<&'static Bench>> {
    let known: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(*name)) {
        bail!("there is no bench {unknown}; there are: {}", known.join(", "));
    }
    Ok(BENCHES.iter().filter(|bench| wanted.is_empty() || wanted.contains(&bench.name)).collect())
}

fn print(row: &Comparison) {
    let Comparison { what, unit, ours, peer, theirs, goal } = row;
    let (ratio, text) = (row.ratio(), goal.text());
    let met = row.is_met().map_or("-", |met| if met { "met" } else { "MISSED" });
    // Where nobody does the same there is nothing to compare.
    let [theirs, ratio] =
        if *peer == "-" { ["-".to_owned(), "-".to_owned()] } else { [format!("{theirs:.1}"), format!("{ratio:.2}")] };
    println!("| {what} | {ours:.1} | {theirs} | {peer} | {unit} | {ratio} | {text} | {met} |");
}

#[cfg(test)]
mod tests {
    use super::{Comparison, Goal, all_met, select};

    #[test]
    fn a_goal_is_met_at_its_limit_and_missed_beyond() {
        for (goal, ours, ratio, met) in [
            (Goal::RatioAtMost(1.0), 5.0, 1.0, true),
            (Goal::RatioAtMost(1.0), 0.1, 1.01, false),
            (Goal::RatioAtLeast(2.0), 9.0, 1.99, false),
            (Goal::AtMost(0.0), 0.0, f64::NAN, true),
            (Goal::AtMost(0.0), f64::NAN, f64::NAN, false),
        ] {
            assert_eq!(goal.is_met(ours, ratio), Some(met), "{}", goal.text());
        }
        assert_eq!(Goal::None.is_met(1.0, 1.0), None);
    }

    #[test]
    fn a_missed_goal_fails_its_bench_and_is_named() {
        let row = |what, ours, goal| Comparison::new(what, "s", ours, "-", 1.0, goal);
        let met = [row("quick", 1.0, Goal::AtMost(2.0)), row("told", 9.0, Goal::None)];
        assert!(all_met(&met).is_ok());
        let missed = [row("quick", 1.0, Goal::AtMost(2.0)), row("slow", 3.0, Goal::AtMost(2.0))];
        let said = all_met(&missed).map_or_else(|error| error.to_string(), |()| String::new());
        assert_eq!(said, "missed: slow");
        let absent = [row("absent", f64::NAN, Goal::RatioAtMost(1.0))];
        assert!(all_met(&absent).is_err());
    }

    #[test]
    fn an_unknown_bench_is_an_error_that_names_the_known_ones() {
        let error = select(&["nothing"]).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("connect"), "{error}");
    }

    #[test]
    fn without_a_name_all_are_chosen() {
        assert_eq!(select(&[]).expect("all").len(), super::BENCHES.len());
    }
}
