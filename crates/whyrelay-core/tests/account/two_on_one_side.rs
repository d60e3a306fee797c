//! Two faults of one host that have to do with each other: what is behind a tunnel or a mark, and what is no fault of the
//! mark.

use whyrelay_core::diagnosis::finding::Severity;
use whyrelay_core::host::{
    Family, HostFact, NeighborState, PolicyRule, Prefix, Probe, ProbeAim, ProbeOutcome, Route, RouteKind, RoutePurpose,
    RuleAction,
};
use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{EndReason, EventKind, Transport, Vantage};

use crate::builder::{Check, Fate, Session, address};
use crate::cases::facts::{UPLINK, Way, bare_route, everywhere, policy_rule};
use crate::cases::{STUN_2, failing};
use crate::choices::said;
use crate::report::{A, A_MAPPED, B, B_MAPPED, RELAYED, STUN, a_checks, b_checks, behind_nats};

const MARK: u32 = 0x1bd00;
const NO_ROUTE: i32 = 101;
const PROHIBITED: i32 = 13;

fn peers_network() -> Prefix {
    Prefix { address: "198.51.100.0".parse().expect("an address"), length: 24 }
}

fn route(session: &mut Session, table: u32, to: Prefix, device: &str) {
    let route = Route { device: Some(device.into()), ..bare_route(table, to, RouteKind::Unicast) };
    session.fact(Vantage::A, HostFact::Route(route));
}

/// A has an uplink and a tunnel, and nothing it sends is answered; `host`: the rest.
fn host(fate: Fate, host: impl FnOnce(&mut Session)) -> Session {
    failing(fate, Fate::LostOnTheWay, |session| {
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.link(Vantage::A, "wg0", Some("wireguard"), "10.66.0.2");
        session.default_route(254);
        session.rule(PolicyRule::lookup(Family::V4, 32_766, 254));
        host(session);
    })
}

fn only(session: &Session, code: &str) -> String {
    match said(session, code).as_slice() {
        [(_, summary)] => summary.clone(),
        other => panic!("{code}: {other:?}"),
    }
}

/// Everything but what has a mark goes into wg0, by table 51820.
fn full_tunnel(session: &mut Session) {
    let (mark, table) = (Some(MARK), Some(51_820));
    session.rule(PolicyRule { mark, invert: true, table, ..policy_rule(110) });
    route(session, 51_820, everywhere(), "wg0");
}

/// The kernel's rule that refuses the session's mark.
fn prohibits_mark(session: &mut Session) {
    let (mark, mask, table) = (Some(0x1_0000), Some(0x1_0000), None);
    session.rule(PolicyRule { mark, mask, table, rule_action: RuleAction::Prohibit, ..policy_rule(1001) });
}

const TUNNEL: Way<'static> = Way { device: "wg0", gateway: None, table: 51_820, rule: Some(110) };

#[test]
fn what_is_behind_a_tunnel_that_takes_everything_is_told() {
    let with = |more: fn(&mut Session)| {
        host(Fate::LostOnTheWay, |session| {
            full_tunnel(session);
            more(session);
            session.route(RoutePurpose::Server, STUN, 0, Ok(TUNNEL));
            session.route(RoutePurpose::Peer, B_MAPPED, 0, Ok(TUNNEL));
        })
    };
    let session = with(|_| {});
    only(&session, "WR108");
    for code in ["WR104", "WR105", "WR107"] {
        assert_eq!(said(&session, code), [], "{code}");
    }
    let session = with(|session| {
        session.rule(PolicyRule { users: Some((0, 0)), ..policy_rule(1000) });
        route(session, 200, peers_network(), "wg0");
    });
    let summary = only(&session, "WR105");
    assert!(summary.contains("comes to light once \"ip rule 110: not"), "{summary}");
    let session = with(|session| {
        session.fact(Vantage::A, HostFact::Route(bare_route(254, peers_network(), RouteKind::Prohibit)));
    });
    let summary = only(&session, "WR104");
    assert!(summary.contains("comes to light once \"ip rule 110: not"), "{summary}");
    // What refuses everything past the tunnel keeps it from leaking.
    let session = with(|session| {
        session.rule(PolicyRule { table: None, rule_action: RuleAction::Prohibit, ..policy_rule(120) });
    });
    assert_eq!(said(&session, "WR104"), [], "a kill switch");
}

