//! A host with a real OpenVPN client that redirects its gateway: what it installs is told, and what carries the peer's
//! packets.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use whyrelay_core::diagnosis::evidence::Evidence;
use whyrelay_core::host::SoftwareName;
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::Vantage;

use crate::namespace::{Namespace, Routed};
use crate::ours;
use crate::process::Process;
use crate::suite::{self, Suite, Tool};

/// A tunnel with a key that both have: up within a second or two.
const UP_WITHIN: Duration = Duration::from_secs(20);

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft, Tool::Openvpn];
    suite.test("openvpn::what_it_installs_and_carries_is_told", &tools, told);
}

/// One end of the tunnel.
fn end(namespace: &Namespace, name: &str, key: &str, more: &str) -> Result<Process> {
    let mut command = namespace.command(suite::path("OPENVPN")?);
    // A key that is shared is the least there is to set up; OpenVPN after 2.6 wants to be told that this is meant.
    const MEANT: &str = "allow-deprecated-insecure-static-crypto";
    command.args(["--dev", "tun", "--secret", key, "--ignore-unknown-option", MEANT, &format!("--{MEANT}")]);
    command.args(["--cipher", "AES-256-CBC", "--verb", "3"]).args(more.split_whitespace());
    Process::start(name, &mut command)
}

fn told() -> Result<()> {
    let world = Routed::new()?;
    let directory = tempfile::tempdir()?;
    let key = directory.path().join("static.key").display().to_string();
    let made = std::process::Command::new(suite::path("OPENVPN")?).args(["--genkey", "secret", &key]).output()?;
    ensure!(made.status.success(), "no key: {made:?}");
    let server = end(&world.router, "openvpn server", &key, "--ifconfig 10.8.0.1 10.8.0.2 --lport 1194")?;
    let client = end(
        &world.a,
        "openvpn client",
        &key,
        "--ifconfig 10.8.0.2 10.8.0.1 --remote 192.0.2.1 1194 --nobind --float --redirect-gateway def1 --ping 1",
    )?;
    client
        .line(UP_WITHIN, |line| line.contains("Initialization Sequence Completed"))
        .with_context(|| server.account())?;
    // It lets nobody out to other networks, as many a company's does.
    world.router.shell(
        "nft 'table ip o { chain f { type filter hook forward priority 0; iifname \"tun*\" drop; oifname \"tun*\" drop; }; }'",
    )?;
    let (offerer, _, recording) = ours::recorded(&world, &["--no-turn"], &[], |command| command)?;
    let evidence = Evidence::of(&recording.events);
    let host = &evidence.side(Vantage::A).host;
    let software = host.software(SoftwareName::Openvpn).with_context(|| format!("not seen: {}", offerer.account))?;
    let software = &software.fact;
    ensure!(software.is_certain() && software.process_id.is_some(), "{software:?}");
    for sign in ["process openvpn", "interface tun0"] {
        ensure!(software.signs.iter().any(|seen| seen == sign), "no {sign}: {software:?}");
    }
    let installed: Vec<String> =
        software.installed.iter().map(|entry| format!("{} {}", entry.part.name(), entry.which)).collect();
    let [interface, routes] = installed.as_slice() else { anyhow::bail!("{installed:?}") };
    ensure!(interface == "interface tun0 (tun)", "{installed:?}");
    // Both halves of the address space, and the tunnel's own.
    let count = routes.strip_prefix("routes dev tun0 table main: ").and_then(|count| count.parse::<u32>().ok());
    ensure!(count.is_some_and(|count| count > 2), "{installed:?}");
    let report = Report::from_events(&recording.events);
    let first = report.findings.first().context("no finding")?;
    ensure!(first.name == "vpn-route-covers-peer", "{:#?}", report.findings);
    ensure!(first.summary.contains("dev tun0 (the route 128.0.0.0/1)"), "{first:?}");
    Ok(())
}
