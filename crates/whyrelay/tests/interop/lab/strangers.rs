//! A stranger finds each of the laboratory's NATs as its scenario says: coturn's `turnutils_natdiscovery`.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use whyrelay_core::nat::behavior::{FilteringBehavior, Hairpinning, MappingBehavior, PortAllocation};
use whyrelay_lab::discover::discover;
use whyrelay_lab::kernel::{Lab, Plan, RouterChoice};
use whyrelay_lab::scenario::file::Discovered;
use whyrelay_lab::scenario::topology::{Router, Translation};
use whyrelay_lab::scenario::{PRESETS, Scenario, Topology};

use crate::process::Process;
use crate::suite::{self, Suite, Tool};

/// A test of filtering and one of hairpinning wait twice for 3 s for what never comes.
const LIMIT: Duration = Duration::from_secs(30);
/// The two addresses of the laboratory's server.
pub(super) const SERVER: [&str; 2] = ["198.51.100.1", "198.51.100.2"];

/// The tests of this module.
pub(super) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft, Tool::Turnserver, Tool::NatDiscovery];
    suite.test("lab::natdiscovery_finds_each_nat_as_its_scenario_says", &tools, natdiscovery);
}

/// Every preset and every mix of mapping and filtering, each in front of a host of its own: all by user-space routers,
/// and by the kernel's what nftables can do.
fn natdiscovery() -> Result<()> {
    let all = hosts();
    let every = scenario(&all)?;
    let by_kernel: Vec<Place> = {
        let plan = Plan::of(&every.topology, RouterChoice::Kernel)?;
        let translated = plan.in_user_space();
        let router = |place: &Place| every.topology.routers.iter().find(|router| place.is_behind(router));
        let chosen =
            all.iter().filter(|place| router(place).is_some_and(|router| !translated.contains(&&*router.name)));
        chosen.cloned().collect()
    };
    ensure!(by_kernel.len() > 15 && by_kernel.len() < all.len(), "{} by nftables", by_kernel.len());
    std::thread::scope(|scope| {
        let kernel = scope.spawn(|| asked(&by_kernel, RouterChoice::Kernel));
        asked(&all, RouterChoice::UserSpace)?;
        kernel.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A host and the one router in front of it.
#[derive(Clone, Debug)]
struct Place {
    host: String,
    /// A preset, or a router that the scenario describes.
    behind: String,
    /// The description.
    router: Option<String>,
}

impl Place {
    fn is_behind(&self, router: &Router) -> bool {
        router.name == self.behind || router.name == format!("{}-{}", self.host, self.behind)
    }
}

/// The hosts of a scenario with every NAT.
fn hosts() -> Vec<Place> {
    let presets = PRESETS.iter().map(|preset| (preset.name.to_owned(), None));
    let mut mixes = Vec::new();
    for mapping in MappingBehavior::ALL {
        for filtering in FilteringBehavior::ALL {
            let mut mix = |ports: &str, overloading: bool| {
                let name = format!("{}-{}-{ports}", short(mapping), short(filtering));
                let terms = format!(
                    "mapping = \"{mapping}\"\nfiltering = \"{filtering}\"\nports = \"{ports}\"\noverloading = {overloading}"
                );
                mixes.push((name, Some(terms)));
            };
            mix("random", false);
            // A router that keeps ports maps as if it were endpoint-independent.
            if mapping == MappingBehavior::EndpointIndependent {
                mix("preserving", true);
            }
        }
    }
    for source in ["external-source", "internal-source"] {
        let terms = format!("filtering = \"endpoint-independent\"\nhairpinning = \"{source}\"");
        mixes.push((format!("hairpin-{source}"), Some(terms)));
    }
    let places = presets.chain(mixes).enumerate();
    places.map(|(number, (behind, router))| Place { host: format!("h{number}"), behind, router }).collect()
}

/// A term in a router's name.
fn short(term: impl std::fmt::Display) -> String {
    term.to_string().split('-').filter(|word| *word != "and").filter_map(|word| word.get(..1)).collect()
}

fn scenario(places: &[Place]) -> Result<Scenario> {
    let mut text = "title = \"every NAT\"\n[host.a]\n[host.b]\n[expect]\npath = \"direct\"\n".to_owned();
    for Place { host, behind, router } in places {
        writeln!(text, "[host.{host}]\nbehind = {behind:?}")?;
        if let Some(terms) = router {
            writeln!(text, "[router.{behind}]\n{terms}")?;
        }
    }
    Ok(Scenario::parse("every-nat", &text)?)
}

/// Has a stranger on each host ask about the NAT in front of it, all at the same time.
fn asked(places: &[Place], choice: RouterChoice) -> Result<()> {
    let topology = scenario(places)?.topology;
    let lab = Lab::up(Plan::of(&topology, choice)?)?;
    let _coturn = coturn(&lab)?;
    let mut running = Vec::new();
    for place in places {
        running.push([stranger(&lab, place, &["-m", "-f"])?, stranger(&lab, place, &["-H"])?]);
    }
    let mut wrong = Vec::new();
    for (place, strangers) in places.iter().zip(running) {
        let said = said(&topology, place).with_context(|| format!("{place:?} has no router"))?;
        let [mapping, hairpinning] = strangers.map(|stranger| stranger.finish(LIMIT));
        let (mapping, hairpinning) = (mapping?, hairpinning?);
        let found = told(&mapping.stdout, &hairpinning.stdout);
        let ours = discover(&topology, &place.host);
        let to_find = as_natdiscovery_asks(said, router_of(&topology, place));
        if found != to_find || ours != said {
            wrong.push(format!(
                "{} ({choice:?}): meant {said:?}\nthe stranger finds {found:?}\nwe find {ours:?}\n{}\n{}",
                place.behind, mapping.account, hairpinning.account
            ));
        }
    }
    ensure!(wrong.is_empty(), "{} of {} otherwise:\n{}", wrong.len(), places.len(), wrong.join("\n"));
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

fn stranger(lab: &Lab, place: &Place, asks: &[&str]) -> Result<Process> {
    let mut command = lab.command(&place.host, suite::path("NATDISCOVERY")?)?;
    command.args(asks).arg(SERVER[0]);
    Process::start("turnutils_natdiscovery", &mut command)
}

/// What the router's own terms say.
fn said(topology: &Topology, place: &Place) -> Option<Discovered> {
    let router = router_of(topology, place)?;
    let lets_ask = router.egress.udp.as_ref().is_none_or(|ports| ports.iter().any(|ports| ports.contains(3478)));
    if !lets_ask || router.stateless_inbound.is_some() {
        return Some(Discovered { udp: Some(false), ..Discovered::default() });
    }
    let (mapping, filtering, hairpinning, port_preservation) = match &router.translation {
        Translation::Nat(terms) => {
            let keeps = terms.ports == PortAllocation::Preserving;
            // What comes from outside with its own address a host drops.
            (terms.mapping, terms.filtering, terms.hairpinning == Hairpinning::ExternalSource, keeps)
        }
        Translation::OneToOne { filtering, .. } => (MappingBehavior::EndpointIndependent, *filtering, false, true),
        // Its own address: what a host sends there never leaves it.
        Translation::Nothing { filtering, .. } => (MappingBehavior::EndpointIndependent, *filtering, true, true),
    };
    Some(Discovered {
        udp: Some(true),
        mapping: Some(mapping),
        filtering: Some(filtering),
        hairpinning: Some(hairpinning),
        port_preservation: Some(port_preservation),
    })
}

/// It sends from a second socket to the mapped address of the first, which has never sent there: the filter decides, too.
fn as_natdiscovery_asks(said: Discovered, router: Option<&Router>) -> Discovered {
    let translates = router.is_some_and(|router| !matches!(router.translation, Translation::Nothing { .. }));
    let stopped = translates && said.filtering != Some(FilteringBehavior::EndpointIndependent);
    Discovered { hairpinning: said.hairpinning.map(|reaches| reaches && !stopped), ..said }
}

fn router_of<'a>(topology: &'a Topology, place: &Place) -> Option<&'a Router> {
    topology.routers.iter().find(|router| place.is_behind(router))
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
