//! What is wrong with the text of a scenario, and the way out.

use std::fmt;

use crate::words::{nearest, one_of};

/// It is no TOML, or its keys or values are none of a scenario.
#[derive(Debug)]
pub struct Syntax {
    found: Box<toml::de::Error>,
}

impl From<toml::de::Error> for Syntax {
    fn from(found: toml::de::Error) -> Self {
        Self { found: Box::new(found) }
    }
}

impl fmt::Display for Syntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = format!("{}\n", self.found.to_string().trim_end());
        // serde's, which only who writes Rust knows.
        let said = ["u8", "u16", "u32", "u64", "i64"].iter().fold(said, |said, kind| {
            said.replace(&format!(", expected {kind}\n"), &format!(", expected {}\n", in_words(kind)))
        });
        write!(f, "{}\nhint: {}", said.trim_end(), hint(self.found.message()))
    }
}

impl std::error::Error for Syntax {}

/// What numbers of a type of Rust are.
fn in_words(kind: &str) -> String {
    let most = match kind {
        "u8" => u64::from(u8::MAX),
        "u16" => u64::from(u16::MAX),
        "u32" => u64::from(u32::MAX),
        "u64" => u64::MAX,
        _ => return "a whole number".to_owned(),
    };
    format!("a whole number from 0 to {most}")
}

/// The way out of what a TOML reader says.
fn hint(message: &str) -> String {
    match message {
        "missing field `title`" => return "begin the file with title = \"…\": what its network is like".to_owned(),
        "missing field `expect`" => {
            return "say what must come out, as in [expect] with path = \"direct\"".to_owned();
        }
        "missing field `path`" => return "write \"direct\", \"relayed\" or \"failed\"".to_owned(),
        _ => {}
    }
    // serde's: what was written, and what may be written there.
    let mut words = message.split('`').skip(1).step_by(2);
    let is_unknown = message.starts_with("unknown ");
    let (written, known) = (words.next().filter(|_| is_unknown), words.collect::<Vec<_>>());
    match written.and_then(|written| nearest(written, known.iter().copied())) {
        Some(meant) => format!("did you mean {meant}?"),
        // Of a value there are few; of keys the message has said which there are.
        None if message.starts_with("unknown variant") && !known.is_empty() => {
            format!("write {}", one_of(&known))
        }
        None => "docs/scenarios.md says what is written where; `whyrelay lab list` names examples".to_owned(),
    }
}
