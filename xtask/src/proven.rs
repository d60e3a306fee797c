//! Where each rule is proven: which tests must name it, and which must not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

/// What the rules are, as a test of the core keeps it: to read it takes no build of the core.
const FINDINGS: &str = include_str!("../../docs/findings.md");

/// The tests of one rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Proofs {
    /// Scenarios that must find it where it is, with the worlds in which they run.
    scenarios: BTreeMap<String, Worlds>,
    /// Sessions by hand in which it must be found, and those one step beside it in which it must not.
    cases: (usize, usize),
    /// Files of tests of the program itself that speak of it.
    programs: BTreeSet<String>,
}

/// What network namespaces leave out of a scenario, as `whyrelay_lab::kernel` says: the limit is the machine's.
const NOT_BUILT: &str = "conntrack-full = true";

/// The worlds in which a scenario runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Worlds {
    virtual_time: bool,
    kernels: bool,
}

impl Worlds {
    /// As its file says; both unless it does.
    fn of(scenario: &str) -> Self {
        let says = |line: &str| scenario.lines().any(|said| said.trim() == line);
        let kernels = !says("worlds = [\"virtual\"]") && !says(NOT_BUILT);
        Self { virtual_time: !says("worlds = [\"kernel\"]"), kernels }
    }
}

impl Proofs {
    /// Where it was seen to fire, in the words of the table.
    fn proven_in(&self) -> Vec<&'static str> {
        let in_some = |is_in: fn(&Worlds) -> bool| self.scenarios.values().any(is_in);
        let places = [
            ("virtual time", in_some(|worlds| worlds.virtual_time)),
            ("real kernels", in_some(|worlds| worlds.kernels)),
            ("the program", !self.programs.is_empty()),
        ];
        places.into_iter().filter_map(|(place, is_there)| is_there.then_some(place)).collect()
    }
}

/// The table, with one row a rule.
pub(crate) fn table(root: &Path) -> Result<String> {
    let mut page = String::from(
        "\n## Where each rule is proven\n\nScenarios that expect it run in virtual time and, those in bold, between real kernels (network namespaces); CI runs each in each of its worlds, and the account must be as it says. \
         Cases are sessions made by hand, in which the rule must fire, and near misses, in which it must not. Tests of the program run it, or parts of it, as its users do. Read from the scenarios and tests themselves.\n\n",
    );
    let all = proofs(root)?;
    for place in ["virtual time", "real kernels", "the program"] {
        let rules = all.iter().filter(|(.., proofs)| proofs.proven_in().contains(&place)).count();
        let how = if place == "the program" { "by tests of the program" } else { "by scenarios" };
        let _ = writeln!(page, "- in {place}, {how}: {rules} of {} rules", all.len());
    }
    let by_hand = all.iter().filter(|(.., proofs)| proofs.proven_in().is_empty()).map(|(code, ..)| *code);
    let by_hand: Vec<&str> = by_hand.collect();
    let _ = writeln!(
        page,
        "- by cases alone: {} ({}; of those that are causes, [causes.md](causes.md) says why)\n\n\
         | rule | proven in | scenarios that expect it | cases: fires, silent | tests of the program |\n|---|---|---|--:|---|",
        by_hand.len(),
        by_hand.join(", ")
    );
    for (code, name, proofs) in all {
        let proven_in = proofs.proven_in().join(", ");
        let scenarios = proofs.scenarios.iter();
        let scenarios =
            scenarios.map(|(name, worlds)| if worlds.kernels { format!("**{name}**") } else { name.clone() });
        let (scenarios, programs): (Vec<_>, Vec<_>) = (scenarios.collect(), proofs.programs.into_iter().collect());
        let (fires, silent) = proofs.cases;
        let _ = writeln!(
            page,
            "| {code} {name} | {proven_in} | {} | {fires}, {silent} | {} |",
            shortened(&scenarios),
            shortened(&programs)
        );
    }
    Ok(page)
}

/// The first of many, and how many more there are.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 4;
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(", ")),
    }
}

