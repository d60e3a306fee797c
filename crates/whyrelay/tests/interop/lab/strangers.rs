//! Strangers see the laboratory's NATs as its scenarios describe them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use whyrelay_core::nat::behavior::{FilteringBehavior, MappingBehavior};
use whyrelay_lab::kernel::{Lab, Plan, RouterChoice, Services};
use whyrelay_lab::run::path_name;
use whyrelay_lab::scenario::Scenario;
use whyrelay_lab::scenario::file::Path as Outcome;

use super::worlds::{AT_ONCE, run};
use crate::process::Process;
use crate::suite::{self, Suite, Tool, each};

/// A test of filtering waits for answers that never come.
const LIMIT: Duration = Duration::from_secs(60);
/// A test of filtering takes six seconds and next to no CPU time.
const MOSTLY_WAITING: usize = 12;
/// The two addresses of the laboratory's server.
const SERVER: [&str; 2] = ["198.51.100.1", "198.51.100.2"];

/// The tests of this module.
pub(super) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft, Tool::Turnserver];
    suite.test("lab::natdiscovery_finds_each_nat_as_its_scenario_says", &tools, natdiscovery);
    let tools = [Tool::NetworkNamespaces, Tool::Nft, Tool::Python];
    suite.test("lab::aioice_gets_the_outcome_of_our_agent_for_every_pair_with_a_first", &tools, || matrix(Side::A));
    suite.test("lab::aioice_gets_the_outcome_of_our_agent_for_every_pair_with_b_first", &tools, || matrix(Side::B));
}

/// Each mapping and filtering that a scenario expects, by each kind of router that can do it.
fn natdiscovery() -> Result<()> {
    let mut cases = Vec::new();
    for (name, text) in Scenario::embedded() {
        let scenario = Scenario::parse(name, text)?;
        if scenario.topology.expect.nat.is_empty() {
            continue;
        }
        let mut seen = Vec::new();
        for choice in [RouterChoice::Kernel, RouterChoice::UserSpace] {
            let Ok(plan) = Plan::of(&scenario.topology, choice) else { continue };
            let translators: Vec<String> = plan.in_user_space().into_iter().map(str::to_owned).collect();
            if !seen.contains(&translators) {
                seen.push(translators);
                cases.push((scenario.clone(), choice));
            }
        }
    }
    let by = |wanted| cases.iter().filter(|(_, choice)| *choice == wanted).count();
    ensure!(by(RouterChoice::Kernel) > 3 && by(RouterChoice::UserSpace) > 3, "{} cases", cases.len());
    each(&cases, MOSTLY_WAITING, |(scenario, choice)| {
        discover(scenario, *choice).map_err(|error| anyhow!("{} ({choice:?}): {error:#}", scenario.name))
    })
}

fn discover(scenario: &Scenario, choice: RouterChoice) -> Result<()> {
    let lab = Lab::up(Plan::of(&scenario.topology, choice)?)?;
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
    for (host, expected) in &scenario.topology.expect.nat {
        let mut command = lab.command(host, "turnutils_natdiscovery")?;
        command.args(["-m", "-f", SERVER[0]]);
        let found = Process::start("turnutils_natdiscovery", &mut command)?.finish(LIMIT)?;
        let wants = [
            expected.mapping.map(|mapping| format!("NAT with {} Mapping!", mapping_name(mapping))),
            expected.filtering.map(|filtering| format!("NAT with {} Filtering!", filtering_name(filtering))),
        ];
        for wanted in wants.into_iter().flatten() {
            ensure!(found.stdout.contains(&wanted), "{host}: not {wanted:?}: {}", found.account);
        }
    }
    Ok(())
}

const fn mapping_name(mapping: MappingBehavior) -> &'static str {
    match mapping {
        MappingBehavior::EndpointIndependent => "Endpoint Independent",
        MappingBehavior::AddressDependent => "Address Dependent",
        MappingBehavior::AddressAndPortDependent => "Address and Port Dependent",
    }
}

const fn filtering_name(filtering: FilteringBehavior) -> &'static str {
    match filtering {
        FilteringBehavior::EndpointIndependent => "Endpoint Independent",
        FilteringBehavior::AddressDependent => "Address Dependent",
        FilteringBehavior::AddressAndPortDependent => "Address and Port Dependent",
    }
}

