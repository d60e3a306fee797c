//! Two peers, a server and a network in virtual time.
//!
//! [`run`] builds what a [`Setup`] describes and lets it happen: the peers are the core's gatherer and ICE agent, the
//! server is the core's STUN and TURN server, the NATs are the core's `nat::table`. Every datagram passes a peer's
//! door, which records it as the real driver does, so an [`Outcome`] holds recordings like those of a real session.
//! Time jumps from one happening to the next. The same setup gives the same recordings, byte for byte.

mod acting;
mod build;
#[cfg(test)]
mod cut_tests;
mod facts;
mod from_topology;
mod kernel;
pub(crate) mod link;
mod mapping;
mod network;
mod outcome;
mod peer;
mod probing;
mod queue;
mod server;
mod setup;
mod tcp;
mod tls;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use whyrelay_core::engine::gather::StreamId;
use whyrelay_core::engine::port_mapping::ExchangeId;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::IceState;

use crate::limits;
use crate::scenario::Topology;

pub use link::{Burst, Link};
pub use outcome::{Outcome, Path, PeerOutcome};
pub use setup::{Egress, Ipv6, Neighbor, PeerSetup, Router, RouterKind, Setup, Site};

use kernel::Arrived;
use network::{About, HostId, Network, Packet, Place, RouterId};
use peer::{Peer, Signal};
use queue::Queue;
use server::Server;
use tcp::{Passing, Sending};

/// When worlds begin: 2026-01-01 00:00 UTC, so that recordings look like recordings.
pub const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

/// How long a connection attempt into a void takes until the system gives up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long both sides must have been settled before data is tried: longer than the checks of late candidates take.
const SETTLE: Duration = Duration::from_secs(6);

/// When a scenario's world ends at the latest, beside what its sessions ask for: past their own limits, one after the
/// other (`limits.rs`).
pub const LIMIT: Duration = Duration::from_secs(45);

/// Datagrams of data that each side sends at the end, and the time between them.
const DATAGRAMS: u32 = 20;
const DATA_INTERVAL: Duration = Duration::from_millis(20);

/// How much of a payload comes back with an ICMP error, in bytes: routers quote more than RFC 792 asks for.
const QUOTED: usize = 64;

/// How long the last datagrams, and the goodbyes to the server, may take to arrive.
const AFTERMATH: Duration = Duration::from_secs(4);

/// Something that will happen.
#[derive(Debug)]
enum Happening {
    Packet(Place, Packet),
    Start(usize),
    WakePeer(usize, Timestamp),
    WakeServer(Timestamp),
    Signal(usize, Signal),
    Icmp(usize, peer::Icmp),
    /// A send, and whether it was a probe.
    Refused(usize, SocketAddr, SocketAddr, i32, bool),
    Connected(usize, StreamId, SocketAddr, SocketAddr),
    ConnectFailed(usize, StreamId, String),
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
    /// The time to wait for the other's description is over.
    WaitOver(usize),
    /// The time from the other's description to a path is over.
    TimeOver(usize),
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
    passing: Passing,
    /// To the server, to the peer.
    sending: [Sending; 2],
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
    /// When each side's last message arrives.
    signaled: [Timestamp; 2],
    wakes: [Option<Timestamp>; 2],
    server: Server,
    server_wake: Option<Timestamp>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    restart: Option<(Duration, bool)>,
    /// Whether sessions give up by themselves, as the program's do.
    limited: bool,
    /// When each side's time for finding a path ends, once the other's description has come.
    time_over: [Option<Timestamp>; 2],
    /// When each side ended.
    left: [Option<Timestamp>; 2],
    /// The generation in which both peers end: 1 if there is a restart to come.
    last_generation: u32,
    settled: Option<Timestamp>,
    phase: Phase,
    relayed_before: u64,
}

/// Lets a world happen.
pub fn run(setup: &Setup) -> Outcome {
    happen(build::build(setup), setup.limit, &AtomicBool::new(false), World::is_direct)
}

/// Lets a scenario's world happen, to its end or to [`LIMIT`], beside the silence that it asks for and what its sessions
/// start later.
///
/// It ends where it is as soon as a flag is set; what has happened until then is no outcome of the scenario.
pub fn run_topology(topology: &Topology, interrupted: &AtomicBool) -> Outcome {
    let (silence, starts) = limits::asked_for(topology);
    happen(from_topology::build(topology), LIMIT + silence + starts, interrupted, World::is_direct)
}

