//! Whole sessions of the real program on loopback.

mod account;
mod ends;
mod inputs;
mod support;
