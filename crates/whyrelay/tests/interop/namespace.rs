//! Network namespaces, so that peers have addresses other than loopback and see nothing
//! of the machine's own networks.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use crate::suite;

const PREFIX: &str = "whyrelay-it-";
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A network namespace with one address besides loopback, a default route, and the
/// `.local` names of multicast DNS. Removed when dropped, with every process in it.
pub(crate) struct Namespace {
    name: String,
    ip: PathBuf,
    address: Ipv4Addr,
}

/// Hosts A (203.0.113.34) and B (198.51.100.7) on two networks of one router, whose own address is 192.0.2.1. A has a
/// second interface, `wg0`, that stands for a tunnel: the router drops what comes or goes by it, but its own.
pub(crate) struct Routed {
    pub(crate) a: Namespace,
    pub(crate) router: Namespace,
    pub(crate) b: Namespace,
}

impl Routed {
    /// Makes it.
    pub(crate) fn new() -> Result<Self> {
        let a = Namespace::bare(Ipv4Addr::new(203, 0, 113, 34))?;
        let router = Namespace::bare(Ipv4Addr::new(192, 0, 2, 1))?;
        let b = Namespace::bare(Ipv4Addr::new(198, 51, 100, 7))?;
        let cable = |end: &str, to: &Namespace, name: &str| {
            router
                .shell(&format!("ip link add {end} type veth peer name {name} netns {}; ip link set {end} up", to.name))
        };
        cable("ra", &a, "eth0")?;
        cable("rw", &a, "wg0")?;
        cable("rb", &b, "eth0")?;
        router.shell(
            "ip address add 192.0.2.1/32 dev lo; ip address add 203.0.113.33/27 dev ra;
             ip address add 10.66.0.1/24 dev rw; ip address add 198.51.100.1/26 dev rb;
             sysctl -qw net.ipv4.ip_forward=1;
             nft 'table ip t { chain f { type filter hook forward priority 0; iifname rw drop; oifname rw drop; }; }'",
        )?;
        a.shell(
            "ip address add 203.0.113.34/27 dev eth0; ip address add 10.66.0.2/24 dev wg0;
             ip link set eth0 up; ip link set wg0 up; ip route add default via 203.0.113.33",
        )?;
        b.shell("ip address add 198.51.100.7/26 dev eth0; ip link set eth0 up; ip route add default via 198.51.100.1")?;
        for (host, device) in [(&a, "eth0"), (&a, "wg0"), (&b, "eth0")] {
            // The kernel tells of the carrier a moment later.
            host.shell(&format!(
                "for i in $(seq 200); do ip link show {device} | grep -q 'state UP' && exit 0; sleep 0.01; done; exit 1"
            ))?;
        }
        Ok(Self { a, router, b })
    }
}

impl Namespace {
    /// Runs shell commands in here; the first that fails ends them.
    pub(crate) fn shell(&self, commands: &str) -> Result<()> {
        succeed(self.command("sh").args(["-e", "-c", commands]))
    }

    /// One host, 203.0.113.1, whose cable ends nowhere.
    pub(crate) fn new() -> Result<Self> {
        let namespace = Self::bare(Ipv4Addr::new(203, 0, 113, 1))?;
        namespace.run(&["link", "add", "wr0", "type", "veth", "peer", "name", "wr1"])?;
        namespace.run(&["link", "set", "wr1", "up"])?;
        namespace.address_and_route()?;
        namespace.wait_for_carrier("wr0")?;
        Ok(namespace)
    }

