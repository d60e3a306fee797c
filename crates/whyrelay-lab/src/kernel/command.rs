//! Running `ip` and `nft` with checked results.

use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

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

/// Runs a program with a text on its standard input, and answers its standard output.
pub(crate) fn run(program: &Path, arguments: &[&str], input: &str) -> Result<String, LabError> {
    let shown = || format!("{} {}", program.display(), arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env(state::OWNER, state::owner())
        // Ctrl-C is for the lab, which ends in order.
        .process_group(0)
        .spawn()
        .map_err(LabError::system(format!("starting {}", shown())))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends without reading says why on stderr.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(LabError::system(format!("waiting for {}", shown())))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    // Before it is in a group of its own, Ctrl-C reaches it, too. Other signals may be anybody's: whether the lab got one
    // itself its flag says (`LabError::or_interrupted`).
    if output.status.signal() == Some(Signal::SIGINT as i32) {
        return Err(LabError::Interrupted);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.trim().chars().take(SHOWN).collect();
    let failed = failed_line(&said, input).map(|line| format!("\nthe line was: {line}")).unwrap_or_default();
    Err(LabError::Command { command: shown(), said: format!("{}: {said}{failed}", output.status) })
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
    fn ctrl_c_alone_says_that_the_user_ended_a_program() {
        let shell = |script: &str| run(Path::new("/bin/sh"), &["-c", script], "");
        let ended = shell("kill -INT $$");
        assert!(matches!(ended, Err(LabError::Interrupted)), "{ended:?}");
        for script in ["kill -TERM $$", "kill -HUP $$", "kill -KILL $$", "exit 2"] {
            let failed = shell(script);
            assert!(matches!(failed, Err(LabError::Command { .. })), "{script}: {failed:?}");
        }
    }
}
