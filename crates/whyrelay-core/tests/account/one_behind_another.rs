//! A second fault of a host, which the first hides: found where what the host told proves it, and nowhere else.

use whyrelay_core::host::{
    HostFact, PolicyRule, Prefix, Probe, ProbeAim, ProbeOutcome, Route, RouteKind, RoutePurpose, RuleAction,
};
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{EventKind, SignalingState, Transport, Vantage};

use crate::builder::{Fate, Session, address};
use crate::cases::facts::{UPLINK, Way, bare_route, everywhere, policy_rule};
use crate::cases::{STUN_2, failing};
use crate::choices::said;
use crate::report::{A, A_MAPPED, B_MAPPED, STUN};

const REFUSED: i32 = 22;

fn peers_network() -> Prefix {
    Prefix { address: "198.51.100.0".parse().expect("an address"), length: 24 }
}

/// The kernel of A refuses the peer by a rule; `more`: what else is wrong.
fn refused(more: impl FnOnce(&mut Session)) -> Session {
    failing(Fate::SendRefused(REFUSED), Fate::LostOnTheWay, |session| {
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.link(Vantage::A, "wg0", Some("wireguard"), "10.66.0.2");
        session.default_route(254);
        session.rule(PolicyRule::lookup(whyrelay_core::host::Family::V4, 32_766, 254));
        let (to, rule_action, table) = (Some(peers_network()), RuleAction::Blackhole, None);
        session.rule(PolicyRule { to, rule_action, table, ..policy_rule(1000) });
        more(session);
        session.route(RoutePurpose::Server, STUN, 0, Ok(UPLINK));
        session.route(RoutePurpose::Peer, B_MAPPED, 0, Err(REFUSED));
    })
}

fn into_tunnel(session: &mut Session, table: u32) {
    let route = Route { device: Some("wg0".into()), ..bare_route(table, peers_network(), RouteKind::Unicast) };
    session.fact(Vantage::A, HostFact::Route(route));
}

fn diverting(session: &mut Session) {
    session.rule(PolicyRule { to: Some(peers_network()), ..policy_rule(1001) });
    into_tunnel(session, 200);
}

fn only(session: &Session, code: &str) -> String {
    match said(session, code).as_slice() {
        [(_, summary)] => summary.clone(),
        other => panic!("{code}: {other:?}"),
    }
}

#[test]
fn a_rule_and_a_route_behind_one_that_refuses_are_found_by_lookup() {
    let session = refused(diverting);
    assert!(!only(&session, "WR104").contains("comes to light"), "that one is seen");
    let summary = only(&session, "WR105");
    assert!(summary.contains("ip rule 1001"), "{summary}");
    assert!(summary.contains("comes to light once \"ip rule 1000: from all to 198.51.100.0/24 blackhole\" is mended"));

    let session = refused(|session| into_tunnel(session, 254));
    assert!(only(&session, "WR107").contains("comes to light"));

    // One behind the other, and a third behind both.
    let session = refused(|session| {
        diverting(session);
        into_tunnel(session, 254);
    });
    let summary = only(&session, "WR107");
    assert!(summary.contains("ip rule 1000") && summary.contains("\" and \"ip rule 1001"), "{summary}");
}

#[test]
fn nothing_is_found_behind_where_nothing_is() {
    let session = refused(|_| {});
    only(&session, "WR104");
    for code in ["WR103", "WR105", "WR106", "WR107", "WR114", "WR118"] {
        assert_eq!(said(&session, code), [], "{code}");
    }
}

#[test]
fn tables_that_do_not_explain_what_the_kernel_answers_prove_nothing() {
    // The rule that refuses is not among those that were told.
    let mut session = refused(diverting);
    session.events.retain(|event| match &event.kind {
        EventKind::HostFact { fact, .. } => {
            !matches!(fact.as_ref(), HostFact::PolicyRule(rule) if rule.priority == 1000)
        }
        _ => true,
    });
    only(&session, "WR104");
    assert_eq!(said(&session, "WR105"), []);

    // Nor where there are more than were told.
    let mut session = refused(diverting);
    let subject = whyrelay_core::host::Subject::PolicyRules;
    session.fact(Vantage::A, HostFact::Counted { subject, total: 900, recorded: 3 });
    assert_eq!(said(&session, "WR105"), []);
}

