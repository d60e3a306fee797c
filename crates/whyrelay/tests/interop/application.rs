//! Sessions that stand in for a VPN (`--as`), beside a plain program's sockets: faults that only the VPN's packets meet.
//! Hosts A and B behind one router, which also has the server.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use whyrelay_core::diagnosis::evidence::Evidence;
use whyrelay_core::trace::event::Vantage;

use crate::homes::Homes;
use crate::namespace::{Namespace, Routed};
use crate::ours::{self, Account, Server};
use crate::peers::Role;
use crate::process::Process;
use crate::suite::{self, Suite, Tool};

/// Sessions at a time: each waits most of its time.
const AT_ONCE: usize = 4;

const TUNNEL: &str = "ip route add default via 10.66.0.1 dev wg0 table 200;";

/// One fault and what a session says of it.
struct Case {
    name: &'static str,
    /// Shell commands in A's namespace.
    fault: &'static str,
    /// More arguments of A.
    arguments: &'static [&'static str],
    /// The path, and the code of the first finding.
    path: &'static str,
    first: Option<&'static str>,
    /// Words of its summary.
    words: &'static [&'static str],
    /// Whether a plain program's checks are answered; `None`: nobody asked.
    plain: Option<bool>,
}

/// The origin's story: a rule takes the VPN's mark for its own.
const BY_MARK: &str = "ip rule add pref 100 fwmark 0x1bd00 to 198.51.100.0/26 lookup 200";

const CASES: &[Case] = &[
    Case {
        name: "a plain test proves nothing",
        fault: BY_MARK,
        arguments: &[],
        path: "direct",
        first: None,
        words: &[],
        plain: None,
    },
    Case {
        name: "as netbird",
        fault: BY_MARK,
        arguments: &["--as", "netbird"],
        path: "failed",
        first: Some("WR106"),
        words: &[
            "ip rule 100",
            "fwmark 0x1bd00",
            "dev wg0 table 200",
            "bound to eth0 a check of the peer is answered",
            "from a plain program's socket one is answered",
        ],
        plain: Some(true),
    },
    Case {
        name: "nothing wrong",
        fault: "true",
        arguments: &["--as", "netbird"],
        path: "direct",
        first: None,
        words: &[],
        plain: Some(true),
    },
    Case {
        name: "mwan3's blackhole",
        fault: "ip rule add pref 2061 fwmark 0x3d00/0x3f00 blackhole",
        arguments: &["--as", "netbird"],
        path: "failed",
        first: Some("WR106"),
        words: &["ip rule 2061", "0x3d00/0x3f00", "blackhole"],
        plain: Some(true),
    },
    Case {
        name: "a rule by port",
        fault: "ip rule add pref 101 ipproto udp sport 51820 to 198.51.100.0/26 lookup 200",
        arguments: &["--as", "wireguard"],
        path: "failed",
        first: Some("WR105"),
        words: &["ip rule 101", "sport 51820"],
        plain: Some(true),
    },
    Case {
        // LINUX: raw sockets carry no ports in the flow.
        name: "a rule by port does not see a raw socket",
        fault: "ip rule add pref 101 ipproto udp sport 51820 to 198.51.100.0/26 lookup 200",
        arguments: &["--as", "mark=0x1bd00,port=51820,raw"],
        path: "direct",
        first: None,
        words: &[],
        plain: Some(true),
    },
    Case {
        name: "a rule by user",
        fault: "ip rule add pref 102 uidrange 1000-1000 to 198.51.100.0/26 lookup 200",
        arguments: &["--as", "uid=1000"],
        path: "failed",
        first: Some("WR105"),
        words: &["ip rule 102", "uidrange 1000-1000"],
        plain: Some(true),
    },
    Case {
        name: "a firewall by mark",
        fault: "nft 'table inet fw { chain o { type filter hook output priority 0; meta mark 0x1bd00 meta l4proto udp counter drop; }; }'",
        arguments: &["--as", "netbird"],
        path: "failed",
        first: Some("WR103"),
        words: &["meta mark 0x0001bd00"],
        plain: Some(true),
    },
    Case {
        name: "a firewall by user",
        fault: "nft 'table inet fw { chain o { type filter hook output priority 0; meta skuid 1000 meta l4proto udp counter drop; }; }'",
        arguments: &["--as", "uid=1000"],
        path: "failed",
        first: Some("WR103"),
        words: &["skuid 1000"],
        plain: Some(true),
    },
    Case {
        // The other way round: an exit node, whose rule spares the VPN's own packets.
        name: "only the plain program's packets are diverted",
        fault: "ip rule add pref 110 not fwmark 0x1bd00 to 198.51.100.0/26 lookup 200",
        arguments: &["--as", "netbird"],
        path: "direct",
        first: None,
        words: &[],
        plain: Some(false),
    },
];

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("application::faults_that_only_its_packets_meet_are_named", &tools, each_case);
    suite.test("application::a_fix_is_proven", &tools, proven);
    suite.test("application::what_is_tried_makes_it_direct_and_leaves_nothing_behind", &tools, tried);
    suite.test("application::bridges_are_left_out_and_left_alone", &tools, excluded);
    suite.test("application::an_opener_gets_past_routers_that_give_ports_up", &tools, early);
    suite.test("application::a_check_compares_too", &tools, check_as);
    suite.test("application::a_running_one_is_read_and_not_disturbed", &tools, running);
    suite.test("application::without_privileges_it_says_what_it_could_not_be", &tools, unprivileged);
}

