//! `whyrelay check` and a router that maps ports: Debian's miniupnpd, in a namespace.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use whyrelay_core::trace::event::EventKind;
use whyrelay_core::trace::measurement::Measurement;
use whyrelay_core::trace::recording::Recording;

use crate::check::{LIMIT, check, check_by, measured, our_server, our_server_with};
use crate::namespace::Namespace;
use crate::ours::{self, Account, STUN_PORT, Server};
use crate::peers::Role;
use crate::process::{Finished, Process};
use crate::resolver::{Name, Resolver, asking};
use crate::router::{Internet, Nat, SERVER, Site};
use crate::suite::{self, Suite, Tool};

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft, Tool::Miniupnpd];
    suite.test("port_mapping::all_three_are_found_and_a_mapping_is_tried_and_removed", &tools, all_three);
    suite.test("port_mapping::upnp_alone_maps_and_removes", &tools, upnp_alone);
    suite.test("port_mapping::nat_pmp_alone_maps_and_removes", &tools, nat_pmp_alone);
    suite.test("port_mapping::ctrl_c_removes_the_mapping", &tools, interrupted);
    suite.test("port_mapping::a_relay_tries_a_mapping_where_no_whyrelay_server_is_known", &tools, by_relay);
    suite.test("port_mapping::a_session_tries_a_mapping_and_leaves_none_behind", &tools, tried);
    let name = "port_mapping::an_interrupted_session_unmaps_before_a_silent_relay_is_given_up";
    suite.test(name, &tools, interrupted_session);
    let name = "port_mapping::a_session_that_is_interrupted_while_it_maps_takes_back_what_the_router_did_not_answer";
    suite.test(name, &tools, interrupted_while_mapping);
    suite.test("port_mapping::nothing_is_mapped_without_consent", &tools, without_consent);
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("port_mapping::a_router_without_any_is_told_as_such", &tools, none);
}

/// miniupnpd on a router; it ends when dropped.
struct Daemon {
    process: Process,
    _configuration: tempfile::NamedTempFile,
}

impl Daemon {
    fn start(router: &Namespace, upnp: bool, nat_pmp: bool) -> Result<Self> {
        router.nft(
            "table inet miniupnpd { chain filtering { type filter hook forward priority 0; policy accept; jump rules; }\n\
             chain rules { }\n chain before { type nat hook prerouting priority -100; jump pre; }\n\
             chain after { type nat hook postrouting priority 101; jump post; }\n chain pre { }\n chain post { }\n}\n",
        )?;
        let word = |on| if on { "yes" } else { "no" };
        let configuration = tempfile::NamedTempFile::new()?;
        let text = format!(
            "ext_ifname=wan\nlistening_ip=lan\nport=5000\nenable_natpmp={}\nenable_upnp={}\nsecure_mode=yes\n\
             uuid=bab24e1d-43af-4fd5-bcec-05920bd034bd\nupnp_table_name=miniupnpd\nupnp_nat_table_name=miniupnpd\n\
             upnp_forward_chain=rules\nupnp_nat_chain=pre\nupnp_nat_postrouting_chain=post\n\
             allow 1024-65535 0.0.0.0/0 1024-65535\n",
            word(nat_pmp),
            word(upnp)
        );
        std::fs::write(configuration.path(), text)?;
        let pid = configuration.path().with_extension("pid");
        let mut command = router.command(suite::path("MINIUPNPD")?);
        command.arg("-d").arg("-f").arg(configuration.path()).arg("-P").arg(pid);
        let process = Process::start("miniupnpd", &mut command)?;
        let listens = if nat_pmp { "Listening for NAT-PMP" } else { "HTTP listening on port" };
        process.line(Duration::from_secs(10), |line| line.contains(listens))?;
        Ok(Self { process, _configuration: configuration })
    }
}

/// The mappings that the router has now.
fn mappings(site: &Site) -> Result<String> {
    let output =
        site.router.command(suite::path("NFT")?).args(["list", "chain", "inet", "miniupnpd", "pre"]).output()?;
    let rules = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(rules.lines().filter(|line| line.contains("dnat")).collect::<Vec<_>>().join("\n"))
}

/// Which protocols the account has as offered.
fn offered(json: &Value) -> Vec<&str> {
    let facts = json["measurements"].as_array().into_iter().flatten();
    let found = facts.filter(|fact| fact["measurement"] == "port-mapper" && fact["found"] == true);
    let mut names: Vec<&str> = found.filter_map(|fact| fact["protocol"].as_str()).collect();
    names.sort_unstable();
    names
}

