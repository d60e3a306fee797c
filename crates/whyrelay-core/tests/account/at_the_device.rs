//! Obstacles on the host itself that its ordinary chains and counters do not show.

use whyrelay_core::host::{FirewallFramework, FirewallRule, HostFact};
use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{EndReason, Vantage};

use crate::builder::{Check, Fate, Session};
use crate::cases::{failing, lost};
use crate::report::{A, A_MAPPED, B, B_MAPPED, a_checks, behind_nats};

/// A rule of nft's netdev family without a counter.
fn netdev(session: &mut Session, hook: &str) {
    let rule = FirewallRule {
        framework: FirewallFramework::Nftables,
        table_family: "netdev".into(),
        table: "guard".into(),
        chain: "eth0".into(),
        hook: Some(hook.into()),
        chain_type: Some("filter".into()),
        priority: Some(0),
        handle: Some(2),
        position: Some(0),
        rule: "udp dport 40000 drop".into(),
        verdict: Some("drop".into()),
        target: None,
        sets_mark: false,
        packets: None,
        packets_since: None,
    };
    session.fact(Vantage::A, HostFact::FirewallRule(rule));
}

/// The first finding: its code, whose fault it is, what it says and what is advised.
fn first(session: &Session) -> (&'static str, &'static str, String, Vec<String>) {
    let finding = Report::from_events(&session.events).findings.remove(0);
    let commands = finding.remedies.iter().flat_map(|remedy| remedy.commands.clone()).collect();
    (finding.code, finding.blame.name(), finding.summary, commands)
}

#[test]
fn what_a_device_drops_on_arrival_is_told_by_what_reached_it_and_no_socket() {
    let arrived = |rule: bool, packet: bool| {
        lost(|session| {
            session.link(Vantage::A, "eth0", None, "192.168.1.2");
            if rule {
                netdev(session, "ingress");
            }
            if packet {
                session.arrived_packet("eth0", B_MAPPED, A);
            }
        })
    };
    let (code, blame, summary, commands) = first(&arrived(true, true));
    assert_eq!((code, blame), ("WR111", "A"), "{summary}");
    assert!(summary.contains("udp dport 40000 drop") && summary.contains("netdev guard eth0"), "{summary}");
    assert!(commands.contains(&"nft insert rule netdev guard eth0 udp dport 40000 accept".to_owned()), "{commands:?}");
    // The rule alone proves nothing, where nothing reached the interface.
    assert_ne!(first(&arrived(true, false)).0, "WR111");
    assert_ne!(first(&arrived(false, true)).0, "WR111");
}

#[test]
fn a_send_without_buffer_space_names_the_rule_on_egress() {
    let refused = |rule: bool| {
        failing(Fate::SendRefused(105), Fate::LostOnTheWay, |session| {
            if rule {
                netdev(session, "egress");
            }
        })
    };
    let (code, blame, summary, commands) = first(&refused(true));
    assert_eq!((code, blame), ("WR101", "A"), "{summary}");
    assert!(summary.contains("netdev guard eth0"), "{summary}");
    assert!(commands.contains(&"nft delete rule netdev guard eth0 handle 2".to_owned()), "{commands:?}");
    assert!(first(&refused(false)).2.contains("netdev egress"), "{}", first(&refused(false)).2);
}

#[test]
fn a_source_that_is_not_this_hosts_is_its_own_rules_fault_where_nothing_answers() {
    let (code, blame, summary, commands) = first(&crate::cases::translated("10.9.9.9:40000"));
    assert_eq!((code, blame), ("WR130", "A"), "{summary}");
    assert!(summary.contains("with the source 10.9.9.9:40000") && summary.contains("postrouting"), "{summary}");
    let except = "nft insert rule inet filter postrouting udp sport 40000 accept".to_owned();
    assert!(commands.contains(&except), "{commands:?}");
}

#[test]
fn a_route_that_refuses_one_address_of_a_direct_peer_is_named_as_one() {
    let (own, peer) = ("[2001:db8:a::1]:40000", "[2001:db8:b::1]:40000");
    let with = |errno| {
        let mut session = behind_nats();
        session.candidate(Vantage::A, CandidateType::Host, own, own, None);
        session.candidate(Vantage::B, CandidateType::Host, peer, peer, None);
        session.check(Check { local: own, remote: peer, fate: Fate::SendRefused(errno), ..a_checks(Fate::Answered) });
        session.check(Check { nominate: true, ..a_checks(Fate::Answered) });
        session.select(Vantage::A, A, B_MAPPED);
        session.select(Vantage::B, B, A_MAPPED);
        session.end(Vantage::A, EndReason::Finished);
        session.end(Vantage::B, EndReason::Finished);
        let report = Report::from_events(&session.events);
        let codes: Vec<_> = report.findings.iter().map(|finding| (finding.code, finding.severity.name())).collect();
        codes
    };
    // Blackhole and prohibit.
    assert_eq!(with(22), [("WR104", "info")]);
    assert_eq!(with(13), [("WR104", "info")]);
    // No route at all has rules of its own.
    assert!(!with(101).contains(&("WR104", "info")), "{:?}", with(101));
}
