//! `whyrelay check` over links that lose packets: the program itself, between kernels, behind the laboratory's user-space
//! router, which is each of the nine kinds of NAT in turn.
//!
//! CI makes a few runs; `WHYRELAY_CHECK_RUNS=100` makes so many at each loss.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::EventKind;
use whyrelay_core::trace::measurement::Measurement;
use whyrelay_core::trace::recording::Recording;
use whyrelay_lab::kernel::{Lab, Plan, RouterChoice};
use whyrelay_lab::scenario::Scenario;

use crate::check::{behavior, check_by};
use crate::check_lab::{WORDS, serve};
use crate::suite::{Suite, Tool};

/// Runs at each loss.
const RUNS: usize = 18;

/// Labs that run at the same time: a run mostly waits.
const AT_ONCE: usize = 3;

/// The losses, in percent and each way.
const LOSSES: [u32; 2] = [2, 10];

/// How long one way takes: 50 ms there and back.
const DELAY: &str = "25ms";

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("check_loss::mapping_and_filtering_are_right_in_every_run", &tools, every_run);
}

/// One run's times, from its first event on.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// Whether the server was told on the command line; else signaling announced it, whose TCP loses packets, too.
    named: bool,
    /// Until mapping and filtering were told.
    known: Duration,
    /// The whole process.
    whole: Duration,
}

fn every_run() -> Result<()> {
    let runs = match std::env::var("WHYRELAY_CHECK_RUNS") {
        Ok(number) => number.parse().with_context(|| format!("WHYRELAY_CHECK_RUNS={number}"))?,
        Err(_) => RUNS,
    };
    let kinds = || WORDS.iter().flat_map(|mapping| WORDS.iter().map(move |filtering| (*mapping, *filtering)));
    let labs: Vec<_> = LOSSES.iter().flat_map(|loss| kinds().enumerate().map(move |kind| (*loss, kind))).collect();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(&(loss, (number, kind))) = labs.get(next.fetch_add(1, Ordering::Relaxed)) {
            // Shared out among the nine kinds.
            let runs = (runs + number) / 9;
            let times = in_one_lab(loss, kind, runs);
            done.lock().map_err(|_| anyhow!("another lab failed"))?.push((loss, kind, times));
        }
        anyhow::Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?)
    })?;
    let done = done.into_inner().map_err(|_| anyhow!("a lab failed"))?;
    for loss in LOSSES {
        let mut all = Vec::new();
        for (_, kind, times) in done.iter().filter(|(of, ..)| *of == loss) {
            let times = times.as_ref().map_err(|error| anyhow!("{loss} % loss, {kind:?}: {error:#}"))?;
            all.extend(times.iter().copied());
        }
        ensure!(all.len() == runs, "{} of {runs} runs", all.len());
        println!("{loss} % loss: {runs} of {runs} right");
        for (named, words) in [(true, "named"), (false, "announced over lossy TCP")] {
            let those: Vec<Times> = all.iter().copied().filter(|times| times.named == named).collect();
            println!("  servers {words}: {}", summary(&those));
        }
    }
    Ok(())
}

/// Median and longest of both times.
fn summary(times: &[Times]) -> String {
    let of = |one: fn(&Times) -> Duration| {
        let mut all: Vec<Duration> = times.iter().map(one).collect();
        all.sort_unstable();
        let at = |part: usize| all.get(part.min(all.len().saturating_sub(1))).copied().unwrap_or_default().as_millis();
        format!("median {} ms, 95 % {} ms, longest {} ms", at(all.len() / 2), at(all.len() * 95 / 100), at(all.len()))
    };
    format!("known after: {}; whole: {}", of(|times| times.known), of(|times| times.whole))
}

fn in_one_lab(
    loss: u32,
    ((mapping, mapping_words), (filtering, filtering_words)): ((&str, &str), (&str, &str)),
    runs: usize,
) -> Result<Vec<Times>> {
    let text = format!(
        "title = \"A link that loses packets\"\n\
         [router.nat]\nmapping = \"{mapping_words}\"\nfiltering = \"{filtering_words}\"\nports = \"preserving\"\n\
         overloading = false\n\
         [host.a]\nbehind = \"nat\"\nlink = {{ delay = \"{DELAY}\", loss = {loss}.0 }}\n\
         [host.b]\nbehind = \"home-router\"\n\
         [expect]\npath = \"direct\"\n"
    );
    let scenario = Scenario::parse(&format!("check-loss-{loss}-{mapping}-{filtering}"), &text)?;
    let lab = Lab::up(Plan::of(&scenario.topology, RouterChoice::UserSpace)?)?;
    let (server, url) = serve(&lab, &scenario)?;
    let stun = format!("stun:{}:3478", scenario.topology.server_address());
    let mut all = Vec::new();
    for run in 0..runs {
        let file = tempfile::NamedTempFile::new()?;
        let path = file.path().display().to_string();
        let mut command = lab.command("a", env!("CARGO_BIN_EXE_whyrelay"))?;
        let began = Instant::now();
        // Named, and announced over signaling: then TCP is lossy, too.
        let named = run % 2 == 0;
        let by = if named { ["--stun", &stun] } else { ["--signal", &url] };
        let (json, ours) = check_by(&mut command, &[&by[..], &["--record", &path]].concat())?;
        let whole = began.elapsed();
        let known = (behavior(&json, "mapping"), behavior(&json, "filtering"));
        let context = || format!("run {run}: {known:?}: {}\n{}", ours.account, server.account());
        ensure!(known == (mapping_words, filtering_words), "{}", context());
        let known = known_after(&std::fs::read(file.path())?).with_context(context)?;
        all.push(Times { named, known, whole });
    }
    Ok(all)
}

/// From the first event to the later one of mapping and filtering.
pub(crate) fn known_after(recording: &[u8]) -> Result<Duration> {
    let recording = Recording::read(recording).map_err(|error| anyhow!("{error}"))?;
    let first = recording.events.first().context("an empty recording")?.at;
    let at = |is: fn(&Measurement) -> bool| -> Option<Timestamp> {
        let mut events = recording.events.iter();
        events.find(|event| matches!(&event.kind, EventKind::Measured(fact) if is(fact))).map(|event| event.at)
    };
    let mapping = at(|fact| matches!(fact, Measurement::Mapping { .. })).context("no mapping")?;
    let filtering = at(|fact| matches!(fact, Measurement::Filtering { .. })).context("no filtering")?;
    Ok(mapping.max(filtering).since(first))
}
