//! Long sessions: bounded, and folded fast.

use std::time::Duration;

use whyrelay_core::report::Report;

use crate::builder::{Check, Fate, Session};
use crate::report::{a_checks, behind_nats};

#[test]
#[expect(clippy::disallowed_types, reason = "a test may look at the clock")]
fn a_recording_of_a_hundred_thousand_events_is_folded_within_seconds() {
    let mut session: Session = behind_nats();
    for pair in 0..200 {
        let remote = format!("198.51.100.2:{}", 10_000 + pair);
        for _ in 0..125 {
            session.check(Check { remote: &remote, transmissions: 1, ..a_checks(Fate::Answered) });
        }
    }
    assert!(session.events.len() >= 100_000, "{}", session.events.len());
    let start = std::time::Instant::now();
    let report = Report::from_events(&session.events);
    let took = start.elapsed();
    assert_eq!(report.pairs.iter().filter_map(|pair| pair.a_to_b.sent).map(|sent| sent.checks).sum::<u32>(), 25_000);
    // Unoptimized and on a busy machine; optimized it is a small fraction of this.
    assert!(took < Duration::from_secs(10), "{took:?}");
}
