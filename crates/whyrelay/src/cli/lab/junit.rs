//! Results as JUnit XML, which CI systems show.

use std::fmt::Write as _;

use whyrelay_lab::draw::escape;
use whyrelay_lab::run::Verdict;

use super::run::Skipped;

/// The results as one test suite.
pub(super) fn render(verdicts: &[&Verdict], skipped: &[Skipped], broken: &[Skipped]) -> String {
    let failures = verdicts.iter().filter(|verdict| !verdict.passed()).count();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        xml,
        "<testsuites>\n<testsuite name=\"whyrelay lab\" tests=\"{}\" failures=\"{failures}\" errors=\"{}\" skipped=\"{}\">",
        verdicts.len() + skipped.len() + broken.len(),
        broken.len(),
        skipped.len()
    );
    for verdict in verdicts {
        let (name, title) = (escape(&verdict.scenario), escape(&verdict.title));
        // In simulated seconds where time is simulated.
        let seconds = verdict.usable_after_ms.unwrap_or(0.0) / 1000.0;
        let _ = write!(xml, "<testcase classname=\"{title}\" name=\"{name}\" time=\"{seconds:.3}\"");
        if verdict.passed() {
            xml.push_str("/>\n");
            continue;
        }
        let problems = escape(&verdict.problems.join("\n"));
        let _ = writeln!(xml, ">\n<failure message=\"not as expected\">{problems}</failure>\n</testcase>");
    }
    for (tag, scenarios) in [("skipped", skipped), ("error", broken)] {
        for Skipped { scenario, reason } in scenarios {
            let (name, reason) = (escape(scenario), escape(reason));
            let _ = writeln!(xml, "<testcase name=\"{name}\"><{tag} message=\"{reason}\"/></testcase>");
        }
    }
    xml.push_str("</testsuite>\n</testsuites>\n");
    xml
}
