//! Cases of the 1xx and 8xx families: what a host does to its own packets.

use whyrelay_core::host::{
    HostFact, NeighborState, Prefix, ProbeAim, Route, RouteKind, RoutePurpose, RuleAction, SoftwareName,
};
use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::trace::event::{EventKind, InterfaceUse, ServerFailure, SessionOptions, Side, Transport, Vantage};

use super::facts::{UPLINK, Way, bare_route, everywhere, policy_rule};
use super::{Case, case, failing, lost};
use crate::builder::{Check, Fate, Session, address};
use crate::report::{A, A_MAPPED, B, B_MAPPED, RELAYED, STUN, a_checks, direct};

const PEER: RoutePurpose = RoutePurpose::Peer;
const SERVER: RoutePurpose = RoutePurpose::Server;

/// Checks of A lost, with the kernel's answers for the peer and the server.
pub(super) fn diverted(links: &[(&str, Option<&str>)], peer: Way<'_>, more: impl FnOnce(&mut Session)) -> Session {
    lost(|session| {
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        for (device, kind) in links {
            session.link(Vantage::A, device, *kind, "10.66.0.2");
        }
        more(session);
        session.route(SERVER, STUN, 0, Ok(UPLINK));
        session.route(PEER, B_MAPPED, 0, Ok(peer));
    })
}

fn refused(errno: i32) -> Session {
    failing(Fate::SendRefused(errno), Fate::LostOnTheWay, |_| {})
}

pub(super) fn icmp(
    session: &mut Session,
    vantage: Vantage,
    remote: &str,
    offender: &str,
    icmp_type: u8,
    icmp_code: u8,
) {
    let (local, remote) = (address(if vantage == Vantage::A { A } else { B }), address(remote));
    let offender = Some(offender.parse().expect("an address"));
    session.push(vantage, EventKind::IcmpError { local, remote, offender, icmp_type, icmp_code, errno: 113 });
}

/// A mark by which a rule sends everything of A, its packets to the servers as well, to an uplink where nothing is
/// answered; `without`: what a probe without the mark saw.
pub(crate) fn astray(without: Option<&str>) -> Session {
    astray_by(None, without)
}

/// The same by an interface of a kind.
pub(crate) fn astray_by(kind: Option<&str>, without: Option<&str>) -> Session {
    let second = Way { device: "eth1", gateway: Some("192.168.2.1"), table: 200, rule: Some(1000) };
    let mut session = unanswered();
    session.link(Vantage::A, "eth0", None, "192.168.1.2");
    session.link(Vantage::A, "eth1", kind, "192.168.2.2");
    let (mark, mask) = (Some(0x10000), Some(0x10000));
    session.rule(whyrelay_core::host::PolicyRule { mark, mask, ..policy_rule(1000) });
    for (purpose, to) in [(SERVER, STUN), (PEER, B_MAPPED)] {
        session.route(purpose, to, 0x1BD00, Ok(second));
        session.probe_route(purpose, to, 0, Ok(UPLINK));
    }
    icmp(&mut session, Vantage::A, B_MAPPED, "192.168.2.2", 3, 1);
    icmp(&mut session, Vantage::A, B_MAPPED, "192.168.2.1", 3, 0);
    session.neighbor("192.168.2.1", NeighborState::Failed);
    session.probe(ProbeAim::WithoutMark, "192.168.1.2:40001", B_MAPPED, without);
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    session
}

/// A asks a server and the peer, and nothing is answered.
fn unanswered() -> Session {
    let mut session = Session::new();
    session.stun(Vantage::A, A, STUN, None);
    session.stun(Vantage::B, B, STUN, Some(B_MAPPED));
    session.candidate(Vantage::A, CandidateType::Host, A, A, None);
    session.candidate(Vantage::B, CandidateType::Host, B, B, None);
    session.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, Some("stun:192.0.2.10:3478"));
    let failure = ServerFailure::Timeout { transmissions: 7, took_us: 7_900_000 };
    let (server, method) = ("turn:192.0.2.10:3478".to_owned(), "Allocate".to_owned());
    session.push(Vantage::A, EventKind::ServerFailed { server, local: None, method, failure });
    session.check(Check { transmissions: 7, ..a_checks(Fate::LostOnTheWay) });
    session
}

