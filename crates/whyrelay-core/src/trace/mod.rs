//! The trace: what was seen, in order, and nothing else. Facts, never opinions; secrets never enter.

pub mod address;
pub mod datagram;
pub mod event;
pub mod measurement;
pub mod packing;
pub mod pcapng;
pub mod recording;
pub mod redact;