    /// Two hosts, 203.0.113.1 and 203.0.113.2, on one cable.
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let left = Self::bare(Ipv4Addr::new(203, 0, 113, 1))?;
        let right = Self::bare(Ipv4Addr::new(203, 0, 113, 2))?;
        let cable = ["link", "add", "wr0", "type", "veth", "peer", "name", "wr0"];
        left.run(&[&cable[..], &["netns", &right.name]].concat())?;
        left.address_and_route()?;
        right.address_and_route()?;
        for namespace in [&left, &right] {
            namespace.wait_for_carrier("wr0")?;
        }
        Ok((left, right))
    }

    /// The address that is not loopback.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A command that will run `program` in here.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(&self.ip);
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Silently drops what comes in by the cable, except TCP from or to `port`.
    pub(crate) fn drop_all_but_tcp(&self, port: u16) -> Result<()> {
        let rules = format!(
            "table inet block {{ chain in {{ type filter hook input priority 0; \
             iifname lo accept; tcp sport {port} accept; tcp dport {port} accept; drop; }}; }}"
        );
        succeed(self.command(suite::path("NFT")?).arg(rules))
    }

    /// Lays a second cable between two hosts, 198.51.100.1 and 198.51.100.2.
    pub(crate) fn second_cable(left: &Self, right: &Self) -> Result<()> {
        left.run(&["link", "add", "wr2", "type", "veth", "peer", "name", "wr2", "netns", &right.name])?;
        for (namespace, address) in [(left, "198.51.100.1/24"), (right, "198.51.100.2/24")] {
            namespace.run(&["address", "add", address, "dev", "wr2"])?;
            namespace.run(&["link", "set", "wr2", "up"])?;
        }
        left.wait_for_carrier("wr2")?;
        right.wait_for_carrier("wr2")
    }

    /// Silently drops UDP that comes in by `interface`.
    pub(crate) fn drop_udp(&self, interface: &str) -> Result<()> {
        let rules = format!(
            "table inet block {{ chain in {{ type filter hook input priority 0; \
             iifname {interface} meta l4proto udp drop; }}; }}"
        );
        succeed(self.command(suite::path("NFT")?).arg(rules))
    }

    /// Undoes what was dropped.
    pub(crate) fn let_pass(&self) -> Result<()> {
        succeed(self.command(suite::path("NFT")?).args(["delete", "table", "inet", "block"]))
    }

    /// Its name, for `ip`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Loads nftables rules.
    pub(crate) fn nft(&self, rules: &str) -> Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        std::io::Write::write_all(&mut file, rules.as_bytes())?;
        succeed(self.command(suite::path("NFT")?).arg("-f").arg(file.path()))
    }

    /// `nft` in here.
    pub(crate) fn run_nft(&self, arguments: &[&str]) -> Result<()> {
        succeed(self.command(suite::path("NFT")?).args(arguments))
    }

    /// Sets a kernel parameter.
    pub(crate) fn sysctl(&self, setting: &str) -> Result<()> {
        succeed(self.command("sysctl").args(["-q", "-w", setting]))
    }

    /// A namespace with nothing but loopback; `address` is the one that it will have.
    pub(crate) fn bare(address: Ipv4Addr) -> Result<Self> {
        let ip = suite::path("NETNS")?;
        remove_abandoned(&ip);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        succeed(Command::new(&ip).args(["netns", "add", &name]))?;
        let namespace = Self { name, ip, address };
        // Else an IPv6 address cannot be used in its first seconds.
        for which in ["all", "default"] {
            let setting = format!("net.ipv6.conf.{which}.accept_dad=0");
            namespace.sysctl(&setting)?;
        }
        namespace.run(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    fn address_and_route(&self) -> Result<()> {
        let address = format!("{}/24", self.address);
        self.run(&["address", "add", &address, "dev", "wr0"])?;
        self.run(&["link", "set", "wr0", "up"])?;
        // Browsers offer no candidate of an interface that has none.
        self.run(&["route", "add", "default", "via", "203.0.113.254", "dev", "wr0"])
    }

    /// Waits until the system counts a link as up. It hears of the other end's coming up a while later, up to a second
    /// where many links come and go, and until then programs find no network.
    fn wait_for_carrier(&self, link: &str) -> Result<()> {
        for _ in 0..500 {
            let mut command = Command::new(&self.ip);
            let output = command.args(["-n", &self.name, "-o", "link", "show", "dev", link]).output()?;
            if String::from_utf8_lossy(&output.stdout).contains("state UP") {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        bail!("{link} in {} does not come up", self.name)
    }

    /// `ip` in here.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<()> {
        succeed(Command::new(&self.ip).args(["-n", &self.name]).args(arguments))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.ip, &self.name);
    }
}

/// Removes what a killed test run has left: the namespaces of processes that are no more.
fn remove_abandoned(ip: &Path) {
    let Ok(list) = Command::new(ip).args(["netns", "list"]).output() else {
        return;
    };
    for line in String::from_utf8_lossy(&list.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            remove(ip, name);
        }
    }
}

fn remove(ip: &Path, name: &str) {
    if let Ok(output) = Command::new(ip).args(["netns", "pids", name]).output() {
        for process in String::from_utf8_lossy(&output.stdout).lines() {
            if let Ok(process) = process.trim().parse() {
                let process = nix::unistd::Pid::from_raw(process);
                let _ = nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL);
            }
        }
    }
    let _ = Command::new(ip).args(["netns", "delete", name]).status();
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, stderr.trim());
    }
    Ok(())
}
