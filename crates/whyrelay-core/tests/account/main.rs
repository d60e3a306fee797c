//! The account, from hand-made sessions: what both sides' recordings say when a chain breaks at each step.

mod builder;
mod events;
mod findings;
mod pcapng;
mod redact;
mod report;
mod rules;
mod scale;
mod schema;