#[test]
fn two_halves_of_a_default_route_are_one_tunnel() {
    let halves = ["0.0.0.0", "128.0.0.0"].map(|half| Prefix { address: half.parse().expect("an address"), length: 1 });
    // The server is in one half, this address of the peer in the other.
    let other = "23.0.2.9:50000";
    let session = host(Fate::LostOnTheWay, |session| {
        session.candidate(Vantage::B, CandidateType::Host, other, other, None);
        halves.into_iter().for_each(|half| route(session, 254, half, "wg0"));
        let way = Way { table: 254, rule: Some(32_766), ..TUNNEL };
        session.route(RoutePurpose::Server, STUN, 0, Ok(way));
        session.route(RoutePurpose::Peer, B_MAPPED, 0, Ok(way));
        session.route(RoutePurpose::Peer, other, 0, Ok(way));
    });
    only(&session, "WR108");
    assert_eq!(said(&session, "WR107"), [], "neither covers the peer alone");
}

#[test]
fn a_tunnel_that_takes_everything_is_told_behind_a_mark_that_is_refused() {
    let with = |tunnel: bool| {
        host(Fate::SendRefused(PROHIBITED), |session| {
            prohibits_mark(session);
            if tunnel {
                ["0.0.0.0", "128.0.0.0"].into_iter().for_each(|half| {
                    route(session, 254, Prefix { address: half.parse().expect("an address"), length: 1 }, "wg0");
                });
            }
            session.route(RoutePurpose::Server, STUN, MARK, Err(PROHIBITED));
            session.route(RoutePurpose::Peer, B_MAPPED, MARK, Err(PROHIBITED));
        })
    };
    let session = with(true);
    only(&session, "WR106");
    let summary = only(&session, "WR108");
    assert!(summary.contains("comes to light once \"ip rule 1001"), "{summary}");
    assert_eq!(said(&with(false), "WR108"), []);
}

#[test]
fn a_rule_for_one_source_is_told_beside_a_mark_that_is_refused_from_the_other() {
    let session = host(Fate::LostOnTheWay, |session| {
        session.rule(PolicyRule { from: Some(Prefix { address: address(A).ip(), length: 32 }), ..policy_rule(1000) });
        route(session, 200, peers_network(), "wg0");
        prohibits_mark(session);
        let refused = |session: &mut Session, purpose, to| session.route(purpose, to, MARK, Err(PROHIBITED));
        refused(session, RoutePurpose::Server, STUN);
        session.route(RoutePurpose::Peer, B_MAPPED, MARK, Ok(Way { table: 200, rule: Some(1000), ..TUNNEL }));
        refused(session, RoutePurpose::Peer, B_MAPPED);
        if let Some(EventKind::HostFact { fact, .. }) = session.events.last_mut().map(|event| &mut event.kind)
            && let HostFact::RouteAnswer(answer) = fact.as_mut()
        {
            answer.question.source = Some("10.66.0.2".parse().expect("an address"));
        }
    });
    only(&session, "WR106");
    let summary = only(&session, "WR105");
    assert!(summary.contains("ip rule 1000") && summary.contains("comes to light once \"ip rule 1001"), "{summary}");
}

#[test]
fn what_is_refused_by_a_rule_for_the_mark_is_the_marks_even_where_nothing_else_lets_it_pass() {
    let session = host(Fate::SendRefused(PROHIBITED), |session| {
        prohibits_mark(session);
        session.route(RoutePurpose::Server, STUN, MARK, Err(PROHIBITED));
        session.route(RoutePurpose::Peer, B_MAPPED, MARK, Err(PROHIBITED));
        session.probe_route(RoutePurpose::Server, STUN, 0, Err(NO_ROUTE));
        session.probe_route(RoutePurpose::Peer, B_MAPPED, 0, Err(NO_ROUTE));
        session.events.retain(|event| match &event.kind {
            EventKind::HostFact { fact, .. } => {
                !matches!(fact.as_ref(), HostFact::Route(route) if route.destination == everywhere())
            }
            _ => true,
        });
        session.route_to("192.168.1.0", 24);
    });
    only(&session, "WR106");
    assert_eq!(said(&session, "WR104"), []);
}

