//! Where two rules, or a rule and nothing, lie close together: which one speaks, and whom it blames.

use std::time::Duration;

use whyrelay_core::diagnosis::evidence::Evidence;
use whyrelay_core::diagnosis::finding::{Blame, Severity};
use whyrelay_core::diagnosis::rules::diagnose;
use whyrelay_core::host::{HostFact, PolicyRule, ProbeAim, RoutePurpose, RuleAction, SoftwareName};
use whyrelay_core::ice::candidate::{CandidateTransport, CandidateType};
use whyrelay_core::report::{Expected, Report};
use whyrelay_core::trace::event::{
    Direction, EndReason, Event, EventKind, Pair, PairState, SessionOptions, Side, SignalingState, Vantage,
};

use crate::builder::{Check, Fate, Session, address};
use crate::cases::facts::{UPLINK, policy_rule};
use crate::cases::{STUN_2, failing, lost};
use crate::report::{A, A_MAPPED, B, B_MAPPED, RELAYED, STUN, a_checks, b_checks, behind_nats, direct};

const LOST: Fate = Fate::LostOnTheWay;

/// Codes, blames and severities.
fn findings(session: &Session) -> Vec<String> {
    let findings = Report::from_events(&session.events).findings;
    let shown =
        findings.iter().map(|finding| format!("{} {} {}", finding.code, finding.blame.name(), finding.severity.name()));
    shown.collect()
}

fn finds(session: &Session, code: &str) -> Option<String> {
    findings(session).into_iter().find(|found| found.starts_with(code))
}

fn missing(session: &Session) -> String {
    let evidence = Evidence::of(&session.events);
    let whole = whyrelay_core::diagnosis::session::Session::of(&evidence);
    diagnose(&whole).not_measured.into_iter().map(|missing| format!("{}: {}\n", missing.what, missing.why)).collect()
}

/// Both ask for their relay only; with the servers that A knows, B knows one.
fn relay_only(servers: &[&str]) -> Session {
    let mut session = Session::with_options(SessionOptions { relay_only: true, ..SessionOptions::default() });
    for url in servers {
        session.push(Vantage::A, EventKind::ServerKnown { url: (*url).to_owned(), announced: false });
    }
    session.push(Vantage::B, EventKind::ServerKnown { url: "turns:192.0.2.10:443".to_owned(), announced: false });
    session.push(Vantage::A, EventKind::EndOfCandidates { side: Side::Local });
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    session
}

/// With the checks of both sides lost, that is the first finding.
fn lost_it_says_first(mut session: Session, expected: &str) {
    session.check(Check { transmissions: 7, ..a_checks(LOST) });
    session.check(Check { transmissions: 7, ..b_checks(LOST) });
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    assert_eq!(findings(&session).first().map(String::as_str), Some(expected), "{:?}", findings(&session));
}

#[test]
fn relay_only_without_a_turn_server_can_never_connect() {
    let none = relay_only(&["stun:192.0.2.10:3478"]);
    let report = Report::from_events(&none.events);
    let first = report.findings.first().expect("a finding");
    let told = (first.code, first.blame, first.severity);
    assert_eq!(told, ("WR801", Blame::A, Severity::Error), "{:?}", report.findings);
    assert!(first.summary.ends_with("without any TURN server: that can never connect"), "{}", first.summary);
    assert!(first.advice.iter().any(|line| line.contains("--turn")), "{:?}", first.advice);
    // With a server whose relay fails, that server is to be looked at.
    let known = relay_only(&["turn:192.0.2.10:3478"]);
    assert!(finds(&known, "WR801").is_some_and(|found| found.ends_with("info")), "{:?}", findings(&known));
}

