//! `whyrelay lab run --kernel`: scenarios in network namespaces, several at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use whyrelay_lab::kernel::{Conditions, LabError, cannot, privilege, programs, run_kernel};
use whyrelay_lab::run::judge;
use whyrelay_lab::scenario::Scenario;
use whyrelay_lab::work;

use super::args::RunArgs;
use super::certify::certify;
use super::run::{Done, Skipped, each};
use crate::cli::runtime;

/// A session mostly waits, so that more run than there are cores.
const JOBS_PER_CORE: usize = 2;

pub(super) fn run(args: &RunArgs, scenarios: &[Scenario]) -> anyhow::Result<Vec<Done>> {
    // Else each scenario would say so.
    programs()?;
    // Before the first thread: the kernel wants it so.
    privilege::acquire()?;
    let interrupted = watch_interrupts()?;
    let program = std::env::current_exe().context("finding this program's own file")?;
    let conditions = Conditions {
        program: &program,
        routers: args.routers.into(),
        certify: Some(certify),
        interrupted: &interrupted,
    };
    let jobs = args.jobs.map_or_else(|| work::cores() * JOBS_PER_CORE, usize::from);
    let done = each(scenarios, jobs, |scenario| one(scenario, &conditions));
    Ok(done)
}

fn one(scenario: &Scenario, conditions: &Conditions<'_>) -> Done {
    let because = |reason: String| Skipped { scenario: scenario.name.clone(), reason };
    if let Some(reason) = cannot(&scenario.topology, conditions) {
        return Done::Skipped(because(reason));
    }
    match run_kernel(&scenario.topology, conditions) {
        Ok(ran) => {
            let verdict = judge(&scenario.topology, &ran.observed);
            Done::Ran(Box::new((verdict, ran.observed)), Some(ran.up_after))
        }
        Err(LabError::Interrupted) => Done::NotRun(scenario.name.clone()),
        Err(LabError::Unsupported(reason)) => Done::Skipped(because(reason)),
        Err(error) => Done::Broken(because(format!("{:#}", anyhow::Error::new(error)))),
    }
}

/// A flag that Ctrl-C, SIGTERM and SIGHUP set, so that labs are taken down in order.
pub(in crate::cli) fn watch_interrupts() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = flag.clone();
    let (watches, watched) = std::sync::mpsc::channel();
    let watch = move || -> anyhow::Result<()> {
        runtime()?.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let mut hangup = signal(SignalKind::hangup())?;
            // Whoever started this waits for it.
            let _ = watches.send(());
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                set.store(true, Ordering::Relaxed);
            }
        })
    };
    std::thread::Builder::new()
        .name("lab signals".to_owned())
        .spawn(move || {
            if let Err(error) = watch() {
                tracing::warn!(%error, "signals are not watched")
            }
        })
        .context("starting a thread")?;
    // Fails when signals cannot be watched, which was said.
    let _ = watched.recv();
    Ok(flag)
}
