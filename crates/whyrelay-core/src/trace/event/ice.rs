//! The ICE agent: roles, states, and the reason of each decision.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ice::candidate::CandidateTransport;

/// Whose description, candidate or role an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The side that saw the event.
    Local,
    /// Its peer.
    Remote,
}

/// The role of an ICE agent (RFC 8445 §6.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Nominates.
    Controlling,
    /// Follows.
    Controlled,
}

/// The state of a candidate pair (RFC 8445 §6.1.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairState {
    /// Waits for another pair of its foundation.
    Frozen,
    /// Its check has not been sent.
    Waiting,
    /// Its check is under way.
    InProgress,
    /// A check was answered.
    Succeeded,
    /// A check failed.
    Failed,
}

/// The state of the whole agent, in the words of the W3C's RTCIceConnectionState.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IceState {
    /// No remote candidate yet.
    New,
    /// Checks are under way, no pair is usable.
    Checking,
    /// A pair is usable; checks may go on.
    Connected,
    /// A pair is nominated and selected, nothing better is being tried.
    Completed,
    /// Consent is doubtful: no answer for some seconds.
    Disconnected,
    /// Nothing is left to try, or consent is lost.
    Failed,
    /// Closed by this side.
    Closed,
}

/// A candidate pair as the wire shows it: where this side sends from and where to.
///
/// `local` is the base of the local candidate (RFC 8445 §6.1.2.4): the socket's own address, or the relayed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pair {
    /// The local candidate's transport.
    pub transport: CandidateTransport,
    /// The local candidate's base.
    pub local: SocketAddr,
    /// The remote candidate's address.
    pub remote: SocketAddr,
}

/// Why a pair was removed from the checklist or never entered it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum PruneReason {
    /// Same base and same remote as a pair of higher priority (RFC 8445 §6.1.2.4).
    Redundant {
        /// The pair that stays. Often it is the same pair: then a local candidate with the same base was to be paired.
        kept: Pair,
        /// The local candidate whose pair this would have been.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        candidate: Option<SocketAddr>,
    },
    /// The local candidate is TCP passive: it waits for the peer's connection (RFC 6544 §6.2).
    WaitsForConnection,
    /// The TCP connection is there: the pair goes on under the connection's own local address.
    Connected {
        /// The pair from now on.
        pair: Pair,
    },
    /// The checklist is full (RFC 8445 §6.1.2.5).
    ChecklistFull {
        /// The bound, in pairs.
        limit: u32,
    },
    /// A pair was nominated, the others are of no more use (RFC 8445 §8.1.2).
    Nominated,
    /// The generation ended: ICE restarted (RFC 8445 §9).
    Restarted,
}

/// Why a pair failed. Its tag is not `why`, because it stands inside [`StateReason`], whose tag that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "failure")]
pub enum FailReason {
    /// Every transmission of its check stayed unanswered.
    Timeout {
        /// How many were sent.
        transmissions: u32,
    },
    /// The peer answered with an error other than 487.
    ErrorResponse {
        /// The code.
        code: u16,
        /// Its reason phrase.
        reason: String,
    },
    /// The answer came from or to another address than the check had (RFC 8445 §7.2.5.2.1).
    NotSymmetric {
        /// Where the answer came from.
        from: SocketAddr,
        /// Where it arrived.
        to: SocketAddr,
    },
    /// The system refused to send, each time.
    SendFailed {
        /// errno.
        errno: i32,
    },
    /// The TURN server gave no permission for the peer.
    NoPermission {
        /// The error code, if it answered.
        code: Option<u16>,
    },
    /// The allocation of the pair's local candidate is gone.
    AllocationLost,
    /// The TCP connection could not be made or broke.
    ConnectionFailed {
        /// What the system said.
        detail: String,
    },
    /// Consent expired on it (RFC 7675 §5.1).
    ConsentExpired,
}

/// What an agent that shows no packets counts on a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairCounts {
    /// The pair's state.
    pub state: Option<PairState>,
    /// Whether it is nominated.
    #[serde(default)]
    pub nominated: bool,
    /// Its priority (RFC 8445 §6.1.2.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u64>,
    /// Checks sent, retransmissions not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_sent: Option<u32>,
    /// Answers to them that arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub responses_received: Option<u32>,
    /// Checks of the peer that arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_received: Option<u32>,
    /// Answers to those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub responses_sent: Option<u32>,
    /// The latest round trip, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
}

/// Why a pair changed state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum StateReason {
    /// Entered the checklist.
    Formed,
    /// First of its foundation (RFC 8445 §6.1.2.6), or one of its foundation succeeded (§7.2.5.3.3).
    Unfrozen,
    /// Its check was sent, in its turn.
    CheckSent,
    /// A check arrived on it (RFC 8445 §7.3.1.4).
    Triggered,
    /// Its check was answered.
    Answered {
        /// Round trip, in microseconds.
        rtt_us: u64,
    },
    /// A valid pair produced by another pair's check (RFC 8445 §7.2.5.3.2).
    Discovered {
        /// The pair whose check it was.
        by: Pair,
    },
    /// 487: the roles were in conflict, it will be checked again (RFC 8445 §7.2.5.1).
    RoleConflict,
    /// It failed.
    Failed(FailReason),
}

/// Why a pair was nominated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NominateReason {
    /// We are controlling; it is the best possible: no pair of higher priority is still open.
    BestPossible,
    /// We are controlling; the time to wait for a better pair is over.
    BestSoFar,
    /// We are controlling; the earlier selected pair failed or a better one turned up.
    Replacement,
    /// The peer is controlling and nominated it.
    ByPeer,
    /// The peer is controlling and nominated it before our own check succeeded (RFC 8445 §7.3.1.5).
    ByPeerAheadOfCheck,
}

/// Why the agent's role changed or was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoleReason {
    /// The peer's request claims our role and the tie-breakers give it to the peer: we switch (RFC 8445 §7.3.1.1).
    LostTieBreak,
    /// The peer's request claims our role and the tie-breakers leave it to us: the peer was told 487.
    WonTieBreak,
    /// The peer answered 487: we switch (RFC 8445 §7.2.5.1).
    ToldByPeer,
}

/// Why the agent's state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IceStateReason {
    /// The first pair was formed.
    FirstPair,
    /// A pair succeeded.
    PairSucceeded,
    /// A pair was selected.
    PairSelected,
    /// Nothing better than the selected pair is being tried any more.
    NothingBetter,
    /// A check of the peer arrived after everything had failed.
    PeerChecked,
    /// Another candidate came after everything had failed.
    NewPair,
    /// Every pair failed and both sides said end-of-candidates.
    NothingLeft,
    /// There is no pair and both sides said end-of-candidates.
    NoPairs,
    /// The session's own time limit is over.
    TimeLimit,
    /// No consent response for some seconds.
    ConsentSilent,
    /// Consent responses are back.
    ConsentBack,
    /// Consent expired (RFC 7675 §5.1).
    ConsentExpired,
    /// ICE restarted (RFC 8445 §9).
    Restarted,
    /// The agent does not say why: a browser's.
    NotTold,
    /// Closed by this side.
    Closed,
}
