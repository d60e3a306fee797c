//! Results as JUnit XML, which CI systems show.

use std::fmt::Write as _;

use whyrelay_lab::draw::escape;
use whyrelay_lab::run::Verdict;

use super::run::Skipped;

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
        let _ = write!(xml, "{} time=\"{seconds:.3}\"", case(&verdict.scenario));
        if verdict.passed() {
            xml.push_str("/>\n");
            continue;
        }
        let problems = escape(&verdict.problems.join("\n"));
        let title = escape(&verdict.title);
        let _ = writeln!(xml, ">\n<failure message=\"not as expected: {title}\">{problems}</failure>\n</testcase>");
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

/// The beginning of a test case. Its class is one for all: systems that show results sort by it, and split it at dots,
/// which titles have.
fn case(scenario: &str) -> String {
    format!("<testcase classname=\"lab\" name=\"{}\"", escape(scenario))
}
