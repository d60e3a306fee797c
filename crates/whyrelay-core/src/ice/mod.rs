//! Interactive Connectivity Establishment: RFC 8445, with trickle (RFC 8838), consent (RFC 7675) and TCP (RFC 6544).
//!
//! [`Agent`] is the whole of it for one data stream with one component. It holds no socket and no clock: feed it one
//! [`Input`], then drain [`Agent::poll_output`] until [`Output::Timeout`], and call it again with [`Input::Timeout`]
//! when that moment comes.
//!
//! Where it departs from the RFCs (a shorter retransmission schedule, pacing, thawing, which pairs a full checklist
//! gives up, replacing a relayed pair by a direct one), docs/decisions.md says why.

mod agent;
pub mod candidate;
mod check;
mod checking;
mod checklist;
mod config;
mod consent;
mod generation;
mod inbound;
mod io;
mod nomination;
mod pacing;
mod pair;
mod pairing;
mod role;
mod state;

#[cfg(test)]
mod tests;

pub use agent::Agent;
pub use config::{Config, Credentials, Limits};
pub use io::{Input, LocalCandidate, Output, PairSnapshot, SelectedPair, Transmit};
