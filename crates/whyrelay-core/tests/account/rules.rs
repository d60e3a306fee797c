//! Each rule fires on what it is about, and stays quiet where its cause is explained or absent.

use whyrelay_core::diagnosis::evidence::Evidence;
use whyrelay_core::host::{HostFact, Probe, ProbeAim, ProbeOutcome, RoutePurpose};
use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::report::{Expected, Report};
use whyrelay_core::trace::event::{
    DtlsState, EndReason, Event, EventKind, IceState, IceStateReason, InterfaceUse, RefuseReason, ServerFailure,
    SessionOptions, Side, SignalingState, Transport, Vantage,
};
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::integrity::{Integrity, Key};
use whyrelay_core::wire::stun::{Class, MessageBuilder, Method};
use whyrelay_core::wire::turn::{ChannelData, ChannelNumber};

use whyrelay_core::trace::event::Direction;

use crate::builder::{Check, Fate, Session, address};
use crate::cases::facts::{UPLINK, Way};
use crate::report::{
    A, A_MAPPED, B, B_MAPPED, RELAYED, STUN, a_checks, b_checks, behind_nats, direct, failed, finish_relayed, relayed,
};

/// Codes with severity other than info, and blames, in order.
fn findings(session: &Session) -> Vec<String> {
    let report = Report::from_events(&session.events);
    let harmful = report.findings.iter().filter(|finding| finding.severity.name() != "info");
    harmful.map(|finding| format!("{} {}", finding.code, finding.blame.name())).collect()
}

fn summary(session: &Session, code: &str) -> String {
    let report = Report::from_events(&session.events);
    let finding = report.findings.iter().find(|finding| finding.code == code);
    finding.map_or_else(|| format!("no {code}"), |finding| finding.summary.clone())
}

fn server_failed(session: &mut Session, method: &str, server: &str, failure: ServerFailure) {
    let kind = EventKind::ServerFailed { server: server.into(), local: None, method: method.into(), failure };
    session.push(Vantage::A, kind);
}

/// A failed session without relay always says that there was none; what comes before it is the cause.
const NO_RELAY: &str = "WR802 both sides";

#[test]
fn a_healthy_direct_session_has_neither_errors_nor_warnings() {
    assert_eq!(findings(&direct()), Vec::<String>::new());
    let report = Report::from_events(&direct().events);
    assert_eq!(report.findings, []);
    assert_eq!(report.expected, Expected::Direct);
}

#[test]
fn what_did_no_harm_to_a_direct_session_is_only_information() {
    let mut session = behind_nats();
    session.stun(Vantage::A, A, "192.0.2.11:3478", None);
    server_failed(&mut session, "Allocate", "turn:192.0.2.10", ServerFailure::NoCredentials);
    for event in direct().events.iter().skip(session.events.len()) {
        session.push(event.vantage, event.kind.clone());
    }
    session.check(Check { nominate: true, ..a_checks(Fate::Answered) });
    session.select(Vantage::A, A, B_MAPPED);
    session.select(Vantage::B, B, A_MAPPED);
    assert_eq!(findings(&session), Vec::<String>::new());
    let codes: Vec<_> = Report::from_events(&session.events).findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["WR301", "WR406"]);
}

#[test]
fn a_chain_that_breaks_says_where_and_on_which_side() {
    for (a, b, expected) in [
        (Fate::LostOnTheWay, Fate::LostOnTheWay, "WR501 the path"),
        (Fate::Ignored, Fate::Ignored, "WR502 B"),
        (Fate::AnswerLost, Fate::AnswerLost, "WR503 the path"),
        (Fate::Error(400), Fate::Error(400), "WR509 B"),
        (Fate::SendRefused(1), Fate::LostOnTheWay, "WR103 A"),
    ] {
        let found = findings(&failed(a, b));
        assert_eq!(found.first().map(String::as_str), Some(expected), "{a:?} {b:?}: {found:?}");
        assert_eq!(found.last().map(String::as_str), Some(NO_RELAY), "{a:?} {b:?}: {found:?}");
    }
}

