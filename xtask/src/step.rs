//! One command of the run: announced, timed, and ended when it hangs.

use std::io::Write as _;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a running command is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Runs `command` under the heading `name` and fails when it fails or takes longer than `limit`.
pub(crate) fn run(name: &str, mut command: Command, limit: Duration) -> Result<()> {
    timed(name, || {
        let status =
            wait(command.spawn().with_context(|| format!("starting {}", command.get_program().display()))?, limit)
                .with_context(|| name.to_owned())?;
        if !status.success() {
            bail!("{name}: {status}");
        }
        Ok(())
    })
}

/// Does `work` under the heading `name` and prints how long it took.
pub(crate) fn timed<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    announce(name);
    let start = Instant::now();
    let outcome = work();
    let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
    say(&format!("== {name}: {verdict} in {:.1} s", start.elapsed().as_secs_f64()));
    outcome
}

/// Prints a heading.
pub(crate) fn announce(name: &str) {
    say(&format!("== {name}"));
}

/// Says what is being done below a heading.
pub(crate) fn progress(what: &str) {
    say(&format!("   {what}"));
}

/// Says why something is not done.
pub(crate) fn skip(name: &str, reason: &str) {
    say(&format!("== {name}: skipped: {reason}"));
}

/// Runs `command` quietly and answers its stdout; its stderr goes into the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("starting {program}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{program}: {}: {}", output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits for `child`, and kills it when `limit` has passed.
fn wait(mut child: Child, limit: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!("no end after {} s", limit.as_secs());
        }
        std::thread::sleep(POLL);
    }
}

/// Everything goes to stderr, as cargo's and nextest's own lines do, so that the order holds.
fn say(line: &str) {
    // A closed stderr is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{line}");
}
