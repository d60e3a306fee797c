//! The tree as boxes, from left to right.

use std::fmt::Write as _;

use super::{Node, tree};
use crate::scenario::Topology;

/// Width of a character of the monospaced type, in pixels.
const CHARACTER: usize = 7;
/// Height of a line.
const LINE: usize = 16;
/// Space inside and around a box.
const PAD: usize = 10;

/// Width of a character of the title, which is bold and larger.
const TITLE_CHARACTER: usize = CHARACTER + 2;
/// Height of a line of the title.
const TITLE_LINE: usize = 18;
/// However small the network is: room for a title.
const LEAST_WIDTH: usize = 480;

/// What is drawn so far.
#[derive(Default)]
struct Picture {
    bottom: usize,
    boxes: String,
    lines: String,
    /// Hosts and their uplinks: the host, whether it is the host itself, the left edge and the middle of the box.
    hosts: Vec<(usize, bool, usize, usize)>,
}

impl Picture {
    /// Lines from hosts to those of their interfaces that are elsewhere, along the left of the boxes.
    fn uplinks(&self) -> String {
        let mut lines = String::new();
        for (host, _, x, y) in self.hosts.iter().filter(|(_, whole, ..)| !whole) {
            let own = self.hosts.iter().find(|(other, whole, ..)| *whole && other == host);
            if let Some((_, _, own_x, own_y)) = own {
                let beside = (*x).min(*own_x).saturating_sub(PAD);
                let _ = writeln!(lines, "<path class=\"same\" d=\"M{own_x} {own_y} H{beside} V{y} H{x}\"/>");
            }
        }
        lines
    }
}

/// The same tree as boxes, from left to right.
pub fn svg(topology: &Topology) -> String {
    let tree = tree(topology);
    let mut widths = Vec::new();
    measure(&tree, 0, &mut widths);
    let width: usize = widths.iter().map(|width| width + 5 * PAD).sum::<usize>() + PAD;
    let width = width.max(LEAST_WIDTH);
    let title = wrapped(&topology.title, (width - 2 * PAD) / TITLE_CHARACTER);
    let mut picture = Picture { bottom: 3 * LINE + (title.len() - 1) * TITLE_LINE, ..Picture::default() };
    place(&tree, 0, &widths, &mut picture);
    let uplinks = picture.uplinks();
    let Picture { bottom, boxes, lines, .. } = picture;
    let title: String = (0..)
        .zip(&title)
        .map(|(number, line)| format!("<tspan x=\"{PAD}\" y=\"{}\">{}</tspan>", 24 + number * TITLE_LINE, escape(line)))
        .collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{bottom}\" viewBox=\"0 0 {width} {bottom}\" \
         font-family=\"ui-monospace,Menlo,Consolas,monospace\" font-size=\"11.5\">\n\
         <style>rect{{stroke:#57606a;rx:5}} .internet{{fill:#ddf4ff}} .router{{fill:#fff8c5}} .peer{{fill:#dafbe1}} \
         .host{{fill:#f6f8fa}} .server{{fill:#fbefff}} .uplink{{fill:#f6f8fa;stroke-dasharray:4 3}} .same{{stroke-dasharray:4 3}} path{{stroke:#57606a;fill:none}} text{{fill:#1f2328}}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\" style=\"stroke:none\"/>\n\
         <text font-size=\"14\" font-weight=\"bold\">{title}</text>\n{lines}{uplinks}{boxes}</svg>\n"
    )
}

/// Lines of at most so many characters, and at least one; longer words are cut.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        for piece in letters.chunks(columns.max(1)) {
            let line = lines.last().map_or(0, |line| line.chars().count());
            if line > 0 && line + 1 + piece.len() > columns {
                lines.push(String::new());
            }
            let Some(line) = lines.last_mut() else { continue };
            if !line.is_empty() {
                line.push(' ');
            }
            line.extend(piece);
        }
    }
    lines
}

fn measure(node: &Node, depth: usize, widths: &mut Vec<usize>) {
    let longest = node.lines.iter().chain([&node.title]).map(|line| line.chars().count()).max().unwrap_or(0);
    let width = longest * CHARACTER + 2 * PAD;
    match widths.get_mut(depth) {
        Some(known) => *known = (*known).max(width),
        None => widths.push(width),
    }
    node.below.iter().for_each(|below| measure(below, depth + 1, widths));
}

/// Draws a node and what is below it; answers the middle of its box.
fn place(node: &Node, depth: usize, widths: &[usize], picture: &mut Picture) -> usize {
    let x = PAD + widths[..depth].iter().map(|width| width + 5 * PAD).sum::<usize>();
    let height = (node.lines.len() + 1) * LINE + PAD;
    let top = picture.bottom;
    let middles: Vec<usize> = node.below.iter().map(|below| place(below, depth + 1, widths, picture)).collect();
    picture.bottom = picture.bottom.max(top + height + PAD);
    let middle = match (middles.first(), middles.last()) {
        (Some(first), Some(last)) => ((first + last) / 2).max(top + height / 2),
        _ => top + height / 2,
    };
    let y = middle - height / 2;
    picture.bottom = picture.bottom.max(y + height + PAD);
    picture.hosts.extend(node.host.map(|host| (host, node.kind != "uplink", x, middle)));
    let width = widths[depth];
    let Picture { boxes, lines, .. } = picture;
    let _ =
        writeln!(boxes, "<rect class=\"{}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"/>", node.kind);
    for (number, line) in std::iter::once(&node.title).chain(&node.lines).enumerate() {
        let weight = if number == 0 { " font-weight=\"bold\"" } else { "" };
        let (x, y) = (x + PAD, y + (number + 1) * LINE);
        let _ = writeln!(boxes, "<text x=\"{x}\" y=\"{y}\"{weight}>{}</text>", escape(line));
    }
    for to in middles {
        let (from, end) = (x + width, x + width + 5 * PAD);
        let half = (from + end) / 2;
        let _ = writeln!(lines, "<path d=\"M{from} {middle} H{half} V{to} H{end}\"/>");
    }
    middle
}

/// For text in XML.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML 1.0 §2.2 has no control characters and not these two.
            '\u{FFFE}' | '\u{FFFF}' => escaped.push('\u{FFFD}'),
            control if control.is_control() && control != '\n' && control != '\t' => escaped.push('\u{FFFD}'),
            other => escaped.push(other),
        }
    }
    escaped
}
