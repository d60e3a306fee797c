//! How soon scenarios are up in network namespaces: `lab_up WHYRELAY`, with whyrelay's own program. One after the other;
//! `cargo xtask bench lab` runs it. Prints the median and the slowest.

// The program's own: its library does not give it out.
#[path = "../../whyrelay/src/cli/lab/certify.rs"]
mod certify;

use std::error::Error;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use whyrelay_lab::kernel::{Conditions, Lab, Plan, RouterChoice, Services, cannot};
use whyrelay_lab::scenario::Scenario;

fn main() -> Result<(), Box<dyn Error>> {
    let program = std::env::args().nth(1).ok_or("name whyrelay's program")?;
    let interrupted = AtomicBool::new(false);
    let conditions = Conditions {
        program: Path::new(&program),
        routers: RouterChoice::AsDescribed,
        certify: Some(certify::certify),
        interrupted: &interrupted,
    };
    let mut taken: Vec<(f64, &str)> = Vec::new();
    for (name, text) in Scenario::embedded() {
        let topology = Scenario::parse(name, text)?.topology;
        if cannot(&topology, &conditions).is_some() {
            continue;
        }
        let begun = Instant::now();
        let lab = Lab::up(Plan::of(&topology, conditions.routers)?)?;
        let _services = Services::start(&lab, &topology, &conditions)?;
        taken.push((begun.elapsed().as_secs_f64(), name));
    }
    taken.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (slowest, name) = taken.last().ok_or("namespaces can express none")?;
    println!("median {:.3} s of {} scenarios", taken[taken.len() / 2].0, taken.len());
    println!("slowest {slowest:.3} s: {name}");
    Ok(())
}
