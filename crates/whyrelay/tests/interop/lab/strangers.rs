//! A stranger finds each of the laboratory's NATs as its scenario says: coturn's `turnutils_natdiscovery`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use whyrelay_core::nat::behavior::{FilteringBehavior, Hairpinning, MappingBehavior, PortAllocation};
use whyrelay_lab::discover::{contradictions, discover};
use whyrelay_lab::kernel::{Lab, Plan, RouterChoice};
use whyrelay_lab::scenario::file::{Alg, Discovered};
use whyrelay_lab::scenario::topology::{Router, Translation};
use whyrelay_lab::scenario::{PRESETS, Scenario, Topology};

use crate::process::Process;
use crate::suite::{self, Suite, Tool, each};

/// A test of filtering and one of hairpinning wait twice for 3 s for what never comes.
const LIMIT: Duration = Duration::from_secs(30);
/// The Internet of a scenario has addresses for that many.
const IN_ONE_LAB: usize = 30;
/// Each has some 60 strangers, who must not wait for each other.
const LABS_AT_ONCE: usize = 2;
/// They wait most of the time.
const AT_ONCE: usize = 6;
/// The two addresses of the laboratory's server.
pub(super) const SERVER: [&str; 2] = ["198.51.100.1", "198.51.100.2"];

/// The tests of this module.
pub(super) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft, Tool::Turnserver, Tool::NatDiscovery];
    suite.test("lab::natdiscovery_finds_each_nat_as_its_scenario_says", &tools, natdiscovery);
    suite.test("lab::natdiscovery_finds_what_each_scenario_expects", &tools, expected);
    suite.test("lab::natdiscovery_finds_each_way_out_of_every_scenario", &tools, every_way);
}

/// Every preset, every mix of mapping and filtering, every way to choose ports, and routers behind each other, each in
/// front of a host of its own: all by user-space routers, and by the kernel's what nftables can do.
fn natdiscovery() -> Result<()> {
    let all = hosts();
    let mut runs = Vec::new();
    for places in all.chunks(IN_ONE_LAB) {
        let topology = scenario(places)?.topology;
        let plan = Plan::of(&topology, RouterChoice::Kernel)?;
        let translated = plan.in_user_space();
        let by_kernel = |place: &&Place| place.way(&topology).iter().all(|router| !translated.contains(&&*router.name));
        runs.push((RouterChoice::Kernel, places.iter().filter(by_kernel).cloned().collect::<Vec<_>>()));
        runs.push((RouterChoice::UserSpace, places.to_vec()));
    }
    let by_kernel: Vec<&Place> =
        runs.iter().filter(|(choice, _)| *choice == RouterChoice::Kernel).flat_map(|(_, places)| places).collect();
    let chains = by_kernel.iter().filter(|place| place.behind.len() > 1).count();
    ensure!(by_kernel.len() > 15 && by_kernel.len() < all.len(), "{} by nftables", by_kernel.len());
    ensure!(chains > 1, "{chains} of them routers behind each other");
    each(&runs, LABS_AT_ONCE, |(choice, places)| asked(places, *choice))
}

/// What scenarios themselves expect to be discovered, on every kind of router that can be there.
fn expected() -> Result<()> {
    let mut runs = Vec::new();
    for (name, text) in Scenario::embedded() {
        let Scenario { topology, .. } = Scenario::parse(name, text)?;
        if topology.expect.nat.is_empty() {
            continue;
        }
        let mut built: Vec<String> = Vec::new();
        for choice in [RouterChoice::Kernel, RouterChoice::UserSpace] {
            let in_user_space = format!("{:?}", Plan::of(&topology, choice)?.in_user_space());
            if !built.contains(&in_user_space) {
                built.push(in_user_space);
                runs.push((topology.clone(), choice));
            }
        }
    }
    ensure!(runs.len() > 15, "{} runs", runs.len());
    each(&runs, AT_ONCE, |(topology, choice)| finds_what_is_expected(topology, *choice))
}

fn finds_what_is_expected(topology: &Topology, choice: RouterChoice) -> Result<()> {
    let lab = Lab::up(Plan::of(topology, choice)?)?;
    let _coturn = coturn(&lab)?;
    for (host, expected) in &topology.expect.nat {
        let [mapping, hairpinning] = [&["-m", "-f"][..], &["-H"]].map(|asks| stranger(&lab, host, asks));
        let (mapping, hairpinning) = (mapping?.finish(LIMIT)?, hairpinning?.finish(LIMIT)?);
        let found = told(&mapping.stdout, &hairpinning.stdout);
        // Of hairpinning it asks another question: `as_natdiscovery_asks`.
        let expected = Discovered { hairpinning: None, ..*expected };
        let contradictions = contradictions(&[(host.clone(), expected)].into(), &[(host.clone(), found)].into());
        let said = || format!("{}\n{}", mapping.account, hairpinning.account);
        ensure!(contradictions.is_empty(), "{} ({choice:?}): {contradictions:?}\n{}", topology.name, said());
    }
    Ok(())
}

