//! Printing the account and what it says for the exit status.

use whyrelay_core::diagnosis::finding::Severity;
use whyrelay_core::diagnosis::session::Path;
use whyrelay_core::report::{Report, TextOptions, render_json, render_text};
use whyrelay_core::trace::event::Event;

use super::args::Format;
use super::{FINDING, HEALTHY, answer};

/// Prints the account of these events; answers the exit status.
pub(super) fn print(events: &[Event], format: Format, color: bool) -> anyhow::Result<u8> {
    let report = Report::from_events(events);
    let text = match format {
        Format::Text => render_text(&report, &TextOptions { color, ..TextOptions::default() }),
        Format::Json => render_json(&report),
    };
    answer(&text)?;
    Ok(status(&report))
}

/// 0: direct, and nothing is wrong. 1: a finding.
fn status(report: &Report) -> u8 {
    let wrong = report.findings.iter().any(|finding| finding.severity != Severity::Info);
    if report.path == Path::Direct && !wrong { HEALTHY } else { FINDING }
}
