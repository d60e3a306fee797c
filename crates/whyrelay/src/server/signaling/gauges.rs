//! What the signaling server holds, for `/metrics`: written by its thread at each sweep, read by others.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// As of the last sweep, at most half a second ago.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Connections that are open.
    pub connections: AtomicUsize,
    /// Peers that receive or are away.
    pub peers: AtomicUsize,
    /// Rooms.
    pub rooms: AtomicUsize,
    /// Messages that wait, in all mailboxes.
    pub queued_messages: AtomicUsize,
    /// Their bytes.
    pub queued_bytes: AtomicUsize,
    /// Messages in the fullest mailbox.
    pub deepest_mailbox: AtomicUsize,
    /// Messages taken so far.
    pub messages: AtomicU64,
    /// Messages refused so far, whatever the reason.
    pub refused: AtomicU64,
}

impl Gauges {
    pub(super) fn set(gauge: &AtomicUsize, value: usize) {
        gauge.store(value, Ordering::Relaxed);
    }

    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
