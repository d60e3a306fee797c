//! What `whyrelay serve` runs.

pub mod signaling;
pub mod turn;
