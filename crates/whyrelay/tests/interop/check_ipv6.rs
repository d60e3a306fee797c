//! `whyrelay check` and IPv6: four answers, and whether strangers' packets come in.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::check::{behavior, check, check_by, findings, measured, our_server};
use crate::namespace::Namespace;
use crate::process::Process;
use crate::router::{Internet, Nat};
use crate::suite::{Suite, Tool};

/// The server's two addresses.
const SERVER: [&str; 2] = ["2a11:1::1", "2a11:1::2"];
/// The host's.
const HOST: &str = "2a11:2::2";

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("check_ipv6::works_and_tells_whether_strangers_come_in", &tools, works);
    suite.test("check_ipv6::an_address_without_a_path_is_told_from_none_and_from_off", &tools, other_answers);
    suite.test("check_ipv6::a_dead_family_does_not_keep_signaling_from_being_reached", &tools, dead_ipv6);
}

/// A name with an address of each family, and nobody answers over IPv6.
fn dead_ipv6() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let site = internet.site(Nat::Home)?;
    site.host.shell(
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0;
         ip -6 address add 2a11:2::2/64 dev eth0 nodad;
         ip -6 neighbor add 2a11:2::1 lladdr 02:00:00:00:00:77 dev eth0; ip -6 route add default via 2a11:2::1",
    )?;
    let address = server.url().trim_start_matches("http://").to_owned();
    let (ip, port) = address.split_once(':').context("an address and a port")?;
    let hosts = tempfile::NamedTempFile::new()?;
    std::fs::write(hosts.path(), format!("2a11:1::1 signal.example\n{ip} signal.example\n"))?;
    let mut command = site.host.command("sh");
    command.args(["-e", "-c", "mount --bind $0 /etc/hosts; exec \"$@\""]).arg(hosts.path());
    command.arg(env!("CARGO_BIN_EXE_whyrelay"));
    let (json, ours) = check_by(&mut command, &["--signal", &format!("http://signal.example:{port}")])?;
    ensure!(!findings(&json).contains(&"signaling-failed"), "{}", ours.account);
    ensure!(behavior(&json, "mapping") == "endpoint-independent", "{}", ours.account);
    Ok(())
}

/// A server, a router, and a host, on IPv6 alone.
struct World {
    server: Namespace,
    router: Namespace,
    host: Namespace,
}

impl World {
    fn new() -> Result<Self> {
        let any = Ipv4Addr::UNSPECIFIED;
        let (server, router, host) = (Namespace::bare(any)?, Namespace::bare(any)?, Namespace::bare(any)?);
        for (end, to, name) in [("out", &server, "eth0"), ("in", &host, "eth0")] {
            router.run(&["link", "add", end, "type", "veth", "peer", "name", name, "netns", to.name()])?;
            router.run(&["link", "set", end, "up"])?;
            to.run(&["link", "set", name, "up"])?;
        }
        router.shell(
            "sysctl -qw net.ipv6.conf.all.forwarding=1; ip -6 address add 2a11:1::f/64 dev out nodad;
             ip -6 address add 2a11:2::1/64 dev in nodad",
        )?;
        let addresses = SERVER.map(|address| format!("ip -6 address add {address}/64 dev eth0 nodad;")).join(" ");
        server.shell(&format!("{addresses} ip -6 route add default via 2a11:1::f"))?;
        host.shell(&format!("ip -6 address add {HOST}/64 dev eth0 nodad; ip -6 route add default via 2a11:2::1"))?;
        Ok(Self { server, router, host })
    }

    fn serve(&self) -> Result<(Process, String)> {
        let [first, second] = SERVER;
        let mut command = self.server.command(env!("CARGO_BIN_EXE_whyrelay"));
        command.args(["serve", "--listen", &format!("[{first}]:8080"), "--stun-listen", &format!("[{first}]:3478")]);
        command.args(["--alternate-address", second]);
        let process = Process::start("whyrelay serve", &mut command)?;
        let url = format!("http://[{first}]:8080");
        process.line(Duration::from_secs(10), |line| line.contains(&url))?;
        Ok((process, url))
    }
}

/// The value of the row that tells of strangers' packets.
fn unsolicited(json: &Value) -> Option<&str> {
    json["rows"].as_array()?.iter().find(|row| row["name"] == "unsolicited inbound")?["value"].as_str()
}

fn works() -> Result<()> {
    let world = World::new()?;
    let (server, url) = world.serve()?;
    for (firewall, filtering, word) in [
        (None, "endpoint-independent", "comes in"),
        (
            Some("ct state established,related accept; iifname in accept; drop"),
            "address-and-port-dependent",
            "filtered",
        ),
    ] {
        if let Some(rules) = firewall {
            world
                .router
                .nft(&format!("table ip6 f {{ chain f {{ type filter hook forward priority 0; {rules}; }}\n}}\n"))?;
        }
        let (json, ours) = check(&world.host, &["--signal", &url])?;
        let context = || format!("{}\n{}", ours.account, server.account());
        ensure!(
            measured(&json, "ipv6").is_some_and(|fact| fact["state"] == "works" && fact["address"] == HOST),
            "{}",
            context()
        );
        let known = (behavior(&json, "mapping"), behavior(&json, "filtering"));
        ensure!(known == ("endpoint-independent", filtering), "{known:?}: {}", context());
        let told = unsolicited(&json).unwrap_or("nothing");
        ensure!(told.starts_with(word), "{told}: {}", context());
        // A path that takes whole packets of 1500 bytes: headers of 48, 1452 of payload, and nothing larger to lose.
        let sizes =
            json["measurements"].as_array().into_iter().flatten().filter(|fact| fact["measurement"] == "path-mtu");
        let sizes: Vec<_> = sizes.map(|fact| (fact["payload"].as_u64(), fact["lost"].as_u64())).collect();
        ensure!(sizes == [(Some(1452), None); 2], "{sizes:?}: {}", context());
        ensure!(findings(&json).is_empty(), "{}", context());
        for kind in ["early-arrival", "third-party", "path-mtu", "packet-shape", "relay-echo", "clock", "hop"] {
            ensure!(measured(&json, kind).is_some(), "{kind} is missing: {}", context());
        }
    }
    Ok(())
}

fn other_answers() -> Result<()> {
    let world = World::new()?;
    let (_server, url) = world.serve()?;
    let state = |arguments: &[&str]| -> Result<String> {
        let (json, ours) = check(&world.host, arguments)?;
        let state = measured(&json, "ipv6").and_then(|fact| fact["state"].as_str()).map(str::to_owned);
        Ok(state.unwrap_or(ours.account))
    };
    let not_tried = state(&[])?;
    ensure!(not_tried == "not-tried", "{not_tried}");
    world.router.nft("table ip6 f { chain f { type filter hook forward priority 0; drop; }\n}\n")?;
    let silent = state(&["--stun", "stun:[2a11:1::1]:3478"])?;
    ensure!(silent == "no-path", "nobody answers: {silent}");
    world.host.run(&["-6", "route", "delete", "default"])?;
    let without_route = state(&["--signal", &url])?;
    ensure!(without_route == "no-path", "no route: {without_route}");
    world.host.run(&["-6", "address", "flush", "dev", "eth0", "scope", "global"])?;
    let without_address = state(&[])?;
    ensure!(without_address == "no-address", "no address: {without_address}");
    world.host.sysctl("net.ipv6.conf.all.disable_ipv6=1")?;
    let off = state(&[])?;
    ensure!(off == "off", "off: {off}");
    Ok(())
}
