//! The laboratory's two worlds agree, and in the real one direct means direct.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, anyhow, ensure};
use whyrelay_core::diagnosis::finding::{Finding, Severity};
use whyrelay_lab::kernel::{Certify, Conditions, Plan, Ran, RouterChoice, cannot, run_kernel};
use whyrelay_lab::run::{Observed, judge, path_name, run_virtual};
use whyrelay_lab::scenario::file::WorldKind;
use whyrelay_lab::scenario::{Scenario, Topology};
use whyrelay_lab::work;

use super::certify::certify;
use crate::suite::{Suite, Tool};

/// A session mostly waits: it takes a quarter of a second of the processor and two or three of the clock.
const AT_ONCE: usize = 8;

/// Runs that may disagree once and agree the second time, of some 410: a fault that shows now and then is one, too.
const UNREPEATED: usize = 4;

/// Runs that are worth a second one: each takes some seconds, and so many are no noise.
const AGAIN: usize = 40;

/// Findings that one world alone may have where they do no harm, by code.
const APART: [&str; 2] = [
    // A session with a direct path is over, or its relay is cut off, before a server that is silent or late was given up:
    // when exactly is a matter of milliseconds.
    "WR301", "WR402",
];

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
    let described = runs.iter().filter(|(_, routers)| *routers == RouterChoice::AsDescribed).count();
    let other = runs.len() - described;
    eprintln!("{described} scenarios, and {other} runs with other routers than described");
    let files = Scenario::embedded().len();
    ensure!(described == files, "{described} of {files} scenarios between real kernels");
    ensure!(other > 150, "{other} runs with other routers");
    let mut outcomes = Vec::new();
    let first = work::each(&runs, AT_ONCE, |(scenario, routers)| agrees(scenario, *routers).err(), |_| ());
    let again: Vec<_> = first.iter().flatten().map(|first| format!("{first:#}")).collect();
    ensure!(again.len() <= AGAIN, "{} of {} disagree:\n{}", again.len(), runs.len(), again.join("\n"));
    let (mut unrepeated, mut differed) = (Vec::new(), Vec::new());
    for ((scenario, routers), first) in runs.iter().zip(first) {
        let outcome = match first {
            None => Outcome::Agreed,
            Some(first) => {
                // On a machine that stands still for half a second ICE rightly prefers what answers: a second run, with
                // nothing beside it, must agree.
                eprintln!("once more: {first:#}");
                match agrees(scenario, *routers) {
                    Ok(()) => {
                        unrepeated.push(format!("{first:#}"));
                        Outcome::AgreedThen
                    }
                    Err(second) => {
                        differed.push(format!("{second:#}\n  before: {first:#}"));
                        Outcome::Differed
                    }
                }
            }
        };
        let expects = !scenario.topology.expect.finding.is_empty();
        outcomes.push((*routers == RouterChoice::AsDescribed, expects, outcome));
    }
    if let Some(path) = std::env::var_os("WHYRELAY_KERNEL_FIGURE") {
        figure::write(Path::new(&path), &outcomes)?;
    }
    // In a long output the end is what is read.
    eprintln!("{} of {} runs agreed the second time only, {} not at all", unrepeated.len(), runs.len(), differed.len());
    ensure!(differed.is_empty(), "{} of {} disagree:\n{}", differed.len(), runs.len(), differed.join("\n"));
    let told = unrepeated.join("\n");
    ensure!(unrepeated.len() <= UNREPEATED, "more than {UNREPEATED} agreed the second time only:\n{told}");
    Ok(())
}

/// What came of one scenario between real kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It came out as it says, and as in virtual time.
    Agreed,
    /// Not at first, and when it was run once more.
    AgreedThen,
    /// Not at all.
    Differed,
}

/// The figure of docs/accuracy.md, which `cargo xtask accuracy --kernel` asks for by naming a file.
mod figure {
    use std::path::Path;
    use std::process::Command;

    use anyhow::{Context, Result};
    use serde_json::{Value, json};

    use super::Outcome;

