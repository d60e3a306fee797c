//! What panes have in common.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Paragraph};
use whyrelay_core::report::words;

use super::Look;
use crate::tui::screen::{Pane, Screen};

/// A row's text, its style, and whether it is the selected one.
pub(super) struct Row {
    pub(super) text: String,
    pub(super) style: Style,
}

/// Text of a peer in a form that cannot move the cursor or turn the direction of writing.
pub(super) fn clean(text: &str) -> String {
    words::harmless(text)
}

/// At most so many columns; what is cut off is marked. Wide characters count twice.
pub(super) fn cut(text: &str, width: u16) -> String {
    let text = clean(text);
    let width = usize::from(width);
    if columns(&text) <= width {
        return text;
    }
    let mut short = String::new();
    for c in text.chars() {
        short.push(c);
        if columns(&short) + 1 > width {
            short.pop();
            break;
        }
    }
    if width > 0 {
        short.push('…');
    }
    short
}

/// Columns that a terminal gives a text.
pub(super) fn columns(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { Line::raw(text).width() }
}

/// Microseconds as seconds with three decimals, in a column.
pub(super) fn seconds(micros: u64) -> String {
    format!("{:>9.3}", micros as f64 / 1_000_000.0)
}

/// The pane's frame: a line above with the title. Answers the room inside.
pub(super) fn frame(frame: &mut Frame<'_>, screen: &Screen, pane: Pane, title: &str, area: Rect) -> Rect {
    let number = pane.index() + 1;
    let focused = screen.focus == pane;
    let filter = &screen.filters[pane.index()];
    let filter = if filter.is_empty() { String::new() } else { format!(" · filter {filter:?}") };
    let title = format!("{number} {title}{filter}");
    let title = if focused { format!("[{title}]") } else { format!(" {title} ") };
    let style = if focused { Look::strong() } else { Style::new() };
    let line = Line::styled(cut(&title, area.width.saturating_sub(4)), style);
    let block = Block::new().borders(Borders::TOP).title(line);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    inner
}

/// A list of one-line rows; `row` is asked only for those that are shown.
pub(super) fn list(frame: &mut Frame<'_>, screen: &Screen, pane: Pane, area: Rect, row: impl Fn(usize) -> Row) {
    let window = screen.list(pane).window(screen.length(pane), usize::from(area.height));
    rows_of(frame, screen, pane, area, window, row);
}

/// These rows of a list.
pub(super) fn rows_of(
    frame: &mut Frame<'_>,
    screen: &Screen,
    pane: Pane,
    area: Rect,
    rows: std::ops::Range<usize>,
    row: impl Fn(usize) -> Row,
) {
    let selected_row = screen.list(pane).selected;
    let width = area.width.saturating_sub(2);
    let lines: Vec<Line<'_>> = rows
        .map(|at| {
            let Row { text, style } = row(at);
            let selected = at == selected_row;
            let style = match (selected, screen.focus == pane) {
                (true, true) => style.add_modifier(Modifier::REVERSED),
                (true, false) => style.add_modifier(Modifier::BOLD),
                (false, _) => style,
            };
            Line::styled(format!("{} {}", if selected { '>' } else { ' ' }, cut(&text, width)), style)
        })
        .collect();
    frame.render_widget(Paragraph::new(lines), area);
}

/// What stands where there is nothing to list.
pub(super) fn nothing(frame: &mut Frame<'_>, words: &str, area: Rect) {
    frame.render_widget(Line::styled(cut(words, area.width), Look::faint()), area);
}

/// Text broken at spaces; words that are longer than a line are cut into pieces.
pub(super) fn wrap(text: &str, width: u16, hang: &str) -> Vec<String> {
    let width = usize::from(width).max(8);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in clean(text).split_whitespace() {
        let mut word = word.to_owned();
        loop {
            let space = usize::from(!line.trim().is_empty());
            if columns(&line) + space + columns(&word) <= width {
                if space == 1 {
                    line.push(' ');
                }
                line.push_str(&word);
                break;
            }
            if line.trim().is_empty() {
                // The word alone is too long.
                let room = width.saturating_sub(columns(&line)).max(1);
                let head: String = word.chars().take(room).collect();
                word = word.chars().skip(room).collect();
                line.push_str(&head);
            }
            lines.push(std::mem::replace(&mut line, hang.to_owned()));
        }
    }
    if !line.trim().is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_at_the_column() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("a\u{1b}[2J\nb", 20), "a\u{FFFD}[2J\u{FFFD}b");
        assert_eq!(cut("x", 0), "");
    }

    #[test]
    fn no_word_is_lost_in_wrapping() {
        let lines = wrap("one two three 2001:db8:1111:2222:3333:4444:5555:6666 end", 12, "  ");
        assert!(lines.iter().all(|line| columns(line) <= 12), "{lines:?}");
        let joined: String = lines.concat().split_whitespace().collect();
        assert_eq!(joined, "onetwothree2001:db8:1111:2222:3333:4444:5555:6666end");
    }
}
