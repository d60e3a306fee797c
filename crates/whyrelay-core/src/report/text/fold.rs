//! Lines that are longer than a terminal is wide, continued on the next line at a space.

/// Columns that a continued line stands further in.
const HANG: usize = 4;

/// The text with its long lines continued below. Only what was made for wide terminals is long: tables and chains. Those
/// that fit, commands, and words that are longer than a line stay as they are.
pub(in crate::report) fn fold(text: &str, columns_of_terminal: Option<usize>) -> String {
    let Some(width) = columns_of_terminal else { return text.to_owned() };
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let whole = line.strip_suffix('\n');
        let content = whole.unwrap_or(line);
        if columns(content) > width && !content.trim_start().starts_with("$ ") {
            continued(&mut out, content, width);
        } else {
            out.push_str(content);
        }
        if whole.is_some() {
            out.push('\n');
        }
    }
    out
}

fn continued(out: &mut String, line: &str, width: usize) {
    let indent = line.len() - line.trim_start_matches(' ').len();
    let hang = " ".repeat(indent + HANG);
    let mut used = 0;
    // Words with the spaces in front of them, which keep a table's columns apart.
    let mut rest = line;
    while !rest.is_empty() {
        let spaces = rest.len() - rest.trim_start_matches(' ').len();
        let end = rest[spaces..].find(' ').map_or(rest.len(), |at| spaces + at);
        let (gap, word) = (&rest[..spaces], &rest[spaces..end]);
        let takes = columns(word);
        if used > indent + HANG && used + spaces + takes > width {
            out.push('\n');
            out.push_str(&hang);
            out.push_str(word);
            used = hang.len() + takes;
        } else {
            out.push_str(gap);
            out.push_str(word);
            used += spaces + takes;
        }
        rest = &rest[end..];
    }
}

/// Characters but for our color sequences.
fn columns(text: &str) -> usize {
    let mut count = 0;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        if c == '\u{1b}' {
            characters.by_ref().find(|c| *c == 'm');
        } else {
            count += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_go_on_below_and_short_ones_stay() {
        let text = "  A  relay  127.0.0.1:55997  same  lo   turn:127.0.0.1:5980\n  short\n";
        let expected = "  A  relay  127.0.0.1:55997\n      same  lo\n      turn:127.0.0.1:5980\n  short\n";
        assert_eq!(fold(text, Some(30)), expected);
        assert_eq!(fold(text, Some(100)), text);
        let command = "        $ nft insert rule inet filter input udp dport 51820 accept\n";
        assert_eq!(fold(command, Some(30)), command);
    }

    #[test]
    fn a_word_that_is_longer_than_a_line_is_not_broken_and_color_takes_no_room() {
        assert_eq!(
            fold("  [2001:db8:1111:2222:3333:4444:5555:6666]:65535 x", Some(20)),
            "  [2001:db8:1111:2222:3333:4444:5555:6666]:65535\n      x"
        );
        let colored = "\u{1b}[1;31mred\u{1b}[0m words here";
        assert_eq!(fold(colored, Some(14)), colored);
    }
}
