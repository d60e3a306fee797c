//! Connections that are kept open and break, recordings that end before their session did, and what was to be left out
//! and is not there.

use std::time::Duration;

use whyrelay_core::diagnosis::finding::Severity;
use whyrelay_core::diagnosis::session::Path;
use whyrelay_core::host::{HostFact, Link, Moment};
use whyrelay_core::report::{Report, TextOptions, render_html, render_text};
use whyrelay_core::trace::event::{
    Direction, EndReason, Event, EventKind, IceState, IceStateReason, InterfaceUse, Side, SignalingState, Vantage,
};
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::stun::{Class, MessageBuilder, Method};

use crate::builder::{Check, Fate, Session, address};
use crate::cases::easy_nats;
use crate::choices::said;
use crate::report::{A, A_MAPPED, B, B_MAPPED, RELAYED, STUN, a_checks, b_checks, direct, relayed};

const SERVER: &str = "http://192.0.2.1:8080/";

/// A direct session that has not ended yet.
fn kept_open() -> Session {
    let mut session = direct();
    session.events.retain(|event| !matches!(event.kind, EventKind::RecordingEnded { .. }));
    session
}

fn ice(session: &mut Session, vantage: Vantage, from: IceState, to: IceState, reason: IceStateReason) {
    session.push(vantage, EventKind::IceStateChanged { from, to, reason });
}

fn silent(session: &mut Session, vantage: Vantage) {
    ice(session, vantage, IceState::Completed, IceState::Disconnected, IceStateReason::ConsentSilent);
}

/// ICE restarts in vain.
fn restarted(session: &mut Session, vantage: Vantage, generation: u32) {
    session.push(vantage, EventKind::IceRestarted { generation, side: Side::Local });
    ice(session, vantage, IceState::Disconnected, IceState::Checking, IceStateReason::Restarted);
}

/// The user ends it; the agent closes first.
fn interrupted(session: &mut Session, vantage: Vantage) {
    session.wait(Duration::from_secs(4));
    session.close(vantage);
    session.end(vantage, EndReason::Interrupted);
}

fn signaling(session: &mut Session, vantage: Vantage, state: SignalingState) {
    session.push(vantage, EventKind::Signaling { server: SERVER.into(), state });
}

fn harmful(report: &Report) -> Vec<String> {
    let harmful = report.findings.iter().filter(|finding| finding.severity != Severity::Info);
    harmful.map(|finding| format!("{} {}", finding.code, finding.blame.name())).collect()
}