#[test]
fn a_nat_that_maps_by_destination_is_named_although_two_sockets_share_a_port() {
    for (other_port, expected) in [
        // Another port of the same host is mapped alike for both: the second address took this one.
        (Some(["203.0.113.1:41000", "203.0.113.1:41000"]), "WR207 A warning"),
        // It is mapped by destination, too: so is the NAT.
        (Some(["203.0.113.1:41000", "203.0.113.1:7777"]), "WR201 A warning"),
        (None, "WR207 A warning"),
    ] {
        let mut session = behind_nats();
        session.stun(Vantage::B, B, STUN_2, Some(B_MAPPED));
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.link(Vantage::A, "wg0", Some("wireguard"), "10.66.0.2");
        session.route_from("10.66.0.2", STUN_2, UPLINK);
        session.stun(Vantage::A, "10.66.0.2:40000", STUN_2, None);
        session.stun(Vantage::A, A, STUN_2, Some("203.0.113.1:24430"));
        for (server, mapped) in [STUN, STUN_2].into_iter().zip(other_port.into_iter().flatten()) {
            session.probe(ProbeAim::OtherPort, "192.168.1.2:41000", server, Some(mapped));
        }
        lost_it_says_first(session, expected);
    }
}

#[test]
fn two_sockets_with_one_port_are_asked_about_where_the_peer_was_not_recorded() {
    let lost = |second: bool| {
        let mut session = behind_nats();
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.link(Vantage::A, "wg0", Some("wireguard"), "10.66.0.2");
        if second {
            session.route_from("10.66.0.2", STUN, UPLINK);
            session.stun(Vantage::A, "10.66.0.2:40000", STUN, None);
        }
        session.check(Check { transmissions: 7, ..a_checks(LOST) });
        session.fail(Vantage::A);
        session.events = session.of(Vantage::A);
        session
    };
    let text = missing(&lost(true));
    assert!(text.contains("which sends from 192.168.1.2:40000 and 10.66.0.2:40000 by one interface"), "{text}");
    assert!(!missing(&lost(false)).contains("by one interface"));
}

#[test]
fn udp_only_to_servers_is_found_where_no_check_of_the_peer_came_at_all() {
    for (wait, expected) in [(Duration::from_secs(1), Some("WR304 B warning")), (Duration::ZERO, None)] {
        let mut session = behind_nats();
        session.local_candidate(Vantage::A, CandidateType::Relayed, RELAYED, RELAYED, None);
        session.allocate(Vantage::A, A, STUN, RELAYED, A_MAPPED, B_MAPPED);
        session.candidate(Vantage::A, CandidateType::Relayed, RELAYED, RELAYED, None);
        // The peer answers over B's relay and checks nothing itself.
        session.allocate(Vantage::B, B, STUN, "192.0.2.10:60001", B_MAPPED, A_MAPPED);
        session.candidate(Vantage::B, CandidateType::Relayed, "192.0.2.10:60001", "192.0.2.10:60001", None);
        let to_relay = Check { remote: RELAYED, transmissions: 1, ..b_checks(LOST) };
        session.check(to_relay);
        session.wait(wait);
        session.check(to_relay);
        session.check(to_relay);
        session.select(Vantage::A, A, "192.0.2.10:60001");
        session.select(Vantage::B, "192.0.2.10:60001", A_MAPPED);
        session.end(Vantage::A, EndReason::Finished);
        session.end(Vantage::B, EndReason::Finished);
        assert_eq!(finds(&session, "WR304").as_deref(), expected, "{wait:?}: {:?}", findings(&session));
    }
}

#[test]
fn whether_udp_is_blocked_is_not_known_where_nothing_was_asked_over_udp() {
    let mut session = Session::new();
    session.candidate(Vantage::A, CandidateType::Host, A, A, None);
    session.candidate(Vantage::B, CandidateType::Host, B, B, None);
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    assert!(missing(&session).contains("udp-blocked"), "{}", missing(&session));
    assert!(missing(&session).contains("no server was asked over UDP"));
    // An answer of the peer itself came over UDP.
    let mut heard = Session::new();
    heard.candidate(Vantage::A, CandidateType::Host, A, A, None);
    heard.stun(Vantage::A, A, STUN, None);
    heard.stun(Vantage::B, B, STUN, Some(B_MAPPED));
    heard.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
    heard.check(a_checks(Fate::Error(400)));
    heard.fail(Vantage::A);
    heard.fail(Vantage::B);
    assert_eq!(finds(&heard, "WR302"), None, "{:?}", findings(&heard));
}

