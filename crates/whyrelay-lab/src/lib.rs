//! The NAT laboratory: one network between two peers, in virtual time.
//!
//! | module | what it holds |
//! |---|---|
//! | [`scenario`] | scenario files, presets, and the topology that both worlds build from |
//! | [`world`] | hosts, NATs, links and servers in virtual time: two peers running the core's own machines |
//!
//! Nothing here sleeps or looks at a clock: the same setup and seed give the same events, byte for byte.

pub mod scenario;
pub mod world;