/// Rules of A's firewall, each with its hook, words, verdict, and how many packets it counted.
fn filtered(rules: &[(&str, &str, &str, u64)]) -> Session {
    refused(|session| {
        for (hook, words, verdict, packets) in rules {
            session.firewall(hook, words, Some(verdict), *packets);
        }
        let (transport, local, interface) = (Transport::Udp, address(A), Some("eth0".to_owned()));
        let opened = EventKind::SocketOpened { transport, local, interface, mark: None, receive_buffer: None };
        session.push(Vantage::A, opened);
        let hooks: std::collections::BTreeSet<&str> = rules.iter().map(|(hook, ..)| *hook).collect();
        hooks.into_iter().for_each(|hook| session.firewall_chain(hook, 0));
    })
}

#[test]
fn a_filter_that_no_packet_came_to_is_found_where_its_words_leave_no_doubt() {
    const DROP: (&str, &str, &str, u64) = ("output", "ip daddr 198.51.100.0/24 counter drop", "drop", 0);
    let session = filtered(&[DROP]);
    assert!(only(&session, "WR103").contains("comes to light once"));
    only(&session, "WR104");
    // What is seen comes first, though it is looked for later, and the verdict is about it.
    let report = Report::from_events(&session.events);
    let codes: Vec<&str> = report.findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["WR104", "WR802", "WR103"]);
    assert!(!report.reason.contains("comes to light"), "{}", report.reason);
    // It cites what keeps the packets from it.
    let (seen, behind) = (&report.findings[0].evidence, &report.findings[2].evidence);
    assert!(behind.iter().any(|seq| seen.contains(seq)), "{seen:?} {behind:?}");
    let session = filtered(&[("input", "ip saddr 198.51.100.0/24 counter drop", "drop", 0)]);
    assert!(only(&session, "WR111").contains("comes to light once"));

    // What comes after it, or is for the host itself, lets nothing through; nor does what it took of others, or of probes.
    for more in [
        &[("output", "ip daddr 198.51.100.0/24 counter drop", "drop", 5)][..],
        &[DROP, ("output", "ct state new accept", "accept", 0)],
        &[("output", "oifname \"lo\" accept", "accept", 0), DROP],
    ] {
        assert!(only(&filtered(more), "WR103").contains("comes to light once"), "{more:?}");
    }
    for other in [
        // Another rule may let them through first; or it is about others.
        &[("output", "ct state new accept", "accept", 0), DROP][..],
        &[("output", "oifname \"eth0\" accept", "accept", 0), DROP],
        &[("output", "ct state invalid counter drop", "drop", 0)],
        &[("output", "ip daddr 203.0.113.0/24 counter drop", "drop", 0)],
        &[("output", "meta l4proto tcp counter drop", "drop", 0)],
        &[("forward", "ip daddr 198.51.100.0/24 counter drop", "drop", 0)],
    ] {
        assert_eq!(said(&filtered(other), "WR103"), [], "{other:?}");
    }

    // Rules that were not told may do anything.
    let mut session = filtered(&[DROP]);
    session.events.retain(|event| match &event.kind {
        EventKind::HostFact { fact, .. } => !matches!(fact.as_ref(), HostFact::FirewallChain(_)),
        _ => true,
    });
    assert_eq!(said(&session, "WR103"), []);
    session.firewall_chain("output", 1);
    assert_eq!(said(&session, "WR103"), []);
    session.events.pop();
    session.firewall_chain("output", 0);
    only(&session, "WR103");
}

