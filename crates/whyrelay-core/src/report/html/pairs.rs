//! The pairs, each with the chain of its checks.

use super::findings::link;
use super::heading;
use crate::diagnosis::session::{Chain, End};
use crate::report::describe::duration;
use crate::report::markup::Markup;
use crate::report::{CheckRow, PairOfSide, PairOutcome, PairRow, Report, words};
use crate::trace::event::Vantage;

/// Pairs that are shown at once; the others are folded away, and beyond the second number only counted.
const SHOWN: usize = 16;
const LISTED: usize = 120;

/// Checks of a pair that are listed, each way; the JSON account has more.
const MAX_CHECKS: usize = 8;

pub(super) fn render(out: &mut Markup, report: &Report) {
    let (checked, unchecked): (Vec<&PairRow>, Vec<&PairRow>) =
        report.pairs.iter().partition(|pair| pair.checked || pair.selected);
    let total = report.pairs.len() + report.pairs_left_out;
    let small = format!("{} of {total} checked; how far each side's checks came", checked.len());
    heading(out, "pairs", "Pairs", &small);
    if checked.is_empty() {
        out.raw("<p class=\"faint\">No check was sent.</p>\n");
    }
    out.raw("<div class=\"pairs\">\n");
    checked.iter().take(SHOWN).for_each(|pair| one(out, pair));
    out.raw("</div>\n");
    let folded: Vec<&&PairRow> = checked.iter().skip(SHOWN).chain(&unchecked).collect();
    if folded.is_empty() && report.pairs_left_out == 0 {
        return;
    }
    out.raw("<details class=\"more\">");
    out.element("summary", &[], &format!("{} more pairs", total - checked.len().min(SHOWN)));
    out.raw("\n<div class=\"pairs\">\n");
    folded.iter().take(LISTED).for_each(|pair| one(out, pair));
    out.raw("</div>\n");
    let rest = folded.len().saturating_sub(LISTED) + report.pairs_left_out;
    if rest > 0 {
        out.element("p", &[("class", "faint")], &format!("{rest} more are not listed here."));
    }
    out.raw("</details>\n");
}

fn one(out: &mut Markup, pair: &PairRow) {
    out.raw("<details class=\"pair panel\"><summary>");
    out.raw(match pair.outcome {
        PairOutcome::Works => "<span class=\"dot good\"></span>",
        PairOutcome::Broken => "<span class=\"dot bad\"></span>",
        PairOutcome::Unknown => "<span class=\"dot\"></span>",
    });
    out.open("span", &[("class", "ends")]);
    out.text("A ");
    end(out, pair.a.as_ref());
    out.text(" ↔ B ");
    end(out, pair.b.as_ref());
    tags(out, pair);
    out.close("span");
    out.open("span", &[("class", "chains")]);
    chain(out, Vantage::A, &pair.a_to_b, pair.a_pair.as_ref());
    chain(out, Vantage::B, &pair.b_to_a, pair.b_pair.as_ref());
    out.close("span");
    out.close("summary");
    out.open("div", &[("class", "body")]);
    checks(out, pair);
    out.raw("</div></details>\n");
}

fn end(out: &mut Markup, end: Option<&End>) {
    match end {
        Some(end) => {
            out.text(end.kind.name());
            out.raw(" ");
            out.element("code", &[], &end.address.to_string());
        }
        None => out.text("unknown"),
    }
}

fn tags(out: &mut Markup, pair: &PairRow) {
    let marks = words::marks(pair);
    if marks.is_empty() {
        return;
    }
    out.raw(" ");
    out.open("span", &[("class", "tags")]);
    for mark in &marks {
        out.element("span", &[("class", if mark == "selected" { "tag good" } else { "tag" })], mark);
    }
    out.close("span");
}

/// One chain: `A→B sent 7 › seen by B 0 › …`.
fn chain(out: &mut Markup, from: Vantage, chain: &Chain, side: Option<&PairOfSide>) {
    out.open("span", &[("class", "chain")]);
    out.element("span", &[("class", "way")], &format!("{} → {}", from.name(), from.other().name()));
    if let Some(why) = words::no_connection(chain, side) {
        out.element("span", &[("class", "why")], &format!("✕ {why}"));
        out.close("span");
        return;
    }
    let Some(steps) = words::steps(chain, from) else {
        out.raw("<span class=\"unknown\">not checked</span></span>");
        return;
    };
    for (index, step) in steps.iter().enumerate() {
        if index > 0 {
            out.raw("<span class=\"arrow\">›</span>");
        }
        let class = match step.count {
            Some(0) => "no",
            Some(_) => "ok",
            None => "unknown",
        };
        out.element("span", &[("class", class)], &step.words);
    }
    for error in words::errors(chain) {
        out.element("span", &[("class", "no")], &error);
    }
    if let Some(broken) = words::broken(chain, from) {
        out.element("span", &[("class", "why")], &format!("✕ {broken}"));
    }
    out.close("span");
}

fn checks(out: &mut Markup, pair: &PairRow) {
    if pair.checks.is_empty() {
        out.element("p", &[("class", "faint")], words::no_checks(pair));
        return;
    }
    out.raw("<div class=\"scroll\"><table><thead><tr><th>check</th><th class=\"n\">sent</th><th>times</th>");
    out.raw("<th class=\"n\">seen</th><th>from</th><th class=\"n\">answered</th><th class=\"n\">answer seen</th>");
    out.raw("<th class=\"n\">round trip</th></tr></thead><tbody>\n");
    let mut shown = 0;
    for from in [Vantage::A, Vantage::B] {
        for check in pair.checks.iter().filter(|check| check.from == from).take(MAX_CHECKS) {
            shown += 1;
            row(out, check);
        }
    }
    out.raw("</tbody></table></div>");
    let rest = pair.checks.len() - shown + pair.checks_left_out;
    if rest > 0 {
        out.element("p", &[("class", "faint")], &format!("{rest} more checks"));
    }
}

fn row(out: &mut Markup, check: &CheckRow) {
    out.open("tr", &[]);
    out.open("td", &[]);
    out.text(&format!("{} ", check.from.name()));
    link(out, check.seq);
    if check.nominating {
        out.text(" nominating");
    }
    if let Some(code) = check.error {
        out.element("span", &[("class", "no")], &format!(" error {code}"));
    }
    out.close("td");
    let time = |out: &mut Markup, at: Option<u64>| {
        out.element("td", &[("class", "n")], &at.map_or_else(|| "–".to_owned(), duration));
    };
    time(out, check.sent_us);
    let refused = if check.refused > 0 { format!(", {} refused", check.refused) } else { String::new() };
    out.element("td", &[], &format!("{}{refused}", check.transmissions));
    time(out, check.seen_us);
    out.element("td", &[], &check.seen_from.map_or_else(|| "–".to_owned(), |from| from.to_string()));
    time(out, check.answered_us);
    time(out, check.answer_seen_us);
    time(out, check.round_trip_us);
    out.close("tr");
    out.line();
}
