//! What only one side's recording, or one server, tells of is not claimed; what another source proves is.

use std::time::Duration;

use whyrelay_core::diagnosis::evidence::Evidence;
use whyrelay_core::diagnosis::rules::{Examination, RULES, diagnose, find};
use whyrelay_core::diagnosis::session::Path;
use whyrelay_core::host::{Family, HostFact, PolicyRule, RoutePurpose, Subject};
use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{
    Event, EventKind, InterfaceUse, ServerFailure, SessionOptions, Side, Transport, Vantage,
};
use whyrelay_core::trace::measurement::{Measurement, PortMapperProtocol};
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::integrity::Key;
use whyrelay_core::wire::stun::{Class, MessageBuilder, Method};

use crate::builder::{Check, Fate, Session, address};
use crate::cases::facts::{UPLINK, Way};
use crate::cases::{self, STUN_2, easy_nats, failing, lost};
use crate::report::{A, A_MAPPED, B, B_MAPPED, RELAYED, STUN, a_checks, b_checks, behind_nats, relayed};

const LOST: Fate = Fate::LostOnTheWay;

/// Codes and blames of everything above information.
fn findings(session: &Session) -> Vec<String> {
    let findings = Report::from_events(&session.events).findings;
    let harmful = findings.iter().filter(|finding| finding.severity.name() != "info");
    harmful.map(|finding| format!("{} {}", finding.code, finding.blame.name())).collect()
}

fn finds(session: &Session, code: &str) -> Option<String> {
    findings(session).into_iter().find(|found| found.starts_with(code))
}

fn missing(session: &Session) -> Vec<String> {
    let evidence = Evidence::of(&session.events);
    let whole = whyrelay_core::diagnosis::session::Session::of(&evidence);
    diagnose(&whole).not_measured.into_iter().map(|missing| missing.why).collect()
}

#[test]
fn one_side_alone_cannot_say_who_lost_the_candidates() {
    let described = |end: bool| {
        let mut session = Session::new();
        session.candidate(Vantage::A, CandidateType::Host, A, A, None);
        if end {
            session.push(Vantage::B, EventKind::EndOfCandidates { side: Side::Remote });
            session.push(Vantage::A, EventKind::EndOfCandidates { side: Side::Remote });
        }
        session.fail(Vantage::A);
        session.events = session.of(Vantage::A);
        session
    };
    // That no more come may arrive where candidates were lost.
    for unknown in [described(false), described(true)] {
        assert_eq!(finds(&unknown, "WR703"), None);
        assert!(missing(&unknown).contains(&"the recording of B".to_owned()));
    }
}

/// What of a recording may be missing.
#[derive(Clone, Copy, Debug)]
enum Lack {
    /// All of one side.
    Side(Vantage),
    /// The second half of both.
    End,
    /// What a host tells of one subject.
    Subject(Subject),
    /// The same of what every host has, without a word of that.
    Removed(Subject),
    /// All that hosts tell.
    Facts,
    /// What was measured of the networks.
    Measurements,
}

impl Lack {
    fn of(self, events: &[Event]) -> Vec<Event> {
        let half = |vantage| events.iter().filter(|event| event.vantage == vantage).count() / 2;
        let mut left = [half(Vantage::A), half(Vantage::B)];
        let mut stays = |event: &Event| match self {
            Self::Side(vantage) => event.vantage != vantage,
            Self::End => {
                let left = &mut left[usize::from(event.vantage == Vantage::B)];
                *left = left.saturating_sub(1);
                *left > 0
            }
            Self::Facts => !matches!(event.kind, EventKind::HostFact { .. }),
            Self::Removed(lacking) => match &event.kind {
                EventKind::HostFact { fact, .. } => subject_of(fact) != lacking,
                _ => true,
            },
            Self::Measurements => !matches!(event.kind, EventKind::Measured(_)),
            Self::Subject(_) => true,
        };
        let mut events: Vec<Event> = events.iter().filter(|event| stays(event)).cloned().collect();
        if let Self::Subject(lacking) = self {
            for event in &mut events {
                let EventKind::HostFact { fact, .. } = &mut event.kind else { continue };
                if subject_of(fact) == lacking {
                    let (why, needs) = ("Operation not permitted".to_owned(), Some("CAP_NET_ADMIN".to_owned()));
                    **fact = HostFact::NotMeasured { subject: lacking, why, needs };
                }
            }
        }
        events
    }
}

