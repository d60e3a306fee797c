//! What one side saw.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::check::Check;
use super::host::HostEvidence;
use super::measured::Measured;
use super::server::{ServerPath, ServerRequest};
use super::sizes::Sizes;
use crate::ice::candidate::{Candidate, CandidateTransport, CandidateType};
use crate::time::Timestamp;
use crate::trace::event::{
    Direction, DtlsState, EndReason, Event, EventKind, FailReason, IceState, IceStateReason, InterfaceUse, Pair,
    PairCounts, PairState, PruneReason, RefuseReason, Role, ServerFailure, SessionOptions, Side, SignalingState,
    StateReason, Transport, Vantage,
};
use crate::wire::stun::TransactionId;

/// Most transactions, pairs and sockets that are kept a side: 10,000 checks with room for a long session's consent.
pub(super) const MAX_TRANSACTIONS: usize = 200_000;

/// Most entries of any list a side.
pub(super) const MAX_LIST: usize = 10_000;

/// A description that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Number of its event.
    pub seq: u64,
    /// Whose.
    pub side: Side,
    /// Its ICE user name fragment.
    pub ufrag: String,
    /// The certificate fingerprint.
    pub fingerprint: String,
    /// The generation.
    pub generation: u32,
}

/// A candidate of this side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalCandidate {
    /// Number of its event.
    pub seq: u64,
    /// The candidate.
    pub candidate: Candidate,
    /// Its base.
    pub base: SocketAddr,
    /// The interface that has the base.
    pub interface: Option<String>,
    /// The server that it was learned from.
    pub server: Option<String>,
}

/// A candidate of the peer, as this side knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCandidate {
    /// Number of its event.
    pub seq: u64,
    /// The candidate.
    pub candidate: Candidate,
    /// Its address, resolved where it was a name.
    pub address: Option<SocketAddr>,
}

/// Sends that the system refused, of one socket to one address with one errno.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendFailure {
    /// How many.
    pub count: u32,
    /// Number of the first event.
    pub seq: u64,
    /// errno's name and meaning.
    pub detail: String,
}

/// ICMP errors of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// How many.
    pub count: u32,
    /// Number of the first event.
    pub seq: u64,
    /// Who sent it, where the system tells.
    pub offender: Option<IpAddr>,
}

/// Answers that were changed on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// How many.
    pub count: u32,
    /// Number of the first event.
    pub seq: u64,
    /// The mapped address that the first one tells.
    pub told: Option<SocketAddr>,
}

/// Data that was counted instead of recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes sent.
    pub bytes_out: u64,
    /// Bytes received.
    pub bytes_in: u64,
}

/// A request to a server that failed, as the client itself says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedServer {
    /// Number of its event.
    pub seq: u64,
    /// The server.
    pub server: String,
    /// The STUN method.
    pub method: String,
    /// What went wrong.
    pub failure: ServerFailure,
}

/// One pair as the agent itself speaks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPair {
    /// Its priority.
    pub priority: u64,
    /// Its state.
    pub state: PairState,
    /// Why it left the checklist.
    pub pruned: Option<PruneReason>,
    /// Why its TCP connection was not made, or broke.
    pub no_connection: Option<String>,
    /// Number of the last event about it.
    pub seq: u64,
}

/// Everything that one side saw, folded. Fields are facts in the order of their layers.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "a field is named after the event it is folded from; see trace::event")]
pub struct SideEvidence {
    pub vantage: Vantage,
    pub events: u64,
    pub last_seq: Option<u64>,
    pub first_at: Timestamp,
    pub last_at: Timestamp,

    pub program: Option<String>,
    pub id: Option<String>,
    pub options: SessionOptions,
    pub peer_program: Option<(String, bool)>,
    pub ended: Option<(u64, EndReason)>,
    /// Whether the peer's recording came: event, and why it is missing.
    pub peer_recording: Option<(u64, Option<String>)>,
    pub dropped: u64,
    /// Things that did not fit into the bounds of this fold.
    pub overflow: u64,

