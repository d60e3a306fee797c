//! `whyrelay lab run`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
#[cfg(not(target_os = "linux"))]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use whyrelay_core::report::{TextOptions, render_text};
use whyrelay_lab::run::{Observed, Verdict, cannot_virtually, judge, run_virtual_unless};
use whyrelay_lab::scenario::Scenario;
use whyrelay_lab::work;

use super::super::files::Files;
use super::super::{COULD_NOT_LOOK, FINDING, HEALTHY, answer, terminal_columns};
use super::args::{RunArgs, TableFormat};
use super::table::{beside, counted, table};
use super::{junit, left, removal};

/// What became of one scenario.
pub(super) enum Done {
    /// It ran; the time is how long its network took to build, where it had to be built.
    Ran(Box<(Verdict, Observed)>, Option<Duration>),
    /// This world cannot express it.
    Skipped(Skipped),
    /// It could not be run.
    Broken(Skipped),
    /// It was interrupted, or did not begin because of that.
    NotRun(String),
}

/// A scenario that did not run, and why.
#[derive(serde::Serialize)]
pub(super) struct Skipped {
    pub(super) scenario: String,
    pub(super) reason: String,
}

pub(super) fn run(args: &RunArgs, color: bool) -> anyhow::Result<u8> {
    let Chosen { scenarios, broken: unread } = choose(&args.scenarios)?;
    if scenarios.is_empty() && unread.is_empty() {
        anyhow::bail!(
            "there is nothing to run: no file there ends with .toml\nhint: `whyrelay lab list` names scenarios that come with whyrelay"
        );
    }
    must_differ(args, &scenarios)?;
    written_later(args)?;
    let done = match args.kernel {
        _ if scenarios.is_empty() => Vec::new(),
        true => in_namespaces(args, &scenarios)?,
        false => in_virtual_time(args, &scenarios)?,
    };
    let (mut results, mut skipped, mut broken, mut up) = (Vec::new(), Vec::new(), unread, Vec::new());
    let mut not_run = Vec::new();
    for done in done {
        match done {
            Done::Ran(result, up_after) => {
                results.push(*result);
                up.extend(up_after);
            }
            Done::Skipped(scenario) => skipped.push(scenario),
            Done::Broken(scenario) => broken.push(scenario),
            Done::NotRun(scenario) => not_run.push(scenario),
        }
    }
    let verdicts: Vec<&Verdict> = results.iter().map(|(verdict, _)| verdict).collect();
    let left = left();
    let mut text = String::new();
    if args.account {
        for (verdict, observed) in &results {
            let _ = writeln!(text, "==== {}\n", verdict.scenario);
            text.push_str(&render_text(&observed.report, &TextOptions { color, ..TextOptions::default() }));
            text.push('\n');
        }
    }
    match args.format {
        TableFormat::Text => {
            let columns = terminal_columns();
            text.push_str(&table(&verdicts, color, columns));
            text.push_str(&beside(&skipped, &broken, &up, columns));
            if !not_run.is_empty() {
                let networks = if args.kernel { format!("; {}", removal(left.as_deref())) } else { String::new() };
                let _ = writeln!(text, "interrupted: {} not run{}", counted(not_run.len()), networks);
            }
        }
        TableFormat::Json => {
            let object = serde_json::json!({
                "schema": "whyrelay.lab/1",
                "results": verdicts,
                "skipped": skipped,
                "broken": broken,
                "not_run": not_run,
            });
            text = serde_json::to_string_pretty(&object).context("writing JSON")? + "\n";
        }
        TableFormat::Junit => text = junit::render(&verdicts, &skipped, &broken, &not_run),
    }
    // No result, and told beside them: whatever their format is.
    let is_told = args.format == TableFormat::Text && !not_run.is_empty();
    if let Some(left) = left.as_ref().filter(|_| !is_told) {
        crate::tell!("{left}");
    }
    answer(&text)?;
    // The table first: it is not lost with a disk that is full by now.
    if let Some(directory) = &args.record {
        record(directory, &results)?;
    }
    if let Some(file) = &args.junit {
        let text = junit::render(&verdicts, &skipped, &broken, &not_run);
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    if results.is_empty() && broken.is_empty() && not_run.is_empty() {
        let other = match args.kernel {
            true => "without --kernel they run in virtual time, as far as that can express them",
            false => "--kernel runs them in namespaces, as far as those can express them",
        };
        anyhow::bail!("nothing ran: every scenario was skipped, for the reasons above\nhint: {other}");
    }
    let is_whole = broken.is_empty() && not_run.is_empty() && left.is_none();
    Ok(match (is_whole, verdicts.iter().all(|verdict| verdict.passed())) {
        (false, _) => COULD_NOT_LOOK,
        (true, true) => HEALTHY,
        (true, false) => FINDING,
    })
}

/// What is interrupted leaves the results of what has run.
fn in_virtual_time(args: &RunArgs, scenarios: &[Scenario]) -> anyhow::Result<Vec<Done>> {
    #[cfg(target_os = "linux")]
    let interrupted = super::watch_interrupts()?;
    #[cfg(not(target_os = "linux"))]
    let interrupted = AtomicBool::new(false);
    let jobs = args.jobs.map_or_else(work::cores, usize::from);
    Ok(each(scenarios, jobs, |scenario| {
        if interrupted.load(Ordering::Relaxed) {
            return Done::NotRun(scenario.name.clone());
        }
        if let Some(reason) = cannot_virtually(&scenario.topology) {
            return Done::Skipped(Skipped { scenario: scenario.name.clone(), reason });
        }
        let Some(observed) = run_virtual_unless(&scenario.topology, &interrupted) else {
            return Done::NotRun(scenario.name.clone());
        };
        Done::Ran(Box::new((judge(&scenario.topology, &observed), observed)), None)
    }))
}

#[cfg(target_os = "linux")]
fn in_namespaces(args: &RunArgs, scenarios: &[Scenario]) -> anyhow::Result<Vec<Done>> {
    super::kernel::run(args, scenarios)
}

#[cfg(not(target_os = "linux"))]
fn in_namespaces(_: &RunArgs, _: &[Scenario]) -> anyhow::Result<Vec<Done>> {
    anyhow::bail!("network namespaces are Linux's own\nhint: leave out --kernel for virtual time")
}

/// Runs each scenario, with a line on stderr when it is done.
pub(super) fn each(scenarios: &[Scenario], jobs: usize, run: impl Fn(&Scenario) -> Done + Sync) -> Vec<Done> {
    let (total, count) = (scenarios.len(), AtomicUsize::new(0));
    work::each(scenarios, jobs, run, |done| {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        match done {
            Done::Ran(result, up_after) => {
                let outcome = if result.0.passed() { "ok" } else { "WRONG" };
                let up = up_after.map_or_else(String::new, |up| format!(" (up in {:.2} s)", up.as_secs_f64()));
                crate::tell!("[{number}/{total}] {outcome} {}{up}", result.0.scenario);
            }
            Done::Skipped(skipped) => {
                crate::tell!("[{number}/{total}] skipped {}: {}", skipped.scenario, skipped.reason);
            }
            Done::NotRun(_) => {}
            Done::Broken(broken) => crate::tell!("[{number}/{total}] BROKEN {}: {}", broken.scenario, broken.reason),
        }
    })
}

/// The scenarios to run.
struct Chosen {
    scenarios: Vec<Scenario>,
    /// Files of directories that are none.
    broken: Vec<Skipped>,
}

/// The scenarios of names, files and directories. A wrong file of a directory keeps none of the others from running.
fn choose(wanted: &[String]) -> anyhow::Result<Chosen> {
    let (mut found, mut broken) = (Vec::new(), Vec::new());
    if wanted.is_empty() {
        for (name, text) in Scenario::embedded() {
            found.push(((*name).to_owned(), Scenario::parse(name, text)?));
        }
    }
    for wanted in wanted {
        let path = Path::new(wanted);
        if !path.is_dir() {
            found.push((wanted.clone(), Scenario::find(wanted)?));
            continue;
        }
        for file in Scenario::files(path)? {
            let place = file.display().to_string();
            match Scenario::read(&file) {
                Ok(scenario) => found.push((place, scenario)),
                Err(error) => {
                    let reason = format!("{:#}", anyhow::Error::new(error));
                    crate::tell!("BROKEN {reason}");
                    broken.push(Skipped { scenario: place, reason });
                }
            }
        }
    }
    let mut scenarios: Vec<Scenario> = Vec::new();
    let mut places: Vec<String> = Vec::new();
    for (place, scenario) in found {
        match scenarios.iter().position(|earlier| earlier.name == scenario.name) {
            // Asked for twice.
            Some(earlier) if scenarios[earlier] == scenario => {}
            Some(earlier) => anyhow::bail!(
                "two scenarios have the name {}: {} and {place}\nhint: rename one of the files, or run one after the other",
                scenario.name,
                places[earlier]
            ),
            None => {
                scenarios.push(scenario);
                places.push(place);
            }
        }
    }
    Ok(Chosen { scenarios, broken })
}

/// Refuses files of which one would destroy another.
fn must_differ(args: &RunArgs, scenarios: &[Scenario]) -> anyhow::Result<()> {
    let mut read: Vec<PathBuf> = Vec::new();
    for path in args.scenarios.iter().map(PathBuf::from) {
        match path.is_dir() {
            true => read.extend(Scenario::files(&path)?),
            false => read.push(path),
        }
    }
    let recordings: Vec<PathBuf> = match &args.record {
        None => Vec::new(),
        Some(directory) => scenarios
            .iter()
            .flat_map(|scenario| SIDES.map(|side| recording_file(directory, &scenario.name, side)))
            .collect(),
    };
    Files::default()
        .read("the scenario", &read)
        .written("--record", &recordings)
        .written("--junit", &args.junit)
        .must_differ()
}

/// Says before the run what could not be written after it.
fn written_later(args: &RunArgs) -> anyhow::Result<()> {
    if let Some(directory) = &args.record {
        if !directory.exists() {
            fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
            crate::tell!("made the directory {}", directory.display());
        }
        let trial = directory.join(format!(".whyrelay-{}", std::process::id()));
        fs::write(&trial, "").with_context(|| format!("writing into {}", directory.display()))?;
        fs::remove_file(&trial).with_context(|| format!("removing {}", trial.display()))?;
    }
    if let Some(file) = &args.junit {
        // What is there stays until there is something new.
        let opened = fs::OpenOptions::new().create(true).append(true).open(file);
        opened.with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

const SIDES: [&str; 2] = ["a", "b"];

/// Where the recording of one side goes.
fn recording_file(directory: &Path, scenario: &str, side: &str) -> PathBuf {
    directory.join(format!("{scenario}-{side}.jsonl"))
}

fn record(directory: &Path, results: &[(Verdict, Observed)]) -> anyhow::Result<()> {
    for (verdict, observed) in results {
        for (side, recording) in SIDES.iter().zip(&observed.recordings) {
            let file = recording_file(directory, &verdict.scenario, side);
            fs::write(&file, recording).with_context(|| format!("writing {}", file.display()))?;
        }
    }
    Ok(())
}
