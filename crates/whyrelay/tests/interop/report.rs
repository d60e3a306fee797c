//! The saved report of a session of the largest size, in a real browser.

use std::process::Command;

use anyhow::{Result, anyhow, ensure};
use serde_json::Value;
use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::report::{Report, render_html};
use whyrelay_core::trace::event::Vantage;
use whyrelay_core::trace::recording::Recording;

use crate::builder::{Check, Fate, Session};
use crate::peers;
use crate::process::Process;
use crate::suite::{self, Suite, Tool};

// Names that the builder takes from its own tests.
pub(crate) const A: &str = "192.168.1.2:40000";
pub(crate) const A_MAPPED: &str = "203.0.113.1:40000";
pub(crate) const B_MAPPED: &str = "198.51.100.2:50000";

/// Of sessions that are explained: what failed, what is relayed, and a program's sockets beside plain ones.
const RECORDINGS: [&str; 3] = [
    include_str!("../../../whyrelay-core/tests/recordings/failed.jsonl"),
    include_str!("../../../whyrelay-core/tests/recordings/relayed.jsonl"),
    include_str!("../../../whyrelay-core/tests/recordings/as-program.jsonl"),
];

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    suite.test("report::of_the_largest_session_stays_usable", &[Tool::Chromium], largest);
    suite.test("report::keeps_nobody_out", &[Tool::Chromium], read);
}

fn largest() -> Result<()> {
    let report = Report::from_events(&session().events);
    ensure!(report.candidates.len() == 400 && report.pairs.len() >= 100, "{} pairs", report.pairs.len());
    let result = opened("report", &report)?;
    // For a reader of the log; how fast it is depends on what else the machine does.
    println!("{result}");
    for size in ["desktop", "phone"] {
        let seen = &result[size];
        ensure!(seen["faults"].as_array().is_some_and(Vec::is_empty), "{size}: {result}");
        ensure!(seen["wide"] == false, "{size}: it has to be scrolled sideways: {result}");
        ensure!(seen["open"].as_u64() >= Some(4), "{size}: nothing unfolds: {result}");
        ensure!(seen["nodes"].as_u64().is_some_and(|nodes| nodes < 40_000), "{size}: {result}");
    }
    Ok(())
}

/// What the browser says of a saved report.
fn opened(scenario: &str, report: &Report) -> Result<Value> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("report.html");
    std::fs::write(&file, render_html(report))?;
    let mut command = Command::new(suite::path("NODE")?);
    command.arg(peers::source("page/run.mjs")).args([scenario, "--url", &format!("file://{}", file.display())]);
    if let Some(shots) = std::env::var_os("WHYRELAY_INTEROP_SHOTS") {
        command.arg("--shot").arg(shots);
    }
    peers::success(Process::start("the report", &mut command)?)
}

/// Whoever reads with a keyboard, a screen reader, in the dark or on paper.
fn read() -> Result<()> {
    for recording in RECORDINGS {
        let recording = Recording::read(recording.as_bytes()).map_err(|error| anyhow!("{error}"))?;
        let result = opened("read", &Report::from_events(&recording.events))?;
        for colors in ["light", "dark"] {
            ensure!(result[colors].as_array().is_some_and(Vec::is_empty), "{colors}: {result}");
        }
        ensure!(result["paper"] == "%PDF-", "it cannot be printed: {result}");
    }
    Ok(())
}

/// 200 candidates a side, 100 pairs, 10,000 checks, of which a third is lost.
fn session() -> Session {
    let mut session = Session::new();
    for number in 0..200 {
        let a = format!("10.20.{}.{}:40000", number / 100, number % 100 + 1);
        let b = format!("10.30.{}.{}:50000", number / 100, number % 100 + 1);
        session.candidate(Vantage::A, CandidateType::Host, &a, &a, None);
        session.candidate(Vantage::B, CandidateType::Host, &b, &b, None);
    }
    for check in 0..10_000 {
        let remote = format!("198.51.100.2:{}", 10_000 + check % 100);
        let fate = if check % 3 == 0 { Fate::LostOnTheWay } else { Fate::Answered };
        let (local, seen_at, seen_from) = (A, "10.0.0.2:50000", A_MAPPED);
        let by = Vantage::A;
        session.check(Check {
            by,
            local,
            remote: &remote,
            seen_at,
            seen_from,
            transmissions: 1,
            nominate: false,
            fate,
        });
    }
    session
}
