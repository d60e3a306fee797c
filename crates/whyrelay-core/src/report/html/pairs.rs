//! The pairs, each with the chain of its checks.

use super::findings::link;
use super::heading;
use crate::diagnosis::session::{Break, Chain, End};
use crate::report::describe::{duration, pair_state};
use crate::report::markup::Markup;
use crate::report::{CheckRow, PairOfSide, PairRow, Report};
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
    let works = [&pair.a_to_b, &pair.b_to_a].iter().any(|chain| chain.broken.is_none() && chain.answer_seen > Some(0));
    let broken = [&pair.a_to_b, &pair.b_to_a].iter().any(|chain| chain.broken.is_some());
    out.raw(match (works, broken) {
        (true, _) => "<span class=\"dot good\"></span>",
        (false, true) => "<span class=\"dot bad\"></span>",
        (false, false) => "<span class=\"dot\"></span>",
    });
    out.open("span", &[("class", "ends")]);
    out.text("A ");
    end(out, pair.a.as_ref());
    out.text(" ↔ B ");
    end(out, pair.b.as_ref());
    tags(out, pair);
    out.close("span");
    out.open("span", &[("class", "chains")]);
    chain(out, Vantage::A, &pair.a_to_b);
    chain(out, Vantage::B, &pair.b_to_a);
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
    let mut tags: Vec<(&'static str, String)> = Vec::new();
    if pair.selected {
        tags.push(("tag good", "selected".to_owned()));
    } else if pair.nominated {
        tags.push(("tag", "nominated".to_owned()));
    }
    if pair.relayed {
        tags.push(("tag", "relayed".to_owned()));
    }
    let state = |side: &Option<PairOfSide>| side.as_ref().and_then(|side| side.state).map(pair_state);
    match (state(&pair.a_pair), state(&pair.b_pair)) {
        (Some(a), Some(b)) if a == b => tags.push(("tag", a.to_owned())),
        (a, b) => {
            tags.extend(a.map(|a| ("tag", format!("A {a}"))));
            tags.extend(b.map(|b| ("tag", format!("B {b}"))));
        }
    }
    for (name, side) in [("A", &pair.a_pair), ("B", &pair.b_pair)] {
        let detail = side.as_ref().and_then(|side| side.no_connection.as_ref()).filter(|_| !pair.checked);
        tags.extend(detail.map(|detail| ("tag", format!("{name}: no TCP connection: {detail}"))));
    }
    if tags.is_empty() {
        return;
    }
    out.raw(" ");
    out.open("span", &[("class", "tags")]);
    for (class, words) in &tags {
        out.element("span", &[("class", class)], words);
    }
    out.close("span");
}

/// One chain: `A→B sent 7 › seen by B 0 › …`.
fn chain(out: &mut Markup, from: Vantage, chain: &Chain) {
    let to = from.other().name();
    out.open("span", &[("class", "chain")]);
    out.element("span", &[("class", "way")], &format!("{} → {to}", from.name()));
    if chain.sent.is_some_and(|sent| sent.checks == 0) {
        out.raw("<span class=\"unknown\">not checked</span></span>");
        return;
    }
    let sent = match chain.sent {
        Some(sent) if sent.transmissions > sent.checks => {
            (Some(sent.checks), format!("sent {} ({} times)", sent.checks, sent.transmissions))
        }
        Some(sent) => (Some(sent.checks), format!("sent {}", sent.checks)),
        None => (None, "sent ?".to_owned()),
    };
    let seen = match &chain.seen {
        Some(seen) => {
            let from: Vec<_> = seen.from.iter().map(ToString::to_string).collect();
            let from = if from.is_empty() { String::new() } else { format!(" from {}", from.join(", ")) };
            (Some(seen.checks), format!("seen by {to} {}{from}", seen.checks))
        }
        None => (None, format!("seen by {to} ?")),
    };
    let counted = |words: &str, count: Option<u32>| match count {
        Some(count) => (Some(count), format!("{words} {count}")),
        None => (None, format!("{words} ?")),
    };
    let steps = [sent, seen, counted("answered", chain.answered), counted("answer seen", chain.answer_seen)];
    for (index, (count, words)) in steps.iter().enumerate() {
        if index > 0 {
            out.raw("<span class=\"arrow\">›</span>");
        }
        let class = match count {
            Some(0) => "no",
            Some(_) => "ok",
            None => "unknown",
        };
        out.element("span", &[("class", class)], words);
    }
    for (code, count) in &chain.errors {
        out.element("span", &[("class", "no")], &format!("{count}× error {code}"));
    }
    if let Some(broken) = chain.broken {
        out.element("span", &[("class", "why")], &format!("✕ {}", break_name(broken, to)));
    }
    out.close("span");
}

fn break_name(broken: Break, to: &str) -> String {
    match broken {
        Break::AtSending => "the system refused to send".to_owned(),
        Break::OnTheWay => format!("never reached {to}"),
        Break::AtAnswering => format!("{to} did not answer"),
        Break::OnTheWayBack => "the answers were lost".to_owned(),
        Break::Refused => format!("{to} answered with errors"),
        Break::Somewhere => "not answered".to_owned(),
    }
}

fn checks(out: &mut Markup, pair: &PairRow) {
    if pair.checks.is_empty() {
        out.raw("<p class=\"faint\">No check was sent on this pair.</p>");
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