fn subject_of(fact: &HostFact) -> Subject {
    match fact {
        HostFact::Link(_) => Subject::Links,
        HostFact::Address(_) => Subject::Addresses,
        HostFact::Route(_) => Subject::Routes,
        HostFact::PolicyRule(_) => Subject::PolicyRules,
        HostFact::Neighbor(_) => Subject::Neighbors,
        HostFact::Sysctl { .. } => Subject::Sysctls,
        HostFact::FirewallRule(_) | HostFact::FirewallChain(_) => Subject::Nftables,
        HostFact::IpsecPolicy(_) => Subject::IpsecPolicies,
        HostFact::ConntrackUse { .. } | HostFact::Counters { .. } => Subject::Counters,
        HostFact::ConntrackEntry(_) => Subject::Conntrack,
        HostFact::Socket(_) => Subject::Sockets,
        HostFact::Resolver { .. } => Subject::Resolver,
        HostFact::Software(_) => Subject::Software,
        HostFact::System(_) | HostFact::ManagedInterface(_) => Subject::System,
        HostFact::Gone { gone } => subject_of(gone),
        HostFact::Capabilities { .. } => Subject::Capabilities,
        HostFact::RouteAnswer(_) => Subject::RouteAnswers,
        HostFact::OwnPacket(_) | HostFact::OwnConnection(_) => Subject::OwnPackets,
        HostFact::Probe(_) | HostFact::ProbeSeen { .. } => Subject::Probes,
        HostFact::Application(_) | HostFact::SocketProfile(_) | HostFact::ProfileTally(_) => Subject::Application,
        HostFact::NotMeasured { subject, .. } | HostFact::Counted { subject, .. } => *subject,
    }
}

/// What a whole recording shows is there: who lacks a part of it may not say that it is not, neither of the session nor,
/// where a side is at fault, of that side.
#[test]
fn who_lacks_the_facts_of_a_fault_does_not_say_that_it_is_not_there() {
    let mut wrong = Vec::new();
    let mut judged = 0;
    for case in cases::all() {
        let rule = find(case.code).expect("a case is of a rule");
        let told = case.session.events.iter().filter_map(|event| match &event.kind {
            EventKind::HostFact { fact, .. } => Some(Lack::Subject(subject_of(fact))),
            _ => None,
        });
        // A host may have no firewall rule; what it has in any case was not told where there is none.
        let always = [
            Subject::Links,
            Subject::Addresses,
            Subject::PolicyRules,
            Subject::Capabilities,
            Subject::RouteAnswers,
            Subject::Counters,
        ];
        let removed = always.map(Lack::Removed);
        let parts = [Lack::Side(Vantage::A), Lack::Side(Vantage::B), Lack::End, Lack::Facts, Lack::Measurements];
        for lack in parts.into_iter().chain(told).chain(removed) {
            let events = lack.of(&case.session.events);
            if events.len() == case.session.events.len() && !matches!(lack, Lack::Subject(_)) {
                continue;
            }
            let evidence = Evidence::of(&events);
            let session = whyrelay_core::diagnosis::session::Session::of(&evidence);
            // A direct path refutes what keeps one from being direct.
            if session.path == Path::Direct && !rule.harms_a_direct_path() {
                continue;
            }
            judged += 1;
            let side = match case.blame {
                "A" => Some(Vantage::A),
                "B" => Some(Vantage::B),
                _ => None,
            };
            let unfound = (rule.examine)(&session) == Examination::Clear;
            let denied = rule.judge(&session) == Examination::Clear;
            if denied || unfound && side.is_some_and(|side| rule.sees(&session, side)) {
                wrong.push(format!("{} at {} without {lack:?}", case.code, case.blame));
            }
        }
    }
    assert!(judged > 300, "{judged}");
    assert!(wrong.is_empty(), "{} of {judged}:\n{}", wrong.len(), wrong.join("\n"));
}