#[test]
fn checks_that_come_when_the_agent_has_closed_are_not_held_against_it() {
    // How many checks of A come before B closes.
    for (before, expected) in [(0, &[NO_RELAY] as &[&str]), (1, &["WR502 B", NO_RELAY])] {
        let mut session = behind_nats();
        for number in 0..3 {
            if number == before {
                session.close(Vantage::B);
            }
            session.check(a_checks(Fate::Ignored));
        }
        session.fail(Vantage::A);
        session.end(Vantage::B, EndReason::Failed);
        let found = findings(&session);
        assert_eq!(found, expected, "{before} came before");
        let seen = Report::from_events(&session.events).pairs[0].a_to_b.seen.as_ref().map(|seen| seen.checks);
        assert_eq!(seen, Some(3), "they arrived all the same");
        // The same from B's recording alone.
        session.events = session.of(Vantage::B);
        assert_eq!(findings(&session).contains(&"WR502 B".to_owned()), before > 0);
    }
}

#[test]
fn the_last_hop_is_one_at_which_the_ttl_ran_out() {
    let icmp = |offender: &str, icmp_type| ProbeOutcome::Icmp {
        offender: Some(offender.parse().expect("an address")),
        icmp_type,
        icmp_code: 0,
        mtu: None,
    };
    for (hops, last) in [
        ([("10.0.0.2", 11), ("10.0.0.5", 3)], "10.0.0.2"),
        ([("2001:db8::2", 3), ("2001:db8::5", 1)], "2001:db8::2"),
        ([("2001:db8::2", 3), ("2001:db8::5", 11)], "2001:db8::2"),
    ] {
        let mut session = failed(Fate::LostOnTheWay, Fate::LostOnTheWay);
        for (ttl, (offender, icmp_type)) in (2..).zip(hops) {
            let (local, remote, result) = (address(A), address(B_MAPPED), icmp(offender, icmp_type));
            let probe = Probe { aim: ProbeAim::TimeToLive { ttl }, local, remote, transmissions: 1, result };
            session.fact(Vantage::A, HostFact::Probe(probe));
        }
        let said = summary(&session, "WR501");
        assert!(said.contains(&format!("the last hop that answers is number 2, {last}, ")), "{said}");
    }
}

#[test]
fn a_probe_that_is_no_plain_programs_is_not_named_as_one() {
    let by_tunnel = Way { device: "wg0", gateway: None, table: 200, rule: Some(110) };
    // The mark of the plain program's sockets, and that of the probe's which goes elsewhere.
    for (plain, probe, is_found) in [(0, 0, true), (0, 7, false), (7, 0, false)] {
        let mut session = direct();
        session.application(Some(0x1BD00), true);
        session.profile(true, 0x1BD00);
        session.profile(false, plain);
        session.tally(true, 2);
        session.tally(false, 0);
        session.route(RoutePurpose::Peer, B_MAPPED, 0x1BD00, Ok(UPLINK));
        session.probe_route(RoutePurpose::Peer, B_MAPPED, probe, Ok(by_tunnel));
        let found = Report::from_events(&session.events).findings;
        assert_eq!(found.iter().any(|finding| finding.code == "WR128"), is_found, "{plain} {probe}");
    }
}

#[test]
fn damaged_answers_are_counted_on_when_their_list_is_full() {
    let mut session = Session::new();
    let id = session.id();
    let request = MessageBuilder::new(Class::Request, Method::BINDING, id).build();
    session.datagram(Vantage::A, Direction::Out, A, STUN, &request, None);
    let answer = MessageBuilder::new(Class::Success, Method::BINDING, id)
        .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address(A))
        .build();
    let server = |port: u32| format!("192.0.2.10:{port}");
    // One server more than fits, and the first one again.
    for port in (3478..13_479).chain([3478]) {
        session.datagram(Vantage::A, Direction::In, A, &server(port), &answer, Some(Integrity::Invalid));
    }
    let mut evidence = Evidence::default();
    session.events.iter().for_each(|event| evidence.apply(event));
    let damaged = &evidence.side(Vantage::A).damaged;
    assert_eq!((damaged.len(), damaged[&(address(A), address(STUN))].count), (10_000, 2));
}

