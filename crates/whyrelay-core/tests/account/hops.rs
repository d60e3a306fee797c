//! On whose side checks end, by the routers that tell of packets of low TTL.

use whyrelay_core::diagnosis::finding::Finding;
use whyrelay_core::host::{HostFact, Probe, ProbeAim, ProbeOutcome, RoutePurpose};
use whyrelay_core::report::{Expected, Report};
use whyrelay_core::trace::event::{EventKind, Vantage};

use crate::builder::{Fate, Session, address};
use crate::cases::facts::UPLINK;
use crate::cases::{failing, lost};
use crate::report::{A, A_MAPPED, B, B_MAPPED, STUN};

const LOST: Fate = Fate::LostOnTheWay;

/// What became of a packet of a side that lived for so many hops; `router`: who told that it ended there.
fn hop(session: &mut Session, side: Vantage, ttl: u8, remote: &str, router: Option<&str>) {
    let local = if side == Vantage::A { A } else { B };
    let result = router.map_or(ProbeOutcome::Silent, |router| ProbeOutcome::Icmp {
        offender: Some(router.parse().expect("an address")),
        icmp_type: 11,
        icmp_code: 0,
        mtu: None,
    });
    let (local, remote) = (address(local), address(remote));
    let probe = Probe { aim: ProbeAim::TimeToLive { ttl }, local, remote, transmissions: 6, result };
    session.fact(side, HostFact::Probe(probe));
}

fn found(session: &Session, code: &str) -> Finding {
    let report = Report::from_events(&session.events);
    let findings = report.findings;
    let named = findings.iter().find(|finding| finding.code == code);
    named.cloned().unwrap_or_else(|| panic!("no {code}: {findings:#?}"))
}

/// A's own router leads what is for B nowhere. B's checks come as far as any, and are lost for want of A's.
#[test]
fn a_black_hole_on_the_own_router_is_told_as_that() {
    let hole = |facts: fn(&mut Session)| {
        failing(LOST, LOST, |session| {
            hop(session, Vantage::A, 1, B_MAPPED, None);
            hop(session, Vantage::A, 1, STUN, Some("192.168.1.1"));
            hop(session, Vantage::B, 1, A_MAPPED, Some("10.0.0.1"));
            hop(session, Vantage::B, 2, A_MAPPED, Some("198.51.100.254"));
            facts(session);
        })
    };
    let session = hole(|_| {});
    let finding = found(&session, "WR501");
    let summary = &finding.summary;
    assert_eq!(finding.blame.name(), "A", "{summary}");
    assert!(summary.contains("of A's packets no hop answers, although its own router 192.168.1.1 does"), "{summary}");
    assert!(summary.contains("that router, or the host of A, drops what is for B"), "{summary}");
    assert!(
        summary.contains("of B's packets the last hop that answers is number 2, 198.51.100.254, between"),
        "{summary}"
    );
    let advice = finding.advice.join("\n");
    assert!(
        advice.contains("On 192.168.1.1, the router of A") && advice.contains("ip route get 198.51.100.2"),
        "{advice}"
    );
    assert!(!advice.contains("both sides"), "the other side has nothing to mend: {advice}");
    // Nothing says that such NATs cannot connect, and a router keeps them from it: what they would allow is not known.
    assert_eq!(Report::from_events(&session.events).expected, Expected::Unknown);
    // Where the peer is on the own link, no router stands between.
    let on_link = hole(|session| {
        session.route(RoutePurpose::Peer, B_MAPPED, 0, Ok(crate::cases::facts::Way { gateway: None, ..UPLINK }));
    });
    assert_eq!(found(&on_link, "WR501").blame.name(), "the path");
}

/// A router that tells of no packet whose time ran out tells of none for a server either.
#[test]
fn a_router_that_never_tells_is_not_blamed() {
    for towards_server in [None, Some(None)] {
        let session = failing(LOST, LOST, |session| {
            hop(session, Vantage::A, 1, B_MAPPED, None);
            if let Some(router) = towards_server {
                hop(session, Vantage::A, 1, STUN, router);
            }
        });
        let finding = found(&session, "WR501");
        assert_eq!(finding.blame.name(), "the path");
        assert!(!finding.summary.contains("hop"), "{}", finding.summary);
    }
}

