//! One traced session: drives the peer machine and the data channel with real sockets, records what passes, exchanges
//! the recordings, and hands back the events of both sides.

mod beside;
mod config;
mod data;
mod driver;
mod exchange;
mod following;
mod heard;
mod imitation;
mod mapping;
mod measuring;
mod path;
mod probing;
mod progress;
mod signals;
mod sink;
mod sockets;
#[cfg(test)]
mod tests;
mod timers;
mod trial;

pub use config::SessionConfig;
pub(crate) use config::{parse_urls, read_turn_password};
pub use driver::run;
pub(crate) use sink::Sink;
pub use trial::{Trial, parse_trial};

use whyrelay_core::trace::event::Event;

/// What a session leaves behind.
#[derive(Debug)]
pub struct Outcome {
    /// Our events, then the other side's where they came.
    pub events: Vec<Event>,
    /// Files that could not be written to the end, each with the reason.
    pub unwritten: Vec<String>,
}
