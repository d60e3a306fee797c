//! A session that a side ended before its checks had their time: that nothing was answered says nothing then.

use std::time::Duration;

use whyrelay_core::diagnosis::finding::Severity;
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{EndReason, Event, EventKind, SignalingState, Vantage};

use crate::builder::{Check, Fate, Session};
use crate::cases::easy_nats;
use crate::report::{a_checks, b_checks};

/// B is interrupted `after` the first checks, of which none is answered; A's recording ends as B's comes.
fn interrupted(after: Duration) -> Session {
    let mut session = easy_nats();
    session.check(Check { transmissions: 1, ..a_checks(Fate::LostOnTheWay) });
    session.check(Check { transmissions: 1, ..b_checks(Fate::LostOnTheWay) });
    session.wait(after);
    session.check(Check { transmissions: 1, ..a_checks(Fate::LostOnTheWay) });
    session.close(Vantage::B);
    session.end(Vantage::B, EndReason::Interrupted);
    session.close(Vantage::A);
    session.end(Vantage::A, EndReason::Failed);
    session
}

/// A alone, to which B said goodbye.
fn left(after: Duration) -> Vec<Event> {
    let mut session = easy_nats();
    session.check(Check { transmissions: 1, ..a_checks(Fate::LostOnTheWay) });
    session.wait(after);
    session.check(Check { transmissions: 1, ..a_checks(Fate::LostOnTheWay) });
    let (server, state) = ("http://192.0.2.1:8080".to_owned(), SignalingState::PeerLeft);
    session.push(Vantage::A, EventKind::Signaling { server, state });
    session.end(Vantage::A, EndReason::PeerLeft);
    session.of(Vantage::A)
}

fn harmful(report: &Report) -> Vec<(&'static str, &'static str)> {
    let harmful = report.findings.iter().filter(|finding| finding.severity != Severity::Info);
    harmful.map(|finding| (finding.code, finding.blame.name())).collect()
}

#[test]
fn an_interrupted_session_blames_who_was_interrupted_and_nothing_else() {
    let soon = interrupted(Duration::from_millis(300));
    let report = Report::from_events(&soon.events);
    assert_eq!(harmful(&report), [("WR705", "B")], "{:?}", report.findings);
    let summary = &report.findings[0].summary;
    assert_eq!(summary, "B was interrupted (Ctrl-C or a signal) before there was a path");
    // What was not waited for is not measured.
    let missing = report.not_measured.iter().find(|entry| entry.codes.contains(&"WR501"));
    assert!(missing.is_some_and(|entry| entry.why.contains("B was interrupted when checks had been sent for")));
    // Whoever is interrupted because nothing came for long is not the cause.
    let report = Report::from_events(&interrupted(Duration::from_secs(6)).events);
    let found = harmful(&report);
    assert!(found.contains(&("WR501", "the path")) && !found.iter().any(|(code, _)| *code == "WR705"), "{found:?}");
    assert!(report.findings.iter().any(|finding| finding.code == "WR705"), "{:?}", report.findings);
}

#[test]
fn who_is_left_alone_says_that_the_peer_left_and_blames_no_path() {
    let report = Report::from_events(&left(Duration::from_millis(300)));
    assert_eq!(harmful(&report), [("WR705", "B")], "{:?}", report.findings);
    let found = harmful(&Report::from_events(&left(Duration::from_secs(6))));
    assert_eq!(found[0], ("WR705", "B"));
    assert!(found.contains(&("WR505", "the path")), "{found:?}");
}
