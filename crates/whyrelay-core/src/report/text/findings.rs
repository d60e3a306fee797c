//! Findings, like a compiler's messages.

use std::fmt::Write as _;

use super::paint::{Paint, Style};
use super::{heading, wrap};
use crate::diagnosis::finding::{Finding, Severity};
use crate::report::Report;

/// What is said once where commands cannot be copied as they stand.
pub(in crate::report) const PSEUDONYMS: &str =
    "Addresses and names in these commands are pseudonyms (--redact): put the real ones in their place.";

/// Whether commands of it are shown.
pub(in crate::report) fn has_commands(finding: &Finding) -> bool {
    finding.severity != Severity::Info && finding.remedies.iter().any(|remedy| !remedy.commands.is_empty())
}

pub(super) fn render(out: &mut String, report: &Report, paint: Paint) {
    of(out, &report.findings, report.pseudonyms, paint, Finding::place);
}

/// A list of findings under its heading; nothing when there are none. `pseudonyms`: their addresses are no real ones;
/// `place`: where each is, in words.
pub(in crate::report) fn of(
    out: &mut String,
    list: &[Finding],
    pseudonyms: bool,
    paint: Paint,
    place: impl Fn(&Finding) -> &'static str,
) {
    if list.is_empty() {
        return;
    }
    heading(out, "Findings", paint);
    for finding in list {
        let style = match finding.severity {
            Severity::Error => Style::Bad,
            Severity::Warning => Style::Warn,
            Severity::Info => Style::Faint,
        };
        let label = format!("{}[{}]", finding.severity.name(), finding.code);
        let _ = writeln!(out, "  {} {} (at {})", paint.apply(style, &label), finding.name, place(finding));
        wrap(out, paint, "    ", &finding.summary);
        // What did no harm needs no cure; `explain` has it all the same.
        let remedies = finding.remedies.iter().filter(|_| finding.severity != Severity::Info);
        for remedy in remedies {
            wrap(out, paint, "    ", &format!("- {} ({})", remedy.text.trim_end_matches('.'), remedy.effect.name()));
            // A command is never broken: it is there to be copied.
            remedy.commands.iter().for_each(|command| {
                let _ = writeln!(out, "        $ {command}");
            });
        }
        if !finding.evidence.is_empty() {
            let seqs: Vec<_> = finding.evidence.iter().map(|seq| format!("#{seq}")).collect();
            let more = format!("events {} · whyrelay explain {}", seqs.join(" "), finding.code);
            let _ = writeln!(out, "    {}", paint.apply(Style::Faint, &more));
        }
    }
    if pseudonyms && list.iter().any(has_commands) {
        wrap(out, paint, "  ", PSEUDONYMS);
    }
}