#[test]
fn without_the_other_recording_the_place_is_not_claimed() {
    let mut session = failed(Fate::LostOnTheWay, Fate::LostOnTheWay);
    session.events = session.of(Vantage::A);
    assert_eq!(findings(&session), ["WR505 the path", NO_RELAY]);
    assert_eq!(summary(&session, "WR505"), format!("Checks of A to {B_MAPPED} are not answered"));
    let report = Report::from_events(&session.events);
    let chain = &report.pairs[0].a_to_b;
    assert_eq!((chain.seen.as_ref(), chain.answered, chain.answer_seen), (None, None, Some(0)));
    assert!(report.not_measured.iter().any(|missing| missing.what.starts_with("what B saw")));
}

#[test]
fn a_mapping_that_depends_on_the_destination_is_the_root_cause() {
    let mut session = relayed();
    session.stun(Vantage::A, A, "192.0.2.11:3478", Some("203.0.113.1:61234"));
    finish_relayed(&mut session);
    assert_eq!(findings(&session), ["WR201 A"]);
    assert_eq!(
        summary(&session, "WR201"),
        format!("The NAT of A maps {A} to {A_MAPPED} towards {STUN} and to 203.0.113.1:61234 towards 192.0.2.11:3478")
    );
    // However B's NAT maps: it let none of A's checks in.
    assert_eq!(Report::from_events(&session.events).expected, Expected::Relayed);

    let mut session = relayed();
    session.stun(Vantage::A, A, "192.0.2.11:3478", Some("203.0.113.1:61234"));
    session.stun(Vantage::B, B, "192.0.2.11:3478", Some("198.51.100.2:61235"));
    finish_relayed(&mut session);
    assert_eq!(findings(&session), ["WR201 A", "WR201 B"]);
    assert_eq!(Report::from_events(&session.events).expected, Expected::Relayed);
}

#[test]
fn the_same_mapping_everywhere_is_clear_and_one_server_is_inconclusive() {
    let mut session = relayed();
    finish_relayed(&mut session);
    let not_measured = |session: &Session| {
        let report = Report::from_events(&session.events);
        let missing = report.not_measured.into_iter().find(|missing| missing.why.starts_with("what two servers"));
        missing.filter(|missing| missing.what.contains("endpoint-dependent-mapping")).map(|missing| missing.why)
    };
    let of = |sides: &str| Some(format!("what two servers at different addresses tell one socket of {sides}"));
    assert_eq!(not_measured(&session), of("A and B"));
    // Of the one side it is known then, and not of the other.
    session.stun(Vantage::A, A, "192.0.2.11:3478", Some(A_MAPPED));
    assert_eq!(not_measured(&session), of("B"));
    session.stun(Vantage::B, B, "192.0.2.11:3478", Some(B_MAPPED));
    assert_eq!(not_measured(&session), None);
    assert_eq!(findings(&session), ["WR501 the path"]);
}

#[test]
fn the_peer_sees_a_port_that_was_never_advertised() {
    let mut session = relayed();
    session.check(Check { seen_from: "203.0.113.1:62014", ..a_checks(Fate::AnswerLost) });
    finish_relayed(&mut session);
    assert_eq!(findings(&session).first().map(String::as_str), Some("WR504 A"));
    assert_eq!(
        summary(&session, "WR504"),
        format!("A advertised {A_MAPPED}, and B saw its checks come from 203.0.113.1:62014")
    );
}

