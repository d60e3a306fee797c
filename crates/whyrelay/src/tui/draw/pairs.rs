//! The pairs: both ends, and how far each side's checks came, as four numbers.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use whyrelay_core::diagnosis::session::Chain;
use whyrelay_core::report::{PairOutcome, PairRow, words};
use whyrelay_core::trace::event::Vantage;

use super::Look;
use super::pieces::{Row, frame as pane_frame, list, nothing};
use crate::tui::screen::{Pane, Screen};

pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen, look: Look, area: Rect) {
    let Some(report) = screen.report() else {
        pane_frame(frame, screen, Pane::Pairs, "Pairs", area);
        return;
    };
    let order = screen.pair_order.name();
    let order = if order.is_empty() { String::new() } else { format!(", {order}") };
    let left_out = report.pairs_left_out;
    let more = if left_out > 0 { format!(", {left_out} more not listed") } else { String::new() };
    let title = format!("Pairs ({} of {}{more}{order})", screen.rows.pairs.len(), report.pairs.len());
    let inner = pane_frame(frame, screen, Pane::Pairs, &title, area);
    if screen.rows.pairs.is_empty() {
        return nothing(frame, if report.pairs.is_empty() { "no pair yet" } else { "no pair fits the filter" }, inner);
    }
    let wide = inner.width >= 120;
    let narrow = inner.width < 72;
    list(frame, screen, Pane::Pairs, inner, |at| row(&report.pairs[screen.rows.pairs[at]], wide, narrow, look));
}

fn row(pair: &PairRow, wide: bool, narrow: bool, look: Look) -> Row {
    let (sign, style) = match pair.outcome {
        PairOutcome::Works => ('+', look.good()),
        PairOutcome::Broken => ('x', look.bad()),
        PairOutcome::Unknown => ('?', Style::new()),
    };
    let (a, b) = (words::end(pair.a.as_ref()), words::end(pair.b.as_ref()));
    let marks = words::marks(pair).join(", ");
    let chains = format!("{} {}", chain(&pair.a_to_b, Vantage::A), chain(&pair.b_to_a, Vantage::B));
    // Where there is little room, what tells most comes first.
    let text = match (wide, narrow) {
        (true, _) => format!("{sign} {a:<30} <-> {b:<30}  {chains}  {marks}"),
        (false, false) => format!("{sign} {a} <-> {b}  {chains}  {marks}"),
        (false, true) => format!("{sign} {chains} {a} <-> {b} {marks}"),
    };
    Row { text, style }
}

/// `A>B 2>2>2>2`: sent, seen, answered, answer seen.
fn chain(chain: &Chain, from: Vantage) -> String {
    let way = format!("{}>{}", from.name(), from.other().name());
    match words::steps(chain, from) {
        None => format!("{way} -"),
        Some(steps) => {
            let counts = steps.map(|step| step.count.map_or_else(|| "?".to_owned(), |count| count.to_string()));
            format!("{way} {}", counts.join(">"))
        }
    }
}
