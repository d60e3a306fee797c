//! The candidate table.

use std::fmt::Write as _;

use super::heading;
use super::paint::{Paint, Style};
use crate::report::{CandidateRow, Report, words};
use crate::trace::event::Vantage;

pub(super) fn candidates(out: &mut String, report: &Report, paint: Paint) {
    heading(out, "Candidates", paint);
    if report.candidates.is_empty() {
        let _ = writeln!(out, "  none");
        return;
    }
    let mut rows = vec![["", "type", "address", "base", "interface", "server"].map(str::to_owned)];
    rows.extend(report.candidates.iter().map(cells));
    let widths: [usize; 6] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default());
    for (number, row) in rows.iter().enumerate() {
        let line = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect::<Vec<_>>().join("  ");
        let line = format!("  {}", line.trim_end());
        let line = if number == 0 { paint.apply(Style::Faint, &line) } else { line };
        let note = match number.checked_sub(1).and_then(|index| report.candidates[index].received) {
            Some(false) => "  (never reached the other side)",
            _ => "",
        };
        let _ = writeln!(out, "{line}{note}");
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
