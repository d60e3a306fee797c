//! The mechanisms by which Linux diverts, drops or refuses a peer's packets, each made for real, and what the recording
//! says of the host. Sessions of the real binary; hosts A and B behind one router, which also has the server.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use whyrelay_core::diagnosis::evidence::{Evidence, HostEvidence, SideEvidence};
use whyrelay_core::host::{FirewallFramework, Moment, NeighborState, RoutePurpose, SoftwareName, Subject};
use whyrelay_core::report::{Report, TextOptions, render_text};
use whyrelay_core::trace::event::{Event, Vantage};

use crate::namespace::Routed;
use crate::ours;
use crate::suite::{self, Suite, Tool};

/// Sessions at a time: each waits most of its time.
const AT_ONCE: usize = 4;

/// B's address.
const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));

/// One mechanism.
struct Case {
    name: &'static str,
    /// Shell commands in A's namespace.
    fault: &'static str,
    /// More arguments of A.
    arguments: &'static [&'static str],
    check: fn(&SideEvidence) -> Result<()>,
}

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("host::each_mechanism_leaves_its_facts", &tools, each_mechanism);
    let legacy = [Tool::NetworkNamespaces, Tool::IptablesLegacy];
    suite.test("host::legacy_iptables_are_read_with_their_counters", &legacy, legacy_iptables);
    suite.test("host::legacy_counters_stay_with_their_rules_while_rules_change", &legacy, legacy_while_rules_change);
    suite.test("host::programs_are_told_with_what_they_installed", &tools, programs);
    let with_python = [Tool::NetworkNamespaces, Tool::Nft, Tool::Python];
    suite.test("host::a_crowded_host_is_recorded_in_bounds", &with_python, crowded);
    suite.test("host::without_privileges_the_session_runs_and_says_what_they_would_add", &tools, unprivileged);
}

const TUNNEL: &str = "ip route add default via 10.66.0.1 dev wg0 table 200;";

