//! A session that a side ended before its checks had their time: that nothing was answered says nothing then.

use std::time::Duration;

use whyrelay_core::diagnosis::finding::{Finding, Severity};
use whyrelay_core::report::{CheckReport, Report};
use whyrelay_core::trace::event::{EndReason, Event, EventKind, ServerFailure, Side, SignalingState, Vantage};
use whyrelay_core::trace::measurement::Measurement;

use crate::builder::{Check, Fate, Session, address};
use crate::cases::{STUN_2, easy_nats};
use crate::report::{A, A_MAPPED, RELAYED, STUN, a_checks, b_checks};

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

/// A alone, which B left: signaling says no more than that, or B said that it was interrupted.
fn left(after: Duration, state: SignalingState) -> Vec<Event> {
    let mut session = easy_nats();
    session.check(Check { transmissions: 1, ..a_checks(Fate::LostOnTheWay) });
    session.wait(after);
    session.check(Check { transmissions: 1, ..a_checks(Fate::LostOnTheWay) });
    let server = "http://192.0.2.1:8080".to_owned();
    session.push(Vantage::A, EventKind::Signaling { server, state });
    session.end(Vantage::A, EndReason::PeerLeft);
    session.of(Vantage::A)
}

fn harmful(report: &Report) -> Vec<(&'static str, &'static str)> {
    harmful_of(&report.findings)
}

fn harmful_of(findings: &[Finding]) -> Vec<(&'static str, &'static str)> {
    let harmful = findings.iter().filter(|finding| finding.severity != Severity::Info);
    harmful.map(|finding| (finding.code, finding.blame.name())).collect()
}

#[test]
fn an_interrupted_session_blames_who_was_interrupted_and_nothing_else() {
    let soon = interrupted(Duration::from_millis(300));
    let report = Report::from_events(&soon.events);
    assert_eq!(harmful(&report), [("WR705", "B")], "{:?}", report.findings);
    assert_eq!((report.heading, report.decided), ("UNDECIDED", false), "nobody waited for how it comes out");
    assert!(
        report.reason.starts_with("The session ended before A and B were connected: B was inter"),
        "{}",
        report.reason
    );
    let summary = &report.findings[0].summary;
    assert_eq!(summary, "B was interrupted (Ctrl-C or a signal) before there was a path");
    // What was not waited for is not measured.
    let missing = report.not_measured.iter().find(|entry| entry.codes.contains(&"WR501"));
    assert!(missing.is_some_and(|entry| entry.why.contains("B was interrupted when checks had been sent for")));
    // Whoever is interrupted because nothing came for long is not the cause.
    let report = Report::from_events(&interrupted(Duration::from_secs(6)).events);
    assert_eq!((report.heading, report.decided), ("FAILED", true));
    let found = harmful(&report);
    assert!(found.contains(&("WR501", "the path")) && !found.iter().any(|(code, _)| *code == "WR705"), "{found:?}");
    assert!(report.findings.iter().any(|finding| finding.code == "WR705"), "{:?}", report.findings);
}

#[test]
fn who_is_left_alone_says_that_the_peer_left_and_blames_no_path() {
    let report = Report::from_events(&left(Duration::from_millis(300), SignalingState::PeerLeft));
    assert_eq!(harmful(&report), [("WR705", "B")], "{:?}", report.findings);
    let found = harmful(&Report::from_events(&left(Duration::from_secs(6), SignalingState::PeerLeft)));
    assert_eq!(found[0], ("WR705", "B"));
    assert!(found.contains(&("WR505", "the path")), "{found:?}");
}

#[test]
fn who_was_told_that_the_peer_was_interrupted_says_so_without_its_recording() {
    let report = Report::from_events(&left(Duration::from_millis(300), SignalingState::PeerInterrupted));
    assert_eq!(harmful(&report), [("WR705", "B")], "{:?}", report.findings);
    assert_eq!(report.findings[0].summary, "B was interrupted (Ctrl-C or a signal) before there was a path");
    let missing = report.not_measured.iter().find(|entry| entry.codes.contains(&"WR505"));
    assert!(missing.is_some_and(|entry| entry.why.contains("B was interrupted when checks had been sent for")));
    // Once the checks had their time, that they were not answered is the cause.
    let report = Report::from_events(&left(Duration::from_secs(6), SignalingState::PeerInterrupted));
    assert_eq!(harmful(&report), [("WR505", "the path"), ("WR802", "both sides")], "{:?}", report.findings);
}

