//! The Go lab's unchanged clients against our server, and our peers against its server.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::namespace::Namespace;
use crate::ours::{self, Account, Server};
use crate::peers::{self, GolabServer, Role};
use crate::process::Process;
use crate::suite::{Suite, Tool};

/// What the Go lab's server bears.
const IDLE: Duration = Duration::from_secs(120);

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    use Tool::{GolabServer, NetworkNamespaces, Pion};
    let clients = [NetworkNamespaces, Pion];
    suite.test("golab::its_clients_meet_over_our_server", &clients, clients_over_our_server);
    suite.test("golab::its_answerer_meets_us_over_our_server", &clients, || over_our_server(Role::Answerer));
    suite.test("golab::its_offerer_meets_us_over_our_server", &clients, || over_our_server(Role::Offerer));
    let all = [NetworkNamespaces, Pion, GolabServer];
    suite.test("golab::its_answerer_meets_us_over_its_server", &all, || over_its_server(Role::Answerer));
    suite.test("golab::its_offerer_meets_us_over_its_server", &all, || over_its_server(Role::Offerer));
    let server = [NetworkNamespaces, GolabServer];
    suite.test("golab::our_peers_meet_over_its_server", &server, || two_of_ours(IDLE, Duration::ZERO));
    suite.test("golab::our_waiting_peer_outlives_responses_that_its_server_ends", &server, || {
        two_of_ours(Duration::from_secs(1), Duration::from_millis(3500))
    });
}

/// The lab's client, which runs until it is dropped.
fn start_client(namespace: &Namespace, role: Role, url: &str) -> Result<Process> {
    let mut command = peers::golab_client(namespace, role, url)?;
    let client = Process::start("the lab's client", command.arg("-with-turn=false"))?;
    // Its offerer must start last: the answerer gets the time to appear.
    std::thread::sleep(Duration::from_millis(500));
    Ok(client)
}

fn greeted(client: &Process) -> Result<()> {
    client.line(peers::LIMIT, |line| line.contains("received \"")).map(|_| ())
}

fn clients_over_our_server() -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let server = Server::start(&left, &[])?;
    let answerer = start_client(&right, Role::Answerer, server.url())?;
    let offerer = start_client(&left, Role::Offerer, server.url())?;
    let logs = || format!("{}\n{}\n{}", server.account(), offerer.account(), answerer.account());
    greeted(&offerer).with_context(logs)?;
    greeted(&answerer).with_context(logs)
}

fn over_our_server(lab_role: Role) -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let server = Server::start(&left, &[])?;
    with_client(&left, &right, server.url(), lab_role).with_context(|| server.account())
}

fn over_its_server(lab_role: Role) -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let server = GolabServer::start(&left, IDLE)?;
    with_client(&left, &right, server.url(), lab_role).with_context(|| server.account())
}

/// One of ours on the left, the lab's client as `lab_role` on the right.
fn with_client(left: &Namespace, right: &Namespace, url: &str, lab_role: Role) -> Result<()> {
    let start_ours = || Process::start("whyrelay", &mut ours::peer(left, lab_role.other(), url));
    let (client, mine) = if lab_role == Role::Answerer {
        let client = start_client(right, lab_role, url)?;
        (client, start_ours()?)
    } else {
        let mine = start_ours()?;
        std::thread::sleep(Duration::from_millis(500));
        (start_client(right, lab_role, url)?, mine)
    };
    greeted(&client).with_context(|| mine.account())?;
    let account = Account::of(mine).with_context(|| client.account())?;
    account.must_be_direct()?;
    account.must_be_one_sided()
}

/// Two of ours over the lab's server, the offerer `later` than the answerer.
fn two_of_ours(idle: Duration, later: Duration) -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let server = GolabServer::start(&left, idle)?;
    let answerer = Process::start("answer", &mut ours::peer(&right, Role::Answerer, server.url()))?;
    std::thread::sleep(later);
    let offerer = Process::start("offer", &mut ours::peer(&left, Role::Offerer, server.url()))?;
    let offered = Account::of(offerer).with_context(|| server.account())?;
    let answered = Account::of(answerer).with_context(|| server.account())?;
    offered.must_be_direct()?;
    answered.must_be_direct()?;
    ensure!(
        offered.json["selected_pair"] == answered.json["selected_pair"],
        "two accounts of one session: {}\n{}",
        offered.printed,
        answered.printed
    );
    Ok(())
}
