//! `whyrelay check` behind every NAT that the kernel can be, by our own server.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use whyrelay_core::trace::event::EventKind;
use whyrelay_core::trace::recording::Recording;

use crate::check_loss::AT_ONCE;
use crate::json_schema;
use crate::namespace::Namespace;
use crate::ours::Server;
use crate::process::{Finished, Process};
use crate::router::{Internet, Nat, SERVER, Site};
use crate::suite::{self, Suite, Tool};

/// A check that is not done by then hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The NATs of nftables, with mapping and filtering as RFC 5780 names them.
pub(crate) const KINDS: [Kind; 9] = [
    (Nat::None, "endpoint-independent", "endpoint-independent"),
    (Nat::Home, "endpoint-independent", "address-and-port-dependent"),
    (Nat::OpenToAll, "endpoint-independent", "endpoint-independent"),
    (Nat::OpenToKnownAddresses, "endpoint-independent", "address-dependent"),
    (Nat::OtherPort, "endpoint-independent", "address-and-port-dependent"),
    (Nat::PortPerAddress, "address-dependent", "address-and-port-dependent"),
    (Nat::Random, "address-and-port-dependent", "address-and-port-dependent"),
    (Nat::Sequential, "address-and-port-dependent", "address-and-port-dependent"),
    (Nat::OpenInput, "endpoint-independent", "address-and-port-dependent"),
];

/// One of [`KINDS`].
pub(crate) type Kind = (Nat, &'static str, &'static str);

/// A site of each of [`KINDS`].
pub(crate) fn behind_kinds(internet: &mut Internet) -> Result<Vec<(Site, Kind)>> {
    KINDS.into_iter().map(|kind| Ok((internet.site(kind.0)?, kind))).collect()
}

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("check::knows_every_nat_of_the_kernel_by_our_own_server", &tools, by_our_own_server);
    suite.test("check::tells_how_the_nat_gives_ports", &tools, ports);
    suite.test("check::names_blocked_udp", &tools, blocked_udp);
    suite.test("check::asks_for_the_nat_alone_where_that_was_asked_for", &tools, only_nat);
    suite.test("check::finds_a_port_that_an_early_packet_takes", &tools, early_packet);
    suite.test("check::tells_a_second_nat_from_a_carriers", &tools, second_nat);
    suite.test("check::silence_of_a_port_that_nobody_announced_is_no_finding", &tools, silent_port);
    suite.test("check::asks_nobody_who_was_not_named", &tools, nobody_named);
}

/// Runs `whyrelay check` on a host; its account and its exit status.
pub(crate) fn check(host: &Namespace, arguments: &[&str]) -> Result<(Value, Finished)> {
    check_by(&mut host.command(env!("CARGO_BIN_EXE_whyrelay")), arguments)
}

/// The same by a command that is whyrelay's own so far.
pub(crate) fn check_by(command: &mut Command, arguments: &[&str]) -> Result<(Value, Finished)> {
    command.args(["check", "--format", "json"]).args(arguments);
    let finished = Process::start("whyrelay check", command)?.finish(LIMIT)?;
    let json: Value = serde_json::from_str(&finished.stdout)
        .with_context(|| format!("stdout is not one JSON object: {}", finished.account))?;
    let schema: Value = serde_json::from_str(SCHEMA)?;
    if let Err(error) = json_schema::check(&schema, &schema, &json, "") {
        anyhow::bail!("not as docs/check.schema.json has it: {error}: {}", finished.account);
    }
    Ok((json, finished))
}

/// What a JSON account of a check looks like.
const SCHEMA: &str = include_str!("../../../../docs/check.schema.json");

/// The values of the rows with a name.
pub(crate) fn rows<'a>(json: &'a Value, name: &str) -> Vec<&'a str> {
    let rows = json["rows"].as_array().into_iter().flatten().filter(|row| row["name"] == name);
    rows.filter_map(|row| row["value"].as_str()).collect()
}

/// What was not measured.
pub(crate) fn missing(json: &Value) -> Vec<String> {
    let missing = json["not_measured"].as_array().into_iter().flatten();
    missing
        .map(|missing| {
            format!("{}: {}", missing["what"].as_str().unwrap_or("?"), missing["why"].as_str().unwrap_or("?"))
        })
        .collect()
}

