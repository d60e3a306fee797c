//! A server, its clients and their peers in virtual time.

mod abuse;
mod fixture;
mod relaying;
mod requests;
