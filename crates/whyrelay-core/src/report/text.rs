//! The account for a terminal: about 100 columns, readable without color.

pub(super) mod findings;
pub(super) mod fold;
mod paint;
mod pairs;
mod tables;

use std::fmt::Write as _;

pub(super) use paint::{Paint, Style};

use super::{Report, SideSummary, words};
use crate::diagnosis::session::Path;
use crate::trace::event::Role;

/// How to render.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextOptions {
    /// Use ANSI colors.
    pub color: bool,
    /// Show every pair, also those that were never checked.
    pub all_pairs: bool,
    /// Columns of the terminal that it is for: longer lines go on below. `None`: a file or a pipe, where each row of a
    /// table and each chain is one line.
    pub columns: Option<usize>,
}

impl TextOptions {
    /// Columns of a sentence, at most.
    pub(super) fn width(&self) -> usize {
        self.columns.map_or(WIDTH, |columns| columns.min(WIDTH))
    }
}

/// The account as text.
pub fn render_text(report: &Report, options: &TextOptions) -> String {
    let paint = Paint::new(options.color, options.width());
    let mut out = String::new();
    verdict(&mut out, report, paint);
    findings::render(&mut out, report, paint);
    asides(&mut out, report, paint);
    sides(&mut out, report, paint);
    tables::candidates(&mut out, report, options.columns, paint);
    pairs::render(&mut out, report, options, paint);
    not_measured(&mut out, report, paint);
    harmless(&fold::fold(&out, options.columns), options.color)
}

/// Text without control characters but line feeds and, where there is color, our own color sequences: ids, reasons and
/// candidates come from the other side, and must not move the reader's cursor.
pub(super) fn harmless(text: &str, color: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let sequence = if color && c == '\u{1b}' { color_sequence(rest) } else { 0 };
        if sequence > 0 {
            out.push_str(&rest[..sequence]);
            rest = &rest[sequence..];
            continue;
        }
        out.push(if c == '\t' { '\u{FFFD}' } else { super::markup::visible(c) });
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// Bytes of the color sequence (`ESC [ digits m`) that the text begins with, or 0.
fn color_sequence(text: &str) -> usize {
    let Some(body) = text.strip_prefix("\u{1b}[") else { return 0 };
    let parameters = body.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b';').count();
    if body.as_bytes().get(parameters) == Some(&b'm') { 2 + parameters + 1 } else { 0 }
}

fn verdict(out: &mut String, report: &Report, paint: Paint) {
    let style = match report.path {
        _ if !report.decided => Style::Warn,
        Path::Direct if report.over_tcp => Style::Warn,
        Path::Direct => Style::Good,
        Path::Relayed => Style::Warn,
        Path::Failed => Style::Bad,
    };
    // A note that is a sentence of its own stands behind a colon.
    let note = match report.note {
        "" => String::new(),
        note if note.starts_with("these") => format!(": {note}"),
        note => format!(", {note}"),
    };
    let _ = writeln!(out, "{}{note}", paint.apply(style, report.heading));
    wrap(out, paint, "  ", &report.reason);
    for way in words::ways(report) {
        wrap(out, paint, "  ", &way);
    }
    if let Some(selected) = &report.selected_pair {
        let rtt =
            selected.rtt_ms.map_or_else(|| "round trip not measured".to_owned(), |ms| format!("round trip {ms:.1} ms"));
        let _ = writeln!(out, "  {rtt}");
    }
}

fn asides(out: &mut String, report: &Report, paint: Paint) {
    for aside in super::asides(report) {
        heading(out, &aside.heading, paint);
        if let Some(lead) = &aside.lead {
            wrap(out, paint, "  ", lead);
        }
        for point in &aside.points {
            // What is an event stands in a row with its like.
            let bullet = if point.seq.is_some() { "" } else { "- " };
            wrap(out, paint, "  ", &format!("{bullet}{}", point.words));
        }
        if let Some(conclusion) = aside.conclusion {
            wrap(out, paint, "  ", conclusion);
        }
    }
}

fn sides(out: &mut String, report: &Report, paint: Paint) {
    heading(out, "Sides", paint);
    for (name, part, side) in [("A", "offerer", &report.a), ("B", "answerer", &report.b)] {
        let Some(side) = side else {
            let _ = writeln!(out, "  {name}  {part:<8}  not recorded");
            continue;
        };
        let mut words = vec![side.program.clone().unwrap_or_else(|| "unknown program".to_owned())];
        words.extend(side.id.as_ref().map(|id| format!("id {id}")));
        words.extend(side.role.map(|role| match role {
            Role::Controlling => "controlling".to_owned(),
            Role::Controlled => "controlled".to_owned(),
        }));
        words.extend(side.channel_opened_ms.map(|ms| format!("data channel opened after {ms:.0} ms")));
        if side.ended.is_none() {
            words.push("recording cut off".to_owned());
        }
        let _ = writeln!(out, "  {name}  {part:<8}  {}", words.join(" · "));
        measurements(out, side);
        for program in &side.programs {
            wrap(out, paint, "               ", &program.words);
        }
    }
    if let Some(clock) = &report.clock {
        wrap(out, paint, "  ", &clock.summary);
    }
}

fn measurements(out: &mut String, side: &SideSummary) {
    if let Some(trips) = side.channel_round_trips {
        let lost = if trips.lost > 0 { format!(", {} lost", trips.lost) } else { String::new() };
        let (median, p99) = (trips.median_us as f64 / 1000.0, trips.p99_us as f64 / 1000.0);
        let _ = writeln!(
            out,
            "               messages: round trip {median:.1} ms median, {p99:.1} ms p99 of {}{lost}",
            trips.count
        );
    }
    for (what, mbps) in [("sent", side.throughput_out_mbps), ("received", side.throughput_in_mbps)] {
        if let Some(mbps) = mbps {
            let _ = writeln!(out, "               {what}: {mbps:.1} Mbit/s");
        }
    }
}

fn not_measured(out: &mut String, report: &Report, paint: Paint) {
    if report.not_measured.is_empty() {
        return;
    }
    heading(out, "Not measured", paint);
    for missing in &report.not_measured {
        wrap(out, paint, "  ", &format!("- {}: {}", missing.what, missing.why));
    }
}

pub(super) fn heading(out: &mut String, text: &str, paint: Paint) {
    let _ = writeln!(out, "\n{}", paint.apply(Style::Heading, text));
}

/// Columns that a sentence takes, at most; addresses and names are never broken.
pub(super) const WIDTH: usize = 100;

/// Writes text broken at spaces, each line with an indent; a list item's lines hang behind its dash.
pub(super) fn wrap(out: &mut String, paint: Paint, indent: &str, text: &str) {
    let hang = if text.starts_with("- ") { "  " } else { "" };
    let mut line = String::from(indent);
    for word in text.split_whitespace() {
        let is_empty = line.trim().is_empty();
        if !is_empty && line.chars().count() + 1 + word.chars().count() > paint.width() {
            let _ = writeln!(out, "{line}");
            line = format!("{indent}{hang}");
        }
        if !line.trim().is_empty() && !line.ends_with(' ') {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(out, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_colors_reach_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\r\n\u{1b}]0;x\u{7}", true), "a\u{FFFD}[2Jb\u{FFFD}\n\u{FFFD}]0;x\u{FFFD}");
        assert_eq!(harmless("\u{1b}[1;31mred\u{1b}[0m", true), "\u{1b}[1;31mred\u{1b}[0m");
        assert_eq!(harmless("\u{1b}[31mred", false), "\u{FFFD}[31mred");
    }
}
