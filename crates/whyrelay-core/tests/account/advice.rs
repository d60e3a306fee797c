//! Advice that fits what was seen: it can be followed as it stands, and does not name what is there already.

use whyrelay_core::diagnosis::finding::{Effect, Finding};
use whyrelay_core::host::{HostFact, PolicyRule, Probe, ProbeAim, ProbeOutcome, RoutePurpose, RuleAction};
use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::report::{CheckReport, Report};
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::{
    BY_PORT_MAPPING, EndReason, Event, EventKind, RefuseReason, ServerFailure, SessionOptions, Side, Vantage,
};
use whyrelay_core::trace::measurement::{Measurement, PortMapperProtocol};

use crate::builder::{Check, Fate, Session, address};
use crate::cases::facts::{UPLINK, policy_rule};
use crate::cases::{STUN_2, easy_nats, failing, lost};
use crate::report::{A, A_MAPPED, B, B_MAPPED, STUN, a_checks, b_checks, behind_nats, direct};

const LOST: Fate = Fate::LostOnTheWay;

fn found(session: &Session, code: &str) -> Finding {
    let findings = Report::from_events(&session.events).findings;
    let named = findings.iter().find(|finding| finding.code == code);
    named.cloned().unwrap_or_else(|| panic!("no {code}: {findings:#?}"))
}

/// The commands were run on a router between real kernels: with them a session is direct that was relayed, whether the
/// router accepts unsolicited packets or rejects them, and the undo takes all of it back.
#[test]
fn what_drops_early_packets_is_a_table_of_its_own() {
    let session = lost(|session| {
        session.check(Check { seen_from: "203.0.113.1:45595", ..a_checks(Fate::AnswerLost) });
    });
    let finding = found(&session, "WR202");
    let drop = finding.remedies.first().expect("a remedy");
    assert_eq!(drop.effect, Effect::ChangesFirewall);
    assert_eq!(
        drop.commands,
        [
            "nft add table ip whyrelay",
            "nft 'add chain ip whyrelay early { type filter hook input priority -5; }'",
            "nft add rule ip whyrelay early ip daddr 203.0.113.1 udp dport 1024-65535 ct state new drop",
        ]
    );
    assert!(drop.text.contains("undo: nft delete table ip whyrelay"), "{}", drop.text);
    let advice = finding.advice.join("\n");
    assert!(!advice.contains("different ports") && !advice.contains("inet filter"), "{advice}");
    assert!(advice.contains("--try opener") && advice.contains("forward a UDP port"), "{advice}");
}

/// A's NAT maps by destination, B's as well; `facts` come before the end.
fn both_dependent(docker: bool, facts: impl FnOnce(&mut Session)) -> Session {
    let mut session = Session::new();
    if docker {
        let bridge = "172.17.0.1:41234";
        session.candidate_on(Vantage::A, bridge, "docker0");
        session.stun(Vantage::A, bridge, STUN, Some("203.0.113.1:5555"));
    }
    for (vantage, local, mapped, other) in
        [(Vantage::A, A, A_MAPPED, "203.0.113.1:61234"), (Vantage::B, B, B_MAPPED, "198.51.100.2:61235")]
    {
        session.stun(vantage, local, STUN, Some(mapped));
        session.stun(vantage, local, STUN_2, Some(other));
        session.candidate(vantage, CandidateType::Host, local, local, None);
        session.candidate(vantage, CandidateType::ServerReflexive, mapped, local, Some("stun:192.0.2.10:3478"));
    }
    session.check(Check { transmissions: 7, ..a_checks(LOST) });
    facts(&mut session);
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    session
}

#[test]
fn the_port_to_forward_is_not_that_of_a_bridge_to_guests() {
    for docker in [false, true] {
        let session = both_dependent(docker, |session| session.check(Check { transmissions: 7, ..b_checks(LOST) }));
        let ways = Report::from_events(&session.events).would_allow_direct;
        assert!(ways.iter().any(|way| way.contains("a forward of UDP port 40000 to A")), "{ways:?}");
        assert!(!ways.iter().any(|way| way.contains("41234")), "{ways:?}");
    }
}