const CASES: &[Case] = &[
    Case { name: "healthy", fault: "true", arguments: &[], check: healthy },
    Case {
        name: "rule-to-peer",
        fault: "ip rule add pref 100 to 198.51.100.0/26 lookup 200",
        arguments: &[],
        check: |side| diverted(side, "wg0", 200, 100),
    },
    Case {
        name: "rule-by-port",
        fault: "ip rule add pref 101 ipproto udp sport 51820 to 198.51.100.0/26 lookup 200",
        arguments: &["--port", "51820"],
        check: |side| {
            diverted(side, "wg0", 200, 101)?;
            let mut without_port = side.host.routes_to(B).filter(|answer| answer.fact.question.source_port.is_none());
            ensure!(without_port.any(|answer| answer.fact.device() == Some("eth0")), "without a port it is not eth0");
            Ok(())
        },
    },
    Case {
        name: "rule-by-user",
        fault: "ip rule add pref 102 uidrange 0-0 to 198.51.100.0/26 lookup 200",
        arguments: &[],
        check: |side| diverted(side, "wg0", 200, 102),
    },
    Case {
        name: "mark-collides-with-mwan3",
        fault: "ip rule add pref 2061 fwmark 0x3d00/0x3f00 blackhole",
        arguments: &["--mark", "0x1bd00"],
        check: |side| refused(side, libc::EINVAL, Some(2061)),
    },
    Case {
        name: "strict-reverse-path",
        fault: "ip rule add pref 110 not fwmark 0x1bd00 lookup 200;
            sysctl -qw net.ipv4.conf.eth0.rp_filter=1",
        arguments: &["--mark", "0x1bd00"],
        check: |side| {
            moved(&side.host, "TcpExt.IPReversePathFilter")?;
            ensure!(side.host.rp_filter("eth0").is_some_and(|(_, value)| value == 1), "rp_filter is not told");
            let marked = side.host.routes_to(B).find(|answer| answer.fact.question.mark == 0x1bd00);
            ensure!(marked.is_some_and(|answer| answer.fact.device() == Some("eth0")), "the marked packet leaves by eth0");
            arrived(side)
        },
    },
    Case {
        name: "mark-rewritten-on-output",
        fault: "nft 'table ip t { chain o { type route hook output priority mangle; ip daddr 198.51.100.7 counter meta mark set 0x99; }; }';
            ip rule add pref 103 fwmark 0x99 lookup 200",
        arguments: &[],
        check: |side| {
            let asked = side.host.routes_to(B).all(|answer| answer.fact.device() == Some("eth0"));
            ensure!(asked, "the routing's own answer looks right");
            ensure!(left_by(side, "wg0"), "the packets leave by wg0: {:?}", side.host.own_packets);
            let rule = counted(&side.host, "output")?;
            ensure!(rule.sets_mark && rule.chain_type.as_deref() == Some("route"), "{rule:?}");
            Ok(())
        },
    },
    Case {
        name: "blackhole",
        fault: "ip route add blackhole 198.51.100.7/32",
        arguments: &[],
        check: |side| refused(side, libc::EINVAL, None),
    },
    Case {
        name: "unreachable",
        fault: "ip route add unreachable 198.51.100.7/32",
        arguments: &[],
        check: |side| refused(side, libc::EHOSTUNREACH, None),
    },
    Case {
        name: "prohibit-rule",
        fault: "ip rule add pref 104 to 198.51.100.7/32 prohibit",
        arguments: &[],
        check: |side| refused(side, libc::EACCES, Some(104)),
    },
    Case {
        name: "output-drop",
        fault: "nft 'table inet fw { chain o { type filter hook output priority 0; jump p; }; chain p { ip daddr 198.51.100.7 meta l4proto udp counter drop; }; }'",
        arguments: &[],
        check: |side| {
            moved(&side.host, "Ip.OutDiscards")?;
            let rule = counted(&side.host, "output")?;
            ensure!(rule.verdict.as_deref() == Some("drop") && rule.chain == "p", "{rule:?}");
            ensure!(rule.rule.contains("ip daddr 198.51.100.7"), "{rule:?}");
            Ok(())
        },
    },
    Case {
        name: "output-drop-by-masked-mark",
        fault: "nft 'table ip filter { chain KUBE { type filter hook output priority 0; meta mark & 0x8000 == 0x8000 counter drop; }; }'",
        arguments: &["--mark", "0x1bd00"],
        check: |side| {
            let rule = counted(&side.host, "output")?;
            ensure!(rule.rule == "meta mark & 0x00008000 == 0x00008000 drop", "not as nft lists it: {rule:?}");
            Ok(())
        },
    },
    Case {
        name: "input-drop",
        fault: "nft 'table inet fw { chain i { type filter hook input priority 0; ip saddr 198.51.100.0/26 meta l4proto udp counter drop; }; }'",
        arguments: &[],
        check: |side| {
            let rule = counted(&side.host, "input")?;
            ensure!(rule.verdict.as_deref() == Some("drop") && rule.rule.contains("198.51.100.0/26"), "{rule:?}");
            ensure!(side.host.counter("TcpExt.IPReversePathFilter").is_some_and(|(_, by)| by == 0), "rp_filter");
            arrived(side)
        },
    },
    Case {
        name: "prerouting-drop",
        fault: "nft 'table ip raw { chain p { type filter hook prerouting priority -300; ip saddr 198.51.100.7 counter drop; }; }'",
        arguments: &[],
        check: |side| {
            let rule = counted(&side.host, "prerouting")?;
            ensure!(rule.priority == Some(-300), "{rule:?}");
            arrived(side)
        },
    },
    Case {
        name: "policy-drop",
        fault: "nft 'table inet fw { chain i { type filter hook input priority 0; policy drop; iifname lo accept; tcp sport 8080 accept; }; }'",
        arguments: &[],
        check: |side| {
            let policy = side.host.firewall_rules.iter().find(|rule| rule.fact.handle.is_none());
            ensure!(policy.is_some_and(|rule| rule.fact.rule == "policy drop"), "{:?}", side.host.firewall_rules);
            arrived(side)
        },
    },
    Case {
        name: "bridge-shadows-peer",
        fault: "ip link add br-1234 type bridge; ip link add d0 type veth peer name d1; ip link set d0 master br-1234; ip link set d1 up;
            ip link set d0 up; ip link set br-1234 up; ip addr add 198.51.100.1/24 dev br-1234",
        arguments: &["--exclude-interface", "br-1234", "--exclude-interface", "d1"],
        check: |side| {
            let answer = side.host.routes_to(B).next().context("no answer")?;
            ensure!(answer.fact.device() == Some("br-1234"), "{answer:?}");
            ensure!(answer.fact.route.as_ref().is_some_and(|route| route.gateway.is_none()), "{answer:?}");
            let link = side.host.link("br-1234").context("no link")?;
            ensure!(link.fact.link_kind.as_deref() == Some("bridge"), "{link:?}");
            silent_neighbor(side, B)
        },
    },
    Case {
        name: "vpn-takes-all",
        fault: "ip route add 0.0.0.0/1 via 10.66.0.1 dev wg0; ip route add 128.0.0.0/1 via 10.66.0.1 dev wg0",
        arguments: &[],
        check: |side| {
            let answer = side.host.routes_to(B).next().context("no answer")?;
            let route = answer.fact.route.as_ref().context("no route")?;
            ensure!(route.device.as_deref() == Some("wg0"), "{answer:?}");
            ensure!(route.matched.is_some_and(|prefix| prefix.length == 1), "{answer:?}");
            ensure!(side.host.routes.iter().any(|route| route.fact.destination.length == 1), "the route is not told");
            Ok(())
        },
    },
    Case {
        name: "next-hop-silent",
        fault: "ip route add 198.51.100.7/32 via 203.0.113.60 dev eth0",
        arguments: &[],
        check: |side| silent_neighbor(side, "203.0.113.60".parse()?),
    },
];

