//! Foreign implementations that may use relayed candidates only, relayed by `whyrelay serve`.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::namespace::Namespace;
use crate::ours::{self, Account};
use crate::peers::{self, Role};
use crate::process::Process;
use crate::suite::{Suite, Tool};

/// Makes the command of a foreign peer.
type Peer = fn(&Namespace, Role, &str) -> Result<Command>;

const USER: &str = "alice";
const PASSWORD: &str = "wonderland";

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    use Tool::{Chromium, NetworkNamespaces, Pion, Python};
    for (transport, over) in [("udp", "over_udp"), ("tcp", "over_tcp")] {
        let aiortc = [NetworkNamespaces, Python];
        suite
            .test(&format!("our_turn::relays_aiortc_{over}"), &aiortc, move || relayed(peers::aiortc, "--", transport));
        let chromium = [NetworkNamespaces, Chromium];
        suite.test(&format!("our_turn::relays_chromium_{over}"), &chromium, move || {
            relayed(peers::chromium, "--", transport)
        });
        let pion = [NetworkNamespaces, Pion];
        suite.test(&format!("our_turn::relays_pion_{over}"), &pion, move || relayed(peers::pion, "-", transport));
    }
}

/// `dash` is how the peer's flags begin.
fn relayed(foreign: Peer, dash: &str, transport: &str) -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let users = tempfile::NamedTempFile::new()?;
    std::fs::write(users.path(), format!("{USER}:{PASSWORD}\n"))?;
    let server = ours::Server::start(&left, &["--turn-users-file", &users.path().display().to_string()])?;

    let mut command = foreign(&right, Role::Answerer, server.url())?;
    let url = format!("turn:{}:3478?transport={transport}", left.address());
    let flags = [["turn", &url], ["turn-user", USER], ["hold", "3"]];
    command.args(flags.iter().flat_map(|[name, value]| [format!("{dash}{name}"), (*value).to_owned()]));
    command.arg(format!("{dash}relay-only")).env("TURN_PASSWORD", PASSWORD);
    let theirs = Process::start("the foreign peer", &mut command)?;
    // Ours has credentials that signaling announces, and a relay of its own on the same server.
    let mine = Process::start("whyrelay", &mut ours::peer(&left, Role::Offerer, server.url()))?;

    let account = Account::of(mine).with_context(|| server.account())?;
    let result = peers::success(theirs).with_context(|| format!("{}\n{}", account.printed, server.account()))?;
    account.must_be_relayed()?;
    ensure!(result["selected"]["local"]["type"] == "relay", "it was not relayed: {result}");
    ensure!(!result["received"].as_str().unwrap_or_default().is_empty(), "it received nothing from us: {result}");
    Ok(())
}
