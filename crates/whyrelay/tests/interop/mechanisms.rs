//! Causes that Linux makes in ways of its own, each made for real, and the account that names it: what the other modules'
//! networks do not have.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use whyrelay_core::diagnosis::evidence::Evidence;
use whyrelay_core::host::{HostFact, Moment};
use whyrelay_core::trace::event::{EventKind, Vantage};
use whyrelay_core::trace::recording::Recording;

use crate::homes::Homes;
use crate::namespace::{Namespace, Routed};
use crate::ours::{self, Account, Server};
use crate::peers::{LIMIT, Role};
use crate::process::Process;
use crate::suite::{self, Suite, Tool};

/// Sessions at a time: each waits most of its time.
const AT_ONCE: usize = 3;

/// The goal is 5 s for all extra probes; the rest is for sessions beside it and a machine that stands still.
const PROBES_AND_VERDICT: Duration = Duration::from_millis(6500);

/// One cause in the network of [`Routed`].
struct Case {
    name: &'static str,
    fault: fn(&Routed) -> Result<()>,
    /// More arguments of A.
    arguments: &'static [&'static str],
    /// The same of B.
    answerer: &'static [&'static str],
    /// Runs a peer as somebody who may do less.
    wrap: fn(Command) -> Command,
    code: &'static str,
    blame: &'static str,
    /// Whether it is information: what does no harm by itself.
    is_information: bool,
    /// A word of its summary.
    word: &'static str,
}

const CASE: Case = Case {
    name: "",
    fault: |_| Ok(()),
    arguments: &[],
    answerer: &[],
    wrap: |command| command,
    code: "",
    blame: "a",
    is_information: false,
    word: "",
};

const CASES: &[Case] = &[
    Case {
        // What NetBird before 0.70.5 did: a header made by itself, for another source.
        name: "a raw socket's checksum is wrong",
        fault: |world| {
            world.a.shell(
                "nft 'table ip c { chain o { type filter hook output priority 0; ip daddr 198.51.100.7 udp checksum set 0x1234; }; }'",
            )
        },
        arguments: &["--as", "mark=0x1bd00,port=51820,raw"],
        code: "WR116",
        word: "wrong UDP checksum",
        ..CASE
    },
    Case {
        name: "a wildcard socket answers by the other address",
        fault: wildcard,
        answerer: &["--port", "40000"],
        code: "WR119",
        blame: "b",
        word: "from another address",
        ..CASE
    },
    Case { name: "the table of connections is full", fault: full_table, code: "WR112", word: "is full", ..CASE },
    Case {
        name: "a VPN drops a provider's range",
        fault: |world| {
            world.router.shell("ip address add 100.64.0.1/24 dev rb")?;
            world.b.shell(
                "ip address add 100.64.0.7/24 dev eth0; ip address del 198.51.100.7/26 dev eth0; ip route replace default via 100.64.0.1",
            )?;
            world.a.shell(
                "nft 'table ip filter { chain ts-input { type filter hook input priority 0; ip saddr 100.64.0.0/10 iifname != \"tailscale0\" counter drop; }; }'",
            )
        },
        code: "WR120",
        word: "100.64.0.0/10",
        ..CASE
    },
    Case {
        name: "a capability is missing",
        fault: drop_between,
        arguments: &["--as", "netbird"],
        wrap: without_net_admin,
        code: "WR123",
        word: "CAP_NET_ADMIN",
        ..CASE
    },
    Case {
        name: "the default route is in a policy table",
        fault: |world| {
            world.a.shell(
                "ip route del default; ip route add default via 203.0.113.33 table 201; ip rule add pref 200 lookup 201",
            )?;
            drop_between(world)
        },
        code: "WR125",
        is_information: true,
        word: "table 201",
        ..CASE
    },
    Case {
        name: "the host gives its packets a foreign source",
        fault: |world| {
            // The other side's packets must not open the way back.
            world.router.shell(
                "nft 'table ip d { chain f { type filter hook forward priority 0; iifname rb oifname ra ct state new drop; }; }'",
            )?;
            world.a.shell(
                "nft 'table ip n { chain p { type nat hook postrouting priority 100; ip daddr 198.51.100.7 snat to 203.0.113.60; }; }'",
            )
        },
        code: "WR130",
        word: "203.0.113.60",
        ..CASE
    },
];

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let with_python = [Tool::NetworkNamespaces, Tool::Nft, Tool::Python];
    suite.test("mechanisms::each_is_named", &with_python, each);
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("mechanisms::what_changes_during_a_session_is_told_after_it", &tools, changes);
    suite.test("mechanisms::a_container_that_draws_random_ports_is_named", &tools, container);
}

