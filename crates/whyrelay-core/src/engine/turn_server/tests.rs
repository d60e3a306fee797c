//! A server, its clients and their peers in virtual time.

mod abuse;
mod discovery;
mod fixture;
mod links;
mod probes;
mod relaying;
mod requests;
mod torture;
