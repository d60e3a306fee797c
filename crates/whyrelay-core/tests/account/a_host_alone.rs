//! What a check says must come from the network that it looked at, not from what the check itself did to it.

use whyrelay_core::host::{HostFact, Moment, OwnPacket};
use whyrelay_core::nat::behavior::MappingBehavior;
use whyrelay_core::report::{CheckReport, TextOptions, render_check_text};
use whyrelay_core::trace::event::{Direction, EndReason, EventKind, Vantage};
use whyrelay_core::trace::measurement::Measurement;

use crate::builder::{Session, address};
use crate::report::STUN;

const SOCKET: &str = "192.168.1.2:44004";
const KEPT: &str = "203.0.113.1:44004";
const INSTEAD: &str = "203.0.113.1:29896";

/// A check that has begun.
fn started() -> Session {
    let mut session = Session::new();
    session.push(Vantage::A, EventKind::CheckStarted { consents: vec![] });
    session
}

/// Codes of findings that are more than information.
fn found(session: &Session) -> String {
    let findings = CheckReport::from_events(&session.of(Vantage::A)).findings;
    let harmful = findings.into_iter().filter(|finding| finding.severity.name() != "info");
    harmful.map(|finding| format!("{} {}", finding.code, finding.blame.name())).collect::<Vec<_>>().join(", ")
}

/// The port that the experiment's own packet took is nobody else's, and says nothing of how the NAT maps.
#[test]
fn what_an_early_packet_of_the_check_changed_is_no_other_hosts_port_and_no_dependent_mapping() {
    let early = |other_socket: bool, measured: bool| {
        let mut session = started();
        if other_socket {
            for server in [STUN, "198.51.100.9:3478"] {
                session.stun(Vantage::A, "192.168.1.2:51000", server, Some("203.0.113.1:51000"));
            }
        }
        session.stun(Vantage::A, SOCKET, STUN, Some(KEPT));
        session.stun(Vantage::A, SOCKET, "192.0.2.10:50001", Some(KEPT));
        session.stun(Vantage::A, SOCKET, "192.0.2.10:50002", Some(INSTEAD));
        if measured {
            let [local, mapped, control, observed] = [SOCKET, KEPT, KEPT, INSTEAD].map(address);
            let remote = address("192.0.2.10:50002");
            let early = Measurement::EarlyArrival { local, remote, mapped, observed, control, arrived: false };
            session.push(Vantage::A, EventKind::Measured(early));
            // A NAT that gave the port up goes on with the other one, towards everybody.
            session.stun(Vantage::A, SOCKET, "198.51.100.9:3478", Some(INSTEAD));
        }
        found(&session)
    };
    assert_eq!(early(true, false), "WR207 A", "without the experiment it is another host");
    assert_eq!(early(false, false), "WR201 A", "and without another port to compare with, the NAT");
    assert_eq!(early(true, true), "WR202 A");
    assert_eq!(early(false, true), "WR202 A");
}

/// What came to an interface and to no socket was dropped by the host only where a socket waited for it.
#[test]
fn what_a_server_sends_unasked_is_not_dropped_by_the_hosts_own_firewall() {
    const PROBING: &str = "192.0.2.10:50007";
    let arrived = |packets: u64, to: &str, delivered: usize| {
        let mut session = started();
        session.stun(Vantage::A, SOCKET, STUN, Some(KEPT));
        for _ in 0..3 {
            session.stun(Vantage::A, SOCKET, PROBING, None);
        }
        for _ in 0..delivered {
            session.datagram(Vantage::A, Direction::In, to, PROBING, b"unasked", None);
        }
        let (source, destination) = (address(PROBING), address(to));
        let packet =
            OwnPacket { device: "eth0".into(), source, destination, packets, arrived: true, wrong_checksums: 0 };
        session.push(
            Vantage::A,
            EventKind::HostFact { moment: Moment::After, fact: Box::new(HostFact::OwnPacket(packet)) },
        );
        found(&session)
    };
    assert_eq!(arrived(3, SOCKET, 0), "WR111 A", "its answers, dropped");
    for (packets, to, delivered, why) in [
        (1, SOCKET, 0, "one may be late"),
        (3, "192.168.1.2:33529", 0, "that socket asked nothing there"),
        (3, SOCKET, 3, "a socket got them, and they are no answers"),
    ] {
        let found = arrived(packets, to, delivered);
        assert!(!found.contains("WR111"), "{why}: {found}");
    }
}

