//! Cases of the families 2xx to 7xx: NATs, servers, checks, sizes, signaling.

use std::time::Duration;

use whyrelay_core::host::ProbeAim;
use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::trace::event::{
    Direction, DtlsState, EndReason, EventKind, IceState, IceStateReason, RefuseReason, ServerFailure, Side,
    SignalingState, Vantage,
};
use whyrelay_core::trace::measurement::{Measurement, PortMapperProtocol};
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::integrity::{Integrity, Key};
use whyrelay_core::wire::stun::{Class, MessageBuilder, Method};

use super::{Case, STUN_2, case, easy_nats, failing, lost};
use crate::builder::{Check, Fate, Session, address};
use crate::report::{A, A_MAPPED, B, B_MAPPED, RELAYED, STUN, a_checks, b_checks, behind_nats};

const LOST: Fate = Fate::LostOnTheWay;

fn measured(session: &mut Session, vantage: Vantage, fact: Measurement) {
    session.push(vantage, EventKind::Measured(fact));
}

/// Lost checks, and what one side measured.
pub(super) fn lost_and(vantage: Vantage, fact: Measurement) -> Session {
    lost(|session| measured(session, vantage, fact))
}

pub(super) fn server_failed(server: &str, failure: ServerFailure) -> Session {
    failing(LOST, LOST, |session| {
        let (server, method) = (server.to_owned(), "Allocate".to_owned());
        session.push(Vantage::A, EventKind::ServerFailed { server, local: None, method, failure });
    })
}

/// A request of A to the server over UDP with its error response.
fn refused(session: &mut Session, method: Method, username: &str, code: u16) {
    let id = session.id();
    let request = MessageBuilder::new(Class::Request, method, id)
        .xor_address(AttributeType::XOR_PEER_ADDRESS, address(B_MAPPED))
        .text(AttributeType::USERNAME, username)
        .integrity(&Key::short_term("x"));
    session.datagram(Vantage::A, Direction::Out, A, STUN, &request.build(), None);
    let answer = MessageBuilder::new(Class::Error, method, id).error(code, "no").build();
    session.datagram(Vantage::A, Direction::In, A, STUN, &answer, None);
}

/// A large DTLS record of A that B never sees.
fn large_record(session: &mut Session) {
    let mut record = vec![0; 1200];
    record[..3].copy_from_slice(&[22, 0xFE, 0xFD]);
    record[11..13].copy_from_slice(&1187_u16.to_be_bytes());
    session.datagram(Vantage::A, Direction::Out, A, B_MAPPED, &record, None);
}

fn failed_state(session: &mut Session, vantage: Vantage, reason: IceStateReason) {
    let (from, to) = (IceState::Checking, IceState::Failed);
    session.push(vantage, EventKind::IceStateChanged { from, to, reason });
}

pub(super) fn connected() -> Session {
    let mut session = easy_nats();
    session.check(Check { nominate: true, ..a_checks(Fate::Answered) });
    session.check(b_checks(Fate::Answered));
    session.select(Vantage::A, A, B_MAPPED);
    session.select(Vantage::B, B, A_MAPPED);
    session
}

/// A session without a path in which the server refused A one request.
pub(super) fn refused_with(method: Method, username: &str, code: u16) -> Session {
    let mut session = behind_nats();
    if method != Method::ALLOCATE {
        session.allocate(Vantage::A, A, STUN, RELAYED, A_MAPPED, "198.51.100.9:1");
    }
    refused(&mut session, method, username, code);
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    session
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = nat();
    cases.extend(servers());
    cases.extend(ice());
    cases.extend(channel_and_signaling());
    cases
}

/// A port of B's mapped address that no server told.
const B_OTHERWISE: &str = "198.51.100.2:61111";

/// A's request from the relay of one of its sockets to an address of B, which gets lost.
pub(crate) fn send_by_relay(session: &mut Session, socket: &str, to: &str) {
    let (id, outer) = (session.id(), session.id());
    let request = MessageBuilder::new(Class::Request, Method::BINDING, id)
        .text(AttributeType::USERNAME, "bbbb:aaaa")
        .u32(AttributeType::PRIORITY, 1)
        .build();
    let send = MessageBuilder::new(Class::Indication, Method::SEND, outer)
        .xor_address(AttributeType::XOR_PEER_ADDRESS, address(to))
        .attribute(AttributeType::DATA, &request);
    session.datagram(Vantage::A, Direction::Out, socket, STUN, &send.build(), None);
}

