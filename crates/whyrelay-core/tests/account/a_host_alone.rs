//! What a check says must come from the network that it looked at, not from what the check itself did to it.

use whyrelay_core::report::CheckReport;
use whyrelay_core::trace::event::{EventKind, Vantage};
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
