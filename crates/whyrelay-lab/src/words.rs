//! How near words are to each other, for who has mistyped one.

/// How many letters must be changed, put in or taken out to make one text the other.
pub fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, a) in from.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, b) in to.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

/// Which of some words of small letters and hyphens may have been meant: one that begins alike, or of which at most every
/// third letter is another.
pub(crate) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_ascii_lowercase().replace(['_', ' '], "-");
    let near = known.into_iter().map(|word| (edits(&written, word), word));
    let (edits, word) = near.min_by_key(|(edits, _)| *edits)?;
    let begins = written.len() > 2 && word.starts_with(&written);
    (begins || edits <= written.len().min(word.len()) / 3).then_some(word)
}

/// Words as the choice that they are: `a, b or c`.
pub(crate) fn one_of(words: &[&str]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        words => words.concat(),
    }
}

/// What begins a hint at a word that is not known: what may have been meant, or nothing.
pub(crate) fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(written, known).map(|meant| format!("did you mean {meant}? ")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edits_between_two_texts_are_counted() {
        for (from, to, edits_between) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("abc", "abc", 0)] {
            assert_eq!(edits(from, to), edits_between, "{from} {to}");
        }
    }

    #[test]
    fn words_are_a_choice() {
        for (words, said) in [(&[][..], ""), (&["a"], "a"), (&["a", "b"], "a or b"), (&["a", "b", "c"], "a, b or c")] {
            assert_eq!(one_of(words), said);
        }
    }

    #[test]
    fn a_mistyped_word_is_known_and_another_is_none() {
        let known = ["behind", "silent-neighbor", "conntrack-full", "ipv4"];
        for (written, meant) in [
            ("behnd", Some("behind")),
            ("Silent_Neighbour", Some("silent-neighbor")),
            ("conntrack", Some("conntrack-full")),
            ("ip", None),
            ("gateway", None),
        ] {
            assert_eq!(nearest(written, known), meant, "{written}");
        }
    }
}
