//! Sessions that stand in for a program which runs (`--as`): a real WireGuard, and processes with the sockets and rules of
//! Tailscale. What runs goes on as if nobody had looked.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use whyrelay_core::diagnosis::evidence::Evidence;
use whyrelay_core::host::Application;
use whyrelay_core::trace::event::Vantage;

use crate::namespace::{Namespace, Routed};
use crate::ours::{self, Account};
use crate::peers::LIMIT;
use crate::process::Process;
use crate::suite::{self, Suite, Tool};

/// Everything of a host that a session could have changed and must not.
const STATE: &str = "{ ip rule; ip -6 rule; ip route show table all; ip address; nft list ruleset; ss -Huln; } | grep -v 'valid_lft' | sort";

/// What `tailscaled` installs, and the tunnel's interface.
const TAILSCALE: &str = "ip link add tailscale0 type veth peer name ts-peer; ip link set ts-peer up; ip address add 100.64.0.1/32 dev tailscale0; ip link set tailscale0 up;
    ip route add 100.64.0.0/10 dev tailscale0 table 52;
    ip rule add pref 5210 fwmark 0x80000/0xff0000 lookup main; ip rule add pref 5230 fwmark 0x80000/0xff0000 lookup default;
    ip rule add pref 5250 fwmark 0x80000/0xff0000 unreachable; ip rule add pref 5270 lookup 52;";

/// A program with one UDP socket that answers what it gets: name, port and mark are its arguments.
const ECHO: &str = "
import socket, sys
open('/proc/self/comm', 'w').write(sys.argv[1])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 36, int(sys.argv[3], 0))
s.bind(('0.0.0.0', int(sys.argv[2])))
print('bound', flush=True)
while True:
    data, source = s.recvfrom(2048)
    s.sendto(data, source)
";

/// Asks it for as long as a session takes, and says at the end how often that was in vain.
const ASK: &str = "
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
lost = 0
for number in range(int(sys.argv[3])):
    s.sendto(b'%d' % number, (sys.argv[1], int(sys.argv[2])))
    try:
        while s.recvfrom(2048)[0] != b'%d' % number: pass
    except TimeoutError:
        lost += 1
    time.sleep(0.05)
print('lost', lost, flush=True)
";

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let with_python = [Tool::NetworkNamespaces, Tool::Nft, Tool::Python];
    let with_wireguard = [&with_python[..], &[Tool::Wireguard]].concat();
    suite.test("running::a_real_wireguard_is_stood_in_for", &with_wireguard, wireguard);
    suite.test("running::tailscales_sockets_and_rules_are_stood_in_for", &with_python, tailscale);
    suite.test("running::any_process_is_stood_in_for", &with_python, process);
}

/// A session whose A has these arguments: its account, and what it stood in for.
fn session(world: &Routed, arguments: &[&str]) -> Result<(Account, Application)> {
    let (offerer, answerer, recording) = ours::recorded(world, &["--no-turn"], arguments, |command| command)?;
    Account::read(answerer)?;
    let account = Account::read(offerer)?;
    let evidence = Evidence::of(&recording.events);
    let application = evidence.side(Vantage::A).host.application.as_ref();
    let (_, application) = application.with_context(|| format!("no application: {}", account.printed))?;
    Ok((account, application.clone()))
}

