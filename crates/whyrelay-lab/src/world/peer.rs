//! A peer: the core's gatherer and ICE agent as one machine, driven as the real driver drives it, with the door that
//! records.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use whyrelay_core::engine::gather::{GatherConfig, LocalSocket, Password, Server, StreamId};
use whyrelay_core::engine::peer::{self, Input, Output, PeerConfig};
use whyrelay_core::ice::candidate::{Candidate, CandidateTransport};
use whyrelay_core::ice::{self, Credentials, PairSnapshot, SelectedPair};
use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::datagram::{Classify, Passage};
use whyrelay_core::trace::event::{
    Datagram, Direction, EVENT_VERSION, EndReason, Event, EventKind, IceState, InterfaceUse, RefuseReason, Role,
    SessionOptions, Side, Transport, Vantage,
};
use whyrelay_core::trace::recording::{Recorder, encode};
use whyrelay_core::wire::framing::{Deframer, Framing};

use super::network::HostId;
use super::server::{PASSWORD, PORT, USERNAME};
use super::setup::PeerSetup;

/// Never, as the machine says it.
const NEVER: Timestamp = Timestamp::from_micros(u64::MAX);

/// A DTLS record of application data, as far as a receiver here looks at it.
const DATA: [u8; 17] = [23, 0xFE, 0xFD, 0, 1, 0, 0, 0, 0, 0, 1, 0, 4, b'd', b'a', b't', b'a'];

/// The interface that every host has.
const INTERFACE: &str = "eth0";

/// What goes from peer to peer over signaling.
#[derive(Clone, Debug)]
pub(super) enum Signal {
    /// An offer or an answer, as far as ICE is concerned.
    Description { offer: bool, credentials: Credentials, generation: u32 },
    /// A candidate line.
    Candidate(String),
    /// No more candidates in this generation.
    EndOfCandidates,
    /// The answerer asks for a restart; the offerer makes it.
    Restart,
}

/// What a peer wants the world to do.
#[derive(Debug)]
pub(super) enum Action {
    Send { source: SocketAddr, destination: SocketAddr, bytes: Vec<u8> },
    Connect { id: StreamId, local: IpAddr, remote: SocketAddr },
    SendOnStream { id: StreamId, bytes: Vec<u8> },
    CloseStream(StreamId),
    Signal(Signal),
    Wake(Timestamp),
}

/// A connection to the server.
struct Stream {
    id: StreamId,
    local: SocketAddr,
    remote: SocketAddr,
    deframer: Deframer,
}

pub(super) struct Peer {
    pub(super) host: HostId,
    setup: PeerSetup,
    addresses: Vec<IpAddr>,
    server: Vec<IpAddr>,
    random: Random,
    recorder: Recorder,
    pub(super) events: Vec<Event>,
    traffic: BTreeMap<(Direction, SocketAddr, SocketAddr), (Transport, u64, u64)>,
    /// The machine, once the peer has started.
    machine: Option<peer::Peer>,
    sockets: Vec<SocketAddr>,
    streams: Vec<Stream>,
    /// What arrived before this peer started, as a mailbox keeps it.
    mailbox: Vec<Signal>,
    /// What an answerer has to say before it has an offer.
    held: Vec<Signal>,
    may_signal: bool,
    gathered: bool,
    /// The generation for which the other side last said end-of-candidates.
    remote_ended: Option<u32>,
    wake_at: Timestamp,
    actions: Vec<Action>,
    pub(super) first_selected: Option<Timestamp>,
    pub(super) first_usable: Option<Timestamp>,
    pub(super) failed: Option<Timestamp>,
    pub(super) data_received: u64,
}

impl Peer {
    pub(super) fn new(
        host: HostId,
        setup: PeerSetup,
        vantage: Vantage,
        addresses: Vec<IpAddr>,
        server: Vec<IpAddr>,
        random: Random,
    ) -> Self {
        Self {
            host,
            setup,
            addresses,
            server,
            random,
            recorder: Recorder::new(vantage),
            events: Vec::new(),
            traffic: BTreeMap::new(),
            machine: None,
            sockets: Vec::new(),
            streams: Vec::new(),
            mailbox: Vec::new(),
            held: Vec::new(),
            may_signal: vantage == Vantage::A,
            gathered: false,
            remote_ended: None,
            wake_at: NEVER,
            actions: Vec::new(),
            first_selected: None,
            first_usable: None,
            failed: None,
            data_received: 0,
        }
    }