/// Both recordings whole, every subject told, everything measured: no rule lacks anything.
#[test]
fn where_all_is_known_every_rule_says_yes_or_no() {
    let session = failing(LOST, LOST, |session| {
        for (vantage, local, mapped) in [(Vantage::A, A, A_MAPPED), (Vantage::B, B, B_MAPPED)] {
            session.counters(vantage, &[]);
            session.link(vantage, "eth0", None, local.rsplit_once(':').expect("a port").0);
            session.fact(vantage, HostFact::PolicyRule(PolicyRule::lookup(Family::V4, 32_766, 254)));
            for subject in [
                Subject::Routes,
                Subject::Neighbors,
                Subject::Nftables,
                Subject::LegacyIptables,
                Subject::Software,
                Subject::OwnPackets,
            ] {
                session.fact(vantage, HostFact::Counted { subject, total: 0, recorded: 0 });
            }
            let (user, effective, container) = (0, Vec::new(), None);
            session.fact(vantage, HostFact::Capabilities { user, effective, container });
            let (local, mapped, remote) = (address(local), address(mapped), address("192.0.2.12:50000"));
            let protocol = PortMapperProtocol::Pcp;
            for fact in [
                Measurement::ThirdParty { local, remote, observed: Some(mapped), sent: 1 },
                Measurement::EarlyArrival { local, remote, mapped, observed: mapped, control: mapped, arrived: true },
                Measurement::PortMapper {
                    protocol,
                    gateway: None,
                    found: true,
                    external: Some(mapped.ip()),
                    detail: None,
                },
                Measurement::MappingLifetime { local: local.ip(), at_least_s: 60, at_most_s: None },
                Measurement::PacketShape {
                    local,
                    remote,
                    shaped_sent: 5,
                    shaped_arrived: 5,
                    random_sent: 5,
                    random_arrived: 5,
                },
                Measurement::Clock { server: "https://192.0.2.10".to_owned(), offset_ms: 3, precision_ms: 10 },
            ] {
                session.push(vantage, EventKind::Measured(fact));
            }
        }
        session.route(RoutePurpose::Server, STUN, 0, Ok(UPLINK));
        let answer = session.events.last().expect("an answer of routing").kind.clone();
        session.push(Vantage::B, answer);
    });
    let events = session.events;
    let evidence = Evidence::of(&events);
    let session = whyrelay_core::diagnosis::session::Session::of(&evidence);
    for rule in RULES {
        let said = rule.judge(&session);
        assert!(!matches!(said, Examination::Inconclusive { .. }), "{} {}: {said:?}", rule.code, rule.name);
    }
    // And the least of it is missed.
    let evidence = Evidence::of(&Lack::Subject(Subject::Counters).of(&events));
    let session = whyrelay_core::diagnosis::session::Session::of(&evidence);
    let said = find("WR110").expect("a rule").judge(&session);
    let missing = "the kernel's counters (needs CAP_NET_ADMIN) of A and B".to_owned();
    assert_eq!(said, Examination::Inconclusive { missing });
}

#[test]
fn a_side_that_wants_its_relay_only_and_gets_none_has_no_other_fault() {
    let mut session = Session::with_options(SessionOptions { relay_only: true, ..SessionOptions::default() });
    let (name, addresses) = ("eth0".to_owned(), vec![address(A).ip()]);
    session.push(Vantage::A, EventKind::Interface { name, index: 2, addresses, used: InterfaceUse::Used });
    session.stun(Vantage::A, A, STUN, None);
    session.push(Vantage::A, EventKind::EndOfCandidates { side: Side::Local });
    session.candidate(Vantage::B, CandidateType::Host, B, B, None);
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    assert_eq!(finds(&session, "WR102"), None);
    assert_eq!(finds(&session, "WR703"), None);
    assert_eq!(finds(&session, "WR301").as_deref(), Some("WR301 the path"));
}

