//! The rules. One file a rule, one line here; the text of a rule is what `whyrelay explain` prints.

use super::finding::{Blame, Finding, MAX_CITED, NotMeasured, Severity};
use super::session::{Path, Session};

/// A rule: what it looks for and how.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// `WR` and three digits; the first digit is the layer.
    pub code: &'static str,
    /// Names the fault, in kebab case.
    pub name: &'static str,
    /// One line for a list of rules.
    pub title: &'static str,
    /// What is wrong and what it leads to.
    pub meaning: &'static str,
    /// How it is detected.
    pub detection: &'static str,
    /// How it is fixed, the likeliest first. A finding may add what is particular to it.
    pub fixes: &'static [&'static str],
    /// Rules whose finding explains this one: then it stays quiet.
    pub depends_on: &'static [&'static str],
    /// Looks at a session.
    pub examine: fn(&Session<'_>) -> Examination,
}

/// What a rule says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Examination {
    /// The fault is there; once for each place where it is.
    Found(Vec<Fault>),
    /// It was looked for and is not there.
    Clear,
    /// It could not be looked for.
    Inconclusive {
        /// What is missing.
        missing: String,
    },
}

/// One place where the fault is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whose fault it is.
    pub blame: Blame,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence.
    pub summary: String,
    /// Events that show it.
    pub evidence: Vec<u64>,
    /// What helps here, before the fixes of the rule.
    pub advice: Vec<String>,
}

impl Examination {
    /// Found when there is any fault, else clear.
    pub fn of(faults: Vec<Fault>) -> Self {
        if faults.is_empty() { Self::Clear } else { Self::Found(faults) }
    }
}

/// Every rule, causes before their effects: findings of the same severity come in this order.
pub const RULES: &[Rule] = &[];

/// The rule of a code (`WR504`, upper or lower case) or of a name.
pub fn find(code_or_name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.code.eq_ignore_ascii_case(code_or_name) || rule.name == code_or_name)
}

/// What all rules say of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// Root causes first.
    pub findings: Vec<Finding>,
    /// What could not be looked at.
    pub not_measured: Vec<NotMeasured>,
}

/// Runs every rule.
pub fn diagnose(session: &Session<'_>) -> Diagnosis {
    let examinations: Vec<_> = RULES.iter().map(|rule| (rule, (rule.examine)(session))).collect();
    let found: Vec<&str> = examinations
        .iter()
        .filter(|(_, examination)| matches!(examination, Examination::Found(faults) if faults.iter().any(|fault| fault.severity != Severity::Info)))
        .map(|(rule, _)| rule.code)
        .collect();

    let mut diagnosis = Diagnosis::default();
    for (rule, examination) in examinations {
        let explained = rule.depends_on.iter().any(|code| found.contains(code));
        match examination {
            Examination::Found(faults) if !explained => {
                diagnosis.findings.extend(faults.into_iter().map(|fault| finding(rule, fault, session)));
            }
            Examination::Inconclusive { missing } if !explained => {
                diagnosis.not_measured.push(NotMeasured { what: rule.title.to_owned(), why: missing });
            }
            _ => {}
        }
    }
    // A stable sort keeps causes before effects.
    diagnosis.findings.sort_by_key(|finding| finding.severity);
    diagnosis
}

fn finding(rule: &Rule, fault: Fault, session: &Session<'_>) -> Finding {
    let Fault { blame, severity, summary, mut evidence, mut advice } = fault;
    evidence.sort_unstable();
    evidence.dedup();
    evidence.truncate(MAX_CITED);
    advice.extend(rule.fixes.iter().map(|&fix| fix.to_owned()));
    // What did no harm is no warning: the session is direct all the same.
    let severity = if session.path == Path::Direct { Severity::Info } else { severity };
    Finding { code: rule.code, name: rule.name, blame, severity, summary, evidence, advice }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_dependencies_exist() {
        for (position, rule) in RULES.iter().enumerate() {
            assert!(rule.code.len() == 5 && rule.code.starts_with("WR"), "{}", rule.code);
            assert!(RULES[position + 1..].iter().all(|other| other.code != rule.code && other.name != rule.name));
            for code in rule.depends_on {
                assert!(find(code).is_some_and(|other| other.code != rule.code), "{} depends on {code}", rule.code);
            }
            assert!(!rule.fixes.is_empty() && !rule.meaning.is_empty() && !rule.detection.is_empty());
        }
    }
}
