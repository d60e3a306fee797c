//! The pair table: each pair with the chain of its checks in both directions.

use std::fmt::Write as _;

use super::TextOptions;
use super::heading;
use super::paint::{Paint, Style};
use crate::diagnosis::session::{Break, Chain, End};
use crate::report::{PairOfSide, PairRow, Report};
use crate::trace::event::PairState;

/// Most pairs that are shown unless all are asked for.
const MAX_SHOWN: usize = 24;

pub(super) fn render(out: &mut String, report: &Report, options: &TextOptions, paint: Paint) {
    heading(out, "Pairs, and how far each side's checks came", paint);
    let wanted = |pair: &&PairRow| options.all_pairs || is_telling(pair);
    let limit = if options.all_pairs { usize::MAX } else { MAX_SHOWN };
    let shown: Vec<_> = report.pairs.iter().filter(wanted).take(limit).collect();
    if shown.is_empty() {
        let _ = writeln!(out, "  no check was sent");
    }
    for pair in &shown {
        render_pair(out, pair, paint);
    }
    let hidden = report.pairs.len() - shown.len() + report.pairs_left_out;
    if hidden > 0 {
        let unchecked = report.pairs.iter().filter(|pair| !is_telling(pair)).count();
        let what = if unchecked == hidden { "not checked" } else { "not shown" };
        let plural = if hidden == 1 { "pair" } else { "pairs" };
        let _ = writeln!(out, "  {hidden} more {plural} {what}");
    }
}

/// Whether something happened on it.
fn is_telling(pair: &PairRow) -> bool {
    let tried = |side: &Option<PairOfSide>| side.as_ref().is_some_and(|side| side.no_connection.is_some());
    pair.checked || pair.selected || tried(&pair.a_pair) || tried(&pair.b_pair)
}

fn render_pair(out: &mut String, pair: &PairRow, paint: Paint) {
    let mut marks = Vec::new();
    if pair.selected {
        marks.push(paint.apply(Style::Good, "selected"));
    } else if pair.nominated {
        marks.push("nominated".to_owned());
    }
    if pair.relayed {
        marks.push("relayed".to_owned());
    }
    marks.extend(states(pair));
    let marks = if marks.is_empty() { String::new() } else { format!("  [{}]", marks.join(", ")) };
    let _ = writeln!(out, "  A {} <-> B {}{marks}", end(pair.a.as_ref()), end(pair.b.as_ref()));
    let ways = [("A->B", &pair.a_to_b, "B", &pair.a_pair), ("B->A", &pair.b_to_a, "A", &pair.b_pair)];
    for (direction, chain, receiver, side) in ways {
        let untried = chain.sent.is_none_or(|sent| sent.checks == 0);
        let words = match side.as_ref().and_then(|side| side.no_connection.as_ref()) {
            Some(detail) if untried => paint.apply(Style::Bad, &format!("X no TCP connection: {detail}")),
            _ => render_chain(chain, receiver, paint),
        };
        let _ = writeln!(out, "    {direction}  {words}");
    }
}

fn states(pair: &PairRow) -> Option<String> {
    let state = |side: &Option<PairOfSide>| side.as_ref().and_then(|side| side.state).map(state_name);
    match (state(&pair.a_pair), state(&pair.b_pair)) {
        (Some(a), Some(b)) if a == b => Some(a.to_owned()),
        (Some(a), Some(b)) => Some(format!("A {a}, B {b}")),
        (Some(a), None) => Some(format!("A {a}")),
        (None, Some(b)) => Some(format!("B {b}")),
        (None, None) => None,
    }
}

const fn state_name(state: PairState) -> &'static str {
    match state {
        PairState::Frozen => "frozen",
        PairState::Waiting => "waiting",
        PairState::InProgress => "in progress",
        PairState::Succeeded => "succeeded",
        PairState::Failed => "failed",
    }
}

fn end(end: Option<&End>) -> String {
    end.map_or_else(|| "unknown".to_owned(), End::to_string)
}

/// One chain: `sent 7 -> seen by B 0  X never reached B`.
fn render_chain(chain: &Chain, receiver: &str, paint: Paint) -> String {
    if chain.sent.is_some_and(|sent| sent.checks == 0) {
        return paint.apply(Style::Faint, "not checked");
    }
    let sent = match chain.sent {
        Some(sent) if sent.transmissions > sent.checks => format!("sent {} ({}x)", sent.checks, sent.transmissions),
        Some(sent) => format!("sent {}", sent.checks),
        None => "sent ?".to_owned(),
    };
    let seen = match &chain.seen {
        Some(seen) => {
            let from: Vec<_> = seen.from.iter().map(ToString::to_string).collect();
            let from = if from.is_empty() { String::new() } else { format!(" from {}", from.join(", ")) };
            format!("seen by {receiver} {}{from}", seen.checks)
        }
        None => format!("seen by {receiver} ?"),
    };
    let number = |count: Option<u32>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
    let mut line =
        format!("{sent} > {seen} > answered {} > answer seen {}", number(chain.answered), number(chain.answer_seen));
    for (code, count) in &chain.errors {
        let _ = write!(line, ", {count}x error {code}");
    }
    match chain.broken {
        Some(broken) => format!("{line}  {}", paint.apply(Style::Bad, &format!("X {}", break_name(broken, receiver)))),
        None => line,
    }
}

fn break_name(broken: Break, receiver: &str) -> String {
    match broken {
        Break::AtSending => "the system refused to send".to_owned(),
        Break::OnTheWay => format!("never reached {receiver}"),
        Break::AtAnswering => format!("{receiver} did not answer"),
        Break::OnTheWayBack => "the answers were lost".to_owned(),
        Break::Refused => format!("{receiver} answered with errors"),
        Break::Somewhere => "not answered".to_owned(),
    }
}
