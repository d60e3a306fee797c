//! Nomination and selection (RFC 8445 §8), and consent on what was selected (RFC 7675).

use std::time::Duration;

use crate::ice::candidate::CandidateType;
use crate::time::Timestamp;
use crate::trace::event::{EventKind, FailReason, NominateReason, PairState, PruneReason, Role};

use super::agent::{Agent, Carrier};
use super::check::{Purpose, Schedule, Transaction};
use super::checking::{Request, check_priority};
use super::consent::{Consent, EXPIRY};
use super::inbound::username;
use super::io::{Output, SelectedPair};
use super::pair::{CandidatePair, PairId, Way};

/// A better pair of the same kind gets three of the best one's round trips, within these bounds.
const BETTER_WAIT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(150));

/// A direct pair gets so much longer than the first relayed one, and one over UDP than the first over TCP, or four of its
/// round trips if that is more …
const DIRECT_WAIT: Duration = Duration::from_millis(500);

/// … but never more than this: a relayed pair is replaced when a direct one succeeds later.
const LONGEST_DIRECT_WAIT: Duration = Duration::from_secs(2);

/// A peer that nominates aggressively (RFC 5245) means the best of those that it nominates; one that nominates a lesser
/// pair when it has been silent about the selected one for this long means the change.
const RENOMINATION_AFTER: Duration = Duration::from_secs(3);

impl Agent {
    /// Whether a pair that goes this way could still replace what is selected, or what may turn out to be selected: only
    /// a direct one a relayed one, and one over UDP one over TCP.
    pub(super) fn may_improve(&self, way: Way) -> bool {
        let Some(selected) = self.selected_way() else { return true };
        let improves = way > selected || way > Way::Relayed && self.selected_may_be_relayed();
        improves && !self.config.relay_only
    }

    /// The peer's address was learned from its check, and while its candidates are still coming, one of them may tell
    /// that it is a relayed one.
    #[must_use]
    pub fn selected_may_be_relayed(&self) -> bool {
        let pair = self.selected_here().and_then(|id| self.generation.checklist.get(id));
        let remote = pair.map(|pair| self.generation.remotes[pair.remote].candidate.kind);
        remote == Some(CandidateType::PeerReflexive) && !self.generation.remote_done
    }

    /// The selected pair, if it is of this generation.
    pub(super) fn selected_here(&self) -> Option<PairId> {
        let carrier = self.carrier.as_ref()?;
        (carrier.selected_at.is_some() && carrier.generation == self.generation.number).then_some(carrier.id)
    }

    /// How the selected pair goes, if it is of this generation; one that is gone is no better than a relayed one.
    fn selected_way(&self) -> Option<Way> {
        let pair = self.generation.checklist.get(self.selected_here()?);
        Some(pair.map_or(Way::Relayed, |pair| self.generation.way(pair)))
    }

    /// What is better comes last: by the way that it goes, then by priority.
    fn rank(&self, pair: &CandidatePair) -> (Way, u64) {
        (self.generation.way(pair), pair.priority)
    }

    fn best_valid(&self) -> Option<(PairId, (Way, u64))> {
        let valid = self.generation.checklist.iter().filter(|(_, pair)| pair.is_valid());
        valid.map(|(id, pair)| (id, self.rank(pair))).max_by_key(|(id, rank)| (*rank, std::cmp::Reverse(*id)))
    }

    fn is_nominating(&self) -> bool {
        self.generation.checklist.iter().any(|(_, pair)| pair.nominating.is_some())
    }

    /// Which pair to nominate, why, and from when on (RFC 8445 §8.1.1).
    fn nomination(&self) -> Option<(PairId, NominateReason, Timestamp)> {
        if self.role != Role::Controlling || self.is_nominating() {
            return None;
        }
        let (best, rank) = self.best_valid()?;
        let (way, _) = rank;
        if let Some(selected) = self.selected_way() {
            // A direct pair that succeeded late replaces a relayed one, and one over UDP one over TCP; between equals
            // nothing is changed.
            let improves = way > selected && !self.config.relay_only;
            return improves.then_some((best, NominateReason::Replacement, Timestamp::default()));
        }
        if self.generation.had_selected {
            return Some((best, NominateReason::Replacement, Timestamp::default()));
        }
        let pair = self.generation.checklist.get(best)?;
        let rtt = pair.rtt.unwrap_or_default();
        let open = |(_, pair): &(PairId, &CandidatePair)| pair.is_open() && self.rank(pair) > rank;
        let better_open = self.generation.checklist.iter().any(|entry| open(&entry));
        let better_way_open = self.generation.checklist.iter().any(|entry| open(&entry) && self.rank(entry.1).0 > way);
        let better_way_possible = way < Way::DirectUdp
            && !self.config.relay_only
            && (better_way_open || self.generation.expects_candidates());
        let wait = if better_way_possible {
            (rtt * 4).clamp(DIRECT_WAIT, LONGEST_DIRECT_WAIT)
        } else if better_open {
            (rtt * 3).clamp(BETTER_WAIT.0, BETTER_WAIT.1)
        } else {
            return Some((best, NominateReason::BestPossible, Timestamp::default()));
        };
        let first = if way > Way::Relayed { self.generation.first_direct_at } else { self.generation.first_relayed_at };
        Some((best, NominateReason::BestSoFar, first? + wait))
    }