#[test]
fn udp_is_blocked_when_only_streams_are_answered() {
    let mut session = Session::new();
    session.candidate(Vantage::A, CandidateType::Host, A, A, None);
    session.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
    session.stun(Vantage::A, A, STUN, None);
    session.check(Check { transmissions: 7, ..a_checks(Fate::LostOnTheWay) });
    let silent = findings(&session);
    assert!(silent.contains(&"WR301 the path".to_owned()), "{silent:?}");

    let id = session.id();
    let request = MessageBuilder::new(Class::Request, Method::ALLOCATE, id).build();
    let answer = MessageBuilder::new(Class::Success, Method::ALLOCATE, id)
        .xor_address(AttributeType::XOR_RELAYED_ADDRESS, address(RELAYED))
        .build();
    for (direction, bytes) in [(Direction::Out, request), (Direction::In, answer)] {
        let datagram = whyrelay_core::trace::event::Datagram {
            direction,
            transport: Transport::Tls,
            local: address(A),
            remote: address("192.0.2.10:443"),
            interface: None,
            length: 20,
            data: bytes,
            integrity: None,
        };
        session.push(Vantage::A, EventKind::Datagram(datagram));
    }
    let blocked = findings(&session);
    assert_eq!(blocked.first().map(String::as_str), Some("WR302 A"), "{blocked:?}");
    assert!(!blocked.iter().any(|finding| finding.starts_with("WR301") || finding.starts_with("WR501")), "{blocked:?}");
    assert!(summary(&session, "WR302").ends_with("answers over TLS"), "{}", summary(&session, "WR302"));

    let (icmp_type, icmp_code, errno) = (3, 13, 113);
    // What a VPN's address met, which no server was heard from, is not told of this one.
    let (local, remote, offender) = (address("10.8.0.2:7"), address(STUN), "10.8.0.1".parse().ok());
    session.push(Vantage::A, EventKind::IcmpError { local, remote, offender, icmp_type, icmp_code, errno });
    assert!(summary(&session, "WR302").ends_with("answers over TLS"), "{}", summary(&session, "WR302"));
    let (local, offender) = (address(A), "10.0.0.1".parse().ok());
    session.push(Vantage::A, EventKind::IcmpError { local, remote, offender, icmp_type, icmp_code, errno });
    let refused = "; 10.0.0.1, on the way, refuses it (ICMP 3/13: administratively prohibited)";
    assert!(summary(&session, "WR302").ends_with(refused), "{}", summary(&session, "WR302"));
}

#[test]
fn the_first_401_is_normal_and_the_second_is_not() {
    let mut session = relayed();
    finish_relayed(&mut session);
    assert!(!findings(&session).iter().any(|finding| finding.starts_with("WR401")));

    let mut session = failed(Fate::LostOnTheWay, Fate::LostOnTheWay);
    let refused = ServerFailure::ErrorResponse { code: 401, reason: "Unauthorized".into(), expected: false };
    server_failed(&mut session, "Allocate", "turn:relay.example:3478", refused);
    assert_eq!(findings(&session), ["WR401 A", "WR501 the path"]);
}

#[test]
fn what_the_turn_client_tells_becomes_a_finding() {
    let timeout = ServerFailure::Timeout { transmissions: 7, took_us: 9_000_000 };
    let unresolved = ServerFailure::Unresolved { detail: "no such name".into() };
    for (failure, code) in [
        (timeout, "WR402 the relay"),
        (ServerFailure::ConnectionFailed { detail: "connection refused".into() }, "WR402 the relay"),
        (ServerFailure::NoCredentials, "WR406 A"),
        (unresolved, "WR303 A"),
    ] {
        let mut session = failed(Fate::LostOnTheWay, Fate::LostOnTheWay);
        server_failed(&mut session, "Allocate", "turn:relay.example:3478", failure);
        assert!(findings(&session).contains(&code.to_owned()), "{code}: {:?}", findings(&session));
    }
}

/// TLS goes over TCP: that UDP is blocked explains no certificate.
#[test]
fn a_certificate_is_refused_whether_or_not_udp_is_blocked() {
    let mut session = Session::new();
    session.candidate(Vantage::A, CandidateType::Host, A, A, None);
    session.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
    session.stun(Vantage::A, A, STUN, None);
    session.check(Check { transmissions: 7, ..a_checks(Fate::LostOnTheWay) });
    session.allocate_over_tls(Vantage::A, A, "192.0.2.10:443", RELAYED);
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    assert!(findings(&session).contains(&"WR302 A".to_owned()), "{:?}", findings(&session));
    let untrusted = ServerFailure::ConnectionFailed { detail: "invalid peer certificate: UnknownIssuer".into() };
    server_failed(&mut session, "Allocate", "turns:relay.example:5349", untrusted);
    for code in ["WR302 A", "WR409 the relay"] {
        assert!(findings(&session).contains(&code.to_owned()), "{code}: {:?}", findings(&session));
    }
}

