//! Two of ours with something in between: how long until it is said.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::namespace::Namespace;
use crate::ours::{self, Account, Server};
use crate::peers::Role;
use crate::process::Process;
use crate::suite::{Suite, Tool};

/// GOALS.md: UDP blocked or dropped, time until the cause is named.
const LIMIT: Duration = Duration::from_secs(3);

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("blocked::dropped_udp_is_failed_within_3_s", &tools, dropped_udp);
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
