//! Whole sessions of the real program on loopback.

mod account;
mod clock;
mod ends;
mod formats;
mod hostile;
mod inputs;
mod lab_run;
mod options;
mod pty;
mod screen;
mod support;
mod stranger;
mod table;
