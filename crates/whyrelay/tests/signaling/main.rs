//! The signaling server and the signaling client, over loopback.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod faults;
mod lab;
mod long_poll;
