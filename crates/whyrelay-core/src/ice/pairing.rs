//! How candidates become pairs (RFC 8445 §6.1.2, RFC 8838 §12), and the TURN permissions that pairs need.

use std::net::{IpAddr, SocketAddr};

use crate::ice::candidate::{CandidateTransport, CandidateType};
use crate::time::Timestamp;
use crate::trace::event::{EventKind, FailReason, Pair, PairState, PruneReason};

use super::agent::Agent;
use super::generation::{Generation, Permission};
use super::io::Output;
use super::pair::{CandidatePair, PairId, Readiness, Way, bare, may_pair, priority};

impl Agent {
    /// Pairs two signaled candidates, if they pair at all.
    pub(super) fn pair_up(&mut self, now: Timestamp, local: usize, remote: usize) {
        let ours = &self.generation.locals[local];
        let theirs = &mut self.generation.remotes[remote];
        // RFC 8445 §7.2.5.3.1 and §7.3.1.3: peer-reflexive candidates are paired only where they were discovered.
        if ours.gone
            || ours.candidate.kind == CandidateType::PeerReflexive
            || theirs.candidate.kind == CandidateType::PeerReflexive
        {
            return;
        }
        if !may_pair(ours.candidate.transport, ours.base, theirs.candidate.transport, theirs.address) {
            return;
        }
        theirs.has_counterpart = true;
        let wire = Pair { transport: ours.candidate.transport, local: ours.base, remote: theirs.address };
        if wire.transport == CandidateTransport::TcpPassive {
            self.generation.awaits_connection = true;
            return self.event(EventKind::PairPruned { pair: wire, reason: PruneReason::WaitsForConnection });
        }
        if let Some(kept) = self.generation.checklist.find(&wire) {
            return self.keep_one(kept, local, wire);
        }
        let way = Way::of(&self.generation.locals[local].candidate, &self.generation.remotes[remote].candidate);
        if !self.may_improve(way) {
            return self.event(EventKind::PairPruned { pair: wire, reason: PruneReason::Nominated });
        }
        self.form_pair(now, local, remote, wire, false);
    }

    /// Two local candidates share a base: one pair is enough (RFC 8445 §6.1.2.4), under the better candidate's name.
    fn keep_one(&mut self, kept: PairId, local: usize, wire: Pair) {
        let candidate = Some(self.generation.locals[local].address);
        let better = self.generation.locals[local].candidate.priority;
        if let Some(pair) = self.generation.checklist.get_mut(kept)
            && matches!(pair.state, PairState::Frozen | PairState::Waiting)
            && self.generation.locals[pair.local].candidate.priority < better
        {
            pair.local = local;
            self.recompute_priorities();
        }
        self.event(EventKind::PairPruned { pair: wire, reason: PruneReason::Redundant { kept: wire, candidate } });
    }

    /// Enters a pair into the checklist. `None`: the checklist is full of better ones.
    pub(super) fn form_pair(
        &mut self,
        now: Timestamp,
        local: usize,
        remote: usize,
        wire: Pair,
        triggered: bool,
    ) -> Option<PairId> {
        let ours = &self.generation.locals[local];
        let theirs = &self.generation.remotes[remote];
        let foundation = format!("{}:{}", ours.candidate.foundation, theirs.candidate.foundation);
        let relayed = ours.candidate.kind == CandidateType::Relayed;
        let permission_key = (wire.local, wire.remote.ip());
        let permission = self.generation.permissions.get(&permission_key).copied();
        let readiness = match wire.transport {
            CandidateTransport::TcpActive => Readiness::Unconnected,
            CandidateTransport::Udp if relayed && permission != Some(Permission::Granted) => {
                Readiness::AwaitsPermission
            }
            _ => Readiness::Ready,
        };
        let state = if triggered { PairState::Waiting } else { self.generation.checklist.initial_state(&foundation) };
        let pair = CandidatePair {
            wire,
            scope: ours.scope,
            local,
            remote,
            priority: priority(self.role, ours.candidate.priority, theirs.candidate.priority),
            foundation: foundation.clone(),
            state,
            readiness,
            nominated: false,
            nominating: None,
            unanswered_nominations: 0,
            nominated_by_peer: false,
            use_candidate_at: None,
            abandoned: false,
            transaction: None,
            triggered_at: None,
            succeeded_at: None,
            rtt: None,
            mapped: None,
        };
        let id = self.next_pair_id();
        let formed = EventKind::PairFormed { pair: wire, priority: pair.priority, foundation, state };
        self.generation.checklist.insert(id, pair);
        if triggered {
            self.generation.checklist.trigger(id);
        }
        self.event(formed);
        if self.generation.checklist.len() > self.config.limits.pairs && !self.shrink_checklist(id) {
            return None;
        }
        if readiness == Readiness::AwaitsPermission {
            match permission {
                None => {
                    self.generation.permissions.insert(permission_key, Permission::Asked);
                    self.push(Output::NeedPermission { relayed: permission_key.0, peer: permission_key.1 });
                }
                Some(Permission::Denied(code)) => self.fail_pair(now, id, FailReason::NoPermission { code }),
                Some(_) => {}
            }
        }
        Some(id)
    }

    /// Gives up the most expendable pair. False: it was the new one.
    fn shrink_checklist(&mut self, new: PairId) -> bool {
        let generation = &self.generation;
        let types = |pair: &CandidatePair| {
            (generation.locals[pair.local].candidate.kind, generation.remotes[pair.remote].candidate.kind)
        };
        let loser = generation.checklist.expendable(types).unwrap_or(new);
        let limit = self.config.limits.pairs as u32;
        if let Some(pair) = self.generation.checklist.remove(loser) {
            self.event(EventKind::PairPruned { pair: pair.wire, reason: PruneReason::ChecklistFull { limit } });
        }
        loser != new
    }

    /// After a change of role or of a candidate's priority (RFC 8445 §7.2.5.1).
    pub(super) fn recompute_priorities(&mut self) {
        let Generation { checklist, locals, remotes, .. } = &mut self.generation;
        for (_, pair) in checklist.iter_mut() {
            let (local, remote) = (&locals[pair.local].candidate, &remotes[pair.remote].candidate);
            pair.priority = priority(self.role, local.priority, remote.priority);
        }
    }

    pub(super) fn permission(&mut self, now: Timestamp, relayed: SocketAddr, peer: IpAddr, answer: Permission) {
        let key = (bare(relayed), peer);
        // Only answers to questions count: unasked ones would grow the table.
        let Some(permission) = self.generation.permissions.get_mut(&key) else { return };
        *permission = answer;
        let of_key = self.generation.checklist.iter().filter(|(_, pair)| {
            (pair.wire.local, pair.wire.remote.ip()) == key && pair.readiness == Readiness::AwaitsPermission
        });
        let waiting: Vec<PairId> = of_key.map(|(id, _)| id).collect();
        for id in waiting {
            match answer {
                Permission::Denied(code) => self.fail_pair(now, id, FailReason::NoPermission { code }),
                Permission::Granted | Permission::Asked => {
                    if let Some(pair) = self.generation.checklist.get_mut(id) {
                        pair.readiness = Readiness::Ready;
                    }
                }
            }
        }
    }
}
