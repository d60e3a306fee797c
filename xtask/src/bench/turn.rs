//! What STUN and TURN cost: ours beside Debian's coturn, a fresh server for each figure.
//!
//! The goals were set beside coturn 4.17.1, which is faster than Debian's 4.6.1: a Binding takes 4.6.1 1.2 times the
//! CPU. Where that is known the goal here is stricter by as much.

use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::peers::{Ended, built, median, tool};
use super::{Comparison, Goal, counted};
use crate::step;

const RUNS: usize = 3;

/// Where either server listens, and its realm: eight bytes, as ours is by default.
const PORT: &str = "3478";
const REALM: &str = "whyrelay";

/// One row: the load, and which of its figures counts.
struct Row {
    what: &'static str,
    server: Server,
    load: &'static str,
    figure: &'static str,
    unit: &'static str,
    goal: Goal,
}

/// How a server is started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Plain,
    /// With a certificate, for TLS on the same port.
    Tls,
    /// On ::1, with relays there.
    Ipv6,
    /// With a second address, for behavior discovery.
    Discovery,
}

/// A row of CPU time, of a server as it is usually run.
const fn cpu(what: &'static str, load: &'static str, goal: Goal) -> Row {
    Row { what, server: Server::Plain, load, figure: "cpu_us", unit: "us", goal }
}

impl Row {
    const fn by(self, server: Server) -> Self {
        Self { server, ..self }
    }

    const fn figure(self, figure: &'static str, unit: &'static str) -> Self {
        Self { figure, unit, ..self }
    }
}

const STUN: &[Row] = &[
    // 0.85 of 4.17.1's 6.3 us is 0.70 of 4.6.1's 7.6 us.
    cpu("Binding, saturated, CPU of the server", "binding", Goal::RatioAtMost(0.70)),
    // From one source, answers leave together; from as many as there are requests under way, none do.
    cpu("Binding from 64 sources, CPU of the server", "binding --sources 64", Goal::RatioAtMost(0.70)),
    // Resting threads and gathering datagrams must not make who asks seldom wait.
    cpu("Binding, one a millisecond, median of the time to the answer", "latency", Goal::None).figure("p50_us", "us"),
    cpu("the same, 99th percentile", "latency", Goal::None).figure("p99_us", "us"),
    cpu("amplification of a bare Binding request", "amplification", Goal::AtMost(1.6)).figure("binding_ratio", "x"),
    // coturn answers it at the port that it is asked at.
    cpu("the same where behavior discovery is offered", "amplification --discovery-port 3479", Goal::AtMost(1.6))
        .by(Server::Discovery)
        .figure("discovery_ratio", "x"),
    cpu("first answer to an Allocate request", "amplification", Goal::AtMost(56.0)).figure("refusal_bytes", "B"),
    // Ten in any second; of the two that it lasts a moment may lie before the first.
    cpu("such answers to one source address", "amplification", Goal::AtMost(10.5)).figure("refusals_per_second", "1/s"),
];

const TURN: &[Row] = &[
    cpu("client to peer, 172 B, saturated, CPU per packet", "relay --size 172", Goal::RatioAtMost(0.65)),
    cpu("client to peer, 172 B, 20,000 a second", "relay --size 172 --rate 20000", Goal::RatioAtMost(0.65)),
    cpu("client to peer, 40 B, saturated", "relay --size 40", Goal::None),
    cpu("client to peer, 40 B, 20,000 a second", "relay --size 40 --rate 20000", Goal::None),
    cpu("client to peer, 1200 B, saturated", "relay --size 1200", Goal::None),
    cpu("client to peer, 1200 B, 20,000 a second", "relay --size 1200 --rate 20000", Goal::None),
    cpu("peer to client, 172 B, saturated", "relay --to-client --size 172", Goal::None),
    cpu("peer to client, 172 B, 20,000 a second", "relay --to-client --size 172 --rate 20000", Goal::None),
    cpu("peer to client, 1200 B, saturated", "relay --to-client --size 1200", Goal::None),
    cpu("by Send indications, 172 B, saturated", "relay --indications --size 172", Goal::None),
    cpu("by Data indications, 172 B, saturated", "relay --indications --to-client --size 172", Goal::None),
    cpu("client over TCP to peer, 172 B, saturated", "relay --transport tcp --size 172", Goal::None),
    cpu("peer to client over TCP, 172 B, saturated", "relay --transport tcp --to-client --size 172", Goal::None),
    cpu("client over TLS to peer, 172 B, saturated", TO_PEER_OVER_TLS, Goal::None).by(Server::Tls),
    cpu("peer to client over TLS, 172 B, saturated", TO_CLIENT_OVER_TLS, Goal::None).by(Server::Tls),
    cpu("client to peer over IPv6, 172 B, saturated", "relay --size 172", Goal::None).by(Server::Ipv6),
    cpu("peer to client over IPv6, 172 B, saturated", "relay --to-client --size 172", Goal::None).by(Server::Ipv6),
    cpu("relay to relay, 172 B, saturated", "relays --size 172", Goal::RatioAtMost(0.55)),
    cpu("relay to relay, 172 B, 20,000 a second", "relays --size 172 --rate 20000", Goal::None),
    cpu("an allocation made, refreshed and given back", "sessions", Goal::None),
    cpu("memory of an allocation with one channel", "memory --count 2000", Goal::AtMost(5632.0))
        .figure("bytes_per_allocation", "B"),
];

