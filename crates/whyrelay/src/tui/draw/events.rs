//! What happened, in words, in the order of time.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

use super::Look;
use super::pieces::{Row, frame as pane_frame, list, nothing, seconds};
use crate::tui::screen::{Pane, Screen};

pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen, _look: Look, area: Rect) {
    let cited = screen.finding().map(|finding| (finding.code, finding.evidence.as_slice()));
    let clock = match screen.report() {
        Some(report) if !report.timeline.one_clock => ", each side's time from its own start",
        _ => "",
    };
    let order = if screen.newest_first { ", newest first" } else { "" };
    let stars =
        cited.filter(|(_, list)| !list.is_empty()).map_or_else(String::new, |(code, _)| format!(", * cited by {code}"));
    let title = format!("Events ({}{order}{stars}{clock})", screen.rows.events.len());
    let inner = pane_frame(frame, screen, Pane::Events, &title, area);
    if screen.rows.events.is_empty() {
        return nothing(
            frame,
            if screen.log().is_empty() { "no event yet" } else { "no event fits the filter" },
            inner,
        );
    }
    list(frame, screen, Pane::Events, inner, |at| {
        let line = &screen.log()[screen.rows.events[at]];
        let is_cited = cited.is_some_and(|(_, evidence)| evidence.contains(&line.seq));
        let (mark, style) =
            if is_cited { ('*', Style::new().add_modifier(Modifier::BOLD)) } else { (' ', Style::new()) };
        Row { text: format!("{mark}{} {} #{} {}", seconds(line.at_us), line.side.name(), line.seq, line.text), style }
    });
}