fn world() -> Result<(Internet, Server, Site)> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let site = internet.site(Nat::Home)?;
    Ok((internet, server, site))
}

/// A mapping by this protocol was made, reached from outside, and removed.
fn mapped(json: &Value, protocol: &str, account: &str) -> Result<()> {
    let fact = measured(json, "port-mapped").with_context(|| format!("nothing was mapped: {account}"))?;
    let right = fact["protocol"] == protocol && fact["reached"] == true && fact["removed"] == true;
    ensure!(right, "{fact}: {account}");
    Ok(())
}

/// A check with `--map` where `late.example` is the server's name, which is told late, and `silent.example` nobody's.
fn check_by_names(site: &Site, arguments: &[&str]) -> Result<(Value, Finished)> {
    const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);
    let at = [IpAddr::from(SERVER[0])];
    // Of six seconds (`--time`) servers are asked for 1.2 s what they offer, and names are waited for 2 s.
    let names = [("late.example", Name::Slow(Duration::from_millis(1600), &at)), ("silent.example", Name::Silent)];
    let _resolver = Resolver::start(&site.host, RESOLVER, &names)?;
    let resolv = tempfile::NamedTempFile::new()?;
    check_by(&mut asking(&site.host, RESOLVER, resolv.path())?, &[&["--map", "--time", "6s"], arguments].concat())
}

/// The servers are announced when the router has long answered.
fn all_three() -> Result<()> {
    let (_internet, server, site) = world()?;
    let daemon = Daemon::start(&site.router, true, true)?;
    let (json, ours) = check_by_names(&site, &["--signal", &format!("http://late.example:{}", server.port())])?;
    let account = format!("{}\n{}", ours.account, daemon.process.account());
    ensure!(offered(&json) == ["nat-pmp", "pcp", "upnp"], "{account}");
    mapped(&json, "pcp", &account)?;
    ensure!(json["nats_in_front"] == "one", "{}: {account}", json["nats_in_front"]);
    ensure!(mappings(&site)?.is_empty(), "{}\n{account}", mappings(&site)?);
    Ok(())
}

/// The server that can try the mapping becomes known when nobody is left to be asked what it offers: one that speaks
/// over TLS only is not.
fn upnp_alone() -> Result<()> {
    let (_internet, _server, site) = world()?;
    let daemon = Daemon::start(&site.router, true, false)?;
    let nobody = format!("stuns:{}:9", SERVER[0]);
    let (json, ours) = check_by_names(&site, &["--stun", &nobody, "--stun", "stun:late.example"])?;
    let account = format!("{}\n{}", ours.account, daemon.process.account());
    ensure!(offered(&json) == ["upnp"], "{account}");
    mapped(&json, "upnp", &account)?;
    ensure!(mappings(&site)?.is_empty(), "{}\n{account}", mappings(&site)?);
    Ok(())
}

/// A router of the time before PCP: miniupnpd speaks both on one port, so what begins with PCP's version is kept from it.
/// A name that nobody answers for stands beside the server's.
fn nat_pmp_alone() -> Result<()> {
    let (_internet, _server, site) = world()?;
    let daemon = Daemon::start(&site.router, false, true)?;
    site.router
        .nft("table inet old { chain i { type filter hook input priority -1; udp dport 5351 @th,64,8 2 drop; }\n}\n")?;
    let known = format!("stun:{}:{STUN_PORT}", SERVER[0]);
    let (json, ours) = check_by_names(&site, &["--stun", "stun:silent.example", "--stun", &known])?;
    let account = format!("{}\n{}", ours.account, daemon.process.account());
    ensure!(offered(&json) == ["nat-pmp"], "{account}");
    mapped(&json, "nat-pmp", &account)?;
    ensure!(mappings(&site)?.is_empty(), "{}\n{account}", mappings(&site)?);
    Ok(())
}

