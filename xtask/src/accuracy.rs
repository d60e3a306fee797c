//! `cargo xtask accuracy`: measures how right the diagnosis is on virtual worlds and writes docs/accuracy.md.
//!
//! With `--kernel` every scenario is first run between real kernels, which takes root or user namespaces and some minutes;
//! docs/accuracy-kernel.json keeps what came out, and the page tells it with the day and the commit.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

const KERNEL_FIGURE: &str = "docs/accuracy-kernel.json";

/// What the page says before that was done once.
const NOT_RUN: &str = "\n## Between real kernels\n\nHow many scenarios are right between real kernels was not written down yet: `cargo xtask accuracy --kernel` does it. CI runs them all (`lab::both_worlds`) and fails where one is not.\n";

pub(crate) fn run(root: &Path, kernel: bool) -> Result<()> {
    if kernel {
        run_kernel(root)?;
    }
    // In a release build: the worlds are many.
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", "whyrelay-lab", "--example", "accuracy"]);
    let output = command.stderr(Stdio::inherit()).output().context("running the accuracy example")?;
    if !output.status.success() {
        bail!("the accuracy example ended with {}", output.status);
    }
    let mut page = String::from_utf8(output.stdout).context("reading the page")?;
    page.push_str(&kernel_section(root)?);
    page.push_str(&crate::proven::table(root)?);
    let path = root.join("docs/accuracy.md");
    std::fs::write(&path, &page).with_context(|| format!("writing {}", path.display()))?;
    print!("{page}");
    Ok(())
}

/// Runs all scenarios between real kernels; a scenario that comes out otherwise is part of the figure.
fn run_kernel(root: &Path) -> Result<()> {
    let path = root.join(KERNEL_FIGURE);
    let before = std::fs::metadata(&path).and_then(|file| file.modified()).ok();
    let mut command = cargo();
    command.args(["test", "--package", "whyrelay", "--test", "interop", "lab::both_worlds"]);
    let status = command.env("WHYRELAY_KERNEL_FIGURE", &path).status().context("running the scenarios")?;
    let after = std::fs::metadata(&path).and_then(|file| file.modified()).ok();
    if after == before {
        bail!("the scenarios were not run between real kernels (the test ended with {status})");
    }
    Ok(())
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// What the page says of real kernels.
fn kernel_section(root: &Path) -> Result<String> {
    let path = root.join(KERNEL_FIGURE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(NOT_RUN.to_owned()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let figure: Value = serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    Ok(told(&figure))
}

fn told(figure: &Value) -> String {
    let word = |key: &str| figure[key].as_str().unwrap_or("?").to_owned();
    let mut section = format!(
        "\n## Between real kernels\n\nEvery scenario that network namespaces can express, with this program on both sides: right is an account with the path and exactly the findings that the scenario says, the first of them included, and the same ones as in virtual time where it runs there, too. Run by `cargo xtask accuracy --kernel` on {} with Linux {} at commit {}, not when the rest of this page was written; CI runs the same test (`lab::both_worlds`). What comes out otherwise is run once more, and only the first run counts here.\n\n| | runs | right the first time | right the second time | goal |\n|---|--:|--:|--:|--:|\n",
        word("date"),
        word("kernel"),
        word("commit")
    );
    for (what, key, goal) in [
        ("scenarios", "scenarios", ""),
        ("scenarios with a fault: the first finding is right, and all others", "with_a_finding", "≥ 95 %"),
        ("the same scenarios by other routers", "other_routers", ""),
    ] {
        let number = |of: &str| figure[key][of].as_u64().unwrap_or_default();
        let (runs, agreed) = (number("runs"), number("agreed"));
        let share = if runs == 0 { 0.0 } else { agreed as f64 / runs as f64 * 100.0 };
        let then = number("agreed_the_second_time");
        let _ = writeln!(section, "| {what} | {runs} | {agreed} ({share:.2} %) | {then} | {goal} |");
    }
    section
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_first_run_counts() {
        let runs = |agreed: u64, then: u64| json!({ "runs": 200, "agreed": agreed, "agreed_the_second_time": then });
        let (date, commit, kernel) = ("2026-01-02", "0123456789", "6.1.0");
        let figure = json!({
            "date": date, "commit": commit, "kernel": kernel,
            "scenarios": runs(196, 3), "with_a_finding": runs(100, 1), "other_routers": runs(200, 0),
        });
        let section = told(&figure);
        assert!(section.contains("| scenarios | 200 | 196 (98.00 %) | 3 |"), "{section}");
        assert!(section.contains("| 200 | 100 (50.00 %) | 1 | ≥ 95 % |"), "{section}");
        assert!([date, commit, kernel].iter().all(|word| section.contains(word)), "{section}");
    }
}
