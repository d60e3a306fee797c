//! What is blamed, or advised, only where nothing else may be the reason.

use whyrelay_core::diagnosis::finding::{Finding, Severity};
use whyrelay_core::host::{HostFact, NeighborState, OwnPacket, ProbeAim, Route, RouteKind, RoutePurpose};
use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{EventKind, Vantage};
use whyrelay_core::trace::measurement::Measurement;

use crate::builder::{Check, Fate, Session, address};
use crate::cases::STUN_2;
use crate::cases::facts::{UPLINK, bare_route, everywhere};
use crate::report::{A, A_MAPPED, B, B_MAPPED, STUN, a_checks, b_checks};

const LOST: Fate = Fate::LostOnTheWay;
const PUBLIC: &str = "198.51.100.9:50000";
const OWN: &str = "203.0.113.9:40000";

fn findings(session: &Session) -> Vec<Finding> {
    Report::from_events(&session.events).findings
}

fn varying(session: &Session) -> Finding {
    let found = findings(session).into_iter().find(|finding| finding.code == "WR201");
    found.unwrap_or_else(|| panic!("no WR201: {:#?}", findings(session)))
}

fn advised(session: &Session, start: &str) -> bool {
    findings(session).iter().any(|found| found.advice.iter().any(|line| line.starts_with(start)))
}

/// A is behind a NAT that gives each destination another port.
fn varies_at_a(session: &mut Session) {
    session.stun(Vantage::A, A, STUN, Some(A_MAPPED));
    session.stun(Vantage::A, A, STUN_2, Some("203.0.113.1:41111"));
    session.candidate(Vantage::A, CandidateType::Host, A, A, None);
    session.candidate(Vantage::A, CandidateType::ServerReflexive, A_MAPPED, A, None);
}

/// Nothing of A comes to B, which has a public address.
fn closed_in_front_of_b(looked: bool, facts: impl FnOnce(&mut Session)) -> Session {
    let mut session = Session::new();
    varies_at_a(&mut session);
    for server in [STUN, STUN_2] {
        session.stun(Vantage::B, PUBLIC, server, Some(PUBLIC));
    }
    session.candidate(Vantage::B, CandidateType::Host, PUBLIC, PUBLIC, None);
    session.check(Check { remote: PUBLIC, seen_at: PUBLIC, transmissions: 7, ..a_checks(LOST) });
    session.check(Check { local: PUBLIC, seen_from: PUBLIC, transmissions: 7, ..b_checks(LOST) });
    if looked {
        let (source, destination) = (address(PUBLIC), address(STUN));
        let (device, packets, arrived) = ("eth0".to_owned(), 7, false);
        let left = OwnPacket { device, source, destination, packets, arrived, wrong_checksums: 0 };
        session.fact(Vantage::B, HostFact::OwnPacket(left));
    }
    facts(&mut session);
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    session
}

/// That a firewall in front of a public host is closed is said only where somebody looked at its interface and nothing on
/// the way out of the other side may keep the packets.
#[test]
fn a_closed_port_is_named_where_nothing_on_the_senders_side_explains_it() {
    const OPEN: &str = "Let UDP port 50000 in";
    assert!(advised(&closed_in_front_of_b(true, |_| {}), OPEN));
    assert!(!advised(&closed_in_front_of_b(false, |_| {}), OPEN), "nobody looked at B's interface");
    let refused = |offender: &str| {
        closed_in_front_of_b(true, |session| {
            let (local, remote, offender) = (address(A), address(PUBLIC), offender.parse().ok());
            let (icmp_type, icmp_code, errno) = (3, 13, 113);
            session.push(Vantage::A, EventKind::IcmpError { local, remote, offender, icmp_type, icmp_code, errno });
        })
    };
    assert!(!advised(&refused("192.168.1.1"), OPEN), "its own router refuses");
    assert!(advised(&refused("198.51.100.9"), OPEN), "the firewall is in front of B");
    let failed = closed_in_front_of_b(true, |session| {
        session.check(Check { remote: PUBLIC, seen_at: PUBLIC, transmissions: 3, ..a_checks(Fate::SendRefused(1)) });
    });
    assert!(!advised(&failed, OPEN), "its own firewall refuses");
    let silent = closed_in_front_of_b(true, |session| {
        session.route(RoutePurpose::Peer, PUBLIC, 0, Ok(UPLINK));
        session.neighbor("192.168.1.1", NeighborState::Failed);
    });
    assert!(!advised(&silent, OPEN), "its next hop is silent");
    let blocked = closed_in_front_of_b(true, |session| {
        let (local, remote) = (address(A), address("192.0.2.10:49160"));
        let fact = Measurement::ThirdParty { local, remote, observed: None, sent: 3 };
        session.push(Vantage::A, EventKind::Measured(fact));
    });
    assert!(!advised(&blocked, OPEN), "its network lets UDP out to servers alone");
    let diverted = closed_in_front_of_b(true, |session| {
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.link(Vantage::A, "wg0", Some("wireguard"), "10.0.0.2");
        session.route(RoutePurpose::Server, STUN, 0, Ok(UPLINK));
        let tunnel = crate::cases::facts::Way { device: "wg0", gateway: None, ..UPLINK };
        session.route(RoutePurpose::Peer, PUBLIC, 0, Ok(tunnel));
    });
    assert!(!advised(&diverted, OPEN), "a tunnel takes what it sends there");
}

