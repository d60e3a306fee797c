//! The events: a closed, versioned list of facts.
//!
//! An [`Event`] says what was seen, by whom, when. It never advises. ICE passwords, TURN passwords and keys have no
//! place in any variant; the values of integrity attributes are blanked in [`Datagram::data`], and whether they were
//! right stands beside it.

mod channel;
mod gathering;
mod ice;
mod kind;
mod session;
mod socket;

use serde::{Deserialize, Serialize};

pub use channel::DtlsState;
pub use gathering::{BY_PORT_MAPPING, RefuseReason, ServerFailure};
pub use ice::{
    FailReason, IceState, IceStateReason, NominateReason, Pair, PairCounts, PairState, PruneReason, Role, RoleReason,
    Side, StateReason,
};
pub use kind::EventKind;
pub use session::{EndReason, SessionOptions, SignalingState};
pub use socket::{Datagram, Direction, InterfaceUse, Transport};

use crate::time::Timestamp;

/// The version of the event list. A reader refuses a recording of a newer one by name.
pub const EVENT_VERSION: u32 = 1;

/// One fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Unique across both sides of a session: the offerer counts 0, 2, 4 …, the answerer 1, 3, 5 …
    pub seq: u64,
    /// When, on the clock of the vantage, in microseconds since the Unix epoch.
    pub at: Timestamp,
    /// Who saw it.
    pub vantage: Vantage,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Which side saw an event. A is the offerer, B the answerer, in every format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vantage {
    /// The offerer.
    A,
    /// The answerer.
    B,
}

impl Vantage {
    /// The other side.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The letter, as it is written for a reader.
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }

    /// The sequence number of this side's first event.
    pub const fn first_seq(self) -> u64 {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }
}