/// This host's firewall is why the server says nothing over UDP, and not why its TCP port is closed.
#[test]
fn a_closed_tcp_port_is_told_by_itself_where_the_silence_of_its_server_is_explained() {
    for (dropped, detail, expected) in [
        (true, "connection refused", ["WR111", "WR402"].as_slice()),
        (true, "timed out", &["WR111"]),
        (false, "connection refused", &["WR301"]),
    ] {
        let mut session = Session::new();
        session.candidate(Vantage::A, CandidateType::Host, A, A, None);
        session.stun(Vantage::A, A, STUN, None);
        let failure = ServerFailure::ConnectionFailed { detail: detail.into() };
        server_failed(&mut session, "Allocate", "turn:192.0.2.10:3478?transport=tcp", failure);
        if dropped {
            session.arrived_packet("eth0", STUN, A);
        }
        session.fail(Vantage::A);
        session.fail(Vantage::B);
        let findings = Report::from_events(&session.events).findings;
        let codes =
            findings.iter().map(|finding| finding.code).filter(|code| ["WR111", "WR301", "WR402"].contains(code));
        assert_eq!(codes.collect::<Vec<_>>(), expected, "{dropped} {detail}: {findings:#?}");
    }
}

/// A tunnel's socket that leads nowhere says nothing about a server that answered another.
#[test]
fn a_turn_server_that_gave_a_relayed_address_is_not_called_unreachable() {
    const SERVER: &str = "turn:relay.example:3478";
    let timeout = ServerFailure::Timeout { transmissions: 5, took_us: 2_500_000 };
    for (gave, is_named) in [(SERVER, false), ("turn:other.example:3478", true)] {
        let mut session = failed(Fate::LostOnTheWay, Fate::LostOnTheWay);
        session.candidate(Vantage::A, CandidateType::Relayed, RELAYED, RELAYED, Some(gave));
        server_failed(&mut session, "Allocate", SERVER, timeout.clone());
        assert_eq!(findings(&session).contains(&"WR402 the relay".to_owned()), is_named, "{gave}");
    }
}

#[test]
fn a_relay_that_refuses_or_hides_is_named() {
    for (code, expected) in [(403, "WR403 the relay"), (486, "WR405 the relay")] {
        let mut session = behind_nats();
        let method = if code == 403 { Method::CREATE_PERMISSION } else { Method::ALLOCATE };
        if code == 403 {
            session.allocate(Vantage::A, A, STUN, RELAYED, A_MAPPED, "198.51.100.9:1");
        }
        let id = session.id();
        let request = MessageBuilder::new(Class::Request, method, id)
            .xor_address(AttributeType::XOR_PEER_ADDRESS, address(B_MAPPED))
            .text(AttributeType::USERNAME, "1700:alice")
            .build();
        session.datagram(Vantage::A, Direction::Out, A, STUN, &request, None);
        let answer = MessageBuilder::new(Class::Error, method, id).error(code, "no").build();
        session.datagram(Vantage::A, Direction::In, A, STUN, &answer, None);
        session.fail(Vantage::A);
        assert!(findings(&session).contains(&expected.to_owned()), "{code}: {:?}", findings(&session));
    }
    let mut session = behind_nats();
    session.allocate(Vantage::A, A, STUN, "10.9.9.9:60000", A_MAPPED, B_MAPPED);
    session.fail(Vantage::A);
    assert!(findings(&session).contains(&"WR404 the relay".to_owned()));
}

#[test]
fn relay_only_explains_a_relayed_session() {
    let mut session = Session::with_options(SessionOptions { relay_only: true, ..SessionOptions::default() });
    session.allocate(Vantage::A, A, STUN, RELAYED, A_MAPPED, B_MAPPED);
    session.candidate(Vantage::A, CandidateType::Relayed, RELAYED, RELAYED, None);
    finish_relayed(&mut session);
    let report = Report::from_events(&session.events);
    assert_eq!(findings(&session), ["WR801 both sides"]);
    assert_eq!(report.expected, Expected::Relayed);
    assert!(
        report.reason.ends_with("--relay-only was asked for on both sides, so no direct path was tried."),
        "{}",
        report.reason
    );
}