#[test]
fn a_port_that_a_server_opened_for_a_probe_is_no_silent_server() {
    for third_party in [false, true] {
        let mut session = Session::new();
        session.candidate(Vantage::A, CandidateType::Host, A, A, None);
        session.stun(Vantage::A, A, STUN_2, Some(A_MAPPED));
        session.stun(Vantage::A, A, STUN, None);
        if third_party {
            let (local, remote, observed) = (address(A), address(STUN), None);
            let fact = Measurement::ThirdParty { local, remote, observed, sent: 5 };
            session.push(Vantage::A, EventKind::Measured(fact));
        }
        session.fail(Vantage::A);
        assert_eq!(finds(&session, "WR301").is_some(), !third_party, "{:?}", findings(&session));
    }
}

#[test]
fn a_server_that_the_other_side_hears_proves_that_udp_is_blocked() {
    for (heard, expected) in [(Some(B_MAPPED), Some("WR302 A")), (None, None)] {
        let mut session = Session::new();
        session.candidate(Vantage::A, CandidateType::Host, A, A, None);
        session.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
        session.stun(Vantage::A, A, STUN, None);
        session.stun(Vantage::B, B, STUN, heard);
        session.check(Check { transmissions: 7, ..a_checks(LOST) });
        session.fail(Vantage::A);
        session.fail(Vantage::B);
        assert_eq!(finds(&session, "WR302").as_deref(), expected);
        assert_eq!(finds(&session, "WR301").is_some(), expected.is_none());
    }
    // What the own system did not let out says nothing of the network.
    let mut session = Session::new();
    session.candidate(Vantage::A, CandidateType::Host, A, A, None);
    session.stun(Vantage::A, A, STUN, None);
    for _ in 0..4 {
        let (transport, local, remote, detail) = (Transport::Udp, address(A), address(STUN), "ENETUNREACH".to_owned());
        session.push(Vantage::A, EventKind::SendFailed { transport, local, remote, errno: 101, detail });
    }
    session.stun(Vantage::B, B, STUN, Some(B_MAPPED));
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    assert_eq!(finds(&session, "WR302"), None);
}

#[test]
fn lost_answers_are_laid_to_a_firewall_in_front_only_where_a_server_is_heard_elsewhere() {
    for (heard, expected) in [(Some(B_MAPPED), Some("WR208 A")), (None, None)] {
        let mut session = Session::new();
        session.candidate(Vantage::A, CandidateType::Host, A, A, None);
        session.stun(Vantage::A, A, STUN, None);
        session.stun(Vantage::B, B, STUN, heard);
        session.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
        session.check(Check { transmissions: 7, ..a_checks(Fate::AnswerLost) });
        session.fail(Vantage::A);
        session.fail(Vantage::B);
        assert_eq!(finds(&session, "WR208").as_deref(), expected);
    }
}

#[test]
fn a_server_that_granted_one_allocation_is_not_blamed_for_another() {
    let mut session = relayed();
    let id = session.id();
    let request = MessageBuilder::new(Class::Request, Method::ALLOCATE, id)
        .text(AttributeType::USERNAME, "1700:alice")
        .integrity(&Key::short_term("x"));
    session.datagram(Vantage::A, whyrelay_core::trace::event::Direction::Out, A, STUN_2, &request.build(), None);
    let answer = MessageBuilder::new(Class::Error, Method::ALLOCATE, id).error(440, "no");
    session.datagram(Vantage::A, whyrelay_core::trace::event::Direction::In, A, STUN_2, &answer.build(), None);
    let (server, local) = ("turn:192.0.2.10:3478".to_owned(), None);
    let allocated = EventKind::Allocated {
        server: server.clone(),
        local: address(A),
        relayed: address(RELAYED),
        mapped: Some(address(A_MAPPED)),
        lifetime_s: 600,
    };
    session.push(Vantage::A, allocated);
    let failure = ServerFailure::Timeout { transmissions: 5, took_us: 2_500_000 };
    session.push(Vantage::A, EventKind::ServerFailed { server, local, method: "Allocate".into(), failure });
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    assert_eq!(finds(&session, "WR405"), None);
    assert_eq!(finds(&session, "WR402"), None);
}