#[test]
fn a_filter_is_behind_nothing_where_nothing_is_seen_to_keep_the_packets_back() {
    for (rule, code) in [
        (("output", "ip daddr 198.51.100.0/24 counter drop", "drop", 0), "WR103"),
        (("input", "ip saddr 198.51.100.0/24 counter drop", "drop", 0), "WR111"),
    ] {
        let mut session = filtered(&[rule]);
        only(&session, code);
        // Nobody sent, and no route is refused.
        session.events.retain(|event| match &event.kind {
            EventKind::SendFailed { .. } => false,
            EventKind::Datagram(datagram) => ![A_MAPPED, B_MAPPED].map(address).contains(&datagram.remote),
            EventKind::HostFact { fact, .. } => !matches!(fact.as_ref(), HostFact::RouteAnswer(_)),
            _ => true,
        });
        assert_eq!(said(&session, code), [], "{rule:?}");
    }
}

/// A's packets for the peer go into a tunnel, those for the server do not; `mark`: the session's.
fn into_wg0(mark: u32, rule: u32, table: u32, host: impl FnOnce(&mut Session)) -> Session {
    failing(Fate::LostOnTheWay, Fate::LostOnTheWay, |session| {
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        session.link(Vantage::A, "wg0", Some("wireguard"), "10.66.0.2");
        session.default_route(254);
        session.rule(PolicyRule::lookup(whyrelay_core::host::Family::V4, 32_766, 254));
        host(session);
        let tunnel = |rule| Way { device: "wg0", gateway: None, table, rule: Some(rule) };
        let uplink = |rule| Way { rule: Some(rule), ..UPLINK };
        let servers_rule = if mark == 0 { 100 } else { rule };
        session.route(RoutePurpose::Server, STUN, mark, Ok(uplink(servers_rule)));
        session.route(RoutePurpose::Peer, B_MAPPED, mark, Ok(tunnel(rule)));
        if mark != 0 {
            session.route(RoutePurpose::Server, STUN, 0, Ok(uplink(32_766)));
            session.route(RoutePurpose::Peer, B_MAPPED, 0, Ok(tunnel(32_766)));
        }
    })
}

/// That the packets are diverted is told, and nothing behind that.
fn nothing_behind(session: &Session, what: &str) {
    let report = Report::from_events(&session.events);
    let summaries: Vec<&str> = report.findings.iter().map(|finding| finding.summary.as_str()).collect();
    assert!(summaries.iter().any(|summary| summary.contains("wg0")), "{what}: {summaries:#?}");
    assert!(!summaries.iter().any(|summary| summary.contains("comes to light")), "{what}: {summaries:#?}");
}

#[test]
fn what_stands_behind_a_rule_so_that_nothing_leaks_is_no_second_fault() {
    // Tailscale's rules, and mwan3's of one uplink: the last says unreachable for the same mark.
    for (what, mark, mask, priorities) in
        [("Tailscale", 0x8_0000, 0xff_0000, [5210, 5230, 5250]), ("mwan3", 0x100, 0x3f00, [2001, 2002, 3001])]
    {
        let marked = |priority, table| PolicyRule {
            mark: Some(mark),
            mask: Some(mask),
            table,
            rule_action: if table.is_some() { RuleAction::Lookup } else { RuleAction::Unreachable },
            ..policy_rule(priority)
        };
        let [first, second, last] = priorities;
        let session = into_wg0(mark, first, 254, |session| {
            session.rule(marked(first, Some(254)));
            session.rule(marked(second, Some(253)));
            session.rule(marked(last, None));
            into_tunnel(session, 254);
        });
        nothing_behind(&session, what);
    }
}

#[test]
fn a_route_that_refuses_behind_a_better_one_of_its_table_is_no_second_fault() {
    let session = into_wg0(0, 32_764, 51_820, |session| {
        let server = Prefix { address: address(STUN).ip(), length: 32 };
        session.rule(PolicyRule { to: Some(server), table: Some(254), ..policy_rule(100) });
        let (mark, table) = (Some(0xca6c), Some(51_820));
        session.rule(PolicyRule { mark, invert: true, table, ..policy_rule(32_764) });
        let route = |kind| bare_route(51_820, everywhere(), kind);
        let device = Some("wg0".to_owned());
        session.fact(Vantage::A, HostFact::Route(Route { device, ..route(RouteKind::Unicast) }));
        let metric = Some(4_278_198_272);
        session.fact(Vantage::A, HostFact::Route(Route { metric, ..route(RouteKind::Unreachable) }));
    });
    nothing_behind(&session, "a VPN's table");
}

