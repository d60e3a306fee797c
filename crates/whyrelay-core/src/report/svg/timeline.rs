//! What each side was doing when, as bars.

use super::draw::{Point, number, open_picture, rect, text};
use crate::report::describe::duration;
use crate::report::markup::Markup;
use crate::report::{Phase, Report, Timeline};
use crate::trace::event::Vantage;

/// Height of a phase: its words, and its bar.
const ROW: f64 = 30.0;
const HEAD: f64 = 26.0;
const MARGIN: f64 = 10.0;
/// Width of a character of a bar's words, about.
const CHARACTER: f64 = 6.4;

/// Bars for waiting, gathering, checking, DTLS and the channel of each side. `width` is 960 on a wide page, 360 on a
/// narrow one.
pub fn timeline_svg(report: &Report, width: u32) -> String {
    timeline_picture(report, width).finish()
}

pub(in crate::report) fn timeline_picture(report: &Report, width: u32) -> Markup {
    let timeline = &report.timeline;
    let width = f64::from(width);
    let shown = |phase: &&Phase| phase.end_us.unwrap_or(u64::MAX) >= timeline.shown_from_us;
    let of = |side| timeline.phases.iter().filter(shown).filter(|phase| phase.side == side).collect::<Vec<_>>();
    let sides = [(Vantage::A, of(Vantage::A)), (Vantage::B, of(Vantage::B))];
    let rows: usize = sides.iter().map(|(_, phases)| phases.len()).sum();
    let present = sides.iter().filter(|(_, phases)| !phases.is_empty()).count();
    let height = rows as f64 * ROW + present as f64 * HEAD + 24.0;

    let mut out = Markup::new();
    let class = if width < 600.0 { "wr-picture wr-tall" } else { "wr-picture wr-wide" };
    open_picture(&mut out, width, height, class, "What each side was doing when");
    let scale = Scale { timeline, width };
    scale.axis(&mut out, height);
    let mut y = 0.0;
    for (side, phases) in sides.iter().filter(|(_, phases)| !phases.is_empty()) {
        text(&mut out, "wr-strong", (MARGIN, y + 18.0), "start", side.name());
        y += HEAD;
        for phase in phases {
            scale.bar(&mut out, phase, y);
            y += ROW;
        }
    }
    out.close("svg");
    out.line();
    out
}

struct Scale<'a> {
    timeline: &'a Timeline,
    width: f64,
}

impl Scale<'_> {
    fn x(&self, at_us: u64) -> f64 {
        let (from, to) = (self.timeline.shown_from_us, self.timeline.shown_to_us.max(self.timeline.shown_from_us + 1));
        let share = (at_us.clamp(from, to) - from) as f64 / (to - from) as f64;
        MARGIN + share * (self.width - 2.0 * MARGIN)
    }

    fn axis(&self, out: &mut Markup, height: f64) {
        let (from, to) = (self.timeline.shown_from_us, self.timeline.shown_to_us);
        let most = if self.width < 600.0 { 4 } else { 8 };
        let step = step(to.saturating_sub(from), most);
        let mut at = from.div_ceil(step) * step;
        while at <= to {
            let x = self.x(at);
            let (at_x, bottom) = (number(x), number(height - 18.0));
            out.empty("line", &[("class", "wr-axis"), ("x1", &at_x), ("y1", "0"), ("x2", &at_x), ("y2", &bottom)]);
            out.line();
            let anchor = if x > self.width - 40.0 {
                "end"
            } else if x < 20.0 {
                "start"
            } else {
                "middle"
            };
            text(out, "wr-faint", (x, height - 4.0), anchor, &duration(at));
            let Some(next) = at.checked_add(step) else { break };
            at = next;
        }
    }

    fn bar(&self, out: &mut Markup, phase: &Phase, y: f64) {
        let end = phase.end_us.unwrap_or(self.timeline.end_us);
        let (left, right) = (self.x(phase.start_us), self.x(end));
        let class = match phase.went_well {
            Some(true) => "wr-bar-ok",
            Some(false) => "wr-bar-bad",
            None if phase.what == crate::report::PhaseKind::Channel => "wr-bar-ok",
            None => "wr-bar-neutral",
        };
        let took = duration(end.saturating_sub(phase.start_us));
        let how = match (phase.went_well, phase.end_us) {
            (Some(false), _) => " ✕",
            (_, None) => " and on",
            _ => "",
        };
        // What began behind the picture's end has no length in it.
        let later = phase.start_us > self.timeline.shown_to_us;
        let when = if later { format!(", begun at {}", duration(phase.start_us)) } else { String::new() };
        let words = format!("{} {took}{how}{when}", phase.what.name());
        // Words that would leave the picture end at its edge.
        let at: Point = if left + words.chars().count() as f64 * CHARACTER > self.width - MARGIN {
            (self.width - MARGIN, y + 12.0)
        } else {
            (left, y + 12.0)
        };
        let anchor = if at.0 >= self.width - MARGIN { "end" } else { "start" };
        text(out, if phase.went_well == Some(false) { "wr-bad-text" } else { "" }, at, anchor, &words);
        if !later {
            rect(out, class, (left, y + 17.0), (right - left).max(3.0), 7.0, 3.0);
        }
    }
}

/// The distance of ticks: 1, 2 or 5 times a power of ten.
fn step(range: u64, most: u64) -> u64 {
    let mut step = 1;
    loop {
        for factor in [1, 2, 5] {
            let step: u64 = step * factor;
            if range / step <= most {
                return step;
            }
        }
        step *= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::step;

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!((step(0, 8), step(130_000, 8), step(3_000_000, 4)), (1, 20_000, 1_000_000));
        assert_eq!(step(u64::MAX, 8), 5_000_000_000_000_000_000);
    }
}