/// A VPN takes everything, and a rule ahead of it sends packets with a mark by the main table, where nothing is answered,
/// with the mark or without it; `more`: what else was asked of the routing, with this mark.
pub(super) fn exit_node(more: impl FnOnce(&mut Session, u32)) -> Session {
    const MARK: u32 = 0x8_0000;
    let mut session = unanswered();
    session.link(Vantage::A, "eth0", None, "192.168.1.2");
    session.link(Vantage::A, "wlan0", None, "192.168.2.2");
    session.link(Vantage::A, "tailscale0", Some("tun"), "100.64.0.1");
    session.link(Vantage::A, "lo", None, "127.0.0.1");
    let (mark, mask, table) = (Some(MARK), Some(0xff_0000), Some(254));
    session.rule(whyrelay_core::host::PolicyRule { mark, mask, table, ..policy_rule(5210) });
    for (purpose, to) in [(SERVER, STUN), (PEER, B_MAPPED)] {
        session.route(purpose, to, MARK, Ok(Way { rule: Some(5210), ..UPLINK }));
        session.probe_route(purpose, to, 0, Ok(EXIT));
    }
    more(&mut session, MARK);
    session.probe(ProbeAim::WithoutMark, "192.168.1.2:40001", B_MAPPED, None);
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    session
}

/// By the VPN.
pub(super) const EXIT: Way<'static> = Way { device: "tailscale0", gateway: None, table: 52, rule: Some(5270) };

pub(super) fn cases() -> Vec<Case> {
    let mut cases = routing();
    cases.extend(dropping());
    cases.extend(configuration());
    cases
}

