//! A peer: the core's gatherer and ICE agent, driven as the real driver drives them, with the door that records.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use whyrelay_core::engine::gather::{self, GatherConfig, Gatherer, LocalSocket, Password, StreamId};
use whyrelay_core::ice::candidate::{Candidate, CandidateTransport, CandidateType};
use whyrelay_core::ice::{self, Agent, Config, Credentials, PairSnapshot, SelectedPair};
use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::datagram::{Classify, Passage};
use whyrelay_core::trace::event::{
    Datagram, Direction, EVENT_VERSION, EndReason, Event, EventKind, IceState, InterfaceUse, Pair, RefuseReason, Role,
    SessionOptions, Side, Transport, Vantage,
};
use whyrelay_core::trace::recording::{Recorder, encode};
use whyrelay_core::wire::demux::Protocol;
use whyrelay_core::wire::framing::{Deframer, Framing};
use whyrelay_core::wire::integrity::{Integrity, Key};
use whyrelay_core::wire::stun::{Class, Message, Method};

use super::network::HostId;
use super::server::{PASSWORD, PORT, USERNAME};
use super::setup::PeerSetup;

/// Never, as the agent says it.
const NEVER: Timestamp = Timestamp::from_micros(u64::MAX);

/// A DTLS record of application data, as far as a receiver here looks at it.
const DATA: [u8; 17] = [23, 0xFE, 0xFD, 0, 1, 0, 0, 0, 0, 0, 1, 0, 4, b'd', b'a', b't', b'a'];

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

/// What waits to be fed to a machine: each is drained before the next input.
enum Task {
    Gather(gather::Input<'static>),
    SendToPeer { relayed: SocketAddr, peer: SocketAddr, bytes: Vec<u8> },
    Agent(ice::Input<'static>),
    Receive { local: SocketAddr, remote: SocketAddr, bytes: Vec<u8> },
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
    running: Option<Running>,
    early: Vec<Signal>,
    actions: Vec<Action>,
    pub(super) first_selected: Option<Timestamp>,
    pub(super) first_usable: Option<Timestamp>,
    pub(super) failed: Option<Timestamp>,
    pub(super) data_received: u64,
}

/// What exists once the peer has started.
struct Running {
    gatherer: Gatherer,
    agent: Agent,
    sockets: Vec<SocketAddr>,
    streams: Vec<Stream>,
    locals: Vec<ice::LocalCandidate>,
    gathered: bool,
    /// The generation for which the peer last said end-of-candidates.
    remote_ended: Option<u32>,
    remote: Option<Credentials>,
    /// The answerer says nothing before it has an offer; what it has to say waits.
    may_signal: bool,
    tasks: VecDeque<Task>,
    gather_at: Timestamp,
    agent_at: Timestamp,
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
            running: None,
            early: Vec::new(),
            actions: Vec::new(),
            first_selected: None,
            first_usable: None,
            failed: None,
            data_received: 0,
        }
    }