/// Only one server was asked, and A's relay sees B at another port than it. `prompted`: A had sent from there to the port
/// that the server told before; else that cannot have taken it.
pub(super) fn seen_by_relay(prompted: bool) -> Session {
    let mut session = behind_nats();
    session.allocate(Vantage::A, A, STUN, RELAYED, A_MAPPED, B_OTHERWISE);
    session.candidate(Vantage::A, CandidateType::Relayed, RELAYED, RELAYED, Some("turn:192.0.2.10:3478"));
    session.check(Check { transmissions: 7, ..a_checks(LOST) });
    session.check(Check { transmissions: 7, ..b_checks(LOST) });
    if prompted {
        send_by_relay(&mut session, A, B_MAPPED);
    }
    session.relayed_check(Vantage::B, A, STUN, RELAYED, (B, B_OTHERWISE), true);
    session.select(Vantage::A, RELAYED, B_OTHERWISE);
    session.select(Vantage::B, B, RELAYED);
    session.end(Vantage::A, EndReason::Finished);
    session.end(Vantage::B, EndReason::Finished);
    session
}

/// Only one server was asked, the NAT of A does not keep its port, and B sees another one than the server. `kept`: a
/// fresh port of A keeps its number.
pub(super) fn seen_by_peer(kept: bool) -> Session {
    let told = "203.0.113.1:61000";
    let mut session = Session::new();
    for (vantage, local, mapped) in [(Vantage::A, A, told), (Vantage::B, B, B_MAPPED)] {
        session.stun(vantage, local, STUN, Some(mapped));
        session.candidate(vantage, CandidateType::Host, local, local, None);
        session.candidate(vantage, CandidateType::ServerReflexive, mapped, local, None);
    }
    session.check(Check { seen_from: "203.0.113.1:62014", transmissions: 7, ..a_checks(Fate::AnswerLost) });
    session.check(Check { remote: told, transmissions: 7, ..b_checks(LOST) });
    let mapped = if kept { "203.0.113.1:41000" } else { "203.0.113.1:63333" };
    session.probe(ProbeAim::OtherPort, "192.168.1.2:41000", STUN, Some(mapped));
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    session
}

/// From relay to relay, inside of the server: what B sends to A's relayed port gets lost. `heard`: packets come to B from
/// there all the same.
pub(super) fn relay_to_relay(heard: bool) -> Session {
    let other = "192.0.2.10:60001";
    let mut session = easy_nats();
    session.allocate(Vantage::A, A, STUN, RELAYED, A_MAPPED, other);
    session.allocate(Vantage::B, B, STUN, other, B_MAPPED, RELAYED);
    for (vantage, relayed) in [(Vantage::A, RELAYED), (Vantage::B, other)] {
        session.candidate(vantage, CandidateType::Relayed, relayed, relayed, Some("turn:192.0.2.10:3478"));
    }
    session.check(Check { transmissions: 7, ..a_checks(LOST) });
    session.check(Check { transmissions: 7, ..b_checks(LOST) });
    session.check(Check { remote: other, transmissions: 7, ..a_checks(LOST) });
    session.check(Check { remote: RELAYED, transmissions: 7, ..b_checks(LOST) });
    if heard {
        let id = session.id();
        let request = MessageBuilder::new(Class::Request, Method::BINDING, id)
            .text(AttributeType::USERNAME, "bbbb:aaaa")
            .u32(AttributeType::PRIORITY, 1)
            .build();
        session.datagram(Vantage::B, Direction::In, B, RELAYED, &request, Some(Integrity::Valid));
        let answer = MessageBuilder::new(Class::Success, Method::BINDING, id)
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address(RELAYED));
        session.datagram(Vantage::B, Direction::Out, B, RELAYED, &answer.build(), None);
    }
    session.select(Vantage::A, RELAYED, other);
    session.select(Vantage::B, other, RELAYED);
    session.end(Vantage::A, EndReason::Finished);
    session.end(Vantage::B, EndReason::Finished);
    session
}

