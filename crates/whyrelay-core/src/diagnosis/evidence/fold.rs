//! The fold of every event but datagrams, in the order of the layers.

use super::seen::{
    AgentPair, Description, FailedServer, IcmpError, LocalCandidate, Outage, RemoteCandidate, RoundTrips, SendFailure,
};
use super::side::{MAX_COMPARED, MAX_LIST, SideEvidence};
use crate::host::{HostFact, Moment};
use crate::time::Timestamp;
use crate::trace::address::bare;
use crate::trace::event::{
    Direction, Event, EventKind, FailReason, IceState, IceStateReason, PruneReason, Side, SignalingState, StateReason,
};

impl SideEvidence {
    pub(super) fn apply(&mut self, event: &Event) {
        if self.last_seq.is_some_and(|last| event.seq <= last) {
            return;
        }
        if self.events == 0 {
            self.first_at = event.at;
        }
        self.last_at = event.at;
        self.last_seq = Some(event.seq);
        self.events += 1;
        self.apply_kind(event.seq, event.at, &event.kind);
    }

    fn apply_kind(&mut self, seq: u64, at: Timestamp, kind: &EventKind) {
        match kind {
            EventKind::RecordingStarted { program, id, options, .. } => {
                self.program = Some(program.clone());
                self.id = Some(id.clone());
                self.options = options.clone();
            }
            EventKind::PeerIdentified { program, sends_recording } => {
                self.peer_program = Some((program.clone(), *sends_recording));
            }
            EventKind::RecordingEnded { reason } => self.ended = Some((seq, *reason)),
            EventKind::PeerRecording { missing } => self.peer_recording = Some((seq, missing.clone())),
            EventKind::EventsDropped { count } => self.dropped += count,

            EventKind::Signaling { server, state } => {
                match state {
                    SignalingState::PeerLeft => self.peer_left = Some((seq, at)),
                    SignalingState::PeerInterrupted => {
                        self.peer_left = Some((seq, at));
                        self.peer_interrupted = Some(seq);
                    }
                    SignalingState::PeerPresent => self.peer_left = None,
                    _ => {}
                }
                push(&mut self.signaling, (seq, server.clone(), state.clone()), &mut self.overflow);
            }
            EventKind::SignalMessage { direction, message, .. } if self.messages.len() < MAX_LIST => {
                *self.messages.entry((*direction == Direction::Out, message.clone())).or_default() += 1;
            }
            EventKind::SignalMessage { .. } => self.overflow += 1,
            EventKind::Description { side, ufrag, fingerprint, generation, .. } => {
                let (ufrag, fingerprint) = (ufrag.clone(), fingerprint.clone());
                if *side == Side::Local {
                    self.generation = *generation;
                    if self.generations.len() < MAX_LIST {
                        self.generations.insert(ufrag.clone(), *generation);
                    }
                }
                let description = Description { seq, side: *side, ufrag, fingerprint, generation: *generation };
                push_compared(&mut self.descriptions, description, &mut self.overflow);
            }
            EventKind::SignalRefused { message, detail, ours } => {
                let refused = if *ours { &mut self.untaken_messages } else { &mut self.refused_messages };
                push(refused, (seq, message.clone(), detail.clone()), &mut self.overflow);
            }
            EventKind::ServerKnown { url, announced } => {
                push_compared(&mut self.servers_known, (seq, url.clone(), *announced), &mut self.overflow);
            }
            _ => self.apply_socket_kind(seq, at, kind),
        }
    }

