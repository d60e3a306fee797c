//! The peers among themselves: when one of these fails, what failed elsewhere is not ours.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::coturn::{Coturn, PASSWORD, Transport, USER};
use crate::namespace::Namespace;
use crate::peers::{self, GolabServer, Role};
use crate::process::Process;
use crate::suite::{Suite, Tool};

type Peer = fn(&Namespace, Role, &str) -> Result<Command>;

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    use Tool::{Chromium, GolabServer, NetworkNamespaces, Pion, Python, Turnserver};
    let common = [NetworkNamespaces, GolabServer];
    let mut test = |name, more: &[Tool], test| suite.test(name, &[&common, more].concat(), test);
    test("peers_alone::aiortc_and_pion", &[Python, Pion], || meet(peers::aiortc, peers::pion));
    test("peers_alone::chromium_and_chromium", &[Chromium], || meet(peers::chromium, peers::chromium));
    test("peers_alone::golab_clients", &[Pion], golab_clients);
    let tools = [Turnserver, Pion];
    test("peers_alone::pion_relayed_over_udp", &tools, || relayed(Transport::Udp));
    test("peers_alone::pion_relayed_over_tcp", &tools, || relayed(Transport::Tcp));
    test("peers_alone::pion_relayed_over_tls", &tools, || relayed(Transport::Tls));
}

/// Both must exchange their greetings through the Go lab's server.
fn meet(offerer: Peer, answerer: Peer) -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let server = GolabServer::start(&left, Duration::from_secs(120))?;
    let mut answerer = answerer(&right, Role::Answerer, server.url())?;
    let answerer = Process::start("answerer", &mut answerer)?;
    let mut offerer = offerer(&left, Role::Offerer, server.url())?;
    let offerer = Process::start("offerer", &mut offerer)?;
    let offered = peers::success(offerer).with_context(|| format!("{}\n{}", server.account(), answerer.account()))?;
    let answered = peers::success(answerer).with_context(|| server.account())?;
    ensure!(offered["received"] == "greeting from answer-peer-1", "{offered}");
    ensure!(answered["received"] == "greeting from offer-peer-1", "{answered}");
    Ok(())
}

/// The Go lab's own clients, which print what they receive and run on.
fn golab_clients() -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let server = GolabServer::start(&left, Duration::from_secs(120))?;
    let start = |namespace: &Namespace, role: Role| {
        let mut command = peers::golab_client(namespace, role, server.url())?;
        Process::start(role.name(), command.arg("-with-turn=false"))
    };
    let answerer = start(&right, Role::Answerer)?;
    // It offers to nobody if the answerer is not there yet.
    std::thread::sleep(Duration::from_millis(500));
    let offerer = start(&left, Role::Offerer)?;
    let greeted = |line: &str| line.contains("received \"greeting from");
    offerer.line(peers::LIMIT, greeted)?;
    answerer.line(peers::LIMIT, greeted)?;
    Ok(())
}

/// Pion to itself, relay candidates only.
fn relayed(transport: Transport) -> Result<()> {
    let namespace = Namespace::new()?;
    let server = GolabServer::start(&namespace, Duration::from_secs(120))?;
    let coturn = Coturn::start(&namespace)?;
    let start = |role: Role| {
        let mut command = peers::pion(&namespace, role, server.url())?;
        command.args(["-relay-only", "-turn", &coturn.url(transport), "-turn-user", USER]);
        command.env("TURN_PASSWORD", PASSWORD).env("SSL_CERT_FILE", coturn.authority());
        Process::start(role.name(), &mut command)
    };
    let answerer = start(Role::Answerer)?;
    let offered = peers::success(start(Role::Offerer)?).with_context(|| coturn.log())?;
    peers::success(answerer)?;
    ensure!(offered["selected"]["local"]["type"] == "relay", "{offered}");
    ensure!(offered["selected"]["remote"]["type"] == "relay", "{offered}");
    Ok(())
}
