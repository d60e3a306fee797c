//! How much a data channel carries: reliable messages of 16 KiB, one way, loopback.

use std::process::Command;

use anyhow::{Context, Result};

use super::peers::{Kind, make_network, median, session, signaling_server, tool};
use super::{Comparison, Goal, counted};
use crate::step;

const RUNS: usize = 5;

pub(super) fn run(runs: Option<usize>) -> Result<Vec<Comparison>> {
    let (ours, pion) = (Kind::ours(&["--throughput", "3s"])?, Kind::pion(&["-throughput", "3"])?);
    let str0m = tool("STR0M");
    if let Err(error) = &str0m {
        eprintln!("not measured: {error:#}");
    }
    make_network()?;
    let _server = signaling_server()?;
    let (mut our_rates, mut pion_rates, mut str0m_rates) = (Vec::new(), Vec::new(), Vec::new());
    for () in counted(runs.unwrap_or(RUNS), "a channel of each") {
        pion_rates.push(rate(&session(&pion, "throughput to")?.line)?);
        our_rates.push(rate(&session(&ours, "throughput to the other side:")?.line)?);
        if let Ok(str0m) = &str0m {
            str0m_rates.push(rate(&step::output(Command::new(str0m).arg("throughput"))?)?);
        }
    }
    let (ours, pion, str0m) = (median(our_rates), median(pion_rates), median(str0m_rates));
    let what = "reliable messages of 16 KiB, median";
    Ok(vec![
        Comparison::new(what, "Mbit/s", ours, "Pion", pion, Goal::RatioAtLeast(2.0)),
        Comparison::new(what, "Mbit/s", ours, "str0m", str0m, Goal::RatioAtLeast(1.0)),
    ])
}

/// The figure before the unit.
fn rate(line: &str) -> Result<f64> {
    let figure = line.split("Mbit/s").next().and_then(|before| before.split_whitespace().last());
    figure.and_then(|figure| figure.parse().ok()).with_context(|| format!("no rate in {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn a_rate_is_read_from_either_peers_line() {
        let rate = rate("  1.5s throughput to the other side: 123.4 Mbit/s").expect("a rate");
        assert!((rate - 123.4).abs() < f64::EPSILON);
        assert!(super::rate("nothing").is_err());
    }
}
