//! The paths to servers: UDP sockets, connections, and the clients on them.

use std::net::{IpAddr, SocketAddr};

use super::super::local_candidates::Found;
use super::super::server_url::ServerProtocol;
use super::super::stun_client::{Binding, Bound, Fed};
use super::super::turn_client::{Families, TurnClient, TurnConfig, TurnOutput};
use super::again::Again;
use super::servers::{Target, Task};
use super::{Gatherer, Output, StreamId, Transmit, path_key};
use crate::ice::candidate::{CandidateTransport, CandidateType};
use crate::time::{Now, Timestamp};
use crate::trace::event::{ServerFailure, Transport};
use crate::wire::demux::Protocol;
use crate::wire::framing::{Deframer, Framing};
use crate::wire::stun::{Class, Message};

/// Allocations of one session, those that failed and those that were redirected included.
const MAX_ALLOCATIONS: usize = 64;

/// Which way a message to a server goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// A UDP socket, as an index.
    Socket(usize),
    /// A connection.
    Stream(StreamId),
}

/// A TURN client and where it sits.
#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) client: TurnClient,
    pub(super) path: Path,
    pub(super) target: Target,
    pub(super) local: SocketAddr,
    pub(super) interface: Option<String>,
    /// Whether it is made again when it is lost, and when.
    pub(super) again: Again,
}

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Stream {
    target: Target,
    local: IpAddr,
    interface: Option<String>,
    transport: Transport,
    state: StreamState,
    /// The lost allocation that it is for.
    replaces: Option<usize>,
}

#[derive(Debug)]
enum StreamState {
    /// [`Output::ConnectStream`] was said; left by its answer, or at the deadline.
    Connecting { until: Timestamp },
    /// Connected, as our end says; messages are cut out of the bytes.
    Open { local: SocketAddr, deframer: Deframer },
}

impl Stream {
    /// Whether it is past connecting.
    pub(super) const fn is_settled(&self) -> bool {
        matches!(self.state, StreamState::Open { .. })
    }

    pub(super) const fn deadline(&self) -> Option<Timestamp> {
        match self.state {
            StreamState::Connecting { until } => Some(until),
            StreamState::Open { .. } => None,
        }
    }
}

impl Gatherer {
    pub(super) fn start_binding(&mut self, now: Timestamp, socket: usize, target: &Target) {
        let path = Path::Socket(socket);
        self.bind(now, path, self.sockets[socket].local, target, Transport::Udp);
    }

    fn bind(&mut self, now: Timestamp, path: Path, local: SocketAddr, target: &Target, transport: Transport) {
        let binding = Binding { path, server: target.server, local, remote: target.remote };
        let schedule = self.schedule(transport);
        if let Some(bytes) = self.stun.start(now, &mut self.random, binding, schedule) {
            self.transmit(path, local, target.remote, bytes);
        }
    }

    pub(super) fn start_allocation(&mut self, now: Timestamp, socket: usize, target: Target) {
        let (local, interface) = (self.sockets[socket].local, self.sockets[socket].interface.clone());
        // One 5-tuple holds one allocation (RFC 8656 §2): the same server under two names is asked once.
        if !self.by_path.contains_key(&path_key(local, target.remote)) {
            self.allocate(now, Path::Socket(socket), local, interface, target, Transport::Udp);
        }
    }

    fn allocate(
        &mut self,
        now: Timestamp,
        path: Path,
        local: SocketAddr,
        interface: Option<String>,
        target: Target,
        transport: Transport,
    ) {
        if self.allocations.len() >= MAX_ALLOCATIONS {
            return;
        }
        let client = self.turn_client(now, &target, local, transport);
        let index = self.allocations.len();
        if matches!(path, Path::Socket(_)) {
            self.by_path.insert(path_key(local, target.remote), index);
        }
        self.allocations.push(Allocation { client, path, target, local, interface, again: Again::default() });
        self.drain(now, index);
    }

    pub(super) fn turn_client(
        &mut self,
        now: Timestamp,
        target: &Target,
        local: SocketAddr,
        transport: Transport,
    ) -> TurnClient {
        let server = &self.servers[target.server];
        let config = TurnConfig {
            server: server.label.clone(),
            local,
            transport,
            username: server.server.username.clone(),
            password: server.server.password.clone(),
            families: self.families(local.ip()),
            schedule: self.schedule(transport),
        };
        TurnClient::new(now, config, self.random.fork())
    }

