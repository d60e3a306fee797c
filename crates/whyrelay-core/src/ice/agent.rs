//! The agent: its inputs, its outputs, and what it knows.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ice::candidate::Candidate;
use crate::random::Random;
use crate::time::{Now, Timestamp};
use crate::trace::event::{EventKind, FailReason, IceState, IceStateReason, Pair, PruneReason, Role, RoleReason, Side};

use super::check::{Purpose, Transactions};
use super::config::{Config, Credentials};
use super::consent::Consent;
use super::generation::{Generation, Permission};
use super::inbound::Arrival;
use super::io::{Input, Output, PairSnapshot, SelectedPair};
use super::pacing::{Pacer, Refusals};
use super::pair::{PairId, bare};

/// The pair that carries data, selected or, before that, the best valid one.
#[derive(Debug)]
pub(super) struct Carrier {
    pub(super) generation: u32,
    pub(super) id: PairId,
    pub(super) pair: SelectedPair,
    /// `None`: valid, not selected.
    pub(super) selected_at: Option<Timestamp>,
    pub(super) consent: Consent,
    /// USERNAME, PRIORITY and key of its checks: those of its own generation.
    pub(super) username: String,
    pub(super) priority: u32,
    pub(super) key: crate::wire::integrity::Key,
}

/// An ICE agent for one data stream with one component.
///
/// After each [`Agent::handle_input`] drain [`Agent::poll_output`] until [`Output::Timeout`].
#[derive(Debug)]
pub struct Agent {
    pub(super) config: Config,
    pub(super) role: Role,
    pub(super) tie_breaker: u64,
    pub(super) random: Random,
    /// What time it is; it never goes back.
    pub(super) now: Timestamp,
    /// When the latest input arrived.
    pub(super) arrived: Timestamp,
    /// Until when everything that arrived has been handed in.
    pub(super) heard: Timestamp,
    pub(super) state: IceState,
    pub(super) generation: Generation,
    /// Our credentials of the generation before: its checks are still answered.
    pub(super) previous: Option<Credentials>,
    pub(super) transactions: Transactions,
    next_pair: u32,
    pub(super) carrier: Option<Carrier>,
    /// Consent expired on the selected pair and nothing took its place.
    pub(super) lost: bool,
    pub(super) round_trip: Option<Duration>,
    pub(super) pacer: Pacer,
    pub(super) refusals: Refusals,
    outputs: VecDeque<Output>,
}

impl Agent {
    /// An agent in state New. `random` is its own from now on.
    pub fn new(now: Timestamp, config: Config, mut random: Random) -> Self {
        let tie_breaker = config.tie_breaker.unwrap_or_else(|| random.u64());
        let pacer = Pacer::new(config.pacing);
        let started = EventKind::IceStarted {
            role: config.role,
            pacing_ms: pacer.interval().as_millis().try_into().unwrap_or(u32::MAX),
        };
        Self {
            role: config.role,
            tie_breaker,
            random,
            now,
            arrived: now,
            heard: now,
            state: IceState::New,
            generation: Generation::new(0, config.credentials.clone()),
            previous: None,
            transactions: Transactions::default(),
            next_pair: 0,
            carrier: None,
            lost: false,
            round_trip: None,
            pacer,
            refusals: Refusals::default(),
            outputs: VecDeque::from([Output::Event(started)]),
            config,
        }
    }

    /// Takes one input. A time before an earlier one counts as that one.
    pub fn handle_input(&mut self, now: impl Into<Now>, input: Input<'_>) {
        let Now { time, arrived, heard } = now.into();
        let now = time.max(self.now);
        (self.now, self.arrived, self.heard) = (now, arrived, heard.max(self.heard));
        if self.state == IceState::Closed {
            return;
        }
        match input {
            Input::LocalCandidate(candidate) => self.add_local(now, candidate),
            Input::LocalEndOfCandidates => self.end_candidates(now, Side::Local),
            Input::RemoteCredentials(credentials) => self.set_remote_credentials(now, credentials),
            Input::RemoteCandidate { candidate, resolved } => self.add_remote(now, candidate, resolved),
            Input::RemoteCandidateUnresolved { candidate, detail } => self.give_up_remote(&candidate, detail),
            Input::RemoteEndOfCandidates => self.end_candidates(now, Side::Remote),
            Input::Datagram { transport, local, remote, bytes } => {
                self.receive(now, Arrival::new(transport, local, remote), bytes);
            }
            Input::SendFailed { pair, errno } => self.send_failed(pair, errno),
            Input::PermissionGranted { relayed, peer } => self.permission(now, relayed, peer, Permission::Granted),
            Input::PermissionDenied { relayed, peer, code } => {
                self.permission(now, relayed, peer, Permission::Denied(code));
            }
            Input::AllocationLost { relayed } => self.allocation_lost(now, bare(relayed)),
            Input::TcpConnected { pair, local } => self.tcp_connected(now, bare_pair(pair), bare(local)),
            Input::TcpFailed { pair, detail } | Input::TcpClosed { pair, detail } => {
                let pair = bare_pair(pair);
                if let Some(id) = self.generation.checklist.find(&pair) {
                    self.fail_pair(now, id, FailReason::ConnectionFailed { detail });
                }
                if self.carrier.as_ref().is_some_and(|carrier| carrier.pair.pair == pair) {
                    self.drop_carrier();
                }
            }
            Input::RoundTripHint(round_trip) => {
                self.round_trip = Some(self.round_trip.map_or(round_trip, |known| known.max(round_trip)));
            }
            Input::Restart { credentials, side } => self.restart(credentials, side),
            Input::Timeout => {}
            Input::TimeLimit => self.time_limit(now),
            Input::Close => return self.close(),
        }
        self.advance(now);
    }

