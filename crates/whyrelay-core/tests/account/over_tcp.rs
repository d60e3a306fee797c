//! A path over TCP alone is told as one, with what keeps UDP from working as its cause.

use whyrelay_core::diagnosis::finding::Severity;
use whyrelay_core::diagnosis::session::Path;
use whyrelay_core::ice::candidate::{CandidateTransport, CandidateType};
use whyrelay_core::report::{Report, TextOptions, Verdict, render_text};
use whyrelay_core::trace::event::{EndReason, EventKind, Transport, Vantage};

use crate::builder::{Check, Fate, Session};
use crate::proof::mended;
use crate::report::{A, STUN, a_checks, direct};

const PUBLIC: &str = "198.51.100.2:50000";
const A_TCP: &str = "192.168.1.2:41000";
const A_TCP_MAPPED: &str = "203.0.113.1:41000";
const B_TCP: &str = "198.51.100.2:42000";

/// An answered pair over TCP that both sides select.
fn connect_over_tcp(session: &mut Session) {
    let before = session.events.len();
    session.check(Check {
        local: A_TCP,
        remote: B_TCP,
        seen_at: B_TCP,
        seen_from: A_TCP_MAPPED,
        nominate: true,
        ..a_checks(Fate::Answered)
    });
    session.select(Vantage::A, A_TCP, B_TCP);
    session.select(Vantage::B, B_TCP, A_TCP_MAPPED);
    for event in session.events.iter_mut().skip(before) {
        match &mut event.kind {
            EventKind::Datagram(datagram) => datagram.transport = Transport::Tcp,
            EventKind::PairSelected { pair, .. } => pair.transport = CandidateTransport::TcpActive,
            _ => {}
        }
    }
    session.end(Vantage::A, EndReason::Finished);
    session.end(Vantage::B, EndReason::Finished);
}

/// B is public; A's network lets no UDP out, and the STUN server answers A over TCP and B over UDP.
fn udp_blocked_at_a() -> Session {
    let mut session = Session::new();
    session.stun(Vantage::A, A, STUN, None);
    session.stun(Vantage::B, PUBLIC, STUN, Some(PUBLIC));
    session.candidate(Vantage::A, CandidateType::Host, A, A, None);
    session.candidate(Vantage::B, CandidateType::Host, PUBLIC, PUBLIC, None);
    session.check(Check { remote: PUBLIC, seen_at: PUBLIC, transmissions: 7, ..a_checks(Fate::LostOnTheWay) });
    connect_over_tcp(&mut session);
    session
}

#[test]
fn what_keeps_udp_from_working_is_the_cause_of_a_path_over_tcp_alone() {
    let report = Report::from_events(&udp_blocked_at_a().events);
    assert_eq!((report.path, report.over_tcp, report.verdict), (Path::Direct, true, Verdict::DirectBut));
    let first = report.findings.first().expect("a finding");
    assert_eq!((first.code, first.severity), ("WR302", Severity::Warning), "{:?}", report.findings);
    assert!(report.reason.contains("directly over TCP") && report.reason.contains("no answer over UDP"), "{report:?}");
    assert_eq!(report.selected_pair.as_ref().map(|pair| pair.transport), Some(Transport::Tcp));
    let text = render_text(&report, &TextOptions::default());
    assert!(text.starts_with("DIRECT, but over TCP, not UDP\n"), "{text}");
}

#[test]
fn a_path_over_tcp_where_udp_works_too_is_healthy() {
    let mut session = direct();
    connect_over_tcp(&mut session);
    let report = Report::from_events(&session.events);
    assert_eq!((report.path, report.over_tcp, report.verdict), (Path::Direct, false, Verdict::Direct));
    assert_eq!(report.selected_pair.as_ref().map(|pair| pair.transport), Some(Transport::Tcp));
    assert!(report.findings.iter().all(|finding| finding.severity == Severity::Info), "{:?}", report.findings);
}

#[test]
fn a_path_over_tcp_alone_proves_no_fix() {
    let (before, now) = (udp_blocked_at_a(), udp_blocked_at_a());
    let prove = |before: &Session, now: &Session| {
        let mut report = Report::from_events(&now.events);
        report.prove(&before.events, &now.events);
        report.proof.expect("a proof")
    };
    let still = prove(&before, &now);
    assert!(!still.fixed && still.summary.starts_with("Not fixed: the path was direct over TCP alone"), "{still:?}");
    let fixed = prove(&before, &mended());
    assert!(fixed.fixed && fixed.summary.contains("direct over TCP alone and is direct now"), "{fixed:?}");
}
