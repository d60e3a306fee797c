//! Commands for whyrelay itself, and what its JSON account must say.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use whyrelay_core::trace::recording::Recording;

use crate::namespace::{Namespace, Routed};
use crate::peers::{LIMIT, Role};
use crate::process::{Finished, Process};

/// Where `whyrelay serve` listens in its namespace.
const PORT: u16 = 8080;
pub(crate) const STUN_PORT: u16 = 3478;

/// `whyrelay serve`; it ends when dropped.
pub(crate) struct Server {
    process: Process,
    url: String,
}

impl Server {
    /// Starts it on the address of `namespace` with `more` arguments, and waits until it listens.
    pub(crate) fn start(namespace: &Namespace, more: &[&str]) -> Result<Self> {
        let host = namespace.address();
        let mut command = namespace.command(env!("CARGO_BIN_EXE_whyrelay"));
        command.args(["serve", "--listen", &format!("{host}:{PORT}")]);
        command.args(["--stun-listen", &format!("{host}:{STUN_PORT}")]).args(more);
        let process = Process::start("whyrelay serve", &mut command)?;
        let scheme = if more.contains(&"--tls-cert") { "https" } else { "http" };
        let url = format!("{scheme}://{host}:{PORT}");
        process.line(Duration::from_secs(10), |line| line.contains(&url))?;
        Ok(Self { process, url })
    }

    /// Its base URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The port of signaling.
    pub(crate) fn port(&self) -> u16 {
        PORT
    }

    /// The value of one of its metrics, asked for from its own machine; it must listen for that at `metrics`.
    ///
    /// # Errors
    /// When it does not answer, or does not know the metric.
    pub(crate) fn metric(&self, namespace: &Namespace, metrics: &str, name: &str) -> Result<u64> {
        let (host, port) = metrics.rsplit_once(':').context("ADDRESS:PORT")?;
        let ask = format!(
            "exec 3<>/dev/tcp/{host}/{port}; printf 'GET /metrics HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n' >&3; cat <&3"
        );
        let answer = namespace.command("timeout").args(["10", "bash", "-c", &ask]).output()?;
        let text = String::from_utf8_lossy(&answer.stdout);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.with_context(|| format!("no {name} in {text}\n{}", self.account()))
    }

    /// What it printed, for an error message.
    pub(crate) fn account(&self) -> String {
        self.process.account()
    }
}

/// `whyrelay offer` or `answer`, which will print its account as JSON.
pub(crate) fn peer(namespace: &Namespace, role: Role, signal: &str) -> Command {
    let mut command = namespace.command(env!("CARGO_BIN_EXE_whyrelay"));
    let verb = match role {
        Role::Offerer => "offer",
        Role::Answerer => "answer",
    };
    command.args([verb, "--signal", signal, "--format", "json", "--wait", "30s"]);
    command
}

/// One session between the two hosts of a world without TCP and relays: what the offerer and the answerer left, and the
/// offerer's recording. `wrap` may have a peer run as somebody else.
pub(crate) fn recorded(
    world: &Routed,
    server: &[&str],
    arguments: &[&str],
    wrap: impl Fn(Command) -> Command,
) -> Result<(Finished, Finished, Recording)> {
    recorded_with(world, server, arguments, &[], wrap)
}

/// The same with more arguments of the answerer, too.
pub(crate) fn recorded_with(
    world: &Routed,
    server: &[&str],
    arguments: &[&str],
    answerer: &[&str],
    wrap: impl Fn(Command) -> Command,
) -> Result<(Finished, Finished, Recording)> {
    let directory = tempfile::tempdir()?;
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o777))?;
    let path = directory.path().join("a.jsonl");
    let server = Server::start(&world.router, server)?;
    let start = |namespace: &Namespace, role: Role, more: &[&str]| {
        let mut command = peer(namespace, role, server.url());
        command.args(["--no-turn", "--no-tcp", "--exclude-interface", "wg0", "--timeout", "10s"]).args(more);
        Process::start(role.name(), &mut wrap(command))
    };
    let answerer = start(&world.b, Role::Answerer, answerer)?;
    let record = path.display().to_string();
    let offerer = start(&world.a, Role::Offerer, &[&["--record", &record], arguments].concat())?;
    let (offerer, answerer) = (offerer.finish(LIMIT)?, answerer.finish(LIMIT)?);
    let bytes = std::fs::read(&path).with_context(|| format!("no recording: {}", offerer.account))?;
    let recording = Recording::read(&bytes[..]).map_err(|error| anyhow!("{error}"))?;
    Ok((offerer, answerer, recording))
}