/// A's socket for what comes and goes, and what was looked at of its packets.
fn looked_at(session: &mut Session) {
    let (transport, local, interface) = (Transport::Udp, address(A), Some("eth0".to_owned()));
    let opened = EventKind::SocketOpened { transport, local, interface, mark: None, receive_buffer: None };
    session.push(Vantage::A, opened);
    let subject = whyrelay_core::host::Subject::OwnPackets;
    session.fact(Vantage::A, HostFact::Counted { subject, total: 0, recorded: 0 });
}

/// Not all packets of A were looked for.
fn not_all_packets(session: &mut Session) {
    let (subject, why) = (whyrelay_core::host::Subject::OwnPackets, "the rest was left out".to_owned());
    session.fact(Vantage::A, HostFact::NotMeasured { subject, why, needs: None });
}

const FROM_PEER: &str = "ip saddr 198.51.100.0/24 counter drop";

fn drops_arrivals(session: &mut Session) {
    session.firewall("input", FROM_PEER, Some("drop"), 0);
    session.firewall_chain("input", 0);
}

#[test]
fn what_goes_another_way_brings_nothing_back_to_a_filter_on_arrival() {
    let with = |host: fn(&mut Session)| {
        into_wg0(0, 1000, 200, |session| {
            session.rule(PolicyRule { to: Some(peers_network()), ..policy_rule(1000) });
            into_tunnel(session, 200);
            looked_at(session);
            host(session);
        })
    };
    let session = with(drops_arrivals);
    assert!(!only(&session, "WR105").contains("comes to light"));
    assert!(only(&session, "WR111").contains("comes to light once"));
    // A filter on output is passed by packets that go another way, too: its counter would tell.
    let session = with(|session| {
        session.firewall("output", "ip daddr 198.51.100.0/24 counter drop", Some("drop"), 0);
        session.firewall_chain("output", 0);
    });
    assert_eq!(said(&session, "WR103"), []);
}

/// Checks get lost on the way, both ways, and nothing of the host explains it; `host`: what else it told.
fn lost_on_the_way(host: impl FnOnce(&mut Session)) -> Session {
    failing(Fate::LostOnTheWay, Fate::LostOnTheWay, |session| {
        session.link(Vantage::A, "eth0", None, "192.168.1.2");
        host(session);
    })
}

#[test]
fn a_filter_that_takes_all_of_the_peer_is_told_where_an_interface_saw_none_of_it() {
    let session = lost_on_the_way(|session| {
        looked_at(session);
        drops_arrivals(session);
    });
    assert!(only(&session, "WR111").contains("comes to light once"));
    // Nobody looked, or something came.
    assert_eq!(said(&lost_on_the_way(drops_arrivals), "WR111"), []);
    let partly = lost_on_the_way(|session| {
        looked_at(session);
        not_all_packets(session);
        drops_arrivals(session);
    });
    assert_eq!(said(&partly, "WR111"), [], "some may have come unseen");
    let came = lost_on_the_way(|session| {
        looked_at(session);
        session.arrived_packet("eth0", B_MAPPED, A);
        drops_arrivals(session);
    });
    assert_eq!(said(&came, "WR111"), []);
}

#[test]
fn a_filter_behind_reverse_path_filtering_is_told() {
    let dropped = |by: i64, packets: u64| {
        lost_on_the_way(|session| {
            looked_at(session);
            session.arrived_packet("eth0", B_MAPPED, A);
            session.counters(Vantage::A, &[("TcpExt.IPReversePathFilter", by)]);
            session.firewall("input", FROM_PEER, Some("drop"), packets);
            session.firewall_chain("input", 0);
        })
    };
    assert!(only(&dropped(3, 0), "WR111").contains("comes to light once"));
    assert_eq!(said(&dropped(0, 0), "WR111"), [], "the filter may have taken it, and counts nothing");
}