fn routing() -> Vec<Case> {
    let tunnel = [("wg0", Some("wireguard"))];
    let into = |device, table, rule| Way { device, gateway: None, table, rule: Some(rule) };
    let to_peer = |session: &mut Session| {
        let to = Some(Prefix { address: "198.51.100.0".parse().expect("an address"), length: 24 });
        session.rule(whyrelay_core::host::PolicyRule { to, ..policy_rule(100) });
    };
    let blackhole = |session: &mut Session| {
        session.rule(whyrelay_core::host::PolicyRule {
            mark: Some(0x3D00),
            mask: Some(0x3F00),
            rule_action: RuleAction::Blackhole,
            table: None,
            ..policy_rule(2061)
        });
    };
    let collision = failing(Fate::SendRefused(22), Fate::LostOnTheWay, |session| {
        blackhole(session);
        session.route(SERVER, STUN, 0, Ok(UPLINK));
        session.route(PEER, B_MAPPED, 0, Ok(UPLINK));
        session.route(PEER, B_MAPPED, 0x1BD00, Err(22));
    });
    let two_uplinks = lost(|session| {
        session.link(Vantage::A, "eth1", None, "192.168.1.2");
        session.link(Vantage::A, "eth0", None, "192.168.2.2");
        session.route(SERVER, STUN, 0, Ok(UPLINK));
        session.route(PEER, B_MAPPED, 0, Ok(UPLINK));
    });
    let everything = lost(|session| {
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.link(Vantage::A, "wg0", Some("wireguard"), "10.66.0.2");
        session.route(SERVER, STUN, 0, Ok(into("wg0", 51_820, 32_765)));
        session.route(PEER, B_MAPPED, 0, Ok(into("wg0", 51_820, 32_765)));
    });
    let by_tap = lost(|session| {
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.tap(Vantage::A, "tap0", "10.66.0.2");
        session.route(SERVER, STUN, 0, Ok(into("tap0", 254, 32_766)));
        session.route(PEER, B_MAPPED, 0, Ok(into("tap0", 254, 32_766)));
    });
    let rewritten = diverted(&tunnel, UPLINK, |session| session.own_packet("wg0", A, B_MAPPED));
    let shadowed = diverted(&[("br-1234", Some("bridge"))], into("br-1234", 254, 32_766), |session| {
        icmp(session, Vantage::A, B_MAPPED, "10.66.0.2", 3, 1);
    });
    let silent = diverted(&[], UPLINK, |session| {
        icmp(session, Vantage::A, B_MAPPED, "192.168.1.2", 3, 1);
        session.neighbor("192.168.1.1", NeighborState::Failed);
    });
    // The kernel says only that it refuses: which rule leads to the route that does is looked up.
    let kept_in = |users, mark: Option<u32>| {
        failing(Fate::SendRefused(22), Fate::LostOnTheWay, |session| {
            session.rule(whyrelay_core::host::PolicyRule { users, mark, mask: mark, ..policy_rule(1000) });
            session.refusing_route(RouteKind::Blackhole, 200);
            session.route(SERVER, STUN, mark.unwrap_or(0), Err(22));
            session.route(PEER, B_MAPPED, mark.unwrap_or(0), Err(22));
        })
    };
    let by_hand = failing(Fate::LostOnTheWay, Fate::LostOnTheWay, |session| {
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        let gateway = Some("192.168.1.9");
        session.route(PEER, B_MAPPED, 0, Ok(Way { gateway, ..UPLINK }));
        session.neighbor_by_hand("192.168.1.9");
        // The relay of A reaches the peer: what it sends there does not go by that hop.
        session.allocate(Vantage::A, A, STUN, RELAYED, A_MAPPED, B_MAPPED);
        session.relayed_check(Vantage::A, A, STUN, RELAYED, (B, B_MAPPED), false);
    });
    let policy_default = diverted(&[], UPLINK, |session| {
        session.default_route(201);
        session.route(SERVER, STUN, 0, Ok(Way { table: 201, ..UPLINK }));
    });
    vec![
        case("WR104", "A", refused(22)),
        case("WR105", "A", diverted(&tunnel, into("wg0", 200, 100), to_peer)),
        case("WR105", "A", kept_in(Some((0, 0)), None)),
        case("WR106", "A", collision),
        case("WR106", "A", kept_in(None, Some(0x1BD00))),
        case("WR106", "A", astray(Some("203.0.113.1:40001"))),
        // Its source leaves by another uplink, which is the mark's doing whatever else is.
        case("WR106", "A", astray(None)),
        case("WR107", "A", diverted(&tunnel, into("wg0", 254, 32_766), |_| {})),
        case("WR108", "A", everything),
        case("WR108", "A", by_tap),
        case("WR109", "A", rewritten),
        case("WR113", "A", silent),
        case("WR113", "A", by_hand),
        case("WR114", "A", shadowed),
        case("WR115", "A", two_uplinks),
        case("WR115", "A", second_network(Some("10.20.0.1"), true)),
        case("WR118", "A", diverted(&[("eth1", None)], into("eth1", 254, 32_766), |_| {})),
        Case { also: &["WR501"], ..case("WR125", "A", policy_default) },
    ]
}

/// A second network's address strays, as every such address does, and the first one's checks are lost as well. `gateway`:
/// of the second network; `came`: the peer's packets reach that address.
pub(crate) fn second_network(gateway: Option<&str>, came: bool) -> Session {
    let local = "10.20.0.5:40000";
    lost(|session| {
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.link(Vantage::A, "eth1", None, "10.20.0.5");
        if let Some(gateway) = gateway {
            let gateway = Some(gateway.parse().expect("an address"));
            let route = bare_route(254, everywhere(), RouteKind::Unicast);
            session.fact(Vantage::A, HostFact::Route(Route { device: Some("eth1".into()), gateway, ..route }));
        }
        session.route(PEER, B_MAPPED, 0, Ok(UPLINK));
        session.route(PEER, B_MAPPED, 0, Ok(UPLINK));
        session.asked_from("10.20.0.5");
        session.candidate(Vantage::A, CandidateType::Host, local, local, None);
        session.check(Check { transmissions: 7, local, ..a_checks(Fate::LostOnTheWay) });
        if came {
            session.arrived_packet("eth1", B_MAPPED, local);
        }
    })
}

/// A's packets to the peer leave with this source, by a rule of its own.
pub(crate) fn translated(source: &str) -> Session {
    lost(|session| {
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.link(Vantage::A, "eth1", None, "10.0.7.7");
        session.firewall("postrouting", "nat", None, 7);
        session.own_packet("eth0", source, B_MAPPED);
    })
}

