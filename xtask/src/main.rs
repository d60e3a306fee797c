//! What CI runs, as one command: `cargo xtask test`.
//!
//! | command | what it does |
//! |---|---|
//! | `test` | formatting and licenses; the tests are built, beside it what they need is installed; then every test, and lints beside them |
//! | `interop [FILTER]` | the interop tests alone |
//! | `fuzz [TARGET] --seconds N` | each fuzz target for N seconds |
//! | `accuracy [--kernel]` | measures the diagnosis on virtual worlds, with `--kernel` between real kernels as well, and writes docs/accuracy.md |
//! | `findings` | writes docs/findings.md from the rules |
//! | `bench [NAME…] [--runs N]` | our figures beside the peers' |

mod accuracy;
mod bench;
mod findings;
mod fuzz;
mod interop;
mod licenses;
mod proven;
#[cfg(test)]
mod security;
mod step;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: cargo xtask test
       cargo xtask interop [FILTER]
       cargo xtask fuzz [TARGET] [--seconds N]
       cargo xtask accuracy [--kernel]
       cargo xtask findings
       cargo xtask bench [NAME...] [--runs N]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let root = workspace_root();
    std::env::set_current_dir(&root).with_context(|| format!("entering {}", root.display()))?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["test"] => test::everything(),
        ["interop"] => test::interop_only(None),
        ["interop", filter] => test::interop_only(Some(filter)),
        ["fuzz", rest @ ..] => fuzz::run(rest),
        ["accuracy"] => accuracy::run(&root, false),
        ["accuracy", "--kernel"] => accuracy::run(&root, true),
        ["findings"] => findings::run(&root),
        ["bench", rest @ ..] => bench::run(rest),
        // What `bench` starts.
        ["bench-isolated", name] => bench::run_isolated(name, None),
        ["bench-isolated", name, runs] => bench::run_isolated(name, Some(runs)),
        ["bench-measure", rest @ ..] => bench::measure(rest),
        _ => bail!("{USAGE}"),
    }
}

/// The directory of the workspace's manifest, one above this crate's.
fn workspace_root() -> PathBuf {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or(manifest.clone(), PathBuf::from)
}
