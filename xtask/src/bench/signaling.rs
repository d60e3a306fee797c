//! What signaling costs: ours beside a server that behaves as the Go lab's does, matchbox and PeerJS.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::peers::{Ended, SERVER, built, median, tool, wait_for_server};
use super::{Comparison, Goal, counted};
use crate::step;

const RUNS: usize = 3;

/// One row: how both are loaded, and which figure counts.
struct Row {
    what: &'static str,
    peer: &'static str,
    server: &'static str,
    protocols: [&'static str; 2],
    load: &'static str,
    figure: &'static str,
    unit: &'static str,
    goal: Goal,
}

/// A mesh of matchbox's tells everybody of everybody, so it is measured with fewer.
const ROWS: &[Row] = &[
    Row {
        what: "long poll, 100 pairs, CPU per message",
        peer: "Go server",
        server: "GOLAB",
        protocols: ["long-poll", "long-poll"],
        load: "--pairs 100 --seconds 3",
        figure: "cpu_us_per_message",
        unit: "us",
        goal: Goal::RatioAtMost(0.45),
    },
    Row {
        what: "long poll, 2000 messages a second, CPU per message",
        peer: "Go server",
        server: "GOLAB",
        protocols: ["long-poll", "long-poll"],
        load: "--pairs 100 --rate 2000 --seconds 3",
        figure: "cpu_us_per_message",
        unit: "us",
        goal: Goal::RatioAtMost(0.45),
    },
    Row {
        what: "long poll, 1000 pairs, p99",
        peer: "Go server",
        server: "GOLAB",
        protocols: ["long-poll", "long-poll"],
        load: "--pairs 1000 --seconds 3",
        figure: "p99_us",
        unit: "us",
        goal: Goal::RatioAtMost(0.65),
    },
    Row {
        what: "long poll, memory per receiver",
        peer: "Go server",
        server: "GOLAB",
        protocols: ["long-poll", "long-poll"],
        load: "--idle 1000",
        figure: "bytes_per_receiver",
        unit: "B",
        goal: Goal::RatioAtMost(0.2),
    },
    Row {
        what: "WebSocket, 50 pairs, CPU per message",
        peer: "matchbox",
        server: "MATCHBOX",
        protocols: ["websocket", "matchbox"],
        load: "--pairs 50 --seconds 3",
        figure: "cpu_us_per_message",
        unit: "us",
        goal: Goal::RatioAtMost(1.0),
    },
    Row {
        what: "WebSocket, 50 pairs, CPU per message",
        peer: "PeerJS",
        server: "PEERJS",
        protocols: ["websocket", "peerjs"],
        load: "--pairs 50 --seconds 3",
        figure: "cpu_us_per_message",
        unit: "us",
        goal: Goal::RatioAtMost(1.0),
    },
    Row {
        what: "WebSocket, memory per idle socket",
        peer: "matchbox",
        server: "MATCHBOX",
        protocols: ["websocket", "matchbox"],
        load: "--idle 200",
        figure: "bytes_per_receiver",
        unit: "B",
        goal: Goal::AtMost(8192.0),
    },
    Row {
        what: "WebSocket, memory per idle socket",
        peer: "PeerJS",
        server: "PEERJS",
        protocols: ["websocket", "peerjs"],
        load: "--idle 200",
        figure: "bytes_per_receiver",
        unit: "B",
        goal: Goal::AtMost(8192.0),
    },
];

/// A pair at a leisurely rate, and what is added to disturb it.
const HEALTHY: &str = "--pairs 10 --rate 500 --seconds 3";
const DISTURBED: &str = "--pairs 10 --rate 500 --seconds 3 --slow-readers 4";

pub(super) fn run(runs: Option<usize>) -> Result<Vec<Comparison>> {
    let ours = built("examples/signaling_server")?;
    let mut comparisons = Vec::new();
    for row in ROWS {
        let (mut our_figures, mut their_figures) = (Vec::new(), Vec::new());
        for () in counted(runs.unwrap_or(RUNS), row.what) {
            let [our_protocol, their_protocol] = row.protocols;
            let theirs = tool(row.server).and_then(|server| load(&server, their_protocol, row.load, row.figure));
            their_figures.push(or_unmeasured(theirs.context(row.what)));
            our_figures.push(or_unmeasured(load(&ours, our_protocol, row.load, row.figure).context(row.what)));
        }
        let (ours, theirs) = (median(our_figures), median(their_figures));
        comparisons.push(Comparison::new(row.what, row.unit, ours, row.peer, theirs, row.goal));
    }
    comparisons.push(beside_slow_readers(&ours, runs.unwrap_or(RUNS)));
    Ok(comparisons)
}

/// Ours beside itself: the same pairs with receivers that read nothing, and without.
fn beside_slow_readers(server: &Path, runs: usize) -> Comparison {
    let (mut disturbed, mut healthy) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        healthy.push(or_unmeasured(load(server, "long-poll", HEALTHY, "p99_us")));
        disturbed.push(or_unmeasured(load(server, "long-poll", DISTURBED, "p99_us")));
    }
    let (disturbed, healthy) = (median(disturbed), median(healthy));
    let what = "long poll, p99 of healthy pairs beside slow readers";
    Comparison::new(what, "us", disturbed, "ours without them", healthy, Goal::RatioAtMost(2.0))
}

/// A figure that could not be had must not keep the others from being measured; it meets no goal.
fn or_unmeasured(figure: Result<f64>) -> f64 {
    figure.unwrap_or_else(|error| {
        eprintln!("not measured: {error:#}");
        f64::NAN
    })
}

/// Loads a fresh server and answers one figure.
fn load(server: &Path, protocol: &str, arguments: &str, figure: &str) -> Result<f64> {
    // The Go server knows no address, listens there by itself and ignores it.
    let server = Ended::start(Command::new(server).arg(SERVER))?;
    wait_for_server()?;
    let mut load = Command::new(built("examples/signaling_load")?);
    load.args([SERVER, &server.id().to_string(), protocol]).args(arguments.split(' '));
    let output = step::output(&mut load)?;
    let figures: Value = serde_json::from_str(&output)?;
    figures[figure].as_f64().with_context(|| format!("no {figure} in {output}"))
}
