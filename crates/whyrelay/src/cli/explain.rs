//! `whyrelay explain`.

use std::fmt::Write as _;

use whyrelay_core::diagnosis::rules::{self, RULES, Rule};

use super::args::ExplainArgs;
use super::{HEALTHY, answer};

pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<u8> {
    let text = match &args.code {
        Some(code) => {
            let rule = rules::find(code).ok_or_else(|| {
                anyhow::anyhow!("there is no finding {code:?}\nhint: `whyrelay explain --list` names them all")
            })?;
            explain(rule)
        }
        None => RULES.iter().map(|rule| format!("{}  {:<32}  {}\n", rule.code, rule.name, rule.title)).collect(),
    };
    answer(&text)?;
    Ok(HEALTHY)
}

fn explain(rule: &Rule) -> String {
    let mut text = format!("{} {}: {}\n\n", rule.code, rule.name, rule.title);
    paragraph(&mut text, "", rule.meaning);
    paragraph(&mut text, "How it is detected: ", rule.detection);
    paragraph(&mut text, "What proves it: ", rule.proof);
    paragraph(&mut text, "What would change the judgement: ", rule.doubt);
    text.push_str("What helps:\n");
    for fix in rule.fixes {
        let line = format!("{} ({})", fix.text.trim_end_matches('.'), fix.effect.name());
        wrap(&mut text, "  - ", "    ", &line);
    }
    if !rule.threads.is_empty() {
        text.push('\n');
        wrap(&mut text, "", "  ", &format!("Public threads: {}", rule.threads.join(", ")));
    }
    text
}

fn paragraph(text: &mut String, lead: &str, body: &str) {
    wrap(text, "", "", &format!("{lead}{body}"));
    text.push('\n');
}

/// Wraps at 100 columns.
fn wrap(text: &mut String, first: &str, rest: &str, body: &str) {
    let mut line = first.to_owned();
    let mut empty = true;
    for word in body.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > 100 {
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
