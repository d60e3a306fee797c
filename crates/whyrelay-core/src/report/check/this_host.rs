//! The host that looks at itself is side A to the rules; a reader of its account knows no sides.

use crate::diagnosis::finding::Finding;

/// A finding whose texts speak of this host. Commands stay as they are.
pub(super) fn rewrite(finding: &mut Finding) {
    finding.summary = in_place_of_a(&finding.summary);
    finding.doubt = in_place_of_a(&finding.doubt);
    for remedy in &mut finding.remedies {
        remedy.text = in_place_of_a(&remedy.text);
    }
    finding.advice = finding.remedies.iter().map(crate::diagnosis::finding::Remedy::line).collect();
}

/// Puts "this host" in the place of the side's letter: a capital A that stands alone. The rules' sentences have no such
/// article but at a beginning, and those of one host begin with none; what is quoted is left alone.
pub(super) fn in_place_of_a(text: &str) -> String {
    let text = text.replace("the host of A", "this host");
    let mut out = String::with_capacity(text.len());
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        quoted ^= c == '"';
        let is_alone = || {
            let part_of_a_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/' | '%');
            let before = text[..at].chars().next_back();
            let mut after = text[at + 1..].chars();
            let next = after.next();
            // A full stop or colon ends the word where nothing of it follows.
            let ends = next
                .is_none_or(|c| !part_of_a_word(c) || matches!(c, '.' | ':') && after.next().is_none_or(|c| c == ' '));
            before.is_none_or(|c| !part_of_a_word(c)) && ends
        };
        if c != 'A' || quoted || !is_alone() {
            out.push(c);
            continue;
        }
        let begins = matches!(out.trim_end().chars().next_back(), None | Some('.'));
        out.push_str(if begins { "This host" } else { "this host" });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::in_place_of_a;

    #[test]
    fn the_letter_of_the_side_alone_is_replaced() {
        for (text, expected) in [
            ("A gets no answer from A's server", "This host gets no answer from this host's server"),
            ("The firewall of A drops it: A.", "The firewall of this host drops it: this host."),
            ("the host of A was not looked at", "this host was not looked at"),
            ("by rule \"from A lookup 7\" of A", "by rule \"from A lookup 7\" of this host"),
            ("an AAAA record, 2001:DB8::A and B-A", "an AAAA record, 2001:DB8::A and B-A"),
            ("It is so. A can (A) say", "It is so. This host can (this host) say"),
        ] {
            assert_eq!(in_place_of_a(text), expected);
        }
    }
}
