//! Protocol machines: each takes `handle_input(now, input)` and is drained with `poll_output()`.

pub mod stun_server;
pub mod turn_server;
