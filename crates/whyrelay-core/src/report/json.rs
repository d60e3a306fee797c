//! The JSON account, for scripts: DESIGN.md §6 and docs/report.schema.json.

use serde::Serialize;

use super::Report;
use super::markup::visible;

/// One JSON object, indented, with a line feed at the end.
pub fn render_json(report: &Report) -> String {
    pretty(report)
}

/// An account as JSON: indented, with a line feed at the end. What would steer a terminal, or turn the direction of
/// writing, is escaped; a program reads it as it was.
pub(super) fn pretty(account: &impl Serialize) -> String {
    // It holds strings, finite numbers, lists and maps with string keys, all of which serialize.
    let plain = serde_json::to_string_pretty(account).unwrap_or_default();
    let mut text = String::with_capacity(plain.len() + 1);
    for c in plain.chars() {
        // Only strings hold such characters, none of which is beyond the basic plane.
        if visible(c) == c {
            text.push(c);
        } else {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::pretty;

    #[test]
    fn what_steers_a_terminal_is_escaped_and_read_as_it_was() {
        let hostile = "a\u{9b}31m\u{7f}\u{202e}\u{feff}\u{1b}\n\u{e9}";
        let text = pretty(&hostile);
        assert_eq!(text, "\"a\\u009b31m\\u007f\\u202e\\ufeff\\u001b\\n\u{e9}\"\n");
        assert_eq!(serde_json::from_str::<String>(&text).ok().as_deref(), Some(hostile));
    }
}
