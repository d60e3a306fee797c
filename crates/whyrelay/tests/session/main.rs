//! Whole sessions of the real program on loopback.

mod account;
mod clock;
mod ends;
mod formats;
mod hostile;
mod inputs;
mod lab_run;
mod late;
mod options;
mod pty;
mod screen;
mod stranger;
mod support;
mod table;
