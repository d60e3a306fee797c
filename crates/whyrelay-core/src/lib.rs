//! The sans-IO core of whyrelay: it answers why two machines cannot connect directly.
//!
//! The core is told everything. It holds no socket, clock, file, environment variable, thread, async function or
//! print; time is [`time::Timestamp`] and random bytes are arguments. Every protocol machine has one shape:
//! `handle_input(now, input)`, then `poll_output()` until it answers a timeout.
//!
//! | module | what it holds |
//! |---|---|
//! | [`time`] | moments, as arguments |
//! | [`random`] | random bytes, from a seed that is an argument |
//! | [`wire`] | STUN, TURN and DTLS on the wire: lenient decoding, encoding, demultiplexing |
//! | [`trace`] | what was seen: events, recordings, captures |
//! | [`ice`] | candidates and the ICE agent |
//! | [`nat`] | NAT behavior and a simulated NAT |
//! | [`sdp`] | the session description of one data channel |
//! | [`host`] | facts about a host: interfaces, routes, firewalls, sockets, counters, probes |
//! | [`signal`] | the messages with which two peers find each other |
//! | [`engine`] | STUN and TURN clients and servers, gathering, a whole peer |
//! | [`diagnosis`] | evidence folded from events, rules, findings |
//! | [`report`] | the account, and its renderers |
//!
//! Dependencies point one way: `wire <- trace <- {ice, turn, signal} <- diagnosis <- report`; `engine` uses wire,
//! trace, ice, turn and signal; diagnosis and report never use engine. (Events carry candidates, so
//! [`ice::candidate`], which depends on nothing, lies below trace; so do the words of [`nat::behavior`].)

pub mod diagnosis;
pub mod engine;
pub mod host;
pub mod ice;
pub mod nat;
pub mod random;
pub mod report;
pub mod sdp;
pub mod signal;
pub mod time;
pub mod trace;
pub mod wire;