    /// The last state of the signaling connection and everything that went wrong with it.
    pub signaling: Vec<(u64, String, SignalingState)>,
    pub messages: BTreeMap<(bool, String), u32>,
    pub descriptions: Vec<Description>,
    pub refused_messages: Vec<(u64, String, String)>,
    pub servers_known: Vec<(u64, String, bool)>,

    pub interfaces: Vec<(u64, String, Vec<IpAddr>, InterfaceUse)>,
    pub sockets: BTreeMap<(Transport, SocketAddr), (u64, Option<String>)>,
    pub socket_failures: Vec<(u64, Transport, SocketAddr, String)>,
    pub datagrams: u64,
    pub unsound: u64,
    /// Answers of servers over UDP whose fingerprint or integrity was wrong, by our socket and the server.
    pub damaged: BTreeMap<(SocketAddr, SocketAddr), Damaged>,
    pub forged_answers: u64,
    pub send_failures: BTreeMap<(SocketAddr, SocketAddr, i32), SendFailure>,
    /// By our socket, where the datagram was going, type and code.
    pub icmp_errors: BTreeMap<(SocketAddr, SocketAddr, u8, u8), IcmpError>,
    /// By our socket and the other end.
    pub sizes: BTreeMap<(SocketAddr, SocketAddr), Sizes>,
    pub traffic: BTreeMap<(Transport, SocketAddr, SocketAddr), Traffic>,

    /// What this side's host told of itself.
    pub host: HostEvidence,

    pub local_candidates: Vec<LocalCandidate>,
    pub remote_candidates: Vec<RemoteCandidate>,
    pub refused_candidates: Vec<(u64, String, RefuseReason)>,
    pub discarded_candidates: Vec<(u64, Candidate, RefuseReason)>,
    pub end_of_candidates: BTreeMap<Side, u64>,
    pub names: Vec<(u64, String, Vec<IpAddr>, Option<String>)>,
    pub server_failures: Vec<FailedServer>,
    pub servers: BTreeMap<(Transport, SocketAddr, SocketAddr), ServerPath>,
    pub requests: BTreeMap<TransactionId, ServerRequest>,
    /// Relayed addresses by the client's own word, with the server's name.
    pub allocated: BTreeMap<SocketAddr, (u64, String)>,

    pub generation: u32,
    pub role: Option<Role>,
    pub role_conflicts: u32,
    pub sent: BTreeMap<TransactionId, Check>,
    pub received: BTreeMap<TransactionId, Check>,
    pub(super) last_sent: BTreeMap<(SocketAddr, SocketAddr), TransactionId>,
    pub pairs: BTreeMap<Pair, AgentPair>,
    /// TCP active pairs by the connection's own address: the pair as it was before it was connected, from the
    /// candidate's base.
    pub connections: BTreeMap<Pair, Pair>,
    /// Pairs of an agent that shows no packets, with the number of the last event about each.
    pub counts: BTreeMap<Pair, (u64, PairCounts)>,
    pub refused_checks: Vec<(u64, SocketAddr, SocketAddr, Option<u16>, String)>,
    pub nominated: Vec<(u64, Pair)>,
    pub selected: Vec<(u64, Pair)>,
    pub ice_states: Vec<(u64, IceState, IceStateReason)>,
    /// Whether the agent has closed: what comes then is still read, and not answered.
    pub closed: bool,

    pub dtls: Vec<(u64, DtlsState)>,
    pub channel_opened: Option<(u64, Timestamp)>,
    pub channel_closed: Option<(u64, String)>,
    pub round_trips: Option<RoundTrips>,
    pub throughput: BTreeMap<Direction, (u64, u64)>,

    /// What it measured of its own network: NAT behavior, servers, the way out.
    pub measured: Measured,
}