/// A has a tunnel address with the same port, whose packets leave by the uplink.
fn two_addresses(session: &mut Session) {
    session.link(Vantage::A, "eth0", None, "192.168.1.2");
    session.link(Vantage::A, "wg0", Some("wireguard"), "10.66.0.2");
    session.route_from("10.66.0.2", STUN_2, UPLINK);
    session.stun(Vantage::A, "10.66.0.2:40000", STUN_2, None);
}

#[test]
fn a_port_that_another_address_of_this_host_uses_is_not_the_nats_fault() {
    for (mapped, second, expected) in [
        // The NAT kept the port towards the first server and not towards the second.
        ("203.0.113.1:24430", true, "WR207 A"),
        ("203.0.113.1:24430", false, "WR201 A"),
    ] {
        let mut session = behind_nats();
        session.stun(Vantage::B, B, STUN_2, Some(B_MAPPED));
        if second {
            two_addresses(&mut session);
        }
        session.stun(Vantage::A, A, STUN_2, Some(mapped));
        session.check(Check { transmissions: 7, ..a_checks(LOST) });
        session.check(Check { transmissions: 7, ..b_checks(LOST) });
        session.fail(Vantage::A);
        session.fail(Vantage::B);
        assert_eq!(findings(&session).first().map(String::as_str), Some(expected), "{:?}", findings(&session));
    }
    // The mapping is the same everywhere, but the peer sees the second address come from there.
    let taken = failing(LOST, LOST, |session| {
        two_addresses(session);
        session.check(Check { local: "10.66.0.2:40000", seen_from: A_MAPPED, ..a_checks(Fate::AnswerLost) });
    });
    assert_eq!(findings(&taken).first().map(String::as_str), Some("WR207 A"), "{:?}", findings(&taken));
}

#[test]
fn a_rejecting_router_that_keeps_ports_gave_one_away_also_by_the_word_of_one_server() {
    for (mapped, servers, expected) in [
        (A_MAPPED, 1, Some("WR202 A")),
        (A_MAPPED, 2, Some("WR202 A")),
        // The port is not kept: with one server the mapping may as well depend on the destination.
        ("203.0.113.1:51234", 1, None),
    ] {
        let mut session = Session::new();
        for (vantage, local, mapped) in [(Vantage::A, A, mapped), (Vantage::B, B, B_MAPPED)] {
            for server in [STUN, STUN_2].into_iter().take(servers) {
                session.stun(vantage, local, server, Some(mapped));
            }
            session.candidate(vantage, CandidateType::ServerReflexive, mapped, local, None);
        }
        session.check(Check { transmissions: 7, ..a_checks(LOST) });
        session.check(Check { remote: mapped, transmissions: 7, ..b_checks(LOST) });
        let (local, remote) = (address(B), address(mapped));
        let (offender, icmp_type, icmp_code) = (Some(remote.ip()), 3, 3);
        session.push(Vantage::B, EventKind::IcmpError { local, remote, offender, icmp_type, icmp_code, errno: 111 });
        session.fail(Vantage::A);
        session.fail(Vantage::B);
        assert_eq!(finds(&session, "WR202").as_deref(), expected, "{mapped} {servers}");
    }
}