/// B's program has a socket for all addresses (a userland proxy, as containers have them, that passes answers on): what it
/// is asked at 198.51.100.7 it answers from the address that the default route prefers. The peer's own checks do not get
/// through the router, or the one way would be enough.
fn wildcard(world: &Routed) -> Result<()> {
    const PROXY: &str = "
import select, socket
public = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
public.bind(('0.0.0.0', 4999))
inward = {}
while True:
    for ready in select.select([public, *inward.values()], [], [])[0]:
        data, source = ready.recvfrom(2048)
        if ready is public:
            if source not in inward:
                inward[source] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                inward[source].bind(('198.51.100.7', 0))
            inward[source].sendto(data, ('198.51.100.7', 40000))
        elif data[0] == 1:
            public.sendto(data, next(client for client, own in inward.items() if own is ready))
";
    world.router.shell(
        "nft 'table ip d { chain f { type filter hook forward priority 0; iifname rb udp sport 40000 ip daddr 203.0.113.34 drop; }; }'",
    )?;
    world.b.shell(
        "ip address add 198.51.100.9/32 dev lo;
         ip route replace default via 198.51.100.1 src 198.51.100.9;
         nft 'table ip w {
           chain o { type filter hook output priority raw; udp sport 40000 ip daddr 203.0.113.34 notrack; };
           chain p { type nat hook prerouting priority dstnat; ip saddr 203.0.113.34 udp dport 40000 redirect to :4999; }; }'",
    )?;
    let python = suite::path("PYTHON")?.display().to_string();
    // It ends with its namespace.
    world.b.shell(&format!(
        "{python} -c \"{PROXY}\" > /dev/null 2>&1 &
         for i in $(seq 200); do ss -Huln 'sport = :4999' | grep -q 4999 && exit 0; sleep 0.01; done; exit 1"
    ))
}

