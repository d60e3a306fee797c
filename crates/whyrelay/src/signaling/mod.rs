//! A peer's connection to a signaling server.
