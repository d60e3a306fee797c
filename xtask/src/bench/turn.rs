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
use super::{Comparison, Goal};
use crate::step;

const RUNS: usize = 3;

/// Where either server listens, and its realm: eight bytes, as ours is by default.
const PORT: &str = "3478";
const REALM: &str = "whyrelay";

/// One row: the load, and which of its figures counts.
struct Row {
    what: &'static str,
    load: &'static str,
    figure: &'static str,
    unit: &'static str,
    goal: Goal,
}

const STUN: &[Row] = &[
    Row {
        what: "Binding, saturated, CPU of the server",
        load: "binding",
        figure: "cpu_us",
        unit: "us",
        // 0.85 of 4.17.1's 6.3 us is 0.70 of 4.6.1's 7.6 us.
        goal: Goal::RatioAtMost(0.70),
    },
    // From one source, answers leave together; from as many as there are requests under way, none do.
    Row {
        what: "Binding from 64 sources, CPU of the server",
        load: "binding --sources 64",
        figure: "cpu_us",
        unit: "us",
        goal: Goal::RatioAtMost(0.70),
    },
    Row {
        what: "amplification of a bare Binding request",
        load: "amplification",
        figure: "binding_ratio",
        unit: "x",
        goal: Goal::AtMost(1.6),
    },
    Row {
        what: "first answer to an Allocate request",
        load: "amplification",
        figure: "refusal_bytes",
        unit: "B",
        goal: Goal::AtMost(56.0),
    },
    Row {
        what: "such answers to one source address",
        load: "amplification",
        figure: "refusals_per_second",
        unit: "1/s",
        // Ten a second, and a second's worth at the beginning of two.
        goal: Goal::AtMost(15.5),
    },
];

const TURN: &[Row] = &[
    Row {
        what: "client to peer, 172 B, saturated, CPU per packet",
        load: "relay --size 172",
        figure: "cpu_us",
        unit: "us",
        goal: Goal::RatioAtMost(0.65),
    },
    Row {
        what: "client to peer, 172 B, 20,000 a second",
        load: "relay --size 172 --rate 20000",
        figure: "cpu_us",
        unit: "us",
        goal: Goal::RatioAtMost(0.65),
    },
    Row {
        what: "client to peer, 40 B, saturated",
        load: "relay --size 40",
        figure: "cpu_us",
        unit: "us",
        goal: Goal::None,
    },
    Row {
        what: "client to peer, 1200 B, saturated",
        load: "relay --size 1200",
        figure: "cpu_us",
        unit: "us",
        goal: Goal::None,
    },
    Row {
        what: "relay to relay, 172 B, saturated",
        load: "relays --size 172",
        figure: "cpu_us",
        unit: "us",
        goal: Goal::RatioAtMost(0.55),
    },
    Row {
        what: "relay to relay, 172 B, 20,000 a second",
        load: "relays --size 172 --rate 20000",
        figure: "cpu_us",
        unit: "us",
        goal: Goal::None,
    },
    Row {
        what: "memory of an allocation with one channel",
        load: "memory --count 2000",
        figure: "bytes_per_allocation",
        unit: "B",
        goal: Goal::AtMost(5632.0),
    },
];

/// What the choice between an engine of our own and the library rests on (docs/decisions.md); no goal hangs on it. No
/// Binding: the library sends the answer to its own address.
const LIBRARY: &[Row] = &[
    Row {
        what: "client to peer, 172 B, saturated, CPU per packet",
        load: "relay --size 172",
        figure: "cpu_us",
        unit: "us",
        goal: Goal::None,
    },
    Row {
        what: "relay to relay, 172 B, saturated",
        load: "relays --size 172",
        figure: "cpu_us",
        unit: "us",
        goal: Goal::None,
    },
    Row {
        what: "memory of an allocation with one channel",
        load: "memory --count 2000",
        figure: "bytes_per_allocation",
        unit: "B",
        goal: Goal::None,
    },
];

/// What ours is measured beside.
#[derive(Clone, Copy)]
struct Peer {
    name: &'static str,
    start: fn() -> Result<Ended>,
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
        for _ in 0..runs.unwrap_or(RUNS) {
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

fn load(row: &Row, start: fn() -> Result<Ended>, answers: u8) -> Result<f64> {
    let server = start()?;
    wait_until_listening(answers)?;
    let mut load = Command::new(built("examples/turn_load")?);
    load.args([&format!("127.0.0.1:{PORT}"), &server.id().to_string()]).args(row.load.split(' '));
    let output = step::output(&mut load).with_context(|| row.what)?;
    let figures: Value = serde_json::from_str(&output)?;
    figures[row.figure].as_f64().with_context(|| format!("no {} in {output}", row.figure))
}

fn ours() -> Result<Ended> {
    let users = std::env::current_dir()?.join("target/bench-turn-users");
    std::fs::write(&users, "alice:wonderland\n")?;
    let mut command = Command::new(built("whyrelay")?);
    command.args(["serve", "--listen", "127.0.0.1:0", "--stun-listen", &format!("127.0.0.1:{PORT}")]);
    command.args(["--relay-address", "127.0.0.1", "--allow-loopback-peers", "--user-quota", "100000"]);
    command.args(["--max-new-peers", "100000"]);
    command.args(["--total-quota", "100000", "--turn-realm", REALM, "--turn-users-file"]).arg(users);
    Ended::start(&mut command)
}

/// As an operator runs it who wants no more than STUN and TURN: it may use every core, and logs nothing.
fn coturn() -> Result<Ended> {
    let mut command = Command::new(tool("TURNSERVER")?);
    command.args(["-n", "--no-cli", "--no-tls", "--no-dtls", "--no-rfc5780", "--no-software-attribute"]);
    command.args(["--lt-cred-mech", "--user", "alice:wonderland", "--realm", REALM, "--allow-loopback-peers"]);
    command.args(["--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1", "--listening-port", PORT]);
    command.args(["--log-file", "/dev/null", "--no-stdout-log", "--pidfile", "/dev/null"]);
    Ended::start(&mut command)
}

/// The library that STACK names, behind the least of a driver: one thread, as it has one machine.
fn turn_proto() -> Result<Ended> {
    let mut command = Command::new(tool("TURN_PROTO")?);
    command.args([&format!("127.0.0.1:{PORT}"), REALM, "alice", "wonderland"]);
    Ended::start(&mut command)
}

/// Until it answers a request of this method: coturn listens on TCP a while before it reads UDP.
fn wait_until_listening(method: u8) -> Result<()> {
    let request: [u8; 20] = [0, method, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
    let deadline = Instant::now() + Duration::from_secs(10);
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(format!("127.0.0.1:{PORT}"))?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    while socket.send(&request).and_then(|_| socket.recv(&mut [0; 200])).is_err() {
        ensure!(Instant::now() < deadline, "the server does not answer");
        // A refusal comes at once.
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