fn state(namespace: &Namespace) -> Result<String> {
    let output = namespace.command("sh").args(["-c", STATE]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn first(account: &Account) -> Option<(&str, &str)> {
    let wrong = |finding: &&Value| finding["severity"] != "info";
    let first = account.json["findings"].as_array()?.iter().find(wrong)?;
    Some((first["code"].as_str()?, first["summary"].as_str()?))
}

/// The program, once its socket is there.
fn echo(namespace: &Namespace, name: &str, port: &str, mark: &str) -> Result<Process> {
    let mut command = namespace.command(suite::path("PYTHON")?);
    let program = Process::start(name, command.args(["-c", ECHO, name, port, mark]))?;
    program.line(LIMIT, |line| line == "bound")?;
    Ok(program)
}

/// Somebody who asks it, so many times.
fn ask(namespace: &Namespace, address: &str, port: &str, times: &str) -> Result<Process> {
    let mut command = namespace.command(suite::path("PYTHON")?);
    Process::start("client", command.args(["-c", ASK, address, port, times]))
}

fn must_have_lost_nothing(asking: Process) -> Result<()> {
    let asked = asking.finish(LIMIT)?;
    ensure!(asked.stdout == "lost 0", "{}", asked.account);
    Ok(())
}

/// The socket by which `wg` speaks with wireguard-go, which leaves it behind when it is ended.
struct ControlSocket(PathBuf);

impl ControlSocket {
    fn of(device: &str) -> Self {
        let socket = Self(format!("/run/wireguard/{device}.sock").into());
        socket.remove();
        socket
    }

    fn remove(&self) {
        // There may be none.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A full tunnel as `wg-quick` makes it: WireGuard's own packets carry a mark and leave by the cable, everything else goes
/// into the tunnel, but signaling.
fn wireguard() -> Result<()> {
    let world = Routed::new()?;
    let number = std::process::id() % 1_000_000;
    // Their sockets for `wg` stand in one directory for all namespaces.
    let (of_a, of_b) = (format!("wga{number}"), format!("wgb{number}"));
    let _sockets = [&of_a, &of_b].map(|device| ControlSocket::of(device));
    let start = |namespace: &Namespace, device: &str| -> Result<Process> {
        let mut command = namespace.command(suite::path("WIREGUARD_GO")?);
        let process = Process::start("wireguard-go", command.args(["-f", device]).env("LOG_LEVEL", "error"))?;
        let there = format!(
            "for i in $(seq 500); do ip link show {device} >/dev/null 2>&1 && test -S /run/wireguard/{device}.sock && exit 0
             sleep 0.01; done; exit 1"
        );
        namespace.shell(&there).with_context(|| process.account())?;
        Ok(process)
    };
    let (_vpn, _other) = (start(&world.a, &of_a)?, start(&world.b, &of_b)?);
    let wg = suite::path("WG")?.display().to_string();
    world.a.shell(&format!(
        "umask 077; d=$(mktemp -d); trap 'rm -r $d' EXIT; {wg} genkey >$d/a; {wg} genkey >$d/b
         a=$({wg} pubkey <$d/a); b=$({wg} pubkey <$d/b)
         {wg} set {of_a} private-key $d/a listen-port 51820 fwmark 0xca6c peer $b endpoint 198.51.100.7:51820 allowed-ips 0.0.0.0/0
         {wg} set {of_b} private-key $d/b listen-port 51820 peer $a allowed-ips 10.9.9.1/32"
    ))?;
    world.b.shell(&format!("ip address add 10.9.9.2/24 dev {of_b}; ip link set {of_b} up"))?;
    world.a.shell(&format!(
        "ip address add 10.9.9.1/24 dev {of_a}; ip link set {of_a} up; ip route add default dev {of_a} table 51820
         ip rule add pref 100 to 192.0.2.1 lookup main; ip rule add pref 32764 lookup main suppress_prefixlength 0
         ip rule add pref 32765 not fwmark 0xca6c lookup 51820"
    ))?;
    let _inside = echo(&world.b, "inside", "7777", "0")?;
    must_have_lost_nothing(ask(&world.a, "10.9.9.2", "7777", "3")?).context("the tunnel does not work")?;

    let before = state(&world.a)?;
    let asking = ask(&world.a, "10.9.9.2", "7777", "60")?;
    let (account, application) = session(&world, &["--as", "wireguard"])?;
    must_have_lost_nothing(asking).context("the tunnel was disturbed")?;
    ensure!(state(&world.a)? == before, "something was changed");
    ensure!(application.origin == "running", "{application:?}");
    ensure!(application.mark == Some(0xca6c) && application.port == Some(51_820), "{application:?}");
    ensure!(!application.port_used, "WireGuard has the port: {application:?}");
    account.must_be_direct()?;
    let local = account.json["selected_pair"]["local"]["address"].as_str().unwrap_or_default();
    ensure!(local.starts_with("203.0.113.34:"), "not past the tunnel: {}", account.printed);
    let compared = &account.json["comparisons"][0];
    ensure!(compared["differs"] == true && compared["plain"]["answered"] == 0, "{compared}");

    // Now a rule takes its mark.
    world.a.shell(
        "ip route add default via 10.66.0.1 dev wg0 table 200; ip rule add pref 90 fwmark 0xca6c to 198.51.100.0/26 lookup 200",
    )?;
    let (account, _) = session(&world, &["--as", "wireguard"])?;
    let (code, summary) = first(&account).with_context(|| format!("nothing found: {}", account.printed))?;
    ensure!(code == "WR106" && summary.contains("ip rule 90"), "{code} {summary}: {}", account.printed);
    Ok(())
}

fn tailscale() -> Result<()> {
    let world = Routed::new()?;
    world.a.shell(TAILSCALE)?;
    let _vpn = echo(&world.a, "tailscaled", "41641", "0x80000")?;
    let before = state(&world.a)?;
    let asking = ask(&world.b, "203.0.113.34", "41641", "60")?;
    let (account, application) = session(&world, &["--as", "tailscale"])?;
    must_have_lost_nothing(asking).context("it was disturbed")?;
    ensure!(state(&world.a)? == before, "something was changed");
    account.must_be_direct()?;
    ensure!(application.origin == "running" && application.mark == Some(0x8_0000), "{application:?}");
    ensure!(application.port == Some(41_641) && !application.port_used, "{application:?}");
    let compared = &account.json["comparisons"][0];
    ensure!(compared["differs"] == false, "{compared}");

    // tailscale/tailscale#4038: the default route stands in a table of its own, and the mark's rules never come to it.
    world.a.shell(
        "ip route del default; ip route add default via 203.0.113.33 table 201; ip rule add pref 32000 lookup 201",
    )?;
    let (account, _) = session(&world, &["--as", "tailscale"])?;
    ensure!(account.json["path"] == "failed", "{}", account.printed);
    let (code, summary) = first(&account).with_context(|| format!("nothing found: {}", account.printed))?;
    ensure!(code == "WR106" && summary.contains("ip rule 5250"), "{code} {summary}: {}", account.printed);
    Ok(())
}

fn process() -> Result<()> {
    let world = Routed::new()?;
    world.a.shell(
        "ip route add default via 10.66.0.1 dev wg0 table 200; ip rule add pref 99 fwmark 0x77 to 198.51.100.0/26 lookup 200",
    )?;
    let vpn = echo(&world.a, "myvpn", "5555", "0x77")?;
    let (account, application) = session(&world, &["--as", &vpn.id().to_string()])?;
    ensure!(application.asked == "myvpn" && application.origin == "running", "{application:?}");
    ensure!(application.mark == Some(0x77) && application.port == Some(5555), "{application:?}");
    ensure!(!application.port_used, "{application:?}");
    let (code, summary) = first(&account).with_context(|| format!("nothing found: {}", account.printed))?;
    ensure!(code == "WR106" && summary.contains("ip rule 99") && summary.contains("0x77"), "{code} {summary}");
    ensure!(account.json["comparisons"][0]["differs"] == true, "{}", account.printed);
    Ok(())
}
