//! The pair table: each pair with the chain of its checks in both directions.

use std::fmt::Write as _;

use super::TextOptions;
use super::heading;
use super::paint::{Paint, Style};
use crate::diagnosis::session::Chain;
use crate::report::{PairOfSide, PairRow, Report, words};
use crate::trace::event::Vantage;

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
    let paint_mark = |mark: String| if mark == "selected" { paint.apply(Style::Good, &mark) } else { mark };
    let marks: Vec<String> = words::marks(pair).into_iter().map(paint_mark).collect();
    let marks = if marks.is_empty() { String::new() } else { format!("  [{}]", marks.join(", ")) };
    let (a, b) = (words::end(pair.a.as_ref()), words::end(pair.b.as_ref()));
    let _ = writeln!(out, "  A {a} <-> B {b}{marks}");
    for (direction, chain, from, side) in
        [("A->B", &pair.a_to_b, Vantage::A, &pair.a_pair), ("B->A", &pair.b_to_a, Vantage::B, &pair.b_pair)]
    {
        let words = match words::no_connection(chain, side.as_ref()) {
            Some(words) => paint.apply(Style::Bad, &format!("X {words}")),
            None => render_chain(chain, from, paint),
        };
        let _ = writeln!(out, "    {direction}  {words}");
    }
}

/// One chain: `sent 7 > seen by B 0 > …  X never reached B`.
fn render_chain(chain: &Chain, from: Vantage, paint: Paint) -> String {
    let Some(steps) = words::steps(chain, from) else { return paint.apply(Style::Faint, "not checked") };
    let mut line = steps.map(|step| step.words).join(" > ");
    for error in words::errors(chain) {
        let _ = write!(line, ", {error}");
    }
    match words::broken(chain, from) {
        Some(broken) => format!("{line}  {}", paint.apply(Style::Bad, &format!("X {broken}"))),
        None => line,
    }
}
