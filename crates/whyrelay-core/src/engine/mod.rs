//! Protocol machines: each takes `handle_input(now, input)` and is drained with `poll_output()`.

pub mod credentials;
pub mod gather;
mod local_candidates;
pub mod nat_discovery;
pub mod peer;
pub mod peer_probes;
pub mod port_mapping;
pub mod server_url;
mod stun_client;
pub mod stun_server;
pub mod transaction;
mod turn_client;
pub mod turn_server;
