//! The namespace world: a topology built from Linux network namespaces, with real kernels and real programs.
//!
//! | module | what it holds |
//! |---|---|
//! | [`lab`] | a lab that is up: its namespaces, what runs in them, and its end |
//! | [`plan`] | what a topology needs of each namespace: interfaces, commands, nftables rules |
//! | [`privilege`] | the right to make namespaces: root, or a user namespace |
//! | [`state`] | what was made, on disk, so that an interrupted lab can be removed |
//! | `router`, `packet` | a user-space router on TUN around `nat::table` |
//! | [`Services`] | the server's programs and their faults |
//! | [`run_kernel`] | a scenario from beginning to end, with real sessions |
//! | `side` | the files of one side of a session |
//! | `cut` | the relay's end, where data has to pass without it |
//! | `relayed` | what a relay over TLS has carried |
//! | `signaling` | a proxy that delays or loses a peer's messages |
//! | `wire` | a user-space cable on TAP: delay, jitter, loss, reordering, duplication, rate |
//! | `nft`, `host`, `conntrack` | kernel routers by nftables; hosts and their faults, a full table of connections among them |
//!
//! Every name carries the lab's id, which holds the process id. Nothing is made in the machine's own network: links
//! are made inside the lab's namespaces, so labs run side by side.

mod command;
mod conntrack;
mod cut;
mod discovery;
mod error;
mod host;
pub mod lab;
mod mapping;
mod namespace;
mod nft;
mod packet;
pub mod plan;
pub mod privilege;
mod relayed;
mod router;
mod run;
mod services;
mod side;
mod signaling;
pub mod state;
mod tun;
mod wire;

pub use command::programs;
pub use cut::data_passed;
pub use error::LabError;
pub use lab::Lab;
pub use plan::{Plan, RouterChoice};
pub use run::{Certified, Certify, Conditions, Ran, SessionArguments, cannot, missing_inside, run_kernel, told};
pub use services::{CUT, Services, cut_off, relayed_matches, signal_url};