fn dropping() -> Vec<Case> {
    let full = failing(Fate::SendRefused(1), Fate::LostOnTheWay, |session| {
        session.fact(Vantage::A, HostFact::ConntrackUse { entries: 262_144, max: 262_144 });
    });
    let filtered = lost(|session| session.counters(Vantage::A, &[("TcpExt.IPReversePathFilter", 12)]));
    let input = lost(|session| session.firewall("input", "udp dport 40000 drop", Some("drop"), 7));
    let mut answers = Session::new();
    answers.candidate(Vantage::A, CandidateType::Host, A, A, None);
    answers.candidate(Vantage::B, CandidateType::ServerReflexive, B_MAPPED, B, None);
    answers.stun(Vantage::A, A, STUN, None);
    answers.stun(Vantage::B, B, STUN, Some(B_MAPPED));
    answers.check(Check { transmissions: 7, ..a_checks(Fate::LostOnTheWay) });
    answers.policy("input", "drop");
    answers.arrived_packet("eth0", STUN, A);
    answers.fail(Vantage::A);
    answers.fail(Vantage::B);
    let ipsec = |fate, counter: &str| {
        failing(fate, Fate::LostOnTheWay, |session| {
            session.counters(Vantage::A, &[(counter, 9)]);
            if matches!(fate, Fate::LostOnTheWay) {
                session.arrived_packet("eth0", B_MAPPED, A);
            }
        })
    };
    let after_routing = failing(Fate::SendRefused(1), Fate::LostOnTheWay, |session| {
        session.firewall("postrouting", "udp drop", Some("drop"), 7);
    });
    let checksum = lost(|session| {
        session.counters(Vantage::B, &[("Udp.InCsumErrors", 5)]);
        session.wrong_checksums(Vantage::A, A, B_MAPPED, false);
    });
    let checksum_arrived = lost(|session| session.wrong_checksums(Vantage::B, A_MAPPED, B, true));
    let carrier = lost(|session| {
        session.firewall("forward", "ip saddr 100.64.0.0/10 iifname != \"tailscale0\" drop", Some("drop"), 3);
        session.arrived_packet("tailscale0", "100.64.7.7:41641", A);
    });
    let no_route = failing(Fate::LostOnTheWay, Fate::LostOnTheWay, |session| {
        let (own, peer) = ("[2001:db8:a::1]:40000", "[2001:db8:b::1]:40000");
        session.candidate(Vantage::A, CandidateType::Host, own, own, None);
        session.candidate(Vantage::B, CandidateType::Host, peer, peer, None);
        let (local, remote, detail) = (address(own), address(peer), "ENETUNREACH".to_owned());
        let transport = Transport::Udp;
        session.push(Vantage::A, EventKind::SendFailed { transport, local, remote, errno: 101, detail });
    });
    let mut elsewhere = failing(Fate::LostOnTheWay, Fate::LostOnTheWay, |_| {});
    elsewhere.answer_astray(A, B_MAPPED, "198.51.100.77:50000");
    vec![
        case("WR103", "A", refused(1)),
        case("WR103", "A", after_routing),
        case("WR110", "A", filtered),
        case("WR111", "A", input),
        Case { also: &["WR802"], ..case("WR111", "A", answers) },
        case("WR112", "A", full),
        case("WR116", "A", checksum),
        case("WR116", "A", checksum_arrived),
        Case { also: &["WR501", "WR802"], ..case("WR117", "A", no_route) },
        case("WR119", "B", elsewhere),
        case("WR120", "A", carrier),
        case("WR129", "A", ipsec(Fate::SendRefused(1), "Xfrm.XfrmOutPolBlock")),
        case("WR129", "A", ipsec(Fate::LostOnTheWay, "Xfrm.XfrmInPolBlock")),
        case("WR130", "A", translated("10.9.9.9:40000")),
    ]
}

