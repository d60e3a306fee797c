//! `whyrelay lab list`.

use std::fmt::Write as _;

use whyrelay_lab::run::path_name;
use whyrelay_lab::scenario::{PRESETS, Scenario};

use super::super::{HEALTHY, answer};
use super::args::ListArgs;

pub(super) fn run(args: &ListArgs) -> anyhow::Result<u8> {
    let mut text = String::new();
    if args.presets {
        let width = PRESETS.iter().map(|preset| preset.name.len()).max().unwrap_or(0);
        for preset in PRESETS {
            let _ = writeln!(text, "{:<width$}  {}", preset.name, preset.about);
        }
    } else {
        let width = Scenario::embedded().iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, source) in Scenario::embedded() {
            let scenario = Scenario::parse(name, source)?;
            let path = path_name(Some(scenario.topology.expect.path));
            let _ = writeln!(text, "{name:<width$}  {path:<8}  {}", scenario.topology.title);
        }
    }
    answer(&text)?;
    Ok(HEALTHY)
}
