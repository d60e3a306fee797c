//! The binary's parts, as a library so that tests and examples can reach them.
//!
//! | module | what it does |
//! |---|---|
//! | [`application`] | the program under suspicion, whose sockets ours are made like (`--as`) |
//! | [`channel`] | DTLS, SCTP and data channels, and what is measured on them |
//! | [`check`] | one host alone |
//! | [`cli`] | the verbs |
//! | [`host`] | what this host's kernel knows and does that can touch the session |
//! | [`io`] | clock, interfaces, sockets, names |
//! | [`page`] | the web page: the browser as a peer |
//! | [`server`] | what `whyrelay serve` runs |
//! | [`session`] | one traced session |
//! | [`signaling`] | a peer's connection to a signaling server |
//! | [`tui`] | the terminal screen |

#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout, reason = "a closed pipe must not panic"))]

/// Writes a line to stderr. A closed stderr is no reason to stop, and `eprintln` panics there.
macro_rules! tell {
    ($($argument:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stderr().lock(), format_args!("{}\n", format_args!($($argument)*)));
    }};
}
pub(crate) use tell;

pub mod application;
pub mod channel;
pub mod check;
pub mod cli;
pub mod host;
pub mod io;
#[cfg(test)]
mod made;
pub mod page;
pub mod server;
pub mod session;
pub mod signaling;
pub mod tui;
