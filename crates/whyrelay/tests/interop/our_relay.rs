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
    let aiortc = [NetworkNamespaces, Python];
    suite.test("our_turn::relays_aiortc_over_udp", &aiortc, || relayed(peers::aiortc, "--", "udp"));
    suite.test("our_turn::relays_aiortc_over_tcp", &aiortc, || relayed(peers::aiortc, "--", "tcp"));
    let chromium = [NetworkNamespaces, Chromium];
    suite.test("our_turn::relays_chromium_over_udp", &chromium, || relayed(peers::chromium, "--", "udp"));
    suite.test("our_turn::relays_chromium_over_tcp", &chromium, || relayed(peers::chromium, "--", "tcp"));
    let pion = [NetworkNamespaces, Pion];
    suite.test("our_turn::relays_pion_over_udp", &pion, || relayed(peers::pion, "-", "udp"));
    suite.test("our_turn::relays_pion_over_tcp", &pion, || relayed(peers::pion, "-", "tcp"));
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
    // Ours has credentials that signaling announces, and a relay of its own on the same server. Its other candidates are
    // that server's own addresses, which it refuses: Chromium, told of nothing else yet, gives up.
    let mut command = ours::peer(&left, Role::Offerer, server.url());
    let mine = Process::start("whyrelay", command.arg("--relay-only"))?;

    let account = Account::of(mine).with_context(|| server.account())?;
    let result = peers::success(theirs).with_context(|| format!("{}\n{}", account.printed, server.account()))?;
    account.must_be_relayed()?;
    // aiortc forgets its pair when we end first; ours remembers.
    let ours = &account.json["selected_pair"]["remote"];
    ensure!(ours["type"] == "relay", "its candidate was not a relayed one: {}", account.printed);
    let theirs = &result["selected"]["local"]["type"];
    ensure!(theirs.is_null() || theirs == "relay", "it was not relayed: {result}");
    ensure!(!result["received"].as_str().unwrap_or_default().is_empty(), "it received nothing from us: {result}");
    Ok(())
}
