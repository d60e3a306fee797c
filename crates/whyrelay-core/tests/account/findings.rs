//! docs/findings.md says what the rules say.

use whyrelay_core::diagnosis::rules::markdown;

#[test]
fn the_page_of_findings_is_what_the_rules_say() {
    let page = include_str!("../../../../docs/findings.md");
    assert!(page == markdown(), "docs/findings.md and the rules differ: run `cargo xtask findings`");
}