    /// Writes what came of all runs: whether each had its routers as described, whether it expects a finding, and what came.
    pub(super) fn write(path: &Path, outcomes: &[(bool, bool, Outcome)]) -> Result<()> {
        let count = |is_counted: &dyn Fn(bool, bool) -> bool| {
            let of = |outcome: Outcome| {
                let of = |(described, expects, came): &&(bool, bool, Outcome)| {
                    is_counted(*described, *expects) && *came == outcome
                };
                outcomes.iter().filter(of).count()
            };
            let [at_once, then, never] = [Outcome::Agreed, Outcome::AgreedThen, Outcome::Differed].map(of);
            json!({ "runs": at_once + then + never, "agreed": at_once, "agreed_the_second_time": then })
        };
        let figure: Value = json!({
            "date": said("date", &["-u", "+%F"])?,
            "commit": said("git", &["rev-parse", "--short=10", "HEAD"])?,
            "kernel": said("uname", &["-r"])?,
            "scenarios": count(&|described, _| described),
            "with_a_finding": count(&|described, expects| described && expects),
            "other_routers": count(&|described, _| !described),
        });
        let text = serde_json::to_string_pretty(&figure).context("writing the figure")?;
        std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }

    /// What a program says.
    fn said(program: &str, arguments: &[&str]) -> Result<String> {
        let output = Command::new(program).args(arguments).output().with_context(|| format!("running {program}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// Every scenario as it describes its routers, and by each other program that can be one of them (`--routers`).
fn runs() -> Result<Vec<(Scenario, RouterChoice)>> {
    let (interrupted, program) = (AtomicBool::new(false), Path::new(env!("CARGO_BIN_EXE_whyrelay")));
    let mut runs = Vec::new();
    for (name, text) in Scenario::embedded() {
        let scenario = Scenario::parse(name, text)?;
        for routers in [RouterChoice::AsDescribed, RouterChoice::Kernel, RouterChoice::UserSpace] {
            let certify = Some(certify as Certify);
            let conditions = Conditions { program, routers, certify, interrupted: &interrupted };
            match cannot(&scenario.topology, &conditions) {
                Some(reason) if routers == RouterChoice::AsDescribed => eprintln!("skipped {name}: {reason}"),
                Some(_) => {}
                None if !differs(&scenario.topology, routers)? => {}
                None => runs.push((scenario.clone(), routers)),
            }
        }
    }
    Ok(runs)
}

/// Whether a choice makes a network otherwise than those before it.
fn differs(topology: &Topology, choice: RouterChoice) -> Result<bool> {
    let described = Plan::of(topology, RouterChoice::AsDescribed)?;
    Ok(choice == RouterChoice::AsDescribed || Plan::of(topology, choice)?.in_user_space() != described.in_user_space())
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
    let best = (real.report.expected, simulated.report.expected);
    ensure!(
        best.0 == best.1,
        "{name}: the best path is {:?} between real kernels, {:?} in virtual time",
        best.0,
        best.1
    );
    let faults = (faults(&real), faults(&simulated));
    ensure!(
        faults.0 == faults.1,
        "{name}: between real kernels the findings are {:?}, in virtual time {:?}",
        faults.0,
        faults.1
    );
    let (in_real, in_virtual) = (found(&real), found(&simulated));
    for (more, fewer) in [(&in_real, &in_virtual), (&in_virtual, &in_real)] {
        let world = if std::ptr::eq(more, &raw const in_real) { WorldKind::Kernel } else { WorldKind::Virtual };
        let only: Vec<_> = more.difference(fewer).collect();
        ensure!(only.is_empty(), "{name}: only in the {world:?} world: {only:?}");
    }
    Ok(())
}

/// What does harm, in the order of the account: the root cause first.
fn faults(observed: &Observed) -> Vec<(&str, &str)> {
    let findings = observed.report.findings.iter().filter(|finding| finding.severity != Severity::Info);
    findings.map(|finding| (finding.code, finding.blame.name())).collect()
}

/// Codes of findings, those that do no harm as well, and whom they blame.
fn found(observed: &Observed) -> BTreeSet<(String, String)> {
    let is_apart = |finding: &&Finding| finding.severity == Severity::Info && APART.contains(&finding.code);
    let findings = observed.report.findings.iter().filter(|finding| !is_apart(finding));
    findings.map(|finding| (finding.code.to_owned(), finding.blame.name().to_owned())).collect()
}
