//! whyrelay with each foreign implementation as the other side, through `whyrelay serve`.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::namespace::Namespace;
use crate::ours::{self, Account};
use crate::peers::{self, Role};
use crate::process::Process;
use crate::suite::{Suite, Tool};

/// Makes the command of a foreign peer.
type Peer = fn(&Namespace, Role, &str) -> Result<Command>;

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    use Tool::{Chromium, Firefox, NetworkNamespaces, Pion, Python};
    let aiortc = [NetworkNamespaces, Python];
    suite.test("aiortc::answers_our_offer", &aiortc, || meet(peers::aiortc, Role::Answerer));
    suite.test("aiortc::offers_and_we_answer", &aiortc, || meet(peers::aiortc, Role::Offerer));
    let chromium = [NetworkNamespaces, Chromium];
    suite.test("chromium::answers_our_offer", &chromium, || meet(peers::chromium, Role::Answerer));
    suite.test("chromium::offers_and_we_answer", &chromium, || meet(peers::chromium, Role::Offerer));
    suite.test("chromium::answers_and_is_found_by_its_mdns_name", &chromium, || {
        finds_by_its_name(peers::chromium, Role::Answerer)
    });
    suite.test("chromium::offers_and_is_found_by_its_mdns_name", &chromium, || {
        finds_by_its_name(peers::chromium, Role::Offerer)
    });
    let firefox = [NetworkNamespaces, Firefox];
    suite.test("firefox::answers_our_offer", &firefox, || meet(peers::firefox, Role::Answerer));
    suite.test("firefox::offers_and_we_answer", &firefox, || meet(peers::firefox, Role::Offerer));
    suite.test("firefox::answers_and_is_found_by_its_mdns_name", &firefox, || {
        finds_by_its_name(peers::firefox, Role::Answerer)
    });
    let pion = [NetworkNamespaces, Pion];
    suite.test("pion::answers_our_offer", &pion, || meet(peers::pion, Role::Answerer));
    suite.test("pion::offers_and_we_answer", &pion, || meet(peers::pion, Role::Offerer));
}

fn meet(foreign: Peer, foreign_role: Role) -> Result<()> {
    session(foreign, foreign_role, &[]).map(|_| ())
}

/// A browser hides its addresses behind `.local` names. This one is told none of ours, so
/// that there is no way to it but by its name.
fn finds_by_its_name(browser: Peer, foreign_role: Role) -> Result<()> {
    let (_, recording) = session(browser, foreign_role, &["--blind"])?;
    ensure!(recording.contains(".local"), "no .local name in the recording:\n{recording}");
    Ok(())
}

/// Connects both, checks both accounts, and answers the foreign one's and our recording.
fn session(foreign: Peer, foreign_role: Role, more: &[&str]) -> Result<(Value, String)> {
    let (left, right) = Namespace::pair()?;
    let server = ours::Server::start(&left, &[])?;
    let directory = tempfile::tempdir()?;
    let recording = directory.path().join("ours.jsonl");

    let mut command = foreign(&right, foreign_role, server.url())?;
    // Long enough for us to learn that it does not speak our measurement protocol.
    command.args(["--hold", "3"]).args(more);
    let theirs = Process::start("the foreign peer", &mut command)?;
    let mut command = ours::peer(&left, foreign_role.other(), server.url());
    command.arg("--record").arg(&recording);
    let mine = Process::start("whyrelay", &mut command)?;

    let account = Account::of(mine).with_context(|| server.account())?;
    let result = peers::success(theirs).with_context(|| account.printed.clone())?;
    account.must_be_direct()?;
    account.must_be_one_sided()?;
    let received = result["received"].as_str().unwrap_or_default();
    ensure!(!received.is_empty(), "it received nothing from us: {result}");
    Ok((result, std::fs::read_to_string(recording)?))
}