fn healthy(side: &SideEvidence) -> Result<()> {
    let host = &side.host;
    ensure!(!host.route_answers.is_empty() && !host.policy_rules.is_empty() && !host.links.is_empty(), "{host:?}");
    for answer in &host.route_answers {
        ensure!(answer.fact.device() == Some("eth0"), "{answer:?}");
        ensure!(answer.fact.rule == Some(32766), "{answer:?}");
    }
    ensure!(left_by(side, "eth0") && !left_by(side, "wg0"), "{:?}", host.own_packets);
    ensure!(host.counter("TcpExt.IPReversePathFilter").is_some_and(|(_, by)| by == 0), "{:?}", host.counters);
    ensure!(host.firewall_rules.is_empty(), "{:?}", host.firewall_rules);
    ensure!(host.routes_to_servers().count() > 0, "the server is not asked about");
    arrived(side)
}

/// The kernel sends the peer's packets by a device, table and rule; the server's by another device.
fn diverted(side: &SideEvidence, device: &str, table: u32, rule: u32) -> Result<()> {
    let diverted = side.host.routes_to(B).find(|answer| {
        answer.fact.device() == Some(device)
            && answer.fact.route.as_ref().is_some_and(|route| route.table == table)
            && answer.fact.rule == Some(rule)
            && answer.fact.question.purpose == RoutePurpose::Peer
    });
    ensure!(diverted.is_some(), "no answer names the rule: {:?}", side.host.route_answers);
    let servers = side.host.routes_to_servers().all(|answer| answer.fact.device() == Some("eth0"));
    ensure!(servers, "the server's packets are diverted, too: {:?}", side.host.route_answers);
    ensure!(left_by(side, device), "{:?}", side.host.own_packets);
    ensure!(side.host.policy_rules.iter().any(|told| told.fact.priority == rule), "the rule is not told");
    Ok(())
}

