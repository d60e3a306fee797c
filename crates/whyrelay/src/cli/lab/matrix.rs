//! `whyrelay lab matrix`.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::Context as _;
use whyrelay_lab::draw::escape;
use whyrelay_lab::matrix::{Cell, HEAD_START, KINDS, cells, run_cell};
use whyrelay_lab::run::path_name;
use whyrelay_lab::scenario::ScenarioError;
use whyrelay_lab::scenario::file::Path;
use whyrelay_lab::work;

use super::super::{FINDING, HEALTHY, answer, terminal_columns};
use super::args::{MatrixArgs, PictureFormat};

pub(super) fn run(args: &MatrixArgs, color: bool) -> anyhow::Result<u8> {
    let wanted: Vec<_> = cells().collect();
    crate::tell!("{} worlds: {} kinds against each other, each side speaking first", wanted.len(), KINDS.len());
    let begun = Instant::now();
    let results = work::each(&wanted, work::cores(), |(a, b, first)| run_cell(a, b, *first, args.seed), |_| ());
    let cells = results.into_iter().collect::<Result<Vec<Cell>, ScenarioError>>()?;
    crate::tell!("{:.1} s", begun.elapsed().as_secs_f64());
    let text = match args.format {
        PictureFormat::Text => text(&cells, color, terminal_columns().unwrap_or(NO_TERMINAL)),
        PictureFormat::Json => {
            let object = serde_json::json!({ "schema": "whyrelay.matrix/1", "cells": cells });
            serde_json::to_string_pretty(&object).context("writing JSON")? + "\n"
        }
        PictureFormat::Svg => svg(&cells),
    };
    answer(&text)?;
    Ok(if cells.iter().all(Cell::agrees) { HEALTHY } else { FINDING })
}

/// The letter of a path.
const fn letter(path: Option<Path>) -> char {
    match path {
        Some(Path::Direct) => 'D',
        Some(Path::Relayed) => 'R',
        Some(Path::Failed) => 'F',
        None => '?',
    }
}

/// What came out; where theory says otherwise, that too, and where it is not proven, a mark.
fn outcome(cell: &Cell) -> String {
    match cell.agrees() {
        true => letter(cell.path).to_string(),
        false if cell.path == Some(cell.expected) => format!("{}!?", letter(cell.path)),
        false => format!("{}!{}", letter(cell.path), letter(Some(cell.expected))),
    }
}

/// The time of a cell, short enough for the table.
fn time(cell: &Cell) -> String {
    match cell.usable_after_ms {
        Some(after) if after < 1000.0 => format!("{after:.0}"),
        Some(after) => format!("{:.1}s", after / 1000.0),
        None => "-".to_owned(),
    }
}

/// Pairs of cells: a first, b first.
fn pairs(cells: &[Cell]) -> impl Iterator<Item = (&Cell, &Cell)> {
    cells.chunks_exact(2).map(|pair| (&pair[0], &pair[1]))
}

/// Columns where stdout is no terminal: what fits everywhere. Programs take JSON.
const NO_TERMINAL: usize = 80;

/// Columns of the terminal for one column of the table: what came out and the time, twice.
const COLUMN: usize = 11;
const GAP: &str = "  ";

/// What came out and the time: five columns, seven where theory says otherwise.
fn shown(cell: &Cell) -> String {
    format!("{}{:>4}", outcome(cell), time(cell))
}