/// A path through A's relay breaks; `answers`: what the server says since.
pub(super) fn broken_relay(answers: Option<&str>) -> Session {
    let mut session = crate::report::relayed();
    session.relayed_check(Vantage::A, A, STUN, RELAYED, (B, B_MAPPED), true);
    session.select(Vantage::A, RELAYED, B_MAPPED);
    session.select(Vantage::B, B, RELAYED);
    failed_state(&mut session, Vantage::A, IceStateReason::ConsentExpired);
    failed_state(&mut session, Vantage::B, IceStateReason::ConsentExpired);
    session.stun(Vantage::A, A, STUN, answers);
    // Somebody ends it at A then, and B closes in good order: the path is gone all the same.
    for generation in 1..3 {
        session.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
        session.push(Vantage::B, EventKind::IceRestarted { generation, side: Side::Local });
    }
    session.end(Vantage::A, EndReason::Interrupted);
    session.end(Vantage::B, EndReason::Finished);
    session
}

fn nat() -> Vec<Case> {
    let one_dependent = |mapped: &str| {
        let mut session = crate::report::relayed();
        session.stun(Vantage::A, A, STUN_2, Some(mapped));
        session.stun(Vantage::B, B, STUN_2, Some(B_MAPPED));
        session
    };
    let mut shared = one_dependent("203.0.113.1:61234");
    for server in [STUN, STUN_2] {
        shared.stun(Vantage::A, "192.168.1.2:41000", server, Some("203.0.113.1:41000"));
    }
    let early = lost(|session| {
        session.check(Check { seen_from: "203.0.113.1:45595", ..a_checks(Fate::AnswerLost) });
    });
    let mut one_nat = Session::new();
    for (vantage, local, mapped) in
        [(Vantage::A, "192.168.1.2:40000", "203.0.113.1:40000"), (Vantage::B, "192.168.1.3:50000", "203.0.113.1:50000")]
    {
        for server in [STUN, STUN_2] {
            one_nat.stun(vantage, local, server, Some(mapped));
        }
        one_nat.candidate(vantage, CandidateType::Host, local, local, None);
        one_nat.candidate(vantage, CandidateType::ServerReflexive, mapped, local, None);
    }
    for remote in ["192.168.1.3:50000", "203.0.113.1:50000"] {
        one_nat.check(Check { remote, transmissions: 7, ..a_checks(LOST) });
    }
    for remote in ["192.168.1.2:40000", "203.0.113.1:40000"] {
        one_nat.check(Check { local: "192.168.1.3:50000", remote, transmissions: 7, ..b_checks(LOST) });
    }
    one_nat.fail(Vantage::A);
    one_nat.fail(Vantage::B);

    let mut deaf = Session::new();
    deaf.candidate(Vantage::A, CandidateType::Host, A, A, None);
    deaf.stun(Vantage::A, A, STUN, None);
    deaf.stun(Vantage::B, B, STUN, Some(B_MAPPED));
    deaf.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
    deaf.check(Check { transmissions: 7, ..a_checks(Fate::AnswerLost) });
    deaf.fail(Vantage::A);
    deaf.fail(Vantage::B);

    let lifetime = Measurement::MappingLifetime { local: address(A).ip(), at_least_s: 2, at_most_s: Some(4) };
    let inner = lost(|session| {
        let (gateway, external) = (Some(address("192.168.1.1:1").ip()), Some(address("100.64.3.4:1").ip()));
        let protocol = PortMapperProtocol::NatPmp;
        measured(
            session,
            Vantage::A,
            Measurement::PortMapper { protocol, gateway, found: true, external, detail: None },
        );
    });
    let probed = lost(|session| {
        let (waiting, opened) = ("192.168.1.2:41000", "192.168.1.2:42000");
        session.probe(ProbeAim::EarlyArrival, waiting, STUN, Some("203.0.113.1:41000"));
        session.probe(ProbeAim::EarlyArrival, waiting, B_MAPPED, None);
        session.probe(ProbeAim::AfterOpener { ttl: 2 }, opened, STUN, Some("203.0.113.1:42000"));
        session.probe(ProbeAim::AfterOpener { ttl: 2 }, opened, B_MAPPED, Some("203.0.113.1:42000"));
    });
    let random = {
        let mut session = one_dependent("203.0.113.1:61234");
        session.firewall("postrouting", "masquerade fully-random", None, 5);
        super::over_relay(session)
    };
    vec![
        case("WR201", "A", super::over_relay(one_dependent("203.0.113.1:61234"))),
        case("WR201", "B", seen_by_relay(false)),
        Case { also: &["WR802"], ..case("WR201", "A", seen_by_peer(false)) },
        case("WR202", "A", early),
        Case { also: &["WR501"], ..case("WR202", "A", probed) },
        Case { also: &["WR501"], ..case("WR203", "A", inner) },
        Case { also: &["WR802"], ..case("WR204", "the path", one_nat) },
        Case { also: &["WR501"], ..case("WR205", "A", lost_and(Vantage::A, lifetime)) },
        case("WR206", "A", super::over_relay(one_dependent("203.0.113.9:40000"))),
        case("WR207", "A", super::over_relay(shared)),
        Case { also: &["WR802"], ..case("WR207", "A", seen_by_peer(true)) },
        Case { also: &["WR802"], ..case("WR208", "A", deaf) },
        case("WR209", "A", random),
    ]
}