fn configuration() -> Vec<Case> {
    let mut without = Session::new();
    let interface = |name: &str, used| EventKind::Interface { name: name.into(), index: 1, addresses: vec![], used };
    without.push(Vantage::A, interface("eth0", InterfaceUse::Excluded));
    without.push(Vantage::A, EventKind::EndOfCandidates { side: Side::Local });
    without.fail(Vantage::A);

    let left_out = lost(|session| {
        let (name, addresses) = ("eth1".to_owned(), vec!["10.0.0.9".parse().expect("an address")]);
        session.push(Vantage::A, EventKind::Interface { name, index: 3, addresses, used: InterfaceUse::Excluded });
    });
    let taken = lost(|session| {
        let (local, detail) = (address("192.168.1.2:51820"), "Address already in use".to_owned());
        session.push(Vantage::A, EventKind::SocketFailed { transport: Transport::Udp, local, errno: 98, detail });
    });
    let unable = lost(|session| {
        session.application(Some(0x1BD00), true);
        session.capabilities(&["CAP_NET_RAW"], Some("docker"));
    });
    let apart = lost(|session| {
        session.application(None, true);
        session.tally(false, 1);
        session.tally(true, 0);
    });
    let container = lost(|session| {
        session.link(Vantage::A, "eth0", Some("veth"), "192.168.1.2");
        session.capabilities(&[], Some("docker"));
    });
    let mut own = direct();
    own.candidate(Vantage::B, CandidateType::Host, "172.17.0.1:50000", "172.17.0.1:50000", None);
    own.link(Vantage::A, "docker0", Some("bridge"), "172.17.0.1");
    let mut stuck = direct();
    stuck.application(Some(0x1BD00), false);
    let mut spared = direct();
    spared.application(Some(0x1BD00), true);
    spared.profile(true, 0x1BD00);
    spared.profile(false, 0);
    spared.tally(true, 2);
    spared.tally(false, 0);
    spared.rule(whyrelay_core::host::PolicyRule { mark: Some(0x1BD00), invert: true, ..policy_rule(110) });
    spared.route(PEER, B_MAPPED, 0x1BD00, Ok(UPLINK));
    spared.probe_route(PEER, B_MAPPED, 0, Ok(Way { device: "wg0", gateway: None, table: 200, rule: Some(110) }));
    let mut crowd = direct();
    for index in 0..7 {
        let at = format!("172.{}.0.1:40000", 20 + index);
        crowd.candidate_on(Vantage::A, &at, &format!("br-{index}"));
    }
    let mut only_relay = Session::with_options(SessionOptions { relay_only: true, ..SessionOptions::default() });
    let (relayed, kind) = (crate::report::RELAYED, CandidateType::Relayed);
    only_relay.allocate(Vantage::A, A, STUN, relayed, A_MAPPED, B_MAPPED);
    only_relay.candidate(Vantage::A, kind, relayed, relayed, None);
    let odd = failing(Fate::SendRefused(5), Fate::LostOnTheWay, |_| {});
    let mut too_large = failing(Fate::LostOnTheWay, Fate::LostOnTheWay, |_| {});
    too_large.check(Check { fate: Fate::SendRefused(90), ..a_checks(Fate::Answered) });
    let went_away = lost(|session| {
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.gone_address(Vantage::A, "eth0", "192.168.1.2");
    });
    vec![
        case("WR101", "A", odd),
        case("WR131", "A", went_away),
        Case { also: &["WR508", "WR802", "WR703"], ..case("WR102", "A", without) },
        Case { also: &["WR501"], ..case("WR121", "A", container) },
        case("WR122", "A", crowd),
        Case { also: &["WR501"], ..case("WR123", "A", unable) },
        Case { also: &["WR501"], ..case("WR124", "A", taken) },
        Case { also: &["WR501"], ..case("WR126", "A", apart) },
        case("WR127", "B", own),
        case("WR128", "A", spared),
        Case {
            also: &["WR501"],
            ..case("WR803", "A", lost(|session| session.software(SoftwareName::Netbird, &[("NB_FORCE_RELAY", "true")])))
        },
        Case {
            also: &["WR501"],
            ..case("WR804", "A", lost(|session| session.software(SoftwareName::Netbird, &[("NB_LAZY_CONN", "true")])))
        },
        case("WR805", "A", left_out),
        case("WR806", "A", stuck),
        case("WR801", "both sides", super::over_relay(only_relay)),
    ]
}
