//! Two agents in virtual time, on a network with delay, loss, reordering and duplicates.

mod behavior;
mod connect;
mod folded;
mod hostile;
mod network;
mod transports;

use std::net::SocketAddr;

use crate::ice::candidate::{Candidate, CandidateAddress, CandidateTransport, CandidateType};

/// A candidate as a gatherer would make it.
pub(super) fn candidate(
    kind: CandidateType,
    transport: CandidateTransport,
    address: &str,
    preference: u16,
) -> Candidate {
    let address: SocketAddr = address.parse().unwrap();
    Candidate {
        foundation: format!("{kind}{}", address.ip()).chars().filter(char::is_ascii_alphanumeric).take(32).collect(),
        component: 1,
        transport,
        priority: Candidate::compute_priority(kind, preference),
        address: CandidateAddress::Ip(address),
        kind,
        related: None,
        extensions: Vec::new(),
    }
}

pub(super) fn host(address: &str) -> Candidate {
    candidate(CandidateType::Host, CandidateTransport::Udp, address, 65535)
}
