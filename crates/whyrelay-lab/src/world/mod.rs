//! Two peers, a server and a network in virtual time.
//!
//! [`run`] builds what a [`Setup`] describes and lets it happen: the peers are the core's gatherer and ICE agent, the
//! server is the core's STUN and TURN server, the NATs are the core's `nat::table`. Every datagram passes a peer's
//! door, which records it as the real driver does, so an [`Outcome`] holds recordings like those of a real session.
//! Time jumps from one happening to the next. The same setup gives the same recordings, byte for byte.

mod build;
mod facts;
mod from_topology;
mod kernel;
mod link;
mod mapping;
mod network;
mod peer;
mod queue;
mod server;
mod setup;
mod sizes;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use whyrelay_core::engine::gather::StreamId;
use whyrelay_core::engine::port_mapping::ExchangeId;
use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::ice::{PairSnapshot, SelectedPair};
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::{Event, IceState, Role};

use crate::scenario::Topology;
use crate::scenario::file::InterfaceKind;

pub use link::{Burst, Link};
pub use setup::{Egress, Ipv6, Neighbor, PeerSetup, Router, RouterKind, Setup, Site};

pub(crate) use facts::text as firewall_text;
use kernel::{Arrived, Leaving, NEIGHBOR_TIMEOUT, Sent};
use network::{About, HostId, Network, Packet, Place, RouterId};
use peer::{Peer, Signal};
use queue::Queue;
use server::Server;

/// When worlds begin: 2026-01-01 00:00 UTC, so that recordings look like recordings.
pub const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

/// How long a connection attempt into a void takes until the system gives up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long both sides must have been settled before data is tried: longer than the checks of late candidates take.
const SETTLE: Duration = Duration::from_secs(6);

/// When a scenario's world ends at the latest.
pub const LIMIT: Duration = Duration::from_secs(45);

/// Datagrams of data that each side sends at the end, and the time between them.
const DATAGRAMS: u32 = 20;
const DATA_INTERVAL: Duration = Duration::from_millis(20);

/// How much of a payload comes back with an ICMP error, in bytes: routers quote more than RFC 792 asks for.
const QUOTED: usize = 64;

/// How long the last datagrams, and the goodbyes to the server, may take to arrive.
const AFTERMATH: Duration = Duration::from_secs(4);

/// How the peers were connected in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// From host to host.
    Direct,
    /// Through a relay on at least one side.
    Relayed,
    /// Not at all.
    Failed,
}

/// What became of one peer.
#[derive(Clone, Debug)]
pub struct PeerOutcome {
    /// How it is connected.
    pub path: Path,
    /// The agent's state.
    pub state: IceState,
    /// The agent's role.
    pub role: Option<Role>,
    /// The agent's generation.
    pub generation: u32,
    /// The selected pair.
    pub selected: Option<SelectedPair>,
    /// The agent's checklist.
    pub checklist: Vec<PairSnapshot>,
    /// When data could first be sent, from the beginning of the world.
    pub usable_after: Option<Duration>,
    /// When a pair was first selected.
    pub selected_after: Option<Duration>,
    /// When it failed, if it did.
    pub failed_after: Option<Duration>,
    /// Datagrams of data that arrived.
    pub data_received: u64,
    /// What it recorded, to the end.
    pub events: Vec<Event>,
    /// How many of these events there were when the rest of this outcome was taken, before it closed.
    pub observed: usize,
    /// The same as it would stand in a file.
    pub recording: String,
}

/// What became of a world.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The offerer.
    pub a: PeerOutcome,
    /// The answerer.
    pub b: PeerOutcome,
    /// Datagrams of data that passed the relay while data was tried.
    pub relayed_data: u64,
    /// Allocations left at the server after both sides closed.
    pub allocations_left: usize,
    /// Datagrams of data that each side sent.
    pub data_sent: u64,
}

impl Outcome {
    /// How the two are connected; `None` when they disagree.
    pub fn path(&self) -> Option<Path> {
        (self.a.path == self.b.path).then_some(self.a.path)
    }
}