    fn apply_socket_kind(&mut self, seq: u64, at: Timestamp, kind: &EventKind) {
        match kind {
            EventKind::Interface { name, addresses, used, .. } => {
                if self.interfaces.len() < MAX_COMPARED {
                    addresses.iter().for_each(|address| self.known.add_own(*address));
                }
                push_compared(&mut self.interfaces, (seq, name.clone(), addresses.clone(), *used), &mut self.overflow);
            }
            EventKind::SocketOpened { transport, local, interface, .. } if self.sockets.len() < MAX_LIST => {
                self.known.add_own(local.ip());
                self.sockets.insert((*transport, bare(*local)), (seq, interface.clone()));
            }
            EventKind::SocketOpened { .. } => self.overflow += 1,
            EventKind::SocketFailed { transport, local, errno, detail } => {
                let failure = (seq, *transport, *local, *errno, detail.clone());
                push_compared(&mut self.socket_failures, failure, &mut self.overflow);
            }
            EventKind::SocketClosed { .. } => {}
            EventKind::Datagram(datagram) => self.apply_datagram(seq, at, datagram),
            EventKind::ProbeDatagram(datagram)
                if datagram.direction == Direction::Out && self.probed.len() < MAX_LIST =>
            {
                self.probed.entry(datagram.remote).or_insert(seq);
            }
            EventKind::Traffic { direction, transport, local, remote, bytes, .. } => {
                if self.traffic.len() < MAX_LIST {
                    let traffic = self.traffic.entry((*transport, bare(*local), bare(*remote))).or_default();
                    match direction {
                        Direction::Out => traffic.bytes_out = traffic.bytes_out.saturating_add(*bytes),
                        Direction::In => traffic.bytes_in = traffic.bytes_in.saturating_add(*bytes),
                    }
                }
            }
            EventKind::SendFailed { local, remote, errno, detail, .. } => {
                let (local, remote) = (bare(*local), bare(*remote));
                if let Some(id) = self.last_sent.get(&(local, remote))
                    && let Some(check) = self.sent.get_mut(id)
                {
                    check.refused = (check.refused + 1).min(check.transmissions);
                }
                if self.send_failures.len() < MAX_COMPARED {
                    let failure = SendFailure { count: 0, seq, detail: detail.clone() };
                    self.send_failures.entry((local, remote, *errno)).or_insert(failure).count += 1;
                }
            }
            EventKind::IcmpError { local, remote, offender, icmp_type, icmp_code, .. } => {
                if self.icmp_errors.len() < MAX_COMPARED {
                    let key = (bare(*local), bare(*remote), *icmp_type, *icmp_code);
                    let error = IcmpError { count: 0, seq, offender: *offender };
                    self.icmp_errors.entry(key).or_insert(error).count += 1;
                }
            }
            EventKind::HostFact { moment, fact } => {
                let taken = self.host.apply(seq, *moment, fact);
                self.overflow += u64::from(!taken);
                if let (Moment::During, HostFact::Link(link)) = (moment, &**fact)
                    && taken
                    && !link.works()
                {
                    self.host.links_lost.entry(link.device.clone()).or_insert((seq, at));
                }
                if let HostFact::Address(address) = &**fact
                    && taken
                {
                    self.known.add_own(address.address);
                    self.known.add_prefix(address.address, address.prefix_length);
                }
            }
            _ => self.apply_gathering_kind(seq, at, kind),
        }
    }

    fn apply_gathering_kind(&mut self, seq: u64, at: Timestamp, kind: &EventKind) {
        let overflow = &mut self.overflow;
        match kind {
            EventKind::LocalCandidate { candidate, base, interface, server } => {
                let (interface, server) = (interface.clone(), server.clone());
                let (candidate, base) = (candidate.clone(), bare(*base));
                let local = LocalCandidate { seq, at, candidate, base, interface, server };
                if self.local_candidates.len() < MAX_COMPARED {
                    self.known.add_local(self.local_candidates.len(), &local);
                }
                push_compared(&mut self.local_candidates, local, overflow);
            }
            EventKind::LocalCandidateDiscarded { candidate, reason } => {
                push_compared(&mut self.discarded_candidates, (seq, candidate.clone(), reason.clone()), overflow);
            }
            EventKind::RemoteCandidate { candidate, resolved } => {
                let address = candidate.address.ip().or(*resolved);
                let remote = RemoteCandidate { seq, candidate: candidate.clone(), address };
                if self.remote_candidates.len() < MAX_COMPARED {
                    self.known.add_remote(self.remote_candidates.len(), &remote);
                }
                push_compared(&mut self.remote_candidates, remote, overflow);
            }
            EventKind::RemoteCandidateRefused { line, reason } => {
                push_compared(&mut self.refused_candidates, (seq, line.clone(), reason.clone()), overflow);
            }
            EventKind::EndOfCandidates { side } => {
                self.end_of_candidates.entry(*side).or_insert(seq);
            }
            EventKind::NameResolved { name, addresses, error, .. } => {
                push_compared(&mut self.names, (seq, name.clone(), addresses.clone(), error.clone()), overflow);
            }
            EventKind::ServerFailed { server, local, method, failure } => {
                let (server, local, method, failure) = (server.clone(), *local, method.clone(), failure.clone());
                push_compared(
                    &mut self.server_failures,
                    FailedServer { seq, server, local, method, failure },
                    overflow,
                );
            }
            EventKind::Allocated { server, relayed, .. } if self.allocated.len() < MAX_LIST => {
                self.known.add_relayed(*relayed);
                self.allocated.insert(*relayed, (seq, server.clone()));
            }
            // The wire says the same: see `wire`.
            EventKind::Allocated { .. } | EventKind::PermissionCreated { .. } | EventKind::ChannelBound { .. } => {}
            EventKind::Deallocated { .. } => {}
            _ => self.apply_ice_kind(seq, at, kind),
        }
    }

