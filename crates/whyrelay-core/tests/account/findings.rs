//! docs/findings.md says what the rules say.

use std::collections::BTreeSet;

use whyrelay_core::diagnosis::rules::{RULES, markdown};

#[test]
fn the_page_of_findings_is_what_the_rules_say() {
    let page = include_str!("../../../../docs/findings.md");
    assert!(page == markdown(), "docs/findings.md and the rules differ: run `cargo xtask findings`");
}

/// A row of the tables of docs/causes.md.
struct Cause {
    /// Its number or letter.
    cause: String,
    /// The findings that name it.
    codes: Vec<String>,
    /// What fires one of them.
    fired_by: Vec<String>,
}

/// The cells of the rows of docs/causes.md.
fn rows() -> Vec<Vec<&'static str>> {
    let page = include_str!("../../../../docs/causes.md");
    let rows = page.lines().filter(|line| line.starts_with("| ") && line.contains("WR"));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

fn causes() -> Vec<Cause> {
    let list = |cell: &str| cell.split(", ").map(str::to_owned).collect();
    let of = |cells: Vec<&str>| match cells.as_slice() {
        [cause, _, codes, fired_by] => {
            Some(Cause { cause: (*cause).to_owned(), codes: list(codes), fired_by: list(fired_by) })
        }
        _ => None,
    };
    rows().into_iter().filter_map(of).collect()
}

/// The text of a file of this repository.
fn text(path: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a scenario expects to be found, or the codes and names that a test of the real program asks for.
fn is_fired_by(code: &str, by: &str) -> bool {
    let name = RULES.iter().find(|rule| rule.code == code).map_or("", |rule| rule.name);
    match by.strip_suffix(".rs") {
        Some(_) => {
            let test = text(&format!("crates/whyrelay/tests/{by}"));
            test.contains(code) || test.contains(&format!("\"{name}\""))
        }
        None => {
            let scenario = text(&format!("scenarios/{by}.toml"));
            let expected = scenario.split("[[expect.finding]]").skip(1);
            expected.into_iter().any(|finding| finding.lines().any(|line| line == format!("name = \"{name}\"")))
        }
    }
}

#[test]
fn what_is_said_to_fire_a_finding_does_and_the_rest_has_its_reason() {
    let (mut named, mut fired) = (BTreeSet::new(), BTreeSet::new());
    for Cause { cause, codes, fired_by } in causes() {
        for by in fired_by.iter().filter(|by| *by != "a case") {
            let by_it: Vec<_> = codes.iter().filter(|code| is_fired_by(code, by)).cloned().collect();
            assert!(!by_it.is_empty(), "{cause}: {by} expects none of {codes:?}");
            fired.extend(by_it);
        }
        named.extend(codes);
    }
    let reasons: BTreeSet<String> =
        rows().into_iter().filter(|cells| cells.len() == 2).map(|cells| cells[0].to_owned()).collect();
    let without: BTreeSet<String> = named.difference(&fired).cloned().collect();
    assert_eq!(without, reasons, "left: what nothing fires but a case; right: what has a reason for that");
}

#[test]
fn every_cause_of_the_catalogue_has_a_rule_that_exists() {
    let causes = causes();
    for number in 1..=37 {
        assert!(causes.iter().any(|row| row.cause == number.to_string()), "cause {number} is missing");
    }
    for mechanism in
        ["a", "b", "b2", "b3", "c", "d", "d2", "e", "f", "g", "g2", "h", "i", "i2", "j", "k", "l", "m", "n", "o"]
    {
        assert!(causes.iter().any(|row| row.cause == mechanism), "mechanism {mechanism} is missing");
    }
    for Cause { cause, codes, .. } in &causes {
        assert!(!codes.is_empty(), "{cause} has no finding");
        for code in codes {
            assert!(RULES.iter().any(|rule| rule.code == code), "{cause}: there is no {code}");
        }
    }
}

/// A rule that names no cause of the catalogue is a symptom, or was added since; those are listed here.
#[test]
fn every_rule_is_a_cause_or_is_known_to_be_none() {
    const NO_CAUSE: &[&str] = &[
        // What was seen, when no cause explains it.
        "WR502", "WR505", "WR506", "WR508", "WR509", "WR602", "WR802",
        // Causes that are not of the catalogue.
        "WR102", "WR131", "WR305", "WR402", "WR403", "WR405", "WR411", "WR507", "WR601", "WR705", "WR129",
    ];
    let named: Vec<String> = causes().into_iter().flat_map(|row| row.codes).collect();
    for rule in RULES {
        let is_named = named.iter().any(|code| code == rule.code);
        assert!(is_named != NO_CAUSE.contains(&rule.code), "{} is to be in docs/causes.md or in this list", rule.code);
    }
}
