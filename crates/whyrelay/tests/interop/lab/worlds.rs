//! The laboratory's two worlds agree, and in the real one direct means direct.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, anyhow, ensure};
use whyrelay_core::diagnosis::finding::Severity;
use whyrelay_lab::kernel::{Certify, Conditions, Ran, RouterChoice, cannot, run_kernel};
use whyrelay_lab::run::{Observed, judge, path_name, run_virtual};
use whyrelay_lab::scenario::Scenario;
use whyrelay_lab::scenario::file::{Path as Outcome, WorldKind};

use super::certify::certify;
use crate::suite::{Suite, Tool, each};

/// A session mostly waits.
const AT_ONCE: usize = 4;

/// The tests of this module.
pub(super) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("lab::both_worlds_agree_on_paths_and_findings", &tools, both_agree);
    suite.test("lab::direct_paths_carry_data_with_the_relay_cut", &tools, relay_cut);
}

/// Runs a scenario with this build's own program.
fn run(scenario: &Scenario, routers: RouterChoice, cut_relay: bool) -> Result<Ran> {
    let interrupted = AtomicBool::new(false);
    let program = Path::new(env!("CARGO_BIN_EXE_whyrelay"));
    let certify = Some(certify as Certify);
    let conditions = Conditions { program, routers, certify, interrupted: &interrupted, cut_relay };
    Ok(run_kernel(&scenario.topology, &conditions)?)
}

fn both_agree() -> Result<()> {
    let scenarios = Scenario::embedded().iter().map(|(name, text)| Scenario::parse(name, text));
    let mut scenarios = scenarios.collect::<Result<Vec<_>, _>>()?;
    let (interrupted, program) = (AtomicBool::new(false), Path::new(env!("CARGO_BIN_EXE_whyrelay")));
    let (routers, certify) = (RouterChoice::AsDescribed, Some(certify as Certify));
    let conditions = Conditions { program, routers, certify, interrupted: &interrupted, cut_relay: false };
    scenarios.retain(|scenario| {
        let both = scenario.topology.worlds.contains(&WorldKind::Virtual);
        let unable = cannot(&scenario.topology, &conditions);
        if let Some(reason) = &unable {
            eprintln!("skipped {}: {reason}", scenario.name);
        }
        (both || scenario.topology.worlds.contains(&WorldKind::Kernel)) && unable.is_none()
    });
    each(&scenarios, AT_ONCE, |scenario| {
        // On a machine that stands still for half a second ICE rightly prefers what answers: a second run must agree.
        agrees(scenario).or_else(|first| agrees(scenario).map_err(|second| anyhow!("{second:#}\n  before: {first:#}")))
    })
}

fn agrees(scenario: &Scenario) -> Result<()> {
    let name = &scenario.name;
    let real = run(scenario, RouterChoice::AsDescribed, false).map_err(|error| anyhow!("{name}: {error:#}"))?.observed;
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

/// As soon as both sides tell of a direct path, the server gets and sends nothing any more: data passes all the same.
fn relay_cut() -> Result<()> {
    let names = [
        "two-homes",
        "public-hosts",
        "same-network",
        "nat-ei-ad-against-home",
        "symmetric-against-full-cone",
        "stateful-firewalls",
    ];
    each(&names, AT_ONCE, |name| {
        let scenario = Scenario::find(name)?;
        let ran = run(&scenario, RouterChoice::AsDescribed, true).map_err(|error| anyhow!("{name}: {error:#}"))?;
        let observed = ran.observed;
        ensure!(observed.path == Some(Outcome::Direct), "{name}: {}", path_name(observed.path));
        ensure!(ran.relay_cut, "{name}: the relay was not cut");
        ensure!(observed.contradictions.is_empty(), "{name}: {:?}", observed.contradictions);
        Ok(())
    })
}
