//! `cargo xtask test`: every check of the project. What takes seconds comes first; then all tests are built and run, interop
//! last, and the compiler's lints beside them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::interop::{self, Tools};
use crate::{licenses, step};

/// The whole run is to end within 30 minutes on two cores: a step that takes this long hangs.
const STEP_LIMIT: Duration = Duration::from_secs(20 * 60);

/// What nextest tells of the programs that it has built.
const BUILT: &str = "target/tests.json";

/// Everything CI runs.
pub(crate) fn everything() -> Result<()> {
    // Packages come over the network while the compiler works. An installation is never left half made.
    let tools = std::thread::spawn(interop::prepare);
    let ready = quick_checks().and_then(|()| prepare_tests());
    let tools = tools.join().map_err(|_| anyhow!("preparing the interop tools: panicked"))?;
    let (lints_are_done, tools) = (ready?, tools?);
    // Tests mostly wait: the compiler has what they leave of the cores. Who mends what it finds learns of the tests, too.
    let lints = (!lints_are_done).then(|| std::thread::spawn(|| lints(step::run_unnoticed)));
    // Built once more, the tests would wait for the lints to let go of `target`.
    let which: &[&str] = if lints.is_some() { &["--binaries-metadata", BUILT] } else { &["--workspace", "--tests"] };
    let tests = run_tests(&tools, which);
    // Nothing is printed after the test runner's own closing line but what is wrong.
    step::no_longer_unnoticed();
    let lints = lints.map_or(Ok(()), |lints| lints.join().map_err(|_| anyhow!("the lints: panicked"))?);
    lints.and(tests)
}

/// What takes seconds.
fn quick_checks() -> Result<()> {
    step::run("format", cargo(&["fmt", "--all", "--check"]), STEP_LIMIT)?;
    step::timed("licenses and sources", licenses::check)?;
    if installed("cargo-deny") {
        let deny = cargo(&["deny", "check", "licenses", "bans", "sources"]);
        step::run("cargo deny", deny, STEP_LIMIT)
    } else {
        let reason = "cargo-deny is not installed; the step before has checked the same lists";
        step::skip("cargo deny", reason);
        Ok(())
    }
}

/// Builds the tests, and answers whether the lints are done: without nextest tests run as soon as they are built, and the
/// compiler has no time of its own beside them.
fn prepare_tests() -> Result<bool> {
    if !installed("cargo-nextest") || !step::CAN_BE_UNNOTICED.iter().all(|program| installed(program)) {
        lints(step::run)?;
        return Ok(true);
    }
    // No examples: clippy looks at them.
    let mut build = cargo(&["nextest", "list", "--workspace", "--tests"]);
    build.args(["--list-type", "binaries-only", "--message-format", "json"]);
    // It is elsewhere where CARGO_TARGET_DIR says so.
    std::fs::create_dir_all("target").context("creating target")?;
    build.stdout(File::create(BUILT).with_context(|| format!("creating {BUILT}"))?);
    step::run("build of the tests", build, STEP_LIMIT)?;
    // nextest runs no documentation tests, and its closing line is to be the last.
    if documentation_test(Path::new("crates"))?.is_some() {
        let doctests = cargo(&["test", "--workspace", "--doc"]);
        step::run("documentation tests", doctests, STEP_LIMIT)?;
    } else {
        // It would build everything once more to run nothing.
        step::skip("documentation tests", "there are none");
    }
    Ok(false)
}

/// What the compiler finds without running anything of ours. `run` is told what, with a name and a limit.
fn lints(run: fn(&str, Command, Duration) -> Result<()>) -> Result<()> {
    let mut clippy = cargo(&["clippy", "--workspace", "--all-targets"]);
    clippy.args(["--", "-D", "warnings"]);
    run("clippy", clippy, STEP_LIMIT)?;

    let mut documentation = cargo(&["doc", "--workspace", "--no-deps"]);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    run("documentation", documentation, STEP_LIMIT)?;

    // libFuzzer itself, in C++, is built for who runs it.
    let mut fuzz = cargo(&["check", "--manifest-path", "fuzz/Cargo.toml", "--no-default-features"]);
    fuzz.env("CARGO_TARGET_DIR", "target/fuzz-check");
    run("fuzz targets build", fuzz, STEP_LIMIT)
}

/// The interop tests whose names contain `filter`.
pub(crate) fn interop_only(filter: Option<&str>) -> Result<()> {
    let tools = interop::prepare()?;
    let mut arguments = vec!["--workspace", "--test", "interop"];
    arguments.extend(filter);
    run_tests(&tools, &arguments)
}

/// The last step. Nothing is printed after the test runner's own closing line.
fn run_tests(tools: &Tools, arguments: &[&str]) -> Result<()> {
    step::announce("tests");
    tools.print_missing();
    let mut command = if installed("cargo-nextest") {
        // `skip` prints the names of skipped tests, which hold the reason.
        let mut nextest = cargo(&["nextest", "run", "--status-level", "skip"]);
        nextest.args(["--test-threads", &tests_at_a_time().to_string()]);
        nextest
    } else {
        cargo(&["test", "--no-fail-fast"])
    };
    command.args(arguments).envs(tools.variables());
    let status = command.status()?;
    if !status.success() {
        bail!("tests: {status}");
    }
    Ok(())
}

/// More than a small machine has cores: much of what the tests do is to wait.
fn tests_at_a_time() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).max(4)
}

/// The cargo that runs this program, with `arguments`.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments);
    // A machine that builds once has nothing to build on next time.
    if std::env::var_os("CI").is_some() {
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}

/// The first source file under `directory` that has an example in its documentation: a fence without a language, or
/// with Rust's.
fn documentation_test(directory: &Path) -> Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = documentation_test(&path)? {
                return Ok(Some(found));
            }
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && has_example(&std::fs::read_to_string(&path)?)
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn has_example(source: &str) -> bool {
    let fences = source.lines().filter_map(|line| {
        let line = line.trim_start();
        let text = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"))?;
        text.trim().strip_prefix("```")
    });
    // Every other fence closes one.
    fences
        .step_by(2)
        .any(|language| language.is_empty() || language.starts_with("rust") || language.starts_with("no_run"))
}

/// Whether `program` is in `PATH`.
fn installed(program: &str) -> bool {
    interop::find_program(program).is_some()
}

#[cfg(test)]
mod tests {
    use super::has_example;

    #[test]
    fn an_example_is_a_fence_of_rust_or_of_nothing() {
        assert!(has_example("/// ```\n/// assert!(true);\n/// ```\n"));
        assert!(has_example("//! ```rust\n//! ```\n"));
        assert!(!has_example("//! ```text\n//! a -> b\n//! ```\n/// words\n"));
    }
}
