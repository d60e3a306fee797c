//! The saved report of a session with 200 candidates a side and 10,000 checks, opened in Chromium.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Comparison, Goal, counted};
use crate::step;

/// A few seconds each.
const RUNS: usize = 5;

/// It is open within a second.
const OPEN_MS: f64 = 1000.0;

pub(super) fn run(runs: Option<usize>) -> Result<Vec<Comparison>> {
    let file = std::env::current_dir()?.join("target/report.html");
    step::output(Command::new("target/release/examples/screen_load").arg(&file))?;
    println!("{} bytes", file.metadata()?.len());
    let mut figures = [("desktop", Vec::new(), Vec::new()), ("phone", Vec::new(), Vec::new())];
    for () in counted(runs.unwrap_or(RUNS), "the capture") {
        let mut command = Command::new(super::peers::tool("NODE")?);
        command.args(["interop/page/run.mjs", "report", "--url", &format!("file://{}", file.display())]);
        let line = step::output(&mut command)?;
        let seen: Value = serde_json::from_str(line.trim()).with_context(|| line.clone())?;
        for (size, painted, loaded) in &mut figures {
            let figure = |name: &str| seen[&**size][name].as_f64().with_context(|| format!("no {name} in {seen}"));
            painted.push(figure("paintedMs")?);
            loaded.push(figure("loadedMs")?);
        }
    }
    std::fs::remove_file(&file)?;
    let row = |what, figures, goal| Comparison::new(what, "ms", super::peers::median(figures), "none", f64::NAN, goal);
    let [(_, painted, loaded), (_, phone_painted, phone_loaded)] = figures;
    Ok(vec![
        row("from navigation to something seen", painted, Goal::AtMost(OPEN_MS)),
        row("from navigation to all of it there", loaded, Goal::AtMost(OPEN_MS)),
        row("the same on a phone's screen: seen", phone_painted, Goal::AtMost(OPEN_MS)),
        row("the same on a phone's screen: all there", phone_loaded, Goal::AtMost(OPEN_MS)),
    ])
}
