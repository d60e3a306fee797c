//! One generation of ICE: credentials, candidates and checklist between two restarts; and how candidates of
//! either side come in (RFC 8838 §10, §11).

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use crate::ice::candidate::{Candidate, CandidateTransport, CandidateType};
use crate::time::Timestamp;
use crate::trace::event::{EventKind, Pair, RefuseReason, Side};

use super::agent::Agent;
use super::checklist::Checklist;
use super::config::Credentials;
use super::inbound::EarlyCheck;
use super::io::LocalCandidate;
use super::pair::{CandidatePair, Way, bare, is_direct, is_usable};

/// Peer-reflexive candidates beyond their limit that a nomination may add.
const NOMINATED_BEYOND: usize = 8;

/// A local candidate as the agent keeps it.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub(super) candidate: Candidate,
    /// Without scope.
    pub(super) base: SocketAddr,
    pub(super) address: SocketAddr,
    /// Scope of link-local destinations.
    pub(super) scope: u32,
    /// Its allocation is lost: it is paired no more.
    pub(super) gone: bool,
}

/// A remote candidate as the agent keeps it.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub(super) candidate: Candidate,
    /// Without scope.
    pub(super) address: SocketAddr,
    /// Whether some local candidate had its address family and transport.
    pub(super) has_counterpart: bool,
    /// Whether [`RefuseReason::NoCounterpart`] was recorded.
    reported: bool,
}

/// What is known of a TURN permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permission {
    Asked,
    Granted,
    Denied(Option<u16>),
}

/// Everything that a restart replaces.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) number: u32,
    pub(super) local: Credentials,
    pub(super) remote: Option<Credentials>,
    pub(super) locals: Vec<Local>,
    pub(super) remotes: Vec<Remote>,
    /// Candidates that came before the peer's credentials: only those tell whether they are of this generation.
    waiting: Vec<(Candidate, Option<SocketAddr>)>,
    /// Candidates whose name is being resolved.
    unresolved: Vec<Candidate>,
    pub(super) local_done: bool,
    pub(super) remote_done: bool,
    /// When both sides had said end-of-candidates.
    pub(super) done_at: Option<Timestamp>,
    pub(super) checklist: Checklist,
    pub(super) early: VecDeque<EarlyCheck>,
    pub(super) permissions: BTreeMap<(SocketAddr, IpAddr), Permission>,
    /// A local TCP passive candidate waits for one of the peer's active ones.
    pub(super) awaits_connection: bool,
    /// When the first direct, and the first relayed, pair succeeded.
    pub(super) first_direct_at: Option<Timestamp>,
    pub(super) first_relayed_at: Option<Timestamp>,
    /// A pair of this generation was selected at some time.
    pub(super) had_selected: bool,
}

impl Generation {
    pub(super) fn new(number: u32, local: Credentials) -> Self {
        Self {
            number,
            local,
            remote: None,
            locals: Vec::new(),
            remotes: Vec::new(),
            waiting: Vec::new(),
            unresolved: Vec::new(),
            local_done: false,
            remote_done: false,
            done_at: None,
            checklist: Checklist::default(),
            early: VecDeque::new(),
            permissions: BTreeMap::new(),
            awaits_connection: false,
            first_direct_at: None,
            first_relayed_at: None,
            had_selected: false,
        }
    }

    /// Whether candidates of either side may still come.
    pub(super) fn expects_candidates(&self) -> bool {
        !self.local_done || !self.remote_done || !self.unresolved.is_empty() || !self.waiting.is_empty()
    }

    /// Whether a pair goes without a TURN server, as far as is known.
    pub(super) fn is_direct(&self, pair: &CandidatePair) -> bool {
        is_direct(&self.locals[pair.local].candidate, &self.remotes[pair.remote].candidate)
    }

    /// How a pair goes, as far as is known.
    pub(super) fn way(&self, pair: &CandidatePair) -> Way {
        Way::of(&self.locals[pair.local].candidate, &self.remotes[pair.remote].candidate)
    }

    pub(super) fn find_remote(&self, transport: CandidateTransport, address: SocketAddr) -> Option<usize> {
        self.remotes.iter().position(|remote| remote.candidate.transport == transport && remote.address == address)
    }

