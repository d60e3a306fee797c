//! A whole peer below DTLS: gatherer and ICE agent as one machine.
//!
//! It tells apart what arrives (answers of servers, relayed data, checks, DTLS), carries relayed traffic through the
//! right allocation, and hands everything else through. The binary drives it with real sockets, the laboratory with
//! simulated ones.

mod messages;
mod names;
mod own_relay;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

pub use messages::{Input, Output, Transmit};
use own_relay::{OwnRelay, Wanted};

use crate::engine::gather::{self, GatherConfig, Gatherer, StreamId};
use crate::ice::candidate::{Candidate, CandidateAddress, CandidateTransport, CandidateType};
use crate::ice::{self, Agent, Credentials};
use crate::random::Random;
use crate::time::{Now, Timestamp};
use crate::trace::event::{BY_PORT_MAPPING, EventKind, Pair, Side, Transport};
use crate::wire::demux::Protocol;
use crate::wire::framing::Framing;
use crate::wire::integrity::Integrity;
use crate::wire::stun::Message;

/// Connections between ICE-TCP peers have ids from here on, those to servers below.
const FIRST_PEER_STREAM: u64 = 1 << 32;

/// What a peer is told at its start.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// For the agent.
    pub ice: ice::Config,
    /// For the gatherer.
    pub gather: GatherConfig,
}

/// What a connection between ICE-TCP peers is.
#[derive(Clone, Copy, Debug)]
struct PeerStream {
    /// The pair as the agent knows it.
    pair: Pair,
    /// Whether the connection is there.
    connected: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Peer {
    agent: Agent,
    gatherer: Gatherer,
    relayed: BTreeSet<SocketAddr>,
    peer_streams: BTreeMap<StreamId, PeerStream>,
    next_peer_stream: u64,
    unresolved: Vec<Candidate>,
    /// What was gathered, for the generations after a restart.
    gathered: Vec<ice::LocalCandidate>,
    gathering_done: bool,
    /// Where data of the peer came from last.
    last_known: Option<SocketAddr>,
    /// `None` where no direct path is wanted.
    own_relay: Option<OwnRelay>,
    /// Whether a server has answered over UDP, of IPv4 and of IPv6.
    heard: [bool; 2],
    outputs: VecDeque<Output>,
}

impl Peer {
    /// A peer that knows no socket yet.
    pub fn new(now: Timestamp, config: PeerConfig, random: &mut Random) -> Self {
        let own_relay = (!config.gather.relay_only).then(OwnRelay::default);
        let mut peer = Self {
            agent: Agent::new(now, config.ice, random.fork()),
            gatherer: Gatherer::new(now, config.gather, random.fork()),
            relayed: BTreeSet::new(),
            peer_streams: BTreeMap::new(),
            next_peer_stream: FIRST_PEER_STREAM,
            unresolved: Vec::new(),
            gathered: Vec::new(),
            gathering_done: false,
            last_known: None,
            own_relay,
            heard: [false; 2],
            outputs: VecDeque::new(),
        };
        peer.settle(now.into());
        peer
    }

    /// Takes an input in. Drain [`Self::poll_output`] before the next.
    pub fn handle_input(&mut self, now: impl Into<Now>, input: Input<'_>) {
        let now = now.into();
        match input {
            Input::Socket(socket) => {
                if let Some(own) = self.own_relay.as_mut().filter(|_| !socket.transport.is_tcp()) {
                    own.add_socket(socket.local);
                }
                self.gather(now, gather::Input::Socket(socket));
            }
            Input::Server(server) => self.gather(now, gather::Input::Server(server)),
            Input::AllNamed => self.gather(now, gather::Input::Complete),
            Input::Resolved { name, result } => self.resolved(now, name, result),
            Input::Datagram { local, remote, bytes } => {
                let by_server = self.gatherer.handle_input(now, gather::Input::Datagram { local, remote, bytes });
                let own = self.own_relay.as_mut();
                if by_server {
                    self.heard[usize::from(remote.is_ipv6())] = true;
                    own.into_iter().for_each(|own| own.heard(local));
                } else if !own.is_some_and(|own| own.is_answer(local, remote, bytes)) {
                    self.arrived(now, CandidateTransport::Udp, local, remote, bytes);
                }
            }
            Input::Connected { id, local } => self.connected(now, id, local),
            Input::Accepted { id, local, remote } => {
                let pair = Pair { transport: CandidateTransport::TcpPassive, local, remote };
                self.peer_streams.insert(id, PeerStream { pair, connected: true });
            }
            Input::Message { id, bytes } => match self.peer_streams.get(&id) {
                Some(stream) => {
                    let Pair { transport, local, remote } = stream.pair;
                    self.arrived(now, transport, local, remote, bytes);
                }
                None => {
                    let framed = Framing::Stun.wrap(bytes);
                    self.gather(now, gather::Input::StreamData { id, bytes: &framed });
                }
            },
            Input::Disconnected { id, detail } => self.disconnected(now, id, detail),
            Input::SendFailed { local, remote, errno } => {
                self.gather(now, gather::Input::SendFailed { local, remote, errno });
                let pair = Pair { transport: CandidateTransport::Udp, local, remote };
                self.agent.handle_input(now, ice::Input::SendFailed { pair, errno });
            }
            Input::RemoteCredentials(credentials) => self.ice(now, ice::Input::RemoteCredentials(credentials)),
            Input::RemoteCandidate(candidate) => self.remote_candidate(now, candidate),
            Input::RemoteEndOfCandidates => self.ice(now, ice::Input::RemoteEndOfCandidates),
            Input::RoundTripHint(rtt) => self.ice(now, ice::Input::RoundTripHint(rtt)),
            Input::Data(bytes) => {
                if let Some(pair) = self.agent.send_pair().map(|selected| selected.pair) {
                    self.transmit(now, pair.transport, pair.local, pair.remote, bytes.to_vec());
                }
            }
            Input::Restart { credentials, side } => self.restart(now, credentials, side),
            Input::External { base, external } => self.external(now, base, external),
            Input::TimeLimit => self.ice(now, ice::Input::TimeLimit),
            Input::Timeout => {
                self.gather(now, gather::Input::Timeout);
                self.ice(now, ice::Input::Timeout);
            }
            Input::Close => {
                self.own_relay = None;
                self.ice(now, ice::Input::Close);
                self.gather(now, gather::Input::Close);
            }
        }
        self.settle(now);
    }

