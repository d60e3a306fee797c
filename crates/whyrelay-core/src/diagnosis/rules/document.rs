//! All rules as a page: docs/findings.md.

use std::fmt::Write as _;

use super::{RULES, Rule};

/// What the first digit of a code says.
const FAMILIES: [(char, &str); 8] = [
    ('1', "The host"),
    ('2', "The NAT"),
    ('3', "STUN"),
    ('4', "TURN"),
    ('5', "ICE"),
    ('6', "DTLS, SCTP and packet sizes"),
    ('7', "Signaling and names"),
    ('8', "Configuration"),
];

/// Every rule in Markdown, by code.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Findings\n\nWritten by `cargo xtask findings` from the rules themselves; `whyrelay explain CODE` says the \
         same. Each fix is marked with what it does: *safe*, *cuts connections* that go on now, *changes the \
         firewall* or *needs the router's owner*. A rule is quiet where another that it depends on has found the cause on the same side.\n",
    );
    let all: Vec<&Rule> = RULES.iter().collect();
    for (title, mut family) in families(&all) {
        family.sort_by_key(|rule| rule.code);
        let digit = family.first().map_or("", |rule| &rule.code[2..3]);
        let _ = writeln!(page, "\n## {digit}xx {title}");
        family.into_iter().for_each(|rule| section(&mut page, rule));
    }
    page
}

/// Rules by their families, each with its title: those that have any, in the order of their digits.
pub(super) fn families<'a>(rules: &[&'a Rule]) -> impl Iterator<Item = (&'static str, Vec<&'a Rule>)> {
    let of_family = |(digit, title)| {
        let family: Vec<&Rule> =
            rules.iter().copied().filter(|rule| rule.code[2..].starts_with::<char>(digit)).collect();
        (!family.is_empty()).then_some((title, family))
    };
    FAMILIES.into_iter().filter_map(of_family)
}

fn section(page: &mut String, rule: &Rule) {
    let _ = writeln!(page, "\n### {} {}\n\n*{}.* {}\n", rule.code, rule.name, capital(rule.title), rule.meaning);
    let _ = writeln!(page, "- **Detected by:** {}", rule.detection);
    let _ = writeln!(page, "- **Proved by:** {}", rule.proof);
    let _ = writeln!(page, "- **Would change the judgement:** {}", rule.doubt);
    for fix in rule.fixes {
        let _ = writeln!(page, "- **Helps** (*{}*): {}", fix.effect.name(), fix.text);
    }
    if !rule.depends_on.is_empty() {
        let _ = writeln!(page, "- **Explained by:** {}", rule.depends_on.join(", "));
    }
    if !rule.threads.is_empty() {
        let _ = writeln!(page, "- **Threads:** {}", rule.threads.join(", "));
    }
}

fn capital(title: &str) -> String {
    let mut letters = title.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