/// What leads to a check of A by another uplink.
#[derive(Clone, Copy, Debug)]
struct Uplinks {
    kind: Option<&'static str>,
    asked: bool,
    default: bool,
}

/// The metric of another default route helps only where there is one, and where packets to servers go by no tunnel.
#[test]
fn another_uplink_is_named_where_its_default_route_can_carry_the_packets() {
    let all = Uplinks { kind: None, asked: true, default: true };
    for (uplinks, remote, named) in [
        (all, B_MAPPED, true),
        (Uplinks { kind: Some("wireguard"), ..all }, B_MAPPED, false),
        (Uplinks { asked: false, ..all }, B_MAPPED, false),
        (Uplinks { default: false, ..all }, B_MAPPED, false),
        (all, "[2001:db8:b::2]:50000", false),
    ] {
        let mut session = Session::new();
        varies_at_a(&mut session);
        session.stun(Vantage::B, B, STUN, Some(B_MAPPED));
        session.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
        session.check(Check { transmissions: 7, ..a_checks(LOST) });
        session.check(Check { transmissions: 7, ..b_checks(LOST) });
        session.link(Vantage::A, "eth0", uplinks.kind, "192.168.1.2");
        session.link(Vantage::A, "eth1", None, "192.168.7.2");
        if uplinks.asked {
            session.route(RoutePurpose::Server, STUN, 0, Ok(UPLINK));
        }
        session.default_route(254);
        if uplinks.default {
            let (device, metric) = (Some("eth1".to_owned()), Some(200));
            let route = Route { device, metric, ..bare_route(254, everywhere(), RouteKind::Unicast) };
            session.fact(Vantage::A, HostFact::Route(route));
        }
        let aim = ProbeAim::Device { device: "eth1".into() };
        session.probe(aim, "192.168.7.2:40009", remote, Some("203.0.113.77:40009"));
        session.fail(Vantage::A);
        session.fail(Vantage::B);
        assert_eq!(advised(&session, "Let A send by eth1"), named, "{uplinks:?}, {remote}: {:#?}", findings(&session));
    }
}

/// Of packets that nobody can have asked for only a rule is blamed that may take them.
#[test]
fn a_rule_that_takes_other_packets_is_not_blamed_for_those_of_a_nat_that_varies() {
    for (rule, blamed) in [
        ("ct state new counter drop", true),
        ("udp dport 40000 counter drop", true),
        ("ct state invalid counter drop", false),
        ("ip saddr 10.0.0.0/8 counter drop", false),
        ("tcp dport 22 counter drop", false),
    ] {
        let mut session = Session::new();
        for server in [STUN, STUN_2] {
            session.stun(Vantage::A, OWN, server, Some(OWN));
        }
        session.candidate(Vantage::A, CandidateType::Host, OWN, OWN, None);
        session.stun(Vantage::B, B, STUN, Some(B_MAPPED));
        session.stun(Vantage::B, B, STUN_2, Some("198.51.100.2:51111"));
        session.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
        session.check(Check { local: OWN, seen_from: OWN, transmissions: 7, ..a_checks(LOST) });
        session.check(Check { remote: OWN, seen_at: OWN, transmissions: 7, ..b_checks(LOST) });
        session.link(Vantage::A, "eth0", None, "203.0.113.9");
        session.firewall("input", rule, Some("drop"), 5);
        session.arrived_packet("eth0", "198.51.100.2:52222", OWN);
        session.fail(Vantage::A);
        session.fail(Vantage::B);
        let found = findings(&session);
        let takes = |finding: &Finding| finding.code == "WR111" && finding.summary.contains(rule);
        assert_eq!(found.iter().any(takes), blamed, "{rule}: {found:#?}");
        // Where no rule is known to take them, it is the NAT that keeps the path from being direct.
        assert_eq!(varying(&session).severity == Severity::Info, blamed, "{rule}: {found:#?}");
    }
}