/// By TURN over TCP, so that nobody is asked over UDP; and by nobody, which is said.
fn by_relay() -> Result<()> {
    let mut internet = Internet::new()?;
    let users = tempfile::NamedTempFile::new()?;
    std::fs::write(users.path(), "alice:wonderland\n")?;
    let _server = our_server_with(&internet, &["--turn-users-file", &users.path().display().to_string()])?;
    let site = internet.site(Nat::Home)?;
    let daemon = Daemon::start(&site.router, false, true)?;
    let turn = format!("turn:{}:{STUN_PORT}?transport=tcp", SERVER[0]);
    let mut command = site.host.command(env!("CARGO_BIN_EXE_whyrelay"));
    command.env("TURN_PASSWORD", "wonderland");
    let (json, ours) = check_by(&mut command, &["--map", "--turn", &turn, "--turn-user", "alice"])?;
    let account = format!("{}\n{}", ours.account, daemon.process.account());
    mapped(&json, "pcp", &account)?;

    let (json, ours) = check(&site.host, &["--map"])?;
    let fact = measured(&json, "port-mapped").with_context(|| ours.account.clone())?;
    ensure!(fact["reached"].is_null() && fact["removed"] == true, "{fact}: {}", ours.account);
    let mut missing = json["not_measured"].as_array().into_iter().flatten();
    let said = missing.any(|missing| missing["what"].as_str().is_some_and(|what| what.contains("from outside")));
    ensure!(said, "{}", ours.account);
    ensure!(mappings(&site)?.is_empty(), "it is still mapped: {}", mappings(&site)?);
    Ok(())
}

/// A NAT with a random port for each flow and a home NAT never meet, but by a mapping.
fn tried() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let (random, home) = (internet.site(Nat::Random)?, internet.site(Nat::Home)?);
    let daemon = Daemon::start(&random.router, false, true)?;
    let session = |more: &[&str]| {
        let start = |site: &Site, role: Role, more: &[&str]| {
            let mut command = ours::peer(&site.host, role, server.url());
            Process::start(role.name(), command.args(["--no-turn", "--no-tcp"]).args(more))
        };
        let answerer = start(&home, Role::Answerer, &[])?;
        let account = Account::of(start(&random, Role::Offerer, more)?)?;
        Account::of(answerer)?;
        anyhow::Ok(account)
    };
    let without = session(&[])?;
    ensure!(without.json["path"] == "failed", "it takes no mapping: {}", without.printed);
    let with = session(&["--try", "mapping"])?;
    ensure!(with.json["path"] == "direct", "{}\n{}", with.printed, daemon.process.account());
    ensure!(with.json["tried"][0].as_str().is_some_and(|tried| tried.contains("port mapping")), "{}", with.printed);
    ensure!(mappings(&random)?.is_empty(), "it is still mapped: {}", mappings(&random)?);
    Ok(())
}

/// While the mapping is tried, which takes a second because the router lets nothing in.
fn interrupted() -> Result<()> {
    for (upnp, nat_pmp) in [(false, true), (true, false)] {
        let (_internet, server, site) = world()?;
        let daemon = Daemon::start(&site.router, upnp, nat_pmp)?;
        site.router.nft(
            "table inet closed { chain f { type filter hook forward priority 10; iifname wan ct state new drop; }\n}\n",
        )?;
        let mut command = site.host.command(env!("CARGO_BIN_EXE_whyrelay"));
        command.args(["check", "--format", "json", "--signal", server.url(), "--map"]);
        let process = Process::start("whyrelay check", &mut command)?;
        daemon.process.line(LIMIT, |line| line.contains("added mapping") || line.contains("redirecting port"))?;
        process.signal(Signal::SIGINT)?;
        let finished = process.finish(LIMIT)?;
        let account = format!("{}\n{}", finished.account, daemon.process.account());
        ensure!(mappings(&site)?.is_empty(), "it is still mapped: {account}");
        let json: Value = serde_json::from_str(&finished.stdout)?;
        // Before the router's answer came it is said to be unmeasured, after it what became of it.
        let removed = measured(&json, "port-mapped").is_none_or(|fact| fact["removed"] == true);
        ensure!(removed, "{account}");
    }
    Ok(())
}