/// The one server that both sides asked answers A over TLS and neither over UDP. `another`: so does a second one.
pub(super) fn silent_for_both(another: bool) -> Session {
    let mut session = Session::new();
    for (vantage, own) in [(Vantage::A, A), (Vantage::B, B)] {
        session.candidate(vantage, CandidateType::Host, own, own, None);
        session.stun(vantage, own, STUN, None);
        if another {
            session.stun(vantage, own, STUN_2, None);
        }
    }
    session.allocate_over_tls(Vantage::A, A, "192.0.2.10:443", RELAYED);
    if !another {
        let failure = ServerFailure::Timeout { transmissions: 5, took_us: 2_500_000 };
        let (server, method) = ("turn:192.0.2.10:3478".to_owned(), "Allocate".to_owned());
        session.push(Vantage::A, EventKind::ServerFailed { server, local: None, method, failure });
    }
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    session
}

fn servers() -> Vec<Case> {
    let silent = failing(LOST, LOST, |session| session.stun(Vantage::A, A, "192.0.2.12:3478", None));
    let mut blocked = Session::new();
    blocked.candidate(Vantage::A, CandidateType::Host, A, A, None);
    blocked.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
    blocked.stun(Vantage::A, A, STUN, None);
    blocked.check(Check { transmissions: 7, ..a_checks(LOST) });
    blocked.allocate_over_tls(Vantage::A, A, "192.0.2.10:443", RELAYED);
    blocked.fail(Vantage::A);
    blocked.fail(Vantage::B);
    let third =
        Measurement::ThirdParty { local: address(A), remote: address("192.0.2.10:52000"), observed: None, sent: 5 };
    let mut hidden = behind_nats();
    hidden.allocate(Vantage::A, A, STUN, "10.9.9.9:60000", A_MAPPED, B_MAPPED);
    hidden.fail(Vantage::A);
    hidden.fail(Vantage::B);
    let mut closed = crate::report::relayed();
    let id = closed.id();
    let check = MessageBuilder::new(Class::Request, Method::BINDING, id)
        .text(AttributeType::USERNAME, "bbbb:aaaa")
        .u32(AttributeType::PRIORITY, 1)
        .build();
    let inside =
        whyrelay_core::wire::turn::ChannelData::encode(whyrelay_core::wire::turn::ChannelNumber::FIRST, &check);
    closed.datagram(Vantage::A, Direction::Out, A, STUN, &inside, None);
    closed.fail(Vantage::A);
    closed.fail(Vantage::B);
    let unresolved = ServerFailure::Unresolved { detail: "no such name".into() };
    let untrusted = ServerFailure::ConnectionFailed { detail: "invalid peer certificate: UnknownIssuer".into() };
    let timeout = ServerFailure::Timeout { transmissions: 7, took_us: 9_000_000 };
    let rewritten = failing(LOST, LOST, |session| {
        for server in ["192.0.2.12:3478", "192.0.2.13:3478"] {
            let id = session.id();
            let request = MessageBuilder::new(Class::Request, Method::BINDING, id).build();
            session.datagram(Vantage::A, Direction::Out, A, server, &request, None);
            let answer = MessageBuilder::new(Class::Success, Method::BINDING, id)
                .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address(A))
                .fingerprint();
            let mut answer = answer.build();
            // A gateway changed an address and not the fingerprint that covers it.
            answer[26] ^= 1;
            session.datagram(Vantage::A, Direction::In, A, server, &answer, None);
        }
    });
    // The same where only MESSAGE-INTEGRITY covers the answer, which has no FINGERPRINT.
    let forged = failing(LOST, LOST, |session| {
        for server in ["192.0.2.12:3478", "192.0.2.13:3478"] {
            let (id, key) = (session.id(), Key::short_term("password"));
            let request = MessageBuilder::new(Class::Request, Method::ALLOCATE, id)
                .text(AttributeType::USERNAME, "alice")
                .integrity(&key)
                .build();
            session.datagram(Vantage::A, Direction::Out, A, server, &request, None);
            let answer = MessageBuilder::new(Class::Success, Method::ALLOCATE, id)
                .xor_address(AttributeType::XOR_RELAYED_ADDRESS, address(RELAYED))
                .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address(A))
                .integrity(&key)
                .build();
            session.datagram(Vantage::A, Direction::In, A, server, &answer, Some(Integrity::Invalid));
        }
    });
    // In these sessions the checks are lost, too, or were never made: both are told, the cause first.
    const LOST_TOO: &[&str] = &["WR501", "WR802"];
    const NO_RELAY: &[&str] = &["WR802"];
    vec![
        Case { also: LOST_TOO, ..case("WR301", "the relay", silent) },
        Case { also: NO_RELAY, ..case("WR301", "the relay", silent_for_both(false)) },
        Case { also: NO_RELAY, ..case("WR302", "A", blocked) },
        Case { also: &["WR301", "WR802"], ..case("WR302", "A", silent_for_both(true)) },
        Case { also: LOST_TOO, ..case("WR303", "A", server_failed("turn:relay.example", unresolved)) },
        case("WR304", "A", lost_and(Vantage::A, third)),
        Case { also: NO_RELAY, ..case("WR305", "A", rewritten) },
        Case { also: NO_RELAY, ..case("WR305", "A", forged) },
        Case { also: NO_RELAY, ..case("WR401", "A", refused_with(Method::ALLOCATE, "alice", 401)) },
        Case { also: LOST_TOO, ..case("WR402", "the relay", server_failed("turn:relay.example", timeout)) },
        Case { also: NO_RELAY, ..case("WR403", "the relay", refused_with(Method::CREATE_PERMISSION, "alice", 403)) },
        Case { also: NO_RELAY, ..case("WR404", "the relay", hidden) },
        Case { also: NO_RELAY, ..case("WR405", "the relay", refused_with(Method::ALLOCATE, "alice", 486)) },
        Case {
            also: LOST_TOO,
            ..case("WR406", "A", server_failed("turn:relay.example", ServerFailure::NoCredentials))
        },
        Case { also: &["WR501"], ..case("WR407", "the relay", closed) },
        Case { also: &["WR501"], ..case("WR407", "the relay", relay_to_relay(true)) },
        Case { also: LOST_TOO, ..case("WR409", "the relay", server_failed("turns:relay.example", untrusted)) },
        Case { also: NO_RELAY, ..case("WR410", "A", refused_with(Method::ALLOCATE, "1600000000:alice", 401)) },
    ]
}