/// The names of what was found, the first cause first.
pub(crate) fn findings(json: &Value) -> Vec<&str> {
    json["findings"].as_array().into_iter().flatten().filter_map(|found| found["name"].as_str()).collect()
}

/// The measurement of a kind, of the host's IPv4 address.
pub(crate) fn measured<'a>(json: &'a Value, kind: &str) -> Option<&'a Value> {
    json["measurements"].as_array()?.iter().find(|fact| fact["measurement"] == kind)
}

pub(crate) fn behavior<'a>(json: &'a Value, kind: &str) -> &'a str {
    measured(json, kind).and_then(|fact| fact["behavior"].as_str()).unwrap_or("not measured")
}

/// Our server with its two addresses; signaling announces it.
pub(crate) fn our_server(internet: &Internet) -> Result<Server> {
    our_server_with(internet, &[])
}

/// The same with more options.
pub(crate) fn our_server_with(internet: &Internet, more: &[&str]) -> Result<Server> {
    let second = SERVER[1].to_string();
    Server::start(&internet.server, &[&["--alternate-address", &second][..], more].concat())
}

/// It serves on port 443, too, which nobody announces.
fn by_our_own_server() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server_with(&internet, &["--stun-listen", &format!("{}:443", SERVER[0])])?;
    let sites = behind_kinds(&mut internet)?;
    suite::each(&sites, AT_ONCE, |&(ref site, (nat, mapping, filtering))| {
        let (json, ours) = check(&site.host, &["--signal", server.url()])?;
        let context = || format!("{nat:?}\n{}\n{}", ours.account, server.account());
        let words = (behavior(&json, "mapping"), behavior(&json, "filtering"));
        ensure!(words == (mapping, filtering), "{words:?}: {}", context());
        let https = rows(&json, "UDP, port 443");
        ensure!(https == ["passes (1 of 1)"], "{https:?}: {}", context());
        for kind in ["early-arrival", "third-party", "path-mtu", "packet-shape", "relay-echo", "clock"] {
            ensure!(measured(&json, kind).is_some(), "{kind} is missing: {}", context());
        }
        let stolen = measured(&json, "early-arrival")
            .is_some_and(|fact| fact["observed"] != fact["mapped"] && fact["control"] == fact["mapped"]);
        ensure!(stolen == (nat == Nat::OpenInput), "an early packet took the port: {stolen}: {}", context());
        Ok(())
    })
}

/// Preserved, in order, or in none.
fn ports() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    for (nat, words) in [
        (Nat::Home, "preserved (5 of 5)"),
        (Nat::Sequential, "predictable ("),
        (Nat::Random, "not preserved, unpredictable ("),
    ] {
        let site = internet.site(nat)?;
        let (json, ours) = check(&site.host, &["--signal", server.url()])?;
        let told = rows(&json, "ports");
        let right =
            told.len() == 1 && told[0].contains(words) && (nat == Nat::Random) == told[0].contains("unpredictable");
        ensure!(right, "{nat:?}: {told:?}: {}", ours.account);
        // Nobody listens there, which shows that the question came so far.
        let https = rows(&json, "UDP, port 443");
        ensure!(https == ["passes (1 of 1; 1 refused by the server itself)"], "{https:?}: {}", ours.account);
    }
    Ok(())
}

fn blocked_udp() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let site = internet.site(Nat::NoUdp)?;
    let (json, ours) = check(&site.host, &["--signal", server.url()])?;
    let context = || format!("{}\n{}", ours.account, server.account());
    ensure!(json["findings"][0]["name"] == "udp-blocked", "the first finding: {}", context());
    ensure!(ours.status.code() == Some(1), "exit status: {}", context());
    ensure!(behavior(&json, "mapping") == "not measured", "{}", context());
    Ok(())
}