/// The routers of all scenarios that are in front of no host of [`hosts`], each way once, on every kind of router that can
/// be there. What a scenario has else, on its hosts and links, is left away: the question is what its routers are.
fn every_way() -> Result<()> {
    let mut known = BTreeSet::new();
    for places in hosts().chunks(IN_ONE_LAB) {
        let topology = scenario(places)?.topology;
        known.extend(places.iter().map(|place| terms(&place.way(&topology))));
    }
    let mut runs = Vec::new();
    for (name, text) in Scenario::embedded() {
        let topology = bare(Scenario::parse(name, text)?.topology)?;
        let mut new = Vec::new();
        for host in ["a", "b"] {
            let way = way(&topology, host);
            if !way.is_empty() && has_ipv4(&topology, host) && known.insert(terms(&way)) {
                new.push(host);
            }
        }
        let mut built: Vec<String> = Vec::new();
        for choice in [RouterChoice::Kernel, RouterChoice::UserSpace].into_iter().filter(|_| !new.is_empty()) {
            let in_user_space = format!("{:?}", Plan::of(&topology, choice)?.in_user_space());
            if !built.contains(&in_user_space) {
                built.push(in_user_space);
                runs.push((topology.clone(), new.clone(), choice));
            }
        }
    }
    let count = runs.iter().map(|(_, hosts, _)| hosts.len()).sum::<usize>();
    eprintln!(
        "{count} strangers: {:?}",
        runs.iter().map(|(topology, hosts, _)| (&topology.name, hosts)).collect::<Vec<_>>()
    );
    ensure!(count > 10, "{count} strangers");
    each(&runs, AT_ONCE, |(topology, hosts, choice)| {
        let asked: Vec<_> = hosts.iter().map(|host| (host.to_string(), way(topology, host))).collect();
        ask(topology, *choice, &asked)
    })
}

/// A port that no router forwards.
const UNKNOWN_PORT: u16 = 45_000;

/// The same network without faults of hosts and links, and with the server that strangers need. Its peers have a port that
/// no router forwards, as strangers have.
fn bare(mut topology: Topology) -> Result<Topology> {
    let plain = Scenario::find("public-hosts")?.topology;
    topology.server = plain.server.clone();
    topology.sessions.iter_mut().for_each(|session| session.port = UNKNOWN_PORT);
    for host in &mut topology.hosts {
        host.interfaces.truncate(1);
        host.interfaces.iter_mut().for_each(|eth0| eth0.link = plain.server.link);
        host.routes.clear();
        host.rules.clear();
        host.sysctls.clear();
        host.firewall.clear();
        host.silent_neighbors.clear();
        host.conntrack_full = false;
        host.wrong_checksum = None;
    }
    topology.routers.iter_mut().for_each(|router| router.link = plain.server.link);
    Ok(topology)
}

fn way<'a>(topology: &'a Topology, host: &str) -> Vec<&'a Router> {
    let segment = topology.host(host).and_then(|host| host.interfaces.first()?.segment);
    segment.map_or_else(Vec::new, |segment| topology.way_out(segment))
}

fn has_ipv4(topology: &Topology, host: &str) -> bool {
    topology.host(host).is_some_and(|host| host.interfaces[0].addresses.iter().any(|own| own.address.is_ipv4()))
}

/// What tells ways apart: all but names and addresses.
fn terms(way: &[&Router]) -> String {
    let terms = way.iter().map(|router| {
        let translation = match &router.translation {
            Translation::OneToOne { filtering, .. } => format!("one-to-one {filtering}"),
            other => format!("{other:?}"),
        };
        let forwards: Vec<_> = router.forwards.iter().map(|(out, inside)| (out.port(), inside.port())).collect();
        let Router { egress, rejects, stateless_inbound, alg, .. } = router;
        let pool = router.external().count();
        format!("{translation} {pool} {egress:?} {rejects:?} {stateless_inbound:?} {alg:?} {forwards:?}")
    });
    terms.collect::<Vec<_>>().join("; ")
}

/// A host and the routers in front of it.
#[derive(Clone, Debug)]
struct Place {
    host: String,
    /// Presets, or one router that the scenario describes; the nearest first.
    behind: Vec<String>,
    /// The description.
    router: Option<String>,
}

impl Place {
    /// Its routers, the nearest first.
    fn way<'a>(&self, topology: &'a Topology) -> Vec<&'a Router> {
        way(topology, &self.host)
    }
}