#[test]
fn that_none_came_of_packets_that_were_looked_for_in_part_proves_nothing() {
    let dropped = |partly: bool| {
        lost_on_the_way(|session| {
            looked_at(session);
            session.own_packet("eth0", A, B_MAPPED);
            session.counters(Vantage::A, &[("TcpExt.IPReversePathFilter", 12)]);
            if partly {
                not_all_packets(session);
            }
        })
    };
    assert_eq!(said(&dropped(false), "WR110"), [], "no socket misses any");
    only(&dropped(true), "WR110");
}

#[test]
fn a_rule_that_would_change_the_mark_is_told_where_no_packet_left() {
    const MARK: u32 = 0x1bd00;
    let of_type = |kind: &'static str, words: &'static str, left: bool| {
        failing(Fate::SendRefused(REFUSED), Fate::LostOnTheWay, |session| {
            session.link(Vantage::A, "eth0", None, "192.168.1.2");
            session.link(Vantage::A, "wg0", Some("wireguard"), "10.66.0.2");
            session.default_route(254);
            let device = Some("wg0".to_owned());
            session.fact(
                Vantage::A,
                HostFact::Route(Route { device, ..bare_route(200, everywhere(), RouteKind::Unicast) }),
            );
            let (mark, invert, table) = (Some(MARK), true, Some(200));
            session.rule(PolicyRule { mark, invert, table, ..policy_rule(110) });
            session.rule(PolicyRule::lookup(whyrelay_core::host::Family::V4, 32_766, 254));
            let route = bare_route(254, peers_network(), RouteKind::Blackhole);
            session.fact(Vantage::A, HostFact::Route(route));
            looked_at(session);
            if left {
                session.own_packet("eth0", A, B_MAPPED);
            }
            session.firewall("output", words, None, 0);
            session.firewall_chain("output", 0);
            session.chain_type(kind);
            session.route(RoutePurpose::Server, STUN, MARK, Ok(Way { rule: Some(32_766), ..UPLINK }));
            session.route(RoutePurpose::Peer, B_MAPPED, MARK, Err(REFUSED));
        })
    };
    let with = |words, left| of_type("route", words, left);
    const SETS: &str = "ip daddr 198.51.100.0/24 counter meta mark set 0x00000000";
    let session = with(SETS, false);
    only(&session, "WR104");
    let summary = only(&session, "WR109");
    assert!(summary.contains("the mark 0x0") && summary.contains("by wg0: that comes to light once"), "{summary}");
    assert_eq!(said(&with(SETS, true), "WR109"), [], "what left went the right way");
    assert_eq!(said(&of_type("filter", SETS, false), "WR109"), [], "a chain of this type sends nothing another way");
    let mut partial = with(SETS, false);
    not_all_packets(&mut partial);
    assert_eq!(said(&partial, "WR109"), [], "some may have left unseen");
    for words in [
        "ip daddr 203.0.113.0/24 counter meta mark set 0x00000000",
        "ip daddr 198.51.100.0/24 ct state new meta mark set 0x00000000",
        "ip daddr 198.51.100.0/24 counter meta mark set 0x0001bd00",
    ] {
        assert_eq!(said(&with(words, false), "WR109"), [], "{words}");
    }
}

#[test]
fn a_next_hop_that_nobody_sends_to_is_told_where_the_kernel_looked_for_it() {
    let with = |state: Option<whyrelay_core::host::NeighborState>| {
        refused(|session| {
            let gateway = Some("192.168.1.99".parse().expect("an address"));
            let device = Some("eth0".to_owned());
            let route = bare_route(254, peers_network(), RouteKind::Unicast);
            session.fact(Vantage::A, HostFact::Route(Route { device, gateway, ..route }));
            state.into_iter().for_each(|state| session.neighbor("192.168.1.99", state));
        })
    };
    let session = with(Some(whyrelay_core::host::NeighborState::Failed));
    only(&session, "WR104");
    let summary = only(&session, "WR113");
    assert!(summary.contains("no answer on the link from 192.168.1.99"), "{summary}");
    assert!(summary.contains("comes to light once \"ip rule 1000"), "{summary}");
    for state in [None, Some(whyrelay_core::host::NeighborState::Reachable)] {
        assert_eq!(said(&with(state), "WR113"), [], "{state:?}");
    }
}