/// The lines above a column, broken behind blanks and hyphens.
fn head(label: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in label.split_inclusive([' ', '-']) {
        match lines.last_mut() {
            Some(line) if line.len() + part.trim_end().len() <= COLUMN => line.push_str(part),
            _ => lines.push(part.to_owned()),
        }
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

/// As many columns side by side as there is room for, the others below.
fn text(cells: &[Cell], color: bool, room: usize) -> String {
    let labels = KINDS.iter().map(|kind| kind.label.len()).max().unwrap_or(0);
    let mut text = format!(
        "Rows: a, the offerer. Columns: b. In each cell a speaks first, then b.\n\
         D direct, R relayed, F failed, and ms until both could send data.\n\
         D!R: direct, and relayed by theory; without ! theory says the same.\n\
         Direct is proven by data that passes with the relay cut, relayed by what\n\
         the relay has counted; D!?: the proof fails.\n\
         Who speaks first has its candidates come {} ms late to the other:\n\
         that is part of the time wherever they were waited for.\n",
        HEAD_START.as_millis()
    );
    let fits = room.saturating_sub(labels) / (COLUMN + GAP.len());
    let rows: Vec<Vec<(&Cell, &Cell)>> =
        pairs(cells).collect::<Vec<_>>().chunks(KINDS.len()).map(<[_]>::to_vec).collect();
    let columns: Vec<usize> = (0..KINDS.len()).collect();
    for block in columns.chunks(fits.max(1)) {
        text.push('\n');
        let heads: Vec<Vec<String>> = block.iter().map(|column| head(KINDS[*column].label)).collect();
        let height = heads.iter().map(Vec::len).max().unwrap_or(0);
        for line in 0..height {
            let _ = write!(text, "{:labels$}", "");
            for head in &heads {
                // The last lines stand on the table.
                let part = (line + head.len()).checked_sub(height).map_or("", |line| head[line].as_str());
                let _ = write!(text, "{GAP}{part:<COLUMN$}");
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
        for (kind, row) in KINDS.iter().zip(&rows) {
            let _ = write!(text, "{:<labels$}", kind.label);
            for (a_first, b_first) in block.iter().map(|column| row[*column]) {
                let both = format!("{} {}", shown(a_first), shown(b_first));
                let code = match (a_first.path, b_first.path) {
                    _ if !a_first.agrees() || !b_first.agrees() => 41,
                    (Some(Path::Direct), Some(Path::Direct)) => 32,
                    (Some(Path::Relayed), Some(Path::Relayed)) => 33,
                    _ => 35,
                };
                let _ = match color {
                    true => write!(text, "{GAP}\x1b[{code}m{both}\x1b[0m"),
                    false => write!(text, "{GAP}{both}"),
                };
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
    }
    let wrong: Vec<_> = cells.iter().filter(|cell| !cell.agrees()).collect();
    let direct = cells.iter().filter(|cell| cell.path == Some(Path::Direct)).count();
    let _ = writeln!(
        text,
        "\n{} worlds, {direct} direct, {} otherwise than theory or not proven",
        cells.len(),
        wrong.len()
    );
    for cell in wrong {
        let (got, expected) = (path_name(cell.path), path_name(Some(cell.expected)));
        let _ = write!(text, "  {} against {}, {:?} first: {got}, expected {expected}", cell.a, cell.b, cell.first);
        let _ = writeln!(text, "{}", cell.unproven.iter().map(|problem| format!("; {problem}")).collect::<String>());
    }
    text
}

/// Width and height of a cell, and of the labels, in pixels.
const CELL: (usize, usize) = (58, 34);
const LABELS: (usize, usize) = (150, 150);
/// Width of a letter, at most on average.
const LETTER: usize = 8;

fn svg(cells: &[Cell]) -> String {
    // A slanting label reaches beyond its column: by the cosine of 40 degrees of its length.
    let beyond = KINDS.iter().map(|kind| kind.label.len()).max().unwrap_or(0) * LETTER * 77 / 100;
    let (width, height) = (LABELS.0 + KINDS.len() * CELL.0 + beyond, LABELS.1 + KINDS.len() * CELL.1 + 50);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"system-ui,sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"15\" font-weight=\"bold\">Which networks connect directly</text>\n\
         <text x=\"10\" y=\"40\" fill=\"#57606a\">rows: a, columns: b; a first | b first</text>\n"
    );
    for (number, kind) in KINDS.iter().enumerate() {
        let (x, y) = (LABELS.0 + number * CELL.0 + CELL.0 / 2, LABELS.1 + number * CELL.1 + CELL.1 / 2 + 4);
        let label = escape(kind.label);
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{label}</text>", LABELS.0 - 8);
        let top = LABELS.1 - 8;
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"{top}\" transform=\"rotate(-40 {x} {top})\">{label}</text>");
    }
    for (number, (a_first, b_first)) in pairs(cells).enumerate() {
        let (row, column) = (number / KINDS.len(), number % KINDS.len());
        let (x, y) = (LABELS.0 + column * CELL.0, LABELS.1 + row * CELL.1);
        for (half, cell) in [a_first, b_first].into_iter().enumerate() {
            let fill = match cell.path {
                Some(Path::Direct) => "#aceebb",
                Some(Path::Relayed) => "#fae17d",
                _ => "#ffcecb",
            };
            let stroke = if cell.agrees() { "#ffffff" } else { "#cf222e" };
            let x = x + half * CELL.0 / 2;
            let (w, h) = (CELL.0 / 2, CELL.1);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" fill=\"{fill}\" stroke=\"{stroke}\"><title>{} \
                 against {}, {:?} first: {}, expected {}, {} ms</title></rect>",
                escape(cell.a),
                escape(cell.b),
                cell.first,
                path_name(cell.path),
                path_name(Some(cell.expected)),
                time(cell)
            );
            let (x, y) = (x + w / 2, y + h / 2 - 1);
            let outcome = outcome(cell);
            let _ =
                writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" font-weight=\"bold\">{outcome}</text>");
            let (y, time) = (y + 13, time(cell));
            let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" font-size=\"9\">{time}</text>");
        }
    }
    let y = height - 18;
    let _ = writeln!(
        svg,
        "<text x=\"10\" y=\"{y}\" fill=\"#57606a\">D direct, R relayed; below: ms until both could send data, with \
         the {} ms that the candidates of who speaks first come late, where they were waited for; red border and !: \
         not as theory says</text>\n</svg>",
        HEAD_START.as_millis()
    );
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> Vec<Cell> {
        cells()
            .enumerate()
            .map(|(number, (a, b, first))| Cell {
                a: a.label,
                b: b.label,
                first,
                expected: if number == 3 { Path::Relayed } else { Path::Direct },
                path: Some(Path::Direct),
                usable_after_ms: Some(if number % 2 == 0 { 61.0 } else { 4461.0 }),
                unproven: Vec::new(),
            })
            .collect()
    }

    #[test]
    fn the_table_fits_its_terminal_and_names_every_column() {
        for room in [40, 80, 120] {
            let table = text(&made(), false, room);
            let (table, _) = table.split_once("512 worlds").unwrap_or_default();
            let wide: Vec<&str> = table.lines().skip(7).filter(|line| line.len() > room).collect();
            // The one that is not as theory says is wider by what theory says.
            assert!(wide.len() <= 1, "{room}: {wide:#?}");
            assert_eq!(
                table.matches("\nhome + sym. carrier").count(),
                KINDS.len().div_ceil((room - 19) / 13),
                "{room}"
            );
        }
        let heads: Vec<String> = KINDS.iter().flat_map(|kind| head(kind.label)).collect();
        assert!(heads.iter().all(|line| line.len() <= COLUMN), "{heads:?}");
        assert_eq!(head("home + sym. carrier"), ["home + sym.", "carrier"]);
        assert_eq!(head("addr-restricted"), ["addr-", "restricted"]);
        let whole = text(&made(), false, 300);
        assert!(heads.iter().all(|line| whole.contains(line.as_str())), "{whole}");
    }

    #[test]
    fn a_path_that_is_not_proven_is_marked_and_told() {
        let mut cells = made();
        cells[0].unproven.push("direct, and yet the relay carried data".to_owned());
        let table = text(&cells, false, 300);
        for part in ["D!?  61 ", "2 otherwise than theory", "expected direct; direct, and yet the relay carried data\n"]
        {
            assert!(table.contains(part), "{part:?} is not in:\n{table}");
        }
        assert!(svg(&cells).contains(">D!?<"));
    }

    #[test]
    fn both_times_the_head_start_and_what_theory_says_are_told() {
        let table = text(&made(), false, 300);
        for part in [
            "D  61 D4.5s",
            "D!R4.5s",
            "come 400 ms late",
            "1 otherwise than theory",
            "b first: direct, expected relayed",
        ] {
            assert!(table.to_lowercase().contains(&part.to_lowercase()), "{part:?} is not in:\n{table}");
        }
        let picture = svg(&made());
        assert!(picture.contains(">D!R<") && picture.contains("400 ms"));
    }

    #[test]
    fn a_cell_has_the_color_of_its_paths_where_colors_are_wanted() {
        let mut cells = made();
        let both = |cell: &mut Cell, path| (cell.path, cell.expected) = (Some(path), path);
        // The second pair is not as theory says; the third is relayed, and the fourth is relayed one way round.
        cells[4..7].iter_mut().for_each(|cell| both(cell, Path::Relayed));
        let table = text(&cells, true, 300);
        let colored = |code: u8, cell: &str| format!("  \x1b[{code}m{cell}\x1b[0m");
        for (code, cell) in [(32, "D  61 D4.5s"), (41, "D  61 D!R4.5s"), (33, "R  61 R4.5s"), (35, "R  61 D4.5s")] {
            assert!(table.contains(&colored(code, cell)), "{cell:?} has not color {code}:\n{table}");
        }
        assert_eq!(table.matches("\x1b[0m").count(), cells.len() / 2);
        assert!(!text(&cells, false, 300).contains('\x1b'));
    }
}
