//! Causes that Linux makes in ways of its own, each made for real, and the account that names it: what the other modules'
//! networks do not have.

use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use whyrelay_core::diagnosis::evidence::Evidence;
use whyrelay_core::host::Moment;
use whyrelay_core::trace::event::Vantage;
use whyrelay_core::trace::recording::Recording;

use crate::homes::Homes;
use crate::namespace::{Namespace, Routed};
use crate::ours::{self, Account, Server};
use crate::peers::{LIMIT, Role};
use crate::process::Process;
use crate::suite::{self, Suite, Tool};

/// Sessions at a time: each waits most of its time.
const AT_ONCE: usize = 3;

/// One cause in the network of [`Routed`].
struct Case {
    name: &'static str,
    fault: fn(&Routed) -> Result<()>,
    /// More arguments of A.
    arguments: &'static [&'static str],
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
        name: "answers come from another address",
        fault: |world| {
            world.router.shell(
                "nft 'table ip s { chain n { type filter hook prerouting priority -300; ip saddr 198.51.100.7 ip daddr 203.0.113.34 notrack; };
                   chain f { type filter hook forward priority 10; ip saddr 198.51.100.7 ip daddr 203.0.113.34 ip saddr set 198.51.100.9; }; }'",
            )
        },
        code: "WR119",
        blame: "b",
        word: "from another address",
        ..CASE
    },
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
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("mechanisms::each_is_named", &tools, each);
    suite.test("mechanisms::what_changes_during_a_session_is_told_after_it", &tools, changes);
    suite.test("mechanisms::a_container_that_draws_random_ports_is_named", &tools, container);
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
    let (offerer, answerer, _) = ours::recorded(&world, &["--no-turn"], case.arguments, case.wrap)?;
    Account::read(answerer)?;
    let account = Account::read(offerer)?;
    ensure!(account.json["path"] == "failed", "{}", account.printed);
    // No probe is made unsaid.
    let announced = account.printed.contains("probing why nothing is direct: bound to the interface, ");
    ensure!(announced, "the probes are not announced: {}", account.printed);
    let compares = account.printed.contains("probing as a plain program, to compare with ");
    ensure!(compares == case.arguments.contains(&"--as"), "{}", account.printed);
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

/// A rule that comes, and an interface that changes, while the session looks for a path.
fn changes() -> Result<()> {
    let world = Routed::new()?;
    drop_between(&world)?;
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
    world.a.shell("ip rule add pref 777 to 10.9.9.9/32 lookup 254; ip link set wg0 mtu 1300")?;
    Account::of(offerer)?;
    Account::of(answerer)?;
    let recording = Recording::read(&std::fs::read(&path)?[..]).map_err(|error| anyhow!("{error}"))?;
    let evidence = Evidence::of(&recording.events);
    let host = &evidence.side(Vantage::A).host;
    let rules: Vec<_> = host.policy_rules.iter().filter(|rule| rule.fact.priority == 777).collect();
    ensure!(rules.len() == 1 && rules[0].moment == Moment::After, "{:?}", host.policy_rules);
    let tunnel: Vec<_> = host.links.iter().filter(|link| link.fact.device == "wg0").collect();
    let mtus: Vec<_> = tunnel.iter().map(|link| (link.moment, link.fact.mtu)).collect();
    ensure!(mtus == [(Moment::Before, 1500), (Moment::After, 1300)], "{mtus:?}");
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
