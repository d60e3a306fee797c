//! The comparison with a plain program, and the probes.

use super::{Paint, heading, wrap};
use crate::diagnosis::session::Path;
use crate::report::Report;

pub(super) fn render(out: &mut String, report: &Report, paint: Paint) {
    if let Some(proof) = &report.proof {
        heading(out, "Compared with the earlier session", paint);
        wrap(out, paint, "  ", &proof.summary);
        for (words, list) in [("gone", &proof.gone), ("left", &proof.left), ("new", &proof.new)] {
            for finding in list {
                let at = finding.blame.name();
                wrap(
                    out,
                    paint,
                    "  ",
                    &format!("- {words}: {} {} (at {at}): {}", finding.code, finding.name, finding.summary),
                );
            }
        }
        for change in &proof.changes {
            wrap(out, paint, "  ", &format!("- {change}"));
        }
    }
    if !report.tried.is_empty() {
        heading(out, "Tried for this session only", paint);
        for what in &report.tried {
            wrap(out, paint, "  ", &format!("- {what}"));
        }
        let came = match report.path {
            Path::Direct => "With it the path is direct.",
            Path::Relayed => "With it the path is still relayed.",
            Path::Failed => "With it there is still no path.",
        };
        wrap(out, paint, "  ", came);
    }
    for row in &report.comparisons {
        heading(out, &format!("As {}", row.application), paint);
        wrap(out, paint, "  ", &row.summary);
        for what in &row.not_imitated {
            wrap(out, paint, "  ", &format!("- not like {}: {what}", row.application));
        }
    }
    if report.probes.is_empty() {
        return;
    }
    heading(out, "Probes", paint);
    for row in &report.probes {
        wrap(out, paint, "  ", &format!("{}  {}, to {}: {}", row.side.name(), row.probe, row.to, row.result));
    }
}