/// Something that will happen.
#[derive(Debug)]
enum Happening {
    Packet(Place, Packet),
    Start(usize),
    WakePeer(usize, Timestamp),
    WakeServer(Timestamp),
    Signal(usize, Signal),
    Icmp(usize, peer::Icmp),
    Refused(usize, SocketAddr, SocketAddr, i32),
    Connected(usize, StreamId, SocketAddr, SocketAddr),
    ConnectFailed(usize, StreamId, &'static str),
    ToServer(u64, Vec<u8>),
    FromServer(u64, Vec<u8>),
    StreamClosed(u64),
    /// A request to a router's HTTP server.
    ToRouter(Exchange),
    /// Its response, or why there is none.
    FromRouter(usize, ExchangeId, Result<Vec<u8>, &'static str>),
    Restart(usize),
    Data(u32),
    /// Time to see whether the peers have been settled long enough, or the limit has come.
    Look,
    Close,
    End,
}

/// A TCP connection from a peer to the server.
#[derive(Debug)]
struct Connection {
    peer: usize,
    id: StreamId,
    source: SocketAddr,
    delay: Duration,
}

/// An HTTP request of a peer to its router.
#[derive(Debug)]
struct Exchange {
    peer: usize,
    id: ExchangeId,
    router: RouterId,
    source: IpAddr,
    to: SocketAddr,
    request: Vec<u8>,
    /// One way.
    delay: Duration,
}

/// How one side's signaling messages fare.
#[derive(Clone, Copy, Debug)]
struct SignalingWay {
    /// How long descriptions take.
    description: Duration,
    /// How long candidates take.
    candidates: Duration,
    lose_candidates: bool,
    lose_all: bool,
}

/// How far a world is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The peers look for a path. Left when both are settled for [`SETTLE`], or at the limit.
    Connecting,
    /// Data is tried.
    Trying,
}

struct World {
    now: Timestamp,
    queue: Queue<Happening>,
    network: Network,
    peers: [Peer; 2],
    signaling: [SignalingWay; 2],
    wakes: [Option<Timestamp>; 2],
    server: Server,
    server_wake: Option<Timestamp>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    restart: Option<(Duration, bool)>,
    /// The generation in which both peers end: 1 if there is a restart to come.
    last_generation: u32,
    settled: Option<Timestamp>,
    phase: Phase,
    relayed_before: u64,
}

/// Lets a world happen.
pub fn run(setup: &Setup) -> Outcome {
    happen(build::build(setup), setup.limit)
}

/// Lets a scenario's world happen, to its end or to [`LIMIT`].
pub fn run_topology(topology: &Topology) -> Outcome {
    happen(from_topology::build(topology), LIMIT)
}

fn happen(mut world: World, limit: Duration) -> Outcome {
    let end = START + limit;
    world.queue.push(end, Happening::Look);
    let mut outcomes = None;
    let mut relayed_data = 0;
    while let Some((at, happening)) = world.queue.pop() {
        world.now = at;
        match happening {
            Happening::End => break,
            Happening::Close => {
                outcomes = Some([0, 1].map(|index| world.outcome(index)));
                relayed_data = world.server.relayed() - world.relayed_before;
                for index in 0..2 {
                    let actions = world.peers[index].close(at);
                    world.act(index, actions);
                }
                world.queue.push(at + AFTERMATH, Happening::End);
            }
            happening => world.happen(happening),
        }
        if world.phase == Phase::Connecting && (world.is_settled() || at >= end) {
            world.phase = Phase::Trying;
            world.relayed_before = world.server.relayed();
            world.queue.push(at, Happening::Data(0));
        }
    }
    let [mut a, mut b] = outcomes.unwrap_or_else(|| [0, 1].map(|index| world.outcome(index)));
    for (outcome, peer) in [(&mut a, &world.peers[0]), (&mut b, &world.peers[1])] {
        outcome.events = peer.events.clone();
        outcome.recording = peer.recording();
    }
    let allocations_left = world.server.allocations();
    Outcome { a, b, relayed_data, allocations_left, data_sent: u64::from(DATAGRAMS) }
}

impl World {
    fn assemble(
        network: Network,
        peers: [Peer; 2],
        starts: [Duration; 2],
        signaling: [SignalingWay; 2],
        server: Server,
        restart: Option<(Duration, bool)>,
    ) -> Self {
        let mut queue = Queue::new();
        for (index, starts) in starts.into_iter().enumerate() {
            queue.push(START + starts, Happening::Start(index));
        }
        Self {
            now: START,
            queue,
            network,
            peers,
            signaling,
            wakes: [None, None],
            server,
            server_wake: None,
            connections: BTreeMap::new(),
            next_connection: 0,
            restart,
            last_generation: u32::from(restart.is_some()),
            settled: None,
            phase: Phase::Connecting,
            relayed_before: 0,
        }
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::Packet(Place::At(host, interface), packet) => self.deliver(host, interface, &packet),
            Happening::Packet(place, packet) => {
                for (at, place, packet) in self.network.step(now, place, packet) {
                    self.queue.push(at, Happening::Packet(place, packet));
                }
                for complaint in self.network.complaints() {
                    self.complain(&complaint.packet, complaint.offender, complaint.about);
                }
            }
            Happening::Start(index) => {
                let actions = self.peers[index].start(now);
                self.act(index, actions);
            }
            Happening::WakePeer(index, at) => {
                // Only the latest wish counts: earlier ones were overtaken by what happened since.
                if self.wakes[index] == Some(at) {
                    self.wakes[index] = None;
                    let actions = self.peers[index].wake(now);
                    self.act(index, actions);
                }
            }
            Happening::WakeServer(at) => {
                if self.server_wake == Some(at) {
                    self.server_wake = None;
                    let actions = self.server.wake(now);
                    self.serve(actions);
                }
            }
            Happening::Signal(index, signal) => {
                let actions = self.peers[index].signaled(now, signal);
                self.act(index, actions);
            }
            Happening::Icmp(index, icmp) => {
                let actions = self.peers[index].icmp(now, icmp);
                self.act(index, actions);
            }
            Happening::Refused(index, local, remote, errno) => {
                let actions = self.peers[index].send_failed(now, local, remote, errno);
                self.act(index, actions);
            }
            Happening::Connected(index, id, local, remote) => {
                let actions = self.peers[index].stream_connected(now, id, local, remote);
                self.act(index, actions);
            }
            Happening::ConnectFailed(index, id, why) => {
                let actions = self.peers[index].stream_failed(now, id, why);
                self.act(index, actions);
            }
            Happening::ToServer(stream, bytes) => {
                if let Some(connection) = self.connections.get(&stream) {
                    self.server.accept_once(stream, connection.source);
                    let actions = self.server.receive_on_stream(now, stream, &bytes);
                    self.serve(actions);
                }
            }
            Happening::FromServer(stream, bytes) => {
                if let Some(Connection { peer, id, .. }) = self.connections.get(&stream) {
                    let (peer, id) = (*peer, *id);
                    let actions = self.peers[peer].stream_data(now, id, &bytes);
                    self.act(peer, actions);
                }
            }
            Happening::StreamClosed(stream) => {
                self.connections.remove(&stream);
                let actions = self.server.stream_closed(now, stream);
                self.serve(actions);
            }
            Happening::ToRouter(Exchange { peer, id, router, source, to, request, delay }) => {
                let response = self.network.http(now, router, source, to, &request).ok_or("connection refused");
                self.queue.push(now + delay, Happening::FromRouter(peer, id, response));
            }
            Happening::FromRouter(index, id, response) => {
                let actions = self.peers[index].exchanged(now, id, response.as_deref().map_err(|why| *why));
                self.act(index, actions);
            }
            Happening::Restart(index) => {
                let actions = self.peers[index].restart(now);
                self.act(index, actions);
            }
            Happening::Data(sent) => {
                for index in 0..2 {
                    let actions = self.peers[index].send_data(now);
                    self.act(index, actions);
                }
                let next = if sent + 1 < DATAGRAMS { Happening::Data(sent + 1) } else { Happening::Close };
                let wait = if sent + 1 < DATAGRAMS { DATA_INTERVAL } else { AFTERMATH };
                self.queue.push(now + wait, next);
            }
            Happening::Look | Happening::Close | Happening::End => {}
        }
    }

