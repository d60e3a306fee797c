//! The table of `whyrelay lab run`.

use std::fmt::Write as _;
use std::time::Duration;

use whyrelay_lab::run::{Compared, Verdict, path_name};

use super::super::explain::wrap;
use super::run::Skipped;

/// What the signs of a comparison mean.
const LEGEND: &str = "= as expected; ~ allowed, not required; ^ came where another had to come first; \
                      + came and was not expected; - was expected and did not come";

/// The sign of a comparison, for tables.
pub(super) const fn sign(compared: Compared) -> char {
    match compared {
        Compared::AsExpected => '=',
        Compared::Allowed => '~',
        Compared::Misplaced => '^',
        Compared::NotExpected => '+',
        Compared::Missing => '-',
    }
}

/// Expected against got: a line for each scenario with the paths, and one for each finding and whatever else is expected;
/// short ones where the terminal is narrower.
pub(super) fn table(verdicts: &[&Verdict], color: bool, columns: Option<usize>) -> String {
    let width = verdicts.iter().map(|verdict| verdict.scenario.len()).max().unwrap_or(0).max(8);
    let head = format!("{:<width$}  {:<8}  {:<8}  {:>8}  compared\n", "scenario", "expected", "got", "ms");
    let all = verdicts.iter().flat_map(|verdict| lines(verdict, width, false));
    let longest = all.map(|line| line.chars().count()).chain([head.trim_end().len()]).max().unwrap_or(0);
    let narrow = columns.filter(|columns| *columns < longest);
    let mut text = String::new();
    if verdicts.iter().any(|verdict| !verdict.comparison().is_empty()) {
        wrap(&mut text, columns.unwrap_or(usize::MAX), "", "", LEGEND);
    }
    if narrow.is_none() {
        text.push_str(&head);
    }
    for verdict in verdicts {
        match narrow {
            Some(columns) => text.push_str(&folded(verdict, color, columns)),
            None => lines(verdict, width, color).iter().for_each(|line| _ = writeln!(text, "{line}")),
        }
        for problem in &verdict.problems {
            let indent = if narrow.is_some() { 2 } else { width + 2 };
            text.push_str(&said(&format!("! {problem}"), indent, color, columns));
        }
    }
    let wrong = verdicts.iter().filter(|verdict| !verdict.passed()).count();
    let _ = match wrong {
        _ if verdicts.is_empty() => Ok(()),
        0 => writeln!(text, "\n{}, all as expected", counted(verdicts.len())),
        wrong => writeln!(text, "\n{}, {wrong} not as expected", counted(verdicts.len())),
    };
    text
}

/// So many scenarios.
pub(super) fn counted(scenarios: usize) -> String {
    format!("{scenarios} scenario{}", if scenarios == 1 { "" } else { "s" })
}

/// What did not run, and how long networks took to build.
pub(super) fn beside(skipped: &[Skipped], broken: &[Skipped], up: &[Duration], columns: Option<usize>) -> String {
    let width = columns.unwrap_or(usize::MAX);
    let mut text = String::new();
    if !skipped.is_empty() {
        let _ = writeln!(text, "{} skipped:", skipped.len());
    }
    for scenario in skipped {
        wrap(&mut text, width, "  ", "    ", &format!("{}: {}", scenario.scenario, scenario.reason));
    }
    for scenario in broken {
        let _ = writeln!(text, "could not run {}: {}", scenario.scenario, scenario.reason);
    }
    if let Some(longest) = up.iter().max() {
        let mut sorted: Vec<&Duration> = up.iter().collect();
        sorted.sort();
        let median = sorted[sorted.len() / 2];
        let (median, longest) = (median.as_secs_f64(), longest.as_secs_f64());
        let told = format!("networks were up in {median:.2} s at the median, {longest:.2} s at most");
        wrap(&mut text, width, "", "", &told);
    }
    text
}

/// The words of a verdict.
struct Row {
    expected: &'static str,
    got: &'static str,
    after: String,
    /// Whatever is compared, with its sign.
    compared: Vec<(Compared, String)>,
}

impl Row {
    fn of(verdict: &Verdict) -> Self {
        Self {
            expected: path_name(Some(verdict.expected_path)),
            got: path_name(verdict.path),
            after: verdict.usable_after_ms.map_or_else(|| "-".to_owned(), |after| format!("{after:.0}")),
            compared: verdict
                .comparison()
                .into_iter()
                .map(|(compared, what)| (compared, format!("{} {what}", sign(compared))))
                .collect(),
        }
    }
}

const GREEN: u8 = 32;
const RED: u8 = 31;

