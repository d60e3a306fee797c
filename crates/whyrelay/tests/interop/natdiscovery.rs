//! `whyrelay check` beside coturn's `turnutils_natdiscovery`, behind the same NATs, with coturn and with our server: both
//! must say the same.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use whyrelay_lab::work;

use crate::check::{Kind, behavior, behind_kinds, check, our_server_with};
use crate::check_loss::AT_ONCE;
use crate::coturn::on_two_addresses;
use crate::process::Process;
use crate::router::{Internet, Nat, SERVER, Site};
use crate::suite::{self, Suite, Tool};

/// Its time limits add up to 6 s behind a filtering NAT.
const LIMIT: Duration = Duration::from_secs(40);

/// Where `whyrelay serve` offers behavior discovery, and coturn STUN.
const OUR_PORT: u16 = 3479;
const COTURN_PORT: u16 = 3478;

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft, Tool::NatDiscovery];
    suite.test("natdiscovery::says_the_same_by_our_server", &tools, by_our_server);
    let tools = [Tool::NetworkNamespaces, Tool::Nft, Tool::NatDiscovery, Tool::Turnserver];
    suite.test("natdiscovery::says_the_same_by_coturn", &tools, by_coturn);
}

fn by_our_server() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server_with(&internet, &["--rfc5780-clients"])?;
    // It sends its third question to the OTHER-ADDRESS of the second answer, and takes that for the second server's other
    // port, as coturn has it. By RFC 5780 §7.4 it is the other address of what was asked: the first server's. So it
    // compares that one's two ports with the second's.
    let misjudged = Some(Nat::PortPerAddress);
    compare(&mut internet, OUR_PORT, &["--signal", server.url()], misjudged).with_context(|| server.account())
}

fn by_coturn() -> Result<()> {
    let mut internet = Internet::new()?;
    let command = internet.server.command(suite::path("TURNSERVER")?);
    let coturn = on_two_addresses(command, SERVER.map(|address| address.to_string()), COTURN_PORT)?;
    let url = format!("stun:{}:{COTURN_PORT}", SERVER[0]);
    compare(&mut internet, COTURN_PORT, &["--stun", &url], None).with_context(|| coturn.account())
}

/// The strangers run all at once, because they wait most of the time, and ours beside them, some at a time.
fn compare(internet: &mut Internet, port: u16, arguments: &[&str], misjudged: Option<Nat>) -> Result<()> {
    let sites = behind_kinds(internet)?;
    let start = |(site, _): &(Site, Kind)| {
        let mut command = site.host.command(suite::path("NATDISCOVERY")?);
        command.args(["-m", "-f", "-p", &port.to_string(), &SERVER[0].to_string()]);
        Process::start("turnutils_natdiscovery", &mut command)
    };
    let strangers = sites.iter().map(start).collect::<Result<Vec<_>>>()?;
    let checks = work::each(&sites, AT_ONCE, |(site, _)| check(&site.host, arguments), |_| ());
    for (((_, (nat, configured, _)), ours), stranger) in sites.iter().zip(checks).zip(strangers) {
        let (json, ours) = ours?;
        let theirs = stranger.finish(LIMIT)?;
        let context = || format!("{nat:?}\n{}\n{}", ours.stdout, theirs.account);
        let said = (told(&theirs.stdout, "Mapping"), told(&theirs.stdout, "Filtering"));
        let (Some(mapping), Some(filtering)) = said else { bail!("natdiscovery says nothing: {}", context()) };
        let known = (behavior(&json, "mapping"), behavior(&json, "filtering"));
        let mapping = if misjudged == Some(*nat) { *configured } else { mapping };
        ensure!(known == (mapping, filtering), "{known:?}, natdiscovery {mapping} {filtering}: {}", context());
    }
    Ok(())
}

/// Its verdict, in our words.
fn told(output: &str, what: &str) -> Option<&'static str> {
    let line = output.lines().find(|line| line.contains("NAT") && line.contains(&format!("{what}!")))?;
    let words = [
        ("Endpoint Independent", "endpoint-independent"),
        ("Address and Port Dependent", "address-and-port-dependent"),
        ("Address Dependent", "address-dependent"),
    ];
    words.into_iter().find(|(theirs, _)| line.contains(theirs)).map(|(_, ours)| ours)
}
