//! The terminal screen over a live session with 200 candidates a side and 10,000 checks.

use std::process::Command;

use anyhow::{Context, Result};

use super::{Comparison, Goal, counted};
use crate::step;

/// Six seconds each.
const RUNS: usize = 3;

/// 30 frames a second leave each so many milliseconds.
const FRAME_MS: f64 = 1000.0 / 30.0;

pub(super) fn run(runs: Option<usize>) -> Result<Vec<Comparison>> {
    let (mut cadence, mut slowest, mut age) = (Vec::new(), Vec::new(), Vec::new());
    for () in counted(runs.unwrap_or(RUNS), "the screen") {
        let line = step::output(&mut Command::new("target/release/examples/screen_load"))?;
        println!("{}", line.trim());
        let figure = |name: &str| -> Result<f64> {
            let fields = line.split_whitespace().filter_map(|field| field.split_once('='));
            let value = fields.into_iter().find(|(field, _)| *field == name).map(|(_, value)| value);
            value.with_context(|| format!("screen_load does not tell {name}"))?.parse().context("a figure")
        };
        cadence.push(1000.0 / figure("frames_per_second")?);
        slowest.push(figure("slowest_frame_ms")?);
        age.push(figure("oldest_account_ms")?);
    }
    let row = |what, figures, goal| Comparison::new(what, "ms", super::peers::median(figures), "none", f64::NAN, goal);
    Ok(vec![
        row("from frame to frame, in the slowest second", cadence, Goal::AtMost(FRAME_MS)),
        row("the slowest frame", slowest, Goal::AtMost(FRAME_MS)),
        row("how old the account on the screen is, at most", age, Goal::None),
    ])
}
