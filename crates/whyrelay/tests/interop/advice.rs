//! The commands that findings advise, run where the fault is: the fault is gone then, and the session direct.

use anyhow::{Context, Result, ensure};
use whyrelay_core::diagnosis::session::Path;
use whyrelay_core::report::Report;

use crate::namespace::Routed;
use crate::ours;
use crate::suite::{self, Suite, Tool};

/// Worlds at a time: their sessions wait most of their time.
const AT_ONCE: usize = 4;

/// A fault and the remedy that is to take it away.
struct Case {
    name: &'static str,
    /// Shell commands in A's namespace.
    fault: &'static str,
    /// More arguments of A.
    arguments: &'static [&'static str],
    /// The name of the first finding.
    finding: &'static str,
    /// How the remedy's text begins.
    remedy: &'static str,
}

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("advice::about_routing_takes_the_fault_away", &tools, || suite::each(ROUTING, AT_ONCE, run));
    suite.test("advice::about_firewalls_takes_the_fault_away", &tools, || suite::each(FIREWALLS, AT_ONCE, run));
    let legacy = [Tool::NetworkNamespaces, Tool::IptablesLegacy];
    suite.test("advice::about_legacy_iptables_takes_the_fault_away", &legacy, || suite::each(LEGACY, AT_ONCE, run));
}

const MARKED: &[&str] = &["--mark", "0x1bd00"];
const PORT: &[&str] = &["--port", "51820"];
const TUNNEL: &str = "ip route add default via 10.66.0.1 dev wg0 table 200;";

const ROUTING: &[Case] = &[
    Case {
        name: "mark",
        fault: "ip rule add pref 2061 fwmark 0x3d00/0x3f00 blackhole",
        arguments: MARKED,
        finding: "mark-rule-collision",
        remedy: "Or exempt the mark ahead of that rule",
    },
    Case {
        name: "strict reverse path",
        fault: "ip rule add pref 110 not fwmark 0x1bd00 lookup 200; sysctl -qw net.ipv4.conf.eth0.rp_filter=1",
        arguments: MARKED,
        finding: "reverse-path-filter-drops",
        remedy: "Filter loosely",
    },
    Case {
        name: "blackhole route",
        fault: "ip route add blackhole 198.51.100.7/32",
        arguments: &[],
        finding: "route-refuses-peer",
        remedy: "Take the route out",
    },
    Case {
        name: "prohibiting rule",
        fault: "ip rule add pref 104 to 198.51.100.7/32 prohibit",
        arguments: &[],
        finding: "route-refuses-peer",
        remedy: "Take the rule out",
    },
    Case {
        name: "exception to a rule",
        fault: "ip rule add pref 100 to 198.51.100.0/26 lookup 200",
        arguments: &[],
        finding: "policy-rule-diverts-peer",
        remedy: "Let the peer go the usual way",
    },
    Case {
        name: "rule by port, taken out",
        fault: "ip rule add pref 101 ipproto udp sport 51820 to 198.51.100.0/26 lookup 200",
        arguments: PORT,
        finding: "policy-rule-diverts-peer",
        remedy: "Or take the rule out",
    },
    Case {
        name: "tunnel route",
        fault: "ip tuntap add dev tun9 mode tun; ip address add 10.99.0.2/24 dev tun9; ip link set tun9 up; ip route add 198.51.100.0/26 dev tun9",
        arguments: &["--exclude-interface", "tun9"],
        finding: "vpn-route-covers-peer",
        remedy: "Send the peer's own address past the tunnel",
    },
    Case {
        name: "other uplink",
        fault: "ip route add 198.51.100.0/26 via 10.66.0.1 dev wg0",
        arguments: &[],
        finding: "peer-by-other-uplink",
        remedy: "Try the peer by the servers' uplink",
    },
    Case {
        name: "other uplink, for this address alone",
        fault: "ip route add 198.51.100.7/32 via 10.66.0.1 dev wg0",
        arguments: &[],
        finding: "peer-by-other-uplink",
        remedy: "Try the peer by the servers' uplink",
    },
    Case {
        name: "bridge",
        fault: "ip link add br-1234 type bridge; ip link add d0 type veth peer name d1; ip link set d0 master br-1234; ip link set d1 up;
            ip link set d0 up; ip link set br-1234 up; ip addr add 198.51.100.1/24 dev br-1234",
        arguments: &["--exclude-interface", "br-1234", "--exclude-interface", "d1"],
        finding: "bridge-shadows-peer",
        remedy: "Send the peer's address out until then",
    },
];

