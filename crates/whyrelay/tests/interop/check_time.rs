//! How long `whyrelay check` takes: the whole of it, and until mapping and filtering are known.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use whyrelay_core::trace::recording::Recording;

use crate::check::{check, findings, our_server};
use crate::check_loss::known_after;
use crate::router::{Internet, Nat};
use crate::suite::{Suite, Tool};

/// The whole check, whatever the network does (GOALS.md).
const WHOLE: Duration = Duration::from_secs(3);

/// Until mapping and filtering are known behind a filtering NAT.
const KNOWN: Duration = Duration::from_secs(1);

/// Runs of each; the slowest counts.
const RUNS: usize = 3;

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("check_time::blocked_udp_is_named_within_three_seconds", &tools, blocked);
    suite.test("check_time::mapping_and_filtering_are_known_within_a_second", &tools, known);
}

fn blocked() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let site = internet.site(Nat::NoUdp)?;
    for run in 1..=RUNS {
        let file = tempfile::NamedTempFile::new()?;
        let path = file.path().display().to_string();
        let began = Instant::now();
        let (json, ours) = check(&site.host, &["--signal", server.url(), "--record", &path])?;
        let took = began.elapsed();
        ensure!(findings(&json).first() == Some(&"udp-blocked"), "{}", ours.account);
        let recording = Recording::read(&std::fs::read(file.path())?).map_err(|error| anyhow!("{error}"))?;
        let (first, last) = recording.events.first().zip(recording.events.last()).context("an empty recording")?;
        let recorded = last.at.since(first.at);
        println!("run {run}: {} ms, of which {} ms are recorded", took.as_millis(), recorded.as_millis());
        ensure!(took < WHOLE, "run {run} took {took:?}, of which {recorded:?} are recorded: {}", ours.account);
    }
    Ok(())
}

fn known() -> Result<()> {
    let mut internet = Internet::new()?;
    let server = our_server(&internet)?;
    let site = internet.site(Nat::Home)?;
    for run in 1..=RUNS {
        let file = tempfile::NamedTempFile::new()?;
        let path = file.path().display().to_string();
        let began = Instant::now();
        let (_, ours) = check(&site.host, &["--signal", server.url(), "--record", &path])?;
        let took = began.elapsed();
        let known = known_after(&std::fs::read(file.path())?).with_context(|| ours.account.clone())?;
        println!("run {run}: known after {} ms, {} ms in all", known.as_millis(), took.as_millis());
        ensure!(known < KNOWN, "run {run}: known after {known:?}: {}", ours.account);
        ensure!(took < WHOLE, "run {run} took {took:?}: {}", ours.account);
    }
    Ok(())
}
