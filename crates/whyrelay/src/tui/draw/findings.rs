//! What is wrong, root causes first, and all about the selected finding.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::Line;
use ratatui::widgets::Paragraph;
use whyrelay_core::diagnosis::finding::{Finding, Severity};

use super::Look;
use super::pieces::{Row, cut, frame as pane_frame, nothing, rows_of, wrap};
use crate::tui::screen::{Pane, Screen};

pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen, look: Look, area: Rect) {
    let Some(report) = screen.report() else {
        pane_frame(frame, screen, Pane::Findings, "Findings", area);
        return;
    };
    let so_far = if screen.live && !screen.over { " so far" } else { "" };
    let order = match screen.finding_order.name() {
        "" => String::new(),
        name => format!(", {name}"),
    };
    let title = format!("Findings{so_far} ({}{order})", report.findings.len());
    let inner = pane_frame(frame, screen, Pane::Findings, &title, area);
    let Some(finding) = screen.finding() else {
        return nothing(frame, if report.findings.is_empty() { "none" } else { "none fits the filter" }, inner);
    };
    let rows = u16::try_from(screen.rows.findings.len()).unwrap_or(u16::MAX);
    let height = rows.min(inner.height.div_ceil(3)).max(1);
    // The details stand between the selected finding and the next one: behind the last they would look like that one's.
    let window = screen.list(Pane::Findings).window(screen.rows.findings.len(), usize::from(height));
    let shown = |rows: std::ops::Range<usize>| Constraint::Length(u16::try_from(rows.len()).unwrap_or(u16::MAX));
    let behind = screen.list(Pane::Findings).selected + 1;
    let (above, below) = (window.start..behind, behind..window.end);
    let [top, rest, bottom] =
        Layout::vertical([shown(above.clone()), Constraint::Fill(1), shown(below.clone())]).areas(inner);
    let finding_row = |at: usize| row(&report.findings[screen.rows.findings[at]], look);
    rows_of(frame, screen, Pane::Findings, top, above, finding_row);
    rows_of(frame, screen, Pane::Findings, bottom, below, finding_row);
    let details = details(finding, rest.width);
    let room = usize::from(rest.height);
    let hidden = details.len() > room;
    let mut lines: Vec<Line<'_>> = details.into_iter().take(room).map(Line::raw).collect();
    if hidden && !screen.zoom && room > 1 {
        lines.pop();
        lines.push(Line::styled(cut("    … z shows all of it", rest.width), Look::faint()));
    }
    frame.render_widget(Paragraph::new(lines), rest);
}

fn row(finding: &Finding, look: Look) -> Row {
    let style = match finding.severity {
        Severity::Error => look.bad(),
        Severity::Warning => look.warn(),
        Severity::Info => Look::faint(),
    };
    let text = format!("{}[{}] {} (at {})", finding.severity.name(), finding.code, finding.name, finding.place());
    Row { text, style }
}

fn details(finding: &Finding, width: u16) -> Vec<String> {
    let room = width.saturating_sub(4);
    let mut lines = wrap(&finding.summary, room, "");
    for remedy in &finding.remedies {
        lines.extend(wrap(&format!("- {} ({})", remedy.text.trim_end_matches('.'), remedy.effect.name()), room, "  "));
        lines.extend(remedy.commands.iter().map(|command| format!("    $ {command}")));
    }
    if !finding.evidence.is_empty() {
        let seqs: Vec<_> = finding.evidence.iter().map(|seq| format!("#{seq}")).collect();
        lines.extend(wrap(&format!("e shows its evidence: {}", seqs.join(" ")), room, "  "));
    }
    lines.into_iter().map(|line| cut(&format!("    {line}"), width)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use whyrelay_core::report::Report;

    use super::*;
    use crate::made::finding;
    use crate::tui::screen::{Input, Snapshot};

    #[test]
    fn details_stand_between_their_finding_and_the_next() {
        let mut report = Report::from_events(&[]);
        report.findings = ["WR001", "WR002", "WR003"].map(|code| finding(code, Severity::Warning)).into();
        let snapshot = Arc::new(Snapshot { report, log: Vec::new(), total: 0, met: true });
        for selected in 0..3 {
            let mut screen = Screen::new(false);
            screen.handle(Input::Snapshot(Arc::clone(&snapshot)));
            screen.lists[Pane::Findings.index()].selected = selected;
            for height in [4, 10, 20] {
                let mut terminal = Terminal::new(TestBackend::new(60, height)).unwrap();
                terminal.draw(|frame| draw(frame, &screen, Look { color: false }, frame.area())).unwrap();
                let buffer = terminal.backend().buffer().clone();
                let row = |y| (0..60).map(|x| buffer[(x, y)].symbol()).collect::<String>();
                let rows: Vec<String> = (0..height).map(row).collect();
                let at = rows.iter().position(|row| row.starts_with("> ")).expect("the selected one is shown");
                let code = format!("WR00{}", selected + 1);
                assert!(rows[at].contains(&code) && rows[at + 1].contains(&format!("All about {code}")), "{rows:#?}");
                let codes = rows.iter().filter(|row| row.contains("warning[")).count();
                assert_eq!(codes, if height == 20 { 3 } else { codes }, "{rows:#?}");
            }
        }
    }
}