/// Where the certificate of either server lies.
const CERTIFICATE: &str = "target/bench-certificate";
const TO_PEER_OVER_TLS: &str = "relay --transport tls --certificate target/bench-certificate/cert.pem --size 172";
const TO_CLIENT_OVER_TLS: &str =
    "relay --transport tls --certificate target/bench-certificate/cert.pem --to-client --size 172";

/// What the choice between an engine of our own and the library rests on (docs/decisions.md); no goal hangs on it. No
/// Binding: the library sends the answer to its own address.
const LIBRARY: &[Row] = &[
    cpu("client to peer, 172 B, saturated, CPU per packet", "relay --size 172", Goal::None),
    cpu("relay to relay, 172 B, saturated", "relays --size 172", Goal::None),
    cpu("memory of an allocation with one channel", "memory --count 2000", Goal::None)
        .figure("bytes_per_allocation", "B"),
];

/// What ours is measured beside.
#[derive(Clone, Copy)]
struct Peer {
    name: &'static str,
    start: fn(Server) -> Result<Ended>,
    /// The method of an unsigned request that either server answers once it listens.
    answers: u8,
}

const COTURN: Peer = Peer { name: "coturn (Debian)", start: coturn, answers: BINDING };
const TURN_PROTO: Peer = Peer { name: "turn-server-proto", start: turn_proto, answers: ALLOCATE };

/// Methods of RFC 8489 and RFC 8656, as the second byte of a request has them.
const BINDING: u8 = 1;
const ALLOCATE: u8 = 3;

pub(super) fn stun(runs: Option<usize>) -> Result<Vec<Comparison>> {
    rows(STUN, COTURN, runs)
}

pub(super) fn turn(runs: Option<usize>) -> Result<Vec<Comparison>> {
    rows(TURN, COTURN, runs)
}

pub(super) fn library(runs: Option<usize>) -> Result<Vec<Comparison>> {
    rows(LIBRARY, TURN_PROTO, runs)
}

fn rows(rows: &[Row], peer: Peer, runs: Option<usize>) -> Result<Vec<Comparison>> {
    let mut comparisons = Vec::new();
    for row in rows {
        let (mut our_figures, mut their_figures) = (Vec::new(), Vec::new());
        for () in counted(runs.unwrap_or(RUNS), row.what) {
            their_figures.push(or_unmeasured(load(row, peer.start, peer.answers)));
            our_figures.push(or_unmeasured(load(row, ours, peer.answers)));
        }
        let (ours, theirs) = (median(our_figures), median(their_figures));
        comparisons.push(Comparison::new(row.what, row.unit, ours, peer.name, theirs, row.goal));
    }
    Ok(comparisons)
}

/// A figure that could not be had must not keep the others from being measured; it meets no goal.
fn or_unmeasured(figure: Result<f64>) -> f64 {
    figure.unwrap_or_else(|error| {
        eprintln!("not measured: {error:#}");
        f64::NAN
    })
}

