//! Candidates and the servers they are learned from.

use serde::{Deserialize, Serialize};

/// What stands in a local candidate's `server` where the router mapped a port that the session asked for (`--try mapping`).
pub const BY_PORT_MAPPING: &str = "the router's port mapping";

/// Why a candidate was not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum RefuseReason {
    /// The line cannot be read.
    Malformed {
        /// What is wrong with it.
        detail: String,
    },
    /// Same base and address as one of higher priority (RFC 8445 §5.1.3).
    Redundant,
    /// The session is relay-only.
    RelayOnly,
    /// No local candidate has its address family or transport.
    NoCounterpart,
    /// More candidates than are accepted.
    TooMany {
        /// The bound.
        limit: u32,
    },
    /// Its name could not be resolved.
    Unresolved {
        /// What the resolver said.
        detail: String,
    },
    /// It belongs to another generation: its ufrag is not the current one.
    OtherGeneration,
    /// Unspecified, multicast, or port zero.
    Unusable,
}

/// What went wrong with a request to a STUN or TURN server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum ServerFailure {
    /// No answer to any transmission.
    Timeout {
        /// How many were sent.
        transmissions: u32,
        /// Over how long, in microseconds.
        took_us: u64,
    },
    /// An error response: 300, 400, 401, 403, 420, 437, 438, 440, 442, 443, 486, 508 …
    ErrorResponse {
        /// The code.
        code: u16,
        /// The reason phrase.
        reason: String,
        /// True for what belongs to the protocol: the first 401, a 438 that is retried, a 300 that is followed.
        expected: bool,
    },
    /// The connection to the server could not be made or broke.
    ConnectionFailed {
        /// What the system or TLS said.
        detail: String,
    },
    /// The answer makes no sense.
    BadResponse {
        /// What is wrong with it.
        detail: String,
    },
    /// There is no user name or password for it.
    NoCredentials,
    /// Its name was not resolved.
    Unresolved {
        /// What the resolver said.
        detail: String,
    },
    /// The system refused to send to it each time, or an ICMP error came back each time.
    SendFailed {
        /// The last errno.
        errno: i32,
    },
    /// No socket of ours has its address family and scope.
    NoLocalAddress,
}