fn each_case() -> Result<()> {
    suite::each(CASES, AT_ONCE, |case| check(case).context(case.name))
}

fn check(case: &Case) -> Result<()> {
    let world = Routed::new()?;
    if case.fault.contains("200") {
        world.a.shell(TUNNEL)?;
    }
    world.a.shell(case.fault)?;
    let (account, evidence) = session(&world, case.arguments, |command| command)?;
    let printed = &account.printed;
    ensure!(account.json["path"] == case.path, "the path is not {}: {printed}", case.path);
    let wrong = |finding: &&Value| finding["severity"] != "info";
    let first = account.json["findings"].as_array().into_iter().flatten().find(wrong);
    ensure!(
        first.and_then(|first| first["code"].as_str()) == case.first,
        "the first finding is not {:?}: {printed}",
        case.first
    );
    let summary = first.and_then(|first| first["summary"].as_str()).unwrap_or_default();
    for words in case.words {
        ensure!(summary.contains(words), "{summary:?} does not say {words:?}");
    }
    let tally = evidence.side(Vantage::A).host.tallies.get(&false);
    let plain = tally.map(|(_, tally)| tally.pairs_answered > 0);
    ensure!(plain == case.plain, "as a plain program: {tally:?}: {printed}");
    Ok(())
}

/// One session in a world: A's account, and the evidence of its recording.
fn session(
    world: &Routed,
    arguments: &[&str],
    wrap: impl Fn(std::process::Command) -> std::process::Command,
) -> Result<(Account, Evidence)> {
    let (offerer, answerer, recording) = ours::recorded(world, &["--no-turn"], arguments, wrap)?;
    Account::read(answerer)?;
    Ok((Account::read(offerer)?, Evidence::of(&recording.events)))
}

/// The fault, its fix, and the comparison of the two.
fn proven() -> Result<()> {
    let world = Routed::new()?;
    world.a.shell(TUNNEL)?;
    world.a.shell(BY_MARK)?;
    let directory = tempfile::tempdir()?;
    let before = directory.path().join("before.jsonl").display().to_string();
    let again = |more: &[&str]| {
        let server = Server::start(&world.router, &["--no-turn"])?;
        let start = |namespace: &Namespace, role: Role, more: &[&str]| {
            let mut command = ours::peer(namespace, role, server.url());
            Process::start(
                role.name(),
                command.args(["--no-turn", "--no-tcp", "--exclude-interface", "wg0"]).args(more),
            )
        };
        let answerer = start(&world.b, Role::Answerer, &[])?;
        let account = Account::of(start(&world.a, Role::Offerer, &[&["--as", "netbird"], more].concat())?)?;
        Account::of(answerer)?;
        anyhow::Ok(account)
    };
    let account = again(&["--record", &before])?;
    ensure!(account.json["path"] == "failed", "{}", account.printed);
    world.a.shell("ip rule del pref 100")?;
    let account = again(&["--prove", &before])?;
    let proof = &account.json["proof"];
    ensure!(account.json["path"] == "direct" && proof["fixed"] == true, "{}", account.printed);
    ensure!(proof["path_before"] == "failed" && proof["path_now"] == "direct", "{proof}");
    let has = |list: &str, words: &str| proof[list].to_string().contains(words);
    ensure!(has("gone", "WR106") && has("changes", "A: gone: ip rule 100"), "{proof}");
    ensure!(
        proof["new"].as_array().is_some_and(|new| new.iter().all(|finding| finding["severity"] == "info")),
        "{proof}"
    );
    Ok(())
}

