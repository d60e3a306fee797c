//! Rules of a host that looks at itself: each fires on what it is about, and blames whom it must.

use whyrelay_core::host::{HostFact, Moment, OwnPacket, Subject};
use whyrelay_core::report::CheckReport;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::{
    Datagram, Direction, Event, EventKind, InterfaceUse, SignalingState, Transport, Vantage,
};
use whyrelay_core::trace::measurement::Measurement;
use whyrelay_core::wire::stun::{Class, MessageBuilder, Method, TransactionId};

use crate::builder::address;
use crate::report::{A, STUN};

/// What is found of a host that looks at itself, with one interface, and signaling that failed like this.
fn check_with(used: InterfaceUse, ip: &str, detail: &str) -> Vec<String> {
    check_with_all(&[("eth0", used, &[ip])], None, detail)
}

/// The same with these interfaces, a default route by one of them or none.
fn check_with_all(
    interfaces: &[(&str, InterfaceUse, &[&str])],
    default_route: Option<&str>,
    detail: &str,
) -> Vec<String> {
    let state = SignalingState::Failed { detail: detail.into() };
    let interfaces = interfaces.iter().map(|(name, used, addresses)| {
        let addresses = addresses.iter().map(|ip| ip.parse().expect("an address")).collect();
        EventKind::Interface { name: (*name).into(), index: 1, addresses, used: *used }
    });
    let route = default_route.map(|interface| Measurement::Gateway { interface: interface.into(), gateway: None });
    let kinds = std::iter::once(EventKind::CheckStarted { consents: Vec::new() })
        .chain(interfaces)
        .chain(route.map(EventKind::Measured))
        .chain([EventKind::Signaling { server: "http://192.0.2.10:8080".into(), state }]);
    let event = |(seq, kind)| Event { seq, at: Timestamp::from_micros(seq), vantage: Vantage::A, kind };
    let report = CheckReport::from_events(&(0..).zip(kinds).map(event).collect::<Vec<_>>());
    report.findings.iter().map(|found| format!("{} {} {}", found.code, found.blame.name(), found.summary)).collect()
}

#[test]
fn a_check_without_a_network_or_a_route_blames_this_host_and_not_the_server() {
    const UNREACHABLE: &str = "cannot reach it: Network is unreachable (os error 101)";
    let down = check_with(InterfaceUse::Down, "192.168.1.2", UNREACHABLE);
    assert_eq!(down, ["WR102 A This host has no network: eth0 is down"]);
    let link_local = check_with(InterfaceUse::Used, "169.254.7.7", UNREACHABLE);
    assert_eq!(link_local, ["WR102 A This host has no network: eth0 has no address that leaves its network"]);
    for (detail, blame, end) in [
        (UNREACHABLE, "WR701 A ", "(this host has no route to it)"),
        ("Connection refused (os error 111)", "WR701 signaling ", "refused (os error 111)"),
    ] {
        let found = check_with(InterfaceUse::Used, "192.168.1.2", detail);
        assert!(found.len() == 1 && found[0].starts_with(blame) && found[0].ends_with(end), "{found:?}");
    }
}

#[test]
fn a_link_without_an_address_and_a_bridge_to_guests_are_no_network() {
    const UNREACHABLE: &str = "cannot reach it: Network is unreachable (os error 101)";
    let no_address = ("eth0", InterfaceUse::NoAddress, &[][..]);
    let lo = ("lo", InterfaceUse::Loopback, &["127.0.0.1"][..]);
    let docker = ("docker0", InterfaceUse::Used, &["172.17.0.1"][..]);
    let bridge = ("br-lan", InterfaceUse::Used, &["192.168.1.2"][..]);
    for (interfaces, words) in [
        (&[lo, no_address][..], "eth0 is up and has no address"),
        (&[lo, docker, no_address], "eth0 is up and has no address"),
        (&[lo, docker], "it has no interface but loopback and those to its own guests"),
        (&[lo], "it has no interface but loopback"),
    ] {
        let found = check_with_all(interfaces, None, UNREACHABLE);
        assert_eq!(found, [format!("WR102 A This host has no network: {words}")]);
    }
    // The network of a router, by a bridge that has such a name.
    let found = check_with_all(&[lo, bridge], Some("br-lan"), "Connection refused (os error 111)");
    assert!(found.len() == 1 && found[0].starts_with("WR701 signaling "), "{found:?}");
}

/// A host that asked a server three times over UDP; `arrived`: an interface saw the answers, or nobody looked.
fn check_of_a_silent_server(arrived: Option<bool>) -> CheckReport {
    let (local, remote) = (address(A), address(STUN));
    let mut kinds = vec![EventKind::CheckStarted { consents: Vec::new() }];
    for number in 0..3 {
        let id = TransactionId([number; 12]);
        let data = MessageBuilder::new(Class::Request, Method::BINDING, id).build();
        kinds.push(EventKind::Datagram(Datagram {
            direction: Direction::Out,
            transport: Transport::Udp,
            local,
            remote,
            interface: None,
            length: 20,
            data,
            integrity: None,
        }));
    }
    let fact = match arrived {
        Some(arrived) => HostFact::OwnPacket(OwnPacket {
            device: "eth0".into(),
            arrived,
            source: if arrived { remote } else { local },
            destination: if arrived { local } else { remote },
            packets: 3,
            wrong_checksums: 0,
        }),
        None => HostFact::NotMeasured {
            subject: Subject::OwnPackets,
            why: "Operation not permitted".into(),
            needs: Some("CAP_NET_RAW".into()),
        },
    };
    kinds.push(EventKind::HostFact { moment: Moment::After, fact: Box::new(fact) });
    let event = |(seq, kind)| Event { seq, at: Timestamp::from_micros(seq), vantage: Vantage::A, kind };
    CheckReport::from_events(&(0..).zip(kinds).map(event).collect::<Vec<_>>())
}

#[test]
fn a_check_tells_its_own_firewall_from_a_silent_server_where_it_may_look() {
    let codes = |report: &CheckReport| report.findings.iter().map(|found| found.code).collect::<Vec<_>>();
    let dropped = check_of_a_silent_server(Some(true));
    assert_eq!(codes(&dropped), ["WR111"]);
    assert!(dropped.findings[0].summary.contains("3 packets of"), "{}", dropped.findings[0].summary);
    assert_eq!(codes(&check_of_a_silent_server(Some(false))), ["WR301"]);
    let unseen = check_of_a_silent_server(None);
    assert_eq!(codes(&unseen), ["WR301"]);
    let told = unseen.not_measured.iter().map(|missing| format!("{}: {}", missing.what, missing.why));
    let told: Vec<String> = told.filter(|told| told.contains("needs CAP_NET_RAW")).collect();
    assert!(told.iter().any(|told| told.contains("input-firewall-drops") || told.contains("own firewall")), "{told:?}");
}