/// A network that lets UDP out to known ports only is no fault of a server's other port.
#[test]
fn a_port_behind_a_network_of_few_ports_is_no_silent_server() {
    let few_ports = |measured: bool| {
        let mut session = started();
        session.stun(Vantage::A, SOCKET, STUN, Some(KEPT));
        for _ in 0..6 {
            session.stun(Vantage::A, SOCKET, "192.0.2.10:3479", None);
        }
        if measured {
            let (local, remote) = (address(SOCKET), address("192.0.2.10:50007"));
            let third = Measurement::ThirdParty { local, remote, observed: None, sent: 6 };
            session.push(Vantage::A, EventKind::Measured(third));
        }
        found(&session)
    };
    assert_eq!(few_ports(false), "WR301 the path", "one port alone");
    assert_eq!(few_ports(true), "WR304 A");
}

/// One firewall of the server is one finding, which names its relayed ports.
#[test]
fn a_silent_port_of_a_relay_whose_ports_are_closed_has_that_cause() {
    let closed = |came_from_relay: Option<bool>| {
        let mut session = started();
        session.stun(Vantage::A, SOCKET, STUN, Some(KEPT));
        for _ in 0..6 {
            session.stun(Vantage::A, SOCKET, "192.0.2.10:3479", None);
        }
        let (server, relayed) = ("turn:192.0.2.10:3478".to_owned(), address("192.0.2.10:50007"));
        let echo = Measurement::RelayEcho { server, relayed, rtt_us: None, sent: 6, came_from_relay };
        session.push(Vantage::A, EventKind::Measured(echo));
        found(&session)
    };
    let known = closed(Some(true));
    assert!(known.starts_with("WR407") && !known.contains("WR301"), "{known}");
    let unknown = closed(None);
    assert!(unknown.contains("WR301"), "{unknown}");
}

/// That nothing was found says little where the check did not come to its end.
#[test]
fn a_check_that_was_stopped_is_not_healthy() {
    let head = |reason: Option<EndReason>| {
        let mut session = started();
        let [local, mapped] = [SOCKET, KEPT].map(address);
        let (behavior, destinations) = (MappingBehavior::EndpointIndependent, vec![address(STUN)]);
        let mapping = Measurement::Mapping { local, behavior, exact: true, mapped, destinations };
        session.push(Vantage::A, EventKind::Measured(mapping));
        if let Some(reason) = reason {
            session.end(Vantage::A, reason);
        }
        let report = CheckReport::from_events(&session.of(Vantage::A));
        let text = render_check_text(&report, &TextOptions::default());
        (report.complete, text.lines().next().unwrap_or_default().to_owned())
    };
    assert_eq!(head(Some(EndReason::Finished)), (true, "HEALTHY".to_owned()));
    assert_eq!(head(Some(EndReason::Interrupted)), (false, "INCOMPLETE".to_owned()));
    assert_eq!(head(None), (false, "INCOMPLETE".to_owned()), "a recording of a check that was killed");
}

/// Credentials and secret that do not belong together are a fault of one of the two.
#[test]
fn credentials_that_the_secret_did_not_make_are_found() {
    let signed = |signed: Option<bool>| {
        let mut session = started();
        session.stun(Vantage::A, SOCKET, STUN, Some(KEPT));
        let server = "turn:192.0.2.10:3478".to_owned();
        let timed = Measurement::TimedCredentials { server, expires_s: 9_000_000_000, made_here: false, signed };
        session.push(Vantage::A, EventKind::Measured(timed));
        found(&session)
    };
    assert_eq!(signed(Some(false)), "WR401 A");
    assert_eq!(signed(Some(true)), "");
    assert_eq!(signed(None), "", "it was not looked at");
}
