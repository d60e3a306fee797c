//! What an account names where there are several to choose from.

use whyrelay_core::ice::candidate::{CandidateTransport, CandidateType};
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{Direction, DtlsState, EndReason, EventKind, Pair, PairState, Vantage};
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::stun::{Class, MessageBuilder, Method};

use crate::builder::{Check, Fate, Session, address};
use crate::report::{A, A_MAPPED, B, B_MAPPED, RELAYED, STUN, a_checks, b_checks, behind_nats};

/// Severity and summary of the findings with a code.
pub(crate) fn said(session: &Session, code: &str) -> Vec<(String, String)> {
    let report = Report::from_events(&session.events);
    let found = report.findings.iter().filter(|finding| finding.code == code);
    found.map(|finding| (finding.severity.name().to_owned(), finding.summary.clone())).collect()
}

/// Two sides behind NATs whose checks between link-local addresses, of higher priority than the others, are lost.
fn link_local_lost() -> Session {
    let (near_a, near_b) = ("[fe80::a]:40000", "[fe80::b]:50000");
    let mut session = behind_nats();
    session.candidate(Vantage::A, CandidateType::Host, near_a, near_a, None);
    session.candidate(Vantage::B, CandidateType::Host, near_b, near_b, None);
    for (vantage, local, remote) in [(Vantage::A, near_a, near_b), (Vantage::B, near_b, near_a)] {
        let pair = Pair { transport: CandidateTransport::Udp, local: address(local), remote: address(remote) };
        let (priority, foundation, state) = (u64::MAX, "1:1".to_owned(), PairState::Waiting);
        session.push(vantage, EventKind::PairFormed { pair, priority, foundation, state });
    }
    session.check(Check { local: near_a, remote: near_b, ..a_checks(Fate::LostOnTheWay) });
    session.check(Check { local: near_b, remote: near_a, ..b_checks(Fate::LostOnTheWay) });
    session
}

#[test]
fn the_pair_that_should_have_worked_is_named_before_a_link_local_one() {
    let mut session = link_local_lost();
    session.check(a_checks(Fate::LostOnTheWay));
    session.check(b_checks(Fate::LostOnTheWay));
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    let [(_, summary)] = &said(&session, "WR501")[..] else { panic!("{:?}", said(&session, "WR501")) };
    assert!(summary.contains(&format!("on 2 pairs, as to {B_MAPPED},")), "{summary}");
    assert!(summary.contains(&format!("sent on 2 pairs, as to {A_MAPPED},")), "{summary}");
}

#[test]
fn link_local_checks_that_are_lost_say_nothing_where_another_pair_works() {
    let mut session = link_local_lost();
    session.check(Check { nominate: true, ..a_checks(Fate::Answered) });
    session.check(b_checks(Fate::Answered));
    session.select(Vantage::A, A, B_MAPPED);
    session.select(Vantage::B, B, A_MAPPED);
    session.push(Vantage::A, EventKind::Dtls { state: DtlsState::Failed { detail: "timed out".into() } });
    session.end(Vantage::A, EndReason::Failed);
    session.end(Vantage::B, EndReason::Failed);
    assert_eq!(said(&session, "WR501"), []);
    let first = &Report::from_events(&session.events).findings[0];
    assert_eq!((first.code, first.severity.name()), ("WR602", "error"));
}

/// The server refuses A permission for an address.
fn refuse(session: &mut Session, vantage: Vantage, local: &str, server: &str, peer: &str) {
    let id = session.id();
    let request = MessageBuilder::new(Class::Request, Method::CREATE_PERMISSION, id)
        .xor_address(AttributeType::XOR_PEER_ADDRESS, address(peer))
        .build();
    session.datagram(vantage, Direction::Out, local, server, &request, None);
    let answer = MessageBuilder::new(Class::Error, Method::CREATE_PERMISSION, id).error(403, "no").build();
    session.datagram(vantage, Direction::In, local, server, &answer, None);
}

#[test]
fn what_relays_refuse_is_one_finding_in_a_healthy_account() {
    let mut session = behind_nats();
    session.allocate(Vantage::A, A, STUN, RELAYED, A_MAPPED, B_MAPPED);
    session.allocate(Vantage::B, B, STUN, "192.0.2.10:60001", B_MAPPED, A_MAPPED);
    let (a6, server6) = ("[2001:db8::a]:40000", "[2001:db8::10]:3478");
    session.allocate(Vantage::A, a6, server6, "[2001:db8::10]:60002", a6, "[2001:db8::b]:1");
    refuse(&mut session, Vantage::A, A, STUN, B);
    refuse(&mut session, Vantage::B, B, STUN, A);
    refuse(&mut session, Vantage::A, a6, server6, "[fd00::1]:1");
    // A public address is one that somebody could be meant to reach; here nobody needs it.
    refuse(&mut session, Vantage::A, A, STUN, "198.51.100.99:1");
    session.check(Check { nominate: true, ..a_checks(Fate::Answered) });
    session.check(b_checks(Fate::Answered));
    session.select(Vantage::A, A, B_MAPPED);
    session.select(Vantage::B, B, A_MAPPED);
    session.end(Vantage::A, EndReason::Finished);
    session.end(Vantage::B, EndReason::Finished);
    let expected = "192.0.2.10:3478 and [2001:db8::10]:3478 refuse A to relay to 10.0.0.2 and 2 more (403), and B to relay to 192.168.1.2 (403)";
    assert_eq!(said(&session, "WR403"), [("info".to_owned(), expected.to_owned())]);
}