    fn apply_ice_kind(&mut self, seq: u64, at: Timestamp, kind: &EventKind) {
        self.note_outage(seq, at, kind);
        let overflow = &mut self.overflow;
        match kind {
            EventKind::IceStarted { role, .. } => self.role = Some(*role),
            EventKind::PairFormed { pair, priority, state, .. } if self.pairs.len() < MAX_LIST => {
                let agent = AgentPair { priority: *priority, state: *state, pruned: None, no_connection: None, seq };
                self.pairs.insert(*pair, agent);
            }
            EventKind::PairFormed { .. } => *overflow += 1,
            EventKind::PairPruned { pair, reason } => {
                if let PruneReason::Connected { pair: wire } = reason
                    && self.connections.len() < MAX_LIST
                {
                    self.connections.insert(*wire, *pair);
                }
                if let Some(agent) = self.pairs.get_mut(pair) {
                    agent.pruned = Some(reason.clone());
                    agent.seq = seq;
                }
            }
            EventKind::PairStateChanged { pair, to, reason, .. } => {
                if let Some(agent) = self.pairs.get_mut(pair) {
                    agent.state = *to;
                    agent.no_connection = match reason {
                        StateReason::Failed(FailReason::ConnectionFailed { detail }) => Some(detail.clone()),
                        _ => None,
                    };
                    agent.seq = seq;
                }
            }
            EventKind::PairCounted { pair, counts } if self.counts.len() < MAX_LIST => {
                self.counts.insert(*pair, (seq, *counts));
                if let Some(state) = counts.state {
                    let priority = counts.priority.unwrap_or(0);
                    let agent = AgentPair { priority, state, pruned: None, no_connection: None, seq };
                    self.pairs.insert(*pair, agent);
                }
            }
            EventKind::PairCounted { .. } => *overflow += 1,
            EventKind::CheckRefused { local, remote, code, detail } => {
                push(&mut self.refused_checks, (seq, *local, *remote, *code, detail.clone()), overflow);
            }
            EventKind::PairNominated { pair, .. } => push(&mut self.nominated, (seq, *pair), overflow),
            EventKind::PairSelected { pair, .. } => push(&mut self.selected, (seq, *pair), overflow),
            EventKind::RoleConflict { role, .. } => {
                self.role = Some(*role);
                self.role_conflicts += 1;
            }
            EventKind::IceStateChanged { to, reason, .. } => {
                if *to == IceState::Closed {
                    self.closed_at.get_or_insert(at);
                }
                push(&mut self.ice_states, (seq, *to, *reason), overflow);
            }
            EventKind::IceRestarted { generation, .. } => self.generation = *generation,
            EventKind::Dtls { state } => push(&mut self.dtls, (seq, state.clone()), overflow),
            EventKind::ChannelOpened { .. } => self.channel_opened = Some((seq, at)),
            EventKind::ChannelClosed { detail } => self.channel_closed = Some((seq, detail.clone())),
            EventKind::RoundTrips { count, lost, median_us, p99_us } => {
                let (count, lost, median_us, p99_us) = (*count, *lost, *median_us, *p99_us);
                self.round_trips = Some(RoundTrips { count, lost, median_us, p99_us });
            }
            EventKind::Throughput { direction, bytes, took_us } => {
                self.throughput.insert(*direction, (*bytes, *took_us));
            }
            EventKind::CheckStarted { .. } | EventKind::Measured(_) | EventKind::NotMeasured { .. } => {
                *overflow += u64::from(!self.measured.apply(seq, kind));
            }
            // The kinds above this one in the chain of matches never come here.
            _ => {}
        }
    }
}

impl SideEvidence {
    /// A path that was selected, and then the agent has none for a while, or for good.
    fn note_outage(&mut self, seq: u64, at: Timestamp, kind: &EventKind) {
        let begins = |reason: IceStateReason| {
            let restarts = u32::from(reason == IceStateReason::Restarted);
            Outage { seq, at, reason, restarts, ended: None }
        };
        let open = self.outages.last_mut().filter(|outage| outage.ended.is_none());
        match (kind, open) {
            (
                EventKind::IceStateChanged {
                    to: IceState::Checking | IceState::Disconnected | IceState::Failed,
                    reason,
                    ..
                },
                None,
            ) if !self.selected.is_empty() => push(&mut self.outages, begins(*reason), &mut self.overflow),
            (EventKind::IceRestarted { .. }, Some(outage)) => outage.restarts += 1,
            (
                EventKind::IceStateChanged { to: IceState::Connected | IceState::Completed, .. }
                | EventKind::PairSelected { .. },
                Some(outage),
            ) => outage.ended = Some(at),
            _ => {}
        }
    }
}

/// Adds to a list within its bound.
fn push<T>(list: &mut Vec<T>, item: T, overflow: &mut u64) {
    push_within(MAX_LIST, list, item, overflow);
}

/// The same for a list that is looked through for each entry of another.
fn push_compared<T>(list: &mut Vec<T>, item: T, overflow: &mut u64) {
    push_within(MAX_COMPARED, list, item, overflow);
}

fn push_within<T>(most: usize, list: &mut Vec<T>, item: T, overflow: &mut u64) {
    if list.len() < most {
        list.push(item);
    } else {
        *overflow += 1;
    }
}
