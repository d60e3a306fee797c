//! `whyrelay lab matrix`.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::Context as _;
use whyrelay_lab::draw::escape;
use whyrelay_lab::matrix::{Cell, KINDS, cells, run_cell};
use whyrelay_lab::run::path_name;
use whyrelay_lab::scenario::ScenarioError;
use whyrelay_lab::scenario::file::Path;

use super::super::{FINDING, HEALTHY, answer};
use super::args::{MatrixArgs, PictureFormat};
use super::work;

pub(super) fn run(args: &MatrixArgs, color: bool) -> anyhow::Result<u8> {
    let wanted: Vec<_> = cells().collect();
    crate::tell!("{} worlds: {} kinds against each other, each side speaking first", wanted.len(), KINDS.len());
    let begun = Instant::now();
    let results = work::each(&wanted, work::cores(), |(a, b, first)| run_cell(a, b, *first, args.seed), |_| ());
    let cells = results.into_iter().collect::<Result<Vec<Cell>, ScenarioError>>()?;
    crate::tell!("{:.1} s", begun.elapsed().as_secs_f64());
    let text = match args.format {
        PictureFormat::Text => text(&cells, color),
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

fn text(cells: &[Cell], color: bool) -> String {
    let labels = KINDS.iter().map(|kind| kind.label.len()).max().unwrap_or(0);
    let mut text =
        String::from("Rows: a, the offerer. Columns: b. In each cell: a speaking first, b speaking first.\n");
    text.push_str("D direct, R relayed, F failed; ! not as theory says; then ms until both could send data.\n\n");
    let _ = write!(text, "{:>width$}", "", width = labels + 4);
    for column in 1..=KINDS.len() {
        let _ = write!(text, " {column:>9}");
    }
    text.push('\n');
    for (row, line) in pairs(cells).collect::<Vec<_>>().chunks(KINDS.len()).enumerate() {
        let _ = write!(text, "{:>2} {:<width$} ", row + 1, KINDS[row].label, width = labels);
        for (a_first, b_first) in line {
            let mark = |cell: &Cell| if cell.agrees() { "" } else { "!" };
            let letters = format!("{}{}{}{}", letter(a_first.path), mark(a_first), letter(b_first.path), mark(b_first));
            let shown = format!(" {letters:>4} {:>4}", time(a_first));
            let both = (a_first.path, b_first.path);
            let code = match both {
                _ if !a_first.agrees() || !b_first.agrees() => 41,
                (Some(Path::Direct), Some(Path::Direct)) => 32,
                (Some(Path::Relayed), Some(Path::Relayed)) => 33,
                _ => 35,
            };
            match color {
                true => _ = write!(text, "\x1b[{code}m{shown}\x1b[0m"),
                false => text.push_str(&shown),
            }
        }
        text.push('\n');
    }
    let wrong: Vec<_> = cells.iter().filter(|cell| !cell.agrees()).collect();
    let direct = cells.iter().filter(|cell| cell.path == Some(Path::Direct)).count();
    let _ = writeln!(text, "\n{} worlds, {direct} direct, {} otherwise than theory", cells.len(), wrong.len());
    for cell in wrong {
        let (got, expected) = (path_name(cell.path), path_name(Some(cell.expected)));
        let _ = writeln!(text, "  {} against {}, {:?} first: {got}, expected {expected}", cell.a, cell.b, cell.first);
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
            let letter = letter(cell.path);
            let _ =
                writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" font-weight=\"bold\">{letter}</text>");
            let (y, time) = (y + 13, time(cell));
            let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" font-size=\"9\">{time}</text>");
        }
    }
    let y = height - 18;
    let _ = writeln!(
        svg,
        "<text x=\"10\" y=\"{y}\" fill=\"#57606a\">D direct, R relayed; below: ms until both could send data; red \
         border: not as theory says</text>\n</svg>"
    );
    svg
}
