//! docs/findings.md says what the rules say.

use whyrelay_core::diagnosis::rules::{RULES, markdown};

#[test]
fn the_page_of_findings_is_what_the_rules_say() {
    let page = include_str!("../../../../docs/findings.md");
    assert!(page == markdown(), "docs/findings.md and the rules differ: run `cargo xtask findings`");
}

/// The rows of the tables of docs/causes.md: the first cell, and the codes in the last.
fn causes() -> Vec<(String, Vec<String>)> {
    let page = include_str!("../../../../docs/causes.md");
    let rows = page.lines().filter(|line| line.starts_with("| ") && line.contains("WR"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let codes = cells.last().map(|codes| codes.split(", ").map(str::to_owned).collect()).unwrap_or_default();
        (cells[0].to_owned(), codes)
    })
    .collect()
}

#[test]
fn every_cause_of_the_catalogue_has_a_rule_that_exists() {
    let causes = causes();
    for number in 1..=37 {
        assert!(causes.iter().any(|(cause, _)| *cause == number.to_string()), "cause {number} is missing");
    }
    for mechanism in
        ["a", "b", "b2", "b3", "c", "d", "d2", "e", "f", "g", "g2", "h", "i", "i2", "j", "k", "l", "m", "n", "o"]
    {
        assert!(causes.iter().any(|(cause, _)| cause == mechanism), "mechanism {mechanism} is missing");
    }
    for (cause, codes) in &causes {
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
        "WR102", "WR301", "WR305", "WR402", "WR403", "WR405", "WR507", "WR601", "WR705",
    ];
    let named: Vec<String> = causes().into_iter().flat_map(|(_, codes)| codes).collect();
    for rule in RULES {
        let is_named = named.iter().any(|code| code == rule.code);
        assert!(is_named != NO_CAUSE.contains(&rule.code), "{} is to be in docs/causes.md or in this list", rule.code);
    }
}