/// A's table of connections has as many entries as it may, all of them replied to, which the kernel gives none of up. The
/// limit is the machine's and the count each namespace's own, so nothing else runs out. Signaling is not tracked.
fn full_table(world: &Routed) -> Result<()> {
    const FILL: &str = "
import socket, struct
limit = int(open('/proc/sys/net/netfilter/nf_conntrack_max').read())
def attribute(kind, body):
    return struct.pack('=HH', 4 + len(body), kind) + body + bytes(-len(body) % 4)
def ends(kind, source, destination):
    addresses = attribute(0x8001, attribute(1, source) + attribute(2, destination))
    ports = attribute(0x8002, attribute(1, bytes([17])) + attribute(2, bytes([0, 1])) + attribute(3, bytes([0, 1])))
    return attribute(0x8000 | kind, addresses + ports)
one, other = bytes([10, 7, 0, 1]), bytes([172, 16, 7, 2])
# Status: confirmed, assured, answers seen; for ten minutes.
entry = bytes([2, 0, 0, 0]) + ends(1, one, other) + ends(2, other, one) + attribute(3, struct.pack('>I', 14)) + attribute(7, struct.pack('>I', 600))
entry = struct.pack('=IHHII', 16 + len(entry), 0x100, 0x401, 0, 0) + entry
places = [at for at in range(len(entry)) if entry[at:at + 4] == one]
kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
for first in range(0, limit + 256, 256):
    batch = bytearray(entry * 256)
    for number in range(256):
        for place in places:
            struct.pack_into('>I', batch, number * len(entry) + place, 0x0A000000 + first + number)
    kernel.send(batch)
";
    world.a.shell(
        "nft 'table ip r {
           chain o { type filter hook output priority raw; meta l4proto tcp notrack; };
           chain p { type filter hook prerouting priority raw; meta l4proto tcp notrack; };
           chain i { type filter hook input priority 0; ct state established accept; }; }'",
    )?;
    let python = suite::path("PYTHON")?;
    let output = world.a.command(python).args(["-c", FILL]).output().context("filling the table")?;
    ensure!(output.status.success(), "filling the table: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The router lets nothing over UDP pass between the two.
fn drop_between(world: &Routed) -> Result<()> {
    world.router.shell("nft 'table ip d { chain f { type filter hook forward priority 0; meta l4proto udp drop; }; }'")
}

/// `ip netns exec NAME`, and from there without the capability.
fn without_net_admin(command: Command) -> Command {
    let arguments: Vec<_> = command.get_args().collect();
    let mut wrapped = Command::new(command.get_program());
    wrapped.args(&arguments[..3]).args(["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]);
    wrapped.args(&arguments[3..]);
    wrapped
}

fn each() -> Result<()> {
    suite::each(CASES, AT_ONCE, |case| check(case).context(case.name))
}

fn check(case: &Case) -> Result<()> {
    let world = Routed::new()?;
    (case.fault)(&world)?;
    let (offerer, answerer, recording) =
        ours::recorded_with(&world, &["--no-turn"], case.arguments, case.answerer, case.wrap)?;
    Account::read(answerer)?;
    let account = Account::read(offerer)?;
    ensure!(account.json["path"] == "failed", "{}", account.printed);
    // No probe is made unsaid.
    let announced = account.printed.contains("probing why nothing is direct: bound to the interface, ");
    ensure!(announced, "the probes are not announced: {}", account.printed);
    let compares = account.printed.contains("probing as a plain program, to compare with ");
    ensure!(compares == case.arguments.contains(&"--as"), "{}", account.printed);
    // With the probes the verdict is there within seconds of them, however busy this machine is.
    let mut of_probes = recording.events.iter().filter(|event| matches!(event.kind, EventKind::ProbeDatagram(_)));
    let first = of_probes.next().context("no probe is recorded")?;
    let ended = recording.events.iter().rfind(|event| matches!(event.kind, EventKind::RecordingEnded { .. }));
    let took = ended.context("the recording does not end")?.at.since(first.at);
    ensure!(took < PROBES_AND_VERDICT, "{took:?} from the first probe to the end: {}", account.printed);
    let finding = named(&account, case.code)?;
    ensure!(finding["blame"] == case.blame, "{finding:#}");
    ensure!((finding["severity"] == "info") == case.is_information, "{finding:#}");
    let summary = finding["summary"].as_str().unwrap_or_default();
    ensure!(summary.contains(case.word), "{summary:?} does not say {:?}", case.word);
    // What is wrong leads.
    let first = account.json["findings"].as_array().and_then(|findings| findings.first());
    let leads = first.is_some_and(|first| first["code"] == case.code);
    ensure!(leads || case.is_information, "{} is not first: {}", case.code, account.printed);
    Ok(())
}

/// A rule that comes, an interface that changes, and what goes, while the session looks for a path: one of its addresses, a
/// rule, and the peer's own route.
fn changes() -> Result<()> {
    let world = Routed::new()?;
    drop_between(&world)?;
    world.a.shell(
        "ip address add 203.0.113.35/27 dev eth0; ip rule add pref 778 to 10.9.9.9/32 lookup 254; ip route add 198.51.100.7/32 via 203.0.113.33",
    )?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("a.jsonl");
    let server = Server::start(&world.router, &["--no-turn"])?;
    let start = |namespace: &Namespace, role: Role| {
        let mut command = ours::peer(namespace, role, server.url());
        command.args(["--no-turn", "--no-tcp", "--exclude-interface", "wg0", "--timeout", "10s"]);
        if role == Role::Offerer {
            command.arg("--record").arg(&path);
        }
        Process::start(role.name(), &mut command)
    };
    let answerer = start(&world.b, Role::Answerer)?;
    let offerer = start(&world.a, Role::Offerer)?;
    offerer.line(LIMIT, |line| line.contains("probing why nothing is direct"))?;
    world.a.shell(
        "ip rule add pref 777 to 10.9.9.9/32 lookup 254; ip link set wg0 mtu 1300;
         ip address del 203.0.113.35/27 dev eth0; ip rule del pref 778; ip route del 198.51.100.7/32",
    )?;
    let account = Account::of(offerer)?;
    Account::of(answerer)?;
    let recording = Recording::read(&std::fs::read(&path)?[..]).map_err(|error| anyhow!("{error}"))?;
    let evidence = Evidence::of(&recording.events);
    let host = &evidence.side(Vantage::A).host;
    let rules: Vec<_> = host.policy_rules.iter().filter(|rule| rule.fact.priority == 777).collect();
    ensure!(rules.len() == 1 && rules[0].moment == Moment::After, "{:?}", host.policy_rules);
    let tunnel: Vec<_> = host.links.iter().filter(|link| link.fact.device == "wg0").collect();
    let mtus: Vec<_> = tunnel.iter().map(|link| (link.moment, link.fact.mtu)).collect();
    ensure!(mtus == [(Moment::Before, 1500), (Moment::After, 1300)], "{mtus:?}");
    // What is gone, and nothing else.
    let gone: Vec<_> = host.gone.iter().map(|gone| &gone.fact).collect();
    let of_kinds = gone.iter().fold([0, 0, 0, 0], |mut kinds, fact| {
        let kind = match fact {
            HostFact::Address(address) if address.address == Ipv4Addr::new(203, 0, 113, 35) => 0,
            HostFact::PolicyRule(rule) if rule.priority == 778 => 1,
            HostFact::RouteAnswer(answer) if answer.question.destination == Ipv4Addr::new(198, 51, 100, 7) => 2,
            // Nothing leaves from an address that is no longer there.
            HostFact::RouteAnswer(answer) if answer.question.source == Some(Ipv4Addr::new(203, 0, 113, 35).into()) => 2,
            _ => 3,
        };
        kinds[kind] += 1;
        kinds
    });
    ensure!(of_kinds[0] == 1 && of_kinds[1] == 1 && of_kinds[2] > 0 && of_kinds[3] == 0, "{gone:?}");
    // Another address of the session stayed: that is information.
    let went = named(&account, "WR131")?;
    ensure!(went["severity"] == "info" && went["blame"] == "a", "{went:#}");
    ensure!(
        went["summary"].as_str().is_some_and(|text| text.contains("eth0 lost the address 203.0.113.35")),
        "{went:#}"
    );
    // What did not change is told once.
    ensure!(host.links.iter().filter(|link| link.fact.device == "eth0").count() == 1, "{:?}", host.links);
    ensure!(host.policy_rules.iter().filter(|rule| rule.fact.priority == 32_766).count() <= 2, "one for each family");
    Ok(())
}

fn named<'a>(account: &'a Account, code: &str) -> Result<&'a Value> {
    let mut findings = account.json["findings"].as_array().into_iter().flatten();
    findings.find(|finding| finding["code"] == code).with_context(|| format!("no {code}: {}", account.printed))
}

/// A pod whose node translates with `masquerade fully-random`, seen from inside of it.
fn container() -> Result<()> {
    let homes = Homes::new()?;
    homes.drop_unasked()?;
    homes.between.shell("ip address add 192.0.2.2/32 dev lo")?;
    homes.a.shell("nft 'table ip n { chain p { type nat hook postrouting priority 100; oifname eth0 meta l4proto udp masquerade fully-random; }; }'")?;
    let server = Server::start(&homes.between, &["--no-turn", "--stun-listen", "192.0.2.2:3478"])?;
    let start = |role: Role| {
        let namespace = if role == Role::Offerer { &homes.a } else { &homes.b };
        let mut command = ours::peer(namespace, role, server.url());
        command.args(["--no-turn", "--no-tcp", "--stun", "stun:192.0.2.1:3478", "--stun", "stun:192.0.2.2:3478"]);
        if role == Role::Offerer {
            // The machine of the test may be a container itself.
            command.env("KUBERNETES_SERVICE_HOST", "10.96.0.1");
        }
        Process::start(role.name(), &mut command)
    };
    let answerer = start(Role::Answerer)?;
    let account = Account::of(start(Role::Offerer)?)?;
    Account::of(answerer)?;
    let drawn = named(&account, "WR209")?;
    ensure!(drawn["blame"] == "a" && drawn["severity"] == "error", "{drawn:#}");
    let codes: Vec<_> = account.json["findings"].as_array().into_iter().flatten().map(|one| &one["code"]).collect();
    ensure!(codes[0] == "WR209", "{codes:?}: {}", account.printed);
    ensure!(
        named(&account, "WR121")?["summary"].as_str().is_some_and(|text| text.contains("runs in a container")),
        "{}",
        account.printed
    );
    Ok(())
}
