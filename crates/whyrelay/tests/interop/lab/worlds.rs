//! The laboratory's two worlds agree, and in the real one direct means direct.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, anyhow, ensure};
use whyrelay_core::diagnosis::finding::Severity;
use whyrelay_lab::kernel::{Certify, Conditions, Plan, Ran, RouterChoice, cannot, run_kernel};
use whyrelay_lab::run::{Observed, judge, path_name, run_virtual};
use whyrelay_lab::scenario::file::WorldKind;
use whyrelay_lab::scenario::topology::{Router, Translation};
use whyrelay_lab::scenario::{Scenario, Topology};

use super::certify::certify;
use crate::suite::{Suite, Tool, each};

/// A session mostly waits.
const AT_ONCE: usize = 4;

/// The tests of this module.
pub(super) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("lab::both_worlds_agree_on_paths_and_findings", &tools, both_agree);
}

/// Runs a scenario with this build's own program.
fn run(scenario: &Scenario, routers: RouterChoice) -> Result<Ran> {
    let interrupted = AtomicBool::new(false);
    let program = Path::new(env!("CARGO_BIN_EXE_whyrelay"));
    let certify = Some(certify as Certify);
    let conditions = Conditions { program, routers, certify, interrupted: &interrupted };
    Ok(run_kernel(&scenario.topology, &conditions)?)
}

fn both_agree() -> Result<()> {
    let runs = runs()?;
    let other = runs.iter().filter(|(_, routers)| *routers != RouterChoice::AsDescribed).count();
    eprintln!("{} runs, {other} of them with other routers than described", runs.len());
    ensure!(other > 10, "{other} runs with other routers");
    each(&runs, AT_ONCE, |(scenario, routers)| {
        // On a machine that stands still for half a second ICE rightly prefers what answers: a second run must agree.
        agrees(scenario, *routers)
            .or_else(|first| agrees(scenario, *routers).map_err(|second| anyhow!("{second:#}\n  before: {first:#}")))
    })
}

/// Every scenario as it describes its routers; and for every kind of router that can be another program than that
/// (`--routers`), one scenario where it is. With `WHYRELAY_LAB_RUNS` set, for a long night, every scenario by every program.
fn runs() -> Result<Vec<(Scenario, RouterChoice)>> {
    let (interrupted, program) = (AtomicBool::new(false), Path::new(env!("CARGO_BIN_EXE_whyrelay")));
    let (mut described, mut others, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    let (mut possible, every) = (0, std::env::var_os("WHYRELAY_LAB_RUNS").is_some());
    for (name, text) in Scenario::embedded() {
        let scenario = Scenario::parse(name, text)?;
        for routers in [RouterChoice::AsDescribed, RouterChoice::Kernel, RouterChoice::UserSpace] {
            let certify = Some(certify as Certify);
            let conditions = Conditions { program, routers, certify, interrupted: &interrupted };
            let unable = cannot(&scenario.topology, &conditions);
            match (routers, unable) {
                (RouterChoice::AsDescribed, Some(reason)) => eprintln!("skipped {name}: {reason}"),
                (RouterChoice::AsDescribed, None) => described.push((scenario.clone(), routers)),
                (_, Some(_)) => {}
                (_, None) => {
                    let kinds = otherwise(&scenario.topology, routers)?;
                    possible += usize::from(!kinds.is_empty());
                    // All of them: a router's kind is seen where it is what it is named.
                    if !kinds.is_subset(&seen) || every && !kinds.is_empty() {
                        seen.extend(kinds);
                        others.push((scenario.clone(), routers));
                    }
                }
            }
        }
    }
    eprintln!("{} of {possible} possible runs with other routers than described", others.len());
    Ok(described.into_iter().chain(others).collect())
}

/// The kinds of the routers that another choice makes otherwise than the scenario describes them.
fn otherwise(topology: &Topology, choice: RouterChoice) -> Result<BTreeSet<String>> {
    let described = Plan::of(topology, RouterChoice::AsDescribed)?;
    let chosen = Plan::of(topology, choice)?;
    let differs = |router: &&Router| {
        chosen.in_user_space().contains(&&*router.name) != described.in_user_space().contains(&&*router.name)
    };
    Ok(topology.routers.iter().filter(differs).map(|router| kind(router, choice)).collect())
}

/// What a router does, without its addresses.
fn kind(router: &Router, choice: RouterChoice) -> String {
    let translation = match &router.translation {
        Translation::OneToOne { filtering, .. } => format!("one-to-one {filtering}"),
        other => format!("{other:?}"),
    };
    let Router { egress, rejects, stateless_inbound, forwards, icmp, link, .. } = router;
    let (forwards, small) = (!forwards.is_empty(), link.mtu.is_some());
    format!("{choice:?} {translation} {egress:?} {rejects:?} {stateless_inbound:?} {forwards} {icmp} {small}")
}

fn agrees(scenario: &Scenario, routers: RouterChoice) -> Result<()> {
    let name = format!("{} ({routers:?})", scenario.name);
    let real = run(scenario, routers).map_err(|error| anyhow!("{name}: {error:#}"))?.observed;
    let verdict = judge(&scenario.topology, &real);
    ensure!(verdict.passed(), "{name}: real kernels: {}", verdict.problems.join("; "));
    if !scenario.topology.worlds.contains(&WorldKind::Virtual) {
        return Ok(());
    }
    let simulated = run_virtual(&scenario.topology);
    ensure!(
        real.path == simulated.path,
        "{name}: {} between real kernels, {} in virtual time",
        path_name(real.path),
        path_name(simulated.path)
    );
    let (in_real, in_virtual) = (found(&real), found(&simulated));
    for (more, fewer) in [(&in_real, &in_virtual), (&in_virtual, &in_real)] {
        let world = if std::ptr::eq(more, &raw const in_real) { WorldKind::Kernel } else { WorldKind::Virtual };
        let only: Vec<_> = more.difference(fewer).collect();
        ensure!(only.is_empty(), "{name}: only in the {world:?} world: {only:?}");
    }
    Ok(())
}

/// Codes of findings that matter, and whom they blame.
fn found(observed: &Observed) -> BTreeSet<(String, String)> {
    let findings = observed.report.findings.iter().filter(|finding| finding.severity != Severity::Info);
    findings.map(|finding| (finding.code.to_owned(), finding.blame.name().to_owned())).collect()
}
