//! What arrives: checks of the peer (RFC 8445 §7.3) and answers to ours (§7.2.5).

use std::net::SocketAddr;

use crate::ice::candidate::{Candidate, CandidateTransport, CandidateType};
use crate::time::Timestamp;
use crate::trace::event::{EventKind, FailReason, Pair, PairState, Role, RoleReason, StateReason};
use crate::wire::attribute::AttributeType;
use crate::wire::integrity::{Integrity, Key};
use crate::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};

use super::agent::Agent;
use super::check::{Purpose, Transaction};
use super::config::Credentials;
use super::io::{Output, Transmit};
use super::pair::{PairId, Way, bare, is_link_local, scoped};
use super::role::{self, Conflict};

/// Comprehension-required attributes that an agent understands in a Binding message.
const KNOWN: &[AttributeType] = &[
    AttributeType::MAPPED_ADDRESS,
    AttributeType::USERNAME,
    AttributeType::MESSAGE_INTEGRITY,
    AttributeType::MESSAGE_INTEGRITY_SHA256,
    AttributeType::ERROR_CODE,
    AttributeType::UNKNOWN_ATTRIBUTES,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::USERHASH,
    AttributeType::PASSWORD_ALGORITHM,
    AttributeType::XOR_MAPPED_ADDRESS,
    AttributeType::PRIORITY,
    AttributeType::USE_CANDIDATE,
];

/// Where a message arrived and where it came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) wire: Pair,
    /// Scope of a link-local source.
    scope: u32,
}

impl Arrival {
    pub(super) fn new(transport: CandidateTransport, local: SocketAddr, remote: SocketAddr) -> Self {
        let scope = match remote {
            SocketAddr::V6(v6) => v6.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        Self { wire: Pair { transport, local: bare(local), remote: bare(remote) }, scope }
    }
}

/// An authenticated check that was answered and whose consequences wait (RFC 8445 §7.3).
#[derive(Clone, Debug)]
pub(super) struct EarlyCheck {
    arrival: Arrival,
    priority: u32,
    use_candidate: bool,
}

/// Whose password a request was sent for.
enum Addressee {
    Current,
    /// The generation before the last restart: its checks are still answered, so that its consent lasts.
    Previous,
}

impl Agent {
    /// Whether the integrity of an inbound message is right; `None` when there is no key to check it with: its user
    /// name is not ours, or it answers nothing that we asked.
    pub fn verify(&self, message: &Message<'_>) -> Option<Integrity> {
        let key = match message.class {
            Class::Request | Class::Indication => self.addressee(message)?.0,
            Class::Success | Class::Error => self.transactions.get(message.transaction)?.key.clone(),
        };
        Some(message.check_integrity(&key))
    }

    fn addressee(&self, request: &Message<'_>) -> Option<(Key, Addressee)> {
        let ufrag = request.text(AttributeType::USERNAME)?.split_once(':')?.0;
        if ufrag == self.generation.local.ufrag() {
            return Some((self.generation.local.key(), Addressee::Current));
        }
        let previous = self.previous.as_ref().filter(|previous| previous.ufrag() == ufrag)?;
        Some((previous.key(), Addressee::Previous))
    }

    pub(super) fn receive(&mut self, now: Timestamp, arrival: Arrival, bytes: &[u8]) {
        let Ok(message) = Message::decode(bytes) else { return };
        if !message.is_sound() || message.method != Method::BINDING {
            return;
        }
        match message.class {
            Class::Request => self.receive_request(now, arrival, &message),
            Class::Success | Class::Error => self.receive_response(now, arrival, &message),
            // Keepalives of RFC 8445 §11: nothing to do, and never an answer.
            Class::Indication => {}
        }
    }

