//! The path: the verdict, and what stands behind it.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use whyrelay_core::diagnosis::session::Path;
use whyrelay_core::report::{Report, SideSummary, asides, words};

use super::Look;
use super::pieces::{cut, frame as pane_frame, wrap};
use crate::tui::screen::{Pane, Screen};

/// The verdict's word; while a session goes on, or at a moment before its end, there is none yet.
fn word(screen: &Screen, report: &Report) -> &'static str {
    match (report.decided, screen.live && !screen.over && screen.position.is_none()) {
        (true, _) => words::path(report.path),
        (false, true) if screen.is_waiting() => "WAITING",
        (false, true) => "CONNECTING",
        (false, false) => "NOT DECIDED",
    }
}

fn style(report: &Report, look: Look) -> Style {
    let style = match report.path {
        _ if !report.decided => Style::new(),
        Path::Direct if report.over_tcp => look.warn(),
        Path::Direct => look.good(),
        Path::Relayed => look.warn(),
        Path::Failed => look.bad(),
    };
    style.patch(Look::strong())
}

/// The verdict in one line, for where there is no more room.
pub(super) fn verdict_line(screen: &Screen, look: Look, width: u16, aside: &str) -> Line<'static> {
    let Some(report) = screen.report() else { return Line::styled(cut("no event yet", width), Look::faint()) };
    let word = word(screen, report);
    let rest = format!(" {} ({aside})", report.note);
    let room = width.saturating_sub(u16::try_from(word.len()).unwrap_or(width));
    Line::from(vec![Span::styled(word, style(report, look)), Span::raw(cut(&rest, room))])
}

pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen, look: Look, area: Rect) {
    let inner = pane_frame(frame, screen, Pane::Path, "Path", area);
    let Some(report) = screen.report() else {
        // With --redact nothing is shown before both sides share their pseudonyms.
        if screen.is_waiting() {
            let lines = wrap(&invitation(screen), inner.width.saturating_sub(2), "  ");
            let mut text = vec![Line::styled("WAITING", Look::strong())];
            text.extend(lines.into_iter().map(|line| Line::raw(format!("  {line}"))));
            frame.render_widget(Paragraph::new(text), inner);
        } else {
            super::pieces::nothing(frame, "no event yet", inner);
        }
        return;
    };
    let mut text = vec![Line::from(vec![
        Span::styled(word(screen, report), style(report, look)),
        Span::raw(if report.note.is_empty() { String::new() } else { format!("  {}", report.note) }),
    ])];
    let wrapped: Vec<String> =
        lines(screen, report).iter().flat_map(|line| wrap(line, inner.width.saturating_sub(2), "  ")).collect();
    // The selected row is the first that is shown: this pane has text to scroll, not rows to choose.
    let room = usize::from(inner.height).saturating_sub(1);
    let first = screen.list(Pane::Path).selected.min(wrapped.len().saturating_sub(room));
    text.extend(wrapped.iter().skip(first).take(room).map(|line| Line::raw(format!("  {line}"))));
    frame.render_widget(Paragraph::new(text), inner);
}

fn invitation(screen: &Screen) -> String {
    format!("Nobody is on the other side yet. Run there: {}", screen.invitation)
}

/// What the pane says below the verdict, one paragraph each, most telling first.
pub(in crate::tui) fn lines(screen: &Screen, report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    if screen.is_waiting() {
        lines.push(invitation(screen));
    }
    if report.decided || !screen.live {
        lines.push(report.reason.clone());
    }
    if let Some(pair) = &report.selected_pair {
        let rtt = pair.rtt_ms.map_or_else(|| "not measured".to_owned(), |ms| format!("{ms:.1} ms"));
        lines.push(format!("A {} <-> B {}, round trip {rtt}", pair.local, pair.remote));
    }
    lines.extend(words::ways(report));
    for (name, part, side) in [("A", "offerer", &report.a), ("B", "answerer", &report.b)] {
        lines.push(format!("{name} {part}: {}", side.as_ref().map_or_else(|| "not recorded".to_owned(), self::side)));
    }
    for aside in asides(report) {
        let lead = aside.lead.map_or_else(String::new, |lead| format!(" {lead}"));
        lines.push(format!("{}:{lead}", aside.heading));
        lines.extend(aside.points.iter().map(|point| {
            let event = point.seq.map_or_else(String::new, |seq| format!(" (#{seq})"));
            format!("- {}{event}", point.words)
        }));
        lines.extend(aside.conclusion.map(str::to_owned));
    }
    lines.extend(report.clock.as_ref().map(|clock| clock.summary.clone()));
    for missing in &report.not_measured {
        lines.push(format!("not measured: {}: {}", missing.what, missing.why));
    }
    lines.push("Candidates:".to_owned());
    for row in &report.candidates {
        let (kind, address) = (words::candidate_type(row), words::candidate_address(row));
        let server = row.server.as_ref().map_or_else(String::new, |server| format!(" from {server}"));
        let lost = if row.received == Some(false) { " (never reached the other side)" } else { "" };
        lines.push(format!("- {} {kind} {address}{server}{lost}", row.side.name()));
    }
    lines
}

fn side(side: &SideSummary) -> String {
    let mut parts = vec![side.program.clone().unwrap_or_else(|| "unknown program".to_owned())];
    parts.extend(side.id.as_ref().map(|id| format!("id {id}")));
    parts.extend(side.channel_opened_ms.map(|ms| format!("data channel opened after {ms:.0} ms")));
    if let Some(trips) = side.channel_round_trips {
        let (median, p99) = (words::duration(trips.median_us), words::duration(trips.p99_us));
        parts.push(format!("messages {median} median, {p99} p99 of {}, {} lost", trips.count, trips.lost));
    }
    for (what, mbps) in [("sent", side.throughput_out_mbps), ("received", side.throughput_in_mbps)] {
        parts.extend(mbps.map(|mbps| format!("{what} {mbps:.1} Mbit/s")));
    }
    parts.join(" · ")
}