/// What a peer of ours has concluded.
pub(crate) struct Account {
    /// The object on stdout.
    pub(crate) json: Value,
    /// Everything it printed, for an error message.
    pub(crate) printed: String,
}

impl Account {
    /// Waits for the peer to end.
    ///
    /// # Errors
    /// When it prints no account, or its exit status does not follow from it.
    pub(crate) fn of(peer: Process) -> Result<Self> {
        Self::read(peer.finish(LIMIT)?)
    }

    /// What a peer that has ended printed; errors as [`Self::of`].
    pub(crate) fn read(finished: Finished) -> Result<Self> {
        let printed = finished.account;
        let json: Value = serde_json::from_str(&finished.stdout)
            .with_context(|| format!("stdout is not one JSON object: {printed}"))?;
        ensure!(json["schema"] == "whyrelay.report/1", "schema: {printed}");
        let account = Self { json, printed };
        let expected = i32::from(account.json["path"] != "direct" || account.has_finding());
        ensure!(finished.status.code() == Some(expected), "exit status: {}", account.printed);
        Ok(account)
    }

    /// Fails unless the path is direct and nothing is wrong with it.
    pub(crate) fn must_be_direct(&self) -> Result<()> {
        self.must_take_path("direct")?;
        ensure!(!self.has_finding(), "a healthy connection has a finding: {}", self.printed);
        Ok(())
    }

    /// Fails unless the path is relayed, by a relayed candidate of one side or the other.
    pub(crate) fn must_be_relayed(&self) -> Result<()> {
        self.must_take_path("relayed")?;
        let relay = |side| self.json["selected_pair"][side]["type"] == "relay";
        ensure!(relay("local") || relay("remote"), "no relayed candidate: {}", self.printed);
        Ok(())
    }

    /// Fails unless the account says that the other side's recording is missing.
    pub(crate) fn must_be_one_sided(&self) -> Result<()> {
        let missing = self.json["not_measured"].as_array();
        ensure!(missing.is_some_and(|list| !list.is_empty()), "nothing is missing: {}", self.printed);
        Ok(())
    }

    /// Whether a finding of this severity or worse than information exists.
    pub(crate) fn has_finding(&self) -> bool {
        let findings = self.json["findings"].as_array().into_iter().flatten();
        findings.filter(|finding| finding["severity"] == "error" || finding["severity"] == "warning").count() > 0
    }

    /// The codes of what was found.
    pub(crate) fn codes(&self) -> Vec<&str> {
        let findings = self.json["findings"].as_array().into_iter().flatten();
        findings.filter_map(|finding| finding["code"].as_str()).collect()
    }

    /// What the finding with a code says; nothing where there is none.
    pub(crate) fn summary_of(&self, code: &str) -> &str {
        let mut findings = self.json["findings"].as_array().into_iter().flatten();
        findings
            .find(|finding| finding["code"] == code)
            .and_then(|finding| finding["summary"].as_str())
            .unwrap_or_default()
    }

    fn must_take_path(&self, path: &str) -> Result<()> {
        ensure!(self.json["path"] == path, "the path is not {path}: {}", self.printed);
        for side in ["local", "remote"] {
            let address = self.json["selected_pair"][side]["address"].as_str().unwrap_or_default();
            ensure!(!address.is_empty(), "no {side} address: {}", self.printed);
        }
        Ok(())
    }
}