#[test]
fn another_mark_is_advised_only_where_it_is_known_to_help() {
    let advice = |mark: Option<(u32, Option<u32>)>, also: Option<(u32, u32)>| {
        let session = failing(Fate::SendRefused(22), LOST, |session| {
            for (priority, (mark, mask)) in
                [mark, also.map(|(mark, mask)| (mark, Some(mask)))].into_iter().flatten().enumerate()
            {
                session.rule(whyrelay_core::host::PolicyRule {
                    rule_action: RuleAction::Blackhole,
                    table: None,
                    mark: Some(mark),
                    mask,
                    ..policy_rule(100 + u32::try_from(priority).expect("small"))
                });
            }
            session.software(SoftwareName::Netbird, &[]);
            session.route(RoutePurpose::Server, STUN, 0, Ok(UPLINK));
            session.route(RoutePurpose::Peer, B_MAPPED, 0, Ok(UPLINK));
            session.route(RoutePurpose::Peer, B_MAPPED, 0x1BD00, Err(22));
        });
        let findings = Report::from_events(&session.events).findings;
        let found = findings.into_iter().find(|finding| finding.code == "WR106").expect("WR106");
        found.advice.into_iter().find(|line| line.contains("NB_FWMARK_BASE=0x"))
    };
    let base = |line: Option<String>| {
        let line = line?;
        let (_, rest) = line.split_once("NB_FWMARK_BASE=0x")?;
        let digits: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
        u32::from_str_radix(&digits, 16).ok()
    };
    // No rule is known to take it: which bits are free is not known either.
    assert_eq!(advice(None, None), None);
    let masked = base(advice(Some((0x3D00, Some(0x3F00))), None)).expect("a mark");
    assert_eq!(masked & 0x3F00, 0, "{masked:#x}");
    let exact = base(advice(Some((0x1BD00, None)), None)).expect("a mark");
    assert_ne!(exact, 0x1BD00);
    // The next mark would be taken by another rule.
    let second = base(advice(Some((0x1BD00, None)), Some((0x37A00, 0x37A00)))).expect("a mark");
    assert_ne!(second & 0x37A00, 0x37A00, "{second:#x}");
    // No mark is without a bit of such a mask; one that the rule does not take is there all the same.
    let wide = base(advice(Some((0x1BD00, Some(0x7FFF_FF00))), None)).expect("a mark");
    assert_ne!(wide & 0x7FFF_FF00, 0x1BD00, "{wide:#x}");
}

#[test]
fn a_port_that_the_other_socket_took_at_every_server_says_nothing_of_the_nat() {
    for (rival_first, expected) in [(true, "WR207 A warning"), (false, "WR201 A warning")] {
        let mut session = Session::new();
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.link(Vantage::A, "wg0", Some("wireguard"), "10.66.0.2");
        session.route_from("10.66.0.2", STUN_2, UPLINK);
        let rival = |session: &mut Session| {
            for server in [STUN, STUN_2] {
                session.stun(Vantage::A, "10.66.0.2:40000", server, None);
            }
        };
        if rival_first {
            rival(&mut session);
        }
        for (server, mapped) in [(STUN, "203.0.113.1:61501"), (STUN_2, "203.0.113.1:18948")] {
            session.stun(Vantage::A, A, server, Some(mapped));
            session.stun(Vantage::B, B, server, Some(B_MAPPED));
        }
        if !rival_first {
            rival(&mut session);
        }
        session.candidate(Vantage::A, CandidateType::ServerReflexive, A_MAPPED, A, None);
        session.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
        lost_it_says_first(session, expected);
    }
}

