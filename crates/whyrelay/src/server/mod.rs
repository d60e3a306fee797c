//! What `whyrelay serve` runs.

pub mod signaling;
