//! Faults that are told in one finding: a dead server is one, whoever asks it, at whichever address.

use std::collections::BTreeSet;

use super::Fault;
use crate::diagnosis::finding::MAX_CITED;
use crate::trace::event::Vantage;

/// Most things that are named in one finding.
const MAX_NAMED: usize = 4;

/// What one of several faults is about: "SIDE VERB WHAT TIMES AFTER". Those of one rule and blame of which the same is
/// said are told together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alike {
    /// The side that sees it.
    pub side: Vantage,
    /// What the side did, like "asked".
    pub verb: &'static str,
    /// With what: an address, a URL.
    pub what: String,
    /// How often, where that matters.
    pub times: Option<u32>,
    /// What came of it.
    pub after: String,
    /// What else cannot be used for the same reason.
    pub also: Vec<String>,
}

impl Alike {
    /// What is said of some of which the same is said.
    pub(super) fn summary(all: &[&Self]) -> String {
        let Some(first) = all.first() else { return String::new() };
        let said = |who: &str, whats: &[&str], times: Option<u32>| {
            let times = match times {
                None => String::new(),
                Some(1) => " once".to_owned(),
                Some(times) => format!(" {times} times"),
            };
            format!("{who} {} {}{times}", first.verb, listed(whats))
        };
        let of_side = |vantage: Vantage| {
            let own: Vec<&&Self> = all.iter().filter(|one| one.side == vantage).collect();
            let times = own.iter().filter_map(|one| one.times).reduce(u32::saturating_add);
            (own.into_iter().map(|one| one.what.as_str()).collect::<Vec<_>>(), times)
        };
        let [(by_a, times_a), (by_b, times_b)] = [Vantage::A, Vantage::B].map(of_side);
        let done = match (by_a.as_slice(), by_b.as_slice()) {
            (by_a, []) => said("A", by_a, times_a),
            ([], by_b) => said("B", by_b, times_b),
            (by_a, by_b) if by_a == by_b => {
                let times = times_a.into_iter().chain(times_b).reduce(u32::saturating_add);
                said("A and B", by_a, times)
            }
            (by_a, by_b) => format!("{} and {}", said("A", by_a, times_a), said("B", by_b, times_b)),
        };
        let also: BTreeSet<&str> = all.iter().flat_map(|one| &one.also).map(String::as_str).collect();
        let also: Vec<&str> = also.into_iter().collect();
        let also = if also.is_empty() { String::new() } else { format!("; nor can {} be used", listed(&also)) };
        format!("{done}{}{also}", first.after)
    }
}

/// Things in words, some of many.
fn listed(all: &[&str]) -> String {
    let named = &all[..all.len().min(MAX_NAMED)];
    match (named, all.len() - named.len()) {
        ([], _) => String::new(),
        ([one], _) => (*one).to_owned(),
        ([first @ .., last], 0) => format!("{} and {last}", first.join(", ")),
        (_, more) => format!("{} and {more} more", named.join(", ")),
    }
}

/// Faults of one rule, those that are alike in one.
pub(super) fn joined(faults: Vec<Fault>) -> Vec<Fault> {
    let mut groups: Vec<Vec<Fault>> = Vec::new();
    for fault in faults {
        let is_alike = |other: &Fault| match (&other.alike, &fault.alike) {
            (Some(one), Some(two)) => {
                (one.verb, &one.after) == (two.verb, &two.after)
                    && (other.blame, other.severity) == (fault.blame, fault.severity)
            }
            _ => false,
        };
        match groups.iter_mut().find(|group| group.first().is_some_and(is_alike)) {
            Some(group) => group.push(fault),
            None => groups.push(vec![fault]),
        }
    }
    groups.into_iter().filter_map(join).collect()
}

/// One fault in the place of several. Of the evidence of each, what comes first comes first.
fn join(mut group: Vec<Fault>) -> Option<Fault> {
    if group.len() <= 1 {
        return group.pop();
    }
    let all: Vec<&Alike> = group.iter().filter_map(|fault| fault.alike.as_ref()).collect();
    let summary = Alike::summary(&all);
    let longest = group.iter().map(|fault| fault.evidence.len()).max().unwrap_or_default();
    let evidence = (0..longest).flat_map(|at| group.iter().filter_map(move |fault| fault.evidence.get(at).copied()));
    let evidence = evidence.take(MAX_CITED).collect();
    Some(Fault { summary, evidence, ..group.swap_remove(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_several_names_who_and_what() {
        let one = |side, what: &str, also: &[&str]| Alike {
            side,
            verb: "asked",
            what: what.to_owned(),
            times: Some(4),
            after: " and got no answer".to_owned(),
            also: also.iter().map(|url| (*url).to_owned()).collect(),
        };
        let (a, b) = (Vantage::A, Vantage::B);
        let summary = |all: &[Alike]| Alike::summary(&all.iter().collect::<Vec<_>>());
        assert_eq!(summary(&[one(a, "x", &[])]), "A asked x 4 times and got no answer");
        assert_eq!(
            summary(&[one(a, "x", &["t"]), one(a, "y", &[]), one(b, "x", &["t"]), one(b, "y", &["s"])]),
            "A and B asked x and y 16 times and got no answer; nor can s and t be used"
        );
        assert_eq!(
            summary(&[one(a, "x", &[]), one(b, "y", &[])]),
            "A asked x 4 times and B asked y 4 times and got no answer"
        );
        let many: Vec<Alike> = (0..7).map(|n| one(b, &n.to_string(), &[])).collect();
        assert_eq!(summary(&many), "B asked 0, 1, 2, 3 and 3 more 28 times and got no answer");
    }
}
