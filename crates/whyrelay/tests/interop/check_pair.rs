//! Two servers of ours with one address each, which are each other's second address (`--alternate-server`): what they
//! tell of a NAT is what one with two addresses does.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::check::{behavior, behind_kinds, check};
use crate::check_loss::AT_ONCE;
use crate::ours::{STUN_PORT, Server};
use crate::process::Process;
use crate::router::{Internet, SERVER};
use crate::suite::{self, Suite, Tool};

/// Of the first of the two ports, on both.
const DISCOVERY_PORT: &str = "3479";

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("check_pair::two_servers_know_every_nat_by_each_other", &tools, by_each_other);
}

fn by_each_other() -> Result<()> {
    let mut internet = Internet::new()?;
    let secret = tempfile::NamedTempFile::new()?;
    std::fs::write(secret.path(), "of both servers\n")?;
    let secret = secret.path().display().to_string();
    let pair = |other: &str| {
        ["--alternate-server", other, "--alternate-secret-file", &secret, "--discovery-port", DISCOVERY_PORT]
            .map(str::to_owned)
    };
    let [one, two] = SERVER.map(|address| address.to_string());
    let flags = pair(&two);
    let first = Server::start(&internet.server, &flags.each_ref().map(String::as_str))?;
    let mut command = internet.server.command(env!("CARGO_BIN_EXE_whyrelay"));
    command.args(["serve", "--listen", &format!("{two}:8080"), "--stun-listen", &format!("{two}:{STUN_PORT}")]);
    let second = Process::start("the second whyrelay serve", command.args(pair(&one)))?;
    second.line(Duration::from_secs(10), |line| line.contains("NAT behavior discovery"))?;
    let sites = behind_kinds(&mut internet)?;
    suite::each(&sites, AT_ONCE, |&(ref site, (nat, mapping, filtering))| {
        let (json, ours) = check(&site.host, &["--signal", first.url()])?;
        let words = (behavior(&json, "mapping"), behavior(&json, "filtering"));
        let context = || format!("{nat:?}\n{}\n{}\n{}", ours.account, first.account(), second.account());
        ensure!(words == (mapping, filtering), "{words:?}: {}", context());
        Ok(())
    })
}