    fn receive_request(&mut self, now: Timestamp, arrival: Arrival, request: &Message<'_>) {
        // Our own request, come back by a loop or a hairpin: answering would only confuse the trace.
        if self.transactions.get(request.transaction).is_some() {
            return;
        }
        // RFC 8489 §9.1.3.
        if !request.has(AttributeType::USERNAME)
            || !(request.has(AttributeType::MESSAGE_INTEGRITY) || request.has(AttributeType::MESSAGE_INTEGRITY_SHA256))
        {
            return self.refuse(now, arrival, request, Some(400), "no USERNAME or no MESSAGE-INTEGRITY");
        }
        let Some((key, addressee)) = self.addressee(request) else {
            return self.refuse(now, arrival, request, Some(401), "USERNAME is not ours");
        };
        if request.check_integrity(&key) != Integrity::Valid {
            return self.refuse(now, arrival, request, Some(401), "MESSAGE-INTEGRITY does not match");
        }
        // A session that hides its host addresses does not answer on them.
        let hidden =
            self.config.relay_only && self.generation.find_base(arrival.wire.transport, arrival.wire.local).is_none();
        if hidden && matches!(addressee, Addressee::Current) {
            return self.refuse(now, arrival, request, None, "the session is relay-only");
        }
        let unknown = request.unknown_required(KNOWN);
        if !unknown.is_empty() {
            let detail = format!("unknown attributes {unknown:?}");
            let listed = &unknown[..unknown.len().min(16)];
            let response = MessageBuilder::new(Class::Error, request.method, request.transaction)
                .error(420, "Unknown Attribute")
                .unknown_attributes(listed);
            self.respond(arrival, finish(response, request, &key));
            return self.refused(now, arrival, Some(420), detail);
        }
        if matches!(addressee, Addressee::Current) && !self.settle_roles(now, arrival, request, &key) {
            return;
        }
        let response = MessageBuilder::new(Class::Success, request.method, request.transaction)
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, arrival.wire.remote);
        self.respond(arrival, finish(response, request, &key));
        if matches!(addressee, Addressee::Previous) {
            return;
        }
        let check = EarlyCheck {
            arrival,
            // RFC 8445 §7.1.1 demands PRIORITY; a peer that leaves it out gets that of a peer-reflexive candidate.
            priority: request
                .u32(AttributeType::PRIORITY)
                .unwrap_or(Candidate::compute_priority(CandidateType::PeerReflexive, 0)),
            use_candidate: request.has(AttributeType::USE_CANDIDATE),
        };
        self.admit(now, check);
    }

    /// RFC 8445 §7.3.1.1. False: the request was answered 487.
    fn settle_roles(&mut self, now: Timestamp, arrival: Arrival, request: &Message<'_>, key: &Key) -> bool {
        match role::conflict(self.role, self.tie_breaker, role::claimed(request)) {
            Conflict::None => true,
            Conflict::Switch(role) => {
                self.switch_role(role, RoleReason::LostTieBreak);
                true
            }
            Conflict::Refuse => {
                let response =
                    MessageBuilder::new(Class::Error, request.method, request.transaction).error(487, "Role Conflict");
                self.respond(arrival, finish(response, request, key));
                self.event(EventKind::RoleConflict { role: self.role, reason: RoleReason::WonTieBreak });
                self.refused(now, arrival, Some(487), "role conflict".to_owned());
                false
            }
        }
    }

    /// Answers 400 and 401 without integrity, as nobody has a key (RFC 8489 §9.1.3), a bounded number of times a second.
    fn refuse(&mut self, now: Timestamp, arrival: Arrival, request: &Message<'_>, code: Option<u16>, detail: &str) {
        if !self.refusals.take(now) {
            return;
        }
        if let Some(code) = code {
            let reason = if code == 400 { "Bad Request" } else { "Unauthorized" };
            let response = MessageBuilder::new(Class::Error, request.method, request.transaction).error(code, reason);
            self.respond(arrival, response.fingerprint().build());
        }
        self.event(EventKind::CheckRefused {
            local: arrival.wire.local,
            remote: arrival.wire.remote,
            code,
            detail: detail.to_owned(),
        });
    }

    /// Records a refusal of an authenticated check.
    fn refused(&mut self, now: Timestamp, arrival: Arrival, code: Option<u16>, detail: String) {
        if self.refusals.take(now) {
            let Pair { local, remote, .. } = arrival.wire;
            self.event(EventKind::CheckRefused { local, remote, code, detail });
        }
    }

    fn respond(&mut self, arrival: Arrival, bytes: Vec<u8>) {
        let Pair { transport, local, remote } = arrival.wire;
        self.push(Output::Transmit(Transmit { transport, local, remote: scoped(remote, arrival.scope), bytes }));
    }