#[test]
fn a_gateway_that_refuses_everything_over_udp_is_named_once() {
    let mut session = behind_nats();
    session.events.retain(|event| event.vantage == Vantage::B || !matches!(event.kind, EventKind::Datagram(_)));
    session.stun(Vantage::A, A, STUN, None);
    session.check(Check { transmissions: 7, ..a_checks(LOST) });
    for remote in [STUN, B_MAPPED] {
        session.push(
            Vantage::A,
            EventKind::IcmpError {
                local: address(A),
                remote: address(remote),
                offender: Some(address("192.168.1.1:1").ip()),
                icmp_type: 3,
                icmp_code: 13,
                errno: 113,
            },
        );
    }
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    assert_eq!(finds(&session, "WR302").as_deref(), Some("WR302 A warning"), "{:?}", findings(&session));
    assert_eq!(finds(&session, "WR513"), None);
}

#[test]
fn large_probes_that_the_peer_saw_or_that_met_silence_like_small_ones_are_no_black_hole() {
    for (passes, lost, seen, expected) in [
        (1360, &[1400, 1500][..], None, Some("WR603 the path warning")),
        // The peer saw the largest: its answer was long in coming.
        (1360, &[1400, 1500], Some(1472), None),
        // What the peer saw was smaller.
        (1360, &[1400, 1500], Some(1332), Some("WR603 the path warning")),
        // Smaller ones met silence, too: it is not about size.
        (1360, &[1200, 1280, 1400, 1500], None, None),
    ] {
        let mut session = behind_nats();
        session.check(Check { nominate: true, ..a_checks(Fate::Answered) });
        session.check(b_checks(Fate::Answered));
        session.probe(ProbeAim::Padded { length: passes }, A, B_MAPPED, Some(A_MAPPED));
        for length in lost {
            session.probe(ProbeAim::Padded { length: *length }, A, B_MAPPED, None);
        }
        if let Some(length) = seen {
            let (aim, local, remote) = ("padded".to_owned(), address(B), address(A_MAPPED));
            session.fact(Vantage::B, HostFact::ProbeSeen { aim, local, remote, length });
        }
        session.select(Vantage::A, A, B_MAPPED);
        session.select(Vantage::B, B, A_MAPPED);
        session.end(Vantage::A, EndReason::Finished);
        session.end(Vantage::B, EndReason::Finished);
        assert_eq!(finds(&session, "WR603").as_deref(), expected, "{lost:?} {seen:?}");
    }
}

#[test]
fn a_link_local_address_is_the_same_with_and_without_a_zone() {
    // Each side's sockets see the zone of its own interface, and candidates have none.
    let (a, b) = ("[fe80::a]:40000", "[fe80::b]:50000");
    let (a_zoned, b_zoned) = ("[fe80::a%3]:40000", "[fe80::b%2]:50000");
    let mut session = Session::new();
    session.candidate(Vantage::A, CandidateType::Host, a, a_zoned, None);
    session.candidate(Vantage::B, CandidateType::Host, b, b_zoned, None);
    let pairs = |vantage, local, remote| {
        let pair = Pair { transport: CandidateTransport::Udp, local: address(local), remote: address(remote) };
        let (priority, foundation, state) = (7, "1:1".to_owned(), PairState::Waiting);
        (vantage, EventKind::PairFormed { pair, priority, foundation, state })
    };
    for (vantage, kind) in [pairs(Vantage::A, a, b), pairs(Vantage::B, b, a)] {
        session.push(vantage, kind);
    }
    let check = Check { local: a, remote: b_zoned, seen_at: b, seen_from: a_zoned, ..a_checks(Fate::AnswerLost) };
    session.check(Check { transmissions: 7, ..check });
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    let report = Report::from_events(&session.events);
    assert_eq!(report.pairs.len(), 1, "{:?}", report.pairs);
    assert!(finds(&session, "WR503").is_some() && finds(&session, "WR501").is_none(), "{:?}", findings(&session));
}