    fn deliver(&mut self, host: HostId, interface: usize, packet: &Packet) {
        if host == self.server.host {
            if self.server.refuses(packet) {
                return self.complain(packet, packet.destination.ip(), About::PortUnreachable);
            }
            let actions = self.server.receive(self.now, packet);
            return self.serve(actions);
        }
        let Some(index) = self.peers.iter().position(|peer| peer.host == host) else { return };
        let arrived = match &mut self.peers[index].kernel {
            Some(kernel) => kernel.receive(interface, packet.source, packet.destination),
            None => Arrived::Delivered,
        };
        match arrived {
            Arrived::Delivered => {
                let actions = self.peers[index].receive(self.now, packet.source, packet.destination, &packet.bytes);
                self.act(index, actions);
            }
            Arrived::Dropped => {}
            Arrived::Rejected => {
                let offender = packet.origin.map_or(packet.destination.ip(), |(_, _, remote, _)| remote.ip());
                self.complain(packet, offender, About::Prohibited);
            }
        }
    }

    /// An ICMP error finds its way to the peer that sent a packet: routers translate it back, and it takes as long as
    /// the packet did.
    fn complain(&mut self, packet: &Packet, offender: IpAddr, about: About) {
        let Some((sender, local, remote, sent)) = packet.origin else { return };
        let (icmp_type, icmp_code) = about.icmp(remote.is_ipv4());
        let mtu = if let About::TooBig { mtu } = about { Some(mtu.into()) } else { None };
        let quoted = packet.bytes[..packet.bytes.len().min(QUOTED)].to_vec();
        let icmp = peer::Icmp { local, remote, offender: Some(offender), icmp_type, icmp_code, mtu, quoted };
        let later = self.now + self.now.since(sent);
        self.queue.push(later, Happening::Icmp(sender, icmp));
    }

