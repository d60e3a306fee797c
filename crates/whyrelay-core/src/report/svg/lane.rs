//! A lane: the way of one flow of checks, and of its answers.

use super::draw::{Point, cross, number};
use crate::diagnosis::session::Break;
use crate::report::Flow;
use crate::report::markup::Markup;

/// How far the line of the answers is from that of the checks.
const APART: f64 = 9.0;

/// Draws a flow along a way from its sender to its receiver. `lost_at` is where on it a loss is drawn, 0 to 1.
pub(super) fn lane(out: &mut Markup, flow: &Flow, way: &[Point], side: Point, lost_at: f64) {
    let back: Vec<Point> = way.iter().rev().map(|(x, y)| (x + side.0 * APART, y + side.1 * APART)).collect();
    let ok = if flow.selected { "wr-path wr-ok wr-main" } else { "wr-path wr-ok" };
    match flow.stops {
        None => {
            arrow(out, ok, "wr-tip-ok", way);
            if flow.answer_seen.or(flow.answered) > Some(0) {
                arrow(out, if flow.selected { "wr-path wr-ok" } else { ok }, "wr-tip-ok", &back);
            }
        }
        Some(Break::AtSending) => {
            let (_, at, rest) = split(way, 0.03);
            line(out, "wr-path wr-never", &rest);
            cross(out, at);
        }
        Some(Break::OnTheWay | Break::Somewhere) => {
            let (gone, at, rest) = split(way, lost_at);
            line(out, "wr-path wr-never", &rest);
            line(out, "wr-path wr-lost", &gone);
            cross(out, at);
        }
        Some(Break::AtAnswering) => {
            arrow(out, "wr-path wr-ok", "wr-tip-ok", way);
            if let Some(end) = way.last() {
                cross(out, *end);
            }
        }
        Some(Break::OnTheWayBack) => {
            arrow(out, "wr-path wr-ok", "wr-tip-ok", way);
            let (gone, at, rest) = split(&back, 1.0 - lost_at);
            line(out, "wr-path wr-never", &rest);
            line(out, "wr-path wr-lost", &gone);
            cross(out, at);
        }
        Some(Break::Refused) => {
            arrow(out, "wr-path wr-ok", "wr-tip-ok", way);
            arrow(out, "wr-path wr-refused", "wr-tip-bad", &back);
        }
    }
}

fn line(out: &mut Markup, class: &'static str, points: &[Point]) {
    let mut d = String::new();
    for (index, (x, y)) in points.iter().enumerate() {
        d.push_str(if index == 0 { "M" } else { "L" });
        d.push_str(&number(*x));
        d.push(' ');
        d.push_str(&number(*y));
    }
    out.empty("path", &[("class", class), ("d", &d)]);
    out.line();
}

fn arrow(out: &mut Markup, class: &'static str, tip: &'static str, points: &[Point]) {
    line(out, class, points);
    let [.., (fx, fy), (x, y)] = points else { return };
    let length = (x - fx).hypot(y - fy).max(0.001);
    let (dx, dy) = ((x - fx) / length, (y - fy) / length);
    let base = (x - dx * 9.0, y - dy * 9.0);
    let corner = |sign: f64| (base.0 - dy * 5.0 * sign, base.1 + dx * 5.0 * sign);
    let points: Vec<String> = [(*x + dx, *y + dy), corner(1.0), corner(-1.0)]
        .iter()
        .map(|(x, y)| format!("{},{}", number(*x), number(*y)))
        .collect();
    out.empty("polygon", &[("class", tip), ("points", &points.join(" "))]);
    out.line();
}

/// A way in two parts, cut at a fraction of its length.
fn split(way: &[Point], fraction: f64) -> (Vec<Point>, Point, Vec<Point>) {
    let length = |(from, to): (&Point, &Point)| (to.0 - from.0).hypot(to.1 - from.1);
    let total: f64 = way.iter().zip(way.iter().skip(1)).map(length).sum();
    let mut left = total * fraction;
    let mut gone = Vec::new();
    for (index, pair) in way.windows(2).enumerate() {
        let [from, to] = pair else { continue };
        let part = length((from, to));
        gone.push(*from);
        if left <= part {
            let share = if part > 0.0 { left / part } else { 0.0 };
            let at = (from.0 + (to.0 - from.0) * share, from.1 + (to.1 - from.1) * share);
            gone.push(at);
            let mut rest = vec![at];
            rest.extend(way.iter().skip(index + 1));
            return (gone, at, rest);
        }
        left -= part;
    }
    let end = way.last().copied().unwrap_or_default();
    (way.to_vec(), end, vec![end])
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_way_is_cut_where_it_is_said() {
        let way = [(0.0, 0.0), (10.0, 0.0), (10.0, 10.0)];
        let (gone, at, rest) = split(&way, 0.75);
        assert_eq!(at, (10.0, 5.0));
        assert_eq!(gone, [(0.0, 0.0), (10.0, 0.0), (10.0, 5.0)]);
        assert_eq!(rest, [(10.0, 5.0), (10.0, 10.0)]);
        assert_eq!(split(&[], 0.5).1, (0.0, 0.0));
    }
}