/// The schedule of one dead pair: sent for the last time after 1550 ms, given up at 2.55 s.
#[test]
fn a_pair_that_was_checked_until_it_was_given_up_had_its_time() {
    let once = || Check { transmissions: 1, ..a_checks(Fate::LostOnTheWay) };
    let ended_after = |wait: u64| {
        let mut session = easy_nats();
        session.check(once());
        session.wait(Duration::from_millis(1550));
        session.check(once());
        session.wait(Duration::from_millis(wait));
        session.close(Vantage::B);
        session.end(Vantage::B, EndReason::Interrupted);
        session.close(Vantage::A);
        // Reading the host's facts takes time, in which nothing is asked any more.
        session.wait(Duration::from_secs(2));
        session.end(Vantage::A, EndReason::Failed);
        harmful(&Report::from_events(&session.events))
    };
    let found = ended_after(6000);
    assert!(found.contains(&("WR501", "the path")) && !found.iter().any(|(code, _)| *code == "WR705"), "{found:?}");
    assert_eq!(ended_after(100), [("WR705", "B")]);
}

/// A side that hears nothing over UDP, and a server over TLS: asked from four sockets, `after` what time it is ended.
fn without_udp(session: &mut Session, after: Duration) {
    for server in [STUN, STUN_2] {
        session.stun(Vantage::A, A, server, None);
    }
    session.allocate_over_tls(Vantage::A, A, "192.0.2.10:443", RELAYED);
    session.wait(after);
}

#[test]
fn an_interrupted_check_says_what_it_had_seen() {
    let check = |after: Duration, facts: &[EventKind]| {
        let mut session = Session::new();
        session.push(Vantage::A, EventKind::CheckStarted { consents: vec![] });
        match facts {
            [] => without_udp(&mut session, after),
            facts => {
                session.stun(Vantage::A, A, STUN, Some(A_MAPPED));
                facts.iter().for_each(|fact| session.push(Vantage::A, fact.clone()));
            }
        }
        session.end(Vantage::A, EndReason::Interrupted);
        harmful_of(&CheckReport::from_events(&session.of(Vantage::A)).findings)
    };
    assert_eq!(check(Duration::from_secs(20), &[]), [("WR302", "A")]);
    // What was asked just now is not silent.
    assert_eq!(check(Duration::from_millis(300), &[]), []);
    let third =
        Measurement::ThirdParty { local: address(A), remote: address("192.0.2.10:50001"), observed: None, sent: 5 };
    assert_eq!(check(Duration::ZERO, &[EventKind::Measured(third)]), [("WR304", "A")]);
    let failure = ServerFailure::Timeout { transmissions: 7, took_us: 3_000_000 };
    let (server, method) = ("turn:relay.example".to_owned(), "Allocate".to_owned());
    let failed = EventKind::ServerFailed { server, local: Some(address(A)), method, failure };
    assert_eq!(check(Duration::ZERO, &[failed]), [("WR402", "the relay")]);
}

#[test]
fn who_is_interrupted_before_the_peer_came_still_learns_that_udp_is_blocked() {
    let alone = |after: Duration| {
        let mut session = Session::new();
        session.events.retain(|event| {
            event.vantage == Vantage::A && !matches!(&event.kind, EventKind::Description { side: Side::Remote, .. })
        });
        without_udp(&mut session, after);
        session.close(Vantage::A);
        session.end(Vantage::A, EndReason::Interrupted);
        let report = Report::from_events(&session.of(Vantage::A));
        harmful(&report).iter().map(|(code, _)| *code).collect::<Vec<_>>()
    };
    let found = alone(Duration::from_secs(20));
    assert!(found.contains(&"WR302"), "{found:?}");
    assert!(!found.contains(&"WR508") && !found.contains(&"WR703"), "{found:?}");
    let found = alone(Duration::from_millis(300));
    assert!(!found.contains(&"WR302") && !found.contains(&"WR301"), "{found:?}");
}

#[test]
fn that_no_check_was_sent_before_the_interruption_is_said() {
    let mut session = Session::new();
    session.close(Vantage::B);
    session.end(Vantage::B, EndReason::Interrupted);
    session.close(Vantage::A);
    session.end(Vantage::A, EndReason::Failed);
    let report = Report::from_events(&session.events);
    assert_eq!(harmful(&report), [("WR705", "B")], "{:?}", report.findings);
    let said = |codes: &[&str]| codes.iter().any(|code| ["WR508", "WR703", "WR802"].contains(code));
    let why: Vec<_> = report.not_measured.iter().filter(|entry| said(&entry.codes)).map(|entry| &entry.why).collect();
    assert!(why.iter().any(|why| why.ends_with("B was interrupted before any check was sent")), "{why:?}");
}
