//! The binary's parts, as a library so that tests and examples can reach them.
//!
//! | module | what it does |
//! |---|---|
//! | [`io`] | the door for datagrams |
//! | [`server`] | what `whyrelay serve` runs |
//! | [`signaling`] | a peer's connection to a signaling server |

pub mod channel;
pub mod io;
pub mod server;
pub mod signaling;