    pub(super) fn start(&mut self, now: Timestamp) -> Vec<Action> {
        let options = SessionOptions {
            relay_only: self.setup.relay_only,
            no_turn: !self.setup.turn_udp && !self.setup.turn_tcp,
            port: Some(self.setup.port),
            patient: self.setup.patient,
            ..SessionOptions::default()
        };
        let id = if self.is_offerer() { "offer-peer-1" } else { "answer-peer-1" };
        let program = "whyrelay lab".to_owned();
        self.record(now, EventKind::RecordingStarted { version: EVENT_VERSION, program, id: id.to_owned(), options });

        let credentials = Credentials::generate(&mut self.random);
        let config = Config {
            tie_breaker: self.setup.tie_breaker,
            relay_only: self.setup.relay_only,
            patient: self.setup.patient,
            ..Config::new(self.setup.role, credentials.clone())
        };
        let agent = Agent::new(now, config, self.random.fork());
        let gather = GatherConfig {
            servers: self.servers(),
            relay_only: self.setup.relay_only,
            no_turn: !self.setup.turn_udp && !self.setup.turn_tcp,
            patient: self.setup.patient,
            ..GatherConfig::default()
        };
        let gatherer = Gatherer::new(now, gather, self.random.fork());
        let sockets: Vec<_> = self.addresses.iter().map(|ip| SocketAddr::new(*ip, self.setup.port)).collect();
        let (name, index, addresses) = ("eth0".to_owned(), 2, self.addresses.clone());
        self.record(now, EventKind::Interface { name, index, addresses, used: InterfaceUse::Used });
        let mut tasks = VecDeque::new();
        for local in sockets.clone() {
            let interface = Some("eth0".to_owned());
            let opened = EventKind::SocketOpened {
                transport: Transport::Udp,
                local,
                interface: interface.clone(),
                mark: None,
                receive_buffer: None,
            };
            self.record(now, opened);
            let socket = LocalSocket { local, interface, transport: CandidateTransport::Udp };
            tasks.push_back(Task::Gather(gather::Input::Socket(socket)));
        }
        tasks.push_back(Task::Gather(gather::Input::Complete));
        self.running = Some(Running {
            gatherer,
            agent,
            sockets,
            streams: Vec::new(),
            locals: Vec::new(),
            gathered: false,
            remote_ended: None,
            remote: None,
            may_signal: self.is_offerer(),
            tasks,
            gather_at: now,
            agent_at: now,
        });
        if self.is_offerer() {
            self.describe(now, Side::Local, true, &credentials, 0);
            self.actions.push(Action::Signal(Signal::Description { offer: true, credentials, generation: 0 }));
        }
        self.pump(now);
        for signal in std::mem::take(&mut self.early) {
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
        if !self.running.as_ref().is_some_and(|running| running.sockets.contains(&local)) {
            return Vec::new();
        }
        self.door(now, Direction::In, Transport::Udp, local, source, bytes);
        let Some(running) = &mut self.running else { return Vec::new() };
        let input = gather::Input::Datagram { local, remote: source, bytes };
        let ours = running.gatherer.handle_input(now, input);
        self.drain_gatherer(now);
        if !ours {
            self.take_peers(local, source, bytes.to_vec());
        }
        self.pump(now);
        self.finish()
    }

    pub(super) fn signaled(&mut self, now: Timestamp, signal: Signal) -> Vec<Action> {
        if self.running.is_none() {
            self.early.push(signal);
            return Vec::new();
        }
        self.take_signal(now, signal);
        self.finish()
    }

    pub(super) fn stream_connected(
        &mut self,
        now: Timestamp,
        id: StreamId,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Vec<Action> {
        let Some(running) = &mut self.running else { return Vec::new() };
        running.streams.push(Stream { id, local, remote, deframer: Deframer::new(Framing::Stun) });
        running.tasks.push_back(Task::Gather(gather::Input::StreamConnected { id, local }));
        self.pump(now);
        self.finish()
    }

    pub(super) fn stream_failed(&mut self, now: Timestamp, id: StreamId) -> Vec<Action> {
        let Some(running) = &mut self.running else { return Vec::new() };
        running.tasks.push_back(Task::Gather(gather::Input::StreamFailed { id, detail: "connection timed out" }));
        self.pump(now);
        self.finish()
    }

    pub(super) fn stream_data(&mut self, now: Timestamp, id: StreamId, bytes: &[u8]) -> Vec<Action> {
        let Some(running) = &mut self.running else { return Vec::new() };
        let Some(stream) = running.streams.iter_mut().find(|stream| stream.id == id) else { return Vec::new() };
        stream.deframer.push(bytes);
        let (local, remote) = (stream.local, stream.remote);
        let mut messages = Vec::new();
        while let Ok(Some(message)) = stream.deframer.next_message() {
            messages.push(message.to_vec());
        }
        for message in messages {
            self.door(now, Direction::In, Transport::Tcp, local, remote, &message);
        }
        if let Some(running) = &mut self.running {
            running.gatherer.handle_input(now, gather::Input::StreamData { id, bytes });
        }
        self.drain_gatherer(now);
        self.pump(now);
        self.finish()
    }

    pub(super) fn wake(&mut self, now: Timestamp) -> Vec<Action> {
        let Some(running) = &mut self.running else { return Vec::new() };
        if running.gather_at <= now {
            running.tasks.push_back(Task::Gather(gather::Input::Timeout));
        }
        if running.agent_at <= now {
            running.tasks.push_back(Task::Agent(ice::Input::Timeout));
        }
        self.pump(now);
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
        let Some(running) = &mut self.running else { return Vec::new() };
        let Some(pair) = running.agent.send_pair().map(|selected| selected.pair) else { return Vec::new() };
        self.send(now, pair.local, pair.remote, DATA.to_vec());
        self.pump(now);
        self.finish()
    }

    /// Gives every allocation back and writes the last event.
    pub(super) fn close(&mut self, now: Timestamp) -> Vec<Action> {
        let Some(running) = &mut self.running else { return Vec::new() };
        let failed = running.agent.state() == IceState::Failed;
        running.tasks.push_back(Task::Gather(gather::Input::Close));
        running.tasks.push_back(Task::Agent(ice::Input::Close));
        self.pump(now);
        let reason = if failed { EndReason::Failed } else { EndReason::Finished };
        self.record(now, EventKind::RecordingEnded { reason });
        self.finish()
    }

    pub(super) fn state(&self) -> IceState {
        self.running.as_ref().map_or(IceState::New, |running| running.agent.state())
    }

    pub(super) fn role(&self) -> Option<Role> {
        self.running.as_ref().map(|running| running.agent.role())
    }

    pub(super) fn generation(&self) -> u32 {
        self.running.as_ref().map_or(0, |running| running.agent.generation())
    }

    /// Whether both sides have named all candidates of this generation, as far as this side knows.
    pub(super) fn knows_all_candidates(&self) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| running.gathered && running.remote_ended == Some(running.agent.generation()))
    }

