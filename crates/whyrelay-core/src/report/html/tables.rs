//! Candidates, moments, events.

use super::heading;
use crate::report::describe::duration;
use crate::report::markup::Markup;
use crate::report::{CandidateRow, EventRow, Report, words};

/// Candidates that are shown before the rest is folded away.
const CANDIDATES: usize = 24;

/// Events that are listed beside those that findings cite.
const EVENTS: usize = 400;

pub(super) fn moments(out: &mut Markup, report: &Report) {
    let timeline = &report.timeline;
    out.raw("<details class=\"more\">");
    out.element("summary", &[], &format!("{} moments in words", timeline.moments.len()));
    out.raw("<div class=\"scroll\"><table><thead><tr><th class=\"n\">time</th><th>A saw</th><th>B saw</th>");
    out.raw("</tr></thead><tbody>\n");
    for moment in &timeline.moments {
        out.open("tr", &[]);
        out.element("td", &[("class", "n")], &duration(moment.at_us));
        if moment.side == crate::trace::event::Vantage::B {
            out.raw("<td></td>");
        }
        out.element("td", &[], &moment.text);
        if moment.side == crate::trace::event::Vantage::A {
            out.raw("<td></td>");
        }
        out.close("tr");
        out.line();
    }
    out.raw("</tbody></table></div>");
    if timeline.moments_left_out > 0 {
        out.element("p", &[("class", "faint")], &format!("{} more in between", timeline.moments_left_out));
    }
    out.raw("</details>\n");
}

pub(super) fn candidates(out: &mut Markup, report: &Report) {
    heading(out, "candidates", "Candidates", &report.candidates.len().to_string());
    if report.candidates.is_empty() {
        out.raw("<p class=\"faint\">None.</p>\n");
        return;
    }
    out.raw("<div class=\"panel\">\n");
    candidate_table(out, report.candidates.iter().take(CANDIDATES));
    if report.candidates.len() > CANDIDATES {
        out.raw("<details class=\"more\">");
        out.element("summary", &[], &format!("{} more candidates", report.candidates.len() - CANDIDATES));
        candidate_table(out, report.candidates.iter().skip(CANDIDATES));
        out.raw("</details>\n");
    }
    out.raw("</div>\n");
}

fn candidate_table<'a>(out: &mut Markup, rows: impl Iterator<Item = &'a CandidateRow>) {
    out.raw("<div class=\"scroll\"><table><thead><tr><th></th><th>type</th><th>address</th><th>base</th>");
    out.raw("<th>interface</th><th>server</th><th></th></tr></thead><tbody>\n");
    for row in rows {
        out.open("tr", &[]);
        out.element("td", &[], row.side.name());
        out.element("td", &[], &words::candidate_type(row));
        out.open("td", &[]);
        out.element("code", &[], &words::candidate_address(row));
        out.close("td");
        let base = match row.base {
            Some(base) if base.to_string() == row.address => "same".to_owned(),
            Some(base) => base.to_string(),
            None => "?".to_owned(),
        };
        out.open("td", &[]);
        out.element("code", &[], &base);
        out.close("td");
        out.element("td", &[], row.interface.as_deref().unwrap_or("–"));
        out.element("td", &[], row.server.as_deref().unwrap_or("–"));
        out.element("td", &[], if row.received == Some(false) { "never reached the other side" } else { "" });
        out.close("tr");
        out.line();
    }
    out.raw("</tbody></table></div>\n");
}

pub(super) fn events(out: &mut Markup, report: &Report) {
    if report.events.is_empty() {
        return;
    }
    heading(out, "events", "Events that show it", "numbers as in the recording");
    let (cited, others): (Vec<&EventRow>, Vec<&EventRow>) =
        report.events.iter().partition(|row| !row.cited_by.is_empty());
    out.raw("<div class=\"panel\">\n");
    if !cited.is_empty() {
        event_table(out, &cited);
    }
    if !others.is_empty() {
        let shown = &others[..others.len().min(EVENTS)];
        out.open("details", &[("class", "more"), ("id", "other-events")]);
        out.element("summary", &[], &format!("{} events behind chains and candidates", shown.len()));
        event_table(out, shown);
        out.raw("</details>\n");
    }
    out.raw("</div>\n");
}

fn event_table(out: &mut Markup, rows: &[&EventRow]) {
    out.raw("<div class=\"scroll\"><table><thead><tr><th>event</th><th></th><th class=\"n\">time</th><th>what</th>");
    out.raw("<th>shows</th></tr></thead><tbody>\n");
    for row in rows {
        out.open("tr", &[("id", &format!("e{}", row.seq))]);
        out.element("td", &[("class", "mono")], &format!("#{}", row.seq));
        out.element("td", &[], row.side.name());
        out.element("td", &[("class", "n")], &duration(row.at_us));
        out.element("td", &[], &row.text);
        out.element("td", &[("class", "code")], &row.cited_by.join(" "));
        out.close("tr");
        out.line();
    }
    out.raw("</tbody></table></div>\n");
}
