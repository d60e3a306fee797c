//! `whyrelay lab run`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use whyrelay_core::report::{TextOptions, render_text};
use whyrelay_lab::run::{Observed, Verdict, judge, path_name, run_virtual};
use whyrelay_lab::scenario::Scenario;
use whyrelay_lab::scenario::file::WorldKind;

use super::super::{FINDING, HEALTHY, answer};
use super::args::{RunArgs, TableFormat};
use super::{junit, work};

pub(super) fn run(args: &RunArgs, color: bool) -> anyhow::Result<u8> {
    if args.kernel {
        anyhow::bail!(
            "this build cannot run scenarios in network namespaces\nhint: leave out --kernel for virtual time"
        );
    }
    let world = WorldKind::Virtual;
    let scenarios = scenarios(&args.scenarios)?;
    let (mut able, unable): (Vec<_>, Vec<_>) =
        scenarios.into_iter().partition(|scenario| scenario.topology.worlds.contains(&world));
    able.dedup_by(|one, other| one.name == other.name);
    for scenario in &unable {
        eprintln!("skipped {}: virtual time cannot express it", scenario.name);
    }
    if able.is_empty() {
        anyhow::bail!("there is nothing to run\nhint: `whyrelay lab list` names the scenarios");
    }
    let jobs = args.jobs.map_or_else(work::cores, usize::from);
    let (total, count) = (able.len(), AtomicUsize::new(0));
    let results = work::each(
        &able,
        jobs,
        |scenario| {
            let observed = run_virtual(&scenario.topology);
            (judge(&scenario.topology, &observed), observed)
        },
        |(verdict, _)| {
            let number = count.fetch_add(1, Ordering::Relaxed) + 1;
            let outcome = if verdict.passed() { "ok" } else { "WRONG" };
            eprintln!("[{number}/{total}] {outcome} {}", verdict.scenario);
        },
    );
    if let Some(directory) = &args.record {
        record(directory, &results)?;
    }
    let verdicts: Vec<&Verdict> = results.iter().map(|(verdict, _)| verdict).collect();
    if let Some(file) = &args.junit {
        fs::write(file, junit::render(&verdicts)).with_context(|| format!("writing {}", file.display()))?;
    }
    let mut text = String::new();
    if args.account {
        for (verdict, observed) in &results {
            let _ = writeln!(text, "==== {}\n", verdict.scenario);
            text.push_str(&render_text(&observed.report, &TextOptions { color, ..TextOptions::default() }));
            text.push('\n');
        }
    }
    match args.format {
        TableFormat::Text => text.push_str(&table(&verdicts, color)),
        TableFormat::Json => {
            let object = serde_json::json!({ "schema": "whyrelay.lab/1", "results": verdicts });
            text = serde_json::to_string_pretty(&object).context("writing JSON")? + "\n";
        }
        TableFormat::Junit => text = junit::render(&verdicts),
    }
    answer(&text)?;
    Ok(if verdicts.iter().all(|verdict| verdict.passed()) { HEALTHY } else { FINDING })
}

/// The scenarios of names, files and directories.
fn scenarios(wanted: &[String]) -> anyhow::Result<Vec<Scenario>> {
    let mut scenarios = Vec::new();
    if wanted.is_empty() {
        for (name, text) in Scenario::embedded() {
            scenarios.push(Scenario::parse(name, text)?);
        }
    }
    for wanted in wanted {
        let path = Path::new(wanted);
        if path.is_dir() {
            scenarios.extend(Scenario::read_directory(path)?);
        } else {
            scenarios.push(Scenario::find(wanted)?);
        }
    }
    Ok(scenarios)
}

fn record(directory: &Path, results: &[(Verdict, Observed)]) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    for (verdict, observed) in results {
        for (side, recording) in ["a", "b"].iter().zip(&observed.recordings) {
            let file = directory.join(format!("{}-{side}.jsonl", verdict.scenario));
            fs::write(&file, recording).with_context(|| format!("writing {}", file.display()))?;
        }
    }
    Ok(())
}

/// The table of expected against got.
fn table(verdicts: &[&Verdict], color: bool) -> String {
    let paint = |text: String, code: u8| if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text };
    let width = verdicts.iter().map(|verdict| verdict.scenario.len()).max().unwrap_or(0).max(8);
    let mut text = format!("{:<width$}  {:<8}  {:<8}  {:>8}  first finding\n", "scenario", "expected", "got", "ms");
    for verdict in verdicts {
        let got = format!("{:<8}", path_name(verdict.path));
        let got = paint(got, if verdict.path == Some(verdict.expected_path) { 32 } else { 31 });
        let usable = verdict.usable_after_ms.map_or_else(|| "-".to_owned(), |after| format!("{after:.0}"));
        let first = verdict.findings.first().map_or_else(|| "-".to_owned(), ToString::to_string);
        let expected = path_name(Some(verdict.expected_path));
        let _ = writeln!(text, "{:<width$}  {expected:<8}  {got}  {usable:>8}  {first}", verdict.scenario);
        for problem in &verdict.problems {
            let _ = writeln!(text, "{:<width$}  {}", "", paint(format!("! {problem}"), 31));
        }
        for unknown in &verdict.unknown {
            let _ = writeln!(text, "{:<width$}  no rule looks for {unknown} yet", "");
        }
    }
    let wrong = verdicts.iter().filter(|verdict| !verdict.passed()).count();
    let _ = match wrong {
        0 => writeln!(text, "\n{} scenarios, all as expected", verdicts.len()),
        wrong => writeln!(text, "\n{} scenarios, {wrong} not as expected", verdicts.len()),
    };
    text
}
