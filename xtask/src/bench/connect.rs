//! How long a user waits for a data channel, and what one peer costs until then.

use anyhow::Result;

use super::peers::{Kind, Sample, make_network, median, session, signaling_server};
use super::{Comparison, Goal, counted};

/// Enough to see one slow open in a hundred.
const RUNS: usize = 100;
/// An open that takes longer is one that waited for something.
const SLOW_MS: f64 = 500.0;
/// What both kinds of peer say on stderr then.
const OPEN: &str = "is open";

pub(super) fn run(runs: Option<usize>) -> Result<Vec<Comparison>> {
    let (ours, pion) = (Kind::ours(&[])?, Kind::pion(&[])?);
    let str0m = Kind::str0m();
    if let Err(error) = &str0m {
        eprintln!("not measured: {error:#}");
    }
    make_network()?;
    let _server = signaling_server()?;
    let (mut our_samples, mut pion_samples, mut str0m_samples) = (Vec::new(), Vec::new(), Vec::new());
    for () in counted(runs.unwrap_or(RUNS), "a session of each") {
        pion_samples.push(session(&pion, OPEN)?);
        our_samples.push(session(&ours, OPEN)?);
        if let Ok(str0m) = &str0m {
            str0m_samples.push(session(str0m, OPEN)?);
        }
    }
    let row = |what, unit, figure: &dyn Fn(&[Sample]) -> f64, goal| {
        Comparison::new(what, unit, figure(&our_samples), "Pion", figure(&pion_samples), goal)
    };
    let beside = |what, unit, name| {
        let figure = middle(name);
        Comparison::new(what, unit, figure(&our_samples), "str0m", figure(&str0m_samples), Goal::None)
    };
    Ok(vec![
        row("open, median", "ms", &middle("marker_ms"), Goal::RatioAtMost(1.0)),
        row("opens over 500 ms", "% of runs", &slow_share, Goal::AtMost(0.0)),
        row("CPU of the offerer until open", "ms", &middle("cpu_ms"), Goal::RatioAtMost(1.0)),
        row("peak memory of the offerer until open", "KiB", &middle("memory_kib"), Goal::RatioAtMost(0.8)),
        // The rest is pages of files, which all processes of a program share and the system takes back.
        row("of that, memory of its own at the open", "KiB", &middle("own_memory_kib"), Goal::None),
        // Ours goes on to measure round trips, and both sides write and exchange the account.
        row("CPU of the offerer until its end", "ms", &middle("whole_cpu_ms"), Goal::None),
        row("peak memory of the offerer until its end", "KiB", &middle("whole_memory_kib"), Goal::None),
        // No interfaces listed, no trickle, one candidate each: what the protocols alone cost.
        beside("open, median", "ms", "marker_ms"),
        beside("CPU of the offerer until open", "ms", "cpu_ms"),
        beside("peak memory of the offerer until open", "KiB", "memory_kib"),
    ])
}

fn middle(name: &'static str) -> impl Fn(&[Sample]) -> f64 {
    move |all| median(all.iter().map(|one| one.figure(name)))
}

/// In percent.
fn slow_share(samples: &[Sample]) -> f64 {
    let slow = samples.iter().filter(|one| one.figure("marker_ms") > SLOW_MS).count();
    100.0 * slow as f64 / samples.len() as f64
}
