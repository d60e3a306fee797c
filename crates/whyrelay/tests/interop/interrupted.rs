//! Ctrl-C at any moment leaves no allocation on the server, as the server itself says.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use crate::coturn::{self, Coturn, PASSWORD, Transport, USER};
use crate::namespace::Namespace;
use crate::ours::{self, Server};
use crate::peers::{LIMIT, Role};
use crate::process::Process;
use crate::suite::{Suite, Tool};

/// From before the first allocation to long after the path, in milliseconds.
const MOMENTS: [u64; 9] = [0, 10, 15, 20, 30, 45, 70, 150, 700];

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Turnserver];
    suite.test("interrupted::no_allocation_is_left_on_coturn_over_udp", &tools, || nothing_left(Transport::Udp));
    suite.test("interrupted::no_allocation_is_left_on_coturn_over_tcp", &tools, || nothing_left(Transport::Tcp));
    suite.test("interrupted::no_allocation_is_left_on_coturn_over_tls", &tools, || nothing_left(Transport::Tls));
    let ours = [Tool::NetworkNamespaces];
    suite.test("interrupted::no_allocation_is_left_on_our_server_by_any_transport", &ours, nothing_left_on_ours);
    let filtered = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("interrupted::ctrl_c_during_probes_is_quick_and_both_recordings_are_exchanged", &filtered, quick);
}

fn nothing_left(transport: Transport) -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let server = Server::start(&left, &["--no-stun"])?;
    let coturn = Coturn::start(&left)?;
    interrupt_at_each_moment(&left, &right, &server, |command| {
        command.env("TURN_PASSWORD", PASSWORD);
        command.args(["--turn", &coturn.url(transport), "--turn-user", USER]);
        command.arg("--tls-ca").arg(coturn.authority());
    })?;
    // coturn writes its log behind the answer to the client.
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let log = coturn.log();
        let (made, given_back) = (sessions(&log, ": new, "), sessions(&log, "lifetime=0"));
        // The late moments find an allocation on each side.
        if made.len() >= MOMENTS.len() && made.is_subset(&given_back) {
            return Ok(());
        }
        let open: Vec<_> = made.difference(&given_back).collect();
        ensure!(Instant::now() < until, "of {} allocations these are left: {open:?}\n{log}", made.len());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// With a certificate it announces itself over UDP, TCP and TLS, and each peer allocates by all three.
fn nothing_left_on_ours() -> Result<()> {
    const METRICS: &str = "127.0.0.1:9100";
    let (left, right) = Namespace::pair()?;
    let directory = tempfile::tempdir()?;
    coturn::write_certificates(&left.address().to_string(), directory.path())?;
    let file = |name: &str| directory.path().join(name).display().to_string();
    let (certificate, key) = (file("server.pem"), file("server.key"));
    let server = Server::start(
        &left,
        &["--tls-cert", &certificate, "--tls-key", &key, "--metrics-listen", METRICS, "--user-quota", "1000"],
    )?;
    interrupt_at_each_moment(&left, &right, &server, |command| {
        command.args(["--tls-ca", &file("authority.pem")]);
    })?;
    let made = server.metric(&left, METRICS, "whyrelay_turn_allocations_total")?;
    // The late moments find three on each side.
    ensure!(made >= 3 * MOMENTS.len() as u64, "only {made} allocations were made: {}", server.account());
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match server.metric(&left, METRICS, "whyrelay_turn_allocations ")? {
            0 => return Ok(()),
            open => ensure!(Instant::now() < until, "of {made} allocations {open} are left: {}", server.account()),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Two sides that have a relay and nothing direct, so that each probes for seconds why.
fn quick() -> Result<()> {
    const METRICS: &str = "127.0.0.1:9100";
    let (left, right) = Namespace::pair()?;
    let server = Server::start(&left, &["--metrics-listen", METRICS])?;
    for (host, port) in [(&left, "udp dport"), (&right, "udp sport")] {
        let filter = "type filter hook input priority 0;";
        host.nft(&format!(
            "table inet t {{ chain i {{ {filter} iifname wr0 {port} != {} drop; }}; }}",
            ours::STUN_PORT
        ))?;
    }
    let start = |namespace: &Namespace, role: Role| {
        let mut command = ours::peer(namespace, role, server.url());
        command.arg("--no-tcp");
        Process::start(role.name(), &mut command)
    };
    let answerer = start(&right, Role::Answerer)?;
    let offerer = start(&left, Role::Offerer)?;
    offerer.line(LIMIT, |line| line.contains("probing why nothing is direct"))?;
    // The session itself has come to its end long before its probes have.
    std::thread::sleep(Duration::from_millis(500));
    let began = Instant::now();
    offerer.signal(Signal::SIGINT)?;
    let offered = ours::Account::of(offerer)?;
    let took = began.elapsed();
    let answered = ours::Account::of(answerer)?;
    // Half a second, and what a busy machine takes for the account itself; it was two and more.
    ensure!(took < Duration::from_millis(1200), "{took:?}: {}", offered.printed);
    ensure!(offered.json["path"] == "relayed", "{}", offered.printed);
    ensure!(offered.json == answered.json, "two accounts:\n{}\n{}", offered.printed, answered.printed);
    let open = server.metric(&left, METRICS, "whyrelay_turn_allocations ")?;
    ensure!(open == 0, "{open} allocations are left: {}", server.account());
    Ok(())
}

/// Two peers, ended by Ctrl-C so long after they know of signaling.
fn interrupt_at_each_moment(
    left: &Namespace,
    right: &Namespace,
    server: &Server,
    add: impl Fn(&mut Command),
) -> Result<()> {
    for moment in MOMENTS {
        let start = |namespace: &Namespace, role: Role| {
            let mut command = ours::peer(namespace, role, server.url());
            command.args(["--room", &moment.to_string(), "--stay"]);
            add(&mut command);
            Process::start(role.name(), &mut command)
        };
        let answerer = start(right, Role::Answerer)?;
        answerer.line(LIMIT, |line| line.contains("signaling: connected"))?;
        let offerer = start(left, Role::Offerer)?;
        offerer.line(LIMIT, |line| line.contains("s signaling: ") || line.contains("gathered"))?;
        std::thread::sleep(Duration::from_millis(moment));
        for peer in [offerer, answerer] {
            // The other side's goodbye may have ended it.
            let _ = peer.signal(Signal::SIGINT);
            let finished = peer.finish(LIMIT)?;
            ensure!(finished.status.code().is_some_and(|code| code < 2), "after {moment} ms: {}", finished.account);
        }
    }
    Ok(())
}

/// The sessions of whose lines in coturn's log one holds `word`.
fn sessions<'a>(log: &'a str, word: &str) -> BTreeSet<&'a str> {
    let id = |line: &'a str| line.split_once("session ")?.1.split(':').next();
    log.lines().filter(|line| line.contains(word)).filter_map(id).collect()
}
