//! Virtual time and the diagnosis: worlds, and from the last event to the verdict, on one core, whose time is
//! counted: a goal "on one core" is nobody else's compilation. No peer does the same.

use std::process::Stdio;

use anyhow::{Context, Result};

use super::{Comparison, Goal};
use crate::test::cargo;

pub(super) fn run(_: Option<usize>) -> Result<Vec<Comparison>> {
    let mut example = cargo(&["run", "--release", "--quiet", "--package", "whyrelay-lab", "--example", "lab_bench"]);
    let output = example.stderr(Stdio::inherit()).output().context("running the lab's bench")?;
    anyhow::ensure!(output.status.success(), "the lab's bench ended with {}", output.status);
    let text = String::from_utf8(output.stdout).context("reading its figures")?;
    let figure = |name: &str| {
        let line = text.lines().filter_map(|line| line.split_once(' ')).find(|(own, _)| *own == name);
        line.and_then(|(_, seconds)| seconds.parse::<f64>().ok()).unwrap_or(f64::NAN)
    };
    let row = |what, unit, ours, goal| Comparison::new(what, unit, ours, "-", f64::NAN, goal);
    Ok(vec![
        row("NAT x NAT matrix, both first speakers, CPU", "s", figure("matrix"), Goal::AtMost(10.0)),
        row("the same by the clock", "s", figure("matrix-wall"), Goal::None),
        row(
            "10,000 random worlds with a fault, judged from both sides and each alone, CPU",
            "s",
            figure("worlds"),
            Goal::AtMost(120.0),
        ),
        row("the same by the clock", "s", figure("worlds-wall"), Goal::None),
        row(
            "end of the checks to the verdict, the slowest scenario",
            "ms",
            figure("verdict") * 1e3,
            Goal::AtMost(100.0),
        ),
        row("the same, recordings of 100,000 events", "ms", figure("verdict-large") * 1e3, Goal::AtMost(100.0)),
        row("their whole account, folded from files", "ms", figure("account-large") * 1e3, Goal::None),
    ])
}