    /// The next output; [`Output::Timeout`] when there is nothing more for now.
    pub fn poll_output(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| Output::Timeout(self.next_timeout()))
    }

    /// Everything that time brings, in the order in which it may matter to the next.
    fn advance(&mut self, now: Timestamp) {
        loop {
            for id in self.transactions.due(self.heard) {
                self.transaction_due(now, id);
            }
            self.connections_due(now, self.heard);
            self.consent_due(now);
            self.evaluate_nomination(now);
            self.send_checks(now);
            // After a long sleep of the caller, what is cancelled here may be over already. Each round ends such
            // requests and begins none that is due, so this comes to an end.
            if self.transactions.next_at().is_none_or(|at| at > self.heard) {
                break;
            }
        }
        self.update_state(now);
    }

    /// RFC 8445 §9. The pair that carries data goes on; everything else starts anew.
    fn restart(&mut self, credentials: Credentials, side: Side) {
        let open: Vec<Pair> =
            self.generation.checklist.iter().filter(|(_, p)| p.is_open()).map(|(_, p)| p.wire).collect();
        for pair in open {
            self.event(EventKind::PairPruned { pair, reason: PruneReason::Restarted });
        }
        let number = self.generation.number + 1;
        let old = std::mem::replace(&mut self.generation, Generation::new(number, credentials));
        self.previous = Some(old.local);
        self.transactions.retain(|transaction| transaction.purpose == Purpose::Consent);
        // A pair that was valid but not yet selected would never be: its generation nominates no more.
        if self.carrier.as_ref().is_some_and(|carrier| carrier.selected_at.is_none()) {
            self.carrier = None;
        }
        self.lost = false;
        self.event(EventKind::IceRestarted { generation: number, side });
        if self.state != IceState::New {
            self.set_state(IceState::Checking, IceStateReason::Restarted);
        }
    }

    fn time_limit(&mut self, now: Timestamp) {
        if self.carrier.is_some() {
            return;
        }
        let open: Vec<PairId> =
            self.generation.checklist.iter().filter(|(_, p)| p.is_open()).map(|(id, _)| id).collect();
        for id in open {
            let transaction = self.generation.checklist.get(id).and_then(|pair| pair.transaction);
            let transmissions = transaction.and_then(|id| self.transactions.get(id)).map_or(0, |t| t.transmissions);
            self.fail_pair(now, id, FailReason::Timeout { transmissions });
        }
        self.set_state(IceState::Failed, IceStateReason::TimeLimit);
    }

    fn close(&mut self) {
        self.transactions = Transactions::default();
        self.carrier = None;
        self.set_state(IceState::Closed, IceStateReason::Closed);
    }

    pub(super) fn switch_role(&mut self, role: Role, reason: RoleReason) {
        self.role = role;
        self.recompute_priorities();
        for (_, pair) in self.generation.checklist.iter_mut() {
            pair.nominating = None;
            pair.nominated_by_peer = false;
        }
        self.event(EventKind::RoleConflict { role, reason });
    }

    pub(super) fn event(&mut self, kind: EventKind) {
        self.push(Output::Event(kind));
    }

    pub(super) fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(super) const fn next_pair_id(&mut self) -> PairId {
        self.next_pair += 1;
        PairId(self.next_pair)
    }

    /// The state.
    pub const fn state(&self) -> IceState {
        self.state
    }

    /// The role, which a conflict can change.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The generation: 0, and one more with each restart.
    pub const fn generation(&self) -> u32 {
        self.generation.number
    }

    /// Our credentials of this generation.
    pub const fn local_credentials(&self) -> &Credentials {
        &self.generation.local
    }

    /// The peer's user name fragment of this generation, once known.
    pub fn remote_ufrag(&self) -> Option<&str> {
        self.generation.remote.as_ref().map(Credentials::ufrag)
    }

    /// The selected pair, after a restart that of the old generation until the new one selects.
    pub fn selected_pair(&self) -> Option<&SelectedPair> {
        self.carrier.as_ref().filter(|carrier| carrier.selected_at.is_some()).map(|carrier| &carrier.pair)
    }

    /// The pair to send data on: the selected one or, until there is one, the best valid pair (RFC 8445 §12.1).
    pub fn send_pair(&self) -> Option<&SelectedPair> {
        self.carrier.as_ref().map(|carrier| &carrier.pair)
    }

    /// The checklist of this generation, highest priority first. Pairs pruned from it are only in the events.
    pub fn checklist(&self) -> Vec<PairSnapshot> {
        let mut pairs: Vec<PairSnapshot> = self
            .generation
            .checklist
            .iter()
            .map(|(_, pair)| PairSnapshot {
                pair: pair.wire,
                state: pair.state,
                nominated: pair.nominated,
                priority: pair.priority,
                foundation: pair.foundation.clone(),
                rtt: pair.rtt,
            })
            .collect();
        pairs.sort_by_key(|pair| (std::cmp::Reverse(pair.priority), pair.pair));
        pairs
    }

    /// The local candidates of this generation, peer-reflexive ones included.
    pub fn local_candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.generation.locals.iter().map(|local| &local.candidate)
    }

    /// The remote candidates of this generation that are in use, peer-reflexive ones included.
    pub fn remote_candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.generation.remotes.iter().map(|remote| &remote.candidate)
    }
}

pub(super) fn bare_pair(pair: Pair) -> Pair {
    Pair { transport: pair.transport, local: bare(pair.local), remote: bare(pair.remote) }
}