    /// The next thing to do, or until when there is nothing.
    pub fn poll_output(&mut self, now: impl Into<Now>) -> Output {
        let now = now.into();
        match self.outputs.pop_front() {
            Some(output) => output,
            None => {
                // Both are drained: what they answer now is their deadline.
                let agent = match self.agent.poll_output() {
                    ice::Output::Timeout(at) => at,
                    output => self.take_late(now, output),
                };
                let gatherer = match self.gatherer.poll_output() {
                    gather::Output::Timeout(at) => at,
                    output => {
                        self.take_from_gatherer(now, output);
                        now.time
                    }
                };
                let own = self.own_relay.as_ref().and_then(OwnRelay::deadline);
                Output::Timeout(own.into_iter().fold(agent.min(gatherer), Timestamp::min))
            }
        }
    }

    /// Whether the message integrity of a STUN message is right, for the door: `None` where there is no key.
    pub fn verify(&self, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) -> Option<Integrity> {
        if Protocol::of(bytes) != Protocol::Stun {
            return None;
        }
        if let Some(integrity) = self.gatherer.verify(local, remote, bytes) {
            return Some(integrity);
        }
        self.agent.verify(&Message::decode(bytes).ok()?)
    }

    /// Whether a server of an address family has answered over UDP.
    pub fn hears_servers(&self, is_ipv6: bool) -> bool {
        self.heard[usize::from(is_ipv6)]
    }

    /// Where its servers are asked over UDP.
    pub fn servers_over_udp(&self) -> impl Iterator<Item = SocketAddr> {
        self.gatherer.servers_over_udp()
    }

    /// The agent, for what it knows.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    fn gather(&mut self, now: Now, input: gather::Input<'_>) {
        self.gatherer.handle_input(now, input);
    }

    fn ice(&mut self, now: Now, input: ice::Input<'_>) {
        self.agent.handle_input(now, input);
    }

    /// A mapped address is a server-reflexive candidate, whoever told it (RFC 8445 §5.1.1.2 leaves that open).
    fn external(&mut self, now: Now, base: SocketAddr, external: SocketAddr) {
        let kind = CandidateType::ServerReflexive;
        let candidate = Candidate {
            foundation: "mapped".into(),
            component: 1,
            transport: CandidateTransport::Udp,
            // Ahead of what STUN servers tell: this address lets everybody in.
            priority: Candidate::compute_priority(kind, u16::MAX),
            address: CandidateAddress::Ip(external),
            kind,
            related: Some(base),
            extensions: Vec::new(),
        };
        let event = EventKind::LocalCandidate {
            candidate: candidate.clone(),
            base,
            interface: None,
            server: Some(BY_PORT_MAPPING.into()),
        };
        self.outputs.push_back(Output::Event(event));
        self.outputs.push_back(Output::LocalCandidate(candidate.clone()));
        let local = ice::LocalCandidate::new(candidate, base);
        self.gathered.push(local.clone());
        self.ice(now, ice::Input::LocalCandidate(local));
    }

