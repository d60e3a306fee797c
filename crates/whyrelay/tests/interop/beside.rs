//! Sessions look at their own NAT beside everything else, where the server offers it.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::check::our_server;
use crate::ours::{self, Account};
use crate::peers::Role;
use crate::process::Process;
use crate::router::{Internet, Nat};
use crate::suite::{Suite, Tool};

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("beside::each_side_of_a_session_knows_its_own_nat", &tools, knows_its_nat);
}

/// What a side measured, by its own recording.
fn behavior(recording: &str, side: &str, measurement: &str) -> Option<String> {
    let events = recording.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut found = events.filter(|event| event["vantage"] == side && event["measurement"] == measurement);
    Some(found.next()?["behavior"].as_str()?.to_owned())
}

fn knows_its_nat() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let (home, hard) = (internet.site(Nat::Home)?, internet.site(Nat::Random)?);
    let recording = tempfile::NamedTempFile::new()?;
    let path = recording.path().display().to_string();
    let mut command = ours::peer(&home.host, Role::Answerer, server.url());
    let answerer = Process::start("answerer", &mut command)?;
    let mut command = ours::peer(&hard.host, Role::Offerer, server.url());
    let offerer = Process::start("offerer", command.args(["--record", &path]))?;
    let account = Account::of(offerer)?;
    Account::of(answerer)?.must_be_relayed()?;
    account.must_be_relayed()?;
    let recorded = std::fs::read_to_string(&path)?;
    for (side, mapping) in [("a", "address-and-port-dependent"), ("b", "endpoint-independent")] {
        let known = behavior(&recorded, side, "mapping");
        ensure!(known.as_deref() == Some(mapping), "{side}: {known:?}\n{}", account.printed);
    }
    ensure!(account.json["expected"] == "relayed", "expected: {}", account.printed);
    Ok(())
}
