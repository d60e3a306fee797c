//! Conducting checks: sending them, repeating them, and what their success or failure changes (RFC 8445 §7.2.5).

use std::net::SocketAddr;
use std::time::Duration;

use crate::ice::candidate::{Candidate, CandidateType};
use crate::time::Timestamp;
use crate::trace::event::{EventKind, FailReason, Pair, PairState, PruneReason, Role, StateReason};
use crate::wire::attribute::AttributeType;
use crate::wire::integrity::Key;
use crate::wire::stun::{Class, MessageBuilder, Method, TransactionId};

use super::agent::{Agent, bare_pair};
use super::check::{Conditions, Purpose, Schedule, Transaction};
use super::inbound::username;
use super::io::{Output, Transmit};
use super::pair::{PairId, Readiness, scoped};
use super::role;

/// A retransmission that comes late, because the caller was, is followed by the next not sooner than this.
const LEAST_INTERVAL: Duration = Duration::from_millis(50);

/// Transmissions after which pairs of the same foundation thaw although no answer came, in the shorter schedule.
/// RFC 8445 §6.1.4.2 lets them wait for the whole schedule, one after the other.
const THAW_AFTER: u32 = 2;

/// Nominations of a pair that may go unanswered before it fails, in the shorter schedule.
const NOMINATIONS: u32 = 3;

/// What a request says, whoever sends it.
pub(super) struct Request<'a> {
    pub(super) username: &'a str,
    pub(super) priority: u32,
    pub(super) key: &'a Key,
    pub(super) use_candidate: bool,
}

impl Agent {
    /// Sends what may be sent now: triggered checks first, then the waiting pair of highest priority (RFC 8445 §6.1.4.2).
    pub(super) fn send_checks(&mut self, now: Timestamp) {
        if self.generation.remote.is_none() {
            return;
        }
        loop {
            let checklist = &self.generation.checklist;
            if let Some(id) = checklist.next_triggered().filter(|_| self.pacer.triggered_at() <= now) {
                self.start_check(now, id, Purpose::Check);
            } else if self.pacer.ordinary_at() > now {
                return;
            } else if let Some(id) = checklist.next_waiting() {
                self.start_check(now, id, Purpose::Check);
            } else if let Some(id) = self.thawable() {
                self.set_pair_state(id, PairState::Waiting, StateReason::Unfrozen);
            } else {
                return;
            }
        }
    }

    /// When [`Self::send_checks`] has something to do.
    pub(super) fn next_check_at(&self) -> Option<Timestamp> {
        self.generation.remote.as_ref()?;
        if self.generation.checklist.next_triggered().is_some() {
            return Some(self.pacer.triggered_at());
        }
        let ordinary = self.generation.checklist.next_waiting().or_else(|| self.thawable());
        ordinary.map(|_| self.pacer.ordinary_at())
    }

    fn thawable(&self) -> Option<PairId> {
        // A pair that waits for a permission would never thaw twice, so it must not hide the others for ever.
        self.generation.checklist.thawable(|pair| {
            let transaction = pair.transaction.and_then(|id| self.transactions.get(id));
            self.config.patient || transaction.is_none_or(|t| !t.cancelled && t.transmissions < THAW_AFTER)
        })
    }