#[test]
fn a_source_that_strays_by_a_rule_names_the_rule() {
    let strays = |mark: u32, rule: PolicyRule| {
        let mut way = UPLINK;
        (way.rule, way.table) = (Some(rule.priority), 200);
        let session = lost(|session| {
            session.link(Vantage::A, "eth1", None, "192.168.1.2");
            session.link(Vantage::A, "eth0", None, "192.168.2.2");
            session.rule(rule);
            for (purpose, to) in [(RoutePurpose::Server, STUN), (RoutePurpose::Peer, B_MAPPED)] {
                session.route(purpose, to, mark, Ok(way));
            }
        });
        let finding = Report::from_events(&session.events).findings.into_iter().find(|found| found.code == "WR115");
        let finding = finding.expect("it leaves by another interface");
        (finding.summary, finding.advice.join("\n"))
    };
    let (summary, advice) =
        strays(0x1BD00, PolicyRule { mark: Some(0x10000), mask: Some(0x10000), ..policy_rule(1000) });
    assert!(summary.ends_with("\"ip rule 1000: from all fwmark 0x10000/0x10000 lookup 200\" decides so"), "{summary}");
    assert!(advice.contains("ip rule add pref 999 fwmark 0x1bd00 lookup main"), "{advice}");
    let (summary, advice) = strays(0, policy_rule(1000));
    assert!(summary.contains("ip rule 1000: from all lookup 200") && !advice.contains("fwmark"), "{summary}");
    let (summary, _) = strays(0, policy_rule(32_766));
    assert!(summary.ends_with("an address of eth1, by eth0"), "{summary}");
}

#[test]
fn what_the_nats_would_allow_is_no_prediction_where_everything_gets_lost_between_them() {
    let session = failing(LOST, LOST, |_| {});
    let report = Report::from_events(&session.events);
    assert_eq!(findings(&session).first().map(String::as_str), Some("WR501 the path error"));
    assert_eq!((report.expected, report.note), (Expected::Unknown, ""));
    // Where a host is to blame, the networks do allow it.
    let refused = failing(Fate::SendRefused(1), LOST, |_| {});
    let report = Report::from_events(&refused.events);
    assert_eq!((report.expected, report.note), (Expected::Direct, "these networks should allow a direct path"));
}

#[test]
fn lost_checks_are_counted_as_the_account_counts_them() {
    let summary = |session: &Session| {
        let report = Report::from_events(&session.events);
        report.findings.into_iter().find(|found| found.code == "WR501").expect("they are lost").summary
    };
    let one = failing(LOST, Fate::Answered, |_| {});
    assert_eq!(summary(&one), format!("A sent checks to {B_MAPPED} 7 times and none reached B"));
    let other = "198.51.100.2:50001";
    let two = failing(LOST, Fate::Answered, |session| {
        session.check(Check { remote: other, transmissions: 7, ..a_checks(LOST) });
    });
    let said = summary(&two);
    assert_eq!(said, format!("A sent checks on 2 pairs, as to {B_MAPPED}, 14 times and none reached B"));
}

#[test]
fn the_round_trip_of_a_path_is_the_shortest_that_was_seen() {
    let mut session = direct();
    let before = Report::from_events(&session.events).selected_pair.and_then(|pair| pair.rtt_ms).expect("measured");
    // The first answer to A on the pair waits for a second, and everything after it on A's side.
    let answers = |event: &Event| {
        event.vantage == Vantage::A
            && matches!(&event.kind, EventKind::Datagram(datagram)
                if datagram.direction == Direction::In && datagram.remote == address(B_MAPPED) && datagram.integrity.is_some())
    };
    let first = session.events.iter().filter(|event| answers(event)).map(|event| event.seq).min().expect("an answer");
    session.check(Check { nominate: true, ..a_checks(Fate::Answered) });
    for event in session.events.iter_mut().filter(|event| event.vantage == Vantage::A && event.seq >= first) {
        event.at += Duration::from_secs(1);
    }
    let after = Report::from_events(&session.events).selected_pair.and_then(|pair| pair.rtt_ms).expect("measured");
    assert!((before - after).abs() < 5.0, "{before} and {after} ms");
}

