//! Two of ours with something in between: how long until it is said.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::namespace::Namespace;
use crate::ours::{self, Account, Server};
use crate::peers::Role;
use crate::process::Process;
use crate::suite::{Suite, Tool};

/// Pion needs half a minute for a bare "failed". How long ours takes is measured by `cargo xtask bench fail`; this
/// only tells the short schedule from a wait for a time limit, on a machine however busy.
const LIMIT: Duration = Duration::from_secs(15);

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("blocked::dropped_udp_is_failed_with_its_cause_long_before_a_time_limit", &tools, dropped_udp);
    suite.test("blocked::tcp_alone_connects_and_both_chains_are_whole", &tools, tcp_alone);
}

fn dropped_udp() -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let server = Server::start(&left, &["--no-stun"])?;
    for namespace in [&left, &right] {
        namespace.drop_all_but_tcp(server.port())?;
    }
    let start =
        |namespace: &Namespace, role: Role| Process::start(role.name(), &mut ours::peer(namespace, role, server.url()));
    let answerer = start(&right, Role::Answerer)?;
    std::thread::sleep(Duration::from_millis(500));
    let begin = Instant::now();
    let offerer = start(&left, Role::Offerer)?;
    let offered = Account::of(offerer).with_context(|| server.account())?;
    let taken = begin.elapsed();
    let answered = Account::of(answerer).with_context(|| server.account())?;
    for account in [&offered, &answered] {
        ensure!(account.json["path"] == "failed", "it did not fail: {}", account.printed);
        ensure!(account.has_finding(), "no finding: {}", account.printed);
    }
    ensure!(taken < LIMIT, "it took {taken:?}: {}", offered.printed);
    Ok(())
}

/// ICE-TCP (RFC 6544): each side tries the other's listening port, and the account shows the connections as pairs.
fn tcp_alone() -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let server = Server::start(&left, &["--no-stun"])?;
    for namespace in [&left, &right] {
        namespace.drop_udp("wr0")?;
    }
    let start =
        |namespace: &Namespace, role: Role| Process::start(role.name(), &mut ours::peer(namespace, role, server.url()));
    let answerer = start(&right, Role::Answerer)?;
    let offered = Account::of(start(&left, Role::Offerer)?).with_context(|| server.account())?;
    let answered = Account::of(answerer).with_context(|| server.account())?;
    ensure!(offered.json == answered.json, "two accounts:\n{}\n{}", offered.printed, answered.printed);
    ensure!(offered.json["path"] == "direct", "{}", offered.printed);
    let pairs = offered.json["pairs"].as_array().context("pairs")?;
    let over_tcp = |pair: &&serde_json::Value| {
        pair["a_pair"]["transport"].as_str().is_some_and(|transport| transport.starts_with("tcp"))
            && pair["checked"] == true
    };
    let connected: Vec<_> = pairs.iter().filter(over_tcp).collect();
    ensure!(!connected.is_empty(), "no pair over TCP: {}", offered.printed);
    for pair in connected {
        ensure!(pair["a"]["type"] == "host" && pair["b"]["type"] == "host", "types: {pair:#}");
        for way in ["a_to_b", "b_to_a"] {
            ensure!(pair[way]["answer_seen"].as_u64() > Some(0), "{way} is not whole: {pair:#}");
        }
    }
    Ok(())
}
