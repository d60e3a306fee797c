//! Relayed through coturn, over each transport, and what its refusals become.

use anyhow::{Context, Result, ensure};

use crate::coturn::{Coturn, PASSWORD, Transport, USER};
use crate::namespace::Namespace;
use crate::ours::{self, Account, Server};
use crate::peers::{self, Role};
use crate::process::Process;
use crate::suite::{Suite, Tool};

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    use Tool::{NetworkNamespaces, Pion, Turnserver};
    let coturn = [NetworkNamespaces, Turnserver];
    suite.test("coturn::relays_over_udp", &coturn, || relays(Transport::Udp));
    suite.test("coturn::relays_over_tcp", &coturn, || relays(Transport::Tcp));
    suite.test("coturn::relays_over_tls", &coturn, || relays(Transport::Tls));
    suite.test("coturn::a_wrong_password_is_a_finding", &coturn, wrong_password);
    suite.test("coturn::an_unknown_authority_is_a_finding", &coturn, unknown_authority);
    suite.test("coturn::relays_to_pion", &[NetworkNamespaces, Turnserver, Pion], relays_to_pion);
}

/// Two hosts, with the servers on the first.
struct Scene {
    left: Namespace,
    right: Namespace,
    server: Server,
    coturn: Coturn,
}

impl Scene {
    fn new() -> Result<Self> {
        let (left, right) = Namespace::pair()?;
        // Signaling only: STUN and TURN on this address are coturn's.
        let server = Server::start(&left, &["--no-stun"])?;
        let coturn = Coturn::start(&left)?;
        Ok(Self { left, right, server, coturn })
    }

    /// Starts a side of ours that may use relayed candidates only.
    fn ours(&self, role: Role, transport: Transport, password: &str, trusting: bool) -> Result<Process> {
        let namespace = match role {
            Role::Offerer => &self.left,
            Role::Answerer => &self.right,
        };
        let mut command = ours::peer(namespace, role, self.server.url());
        command.args(["--relay-only", "--turn", &self.coturn.url(transport), "--turn-user", USER]);
        command.env("TURN_PASSWORD", password);
        if trusting {
            command.arg("--tls-ca").arg(self.coturn.authority());
        }
        Process::start(role.name(), &mut command)
    }

    /// Everything else that may explain a failure.
    fn logs(&self) -> String {
        format!("{}\n--- coturn\n{}", self.server.account(), self.coturn.log())
    }
}

fn relays(transport: Transport) -> Result<()> {
    let scene = Scene::new()?;
    let answerer = scene.ours(Role::Answerer, transport, PASSWORD, true)?;
    let offerer = scene.ours(Role::Offerer, transport, PASSWORD, true)?;
    for peer in [offerer, answerer] {
        let account = Account::of(peer).with_context(|| scene.logs())?;
        account.must_be_relayed()?;
    }
    // It was this server, over this transport, and not the one in `whyrelay serve`.
    let log = scene.coturn.log();
    ensure!(log.contains(&format!("<{USER}>")), "coturn saw no {USER}:\n{log}");
    Ok(())
}

fn wrong_password() -> Result<()> {
    let scene = Scene::new()?;
    refused(&scene, Transport::Udp, "wrong", true)
}

fn unknown_authority() -> Result<()> {
    let scene = Scene::new()?;
    refused(&scene, Transport::Tls, PASSWORD, false)
}

/// Without its only relay the session fails, and the account says that something is wrong.
fn refused(scene: &Scene, transport: Transport, password: &str, trusting: bool) -> Result<()> {
    let answerer = scene.ours(Role::Answerer, transport, password, trusting)?;
    let offerer = scene.ours(Role::Offerer, transport, password, trusting)?;
    for peer in [offerer, answerer] {
        let account = Account::of(peer).with_context(|| scene.logs())?;
        ensure!(account.json["path"] == "failed", "it did not fail: {}", account.printed);
        ensure!(account.has_finding(), "no finding: {}", account.printed);
        ensure!(!account.printed.contains(PASSWORD), "the password is shown");
    }
    Ok(())
}

fn relays_to_pion() -> Result<()> {
    let scene = Scene::new()?;
    let mut pion = peers::pion(&scene.right, Role::Answerer, scene.server.url())?;
    pion.args(["-relay-only", "-turn", &scene.coturn.url(Transport::Udp), "-turn-user", USER]);
    pion.args(["-hold", "3"]).env("TURN_PASSWORD", PASSWORD);
    let pion = Process::start("pion", &mut pion)?;
    let offerer = scene.ours(Role::Offerer, Transport::Udp, PASSWORD, true)?;
    let account = Account::of(offerer).with_context(|| scene.logs())?;
    account.must_be_relayed()?;
    let result = peers::success(pion)?;
    ensure!(result["selected"]["local"]["type"] == "relay", "{result}");
    Ok(())
}
