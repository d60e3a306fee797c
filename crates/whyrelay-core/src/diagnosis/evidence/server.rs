//! What passed between one socket and one STUN or TURN server.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::time::Timestamp;
use crate::wire::stun::Method;

/// One socket and one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerPath {
    /// Requests by method: how many transactions, transmissions and answers.
    pub requests: BTreeMap<Method, Tally>,
    /// Mapped addresses that the server told, with the number of the first event that says so.
    pub mapped: BTreeMap<SocketAddr, u64>,
    /// Error responses: method, code, and whether the request carried credentials, with count and first event.
    pub errors: BTreeMap<(Method, u16, bool), (u32, u64)>,
    /// The allocation, once there is one.
    pub allocation: Option<Allocation>,
    /// Round trips of transactions with one transmission, the smallest in microseconds.
    pub round_trip_us: Option<u64>,
    /// How long after its first transmission a request was answered, the smallest in microseconds, with the answer's event.
    pub answered_after_us: Option<(u64, u64)>,
    /// The server that an answer named in its place (300, RFC 8489 §10), and the answer's event.
    pub alternate: Option<(SocketAddr, u64)>,
}

/// Counts of one method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Transactions.
    pub transactions: u32,
    /// Transmissions, repeated ones included.
    pub transmissions: u32,
    /// Transactions that were answered, with success or error.
    pub answered: u32,
    /// Number of the first event.
    pub seq: u64,
    /// Its time.
    pub first: Timestamp,
}

/// A TURN allocation as the wire shows it (RFC 8656 §3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// Number of the event of the success response.
    pub seq: u64,
    /// Relayed addresses: one, or one of each family (RFC 8656 §7.2, ADDITIONAL-ADDRESS-FAMILY).
    pub relayed: Vec<SocketAddr>,
    /// LIFETIME in seconds.
    pub lifetime_s: u32,
    /// Permissions that were granted, with the time of the first answer that says so.
    pub permissions: BTreeMap<IpAddr, Timestamp>,
    /// Peers for which a permission or channel was refused: code and event.
    pub refused: BTreeMap<IpAddr, (u16, u64)>,
    /// Channels and their peers.
    pub channels: BTreeMap<u16, SocketAddr>,
}

/// A request to a server that is under way or done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRequest {
    /// Its method.
    pub method: Method,
    /// Where it was sent.
    pub server: SocketAddr,
    /// Whether it carries credentials.
    pub authenticated: bool,
    /// First transmission.
    pub first: Timestamp,
    /// How many transmissions.
    pub transmissions: u32,
    /// The peers that it names (CreatePermission, ChannelBind).
    pub peers: Vec<SocketAddr>,
    /// The channel that it names.
    pub channel: Option<u16>,
    /// Whether it was answered.
    pub answered: bool,
    /// The error code of its answer.
    pub error: Option<u16>,
    /// When its credentials end, in seconds since the Unix epoch: the number that the user name of time-limited
    /// credentials begins with.
    pub expires_s: Option<u64>,
    /// Number of the event of its answer, or of its first transmission.
    pub seq: u64,
}

impl ServerPath {
    /// Whether any request was answered.
    pub fn has_answered(&self) -> bool {
        self.requests.values().any(|tally| tally.answered > 0)
    }

    /// Transmissions of all methods.
    pub fn transmissions(&self) -> u32 {
        self.requests.values().map(|tally| tally.transmissions).sum()
    }

    /// When the first request was sent.
    pub fn first(&self) -> Option<Timestamp> {
        self.requests.values().map(|tally| tally.first).min()
    }

    /// Number of the first event.
    pub fn first_seq(&self) -> Option<u64> {
        self.requests.values().map(|tally| tally.seq).min()
    }

    /// The relayed address that reaches a peer: the one of its family.
    pub fn relayed_for(&self, peer: SocketAddr) -> Option<SocketAddr> {
        let relayed = &self.allocation.as_ref()?.relayed;
        relayed.iter().find(|address| address.is_ipv4() == peer.is_ipv4()).copied()
    }
}