    pub(super) fn selected(&self) -> Option<SelectedPair> {
        self.running.as_ref().and_then(|running| running.agent.selected_pair().cloned())
    }

    pub(super) fn checklist(&self) -> Vec<PairSnapshot> {
        self.running.as_ref().map(|running| running.agent.checklist()).unwrap_or_default()
    }

    /// The recording as it would stand in a file.
    pub(super) fn recording(&self) -> String {
        self.events.iter().map(encode).collect()
    }

    fn is_offerer(&self) -> bool {
        self.recorder.vantage() == Vantage::A
    }

    fn servers(&self) -> Vec<gather::Server> {
        let mut servers = Vec::new();
        let mut add = |ip: IpAddr, scheme: &str, query: &str| {
            let host = SocketAddr::new(ip, PORT);
            let Ok(url) = format!("{scheme}:{host}{query}").parse() else { return };
            let turn = scheme == "turn";
            servers.push(gather::Server {
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
        let Some(running) = &mut self.running else { return };
        match signal {
            Signal::Description { offer, credentials, generation } => {
                running.remote = Some(credentials.clone());
                let restarts = offer && generation > running.agent.generation();
                self.describe(now, Side::Remote, offer, &credentials, generation);
                if restarts {
                    let own = Credentials::generate(&mut self.random);
                    self.restart_agent(now, own, Side::Remote);
                }
                let Some(running) = &mut self.running else { return };
                running.tasks.push_back(Task::Agent(ice::Input::RemoteCredentials(credentials)));
                if offer {
                    let own = running.agent.local_credentials().clone();
                    running.may_signal = true;
                    self.describe(now, Side::Local, false, &own, generation);
                    let answer = Signal::Description { offer: false, credentials: own, generation };
                    self.actions.push(Action::Signal(answer));
                    self.signal_locals();
                }
            }
            Signal::Candidate(line) => match line.parse::<Candidate>() {
                Ok(candidate) => {
                    let input = ice::Input::RemoteCandidate { candidate, resolved: None };
                    running.tasks.push_back(Task::Agent(input));
                }
                Err(error) => {
                    let reason = RefuseReason::Malformed { detail: error.to_string() };
                    self.record(now, EventKind::RemoteCandidateRefused { line, reason });
                }
            },
            Signal::EndOfCandidates => {
                running.remote_ended = Some(running.agent.generation());
                running.tasks.push_back(Task::Agent(ice::Input::RemoteEndOfCandidates));
            }
            Signal::Restart => self.restart_as_offerer(now),
        }
        self.pump(now);
    }

    fn restart_as_offerer(&mut self, now: Timestamp) {
        let credentials = Credentials::generate(&mut self.random);
        self.restart_agent(now, credentials.clone(), Side::Local);
        let generation = self.generation();
        self.describe(now, Side::Local, true, &credentials, generation);
        self.actions.push(Action::Signal(Signal::Description { offer: true, credentials, generation }));
        self.signal_locals();
        self.pump(now);
    }

    fn restart_agent(&mut self, now: Timestamp, credentials: Credentials, side: Side) {
        let Some(running) = &mut self.running else { return };
        running.tasks.push_back(Task::Agent(ice::Input::Restart { credentials, side }));
        for local in running.locals.clone() {
            running.tasks.push_back(Task::Agent(ice::Input::LocalCandidate(local)));
        }
        if running.gathered {
            running.tasks.push_back(Task::Agent(ice::Input::LocalEndOfCandidates));
        }
        self.pump(now);
    }

    /// Signals what has been gathered so far.
    fn signal_locals(&mut self) {
        let Some(running) = &self.running else { return };
        let lines = running.locals.iter().map(|local| Action::Signal(Signal::Candidate(local.candidate.to_string())));
        self.actions.extend(lines);
        if running.gathered {
            self.actions.push(Action::Signal(Signal::EndOfCandidates));
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

    // ---- the machines ------------------------------------------------------------------------------------------

    /// Feeds what waits, one input at a time.
    fn pump(&mut self, now: Timestamp) {
        while let Some(task) = self.running.as_mut().and_then(|running| running.tasks.pop_front()) {
            let Some(running) = &mut self.running else { return };
            match task {
                Task::Gather(input) => {
                    running.gatherer.handle_input(now, input);
                    self.drain_gatherer(now);
                }
                Task::SendToPeer { relayed, peer, bytes } => {
                    running.gatherer.handle_input(now, gather::Input::SendToPeer { relayed, peer, data: &bytes });
                    self.drain_gatherer(now);
                }
                Task::Agent(input) => {
                    running.agent.handle_input(now, input);
                    self.drain_agent(now);
                }
                Task::Receive { local, remote, bytes } => {
                    let transport = CandidateTransport::Udp;
                    running.agent.handle_input(now, ice::Input::Datagram { transport, local, remote, bytes: &bytes });
                    self.drain_agent(now);
                }
            }
        }
        self.look_at_agent(now);
    }

    fn drain_gatherer(&mut self, now: Timestamp) {
        loop {
            let Some(running) = &mut self.running else { return };
            match running.gatherer.poll_output() {
                gather::Output::Transmit(transmit) => {
                    self.door(
                        now,
                        Direction::Out,
                        transmit.transport,
                        transmit.local,
                        transmit.remote,
                        &transmit.bytes,
                    );
                    self.actions.push(match transmit.stream {
                        Some(id) => Action::SendOnStream { id, bytes: transmit.bytes },
                        None => {
                            Action::Send { source: transmit.local, destination: transmit.remote, bytes: transmit.bytes }
                        }
                    });
                }
                gather::Output::ConnectStream { id, local, remote, .. } => {
                    self.actions.push(Action::Connect { id, local, remote });
                }
                gather::Output::CloseStream { id } => {
                    running.streams.retain(|stream| stream.id != id);
                    self.actions.push(Action::CloseStream(id));
                }
                // Every server of the lab has an address.
                gather::Output::Resolve { .. } | gather::Output::Closed => {}
                gather::Output::Candidate(found) => {
                    let local = ice::LocalCandidate::new(found.candidate, found.base);
                    let line = local.candidate.to_string();
                    running.locals.push(local.clone());
                    running.tasks.push_back(Task::Agent(ice::Input::LocalCandidate(local)));
                    if running.may_signal {
                        self.actions.push(Action::Signal(Signal::Candidate(line)));
                    }
                }
                // The agent records this one, too.
                gather::Output::Event(EventKind::EndOfCandidates { .. }) => {}
                gather::Output::Event(kind) => self.record(now, kind),
                gather::Output::RelayedData { relayed, peer, data } => self.take_peers(relayed, peer, data),
                gather::Output::PermissionGranted { relayed, peer } => {
                    let input = ice::Input::PermissionGranted { relayed, peer };
                    running.tasks.push_back(Task::Agent(input));
                }
                gather::Output::PermissionDenied { relayed, peer, code } => {
                    let input = ice::Input::PermissionDenied { relayed, peer, code };
                    running.tasks.push_back(Task::Agent(input));
                }
                gather::Output::AllocationLost { relayed, .. } => {
                    running.tasks.push_back(Task::Agent(ice::Input::AllocationLost { relayed }));
                }
                gather::Output::RoundTrip { rtt, exact, .. } => {
                    if exact {
                        running.tasks.push_back(Task::Agent(ice::Input::RoundTripHint(rtt)));
                    }
                }
                gather::Output::EndOfCandidates => {
                    running.gathered = true;
                    running.tasks.push_back(Task::Agent(ice::Input::LocalEndOfCandidates));
                    if running.may_signal {
                        self.actions.push(Action::Signal(Signal::EndOfCandidates));
                    }
                }
                gather::Output::Timeout(at) => {
                    running.gather_at = at;
                    return;
                }
            }
        }
    }

    fn drain_agent(&mut self, now: Timestamp) {
        loop {
            let Some(running) = &mut self.running else { return };
            match running.agent.poll_output() {
                ice::Output::Transmit(transmit) => self.send(now, transmit.local, transmit.remote, transmit.bytes),
                ice::Output::NeedPermission { relayed, peer } => {
                    running.tasks.push_back(Task::Gather(gather::Input::NeedPermission { relayed, peer }));
                }
                ice::Output::ConnectTcp { pair, .. } => {
                    let detail = "the lab's peers have no TCP candidates".to_owned();
                    running.tasks.push_back(Task::Agent(ice::Input::TcpFailed { pair, detail }));
                }
                ice::Output::SelectedPair(selected) => {
                    let Pair { local, remote, .. } = selected.pair;
                    if selected.local.kind == CandidateType::Relayed {
                        let input = gather::Input::BindChannel { relayed: local, peer: remote };
                        running.tasks.push_back(Task::Gather(input));
                    }
                    self.first_selected.get_or_insert(now);
                }
                ice::Output::StateChanged(_) => {}
                ice::Output::Event(kind) => self.record(now, kind),
                ice::Output::Timeout(at) => {
                    running.agent_at = at;
                    return;
                }
            }
        }
    }

    fn look_at_agent(&mut self, now: Timestamp) {
        let Some(running) = &self.running else { return };
        if running.agent.send_pair().is_some() {
            self.first_usable.get_or_insert(now);
        }
        match running.agent.state() {
            IceState::Failed => _ = self.failed.get_or_insert(now),
            _ => self.failed = None,
        }
    }

    /// What is neither the gatherer's nor noise: checks, or the peer's data.
    fn take_peers(&mut self, local: SocketAddr, remote: SocketAddr, bytes: Vec<u8>) {
        match Protocol::of(&bytes) {
            Protocol::Stun => {
                if let Some(running) = &mut self.running {
                    running.tasks.push_back(Task::Receive { local, remote, bytes });
                }
            }
            Protocol::Dtls => self.data_received += 1,
            _ => {}
        }
    }

    /// Sends from a socket through the door, or from a relayed address through the gatherer, which comes to the door.
    fn send(&mut self, now: Timestamp, local: SocketAddr, remote: SocketAddr, bytes: Vec<u8>) {
        let Some(running) = &mut self.running else { return };
        if running.sockets.contains(&local) {
            self.door(now, Direction::Out, Transport::Udp, local, remote, &bytes);
            self.actions.push(Action::Send { source: local, destination: remote, bytes });
        } else {
            running.tasks.push_back(Task::SendToPeer { relayed: local, peer: remote, bytes });
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
            let kind =
                EventKind::Traffic { direction, transport, local, remote, datagrams: 1, bytes: bytes.len() as u64 };
            return self.record(now, kind);
        }
        let integrity = self.verify(direction, local, remote, bytes);
        let interface = (direction == Direction::In && transport == Transport::Udp).then_some("eth0");
        let passage = Passage { direction, transport, local, remote, interface, bytes, integrity };
        self.record(now, EventKind::Datagram(Datagram::sanitised(passage)));
    }

    /// The message integrity where there is a key: of TURN the gatherer's, of checks the receiver's of the request.
    fn verify(&self, direction: Direction, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) -> Option<Integrity> {
        let running = self.running.as_ref()?;
        if let Some(integrity) = running.gatherer.verify(local, remote, bytes) {
            return Some(integrity);
        }
        let message = Message::decode(bytes).ok().filter(|message| message.method == Method::BINDING)?;
        let to_us = match (message.class, direction) {
            (Class::Request, direction) => direction == Direction::In,
            (Class::Success | Class::Error, direction) => direction == Direction::Out,
            (Class::Indication, _) => return None,
        };
        let password =
            if to_us { running.agent.local_credentials().password() } else { running.remote.as_ref()?.password() };
        match message.check_integrity(&Key::short_term(password)) {
            Integrity::Absent => None,
            checked => Some(checked),
        }
    }

    fn record(&mut self, now: Timestamp, kind: EventKind) {
        let event = self.recorder.record(now, kind);
        self.events.push(event);
    }

    /// What the world is to do, the next wake-up included.
    fn finish(&mut self) -> Vec<Action> {
        if let Some(running) = &self.running {
            let at = running.gather_at.min(running.agent_at);
            if at < NEVER {
                self.actions.push(Action::Wake(at));
            }
        }
        std::mem::take(&mut self.actions)
    }
}

/// How long a moment is after another, for outcomes.
pub(super) fn after(start: Timestamp, moment: Option<Timestamp>) -> Option<Duration> {
    moment.map(|moment| moment.since(start))
}
