//! What the fields of a side's evidence hold.

use std::net::{IpAddr, SocketAddr};

use crate::ice::candidate::Candidate;
use crate::time::Timestamp;
use crate::trace::event::{IceStateReason, PairState, PruneReason, ServerFailure, Side};

/// A time without a path, after there had been one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Number of the event that shows it.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// What showed it.
    pub reason: IceStateReason,
    /// How often ICE restarted meanwhile.
    pub restarts: u32,
    /// When there was a path again; `None`: never.
    pub ended: Option<Timestamp>,
}

/// A description that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Number of its event.
    pub seq: u64,
    /// Whose.
    pub side: Side,
    /// Its ICE user name fragment.
    pub ufrag: String,
    /// The certificate fingerprint.
    pub fingerprint: String,
    /// The generation.
    pub generation: u32,
}

/// A candidate of this side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalCandidate {
    /// Number of its event.
    pub seq: u64,
    /// When it was gathered.
    pub at: Timestamp,
    /// The candidate.
    pub candidate: Candidate,
    /// Its base.
    pub base: SocketAddr,
    /// The interface that has the base.
    pub interface: Option<String>,
    /// The server that it was learned from.
    pub server: Option<String>,
}

/// A candidate of the peer, as this side knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCandidate {
    /// Number of its event.
    pub seq: u64,
    /// The candidate.
    pub candidate: Candidate,
    /// Its address, resolved where it was a name.
    pub address: Option<SocketAddr>,
}

/// Sends that the system refused, of one socket to one address with one errno.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendFailure {
    /// How many.
    pub count: u32,
    /// Number of the first event.
    pub seq: u64,
    /// errno's name and meaning.
    pub detail: String,
}

/// ICMP errors of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// How many.
    pub count: u32,
    /// Number of the first event.
    pub seq: u64,
    /// Who sent it, where the system tells.
    pub offender: Option<IpAddr>,
}

/// Answers that were changed on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// How many.
    pub count: u32,
    /// Number of the first event.
    pub seq: u64,
    /// The mapped address that the first one tells.
    pub told: Option<SocketAddr>,
}

/// Data that was counted instead of recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes sent.
    pub bytes_out: u64,
    /// Bytes received.
    pub bytes_in: u64,
}

/// A request to a server that failed, as the client itself says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedServer {
    /// Number of its event.
    pub seq: u64,
    /// The server.
    pub server: String,
    /// Our socket.
    pub local: Option<SocketAddr>,
    /// The STUN method.
    pub method: String,
    /// What went wrong.
    pub failure: ServerFailure,
}

/// One pair as the agent itself speaks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPair {
    /// Its priority.
    pub priority: u64,
    /// Its state.
    pub state: PairState,
    /// Why it left the checklist.
    pub pruned: Option<PruneReason>,
    /// Why its TCP connection was not made, or broke.
    pub no_connection: Option<String>,
    /// Number of the last event about it.
    pub seq: u64,
}

/// Round trips of messages over the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RoundTrips {
    /// How many were measured.
    pub count: u32,
    /// How many went unanswered.
    pub lost: u32,
    /// Median, in microseconds.
    pub median_us: u64,
    /// 99th percentile, in microseconds.
    pub p99_us: u64,
}