/// The kernel has no route, with this error and by this rule, and the sends say the same.
fn refused(side: &SideEvidence, errno: i32, rule: Option<u32>) -> Result<()> {
    let failed = side.host.route_answers.iter().find(|answer| {
        answer.fact.failure.as_ref().is_some_and(|failure| failure.errno == errno) && answer.fact.rule == rule
    });
    ensure!(failed.is_some(), "{:?}", side.host.route_answers);
    ensure!(side.send_failures.keys().any(|(_, _, own)| *own == errno), "{:?}", side.send_failures);
    Ok(())
}

fn moved(host: &HostEvidence, name: &str) -> Result<()> {
    let by = host.counter(name);
    ensure!(by.is_some_and(|(_, by)| by > 0), "{name} moved by {by:?}: {:?}", host.counters);
    Ok(())
}

/// The rule of a hook that counted packets of the session.
fn counted<'a>(host: &'a HostEvidence, hook: &str) -> Result<&'a whyrelay_core::host::FirewallRule> {
    let rules = host.firewall_rules.iter().map(|taken| &taken.fact);
    let mut counted =
        rules.filter(|rule| rule.hook.as_deref() == Some(hook) && rule.packets_since.is_some_and(|since| since > 0));
    counted.next().with_context(|| format!("no rule of {hook} counted: {:?}", host.firewall_rules))
}

fn left_by(side: &SideEvidence, device: &str) -> bool {
    let peers: Vec<SocketAddr> = side.host.own_packets.iter().map(|packet| packet.fact.destination).collect();
    peers.into_iter().filter(|peer| peer.ip() == B).any(|peer| side.host.left_by(peer).contains(device))
}

/// The peer's packets came to the interface.
fn arrived(side: &SideEvidence) -> Result<()> {
    let arrived = side.host.own_packets.iter().any(|packet| packet.fact.arrived && packet.fact.source.ip() == B);
    ensure!(arrived, "nothing of the peer arrived: {:?}", side.host.own_packets);
    Ok(())
}

fn silent_neighbor(side: &SideEvidence, address: IpAddr) -> Result<()> {
    let neighbor = side.host.neighbors.iter().find(|neighbor| neighbor.fact.address == address);
    let silent = |state| matches!(state, NeighborState::Failed | NeighborState::Incomplete);
    ensure!(neighbor.is_some_and(|neighbor| silent(neighbor.fact.neighbor_state)), "{:?}", side.host.neighbors);
    Ok(())
}

fn each_mechanism() -> Result<()> {
    suite::each(CASES, AT_ONCE, |case| {
        run(case).and_then(|evidence| (case.check)(evidence.side(Vantage::A))).context(case.name)
    })
}

fn run(case: &Case) -> Result<Evidence> {
    let world = Routed::new()?;
    if case.fault.contains("200") {
        world.a.shell(TUNNEL)?;
    }
    world.a.shell(case.fault)?;
    session(&world, case.arguments, |command| command)
}

/// One session in a world; the evidence of A's recording.
fn session(
    world: &Routed,
    arguments: &[&str],
    wrap: impl Fn(std::process::Command) -> std::process::Command,
) -> Result<Evidence> {
    Ok(Evidence::of(&events(world, arguments, wrap)?))
}

/// The same: both sides' events.
fn events(
    world: &Routed,
    arguments: &[&str],
    wrap: impl Fn(std::process::Command) -> std::process::Command,
) -> Result<Vec<Event>> {
    let (offerer, _, recording) = ours::recorded(world, &[], arguments, wrap)?;
    let printed = offerer.account;
    ensure!(Evidence::of(&recording.events).side(Vantage::A).host.is_told(), "no host facts: {printed}");
    Ok(recording.events)
}

