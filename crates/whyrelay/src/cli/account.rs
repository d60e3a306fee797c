//! Printing the account and what it says for the exit status.

use whyrelay_core::diagnosis::finding::Severity;
use whyrelay_core::diagnosis::session::Path;
use whyrelay_core::report::{
    CheckReport, Report, TextOptions, render_check_json, render_check_text, render_json, render_text,
};
use whyrelay_core::trace::event::Event;

use super::args::Format;
use super::{FINDING, HEALTHY, answer};

/// Prints the account of these events; answers the exit status.
pub(super) fn print(events: &[Event], format: Format, color: bool) -> anyhow::Result<u8> {
    if CheckReport::is_check(events) {
        return print_check(events, format, color);
    }
    let report = Report::from_events(events);
    let text = match format {
        Format::Text => render_text(&report, &TextOptions { color, ..TextOptions::default() }),
        Format::Json => render_json(&report),
    };
    answer(&text)?;
    Ok(status(&report))
}

/// The account of one host alone.
fn print_check(events: &[Event], format: Format, color: bool) -> anyhow::Result<u8> {
    let report = CheckReport::from_events(events);
    answer(&match format {
        Format::Text => render_check_text(&report, color),
        Format::Json => render_check_json(&report),
    })?;
    Ok(if report.healthy { HEALTHY } else { FINDING })
}

/// 0: direct, and nothing is wrong. 1: a finding.
fn status(report: &Report) -> u8 {
    let wrong = report.findings.iter().any(|finding| finding.severity != Severity::Info);
    if report.path == Path::Direct && !wrong { HEALTHY } else { FINDING }
}
