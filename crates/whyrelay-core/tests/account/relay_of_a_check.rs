//! What a host that looks at itself says of a relay through which nothing comes back.

use whyrelay_core::host::{HostFact, Moment, OwnPacket};
use whyrelay_core::report::CheckReport;
use whyrelay_core::trace::event::{EventKind, Vantage};
use whyrelay_core::trace::measurement::Measurement;

use crate::builder::{Session, address};
use crate::report::{A, A_MAPPED, STUN};

const RELAYED_PORT: &str = "192.0.2.10:52000";

/// What was seen: whether packets to the relayed port got in, and what came from there.
fn check(observed: bool, came_from_relay: Option<bool>, more: Vec<EventKind>) -> String {
    let mut session = Session::new();
    session.push(Vantage::A, EventKind::CheckStarted { consents: vec![] });
    session.stun(Vantage::A, A, STUN, Some(A_MAPPED));
    let (local, remote) = (address(A), address(RELAYED_PORT));
    let server = "turn:192.0.2.10:3478".to_owned();
    let observed = observed.then(|| address(A_MAPPED));
    let third = Measurement::ThirdParty { local, remote, observed, sent: 6 };
    let echo = Measurement::RelayEcho { server, relayed: remote, rtt_us: None, sent: 6, came_from_relay };
    session.push(Vantage::A, EventKind::Measured(third));
    session.push(Vantage::A, EventKind::Measured(echo));
    for kind in more {
        session.push(Vantage::A, kind);
    }
    let findings = CheckReport::from_events(&session.of(Vantage::A)).findings;
    let harmful = findings.into_iter().filter(|finding| finding.severity.name() != "info");
    harmful.map(|finding| format!("{} {}", finding.code, finding.blame.name())).collect::<Vec<_>>().join(" ")
}

/// Routers on the way to a port, one for each hop.
fn hops(remote: &str, routers: &[Option<&str>]) -> Vec<EventKind> {
    let hop = |(ttl, router): (u8, &Option<&str>)| {
        let router = router.and_then(|router| router.parse().ok());
        EventKind::Measured(Measurement::Hop { remote: address(remote), ttl, router })
    };
    (1..).zip(routers).map(hop).collect()
}

/// To one host alone a closed relay and a network that lets UDP out to known ports only look alike, but for what comes
/// from the relay, for how far packets to it get, and for other ports like it.
#[test]
fn closed_relayed_ports_are_told_from_a_network_that_knows_few_ports() {
    let by_origin = |came_from_relay| check(false, came_from_relay, vec![]);
    assert_eq!(by_origin(Some(true)), "WR407 the relay");
    assert_eq!(by_origin(Some(false)), "WR304 A");
    assert_eq!(by_origin(None), "WR407 the path", "who lets everybody in learns nothing by what comes from there");

    let by_way = |came_from_relay, to_stun: &[Option<&str>], to_relay: &[Option<&str>]| {
        check(false, came_from_relay, [hops(STUN, to_stun), hops(RELAYED_PORT, to_relay)].concat())
    };
    let (home, near, far) = (Some("192.168.1.1"), Some("203.0.113.77"), Some("198.51.100.77"));
    let way = [home, near, far];
    for came in [None, Some(false)] {
        assert_eq!(by_way(came, &way, &way), "WR407 the relay", "as far as those to the server");
        assert_eq!(by_way(came, &way, &[home, near, None]), "WR304 A", "not so far");
        assert_eq!(by_way(came, &way, &[None, None, None]), "WR304 A", "not even to the first");
    }
    assert_eq!(by_way(None, &[home, near], &[home, near]), "WR407 the path", "the one outside may be the firewall");
    assert_eq!(by_way(None, &[home], &[None]), "WR407 the path", "the first router says so much and no more");
    assert_eq!(by_way(None, &way, &[]), "WR407 the path", "how far those get was not asked");
    assert_eq!(by_way(None, &[None, None], &[None, None]), "WR407 the path", "no router tells");
    assert_eq!(by_way(Some(true), &way, &[home, None, None]), "WR407 the relay", "what came from there was let out");

    // Another relay of which less is known, as one over TCP.
    let (local, remote) = (address(A), address("192.0.2.10:52001"));
    let server = "turn:192.0.2.10:3478?transport=tcp".to_owned();
    let third = Measurement::ThirdParty { local, remote, observed: None, sent: 6 };
    let echo = Measurement::RelayEcho { server, relayed: remote, rtt_us: None, sent: 6, came_from_relay: None };
    let with_another = |came_from_relay| {
        check(false, came_from_relay, [&third, &echo].map(|fact| EventKind::Measured(fact.clone())).to_vec())
    };
    assert_eq!(with_another(Some(false)), "WR304 A");
    assert_eq!(with_another(Some(true)), "WR407 the relay");
    assert_eq!(with_another(None), "WR407 the path");

    let remote = address("198.51.100.9:60000");
    let elsewhere = Measurement::ThirdParty { local: address(A), remote, observed: Some(address(A_MAPPED)), sent: 1 };
    assert_eq!(check(false, None, vec![EventKind::Measured(elsewhere)]), "WR407 the relay", "another high port");
}

/// What gets in and does not come back is dropped by this host itself where its interface saw it.
#[test]
fn what_a_relay_sends_back_and_the_own_firewall_drops_is_told_from_what_is_lost_on_the_way() {
    let arrived = |source: &str| {
        let (source, destination) = (address(source), address(A));
        let packet =
            OwnPacket { device: "eth0".into(), source, destination, packets: 6, arrived: true, wrong_checksums: 0 };
        EventKind::HostFact { moment: Moment::After, fact: Box::new(HostFact::OwnPacket(packet)) }
    };
    assert_eq!(check(true, None, vec![arrived(RELAYED_PORT)]), "WR111 A");
    assert_eq!(check(true, None, vec![arrived(STUN)]), "WR407 the path", "those were delivered");
    assert_eq!(check(true, None, vec![]), "WR407 the path");
    // Where nothing got in, what the relay sent came to sockets that had not asked for it.
    assert_eq!(check(false, Some(true), vec![arrived(RELAYED_PORT)]), "WR407 the relay");
}
