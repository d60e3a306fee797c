//! The session and its signaling.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What a session was asked to do, as far as it matters for reading its recording.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOptions {
    /// Relayed candidates only.
    #[serde(default)]
    pub relay_only: bool,
    /// No TURN.
    #[serde(default)]
    pub no_turn: bool,
    /// Interfaces asked for.
    #[serde(default)]
    pub interfaces: Vec<String>,
    /// Interfaces excluded.
    #[serde(default)]
    pub excluded_interfaces: Vec<String>,
    /// The local port asked for.
    #[serde(default)]
    pub port: Option<u16>,
    /// The firewall mark asked for.
    #[serde(default)]
    pub mark: Option<u32>,
    /// RFC 8445's own retransmission schedule instead of the shorter one.
    #[serde(default)]
    pub patient: bool,
    /// Addresses and names are pseudonyms.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redacted: bool,
    /// What is tried for this one session (`--try`), in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<String>,
}

/// Why a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// The session did what it was asked to.
    Finished,
    /// No path was found.
    Failed,
    /// The peer left.
    PeerLeft,
    /// Ctrl-C or a termination signal.
    Interrupted,
    /// The time limit.
    TimeLimit,
    /// whyrelay itself could not go on.
    Error,
}

/// What the signaling connection does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum SignalingState {
    /// Connected, by `websocket` or `long-poll`.
    Connected {
        /// How.
        by: String,
        /// The address from which the server sees the connection, where it tells.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen_as: Option<IpAddr>,
    },
    /// The connection broke; it will be tried again.
    Lost {
        /// What happened.
        detail: String,
    },
    /// The peer is there.
    PeerPresent,
    /// The peer said that its user or system ended it. Its recording may still come.
    PeerInterrupted,
    /// The peer left.
    PeerLeft,
    /// Given up, or refused.
    Failed {
        /// What happened.
        detail: String,
    },
}
