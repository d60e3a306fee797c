//! The account of a check for a terminal.

use std::fmt::Write as _;

use super::super::text::fold::fold;
use super::super::text::{Paint, Style, TextOptions, WIDTH, findings, harmless, heading, wrap};
use super::{CheckReport, Row, Section, State};
use crate::diagnosis::finding::{Blame, Finding};

/// The account as text.
pub fn render_check_text(report: &CheckReport, options: &TextOptions) -> String {
    let paint = Paint::new(options.color, options.width());
    let mut out = String::new();
    let (word, style) = match (report.healthy, report.known) {
        (true, false) if !report.looked() => ("NOT MEASURED", Style::Warn),
        (true, _) if !report.complete => ("INCOMPLETE", Style::Warn),
        (true, true) => ("HEALTHY", Style::Good),
        (true, false) => ("NOTHING FOUND", Style::Warn),
        (false, _) => ("FINDINGS", Style::Bad),
    };
    let _ = writeln!(out, "{}", paint.apply(style, word));
    wrap(&mut out, paint, "  ", &report.summary);
    if !report.findings.is_empty() {
        let place = |finding: &Finding| if finding.blame == Blame::A { "this host" } else { finding.place() };
        findings::of(&mut out, &report.findings, report.pseudonyms, paint, place);
    }
    rows(&mut out, &report.rows, paint);
    if !report.not_measured.is_empty() {
        heading(&mut out, "Not measured", paint);
        for missing in &report.not_measured {
            wrap(&mut out, paint, "  ", &format!("- {}: {}", missing.what, missing.why));
        }
    }
    harmless(&fold(&out, options.columns), options.color)
}

/// The rows alone, for a table that is drawn again while they come.
pub fn render_check_rows(report: &CheckReport, color: bool) -> String {
    let mut out = String::new();
    rows(&mut out, &report.rows, Paint::new(color, WIDTH));
    harmless(&out, color)
}

fn rows(out: &mut String, rows: &[Row], paint: Paint) {
    let mut at = (None, "");
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for row in rows {
        if at.0 != Some(row.section) {
            heading(out, title(row.section), paint);
            at = (Some(row.section), "");
        }
        if at.1 != row.subject {
            let _ = writeln!(out, "  {}", paint.apply(Style::Faint, &row.subject));
            at.1 = &row.subject;
        }
        let value = match row.state {
            State::Plain => row.value.clone(),
            State::Good => paint.apply(Style::Good, &row.value),
            State::Warning => paint.apply(Style::Warn, &row.value),
            State::Bad => paint.apply(Style::Bad, &row.value),
        };
        let mark = match row.state {
            State::Bad => 'X',
            State::Warning => '!',
            State::Plain | State::Good => ' ',
        };
        let _ = writeln!(out, "  {mark} {:<width$}  {value}", row.name);
    }
}

const fn title(section: Section) -> &'static str {
    match section {
        Section::Nat => "NAT and firewall, for each address of this host",
        Section::Udp => "What gets through, for each destination",
        Section::Servers => "Servers",
        Section::AsProgram => "As another program (--as), beside a plain one",
        Section::Ipv6 => "IPv6",
        Section::WayOut => "The way out",
    }
}
