//! Gathering (RFC 8445 §5.1, RFC 6544 §5): host, server-reflexive and relayed candidates, and the relayed data.
//!
//! [`Gatherer`] is told of sockets and servers as they become known and never waits for one of them: a name that is
//! still being looked up delays no other server. It keeps the TURN allocations for the life of the session.
//!
//! ```text
//! Socket, Server, Complete ─┐                      ┌─ Candidate … EndOfCandidates
//! Datagram, Stream… ────────┼─> Gatherer ──────────┼─ Transmit, ConnectStream, CloseStream, Resolve
//! NeedPermission, SendToPeer┘                      └─ PermissionGranted, RelayedData, AllocationLost, Event
//! ```
//!
//! [`Input::Close`] gives every allocation back and ends with [`Output::Closed`].

mod again;
mod messages;
mod paths;
mod servers;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use self::messages::{GatherConfig, Input, LocalCandidate, LocalSocket, Output, Server, StreamId, Transmit};
use self::paths::{Allocation, Path, Stream};
use self::servers::{Known, Task};
pub use super::credentials::Password;
use super::local_candidates::{Found, LocalCandidates};
pub use super::server_url::ServerUrl;
use super::stun_client::{DueBinding, StunClient};
use super::transaction::Schedule;
use crate::ice::candidate::CandidateType;
use crate::random::Random;
use crate::time::{Now, Timestamp};
use crate::trace::event::{EventKind, RefuseReason, Side, Transport};
use crate::wire::integrity::Integrity;
use crate::wire::stun::TransactionId;

/// Ta: time between the starts of two server transactions (RFC 8445 §14.2 allows 5 ms).
const PACING: Duration = Duration::from_millis(5);

/// How long the last words to servers may take, all together.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// The longest wait that [`Output::Timeout`] names when nothing is due.
const IDLE_WAIT: Duration = Duration::from_secs(3600);

/// Sockets that are gathered from; more are ignored.
const MAX_SOCKETS: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Gatherer {
    config: GatherConfig,
    random: Random,
    sockets: Vec<LocalSocket>,
    servers: Vec<Known>,
    queue: VecDeque<Task>,
    next_start: Timestamp,
    stun: StunClient<Path>,
    allocations: Vec<Allocation>,
    streams: BTreeMap<StreamId, Stream>,
    next_stream: u64,
    by_path: BTreeMap<(IpAddr, u16, IpAddr, u16), usize>,
    by_relayed: BTreeMap<SocketAddr, usize>,
    candidates: LocalCandidates,
    outputs: VecDeque<Output>,
    state: State,
    /// The time of the latest input.
    now: Now,
}

/// How far gathering is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Sockets and servers are still being named; left by [`Input::Complete`].
    Naming,
    /// All are named, some not settled; left when the last is.
    Gathering,
    /// [`Output::EndOfCandidates`] was said; allocations are kept.
    Gathered,
    /// [`Input::Close`] came; left when every allocation is given back, or at the deadline.
    Closing(Timestamp),
    /// [`Output::Closed`] was said; nothing leaves this state.
    Closed,
}

impl Gatherer {
    /// A gatherer that knows the servers of its configuration and no socket yet.
    pub fn new(now: Timestamp, config: GatherConfig, random: Random) -> Self {
        let mut gatherer = Self {
            config,
            random,
            sockets: Vec::new(),
            servers: Vec::new(),
            queue: VecDeque::new(),
            next_start: now,
            stun: StunClient::new(),
            allocations: Vec::new(),
            streams: BTreeMap::new(),
            next_stream: 0,
            by_path: BTreeMap::new(),
            by_relayed: BTreeMap::new(),
            candidates: LocalCandidates::default(),
            outputs: VecDeque::new(),
            state: State::Naming,
            now: now.into(),
        };
        for server in std::mem::take(&mut gatherer.config.servers) {
            gatherer.add_server(now, server);
        }
        gatherer
    }

