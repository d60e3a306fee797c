//! Every key, with all of its words: in columns where they fit, else page by page.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::Paragraph;

use super::Look;
use super::pieces::{columns, cut, wrap};
use crate::tui::keys::BINDINGS;

/// Columns that one key and its words take at most.
const COLUMN: u16 = 70;

/// The narrowest column beside another: less tears the words apart.
const LEAST_COLUMN: u16 = 36;

/// Columns that the keys take, ahead of their words.
const KEYS: u16 = 10;

const SIGNS: &str = "+ works  x broke  ? not known  * cited  A>B 2>2>1>1: sent>seen>answered>answer seen";

/// `page`: how many pages further than the first; beyond the last it begins anew.
pub(super) fn draw(frame: &mut Frame<'_>, page: i32, area: Rect) {
    let room = usize::from(area.height.saturating_sub(1)).max(1);
    let (width, shown, title) = match side_by_side(area.width, room) {
        Some((width, columns)) => (width, columns, "Keys (? or Esc: back)".to_owned()),
        None => {
            let pages = fill(blocks(area.width), room);
            let count = i32::try_from(pages.len()).unwrap_or(i32::MAX).max(1);
            let at = page.rem_euclid(count);
            let shown = pages.into_iter().nth(usize::try_from(at).unwrap_or(0)).into_iter().collect();
            (area.width, shown, format!("Keys, {} of {count} (Down: more; ?: back)", at + 1))
        }
    };
    let mut lines = vec![Line::styled(cut(&title, area.width), Look::strong())];
    for row in 0..shown.iter().map(Vec::len).max().unwrap_or(0) {
        let cells = shown.iter().map(|column| {
            let cell = column.get(row).map_or("", String::as_str);
            format!("{cell}{}", " ".repeat(usize::from(width).saturating_sub(columns(cell))))
        });
        lines.push(Line::raw(cells.collect::<String>().trim_end().to_owned()));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// As few columns as it takes, with the width of one; `None`: they do not fit.
fn side_by_side(width: u16, room: usize) -> Option<(u16, Vec<Vec<String>>)> {
    (1..=width / LEAST_COLUMN).find_map(|count| {
        let each = (width / count).min(COLUMN);
        let columns = fill(blocks(each.saturating_sub(u16::from(count > 1))), room);
        (columns.len() <= usize::from(count)).then_some((each, columns))
    })
}

/// What each key does, and the signs: none is torn apart.
fn blocks(width: u16) -> Vec<Vec<String>> {
    let keys = BINDINGS.iter().map(|binding| {
        let words = wrap(binding.what, width.saturating_sub(KEYS), "").into_iter().enumerate();
        let shown = |line: usize| if line == 0 { binding.shown } else { "" };
        words.map(|(line, words)| format!("{:<width$}{words}", shown(line), width = usize::from(KEYS))).collect()
    });
    keys.chain([wrap(SIGNS, width, "")]).collect()
}

/// Blocks in columns of so many rows.
fn fill(blocks: Vec<Vec<String>>, rows: usize) -> Vec<Vec<String>> {
    let mut columns: Vec<Vec<String>> = Vec::new();
    for block in blocks {
        match columns.last_mut() {
            Some(column) if column.len() + block.len() <= rows => column.extend(block),
            _ => columns.push(block),
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    /// What is shown in a terminal of this size.
    fn shown(width: u16, height: u16, page: i32) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, page, frame.area())).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let rows = (0..height).map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>());
        rows.map(|row| row.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn every_word_of_every_key_is_shown_at_every_size() {
        for (width, height) in [(40, 11), (79, 19), (80, 23), (100, 30), (130, 39), (200, 60)] {
            let pages: Vec<String> = (0..9).map(|page| shown(width, height, page)).collect();
            let all = pages.join("\n");
            for binding in BINDINGS {
                let begins = format!("{:<10}{}", binding.shown, binding.what.split(' ').next().unwrap());
                assert!(all.contains(&begins), "{} at {width}x{height}:\n{}", binding.shown, pages[0]);
                for word in binding.what.split(' ') {
                    assert!(all.contains(word), "{word:?} of {} at {width}x{height}", binding.shown);
                }
            }
            assert!(all.contains("answered>answer") && !all.contains('…'), "{width}x{height}:\n{all}");
        }
    }

    #[test]
    fn one_page_is_enough_where_there_is_room_and_the_pages_go_round_where_there_is_not() {
        assert_eq!(shown(80, 23, 0), shown(80, 23, 1));
        let first = shown(40, 11, 0);
        assert!(first.starts_with("Keys, 1 of "), "{first}");
        let count: i32 = first.split(' ').nth(3).unwrap().parse().unwrap();
        assert_ne!(first, shown(40, 11, 1));
        assert_eq!(first, shown(40, 11, count));
        assert_eq!(shown(40, 11, count - 1), shown(40, 11, -1));
    }
}
