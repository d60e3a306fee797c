//! The sans-IO core of whyrelay: it answers why two machines cannot connect directly.
//!
//! The core is told everything. It holds no socket, clock, file, environment variable, thread, async function or
//! print; time is [`time::Timestamp`] and random bytes are arguments. Every protocol machine has one shape:
//! `handle_input(now, input)`, then `poll_output()` until it answers a timeout.
//!
//! | module | what it holds |
//! |---|---|
//! | [`signal`] | the messages with which two peers find each other |
//! | [`time`] | moments, as arguments |
//! | [`wire`] | STUN, TURN and DTLS on the wire: lenient decoding, encoding, demultiplexing |
//!
//! Dependencies point one way: `wire <- trace <- {ice, turn, signal} <- diagnosis <- report`; `engine` uses wire,
//! trace, ice, turn and signal; diagnosis and report never use engine.

pub mod signal;
pub mod time;
pub mod wire;