/// Code and name of each rule: `### WR101 send-refused-by-system`.
fn rules(page: &str) -> impl Iterator<Item = (&str, &str)> {
    page.lines().filter_map(|line| line.strip_prefix("### ")?.split_once(' '))
}

/// By code: code, name and proofs of each rule.
fn proofs(root: &Path) -> Result<Vec<(&'static str, &'static str, Proofs)>> {
    let scenarios = texts(&root.join("scenarios"), "toml")?;
    let cases = texts(&root.join("crates/whyrelay-core/tests/account/cases"), "rs")?;
    let tests = root.join("crates/whyrelay/tests");
    let mut programs = texts(&tests.join("interop"), "rs")?;
    programs.extend(texts(&tests.join("session"), "rs")?);
    let mut rules: Vec<_> = rules(FINDINGS).collect();
    rules.sort_unstable();
    let of_rule = |(code, name): (&'static str, &'static str)| {
        let mut proofs = Proofs::default();
        for (file, text) in &scenarios {
            if expects(text, name) || expects(text, code) {
                proofs.scenarios.insert(file.clone(), Worlds::of(text));
            }
        }
        let count = |call: &str| {
            // Where a line is too long, the code stands in the next.
            let calls = cases.values().flat_map(|text| text.split(call).skip(1));
            calls.filter(|rest| rest.trim_start().starts_with(&format!("\"{code}\""))).count()
        };
        proofs.cases = (count("case("), count("near(") + count("harmless("));
        for (file, text) in &programs {
            if speaks_of(text, code) || text.contains(&format!("\"{name}\"")) {
                proofs.programs.insert(file.clone());
            }
        }
        (code, name, proofs)
    };
    Ok(rules.into_iter().map(of_rule).collect())
}

/// Whether a scenario expects a finding by this name: as one that must come, not as one that may come with it.
fn expects(scenario: &str, name: &str) -> bool {
    let line = format!("name = \"{name}\"");
    scenario.lines().any(|said| said.trim() == line)
}

/// Whether a test of the program expects a finding by its code: alone or at the head of it (`[WR705] …`, `error[WR701]`),
/// and not only as one that must not come.
fn speaks_of(test: &str, code: &str) -> bool {
    let heads = ["", "[", "error[", "warning[", "info["].map(|head| format!("\"{head}{code}"));
    heads.iter().flat_map(|head| test.match_indices(head.as_str())).any(|(at, _)| !is_negated(&test[..at]))
}

/// Whether what stands in front of a text denies it: `!said.contains(`, with whatever the value is that is asked, or `!=`.
fn is_negated(before: &str) -> bool {
    let before = before.trim_end();
    if before.ends_with("!=") {
        return true;
    }
    let Some(asked) = before.strip_suffix(".contains(") else {
        // A list of what is asked for, as in `!codes.contains(&"WR702")`.
        return before.strip_suffix(".contains(&").is_some_and(is_denied);
    };
    is_denied(asked)
}

/// Whether a value is asked with a "not" in front of it. What is inside of its own parentheses belongs to it.
fn is_denied(value: &str) -> bool {
    let mut depth = 0_usize;
    let start = value.char_indices().rev().find(|(_, c)| {
        match c {
            ')' | ']' => depth += 1,
            '(' | '[' if depth > 0 => depth -= 1,
            _ => return depth == 0 && !(c.is_alphanumeric() || matches!(c, '_' | '.' | ':' | '&' | '?')),
        }
        false
    });
    start.is_some_and(|(_, c)| c == '!')
}