/// The rows of the table of pairs: a name, and what a host is behind.
const KINDS: [(&str, &str); 6] = [
    ("open", "[]"),
    ("address-restricted", "\"home-router-address-restricted\""),
    ("port-restricted", "\"home-router\""),
    ("linux-input-accept", "\"linux-input-accept\""),
    ("symmetric", "\"pfsense\""),
    ("udp-blocked", "\"corporate-no-udp\""),
];

/// A host of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    A,
    B,
}

impl Side {
    const fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// Whether a direct path exists, by theory, when one of the two speaks first; `a` is before `b` in [`KINDS`] or like it.
fn theory(a: usize, b: usize, first: Side) -> bool {
    match (KINDS[a].0, KINDS[b].0) {
        (_, "udp-blocked") => false,
        ("open" | "address-restricted", _) | ("port-restricted", "port-restricted") => true,
        // The early packet of a takes the port of b's mapping for good, unless b's own came before it.
        ("port-restricted", "linux-input-accept") => first == Side::B,
        _ => false,
    }
}

/// The second to speak learns where to only when the first has long spoken.
fn pair(one: usize, other: usize, first: Side) -> Result<Scenario> {
    let ((a, behind_a), (b, behind_b), first) = (KINDS[one], KINDS[other], first.name());
    let text = format!(
        "title = \"a pair of the matrix\"\n[host.a]\nbehind = {behind_a}\n[host.b]\nbehind = {behind_b}\n\
         [signaling.{first}]\ncandidates-delay = \"1s\"\n[expect]\npath = \"direct\"\n"
    );
    Ok(Scenario::parse(&format!("{a}-and-{b}"), &text)?)
}

/// One Python program with two agents for each pair, all at the same time.
fn matrix(first: Side) -> Result<()> {
    let mut pairs = Vec::new();
    for one in 0..KINDS.len() {
        for other in one..KINDS.len() {
            pairs.push((pair(one, other, first)?, theory(one, other, first)));
        }
    }
    let mut labs = Vec::new();
    let mut orders = Vec::new();
    for (scenario, _) in &pairs {
        let lab = Lab::up(Plan::of(&scenario.topology, RouterChoice::AsDescribed)?)?;
        let services = Services::start(&lab, &scenario.topology, Path::new(env!("CARGO_BIN_EXE_whyrelay")))?;
        let order = serde_json::json!({
            "name": scenario.name,
            "a": lab.namespace("a")?,
            "b": lab.namespace("b")?,
            "stun": SERVER[0],
            "first": first.name(),
        });
        orders.push(order);
        labs.push((services, lab));
    }
    let mut command = std::process::Command::new(suite::path("PYTHON")?);
    command.arg("interop/aioice_pairs.py").arg(Value::from(orders).to_string());
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let aioice = Process::start("aioice", &mut command)?;
    // Ours in networks of their own, while aioice tries what does not work.
    let ours: Mutex<BTreeMap<String, Option<Outcome>>> = Mutex::default();
    each(&pairs, AT_ONCE, |(scenario, _)| {
        let path = run(scenario, RouterChoice::AsDescribed, false)?.observed.path;
        ours.lock().unwrap_or_else(PoisonError::into_inner).insert(scenario.name.clone(), path);
        Ok(())
    })?;
    let finished = aioice.finish(LIMIT)?;
    drop(labs);
    let ours = ours.into_inner().unwrap_or_else(PoisonError::into_inner);
    let outcomes: Value = serde_json::from_str(&finished.stdout).with_context(|| finished.account.clone())?;
    each(&pairs, AT_ONCE, |(scenario, theory)| {
        let name = &scenario.name;
        let theirs = match outcomes[name].as_str() {
            Some("direct") => true,
            Some("failed") => false,
            _ => bail!("{name}: aioice says nothing: {}", finished.account),
        };
        let mut ours = ours.get(name).copied().flatten();
        if (ours == Some(Outcome::Direct)) != theirs {
            // Where the first to speak stands still for so long it is the second: a second run must agree.
            ours = run(scenario, RouterChoice::AsDescribed, false)?.observed.path;
        }
        ensure!(theirs == *theory, "{name}: aioice direct: {theirs}, theory: {theory}");
        ensure!(
            (ours == Some(Outcome::Direct)) == theirs,
            "{name}: aioice direct: {theirs}, ours: {}",
            path_name(ours)
        );
        Ok(())
    })
}