    /// Begins a check, or the connection that it needs.
    pub(super) fn start_check(&mut self, now: Timestamp, id: PairId, purpose: Purpose) {
        self.generation.checklist.untrigger(id);
        let schedule = self.schedule(id);
        let Some(pair) = self.generation.checklist.get_mut(id) else { return };
        self.pacer.sent(now);
        if pair.readiness == Readiness::Unconnected {
            pair.readiness = Readiness::Connecting(now + schedule.give_up());
            let (pair, scope) = (pair.wire, pair.scope);
            let local = scoped(SocketAddr::new(pair.local.ip(), 0), scope);
            self.push(Output::ConnectTcp { pair, local, remote: scoped(pair.remote, scope) });
            return self.set_pair_state(id, PairState::InProgress, StateReason::CheckSent);
        }
        let (local, wire, scope) = (pair.local, pair.wire, pair.scope);
        let replaced = pair.transaction.take();
        let Some(remote) = &self.generation.remote else { return };
        let (username, key) = (username(remote, &self.generation.local), remote.key());
        let priority = check_priority(&self.generation.locals[local].candidate);
        let use_candidate = purpose == Purpose::Nomination;
        let transaction = self.random.transaction_id();
        let request = Request { username: &username, priority, key: &key, use_candidate };
        let bytes = self.build_request(transaction, &request);
        if let Some(replaced) = replaced {
            self.transactions.cancel(replaced);
        }
        if let Some(pair) = self.generation.checklist.get_mut(id) {
            pair.transaction = Some(transaction);
        }
        self.set_pair_state(id, PairState::InProgress, StateReason::CheckSent);
        self.transmit(wire, scope, bytes.clone());
        let next_at = now + schedule.next(1);
        self.transactions.insert(
            transaction,
            Transaction {
                pair: id,
                generation: self.generation.number,
                wire,
                scope,
                purpose,
                role: self.role,
                priority,
                key,
                bytes,
                schedule,
                first_sent: now,
                transmissions: 1,
                refused: 0,
                errno: 0,
                unverified_error: None,
                cancelled: false,
                next_at,
            },
        );
    }

    fn schedule(&self, id: PairId) -> Schedule {
        let transport = self.generation.checklist.get(id).map(|pair| pair.wire.transport);
        Schedule::new(self.conditions(transport.is_some_and(|transport| transport.is_tcp())))
    }

    pub(super) fn conditions(&self, reliable: bool) -> Conditions {
        Conditions {
            patient: self.config.patient,
            reliable,
            pacing: self.pacer.interval(),
            active: self.generation.checklist.active(),
            round_trip: self.round_trip,
        }
    }

    /// A Binding request as RFC 8445 §7.1 wants it.
    pub(super) fn build_request(&self, transaction: TransactionId, request: &Request<'_>) -> Vec<u8> {
        let message = MessageBuilder::new(Class::Request, Method::BINDING, transaction)
            .text(AttributeType::USERNAME, request.username)
            .u32(AttributeType::PRIORITY, request.priority)
            .u64(role::attribute(self.role), self.tie_breaker);
        let message =
            if request.use_candidate { message.attribute(AttributeType::USE_CANDIDATE, &[]) } else { message };
        message.integrity(request.key).fingerprint().build()
    }

    pub(super) fn transmit(&mut self, wire: Pair, scope: u32, bytes: Vec<u8>) {
        let Pair { transport, local, remote } = wire;
        self.push(Output::Transmit(Transmit { transport, local, remote: scoped(remote, scope), bytes }));
    }

    /// The moment of a transaction came: send it again, or give it up.
    pub(super) fn transaction_due(&mut self, now: Timestamp, id: TransactionId) {
        let Some(transaction) = self.transactions.get_mut(id) else { return };
        let more = !transaction.cancelled
            && transaction.purpose != Purpose::Consent
            && transaction.schedule.has_more(transaction.transmissions);
        if more {
            transaction.transmissions += 1;
            let next = transaction.first_sent + transaction.schedule.next(transaction.transmissions);
            transaction.next_at = next.max(now + LEAST_INTERVAL);
            let (wire, scope, bytes) = (transaction.wire, transaction.scope, transaction.bytes.clone());
            return self.transmit(wire, scope, bytes);
        }
        let Some(transaction) = self.transactions.remove(id) else { return };
        let current = self.generation.checklist.get(transaction.pair).is_some_and(|pair| pair.transaction == Some(id));
        if transaction.generation != self.generation.number || !current {
            return;
        }
        if transaction.purpose == Purpose::Nomination && self.nominates_again(transaction.pair) {
            return self.start_check(now, transaction.pair, Purpose::Nomination);
        }
        self.fail_pair(now, transaction.pair, transaction.failure());
    }