    /// A datagram of a peer: through its kernel, onto the network.
    fn send(&mut self, index: usize, source: SocketAddr, destination: SocketAddr, bytes: Vec<u8>) {
        let now = self.now;
        let host = self.peers[index].host;
        let mut packet = Packet::new(source, destination, bytes);
        packet.origin = Some((index, source, destination, now));
        let Some(kernel) = &mut self.peers[index].kernel else {
            return self.queue.push(now, Happening::Packet(Place::From(host), packet));
        };
        let icmp = |offender, (icmp_type, icmp_code)| {
            let (local, remote, mtu, quoted) = (source, destination, None, Vec::new());
            let icmp = peer::Icmp { local, remote, offender, icmp_type, icmp_code, mtu, quoted };
            Happening::Icmp(index, icmp)
        };
        match kernel.send(source, destination, packet.bytes.len()) {
            Sent::Leaves(Leaving { interface, gateway }) => {
                let neighbor = gateway.unwrap_or(destination.ip());
                let asks = kernel.host.interfaces[interface].kind != InterfaceKind::Tunnel;
                let silent = kernel.host.silent_neighbors.contains(&neighbor);
                if asks && (silent || !self.network.answers(host, interface, neighbor)) {
                    let offender = kernel.neighbor_failed(interface, neighbor);
                    // Host unreachable (RFC 792), from the host to itself.
                    return self.queue.push(now + NEIGHBOR_TIMEOUT, icmp(offender, (3, 1)));
                }
                self.queue.push(now, Happening::Packet(Place::Leaving(host, interface, gateway), packet));
            }
            Sent::Refused(errno) => self.refuse(index, source, destination, errno),
            Sent::Rejected(errno, kind) => {
                self.queue.push(now, icmp(Some(source.ip()), kind));
                self.refuse(index, source, destination, errno);
            }
        }
    }

    fn refuse(&mut self, index: usize, source: SocketAddr, destination: SocketAddr, errno: i32) {
        // Told a moment later, so that the machine is not fed while it is drained.
        self.queue.push(self.now, Happening::Refused(index, source, destination, errno));
    }

    fn act(&mut self, index: usize, actions: Vec<peer::Action>) {
        let now = self.now;
        for action in actions {
            match action {
                peer::Action::Send { source, destination, bytes } => {
                    self.send(index, source, destination, bytes);
                }
                peer::Action::Connect { id, local, remote } => self.connect(index, id, local, remote),
                peer::Action::SendOnStream { id, bytes } => {
                    let found = self.connections.iter().find(|(_, c)| c.peer == index && c.id == id);
                    if let Some((stream, connection)) = found {
                        self.queue.push(now + connection.delay, Happening::ToServer(*stream, bytes));
                    }
                }
                peer::Action::CloseStream(id) => {
                    let found = self.connections.iter().find(|(_, c)| c.peer == index && c.id == id);
                    if let Some((stream, connection)) = found {
                        self.queue.push(now + connection.delay, Happening::StreamClosed(*stream));
                    }
                }
                peer::Action::Exchange { id, local, remote, request } => {
                    self.exchange(index, id, local, remote, request);
                }
                peer::Action::Signal(signal) => {
                    let way = self.signaling[index];
                    let candidate = matches!(signal, Signal::Candidate(_) | Signal::EndOfCandidates);
                    let delay =
                        if matches!(signal, Signal::Description { .. }) { way.description } else { way.candidates };
                    if !(way.lose_all || candidate && way.lose_candidates) {
                        self.queue.push(now + delay, Happening::Signal(1 - index, signal));
                    }
                }
                peer::Action::Wake(at) => {
                    let at = at.max(now);
                    if self.wakes[index] != Some(at) {
                        self.wakes[index] = Some(at);
                        self.queue.push(at, Happening::WakePeer(index, at));
                    }
                }
            }
        }
        self.look();
    }

    fn serve(&mut self, actions: Vec<server::Action>) {
        for action in actions {
            match action {
                server::Action::Send(packet) => {
                    let from = Place::From(self.server.host);
                    let at = self.now + self.server.answers_after();
                    self.queue.push(at, Happening::Packet(from, packet));
                }
                server::Action::SendOnStream(stream, bytes) => {
                    if let Some(connection) = self.connections.get(&stream) {
                        let at = self.now + connection.delay + self.server.answers_after();
                        self.queue.push(at, Happening::FromServer(stream, bytes));
                    }
                }
                server::Action::Wake(at) => {
                    let at = at.max(self.now);
                    if self.server_wake != Some(at) {
                        self.server_wake = Some(at);
                        self.queue.push(at, Happening::WakeServer(at));
                    }
                }
            }
        }
    }

