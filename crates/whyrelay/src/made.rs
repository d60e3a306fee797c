//! What several tests make up.

use whyrelay_core::diagnosis::finding::{Blame, Finding, Severity};

/// A finding that says its code.
pub(crate) fn finding(code: &'static str, severity: Severity) -> Finding {
    Finding {
        code,
        name: "a-name",
        blame: Blame::Path,
        severity,
        summary: format!("All about {code}"),
        evidence: Vec::new(),
        advice: Vec::new(),
        remedies: Vec::new(),
        doubt: String::new(),
        hidden: false,
        seen_by: None,
    }
}