    /// The pair has proved itself, so bad luck is likelier than a dead path.
    fn nominates_again(&mut self, id: PairId) -> bool {
        let Some(pair) = self.generation.checklist.get_mut(id) else { return false };
        pair.unanswered_nominations += 1;
        !self.config.patient && pair.nominating.is_some() && pair.unanswered_nominations < NOMINATIONS
    }

    /// TCP connections that nobody reported about.
    pub(super) fn connections_due(&mut self, now: Timestamp, heard: Timestamp) {
        let late = self
            .generation
            .checklist
            .iter()
            .filter(|(_, pair)| matches!(pair.readiness, Readiness::Connecting(deadline) if deadline <= heard));
        let late: Vec<PairId> = late.map(|(id, _)| id).collect();
        for id in late {
            self.fail_pair(now, id, FailReason::ConnectionFailed { detail: "no connection in time".to_owned() });
        }
    }

    pub(super) fn next_connection_at(&self) -> Option<Timestamp> {
        let deadlines = self.generation.checklist.iter().filter_map(|(_, pair)| match pair.readiness {
            Readiness::Connecting(deadline) => Some(deadline),
            _ => None,
        });
        deadlines.min()
    }

    pub(super) fn tcp_connected(&mut self, now: Timestamp, asked: Pair, local: SocketAddr) {
        let Some(id) = self.generation.checklist.find(&asked) else { return };
        let connecting = |readiness| matches!(readiness, Readiness::Connecting(_));
        if !self.generation.checklist.get(id).is_some_and(|pair| connecting(pair.readiness)) {
            return;
        }
        let wire = Pair { local, ..asked };
        if wire != asked {
            if !self.generation.checklist.rename(id, wire) {
                let detail = "another pair has this connection".to_owned();
                return self.fail_pair(now, id, FailReason::ConnectionFailed { detail });
            }
            self.event(EventKind::PairPruned { pair: asked, reason: PruneReason::Connected { pair: wire } });
        }
        let Some(pair) = self.generation.checklist.get_mut(id) else { return };
        pair.readiness = Readiness::Ready;
        if wire != asked {
            let (priority, foundation, state) = (pair.priority, pair.foundation.clone(), pair.state);
            self.event(EventKind::PairFormed { pair: wire, priority, foundation, state });
        }
        self.start_check(now, id, Purpose::Check);
    }

    pub(super) fn send_failed(&mut self, pair: Pair, errno: i32) {
        let found = self.generation.checklist.find(&bare_pair(pair));
        let transaction = found.and_then(|id| self.generation.checklist.get(id)).and_then(|pair| pair.transaction);
        if let Some(transaction) = transaction.and_then(|id| self.transactions.get_mut(id)) {
            transaction.refused += 1;
            transaction.errno = errno;
        }
    }

    pub(super) fn allocation_lost(&mut self, now: Timestamp, relayed: SocketAddr) {
        let lost = self.generation.checklist.iter().filter(|(_, pair)| pair.wire.local == relayed);
        let lost: Vec<PairId> = lost.map(|(id, _)| id).collect();
        for id in lost {
            self.fail_pair(now, id, FailReason::AllocationLost);
        }
        // What the server permitted went with it.
        self.generation.permissions.retain(|(base, _), _| *base != relayed);
        for local in &mut self.generation.locals {
            local.gone |= local.base == relayed && local.candidate.kind == CandidateType::Relayed;
        }
        if self.carrier.as_ref().is_some_and(|carrier| carrier.pair.pair.local == relayed) {
            self.drop_carrier();
        }
    }