#[test]
fn a_whyrelay_that_died_is_not_told_to_be_run() {
    let advice = |is_whyrelay: bool| {
        let mut session = failing(LOST, LOST, |session| {
            let (program, sends_recording) = ("whyrelay 0.1.0".to_owned(), is_whyrelay);
            session.push(Vantage::A, EventKind::PeerIdentified { program, sends_recording });
        });
        session.events.retain(|event| event.vantage == Vantage::A);
        let finding = Report::from_events(&session.events).findings.into_iter().find(|found| found.code == "WR505");
        finding.expect("its checks are not answered").advice
    };
    let died = advice(true);
    assert!(died[0].contains("B is whyrelay and ended before it sent its recording"), "{died:?}");
    assert!(!advice(false)[0].contains("is whyrelay and ended"), "{:?}", advice(false));
}

#[test]
fn a_missing_capability_has_advice_for_hosts_and_containers() {
    let unable = lost(|session| {
        session.application(Some(0x1BD00), true);
        session.capabilities(&["CAP_NET_RAW"], None);
    });
    let report = Report::from_events(&unable.events);
    let advice = &report.findings.iter().find(|found| found.code == "WR123").expect("it lacks it").advice;
    assert!(advice.iter().any(|line| line.contains("On a host: run it as root")), "{advice:?}");
}

/// A plain socket's direct path says nothing of a program that marks its packets.
#[test]
fn a_direct_session_that_went_without_the_applications_mark_says_that_it_did() {
    let mut session = direct();
    session.application_without(Some(0x1BD00), true, vec!["its mark 0x1bd00: it takes CAP_NET_ADMIN".into()]);
    session.capabilities(&[], None);
    let found = findings(&session);
    assert!(found.first().is_some_and(|first| first.starts_with("WR123")), "{found:?}");
    assert!(finds(&session, "WR806").is_none(), "{:?}", findings(&session));
}

#[test]
fn what_one_side_sees_of_a_server_is_not_explained_by_a_fault_of_the_other() {
    let full = |whose: Vantage| {
        failing(Fate::SendRefused(1), LOST, |session| {
            session.fact(Vantage::A, HostFact::ConntrackUse { entries: 262_144, max: 262_144 });
            session.stun(whose, if whose == Vantage::A { A } else { B }, "192.0.2.12:3478", None);
        })
    };
    assert!(finds(&full(Vantage::B), "WR301").is_some(), "{:?}", findings(&full(Vantage::B)));
    assert!(finds(&full(Vantage::A), "WR301").is_none(), "{:?}", findings(&full(Vantage::A)));
}

#[test]
fn checks_to_a_side_that_had_left_get_lost_and_that_is_no_finding_of_its_own() {
    let mut session = failing(LOST, LOST, |session| {
        let state = SignalingState::Connected { by: "websocket".into(), seen_as: None };
        session.push(Vantage::A, EventKind::Signaling { server: "http://192.0.2.10:8080".into(), state });
    });
    // A waited, and left before the description of B came.
    session.events.retain(|event| {
        let description = matches!(&event.kind, EventKind::Description { side: Side::Remote, .. });
        let after = matches!(event.kind, EventKind::Datagram(_) | EventKind::RemoteCandidate { .. });
        event.vantage == Vantage::B || !(description || after)
    });
    let codes: Vec<_> = findings(&session).iter().map(|found| found[..5].to_owned()).collect();
    assert!(codes.contains(&"WR702".to_owned()) && !codes.contains(&"WR501".to_owned()), "{codes:?}");
}

#[test]
fn a_mark_that_leads_ipv4_astray_is_named_although_ipv6_works() {
    let mut session = crate::cases::astray(Some("203.0.113.1:40001"));
    let own = "[2001:db8:a::1]:40000";
    session.stun(Vantage::A, own, "[2001:db8:ffff::1]:3478", Some(own));
    assert_eq!(findings(&session).first().map(String::as_str), Some("WR106 A error"), "{:?}", findings(&session));
    assert!(finds(&session, "WR301").is_none(), "{:?}", findings(&session));
}
