//! `whyrelay check` on hosts with several ways out.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::check::{check, our_server};
use crate::router::{Internet, Nat, Site};
use crate::suite::{Suite, Tool};

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("check_ways::each_uplink_has_its_own_nat", &tools, two_uplinks);
}

/// The second uplink's own addresses.
const SECOND_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 66, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 66, 2);

/// Plugs a host into another site's router as well: a second default route, and a rule by which packets from that
/// address leave that way.
fn plug_in(host: &Site, other: &Site) -> Result<()> {
    let (gateway, address) = (SECOND_GATEWAY.to_string(), SECOND.to_string());
    let (router, host) = (&other.router, &host.host);
    router.run(&["link", "add", "lan2", "type", "veth", "peer", "name", "eth1", "netns", host.name()])?;
    router.run(&["address", "add", &format!("{gateway}/24"), "dev", "lan2"])?;
    router.run(&["link", "set", "lan2", "up"])?;
    host.run(&["address", "add", &format!("{address}/24"), "dev", "eth1"])?;
    host.run(&["link", "set", "eth1", "up"])?;
    host.run(&["route", "add", "default", "via", &gateway, "dev", "eth1", "metric", "200"])?;
    host.run(&["route", "add", "default", "via", &gateway, "dev", "eth1", "table", "66"])?;
    host.run(&["rule", "add", "from", &address, "lookup", "66"])
}

/// The behavior that was measured from an address.
fn of<'a>(json: &'a Value, kind: &str, address: &str) -> Option<&'a str> {
    let mut facts = json["measurements"].as_array()?.iter();
    let is = |fact: &&Value| {
        let local = fact["local"].as_str().unwrap_or_default();
        fact["measurement"] == kind && (local == address || local.starts_with(&format!("{address}:")))
    };
    facts.find(is)?["behavior"].as_str()
}

fn two_uplinks() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let (host, other) = (internet.site(Nat::Home)?, internet.site(Nat::Random)?);
    plug_in(&host, &other)?;
    let (json, ours) = check(&host.host, &["--signal", server.url()])?;
    let context = || format!("{}\n{}", ours.account, server.account());
    let first = host.host.address().to_string();
    for (address, interface, mapping) in
        [(first.as_str(), "eth0", "endpoint-independent"), (&SECOND.to_string(), "eth1", "address-and-port-dependent")]
    {
        ensure!(of(&json, "mapping", address) == Some(mapping), "mapping of {address}: {}", context());
        let filtering = of(&json, "filtering", address);
        ensure!(filtering == Some("address-and-port-dependent"), "filtering of {address}: {}", context());
        let rows = json["rows"].as_array().with_context(context)?;
        let named = |row: &Value| row["subject"] == address && row["name"] == "interface" && row["value"] == interface;
        ensure!(rows.iter().any(named), "{address} is on {interface}: {}", context());
    }
    Ok(())
}
