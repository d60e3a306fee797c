//! `whyrelay lab list`.

use std::fmt::Write as _;

use whyrelay_lab::run::path_name;
use whyrelay_lab::scenario::{PRESETS, Scenario, TERMS};

use super::super::{HEALTHY, answer};
use super::args::ListArgs;

pub(super) fn run(args: &ListArgs) -> anyhow::Result<u8> {
    let mut text = String::new();
    if args.presets {
        for preset in PRESETS {
            let _ = writeln!(text, "{}: {}", preset.name, preset.about);
            let terms = TERMS.iter().zip(preset.terms()).filter(|(_, said)| said != "-");
            let terms: Vec<String> = terms.map(|(term, said)| format!("{term} {said}")).collect();
            let _ = writeln!(text, "    {}", terms.join("; "));
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
