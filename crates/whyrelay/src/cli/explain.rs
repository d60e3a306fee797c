//! `whyrelay explain`.

use std::fmt::Write as _;

use whyrelay_core::diagnosis::rules::{self, RULES, Rule};
use whyrelay_lab::words::edits;

use super::args::ExplainArgs;
use super::{HEALTHY, answer, terminal_columns};

/// Columns of a line, at most.
const WIDTH: usize = 100;

pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<u8> {
    let columns = terminal_columns();
    let text = match &args.code {
        Some(code) => {
            let rule = rules::find(code.trim()).ok_or_else(|| unknown(code))?;
            explain(rule, columns.map_or(WIDTH, |columns| columns.min(WIDTH)))
        }
        None if args.list => list(columns),
        None => anyhow::bail!(
            "explain takes a finding's code or name, like WR504 or peer-sees-other-port\n\
             hint: `whyrelay explain --list` names them all"
        ),
    };
    answer(&text)?;
    Ok(HEALTHY)
}

/// Every finding, by its code: one line each, or the title below where the terminal is narrower.
fn list(columns: Option<usize>) -> String {
    let mut rules: Vec<&Rule> = RULES.iter().collect();
    rules.sort_by_key(|rule| rule.code);
    let line = |rule: &&Rule| format!("{}  {:<32}  {}\n", rule.code, rule.name, rule.title);
    let widest = rules.iter().map(|rule| line(rule).chars().count()).max().unwrap_or(0);
    let Some(narrow) = columns.filter(|columns| *columns < widest) else {
        return rules.iter().map(line).collect();
    };
    let mut text = String::new();
    for rule in rules {
        let _ = writeln!(text, "{}  {}", rule.code, rule.name);
        wrap(&mut text, narrow, "       ", "       ", rule.title);
    }
    text
}

fn unknown(asked: &str) -> anyhow::Error {
    let near: Vec<String> = near(asked).iter().map(|rule| format!("{} {}", rule.code, rule.name)).collect();
    let near = if near.is_empty() { String::new() } else { format!("near to it: {}; ", near.join(", ")) };
    anyhow::anyhow!("there is no finding {asked:?}\nhint: {near}`whyrelay explain --list` names them all")
}

/// The findings whose code or name comes nearest, best first.
fn near(asked: &str) -> Vec<&'static Rule> {
    const MOST: usize = 3;
    let asked = asked.trim().to_ascii_lowercase();
    let digits = asked.strip_prefix("wr").unwrap_or(&asked);
    if matches!(digits.len(), 1 | 2) && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        // The number was not written to its end.
        let mut rules: Vec<&Rule> = RULES.iter().filter(|rule| rule.code[2..].starts_with(digits)).collect();
        rules.sort_by_key(|rule| rule.code);
        rules.truncate(MOST);
        return rules;
    }
    if let Ok(number) = digits.parse::<u32>() {
        let number_of = |rule: &Rule| rule.code[2..].parse::<u32>().unwrap_or(0);
        let same_family = |rule: &&Rule| number_of(rule) / 100 == number / 100;
        let mut rules: Vec<&Rule> = RULES.iter().filter(same_family).collect();
        rules.sort_by_key(|rule| (number_of(rule).abs_diff(number), number_of(rule)));
        // The number without its letters is what was meant.
        let most = if rules.first().is_some_and(|rule| number_of(rule) == number) { 1 } else { MOST };
        rules.truncate(most);
        return rules;
    }
    let words: Vec<&str> = asked.split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() > 2).collect();
    let distance = |rule: &Rule| {
        let is_meant = |word: &str| {
            let is_typo = |part: &str| edits(word, part) <= word.len() / 4;
            rule.name.contains(word) || rule.title.contains(word) || rule.name.split('-').any(is_typo)
        };
        let shared = words.iter().filter(|word| is_meant(word)).count();
        let apart = edits(&asked, rule.name);
        let is_near = shared > 0 || apart <= asked.len().min(rule.name.len()) / 3;
        is_near.then_some((words.len() - shared, apart))
    };
    let mut rules: Vec<_> = RULES.iter().filter_map(|rule| Some((distance(rule)?, rule))).collect();
    rules.sort_by_key(|(distance, _)| *distance);
    rules.into_iter().take(MOST).map(|(_, rule)| rule).collect()
}

fn explain(rule: &Rule, width: usize) -> String {
    let mut text = String::new();
    paragraph(&mut text, width, &format!("{} {}: {}", rule.code, rule.name, rule.title));
    paragraph(&mut text, width, rule.meaning);
    paragraph(&mut text, width, &format!("How it is detected: {}", rule.detection));
    paragraph(&mut text, width, &format!("What proves it: {}", rule.proof));
    paragraph(&mut text, width, &format!("What would change the judgement: {}", rule.doubt));
    text.push_str("What helps:\n");
    for fix in rule.fixes {
        let line = format!("{} ({})", fix.text.trim_end_matches('.'), fix.effect.name());
        wrap(&mut text, width, "  - ", "    ", &line);
    }
    if !rule.threads.is_empty() {
        text.push('\n');
        wrap(&mut text, width, "", "  ", &format!("Public threads: {}", rule.threads.join(", ")));
    }
    text
}

fn paragraph(text: &mut String, width: usize, body: &str) {
    wrap(text, width, "", "", body);
    text.push('\n');
}

/// Wraps at a width.
pub(super) fn wrap(text: &mut String, width: usize, first: &str, rest: &str, body: &str) {
    let mut line = first.to_owned();
    let mut empty = true;
    for word in body.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > width {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line}");
            line = rest.to_owned();
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_code_or_name_is_told_what_is_near() {
        for (asked, first, how_many) in [
            ("201", "WR201", 1),
            ("wr408", "WR407", 3),
            ("WR10", "WR101", 3),
            ("8", "WR801", 3),
            ("policy-rule-divert", "WR105", 3),
            ("udp-blokced", "WR302", 3),
            ("port taken", "WR124", 3),
            ("hairpin", "WR204", 3),
            ("hairpn", "WR204", 3),
            ("mtu-blackhole", "WR603", 3),
        ] {
            let near: Vec<_> = near(asked).iter().map(|rule| rule.code).collect();
            assert!(near.first() == Some(&first) && near.len() <= how_many, "{asked}: {near:?}");
        }
        for nonsense in ["", "xyzzy", "WR999", "4294967295", "\u{1f980}\u{1f980}"] {
            assert!(near(nonsense).is_empty(), "{nonsense}");
        }
    }

    #[test]
    fn a_narrow_terminal_gets_short_lines() {
        // The longest name takes 34 columns.
        let narrow = list(Some(44));
        assert!(narrow.lines().all(|line| line.chars().count() <= 44), "{narrow}");
        assert!(narrow.starts_with("WR101  send-refused-by-system\n       the "), "{narrow}");
        assert_eq!(list(None), list(Some(1000)));
        for rule in RULES {
            let text = explain(rule, 40);
            // Names and paths are not broken.
            assert!(
                text.lines().all(|line| line.chars().count() <= 40 || line.trim().split(' ').count() <= 2),
                "{text}"
            );
        }
    }
}
