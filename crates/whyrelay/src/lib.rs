//! The binary's parts, as a library so that tests and examples can reach them.

pub mod io;