#[test]
fn signaling_faults_come_before_everything_else() {
    let mut session = Session::new();
    session.events.retain(|event| !matches!(&event.kind, EventKind::Description { side: Side::Remote, .. }));
    let state = SignalingState::Failed { detail: "connection refused".into() };
    session.push(Vantage::A, EventKind::Signaling { server: "http://192.0.2.1:8080".into(), state });
    session.end(Vantage::A, EndReason::Failed);
    assert_eq!(findings(&session), ["WR701 signaling"]);

    let mut session = Session::new();
    session.events.retain(|event| !matches!(&event.kind, EventKind::Description { side: Side::Remote, .. }));
    let state = SignalingState::Connected { by: "websocket".into(), seen_as: None };
    session.push(Vantage::B, EventKind::Signaling { server: "http://192.0.2.1:8080".into(), state });
    session.end(Vantage::B, EndReason::TimeLimit);
    assert_eq!(findings(&session), ["WR702 signaling"]);

    let mut session = Session::new();
    session.local_candidate(Vantage::B, CandidateType::Host, B, B, None);
    session.candidate(Vantage::A, CandidateType::Host, A, A, None);
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    assert_eq!(findings(&session), ["WR703 signaling"]);
    assert_eq!(summary(&session, "WR703"), "No candidate of B reached A: B had 1, and signaling did not carry them");

    let mut session = failed(Fate::LostOnTheWay, Fate::LostOnTheWay);
    session.push(
        Vantage::A,
        EventKind::SignalRefused { message: "offer".into(), detail: "no ice-ufrag".into(), ours: false },
    );
    let reason = RefuseReason::Malformed { detail: "the line ends".into() };
    session.push(Vantage::A, EventKind::RemoteCandidateRefused { line: "candidate:".into(), reason });
    assert_eq!(findings(&session)[0], "WR704 B");
}

#[test]
fn a_host_without_addresses_is_the_cause() {
    let mut session = Session::new();
    let interface = |name: &str, used| EventKind::Interface { name: name.into(), index: 1, addresses: vec![], used };
    session.push(Vantage::A, interface("eth0", InterfaceUse::Excluded));
    session.push(Vantage::A, EventKind::EndOfCandidates { side: Side::Local });
    session.fail(Vantage::A);
    assert!(findings(&session).contains(&"WR102 A".to_owned()), "{:?}", findings(&session));
    assert_eq!(summary(&session, "WR102"), "A has no candidate at all: the options exclude eth0");
}

#[test]
fn a_name_of_the_signaling_server_that_is_not_resolved_is_no_refused_connection() {
    for (server, named) in [
        ("http://signal.example:8080", &["WR303 A"][..]),
        ("https://Signal.Example", &["WR303 A"]),
        ("http://other.example:8080", &["WR701 signaling", "WR303 A"]),
    ] {
        let mut session = Session::new();
        session.events.retain(|event| !matches!(&event.kind, EventKind::Description { side: Side::Remote, .. }));
        let detail = "the resolver did not answer within 2.5 s".to_owned();
        let (name, error) = ("signal.example".to_owned(), Some(detail.clone()));
        session.push(Vantage::A, EventKind::NameResolved { name, addresses: Vec::new(), took_us: 2_500_000, error });
        let state = SignalingState::Failed { detail };
        session.push(Vantage::A, EventKind::Signaling { server: server.to_owned(), state });
        session.end(Vantage::A, EndReason::Failed);
        assert_eq!(findings(&session), named, "{server}");
    }
}

#[test]
fn a_path_that_breaks_later_is_failed_with_its_reason() {
    let connected = || {
        let mut session = behind_nats();
        session.check(Check { nominate: true, ..a_checks(Fate::Answered) });
        session.check(b_checks(Fate::Answered));
        session.select(Vantage::A, A, B_MAPPED);
        session.select(Vantage::B, B, A_MAPPED);
        session
    };
    let mut session = connected();
    let (from, to, reason) = (IceState::Disconnected, IceState::Failed, IceStateReason::ConsentExpired);
    session.push(Vantage::A, EventKind::IceStateChanged { from, to, reason });
    session.end(Vantage::A, EndReason::Failed);
    assert_eq!(findings(&session), ["WR506 the path"]);
    let report = Report::from_events(&session.events);
    assert!(report.reason.starts_with("A and B talked directly, until the path broke "), "{}", report.reason);

    session.end(Vantage::B, EndReason::PeerLeft);
    let found = Report::from_events(&session.events);
    assert_eq!(found.path, report.path);

    let mut session = connected();
    session.push(Vantage::A, EventKind::Dtls { state: DtlsState::FingerprintMismatch { found: "sha-256 00".into() } });
    session.end(Vantage::A, EndReason::Error);
    assert_eq!(findings(&session), ["WR601 signaling"]);

    let mut session = connected();
    session.push(Vantage::B, EventKind::Dtls { state: DtlsState::Failed { detail: "timed out".into() } });
    session.end(Vantage::B, EndReason::Failed);
    assert_eq!(findings(&session), ["WR602 the path"]);

    let mut session = connected();
    session.events.retain(|event| event.vantage == Vantage::A);
    session.end(Vantage::A, EndReason::PeerLeft);
    assert_eq!(findings(&session), Vec::<String>::new(), "it was direct until the peer left");
}

