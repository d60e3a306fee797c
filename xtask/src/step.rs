//! One command of the run: announced, timed, and ended when it hangs.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
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

/// What runs beside the tests.
struct Beside {
    /// Whether there is still something beside which to be unnoticed.
    is_over: bool,
    /// The process of the step that runs.
    running: Option<u32>,
}

static BESIDE: Mutex<Beside> = Mutex::new(Beside { is_over: false, running: None });

fn beside() -> MutexGuard<'static, Beside> {
    BESIDE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Steps that run unnoticed need to be so no longer, and are not told of unless they fail.
pub(crate) fn no_longer_unnoticed() {
    let mut beside = beside();
    beside.is_over = true;
    if let Some(id) = beside.running {
        // Else it would wait for whatever another user of the machine does.
        lift(id);
    }
}

/// As `run`, beside something that must not be slowed down. What it prints is in a file of `target`, and is shown in one
/// piece when it fails.
pub(crate) fn run_unnoticed(name: &str, command: Command, limit: Duration) -> Result<()> {
    let start = Instant::now();
    let log = Path::new("target").join(name.replace(' ', "-")).with_extension("log");
    let status = unnoticed(command, &log, limit);
    let took = format!("in {:.1} s, beside the tests", start.elapsed().as_secs_f64());
    if status.as_ref().is_ok_and(ExitStatus::success) {
        if !beside().is_over {
            say(&format!("== {name}: ok {took}"));
        }
        return Ok(());
    }
    let printed = std::fs::read(&log).unwrap_or_default();
    say(&format!("== {name}: FAILED {took}\n{}", String::from_utf8_lossy(&printed)));
    let status = status.with_context(|| name.to_owned())?;
    bail!("{name}: {status}")
}

/// Runs `command` with what is left of the processor, and writes what it prints to a file.
fn unnoticed(command: Command, log: &Path, limit: Duration) -> Result<ExitStatus> {
    let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    let child = {
        let mut beside = beside();
        let mut command = if beside.is_over { command } else { with_what_is_left(&command) };
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("starting {}", command.get_program().display()))?;
        beside.running = Some(child.id());
        child
    };
    let status = wait(child, limit);
    beside().running = None;
    status
}

/// Takes back what [`with_what_is_left`] has done: of the group, and of the process and what it starts from now on.
fn lift(id: u32) {
    // It may have ended, or the kernel may know no groups.
    let _ = std::fs::write(format!("/proc/{id}/autogroup"), "0");
    let _ = output(Command::new("chrt").args(["--all-tasks", "--other", "--pid", "0", &id.to_string()]));
}

/// What it takes to be unnoticed: programs of util-linux.
pub(crate) const CAN_BE_UNNOTICED: [&str; 3] = ["setsid", "setpriv", "chrt"];

/// `command` as one that has the processor when nothing else wants it, and that ends with the thread that starts it.
///
/// Its policy counts beside what is of the same session. A process of a session of its own, as a test's browser is, has
/// the same share as all of this one where the kernel groups by session: so these are a group apart, with a small share.
fn with_what_is_left(command: &Command) -> Command {
    const GROUP: &str = r#"echo 19 2>/dev/null >/proc/self/autogroup; exec chrt --idle 0 "$@""#;
    let mut left = Command::new("setsid");
    left.args(["setpriv", "--pdeathsig", "TERM", "sh", "-c", GROUP, "sh"]);
    left.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => left.env(name, value),
            None => left.env_remove(name),
        };
    }
    left
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, Read as _};

    use super::*;

    #[test]
    fn a_step_beside_the_tests_has_what_is_left_of_the_processor_and_what_it_says_is_kept() {
        if CAN_BE_UNNOTICED.iter().any(|program| crate::interop::find_program(program).is_none()) {
            return;
        }
        let log = std::env::temp_dir().join(format!("whyrelay-unnoticed-{}", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "chrt -p $$; echo $WORD >&2; exit 3"]).env("WORD", "a fault");
        let status = unnoticed(command, &log, Duration::from_secs(20)).expect("it runs");
        let printed = std::fs::read_to_string(&log).expect("what it printed");
        std::fs::remove_file(&log).expect("removing it");
        assert_eq!(status.code(), Some(3));
        assert!(printed.contains("SCHED_IDLE") && printed.ends_with("a fault\n"), "{printed}");
    }
    #[test]
    fn a_step_beside_the_tests_is_lifted_when_they_are_over() {
        if CAN_BE_UNNOTICED.iter().any(|program| crate::interop::find_program(program).is_none()) {
            return;
        }
        let mut command = Command::new("sh");
        command.args(["-c", "echo; read line; chrt -p $$; cat /proc/$$/autogroup"]);
        let mut command = with_what_is_left(&command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut said = std::io::BufReader::new(child.stdout.take().expect("stdout is piped"));
        said.read_line(&mut String::new()).expect("it says that it is there");
        lift(child.id());
        writeln!(child.stdin.take().expect("stdin is piped")).expect("telling it");
        let mut text = String::new();
        said.read_to_string(&mut text).expect("what it says");
        child.wait().expect("its end");
        assert!(text.contains("SCHED_OTHER") && !text.contains("nice 19"), "{text}");
    }
}
