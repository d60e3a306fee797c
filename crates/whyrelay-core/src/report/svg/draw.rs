//! Small parts that the pictures share.

use crate::report::markup::Markup;

/// A place in a picture.
pub(super) type Point = (f64, f64);

/// A number as SVG takes it: one decimal is a tenth of a pixel.
pub(super) fn number(value: f64) -> String {
    let rounded = (value * 10.0).round() / 10.0;
    // No "-0".
    format!("{}", rounded + 0.0)
}

/// The outermost element, with what a screen reader says instead of the picture.
pub(super) fn open_picture(out: &mut Markup, width: f64, height: f64, class: &'static str, title: &str) {
    let view = format!("0 0 {} {}", number(width), number(height));
    let attributes = [
        ("xmlns", "http://www.w3.org/2000/svg"),
        ("class", class),
        ("viewBox", &view),
        ("role", "img"),
        ("aria-label", title),
    ];
    out.open("svg", &attributes);
    out.line();
}

pub(super) fn rect(out: &mut Markup, class: &'static str, (x, y): Point, width: f64, height: f64, radius: f64) {
    let (x, y, width, height, radius) = (number(x), number(y), number(width), number(height), number(radius));
    let attributes = [("class", class), ("x", &*x), ("y", &y), ("width", &width), ("height", &height), ("rx", &radius)];
    out.empty("rect", &attributes);
    out.line();
}

pub(super) fn text(out: &mut Markup, class: &'static str, (x, y): Point, anchor: &'static str, words: &str) {
    let (x, y) = (number(x), number(y));
    out.element("text", &[("class", class), ("x", &x), ("y", &y), ("text-anchor", anchor)], words);
    out.line();
}

/// Text cut to a number of characters; the whole text is in its title.
pub(super) fn fitted(out: &mut Markup, class: &'static str, at: Point, anchor: &'static str, words: &str, most: usize) {
    let short = shorten(words, most);
    if short == words {
        return text(out, class, at, anchor, words);
    }
    let (x, y) = (number(at.0), number(at.1));
    out.open("text", &[("class", class), ("x", &x), ("y", &y), ("text-anchor", anchor)]);
    out.element("title", &[], words);
    out.text(&short);
    out.close("text");
    out.line();
}

/// Text with its middle left out: addresses differ in their ends.
pub(super) fn shorten(words: &str, most: usize) -> String {
    let count = words.chars().count();
    if count <= most {
        return words.to_owned();
    }
    let head = most.saturating_sub(1).div_ceil(2);
    let tail = most.saturating_sub(1) - head;
    let end: String = words.chars().skip(count - tail).collect();
    format!("{}…{end}", words.chars().take(head).collect::<String>())
}

pub(super) fn circle(out: &mut Markup, class: &'static str, (x, y): Point, radius: f64) {
    let (x, y, radius) = (number(x), number(y), number(radius));
    out.empty("circle", &[("class", class), ("cx", &x), ("cy", &y), ("r", &radius)]);
    out.line();
}

/// A cross on a disk: here it stops.
pub(super) fn cross(out: &mut Markup, (x, y): Point) {
    circle(out, "wr-halo", (x, y), 9.5);
    let [left, right] = [number(x - 4.0), number(x + 4.0)];
    let [top, bottom] = [number(y - 4.0), number(y + 4.0)];
    let d = format!("M{left} {top} {right} {bottom} M{left} {bottom} {right} {top}");
    out.empty("path", &[("class", "wr-cross"), ("d", &d)]);
    out.line();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_loses_its_middle() {
        assert_eq!(shorten("[2001:db8:1234:5678::1]:50000", 17), "[2001:db…1]:50000");
        assert_eq!(shorten("192.0.2.1:1", 17), "192.0.2.1:1");
        assert_eq!(number(-0.04), "0");
    }
}
