//! Programs inside a laboratory meet what its sessions meet: servers with their faults, credentials, signaling; what they do
//! not meet is said.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::process::{Finished, Process};
use crate::suite::{Suite, Tool};

const WHYRELAY: &str = env!("CARGO_BIN_EXE_whyrelay");
const LIMIT: Duration = Duration::from_secs(40);

/// The tests of this module.
pub(super) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("lab::a_program_inside_is_told_what_a_session_is_and_what_is_left_out", &tools, told);
    suite.test("lab::a_session_by_hand_inside_comes_out_as_the_scenario_says", &tools, by_hand);
    suite.test("lab::the_demo_tells_of_a_session_that_fails", &tools, demo);
}

fn exec(scenario: &str, host: &str, script: &str) -> Result<Finished> {
    let mut command = Command::new(WHYRELAY);
    command
        .args(["lab", "exec", scenario, host, "--", "sh", "-c", script])
        .env_remove("WHYRELAY_SIGNAL")
        .env_remove("TURN_PASSWORD");
    Process::start("whyrelay lab exec", &mut command)?.finish(LIMIT)
}

fn told() -> Result<()> {
    let shown = "echo [$WHYRELAY_LAB_SESSION] [$TURN_PASSWORD] [$WHYRELAY_SIGNAL]";
    let by_user = tempfile::Builder::new().suffix(".toml").tempfile()?;
    std::fs::write(
        by_user.path(),
        "title = \"t\"\n[host.a]\nsession = { uid = 65534 }\n[host.b]\n[expect]\npath = \"direct\"\n",
    )?;
    let by_user = by_user.path().display().to_string();
    for (scenario, host, parts) in [
        (
            "turn-wrong-password",
            "a",
            &["--turn turn:198.51.100.1:3478 ", "--turn-user lab] [wrong] [http://127.0.0.1:8080]"][..],
        ),
        ("turn-no-credentials", "b", &["--stun stun:198.51.100.1:3478", "] [] [http://127.0.0.1:8080]"]),
        ("candidates-lost", "a", &["[http://127.0.0.1:8080]"]),
        ("vpn-marked-socket", "a", &["[--no-tcp --port 51820 --mark 0x1bd00 "]),
        ("vpn-marked-socket", "server", &["[] [lab-password] [http://198.51.100.1:8080]"]),
        (
            &by_user,
            "a",
            &[
                "left out: the user 65534, as whom a's session runs: setpriv --reuid=65534 --regid=65534 --clear-groups PROGRAM",
            ],
        ),
        ("late-starter", "b", &["left out: the scenario starts b "]),
    ] {
        let finished = exec(scenario, host, shown)?;
        ensure!(finished.status.success(), "{scenario}: {}", finished.account);
        for part in parts {
            ensure!(finished.account.contains(part), "{scenario}: {part:?} is not in {}", finished.account);
        }
    }
    // Where all is there nothing is said.
    let whole = exec("two-homes", "a", shown)?;
    ensure!(!whole.account.contains("left out"), "{}", whole.account);
    Ok(())
}

/// Both peers by hand, each with nothing but what a program inside is told there: TURN over TLS with its certificate,
/// credentials that are wrong, a session of b that has no TURN.
fn by_hand() -> Result<()> {
    for (scenario, path, finding) in [
        ("tls-on-443", "relayed", None),
        ("turn-certificate-expired", "failed", Some("turn-tls")),
        ("turn-wrong-password", "failed", Some("turn-credentials-rejected")),
        ("turn-relay-ports-closed", "failed", Some("relayed-checks-lost")),
    ] {
        let told = exec(scenario, "b", "echo $WHYRELAY_LAB_SESSION; echo $WHYRELAY_LAB_SESSION_B")?;
        let lines: Vec<&str> = told.stdout.lines().collect();
        ensure!(lines.len() == 2 && lines[0] == lines[1], "{scenario}: {}", told.account);
        let session = format!(
            "ip netns exec $WHYRELAY_LAB-b {WHYRELAY} answer $WHYRELAY_LAB_SESSION_B --room x \
             >/dev/null 2>&1 & {WHYRELAY} offer $WHYRELAY_LAB_SESSION --room x --format json"
        );
        let finished = exec(scenario, "a", &session)?;
        let account: serde_json::Value =
            serde_json::from_str(&finished.stdout).with_context(|| format!("{scenario}: {}", finished.account))?;
        ensure!(account["path"] == path, "{scenario}: {}", finished.stdout);
        let findings = account["findings"].as_array().context("no findings")?;
        let is = |wanted: &str| {
            findings.iter().any(|found| found["name"].as_str().is_some_and(|name| name.starts_with(wanted)))
        };
        ensure!(finding.is_none_or(is), "{scenario}: no {finding:?}: {}", finished.stdout);
    }
    Ok(())
}

/// A disk that is full, by the largest file that the system allows: sessions cannot write their recordings. And a program
/// that fails in a network that was built.
fn demo() -> Result<()> {
    let mut command = Command::new("prlimit");
    command.args(["--fsize=6000", WHYRELAY, "demo", "--story", "homes"]);
    let finished = Process::start("whyrelay demo", &mut command)?.finish(LIMIT * 2)?;
    ensure!(finished.status.code() == Some(2), "{}", finished.account);
    for part in ["between real kernels: whyrelay ", "it could not do its work"] {
        ensure!(finished.account.contains(part), "{part:?} is not in {}", finished.account);
    }
    ensure!(!finished.account.contains("virtual time"), "it is hidden: {}", finished.account);

    // An `nft` that fails once the networks are built and the sessions are over.
    let directory = tempfile::tempdir()?;
    let (file, usual) = (directory.path().join("nft"), crate::suite::path("NFT")?);
    let usual = usual.display();
    let text =
        format!("#!/bin/sh\ncase \"$*\" in list\\ counter*) echo broken >&2; exit 1 ;; esac\nexec {usual} \"$@\"\n");
    std::fs::write(&file, text)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
    let path = std::env::join_paths(
        std::iter::once(directory.path().to_owned())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    )?;
    let mut command = Command::new(WHYRELAY);
    command.args(["demo", "--story", "homes"]).env("PATH", path);
    let finished = Process::start("whyrelay demo", &mut command)?.finish(LIMIT * 2)?;
    ensure!(finished.status.code() == Some(2), "{}", finished.account);
    ensure!(finished.account.contains("broken"), "{}", finished.account);
    ensure!(!finished.account.contains("virtual time"), "it is hidden: {}", finished.account);
    Ok(())
}
