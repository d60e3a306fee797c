//! The pair table: each pair with the chain of its checks in both directions.

use std::fmt::Write as _;

use super::TextOptions;
use super::heading;
use super::paint::{Paint, Style};
use crate::report::{PairOfSide, PairRow, Report, words};

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
    let words = &pair.words;
    let paint_mark = |mark: &String| if mark == "selected" { paint.apply(Style::Good, mark) } else { mark.clone() };
    let marks: Vec<String> = words.marks.iter().map(paint_mark).collect();
    let marks = if marks.is_empty() { String::new() } else { format!("  [{}]", marks.join(", ")) };
    let _ = writeln!(out, "  A {} <-> B {}{marks}", words.a, words.b);
    for (direction, chain) in [("A->B", &words.a_to_b), ("B->A", &words.b_to_a)] {
        let steps = chain.steps.as_ref().map(|steps| match steps.as_str() {
            words::NOT_CHECKED => paint.apply(Style::Faint, steps),
            _ => steps.clone(),
        });
        let broken = chain.broken.as_ref().map(|broken| paint.apply(Style::Bad, &format!("X {broken}")));
        let line: Vec<String> = [steps, broken].into_iter().flatten().collect();
        let _ = writeln!(out, "    {direction}  {}", line.join("  "));
    }
}