/// The hosts of a scenario with every NAT.
fn hosts() -> Vec<Place> {
    let presets = PRESETS.iter().map(|preset| (vec![preset.name.to_owned()], None));
    let mut mixes = Vec::new();
    for mapping in MappingBehavior::ALL {
        for filtering in FilteringBehavior::ALL {
            let mut mix = |ports: &str, overloading: bool| {
                let name = format!("{}-{}-{ports}", short(mapping), short(filtering));
                let ports =
                    if ports == "contiguous" { "{ contiguous = { block = 64 } }" } else { &format!("{ports:?}") };
                let terms = format!(
                    "mapping = \"{mapping}\"\nfiltering = \"{filtering}\"\nports = {ports}\noverloading = {overloading}"
                );
                mixes.push((vec![name], Some(terms)));
            };
            mix("random", false);
            // How ports are chosen is apart from who is let in.
            if filtering == FilteringBehavior::AddressAndPortDependent {
                for ports in ["sequential", "hash", "contiguous"] {
                    mix(ports, false);
                }
            }
            // A router that keeps ports maps as if it were endpoint-independent.
            if mapping == MappingBehavior::EndpointIndependent {
                mix("preserving", true);
            }
        }
    }
    for source in ["external-source", "internal-source"] {
        let terms = format!("filtering = \"endpoint-independent\"\nhairpinning = \"{source}\"");
        mixes.push((vec![format!("hairpin-{source}")], Some(terms)));
    }
    let chains = CHAINS.map(|chain| (chain.map(str::to_owned).to_vec(), None));
    let places = presets.chain(mixes).chain(chains).enumerate();
    places.map(|(number, (behind, router))| Place { host: format!("h{number}"), behind, router }).collect()
}

/// Routers behind each other, the nearest first.
const CHAINS: [[&str; 2]; 7] = [
    ["home-router", "home-router"],
    ["home-router-open", "home-router-open"],
    ["home-router-open", "home-router-address-restricted"],
    ["home-router", "mobile-carrier"],
    ["home-router", "mobile-carrier-symmetric"],
    ["pfsense", "home-router"],
    ["docker-bridge", "cloud"],
];

/// A term in a router's name.
fn short(term: impl std::fmt::Display) -> String {
    term.to_string().split('-').filter(|word| *word != "and").filter_map(|word| word.get(..1)).collect()
}

fn scenario(places: &[Place]) -> Result<Scenario> {
    let mut text = "title = \"every NAT\"\n[host.a]\n[host.b]\n[expect]\npath = \"direct\"\n".to_owned();
    for Place { host, behind, router } in places {
        writeln!(text, "[host.{host}]\nbehind = {behind:?}")?;
        if let Some(terms) = router {
            writeln!(text, "[router.{}]\n{terms}", behind.concat())?;
        }
    }
    Ok(Scenario::parse("every-nat", &text)?)
}

/// Has a stranger on each host ask about the NAT in front of it, all at the same time.
fn asked(places: &[Place], choice: RouterChoice) -> Result<()> {
    let topology = scenario(places)?.topology;
    let hosts: Vec<_> = places.iter().map(|place| (place.host.clone(), place.way(&topology))).collect();
    ask(&topology, choice, &hosts)
}

/// The same on some hosts of a network, each with its way out, and from ports that no router knows.
fn ask(topology: &Topology, choice: RouterChoice, hosts: &[(String, Vec<&Router>)]) -> Result<()> {
    let lab = Lab::up(Plan::of(topology, choice)?)?;
    let _coturn = coturn(&lab)?;
    let mut running = Vec::new();
    for (host, _) in hosts {
        lab.enter(host, || Ok(std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "45001 46000")))??;
        running.push([stranger(&lab, host, &["-m", "-f"])?, stranger(&lab, host, &["-H"])?]);
    }
    let mut wrong = Vec::new();
    for ((host, way), strangers) in hosts.iter().zip(running) {
        let said = said(way);
        let [mapping, hairpinning] = strangers.map(|stranger| stranger.finish(LIMIT));
        let (mapping, hairpinning) = (mapping?, hairpinning?);
        let found = told(&mapping.stdout, &hairpinning.stdout);
        let ours = discover(topology, host);
        let to_find = as_natdiscovery_asks(said, way);
        if found != to_find || ours != said {
            let names: Vec<&str> = way.iter().map(|router| &*router.name).collect();
            wrong.push(format!(
                "{} {names:?} ({choice:?}): meant {said:?}\nthe stranger finds {found:?}\nwe find {ours:?}\n{}\n{}",
                topology.name, mapping.account, hairpinning.account
            ));
        }
    }
    ensure!(wrong.is_empty(), "{} of {} otherwise:\n{}", wrong.len(), hosts.len(), wrong.join("\n"));
    Ok(())
}