#[test]
fn a_forward_that_is_there_is_not_advised() {
    // B's check came in by the port that a server told, although A has another one for everybody: that one is forwarded.
    let forwarded =
        both_dependent(false, |session| session.check(Check { transmissions: 3, ..b_checks(Fate::AnswerLost) }));
    let tried = |made: bool| {
        let mut session = both_dependent(false, |session| {
            session.check(Check { transmissions: 7, ..b_checks(LOST) });
            let (protocol, found) = (PortMapperProtocol::Pcp, true);
            let said = Measurement::PortMapper { protocol, gateway: None, found, external: None, detail: None };
            session.push(Vantage::A, EventKind::Measured(said));
            if made {
                let (kind, external) = (CandidateType::ServerReflexive, "203.0.113.1:40000");
                session.local_candidate(Vantage::A, kind, external, A, Some(BY_PORT_MAPPING));
            }
        });
        session.tried("a port mapping by the router, removed at the end");
        session
    };
    for session in [forwarded, tried(true)] {
        let ways = Report::from_events(&session.events).would_allow_direct;
        let of_a: Vec<_> = ways.iter().filter(|way| way.contains("router of A")).collect();
        assert!(of_a.iter().all(|way| !way.contains("forward")), "{ways:?}");
        let finding = found(&session, "WR201");
        assert_eq!(finding.blame.name(), "A");
        let advice = finding.advice.join("\n");
        assert!(!advice.contains("Forward a port") && advice.contains("static-port"), "{advice}");
    }
    // Where none is there it is advised, with what it takes for a peer to hear of it; a router that speaks PCP and made no
    // mapping leads nothing in.
    let none = both_dependent(false, |session| session.check(Check { transmissions: 7, ..b_checks(LOST) }));
    for session in [none, tried(false)] {
        let advice = found(&session, "WR201").advice;
        assert!(
            advice.iter().any(|line| line.contains("Forward a port") && line.contains("--try mapping")),
            "{advice:?}"
        );
        let ways = Report::from_events(&session.events).would_allow_direct;
        assert!(ways.iter().any(|way| way.contains("a forward of UDP port 40000 to A")), "{ways:?}");
    }
}

/// Two networks on the inside of one NAT: between them something lets the packets of one direction through.
#[test]
fn behind_one_nat_the_direction_that_is_blocked_is_told() {
    let (a, b) = ("192.168.1.2:40000", "192.168.2.3:50000");
    let session = |back: Option<Fate>| {
        let mut session = Session::new();
        for (vantage, local, mapped) in [(Vantage::A, a, "203.0.113.1:40000"), (Vantage::B, b, "203.0.113.1:50000")] {
            for server in [STUN, STUN_2] {
                session.stun(vantage, local, server, Some(mapped));
            }
            session.candidate(vantage, CandidateType::Host, local, local, None);
            session.candidate(vantage, CandidateType::ServerReflexive, mapped, local, None);
        }
        session.check(Check { remote: b, transmissions: 7, ..a_checks(LOST) });
        session.check(Check { remote: "203.0.113.1:50000", transmissions: 7, ..a_checks(LOST) });
        if let Some(fate) = back {
            let to_a = Check { local: b, remote: a, seen_at: a, seen_from: b, transmissions: 7, ..b_checks(fate) };
            session.check(to_a);
        }
        session.check(Check { local: b, remote: "203.0.113.1:40000", transmissions: 7, ..b_checks(LOST) });
        session.fail(Vantage::A);
        session.fail(Vantage::B);
        session
    };
    for (back, words, advised) in [
        (Some(Fate::AnswerLost), "on its inside B reaches A, and nothing of A reaches B, and it does not turn", true),
        (Some(LOST), "they do not reach each other on its inside, and", false),
        (None, "A does not reach B on its inside (B did not try the other way there), and", false),
    ] {
        let finding = found(&session(back), "WR204");
        assert!(finding.summary.contains(words), "{back:?}: {}", finding.summary);
        let of_direction = finding.advice[0].contains("let UDP from 192.168.1.2 (A) through to 192.168.2.3 (B)");
        assert_eq!(of_direction, advised, "{:?}", finding.advice);
    }
}

