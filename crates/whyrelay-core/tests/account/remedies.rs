//! What is advised fits what was measured, and the machine that it is for.

use whyrelay_core::diagnosis::finding::{Effect, Finding};
use whyrelay_core::host::{ConntrackEntry, HostFact, Probe, ProbeAim, ProbeOutcome, RouteKind, RoutePurpose};
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{EventKind, SessionOptions, Vantage};
use whyrelay_core::trace::measurement::Measurement;

use crate::builder::{Fate, Session, address};
use crate::cases::facts::policy_rule;
use crate::cases::{STUN_2, failing, lost, over_relay};
use crate::report::{A, A_MAPPED, B, B_MAPPED, RELAYED, STUN, relayed};

fn finding(session: &Session, code: &str) -> Finding {
    let findings = Report::from_events(&session.events).findings;
    let found: Vec<_> = findings.iter().map(|finding| finding.code).collect();
    findings.iter().find(|finding| finding.code == code).cloned().unwrap_or_else(|| panic!("no {code} in {found:?}"))
}

#[test]
fn keep_alives_are_advised_below_what_the_nat_was_seen_to_remember() {
    for (at_least_s, at_most_s, every) in [(6, 10, "every 4 s"), (20, 25, "every 16 s"), (0, 5, "every 1 s")] {
        let session = lost(|session| {
            let local = address(A).ip();
            let fact = Measurement::MappingLifetime { local, at_least_s, at_most_s: Some(at_most_s) };
            session.push(Vantage::A, EventKind::Measured(fact));
        });
        let advice = finding(&session, "WR205").advice;
        assert!(advice[0].contains(every), "{advice:?}");
        assert!(!advice.iter().any(|line| line.contains("15")), "{advice:?}");
    }
}

#[test]
fn a_session_that_may_only_use_relays_is_not_told_that_ipv6_makes_it_direct() {
    let mut session = Session::with_options(SessionOptions { relay_only: true, ..SessionOptions::default() });
    session.allocate(Vantage::A, A, STUN, RELAYED, A_MAPPED, B_MAPPED);
    session.stun(Vantage::B, B, STUN, Some(B_MAPPED));
    let report = Report::from_events(&over_relay(session).events);
    assert_eq!(report.would_allow_direct, ["A without --relay-only", "B without --relay-only"]);
}

#[test]
fn a_rule_is_advised_only_for_a_table_that_is_there() {
    let undelivered = |policy: bool| {
        lost(|session| {
            session.counters(Vantage::A, &[("Ip.InReceives", 40), ("Ip.InDelivers", 10)]);
            if policy {
                session.policy("input", "drop");
            }
        })
    };
    let commands = |session: &Session| -> Vec<String> {
        finding(session, "WR111").remedies.into_iter().flat_map(|remedy| remedy.commands).collect()
    };
    let known = commands(&undelivered(true));
    assert!(known.contains(&"nft insert rule inet own in udp dport 40000 accept".to_owned()), "{known:?}");
    let unknown = commands(&undelivered(false));
    assert!(!unknown.iter().any(|command| command.contains("insert")), "{unknown:?}");
}

/// A default route that drops is what VPNs keep packets in with: nothing that opens it is safe.
#[test]
fn what_opens_a_kill_switch_is_not_called_safe() {
    let with_rule = |users, mark: Option<u32>, priority| {
        failing(Fate::SendRefused(22), Fate::LostOnTheWay, |session| {
            let rule = whyrelay_core::host::PolicyRule { users, mark, mask: mark, ..policy_rule(priority) };
            session.rule(rule);
            session.refusing_route(RouteKind::Blackhole, 200);
            session.route(RoutePurpose::Server, STUN, mark.unwrap_or(0), Err(22));
            session.route(RoutePurpose::Peer, B_MAPPED, mark.unwrap_or(0), Err(22));
        })
    };
    for (code, session) in [
        ("WR104", with_rule(None, None, 1000)),
        ("WR105", with_rule(Some((0, 0)), None, 1000)),
        ("WR106", with_rule(None, Some(0x1BD00), 1000)),
    ] {
        let finding = finding(&session, code);
        assert!(finding.summary.contains("ip rule 1000"), "{code}: {}", finding.summary);
        let opens =
            |command: &String| ["rule del", "route del", "rule add"].iter().any(|change| command.contains(change));
        let open: Vec<_> = finding.remedies.iter().filter(|remedy| remedy.commands.iter().any(opens)).collect();
        assert!(!open.is_empty() && open.iter().all(|it| it.effect == Effect::ChangesFirewall), "{code}: {open:?}");
        let turn = Report::from_events(&session.events).findings.iter().any(|finding| finding.code == "WR402");
        assert!(!turn, "{code}: nothing is known of a server to which nothing went");
    }
}

/// From inside of a container the host's rules are not seen, and every NAT outside looks the same.
#[test]
fn a_container_alone_is_no_proof_that_its_host_draws_ports() {
    let mut session = relayed();
    session.stun(Vantage::A, A, STUN_2, Some("203.0.113.1:61234"));
    session.stun(Vantage::B, B, STUN_2, Some(B_MAPPED));
    session.capabilities(&[], Some("docker"));
    let session = over_relay(session);
    let found = finding(&session, "WR201");
    assert!(found.advice[0].contains("runs in a container (docker)"), "{:?}", found.advice);
    let codes: Vec<_> = Report::from_events(&session.events).findings.iter().map(|finding| finding.code).collect();
    assert!(!codes.contains(&"WR209"), "{codes:?}");
}