#[test]
fn a_side_that_no_server_told_anything_had_nothing_to_advertise() {
    let mut session = Session::new();
    session.candidate(Vantage::A, CandidateType::Host, A, A, None);
    session.stun(Vantage::A, A, STUN, None);
    session.candidate(Vantage::B, CandidateType::Host, B_MAPPED, B_MAPPED, None);
    session.check(Check { seen_at: B_MAPPED, ..a_checks(Fate::AnswerLost) });
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    assert_eq!(finds(&session, "WR504"), None);
    assert!(finds(&session, "WR301").is_some());
}

#[test]
fn checks_to_a_relayed_address_count_only_once_the_peer_knows_whom_to_permit() {
    for (wait, expected) in [(Duration::from_secs(1), Some("WR304 B")), (Duration::ZERO, None)] {
        let mut session = behind_nats();
        session.allocate(Vantage::A, A, STUN, RELAYED, A_MAPPED, B_MAPPED);
        session.candidate(Vantage::A, CandidateType::Relayed, RELAYED, RELAYED, None);
        let to_relay = Check { remote: RELAYED, transmissions: 4, ..b_checks(LOST) };
        let answered = |session: &mut Session| {
            session.allocate(Vantage::B, B, STUN, "192.0.2.10:60001", B_MAPPED, A_MAPPED);
            session.candidate(Vantage::B, CandidateType::Relayed, "192.0.2.10:60001", "192.0.2.10:60001", None);
            session.received_over_relay(Vantage::B, B, STUN);
        };
        if wait.is_zero() {
            session.check(to_relay);
            answered(&mut session);
        } else {
            answered(&mut session);
            session.wait(wait);
            session.check(to_relay);
        }
        session.select(Vantage::A, A, "192.0.2.10:60001");
        session.select(Vantage::B, "192.0.2.10:60001", A_MAPPED);
        session.end(Vantage::A, whyrelay_core::trace::event::EndReason::Finished);
        session.end(Vantage::B, whyrelay_core::trace::event::EndReason::Finished);
        assert_eq!(finds(&session, "WR304").as_deref(), expected, "{wait:?}: {:?}", findings(&session));
    }
}

#[test]
fn an_ipv4_address_without_a_route_does_not_excuse_a_missing_ipv6_route() {
    let session = lost_both_families();
    assert_eq!(findings(&session).first().map(String::as_str), Some("WR117 A"), "{:?}", findings(&session));
    assert_eq!(finds(&session, "WR101"), None);
}

fn lost_both_families() -> Session {
    let mut session = Session::new();
    let own = "[2001:db8:a::1]:40000";
    session.candidate(Vantage::A, CandidateType::Host, own, own, None);
    session.candidate(Vantage::A, CandidateType::Host, "10.66.0.2:40000", "10.66.0.2:40000", None);
    session.candidate(Vantage::B, CandidateType::Host, B, B, None);
    for (local, server) in [(own, "[2001:db8:ffff::1]:3478"), ("10.66.0.2:40000", STUN)] {
        session.stun(Vantage::A, local, server, None);
        for _ in 0..4 {
            let (transport, local, remote) = (Transport::Udp, address(local), address(server));
            let detail = "ENETUNREACH".to_owned();
            session.push(Vantage::A, EventKind::SendFailed { transport, local, remote, errno: 101, detail });
        }
    }
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    session
}

#[test]
fn healthy_ways_stay_without_a_finding() {
    // A second address on the same port is no fault where both get through.
    let mut session = easy_nats();
    two_addresses(&mut session);
    session.check(Check { nominate: true, ..a_checks(Fate::Answered) });
    session.check(b_checks(Fate::Answered));
    session.select(Vantage::A, A, B_MAPPED);
    session.select(Vantage::B, B, A_MAPPED);
    assert_eq!(findings(&session), Vec::<String>::new());
    let by_uplink = lost(|session| {
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.link(Vantage::A, "wg0", Some("wireguard"), "10.66.0.2");
        session.route_from("10.66.0.2", STUN_2, Way { device: "wg0", ..UPLINK });
    });
    assert_eq!(finds(&by_uplink, "WR207"), None);
}