    /// Takes an input in. Answers whether an [`Input::Datagram`] was the gatherer's; true for every other input.
    ///
    /// Call [`Self::poll_output`] until it answers [`Output::Timeout`] before the next input.
    pub fn handle_input(&mut self, now: impl Into<Now>, input: Input<'_>) -> bool {
        self.now = now.into();
        let now = self.now.time;
        if self.state == State::Closed {
            return !matches!(input, Input::Datagram { .. });
        }
        let mut ours = true;
        match input {
            // The path of every relayed packet: nothing else is looked at.
            Input::SendToPeer { relayed, peer, data } => {
                if let Some(index) = self.by_relayed.get(&relayed).copied() {
                    self.allocations[index].client.send(now, relayed, peer, data);
                    self.drain(now, index);
                }
                return true;
            }
            Input::Socket(socket) => self.add_socket(socket),
            Input::Server(server) => self.add_server(now, server),
            Input::Complete if self.state == State::Naming => self.state = State::Gathering,
            Input::Complete | Input::Timeout => {}
            Input::Resolved { name, addresses } => self.resolved(name, addresses),
            Input::Unresolved { name, detail } => self.unresolved(name, detail),
            Input::Datagram { local, remote, bytes } => ours = self.datagram(now, local, remote, bytes),
            Input::StreamConnected { id, local } => self.stream_connected(now, id, local),
            Input::StreamFailed { id, detail } | Input::StreamClosed { id, detail } => {
                self.stream_lost(now, id, detail, false);
            }
            Input::StreamData { id, bytes } => self.stream_data(now, id, bytes),
            Input::NeedPermission { relayed, peer } => match self.by_relayed.get(&relayed).copied() {
                Some(index) => {
                    self.allocations[index].client.need_permission(now, relayed, peer);
                    self.drain(now, index);
                }
                None => self.outputs.push_back(Output::PermissionDenied { relayed, peer, code: None }),
            },
            Input::BindChannel { relayed, peer } => {
                if let Some(index) = self.by_relayed.get(&relayed).copied() {
                    self.allocations[index].client.bind_channel(now, peer);
                    self.drain(now, index);
                }
            }
            Input::SendFailed { local, remote, errno } => {
                self.stun.refuse(errno, local, remote);
                if let Some(index) = self.by_path.get(&path_key(local, remote)).copied() {
                    self.allocations[index].client.refuse(errno);
                }
            }
            Input::VerifyAllocations => {
                for allocation in &mut self.allocations {
                    allocation.client.refresh(now);
                }
            }
            Input::Close => self.close(now),
        }
        self.advance(self.now);
        ours
    }