fn paint(text: &str, code: u8, color: bool) -> String {
    if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// The color of a sign.
fn painted((compared, text): &(Compared, String), color: bool) -> String {
    match compared {
        Compared::AsExpected => paint(text, GREEN, color),
        Compared::Allowed => text.clone(),
        Compared::Misplaced | Compared::NotExpected | Compared::Missing => paint(text, RED, color),
    }
}

/// The lines of a scenario in the table.
fn lines(verdict: &Verdict, width: usize, color: bool) -> Vec<String> {
    let Row { expected, got, after, compared } = Row::of(verdict);
    let got = paint(&format!("{got:<8}"), if verdict.path == Some(verdict.expected_path) { GREEN } else { RED }, color);
    let mut compared = compared.iter().map(|what| painted(what, color));
    let first = compared.next().map_or_else(String::new, |first| format!("  {first}"));
    let mut lines = vec![format!("{:<width$}  {expected:<8}  {got}  {after:>8}{first}", verdict.scenario)];
    // Below the first.
    let indent = width + 2 + 8 + 2 + 8 + 2 + 8 + 2;
    lines.extend(compared.map(|what| format!("{:indent$}{what}", "")));
    lines
}

/// A scenario, and what there is to say of it below its name.
fn folded(verdict: &Verdict, color: bool, columns: usize) -> String {
    let Row { expected, got, after, compared } = Row::of(verdict);
    let mut text = format!("{}\n", verdict.scenario);
    let path = match verdict.path == Some(verdict.expected_path) {
        true => format!("{}, as expected", paint(got, GREEN, color)),
        false => format!("{}, expected {expected}", paint(got, RED, color)),
    };
    let after = if after == "-" { String::new() } else { format!(", {after} ms") };
    let _ = writeln!(text, "  {path}{after}");
    for (compared, what) in &compared {
        let is_fine = matches!(compared, Compared::AsExpected | Compared::Allowed);
        text.push_str(&said(what, 2, color && !is_fine, Some(columns)));
    }
    text
}

/// Lines of at most so many columns, all but the indentation in red where there is color.
fn said(what: &str, indent: usize, color: bool, columns: Option<usize>) -> String {
    let (first, rest) = (" ".repeat(indent), " ".repeat(indent + 2));
    let mut text = String::new();
    wrap(&mut text, columns.unwrap_or(usize::MAX), &first, &rest, what);
    let lines = text.lines().map(|line| {
        let said = line.trim_start();
        format!("{}{}\n", &line[..line.len() - said.len()], paint(said, RED, color))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use whyrelay_lab::run::{Named, Wanted};
    use whyrelay_lab::scenario::file::{Best, Discovered, Path, WorldKind};

    use super::*;

    fn verdict(scenario: &str, path: Path, problems: &[&str]) -> Verdict {
        let finding = Named {
            code: "WR105".to_owned(),
            name: "policy-rule-diverts-peer".to_owned(),
            blame: "both sides".to_owned(),
            seen_by: None,
        };
        Verdict {
            scenario: scenario.to_owned(),
            title: "t".to_owned(),
            world: WorldKind::Virtual,
            expected_path: Path::Relayed,
            path: Some(path),
            expected_best: Some(Best::Direct),
            best: Best::Unknown,
            expected_findings: vec![Wanted {
                code: "WR205".to_owned(),
                name: "udp-blocked".to_owned(),
                or: Vec::new(),
                blame: Some("A"),
                first: true,
            }],
            allowed_findings: Vec::new(),
            findings: vec![finding],
            expected_nat: [("a".to_owned(), Discovered { udp: Some(true), ..Discovered::default() })].into(),
            nat: [("a".to_owned(), Discovered { udp: Some(true), ..Discovered::default() })].into(),
            usable_after_ms: Some(61.4),
            problems: problems.iter().map(|&problem| problem.to_owned()).collect(),
        }
    }

    #[test]
    fn the_table_fits_its_terminal() {
        let problem = "policy-rule-diverts-peer blames another than expected, and so on";
        let verdicts = [
            verdict("cloud-security-group-against-symmetric", Path::Relayed, &[]),
            verdict("two-homes", Path::Direct, &[problem]),
        ];
        let verdicts: Vec<&Verdict> = verdicts.iter().collect();
        let skipped = [Skipped {
            scenario: "conntrack-full".to_owned(),
            reason: "a full table of connections: its size is the whole machine's".to_owned(),
        }];
        let narrow = table(&verdicts, false, Some(40)) + &beside(&skipped, &[], &[Duration::from_secs(1)], Some(40));
        assert!(narrow.lines().all(|line| line.len() <= 40), "{narrow}");
        for part in [
            "two-homes\n  direct, expected relayed, 61 ms\n  - best path: direct\n",
            "\n  ! policy",
            "(both\n    sides)\n",
        ] {
            assert!(narrow.contains(part), "{part:?} is not in:\n{narrow}");
        }
        for columns in [None, Some(120)] {
            let wide = table(&verdicts, false, columns);
            let line = wide.lines().find(|line| line.starts_with("two-homes")).unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(words[..8], ["two-homes", "relayed", "direct", "61", "-", "best", "path:", "direct"], "{wide}");
            for below in [
                "+ best path: unknown\n",
                "= a's NAT: udp true\n",
                "+ WR105 policy-rule-diverts-peer (both sides)\n",
                "- WR205 udp-blocked (A)\n",
            ] {
                assert!(wide.contains(&format!("{:>70}{below}", "")), "{below:?} is not in:\n{wide}");
            }
        }
        let colored = table(&verdicts, true, None);
        assert!(
            colored.contains("\x1b[31mdirect  \x1b[0m") && colored.contains("\x1b[32mrelayed \x1b[0m"),
            "{colored}"
        );
    }
}