/// A direct session in which large packets of these sides get lost.
fn black_hole(ways: &[Vantage], tried: &[Vantage]) -> Session {
    let mut session = easy_nats();
    session.link(Vantage::A, "eth0", None, "192.168.1.2");
    session.check(Check { nominate: true, ..a_checks(Fate::Answered) });
    session.check(b_checks(Fate::Answered));
    session.select(Vantage::A, A, B_MAPPED);
    session.select(Vantage::B, B, A_MAPPED);
    for side in tried {
        let (local, remote) = if *side == Vantage::A { (A, B_MAPPED) } else { (B, A_MAPPED) };
        for length in [1280, 1400, 1500] {
            let result = match length > 1280 && ways.contains(side) {
                true => ProbeOutcome::Silent,
                false => ProbeOutcome::Answered { mapped: None, round_trip_us: 20_000 },
            };
            let (aim, local, remote) = (ProbeAim::Padded { length }, address(local), address(remote));
            session.fact(*side, HostFact::Probe(Probe { aim, local, remote, transmissions: 6, result }));
        }
    }
    session.end(Vantage::A, EndReason::Finished);
    session.end(Vantage::B, EndReason::Finished);
    session
}

const BOTH: [Vantage; 2] = [Vantage::A, Vantage::B];

#[test]
fn whose_large_packets_get_lost_is_who_sends_smaller_ones() {
    let one = found(&black_hole(&[Vantage::A], &BOTH), "WR603");
    assert!(one.summary.contains("those of 1500 bytes from B to A are: it is about what A sends"), "{}", one.summary);
    let first = &one.remedies[0];
    assert!(
        first.text.starts_with("On A, whose packets get lost") && first.text.contains("that of B need not"),
        "{}",
        first.text
    );
    assert_eq!(first.commands, ["ip link set dev eth0 mtu 1280"]);
    assert!(!one.advice.iter().any(|line| line.contains("dev DEV")), "{:?}", one.advice);
    // What goes to the signaling server tells of the own link.
    for (from_a, from_b, words) in [
        (true, true, Some("so it is not the link of A")),
        (false, true, Some("it is on the side of A")),
        (false, false, None),
    ] {
        let mut session = black_hole(&[Vantage::A], &BOTH);
        for (side, local, arrives) in [(Vantage::A, A, from_a), (Vantage::B, B, from_b)] {
            let result = match arrives {
                true => ProbeOutcome::Answered { mapped: None, round_trip_us: 900 },
                false => ProbeOutcome::Silent,
            };
            let (aim, local, remote) = (ProbeAim::Segment { length: 1500 }, address(local), address("192.0.2.10:8080"));
            session.fact(side, HostFact::Probe(Probe { aim, local, remote, transmissions: 4, result }));
        }
        let said = found(&session, "WR603").summary;
        let told =
            ["so it is not the link of A", "it is on the side of A"].into_iter().find(|words| said.contains(words));
        assert_eq!(told, words, "{said}");
    }
    let other = found(&black_hole(&[Vantage::B], &BOTH), "WR603");
    assert!(other.remedies[0].text.starts_with("On B, whose"), "{:?}", other.remedies);
    let both = Report::from_events(&black_hole(&BOTH, &BOTH).events).findings;
    let said: Vec<_> = both.iter().filter(|found| found.code == "WR603").map(|found| &found.remedies[0].text).collect();
    assert!(said.len() == 2 && said[0].starts_with("On A") && said[1].starts_with("On B"), "{said:?}");
    assert!(both.iter().all(|found| !found.summary.contains("it is about what")), "{both:?}");
}