#[test]
fn a_mark_that_leads_past_a_tunnel_does_not_refuse_what_no_rule_takes_for_it() {
    let session = host(Fate::SendRefused(NO_ROUTE), |session| {
        full_tunnel(session);
        session.fact(Vantage::A, HostFact::Route(bare_route(254, peers_network(), RouteKind::Throw)));
        session.route(RoutePurpose::Server, STUN, MARK, Ok(UPLINK));
        session.route(RoutePurpose::Peer, B_MAPPED, MARK, Err(NO_ROUTE));
        session.probe_route(RoutePurpose::Server, STUN, 0, Ok(TUNNEL));
        session.probe_route(RoutePurpose::Peer, B_MAPPED, 0, Ok(TUNNEL));
    });
    assert_eq!(said(&session, "WR106"), []);
    only(&session, "WR104");
}

#[test]
fn a_silent_next_hop_beside_a_rule_for_another_source_is_no_effect_of_it() {
    let with = |state: NeighborState| {
        host(Fate::LostOnTheWay, |session| {
            session
                .rule(PolicyRule { from: Some(Prefix { address: address(A).ip(), length: 32 }), ..policy_rule(1000) });
            route(session, 200, peers_network(), "wg0");
            let gateway = Some("192.168.1.99".parse().expect("an address"));
            let device = Some("eth0".to_owned());
            let to_peer = bare_route(254, peers_network(), RouteKind::Unicast);
            session.fact(Vantage::A, HostFact::Route(Route { device, gateway, ..to_peer }));
            session.route(RoutePurpose::Server, STUN, 0, Ok(UPLINK));
            session.route(RoutePurpose::Peer, B_MAPPED, 0, Ok(Way { table: 200, rule: Some(1000), ..TUNNEL }));
            session.neighbor("192.168.1.99", state);
            // The kernel says so of the packets from its other address.
            let (local, remote) = (address(A), address(B_MAPPED));
            let (offender, icmp_type, icmp_code, errno) = (Some(local.ip()), 3, 1, 113);
            session.push(Vantage::A, EventKind::IcmpError { local, remote, offender, icmp_type, icmp_code, errno });
        })
    };
    let session = with(NeighborState::Failed);
    only(&session, "WR105");
    let summary = only(&session, "WR113");
    assert!(summary.contains("192.168.1.99") && summary.contains("comes to light once \"ip rule 1000"), "{summary}");
    assert_eq!(said(&with(NeighborState::Reachable), "WR113"), [], "what the rule does explains it");
}

#[test]
fn a_rule_that_would_change_the_mark_is_told_where_the_servers_are_refused_as_well() {
    let session = host(Fate::SendRefused(PROHIBITED), |session| {
        full_tunnel(session);
        prohibits_mark(session);
        let (transport, local, interface) = (Transport::Udp, address(A), Some("eth0".to_owned()));
        let opened = EventKind::SocketOpened { transport, local, interface, mark: Some(MARK), receive_buffer: None };
        session.push(Vantage::A, opened);
        let subject = whyrelay_core::host::Subject::OwnPackets;
        session.fact(Vantage::A, HostFact::Counted { subject, total: 0, recorded: 0 });
        session.firewall("output", "ip daddr 198.51.100.0/24 counter meta mark set 0x00000000", None, 0);
        session.firewall_chain("output", 0);
        session.chain_type("route");
        session.route(RoutePurpose::Server, STUN, MARK, Err(PROHIBITED));
        session.route(RoutePurpose::Peer, B_MAPPED, MARK, Err(PROHIBITED));
    });
    only(&session, "WR106");
    assert!(only(&session, "WR109").contains("by wg0: that comes to light once"));
}

#[test]
fn strict_filtering_is_told_where_nothing_arrives_because_nothing_is_sent() {
    let with = |rp_filter: &str, valid_mark: &str, tunnel: bool| {
        host(Fate::SendRefused(PROHIBITED), |session| {
            if tunnel {
                full_tunnel(session);
            }
            prohibits_mark(session);
            for device in ["all", "eth0"] {
                for (name, value) in [("rp_filter", rp_filter), ("src_valid_mark", valid_mark)] {
                    let (sysctl, interface, value) = (name.to_owned(), Some(device.to_owned()), value.to_owned());
                    session.fact(Vantage::A, HostFact::Sysctl { sysctl, interface, value });
                }
            }
            session.counters(Vantage::A, &[]);
            session.route(RoutePurpose::Server, STUN, MARK, Err(PROHIBITED));
            session.route(RoutePurpose::Peer, B_MAPPED, MARK, Err(PROHIBITED));
        })
    };
    let session = with("1", "0", true);
    only(&session, "WR106");
    let summary = only(&session, "WR110");
    assert!(summary.contains("by eth0") && summary.contains("wg0"), "{summary}");
    assert!(summary.contains("comes to light once \"ip rule 1001"), "{summary}");
    for (rp_filter, valid_mark, tunnel) in [("2", "0", true), ("0", "0", true), ("1", "1", true), ("1", "0", false)] {
        assert_eq!(said(&with(rp_filter, valid_mark, tunnel), "WR110"), [], "{rp_filter} {valid_mark} {tunnel}");
    }
}