/// B could not tell its address, and A neither sent anything there nor asked about it. `servers`: whether they saw B;
/// `host`: what else A's host told.
fn untold(servers: bool, host: impl FnOnce(&mut Session)) -> Session {
    let mut session = refused(|session| {
        session
            .events
            .retain(|event| !matches!(&event.kind, EventKind::RemoteCandidate { .. } if event.vantage == Vantage::A));
        let subject = whyrelay_core::host::Subject::Routes;
        session.fact(Vantage::A, HostFact::Counted { subject, total: 1, recorded: 1 });
        host(session);
    });
    session.events.retain(|event| match &event.kind {
        EventKind::SendFailed { .. } => false,
        EventKind::Datagram(datagram) if event.vantage == Vantage::B => {
            servers || ![STUN, STUN_2].map(address).contains(&datagram.remote)
        }
        EventKind::Datagram(datagram) => datagram.remote != address(B_MAPPED),
        EventKind::HostFact { fact, .. } => {
            !matches!(fact.as_ref(), HostFact::RouteAnswer(answer) if answer.question.purpose == RoutePurpose::Peer)
        }
        _ => true,
    });
    session
}

#[test]
fn what_would_become_of_packets_to_an_address_that_the_peer_could_not_tell_is_looked_up() {
    let session = untold(true, |_| {});
    let summary = only(&session, "WR104");
    assert!(summary.contains("what keeps the peer's address 198.51.100.2 from it is mended"), "{summary}");
    let mut cut = session;
    let subject = whyrelay_core::host::Subject::Routes;
    cut.fact(Vantage::A, HostFact::Counted { subject, total: 9, recorded: 1 });
    assert_eq!(said(&cut, "WR104"), [], "another route may be before it");
}

/// A probe of B, from a socket without the session's mark, that the server told its mapped address.
fn probed(session: &mut Session, mapped: &str) {
    probed_by(session, ProbeAim::WithoutMark, mapped);
}

fn probed_by(session: &mut Session, aim: ProbeAim, mapped: &str) {
    let (local, remote, mapped) = (address("10.1.1.5:4711"), address(STUN), Some(address(mapped)));
    let result = ProbeOutcome::Answered { mapped, round_trip_us: 20_000 };
    session.fact(Vantage::B, HostFact::Probe(Probe { aim, local, remote, transmissions: 1, result }));
}

/// The signaling server sees a side there.
fn signals_from(session: &mut Session, vantage: Vantage, address: &str) {
    let seen_as = Some(address.parse().expect("an address"));
    let (server, state) =
        ("https://signal.example".to_owned(), SignalingState::Connected { by: "websocket".into(), seen_as });
    session.push(vantage, EventKind::Signaling { server, state });
}

