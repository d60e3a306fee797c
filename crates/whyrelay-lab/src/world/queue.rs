//! What will happen, in order of time and, at the same time, of entry.

use std::collections::BTreeMap;

use whyrelay_core::time::Timestamp;

/// A queue of things to come.
#[derive(Debug)]
pub(super) struct Queue<T> {
    entries: BTreeMap<(Timestamp, u64), T>,
    entered: u64,
}

impl<T> Queue<T> {
    pub(super) const fn new() -> Self {
        Self { entries: BTreeMap::new(), entered: 0 }
    }

    pub(super) fn push(&mut self, at: Timestamp, thing: T) {
        self.entries.insert((at, self.entered), thing);
        self.entered += 1;
    }

    pub(super) fn pop(&mut self) -> Option<(Timestamp, T)> {
        self.entries.pop_first().map(|((at, _), thing)| (at, thing))
    }
}