    /// Each socket asks for its own family; the other one is asked for beside it where no socket has it.
    fn families(&self, local: IpAddr) -> Families {
        let other = |socket: &super::LocalSocket| match socket.local.ip() {
            IpAddr::V4(_) => local.is_ipv6(),
            IpAddr::V6(ip) => local.is_ipv4() && !ip.is_unicast_link_local(),
        };
        match (self.config.ipv6, local.is_ipv6(), self.sockets.iter().any(other)) {
            (false, ..) | (true, false, true) => Families::Ipv4,
            (true, true, true) => Families::Ipv6,
            (true, _, false) => Families::Both,
        }
    }

    pub(super) fn start_stream(
        &mut self,
        now: Timestamp,
        local: IpAddr,
        interface: Option<String>,
        target: Target,
        replaces: Option<usize>,
    ) {
        let url = &self.servers[target.server].server.url;
        let transport = url.transport();
        // A redirection keeps TLS and the name that the user trusts.
        let tls = (transport == Transport::Tls).then(|| url.host().to_string());
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        let remote = target.remote;
        let until = now + self.stream_schedule().total();
        let state = StreamState::Connecting { until };
        self.streams.insert(id, Stream { target, local, interface, transport, state, replaces });
        self.outputs.push_back(Output::ConnectStream { id, local, remote, tls });
    }

