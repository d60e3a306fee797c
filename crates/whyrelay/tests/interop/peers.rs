//! Commands for the peers in `interop/`, and the one line of JSON that each of them gives in the end.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::namespace::Namespace;
use crate::process::Process;
use crate::suite;

/// Peers give up by themselves before this.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Which side of a session a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Sends the offer, as `offer-peer-1`.
    Offerer,
    /// Answers it, as `answer-peer-1`.
    Answerer,
}

impl Role {
    /// As the peers' flags spell it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Offerer => "offerer",
            Self::Answerer => "answerer",
        }
    }

    /// The other side.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Offerer => Self::Answerer,
            Self::Answerer => Self::Offerer,
        }
    }
}

/// aiortc.
pub(crate) fn aiortc(namespace: &Namespace, role: Role, signal: &str) -> Result<Command> {
    let mut command = namespace.command(suite::path("PYTHON")?);
    command.arg(source("aiortc_peer.py"));
    command.args(["--role", role.name(), "--signal", signal]);
    Ok(command)
}

/// A headless Chromium.
pub(crate) fn chromium(namespace: &Namespace, role: Role, signal: &str) -> Result<Command> {
    let mut command = namespace.command(suite::path("NODE")?);
    command.arg(source("browser/run.mjs"));
    command.args(["--role", role.name(), "--signal", signal]);
    Ok(command)
}

/// A headless Firefox.
pub(crate) fn firefox(namespace: &Namespace, role: Role, signal: &str) -> Result<Command> {
    let mut command = chromium(namespace, role, signal)?;
    command.args(["--browser", "firefox"]);
    Ok(command)
}

/// Pion, as a peer that ends with a report.
pub(crate) fn pion(namespace: &Namespace, role: Role, signal: &str) -> Result<Command> {
    let mut command = golab_client(namespace, role, signal)?;
    command.arg("-report");
    Ok(command)
}

/// The Go lab's client, which runs until something ends it.
pub(crate) fn golab_client(namespace: &Namespace, role: Role, signal: &str) -> Result<Command> {
    let mut command = namespace.command(suite::path("PION")?);
    command.args(["-role", role.name(), "-signaling-addr", signal]);
    Ok(command)
}

/// The Go lab's signaling server; it ends when dropped.
pub(crate) struct GolabServer {
    process: Process,
    url: String,
}

impl GolabServer {
    /// Starts it on a free port of the address of `namespace`; `idle` is how long it bears silence.
    pub(crate) fn start(namespace: &Namespace, idle: Duration) -> Result<Self> {
        let mut command = namespace.command(suite::path("GOLAB_SERVER")?);
        command.args(["-port", "0", "-host", &namespace.address().to_string()]);
        command.arg("-idle").arg(format!("{}ms", idle.as_millis()));
        let process = Process::start("golab-server", &mut command)?;
        let line = process.line(Duration::from_secs(10), |line| line.contains("listening"))?;
        let line: Value = serde_json::from_str(&line)?;
        let url = line["listening"].as_str().context("no URL")?.to_owned();
        Ok(Self { process, url })
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What it printed, for an error message.
    pub(crate) fn account(&self) -> String {
        self.process.account()
    }
}

/// Waits for a peer's result.
///
/// # Errors
/// When it is not `"ok": true`, with everything that the peer printed.
pub(crate) fn success(peer: Process) -> Result<Value> {
    let finished = peer.finish(LIMIT)?;
    // Libraries have their own say on stdout while they close, Pion's logger for one.
    let result = finished.stdout.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
    match result {
        Some(result) if finished.status.success() && result["ok"] == true => Ok(result),
        _ => bail!("the peer failed: {}", finished.account),
    }
}

/// A file of `interop/`.
pub(crate) fn source(name: &str) -> PathBuf {
    // Set by cargo and nextest where the tests run, which may not be where they were built.
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.join("../../interop").join(name)
}