fn ice() -> Vec<Case> {
    const NO_RELAY: &[&str] = &["WR802"];
    let forged = |session: &mut Session| {
        let (id, key) = (session.id(), Key::short_term("password"));
        let request = MessageBuilder::new(Class::Request, Method::BINDING, id)
            .text(AttributeType::USERNAME, "bbbb:aaaa")
            .u32(AttributeType::PRIORITY, 1)
            .integrity(&key)
            .build();
        let (direction, integrity) = (Direction::In, Some(Integrity::Invalid));
        session.datagram(Vantage::B, direction, B, A_MAPPED, &request, integrity);
    };
    let mut one_sided = failing(LOST, LOST, |_| {});
    one_sided.events = one_sided.of(Vantage::A);
    // The public address of the NAT is seen, from a port that no server was asked from.
    let other_port = lost(|session| {
        session.check(Check {
            local: "192.168.1.2:40007",
            seen_from: "203.0.113.1:62014",
            ..a_checks(Fate::AnswerLost)
        });
    });
    let mut consent = connected();
    failed_state(&mut consent, Vantage::A, IceStateReason::ConsentExpired);
    consent.end(Vantage::A, EndReason::Failed);
    consent.end(Vantage::B, EndReason::PeerLeft);
    let mut strangers = Session::new();
    strangers.candidate(Vantage::A, CandidateType::Host, A, A, None);
    strangers.candidate(Vantage::B, CandidateType::Host, B, B, None);
    strangers.check(Check { remote: B, transmissions: 7, ..a_checks(LOST) });
    strangers.check(Check { remote: A, transmissions: 7, ..b_checks(LOST) });
    strangers.fail(Vantage::A);
    strangers.fail(Vantage::B);
    let mut late = easy_nats();
    late.slow_check(Vantage::A, Duration::from_secs(6));
    late.fail(Vantage::B);
    late.end(Vantage::A, EndReason::Failed);
    let stranger = lost(|session| {
        let remote = address("192.168.1.77:50000");
        session.check(Check { remote: "192.168.1.77:50000", transmissions: 3, ..a_checks(LOST) });
        let offender = Some(remote.ip());
        session.push(
            Vantage::A,
            EventKind::IcmpError { local: address(A), remote, offender, icmp_type: 3, icmp_code: 3, errno: 111 },
        );
    });
    let mut browser = Session::new();
    browser.candidate(Vantage::A, CandidateType::Host, A, A, None);
    let line = "candidate:1 1 udp 2122260223 8b7f3a0e.local 50000 typ host".to_owned();
    let reason = RefuseReason::Unresolved { detail: "no such name".into() };
    browser.push(Vantage::A, EventKind::RemoteCandidateRefused { line, reason });
    browser.fail(Vantage::A);
    browser.fail(Vantage::B);
    let rejected = |icmp_code, errno| {
        lost(|session| {
            let (local, remote) = (address(A), address(B_MAPPED));
            let offender = Some(address("203.0.113.254:1").ip());
            session.push(Vantage::A, EventKind::IcmpError { local, remote, offender, icmp_type: 3, icmp_code, errno });
        })
    };
    vec![
        Case { also: NO_RELAY, ..case("WR501", "the path", failing(LOST, LOST, |_| {})) },
        Case { also: NO_RELAY, ..case("WR502", "B", failing(Fate::Ignored, Fate::Ignored, |_| {})) },
        Case { also: NO_RELAY, ..case("WR503", "the path", failing(Fate::AnswerLost, Fate::AnswerLost, |_| {})) },
        case("WR504", "A", other_port),
        Case { also: NO_RELAY, ..case("WR505", "the path", one_sided) },
        Case { also: &["WR501"], ..case("WR411", "the relay", broken_relay(None)) },
        case("WR506", "the path", consent),
        Case { also: &["WR501", "WR802"], ..case("WR507", "signaling", failing(LOST, LOST, forged)) },
        Case { also: NO_RELAY, ..case("WR508", "both sides", strangers) },
        Case { also: NO_RELAY, ..case("WR509", "B", failing(Fate::Error(400), Fate::Error(400), |_| {})) },
        Case { also: &["WR501", "WR802"], ..case("WR510", "the path", late) },
        Case { also: &["WR501"], ..case("WR511", "the path", stranger) },
        Case { also: &["WR508", "WR802", "WR703"], ..case("WR512", "B", browser) },
        case("WR513", "the path", rejected(13, 113)),
        // What nft's reject says where it is not told what to say.
        case("WR513", "the path", rejected(3, 111)),
    ]
}