fn conntrack_entry(session: &mut Session, to: &str, leaves_from: &str) {
    session.fact(
        Vantage::A,
        HostFact::ConntrackEntry(ConntrackEntry {
            protocol: 17,
            original_source: address(A),
            original_destination: address(to),
            reply_source: address(to),
            reply_destination: address(leaves_from),
            replied: true,
            mark: 0,
            timeout_s: Some(29),
        }),
    );
}

/// A's socket has another mapping for each server; B's has not.
fn mapped_by_destination() -> Session {
    let mut session = relayed();
    session.stun(Vantage::A, A, STUN_2, Some("203.0.113.1:61234"));
    session.stun(Vantage::B, B, STUN_2, Some(B_MAPPED));
    session
}

/// What a host's own firewall does to its own packets is no router's fault.
#[test]
fn a_host_that_translates_its_own_packets_is_told_to_stop_and_no_router_is() {
    let with = |ports: [&str; 2]| {
        let mut session = mapped_by_destination();
        session.firewall("postrouting", "meta l4proto 17 masquerade", None, 5);
        conntrack_entry(&mut session, STUN, ports[0]);
        conntrack_entry(&mut session, STUN_2, ports[1]);
        over_relay(session)
    };
    let session = with(["192.168.1.2:51111", "192.168.1.2:61234"]);
    let report = Report::from_events(&session.events);
    let found = finding(&session, "WR209");
    assert_eq!(report.findings.first().map(|first| (first.code, first.blame.name())), Some(("WR209", "A")));
    assert!(found.summary.contains("from port 51111 towards") && found.summary.contains("masquerade"), "{found:?}");
    assert!(found.advice[0].contains("--port 40000"), "{:?}", found.advice);
    assert!(!found.advice.iter().any(|line| line.contains("router")), "{:?}", found.advice);
    assert!(!report.findings.iter().any(|finding| finding.code == "WR201"));
    let text = whyrelay_core::report::render_text(&report, &whyrelay_core::report::TextOptions::default());
    assert!(!text.contains("as it must be") && !text.contains("on its router"), "{text}");
    // It translates and keeps the port: then it is the NAT in front.
    let kept = with([A, A]);
    assert_eq!(finding(&kept, "WR201").blame.name(), "A");
    let codes: Vec<_> = Report::from_events(&kept.events).findings.iter().map(|finding| finding.code).collect();
    assert!(!codes.contains(&"WR209"), "{codes:?}");
}

/// With a provider's NAT in front a port of the own router leads nowhere.
#[test]
fn no_forward_on_the_own_router_is_advised_behind_a_second_nat() {
    let behind = |ttl, router: &str| {
        let mut session = mapped_by_destination();
        let result =
            ProbeOutcome::Icmp { offender: Some(address(router).ip()), icmp_type: 11, icmp_code: 0, mtu: None };
        let (local, remote) = (address(A), address(B_MAPPED));
        let probe = Probe { aim: ProbeAim::TimeToLive { ttl }, local, remote, transmissions: 1, result };
        session.fact(Vantage::A, HostFact::Probe(probe));
        over_relay(session)
    };
    let carrier = behind(2, "100.64.0.1:1");
    let found = finding(&carrier, "WR203");
    assert!(found.summary.contains("hop 2 on its way out is 100.64.0.1"), "{}", found.summary);
    let advice = finding(&carrier, "WR201").advice;
    assert!(!advice.iter().any(|line| line.contains("Forward a port") || line.contains("static-port")), "{advice:?}");
    let ways = Report::from_events(&carrier.events).would_allow_direct;
    assert!(ways.iter().any(|way| way.contains("public IPv4 address for A")), "{ways:?}");
    assert!(!ways.iter().any(|way| way.contains("on its router")), "{ways:?}");
    // A router of the peer's provider, the own router, and one with a public address.
    for (ttl, router) in [(3, "100.64.0.1:1"), (1, "100.64.0.1:1"), (2, "203.0.113.254:1")] {
        let other = behind(ttl, router);
        let report = Report::from_events(&other.events);
        assert!(!report.findings.iter().any(|finding| finding.code == "WR203"), "{ttl} {router}");
        assert!(finding(&other, "WR201").advice.iter().any(|line| line.contains("Forward a port")));
    }
}

/// A session has another port each time, unless it is told.
#[test]
fn advice_that_names_a_port_says_how_the_next_session_gets_it() {
    let dropped = |as_application| {
        lost(|session| {
            session.firewall("input", "udp dport 40000 drop", Some("drop"), 7);
            if as_application {
                session.application(None, true);
            }
        })
    };
    let advice = |as_application| finding(&dropped(as_application), "WR111").advice;
    assert!(advice(false)[0].contains("--port 40000"), "{:?}", advice(false));
    assert!(!advice(true).iter().any(|line| line.contains("--port")), "{:?}", advice(true));
}