#[test]
fn ipv6_without_a_route_is_told_behind_a_mark_that_is_refused() {
    let (own, peer) = ("[2001:db8:a::1]:40000", "[2001:db8:b::1]:40000");
    let with = |unmarked: Result<Way<'_>, i32>| {
        host(Fate::LostOnTheWay, |session| {
            session.candidate(Vantage::A, CandidateType::Host, own, own, None);
            session.candidate(Vantage::B, CandidateType::Host, peer, peer, None);
            let (mark, mask, table) = (Some(0x1_0000), Some(0x1_0000), None);
            let rule = PolicyRule::lookup(Family::V6, 1001, 254);
            let rule = PolicyRule { mark, mask, table, rule_action: RuleAction::Unreachable, ..rule };
            session.rule(rule);
            session.rule(PolicyRule::lookup(Family::V6, 32_766, 254));
            session.route(RoutePurpose::Peer, peer, MARK, Err(NO_ROUTE));
            session.probe_route(RoutePurpose::Peer, peer, 0, unmarked);
            let (local, remote, detail) = (address(own), address(peer), "ENETUNREACH".to_owned());
            let transport = Transport::Udp;
            session.push(Vantage::A, EventKind::SendFailed { transport, local, remote, errno: NO_ROUTE, detail });
        })
    };
    let session = with(Err(NO_ROUTE));
    only(&session, "WR106");
    let summary = only(&session, "WR117");
    assert!(summary.contains("comes to light once the rule that refuses its mark"), "{summary}");
    assert_eq!(said(&with(Ok(UPLINK)), "WR117"), [], "it is the rule that says unreachable");
}

#[test]
fn a_full_connection_table_is_told_behind_what_refuses_the_packets_before_it() {
    let with = |errno: i32, entries: u64| {
        host(Fate::SendRefused(PROHIBITED), |session| {
            prohibits_mark(session);
            session.fact(Vantage::A, HostFact::ConntrackUse { entries, max: 262_144 });
            session.counters(Vantage::A, &[("nf_conntrack.drop", 10)]);
            let (aim, local, remote) = (ProbeAim::WithoutMark, address("192.168.1.2:41000"), address(STUN));
            let (transmissions, result) = (1, ProbeOutcome::Refused { errno });
            session.fact(Vantage::A, HostFact::Probe(Probe { aim, local, remote, transmissions, result }));
            session.own_packet("eth0", A, STUN);
            session.route(RoutePurpose::Server, STUN, MARK, Err(PROHIBITED));
            session.route(RoutePurpose::Peer, B_MAPPED, MARK, Err(PROHIBITED));
        })
    };
    let severity = |session: &Session| {
        let report = Report::from_events(&session.events);
        let finding = report.findings.iter().find(|finding| finding.code == "WR112");
        finding.map(|finding| (finding.severity, finding.hidden))
    };
    assert_eq!(severity(&with(1, 262_144)), Some((Severity::Error, true)));
    assert_eq!(severity(&with(PROHIBITED, 262_144)), Some((Severity::Info, false)), "the probe did not come as far");
    assert_eq!(severity(&with(1, 12)), Some((Severity::Info, false)), "a firewall may have refused it");
}

#[test]
fn what_reverse_path_filtering_took_hides_no_rule_that_surely_takes_the_peers_packets() {
    let with = |words: &'static str| {
        let mut session = host(Fate::LostOnTheWay, |session| {
            let (transport, local, interface) = (Transport::Udp, address(A), Some("eth0".to_owned()));
            let opened = EventKind::SocketOpened { transport, local, interface, mark: None, receive_buffer: None };
            session.push(Vantage::A, opened);
            for server in [STUN, STUN_2] {
                (0..2).for_each(|_| session.stun(Vantage::A, A, server, Some(A_MAPPED)));
                session.arrived_packet("eth0", server, A);
            }
            session.counters(Vantage::A, &[("Ip.InReceives", 6), ("TcpExt.IPReversePathFilter", 6)]);
            let subject = whyrelay_core::host::Subject::OwnPackets;
            session.fact(Vantage::A, HostFact::Counted { subject, total: 2, recorded: 2 });
            session.firewall("input", words, Some("drop"), 0);
            session.firewall_chain("input", 0);
        });
        // No server's answer reached A.
        let servers = [STUN, STUN_2].map(address);
        session.events.retain(|event| match &event.kind {
            EventKind::Datagram(datagram) => {
                event.vantage != Vantage::A
                    || datagram.direction == whyrelay_core::trace::event::Direction::Out
                    || !servers.contains(&datagram.remote)
            }
            _ => true,
        });
        session
    };
    let session = with("ip saddr 198.51.100.0/24 counter drop");
    only(&session, "WR110");
    assert!(only(&session, "WR111").contains("comes to light once"));
    assert_eq!(said(&with("ip saddr 203.0.113.0/24 counter drop"), "WR111"), []);
}