    pub(super) fn evaluate_nomination(&mut self, now: Timestamp) {
        let Some((id, reason, at)) = self.nomination() else { return };
        if self.heard < at {
            return;
        }
        let Some(pair) = self.generation.checklist.get_mut(id) else { return };
        pair.nominating = Some(reason);
        let pair = pair.wire;
        self.event(EventKind::PairNominated { pair, reason });
        self.start_check(now, id, Purpose::Nomination);
    }

    /// When a nomination is due that waits for nothing but time.
    pub(super) fn next_nomination_at(&self) -> Option<Timestamp> {
        self.nomination().map(|(_, _, at)| at)
    }

    /// The peer's check on this pair carries USE-CANDIDATE (RFC 8445 §7.3.1.5).
    pub(super) fn nominated_by_peer(&mut self, now: Timestamp, id: PairId) {
        let Some(pair) = self.generation.checklist.get_mut(id) else { return };
        let (wire, valid) = (pair.wire, pair.is_valid());
        pair.use_candidate_at = Some(now);
        if valid {
            if !std::mem::replace(&mut pair.nominated, true) {
                self.event(EventKind::PairNominated { pair: wire, reason: NominateReason::ByPeer });
            }
            self.consider_nominated(now, id);
        } else if !std::mem::replace(&mut pair.nominated_by_peer, true) {
            self.event(EventKind::PairNominated { pair: wire, reason: NominateReason::ByPeerAheadOfCheck });
        }
    }

    /// Controlled: whether a nominated, valid pair becomes the selected one.
    pub(super) fn consider_nominated(&mut self, now: Timestamp, id: PairId) {
        let Some(pair) = self.generation.checklist.get(id) else { return };
        let selected = self.selected_here().and_then(|id| self.generation.checklist.get(id).map(|pair| (id, pair)));
        let silent = self.carrier.as_ref().is_some_and(|carrier| carrier.consent.is_silent());
        let take = match selected {
            None => true,
            Some((selected, _)) if selected == id => false,
            Some((_, selected)) => {
                let quiet = selected.use_candidate_at.is_none_or(|at| now - at >= RENOMINATION_AFTER);
                silent || quiet || pair.priority > selected.priority
            }
        };
        if take {
            self.select(now, id);
        }
    }

    /// A nominated pair carries data from now on (RFC 8445 §8.1.1, §8.1.2).
    pub(super) fn select(&mut self, now: Timestamp, id: PairId) {
        if self.selected_here() == Some(id) {
            return;
        }
        let replaces = self.selected_pair().map(|selected| selected.pair);
        let Some(carrier) = self.carry(now, id, Some(now)) else { return };
        let selected = carrier.pair.clone();
        self.carrier = Some(carrier);
        self.lost = false;
        self.generation.had_selected = true;
        self.event(EventKind::PairSelected { pair: selected.pair, replaces });
        self.push(Output::SelectedPair(selected));
        self.conclude();
    }

    /// Ends the checks that the selection makes useless (RFC 8445 §8.1.2).
    pub(super) fn conclude(&mut self) {
        let selected = self.selected_here();
        let open = self.generation.checklist.iter().filter(|(id, pair)| {
            Some(*id) != selected && pair.is_open() && !self.may_improve(self.generation.way(pair))
        });
        let useless: Vec<(PairId, PairState)> = open.map(|(id, pair)| (id, pair.state)).collect();
        for (id, state) in useless {
            if state == PairState::InProgress {
                // Its check is out: an answer still tells something, but it is not repeated and nobody waits.
                if let Some(pair) = self.generation.checklist.get_mut(id) {
                    pair.abandoned = true;
                    if let Some(transaction) = pair.transaction {
                        self.transactions.cancel(transaction);
                    }
                }
            } else if let Some(pair) = self.generation.checklist.remove(id) {
                self.event(EventKind::PairPruned { pair: pair.wire, reason: PruneReason::Nominated });
            }
        }
    }

