//! From facts to conclusions: evidence folded from events, rules, findings.