const FIREWALLS: &[Case] = &[
    Case {
        name: "input, ahead of the rule",
        fault: "nft 'table inet fw { chain i { type filter hook input priority 0; ip saddr 198.51.100.0/26 meta l4proto udp counter drop; }; }'",
        arguments: PORT,
        finding: "input-firewall-drops",
        remedy: "Accept this traffic ahead of the rule",
    },
    Case {
        name: "input, rule taken out",
        fault: "nft 'table inet fw { chain i { type filter hook input priority 0; ip saddr 198.51.100.0/26 meta l4proto udp counter drop; }; }'",
        arguments: &[],
        finding: "input-firewall-drops",
        remedy: "Or take the rule out",
    },
    Case {
        name: "prerouting",
        fault: "nft 'table ip raw { chain p { type filter hook prerouting priority -300; ip saddr 198.51.100.7 counter drop; }; }'",
        arguments: PORT,
        finding: "input-firewall-drops",
        remedy: "Accept this traffic ahead of the rule",
    },
    Case {
        name: "output",
        fault: "nft 'table inet fw { chain o { type filter hook output priority 0; jump p; }; chain p { ip daddr 198.51.100.7 meta l4proto udp counter drop; }; }'",
        arguments: PORT,
        finding: "output-firewall-drops",
        remedy: "Accept this traffic ahead of the rule",
    },
    Case {
        name: "mark rewritten",
        fault: "nft 'table ip t { chain o { type route hook output priority mangle; ip daddr 198.51.100.7 counter meta mark set 0x99; }; }';
            ip rule add pref 103 fwmark 0x99 lookup 200",
        arguments: PORT,
        finding: "mark-rewritten-on-output",
        remedy: "Exempt this traffic ahead of the rule",
    },
];

const LEGACY: &[Case] = &[
    Case {
        name: "input",
        fault: "iptables-legacy -N SESSION; iptables-legacy -A INPUT -j SESSION; iptables-legacy -A SESSION -s 198.51.100.0/26 -p udp -j DROP",
        arguments: PORT,
        finding: "input-firewall-drops",
        remedy: "Accept this traffic ahead of the rule",
    },
    Case {
        name: "raw table",
        fault: "iptables-legacy -t raw -A PREROUTING -s 198.51.100.0/26 -p udp -j DROP",
        arguments: PORT,
        finding: "input-firewall-drops",
        remedy: "Accept this traffic ahead of the rule",
    },
    Case {
        name: "output",
        fault: "iptables-legacy -A OUTPUT -d 198.51.100.0/26 -p udp -j DROP",
        arguments: PORT,
        finding: "output-firewall-drops",
        remedy: "Accept this traffic ahead of the rule",
    },
];

fn run(case: &Case) -> Result<()> {
    advise(case).context(case.name)
}

fn advise(case: &Case) -> Result<()> {
    let world = Routed::new()?;
    if case.fault.contains("200") {
        world.a.shell(TUNNEL)?;
    }
    world.a.shell(case.fault)?;
    let before = report(&world, case.arguments)?;
    let finding = before.findings.first().context("no finding")?;
    ensure!(finding.name == case.finding, "{finding:?}");
    ensure!(before.path != Path::Direct, "it is direct all the same");
    let remedy = finding.remedies.iter().find(|remedy| remedy.text.starts_with(case.remedy));
    let remedy = remedy.with_context(|| format!("no such remedy: {:?}", finding.remedies))?;
    ensure!(!remedy.commands.is_empty(), "{remedy:?}");
    for command in &remedy.commands {
        world.a.shell(command).with_context(|| command.clone())?;
    }
    let after = report(&world, case.arguments)?;
    ensure!(after.path == Path::Direct, "after {:?}: {:?}", remedy.commands, after.findings);
    let still = after.findings.iter().find(|finding| finding.name == case.finding);
    ensure!(still.is_none_or(|finding| finding.severity.name() == "info"), "after {:?}: {still:?}", remedy.commands);
    Ok(())
}

fn report(world: &Routed, arguments: &[&str]) -> Result<Report> {
    let (_, _, recording) = ours::recorded(world, &[], arguments, |command| command)?;
    Ok(Report::from_events(&recording.events))
}
