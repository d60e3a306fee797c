//! Running `ip` and `nft` with checked results.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

use super::error::LabError;
use super::state;

/// How much of a program's complaint an error shows.
const SHOWN: usize = 600;

/// The path of a program; which package has it when there is none.
pub(crate) fn find(program: &'static str, package: &'static str) -> Result<PathBuf, LabError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // Not always in a user's PATH.
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or(LabError::Missing { program, package })
}

pub(crate) fn ip() -> Result<PathBuf, LabError> {
    find("ip", "iproute2")
}

pub(crate) fn nft() -> Result<PathBuf, LabError> {
    find("nft", "nftables")
}

/// Whether the programs are there that every lab needs.
///
/// # Errors
/// Which is missing, and which package has it.
pub fn programs() -> Result<(), LabError> {
    ip().and_then(|_| nft()).map(drop)
}

/// Runs a program with a text on its standard input, and answers its standard output. No signal to this process' group
/// ends it: what builds a lab is to end what it has begun, and what removes one has to come to its end.
pub(crate) fn run(program: &Path, arguments: &[&str], input: &str) -> Result<String, LabError> {
    let shown = || format!("{} {}", program.display(), arguments.join(" "));
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env(state::OWNER, state::owner())
        // Ctrl-C is for the lab, which ends in order.
        .process_group(0);
    let child = unreached(|| command.spawn()).map_err(LabError::system(format!("starting {}", shown())));
    let mut child = child?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends without reading says why on stderr.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(LabError::system(format!("waiting for {}", shown())))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.trim().chars().take(SHOWN).collect();
    let failed = failed_line(&said, input).map(|line| format!("\nthe line was: {line}")).unwrap_or_default();
    Err(LabError::Command { command: shown(), said: format!("{}: {said}{failed}", output.status) })
}

/// Starts a program with the signals that end a lab blocked, which it keeps (signal(7)): until it is in a group of its
/// own, they reach it as well as this process.
pub(crate) fn unreached<T>(start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut ending = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| ending.add(signal));
    let before = ending.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let started = start();
    before.thread_set_mask()?;
    started
}

/// `ip -batch` says "Command failed -:7"; the line tells more.
fn failed_line<'a>(said: &str, input: &'a str) -> Option<&'a str> {
    let number: usize = said.rsplit_once("Command failed -:")?.1.split_whitespace().next()?.parse().ok()?;
    input.lines().nth(number.checked_sub(1)?)
}

/// `ip -batch -` with these lines.
pub(crate) fn ip_batch(lines: &[String]) -> Result<(), LabError> {
    if lines.is_empty() {
        return Ok(());
    }
    run(&ip()?, &["-batch", "-"], &(lines.join("\n") + "\n")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_signal_of_the_user_ends_what_builds_or_removes() {
        let shell = |script: &str| run(Path::new("/bin/sh"), &["-c", script], "");
        for signal in ["INT", "TERM", "HUP"] {
            let said = shell(&format!("kill -{signal} $$; echo went on"));
            assert!(said.as_ref().is_ok_and(|said| said == "went on\n"), "{signal}: {said:?}");
        }
        for script in ["kill -KILL $$", "exit 2"] {
            let failed = shell(script);
            assert!(matches!(failed, Err(LabError::Command { .. })), "{script}: {failed:?}");
        }
        assert!(!SigSet::thread_get_mask().unwrap().contains(Signal::SIGINT), "this thread's own are as before");
    }
}