#[test]
fn an_address_that_no_server_told_the_session_may_be_known_by_its_probes_or_by_signaling() {
    let with = |tell: &dyn Fn(&mut Session)| {
        let mut session = untold(false, |_| {});
        tell(&mut session);
        said(&session, "WR104").into_iter().map(|(_, summary)| summary).collect::<Vec<_>>()
    };
    assert_eq!(with(&|_| {}), [""; 0], "nothing is known of B");
    let [summary] = with(&|session| probed(session, "198.51.100.2:4711")).try_into().expect("one");
    assert!(summary.contains("what keeps the peer's address 198.51.100.2 from it is mended"), "{summary}");
    assert_eq!(with(&|session| probed(session, "10.1.1.1:4711")), [""; 0], "one that is not the Internet's");

    let by_signaling = |address: &'static str| with(&move |session| signals_from(session, Vantage::B, address));
    let [summary] = by_signaling("198.51.100.2").try_into().expect("one");
    assert!(
        summary.contains("198.51.100.2, where signaling (or a proxy in front of it) sees it, from it is mended"),
        "{summary}"
    );
    for other in ["127.0.0.1", "192.168.7.7", "100.64.0.9", "203.0.113.77"] {
        assert_eq!(by_signaling(other), [""; 0], "{other}");
    }
    // A proxy in front of the server: it is where both sides seem to be.
    let both = |session: &mut Session| {
        for vantage in [Vantage::A, Vantage::B] {
            signals_from(session, vantage, "198.51.100.2");
        }
    };
    assert_eq!(with(&both), [""; 0]);
    // Who knows better is believed.
    let elsewhere = |session: &mut Session| {
        probed(session, "203.0.113.77:4711");
        signals_from(session, Vantage::B, "198.51.100.2");
    };
    assert_eq!(with(&elsewhere), [""; 0]);
    assert_eq!(said(&untold(true, |_| {}), "WR104").len(), 1);
}

#[test]
fn a_filter_that_would_stop_an_address_which_the_peer_could_not_tell_is_found_whatever_its_port() {
    let with = |hook: &'static str, words: &'static str, came: bool| {
        let mut session = untold(false, |session| {
            looked_at(session);
            if came {
                session.arrived_packet("eth0", B_MAPPED, A);
            }
            session.firewall(hook, words, Some("drop"), 0);
            session.firewall_chain(hook, 0);
        });
        probed(&mut session, "198.51.100.2:4711");
        let code = if hook == "output" { "WR103" } else { "WR111" };
        said(&session, code).into_iter().map(|(_, summary)| summary).collect::<Vec<_>>()
    };
    let [summary] = with("output", "ip daddr 198.51.100.0/24 counter drop", false).try_into().expect("one");
    assert!(summary.contains("the peer (198.51.100.2)") && summary.contains("comes to light once"), "{summary}");
    let [summary] = with("input", FROM_PEER, false).try_into().expect("one");
    assert!(summary.contains("the peer (198.51.100.2)") && summary.contains("comes to light once"), "{summary}");
    assert_eq!(with("input", FROM_PEER, true), [""; 0], "it counted none of what came");
    for (hook, words) in [
        ("output", "ip daddr 203.0.113.0/24 counter drop"),
        ("output", "udp dport 1-1023 counter drop"),
        ("output", "udp dport 1024-65535 counter drop"),
        ("input", "udp sport 1024-65535 counter drop"),
    ] {
        assert_eq!(with(hook, words, false), [""; 0], "{words}");
    }
}

#[test]
fn a_mark_that_would_be_changed_for_an_address_which_the_peer_could_not_tell_is_told() {
    const MARK: u32 = 0x1bd00;
    let with = |words: &'static str| {
        let mut session = failing(Fate::LostOnTheWay, Fate::LostOnTheWay, |session| {
            session.link(Vantage::A, "eth0", None, "192.168.1.2");
            session.link(Vantage::A, "wg0", Some("wireguard"), "10.66.0.2");
            session.default_route(254);
            let device = Some("wg0".to_owned());
            let route = Route { device, ..bare_route(200, everywhere(), RouteKind::Unicast) };
            session.fact(Vantage::A, HostFact::Route(route));
            let subject = whyrelay_core::host::Subject::Routes;
            session.fact(Vantage::A, HostFact::Counted { subject, total: 2, recorded: 2 });
            let (mark, invert, table) = (Some(MARK), true, Some(200));
            session.rule(PolicyRule { mark, invert, table, ..policy_rule(110) });
            session.rule(PolicyRule::lookup(whyrelay_core::host::Family::V4, 32_766, 254));
            looked_at(session);
            session.firewall("output", words, None, 0);
            session.firewall_chain("output", 0);
            session.chain_type("route");
            session.route(RoutePurpose::Server, STUN, MARK, Ok(Way { rule: Some(32_766), ..UPLINK }));
        });
        session.events.retain(|event| match &event.kind {
            EventKind::RemoteCandidate { .. } => event.vantage == Vantage::B,
            EventKind::Datagram(datagram) => datagram.remote == address(STUN) && event.vantage == Vantage::A,
            _ => true,
        });
        probed(&mut session, "198.51.100.2:4711");
        said(&session, "WR109").into_iter().map(|(_, summary)| summary).collect::<Vec<_>>()
    };
    let [summary] = with("ip daddr 198.51.100.0/24 counter meta mark set 0x00000000").try_into().expect("one");
    assert!(summary.contains("(198.51.100.2) the mark 0x0") && summary.contains("by wg0"), "{summary}");
    for words in [
        "ip daddr 203.0.113.0/24 counter meta mark set 0x00000000",
        "udp dport 1024-65535 counter meta mark set 0x00000000",
    ] {
        assert_eq!(with(words), [""; 0], "{words}");
    }
}