    /// What follows from a check, now or when credentials and candidate are there.
    fn admit(&mut self, now: Timestamp, check: EarlyCheck) {
        if self.generation.remote.is_some() && self.learn_of(now, &check) {
            return;
        }
        let early = &mut self.generation.early;
        if let Some(known) = early.iter_mut().find(|known| known.arrival.wire == check.arrival.wire) {
            known.use_candidate |= check.use_candidate;
            known.priority = check.priority;
        } else if early.len() < self.config.limits.early_checks {
            early.push_back(check);
        }
    }

    pub(super) fn admit_early_checks(&mut self, now: Timestamp) {
        if self.generation.remote.is_none() {
            return;
        }
        for check in std::mem::take(&mut self.generation.early) {
            if !self.learn_of(now, &check) {
                self.generation.early.push_back(check);
            }
        }
    }

    /// RFC 8445 §7.3.1.3 to §7.3.1.5. False: no local candidate has this base, yet.
    fn learn_of(&mut self, now: Timestamp, check: &EarlyCheck) -> bool {
        let wire = check.arrival.wire;
        let use_candidate = check.use_candidate && self.role == Role::Controlled;
        let id = match self.generation.checklist.find(&wire) {
            Some(id) => id,
            None => {
                let Some(local) = self.generation.find_base(wire.transport, wire.local) else { return false };
                let transport = wire.transport.counterpart();
                let known = self.generation.find_remote(transport, wire.remote);
                let own = &self.generation.locals[local].candidate;
                // Of an unknown address nothing says that it is a relayed one.
                let way = known.map_or_else(
                    || Way::of(own, own),
                    |remote| Way::of(own, &self.generation.remotes[remote].candidate),
                );
                if !use_candidate && !self.may_improve(way) {
                    return true;
                }
                let remote =
                    known.or_else(|| self.discover_remote(transport, wire.remote, check.priority, use_candidate));
                let Some(remote) = remote else { return true };
                match self.form_pair(now, local, remote, wire, true) {
                    Some(id) => id,
                    None => return true,
                }
            }
        };
        if is_link_local(wire.remote.ip())
            && check.arrival.scope != 0
            && let Some(pair) = self.generation.checklist.get_mut(id)
        {
            pair.scope = check.arrival.scope;
        }
        if use_candidate {
            self.nominated_by_peer(now, id);
        }
        self.trigger(now, id, use_candidate);
        true
    }

    /// RFC 8445 §7.3.1.4.
    fn trigger(&mut self, now: Timestamp, id: PairId, use_candidate: bool) {
        let Some(pair) = self.generation.checklist.get(id) else { return };
        let way = self.generation.way(pair);
        if pair.state == PairState::Succeeded || !(use_candidate || self.may_improve(way)) {
            return;
        }
        if pair.state == PairState::InProgress && !pair.abandoned {
            // A new check at most once an interval: the peer retransmits, and each of its transmissions arrives here.
            let rto = pair.transaction.and_then(|id| self.transactions.get(id)).map(|t| t.schedule.rto());
            let recently = pair.triggered_at.zip(rto).is_some_and(|(at, rto)| now < at + rto);
            if recently || rto.is_none() {
                return;
            }
        }
        let transaction = pair.transaction;
        let was = pair.state;
        if let Some(pair) = self.generation.checklist.get_mut(id) {
            pair.triggered_at = Some(now);
            pair.abandoned = false;
            pair.transaction = None;
        }
        if let Some(transaction) = transaction {
            self.transactions.cancel(transaction);
        }
        self.generation.checklist.trigger(id);
        if was != PairState::Waiting {
            self.set_pair_state(id, PairState::Waiting, StateReason::Triggered);
        }
    }

