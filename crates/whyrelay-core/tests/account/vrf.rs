//! What is said of a host with a VRF (docs/decisions.md: there is no rule of its own for it).

use whyrelay_core::host::{Family, HostFact, Link, PolicyRule, RoutePurpose};
use whyrelay_core::report::Report;
use whyrelay_core::trace::event::{EventKind, InterfaceUse, Side, Transport, Vantage};

use crate::builder::{Session, address};
use crate::cases::facts::{UPLINK, Way};
use crate::cases::lost;
use crate::report::{A, B_MAPPED, STUN};

/// A's eth0, 192.168.1.2, belongs to the VRF `mgmt`.
fn vrf(session: &mut Session) {
    session.link(Vantage::A, "eth0", None, "192.168.1.2");
    let link = |device: &str, master: Option<&str>, table: Option<u32>| Link {
        device: device.into(),
        index: 2,
        link_kind: table.map(|_| "vrf".into()),
        loopback: false,
        up: true,
        running: true,
        mtu: 1500,
        mac: None,
        master: master.map(str::to_owned),
        vrf_table: table,
    };
    session.fact(Vantage::A, HostFact::Link(link("eth0", Some("mgmt"), None)));
    session.fact(Vantage::A, HostFact::Link(link("mgmt", None, Some(10))));
    session.rule(PolicyRule { l3mdev: true, table: None, ..PolicyRule::lookup(Family::V4, 1000, 0) });
}

#[test]
fn an_address_in_a_vrf_that_no_socket_may_have_is_named_with_its_vrf() {
    let refused = |errno: i32, detail: &str| {
        let mut session = Session::new();
        let (name, addresses) = ("eth0".to_owned(), vec![address(A).ip()]);
        session.push(Vantage::A, EventKind::Interface { name, index: 2, addresses, used: InterfaceUse::Used });
        let (local, detail) = (address("192.168.1.2:0"), detail.to_owned());
        session.push(Vantage::A, EventKind::SocketFailed { transport: Transport::Udp, local, errno, detail });
        vrf(&mut session);
        session.push(Vantage::A, EventKind::EndOfCandidates { side: Side::Local });
        session.fail(Vantage::A);
        session.fail(Vantage::B);
        let findings = Report::from_events(&session.events).findings;
        let found = findings.iter().find(|finding| finding.code == "WR102").unwrap_or_else(|| panic!("{findings:?}"));
        found.summary.clone()
    };
    let summary = refused(99, "Cannot assign requested address (os error 99)");
    assert!(summary.contains("eth0 belongs to the VRF mgmt (table 10)"), "{summary}");
    assert!(summary.contains("\"ip vrf exec mgmt\""), "{summary}");
    // What failed for another reason fails in the VRF, too.
    let summary = refused(24, "Too many open files (os error 24)");
    assert!(summary.contains("Too many open files") && !summary.contains("VRF"), "{summary}");
}

#[test]
fn the_rule_that_looks_vrfs_up_is_not_blamed() {
    let session = lost(|session| {
        vrf(session);
        session.route(RoutePurpose::Server, STUN, 0, Ok(UPLINK));
        session.route(RoutePurpose::Peer, B_MAPPED, 0, Ok(UPLINK));
    });
    let findings = Report::from_events(&session.events).findings;
    let codes: Vec<_> = findings.iter().map(|finding| finding.code).collect();
    assert!(!codes.iter().any(|code| code.starts_with("WR1")), "{findings:?}");
    // Where packets to the peer and to the servers go apart, that is said as without a VRF.
    let session = lost(|session| {
        vrf(session);
        session.link(Vantage::A, "eth1", None, "192.168.2.2");
        session.route(RoutePurpose::Server, STUN, 0, Ok(UPLINK));
        let other = Way { device: "eth1", gateway: Some("192.168.2.1"), table: 254, rule: Some(32_766) };
        session.route(RoutePurpose::Peer, B_MAPPED, 0, Ok(other));
    });
    let findings = Report::from_events(&session.events).findings;
    assert_eq!(findings.first().map(|finding| finding.code), Some("WR118"), "{findings:?}");
}
