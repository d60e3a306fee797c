//! `whyrelay check` behind the NATs that no kernel has: the laboratory's user-space router, as the scenario describes it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;
use whyrelay_core::nat::behavior::MappingBehavior;
use whyrelay_lab::kernel::{Lab, Plan, RouterChoice};
use whyrelay_lab::scenario::file::Translate;
use whyrelay_lab::scenario::{PRESETS, Preset, Scenario};

use crate::check::{behavior, check_by, findings, measured, missing, rows};
use crate::check_loss::AT_ONCE;
use crate::coturn::on_two_addresses;
use crate::process::Process;
use crate::suite::{self, Suite, Tool};

/// As the scenarios' names have them.
pub(crate) const WORDS: [(&str, &str); 3] =
    [("ei", "endpoint-independent"), ("ad", "address-dependent"), ("apd", "address-and-port-dependent")];

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("check_lab::an_application_layer_gateway_is_seen_where_it_is", &tools, gateway);
    suite.test("check_lab::udp_that_goes_to_servers_only_is_a_finding", &tools, servers_only);
    suite.test("check_lab::a_firewall_of_the_server_is_told_from_one_of_the_network", &tools, whose_firewall);
    suite.test("check_lab::a_link_by_satellite_is_slow_and_not_broken", &tools, satellite);
    suite.test("check_lab::a_pool_of_public_addresses_is_seen", &tools, pool);
    suite.test("check_lab::another_public_address_for_each_destination_is_a_finding", &tools, per_destination);
    let tools = [Tool::NetworkNamespaces, Tool::Nft, Tool::Turnserver];
    suite.test("check_lab::knows_all_nine_kinds_of_nat_in_user_space", &tools, nine_kinds);
    suite.test("check_lab::every_preset_is_told_as_it_is_configured", &tools, presets);
}

/// coturn beside our server, on the same two addresses, and the next of its ports.
const COTURN_PORT: u16 = 5000;

/// The server's second address.
const SECOND: &str = "198.51.100.200";

fn coturn(lab: &Lab, scenario: &Scenario) -> Result<Process> {
    let command = lab.command("server", suite::path("TURNSERVER")?)?;
    let addresses = [scenario.topology.server_address().to_string(), SECOND.to_owned()];
    on_two_addresses(command, addresses, COTURN_PORT)
}

/// Mapping and filtering in front of the scenario's host A, by our server and by coturn; the account by our server.
fn known_by_both(scenario: &Scenario, expected: (&str, &str), more: &[&str]) -> Result<Value> {
    let lab = Lab::up(Plan::of(&scenario.topology, RouterChoice::UserSpace)?)?;
    let (server, url) = serve(&lab, scenario)?;
    let coturn = coturn(&lab, scenario)?;
    let stun = format!("stun:{}:{COTURN_PORT}", scenario.topology.server_address());
    let mut by_ours = Value::Null;
    for by in [["--signal", &url], ["--stun", &stun]] {
        let mut command = lab.command("a", env!("CARGO_BIN_EXE_whyrelay"))?;
        let (json, ours) = check_by(&mut command, &[&by[..], more].concat())?;
        let context =
            || format!("{} by {by:?}\n{}\n{}\n{}", scenario.name, ours.account, server.account(), coturn.account());
        let known = (behavior(&json, "mapping"), behavior(&json, "filtering"));
        ensure!(known == expected, "{known:?} instead of {expected:?}: {}", context());
        if by[0] == "--signal" {
            by_ours = json;
        }
    }
    Ok(by_ours)
}

/// What is known behind a preset's router: where UDP comes through at all, and to the ports that it takes.
fn told_of(preset: &Preset) -> (String, String) {
    let router = preset.router();
    let silent = router.block_udp == Some(true) || router.stateless_inbound.is_some();
    if silent || router.allow_udp.is_some() {
        return ("not measured".to_owned(), "not measured".to_owned());
    }
    let mapping = match router.translate {
        Some(Translate::Nat) => router.mapping.unwrap_or(MappingBehavior::EndpointIndependent),
        // The same address for everybody: one's own, or the one that stands for it.
        _ => MappingBehavior::EndpointIndependent,
    };
    (mapping.to_string(), router.filtering.map(|filtering| filtering.to_string()).unwrap_or_default())
}