/// Faults that something harmless gets past, for one session.
fn tried() -> Result<()> {
    let by_port = "ip rule add pref 101 ipproto udp sport 51820 to 198.51.100.0/26 lookup 200";
    let to_peer = "ip rule add pref 100 to 198.51.100.0/26 lookup 200";
    for (fault, given, trial) in [(by_port, &["--port", "51820"][..], "port"), (to_peer, &[], "device")] {
        let world = Routed::new()?;
        world.a.shell(TUNNEL)?;
        world.a.shell(fault)?;
        let before = state(&world.a)?;
        let (without, _) = session(&world, given, |command| command)?;
        ensure!(without.json["path"] == "failed", "{trial}: {}", without.printed);
        let (with, _) = session(&world, &[given, &["--try", trial]].concat(), |command| command)?;
        ensure!(with.json["path"] == "direct", "{trial}: {}", with.printed);
        ensure!(with.json["tried"].as_array().is_some_and(|tried| tried.len() == 1), "{trial}: {}", with.printed);
        ensure!(state(&world.a)? == before, "{trial} left something behind");
    }
    Ok(())
}

/// Everything of a host that something which is tried could leave behind.
fn state(host: &Namespace) -> Result<String> {
    const STATE: &str = "{ ip rule; ip -6 rule; ip route show table all; ip address; nft list ruleset; ss -Huln; } | grep -v 'valid_lft\\|counter' | sort";
    let output = host.command("sh").args(["-c", STATE]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Bridges of containers are left out, all of them or one by name, and are there as before.
fn excluded() -> Result<()> {
    let world = Routed::new()?;
    world.a.shell(
        "n=17; for i in docker0 br-5af3; do ip link add $i type bridge; ip link add v$n type veth peer name w$n; ip link set v$n master $i;
         for up in $i v$n w$n; do ip link set $up up; done; ip address add 172.$n.0.1/16 dev $i; n=18; done
         for i in $(seq 300); do ip link show br-5af3 | grep -q 'state UP' && exit 0; sleep 0.01; done; exit 1",
    )?;
    let before = state(&world.a)?;
    let docker = |evidence: &Evidence| {
        let candidates = evidence.side(Vantage::A).local_candidates.iter();
        let mut ips: Vec<String> =
            candidates.map(|local| local.base.ip().to_string()).filter(|ip| ip.starts_with("172.")).collect();
        ips.sort();
        ips.dedup();
        ips
    };
    for (arguments, left) in [
        (&[][..], &["172.17.0.1", "172.18.0.1"][..]),
        (&["--try", "exclude=docker0"], &["172.18.0.1"]),
        (&["--try", "exclude"], &[]),
    ] {
        let (account, evidence) = session(&world, arguments, |command| command)?;
        account.must_be_direct()?;
        ensure!(docker(&evidence) == left, "{arguments:?}: {:?}", docker(&evidence));
        let tried = account.json["tried"].as_array().map(Vec::len);
        ensure!(tried == Some(arguments.len() / 2), "{}", account.printed);
    }
    ensure!(state(&world.a)? == before, "something was left behind");
    Ok(())
}

fn early() -> Result<()> {
    let homes = Homes::new()?;
    let account = homes.session(&[])?;
    ensure!(account.json["path"] == "failed", "{}", account.printed);
    let before = state(&homes.a)?;
    let account = homes.session(&["--try", "opener"])?;
    ensure!(account.json["path"] == "direct", "{}", account.printed);
    ensure!(state(&homes.a)? == before, "something was left behind");
    Ok(())
}

/// `check --as`: the server is asked both ways, and the rule that makes the difference is named.
fn check_as() -> Result<()> {
    let world = Routed::new()?;
    world.a.shell(TUNNEL)?;
    world.a.shell("ip rule add pref 100 fwmark 0x1bd00 to 192.0.2.1 lookup 200")?;
    world.router.shell("nft 'table ip u { chain i { type filter hook input priority 0; iifname rw drop; }; }'")?;
    let server = Server::start(&world.router, &["--no-turn"])?;
    let mut command = world.a.command(env!("CARGO_BIN_EXE_whyrelay"));
    let host = world.router.address();
    command.args(["check", "--format", "json", "--as", "netbird", "--stun", &format!("stun:{host}:3478")]);
    let finished = Process::start("whyrelay check", &mut command)?.finish(crate::peers::LIMIT)?;
    let json: Value = serde_json::from_str(&finished.stdout).with_context(|| finished.account.clone())?;
    let findings = json["findings"].as_array().into_iter().flatten();
    let found = findings.filter(|finding| finding["code"] == "WR126").find_map(|finding| finding["summary"].as_str());
    let summary = found.with_context(|| format!("the two do not differ: {}", finished.account))?;
    for words in ["requests to servers", "netbird", "ip rule 100", "fwmark 0x1bd00"] {
        ensure!(summary.contains(words), "{summary:?} does not say {words:?}");
    }
    drop(server);
    Ok(())
}

/// A program called netbird that has the port, with settings in its environment: both are read, it keeps its port, and
/// its mark and user stand on another.
fn running() -> Result<()> {
    let world = Routed::new()?;
    let directory = tempfile::tempdir()?;
    let netbird = directory.path().join("netbird");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_whyrelay"), &netbird)?;
    let mut command = world.a.command(&netbird);
    command.args(["serve", "--listen", "127.0.0.1:9999", "--stun-listen", "0.0.0.0:51820"]);
    let settings = [("NB_FORCE_RELAY", "true"), ("NB_LAZY_CONN", "true"), ("NB_FWMARK_BASE", "0x1be00")];
    let vpn = Process::start("netbird", command.envs(settings))?;
    vpn.line(crate::peers::LIMIT, |line| line.contains("http://"))?;
    let (account, evidence) = session(&world, &["--as", "netbird"], |command| command)?;
    let printed = &account.printed;
    let (_, application) = evidence.side(Vantage::A).host.application.as_ref().context("no application is told")?;
    ensure!(application.origin == "running" && application.mark == Some(0x1_BE00), "{application:?}");
    ensure!(application.port == Some(51_820) && !application.port_used, "{application:?}");
    let of_own = evidence.side(Vantage::A).host.profiles.values().find(|(_, profile)| profile.as_application);
    let (_, profile) = of_own.context("no profile is told")?;
    ensure!(profile.mark == 0x1_BE00 && profile.local.port() != 51_820, "{profile:?}");
    let codes: Vec<_> = account.json["findings"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|finding| finding["code"].as_str())
        .collect();
    ensure!(["WR803", "WR804", "WR124"].iter().all(|code| codes.contains(code)), "{codes:?}: {printed}");
    // It serves as before.
    ensure!(vpn.count(|line| line.contains("error")) == 0, "{}", vpn.account());
    world.a.shell("ss -uln 'sport = :51820' | grep -q 51820")
}

/// Without capabilities the session runs all the same and says what it could not imitate.
fn unprivileged() -> Result<()> {
    let world = Routed::new()?;
    let as_netbird = ["--as", "mark=0x1bd00,port=51820,uid=1000,raw"];
    let (account, evidence) = session(&world, &as_netbird, |command| {
        let mut wrapped = std::process::Command::new(command.get_program());
        let arguments: Vec<_> = command.get_args().collect();
        // `ip netns exec NAME`, and from there without capabilities.
        let without =
            ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--reuid=65534", "--clear-groups"];
        wrapped.args(&arguments[..3]).args(without).args(&arguments[3..]);
        wrapped
    })?;
    ensure!(account.json["path"] == "direct", "{}", account.printed);
    let (_, application) = evidence.side(Vantage::A).host.application.as_ref().context("no application is told")?;
    for words in [
        "its mark 0x1bd00: it takes CAP_NET_ADMIN",
        "its user 1000: it takes CAP_SETUID",
        "its raw socket: it takes CAP_NET_RAW",
    ] {
        ensure!(application.not_imitated.iter().any(|what| what == words), "{words}: {application:?}");
        ensure!(account.printed.contains(words), "it does not say {words}: {}", account.printed);
    }
    ensure!(application.port_used, "{application:?}");
    Ok(())
}
