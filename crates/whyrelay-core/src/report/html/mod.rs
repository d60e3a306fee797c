//! The account as one HTML file: nothing to load, no script, readable in light and dark, on paper and on a telephone.

mod findings;
mod pairs;
mod tables;

use super::describe::duration;
use super::markup::Markup;
use super::svg::{self, PICTURE_STYLE};
use super::{Report, SideSummary};
use crate::diagnosis::session::Path;
use crate::trace::event::{Role, Vantage};

const STYLE: &str = include_str!("style.css");

/// Nothing is loaded and nothing runs, even if something should get past the escaping.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The account as one self-contained HTML file.
pub fn render_html(report: &Report) -> String {
    let mut out = Markup::new();
    out.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    out.raw("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n");
    out.empty("meta", &[("http-equiv", "Content-Security-Policy"), ("content", POLICY)]);
    out.raw(
        "\n<meta name=\"referrer\" content=\"no-referrer\">\n<meta name=\"color-scheme\" content=\"light dark\">\n",
    );
    out.element("title", &[], &format!("whyrelay: {}", report.heading));
    out.raw("\n<style>\n");
    out.raw(STYLE);
    out.raw(PICTURE_STYLE);
    out.raw("</style>\n</head>\n<body>\n<main>\n");
    verdict(&mut out, report);
    findings::causes(&mut out, report);
    asides(&mut out, report);
    network(&mut out, report);
    not_measured(&mut out, report);
    findings::notes(&mut out, report);
    timeline(&mut out, report);
    pairs::render(&mut out, report);
    sides(&mut out, report);
    tables::candidates(&mut out, report);
    tables::events(&mut out, report);
    out.raw("<footer>A is the offerer, B the answerer. Made by whyrelay from what was recorded; nothing in this file ");
    out.raw("is loaded from elsewhere. <code>whyrelay explain CODE</code> says more about a finding.</footer>\n");
    out.raw("</main>\n</body>\n</html>\n");
    out.finish()
}

const fn class(path: Path) -> &'static str {
    match path {
        Path::Direct => "verdict direct",
        Path::Relayed => "verdict relayed",
        Path::Failed => "verdict failed",
    }
}

fn verdict(out: &mut Markup, report: &Report) {
    let class = if report.decided && !report.over_tcp { class(report.path) } else { "verdict relayed" };
    out.open("header", &[("class", class)]);
    out.open("div", &[("class", "word")]);
    out.text(match report.path {
        Path::Direct if report.over_tcp => "! ",
        Path::Direct => "✓ ",
        _ if !report.decided => "? ",
        Path::Relayed => "⇄ ",
        Path::Failed => "✕ ",
    });
    out.text(report.heading);
    if !report.note.is_empty() {
        out.element("span", &[("class", "note")], report.note);
    }
    out.close("div");
    out.element("h1", &[], &report.reason);
    out.open("div", &[("class", "facts")]);
    if let Some(pair) = &report.selected_pair {
        let rtt = pair.rtt_ms.map_or_else(|| "not measured".to_owned(), |ms| format!("{ms:.1} ms"));
        fact(out, "round trip", &rtt);
        let (a, b) = (
            format!("{} {}", pair.local.kind, pair.local.address),
            format!("{} {}", pair.remote.kind, pair.remote.address),
        );
        fact(out, "A", &a);
        fact(out, "B", &b);
    }
    for (name, side) in [("A", &report.a), ("B", &report.b)] {
        if side.is_none() {
            fact(out, &format!("{name}'s side"), "not recorded");
        }
    }
    out.close("div");
    out.close("header");
    out.line();
}

fn fact(out: &mut Markup, name: &str, value: &str) {
    out.open("span", &[]);
    out.text(name);
    out.raw(" ");
    out.element("b", &[], value);
    out.close("span");
}

/// A heading with a few words behind it.
fn heading(out: &mut Markup, id: &'static str, words: &'static str, small: &str) {
    out.line();
    out.open("h2", &[("id", id)]);
    out.raw(words);
    if !small.is_empty() {
        out.element("small", &[], small);
    }
    out.close("h2");
    out.line();
}

