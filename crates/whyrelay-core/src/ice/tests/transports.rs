//! UDP and TCP between the same two: TCP stands in, and gives way.

use std::time::Duration;

use crate::ice::candidate::{CandidateTransport, CandidateType};

use super::behavior::tcp;
use super::candidate;
use super::network::{A, B, Link, Network};

const SECOND: Duration = Duration::from_secs(1);

/// TCP and UDP between hosts of two addresses each, whose UDP is blocked at first; for how long, or for good.
fn tcp_and_udp(blocked: Option<Duration>) -> Network {
    let mut network = Network::new(1, Link::of_delay(10));
    tcp(&mut network);
    let [a, b] = ["198.51.100.1", "198.51.100.2"];
    for (side, ip) in [(A, a), (B, b)] {
        let at = format!("{ip}:4000");
        network.gathered(side, candidate(CandidateType::Host, CandidateTransport::Udp, &at, 9), &at);
    }
    let [a, b] = [a, b].map(|ip| ip.parse().unwrap());
    network.blocked.extend([(a, b), (b, a)]);
    network.start_both();
    if let Some(blocked) = blocked {
        network.run_until(blocked, |_| false);
        network.blocked.clear();
    }
    network
}

#[test]
fn udp_gets_time_before_a_pair_over_tcp_is_nominated() {
    let mut network = tcp_and_udp(Some(Duration::from_millis(300)));
    assert!(network.run_until(SECOND, Network::are_selected));
    assert_eq!(network.pair(A).transport, CandidateTransport::Udp, "it was slower, and is better");
    let mut network = tcp_and_udp(None);
    assert!(network.run_until(SECOND * 2, Network::are_selected));
    assert!(network.pair(A).transport.is_tcp());
    let udp = network.sent[A].iter().filter(|(_, transmit)| transmit.transport == CandidateTransport::Udp);
    // At 0, 100, 250 and 500 ms.
    assert!(udp.count() >= 4, "the pair over UDP was given up before it was tried");
}

#[test]
fn a_pair_over_udp_that_succeeds_late_replaces_one_over_tcp() {
    let mut network = tcp_and_udp(Some(Duration::from_millis(900)));
    assert!(network.pair(A).transport.is_tcp());
    assert!(network.run_until(SECOND * 2, |network| network.pair(A).transport == CandidateTransport::Udp));
    assert!(network.run_until(SECOND, |network| network.pair(B).transport == CandidateTransport::Udp));
}