/// Rules in a chain of their own, one for packets of the session and one for others, and one for IPv6.
fn legacy_iptables() -> Result<()> {
    let world = Routed::new()?;
    world.a.shell(
        "iptables-legacy -N SESSION; iptables-legacy -A INPUT -m conntrack --ctstate NEW,ESTABLISHED -j SESSION;
         iptables-legacy -A SESSION -s 198.51.100.0/26 -p udp -m udp --dport 1024:65535 -j DROP;
         iptables-legacy -A OUTPUT -d 192.0.2.99/32 -p udp -j REJECT;
         iptables-legacy -t nat -A POSTROUTING -s 10.9.9.0/24 -j MASQUERADE --random-fully;
         ip6tables-legacy -A INPUT -s 2001:db8::/32 ! -p tcp -j DROP",
    )?;
    let events = events(&world, &[], |command| command)?;
    let evidence = Evidence::of(&events);
    let side = evidence.side(Vantage::A);
    ensure!(side.host.why_not_measured(Subject::LegacyIptables).is_none(), "they are not read");
    let total = side.host.counted.get(&Subject::LegacyIptables).map(|(_, total, _)| *total);
    ensure!(total == Some(5), "{total:?} rules");
    let rule = counted(&side.host, "input")?;
    ensure!(rule.framework == FirewallFramework::LegacyIptables && rule.handle.is_none(), "{rule:?}");
    ensure!(
        (rule.table_family.as_str(), rule.table.as_str(), rule.chain.as_str()) == ("ip", "filter", "SESSION"),
        "{rule:?}"
    );
    ensure!(rule.rule == "-s 198.51.100.0/26 -p udp --dport 1024:65535 -j DROP", "{rule:?}");
    ensure!(rule.verdict.as_deref() == Some("drop"), "{rule:?}");
    let rules = side.host.firewall_rules.iter().map(|rule| rule.fact.rule.as_str());
    ensure!(rules.clone().all(|rule| !rule.contains("192.0.2.99") && !rule.contains("2001:db8")), "of others");
    let report = Report::from_events(&events);
    let first = report.findings.first().context("no finding")?;
    ensure!(first.name == "input-firewall-drops", "{first:?}");
    let advice = "iptables-legacy -I SESSION -p udp --dport";
    ensure!(first.advice.iter().any(|line| line.contains(advice)), "{:?}", first.advice);
    Ok(())
}

/// Rules are put in before others while the session runs; a chain is entered for good, a rule has no target, another
/// keeps the mark with the connection.
fn legacy_while_rules_change() -> Result<()> {
    let world = Routed::new()?;
    world.a.shell(
        "iptables-legacy -N SESSION;
         iptables-legacy -A INPUT -s 198.51.100.0/26 -i lo -p udp -j DROP -c 500 50000;
         iptables-legacy -A INPUT -s 198.51.100.0/26 -p udp -g SESSION;
         iptables-legacy -A SESSION -s 198.51.100.0/26 -p udp;
         iptables-legacy -A SESSION -s 198.51.100.0/26 -p udp -j DROP;
         iptables-legacy -t mangle -A OUTPUT -d 198.51.100.0/26 -p udp -j CONNMARK --save-mark",
    )?;
    let counts = "iptables-legacy -nvxL SESSION | awk '$3 == \"DROP\" && $1 > 0 { counted = 1 } END { exit !counted }'";
    let change = format!(
        "for i in $(seq 400); do {counts} && break; sleep 0.05; done; {counts};
         iptables-legacy -N EARLY; iptables-legacy -I INPUT -s 192.0.2.0/24 -p udp -j EARLY"
    );
    let (changed, events) = std::thread::scope(|scope| {
        let changing = scope.spawn(|| world.a.shell(&change));
        let events = events(&world, &[], |command| command);
        (changing.join(), events)
    });
    changed.map_err(|_| anyhow::anyhow!("the changing thread panicked"))??;
    let events = events?;
    let evidence = Evidence::of(&events);
    let side = evidence.side(Vantage::A);
    let told = |start: &str| {
        let rules = side.host.firewall_rules.iter().map(|rule| &rule.fact);
        let mut fitting = rules.filter(|rule| rule.rule == start);
        fitting.next().with_context(|| format!("no rule \"{start}\": {:?}", side.host.firewall_rules))
    };
    let untouched = told("-s 198.51.100.0/26 -i lo -p udp -j DROP")?;
    ensure!((untouched.packets, untouched.packets_since) == (Some(500), Some(0)), "{untouched:?}");
    let into = told("-s 198.51.100.0/26 -p udp -g SESSION")?;
    ensure!(into.verdict.as_deref() == Some("goto") && into.target.as_deref() == Some("SESSION"), "{into:?}");
    let bare = told("-s 198.51.100.0/26 -p udp")?;
    ensure!(bare.verdict.is_none() && bare.target.is_none(), "{bare:?}");
    let saves = told("-d 198.51.100.0/26 -p udp -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff")?;
    ensure!(!saves.sets_mark, "{saves:?}");
    let dropping = told("-s 198.51.100.0/26 -p udp -j DROP")?;
    let counts = |rule: &whyrelay_core::host::FirewallRule| rule.packets_since.filter(|since| *since > 0);
    ensure!(counts(dropping).is_some() && counts(dropping) == dropping.packets, "{dropping:?}");
    ensure!((counts(into), counts(bare)) == (counts(dropping), counts(dropping)), "{into:?} {bare:?} {dropping:?}");
    let report = Report::from_events(&events);
    let first = report.findings.first().context("no finding")?;
    ensure!(first.name == "input-firewall-drops" && first.summary.contains("SESSION"), "{first:?}");
    Ok(())
}

