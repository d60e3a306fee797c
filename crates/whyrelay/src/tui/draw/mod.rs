//! Drawing: reads the screen's state and the report, and changes nothing.
//!
//! Everything is legible without color: the selected row has a `>`, the pane with the keys a `[title]`, and what works,
//! broke or is unknown `+`, `x` and `?`.

mod checks;
mod events;
mod findings;
mod help;
mod pairs;
mod path;
mod pieces;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;

pub(super) use checks::check_words;
pub(super) use path::lines as path_lines;
use pieces::{clean, cut};

use super::screen::{Pane, Screen};

/// The least size that shows all panes, and the least that shows anything.
const ROOMY: (u16, u16) = (80, 24);
const LEAST: (u16, u16) = (40, 12);

/// From here on two columns of panes stand side by side.
const TWO_COLUMNS: (u16, u16) = (180, 30);

/// With or without color.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Whether colors are used.
    pub color: bool,
}

impl Look {
    fn style(self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    fn good(self) -> Style {
        self.style(Color::Green)
    }

    fn warn(self) -> Style {
        self.style(Color::Yellow)
    }

    fn bad(self) -> Style {
        self.style(Color::Red)
    }

    const fn faint() -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    const fn strong() -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
}

/// Draws the whole screen.
pub fn draw(frame: &mut Frame<'_>, screen: &Screen, look: Look) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let words = format!("{}x{} is too small: {}x{} at least", area.width, area.height, LEAST.0, LEAST.1);
        frame.render_widget(Line::raw(cut(&words, area.width)), area);
        return;
    }
    let [body, status] = Layout::vertical([Constraint::Fill(1), Constraint::Length(1)]).areas(area);
    frame.render_widget(status_line(screen, status.width), status);
    if screen.help {
        help::draw(frame, screen.help_page, body);
        return;
    }
    let narrow = area.width < ROOMY.0 || area.height < ROOMY.1;
    if screen.zoom || narrow {
        one_pane(frame, screen, look, body, narrow);
    } else if area.width >= TWO_COLUMNS.0 && area.height >= TWO_COLUMNS.1 {
        two_columns(frame, screen, look, body);
    } else {
        one_column(frame, screen, look, body);
    }
}

fn pane(frame: &mut Frame<'_>, screen: &Screen, look: Look, pane: Pane, area: Rect) {
    match pane {
        Pane::Path => path::draw(frame, screen, look, area),
        Pane::Findings => findings::draw(frame, screen, look, area),
        Pane::Pairs => pairs::draw(frame, screen, look, area),
        Pane::Checks => checks::draw(frame, screen, look, area),
        Pane::Events => events::draw(frame, screen, look, area),
    }
}

/// The verdict, and the pane that has the keys.
fn one_pane(frame: &mut Frame<'_>, screen: &Screen, look: Look, area: Rect, narrow: bool) {
    let [verdict, rest] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let why = if narrow { "narrow: one pane at a time" } else { "zoomed: z shows all panes" };
    frame.render_widget(path::verdict_line(screen, look, verdict.width, why), verdict);
    pane(frame, screen, look, screen.focus, rest);
}

/// More room for the pane that has the keys.
fn share(screen: &Screen, pane: Pane) -> Constraint {
    Constraint::Fill(if screen.focus == pane { 5 } else { 3 })
}

fn one_column(frame: &mut Frame<'_>, screen: &Screen, look: Look, area: Rect) {
    let constraints = Pane::ALL.map(|pane| match pane {
        Pane::Path if screen.focus != Pane::Path => Constraint::Length(4),
        pane => share(screen, pane),
    });
    let areas: [Rect; 5] = Layout::vertical(constraints).areas(area);
    for (which, area) in Pane::ALL.into_iter().zip(areas) {
        pane(frame, screen, look, which, area);
    }
}

fn two_columns(frame: &mut Frame<'_>, screen: &Screen, look: Look, area: Rect) {
    let path = if screen.focus == Pane::Path { Constraint::Fill(2) } else { Constraint::Length(6) };
    let [top, rest] = Layout::vertical([path, Constraint::Fill(3)]).areas(area);
    let [left, gap, right] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(1), Constraint::Fill(1)]).areas(rest);
    let _ = gap;
    pane(frame, screen, look, Pane::Path, top);
    for (column, panes) in [(left, [Pane::Pairs, Pane::Checks]), (right, [Pane::Findings, Pane::Events])] {
        let areas: [Rect; 2] = Layout::vertical(panes.map(|pane| share(screen, pane))).areas(column);
        for (which, area) in panes.into_iter().zip(areas) {
            pane(frame, screen, look, which, area);
        }
    }
}

fn status_line(screen: &Screen, width: u16) -> Line<'static> {
    if screen.typing {
        let filter = &screen.filters[screen.focus.index()];
        return Line::styled(
            cut(&format!("filter: {}_   Enter keeps it, Esc clears it", clean(filter)), width),
            Look::strong(),
        );
    }
    let (total, shown) = (screen.total(), screen.shown_events());
    let state = match (screen.position, screen.live, screen.over) {
        (Some(_), ..) => format!("FROZEN at event {shown} of {total}"),
        (None, true, false) if screen.leaving => format!("closing … {total} events"),
        (None, true, false) => format!("live, {total} events"),
        (None, true, true) => format!("session over, {total} events: q leaves"),
        (None, false, _) => format!("{total} events"),
    };
    let keys = "? help  Tab pane  e evidence  Space freeze  q quit";
    let gap = usize::from(width).saturating_sub(state.chars().count() + keys.chars().count()).max(2);
    let line = format!("{state}{}{keys}", " ".repeat(gap));
    Line::styled(cut(&line, width), Style::new().add_modifier(Modifier::REVERSED))
}
