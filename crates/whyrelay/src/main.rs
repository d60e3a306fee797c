//! whyrelay.
fn main() {}