    fn receive_response(&mut self, now: Timestamp, arrival: Arrival, response: &Message<'_>) {
        let Some(transaction) = self.transactions.get(response.transaction) else { return };
        if response.check_integrity(&transaction.key) != Integrity::Valid {
            // RFC 8489 §9.1.4: as if it had never come. A 400 or 401 cannot be vouched for; it explains a timeout.
            let error = (response.class == Class::Error).then(|| response.error_code()).flatten();
            if let Some(transaction) = self.transactions.get_mut(response.transaction)
                && let Some(error) = error.filter(|error| matches!(error.code, 400 | 401))
            {
                transaction.unverified_error = Some((error.code, error.reason.chars().take(64).collect()));
            }
            return;
        }
        if !response.unknown_required(KNOWN).is_empty() {
            return;
        }
        let Some(transaction) = self.transactions.remove(response.transaction) else { return };
        if transaction.purpose == Purpose::Consent {
            return self.receive_consent(arrival, response, &transaction);
        }
        if transaction.generation != self.generation.number {
            return;
        }
        let id = transaction.pair;
        // RFC 8445 §7.2.5.2.1.
        if arrival.wire.remote != transaction.wire.remote || arrival.wire.local != transaction.wire.local {
            if self.owns(id, response.transaction) {
                let reason = FailReason::NotSymmetric { from: arrival.wire.remote, to: arrival.wire.local };
                self.fail_pair(now, id, reason);
            }
            return;
        }
        match response.class {
            Class::Success => match response.xor_address(AttributeType::XOR_MAPPED_ADDRESS) {
                Some(mapped) => self.check_succeeded(now, &transaction, response.transaction, mapped),
                // No use, no proof: the check goes on as if nothing had come.
                None => self.transactions.insert(response.transaction, transaction),
            },
            _ => self.check_refused(now, response, transaction),
        }
    }

    /// Whether this transaction is the pair's present check, not one that a triggered check replaced.
    fn owns(&self, id: PairId, transaction: TransactionId) -> bool {
        self.generation.checklist.get(id).is_some_and(|pair| pair.transaction == Some(transaction))
    }

    fn check_refused(&mut self, now: Timestamp, response: &Message<'_>, transaction: Transaction) {
        let (id, owned) = (transaction.pair, self.owns(transaction.pair, response.transaction));
        let Some(error) = response.error_code() else {
            return self.transactions.insert(response.transaction, transaction);
        };
        if error.code == 487 {
            // RFC 8445 §7.2.5.1. A late one, about a role that we gave up since, changes nothing.
            if transaction.role == self.role {
                self.tie_breaker = self.random.u64();
                self.switch_role(role::other(self.role), RoleReason::ToldByPeer);
            }
            let Some(pair) = self.generation.checklist.get_mut(id).filter(|_| owned) else { return };
            pair.transaction = None;
            pair.nominating = None;
            if pair.state != PairState::Succeeded {
                self.generation.checklist.trigger(id);
                self.set_pair_state(id, PairState::Waiting, StateReason::RoleConflict);
            }
            return;
        }
        if owned {
            let reason = error.reason.chars().take(64).collect();
            self.fail_pair(now, id, FailReason::ErrorResponse { code: error.code, reason });
        }
    }

    fn receive_consent(&mut self, arrival: Arrival, response: &Message<'_>, transaction: &Transaction) {
        if response.class != Class::Success || arrival.wire != transaction.wire {
            return;
        }
        let rtt = self.arrived - transaction.first_sent;
        if transaction.generation == self.generation.number
            && let Some(pair) = self.generation.checklist.get_mut(transaction.pair)
        {
            pair.rtt = Some(pair.rtt.map_or(rtt, |known| known.min(rtt)));
        }
        let Some(carrier) = &mut self.carrier else { return };
        if carrier.pair.pair == transaction.wire && carrier.generation == transaction.generation {
            carrier.pair.rtt = Some(carrier.pair.rtt.map_or(rtt, |known| known.min(rtt)));
            carrier.consent.answered(self.arrived, &mut self.random);
        }
    }
}

/// Ends a response with the integrity that the request had, and FINGERPRINT (RFC 8489 §9.1.3, RFC 8445 §7.3).
fn finish(response: MessageBuilder, request: &Message<'_>, key: &Key) -> Vec<u8> {
    let response = if request.has(AttributeType::MESSAGE_INTEGRITY_SHA256) {
        response.integrity_sha256(key)
    } else {
        response.integrity(key)
    };
    response.fingerprint().build()
}

/// Names the credentials in a request: the peer's first (RFC 8445 §7.2.2).
pub(super) fn username(to: &Credentials, from: &Credentials) -> String {
    format!("{}:{}", to.ufrag(), from.ufrag())
}
