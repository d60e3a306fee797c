//! The memory for bodies that are on their way or wait for their turn: bounded for all, and for each client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use whyrelay_core::trace::packing::MAX_UNPACKED;

use super::limit::network;

/// Bytes of all bodies: what is more is refused at once. A page's own recording has one or two megabytes.
const MEMORY: usize = 4 * MAX_UNPACKED;

/// The same of one client address, an IPv6 /64 as one: one body of the largest size, or several smaller ones.
const SHARE: usize = MAX_UNPACKED;

/// What that is counted in, and what a body counts at least, bytes.
const UNIT: usize = 64 * 1024;

/// Units that each client holds, and never more than there are.
#[derive(Debug, Default)]
pub(super) struct Memory {
    held: Mutex<HashMap<IpAddr, usize>>,
}

impl Memory {
    /// Begins a body of a client; `None` when there is no room.
    pub(super) fn begin(self: &Arc<Self>, client: IpAddr) -> Option<Upload> {
        let mut upload = Upload { bytes: Vec::new(), units: 0, client: network(client), memory: Arc::clone(self) };
        upload.holds(1).then_some(upload)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body, as far as it has come, and the memory that it counts for.
#[derive(Debug)]
pub(super) struct Upload {
    bytes: Vec<u8>,
    units: usize,
    client: IpAddr,
    memory: Arc<Memory>,
}

impl Upload {
    /// Takes the next piece; false when there is no room.
    pub(super) fn push(&mut self, piece: &[u8]) -> bool {
        let length = self.bytes.len() + piece.len();
        if !self.holds(length.div_ceil(UNIT)) {
            return false;
        }
        // No more than what it counts for: a vector that grows by itself doubles.
        if length > self.bytes.capacity() {
            self.bytes.reserve_exact(self.units * UNIT - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
        true
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Has it count for so many units at least; false when there is no room.
    fn holds(&mut self, units: usize) -> bool {
        let Some(more) = units.checked_sub(self.units).filter(|more| *more > 0) else { return true };
        let mut held = self.memory.lock();
        let own = held.get(&self.client).copied().unwrap_or_default();
        let fits = own + more <= SHARE / UNIT && held.values().sum::<usize>() + more <= MEMORY / UNIT;
        if fits {
            held.insert(self.client, own + more);
            self.units = units;
        }
        fits
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let mut held = self.memory.lock();
        if let Some(own) = held.get_mut(&self.client) {
            *own -= self.units.min(*own);
            if *own == 0 {
                held.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_holds_one_body_of_the_largest_size_and_all_together_four() {
        let memory = Arc::new(Memory::default());
        let client = |last: u8| IpAddr::from([192, 0, 2, last]);
        let piece = vec![0; MAX_UNPACKED / 2];
        let mut bodies = Vec::new();
        for last in 1..=4 {
            let mut body = memory.begin(client(last)).unwrap();
            assert!(body.push(&piece) && body.push(&piece), "{last}");
            assert!(memory.begin(client(last)).is_none(), "{last} has its share");
            bodies.push(body);
        }
        assert!(memory.begin(client(5)).is_none(), "all of it is taken");
        bodies.clear();
        let mut body = memory.begin(client(5)).unwrap();
        assert!(body.push(&piece), "it is free again");
        let mut other = memory.begin(client(5)).unwrap();
        assert!(other.push(&piece) && !other.push(&[0]), "with the first one more than a share");
        drop((body, other));
        assert!(memory.lock().is_empty(), "nobody is remembered");
    }

    #[test]
    fn a_body_takes_no_more_memory_than_it_counts_for() {
        let memory = Arc::new(Memory::default());
        let mut body = memory.begin(IpAddr::from([192, 0, 2, 1])).unwrap();
        for _ in 0..300 {
            assert!(body.push(&[7; 9000]));
            assert!(body.bytes.capacity() <= body.units * UNIT, "{} of {}", body.bytes.capacity(), body.units * UNIT);
        }
        assert_eq!(body.bytes(), vec![7; 2_700_000]);
        assert_eq!(body.units, 2_700_000_usize.div_ceil(UNIT));
    }
}
