//! How long a user waits to be told that two machines cannot connect, and why.

use std::process::Command;

use anyhow::Result;

use super::peers::{Ended, Kind, SERVER, built, make_network, median, session, signaling_server, wait_for_server};
use super::{Comparison, Goal, counted};
use crate::step;

/// Pion takes half a minute for each.
const RUNS: usize = 3;
/// How ours begins the answer on stdout, which follows once both sides' recordings have met.
const VERDICT: &str = "FAILED";

/// A second address, for a server that the peers reach when they do not reach each other.
const RELAY: &str = "192.0.2.2";
/// The peers' own.
const PEERS: &str = "192.0.2.1";
/// What ours says when it has a path, when it begins to probe, and when it knows why.
const RELAYED: [&str; 3] = ["path: ", "probing why nothing is direct", "RELAYED"];
/// The goal for all extra probes together, in milliseconds.
const WITH_PROBES: f64 = 5000.0;

pub(super) fn run(runs: Option<usize>) -> Result<Vec<Comparison>> {
    let (ours, pion) = (Kind::ours(&[])?, Kind::pion(&["-timeout", "80"])?);
    make_network()?;
    drop_all_but_signaling()?;
    let server = signaling_server()?;
    let (mut failed, mut named, mut pion_failed) = (Vec::new(), Vec::new(), Vec::new());
    for () in counted(runs.unwrap_or(RUNS), "a failing session of each") {
        pion_failed.push(session(&pion, "connection: failed")?.figure("marker_ms"));
        failed.push(session(&ours, "ICE failed")?.figure("marker_ms"));
        let account = session(&ours, VERDICT)?;
        named.push(account.figure("marker_ms"));
        println!("our answer: {}", account.line);
    }
    drop(server);
    let theirs = median(pion_failed);
    let (failed, named) = (median(failed), median(named));
    let mut rows = vec![
        Comparison::new("UDP dropped: until failed", "ms", failed, "Pion", theirs, Goal::AtMost(3000.0)),
        Comparison::new(
            "UDP dropped: until the answer with its cause",
            "ms",
            named,
            "Pion, no cause",
            theirs,
            Goal::AtMost(3000.0),
        ),
        Comparison::new(
            "of that, from failed to the answer",
            "ms",
            named - failed,
            "-",
            f64::NAN,
            Goal::AtMost(WITH_PROBES),
        ),
    ];
    rows.extend(relayed(runs)?);
    Ok(rows)
}

/// The same two, which a relay connects, and a plain program's sockets to compare with: nothing is left out of what is
/// probed by itself, and the session has no checks left to wait for.
fn relayed(runs: Option<usize>) -> Result<Vec<Comparison>> {
    step::output(Command::new("nft").args(["delete", "table", "inet", "bench"]))?;
    step::output(Command::new("ip").args(["address", "add", &format!("{RELAY}/24"), "dev", "bench0"]))?;
    // TCP is not offered where a program is stood in for.
    let rules = format!(
        "table inet bench {{\nchain arriving {{\ntype filter hook input priority 0;\n\
         ip saddr {PEERS} ip daddr {PEERS} meta l4proto udp drop\n}}\n}}\n"
    );
    step::output(Command::new("nft").arg(rules))?;
    let ours = built("whyrelay")?;
    let mut serve = Command::new(&ours);
    serve.args(["serve", "--listen", SERVER, "--stun-listen", &format!("{RELAY}:3478"), "--relay-address", RELAY]);
    let _server = Ended::start(serve.args(["--allow-peer", "192.0.2.0/24"]))?;
    wait_for_server()?;
    let signal = format!("http://{SERVER}");
    let side = |verb: &str| {
        let words = [verb, "--signal", &signal, "--address", PEERS, "--as", "mark=0x1bd00"];
        words.map(str::to_owned).to_vec()
    };
    let kind = Kind { program: ours, offerer: side("offer"), answerer: side("answer") };
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for () in counted(runs.unwrap_or(RUNS), "a session that a relay connects") {
        for (marker, times) in RELAYED.iter().zip(&mut times) {
            let sample = session(&kind, marker)?;
            if *marker == RELAYED[2] {
                println!("our answer: {}", sample.line);
            }
            times.push(sample.figure("marker_ms"));
        }
    }
    let [path, probing, answer] = times;
    let slowest = answer.iter().copied().fold(f64::NAN, f64::max);
    let path = median(path);
    let row = |what, ours, goal| Comparison::new(what, "ms", ours, "-", f64::NAN, goal);
    Ok(vec![
        row("relayed, all probes: from the path to the answer, the slowest", slowest - path, Goal::AtMost(WITH_PROBES)),
        row("of that, until it says that it probes", median(probing) - path, Goal::None),
    ])
}

/// Drops in silence, on arrival, so that no sender sees it: all UDP, and TCP but for the server's.
fn drop_all_but_signaling() -> Result<()> {
    let port = SERVER.rsplit(':').next().unwrap_or_default();
    // Not `dport != … sport != …` in one rule: nft 1.0.6 joins the two, and then either is enough.
    let rules = format!(
        "table inet bench {{\nchain arriving {{\ntype filter hook input priority 0;\n\
         tcp dport {port} accept\ntcp sport {port} accept\nmeta l4proto {{ tcp, udp }} drop\n}}\n}}\n"
    );
    step::output(Command::new("nft").arg(rules))?;
    Ok(())
}
