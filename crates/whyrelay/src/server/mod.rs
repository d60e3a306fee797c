//! What `whyrelay serve` runs.

pub mod certificates;
pub mod metrics;
pub mod signaling;
pub mod turn;
