//! A port that relays see and the servers do not: does the NAT map by destination, or had an early packet taken the port?

use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{Datagram, Direction, EndReason, EventKind, Transport, Vantage};

use crate::builder::{Check, Fate, Session, address};
use crate::cases::STUN_2;
use crate::cases::network::send_by_relay;
use crate::report::{A, A_MAPPED, B, B_MAPPED, RELAYED, STUN, a_checks, b_checks, behind_nats};

const SECOND: &str = "192.0.2.10:60002";
const ONE: &str = "198.51.100.2:17644";
const OTHER: &str = "198.51.100.2:7704";

/// What two relays of A see of B, and what came before.
#[derive(Clone, Copy, Debug)]
struct Seen<'a> {
    /// The address that each relay sees.
    at: [&'a str; 2],
    /// Whether A had sent from that relay to the address that the server told B.
    early: [bool; 2],
    /// Whether A had sent there from its own socket.
    direct: bool,
    /// Whether B's router refused that.
    refused: bool,
    /// Whether A had sent from the second relay to what the first had seen, before B sent to the second.
    ahead: bool,
    /// Whether a probe of A had gone there by then, of which nothing is known yet.
    probed: bool,
    /// Whether a second server tells B the same as the first.
    two_servers: bool,
}

const SEEN: Seen<'_> = Seen {
    at: [ONE, ONE],
    early: [false; 2],
    direct: true,
    refused: true,
    ahead: false,
    probed: false,
    two_servers: false,
};

fn session(seen: Seen<'_>) -> Session {
    let mut session = behind_nats();
    if seen.two_servers {
        session.stun(Vantage::B, B, STUN_2, Some(B_MAPPED));
    }
    if seen.direct {
        session.check(Check { transmissions: 7, ..a_checks(Fate::LostOnTheWay) });
    }
    if seen.refused {
        let (local, remote) = (address(A), address(B_MAPPED));
        let (offender, icmp_type, icmp_code, errno) = (Some(remote.ip()), 3, 3, 111);
        session.push(Vantage::A, EventKind::IcmpError { local, remote, offender, icmp_type, icmp_code, errno });
    }
    let sockets = [(A, A_MAPPED, RELAYED), ("192.168.1.2:40001", "203.0.113.1:40001", SECOND)];
    for (position, (socket, mapped, relayed)) in sockets.into_iter().enumerate() {
        session.allocate(Vantage::A, socket, STUN, relayed, mapped, seen.at[position]);
        session.candidate(Vantage::A, CandidateType::Relayed, relayed, relayed, Some("turn:192.0.2.10:3478"));
        if seen.early[position] {
            send_by_relay(&mut session, socket, B_MAPPED);
        }
        if position == 1 && seen.ahead {
            send_by_relay(&mut session, socket, seen.at[0]);
        }
        if position == 1 && seen.probed {
            let (local, remote) = (address("192.168.1.2:61000"), address(seen.at[0]));
            let (direction, transport, interface) = (Direction::Out, Transport::Udp, None);
            let sent = Datagram {
                direction,
                transport,
                local,
                remote,
                interface,
                length: 20,
                data: vec![0; 20],
                integrity: None,
            };
            session.push(Vantage::A, EventKind::ProbeDatagram(sent));
        }
        session.relayed_check(Vantage::B, socket, STUN, relayed, (B, seen.at[position]), position == 0);
        // What comes after says nothing.
        send_by_relay(&mut session, socket, B_MAPPED);
    }
    session.check(Check { transmissions: 7, ..b_checks(Fate::LostOnTheWay) });
    if !seen.direct {
        session.check(Check { transmissions: 7, ..a_checks(Fate::LostOnTheWay) });
    }
    session.select(Vantage::A, RELAYED, seen.at[0]);
    session.select(Vantage::B, B, RELAYED);
    session.end(Vantage::A, EndReason::Finished);
    session.end(Vantage::B, EndReason::Finished);
    session
}