fn only_nat() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let stun = format!("stun:{}", SERVER[0]);
    for (nat, mapping, filtering) in [KINDS[0], KINDS[1], KINDS[3], KINDS[6]] {
        let site = internet.site(nat)?;
        for by in [["--stun", &stun], ["--signal", server.url()]] {
            let file = tempfile::NamedTempFile::new()?;
            let path = file.path().display().to_string();
            let (json, ours) = check(&site.host, &[&by[..], &["--only", "nat", "--record", &path]].concat())?;
            let context = || format!("{nat:?} {by:?}\n{}\n{}", ours.account, server.account());
            let words = (behavior(&json, "mapping"), behavior(&json, "filtering"));
            ensure!(words == (mapping, filtering), "{words:?}: {}", context());
            ensure!(measured(&json, "port-allocation").is_some(), "{}", context());
            for beside in ["reach", "third-party", "path-mtu", "port-mapper", "hop", "relay-echo"] {
                ensure!(measured(&json, beside).is_none(), "{beside}: {}", context());
            }
            let told = missing(&json).into_iter().filter(|missing| missing.contains("(--only nat)")).count();
            ensure!(told == 1, "{:#?}: {}", missing(&json), context());
            let recording = Recording::read(&std::fs::read(file.path())?).map_err(|error| anyhow!("{error}"))?;
            let is_of_host = recording.events.iter().any(|event| matches!(event.kind, EventKind::HostFact { .. }));
            ensure!(!is_of_host, "facts of this host: {}", context());
        }
    }
    // Whether UDP is blocked or the server is dead, only TCP would tell, which is not asked.
    let site = internet.site(Nat::NoUdp)?;
    let (json, ours) = check(&site.host, &["--stun", &stun, "--only", "nat"])?;
    let told = missing(&json);
    let is_told = told.iter().any(|told| told.starts_with("mapping") && told.contains("no server answered over UDP"));
    ensure!(is_told && !findings(&json).contains(&"udp-blocked"), "{told:#?}: {}", ours.account);
    ensure!(ours.status.code() == Some(2), "{}", ours.account);
    Ok(())
}

/// The account, live and from the recording, names the router's open input.
fn early_packet() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let site = internet.site(Nat::OpenInput)?;
    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().display().to_string();
    let (json, ours) = check(&site.host, &["--signal", server.url(), "--record", &path])?;
    let found = json["findings"].as_array().into_iter().flatten().any(|f| f["name"] == "port-taken-by-early-packet");
    ensure!(found, "no finding: {}", ours.account);
    let mut command = site.host.command(env!("CARGO_BIN_EXE_whyrelay"));
    let again =
        Process::start("whyrelay report", command.args(["report", "--format", "json", &path]))?.finish(LIMIT)?;
    ensure!(again.stdout == ours.stdout, "the recording's account differs: {}\n{}", ours.account, again.account);
    Ok(())
}

fn nobody_named() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let site = internet.site(Nat::Home)?;
    let (json, ours) = check(&site.host, &[])?;
    for kind in ["mapped-address", "mapping", "reach", "clock"] {
        ensure!(measured(&json, kind).is_none(), "{kind} without a server: {}\n{}", ours.account, server.account());
    }
    ensure!(json["known"] == false && measured(&json, "gateway").is_some(), "{}", ours.account);
    Ok(())
}

/// By the routers on the way alone: none of them maps ports.
fn second_nat() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    for (network, answer) in [([192, 168, 5], "two"), ([100, 64, 5], "carrier-grade")] {
        let site = internet.site_at(Nat::Home, network)?;
        let host = site.behind()?;
        let (json, ours) = check(&host, &["--signal", server.url()])?;
        ensure!(json["nats_in_front"] == answer, "{}: {}", json["nats_in_front"], ours.account);
        let found = json["findings"].as_array().into_iter().flatten().any(|found| found["name"] == "nat-behind-nat");
        ensure!(found, "no finding: {}", ours.account);
    }
    Ok(())
}

/// Most servers' firewalls drop what comes to port 443 over UDP.
fn silent_port() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    internet.server.nft("table inet f { chain f { type filter hook input priority 0; udp dport 443 drop; }\n}\n")?;
    let site = internet.site(Nat::Home)?;
    let (json, ours) = check(&site.host, &["--signal", server.url()])?;
    ensure!(json["healthy"] == true && ours.status.success(), "{}", ours.account);
    let missing = json["not_measured"].as_array().into_iter().flatten();
    let what: Vec<&str> = missing.filter_map(|missing| missing["what"].as_str()).collect();
    for class in ["UDP to port 443", "TURN over TLS to port 443"] {
        ensure!(what.iter().any(|what| what.contains(class)), "{class}: {}", ours.account);
    }
    Ok(())
}