/// coturn on both addresses, which makes it answer CHANGE-REQUEST.
fn coturn(lab: &Lab) -> Result<Process> {
    let mut command = lab.command("server", suite::path("TURNSERVER")?)?;
    command.args(["-n", "--no-cli", "--no-tls", "--no-dtls", "--no-auth", "--verbose", "--log-file=stdout"]);
    command.arg(format!("--pidfile={}", lab.directory().join("coturn.pid").display()));
    command.arg(format!("--userdb={}", lab.directory().join("coturn.db").display()));
    for address in SERVER {
        command.arg(format!("--listening-ip={address}"));
    }
    let coturn = Process::start("turnserver", &mut command)?;
    for address in SERVER {
        coturn.line(LIMIT, |line| line.contains("UDP listener opened on") && line.contains(address))?;
    }
    Ok(coturn)
}

fn stranger(lab: &Lab, host: &str, asks: &[&str]) -> Result<Process> {
    let mut command = lab.command(host, suite::path("NATDISCOVERY")?)?;
    command.args(asks).arg(SERVER[0]);
    Process::start("turnutils_natdiscovery", &mut command)
}

/// What the routers' own terms say, all of them together.
fn said(way: &[&Router]) -> Discovered {
    let (mut mapping, mut filtering) = (MappingBehavior::EndpointIndependent, FilteringBehavior::EndpointIndependent);
    let (mut hairpinning, mut port_preservation) = (true, true);
    for router in way {
        let lets_ask = router.egress.udp.as_ref().is_none_or(|ports| ports.iter().any(|ports| ports.contains(3478)));
        if !lets_ask || router.stateless_inbound.is_some() {
            return Discovered { udp: Some(false), ..Discovered::default() };
        }
        match &router.translation {
            Translation::Nat(terms) => {
                mapping = mapping.max(terms.mapping);
                filtering = filtering.max(terms.filtering);
                port_preservation &= terms.ports == PortAllocation::Preserving;
                // The outermost has the mapped address. What comes from outside with its own address a host drops.
                hairpinning = terms.hairpinning == Hairpinning::ExternalSource;
            }
            Translation::OneToOne { filtering: own, .. } => {
                filtering = filtering.max(*own);
                hairpinning = false;
            }
            // Its own address: what a host sends there never leaves it.
            Translation::Nothing { filtering: own, .. } => filtering = filtering.max(*own),
        }
    }
    Discovered {
        udp: Some(true),
        mapping: Some(mapping),
        filtering: Some(filtering),
        hairpinning: Some(hairpinning),
        port_preservation: Some(port_preservation),
    }
}

/// It sends from a second socket to the mapped address of the first, which has never sent there: the filter decides, too.
/// Where a router rewrites what STUN says, the mapped address is its own: what it sends there never leaves it.
fn as_natdiscovery_asks(said: Discovered, way: &[&Router]) -> Discovered {
    if way.iter().any(|router| router.alg == Some(Alg::Stun)) {
        return Discovered { hairpinning: Some(true), port_preservation: Some(true), ..said };
    }
    let translates = way.iter().any(|router| !matches!(router.translation, Translation::Nothing { .. }));
    let stopped = translates && said.filtering != Some(FilteringBehavior::EndpointIndependent);
    Discovered { hairpinning: said.hairpinning.map(|reaches| reaches && !stopped), ..said }
}

/// What natdiscovery has printed, in our words.
fn told(mapping: &str, hairpinning: &str) -> Discovered {
    let port = |what: &str| {
        let line = mapping.lines().find(|line| line.contains(what))?;
        line.rsplit_once(':').map(|(_, port)| port.trim().to_owned())
    };
    let (Some(outside), Some(local)) = (port("UDP reflexive addr"), port("Local addr")) else {
        return Discovered { udp: Some(false), ..Discovered::default() };
    };
    let says = |words: String| mapping.lines().any(|line| line.contains("NAT") && line.contains(&words));
    let found = |kind: MappingBehavior| says(format!("{} Mapping", words(kind)));
    let filters = |kind: FilteringBehavior| says(format!("{} Filtering", words(kind)));
    Discovered {
        udp: Some(true),
        mapping: MappingBehavior::ALL.into_iter().find(|kind| found(*kind)),
        filtering: FilteringBehavior::ALL.into_iter().find(|kind| filters(*kind)),
        hairpinning: Some(hairpinning.contains("Received a request")),
        port_preservation: Some(outside == local),
    }
}

/// A term in natdiscovery's spelling.
fn words(term: impl std::fmt::Display) -> &'static str {
    match &*term.to_string() {
        "endpoint-independent" => "Endpoint Independent",
        "address-dependent" => "Address Dependent",
        _ => "Address and Port Dependent",
    }
}