    pub(super) fn start(&mut self, now: Timestamp) -> Vec<Action> {
        let no_turn = !self.setup.turn_udp && !self.setup.turn_tcp;
        let (relay_only, patient, port) = (self.setup.relay_only, self.setup.patient, Some(self.setup.port));
        let options = SessionOptions { relay_only, no_turn, port, patient, ..SessionOptions::default() };
        let id = if self.is_offerer() { "offer-peer-1" } else { "answer-peer-1" }.to_owned();
        let program = "whyrelay lab".to_owned();
        self.record(now, EventKind::RecordingStarted { version: EVENT_VERSION, program, id, options });

        let credentials = Credentials::generate(&mut self.random);
        let tie_breaker = self.setup.tie_breaker;
        let usual = ice::Config::new(self.setup.role, credentials.clone());
        let config = PeerConfig {
            ice: ice::Config { tie_breaker, relay_only, patient, ..usual },
            gather: GatherConfig { servers: self.servers(), relay_only, no_turn, patient, ..GatherConfig::default() },
        };
        let machine = peer::Peer::new(now, config, &mut self.random);
        self.machine = Some(machine);
        let (name, index, addresses) = (INTERFACE.to_owned(), 2, self.addresses.clone());
        self.record(now, EventKind::Interface { name, index, addresses, used: InterfaceUse::Used });
        if self.is_offerer() {
            self.describe(now, Side::Local, true, &credentials, 0);
            self.actions.push(Action::Signal(Signal::Description { offer: true, credentials, generation: 0 }));
        }
        self.drain(now);
        self.sockets = self.addresses.iter().map(|ip| SocketAddr::new(*ip, self.setup.port)).collect();
        for local in self.sockets.clone() {
            let (transport, interface) = (Transport::Udp, Some(INTERFACE.to_owned()));
            let (mark, receive_buffer) = (None, None);
            let opened =
                EventKind::SocketOpened { transport, local, interface: interface.clone(), mark, receive_buffer };
            self.record(now, opened);
            self.feed(now, Input::Socket(LocalSocket { local, interface, transport: CandidateTransport::Udp }));
        }
        self.feed(now, Input::AllNamed);
        for signal in std::mem::take(&mut self.mailbox) {
            self.take_signal(now, signal);
        }
        self.finish()
    }

    pub(super) fn receive(
        &mut self,
        now: Timestamp,
        source: SocketAddr,
        local: SocketAddr,
        bytes: &[u8],
    ) -> Vec<Action> {
        if self.machine.is_some() && self.sockets.contains(&local) {
            self.door(now, Direction::In, Transport::Udp, local, source, bytes);
            self.feed(now, Input::Datagram { local, remote: source, bytes });
        }
        self.finish()
    }

    pub(super) fn signaled(&mut self, now: Timestamp, signal: Signal) -> Vec<Action> {
        if self.machine.is_some() {
            self.take_signal(now, signal);
        } else {
            self.mailbox.push(signal);
        }
        self.finish()
    }

    pub(super) fn stream_connected(
        &mut self,
        now: Timestamp,
        id: StreamId,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Vec<Action> {
        self.streams.push(Stream { id, local, remote, deframer: Deframer::new(Framing::Stun) });
        self.feed(now, Input::Connected { id, local });
        self.finish()
    }

    pub(super) fn stream_failed(&mut self, now: Timestamp, id: StreamId) -> Vec<Action> {
        self.feed(now, Input::Disconnected { id, detail: "connection timed out" });
        self.finish()
    }

    pub(super) fn stream_data(&mut self, now: Timestamp, id: StreamId, bytes: &[u8]) -> Vec<Action> {
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) else { return Vec::new() };
        let (local, remote) = (stream.local, stream.remote);
        stream.deframer.push(bytes);
        let mut messages = Vec::new();
        while let Ok(Some(message)) = stream.deframer.next_message() {
            messages.push(message.to_vec());
        }
        for message in messages {
            self.door(now, Direction::In, Transport::Tcp, local, remote, &message);
            self.feed(now, Input::Message { id, bytes: &message });
        }
        self.finish()
    }

    pub(super) fn wake(&mut self, now: Timestamp) -> Vec<Action> {
        if self.wake_at <= now {
            self.feed(now, Input::Timeout);
        }
        self.finish()
    }

    /// Asks for an ICE restart: the offerer makes it, the answerer asks for it.
    pub(super) fn restart(&mut self, now: Timestamp) -> Vec<Action> {
        if self.is_offerer() {
            self.restart_as_offerer(now);
        } else {
            self.actions.push(Action::Signal(Signal::Restart));
        }
        self.finish()
    }

    /// Sends one datagram of the data channel, if there is a pair to send it on.
    pub(super) fn send_data(&mut self, now: Timestamp) -> Vec<Action> {
        self.feed(now, Input::Data(&DATA));
        self.finish()
    }

