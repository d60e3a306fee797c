//! Gathering in virtual time, against scripted servers and against our own.

mod allocating;
mod bench;
mod forwarding;
mod gathering;
mod noise;
mod streams;