/// The relay is cut before data is tried where `cuts` says so.
fn happen(mut world: World, limit: Duration, interrupted: &AtomicBool, cuts: impl Fn(&World) -> bool) -> Outcome {
    let end = START + limit;
    world.queue.push(end, Happening::Look);
    let mut outcomes = None;
    let (mut relayed_data, mut relay_cut) = (0, false);
    while let Some((at, happening)) = world.queue.pop() {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        world.now = at;
        match happening {
            Happening::End => break,
            Happening::Close => {
                outcomes = Some([0, 1].map(|index| world.outcome(index)));
                relayed_data = world.server.relayed() - world.relayed_before;
                // What is left there is given back.
                world.server.mend();
                for index in 0..2 {
                    world.leave(index);
                }
                world.queue.push(at + AFTERMATH, Happening::End);
            }
            happening => world.happen(happening),
        }
        if world.phase == Phase::Connecting && (world.is_settled() || at >= end) {
            world.phase = Phase::Trying;
            world.relayed_before = world.server.relayed();
            relay_cut = cuts(&world);
            if relay_cut {
                world.server.cut();
            }
            world.queue.push(at, Happening::Data(0));
        }
    }
    let [mut a, mut b] = outcomes.unwrap_or_else(|| [0, 1].map(|index| world.outcome(index)));
    for (outcome, peer) in [(&mut a, &world.peers[0]), (&mut b, &world.peers[1])] {
        outcome.events = peer.events.clone();
        outcome.recording = peer.recording();
    }
    let allocations_left = world.server.allocations();
    Outcome { a, b, relayed_data, relay_cut, allocations_left, data_sent: u64::from(DATAGRAMS) }
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
            signaled: [START; 2],
            wakes: [None, None],
            server,
            server_wake: None,
            connections: BTreeMap::new(),
            next_connection: 0,
            restart,
            limited: false,
            time_over: [None; 2],
            left: [None; 2],
            last_generation: u32::from(restart.is_some()),
            settled: None,
            phase: Phase::Connecting,
            relayed_before: 0,
        }
    }

    /// The sessions give up as the program does.
    fn with_limits(mut self, topology: &Topology) -> Self {
        self.limited = true;
        for (index, session) in topology.sessions.iter().enumerate() {
            let over = START + session.starts + limits::wait(topology, index);
            self.queue.push(over, Happening::WaitOver(index));
        }
        self
    }

    /// A peer ends, if it has not.
    fn leave(&mut self, index: usize) {
        if self.left[index].is_none() {
            self.left[index] = Some(self.now);
            self.look_for_next_hops(index);
            let actions = self.peers[index].close(self.now);
            self.act(index, actions);
        }
    }

    /// Whether a peer is no longer there, not even for the answers to its goodbyes.
    fn is_gone(&self, index: usize) -> bool {
        self.left[index].is_some_and(|left| self.now.since(left) > AFTERMATH)
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
                self.peers[index].seen_as = self.signals_from(index);
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
            Happening::Signal(index, _) if self.left[index].is_some() => {}
            Happening::Signal(index, signal) => {
                let actions = self.peers[index].signaled(now, signal);
                self.act(index, actions);
            }
            Happening::Icmp(index, icmp) => {
                let actions = self.peers[index].icmp(now, icmp);
                self.act(index, actions);
            }
            Happening::Refused(index, local, remote, errno, is_probe) => {
                let actions = self.peers[index].send_failed(now, local, remote, errno, is_probe);
                self.act(index, actions);
            }
            Happening::Connected(index, id, local, remote) => {
                let actions = self.peers[index].stream_connected(now, id, local, remote);
                self.act(index, actions);
            }
            Happening::ConnectFailed(index, id, why) => {
                let actions = self.peers[index].stream_failed(now, id, &why);
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
            Happening::WaitOver(index) => {
                if !self.peers[index].is_described() {
                    self.leave(index);
                }
            }
            Happening::TimeOver(index) => {
                // The program's data channel needs both sides.
                let is_open = self.peers.iter().all(|peer| peer.first_usable.is_some());
                if !is_open && self.left[index].is_none() {
                    let actions = self.peers[index].time_out(now);
                    self.act(index, actions);
                    self.leave(index);
                }
            }
            Happening::Look | Happening::Close | Happening::End => {}
        }
    }

    fn deliver(&mut self, host: HostId, interface: usize, packet: &Packet) {
        if host == self.server.host {
            if packet.wrong_checksum {
                return;
            }
            if self.server.refuses(packet) {
                return self.complain(packet, packet.destination.ip(), About::PortUnreachable);
            }
            let actions = self.server.receive(self.now, packet);
            return self.serve(actions);
        }
        let Some(index) = self.peers.iter().position(|peer| peer.host == host) else { return };
        if self.is_gone(index) {
            return;
        }
        let arrived = match &mut self.peers[index].kernel {
            Some(kernel) => kernel.receive(interface, packet.source, packet.destination, packet.wrong_checksum),
            None => Arrived::Delivered,
        };
        match arrived {
            Arrived::Delivered if !self.peers[index].hears(interface, packet.destination) => {}
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

    /// After a peer did something: whether both are settled now, and whether it is time for the restart.
    fn look(&mut self) {
        for index in (0..2).filter(|_| self.limited) {
            if self.time_over[index].is_none() && self.peers[index].is_described() {
                let over = self.now + limits::TIMEOUT;
                self.time_over[index] = Some(over);
                self.queue.push(over, Happening::TimeOver(index));
            }
        }
        let settled = self.peers.iter().zip(self.left).all(|(peer, left)| match peer.state() {
            _ if left.is_some() => true,
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
        let silent = self.peers.iter().any(Peer::awaits_silence);
        generations && !silent && self.settled.is_some_and(|settled| self.now.since(settled) >= SETTLE)
    }
}