#[test]
fn another_port_is_laid_to_the_mapping_only_where_no_early_packet_explains_it() {
    let (quiet, both) = (Seen { refused: false, ..SEEN }, Seen { at: [ONE, OTHER], ..SEEN });
    for (case, seen, expected) in [
        ("one port, nobody had sent anything", Seen { direct: false, ..quiet }, Some("WR201")),
        ("one port, and the router refused nothing", quiet, Some("WR201")),
        ("one port, that the peer itself had taken", SEEN, Some("WR202")),
        ("one port, that the peer or its relay had taken", Seen { early: [true; 2], ..SEEN }, Some("WR202")),
        ("one port, that only the relay may have taken", Seen { direct: false, early: [true; 2], ..quiet }, None),
        ("one port, and the first relay had sent there", Seen { at: [ONE, B_MAPPED], early: [true; 2], ..quiet }, None),
        ("two ports, of which the second relay had taken none", Seen { early: [true, false], ..both }, Some("WR201")),
        ("two ports, of which the first relay had taken none", Seen { early: [false, true], ..both }, Some("WR201")),
        ("two ports, and the router refused nothing", Seen { refused: false, early: [true; 2], ..both }, Some("WR201")),
        ("two ports, whoever had sent there", Seen { early: [true; 2], ..both }, Some("WR201")),
        ("two ports, and the second relay was ahead at the first", Seen { ahead: true, ..both }, Some("WR202")),
        ("two ports, and a probe was ahead at the first", Seen { probed: true, ..both }, Some("WR202")),
        ("two ports, and two servers tell one", Seen { two_servers: true, ..both }, Some("WR201")),
        ("one port, and two servers tell one", Seen { two_servers: true, ..SEEN }, Some("WR202")),
    ] {
        let report = Report::from_events(&session(seen).events);
        let loud = report.findings.iter().filter(|finding| finding.severity.name() == "warning");
        let found: Vec<_> = loud.map(|finding| (finding.code, finding.blame.name())).collect();
        let expected: Vec<_> = expected.into_iter().map(|code| (code, "B")).collect();
        assert_eq!(found, expected, "{case}: {:#?}", report.findings);
        let unknown = report.not_measured.iter().any(|missing| missing.why.starts_with("why the NAT of B maps"));
        assert_eq!(unknown, expected.is_empty(), "{case}: {:?}", report.not_measured);
    }
}

#[test]
fn two_other_ports_are_both_named() {
    let report = Report::from_events(&session(Seen { at: [ONE, OTHER], ..SEEN }).events);
    assert_eq!(
        report.findings[0].summary,
        format!(
            "The NAT of B maps {B} to {B_MAPPED} towards {STUN}, to {ONE} towards the relay of A ({RELAYED}) and to {OTHER} towards the relay of A ({SECOND})"
        )
    );
}

#[test]
fn an_opener_that_got_as_far_as_the_router_is_told_of() {
    let tried = |checked_before: bool| {
        let mut session = behind_nats();
        session.tried("a packet of TTL 2 ahead of the checks");
        if checked_before {
            session.check(a_checks(Fate::LostOnTheWay));
        }
        let (local, remote) = (address(A), address(B_MAPPED));
        let (offender, icmp_type, icmp_code, errno) = (Some(remote.ip()), 3, 3, 111);
        session.push(Vantage::A, EventKind::IcmpError { local, remote, offender, icmp_type, icmp_code, errno });
        session.check(Check { transmissions: 7, ..a_checks(Fate::LostOnTheWay) });
        session.fail(Vantage::A);
        session.fail(Vantage::B);
        Report::from_events(&session.events).tried
    };
    let ends_early = "A: a packet of TTL 2 ahead of the checks";
    let too_far = "; it got as far as 198.51.100.2, which refused it (port unreachable): where that is the router of B, it was itself an early packet there";
    assert_eq!(tried(false), [format!("{ends_early}{too_far}")]);
    assert_eq!(tried(true), [ends_early], "it may have been a check that was refused");
}