    /// The local candidate to name when something arrives at a base: the best one that has it.
    pub(super) fn find_base(&self, transport: CandidateTransport, base: SocketAddr) -> Option<usize> {
        let locals = self.locals.iter().enumerate();
        let at_base = locals.filter(|(_, local)| {
            local.candidate.transport == transport
                && local.base == base
                && !local.gone
                && local.candidate.kind != CandidateType::PeerReflexive
        });
        at_base
            .max_by_key(|(index, local)| (local.candidate.priority, std::cmp::Reverse(*index)))
            .map(|(index, _)| index)
    }

    fn signaled_remotes(&self) -> usize {
        let known = self.remotes.iter().filter(|remote| remote.candidate.kind != CandidateType::PeerReflexive);
        known.count() + self.waiting.len() + self.unresolved.len()
    }
}

impl Agent {
    pub(super) fn add_local(&mut self, now: Timestamp, added: LocalCandidate) {
        let LocalCandidate { candidate, base, interface_index } = added;
        let generation = &self.generation;
        let address = candidate.address.ip().map(bare);
        let base_address = bare(base);
        let twin = |address: SocketAddr| {
            generation.locals.iter().position(|local| {
                local.candidate.transport == candidate.transport
                    && local.base == base_address
                    && local.address == address
            })
        };
        let refused = match address {
            None => Some(RefuseReason::Unusable),
            Some(address) if !is_usable(candidate.transport, address) || candidate.component != 1 => {
                Some(RefuseReason::Unusable)
            }
            Some(_) if self.config.relay_only && candidate.kind != CandidateType::Relayed => {
                Some(RefuseReason::RelayOnly)
            }
            Some(address) => match twin(address) {
                // Discovered by a check before the STUN server answered: it gets its proper name now.
                Some(index) if generation.locals[index].candidate.kind == CandidateType::PeerReflexive => {
                    self.generation.locals[index].candidate = candidate;
                    return;
                }
                Some(index) if generation.locals[index].gone => return self.revive_local(now, index, candidate),
                Some(_) => Some(RefuseReason::Redundant),
                None if generation.locals.len() >= self.config.limits.local_candidates => {
                    Some(RefuseReason::TooMany { limit: self.config.limits.local_candidates as u32 })
                }
                None => None,
            },
        };
        if let Some(reason) = refused {
            self.event(EventKind::LocalCandidateDiscarded { candidate, reason });
            return;
        }
        let Some(address) = address else { return };
        let scope = match base {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => v6.scope_id(),
            _ => interface_index,
        };
        self.generation.locals.push(Local { candidate, base: base_address, address, scope, gone: false });
        let local = self.generation.locals.len() - 1;
        for remote in 0..self.generation.remotes.len() {
            self.pair_up(now, local, remote);
        }
        self.admit_early_checks(now);
    }

    /// An allocation that was lost was made again, and the server gave the same address: its pairs begin anew.
    fn revive_local(&mut self, now: Timestamp, index: usize, candidate: Candidate) {
        let local = &mut self.generation.locals[index];
        (local.candidate, local.gone) = (candidate, false);
        let base = local.base;
        let failed = self.generation.checklist.iter().filter(|(_, pair)| pair.wire.local == base);
        let failed: Vec<_> = failed.map(|(id, pair)| (id, pair.remote)).collect();
        for &(id, _) in &failed {
            self.generation.checklist.remove(id);
        }
        for remote in 0..self.generation.remotes.len() {
            self.pair_up(now, index, remote);
        }
        // Where the peer was discovered it is looked for again: nobody signals its address.
        for (_, remote) in failed {
            let Remote { candidate, address, .. } = &self.generation.remotes[remote];
            let wire = Pair { transport: CandidateTransport::Udp, local: base, remote: *address };
            if candidate.kind == CandidateType::PeerReflexive && self.generation.checklist.find(&wire).is_none() {
                self.form_pair(now, index, remote, wire, true);
            }
        }
        self.admit_early_checks(now);
    }

