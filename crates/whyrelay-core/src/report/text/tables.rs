//! The candidate table.

use std::fmt::Write as _;

use super::paint::{Paint, Style};
use super::{heading, wrap};
use crate::report::{CandidateRow, Report, words};
use crate::trace::event::Vantage;

pub(super) fn candidates(out: &mut String, report: &Report, columns: Option<usize>, paint: Paint) {
    heading(out, "Candidates", paint);
    if report.candidates.is_empty() {
        let _ = writeln!(out, "  none");
        return;
    }
    let mut rows = vec![["", "type", "address", "base", "interface", "server"].map(str::to_owned)];
    rows.extend(report.candidates.iter().map(cells));
    let widths: [usize; 6] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default());
    let whole = 2 + widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
    if columns.is_some_and(|columns| columns < whole) {
        return one_below_the_other(out, report, paint);
    }
    for (number, row) in rows.iter().enumerate() {
        let line = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect::<Vec<_>>().join("  ");
        let line = format!("  {}", line.trim_end());
        let line = if number == 0 { paint.apply(Style::Faint, &line) } else { line };
        let note = number.checked_sub(1).and_then(|index| note(&report.candidates[index]));
        let note = note.map_or(String::new(), |note| format!("  ({note})"));
        let _ = writeln!(out, "{line}{note}");
    }
}

fn note(row: &CandidateRow) -> Option<&'static str> {
    (row.received == Some(false)).then_some("never reached the other side")
}

/// The same for a terminal that the table does not fit: what a row has besides its address stands below it.
fn one_below_the_other(out: &mut String, report: &Report, paint: Paint) {
    for candidate in &report.candidates {
        let [side, kind, address, base, interface, server] = cells(candidate);
        let base = if base == "same" { String::new() } else { format!("base {base} ") };
        let interface = if interface == "-" { String::new() } else { format!("on {interface}") };
        let server = if server == "-" { String::new() } else { format!("from {server}") };
        let note = note(candidate).unwrap_or_default().to_owned();
        wrap(out, paint, "  ", &format!("{side} {kind} {address}"));
        for more in [base + &interface, server, note].iter().filter(|more| !more.is_empty()) {
            wrap(out, paint, "    ", more);
        }
    }
}

fn cells(row: &CandidateRow) -> [String; 6] {
    let side = match row.side {
        Vantage::A => "A",
        Vantage::B => "B",
    };
    let (kind, address) = (words::candidate_type(row), words::candidate_address(row));
    let base = match row.base {
        Some(base) if base.to_string() == row.address => "same".to_owned(),
        Some(base) => base.to_string(),
        None => "?".to_owned(),
    };
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    [side.to_owned(), kind, address, base, or_dash(&row.interface), or_dash(&row.server)]
}