    pub(super) fn stream_connected(&mut self, now: Timestamp, id: StreamId, local: SocketAddr) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.is_settled() {
            return;
        }
        stream.state = StreamState::Open { local, deframer: Deframer::new(Framing::Stun) };
        let (target, interface, transport) = (stream.target.clone(), stream.interface.clone(), stream.transport);
        if let Some(index) = stream.replaces {
            return self.replace_allocation(now, index, Path::Stream(id), local);
        }
        match self.servers[target.server].server.url.protocol() {
            ServerProtocol::Stun => self.bind(now, Path::Stream(id), local, &target, transport),
            ServerProtocol::Turn => self.allocate(now, Path::Stream(id), local, interface, target, transport),
        }
    }

    pub(super) fn expire_streams(&mut self, Now { time, heard, .. }: Now) {
        let over = |stream: &Stream| stream.deadline().is_some_and(|until| until <= heard);
        let over: Vec<StreamId> = self.streams.iter().filter(|(_, stream)| over(stream)).map(|(&id, _)| id).collect();
        for id in over {
            let detail = format!("no connection within {} s", self.stream_schedule().total().as_secs());
            self.stream_lost(time, id, &detail, true);
        }
    }

    /// A connection could not be made, broke, or is of no more use; `close`: it is still open at our end.
    pub(super) fn stream_lost(&mut self, now: Timestamp, id: StreamId, detail: &str, close: bool) {
        let Some(stream) = self.streams.remove(&id) else { return };
        if close {
            self.outputs.push_back(Output::CloseStream { id });
        }
        self.stun.cancel(Path::Stream(id));
        match self.allocations.iter().position(|allocation| allocation.path == Path::Stream(id)) {
            Some(index) => {
                self.allocations[index].client.path_lost(detail);
                self.drain(now, index);
            }
            None => {
                let local = match stream.state {
                    StreamState::Open { local, .. } => Some(local),
                    StreamState::Connecting { .. } => None,
                };
                let failure = ServerFailure::ConnectionFailed { detail: detail.to_owned() };
                self.server_failed(stream.target.server, local, failure);
                match stream.replaces {
                    Some(index) => self.allocate_later(now, index),
                    None => {
                        let (local, interface) = (stream.local, stream.interface);
                        let silent = stream.target.remote;
                        self.ask_next_address(stream.target.server, local, silent, |target| Task::Connect {
                            local,
                            interface,
                            target,
                        });
                    }
                }
            }
        }
    }

    /// Closes the connections that carry no allocation.
    pub(super) fn close_unused_streams(&mut self) {
        let used: Vec<Path> = self.allocations.iter().map(|allocation| allocation.path).collect();
        let unused: Vec<StreamId> =
            self.streams.keys().copied().filter(|&id| !used.contains(&Path::Stream(id))).collect();
        for id in unused {
            self.streams.remove(&id);
            self.outputs.push_back(Output::CloseStream { id });
        }
    }

    pub(super) fn stream_data(&mut self, now: Timestamp, id: StreamId, bytes: &[u8]) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let StreamState::Open { deframer, .. } = &mut stream.state else { return };
        deframer.push(bytes);
        loop {
            // The stream may be closed by what its own messages say.
            let Some(Stream { state: StreamState::Open { deframer, .. }, target, .. }) = self.streams.get_mut(&id)
            else {
                return;
            };
            let remote = target.remote;
            match deframer.next_message() {
                Ok(Some(message)) => {
                    let message = message.to_vec();
                    self.message(now, Path::Stream(id), remote, &message);
                }
                Ok(None) => return,
                Err(error) => {
                    self.stream_lost(now, id, &format!("the server sent what is neither STUN nor TURN: {error}"), true);
                    return;
                }
            }
        }
    }

    pub(super) fn datagram(&mut self, now: Timestamp, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) -> bool {
        let is_it = |socket: &super::LocalSocket| {
            socket.transport == CandidateTransport::Udp
                && (socket.local.ip(), socket.local.port()) == (local.ip(), local.port())
        };
        match self.sockets.iter().position(is_it) {
            Some(socket) => self.message(now, Path::Socket(socket), remote, bytes),
            None => false,
        }
    }

    /// A datagram or a frame arrived. Answers whether it was for one of our clients.
    fn message(&mut self, now: Timestamp, path: Path, remote: SocketAddr, bytes: &[u8]) -> bool {
        let index = match path {
            Path::Socket(socket) => self.by_path.get(&path_key(self.sockets[socket].local, remote)).copied(),
            Path::Stream(_) => self.allocations.iter().position(|allocation| allocation.path == path),
        };
        match Protocol::of(bytes) {
            Protocol::TurnChannel => {
                let Some(index) = index else { return false };
                let ours = self.allocations[index].client.feed_channel_data(now, bytes);
                self.drain(now, index);
                ours
            }
            Protocol::Stun => {
                let Ok(message) = Message::decode(bytes) else { return false };
                if !message.is_sound() {
                    return false;
                }
                if let Some(index) = index
                    && self.allocations[index].client.feed(now, self.now.arrived, &message)
                {
                    self.drain(now, index);
                    return true;
                }
                match self.stun.feed(self.now.arrived, path, remote, &message) {
                    Fed::NotOurs => self.misdirected(remote, &message),
                    Fed::Ignored => true,
                    Fed::FromElsewhere(binding) => {
                        self.answered_from_elsewhere(binding.server, binding.local, binding.remote, remote);
                        true
                    }
                    Fed::Done(bound) => {
                        self.bound(bound);
                        true
                    }
                }
            }
            _ => false,
        }
    }

    /// An answer to a TURN request that came from another address than the request went to.
    fn misdirected(&mut self, remote: SocketAddr, message: &Message<'_>) -> bool {
        if !matches!(message.class, Class::Success | Class::Error) {
            return false;
        }
        let owner = self.allocations.iter_mut().position(|a| a.client.is_open(message.transaction));
        let Some(owner) = owner.map(|index| &self.allocations[index]) else { return false };
        self.answered_from_elsewhere(owner.target.server, owner.local, owner.target.remote, remote);
        true
    }

    /// The answer is not used (RFC 8489 §6.3.3 knows the server by its address), but it explains the silence.
    fn answered_from_elsewhere(&mut self, server: usize, local: SocketAddr, asked: SocketAddr, from: SocketAddr) {
        let detail = format!("the answer to a request to {asked} came from {from}");
        self.server_failed(server, Some(local), ServerFailure::BadResponse { detail });
    }

    /// A Binding transaction ended.
    pub(super) fn bound(&mut self, bound: Bound<Path>) {
        let Bound { binding, outcome, rtt } = bound;
        if let Some((rtt, exact)) = rtt {
            let server = self.servers[binding.server].label.clone();
            self.outputs.push_back(Output::RoundTrip { server, rtt, exact });
        }
        match (outcome, binding.path) {
            (Ok(mapped), Path::Socket(socket)) => self.reflexive(socket, mapped, binding.server, binding.remote),
            (Ok(_), Path::Stream(_)) => {}
            (Err(failure), path) => {
                let silent = matches!(failure, ServerFailure::Timeout { .. } | ServerFailure::SendFailed { .. });
                self.server_failed(binding.server, Some(binding.local), failure);
                if let (true, Path::Socket(socket)) = (silent, path) {
                    let Binding { server, local, remote, .. } = binding;
                    self.ask_next_address(server, local.ip(), remote, |target| Task::Binding { socket, target });
                }
            }
        }
        if let Path::Stream(id) = binding.path
            && self.streams.remove(&id).is_some()
        {
            self.outputs.push_back(Output::CloseStream { id });
        }
    }

    fn reflexive(&mut self, socket: usize, mapped: SocketAddr, server: usize, remote: SocketAddr) {
        let (local, interface) = (self.sockets[socket].local, self.sockets[socket].interface.clone());
        self.candidate(
            &Found {
                kind: CandidateType::ServerReflexive,
                transport: CandidateTransport::Udp,
                address: mapped,
                base: local,
                related: Some(local),
                interface,
                server: Some((remote.ip(), Transport::Udp)),
            },
            Some(server),
        );
    }

    /// Passes on what a TURN client wants.
    pub(super) fn drain(&mut self, now: Timestamp, index: usize) {
        while let Some(output) = self.allocations[index].client.poll_output() {
            let allocation = &self.allocations[index];
            let (path, local, target) = (allocation.path, allocation.local, &allocation.target);
            let output = match output {
                TurnOutput::Send(bytes) => {
                    let remote = target.remote;
                    self.transmit(path, local, remote, bytes);
                    continue;
                }
                TurnOutput::Allocated { relayed, mapped } => {
                    self.allocated(now, index, &relayed, mapped);
                    continue;
                }
                TurnOutput::Unanswered => {
                    // One that is made again stays with its server.
                    if !allocation.again.was_lost() {
                        let (server, silent) = (target.server, target.remote);
                        let interface = allocation.interface.clone();
                        self.ask_next_address(server, local.ip(), silent, |target| match path {
                            Path::Socket(socket) => Task::Allocate { socket, target },
                            Path::Stream(_) => Task::Connect { local: local.ip(), interface, target },
                        });
                    }
                    continue;
                }
                TurnOutput::Redirect(alternate) => {
                    let (target, interface) = (target.clone(), allocation.interface.clone());
                    self.allocations[index].again = Again::default();
                    self.redirect(target, local, alternate, |target| match path {
                        Path::Socket(socket) => Task::Allocate { socket, target },
                        Path::Stream(_) => Task::Connect { local: local.ip(), interface, target },
                    });
                    continue;
                }
                TurnOutput::Lost { relayed, detail } => {
                    if self.by_relayed.get(&relayed) == Some(&index) {
                        self.by_relayed.remove(&relayed);
                    }
                    self.candidates.forget(relayed);
                    Output::AllocationLost { relayed, detail }
                }
                TurnOutput::Ended => {
                    self.by_relayed.retain(|_, owner| *owner != index);
                    self.allocate_later(now, index);
                    let Path::Stream(id) = path else { continue };
                    if self.streams.remove(&id).is_none() {
                        continue;
                    }
                    Output::CloseStream { id }
                }
                TurnOutput::Event(event) => Output::Event(event),
                TurnOutput::PermissionGranted { relayed, peer } => Output::PermissionGranted { relayed, peer },
                TurnOutput::PermissionDenied { relayed, peer, code } => {
                    Output::PermissionDenied { relayed, peer, code }
                }
                TurnOutput::Data { relayed, peer, data } => Output::RelayedData { relayed, peer, data },
                TurnOutput::RoundTrip { rtt, exact } => {
                    let server = self.servers[target.server].label.clone();
                    Output::RoundTrip { server, rtt, exact }
                }
            };
            self.outputs.push_back(output);
        }
    }

    fn allocated(&mut self, now: Timestamp, index: usize, relayed: &[SocketAddr], mapped: Option<SocketAddr>) {
        let Allocation { path, ref target, local, ref interface, .. } = self.allocations[index];
        let (target, interface) = (target.clone(), interface.clone());
        if let (Path::Socket(socket), Some(mapped)) = (path, mapped) {
            self.reflexive(socket, mapped, target.server, target.remote);
        }
        if relayed.iter().any(|relayed| self.by_relayed.contains_key(relayed)) {
            let detail = "the relayed address is that of another allocation".to_owned();
            self.server_failed(target.server, Some(local), ServerFailure::BadResponse { detail });
            self.allocations[index].client.close(now);
            return;
        }
        self.allocations[index].again.made(now);
        let transport = self.servers[target.server].server.url.transport();
        for &address in relayed {
            self.by_relayed.insert(address, index);
            // RFC 8445 §5.3; hidden where only relays may be known, as browsers do.
            let related = if self.config.relay_only {
                SocketAddr::new(if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, 0)
            } else {
                mapped.unwrap_or(local)
            };
            self.candidate(
                &Found {
                    kind: CandidateType::Relayed,
                    transport: CandidateTransport::Udp,
                    address,
                    base: address,
                    related: Some(related),
                    interface: interface.clone(),
                    server: Some((target.remote.ip(), transport)),
                },
                Some(target.server),
            );
        }
    }

    pub(super) fn transmit(&mut self, path: Path, local: SocketAddr, remote: SocketAddr, bytes: Vec<u8>) {
        let (transport, stream) = match path {
            Path::Socket(_) => (Transport::Udp, None),
            Path::Stream(id) => match self.streams.get(&id) {
                Some(stream) => (stream.transport, Some(id)),
                None => return,
            },
        };
        self.outputs.push_back(Output::Transmit(Transmit { transport, stream, local, remote, bytes }));
    }
}