    pub(super) fn add_remote(&mut self, now: Timestamp, candidate: Candidate, resolved: Option<SocketAddr>) {
        let limit = self.config.limits.remote_candidates;
        self.generation.unresolved.retain(|pending| *pending != candidate);
        let Some(credentials) = &self.generation.remote else {
            let over = self.generation.signaled_remotes() >= limit;
            let known = self.generation.waiting.iter_mut().find(|(waiting, _)| *waiting == candidate);
            match known {
                Some(known) => known.1 = resolved.or(known.1),
                None if over => self.refuse_remote(&candidate, RefuseReason::TooMany { limit: limit as u32 }),
                None => self.generation.waiting.push((candidate, resolved)),
            }
            return;
        };
        if candidate.extension("ufrag").is_some_and(|ufrag| ufrag != credentials.ufrag()) {
            return self.refuse_remote(&candidate, RefuseReason::OtherGeneration);
        }
        let over = self.generation.signaled_remotes() >= limit;
        let Some(address) = candidate.address.ip().or(resolved).map(bare) else {
            if over {
                return self.refuse_remote(&candidate, RefuseReason::TooMany { limit: limit as u32 });
            }
            return self.generation.unresolved.push(candidate);
        };
        if candidate.component != 1 || !is_usable(candidate.transport, address) {
            return self.refuse_remote(&candidate, RefuseReason::Unusable);
        }
        let event = EventKind::RemoteCandidate {
            candidate: candidate.clone(),
            resolved: if candidate.address.ip().is_none() { Some(address) } else { None },
        };
        let index = match self.generation.find_remote(candidate.transport, address) {
            Some(index) if self.generation.remotes[index].candidate.kind == CandidateType::PeerReflexive => {
                // RFC 8838 §11.4: a check was faster than signaling; type and priority are now known.
                if let Some(carrier) = &mut self.carrier
                    && carrier.generation == self.generation.number
                    && carrier.pair.pair.transport.counterpart() == candidate.transport
                    && carrier.pair.pair.remote == address
                {
                    carrier.pair.remote = candidate.clone();
                }
                self.generation.remotes[index].candidate = candidate;
                self.recompute_priorities();
                self.conclude();
                index
            }
            Some(_) => return self.refuse_remote(&candidate, RefuseReason::Redundant),
            None if over => return self.refuse_remote(&candidate, RefuseReason::TooMany { limit: limit as u32 }),
            None => {
                self.generation.remotes.push(Remote { candidate, address, has_counterpart: false, reported: false });
                self.generation.remotes.len() - 1
            }
        };
        self.event(event);
        for local in 0..self.generation.locals.len() {
            self.pair_up(now, local, index);
        }
        self.report_unpairable();
    }

    pub(super) fn give_up_remote(&mut self, candidate: &Candidate, detail: String) {
        let before = self.generation.unresolved.len() + self.generation.waiting.len();
        self.generation.unresolved.retain(|pending| pending != candidate);
        self.generation.waiting.retain(|(pending, _)| pending != candidate);
        if self.generation.unresolved.len() + self.generation.waiting.len() < before {
            self.refuse_remote(candidate, RefuseReason::Unresolved { detail });
        }
    }

    pub(super) fn set_remote_credentials(&mut self, now: Timestamp, credentials: Credentials) {
        match &self.generation.remote {
            None => {
                self.generation.remote = Some(credentials);
                for (candidate, resolved) in std::mem::take(&mut self.generation.waiting) {
                    self.add_remote(now, candidate, resolved);
                }
                self.admit_early_checks(now);
            }
            Some(known) if *known == credentials => {}
            Some(_) => self.event(EventKind::SignalRefused {
                message: "description".to_owned(),
                detail: "the ICE credentials changed without a restart".to_owned(),
                ours: false,
            }),
        }
    }

    pub(super) fn end_candidates(&mut self, now: Timestamp, side: Side) {
        let done = match side {
            Side::Local => &mut self.generation.local_done,
            Side::Remote => &mut self.generation.remote_done,
        };
        if std::mem::replace(done, true) {
            return;
        }
        self.event(EventKind::EndOfCandidates { side });
        if self.generation.local_done && self.generation.remote_done {
            self.generation.done_at = Some(now);
        }
        // A selected pair that could have turned out to be relayed no longer can.
        self.conclude();
        self.report_unpairable();
    }