fn presets() -> Result<()> {
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(preset) = PRESETS.get(next.fetch_add(1, Ordering::Relaxed)) {
            let text = format!(
                "title = \"A preset\"\n[router.nat]\npreset = \"{}\"\n[host.a]\nbehind = \"nat\"\n\
                 [host.b]\nbehind = \"home-router\"\n[expect]\npath = \"direct\"\n",
                preset.name
            );
            let (mapping, filtering) = told_of(preset);
            // A round trip of more than 600 ms.
            let more: &[&str] = if preset.name == "satellite" { &["--time", "10s"] } else { &[] };
            let known = Scenario::parse(preset.name, &text)
                .map_err(anyhow::Error::from)
                .and_then(|scenario| known_by_both(&scenario, (&mapping, &filtering), more));
            if let (Err(error), Ok(mut failures)) = (known, failures.lock()) {
                failures.push(format!("{}: {error:#}", preset.name));
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a worker panicked")))
    })?;
    let failures = failures.into_inner().map_err(|_| anyhow!("a worker failed"))?;
    ensure!(failures.is_empty(), "{} of {} presets:\n{}", failures.len(), PRESETS.len(), failures.join("\n"));
    Ok(())
}

fn nine_kinds() -> Result<()> {
    let kinds: Vec<_> =
        WORDS.iter().flat_map(|mapping| WORDS.iter().map(move |filtering| (mapping, filtering))).collect();
    suite::each(&kinds, AT_ONCE, |((mapping, mapping_words), (filtering, filtering_words))| {
        let scenario = Scenario::find(&format!("nat-{mapping}-{filtering}-against-home"))?;
        let json = known_by_both(&scenario, (mapping_words, filtering_words), &[])?;
        // What it takes of our own server is there, too.
        ensure!(measured(&json, "early-arrival").is_some(), "{}: {json:#}", scenario.name);
        Ok(())
    })
}

/// A round trip of 600 ms: signaling alone takes two of them. In its usual time a check blames nobody; in more it knows all.
fn satellite() -> Result<()> {
    let (json, account) = check_in(&Scenario::find("satellite")?, &[])?;
    ensure!(findings(&json).is_empty(), "{account}");
    let (json, account) = check_in(&Scenario::find("satellite")?, &["--time", "8s"])?;
    ensure!(findings(&json).is_empty(), "{account}");
    ensure!(measured(&json, "third-party").is_some_and(|fact| !fact["observed"].is_null()), "{account}");
    Ok(())
}

/// One that rewrites plain addresses inside of packets, and none.
fn gateway() -> Result<()> {
    for (line, answer) in [("alg = \"addresses\"\n", "yes: "), ("", "no: ")] {
        let text = format!(
            "title = \"A gateway\"\n[router.nat]\npreset = \"home-router\"\n{line}\
             [host.a]\nbehind = \"nat\"\n[host.b]\nbehind = \"home-router\"\n[expect]\npath = \"direct\"\n"
        );
        let (json, account) = check_in(&Scenario::parse("gateway", &text)?, &[])?;
        let told = rows(&json, "rewriting");
        ensure!(told.len() == 1 && told[0].starts_with(answer), "{line:?}: {told:?}: {account}");
        ensure!(behavior(&json, "mapping") == "endpoint-independent", "{line:?}: {account}");
        ensure!(behavior(&json, "filtering") == "address-and-port-dependent", "{line:?}: {account}");
    }
    // One that knows XOR-MAPPED-ADDRESS, too: what it changed is no answer, and UDP is not blocked.
    let (json, account) = check_in(&Scenario::find("alg-rewrites-stun")?, &[])?;
    let told = missing(&json);
    ensure!(
        told.iter().any(|told| told.contains("an application-level gateway rewrites them")),
        "{told:#?}: {account}"
    );
    ensure!(findings(&json).first() == Some(&"answers-rewritten"), "{:?}: {account}", findings(&json));
    let udp = rows(&json, "UDP, servers' ports");
    ensure!(udp == ["port 3478: passes (1 of 1)"], "{udp:?}: {account}");
    Ok(())
}

