//! What the log says of requests and peers that are refused: once a second how many of each kind, and at the next level
//! who the first ones were. So a flood costs a few lines a second, and no name or secret is in any.

use std::collections::{BTreeMap, VecDeque};

use tracing::{debug, info};
use whyrelay_core::engine::turn_server::{Counters, Refusal, Refused};

/// How far the log has come.
#[derive(Default)]
pub(super) struct Log {
    errors: BTreeMap<u16, u64>,
    peers: BTreeMap<Refusal, u64>,
    withheld: u64,
}

impl Log {
    /// Writes what has been counted since, and the latest refusals.
    pub(super) fn write(&mut self, counters: &Counters, latest: VecDeque<Refused>) {
        for (code, count) in since(&mut self.errors, &counters.errors) {
            info!(code, count, "requests refused");
        }
        for (reason, count) in since(&mut self.peers, &counters.refusals) {
            info!(reason = reason.name(), count, "peers refused by policy");
        }
        let count = counters.unauthenticated_withheld - self.withheld;
        if count > 0 {
            info!(count, "answers withheld: their sources had their share");
        }
        self.withheld = counters.unauthenticated_withheld;
        for Refused { method, code, source } in latest {
            debug!(code, %method, client = %source, "refused");
        }
    }
}

/// What was added to each count, where anything was.
fn since<K: Ord + Copy>(before: &mut BTreeMap<K, u64>, now: &BTreeMap<K, u64>) -> Vec<(K, u64)> {
    let added = |(key, count): (&K, &u64)| {
        let before = before.insert(*key, *count).unwrap_or_default();
        (*count > before).then(|| (*key, count - before))
    };
    now.iter().filter_map(added).collect()
}