/// What NetBird, Tailscale and Docker install, made by hand.
fn programs() -> Result<()> {
    let world = Routed::new()?;
    world.a.shell(
        "ip link add wt0 type veth peer name x0; sysctl -qw net.ipv6.conf.wt0.disable_ipv6=1; ip link set x0 up; ip link set wt0 up; ip address add 100.88.0.1/16 dev wt0;
         ip route add 10.20.0.0/16 dev wt0 table 7120; ip rule add pref 110 not fwmark 0x1bd00 lookup 7120;
         ip rule add pref 105 lookup main suppress_prefixlength 0;
         ip rule add pref 5270 lookup 52;
         nft 'table ip netbird { chain netbird-acl-input { }; chain netbird-rt-fwd { }; }';
         nft 'table ip filter { chain DOCKER-USER { }; }'",
    )?;
    let events = events(&world, &[], |command| command)?;
    let evidence = Evidence::of(&events);
    let host = &evidence.side(Vantage::A).host;
    let installed = |name| -> Result<Vec<String>> {
        let software = host.software(name).with_context(|| format!("{name:?} is not seen"))?;
        Ok(software.fact.installed.iter().map(|entry| format!("{} {}", entry.part.name(), entry.which)).collect())
    };
    let netbird = installed(SoftwareName::Netbird)?;
    ensure!(
        netbird
            == [
                "interface wt0 (veth)",
                "mark 0x1bd00",
                "policy rule ip rule 110: not from all fwmark 0x1bd00 lookup 7120",
                "policy rule ip rule 105: from all lookup main suppress_prefixlength 0",
                "routes table 7120: 1",
                "routes dev wt0 table main: 1",
                "firewall table ip netbird (2 chains)",
            ],
        "{netbird:?}"
    );
    ensure!(
        installed(SoftwareName::Tailscale)? == ["policy rule ip rule 5270: from all lookup 52", "routes table 52: 0"]
    );
    ensure!(installed(SoftwareName::Docker)? == ["firewall chain ip filter DOCKER-USER"]);
    // The distribution is this machine's; who sets interfaces up is told of its own network alone, not of a namespace.
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let id = release.lines().find_map(|line| line.strip_prefix("ID=")).map(|id| id.trim_matches('"').to_owned());
    let (_, system) = host.system.as_ref().context("the distribution is not told")?;
    ensure!(system.distribution == id && host.managed.is_empty(), "{system:?} {:?}", host.managed);
    let report = Report::from_events(&events);
    // However its lines are broken.
    let text = render_text(&report, &TextOptions::default());
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(text.contains("has installed interface wt0 (veth); mark 0x1bd00;"), "{text}");
    Ok(())
}