/// STUN's port is let out, a third party's high port is not: every tester is content, and peers are not reached.
fn servers_only() -> Result<()> {
    let (json, account) = check_in(&Scenario::find("udp-to-stun-only")?, &[])?;
    let third = rows(&json, "third party, high port");
    ensure!(third.iter().any(|row| row.starts_with("nothing of ")), "{third:?}: {account}");
    let ports = rows(&json, "UDP, servers' ports");
    ensure!(ports.iter().any(|row| row.contains("passes")), "{ports:?}: {account}");
    ensure!(findings(&json).first() == Some(&"udp-only-to-servers"), "{:?}: {account}", findings(&json));
    Ok(())
}

/// Nothing gets in at the relayed ports of a host that lets everybody in, so what comes from there shows nothing. It is
/// the network's firewall where packets die in front of a router that those to the server's own port reach, the
/// server's where they get as far as those; and nobody's where no router outside tells.
fn whose_firewall() -> Result<()> {
    const RELAYED: &str = "49152-65535";
    // Those of behavior discovery, too: one firewall, and one finding.
    const ALL_BUT_STUN: &str = "3479-3480, 49152-65535";
    let of_server = "got in, although they get as far as those";
    for (near, closed, name, blame, words) in [
        ("preset = \"router\"\n", RELAYED, "relayed-checks-lost", "relay", of_server),
        ("preset = \"router\"\n", ALL_BUT_STUN, "relayed-checks-lost", "relay", of_server),
        ("preset = \"router\"\nallow-udp = [\"3478\"]\n", "", "udp-only-to-servers", "a", "it is lost in front of"),
        ("preset = \"home-router-open\"\n", RELAYED, "relayed-checks-lost", "path", "or this network lets UDP out"),
    ] {
        let far = if near.contains("home") { "" } else { "outside = \"far\"\n[router.far]\npreset = \"router\"\n" };
        let text = format!(
            "title = \"Whose firewall\"\n[router.near]\n{near}{far}[host.a]\nbehind = \"near\"\n\
             [host.b]\nbehind = \"home-router\"\n[expect]\npath = \"direct\"\n"
        );
        let scenario = Scenario::parse("whose-firewall", &text)?;
        let lab = Lab::up(Plan::of(&scenario.topology, RouterChoice::UserSpace)?)?;
        let (server, url) = serve(&lab, &scenario)?;
        if !closed.is_empty() {
            let rules = format!("chain f {{ type filter hook input priority 0; udp dport {{ {closed} }} drop; }}");
            let rules = format!("table inet f {{ {rules}\n}}\n");
            let close = lab.command("server", "sh")?.args(["-e", "-c", "echo \"$0\" | nft -f -", &rules]).output()?;
            ensure!(close.status.success(), "{}", String::from_utf8_lossy(&close.stderr));
        }
        let mut command = lab.command("a", env!("CARGO_BIN_EXE_whyrelay"))?;
        let (json, ours) = check_by(&mut command, &["--signal", &url])?;
        let context = || format!("{near}\n{}\n{}", ours.account, server.account());
        let first = &json["findings"][0];
        ensure!(first["name"] == name && first["blame"] == blame, "{first}: {}", context());
        ensure!(first["summary"].as_str().is_some_and(|told| told.contains(words)), "{first}: {}", context());
        ensure!(closed != ALL_BUT_STUN || findings(&json) == [name], "{:?}: {}", findings(&json), context());
        let both =
            findings(&json).iter().filter(|name| ["relayed-checks-lost", "udp-only-to-servers"].contains(name)).count();
        ensure!(both == 1, "{}", context());
    }
    Ok(())
}

