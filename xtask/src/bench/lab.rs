//! The laboratory in namespaces: its router in user space beside the kernel's own, and how soon a scenario is up.

use std::process::Command;

use anyhow::{Context, Result};

use super::peers::median;
use super::{Comparison, Goal, counted};
use crate::step;

const RUNS: usize = 3;
/// Built with the other examples of a release.
const PROGRAM: &str = "target/release/examples/router_load";
const UP: &str = "target/release/examples/lab_up";
/// Seconds from nothing until a scenario's network is there and its server serves.
const UP_WITHIN: f64 = 2.0;

pub(super) fn run(runs: Option<usize>) -> Result<Vec<Comparison>> {
    let figures = ["round trip", "stream", "datagrams"];
    let (mut ours, mut kernel) = (vec![Vec::new(); figures.len()], vec![Vec::new(); figures.len()]);
    for () in counted(runs.unwrap_or(RUNS), "the router, and the kernel's") {
        for (router, all) in [("kernel", &mut kernel), ("user-space", &mut ours)] {
            let said = step::output(Command::new(PROGRAM).arg(router))?;
            for (figure, values) in figures.iter().zip(all.iter_mut()) {
                values.push(value(&said, figure)?);
            }
        }
    }
    let (ours, kernel): (Vec<f64>, Vec<f64>) =
        (ours.into_iter().map(median).collect(), kernel.into_iter().map(median).collect());
    // Every scenario that namespaces can express: the slowest decides.
    let up = step::output(Command::new(UP).arg("target/release/whyrelay"))?;
    println!("{}", up.trim());
    // Both ways of a round trip pass the router.
    let added = (ours[0] - kernel[0]) / 2.0;
    Ok(vec![
        Comparison::new("added latency, one way", "us", added, "kernel's round trip", kernel[0], Goal::AtMost(200.0)),
        Comparison::new("one TCP connection", "Mbit/s", ours[1], "kernel's NAT", kernel[1], Goal::AtLeast(500.0)),
        Comparison::new(
            "700 Mbit/s of datagrams of 1,400 bytes",
            "Mbit/s",
            ours[2],
            "kernel's NAT",
            kernel[2],
            Goal::AtLeast(500.0),
        ),
        Comparison::new(
            "the slowest scenario until it is up, the median beside",
            "s",
            value(&up, "slowest")?,
            "median",
            value(&up, "median")?,
            Goal::AtMost(UP_WITHIN),
        ),
    ])
}

/// The figure behind its name.
fn value(said: &str, figure: &str) -> Result<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix(figure));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("no {figure} in {said:?}"))
}

#[cfg(test)]
mod tests {
    use super::value;

    #[test]
    fn a_figure_is_read_behind_its_name() {
        let said = "round trip 51.5 us\nstream 900.0 Mbit/s\n";
        assert_eq!(value(said, "stream").ok(), Some(900.0));
        assert!(value(said, "datagrams").is_err());
    }
}
