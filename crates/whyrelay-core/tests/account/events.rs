//! The event list: every kind and value is written and read the same way, and docs/events.md has them all.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use whyrelay_core::trace::event::{Event, EventKind};
use whyrelay_core::trace::recording::{Recording, encode};
use whyrelay_core::trace::redact::redact;

/// One event of each kind and value.
const SAMPLES: &str = include_str!("events.jsonl");

/// The words that an enum reads, from the message with which serde refuses another one.
fn words_in(message: &str) -> BTreeSet<String> {
    let list = message.split_once("expected one of ").expect("serde lists what it knows").1;
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn kinds() -> BTreeSet<String> {
    let error = serde_json::from_str::<EventKind>(r#"{"kind":"?"}"#).expect_err("there is no such kind");
    words_in(&error.to_string())
}

#[test]
fn every_kind_and_value_survives_a_round_trip() {
    let mut seen = BTreeSet::new();
    for line in SAMPLES.lines() {
        let event: Event = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        let value = serde_json::to_value(&event).expect("an event serializes");
        assert_eq!(value, serde_json::from_str::<Value>(line).expect("the sample is JSON"), "{line}");
        let again: Event = serde_json::from_str(&encode(&event)).expect("what is written is read");
        assert_eq!(again, event);
        seen.insert(value["kind"].as_str().expect("a kind").to_owned());
    }
    assert_eq!(seen, kinds());
}

#[test]
fn a_recording_of_every_kind_is_read_whole_folded_and_redacted() {
    let recording = Recording::read(SAMPLES.as_bytes()).expect("a recording");
    assert_eq!((recording.events.len(), recording.unknown, recording.unreadable), (SAMPLES.lines().count(), 0, 0));
    let redacted = redact(&recording.events, b"secret");
    for (before, after) in recording.events.iter().zip(&redacted) {
        assert_eq!(std::mem::discriminant(&before.kind), std::mem::discriminant(&after.kind), "{before:?}");
    }
    let report = whyrelay_core::report::Report::from_events(&recording.events);
    assert_eq!(report.a.expect("side A was recorded").events, recording.events.len() as u64);
}

#[test]
fn every_kind_is_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/events.md");
    let text = std::fs::read_to_string(path).expect("docs/events.md");
    let documented: BTreeSet<String> =
        text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`').map(str::to_owned)).collect();
    assert_eq!(documented, kinds());
    // Values are words in the samples, which have all of them.
    for line in SAMPLES.lines() {
        let value: Value = serde_json::from_str(line).expect("the sample is JSON");
        for word in ["reason", "state", "failure", "used"].iter().filter_map(|field| value.get(field)) {
            let words = [word.as_str(), word["why"].as_str(), word["state"].as_str(), word["failure"].as_str()];
            for word in words.into_iter().flatten() {
                assert!(text.contains(&format!("- `{word}`:")), "{word} is not documented");
            }
        }
        for field in value
            .as_object()
            .expect("an event")
            .keys()
            .filter(|key| !["seq", "at", "vantage", "kind"].contains(&key.as_str()))
        {
            assert!(text.contains(&format!("- `{field}` (")), "{field} is not documented");
        }
    }
}
