//! How long a user waits to be told that two machines cannot connect, and why.

use std::process::Command;

use anyhow::Result;

use super::peers::{Kind, SERVER, make_network, median, session, signaling_server};
use super::{Comparison, Goal, counted};
use crate::step;

/// Pion takes half a minute for each.
const RUNS: usize = 3;
/// How ours begins the answer on stdout, which follows once both sides' recordings have met.
const VERDICT: &str = "FAILED";

pub(super) fn run(runs: Option<usize>) -> Result<Vec<Comparison>> {
    let (ours, pion) = (Kind::ours(&[])?, Kind::pion(&["-timeout", "80"])?);
    make_network()?;
    drop_all_but_signaling()?;
    let _server = signaling_server()?;
    let (mut failed, mut named, mut pion_failed) = (Vec::new(), Vec::new(), Vec::new());
    for () in counted(runs.unwrap_or(RUNS), "a failing session of each") {
        pion_failed.push(session(&pion, "connection: failed")?.figure("marker_ms"));
        failed.push(session(&ours, "ICE failed")?.figure("marker_ms"));
        let account = session(&ours, VERDICT)?;
        named.push(account.figure("marker_ms"));
        println!("our answer: {}", account.line);
    }
    let theirs = median(pion_failed);
    Ok(vec![
        Comparison::new("UDP dropped: until failed", "ms", median(failed), "Pion", theirs, Goal::AtMost(3000.0)),
        Comparison::new(
            "UDP dropped: until the answer with its cause",
            "ms",
            median(named),
            "Pion, no cause",
            theirs,
            Goal::AtMost(3000.0),
        ),
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
