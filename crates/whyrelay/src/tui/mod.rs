//! The terminal screen: `--tui`.
//!
//! Three threads, so that nothing waits for anything slower: the session (or nobody, for a recording) feeds events;
//! the [`worker`] folds them and makes a report of them now and then; the screen draws the latest report and reads
//! keys. [`screen::Screen`] is a machine: keys and reports go in, an [`screen::Action`] comes out, and drawing only
//! reads it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`keys`] | every key with what it does, for reading and for the help |
//! | [`screen`] | the state of the screen |
//! | [`draw`] | the panes |
//! | [`worker`] | from events to snapshots |
//! | `keyboard` | waiting for keys, and noticing that the terminal is gone |
//! | [`terminal`] | raw mode and back again, whatever happens |
//! | [`run`] | the loop around it all |

pub mod draw;
mod keyboard;
pub mod keys;
mod list;
mod rows;
pub mod run;
pub mod screen;
pub mod terminal;
pub mod worker;

pub use run::{Live, over_recording};
pub use terminal::{LogWriter, covers_stderr, log_writer, restore};
