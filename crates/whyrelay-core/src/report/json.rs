//! The JSON account, for scripts: DESIGN.md §6 and docs/report.schema.json.

use super::Report;

/// One JSON object, indented, with a line feed at the end.
pub fn render_json(report: &Report) -> String {
    // A report holds strings, finite numbers, lists and maps with string keys, all of which serialize.
    let mut text = serde_json::to_string_pretty(report).unwrap_or_default();
    text.push('\n');
    text
}
