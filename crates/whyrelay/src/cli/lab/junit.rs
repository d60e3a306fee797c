//! Results as JUnit XML, which CI systems show.

use std::fmt::Write as _;

use whyrelay_lab::draw::escape;
use whyrelay_lab::run::{Verdict, path_name};

use super::run::Skipped;
use super::table::sign;

/// The results as one test suite. What was interrupted is a skipped test.
pub(super) fn render(verdicts: &[&Verdict], skipped: &[Skipped], broken: &[Skipped], not_run: &[String]) -> String {
    let failures = verdicts.iter().filter(|verdict| !verdict.passed()).count();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        xml,
        "<testsuites>\n<testsuite name=\"whyrelay lab\" tests=\"{}\" failures=\"{failures}\" errors=\"{}\" skipped=\"{}\">",
        verdicts.len() + skipped.len() + broken.len() + not_run.len(),
        broken.len(),
        skipped.len() + not_run.len()
    );
    for verdict in verdicts {
        // In simulated seconds where time is simulated.
        let seconds = verdict.usable_after_ms.unwrap_or(0.0) / 1000.0;
        let _ = writeln!(xml, "{} time=\"{seconds:.3}\">", case(&verdict.scenario));
        if !verdict.passed() {
            let problems = escape(&verdict.problems.join("\n"));
            let title = escape(&verdict.title);
            let _ = writeln!(xml, "<failure message=\"not as expected: {title}\">{problems}</failure>");
        }
        let _ = writeln!(xml, "<system-out>{}</system-out>\n</testcase>", escape(&compared(verdict)));
    }
    for (tag, scenarios) in [("skipped", skipped), ("error", broken)] {
        for Skipped { scenario, reason } in scenarios {
            let _ = writeln!(xml, "{}><{tag} message=\"{}\"/></testcase>", case(scenario), escape(reason));
        }
    }
    for scenario in not_run {
        let _ = writeln!(xml, "{}><skipped message=\"interrupted\"/></testcase>", case(scenario));
    }
    xml.push_str("</testsuite>\n</testsuites>\n");
    xml
}

/// Expected against got, a line for each.
fn compared(verdict: &Verdict) -> String {
    let (expected, got) = (path_name(Some(verdict.expected_path)), path_name(verdict.path));
    let mut lines = format!("path: {got}, expected {expected}");
    for (compared, what) in verdict.comparison() {
        let _ = write!(lines, "\n{} {what}", sign(compared));
    }
    lines
}

/// The beginning of a test case. Its class is one for all: systems that show results sort by it, and split it at dots,
/// which titles have.
fn case(scenario: &str) -> String {
    format!("<testcase classname=\"lab\" name=\"{}\"", escape(scenario))
}
