//! One port that is silent over UDP is not all of UDP.

use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::report::{Expected, Report, Verdict};
use whyrelay_core::trace::event::{EventKind, Transport, Vantage};

use crate::builder::{Check, Fate, Session, address};
use crate::report::{A, A_MAPPED, B, B_MAPPED, RELAYED, STUN, a_checks};

const OVER_TLS: &str = "192.0.2.10:443";

/// A hears nothing from the STUN port, and has a relayed address over TLS, over which the path is.
fn silent_at_a() -> Session {
    let mut session = Session::new();
    session.candidate(Vantage::A, CandidateType::Host, A, A, None);
    session.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
    session.stun(Vantage::A, A, STUN, None);
    session.stun(Vantage::B, B, STUN, Some(B_MAPPED));
    session.check(Check { transmissions: 7, ..a_checks(Fate::LostOnTheWay) });
    let before = session.events.len();
    session.allocate(Vantage::A, A, OVER_TLS, RELAYED, A_MAPPED, B_MAPPED);
    session.candidate(Vantage::A, CandidateType::Relayed, RELAYED, RELAYED, Some("turns:192.0.2.10"));
    // B's packets get in at the relayed address.
    session.relayed_check(Vantage::B, A, OVER_TLS, RELAYED, (B, B_MAPPED), false);
    session.relayed_check(Vantage::A, A, OVER_TLS, RELAYED, (B, B_MAPPED), true);
    for event in &mut session.events[before..] {
        match &mut event.kind {
            EventKind::Datagram(datagram) if datagram.remote == address(OVER_TLS) => {
                datagram.transport = Transport::Tls;
            }
            _ => {}
        }
    }
    session
}

fn report(mut session: Session) -> Report {
    session.select(Vantage::A, RELAYED, B_MAPPED);
    session.select(Vantage::B, B, RELAYED);
    session.end(Vantage::A, whyrelay_core::trace::event::EndReason::Finished);
    session.end(Vantage::B, whyrelay_core::trace::event::EndReason::Finished);
    Report::from_events(&session.events)
}

#[test]
fn of_one_port_no_more_is_said_than_that_it_is_silent() {
    let report = report(silent_at_a());
    let found: Vec<_> = report.findings.iter().map(|finding| (finding.code, finding.blame.name())).collect();
    assert_eq!(found, [("WR302", "A")]);
    let summary = &report.findings[0].summary;
    assert!(summary.contains("from port 3478 of any server, the only one that was asked"), "{summary}");
    assert_eq!((report.expected, report.verdict), (Expected::Unknown, Verdict::Relayed));
    assert_eq!(report.would_allow_direct, ["UDP let out of the network of A, to any port"]);
}

#[test]
fn where_the_own_relayed_address_is_silent_too_and_lets_others_in_udp_is_blocked() {
    let mut session = silent_at_a();
    session.stun(Vantage::A, A, RELAYED, None);
    let report = report(session);
    let found: Vec<_> = report.findings.iter().map(|finding| finding.code).collect();
    assert_eq!(found, ["WR302"]);
    let summary = &report.findings[0].summary;
    assert!(summary.contains("over UDP from any server, and"), "{summary}");
    assert_eq!((report.expected, report.verdict), (Expected::Relayed, Verdict::RelayedAsItMustBe));
    let first = report.would_allow_direct.first().map(String::as_str);
    assert_eq!(first, Some("UDP let out of the network of A, to any port"));
}

#[test]
fn where_the_own_relayed_address_answers_it_is_the_port_that_is_blocked() {
    let mut session = silent_at_a();
    session.stun(Vantage::A, A, RELAYED, Some(A_MAPPED));
    let report = report(session);
    let found: Vec<_> = report.findings.iter().map(|finding| (finding.code, finding.blame.name())).collect();
    assert_eq!(found.first(), Some(&("WR301", "A")), "{found:?}");
    let summary = &report.findings[0].summary;
    assert!(summary.ends_with("answers A: UDP to port 3478 is blocked in front of A"), "{summary}");
    assert_eq!(report.expected, Expected::Unknown);
    // B hears the server: without its recording nobody is blamed.
    let mut session = silent_at_a();
    session.stun(Vantage::A, A, RELAYED, Some(A_MAPPED));
    session.events = session.of(Vantage::A);
    let report = Report::from_events(&session.events);
    let found: Vec<_> = report.findings.iter().map(|finding| (finding.code, finding.blame.name())).collect();
    assert!(found.contains(&("WR301", "the path")), "{found:?}");
}

#[test]
fn what_the_own_relayed_address_tells_was_advertised_to_nobody() {
    // B sees another port than the own relayed address did, which no candidate has either.
    let mut session = silent_at_a();
    session.stun(Vantage::A, A, RELAYED, Some(A_MAPPED));
    session.check(Check { seen_from: "203.0.113.1:62014", ..a_checks(Fate::AnswerLost) });
    let report = report(session);
    let found: Vec<_> = report.findings.iter().map(|finding| finding.code).collect();
    assert!(!found.contains(&"WR504"), "{found:?}");
}
