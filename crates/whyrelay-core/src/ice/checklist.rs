//! The checklist (RFC 8445 §6.1.2): pairs, their order, their bound, and the triggered-check queue (§6.1.4.1).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ice::candidate::CandidateType;
use crate::trace::event::{Pair, PairState};

use super::pair::{CandidatePair, PairId, Readiness};

/// The pairs of one generation.
#[derive(Debug, Default)]
pub(super) struct Checklist {
    pairs: BTreeMap<PairId, CandidatePair>,
    by_wire: BTreeMap<Pair, PairId>,
    triggered: VecDeque<PairId>,
}

impl Checklist {
    pub(super) fn insert(&mut self, id: PairId, pair: CandidatePair) {
        self.by_wire.insert(pair.wire, id);
        self.pairs.insert(id, pair);
    }

    pub(super) fn remove(&mut self, id: PairId) -> Option<CandidatePair> {
        let pair = self.pairs.remove(&id)?;
        self.by_wire.remove(&pair.wire);
        self.triggered.retain(|queued| *queued != id);
        Some(pair)
    }

    /// Gives a pair its connection's local address. Answers whether that name was free.
    pub(super) fn rename(&mut self, id: PairId, wire: Pair) -> bool {
        if self.by_wire.contains_key(&wire) {
            return false;
        }
        let Some(pair) = self.pairs.get_mut(&id) else { return false };
        self.by_wire.remove(&pair.wire);
        pair.wire = wire;
        self.by_wire.insert(wire, id);
        true
    }

    /// Queues a triggered check, once.
    pub(super) fn trigger(&mut self, id: PairId) {
        if !self.triggered.contains(&id) {
            self.triggered.push_back(id);
        }
    }

    pub(super) fn untrigger(&mut self, id: PairId) {
        self.triggered.retain(|queued| *queued != id);
    }

    pub(super) fn get(&self, id: PairId) -> Option<&CandidatePair> {
        self.pairs.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: PairId) -> Option<&mut CandidatePair> {
        self.pairs.get_mut(&id)
    }

    pub(super) fn find(&self, wire: &Pair) -> Option<PairId> {
        self.by_wire.get(wire).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PairId, &CandidatePair)> {
        self.pairs.iter().map(|(id, pair)| (*id, pair))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (PairId, &mut CandidatePair)> {
        self.pairs.iter_mut().map(|(id, pair)| (*id, pair))
    }

    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The state of a new pair (RFC 8838 §12): Waiting when it is the first of its foundation or one of its foundation
    /// succeeded, else Frozen.
    pub(super) fn initial_state(&self, foundation: &str) -> PairState {
        let mut kin = self.pairs.values().filter(|pair| pair.foundation == foundation).peekable();
        if kin.peek().is_none() || kin.any(|pair| pair.state == PairState::Succeeded) {
            PairState::Waiting
        } else {
            PairState::Frozen
        }
    }

    /// The pairs that a success thaws (RFC 8445 §7.2.5.3.3).
    pub(super) fn frozen_kin(&self, foundation: &str) -> Vec<PairId> {
        let kin = self.iter().filter(|(_, pair)| pair.state == PairState::Frozen && pair.foundation == foundation);
        kin.map(|(id, _)| id).collect()
    }

    /// The frozen pairs to thaw when no pair waits: of each foundation that nobody is busy with, the one with the
    /// highest priority (RFC 8445 §6.1.4.2). `is_busy` says so of a pair that is in progress.
    pub(super) fn thawable(&self, is_busy: impl Fn(&CandidatePair) -> bool) -> Option<PairId> {
        let busy: BTreeSet<&str> = self
            .pairs
            .values()
            .filter(|pair| match pair.state {
                PairState::Waiting => true,
                PairState::InProgress => is_busy(pair),
                PairState::Frozen | PairState::Succeeded | PairState::Failed => false,
            })
            .map(|pair| pair.foundation.as_str())
            .collect();
        let frozen = self.iter().filter(|(_, pair)| {
            pair.state == PairState::Frozen && !pair.abandoned && !busy.contains(pair.foundation.as_str())
        });
        frozen.max_by_key(|(id, pair)| (pair.priority, std::cmp::Reverse(*id))).map(|(id, _)| id)
    }

    /// The oldest triggered check that can be sent.
    pub(super) fn next_triggered(&self) -> Option<PairId> {
        self.triggered.iter().copied().find(|id| self.pairs.get(id).is_some_and(is_ready))
    }

    /// The waiting pair with the highest priority that can be checked (RFC 8445 §6.1.4.2).
    pub(super) fn next_waiting(&self) -> Option<PairId> {
        let waiting = self.iter().filter(|(_, pair)| pair.state == PairState::Waiting && is_ready(pair));
        waiting.max_by_key(|(id, pair)| (pair.priority, std::cmp::Reverse(*id))).map(|(id, _)| id)
    }

    /// Pairs whose check is due or under way: N of RFC 8445 §14.3.
    pub(super) fn active(&self) -> usize {
        self.pairs
            .values()
            .filter(|pair| !pair.abandoned && matches!(pair.state, PairState::Waiting | PairState::InProgress))
            .count()
    }

    /// The pair to give up when the checklist is over its bound: among those that were never checked, and by
    /// themselves would not soon be, the one of lowest priority within the most numerous combination of types. Plain
    /// lowest priority (RFC 8445 §6.1.2.5) would first throw out every relayed pair, on hosts with many virtual
    /// bridges the only ones that work.
    pub(super) fn expendable(
        &self,
        types: impl Fn(&CandidatePair) -> (CandidateType, CandidateType),
    ) -> Option<PairId> {
        let mut classes: BTreeMap<(CandidateType, CandidateType), Class> = BTreeMap::new();
        for (id, pair) in self.iter() {
            let (count, lowest) = classes.entry(types(pair)).or_default();
            *count += 1;
            let unchecked =
                matches!(pair.state, PairState::Frozen | PairState::Waiting) || pair.state == PairState::Failed;
            if unchecked && !self.triggered.contains(&id) && !pair.nominated_by_peer {
                let key = (pair.priority, id);
                *lowest = Some(lowest.map_or(key, |other| other.min(key)));
            }
        }
        let fullest = classes.into_values().filter(|(_, lowest)| lowest.is_some()).max_by_key(|(count, _)| *count);
        fullest.and_then(|(_, lowest)| lowest).map(|(_, id)| id)
    }
}

/// How many pairs have a combination of types, and the least of those that may go.
type Class = (usize, Option<(u64, PairId)>);

fn is_ready(pair: &CandidatePair) -> bool {
    matches!(pair.readiness, Readiness::Ready | Readiness::Unconnected)
}