/// Round trips of messages over the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RoundTrips {
    /// How many were measured.
    pub count: u32,
    /// How many went unanswered.
    pub lost: u32,
    /// Median, in microseconds.
    pub median_us: u64,
    /// 99th percentile, in microseconds.
    pub p99_us: u64,
}

impl SideEvidence {
    pub(super) fn new(vantage: Vantage) -> Self {
        Self {
            vantage,
            events: 0,
            last_seq: None,
            first_at: Timestamp::default(),
            last_at: Timestamp::default(),
            program: None,
            id: None,
            options: SessionOptions::default(),
            peer_program: None,
            ended: None,
            peer_recording: None,
            dropped: 0,
            overflow: 0,
            signaling: Vec::new(),
            messages: BTreeMap::new(),
            descriptions: Vec::new(),
            refused_messages: Vec::new(),
            servers_known: Vec::new(),
            interfaces: Vec::new(),
            sockets: BTreeMap::new(),
            socket_failures: Vec::new(),
            datagrams: 0,
            unsound: 0,
            damaged: BTreeMap::new(),
            forged_answers: 0,
            send_failures: BTreeMap::new(),
            icmp_errors: BTreeMap::new(),
            sizes: BTreeMap::new(),
            traffic: BTreeMap::new(),
            host: HostEvidence::default(),
            local_candidates: Vec::new(),
            remote_candidates: Vec::new(),
            refused_candidates: Vec::new(),
            discarded_candidates: Vec::new(),
            end_of_candidates: BTreeMap::new(),
            names: Vec::new(),
            server_failures: Vec::new(),
            servers: BTreeMap::new(),
            requests: BTreeMap::new(),
            allocated: BTreeMap::new(),
            generation: 0,
            role: None,
            role_conflicts: 0,
            sent: BTreeMap::new(),
            received: BTreeMap::new(),
            last_sent: BTreeMap::new(),
            pairs: BTreeMap::new(),
            connections: BTreeMap::new(),
            counts: BTreeMap::new(),
            refused_checks: Vec::new(),
            nominated: Vec::new(),
            selected: Vec::new(),
            ice_states: Vec::new(),
            closed: false,
            dtls: Vec::new(),
            channel_opened: None,
            channel_closed: None,
            round_trips: None,
            throughput: BTreeMap::new(),
            measured: Measured::default(),
        }
    }

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
                }
                let description = Description { seq, side: *side, ufrag, fingerprint, generation: *generation };
                push(&mut self.descriptions, description, &mut self.overflow);
            }
            EventKind::SignalRefused { message, detail } => {
                push(&mut self.refused_messages, (seq, message.clone(), detail.clone()), &mut self.overflow);
            }
            EventKind::ServerKnown { url, announced } => {
                push(&mut self.servers_known, (seq, url.clone(), *announced), &mut self.overflow);
            }
            _ => self.apply_socket_kind(seq, at, kind),
        }
    }

    fn apply_socket_kind(&mut self, seq: u64, at: Timestamp, kind: &EventKind) {
        match kind {
            EventKind::Interface { name, addresses, used, .. } => {
                push(&mut self.interfaces, (seq, name.clone(), addresses.clone(), *used), &mut self.overflow);
            }
            EventKind::SocketOpened { transport, local, interface, .. } if self.sockets.len() < MAX_LIST => {
                self.sockets.insert((*transport, *local), (seq, interface.clone()));
            }
            EventKind::SocketOpened { .. } => self.overflow += 1,
            EventKind::SocketFailed { transport, local, detail, .. } => {
                push(&mut self.socket_failures, (seq, *transport, *local, detail.clone()), &mut self.overflow);
            }
            EventKind::SocketClosed { .. } => {}
            EventKind::Datagram(datagram) => self.apply_datagram(seq, at, datagram),
            EventKind::Traffic { direction, transport, local, remote, bytes, .. } => {
                if self.traffic.len() < MAX_LIST {
                    let traffic = self.traffic.entry((*transport, *local, *remote)).or_default();
                    match direction {
                        Direction::Out => traffic.bytes_out = traffic.bytes_out.saturating_add(*bytes),
                        Direction::In => traffic.bytes_in = traffic.bytes_in.saturating_add(*bytes),
                    }
                }
            }
            EventKind::SendFailed { local, remote, errno, detail, .. } => {
                if let Some(id) = self.last_sent.get(&(*local, *remote))
                    && let Some(check) = self.sent.get_mut(id)
                {
                    check.refused = (check.refused + 1).min(check.transmissions);
                }
                if self.send_failures.len() < MAX_LIST {
                    let failure = SendFailure { count: 0, seq, detail: detail.clone() };
                    self.send_failures.entry((*local, *remote, *errno)).or_insert(failure).count += 1;
                }
            }
            EventKind::IcmpError { local, remote, offender, icmp_type, icmp_code, .. } => {
                if self.icmp_errors.len() < MAX_LIST {
                    let key = (*local, *remote, *icmp_type, *icmp_code);
                    let error = IcmpError { count: 0, seq, offender: *offender };
                    self.icmp_errors.entry(key).or_insert(error).count += 1;
                }
            }
            EventKind::HostFact { moment, fact } => {
                if !self.host.apply(seq, *moment, fact) {
                    self.overflow += 1;
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
                let local = LocalCandidate { seq, candidate: candidate.clone(), base: *base, interface, server };
                push(&mut self.local_candidates, local, overflow);
            }
            EventKind::LocalCandidateDiscarded { candidate, reason } => {
                push(&mut self.discarded_candidates, (seq, candidate.clone(), reason.clone()), overflow);
            }
            EventKind::RemoteCandidate { candidate, resolved } => {
                let address = candidate.address.ip().or(*resolved);
                let remote = RemoteCandidate { seq, candidate: candidate.clone(), address };
                push(&mut self.remote_candidates, remote, overflow);
            }
            EventKind::RemoteCandidateRefused { line, reason } => {
                push(&mut self.refused_candidates, (seq, line.clone(), reason.clone()), overflow);
            }
            EventKind::EndOfCandidates { side } => {
                self.end_of_candidates.entry(*side).or_insert(seq);
            }
            EventKind::NameResolved { name, addresses, error, .. } => {
                push(&mut self.names, (seq, name.clone(), addresses.clone(), error.clone()), overflow);
            }
            EventKind::ServerFailed { server, method, failure, .. } => {
                let (server, method, failure) = (server.clone(), method.clone(), failure.clone());
                push(&mut self.server_failures, FailedServer { seq, server, method, failure }, overflow);
            }
            EventKind::Allocated { server, relayed, .. } if self.allocated.len() < MAX_LIST => {
                self.allocated.insert(*relayed, (seq, server.clone()));
            }
            // The wire says the same: see `wire`.
            EventKind::Allocated { .. } | EventKind::PermissionCreated { .. } | EventKind::ChannelBound { .. } => {}
            EventKind::Deallocated { .. } => {}
            _ => self.apply_ice_kind(seq, at, kind),
        }
    }

    fn apply_ice_kind(&mut self, seq: u64, at: Timestamp, kind: &EventKind) {
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
                self.closed |= *to == IceState::Closed;
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

    /// Whether ICE-TCP connections are accepted at an address.
    pub(super) fn is_listening(&self, local: SocketAddr) -> bool {
        let passive = |c: &LocalCandidate| c.candidate.transport == CandidateTransport::TcpPassive && c.base == local;
        self.local_candidates.iter().any(passive)
    }

    /// The generation of this side's description with a user name fragment.
    pub(super) fn generation_with(&self, ufrag: &str) -> Option<u32> {
        let own = self.descriptions.iter().filter(|description| description.side == Side::Local);
        own.filter(|description| description.ufrag == ufrag).map(|description| description.generation).next_back()
    }

    /// The agent's last state.
    pub fn ice_state(&self) -> Option<(u64, IceState, IceStateReason)> {
        self.ice_states.last().copied()
    }

    /// The pair used for data last.
    pub fn selected_pair(&self) -> Option<(u64, Pair)> {
        self.selected.last().copied()
    }

    /// The base of the candidate behind a pair's own end. A TCP active candidate has no port (RFC 6544 §4.5): each of
    /// its connections gets one of its own.
    pub fn base_of(&self, pair: Pair) -> SocketAddr {
        self.connections.get(&pair).map_or(pair.local, |asked| asked.local)
    }

    /// Whether an address is a relayed address of this side.
    pub fn is_relayed(&self, address: SocketAddr) -> bool {
        let told = |local: &LocalCandidate| {
            local.candidate.kind == CandidateType::Relayed && local.candidate.address.ip() == Some(address)
        };
        self.allocated.contains_key(&address)
            || self.servers.values().any(|path| allocated_at(path, address))
            || self.local_candidates.iter().any(told)
    }

    /// Packets that reached this host's interfaces for one of its sockets, from addresses that no socket heard anything
    /// from: source, packets and event. `None`: arrivals were not looked at.
    pub fn unheard(&self) -> Option<Vec<(SocketAddr, u64, u64)>> {
        let arrivals: Vec<_> = self.host.own_packets.iter().filter(|packet| packet.fact.arrived).collect();
        if arrivals.is_empty() {
            return None;
        }
        let heard = |address: SocketAddr| {
            // What came by a relay did not come to one of these sockets.
            let here = |check: &Check| check.pair.remote == address && !self.is_relayed(check.pair.local);
            self.received.values().any(here)
                || self.sent.values().any(|check| here(check) && check.answer.is_some())
                || self.servers.iter().any(|((_, _, server), path)| *server == address && path.has_answered())
        };
        let unheard = arrivals.into_iter().map(|packet| (packet.fact.source, packet.fact.packets, packet.seq));
        Some(unheard.filter(|(source, ..)| !heard(*source)).collect())
    }

    /// How many requests to a server left over UDP: what the system refused to send did not.
    pub fn asked(&self, server: SocketAddr) -> u32 {
        let of_server =
            |(transport, _, to): &(Transport, SocketAddr, SocketAddr)| *transport == Transport::Udp && *to == server;
        let sent = self.servers.iter().filter(|(key, _)| of_server(key)).map(|(_, path)| path.transmissions());
        let refused = self.send_failures.iter().filter(|((_, remote, _), _)| *remote == server);
        sent.sum::<u32>().saturating_sub(refused.map(|(_, failure)| failure.count).sum())
    }

    /// Whether anything was heard of one address family from outside: an answer of a server, or a check that the system
    /// let out.
    pub fn reaches(&self, is_ipv6: bool) -> bool {
        let of_family = |address: SocketAddr| address.is_ipv6() == is_ipv6;
        self.sent.values().any(|check| of_family(check.pair.remote) && check.refused < check.transmissions)
            || self.servers.iter().any(|((_, _, remote), path)| of_family(*remote) && path.has_answered())
    }

    /// Whether this side's agent shows no packets, only counts: a browser's. What did not arrive cannot be read from
    /// its datagrams then.
    pub fn is_counted(&self) -> bool {
        !self.counts.is_empty() && self.datagrams == 0
    }
}

fn allocated_at(path: &ServerPath, address: SocketAddr) -> bool {
    path.allocation.as_ref().is_some_and(|allocation| allocation.relayed.contains(&address))
}

/// Adds to a list within its bound.
fn push<T>(list: &mut Vec<T>, item: T, overflow: &mut u64) {
    if list.len() < MAX_LIST {
        list.push(item);
    } else {
        *overflow += 1;
    }
}