#[test]
fn where_a_bound_socket_of_the_peer_is_seen_counts_beside_what_the_peer_could_tell() {
    let with = |aim: ProbeAim| {
        let mut session = lost_on_the_way(|session| {
            session.default_route(254);
            session.rule(PolicyRule::lookup(whyrelay_core::host::Family::V4, 32_766, 254));
            let uplink = Prefix { address: "192.0.2.64".parse().expect("an address"), length: 26 };
            let (to, rule_action, table) = (Some(uplink), RuleAction::Blackhole, None);
            session.rule(PolicyRule { to, rule_action, table, ..policy_rule(1000) });
            session.route(RoutePurpose::Server, STUN, 0, Ok(UPLINK));
            let subject = whyrelay_core::host::Subject::Routes;
            session.fact(Vantage::A, HostFact::Counted { subject, total: 1, recorded: 1 });
        });
        probed_by(&mut session, aim, "192.0.2.77:4711");
        said(&session, "WR104").into_iter().map(|(_, summary)| summary).collect::<Vec<_>>()
    };
    // What the session of B sends leaves elsewhere, by a tunnel.
    let [summary] = with(ProbeAim::Device { device: "eth0".to_owned() }).try_into().expect("one");
    assert!(summary.contains("what keeps the peer's address 192.0.2.77 from it is mended"), "{summary}");
    assert_eq!(with(ProbeAim::OtherPort), [""; 0], "its NAT has more than one address");
}

#[test]
fn a_filter_that_took_the_peers_probes_is_told_where_nothing_else_came() {
    let with = |packets: u64, more: &dyn Fn(&mut Session)| {
        let mut session = failing(Fate::LostOnTheWay, Fate::SendRefused(REFUSED), |session| {
            session.link(Vantage::A, "eth0", None, "192.168.1.2");
            looked_at(session);
            session.arrived_packet("eth0", "198.51.100.2:4711", A);
            session.firewall("input", FROM_PEER, Some("drop"), packets);
            session.firewall_chain("input", 0);
            more(session);
        });
        probed(&mut session, "198.51.100.2:4711");
        said(&session, "WR111").into_iter().map(|(_, summary)| summary).collect::<Vec<_>>()
    };
    let [summary] = with(6, &|_| {}).try_into().expect("one");
    assert!(summary.contains("(198.51.100.2:4711)") && summary.contains("its probes reached"), "{summary}");
    assert_eq!(with(0, &|_| {}), [""; 0], "it counted none");
    let seen = |session: &mut Session| {
        let (local, remote) = (address(A), address("198.51.100.2:4712"));
        session.fact(Vantage::A, HostFact::ProbeSeen { aim: "device".to_owned(), local, remote, length: 84 });
    };
    assert_eq!(with(6, &seen), [""; 0], "a socket heard the peer");
    let filtered = |session: &mut Session| session.counters(Vantage::A, &[("TcpExt.IPReversePathFilter", 6)]);
    let [summary] = with(6, &filtered).try_into().expect("it would take them as well");
    assert!(summary.contains("that comes to light once"), "reverse path filtering stands before it: {summary}");
}