fn load(row: &Row, start: fn(Server) -> Result<Ended>, answers: u8) -> Result<f64> {
    if row.server == Server::Tls {
        step::output(Command::new(built("examples/turn_load")?).args(["certificate", CERTIFICATE]))?;
    }
    let server = start(row.server)?;
    let address = format!("{}:{PORT}", if row.server == Server::Ipv6 { "[::1]" } else { "127.0.0.1" });
    wait_until_listening(&address, answers)?;
    let mut load = Command::new(built("examples/turn_load")?);
    load.args([&address, &server.id().to_string()]).args(row.load.split(' '));
    let output = step::output(&mut load).with_context(|| row.what)?;
    let figures: Value = serde_json::from_str(&output)?;
    figures[row.figure].as_f64().with_context(|| format!("no {} in {output}", row.figure))
}

/// The addresses that a server has: where it listens, and where it relays.
const fn home(server: Server) -> &'static str {
    if matches!(server, Server::Ipv6) { "::1" } else { "127.0.0.1" }
}

fn ours(server: Server) -> Result<Ended> {
    let users = std::env::current_dir()?.join("target/bench-turn-users");
    std::fs::write(&users, "alice:wonderland\n")?;
    let home = home(server);
    let listen = if server == Server::Ipv6 { format!("[{home}]:{PORT}") } else { format!("{home}:{PORT}") };
    let mut command = Command::new(built("whyrelay")?);
    command.args(["serve", "--listen", "127.0.0.1:0", "--stun-listen", &listen]);
    command.args(["--relay-address", home, "--allow-loopback-peers", "--user-quota", "100000"]);
    command.args(["--max-new-peers", "100000"]);
    command.args(["--total-quota", "100000", "--turn-realm", REALM, "--turn-users-file"]).arg(users);
    match server {
        Server::Tls => command.args(["--tls-cert", &certificate("cert")?, "--tls-key", &certificate("key")?]),
        Server::Discovery => command.args(["--alternate-address", "127.0.0.2"]),
        Server::Plain | Server::Ipv6 => &mut command,
    };
    Ended::start(&mut command)
}

/// As an operator runs it who wants no more than STUN and TURN: it may use every core, and logs nothing.
fn coturn(server: Server) -> Result<Ended> {
    let home = home(server);
    let mut command = Command::new(tool("TURNSERVER")?);
    command.args(["-n", "--no-cli", "--no-dtls", "--no-software-attribute"]);
    command.args(["--lt-cred-mech", "--user", "alice:wonderland", "--realm", REALM, "--allow-loopback-peers"]);
    command.args(["--listening-ip", home, "--relay-ip", home, "--listening-port", PORT]);
    command.args(["--log-file", "/dev/null", "--no-stdout-log", "--pidfile", "/dev/null"]);
    match server {
        Server::Tls => command.args(["--cert", &certificate("cert")?, "--pkey", &certificate("key")?, "--no-rfc5780"]),
        Server::Discovery => command.args(["--no-tls", "--listening-ip", "127.0.0.2"]),
        Server::Plain | Server::Ipv6 => command.args(["--no-tls", "--no-rfc5780"]),
    };
    Ended::start(&mut command)
}

fn certificate(what: &str) -> Result<String> {
    Ok(std::env::current_dir()?.join(CERTIFICATE).join(what).with_extension("pem").display().to_string())
}

/// The library that STACK names, behind the least of a driver: one thread, as it has one machine.
fn turn_proto(_: Server) -> Result<Ended> {
    let mut command = Command::new(tool("TURN_PROTO")?);
    command.args([&format!("127.0.0.1:{PORT}"), REALM, "alice", "wonderland"]);
    Ended::start(&mut command)
}

/// Until it answers a request of this method: coturn listens on TCP a while before it reads UDP.
fn wait_until_listening(address: &str, method: u8) -> Result<()> {
    let request: [u8; 20] = [0, method, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
    let deadline = Instant::now() + Duration::from_secs(10);
    let socket = UdpSocket::bind(if address.starts_with('[') { "[::1]:0" } else { "127.0.0.1:0" })?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    while socket.send(&request).and_then(|_| socket.recv(&mut [0; 200])).is_err() {
        ensure!(Instant::now() < deadline, "the server does not answer");
        // A refusal comes at once.
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