    /// Carries outputs of one machine to the other until both are at rest.
    fn settle(&mut self, now: Now) {
        loop {
            let mut rested = true;
            loop {
                match self.gatherer.poll_output() {
                    gather::Output::Timeout(_) => break,
                    output => self.take_from_gatherer(now, output),
                }
                rested = false;
            }
            loop {
                match self.agent.poll_output() {
                    ice::Output::Timeout(_) => break,
                    output => self.take_from_agent(now, output),
                }
                rested = false;
            }
            while let Some(wanted) = self.own_relay.as_mut().and_then(|own| own.poll(now.time)) {
                match wanted {
                    Wanted::Permission { relayed, peer } => {
                        self.gather(now, gather::Input::NeedPermission { relayed, peer });
                    }
                    Wanted::Send { local, remote, bytes } => {
                        self.transmit(now, CandidateTransport::Udp, local, remote, bytes);
                    }
                }
                rested = false;
            }
            if rested {
                return;
            }
        }
    }

    fn take_from_gatherer(&mut self, now: Now, output: gather::Output) {
        match output {
            gather::Output::Transmit(transmit) => self.outputs.push_back(Output::Transmit(transmit)),
            gather::Output::ConnectStream { id, local, remote, tls } => {
                let local = SocketAddr::new(local, 0);
                self.outputs.push_back(Output::Connect { id, local, remote, tls, framing: Framing::Stun });
            }
            gather::Output::CloseStream { id } => self.outputs.push_back(Output::Disconnect { id }),
            gather::Output::Resolve { name } => self.outputs.push_back(Output::Resolve { name, multicast: false }),
            gather::Output::Candidate(found) => {
                if found.candidate.kind == CandidateType::Relayed {
                    self.relayed.insert(found.base);
                    let local = self.gatherer.relayed_over_stream(found.base);
                    let public = found.candidate.related;
                    if let (Some(own), Some(local), Some(public)) = (&mut self.own_relay, local, public) {
                        own.relayed(now.time, local, found.base, public, self.gatherer.transaction_id());
                    }
                }
                let interface_index = match found.base {
                    SocketAddr::V6(base) => base.scope_id(),
                    SocketAddr::V4(_) => 0,
                };
                self.outputs.push_back(Output::LocalCandidate(found.candidate.clone()));
                let local = ice::LocalCandidate { candidate: found.candidate, base: found.base, interface_index };
                self.gathered.push(local.clone());
                self.ice(now, ice::Input::LocalCandidate(local));
            }
            // The agent records the end of candidates of each generation.
            gather::Output::Event(EventKind::EndOfCandidates { .. }) => {}
            gather::Output::Event(event) => self.outputs.push_back(Output::Event(event)),
            gather::Output::RelayedData { relayed, peer, data } => {
                match self.own_relay.as_ref().and_then(|own| own.arrived(relayed, peer, &data)) {
                    Some(answer) => self.gather(now, gather::Input::SendToPeer { relayed, peer, data: &answer }),
                    None => self.arrived(now, CandidateTransport::Udp, relayed, peer, &data),
                }
            }
            gather::Output::PermissionGranted { relayed, peer } => {
                self.own_permission(now, relayed, peer, true);
                self.ice(now, ice::Input::PermissionGranted { relayed, peer });
            }
            gather::Output::PermissionDenied { relayed, peer, code } => {
                self.own_permission(now, relayed, peer, false);
                self.ice(now, ice::Input::PermissionDenied { relayed, peer, code });
            }
            gather::Output::AllocationLost { relayed, .. } => {
                self.gathered.retain(|local| local.base != relayed);
                self.relayed.remove(&relayed);
                self.ice(now, ice::Input::AllocationLost { relayed });
            }
            gather::Output::RoundTrip { rtt, .. } => self.ice(now, ice::Input::RoundTripHint(rtt)),
            gather::Output::EndOfCandidates => {
                self.gathering_done = true;
                self.ice(now, ice::Input::LocalEndOfCandidates);
                self.outputs.push_back(Output::LocalEndOfCandidates);
            }
            gather::Output::Closed => self.outputs.push_back(Output::Closed),
            gather::Output::Timeout(_) => {}
        }
    }

    fn own_permission(&mut self, now: Now, relayed: SocketAddr, peer: IpAddr, granted: bool) {
        if let Some(own) = &mut self.own_relay {
            own.permission(now.time, relayed, peer, granted);
        }
    }