/// Each socket has any of four public addresses, and the same one for everybody.
fn pool() -> Result<()> {
    let text = "title = \"A pool of addresses\"\n\
                [router.nat]\nmapping = \"endpoint-independent\"\nfiltering = \"address-and-port-dependent\"\n\
                ports = \"preserving\"\noverloading = false\naddresses = 4\npooling = \"arbitrary\"\n\
                [host.a]\nbehind = \"nat\"\n[host.b]\nbehind = \"home-router\"\n[expect]\npath = \"direct\"\n";
    let scenario = Scenario::parse("pool", text)?;
    let (json, account) = check_in(&scenario, &[])?;
    ensure!(behavior(&json, "mapping") == "endpoint-independent", "{account}");
    let ports = rows(&json, "ports");
    let told = ports.iter().any(|row| row.contains("several public addresses: 203.0.113."));
    ensure!(told, "{ports:?}: {account}");
    let state =
        json["rows"].as_array().into_iter().flatten().find(|row| row["name"] == "ports").map(|row| &row["state"]);
    ensure!(state.is_some_and(|state| state == "warning"), "{state:?}: {account}");
    Ok(())
}

/// The laboratory's own scenario of a NAT that gives each mapping any of its addresses.
fn per_destination() -> Result<()> {
    let (json, account) = check_in(&Scenario::find("addresses-vary")?, &[])?;
    ensure!(behavior(&json, "mapping") == "address-and-port-dependent", "{account}");
    let mapped = rows(&json, "mapped address");
    let mut addresses: Vec<&str> = mapped.iter().filter_map(|row| Some(row.split_once(':')?.0)).collect();
    addresses.sort_unstable();
    addresses.dedup();
    ensure!(addresses.len() > 1, "one row for each server, with the address that it sees: {mapped:?}: {account}");
    ensure!(findings(&json).contains(&"public-address-varies"), "{account}");
    Ok(())
}

/// The account of a check on the scenario's host A.
fn check_in(scenario: &Scenario, more: &[&str]) -> Result<(Value, String)> {
    let lab = Lab::up(Plan::of(&scenario.topology, RouterChoice::UserSpace)?)?;
    let (server, url) = serve(&lab, scenario)?;
    let mut command = lab.command("a", env!("CARGO_BIN_EXE_whyrelay"))?;
    let (json, ours) = check_by(&mut command, &[&["--signal", &url], more].concat())?;
    Ok((json, format!("{}\n{}", ours.account, server.account())))
}

/// A server with a second address, which the laboratory's own has not.
pub(crate) fn serve(lab: &Lab, scenario: &Scenario) -> Result<(Process, String)> {
    let first = scenario.topology.server_address();
    let add = format!(
        "device=$(ip -o address show to {first} | awk '{{ print $2; exit }}'); ip address add {SECOND}/24 dev $device;
         for i in $(seq 200); do ip link show $device | grep -q 'state UP' && exit 0; sleep 0.01; done; exit 1"
    );
    let added = lab.command("server", "sh")?.args(["-e", "-c", &add]).output()?;
    ensure!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let mut command = lab.command("server", env!("CARGO_BIN_EXE_whyrelay"))?;
    command.args(["serve", "--listen", &format!("{first}:8080"), "--stun-listen", &format!("{first}:3478")]);
    // The laboratory's Internet has documentation addresses.
    command.args(["--alternate-address", SECOND]);
    for network in ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"] {
        command.args(["--allow-peer", network]);
    }
    let server = Process::start("whyrelay serve", &mut command)?;
    let url = format!("http://{first}:8080");
    server.line(Duration::from_secs(10), |line| line.contains(&url)).context("it does not listen")?;
    Ok((server, url))
}
