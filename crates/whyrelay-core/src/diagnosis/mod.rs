//! From facts to what they mean: evidence folded from events, a view of the session that joins both sides, rules that
//! judge it, findings that say what is wrong, whose fault it is and what helps.
//!
//! | module | what it holds |
//! |---|---|
//! | [`evidence`] | one fold over the events of both sides, the same for live sessions, replay and tests |
//! | [`network`] | the NAT and firewall in front of each side |
//! | [`views`] | where others than servers see a side come from, and what that says of its NAT |
//! | [`routes`] | where the kernel sends packets for the peer, against those for the servers |
//! | [`session`] | both sides joined: the pairs with the chain of every check, the path |
//! | [`finding`] | findings: code, severity, blame, evidence, advice |
//! | [`expected`] | the best path that both networks allow, against the one taken |
//! | [`rules`] | one file a rule |

pub mod evidence;
pub mod expected;
pub mod finding;
pub mod network;
pub mod routes;
pub mod rules;
pub mod session;
pub mod views;