/// Each way is by itself, and one that nobody tried again is not mended.
#[test]
fn a_proof_tells_of_each_way_in_which_large_packets_get_lost() {
    let prove = |before: &Session, now: &Session| {
        let mut report = Report::from_events(&now.events);
        report.prove(&before.events, &now.events);
        report.proof.expect("a proof")
    };
    let codes = |list: &[whyrelay_core::report::Compared]| {
        let of = list.iter().filter(|found| found.code == "WR603");
        of.map(|found| found.summary.split(" to ").next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let [from_a, from_b] = ["A", "B"].map(|side| format!("Packets of 1280 bytes from {side}"));
    let before = black_hole(&BOTH, &BOTH);
    let half = prove(&before, &black_hole(&[Vantage::B], &BOTH));
    assert_eq!((codes(&half.gone), codes(&half.left)), (vec![from_a.clone()], vec![from_b.clone()]), "{half:?}");
    assert!(
        !half.fixed && half.summary.contains("gone: WR603") && half.summary.contains("left: WR603"),
        "{}",
        half.summary
    );
    let whole = prove(&before, &black_hole(&[], &BOTH));
    assert!(whole.fixed && codes(&whole.gone).len() == 2, "{whole:?}");
    // Nobody asked again: the session is direct as it was before.
    for tried in [&[][..], &[Vantage::A]] {
        let untried = prove(&before, &black_hole(&[], tried));
        assert!(!untried.fixed, "{tried:?}: {untried:?}");
        assert!(codes(&untried.not_measured).contains(&from_b), "{tried:?}: {untried:?}");
    }
    // The other way came up meanwhile.
    let turned = prove(&black_hole(&[Vantage::A], &BOTH), &black_hole(&[Vantage::B], &BOTH));
    assert_eq!((codes(&turned.gone), codes(&turned.new)), (vec![from_a], vec![from_b]), "{turned:?}");
}

/// What a rule does to a mark is mended by the same commands, whether a session finds the rule or only that the application
/// fares worse.
#[test]
fn the_commands_against_a_rule_that_takes_a_mark_are_the_same_for_a_check() {
    let facts = |session: &mut Session, purpose| {
        session.application(Some(0x1BD00), true);
        session.profile(true, 0x1BD00);
        session.profile(false, 0);
        session.rule(PolicyRule {
            rule_action: RuleAction::Blackhole,
            table: None,
            mark: Some(0x1BD00),
            mask: Some(0x1FF00),
            ..policy_rule(100)
        });
        let to = if purpose == RoutePurpose::Server { STUN } else { B_MAPPED };
        session.route(purpose, to, 0x1BD00, Err(22));
        session.probe_route(purpose, to, 0, Ok(UPLINK));
    };
    let session = failing(Fate::SendRefused(22), LOST, |session| {
        session.route(RoutePurpose::Peer, B_MAPPED, 0, Ok(UPLINK));
        facts(session, RoutePurpose::Peer);
    });
    let of_session = found(&session, "WR106");
    let mut alone = Session::new();
    alone.events.clear();
    alone.push(Vantage::A, EventKind::CheckStarted { consents: Vec::new() });
    facts(&mut alone, RoutePurpose::Server);
    for (as_application, answers) in [(false, 2), (true, 0)] {
        alone.fact(
            Vantage::A,
            HostFact::ProfileTally(whyrelay_core::host::ProfileTally {
                as_application,
                pairs_checked: 0,
                pairs_answered: 0,
                server_requests: 2,
                server_answers: answers,
                sends_refused: 0,
            }),
        );
    }
    let events: Vec<Event> =
        (0..).zip(alone.events).map(|(seq, event)| Event { seq, at: Timestamp::from_micros(seq), ..event }).collect();
    let report = CheckReport::from_events(&events);
    let of_check = report.findings.iter().find(|found| matches!(found.code, "WR126" | "WR106"));
    let of_check = of_check.unwrap_or_else(|| panic!("{:#?}", report.findings));
    // But for the address, which is a server's there, and the remedies that are the rule's own.
    let commands = |finding: &Finding| {
        let of = finding.remedies.iter().flat_map(|remedy| remedy.commands.clone());
        of.filter(|command| !command.contains("route get")).collect::<Vec<_>>()
    };
    assert_eq!(commands(of_check), commands(&of_session), "{of_check:#?}");
    assert!(commands(of_check).iter().any(|command| command.contains("fwmark 0x1bd00 lookup main")), "{of_check:#?}");
    let asks = of_check.remedies.iter().flat_map(|remedy| &remedy.commands).filter(|line| line.contains("route get"));
    assert_eq!(asks.count(), 2, "with the mark and without: {of_check:#?}");
}

/// With --relay-only, why there is no relayed candidate.
#[test]
fn a_session_that_may_only_relay_says_why_it_cannot() {
    let session = |failures: &[(&str, ServerFailure)], relayed: bool| {
        let mut session = Session::with_options(SessionOptions { relay_only: true, ..SessionOptions::default() });
        for side in BOTH {
            session.push(side, EventKind::ServerKnown { url: "turn:192.0.2.10:3478".to_owned(), announced: false });
        }
        for (server, failure) in failures {
            let (server, method, failure) = ((*server).to_owned(), "Allocate".to_owned(), failure.clone());
            session.push(Vantage::A, EventKind::ServerFailed { server, local: None, method, failure });
        }
        if relayed {
            session.local_candidate(Vantage::A, CandidateType::Relayed, "192.0.2.10:60000", "192.0.2.10:60000", None);
        }
        session.push(Vantage::A, EventKind::EndOfCandidates { side: Side::Local });
        session.fail(Vantage::A);
        session.fail(Vantage::B);
        found(&session, "WR801").summary
    };
    let refused =
        || ServerFailure::ErrorResponse { code: 486, reason: "Allocation Quota Reached".into(), expected: false };
    let first = || ServerFailure::ErrorResponse { code: 401, reason: "Unauthorized".into(), expected: true };
    let silent = || ServerFailure::Timeout { transmissions: 5, took_us: 2_500_000 };
    let closed = || ServerFailure::ConnectionFailed { detail: "Connection refused (os error 111)".into() };
    for (failures, words) in [
        (
            vec![("turn:r.example", first()), ("turn:r.example", refused())],
            "turn:r.example refuses (486 Allocation Quota Reached)",
        ),
        (vec![("turn:r.example", silent())], "turn:r.example answers none of 5 requests"),
        (
            vec![("turn:r.example", silent()), ("turns:r.example", closed())],
            "turn:r.example answers none of 5 requests, turns:r.example cannot be connected to (Connection refused (os error 111))",
        ),
        (
            vec![("turn:r.example", ServerFailure::NoCredentials)],
            "turn:r.example asks for a user name and password, and none are known",
        ),
        // That of a STUN server says nothing of a relay.
        (vec![("stun:r.example", silent())], "A got no relayed address, and no TURN server had said why"),
    ] {
        let said = session(&failures, false);
        assert!(
            said.contains(&format!("; A has no relayed candidate: {words}")) || said.contains(&format!("; {words}")),
            "{said}"
        );
    }
    assert!(!session(&[("turn:r.example", silent())], true).contains("A has no relayed"));
}

/// A name that did no harm needs no mending.
#[test]
fn a_direct_session_with_a_browser_advises_nothing_about_its_hidden_address() {
    let named = |session: &mut Session| {
        let line = "candidate:1 1 udp 2122260223 8b7f3a0e.local 50000 typ host".to_owned();
        let reason = RefuseReason::Unresolved { detail: "no such name".into() };
        session.push(Vantage::A, EventKind::RemoteCandidateRefused { line, reason });
    };
    let mut session = behind_nats();
    named(&mut session);
    for event in direct().events.into_iter().skip(behind_nats().events.len()) {
        session.push(event.vantage, event.kind);
    }
    let harmless = found(&session, "WR512");
    assert_eq!((harmless.severity.name(), harmless.advice.len()), ("info", 1), "{harmless:?}");
    assert!(harmless.advice[0].starts_with("Nothing: the path is direct"), "{:?}", harmless.advice);
    // One that is all there is does harm, and is mended on the page.
    let mut only = Session::new();
    only.candidate(Vantage::A, CandidateType::Host, A, A, None);
    named(&mut only);
    only.fail(Vantage::A);
    only.fail(Vantage::B);
    let advice = found(&only, "WR512").advice;
    assert!(advice.iter().any(|line| line.contains("STUN server")), "{advice:?}");
}

#[test]
fn an_authoritys_certificate_as_a_servers_own_is_told_as_that() {
    let with = |server: &str, detail: &str| {
        failing(LOST, LOST, |session| {
            let failure = ServerFailure::ConnectionFailed { detail: detail.into() };
            let (server, method) = (server.to_owned(), "Allocate".to_owned());
            session.push(Vantage::A, EventKind::ServerFailed { server, local: None, method, failure });
        })
    };
    let authority = "invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))";
    let in_words = "the server shows the certificate of an authority (CA:TRUE) as its own: make one of its own";
    for (server, name, authority) in [
        ("turns:relay.example", "DNS:relay.example", authority),
        ("turns:relay.example", "DNS:relay.example", in_words),
        ("turns:192.0.2.10:5349", "IP:192.0.2.10", authority),
    ] {
        let finding = found(&with(server, authority), "WR409");
        assert!(finding.summary.contains("the certificate is an authority's (CA:TRUE)"), "{}", finding.summary);
        let command = finding.remedies[0].commands.first().expect("a command");
        assert!(command.contains("CA:FALSE") && command.contains(&format!("subjectAltName={name} ")), "{command}");
        assert!(!finding.advice.iter().any(|line| line.contains("fullchain")), "{:?}", finding.advice);
    }
    let other = found(&with("turns:relay.example", "invalid peer certificate: UnknownIssuer"), "WR409");
    assert!(other.advice.iter().any(|line| line.contains("fullchain")), "{:?}", other.advice);
}

/// Servers at two addresses show that a mapping depends on the address at least; two ports of one of them show the rest.
#[test]
fn how_a_nat_maps_is_told_as_far_as_it_was_seen() {
    use whyrelay_core::nat::behavior::MappingBehavior;
    let value = |control: Option<&str>| {
        let local = address(A);
        let mut facts = vec![Measurement::Mapping {
            local,
            behavior: MappingBehavior::AddressDependent,
            exact: false,
            mapped: address(A_MAPPED),
            destinations: vec![address(STUN), address(STUN_2)],
        }];
        facts.extend(control.map(|control| Measurement::EarlyArrival {
            local,
            remote: address("192.0.2.10:52000"),
            mapped: address(A_MAPPED),
            observed: address(control),
            control: address(control),
            arrived: false,
        }));
        let kinds = std::iter::once(EventKind::CheckStarted { consents: Vec::new() })
            .chain(facts.into_iter().map(EventKind::Measured));
        let event = |(seq, kind)| Event { seq, at: Timestamp::from_micros(seq), vantage: Vantage::A, kind };
        let report = CheckReport::from_events(&(0..).zip(kinds).map(event).collect::<Vec<_>>());
        let row = report.rows.into_iter().find(|row| row.name == "mapping").expect("a row");
        row.value
    };
    assert_eq!(value(None), "address-dependent at least: no two ports of one server were compared");
    assert_eq!(value(Some("203.0.113.1:7777")), "address-and-port-dependent");
    assert_eq!(value(Some(A_MAPPED)), "address-dependent");
}