    /// Data may flow on the best valid pair until one is selected (RFC 8445 §12.1).
    pub(super) fn adopt_carrier(&mut self, now: Timestamp) {
        if self.generation.had_selected || self.carrier.as_ref().is_some_and(|carrier| carrier.selected_at.is_some()) {
            return;
        }
        let Some((best, _)) = self.best_valid() else { return };
        if self.carrier.as_ref().is_none_or(|carrier| carrier.id != best) {
            self.carrier = self.carry(now, best, None);
        }
    }

    fn carry(&mut self, now: Timestamp, id: PairId, selected_at: Option<Timestamp>) -> Option<Carrier> {
        let remote = self.generation.remote.as_ref()?;
        let pair = self.generation.checklist.get(id)?;
        let local = &self.generation.locals[pair.mapped.unwrap_or(pair.local)].candidate;
        Some(Carrier {
            generation: self.generation.number,
            id,
            pair: SelectedPair {
                pair: pair.wire,
                local: local.clone(),
                remote: self.generation.remotes[pair.remote].candidate.clone(),
                rtt: pair.rtt,
                scope: pair.scope,
            },
            selected_at,
            consent: Consent::new(now, &mut self.random),
            username: username(remote, &self.generation.local),
            priority: check_priority(&self.generation.locals[pair.local].candidate),
            key: remote.key(),
        })
    }

    /// A pair failed: if data went over it, something else must carry it.
    pub(super) fn carrier_failed(&mut self, now: Timestamp, id: PairId) {
        let here = self.generation.number;
        if self.carrier.as_ref().is_none_or(|carrier| carrier.id != id || carrier.generation != here) {
            return;
        }
        let selected = self.carrier.take().is_some_and(|carrier| carrier.selected_at.is_some());
        if selected {
            self.lost = true;
            self.evaluate_nomination(now);
        } else {
            self.adopt_carrier(now);
        }
    }

    /// The same for a carrier whose pair is not in the checklist: that of an earlier generation.
    pub(super) fn drop_carrier(&mut self) {
        self.carrier = None;
    }

    /// Whether the controlling side is replacing a selected pair that it lost.
    pub(super) fn is_replacing(&self) -> bool {
        self.lost && self.is_nominating()
    }

    pub(super) fn consent_due(&mut self, now: Timestamp) {
        let Some(carrier) = &mut self.carrier else { return };
        let rtt = carrier.pair.rtt.unwrap_or_default();
        if self.heard >= carrier.consent.expires_at() {
            let (id, generation) = (carrier.id, carrier.generation);
            if generation == self.generation.number {
                self.fail_pair(now, id, FailReason::ConsentExpired);
            }
            if self.carrier.as_ref().is_some_and(|carrier| (carrier.id, carrier.generation) == (id, generation)) {
                self.drop_carrier();
            }
            return;
        }
        carrier.consent.falls_silent(self.heard, rtt);
        if !carrier.consent.check_due(now, self.config.patient, rtt, &mut self.random) {
            return;
        }
        let Some(carrier) = &self.carrier else { return };
        let transaction_id = self.random.transaction_id();
        let (wire, scope, key) = (carrier.pair.pair, carrier.pair.scope, carrier.key.clone());
        let request = Request {
            username: &carrier.username,
            priority: carrier.priority,
            key: &carrier.key,
            use_candidate: false,
        };
        let transaction = Transaction {
            pair: carrier.id,
            generation: carrier.generation,
            wire,
            scope,
            purpose: Purpose::Consent,
            role: self.role,
            priority: carrier.priority,
            key,
            bytes: Vec::new(),
            schedule: Schedule::new(self.conditions(true)),
            first_sent: now,
            transmissions: 1,
            refused: 0,
            errno: 0,
            unverified_error: None,
            cancelled: false,
            next_at: now + EXPIRY,
        };
        let bytes = self.build_request(transaction_id, &request);
        self.transactions.insert(transaction_id, transaction);
        self.transmit(wire, scope, bytes);
    }

    pub(super) fn next_consent_at(&self) -> Option<Timestamp> {
        let carrier = self.carrier.as_ref()?;
        Some(carrier.consent.next_at(carrier.pair.rtt.unwrap_or_default()))
    }

    /// Whether the selected pair goes over a TURN server.
    #[must_use]
    pub fn is_relayed(&self) -> Option<bool> {
        let pair = self.send_pair()?;
        Some(pair.local.kind == CandidateType::Relayed || pair.remote.kind == CandidateType::Relayed)
    }
}