    /// Gives every allocation back and writes the last event.
    pub(super) fn close(&mut self, now: Timestamp) -> Vec<Action> {
        let reason = if self.state() == IceState::Failed { EndReason::Failed } else { EndReason::Finished };
        self.feed(now, Input::Close);
        for ((direction, local, remote), (transport, datagrams, bytes)) in std::mem::take(&mut self.traffic) {
            self.record(now, EventKind::Traffic { direction, transport, local, remote, datagrams, bytes });
        }
        self.record(now, EventKind::RecordingEnded { reason });
        self.finish()
    }

    pub(super) fn state(&self) -> IceState {
        self.machine.as_ref().map_or(IceState::New, |machine| machine.agent().state())
    }

    pub(super) fn role(&self) -> Option<Role> {
        self.machine.as_ref().map(|machine| machine.agent().role())
    }

    pub(super) fn generation(&self) -> u32 {
        self.machine.as_ref().map_or(0, |machine| machine.agent().generation())
    }

    /// Whether both sides have named all candidates of this generation, as far as this side knows.
    pub(super) fn knows_all_candidates(&self) -> bool {
        self.gathered && self.remote_ended == Some(self.generation())
    }

    pub(super) fn selected(&self) -> Option<SelectedPair> {
        self.machine.as_ref().and_then(|machine| machine.agent().selected_pair().cloned())
    }

    pub(super) fn checklist(&self) -> Vec<PairSnapshot> {
        self.machine.as_ref().map(|machine| machine.agent().checklist()).unwrap_or_default()
    }

    /// The recording as it would stand in a file.
    pub(super) fn recording(&self) -> String {
        self.events.iter().map(encode).collect()
    }

    fn is_offerer(&self) -> bool {
        self.recorder.vantage() == Vantage::A
    }

    fn servers(&self) -> Vec<Server> {
        let mut servers = Vec::new();
        let mut add = |ip: IpAddr, scheme: &str, query: &str| {
            let host = SocketAddr::new(ip, PORT);
            let Ok(url) = format!("{scheme}:{host}{query}").parse() else { return };
            let turn = scheme == "turn";
            servers.push(Server {
                url,
                addresses: vec![ip],
                username: turn.then(|| USERNAME.to_owned()),
                password: turn.then(|| Password::new(PASSWORD.to_owned())),
            });
        };
        for ip in self.server.iter().copied() {
            if !self.addresses.iter().any(|own| own.is_ipv4() == ip.is_ipv4()) {
                continue;
            }
            add(ip, "stun", "");
            if self.setup.turn_udp {
                add(ip, "turn", "?transport=udp");
            }
            if self.setup.turn_tcp {
                add(ip, "turn", "?transport=tcp");
            }
        }
        servers
    }

    // ---- signaling ---------------------------------------------------------------------------------------------

    fn take_signal(&mut self, now: Timestamp, signal: Signal) {
        match signal {
            Signal::Description { offer, credentials, generation } => {
                self.describe(now, Side::Remote, offer, &credentials, generation);
                if offer {
                    self.answer(now, generation);
                }
                self.feed(now, Input::RemoteCredentials(credentials));
            }
            Signal::Candidate(line) => match line.parse::<Candidate>() {
                Ok(candidate) => self.feed(now, Input::RemoteCandidate(candidate)),
                Err(error) => {
                    let reason = RefuseReason::Malformed { detail: error.to_string() };
                    self.record(now, EventKind::RemoteCandidateRefused { line, reason });
                }
            },
            Signal::EndOfCandidates => {
                self.remote_ended = Some(self.generation());
                self.feed(now, Input::RemoteEndOfCandidates);
            }
            Signal::Restart => self.restart_as_offerer(now),
        }
    }

    /// The answer goes out before the candidates that belong to it.
    fn answer(&mut self, now: Timestamp, generation: u32) {
        let Some(machine) = &self.machine else { return };
        let restarts = generation > machine.agent().generation();
        let known = machine.agent().local_credentials().clone();
        let credentials = if restarts { Credentials::generate(&mut self.random) } else { known };
        self.describe(now, Side::Local, false, &credentials, generation);
        let answer = Signal::Description { offer: false, credentials: credentials.clone(), generation };
        self.actions.push(Action::Signal(answer));
        self.may_signal = true;
        if restarts {
            self.feed(now, Input::Restart { credentials, side: Side::Remote });
        } else {
            self.actions.extend(std::mem::take(&mut self.held).into_iter().map(Action::Signal));
        }
    }

