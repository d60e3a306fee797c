//! One connectivity check: a Binding transaction between the peers (RFC 8445 §7).

use crate::time::Timestamp;
use crate::trace::event::Pair;
use crate::wire::integrity::Integrity;

/// A check as one side saw it, as its sender or as its receiver. Retransmissions share the transaction id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The pair: where this side sends from or received, and the other end as this side knows it.
    pub pair: Pair,
    /// The generation of this side's description (RFC 8445 §9).
    pub generation: u32,
    /// Number of the event of the first transmission.
    pub seq: u64,
    /// First transmission.
    pub first: Timestamp,
    /// Last transmission.
    pub last: Timestamp,
    /// How many transmissions there were.
    pub transmissions: u32,
    /// How many of them the system refused to send.
    pub refused: u32,
    /// USE-CANDIDATE (RFC 8445 §7.1.1).
    pub use_candidate: bool,
    /// Whether its sender claims to be controlling; `None` when it claims neither.
    pub controlling: Option<bool>,
    /// PRIORITY (RFC 8445 §7.1.1).
    pub priority: Option<u32>,
    /// Whether it first arrived when this side's agent had closed: nobody was there to answer it.
    pub after_close: bool,
    /// Whether its integrity was right when it was received.
    pub integrity: Option<Integrity>,
    /// The first answer that counts.
    pub answer: Option<Answer>,
    /// How many answers there were, repeated ones included.
    pub answers: u32,
}

/// The answer to a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Number of its event.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// What it says.
    pub outcome: Outcome,
    /// Whether it came back the way the check went (RFC 8445 §7.2.5.2.1).
    pub symmetric: bool,
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Success, with XOR-MAPPED-ADDRESS: where the receiver saw the check come from.
    Success {
        /// The mapped address; `None` when the answer has none.
        mapped: Option<std::net::SocketAddr>,
    },
    /// An error response with this code.
    Error(u16),
}

impl Check {
    /// Whether it was answered with success, the way it went.
    pub fn succeeded(&self) -> bool {
        self.answer.as_ref().is_some_and(|a| a.symmetric && matches!(a.outcome, Outcome::Success { .. }))
    }

    /// The error code of its answer.
    pub fn error(&self) -> Option<u16> {
        match self.answer.as_ref()?.outcome {
            Outcome::Error(code) => Some(code),
            Outcome::Success { .. } => None,
        }
    }

    /// Where the receiver saw it come from, as the answer says.
    pub fn mapped(&self) -> Option<std::net::SocketAddr> {
        match self.answer.as_ref()?.outcome {
            Outcome::Success { mapped } => mapped,
            Outcome::Error(_) => None,
        }
    }

    /// The round trip in microseconds, where it is known for sure: one transmission, one answer.
    pub fn round_trip_us(&self) -> Option<u64> {
        let answer = self.answer.as_ref().filter(|_| self.transmissions == 1)?;
        u64::try_from((answer.at - self.first).as_micros()).ok()
    }
}