fn flat(report: &Report) -> String {
    render_text(report, &TextOptions::default()).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_killed_peer_breaks_a_connection_that_is_kept_open() {
    let mut session = kept_open();
    session.wait(Duration::from_secs(12));
    signaling(&mut session, Vantage::A, SignalingState::PeerLeft);
    session.wait(Duration::from_secs(6));
    silent(&mut session, Vantage::A);
    session.wait(Duration::from_secs(3));
    restarted(&mut session, Vantage::A, 1);
    restarted(&mut session, Vantage::A, 2);
    interrupted(&mut session, Vantage::A);
    let report = Report::from_events(&session.events);
    assert_eq!((report.path, report.heading), (Path::Failed, "FAILED"));
    assert_eq!(harmful(&report), ["WR705 B"]);
    let words = "A and B talked directly, until the path broke 18.";
    assert!(report.reason.starts_with(words), "{}", report.reason);
    assert!(report.reason.contains("after the beginning of A's recording: B vanished"), "{}", report.reason);
    let [outage] = report.outages.as_slice() else { panic!("{:?}", report.outages) };
    assert_eq!((outage.restarts, outage.end_us), (2, None));
    let text = flat(&report);
    assert!(text.contains("Breaks of the path A the path fell silent at 18."), "{text}");
    assert!(text.contains("ICE restarted 2 times; no path again"), "{text}");
    assert!(render_html(&report).contains("ICE restarted 2 times; no path again"));
}

/// A has an allocation, and the relay refuses it the permission for B's mapped address.
fn refuse_permission(session: &mut Session) {
    session.allocate(Vantage::A, A, STUN, RELAYED, A_MAPPED, "198.51.100.9:1");
    let id = session.id();
    let request = MessageBuilder::new(Class::Request, Method::CREATE_PERMISSION, id)
        .xor_address(AttributeType::XOR_PEER_ADDRESS, address(B_MAPPED))
        .text(AttributeType::USERNAME, "1700:alice");
    session.datagram(Vantage::A, Direction::Out, A, STUN, &request.build(), None);
    let answer = MessageBuilder::new(Class::Error, Method::CREATE_PERMISSION, id).error(403, "Forbidden").build();
    session.datagram(Vantage::A, Direction::In, A, STUN, &answer, None);
}

/// Permissions that the relay refused are no cause of a session that broke because the peer was killed.
#[test]
fn what_the_relay_refused_for_a_peer_that_was_killed_stands_behind_that() {
    let look = |killed: bool| {
        let mut session = kept_open();
        refuse_permission(&mut session);
        silent(&mut session, Vantage::A);
        session.wait(Duration::from_secs(12));
        if killed {
            signaling(&mut session, Vantage::A, SignalingState::PeerLeft);
        }
        interrupted(&mut session, Vantage::A);
        harmful(&Report::from_events(&session.events))
    };
    assert_eq!(look(true), ["WR705 B"]);
    assert!(look(false).contains(&"WR403 the relay".to_owned()), "{:?}", look(false));
}

/// Without a path it may be what the relay refused that kept the peers apart until one gave up; only what it refused
/// when that one had left is not.
#[test]
fn what_the_relay_refused_stays_a_cause_where_there_never_was_a_path() {
    let look = |left_first: bool| {
        let mut session = crate::report::failed(Fate::LostOnTheWay, Fate::LostOnTheWay);
        session.events.retain(|event| !matches!(event.kind, EventKind::RecordingEnded { .. }));
        if left_first {
            signaling(&mut session, Vantage::A, SignalingState::PeerLeft);
        }
        refuse_permission(&mut session);
        if !left_first {
            signaling(&mut session, Vantage::A, SignalingState::PeerLeft);
        }
        session.end(Vantage::A, EndReason::PeerLeft);
        harmful(&Report::from_events(&session.events))
    };
    let (before, after) = (look(false), look(true));
    assert!(before.contains(&"WR403 the relay".to_owned()), "{before:?}");
    assert!(after.contains(&"WR705 B".to_owned()) && !after.contains(&"WR403 the relay".to_owned()), "{after:?}");
}

/// A description; A is the side that offers.
fn describe(session: &mut Session, side: Side, generation: u32) {
    let (description, setup) = if side == Side::Local { ("offer", "actpass") } else { ("answer", "active") };
    let kind = EventKind::Description {
        side,
        description: description.into(),
        ufrag: format!("{description}{generation}"),
        setup: setup.into(),
        fingerprint: "sha-256 AB:CD".into(),
        ice_options: vec!["trickle".into()],
        generation,
    };
    session.push(Vantage::A, kind);
}

/// Restarts that are not answered while signaling is away are all answered when it is back. After one that was answered
/// a description that is refused is the peer's.
#[test]
fn what_a_sides_own_restarts_lead_to_is_no_fault_of_the_peers_messages() {
    let blamed = |restarts: u32, answered: bool| {
        let mut session = crate::report::failed(Fate::LostOnTheWay, Fate::LostOnTheWay);
        for generation in 1..=restarts {
            restarted(&mut session, Vantage::A, generation);
            // Once more, as after a reconnection: that is no generation of its own.
            describe(&mut session, Side::Local, generation);
            describe(&mut session, Side::Local, generation);
            if answered {
                describe(&mut session, Side::Remote, generation);
            }
        }
        // The answers, of which the first was taken.
        describe(&mut session, Side::Remote, restarts + 1);
        let (message, detail) = ("description".to_owned(), "it is refused".to_owned());
        session.push(Vantage::A, EventKind::SignalRefused { message, detail, ours: false });
        harmful(&Report::from_events(&session.events)).iter().any(|found| found == "WR704 B")
    };
    assert!(blamed(0, false) && blamed(1, false) && !blamed(2, false));
    assert!(blamed(2, true), "each was answered");
}

/// What signaling does not take the peer never gets; it is neither's fault, and no message of the peer's.
#[test]
fn a_message_that_signaling_does_not_take_is_signalings_fault() {
    let look = |message: &str| {
        let mut session = crate::report::failed(Fate::LostOnTheWay, Fate::LostOnTheWay);
        let (message, detail) = (message.to_owned(), "64 messages wait for the server".to_owned());
        session.push(Vantage::A, EventKind::SignalRefused { message, detail, ours: true });
        Report::from_events(&session.events)
    };
    let report = look("offer");
    let found = report.findings.iter().find(|finding| finding.code == "WR701").expect("it is told");
    assert_eq!((found.blame.name(), found.severity), ("signaling", Severity::Error));
    assert_eq!(found.summary, "signaling did not take the offer of A: 64 messages wait for the server");
    assert!(!harmful(&report).contains(&"WR704 B".to_owned()), "{:#?}", report.findings);
    // The account can do without the peer's recording.
    assert!(!harmful(&look("recording")).contains(&"WR701 signaling".to_owned()));
}

#[test]
fn a_peer_whose_absence_signaling_finds_a_little_later_vanished_too() {
    let mut session = kept_open();
    silent(&mut session, Vantage::A);
    session.wait(Duration::from_secs(12));
    signaling(&mut session, Vantage::A, SignalingState::PeerLeft);
    interrupted(&mut session, Vantage::A);
    assert_eq!(harmful(&Report::from_events(&session.events)), ["WR705 B"]);
}

#[test]
fn a_peer_whose_port_is_closed_vanished() {
    let ended = |remote: &str, icmp_code| {
        let mut session = kept_open();
        session.push(
            Vantage::A,
            EventKind::IcmpError {
                local: address(A),
                remote: address(remote),
                offender: None,
                icmp_type: 3,
                icmp_code,
                errno: 111,
            },
        );
        silent(&mut session, Vantage::A);
        interrupted(&mut session, Vantage::A);
        harmful(&Report::from_events(&session.events))
    };
    assert_eq!(ended(B_MAPPED, 3), ["WR705 B"]);
    // Another error, and another address.
    for other in [ended(B_MAPPED, 1), ended("198.51.100.77:9", 3)] {
        assert!(!other.contains(&"WR705 B".to_owned()), "{other:?}");
    }
}

#[test]
fn a_path_that_falls_silent_while_the_peer_is_there_lost_its_consent() {
    let mut cut = kept_open();
    silent(&mut cut, Vantage::A);
    interrupted(&mut cut, Vantage::A);
    // A peer that leaves long after the silence is not what broke the path.
    let mut left_later = kept_open();
    silent(&mut left_later, Vantage::A);
    left_later.wait(Duration::from_secs(40));
    signaling(&mut left_later, Vantage::A, SignalingState::PeerLeft);
    interrupted(&mut left_later, Vantage::A);
    // Whoever was told to end because of it did not vanish.
    let mut told = kept_open();
    silent(&mut told, Vantage::A);
    silent(&mut told, Vantage::B);
    interrupted(&mut told, Vantage::A);
    signaling(&mut told, Vantage::B, SignalingState::PeerLeft);
    told.close(Vantage::B);
    told.end(Vantage::B, EndReason::PeerLeft);
    for (name, session) in [("cut", cut), ("left later", left_later), ("told to end", told)] {
        let report = Report::from_events(&session.events);
        assert_eq!(report.path, Path::Failed, "{name}");
        assert!(harmful(&report).iter().all(|found| found == "WR506 the path"), "{name}: {:?}", harmful(&report));
        assert!(!harmful(&report).is_empty(), "{name}");
    }
}

#[test]
fn a_silence_that_has_just_begun_is_a_doubt() {
    let mut session = kept_open();
    silent(&mut session, Vantage::A);
    session.end(Vantage::A, EndReason::Interrupted);
    let report = Report::from_events(&session.events);
    assert_eq!((report.path, harmful(&report)), (Path::Direct, vec![]));
    assert!(flat(&report).contains("A the path fell silent at"), "{}", flat(&report));
}

#[test]
fn a_path_that_came_back_is_direct_and_the_break_is_told() {
    let mut session = kept_open();
    session.wait(Duration::from_secs(10));
    silent(&mut session, Vantage::B);
    restarted(&mut session, Vantage::B, 1);
    session.wait(Duration::from_secs(2));
    ice(&mut session, Vantage::B, IceState::Checking, IceState::Connected, IceStateReason::PairSucceeded);
    interrupted(&mut session, Vantage::B);
    session.end(Vantage::A, EndReason::Finished);
    let report = Report::from_events(&session.events);
    assert_eq!((report.path, harmful(&report)), (Path::Direct, vec![]));
    let text = flat(&report);
    assert!(text.contains("ICE restarted once; a path again after 2.00 s"), "{text}");
    // And where nothing broke, nothing is said.
    assert!(!flat(&Report::from_events(&direct().events)).contains("Breaks of the path"));
}

/// Direct until both sides restart ICE; what becomes of A's and of B's direct checks after that; then relayed. `by_both`:
/// whether B took part in the restart.
fn relayed_since(a: Fate, b: Fate, transmissions: u32, by_both: bool) -> Report {
    let mut session = kept_open();
    session.allocate(Vantage::A, A, STUN, RELAYED, "203.0.113.1:40000", B_MAPPED);
    session.wait(Duration::from_secs(10));
    for (vantage, ufrag) in [(Vantage::A, "aaaa"), (Vantage::B, "bbbb")] {
        silent(&mut session, vantage);
        if vantage == Vantage::B && !by_both {
            continue;
        }
        restarted(&mut session, vantage, 1);
        let description = EventKind::Description {
            side: Side::Local,
            description: "offer".into(),
            ufrag: ufrag.into(),
            setup: "actpass".into(),
            fingerprint: "sha-256 AB:CD".into(),
            ice_options: vec![],
            generation: 1,
        };
        session.push(vantage, description);
    }
    session.check(Check { transmissions, ..a_checks(a) });
    session.check(Check { transmissions, ..b_checks(b) });
    session.relayed_check(Vantage::A, A, STUN, RELAYED, (B, B_MAPPED), true);
    session.select(Vantage::A, RELAYED, B_MAPPED);
    session.select(Vantage::B, B, RELAYED);
    session.end(Vantage::A, EndReason::Finished);
    session.end(Vantage::B, EndReason::Finished);
    Report::from_events(&session.events)
}

#[test]
fn what_is_lost_after_a_break_is_found_as_it_is_from_the_start() {
    for (a, b, found) in [
        (Fate::LostOnTheWay, Fate::LostOnTheWay, "WR501 the path"),
        (Fate::AnswerLost, Fate::LostOnTheWay, "WR501 the path"),
        (Fate::AnswerLost, Fate::AnswerLost, "WR503 the path"),
    ] {
        let report = relayed_since(a, b, 7, true);
        assert_eq!(report.path, Path::Relayed);
        assert_eq!(harmful(&report).first().map(String::as_str), Some(found), "{a:?} {b:?}: {:?}", harmful(&report));
        let words = "A and B talked directly, until the path broke 10.";
        assert!(report.reason.starts_with(words), "{}", report.reason);
        assert!(report.reason.contains("since then: "), "{}", report.reason);
        let text = flat(&report);
        assert!(!text.contains("should allow"), "{text}");
        assert!(text.contains("X never reached B") || text.contains("answer seen 0"), "{text}");
    }
}

#[test]
fn what_works_after_a_break_or_tells_too_little_is_not_called_lost() {
    // Answered all the same; a few on their way when it ended; a side that was not there any more.
    for (fate, transmissions, by_both) in
        [(Fate::Answered, 7, true), (Fate::LostOnTheWay, 2, true), (Fate::LostOnTheWay, 7, false)]
    {
        let report = relayed_since(fate, fate, transmissions, by_both);
        let lost = harmful(&report).into_iter().any(|found| found.starts_with("WR50"));
        assert!(!lost, "{fate:?} {transmissions} {by_both}: {:?}", harmful(&report));
        assert!(!flat(&report).contains("should allow"), "{}", flat(&report));
    }
}

#[test]
fn a_recording_that_ends_before_anything_was_decided_is_not_called_failed() {
    let session = Session::new();
    let events: Vec<Event> = session.of(Vantage::A);
    let mut report = Report::from_events(&events);
    report.ends_early(&events);
    assert_eq!((report.heading, report.decided), ("UNDECIDED", false));
    assert!(render_text(&report, &TextOptions::default()).starts_with("UNDECIDED\n"));
    assert!(!render_html(&report).contains("FAILED"));
    assert!(report.reason.contains("A's recording ends early, "), "{}", report.reason);
}

#[test]
fn a_direct_session_whose_recording_was_cut_is_direct_so_far() {
    let session = kept_open();
    let mut report = Report::from_events(&session.events);
    report.ends_early(&session.events);
    assert_eq!(report.heading, "DIRECT");
    for name in ["A", "B"] {
        assert!(report.reason.contains(&format!("{name}'s recording ends early, ")), "{}", report.reason);
    }
    let whole = direct();
    let mut report = Report::from_events(&whole.events);
    report.ends_early(&whole.events);
    assert!(!report.reason.contains("ends early"), "{}", report.reason);
}

#[test]
fn a_signaling_server_that_was_lost_while_waiting_is_not_the_peers_fault() {
    let waiting = |lost: &[SignalingState]| {
        let mut session = Session::new();
        session.events.retain(|event| !matches!(&event.kind, EventKind::Description { side: Side::Remote, .. }));
        session.events.retain(|event| event.vantage == Vantage::A);
        signaling(&mut session, Vantage::A, SignalingState::Connected { by: "websocket".into(), seen_as: None });
        for state in lost {
            signaling(&mut session, Vantage::A, state.clone());
        }
        session.end(Vantage::A, EndReason::TimeLimit);
        harmful(&Report::from_events(&session.events))
    };
    let lost = SignalingState::Lost { detail: "Connection refused (os error 111)".into() };
    assert_eq!(waiting(std::slice::from_ref(&lost)), ["WR701 signaling"]);
    // Back again, it is the peer that is waited for.
    assert_eq!(waiting(&[lost, SignalingState::Connected { by: "websocket".into(), seen_as: None }]), ["WR702 B"]);
}

#[test]
fn an_interface_that_was_to_be_left_out_and_is_not_there_is_told() {
    let mut session = direct();
    let interface = |name: &str, used| EventKind::Interface { name: name.into(), index: 0, addresses: vec![], used };
    session.push(Vantage::A, interface("eth0", InterfaceUse::Used));
    session.push(Vantage::A, interface("eht1", InterfaceUse::Absent));
    let text = flat(&Report::from_events(&session.events));
    let words = "the session without eht1 on A (--exclude-interface): A has no interface of that name; it has eth0";
    assert!(text.contains(words), "{text}");
}

#[test]
fn the_relay_of_a_peer_whose_recording_did_not_come_is_named_where_its_machine_says_so() {
    const GONE: &str = "The path went through the relay at 192.0.2.10:60000, which is gone: its host says that nothing listens there any more";
    for (offender, expected) in [("192.0.2.10", Some(GONE)), ("203.0.113.1", None)] {
        let mut session = relayed();
        session.relayed_check(Vantage::A, A, STUN, RELAYED, (B, B_MAPPED), true);
        session.select(Vantage::A, RELAYED, B_MAPPED);
        session.select(Vantage::B, B, RELAYED);
        ice(&mut session, Vantage::B, IceState::Completed, IceState::Failed, IceStateReason::ConsentExpired);
        session.push(
            Vantage::B,
            EventKind::IcmpError {
                local: address(B),
                remote: address(RELAYED),
                offender: offender.parse().ok(),
                icmp_type: 3,
                icmp_code: 3,
                errno: 111,
            },
        );
        session.end(Vantage::B, EndReason::Interrupted);
        session.events = session.of(Vantage::B);
        let gone: Vec<_> = said(&session, "WR411").into_iter().map(|(_, summary)| summary).collect();
        assert_eq!(gone.first().map(String::as_str), expected, "{offender}");
        assert_eq!(said(&session, "WR506").is_empty(), expected.is_some(), "{offender}");
    }
}

/// Throughput that was asked for and did not come about is told, once for each direction.
#[test]
fn throughput_that_was_not_measured_is_told_once_with_its_reason() {
    let look = |known: bool| {
        let mut session = kept_open();
        for vantage in [Vantage::A, Vantage::B] {
            for what in ["throughput to the other side", "throughput from the other side"] {
                let why = format!("why {} knows", vantage.name());
                session.push(vantage, EventKind::NotMeasured { what: what.into(), why });
            }
        }
        // What this side looked at beside the session has its own place.
        session.push(Vantage::A, EventKind::NotMeasured { what: "mapping".into(), why: "no server".into() });
        if known {
            let (direction, bytes, took_us) = (Direction::In, 1000, 1000);
            session.push(Vantage::B, EventKind::Throughput { direction, bytes, took_us });
        }
        interrupted(&mut session, Vantage::A);
        let missing = Report::from_events(&session.events).not_measured;
        missing
            .into_iter()
            .filter(|missing| missing.codes.is_empty() && missing.what.contains("throughput"))
            .map(|missing| format!("{}: {}", missing.what, missing.why))
            .collect::<Vec<_>>()
    };
    assert_eq!(look(false), ["throughput from A to B: why A knows", "throughput from B to A: why A knows"]);
    assert_eq!(look(true), ["throughput from B to A: why A knows"], "B says what it got of A");
}

/// An interface that was down for a time: what could not be sent then is no route's fault, though it is up again. What
/// could not be sent before it went down, or for another reason, is no effect of that.
#[test]
fn a_link_that_came_back_is_why_sends_failed_and_no_route() {
    let told = |session: &mut Session, moment: Moment, works: bool| {
        let link = Link {
            device: "eth0".into(),
            index: 2,
            link_kind: None,
            loopback: false,
            up: works,
            running: works,
            mtu: 1500,
            mac: None,
            master: None,
            vrf_table: None,
        };
        session.push(Vantage::A, EventKind::HostFact { moment, fact: Box::new(HostFact::Link(link)) });
    };
    let flapped = |fate: Fate, is_after: bool| {
        let mut session = easy_nats();
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        let checks = |session: &mut Session| session.check(Check { transmissions: 7, ..a_checks(fate) });
        if !is_after {
            checks(&mut session);
        }
        told(&mut session, Moment::During, false);
        if is_after {
            checks(&mut session);
        }
        session.check(Check { transmissions: 7, ..b_checks(Fate::LostOnTheWay) });
        told(&mut session, Moment::After, true);
        session.fail(Vantage::A);
        session.fail(Vantage::B);
        let findings = Report::from_events(&session.events).findings;
        let found = findings.iter().find(|found| found.code == "WR131").expect("it is told");
        assert!(found.summary.contains("eth0 was down from"), "{}", found.summary);
        assert_eq!(found.blame.name(), "A");
        (found.severity, findings.iter().any(|found| found.code == "WR104"))
    };
    assert_eq!(flapped(Fate::SendRefused(101), true), (Severity::Error, false));
    assert_eq!(flapped(Fate::SendRefused(101), false), (Severity::Info, true), "it failed before");
    assert_eq!(flapped(Fate::SendRefused(1), true).0, Severity::Info, "a firewall refused it");
    // One during which nothing failed to leave is told, and is no cause.
    assert_eq!(flapped(Fate::LostOnTheWay, true), (Severity::Info, false));
}
