//! The signaling server and the signaling client, over loopback.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod client;
mod faults;
mod lab;
mod lab_server;
mod long_poll;
mod websocket;