    /// The next thing to do, or until when there is nothing.
    pub fn poll_output(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| Output::Timeout(self.deadline()))
    }

    /// Checks the message integrity of a datagram to or from a TURN server, for the trace: `None` where there is
    /// no key to check it with.
    pub fn verify(&self, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) -> Option<Integrity> {
        let index = self.by_path.get(&path_key(local, remote))?;
        let message = crate::wire::stun::Message::decode(bytes).ok()?;
        self.allocations[*index].client.verify(&message)
    }

    /// A fresh transaction id.
    pub(super) fn transaction_id(&mut self) -> TransactionId {
        self.random.transaction_id()
    }

    /// Our own address, where a relayed address is held over TCP or TLS.
    pub(super) fn relayed_over_stream(&self, relayed: SocketAddr) -> Option<IpAddr> {
        let allocation = &self.allocations[*self.by_relayed.get(&relayed)?];
        matches!(allocation.path, paths::Path::Stream(_)).then_some(allocation.local.ip())
    }

    fn close(&mut self, now: Timestamp) {
        if matches!(self.state, State::Closing(_) | State::Closed) {
            return;
        }
        self.state = State::Closing(now + CLOSE_WITHIN);
        self.queue.clear();
        self.stun.clear();
        self.close_unused_streams();
        for index in 0..self.allocations.len() {
            self.allocations[index].again = again::Again::default();
            self.allocations[index].client.close(now);
            self.drain(now, index);
        }
    }

    /// Does what is due and notices what is settled.
    fn advance(&mut self, now: Now) {
        let Now { time, heard, .. } = now;
        self.start_next(time);
        while let Some(due) = self.stun.poll(now) {
            match due {
                DueBinding::Retransmit(binding, bytes) => {
                    self.transmit(binding.path, binding.local, binding.remote, bytes);
                }
                DueBinding::Ended(bound) => self.bound(bound),
            }
        }
        for index in 0..self.allocations.len() {
            self.allocations[index].client.advance(now);
            self.drain(time, index);
        }
        self.expire_streams(now);
        self.expire_names(heard);
        self.allocate_lost(time);
        match self.state {
            State::Gathering => {
                if self.is_settled() {
                    self.state = State::Gathered;
                    self.outputs.push_back(Output::Event(EventKind::EndOfCandidates { side: Side::Local }));
                    self.outputs.push_back(Output::EndOfCandidates);
                }
            }
            State::Closing(deadline) => {
                if deadline <= heard {
                    for index in 0..self.allocations.len() {
                        self.allocations[index].client.abandon();
                        self.drain(time, index);
                    }
                }
                if self.allocations.iter().all(|allocation| allocation.client.is_ended()) {
                    self.state = State::Closed;
                    self.outputs.push_back(Output::Closed);
                }
            }
            State::Naming | State::Gathered | State::Closed => {}
        }
    }

    fn is_settled(&mut self) -> bool {
        self.queue.is_empty()
            && self.stun.is_idle()
            && self.streams.values().all(Stream::is_settled)
            && self.allocations.iter().all(|allocation| !allocation.client.is_allocating())
            && self.are_servers_settled()
    }

    fn deadline(&self) -> Timestamp {
        let idle = self.now.time + IDLE_WAIT;
        if self.state == State::Closed {
            return idle;
        }
        let closing = match self.state {
            State::Closing(deadline) => Some(deadline),
            _ => None,
        };
        let start = (!self.queue.is_empty()).then_some(self.next_start);
        let clients = self.allocations.iter().filter_map(|allocation| allocation.client.deadline());
        let streams = self.streams.values().filter_map(Stream::deadline);
        let names = self.servers.iter().filter_map(Known::deadline);
        let again = self.allocations.iter().filter_map(|allocation| allocation.again.deadline());
        let single = [closing, start, self.stun.deadline()].into_iter().flatten();
        single.chain(clients).chain(streams).chain(names).chain(again).min().unwrap_or(idle).min(idle)
    }

    /// Keeps a candidate or says why not.
    fn candidate(&mut self, found: &Found, server: Option<usize>) {
        let server = server.map(|index| self.servers[index].label.clone());
        let (candidate, refusal) = self.candidates.add(found);
        let unwanted = self.config.relay_only && candidate.kind != CandidateType::Relayed;
        if let Some(reason) = refusal.or(unwanted.then_some(RefuseReason::RelayOnly)) {
            self.outputs.push_back(Output::Event(EventKind::LocalCandidateDiscarded { candidate, reason }));
            return;
        }
        let (base, interface) = (found.base, found.interface.clone());
        self.outputs.push_back(Output::Event(EventKind::LocalCandidate {
            candidate: candidate.clone(),
            base,
            interface: interface.clone(),
            server: server.clone(),
        }));
        self.outputs.push_back(Output::Candidate(LocalCandidate { candidate, base, interface, server }));
    }

    fn schedule(&self, transport: Transport) -> Schedule {
        match (transport, self.config.patient) {
            (Transport::Udp, false) if self.config.quick => Schedule::QUICK,
            (Transport::Udp, true) if self.config.quick => Schedule::QUICK_PATIENT,
            (Transport::Udp, false) => Schedule::SERVER,
            (Transport::Udp, true) => Schedule::PATIENT,
            (Transport::Tcp | Transport::Tls, false) => Schedule::STREAM,
            (Transport::Tcp | Transport::Tls, true) => Schedule::STREAM_PATIENT,
        }
    }
}

/// A UDP path by its two ends; IPv6 scope and flow are the system's business.
fn path_key(local: SocketAddr, remote: SocketAddr) -> (IpAddr, u16, IpAddr, u16) {
    (local.ip(), local.port(), remote.ip(), remote.port())
}
