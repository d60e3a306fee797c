//! `whyrelay lab draw`.

use whyrelay_lab::draw;
use whyrelay_lab::scenario::Scenario;

use super::super::{HEALTHY, answer};
use super::args::{DrawArgs, DrawFormat};

pub(super) fn run(args: &DrawArgs) -> anyhow::Result<u8> {
    let Scenario { topology, .. } = Scenario::find(&args.scenario)?;
    answer(&match args.format {
        DrawFormat::Text => draw::text(&topology),
        DrawFormat::Svg => draw::svg(&topology),
    })?;
    Ok(HEALTHY)
}
