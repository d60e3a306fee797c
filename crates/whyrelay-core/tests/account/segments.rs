//! Large packets that are lost on the way to the signaling server.

use whyrelay_core::host::{HostFact, Probe, ProbeAim, ProbeOutcome};
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{DtlsState, EndReason, EventKind, Vantage};

use crate::builder::{Check, Fate, Session, address};
use crate::choices::said;
use crate::report::{
    A, A_MAPPED, B, B_MAPPED, RELAYED, STUN, a_checks, b_checks, behind_nats, failed, finish_relayed, relayed,
};

/// The signaling server acknowledges a large segment of A, or not.
fn segment(session: &mut Session, acknowledged: bool) {
    let result = if acknowledged {
        ProbeOutcome::Answered { mapped: None, round_trip_us: 20_000 }
    } else {
        ProbeOutcome::Silent
    };
    let (aim, local, remote) = (ProbeAim::Segment { length: 1500 }, address(A), address("192.0.2.10:8080"));
    session.fact(Vantage::A, HostFact::Probe(Probe { aim, local, remote, transmissions: 8, result }));
}

#[test]
fn large_packets_that_signaling_loses_are_no_cause_but_of_a_handshake_that_broke() {
    const SUMMARY: &str = "TCP packets of 1500 bytes from A to the signaling server 192.0.2.10:8080 get lost (8 sent, none acknowledged), while smaller ones pass";
    let is = |session: &Session, severity: &str| {
        assert_eq!(said(session, "WR603"), [(severity.to_owned(), SUMMARY.to_owned())]);
    };
    let mut lost = failed(Fate::LostOnTheWay, Fate::LostOnTheWay);
    segment(&mut lost, false);
    is(&lost, "warning");
    let first = Report::from_events(&lost.events).findings[0].code;
    assert_eq!(first, "WR501");

    let mut over_relay = relayed();
    segment(&mut over_relay, false);
    finish_relayed(&mut over_relay);
    is(&over_relay, "warning");

    let mut healthy = behind_nats();
    segment(&mut healthy, false);
    healthy.check(Check { nominate: true, ..a_checks(Fate::Answered) });
    healthy.check(b_checks(Fate::Answered));
    healthy.select(Vantage::A, A, B_MAPPED);
    healthy.select(Vantage::B, B, A_MAPPED);
    is(&healthy, "info");

    for (acknowledged, expected) in [(false, "WR603"), (true, "WR602")] {
        let mut broken = relayed();
        segment(&mut broken, acknowledged);
        broken.relayed_check(Vantage::A, A, STUN, RELAYED, (B, B_MAPPED), true);
        let state = DtlsState::Failed { detail: "timed out".into() };
        broken.push(Vantage::A, EventKind::Dtls { state });
        broken.end(Vantage::A, EndReason::Failed);
        broken.end(Vantage::B, EndReason::Failed);
        let report = Report::from_events(&broken.events);
        let codes: Vec<_> = report.findings.iter().map(|finding| (finding.code, finding.severity.name())).collect();
        assert!(codes.contains(&(expected, "error")), "{codes:?}");
        assert!(!acknowledged || !codes.iter().any(|(code, _)| *code == "WR603"), "{codes:?}");
        assert!(acknowledged || !codes.iter().any(|(code, _)| *code == "WR602"), "{codes:?}");
    }
}

#[test]
fn large_packets_that_get_lost_between_the_sides_are_named_once() {
    let mut session = behind_nats();
    segment(&mut session, false);
    session.check(Check { nominate: true, ..a_checks(Fate::Answered) });
    session.check(b_checks(Fate::Answered));
    session.probe(ProbeAim::Padded { length: 1280 }, A, B_MAPPED, Some(A_MAPPED));
    for length in [1400, 1500] {
        session.probe(ProbeAim::Padded { length }, A, B_MAPPED, None);
    }
    session.select(Vantage::A, A, B_MAPPED);
    session.select(Vantage::B, B, A_MAPPED);
    let found = said(&session, "WR603");
    assert!(found.len() == 1 && found[0].1.starts_with("Packets of 1280 bytes from A"), "{found:?}");
}
