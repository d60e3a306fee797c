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
    bounds: BTreeMap<&'static str, u64>,
}

impl Log {
    /// Writes what has been counted since, and the latest refusals. `streams_refused`: connections refused or closed by a
    /// bound so far.
    pub(super) fn write(&mut self, counters: &Counters, streams_refused: u64, latest: VecDeque<Refused>) {
        for (code, count) in since(&mut self.errors, &counters.errors) {
            info!(code, count, "requests refused");
        }
        for (reason, count) in since(&mut self.peers, &counters.refusals) {
            info!(reason = reason.name(), count, "peers refused by policy");
        }
        for (what, count) in since(&mut self.bounds, &bounds(counters, streams_refused)) {
            info!(count, "{what}");
        }
        for Refused { method, code, source } in latest {
            debug!(code, %method, client = %source, "refused");
        }
    }
}

/// What bounds have cost, in words. A challenge is none of it: every client begins with one.
fn bounds(counters: &Counters, streams_refused: u64) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([
        ("answers withheld: their sources had their share", counters.unauthenticated_withheld),
        ("answers of behavior discovery withheld", counters.discoveries_withheld),
        ("answers to probes withheld", counters.probes_withheld),
        ("datagrams dropped by a rate limit", counters.datagrams_limited),
        ("connections refused or closed by a bound", streams_refused),
    ])
}

/// What was added to each count, where anything was.
fn since<K: Ord + Copy>(before: &mut BTreeMap<K, u64>, now: &BTreeMap<K, u64>) -> Vec<(K, u64)> {
    let added = |(key, count): (&K, &u64)| {
        let before = before.insert(*key, *count).unwrap_or_default();
        (*count > before).then(|| (*key, count - before))
    };
    now.iter().filter_map(added).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_bound_has_cost_is_told_once() {
        let mut known = BTreeMap::new();
        let mut counters = Counters { discoveries_withheld: 2, probes_withheld: 3, ..Counters::default() };
        let told = |known: &mut BTreeMap<_, _>, counters: &Counters, streams| -> Vec<String> {
            let added = since(known, &bounds(counters, streams));
            added.into_iter().map(|(what, count)| format!("{count} {what}")).collect()
        };
        let first = told(&mut known, &counters, 0);
        assert_eq!(first, ["2 answers of behavior discovery withheld", "3 answers to probes withheld"]);
        assert!(told(&mut known, &counters, 0).is_empty());
        (counters.unauthenticated_withheld, counters.datagrams_limited, counters.challenges) = (4, 5, 6);
        let then = [
            "4 answers withheld: their sources had their share",
            "7 connections refused or closed by a bound",
            "5 datagrams dropped by a rate limit",
        ];
        assert_eq!(told(&mut known, &counters, 7), then);
    }
}