/// The texts of a folder's files, by their names without the ending.
fn texts(folder: &Path, ending: &str) -> Result<BTreeMap<String, String>> {
    let mut texts = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry.with_context(|| format!("listing {}", folder.display()))?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        if path.is_dir() {
            texts.extend(self::texts(&path, ending)?.into_iter().map(|(name, text)| (format!("{stem}/{name}"), text)));
        } else if path.extension().is_some_and(|found| found == ending) {
            let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            texts.insert(stem, text);
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rule_is_without_a_proof() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let all = proofs(&root).unwrap_or_else(|error| panic!("{error:#}"));
        let is_none =
            |proofs: &Proofs| proofs.scenarios.is_empty() && proofs.cases.0 == 0 && proofs.programs.is_empty();
        let without: Vec<_> = all.iter().filter(|(.., proofs)| is_none(proofs)).map(|(code, ..)| code).collect();
        assert!(without.is_empty(), "{without:?}");
        // Each has a case that fires it and one that must not.
        let untried = all.iter().filter(|(.., proofs)| proofs.cases.0 == 0 || proofs.cases.1 == 0);
        let untried: Vec<_> = untried.map(|(code, _, proofs)| (code, proofs.cases)).collect();
        assert!(untried.is_empty(), "{untried:?}");
        let page = table(&root).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(page.lines().filter(|line| line.starts_with("| WR")).count(), rules(FINDINGS).count());
        let written = std::fs::read_to_string(root.join("docs/accuracy.md")).unwrap_or_else(|error| panic!("{error}"));
        assert!(written.contains(&page), "docs/accuracy.md says otherwise: cargo xtask accuracy writes it");
        let scenarios = texts(&root.join("scenarios"), "toml").unwrap_or_else(|error| panic!("{error:#}"));
        let scenarios = scenarios.values().filter(|text| !text.contains("worlds = [\"kernel\"]")).count();
        let row = format!("| scenarios whose account is as they say | {scenarios} |");
        assert!(written.contains(&row), "docs/accuracy.md is of another number of scenarios than {scenarios}");
    }

    #[test]
    fn where_a_rule_is_proven_is_told_from_where_its_scenarios_run() {
        let worlds = |text| Worlds::of(text);
        let (both, virtual_only) = (worlds("title = \"one\"\n"), worlds("worlds = [\"virtual\"]\n"));
        assert!(both.virtual_time && both.kernels && virtual_only.virtual_time && !virtual_only.kernels);
        assert!(!worlds("[host.a]\nconntrack-full = true\n").kernels);
        let mut proofs = Proofs::default();
        assert!(proofs.proven_in().is_empty());
        proofs.scenarios.insert("one".to_owned(), virtual_only);
        assert_eq!(proofs.proven_in(), ["virtual time"]);
        proofs.scenarios.insert("two".to_owned(), worlds("worlds = [\"kernel\"]"));
        proofs.programs.insert("probes".to_owned());
        assert_eq!(proofs.proven_in(), ["virtual time", "real kernels", "the program"]);
    }

    #[test]
    fn a_test_speaks_of_what_it_expects_and_not_of_what_must_not_come() {
        let test = "assert!(a.stdout.contains(\"error[WR701]\") && !a.stdout.contains(\"WR702\"));
            assert!(words.contains(\"[WR705] peer-vanished (at B)\") && !words.contains(\"[WR505]\"));
            assert!(!codes(&a.stdout)[1..].contains(&\"WR801\") && codes(&a.stdout).contains(&\"WR802\"));
            assert!(findings.iter().all(|finding| finding[\"code\"] != \"WR707\"));
            assert_eq!(first.code, \"WR501\");";
        let spoken_of = |code: &&str| speaks_of(test, code);
        let codes = ["WR701", "WR702", "WR705", "WR505", "WR801", "WR802", "WR501", "WR502", "WR707"];
        let found: Vec<_> = codes.into_iter().filter(spoken_of).collect();
        assert_eq!(found, ["WR701", "WR705", "WR802", "WR501"]);
        // As one that comes here and must not come there.
        assert!(speaks_of("!a.contains(\"WR702\") || b.contains(\"WR702\")", "WR702"));
    }

    #[test]
    fn what_a_scenario_expects_is_told_from_what_it_has() {
        let scenario = "name = \"one\"\nalso = [\"two\", \"three\"]\n# \"four\"\n";
        let expected = ["one", "two", "three", "four"].map(|name| expects(scenario, name));
        assert_eq!(expected, [true, false, false, false]);
    }
}
