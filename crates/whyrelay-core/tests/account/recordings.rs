//! The recordings in tests/recordings, of which every format has a snapshot: those made by hand are what the builder
//! makes. `two-browsers.jsonl` was saved from the page in Chromium, `check.jsonl` by `whyrelay check`.

use std::path::Path;

use whyrelay_core::trace::event::{Event, Vantage};
use whyrelay_core::trace::recording::encode;

use crate::builder::Fate;
use crate::proof::{diverted_and_probed, mended};
use crate::report::{direct, failed, finish_relayed, relayed};

#[test]
#[expect(clippy::disallowed_methods, reason = "a test may read and write its own files")]
fn recordings_made_by_hand_are_what_the_builder_makes() {
    let mut through_relay = relayed();
    finish_relayed(&mut through_relay);
    let broken = failed(Fate::LostOnTheWay, Fate::AnswerLost);
    let recordings: [(&str, Vec<Event>); 6] = [
        ("direct", direct().events),
        ("relayed", through_relay.events),
        ("failed", broken.events.clone()),
        ("one-sided", broken.of(Vantage::A)),
        ("as-program", diverted_and_probed().events),
        ("mended", mended().events),
    ];
    for (name, events) in recordings {
        let made: String = events.iter().map(encode).collect();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/recordings/{name}.jsonl"));
        if std::env::var("INSTA_UPDATE").is_ok_and(|how| how == "always") {
            std::fs::write(&file, &made).expect("a file");
        }
        let kept = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(kept == made, "{name}.jsonl is another: run with INSTA_UPDATE=always");
    }
}
