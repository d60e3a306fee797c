//! Findings, like a compiler's messages.

use std::fmt::Write as _;

use super::paint::{Paint, Style};
use super::{heading, wrap};
use crate::diagnosis::finding::{Finding, Severity};
use crate::report::Report;

pub(super) fn render(out: &mut String, report: &Report, paint: Paint) {
    of(out, &report.findings, paint);
}

/// A list of findings under its heading; nothing when there are none.
pub(in crate::report) fn of(out: &mut String, list: &[Finding], paint: Paint) {
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
        let _ = writeln!(out, "  {} {} (at {})", paint.apply(style, &label), finding.name, finding.blame.name());
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
}
