//! docs/security.md against the tests: every item has one, every one that is named exists, and none is left out.

use std::collections::BTreeSet;
use std::path::Path;

/// The items of SECURITY that concern STUN and TURN, and the connections that carry them (12).
const ITEMS: [u8; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12];

fn project() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(directory: &Path, into: &mut String) {
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&std::fs::read_to_string(&path).expect("a source file"));
        }
    }
}

/// What stands between the marks, over and over.
fn quoted<'a>(text: &'a str, mark: char) -> impl Iterator<Item = &'a str> + use<'a> {
    text.split(mark).skip(1).step_by(2)
}

/// The name behind each `fn `.
fn functions(text: &str) -> BTreeSet<&str> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    text.split("fn ").skip(1).filter_map(|rest| rest.split(|character| !is_part(character)).next()).collect()
}

#[test]
fn every_item_of_security_about_stun_and_turn_has_its_tests_and_all_of_them_exist() {
    let mut text = String::new();
    sources(&project().join("crates"), &mut text);
    sources(&project().join("xtask/src"), &mut text);
    let functions = functions(&text);
    let page = std::fs::read_to_string(project().join("docs/security.md")).expect("docs/security.md");
    let mut rows: Vec<(u8, Vec<&str>)> = Vec::new();
    for line in page.lines() {
        let [_, item, _, named, _] = line.split('|').collect::<Vec<_>>()[..] else { continue };
        let Ok(item) = item.trim().parse() else { continue };
        rows.push((item, quoted(named, '`').collect()));
    }
    for item in ITEMS {
        let prefix = format!("security_{item}_");
        let mut of_item = rows.iter().filter(|(row, _)| *row == item).flat_map(|(_, named)| named);
        assert!(of_item.any(|name| name.starts_with(&prefix)), "no test is named after item {item}");
    }
    for (item, named) in &rows {
        assert!(ITEMS.contains(item), "item {item} is not one of STUN and TURN");
        for name in named {
            // Some are made at run time, and stand as text.
            let exists = functions.contains(name) || text.contains(&format!("{name}\""));
            assert!(exists, "docs/security.md names {name}, and there is no such test");
            let elsewhere = name.strip_prefix("security_").and_then(|rest| rest.split('_').next());
            assert!(elsewhere.is_none_or(|number| number == item.to_string()), "{name} under item {item}");
        }
    }
    for name in functions.iter().filter(|name| name.starts_with("security_")) {
        let number = name.trim_start_matches("security_").split('_').next().and_then(|number| number.parse().ok());
        let concerns = number.is_some_and(|number: u8| ITEMS.contains(&number));
        assert!(!concerns || rows.iter().any(|(_, named)| named.contains(name)), "docs/security.md lacks {name}");
    }
}
