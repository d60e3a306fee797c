//! What is wrong with one address family explains nothing of the other.

use whyrelay_core::host::{FirewallRule, HostFact, NeighborState, RoutePurpose};
use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{EventKind, Vantage};

use crate::builder::{Check, Fate, Session, address};
use crate::cases::facts::Way;
use crate::cases::lost;
use crate::report::{A, B_MAPPED, a_checks, b_checks};

const A6: &str = "[2001:db8:a::2]:40000";
const B6: &str = "[2001:db8:b::2]:50000";

/// Both have IPv6 beside IPv4, and all checks are lost on the way, over each family.
fn dual(facts: impl FnOnce(&mut Session)) -> Vec<(String, String)> {
    let session = lost(|session| {
        session.candidate(Vantage::A, CandidateType::Host, A6, A6, None);
        session.candidate(Vantage::B, CandidateType::Host, B6, B6, None);
        let (local, remote, transmissions) = (A6, B6, 7);
        session.check(Check { local, remote, transmissions, ..a_checks(Fate::LostOnTheWay) });
        let (local, remote) = (B6, A6);
        session.check(Check { local, remote, transmissions, ..b_checks(Fate::LostOnTheWay) });
        facts(session);
    });
    let report = Report::from_events(&session.events);
    report.findings.iter().map(|finding| (finding.code.to_owned(), finding.summary.clone())).collect()
}

fn host_unreachable(session: &mut Session, local: &str, remote: &str, icmp: (u8, u8)) {
    let (local, remote) = (address(local), address(remote));
    let (offender, (icmp_type, icmp_code), errno) = (Some(local.ip()), icmp, 113);
    session.push(Vantage::A, EventKind::IcmpError { local, remote, offender, icmp_type, icmp_code, errno });
}

#[test]
fn a_dead_ipv6_gateway_does_not_hide_that_ipv4_is_lost() {
    let found = dual(|session| {
        host_unreachable(session, A6, B6, (1, 3));
        let way = Way { device: "eth0", gateway: Some("2001:db8:a::1"), table: 254, rule: Some(32_766) };
        session.route(RoutePurpose::Peer, B6, 0, Ok(way));
        session.neighbor("2001:db8:a::1", NeighborState::Failed);
    });
    let codes: Vec<_> = found.iter().map(|(code, _)| code.as_str()).collect();
    assert_eq!(codes, ["WR113", "WR501"], "{found:?}");
    // What the gateway explains is left out of it.
    assert!(found[1].1.contains(B_MAPPED) && !found[1].1.contains("2001:db8"), "{found:?}");
}

#[test]
fn each_family_has_its_own_dead_gateway() {
    let found = dual(|session| {
        host_unreachable(session, A6, B6, (1, 3));
        host_unreachable(session, A, B_MAPPED, (3, 1));
    });
    let codes: Vec<_> = found.iter().map(|(code, _)| code.as_str()).collect();
    assert_eq!(codes, ["WR113", "WR113"], "{found:?}");
}

#[test]
fn what_no_family_has_alone_is_told_once() {
    let found = dual(|_| {});
    let codes: Vec<_> = found.iter().map(|(code, _)| code.as_str()).collect();
    assert_eq!(codes, ["WR501"], "{found:?}");
}

/// Of an own firewall that takes what an IPv6 gateway answers it is said only where no rule ahead may let that in: all of
/// them were told, and packets come to the chain by themselves.
#[test]
fn a_firewall_is_blamed_for_a_silent_gateway_where_all_rules_ahead_of_it_were_told() {
    const DROP: &str = "ip6 saddr 2001:db8::/32 counter drop";
    let drops = |session: &mut Session| session.firewall("input", DROP, Some("drop"), 5);
    let accepts = |session: &mut Session, rule: &str| session.firewall("input", rule, Some("accept"), 5);
    let last = |session: &mut Session, change: &dyn Fn(&mut FirewallRule)| {
        if let Some(EventKind::HostFact { fact, .. }) = session.events.last_mut().map(|event| &mut event.kind)
            && let HostFact::FirewallRule(rule) = fact.as_mut()
        {
            change(rule);
        }
    };
    let look = |rules: &dyn Fn(&mut Session)| {
        let found = dual(|session| {
            session.link(Vantage::A, "eth0", None, "2001:db8:a::2");
            let way = Way { device: "eth0", gateway: Some("2001:db8:a::1"), table: 254, rule: Some(32_766) };
            session.route(RoutePurpose::Peer, B6, 0, Ok(way));
            session.neighbor("2001:db8:a::1", NeighborState::Failed);
            rules(session);
        });
        let of_firewall = |(code, text): &(String, String)| code == "WR111" && text.contains("neighbor discovery");
        (found.iter().any(of_firewall), found.iter().any(|(code, _)| code == "WR113"))
    };
    let (taken, silent) = ((true, false), (false, true));
    assert_eq!(look(&drops), taken);
    let behind_tcp = |session: &mut Session| {
        accepts(session, "tcp dport 22 counter accept");
        drops(session);
        session.firewall_chain("input", 0);
    };
    assert_eq!(look(&behind_tcp), taken);
    let behind_icmp = |session: &mut Session| {
        accepts(session, "icmpv6 type nd-neighbor-advert counter accept");
        drops(session);
    };
    assert_eq!(look(&behind_icmp), silent, "one ahead of it may let it in");
    let behind_untold = |session: &mut Session| {
        drops(session);
        last(session, &|rule| rule.position = Some(1));
    };
    assert_eq!(look(&behind_untold), silent, "what is ahead of it is not known");
    let led_there = |session: &mut Session| {
        session.firewall("input", "tcp dport 22 jump extra", Some("jump"), 5);
        last(session, &|rule| rule.target = Some("extra".into()));
        drops(session);
        last(session, &|rule| (rule.chain, rule.position) = ("extra".into(), Some(0)));
    };
    assert_eq!(look(&led_there), silent, "what comes to its chain is not known");
    let of_no_base = |session: &mut Session| {
        session.firewall_chain("input", 0);
        drops(session);
        last(session, &|rule| (rule.chain, rule.position) = ("extra".into(), Some(0)));
    };
    assert_eq!(look(&of_no_base), silent, "its chain is no base chain that was told");
}