    fn connect(&mut self, index: usize, id: StreamId, local: IpAddr, remote: SocketAddr) {
        let local = SocketAddr::new(local, 50_000 + (self.next_connection % 10_000) as u16);
        let host = self.peers[index].host;
        let interface = match &self.peers[index].kernel {
            Some(kernel) => kernel.connect(local, remote).map(|leaving| leaving.interface),
            None => Ok(0),
        };
        if let Err(Some(errno)) = interface {
            // Told a moment later, so that the machine is not fed while it is drained.
            return self.queue.push(self.now, Happening::ConnectFailed(index, id, peer::errno_name(errno)));
        }
        let way = interface
            .ok()
            .and_then(|interface| self.network.connect(self.now, host, interface, local, remote))
            .filter(|(far, _, _)| *far == self.server.host && remote.port() == server::PORT && self.server.accepts());
        match way {
            Some((_, source, delay)) => {
                let stream = self.next_connection;
                self.next_connection += 1;
                self.connections.insert(stream, Connection { peer: index, id, source, delay });
                self.queue.push(self.now + delay * 2, Happening::Connected(index, id, local, remote));
            }
            None => {
                let why = "connection timed out";
                self.queue.push(self.now + CONNECT_TIMEOUT, Happening::ConnectFailed(index, id, why));
            }
        }
    }

    /// A request to a router on the link: a handshake, the request, the response.
    fn exchange(&mut self, index: usize, id: ExchangeId, source: IpAddr, to: SocketAddr, request: Vec<u8>) {
        let Peer { host, kernel, .. } = &self.peers[index];
        let leaving = kernel.as_ref().and_then(|kernel| kernel.connect(SocketAddr::new(source, 0), to).ok());
        let way = leaving.and_then(|leaving| self.network.router_on_link(*host, leaving.interface, to.ip()));
        match way {
            Some((router, delay)) => {
                let exchange = Exchange { peer: index, id, router, source, to, request, delay };
                self.queue.push(self.now + delay * 3, Happening::ToRouter(exchange));
            }
            None => {
                let failed = Happening::FromRouter(index, id, Err("connection timed out"));
                self.queue.push(self.now + CONNECT_TIMEOUT, failed);
            }
        }
    }

    /// After a peer did something: whether both are settled now, and whether it is time for the restart.
    fn look(&mut self) {
        let settled = self.peers.iter().all(|peer| match peer.state() {
            IceState::Failed => true,
            IceState::Completed => peer.selected().is_some() && peer.knows_all_candidates(),
            _ => false,
        });
        if !settled {
            self.settled = None;
            return;
        }
        if let Some((later, by_offerer)) = self.restart
            && self.peers.iter().all(|peer| peer.selected().is_some())
        {
            self.restart = None;
            self.queue.push(self.now + later, Happening::Restart(usize::from(!by_offerer)));
        }
        if self.settled.is_none() {
            self.settled = Some(self.now);
            self.queue.push(self.now + SETTLE, Happening::Look);
        }
    }

    fn is_settled(&self) -> bool {
        let generations = self.peers.iter().all(|peer| peer.generation() == self.last_generation);
        generations && self.settled.is_some_and(|settled| self.now.since(settled) >= SETTLE)
    }

    fn outcome(&self, index: usize) -> PeerOutcome {
        let peer = &self.peers[index];
        let selected = peer.selected();
        let relayed = |pair: &SelectedPair| {
            let ends = [pair.local.kind, pair.remote.kind];
            ends.contains(&CandidateType::Relayed) || self.server.is_relay(pair.pair.remote)
        };
        let path = match &selected {
            Some(_) if peer.state() == IceState::Failed => Path::Failed,
            Some(pair) if relayed(pair) => Path::Relayed,
            Some(_) => Path::Direct,
            None => Path::Failed,
        };
        PeerOutcome {
            path,
            state: peer.state(),
            role: peer.role(),
            generation: peer.generation(),
            selected,
            checklist: peer.checklist(),
            usable_after: peer::after(START, peer.first_usable),
            selected_after: peer::after(START, peer.first_selected),
            failed_after: peer::after(START, peer.failed),
            data_received: peer.data_received,
            events: Vec::new(),
            observed: peer.events.len(),
            recording: String::new(),
        }
    }
}
