//! The checks of the selected pair: the chain of each direction in words, then every check.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::Line;
use ratatui::widgets::Paragraph;
use whyrelay_core::diagnosis::session::Chain;
use whyrelay_core::report::{CheckRow, PairRow, words};
use whyrelay_core::trace::event::Vantage;

use super::Look;
use super::pieces::{Row, cut, frame as pane_frame, list, nothing};
use crate::tui::screen::{Pane, Screen};

pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen, look: Look, area: Rect) {
    let Some(pair) = screen.pair() else {
        let inner = pane_frame(frame, screen, Pane::Checks, "Checks", area);
        return nothing(frame, "no pair is selected", inner);
    };
    let more =
        if pair.checks_left_out > 0 { format!(", {} more not listed", pair.checks_left_out) } else { String::new() };
    let order = match screen.check_order.name() {
        "" => String::new(),
        name => format!(", {name}"),
    };
    let count = match (screen.rows.checks.len(), pair.checks.len()) {
        (shown, all) if shown < all => format!("{shown} of {all}"),
        (_, all) => all.to_string(),
    };
    let title = format!(
        "Checks of A {} <-> B {} ({count}{more}{order})",
        words::end(pair.a.as_ref()),
        words::end(pair.b.as_ref()),
    );
    let inner = pane_frame(frame, screen, Pane::Checks, &title, area);
    let [chains, rows] = Layout::vertical([Constraint::Length(2), Constraint::Fill(1)]).areas(inner);
    frame.render_widget(Paragraph::new(chain_lines(pair, look, chains.width)), chains);
    if pair.checks.is_empty() {
        return nothing(frame, words::no_checks(pair), rows);
    }
    if screen.rows.checks.is_empty() {
        return nothing(frame, "no check fits the filter", rows);
    }
    list(frame, screen, Pane::Checks, rows, |at| row(&pair.checks[screen.rows.checks[at]], look));
}

fn chain_lines(pair: &PairRow, look: Look, width: u16) -> Vec<Line<'static>> {
    [(&pair.a_to_b, Vantage::A, &pair.a_pair), (&pair.b_to_a, Vantage::B, &pair.b_pair)]
        .map(|(chain, from, side)| {
            let words = match words::no_connection(chain, side.as_ref()) {
                Some(words) => format!("{}->{}  X {words}", from.name(), from.other().name()),
                None => chain_words(chain, from),
            };
            Line::styled(cut(&words, width), style(chain, look))
        })
        .to_vec()
}

fn style(chain: &Chain, look: Look) -> Style {
    if chain.broken.is_some() { look.bad() } else { Style::new() }
}

fn chain_words(chain: &Chain, from: Vantage) -> String {
    let way = format!("{}->{} ", from.name(), from.other().name());
    let Some(steps) = words::steps(chain, from) else { return format!("{way} not checked") };
    // Where it broke comes first: it must not fall off a narrow terminal's edge.
    let broken = words::broken(chain, from).map_or_else(String::new, |broken| format!("X {broken}: "));
    let mut line = format!("{way} {broken}{}", steps.map(|step| step.words).join(" > "));
    for error in words::errors(chain) {
        line.push_str(", ");
        line.push_str(&error);
    }
    line
}

/// A check in one line.
pub(in crate::tui) fn check_words(check: &CheckRow) -> String {
    let time = |at: Option<u64>| at.map_or_else(|| "-".to_owned(), words::duration);
    let refused = if check.refused > 0 { format!(", {} refused", check.refused) } else { String::new() };
    let from = check.seen_from.map_or_else(String::new, |from| format!(" from {from}"));
    let trip = check.round_trip_us.map_or_else(String::new, |trip| format!(", round trip {}", words::duration(trip)));
    let nominating = if check.nominating { ", nominating" } else { "" };
    let error = check.error.map_or_else(String::new, |code| format!(", error {code}"));
    format!(
        "{} #{} sent {} ({}x{refused}) > seen {}{from} > answered {} > answer seen {}{trip}{nominating}{error}",
        check.from.name(),
        check.seq,
        time(check.sent_us),
        check.transmissions,
        time(check.seen_us),
        time(check.answered_us),
        time(check.answer_seen_us),
    )
}

fn row(check: &CheckRow, look: Look) -> Row {
    let style = match (check.error, check.answer_seen_us) {
        (Some(_), _) => look.bad(),
        (None, Some(_)) => look.good(),
        (None, None) => Style::new(),
    };
    Row { text: check_words(check), style }
}