    /// RFC 8445 §7.2.5.3.
    pub(super) fn check_succeeded(
        &mut self,
        now: Timestamp,
        transaction: &Transaction,
        transaction_id: TransactionId,
        mapped: SocketAddr,
    ) {
        let id = transaction.pair;
        let Some(pair) = self.generation.checklist.get(id) else { return };
        let (local, foundation) = (pair.local, pair.foundation.clone());
        let direct = self.generation.is_direct(pair);
        let mapped = self.mapped_local(local, transaction.wire, mapped, transaction.priority);
        // Of a retransmitted check nobody knows which transmission was answered: since the first one is an upper bound.
        let rtt = self.arrived - transaction.first_sent;
        self.generation.checklist.untrigger(id);
        let Some(pair) = self.generation.checklist.get_mut(id) else { return };
        let replaced = pair.transaction.take().filter(|current| *current != transaction_id);
        pair.mapped = Some(mapped);
        pair.rtt = Some(pair.rtt.map_or(rtt, |known| known.min(rtt)));
        pair.succeeded_at.get_or_insert(now);
        pair.abandoned = false;
        let nominated_by_peer = self.role == Role::Controlled && pair.nominated_by_peer;
        let nomination = transaction.purpose == Purpose::Nomination
            && transaction.role == self.role
            && self.role == Role::Controlling;
        if nomination {
            pair.nominating = None;
        }
        pair.nominated |= nominated_by_peer || nomination;
        if let Some(replaced) = replaced {
            // An ordinary check's late answer must not take a nomination's place.
            let nominates = self.transactions.get(replaced).is_some_and(|t| t.purpose == Purpose::Nomination);
            if nominates {
                if let Some(pair) = self.generation.checklist.get_mut(id) {
                    pair.transaction = Some(replaced);
                }
            } else {
                self.transactions.remove(replaced);
            }
        }
        let rtt_us = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
        self.set_pair_state(id, PairState::Succeeded, StateReason::Answered { rtt_us });
        let first = if direct { &mut self.generation.first_direct_at } else { &mut self.generation.first_relayed_at };
        first.get_or_insert(now);
        for kin in self.generation.checklist.frozen_kin(&foundation) {
            self.set_pair_state(kin, PairState::Waiting, StateReason::Unfrozen);
        }
        if nomination {
            self.select(now, id);
        } else if nominated_by_peer {
            self.consider_nominated(now, id);
        }
        self.adopt_carrier(now);
    }

    pub(super) fn set_pair_state(&mut self, id: PairId, to: PairState, reason: StateReason) {
        let Some(pair) = self.generation.checklist.get_mut(id) else { return };
        // A check on a pair that already succeeded, to nominate it, does not take its success away.
        if pair.state == to || (pair.state == PairState::Succeeded && to == PairState::InProgress) {
            return;
        }
        let from = std::mem::replace(&mut pair.state, to);
        let pair = pair.wire;
        self.event(EventKind::PairStateChanged { pair, from, to, reason });
    }

    /// A pair is of no more use, unless a check of the peer revives it.
    pub(super) fn fail_pair(&mut self, now: Timestamp, id: PairId, reason: FailReason) {
        self.generation.checklist.untrigger(id);
        let Some(pair) = self.generation.checklist.get_mut(id) else { return };
        let connection_gone = matches!(reason, FailReason::ConnectionFailed { .. });
        if connection_gone {
            pair.readiness = Readiness::Unconnected;
        }
        pair.nominated = false;
        pair.nominating = None;
        pair.nominated_by_peer = false;
        if let Some(transaction) = pair.transaction.take() {
            self.transactions.remove(transaction);
        }
        self.set_pair_state(id, PairState::Failed, StateReason::Failed(reason));
        self.carrier_failed(now, id);
    }
}

impl Transaction {
    /// Why it stayed without an answer.
    fn failure(&self) -> FailReason {
        match &self.unverified_error {
            Some((code, reason)) => FailReason::ErrorResponse { code: *code, reason: reason.clone() },
            None if self.refused >= self.transmissions => FailReason::SendFailed { errno: self.errno },
            None => FailReason::Timeout { transmissions: self.transmissions },
        }
    }
}

/// The PRIORITY of a check: what a peer-reflexive candidate from it would have (RFC 8445 §7.1.1).
pub(super) fn check_priority(local: &Candidate) -> u32 {
    (CandidateType::PeerReflexive.preference() << 24) | (local.priority & 0x00FF_FFFF)
}