#[test]
fn a_hop_is_on_the_side_that_its_address_says() {
    for (hops, told) in [
        (&[(1, "192.168.1.1")][..], "number 1, 192.168.1.1, its own router"),
        (&[(1, "192.168.1.1"), (2, "100.64.0.1")], "number 2, 100.64.0.1, on the side of A"),
        // What servers see A at is its router's outside; what they see B at is B's.
        (&[(1, "192.168.1.1"), (2, "203.0.113.1")], "number 2, 203.0.113.1, on the side of A"),
        (&[(1, "192.168.1.1"), (4, "198.51.100.2")], "number 4, 198.51.100.2, the router in front of B"),
        (&[(1, "192.168.1.1"), (3, "192.0.2.77")], "number 3, 192.0.2.77, between the two"),
        // Behind a router of the Internet a private address is whoever's.
        (&[(2, "192.0.2.77"), (3, "10.9.9.9")], "number 3, 10.9.9.9, between the two"),
        // It is on B's own network.
        (&[(2, "192.0.2.77"), (3, "10.0.0.1")], "number 3, 10.0.0.1, the router in front of B"),
    ] {
        let session = failing(LOST, LOST, |session| {
            hops.iter().for_each(|(ttl, router)| hop(session, Vantage::A, *ttl, B_MAPPED, Some(router)));
        });
        let finding = found(&session, "WR501");
        assert!(
            finding.summary.ends_with(&format!("of A's packets the last hop that answers is {told}")),
            "{hops:?}: {}",
            finding.summary
        );
        assert_eq!(finding.blame.name(), "the path");
    }
}

/// Who refuses A's checks is A's own router, B's, or somebody between.
#[test]
fn a_router_that_refuses_is_blamed_on_its_side() {
    for (offender, blame) in [
        ("192.168.1.1", "A"),
        ("203.0.113.1", "A"),
        ("198.51.100.2", "B"),
        ("10.0.0.1", "B"),
        ("203.0.113.254", "the path"),
    ] {
        let session = lost(|session| {
            let (local, remote) = (address(A), address(B_MAPPED));
            let offender = Some(offender.parse().expect("an address"));
            session.push(
                Vantage::A,
                EventKind::IcmpError { local, remote, offender, icmp_type: 3, icmp_code: 1, errno: 113 },
            );
        });
        let finding = found(&session, "WR513");
        assert_eq!(finding.blame.name(), blame, "{offender}: {}", finding.summary);
        let own = finding.advice.iter().any(|line| line.contains("On 192.168.1.1, the router of A"));
        assert_eq!(own, offender == "192.168.1.1", "{:?}", finding.advice);
    }
}

/// A private address behind a router of the Internet is whoever's, also where it refuses.
#[test]
fn a_private_router_that_refuses_is_the_senders_only_where_it_stands_on_its_side() {
    for (hops, blame) in [
        (&[][..], "the path"),
        (&[(1, "192.168.1.1"), (2, "10.9.9.9")], "A"),
        (&[(1, "192.168.1.1"), (2, "192.0.2.77"), (3, "10.9.9.9")], "the path"),
        (&[(1, "192.168.1.1"), (2, "192.0.2.77")], "the path"),
    ] {
        let session = lost(|session| {
            hops.iter().for_each(|(ttl, router)| hop(session, Vantage::A, *ttl, B_MAPPED, Some(router)));
            let (local, remote) = (address(A), address(B_MAPPED));
            let offender = Some("10.9.9.9".parse().expect("an address"));
            session.push(
                Vantage::A,
                EventKind::IcmpError { local, remote, offender, icmp_type: 3, icmp_code: 1, errno: 113 },
            );
        });
        let finding = found(&session, "WR513");
        assert_eq!(finding.blame.name(), blame, "{hops:?}: {}", finding.summary);
        assert_eq!(finding.summary.contains("on the side of A"), blame == "A", "{hops:?}: {}", finding.summary);
    }
}