    fn restart_as_offerer(&mut self, now: Timestamp) {
        let credentials = Credentials::generate(&mut self.random);
        let generation = self.generation() + 1;
        self.describe(now, Side::Local, true, &credentials, generation);
        let offer = Signal::Description { offer: true, credentials: credentials.clone(), generation };
        self.actions.push(Action::Signal(offer));
        self.feed(now, Input::Restart { credentials, side: Side::Local });
    }

    fn signal(&mut self, signal: Signal) {
        if self.may_signal {
            self.actions.push(Action::Signal(signal));
        } else {
            self.held.push(signal);
        }
    }

    fn describe(&mut self, now: Timestamp, side: Side, offer: bool, credentials: &Credentials, generation: u32) {
        let kind = EventKind::Description {
            side,
            description: if offer { "offer" } else { "answer" }.to_owned(),
            ufrag: credentials.ufrag().to_owned(),
            setup: if offer { "actpass" } else { "active" }.to_owned(),
            fingerprint: "sha-256 00".to_owned(),
            ice_options: vec!["trickle".to_owned()],
            generation,
        };
        self.record(now, kind);
    }

    // ---- the machine -------------------------------------------------------------------------------------------

    fn feed(&mut self, now: Timestamp, input: Input<'_>) {
        let Some(machine) = &mut self.machine else { return };
        machine.handle_input(now, input);
        self.drain(now);
    }

    fn drain(&mut self, now: Timestamp) {
        while let Some(machine) = &mut self.machine {
            match machine.poll_output(now) {
                Output::Transmit(transmit) => {
                    let peer::Transmit { transport, stream, local, remote, bytes } = transmit;
                    self.door(now, Direction::Out, transport, local, remote, &bytes);
                    self.actions.push(match stream {
                        Some(id) => Action::SendOnStream { id, bytes: Framing::Stun.wrap(&bytes) },
                        None => Action::Send { source: local, destination: remote, bytes },
                    });
                }
                Output::Connect { id, local, remote, .. } => {
                    self.actions.push(Action::Connect { id, local: local.ip(), remote });
                }
                Output::Disconnect { id } => {
                    self.streams.retain(|stream| stream.id != id);
                    self.actions.push(Action::CloseStream(id));
                }
                // Every server of the lab has an address, and no candidate a name.
                Output::Resolve { .. } | Output::StateChanged(_) | Output::Closed => {}
                Output::LocalCandidate(candidate) => self.signal(Signal::Candidate(candidate.to_string())),
                Output::LocalEndOfCandidates => {
                    self.gathered = true;
                    self.signal(Signal::EndOfCandidates);
                }
                Output::Data(_) => self.data_received += 1,
                Output::Selected(_) => _ = self.first_selected.get_or_insert(now),
                Output::Event(kind) => self.record(now, kind),
                Output::Timeout(at) => {
                    self.wake_at = at;
                    break;
                }
            }
        }
        let Some(machine) = &self.machine else { return };
        if machine.agent().send_pair().is_some() {
            self.first_usable.get_or_insert(now);
        }
        match machine.agent().state() {
            IceState::Failed => _ = self.failed.get_or_insert(now),
            IceState::Closed => {}
            _ => self.failed = None,
        }
    }

    /// The door: everything that passes is recorded before anything else is done with it.
    fn door(
        &mut self,
        now: Timestamp,
        direction: Direction,
        transport: Transport,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
    ) {
        if Classify::of(bytes) == Classify::Count {
            let count = self.traffic.entry((direction, local, remote)).or_insert((transport, 0, 0));
            count.1 += 1;
            count.2 += bytes.len() as u64;
            return;
        }
        let integrity = self.machine.as_ref().and_then(|machine| machine.verify(local, remote, bytes));
        let interface = (direction == Direction::In && transport == Transport::Udp).then_some(INTERFACE);
        let passage = Passage { direction, transport, local, remote, interface, bytes, integrity };
        self.record(now, EventKind::Datagram(Datagram::sanitised(passage)));
    }

    fn record(&mut self, now: Timestamp, kind: EventKind) {
        let event = self.recorder.record(now, kind);
        self.events.push(event);
    }

    /// What the world is to do, the next wake-up included.
    fn finish(&mut self) -> Vec<Action> {
        if self.wake_at < NEVER {
            self.actions.push(Action::Wake(self.wake_at));
        }
        std::mem::take(&mut self.actions)
    }
}

/// How long a moment is after another, for outcomes.
pub(super) fn after(start: Timestamp, moment: Option<Timestamp>) -> Option<Duration> {
    moment.map(|moment| moment.since(start))
}