    fn take_from_agent(&mut self, now: Now, output: ice::Output) {
        match output {
            ice::Output::Transmit(transmit) => {
                self.transmit(now, transmit.transport, transmit.local, transmit.remote, transmit.bytes);
            }
            ice::Output::NeedPermission { relayed, peer } => {
                self.gather(now, gather::Input::NeedPermission { relayed, peer });
            }
            ice::Output::ConnectTcp { pair, local, remote } => {
                let id = StreamId(self.next_peer_stream);
                self.next_peer_stream += 1;
                self.peer_streams.insert(id, PeerStream { pair, connected: false });
                let framing = Framing::LengthPrefixed;
                self.outputs.push_back(Output::Connect { id, local, remote, tls: None, framing });
            }
            ice::Output::SelectedPair(selected) => {
                if self.relayed.contains(&selected.pair.local) {
                    let (relayed, peer) = (selected.pair.local, selected.pair.remote);
                    self.gather(now, gather::Input::BindChannel { relayed, peer });
                }
                self.outputs.push_back(Output::Selected(selected));
            }
            ice::Output::StateChanged(state) => self.outputs.push_back(Output::StateChanged(state)),
            ice::Output::Event(event) => self.outputs.push_back(Output::Event(event)),
            ice::Output::Timeout(_) => {}
        }
    }

    /// The agent promised to be drained; if it is not, nothing is lost.
    fn take_late(&mut self, now: Now, output: ice::Output) -> Timestamp {
        self.take_from_agent(now, output);
        now.time
    }

    /// What a peer sent, directly or through a relay: a check, or data.
    fn arrived(
        &mut self,
        now: Now,
        transport: CandidateTransport,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
    ) {
        match Protocol::of(bytes) {
            Protocol::Stun => self.ice(now, ice::Input::Datagram { transport, local, remote, bytes }),
            Protocol::Dtls if self.is_known(remote) => self.outputs.push_back(Output::Data(bytes.to_vec())),
            // Nothing of ours: the door has recorded it.
            _ => {}
        }
    }

    /// Whether data from there may be the peer's (RFC 8445 §12.2): it is one of its candidates, which a stranger's
    /// address becomes only by an authenticated check. Before its description is there nobody can tell.
    fn is_known(&mut self, remote: SocketAddr) -> bool {
        if self.last_known == Some(remote) {
            return true;
        }
        let known = self.agent.remote_ufrag().is_none()
            || self.agent.remote_candidates().any(|candidate| candidate.address.ip() == Some(remote))
            || self.agent.checklist().iter().any(|pair| pair.pair.remote == remote);
        if known && self.agent.remote_ufrag().is_some() {
            self.last_known = Some(remote);
        }
        known
    }

    /// Sends from a base: a socket, a connection, or a relayed address.
    fn transmit(
        &mut self,
        now: Now,
        transport: CandidateTransport,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: Vec<u8>,
    ) {
        if self.relayed.contains(&local) {
            self.gather(now, gather::Input::SendToPeer { relayed: local, peer: remote, data: &bytes });
            return;
        }
        if !transport.is_tcp() {
            let transport = Transport::Udp;
            self.outputs.push_back(Output::Transmit(Transmit { transport, stream: None, local, remote, bytes }));
            return;
        }
        let wanted = Pair { transport, local, remote };
        let stream = self.peer_streams.iter().find(|(_, stream)| stream.connected && stream.pair == wanted);
        if let Some((id, _)) = stream {
            let (transport, stream) = (Transport::Tcp, Some(*id));
            self.outputs.push_back(Output::Transmit(Transmit { transport, stream, local, remote, bytes }));
        }
    }

    fn connected(&mut self, now: Now, id: StreamId, local: SocketAddr) {
        let Some(stream) = self.peer_streams.get_mut(&id) else {
            self.gather(now, gather::Input::StreamConnected { id, local });
            return;
        };
        let asked = stream.pair;
        stream.pair.local = local;
        stream.connected = true;
        self.ice(now, ice::Input::TcpConnected { pair: asked, local });
    }

    fn disconnected(&mut self, now: Now, id: StreamId, detail: &str) {
        let Some(stream) = self.peer_streams.remove(&id) else {
            // The gatherer treats a connection that failed and one that ended alike.
            self.gather(now, gather::Input::StreamClosed { id, detail });
            return;
        };
        let (pair, detail) = (stream.pair, detail.to_owned());
        let input = if stream.connected {
            ice::Input::TcpClosed { pair, detail }
        } else {
            ice::Input::TcpFailed { pair, detail }
        };
        self.ice(now, input);
    }

    /// Sockets and allocations outlive a restart, and so do their candidates: they are signaled again.
    fn restart(&mut self, now: Now, credentials: Credentials, side: Side) {
        self.last_known = None;
        self.gather(now, gather::Input::VerifyAllocations);
        self.ice(now, ice::Input::Restart { credentials, side });
        self.settle(now);
        for local in self.gathered.clone() {
            self.outputs.push_back(Output::LocalCandidate(local.candidate.clone()));
            self.ice(now, ice::Input::LocalCandidate(local));
            self.settle(now);
        }
        if self.gathering_done {
            self.outputs.push_back(Output::LocalEndOfCandidates);
            self.ice(now, ice::Input::LocalEndOfCandidates);
        }
    }
}
