//! `whyrelay check` on hosts with several ways out.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::check::{check, check_by, missing, our_server, rows};
use crate::resolver::{Name, Resolver};
use crate::router::{Internet, Nat, SERVER, Site};
use crate::suite::{Suite, Tool};

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("check_ways::each_uplink_has_its_own_nat", &tools, two_uplinks);
    suite.test("check_ways::resolvers_of_two_links_are_told_with_the_link_that_asks_them", &tools, split_horizon);
}

/// The second uplink's own addresses.
const SECOND_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 66, 1);
pub(crate) const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 66, 2);

/// Plugs a host into another site's router as well: a second default route, and a rule by which packets from that
/// address leave that way.
pub(crate) fn plug_in(host: &Site, other: &Site) -> Result<()> {
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
    // Signaling goes as the system sends it, which is said where that was not chosen.
    for (interface, is_said) in [("eth0", false), ("eth1", true)] {
        let (json, ours) = check(&host.host, &["--signal", server.url(), "--interface", interface])?;
        let what = format!("were chosen: it leaves from {first}, as the system chooses");
        let told = missing(&json);
        ensure!(told.iter().any(|told| told.ends_with(&what)) == is_said, "{interface}: {told:#?}: {}", ours.account);
    }
    Ok(())
}

/// As with a VPN that brings a resolver of its own: systemd-resolved answers the host's programs, and asks each link's
/// servers by that link. A name that only the second link's knows is resolved, and whom it may have come from is told.
fn split_horizon() -> Result<()> {
    const NAME: &str = "turn.inside.example";
    let mut internet = Internet::new()?;
    let _server = our_server(&internet)?;
    let (host, other) = (internet.site(Nat::Home)?, internet.site(Nat::Home)?);
    plug_in(&host, &other)?;
    let at = [SERVER[0].into()];
    let _stub = Resolver::start(&host.host, Ipv4Addr::new(127, 0, 0, 53), &[(NAME, Name::At(&at))])?;
    let files = tempfile::tempdir()?;
    let write = |name: &str, text: String| std::fs::write(files.path().join(name), text);
    let first = host.host.address().to_string().replace(".2", ".1");
    write("stub.conf", "nameserver 127.0.0.53\n".to_owned())?;
    write("resolv.conf", format!("nameserver {first}\nnameserver {SECOND_GATEWAY}\n"))?;
    // What systemd-resolved keeps of each link stands in a file with the link's index.
    let script = format!(
        "mount -t tmpfs none /run; mkdir -p /run/systemd/resolve/netif; cp $0/resolv.conf /run/systemd/resolve/
         echo SERVERS={first} > /run/systemd/resolve/netif/$(cat /sys/class/net/eth0/ifindex)
         echo SERVERS={SECOND_GATEWAY} > /run/systemd/resolve/netif/$(cat /sys/class/net/eth1/ifindex)
         mount --bind $0/stub.conf /etc/resolv.conf; exec \"$@\""
    );
    let mut command = host.host.command("sh");
    command.args(["-e", "-c", &script]).arg(files.path()).arg(env!("CARGO_BIN_EXE_whyrelay"));
    let (json, ours) = check_by(&mut command, &["--stun", &format!("stun:{NAME}:3478")])?;
    ensure!(rows(&json, "name") == [SERVER[0].to_string()], "{}", ours.account);
    let mut told = rows(&json, "resolver");
    told.sort_unstable();
    let wanted = [
        "127.0.0.53, systemd-resolved on this host".to_owned(),
        format!("{first} through eth0"),
        format!("{SECOND_GATEWAY} through eth1"),
    ];
    ensure!(told == wanted, "{told:?}: {}", ours.account);
    ensure!(json["known"] == true, "the server by that name was not asked: {}", ours.account);
    // A name that none of them knows: the resolver's own word, and no server to blame.
    let mut command = host.host.command("sh");
    command.args(["-e", "-c", &script]).arg(files.path()).arg(env!("CARGO_BIN_EXE_whyrelay"));
    let (json, ours) = check_by(&mut command, &["--stun", "stun:turn.nowhere.example:3478"])?;
    let named = rows(&json, "name");
    ensure!(named.iter().any(|row| row.contains("Name or service not known")), "{named:?}: {}", ours.account);
    ensure!(ours.status.code() == Some(2), "nothing was measured: {}", ours.account);
    Ok(())
}
