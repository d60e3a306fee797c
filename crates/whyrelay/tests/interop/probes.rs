//! Probes of a session that has a path: padded packets each way, and silence until the router forgets.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::homes::Homes;
use crate::namespace::Namespace;
use crate::ours::{self, Account, Server};
use crate::peers::{LIMIT, Role};
use crate::process::Process;
use crate::suite::{Suite, Tool};

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("probes::large_packets_are_asked_for_each_way", &tools, sizes);
    suite.test("probes::a_relay_that_is_not_known_as_one_yet_is_no_direct_path", &tools, relay_unknown);
    suite.test("probes::silence_shows_when_the_router_forgets", &tools, silence);
}

fn finding<'a>(account: &'a Account, code: &str) -> Option<&'a Value> {
    account.json["findings"].as_array().into_iter().flatten().find(|finding| finding["code"] == code)
}

/// No probe is made unsaid.
fn announced(account: &Account, words: &str) -> Result<()> {
    ensure!(account.printed.contains(words), "it does not say {words:?}: {}", account.printed);
    Ok(())
}

/// What came of the probes whose words begin so: the rows of a side.
fn rows<'a>(account: &'a Account, side: &str, words: &str) -> Vec<&'a Value> {
    let rows = account.json["probes"].as_array().into_iter().flatten();
    let wanted =
        |row: &&Value| row["side"] == side && row["probe"].as_str().is_some_and(|probe| probe.starts_with(words));
    rows.filter(wanted).collect()
}

/// A path that takes all; one that loses what is larger than 1280 bytes, toward B only; and one that says so.
fn sizes() -> Result<()> {
    let homes = Homes::new()?;
    homes.drop_unasked()?;
    let account = homes.session(&[])?;
    account.must_be_direct()?;
    announced(&account, "probing whether packets of 1500 bytes pass")?;
    for side in ["a", "b"] {
        let all = rows(&account, side, "in packets of ");
        ensure!(all.len() == 1 && all[0]["answered"] == true, "{side}: {all:?}: {}", account.printed);
        ensure!(all[0]["probe"] == "in packets of 1500 bytes", "{all:?}");
    }

    const LOSE: &str =
        "nft 'table ip m { chain f { type filter hook forward priority 0; oifname r2 ip length > 1280 drop; }; }'";
    homes.between.shell(LOSE)?;
    let directory = tempfile::tempdir()?;
    let capture = directory.path().join("a.pcapng").display().to_string();
    let account = homes.session_with(&["--pcap", &capture], &[])?;
    ensure!(account.json["path"] == "direct", "{}", account.printed);
    let found = finding(&account, "WR603")
        .with_context(|| format!("no WR603: {:?}: {}", rows(&account, "a", "in packets of "), account.printed))?;
    let summary = found["summary"].as_str().unwrap_or_default();
    ensure!(summary.contains("Packets of 1280 bytes from A") && summary.contains("1320 bytes are not"), "{summary}");
    ensure!(found["severity"] == "warning", "{found}");
    announced(&account, "they are not answered: probing smaller ones")?;
    // The other way everything passes.
    let back = rows(&account, "b", "in packets of ");
    ensure!(back.len() == 1 && back[0]["answered"] == true, "{back:?}");
    // The packets are in the capture as they were sent: 1472 bytes of UDP payload, 1480 with its header.
    let bytes = std::fs::read(&capture)?;
    ensure!(bytes.windows(2).any(|pair| pair == 1480u16.to_be_bytes()), "no packet of 1500 bytes in the capture");
    ensure!(bytes.len() > 12 * 1200, "the capture has {} bytes", bytes.len());

    homes.between.shell("nft delete table ip m; ip link set r2 mtu 1280")?;
    homes.routers[1].shell("ip link set wan mtu 1280")?;
    let account = homes.session(&[])?;
    ensure!(account.json["path"] == "direct" && !account.has_finding(), "{}", account.printed);
    let found = finding(&account, "WR604").with_context(|| format!("no WR604: {}", account.printed))?;
    ensure!(found["summary"].as_str().is_some_and(|words| words.ends_with("1280 bytes at most")), "{found}");
    Ok(())
}

/// With `--try opener` the peer's candidates wait, and its checks by its relay come first: until the candidate tells,
/// nobody knows that it is a relay's address. Large packets are asked for on direct paths only.
fn relay_unknown() -> Result<()> {
    let (left, right) = Namespace::pair()?;
    let server = Server::start(&left, &["--allow-peer", "203.0.113.0/24"])?;
    let start = |namespace: &Namespace, role: Role, more: &[&str]| {
        let mut command = ours::peer(namespace, role, server.url());
        Process::start(role.name(), command.arg("--no-tcp").args(more))
    };
    let answerer = start(&left, Role::Answerer, &["--relay-only"])?;
    answerer.line(LIMIT, |line| line.contains("gathering is complete"))?;
    let account = Account::of(start(&right, Role::Offerer, &["--try", "opener"])?)?;
    Account::of(answerer)?;
    ensure!(account.printed.contains("→ prflx"), "its relay was known at once: {}", account.printed);
    account.must_be_relayed()?;
    ensure!(rows(&account, "a", "in packets of ").is_empty(), "{}", account.printed);
    ensure!(!account.printed.contains("probing whether packets of"), "{}", account.printed);
    Ok(())
}

/// A's router forgets after 2 s, B's remembers.
fn silence() -> Result<()> {
    let homes = Homes::new()?;
    homes.drop_unasked()?;
    homes.routers[0].shell(
        "sysctl -qw net.netfilter.nf_conntrack_udp_timeout=2; sysctl -qw net.netfilter.nf_conntrack_udp_timeout_stream=2",
    )?;
    let account = homes.session(&["--lifetime", "6s"])?;
    ensure!(account.json["path"] == "direct", "{}", account.printed);
    announced(&account, "probing for how long the NAT remembers a silent mapping: this takes ")?;
    let found = finding(&account, "WR205").with_context(|| format!("no WR205: {}", account.printed))?;
    ensure!(found["blame"] == "a", "{found}");
    let remembered = rows(&account, "b", "after ");
    ensure!(remembered.len() == 5, "{remembered:?}");
    ensure!(remembered.iter().all(|row| row["answered"] == true), "{remembered:?}");
    let forgotten: Vec<&Value> = rows(&account, "a", "after ");
    ensure!(forgotten.len() == 5 && forgotten[0]["answered"] == true, "{forgotten:?}");
    ensure!(forgotten.iter().filter(|row| row["answered"] == false).count() >= 2, "{forgotten:?}");
    Ok(())
}
