//! Findings, the cause first, each with what shows it.

use super::heading;
use crate::diagnosis::finding::{Effect, Finding, Remedy, Severity};
use crate::report::describe::duration;
use crate::report::markup::Markup;
use crate::report::text::findings::{PSEUDONYMS, has_commands};
use crate::report::{EventRow, Report};

/// Events that a finding shows itself; the others are linked.
const MAX_PROOF: usize = 3;

/// What did harm, the cause first.
pub(super) fn causes(out: &mut Markup, report: &Report) {
    list(out, report, |finding| finding.severity != Severity::Info, ("findings", "Why", "the cause first"));
}

/// What did none.
pub(super) fn notes(out: &mut Markup, report: &Report) {
    list(out, report, |finding| finding.severity == Severity::Info, ("notes", "Worth knowing", "did no harm here"));
}

fn list(
    out: &mut Markup,
    report: &Report,
    wanted: fn(&Finding) -> bool,
    (id, words, small): (&'static str, &'static str, &'static str),
) {
    let findings: Vec<&Finding> = report.findings.iter().filter(|finding| wanted(finding)).collect();
    if findings.is_empty() {
        return;
    }
    heading(out, id, words, small);
    out.raw("<div class=\"findings\">\n");
    findings.iter().for_each(|finding| one(out, finding, report));
    if report.pseudonyms && findings.iter().any(|finding| has_commands(finding)) {
        out.element("p", &[("class", "doubt")], PSEUDONYMS);
    }
    out.raw("</div>\n");
}

fn one(out: &mut Markup, finding: &Finding, report: &Report) {
    let class = match finding.severity {
        Severity::Error => "panel finding error",
        Severity::Warning => "panel finding warning",
        Severity::Info => "panel finding info",
    };
    out.open("article", &[("class", class)]);
    out.open("div", &[("class", "label")]);
    out.element("b", &[], &format!("{} {}", finding.code, finding.severity.name()));
    out.element("span", &[], finding.name);
    out.element("span", &[], &format!("at {}", finding.place()));
    out.close("div");
    out.element("h3", &[], &finding.summary);
    // What did no harm needs no cure.
    if finding.severity != Severity::Info {
        remedies(out, &finding.remedies);
        if !finding.doubt.is_empty() {
            out.element("p", &[("class", "doubt")], &format!("What would change this: {}", finding.doubt));
        }
    }
    proof(out, finding, report);
    out.close("article");
    out.line();
}

fn remedies(out: &mut Markup, remedies: &[Remedy]) {
    if remedies.is_empty() {
        return;
    }
    out.open("ul", &[]);
    for remedy in remedies {
        out.open("li", &[]);
        out.text(&remedy.text);
        if remedy.effect != Effect::Safe {
            out.element("span", &[("class", "tag")], remedy.effect.name());
        }
        if !remedy.commands.is_empty() {
            out.element("pre", &[], &remedy.commands.join("\n"));
        }
        out.close("li");
    }
    out.close("ul");
}

fn proof(out: &mut Markup, finding: &Finding, report: &Report) {
    if finding.evidence.is_empty() {
        return;
    }
    let known: Vec<&EventRow> = finding.evidence.iter().filter_map(|seq| event(report, *seq)).collect();
    out.open("ul", &[("class", "proof")]);
    for row in known.iter().take(MAX_PROOF) {
        out.open("li", &[]);
        link(out, row.seq);
        out.text(&format!(" {} at {}: {}", row.side.name(), duration(row.at_us), row.text));
        out.close("li");
    }
    if known.len() > MAX_PROOF {
        out.open("li", &[]);
        out.raw("and events");
        for row in known.iter().skip(MAX_PROOF) {
            out.raw(" ");
            link(out, row.seq);
        }
        out.close("li");
    }
    out.close("ul");
}

fn event(report: &Report, seq: u64) -> Option<&EventRow> {
    let index = report.events.binary_search_by_key(&seq, |row| row.seq).ok()?;
    report.events.get(index)
}

/// A link to an event, which is in the table of events if it is in the report.
pub(super) fn link(out: &mut Markup, seq: u64) {
    out.element("a", &[("href", &format!("#e{seq}"))], &format!("#{seq}"));
}