#[test]
fn private_addresses_in_other_networks_are_no_fault_of_the_path() {
    let mut session = Session::new();
    session.candidate(Vantage::A, CandidateType::Host, A, A, None);
    session.candidate(Vantage::B, CandidateType::Host, B, B, None);
    session.check(Check { remote: B, transmissions: 7, ..a_checks(Fate::LostOnTheWay) });
    session.check(Check { remote: A, transmissions: 7, ..b_checks(Fate::LostOnTheWay) });
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    assert_eq!(findings(&session), ["WR508 both sides", NO_RELAY]);
}

#[test]
fn the_address_of_a_relay_is_not_ones_own() {
    // The peer's machine runs the relay; a browser gives the relay's address as the base of its candidate.
    let mut session = direct();
    session.candidate(Vantage::A, CandidateType::Relayed, "198.51.100.9:61000", "198.51.100.9:61000", None);
    session.candidate(Vantage::B, CandidateType::Host, "198.51.100.9:50000", "198.51.100.9:50000", None);
    let report = Report::from_events(&session.events);
    assert!(report.findings.iter().all(|finding| finding.code != "WR127"), "{:?}", report.findings);
}

#[test]
fn a_relay_that_carries_nothing_is_named() {
    let mut session = relayed();
    let (id, local) = (session.id(), A);
    let check = MessageBuilder::new(Class::Request, Method::BINDING, id)
        .text(AttributeType::USERNAME, "bbbb:aaaa")
        .u32(AttributeType::PRIORITY, 1)
        .build();
    let inside =
        whyrelay_core::wire::turn::ChannelData::encode(whyrelay_core::wire::turn::ChannelNumber::FIRST, &check);
    session.datagram(Vantage::A, Direction::Out, local, STUN, &inside, None);
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    assert_eq!(findings(&session), ["WR501 the path", "WR407 the relay"]);
}

#[test]
fn the_ephemeral_port_of_a_tcp_connection_is_no_mapping() {
    let mut session = failed(Fate::LostOnTheWay, Fate::LostOnTheWay);
    for udp in [false, true] {
        let before = session.events.len();
        session.check(Check { seen_from: "203.0.113.1:62014", ..a_checks(Fate::Answered) });
        for event in session.events.iter_mut().skip(before) {
            let EventKind::Datagram(datagram) = &mut event.kind else { panic!("a check is datagrams only") };
            datagram.transport = if udp { Transport::Udp } else { Transport::Tcp };
        }
        let codes = findings(&session);
        assert_eq!(codes.contains(&"WR504 A".to_owned()), udp, "{codes:?}");
    }
}

