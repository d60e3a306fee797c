//! `whyrelay check` over links that lose packets: the program itself, between kernels, behind the laboratory's user-space
//! router, which is each of the nine kinds of NAT in turn.
//!
//! CI makes a few runs; `WHYRELAY_CHECK_RUNS=100` makes so many at each loss.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

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
pub(crate) const AT_ONCE: usize = 3;

/// The losses, in percent and each way.
const LOSSES: [u32; 2] = [2, 10];

/// How long one way takes: 50 ms there and back.
const DELAY: &str = "25ms";

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("check_loss::mapping_and_filtering_are_right_in_every_run", &tools, every_run);
}

/// By when mapping and filtering are known, and the whole check is over (GOALS.md), from its first event on: by the
/// recording's clock, as a busy machine is late with starting and ending a process.
pub(crate) const KNOWN: Duration = Duration::from_secs(1);
pub(crate) const WHOLE: Duration = Duration::from_secs(3);

/// One run's times, from its first event on.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// Whether the server was told on the command line; else signaling announced it, whose TCP loses packets, too.
    named: bool,
    /// Until mapping and filtering were told.
    known: Duration,
    /// Until the last event.
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
    let failed = |(loss, kind, times): &(u32, _, Result<Vec<Times>>)| {
        times.as_ref().err().map(|error| format!("{loss} % loss, {kind:?}: {error:#}"))
    };
    let failures: Vec<String> = done.iter().filter_map(failed).collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    for loss in LOSSES {
        let of_loss = done.iter().filter(|(of, ..)| *of == loss);
        let all: Vec<Times> = of_loss.flat_map(|(.., times)| times.iter().flatten()).copied().collect();
        ensure!(all.len() == runs, "{} of {runs} runs", all.len());
        println!("{loss} % loss: {runs} of {runs} right");
        for (named, words) in [(true, "named"), (false, "announced over lossy TCP")] {
            let those: Vec<Times> = all.iter().copied().filter(|times| times.named == named).collect();
            println!("  servers {words}: {}", summary(&those));
            let late = those.iter().filter(|times| times.known >= KNOWN).count();
            let allowed = (those.len() * late_of_hundred(loss, named)).div_ceil(100);
            ensure!(late <= allowed, "{late} of {}, and {allowed} may be: {those:?}", those.len());
        }
    }
    Ok(())
}

/// How many of a hundred runs may know the NAT later than [`KNOWN`]. One answer in five is lost where one packet in ten is, the
/// same one more than once in some runs. Where signaling announces the server, its lossy TCP comes first: the system sends a
/// lost segment again after 200 ms, a SYN after 1 s.
const fn late_of_hundred(loss: u32, named: bool) -> usize {
    match (loss < 5, named) {
        (true, true) => 1,
        (true, false) | (false, true) => 5,
        (false, false) => 25,
    }
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
        // Named, and announced over signaling: then TCP is lossy, too.
        let named = run % 2 == 0;
        let by = if named { ["--stun", &stun] } else { ["--signal", &url] };
        let recording = tempfile::NamedTempFile::new()?;
        let path = recording.path().display().to_string();
        let mut command = lab.command("a", env!("CARGO_BIN_EXE_whyrelay"))?;
        let looked = one_run(&mut command, &[&by[..], &["--record", &path]].concat(), (mapping_words, filtering_words));
        match looked {
            Ok((known, whole)) => all.push(Times { named, known, whole }),
            Err(error) => {
                let text = format!("{}, run {run}: {error:?}\n{}", scenario.name, server.account());
                let kept = keep(&format!("{}-{run}", scenario.name), &text, recording.path());
                return Err(error.context(format!("run {run}, {}", kept.unwrap_or_else(|error| format!("{error:#}")))));
            }
        }
    }
    Ok(all)
}

/// Until mapping and filtering were told, as expected, and until the last event.
fn one_run(command: &mut Command, arguments: &[&str], expected: (&str, &str)) -> Result<(Duration, Duration)> {
    let (json, ours) = check_by(command, arguments)?;
    let known = (behavior(&json, "mapping"), behavior(&json, "filtering"));
    // All of it: an account shows the end only.
    ensure!(known == expected, "{known:?} instead of {expected:?}: {}\n{json:#}", ours.account);
    let recording = arguments.last().context("a file")?;
    let context = || format!("{}\n{json:#}", ours.account);
    let bytes = std::fs::read(recording)?;
    let (known, whole) = (known_after(&bytes).with_context(context)?, recorded(&bytes)?);
    ensure!(whole < WHOLE, "{whole:?} in all: {}", context());
    Ok((known, whole))
}

/// Leaves what a failed run told where it outlives the test's output: one of some hundred runs fails, and not again when
/// it is looked for. Says where.
fn keep(name: &str, text: &str, recording: &Path) -> Result<String> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("check-loss");
    std::fs::create_dir_all(&directory)?;
    let account = directory.join(format!("{name}.txt"));
    std::fs::write(&account, text)?;
    std::fs::copy(recording, directory.join(format!("{name}.jsonl")))?;
    Ok(format!("kept as {} with its recording", account.display()))
}

/// From the first event to the last.
pub(crate) fn recorded(recording: &[u8]) -> Result<Duration> {
    let recording = Recording::read(recording).map_err(|error| anyhow!("{error}"))?;
    let (first, last) = recording.events.first().zip(recording.events.last()).context("an empty recording")?;
    Ok(last.at.since(first.at))
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
