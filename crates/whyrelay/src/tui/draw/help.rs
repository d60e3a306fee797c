//! Every key.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::Paragraph;

use super::Look;
use super::pieces::cut;
use crate::tui::keys::BINDINGS;

/// Columns that one key and its words take.
const COLUMN: u16 = 60;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect) {
    let mut lines = vec![Line::styled(cut("Keys (? or Esc: back)", area.width), Look::strong())];
    let room = usize::from(area.height.saturating_sub(1)).max(1);
    // As many columns as it takes, if there is room for them; else the words are cut, never the keys.
    let columns = BINDINGS.len().div_ceil(room).max(1);
    let width = (area.width / u16::try_from(columns).unwrap_or(1)).clamp(1, COLUMN);
    for row in 0..room.min(BINDINGS.len()) {
        let cells = (0..columns).filter_map(|column| BINDINGS.get(column * room + row));
        let words = cells.map(|binding| {
            let cell = cut(&format!("{:<9} {}", binding.shown, binding.what), width.saturating_sub(1));
            format!("{cell:<width$}", width = usize::from(width))
        });
        lines.push(Line::raw(words.collect::<String>()));
    }
    lines.push(Line::raw(""));
    let signs = "+ works  x broke  ? not known  * cited  A>B 2>2>1>1: sent>seen>answered>answer seen";
    lines.push(Line::raw(cut(signs, area.width)));
    frame.render_widget(Paragraph::new(lines), area);
}