fn channel_and_signaling() -> Vec<Case> {
    const LOST_TOO: &[&str] = &["WR501", "WR802"];
    let ended_by = |vantage: Vantage, state: DtlsState, reason: EndReason| {
        let mut session = connected();
        session.push(vantage, EventKind::Dtls { state });
        session.end(vantage, reason);
        session
    };
    let mut hole = connected();
    (0..4).for_each(|_| large_record(&mut hole));
    hole.push(Vantage::A, EventKind::Dtls { state: DtlsState::Failed { detail: "timed out".into() } });
    hole.end(Vantage::A, EndReason::Failed);
    hole.end(Vantage::B, EndReason::PeerLeft);
    let mut reduced = connected();
    let (local, remote) = (address(A), address(B_MAPPED));
    let offender = Some(address("203.0.113.254:1").ip());
    reduced.push(Vantage::A, EventKind::IcmpError { local, remote, offender, icmp_type: 3, icmp_code: 4, errno: 90 });
    reduced.end(Vantage::A, EndReason::Finished);
    reduced.end(Vantage::B, EndReason::Finished);
    let (shaped_sent, random_sent, random_arrived) = (5, 5, 5);
    let shape = Measurement::PacketShape { local, remote, shaped_sent, shaped_arrived: 0, random_sent, random_arrived };
    let clock = Measurement::Clock { server: "https://example".into(), offset_ms: 900_000, precision_ms: 500 };

    let undescribed = || {
        let mut session = Session::new();
        session.events.retain(|event| !matches!(&event.kind, EventKind::Description { side: Side::Remote, .. }));
        session
    };
    let signaling = |session: &mut Session, vantage, state| {
        session.push(vantage, EventKind::Signaling { server: "http://192.0.2.1:8080".into(), state });
    };
    let mut down = undescribed();
    signaling(&mut down, Vantage::A, SignalingState::Failed { detail: "connection refused".into() });
    down.end(Vantage::A, EndReason::Failed);
    let mut alone = undescribed();
    signaling(&mut alone, Vantage::B, SignalingState::Connected { by: "websocket".into(), seen_as: None });
    alone.end(Vantage::B, EndReason::TimeLimit);
    let mut dropped = Session::new();
    dropped.local_candidate(Vantage::B, CandidateType::Host, B, B, None);
    dropped.candidate(Vantage::A, CandidateType::Host, A, A, None);
    dropped.fail(Vantage::A);
    dropped.fail(Vantage::B);
    let garbled = failing(Fate::LostOnTheWay, LOST, |session| {
        session.push(
            Vantage::A,
            EventKind::SignalRefused { message: "offer".into(), detail: "no ice-ufrag".into(), ours: false },
        );
    });
    let mut gone = easy_nats();
    signaling(&mut gone, Vantage::A, SignalingState::PeerLeft);
    gone.end(Vantage::A, EndReason::PeerLeft);
    gone.events.retain(|event| event.vantage == Vantage::A);
    let mut slow = Session::new();
    slow.candidate(Vantage::A, CandidateType::Host, A, A, None);
    failed_state(&mut slow, Vantage::A, IceStateReason::NothingLeft);
    slow.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
    slow.end(Vantage::A, EndReason::Failed);
    slow.fail(Vantage::B);
    let mismatch = DtlsState::FingerprintMismatch { found: "sha-256 00".into() };
    vec![
        case("WR601", "signaling", ended_by(Vantage::A, mismatch, EndReason::Error)),
        case(
            "WR602",
            "the path",
            ended_by(Vantage::B, DtlsState::Failed { detail: "timed out".into() }, EndReason::Failed),
        ),
        case("WR603", "the path", hole),
        case("WR604", "the path", reduced),
        Case { also: &["WR501"], ..case("WR605", "the path", lost_and(Vantage::A, shape)) },
        case("WR701", "signaling", down),
        case("WR702", "signaling", alone),
        Case { also: &["WR508", "WR802"], ..case("WR703", "signaling", dropped) },
        Case { also: LOST_TOO, ..case("WR704", "B", garbled) },
        Case { also: LOST_TOO, ..case("WR705", "B", gone) },
        Case { also: &["WR508", "WR802"], ..case("WR706", "signaling", slow) },
        Case { also: &["WR501"], ..case("WR707", "A", lost_and(Vantage::A, clock)) },
        Case { also: &["WR501"], ..case("WR802", "both sides", failing(Fate::LostOnTheWay, LOST, |_| {})) },
    ]
}