fn asides(out: &mut Markup, report: &Report) {
    let mut last = "";
    for aside in super::asides(report) {
        out.line();
        // Two sides may stand in for a program each.
        let id: &[(&str, &str)] = if aside.id == last { &[] } else { &[("id", aside.id)] };
        out.element("h2", id, &aside.heading);
        last = aside.id;
        out.raw("\n<div class=\"panel\">\n");
        if let Some(lead) = &aside.lead {
            out.element("p", &[("class", "lead")], lead);
        }
        if !aside.points.is_empty() {
            out.raw("<ul class=\"plain\">\n");
            for point in &aside.points {
                out.open("li", &[]);
                out.text(&point.words);
                if let Some(seq) = point.seq {
                    out.element("span", &[("class", "faint")], &format!(" #{seq}"));
                }
                out.raw("</li>\n");
            }
            out.raw("</ul>");
        }
        if let Some(conclusion) = aside.conclusion {
            out.element("p", &[], conclusion);
        }
        out.raw("</div>\n");
    }
}

fn network(out: &mut Markup, report: &Report) {
    heading(out, "networks", "The two networks", "and where the checks between them stop");
    out.raw("<figure class=\"panel\">\n");
    out.append(svg::network_picture(report));
    out.append(svg::network_tall_picture(report));
    out.raw("<figcaption>Solid: seen by the other side. Dashed: sent, and lost somewhere before the cross. ");
    out.raw("The thin line beside each is the answers' way back.");
    if report.network.servers_left_out > 0 {
        out.text(&format!(" {} more servers are not drawn.", report.network.servers_left_out));
    }
    out.raw("</figcaption>\n</figure>\n");
}

fn not_measured(out: &mut Markup, report: &Report) {
    if report.not_measured.is_empty() {
        return;
    }
    heading(out, "not-measured", "Not measured", "this is not a no");
    out.raw("<div class=\"panel\"><ul class=\"plain\">\n");
    for missing in &report.not_measured {
        out.open("li", &[]);
        out.text(&missing.what);
        out.open("span", &[("class", "faint")]);
        out.text(&format!(" — {}", missing.why));
        out.raw("</span></li>\n");
    }
    out.raw("</ul></div>\n");
}

fn timeline(out: &mut Markup, report: &Report) {
    let timeline = &report.timeline;
    if timeline.moments.is_empty() {
        return;
    }
    heading(out, "time", "Time line", &format!("{} in all", duration(timeline.end_us)));
    out.raw("<figure class=\"panel\">\n");
    out.append(svg::timeline_picture(report, 960));
    out.append(svg::timeline_picture(report, 360));
    out.raw("<figcaption>");
    out.text(clock_words(report));
    out.raw("</figcaption>\n");
    tables::moments(out, report);
    out.raw("</figure>\n");
}

fn clock_words(report: &Report) -> &str {
    match &report.clock {
        Some(clock) => &clock.summary,
        None => "One side was recorded: all times are on its clock.",
    }
}

fn sides(out: &mut Markup, report: &Report) {
    heading(out, "sides", "Sides", "");
    out.raw("<div class=\"sides\">\n");
    for (vantage, part, side) in [(Vantage::A, "offerer", &report.a), (Vantage::B, "answerer", &report.b)] {
        out.open("div", &[("class", "panel")]);
        out.element("h3", &[], &format!("{} · {part}", vantage.name()));
        match side {
            Some(side) => one_side(out, side),
            None => out.element("p", &[("class", "faint")], "not recorded"),
        }
        out.close("div");
        out.line();
    }
    out.raw("</div>\n");
}

fn one_side(out: &mut Markup, side: &SideSummary) {
    out.open("dl", &[]);
    let mut row = |name: &'static str, value: Option<String>| {
        if let Some(value) = value {
            out.element("dt", &[], name);
            out.element("dd", &[], &value);
        }
    };
    row("program", side.program.clone());
    row("id", side.id.clone());
    row(
        "ICE role",
        side.role.map(|role| match role {
            Role::Controlling => "controlling".to_owned(),
            Role::Controlled => "controlled".to_owned(),
        }),
    );
    row("data channel opened after", side.channel_opened_ms.map(|ms| format!("{ms:.0} ms")));
    row(
        "round trip of messages",
        side.channel_round_trips.map(|trips| {
            let lost = if trips.lost > 0 { format!(", {} lost", trips.lost) } else { String::new() };
            format!("{} median, {} p99 of {}{lost}", duration(trips.median_us), duration(trips.p99_us), trips.count)
        }),
    );
    row("sent", side.throughput_out_mbps.map(|mbps| format!("{mbps:.1} Mbit/s")));
    row("received", side.throughput_in_mbps.map(|mbps| format!("{mbps:.1} Mbit/s")));
    row("events", Some(side.events.to_string()));
    for program in &side.programs {
        row("on this host", Some(program.words.clone()));
    }
    row("recording", side.ended.is_none().then(|| "cut off".to_owned()));
    out.close("dl");
}
