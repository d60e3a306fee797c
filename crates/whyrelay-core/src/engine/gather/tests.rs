//! Gathering in virtual time, against scripted servers and against our own.

mod again;
mod allocating;
mod bench;
mod end_to_end;
mod forwarding;
mod gathering;
mod noise;
mod streams;
