//! Everything that touches the operating system on behalf of a session: the clock, interfaces, sockets, names.
//!
//! Only [`udp`] and [`stream`] send or receive, and the session's loop records what passes before it does anything
//! else with it.

pub mod clock;
pub mod disguise;
pub mod interfaces;
pub mod names;
pub mod stream;
pub mod tls;
pub mod udp;
pub mod waiting;
pub(crate) mod witness;