/// Two addresses of a server, asked by two sides for STUN and for a relay over two transports: one server, one finding.
#[test]
fn a_dead_server_is_one_finding_that_lists_what_of_it_cannot_be_used() {
    let mut session = Session::new();
    for (vantage, local) in [(Vantage::A, A), (Vantage::B, B)] {
        session.candidate(vantage, CandidateType::Host, local, local, None);
        for server in [STUN, "192.0.2.11:3478"] {
            session.stun(vantage, local, server, None);
        }
        let timeout = ServerFailure::Timeout { transmissions: 5, took_us: 2_500_000 };
        let refused = ServerFailure::ConnectionFailed { detail: "timed out".into() };
        for (url, failure) in
            [("turn:192.0.2.10:3478", timeout), ("turn:192.0.2.10:3478?transport=tcp", refused.clone())]
        {
            let (server, method) = (url.to_owned(), "Allocate".to_owned());
            session.push(vantage, EventKind::ServerFailed { server, local: None, method, failure });
        }
        // Of another server that answers nothing, there is nothing to say but this.
        let (server, method) = ("turns:192.0.2.99:443".to_owned(), "Allocate".to_owned());
        session.push(vantage, EventKind::ServerFailed { server, local: None, method, failure: refused });
    }
    session.check(Check { transmissions: 7, ..a_checks(Fate::LostOnTheWay) });
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    let findings = Report::from_events(&session.events).findings;
    let of = |code: &str| findings.iter().filter(|finding| finding.code == code).collect::<Vec<_>>();
    let silent = of("WR301");
    assert_eq!(silent.len(), 1, "{findings:#?}");
    assert_eq!(
        silent[0].summary,
        "A and B asked 192.0.2.10:3478 and 192.0.2.11:3478 16 times over UDP and got no answer; nor can \
         turn:192.0.2.10:3478 (no answer to 5 requests) and turn:192.0.2.10:3478?transport=tcp (timed out) be used"
    );
    assert!([Vantage::A, Vantage::B].into_iter().all(|side| {
        let cited = |event: &&Event| silent[0].evidence.contains(&event.seq);
        session.events.iter().filter(cited).any(|event| event.vantage == side)
    }));
    let unreachable = of("WR402");
    assert_eq!(unreachable.len(), 1, "{findings:#?}");
    assert_eq!(unreachable[0].summary, "A and B cannot use turns:192.0.2.99:443 (timed out)");
    assert!(of("WR802").is_empty(), "{findings:#?}");
}

/// A check of B through A's relay, which A answers, and whose answer the relay drops.
fn dropped_by_the_relay(session: &mut Session) {
    let key = Key::short_term("password");
    let id = session.id();
    let request = MessageBuilder::new(Class::Request, Method::BINDING, id)
        .text(AttributeType::USERNAME, "aaaa:bbbb")
        .u32(AttributeType::PRIORITY, 16_777_215)
        .integrity(&key)
        .fingerprint()
        .build();
    let answer = MessageBuilder::new(Class::Success, Method::BINDING, id)
        .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address(B_MAPPED))
        .integrity(&key)
        .fingerprint()
        .build();
    let inside = |bytes: &[u8]| ChannelData::encode(ChannelNumber::FIRST, bytes);
    for _ in 0..3 {
        session.datagram(Vantage::B, Direction::Out, B, RELAYED, &request, None);
        session.datagram(Vantage::A, Direction::In, A, STUN, &inside(&request), Some(Integrity::Valid));
        session.datagram(Vantage::A, Direction::Out, A, STUN, &inside(&answer), None);
    }
}

#[test]
fn what_a_relay_drops_since_the_throughput_is_measured_is_no_fault_of_it() {
    let look = |measured: bool, since: bool| {
        let mut session = relayed();
        session.relayed_check(Vantage::A, A, STUN, RELAYED, (B, B_MAPPED), true);
        if !since {
            dropped_by_the_relay(&mut session);
            session.wait(std::time::Duration::from_millis(10));
        }
        session.select(Vantage::A, RELAYED, B_MAPPED);
        session.select(Vantage::B, B, RELAYED);
        if since {
            session.wait(std::time::Duration::from_millis(10));
            dropped_by_the_relay(&mut session);
        }
        if measured {
            let (direction, bytes, took_us) = (Direction::Out, 1_000_000, 5_000_000);
            session.push(Vantage::A, EventKind::Throughput { direction, bytes, took_us });
        }
        session.end(Vantage::A, EndReason::Finished);
        session.end(Vantage::B, EndReason::Finished);
        let report = Report::from_events(&session.events);
        let found = report.findings.into_iter().find(|finding| finding.code == "WR503");
        found.map(|finding| (finding.blame.name(), finding.severity.name(), finding.summary))
    };
    let Some((blame, severity, words)) = look(true, true) else { panic!("not found") };
    assert_eq!((blame, severity), ("the path", "info"), "{words}");
    assert!(words.contains("since the throughput is measured"), "{words}");
    for (measured, since) in [(false, true), (true, false)] {
        let found = look(measured, since);
        assert!(found.as_ref().is_some_and(|(blame, ..)| *blame == "the relay"), "{measured} {since}: {found:?}");
    }
}
