//! What a TURN server counts, for its operator.

use std::collections::BTreeMap;

use super::Refusal;
use crate::wire::stun::Method;

/// Totals since the server began. Taken from a running server with [`super::TurnServer::counters`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Binding requests answered.
    pub bindings: u64,
    /// Requests of all methods of TURN, answered or not.
    pub requests: u64,
    /// The same by method.
    pub methods: BTreeMap<Method, u64>,
    /// Allocations made.
    pub allocations: u64,
    /// Responses that ask for a password or for a proof of the source: 401 to a request without MESSAGE-INTEGRITY, with
    /// which every client begins, and 438 (RFC 8489 §9.2.4).
    pub challenges: u64,
    /// All other error responses, by code.
    pub errors: BTreeMap<u16, u64>,
    /// Error responses to unauthenticated requests, Binding among them, that were not sent because the source had its share.
    pub unauthenticated_withheld: u64,
    /// Requests and datagrams refused by the peer policy.
    pub policy_refusals: u64,
    /// The same by reason.
    pub refusals: BTreeMap<Refusal, u64>,
    /// Permissions and channels refused because the user had added too many peers within a second.
    pub peers_limited: u64,
    /// Application datagrams from clients that were relayed.
    pub datagrams_to_peers: u64,
    /// Their bytes, without TURN's framing.
    pub bytes_to_peers: u64,
    /// Application datagrams from peers that were relayed.
    pub datagrams_to_clients: u64,
    /// Their bytes, without TURN's framing.
    pub bytes_to_clients: u64,
    /// Application datagrams dropped: no allocation, no permission, no channel, too large, or expired.
    pub datagrams_dropped: u64,
    /// Of those, the ones that [`super::Limits::bytes_per_second`] or [`super::Limits::datagrams_per_second`] cost.
    pub datagrams_limited: u64,
    /// Requests of behavior discovery (RFC 5780) answered, for another server as well.
    pub discoveries: u64,
    /// Requests of behavior discovery not answered: over the budget, too small for a nonce, or another server's that was not good.
    pub discoveries_withheld: u64,
    /// Probes answered, whose source had proven itself.
    pub probes: u64,
    /// Probes not answered: over the budget, without a token, from another address.
    pub probes_withheld: u64,
    /// Sessions of probes opened.
    pub probe_sessions: u64,
    /// Datagrams that were neither sound STUN nor ChannelData, or no request that a server answers.
    pub noise: u64,
}