    /// Once gathering is over: remote candidates that can never be paired.
    fn report_unpairable(&mut self) {
        if !self.generation.local_done {
            return;
        }
        let mut unpairable = Vec::new();
        for remote in &mut self.generation.remotes {
            if !remote.has_counterpart && !std::mem::replace(&mut remote.reported, true) {
                unpairable.push(remote.candidate.clone());
            }
        }
        for candidate in unpairable {
            self.refuse_remote(&candidate, RefuseReason::NoCounterpart);
        }
    }

    fn refuse_remote(&mut self, candidate: &Candidate, reason: RefuseReason) {
        let mut line = candidate.to_string();
        line.truncate(crate::ice::candidate::MAX_LINE);
        self.event(EventKind::RemoteCandidateRefused { line, reason });
    }

    /// A peer-reflexive remote candidate (RFC 8445 §7.3.1.3). `None`: there are too many already.
    pub(super) fn discover_remote(
        &mut self,
        transport: CandidateTransport,
        address: SocketAddr,
        priority: u32,
        nominates: bool,
    ) -> Option<usize> {
        let discovered = self.generation.remotes.iter();
        let count = discovered.filter(|remote| remote.candidate.kind == CandidateType::PeerReflexive).count();
        // Between two NATs that map by destination and filter nobody, every check comes from a new address. What the
        // peer nominates must be found room for all the same.
        let limit = self.config.limits.peer_reflexive + if nominates { NOMINATED_BEYOND } else { 0 };
        if count >= limit {
            return None;
        }
        let candidate = Candidate {
            foundation: format!("prflx{}", self.generation.remotes.len()),
            component: 1,
            transport,
            priority,
            address: crate::ice::candidate::CandidateAddress::Ip(address),
            kind: CandidateType::PeerReflexive,
            related: None,
            extensions: Vec::new(),
        };
        self.event(EventKind::RemoteCandidate { candidate: candidate.clone(), resolved: None });
        self.generation.remotes.push(Remote { candidate, address, has_counterpart: true, reported: false });
        Some(self.generation.remotes.len() - 1)
    }

    /// The local candidate behind XOR-MAPPED-ADDRESS, a new peer-reflexive one if need be (RFC 8445 §7.2.5.3.1).
    pub(super) fn mapped_local(&mut self, local: usize, wire: Pair, mapped: SocketAddr, priority: u32) -> usize {
        let mapped = bare(mapped);
        let own = &self.generation.locals[local];
        let (transport, base, scope) = (own.candidate.transport, own.base, own.scope);
        // A server that announces a wrong relayed address: what the peer sees is still the relay, and must not be taken
        // for a direct path.
        if own.candidate.kind == CandidateType::Relayed {
            return local;
        }
        // The connection's own address is no discovery: a TCP active candidate has no port of its own.
        if mapped == wire.local && transport == CandidateTransport::TcpActive {
            return local;
        }
        let mut locals = self.generation.locals.iter();
        let known = locals
            .position(|other| other.candidate.transport == transport && other.base == base && other.address == mapped);
        if let Some(known) = known {
            return known;
        }
        let discovered = self.generation.locals.iter();
        let count = discovered.filter(|local| local.candidate.kind == CandidateType::PeerReflexive).count();
        if count >= self.config.limits.peer_reflexive {
            return local;
        }
        let candidate = Candidate {
            foundation: format!("prflx{}", self.generation.locals.len()),
            component: 1,
            transport,
            priority,
            address: crate::ice::candidate::CandidateAddress::Ip(mapped),
            kind: CandidateType::PeerReflexive,
            related: Some(wire.local),
            extensions: Vec::new(),
        };
        self.event(EventKind::LocalCandidate {
            candidate: candidate.clone(),
            base: wire.local,
            interface: None,
            server: None,
        });
        self.generation.locals.push(Local { candidate, base, address: mapped, scope, gone: false });
        self.generation.locals.len() - 1
    }
}
