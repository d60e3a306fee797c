//! `whyrelay lab list`.

use std::fmt::Write as _;

use whyrelay_lab::run::path_name;
use whyrelay_lab::scenario::{PRESETS, Scenario};

use super::super::{HEALTHY, answer};
use super::args::ListArgs;

pub(super) fn run(args: &ListArgs) -> anyhow::Result<u8> {
    let mut text = String::new();
    if args.presets {
        for preset in PRESETS {
            let _ = writeln!(text, "{:<32}{}", preset.name, preset.about);
        }
    } else {
        for (name, source) in Scenario::embedded() {
            let scenario = Scenario::parse(name, source)?;
            let path = path_name(Some(scenario.topology.expect.path));
            let _ = writeln!(text, "{name:<36}{path:<9}{}", scenario.topology.title);
        }
    }
    answer(&text)?;
    Ok(HEALTHY)
}