/// 100,000 routes to single addresses, by netlink: `ip -batch` takes some seconds of the processor for them.
const ROUTES: &str = "
import socket, struct
body = bytes([2, 32, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0])
body += struct.pack('=HH', 8, 1) + bytes(4) + struct.pack('=HH', 8, 5) + bytes([203, 0, 113, 33])
route = struct.pack('=IHHII', 16 + len(body), 24, 0x401, 0, 0) + body
kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
for first in range(0, 100000, 250):
    batch = bytearray(route * 250)
    for number in range(250):
        struct.pack_into('>I', batch, number * len(route) + 32, 0x0B000000 + first + number)
    kernel.send(batch)
";

/// 1,000 interfaces, 100,000 routes, 10,000 firewall rules: a session as quick as ever, and a recording in bounds.
fn crowded() -> Result<()> {
    let world = Routed::new()?;
    world.a.shell(
        "{ for i in $(seq 1 500); do echo link add x$i type veth peer name y$i; echo link set x$i up; done; } | ip -batch -;
         { echo 'table inet fw { chain o { type filter hook output priority 0;';
           for i in $(seq 0 9999); do echo \"ip daddr 12.0.$((i / 256)).$((i % 256)) counter drop\"; done; echo '}; }'; } | nft -f -",
    )?;
    let filled = world.a.command(suite::path("PYTHON")?).args(["-c", ROUTES]).output().context("adding routes")?;
    ensure!(filled.status.success(), "adding routes: {}", String::from_utf8_lossy(&filled.stderr));
    let evidence = session(&world, &[], |command| command)?;
    let side = evidence.side(Vantage::A);
    ensure!(side.selected_pair().is_some(), "it is not connected");
    let counted = |subject| side.host.counted.get(&subject).map(|(_, total, recorded)| (*total, *recorded));
    ensure!(counted(Subject::Links).is_some_and(|(total, recorded)| total > 1000 && recorded <= 64), "links");
    ensure!(counted(Subject::Routes).is_some_and(|(total, recorded)| total > 100_000 && recorded <= 128), "routes");
    ensure!(counted(Subject::Nftables).is_some_and(|(total, recorded)| total == 10_000 && recorded == 0), "rules");
    ensure!(side.host.link("eth0").is_some(), "the interface that matters is not among the recorded");
    ensure!(side.host.facts < 2000, "{} facts", side.host.facts);
    Ok(())
}

/// As a user without any capability: direct as ever, with what root would add.
fn unprivileged() -> Result<()> {
    let world = Routed::new()?;
    let events = events(&world, &[], |command| {
        let mut wrapped = std::process::Command::new(command.get_program());
        let arguments: Vec<_> = command.get_args().collect();
        // `ip netns exec NAME`, and from there without capabilities.
        let without =
            ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--reuid=65534", "--clear-groups"];
        wrapped.args(&arguments[..3]).args(without).args(&arguments[3..]);
        wrapped
    })?;
    let evidence = Evidence::of(&events);
    let side = evidence.side(Vantage::A);
    ensure!(side.selected_pair().is_some(), "it is not connected");
    for (subject, privilege) in [(Subject::Nftables, "CAP_NET_ADMIN"), (Subject::OwnPackets, "CAP_NET_RAW")] {
        let needs = side.host.why_not_measured(subject).and_then(|(_, needs)| needs);
        ensure!(needs == Some(privilege), "{subject:?} needs {needs:?}");
    }
    ensure!(side.host.route_answers.iter().any(|answer| answer.moment == Moment::During), "no routes without root");
    ensure!(side.host.counter("Ip.InReceives").is_some(), "no counters without root");
    // And the account says it once for each privilege.
    let text = render_text(&Report::from_events(&events), &TextOptions::default());
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "on A: the firewall's rules, the connection tracking table: it takes CAP_NET_ADMIN",
        "on A: a copy of its packets as they leave and arrive: it takes CAP_NET_RAW",
    ] {
        ensure!(text.matches(words).count() == 1, "not \"{words}\": {text}");
    }
    Ok(())
}