/// B's packets to A's relay are seen from another port than servers see; `rejecting`: B's router refused those of A itself.
#[test]
fn a_port_given_away_is_told_beside_a_rule_that_leads_the_peers_packets_past_that_router() {
    let with = |rejecting: bool| {
        let otherwise = "198.51.100.2:61234";
        let mut session = behind_nats();
        session.stun(Vantage::B, B, STUN_2, Some(B_MAPPED));
        session.allocate(Vantage::A, A, STUN, RELAYED, A_MAPPED, otherwise);
        session.candidate(Vantage::A, CandidateType::Relayed, RELAYED, RELAYED, Some("turn:192.0.2.10:3478"));
        session.check(Check { transmissions: 7, ..a_checks(Fate::LostOnTheWay) });
        session.check(Check { transmissions: 7, ..b_checks(Fate::LostOnTheWay) });
        session.relayed_check(Vantage::B, A, STUN, RELAYED, (B, otherwise), true);
        if rejecting {
            let (local, remote) = (address(A), address(B_MAPPED));
            let (offender, icmp_type, icmp_code, errno) = (Some(remote.ip()), 3, 3, 111);
            session.push(Vantage::A, EventKind::IcmpError { local, remote, offender, icmp_type, icmp_code, errno });
        }
        session.link(Vantage::B, "eth0", None, "10.0.0.2");
        session.link(Vantage::B, "wg0", Some("wireguard"), "10.66.0.2");
        let to = Prefix { address: address(A_MAPPED).ip(), length: 32 };
        session.rule(PolicyRule { to: Some(to), ..policy_rule(1000) });
        session.route(RoutePurpose::Server, STUN, 0, Ok(UPLINK));
        session.route(RoutePurpose::Peer, A_MAPPED, 0, Ok(Way { table: 200, rule: Some(1000), ..TUNNEL }));
        for event in session.events.iter_mut().filter(|event| matches!(event.kind, EventKind::HostFact { .. })) {
            event.vantage = Vantage::B;
        }
        session.select(Vantage::A, RELAYED, otherwise);
        session.select(Vantage::B, B, RELAYED);
        session.end(Vantage::A, EndReason::Finished);
        session.end(Vantage::B, EndReason::Finished);
        session
    };
    let session = with(true);
    only(&session, "WR105");
    let summary = only(&session, "WR202");
    assert!(summary.contains("towards the relay of A"), "{summary}");
    assert!(summary.contains("comes to light once what goes to the peer leaves by it"), "{summary}");
    assert_eq!(said(&with(false), "WR202"), [], "the rule explains it");
}

#[test]
fn what_a_full_connection_table_took_hides_no_rule_that_surely_takes_the_peers_packets() {
    let with = |words: &'static str| {
        host(Fate::SendRefused(1), |session| {
            let (transport, local, interface) = (Transport::Udp, address(A), Some("eth0".to_owned()));
            let opened = EventKind::SocketOpened { transport, local, interface, mark: None, receive_buffer: None };
            session.push(Vantage::A, opened);
            session.arrived_packet("eth0", B_MAPPED, A);
            session.fact(Vantage::A, HostFact::ConntrackUse { entries: 262_144, max: 262_144 });
            session.counters(Vantage::A, &[("nf_conntrack.drop", 10)]);
            session.firewall("input", words, Some("drop"), 0);
            session.firewall_chain("input", 0);
        })
    };
    let session = with("ip saddr 198.51.100.0/24 counter drop");
    only(&session, "WR112");
    assert!(only(&session, "WR111").contains("comes to light once"));
    assert_eq!(said(&with("ip saddr 203.0.113.0/24 counter drop"), "WR111"), []);
}
