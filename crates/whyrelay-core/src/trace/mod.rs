//! The trace: what was seen, in order, and nothing else. Facts, never opinions; secrets never enter.

pub mod event;