/// By the times in its recording: what the router says comes while the relay's answer is still waited for.
fn interrupted_session() -> Result<()> {
    let mut internet = Internet::new()?;
    let users = tempfile::NamedTempFile::new()?;
    std::fs::write(users.path(), "alice:wonderland\n")?;
    let server = our_server_with(&internet, &["--turn-users-file", &users.path().display().to_string()])?;
    let site = internet.site(Nat::Home)?;
    let daemon = Daemon::start(&site.router, false, true)?;
    let record = tempfile::NamedTempFile::new()?;
    let mut command = ours::peer(&site.host, Role::Offerer, server.url());
    command.env("TURN_PASSWORD", "wonderland").arg("--record").arg(record.path());
    let turn = format!("turn:{}:{STUN_PORT}", SERVER[0]);
    command.args(["--no-tcp", "--try", "mapping", "--turn", &turn, "--turn-user", "alice"]);
    let process = Process::start("offerer", &mut command)?;
    process.line(LIMIT, |line| line.contains("the router maps"))?;
    process.line(LIMIT, |line| line.contains("gathered: relay"))?;
    ensure!(!mappings(&site)?.is_empty(), "nothing is mapped: {}", daemon.process.account());
    site.router.nft(&format!(
        "table inet silent {{ chain f {{ type filter hook forward priority 10; udp dport {STUN_PORT} drop; }}\n}}\n"
    ))?;
    process.signal(Signal::SIGINT)?;
    let finished = process.finish(LIMIT)?;
    let account = format!("{}\n{}", finished.account, daemon.process.account());
    ensure!(mappings(&site)?.is_empty(), "it is still mapped: {account}");
    let recording = Recording::read(&std::fs::read(record.path())?[..]).map_err(|error| anyhow!("{error}"))?;
    let at = |wanted: fn(&EventKind) -> bool| {
        recording.events.iter().find(|event| wanted(&event.kind)).map(|event| event.at)
    };
    let unmapped = at(|kind| matches!(kind, EventKind::Measured(Measurement::PortMapped { removed, .. }) if *removed));
    let unmapped = unmapped.with_context(|| account.clone())?;
    // An interrupted session waits no longer for the relay than for everything else, and may end before it gives it up.
    let given_up = at(|kind| matches!(kind, EventKind::Deallocated { .. }));
    ensure!(given_up.is_none_or(|at| unmapped < at), "unmapped at {unmapped}, the relay at {given_up:?}: {account}");
    Ok(())
}

/// The router maps, and its answer to that is lost: the session does not wait for it, and asks for the end of it.
fn interrupted_while_mapping() -> Result<()> {
    let (_internet, server, site) = world()?;
    let daemon = Daemon::start(&site.router, false, true)?;
    // NAT-PMP's answer to operation 1, PCP's to opcode 1; what tells that the router speaks them is another.
    site.router.nft(
        "table inet deaf { chain o { type filter hook output priority 0; udp sport 5351 @th,72,8 129 drop; }\n}\n",
    )?;
    let mut command = ours::peer(&site.host, Role::Offerer, server.url());
    let process = Process::start("offerer", command.args(["--no-tcp", "--try", "mapping"]))?;
    daemon.process.line(LIMIT, |line| line.contains("added mapping") || line.contains("redirecting port"))?;
    ensure!(!mappings(&site)?.is_empty(), "nothing is mapped: {}", daemon.process.account());
    process.signal(Signal::SIGINT)?;
    let finished = process.finish(LIMIT)?;
    let account = format!("{}\n{}", finished.account, daemon.process.account());
    ensure!(mappings(&site)?.is_empty(), "it is still mapped: {account}");
    ensure!(finished.account.contains("no port mapping: interrupted before it was made"), "{account}");
    Ok(())
}

fn without_consent() -> Result<()> {
    let (_internet, server, site) = world()?;
    let daemon = Daemon::start(&site.router, true, true)?;
    let (json, ours) = check(&site.host, &["--signal", server.url()])?;
    let log = daemon.process.account();
    ensure!(measured(&json, "port-mapped").is_none(), "{}", ours.account);
    ensure!(!log.contains("added mapping") && !log.contains("AddPortMapping"), "{log}");
    let said = json["not_measured"].as_array().into_iter().flatten().any(|missing| {
        missing["what"] == "mapping a port on the router"
            && missing["why"].as_str().is_some_and(|why| why.contains("--map"))
    });
    ensure!(said, "it is not said what it takes: {}", ours.account);
    Ok(())
}

fn none() -> Result<()> {
    let (_internet, server, site) = world()?;
    let (json, ours) = check(&site.host, &["--signal", server.url(), "--map"])?;
    ensure!(offered(&json).is_empty(), "{}", ours.account);
    let facts = json["measurements"].as_array().into_iter().flatten();
    ensure!(facts.filter(|fact| fact["measurement"] == "port-mapper").count() == 3, "{}", ours.account);
    ensure!(json["nats_in_front"] == "one-at-least", "{}", ours.account);
    Ok(())
}
