//! DTLS, SCTP, the data channel.

use serde::{Deserialize, Serialize};

/// Steps of the DTLS handshake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum DtlsState {
    /// Started.
    Started {
        /// Whether this side is the DTLS client.
        client: bool,
    },
    /// The peer's certificate matches the fingerprint of its description.
    FingerprintVerified,
    /// The peer's certificate does not match.
    FingerprintMismatch {
        /// What its certificate has.
        found: String,
    },
    /// Connected.
    Connected {
        /// The version, like `DTLS 1.2`.
        version: String,
    },
    /// Failed or timed out.
    Failed {
        /// What happened.
        detail: String,
    },
    /// Closed by an alert.
    Closed,
}
