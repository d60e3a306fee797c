//! The NAT laboratory: one network between two peers, in virtual time and in real kernels.
//!
//! | module | what it holds |
//! |---|---|
//! | [`kernel`] | the same network in Linux network namespaces, with real programs |
//! | [`scenario`] | scenario files, presets, and the topology that both worlds build from |
//! | [`predict`] | what a pair of networks should reach, by theory |
//! | [`matrix`] | the NAT × NAT table |
//! | [`fuzz`] | random worlds, faults planted in them, and making a wrong one small |
//! | [`accuracy`] | how right the diagnosis is on them |
//! | [`discover`] | what a stranger would find out about a host's NAT |
//! | [`draw`] | pictures of a scenario |
//! | [`run`] | running a scenario and judging what came out, the same for both worlds |
//! | [`words`] | which word a mistyped one is near to |
//! | [`work`] | many runs at a time |
//! | [`world`] | hosts, NATs, links and servers in virtual time: two peers running the core's own machines |
//!
//! Outside of `kernel` nothing sleeps or looks at a clock: the same setup and seed give the same events, byte for byte.

pub mod accuracy;
mod alg;
pub mod discover;
pub mod draw;
pub mod fuzz;
#[cfg(target_os = "linux")]
pub mod kernel;
mod limits;
pub mod matrix;
mod port_mapping;
pub mod predict;
pub mod run;
pub mod scenario;
pub mod words;
pub mod work;
pub mod world;
