//! The loop of a session: everything that happens comes in here, one thing at a time, and is recorded first.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::net::{SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use whyrelay_core::engine::gather::{GatherConfig, LocalSocket, Server};
use whyrelay_core::engine::peer::{self, Peer, PeerConfig, Transmit};
use whyrelay_core::engine::server_url::ServerUrl;
use whyrelay_core::ice::candidate::CandidateTransport;
use whyrelay_core::ice::{self, Credentials};
use whyrelay_core::random::Random;
use whyrelay_core::sdp::SessionDescription;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::{
    Direction, EVENT_VERSION, EndReason, EventKind, IceState, InterfaceUse, Role, Side, Transport, Vantage,
};

use super::measuring::Measuring;
use super::progress::Progress;
use super::signals::Signals;
use super::sink::Sink;
use super::{Outcome, SessionConfig};
use crate::channel::{self, Certificate, Channel};
use crate::io::clock::Clock;
use crate::io::interfaces;
use crate::io::names::{Resolved, Resolver};
use crate::io::stream::{ConnectOptions, StreamInput, Streams};
use crate::io::tls::ClientTls;
use crate::io::udp::{UdpDoor, UdpInput, UdpOptions};
use crate::signaling::Client;

/// Datagrams between the sockets' readers and the loop; more wait in the kernel.
const UDP_QUEUE: usize = 1024;

/// Datagrams handled before timers are looked at again.
const UDP_BATCH: usize = 64;

/// How often counted traffic becomes an event.
const TRAFFIC_INTERVAL: Duration = Duration::from_secs(1);

/// DTLS datagrams kept until the other side's description is there, or until a pair can carry ours.
const MAX_HELD: usize = 64;

/// A lost path is given this long to come back by itself before ICE restarts (`--stay`).
const RESTART_AFTER: Duration = Duration::from_secs(3);

/// Between two restarts.
pub(super) const RESTART_INTERVAL: Duration = Duration::from_secs(10);

/// Closing gives allocations back within this.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// How far the session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The other side's description has not come.
    Waiting,
    /// Both descriptions are there; since then.
    Connecting(Instant),
    /// The data channel is open.
    Open,
    /// The end is decided.
    Ending(EndReason),
}

/// One session.
pub(super) struct Session {
    pub(super) config: SessionConfig,
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) sink: Sink,
    pub(super) progress: Progress,
    pub(super) peer: Peer,
    pub(super) signals: Signals,
    pub(super) phase: Phase,
    pub(super) certificate: Certificate,
    pub(super) local: SessionDescription,
    pub(super) remote: Option<SessionDescription>,
    pub(super) generation: u32,
    /// What pseudonyms are made with, once both descriptions are there.
    pub(super) secret: Option<Vec<u8>>,
    pub(super) ice_state: IceState,
    measuring: Measuring,
    doors: BTreeMap<SocketAddr, UdpDoor>,
    streams: Streams,
    resolver: Resolver,
    channel: Option<Channel>,
    /// DTLS that came before there was a channel to give it to.
    early: VecDeque<Vec<u8>>,
    /// DTLS that waits for a pair to go over.
    held: VecDeque<Vec<u8>>,
    todo: VecDeque<Todo>,
    peer_deadline: Timestamp,
    next_traffic: Instant,
    pub(super) restart_at: Option<Instant>,
    closed: bool,
    named: bool,
}

/// What has to be fed to the peer machine once it is drained.
enum Todo {
    Data(Vec<u8>),
    SendFailed { local: SocketAddr, remote: SocketAddr, errno: i32 },
}

/// What the loop waits for.
struct Inputs {
    udp: mpsc::Receiver<UdpInput>,
    streams: mpsc::Receiver<StreamInput>,
    names: mpsc::Receiver<Resolved>,
    interrupt: watch::Receiver<u32>,
}

/// Runs one session to its end. `interrupt` counts how often the user asked to stop.
///
/// # Errors
/// When whyrelay cannot look: no socket, no signaling, no file.
pub async fn run(config: SessionConfig, interrupt: watch::Receiver<u32>) -> anyhow::Result<Outcome> {
    let (udp_sender, udp) = mpsc::channel(UDP_QUEUE);
    let (stream_sender, streams) = mpsc::channel(UDP_QUEUE);
    let (name_sender, names) = mpsc::channel(64);
    let mut inputs = Inputs { udp, streams, names, interrupt };

    let tls = ClientTls::new(config.tls_roots.clone());
    let streams = Streams::new(stream_sender, tls.clone());
    let resolver = Resolver::new(name_sender);
    let mut session = Session::start(config, streams, resolver)?;
    session.open_sockets(&udp_sender)?;
    session.use_named_servers();
    session.drain();

    let connecting = session.signals.connect(&session.config, tls);
    tokio::pin!(connecting);
    let end = session.live(&mut inputs, connecting).await;
    let reason = match &end {
        Ok(reason) => *reason,
        Err(_) => EndReason::Error,
    };
    session.close(&mut inputs).await;
    if session.remote.is_none() {
        // Nobody to agree with: any secret will do, and nobody else has it.
        let secret: [u8; 32] = session.random.bytes();
        session.sink.redact_with(&secret);
    }
    session.sink.end(session.clock.now(), EventKind::RecordingEnded { reason });
    if let Err(error) = end {
        session.signals.leave("whyrelay could not go on", Duration::from_secs(2)).await;
        return Err(error);
    }
    session.exchange(&mut inputs.interrupt, reason).await;
    if let Some(error) = session.sink.take_file_error() {
        session.progress.step(&format!("warning: the recording could not be written: {error}"));
    }
    Ok(Outcome { events: session.sink.events().to_vec() })
}

impl Session {
    fn start(config: SessionConfig, streams: Streams, resolver: Resolver) -> anyhow::Result<Self> {
        let clock = Clock::start();
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("getting random bytes from the system: {error}"))?;
        let mut random = Random::from_seed(seed);
        let certificate = Certificate::generate()?;
        let local = super::signals::local_description(&mut random, &certificate)?;
        let credentials = Credentials::new(local.ufrag.clone(), local.password.expose());
        let role = match config.side {
            Vantage::A => Role::Controlling,
            Vantage::B => Role::Controlled,
        };
        let mut ice = ice::Config::new(role, credentials);
        ice.relay_only = config.relay_only;
        ice.patient = config.patient;
        let gather = GatherConfig {
            relay_only: config.relay_only,
            no_turn: config.no_turn,
            patient: config.patient,
            ..GatherConfig::default()
        };
        let mut sink = Sink::open(config.side, config.record.as_deref(), config.pcap.as_deref(), config.redact)?;
        let now = clock.now();
        sink.record(
            now,
            EventKind::RecordingStarted {
                version: EVENT_VERSION,
                program: concat!("whyrelay ", env!("CARGO_PKG_VERSION")).into(),
                id: config.id.clone(),
                options: config.options(),
            },
        );
        let peer = Peer::new(now, PeerConfig { ice, gather }, &mut random);
        Ok(Self {
            progress: Progress::new(&config.label),
            measuring: Measuring::new(&config),
            signals: Signals::new(&config),
            config,
            clock,
            random,
            sink,
            peer,
            phase: Phase::Waiting,
            certificate,
            local,
            remote: None,
            generation: 0,
            secret: None,
            ice_state: IceState::New,
            doors: BTreeMap::new(),
            streams,
            resolver,
            channel: None,
            early: VecDeque::new(),
            held: VecDeque::new(),
            todo: VecDeque::new(),
            peer_deadline: now,
            next_traffic: Instant::now() + TRAFFIC_INTERVAL,
            restart_at: None,
            closed: false,
            named: false,
        })
    }

    /// Opens a socket on every usable address.
    fn open_sockets(&mut self, inputs: &mpsc::Sender<UdpInput>) -> anyhow::Result<()> {
        let found = interfaces::list(&self.config.interfaces).context("listing the interfaces")?;
        for interface in &found {
            let addresses = interface.addresses.iter().map(SocketAddr::ip).collect();
            let (name, index, used) = (interface.name.clone(), interface.index, interface.used);
            self.record(EventKind::Interface { name, index, addresses, used });
        }
        let usable = interfaces::usable(&found, &self.config.interfaces);
        if usable.is_empty() {
            let names: Vec<&str> = found.iter().map(|interface| interface.name.as_str()).collect();
            let excluded = found.iter().any(|i| matches!(i.used, InterfaceUse::NotIncluded | InterfaceUse::Excluded));
            let hint = if excluded { "check --interface and --exclude-interface" } else { "is the network up?" };
            anyhow::bail!("no usable address on this host's interfaces ({})\nhint: {hint}", names.join(", "));
        }
        let mut first_error = None;
        for (address, interface) in usable {
            let wanted = with_port(address, self.config.port.unwrap_or(0));
            match UdpDoor::open(wanted, UdpOptions { mark: self.config.mark }, inputs.clone()) {
                Ok(door) => self.opened(door, interface.clone()),
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(0);
                    let (transport, local, detail) = (Transport::Udp, wanted, error.to_string());
                    self.record(EventKind::SocketFailed { transport, local, errno, detail });
                    first_error.get_or_insert((wanted, error));
                    continue;
                }
            }
            if !self.config.no_tcp {
                self.open_tcp(address, interface);
            }
        }
        match first_error {
            Some((address, error)) if self.doors.is_empty() => {
                let hint = match error.raw_os_error() {
                    Some(libc::EPERM) if self.config.mark.is_some() => {
                        "\nhint: --mark needs CAP_NET_ADMIN: run as root, or give the binary that capability"
                    }
                    Some(libc::EADDRINUSE) => {
                        "\nhint: another program has this port; the mark alone (--mark) often shows the same fault"
                    }
                    Some(libc::EADDRNOTAVAIL) => "\nhint: --address must be an address of this host",
                    _ => "",
                };
                Err(anyhow::anyhow!("opening a UDP socket on {address}: {error}{hint}"))
            }
            _ => Ok(()),
        }
    }

    fn opened(&mut self, door: UdpDoor, interface: Option<String>) {
        let local = door.local();
        self.record(EventKind::SocketOpened {
            transport: Transport::Udp,
            local: bare(local),
            interface: interface.clone(),
            mark: self.config.mark,
            receive_buffer: door.receive_buffer(),
        });
        self.doors.insert(bare(local), door);
        let socket = LocalSocket { local, interface, transport: CandidateTransport::Udp };
        self.feed(peer::Input::Socket(socket));
    }

    /// A listener for peers that connect, and a candidate for connecting ourselves.
    fn open_tcp(&mut self, address: SocketAddr, interface: Option<String>) {
        match self.streams.listen(with_port(address, 0), self.config.mark) {
            Ok(local) => {
                self.record(EventKind::SocketOpened {
                    transport: Transport::Tcp,
                    local: bare(local),
                    interface: interface.clone(),
                    mark: self.config.mark,
                    receive_buffer: None,
                });
                let transport = CandidateTransport::TcpPassive;
                self.feed(peer::Input::Socket(LocalSocket { local, interface: interface.clone(), transport }));
                let (local, transport) = (with_port(address, 9), CandidateTransport::TcpActive);
                self.feed(peer::Input::Socket(LocalSocket { local, interface, transport }));
            }
            Err(error) => {
                let (transport, errno) = (Transport::Tcp, error.raw_os_error().unwrap_or(0));
                self.record(EventKind::SocketFailed { transport, local: address, errno, detail: error.to_string() });
            }
        }
    }

    fn use_named_servers(&mut self) {
        let stun = self.config.stun.clone();
        let turn = if self.config.no_turn { Vec::new() } else { self.config.turn.clone() };
        for url in stun {
            self.use_server(url, None, false);
        }
        for url in turn {
            self.use_server(url, self.config.turn_credentials.clone(), false);
        }
    }

    /// Makes a server known to the gatherer.
    pub(super) fn use_server(
        &mut self,
        url: ServerUrl,
        credentials: Option<(String, whyrelay_core::engine::credentials::Password)>,
        announced: bool,
    ) {
        self.record(EventKind::ServerKnown { url: url.to_string(), announced });
        let (username, password) = credentials.unzip();
        self.feed(peer::Input::Server(Server { url, addresses: Vec::new(), username, password }));
    }

    /// Whether all servers are known.
    pub(super) fn named(&self) -> bool {
        self.named
    }

    /// All servers are known: gathering can end.
    pub(super) fn all_named(&mut self) {
        if !std::mem::replace(&mut self.named, true) {
            self.feed(peer::Input::AllNamed);
        }
    }

    /// The loop, until the end is decided.
    async fn live(
        &mut self,
        inputs: &mut Inputs,
        mut connecting: std::pin::Pin<&mut impl Future<Output = anyhow::Result<Client>>>,
    ) -> anyhow::Result<EndReason> {
        let mut batch = Vec::with_capacity(UDP_BATCH);
        let started = Instant::now();
        let mut connected = false;
        loop {
            self.drain();
            self.sink.flush();
            if let Phase::Ending(reason) = self.phase {
                return Ok(reason);
            }
            let deadline = self.deadline(started);
            let signaling = async {
                match self.signals.client.as_mut() {
                    Some(client) => client.recv().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = inputs.interrupt.changed() => {
                    if changed.is_ok() {
                        self.progress.step("interrupted: closing");
                    }
                    return Ok(EndReason::Interrupted);
                }
                result = &mut connecting, if !connected => {
                    connected = true;
                    self.signaling_connected(result?)?;
                }
                incoming = signaling => self.signaled(incoming)?,
                _ = inputs.udp.recv_many(&mut batch, UDP_BATCH) => {
                    for input in batch.drain(..) {
                        self.udp_input(input);
                        self.drain();
                    }
                }
                Some(input) = inputs.streams.recv() => self.stream_input(input),
                Some(resolved) = inputs.names.recv() => self.name_input(&resolved),
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            self.timers(started);
        }
    }

    /// Gives allocations back and says goodbye on the data channel.
    async fn close(&mut self, inputs: &mut Inputs) {
        let until = Instant::now() + CLOSE_LIMIT;
        if let Some(channel) = &mut self.channel {
            channel.close(Instant::now());
        }
        let mut closing = false;
        let mut batch = Vec::with_capacity(UDP_BATCH);
        loop {
            self.drain();
            let channel_done = self.channel.as_ref().is_none_or(Channel::is_closed);
            if !closing && (channel_done || Instant::now() + Duration::from_secs(1) > until) {
                closing = true;
                self.feed(peer::Input::Close);
                self.drain();
            }
            if self.closed || Instant::now() >= until {
                return;
            }
            let channel_deadline = self.channel_deadline().unwrap_or(until);
            let deadline = self.clock.instant(self.peer_deadline).min(channel_deadline).min(until);
            tokio::select! {
                _ = inputs.udp.recv_many(&mut batch, UDP_BATCH) => {
                    for input in batch.drain(..) {
                        self.udp_input(input);
                        self.drain();
                    }
                }
                Some(input) = inputs.streams.recv() => self.stream_input(input),
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            self.machine_timers();
        }
    }

    /// When something is due next.
    fn deadline(&mut self, started: Instant) -> Instant {
        let mut deadline = self.clock.instant(self.peer_deadline).min(self.next_traffic);
        let phase = match self.phase {
            Phase::Waiting => Some(started + self.config.wait),
            Phase::Connecting(since) => Some(since + self.config.timeout),
            Phase::Open | Phase::Ending(_) => None,
        };
        let others =
            [phase, self.channel_deadline(), self.restart_at, self.measuring.deadline(), self.announcement_deadline()];
        for at in others.into_iter().flatten() {
            deadline = deadline.min(at);
        }
        deadline
    }

    fn channel_deadline(&mut self) -> Option<Instant> {
        // Drained before, so that this is its deadline.
        match self.channel.as_mut()?.poll_output() {
            channel::Output::Timeout(at) => Some(at),
            output => {
                self.channel_output(output);
                Some(Instant::now())
            }
        }
    }

    fn timers(&mut self, started: Instant) {
        self.machine_timers();
        let now = Instant::now();
        if now >= self.next_traffic {
            self.next_traffic = now + TRAFFIC_INTERVAL;
            self.sink.record_traffic(self.clock.now());
        }
        match self.phase {
            Phase::Waiting if now >= started + self.config.wait => {
                let wait = self.config.wait.as_secs();
                self.progress.step(&format!("the other side did not come within {wait} s"));
                self.end(EndReason::TimeLimit);
            }
            Phase::Waiting => self.progress_of_waiting(),
            Phase::Connecting(since) if now >= since + self.config.timeout => {
                self.progress.step("the time limit is over (--timeout)");
                self.feed(peer::Input::TimeLimit);
                self.end(EndReason::Failed);
            }
            _ => {}
        }
        self.check_announcement();
        if self.restart_at.is_some_and(|at| now >= at) {
            self.restart_at = None;
            self.ask_for_restart();
        }
        self.measure(|measuring, channel, now| measuring.on_time(channel, now));
    }

    fn machine_timers(&mut self) {
        if self.clock.now() >= self.peer_deadline {
            self.feed(peer::Input::Timeout);
        }
        let now = Instant::now();
        if let Some(channel) = &mut self.channel {
            channel.handle_timeout(now);
        }
    }

    /// Records a fact at this moment.
    pub(super) fn record(&mut self, kind: EventKind) {
        self.sink.record(self.clock.now(), kind);
    }

    /// Decides the end; the first decision counts.
    pub(super) fn end(&mut self, reason: EndReason) {
        if !matches!(self.phase, Phase::Ending(_)) {
            self.phase = Phase::Ending(reason);
        }
    }

    /// Feeds the peer machine and drains it.
    pub(super) fn feed(&mut self, input: peer::Input<'_>) {
        self.peer.handle_input(self.clock.now(), input);
        self.drain();
    }

    /// Carries outputs where they belong until everything is at rest.
    fn drain(&mut self) {
        loop {
            let now = self.clock.now();
            match self.peer.poll_output(now) {
                peer::Output::Timeout(at) => {
                    self.peer_deadline = at;
                    self.drain_channel();
                    match self.todo.pop_front() {
                        Some(Todo::Data(bytes)) => self.peer.handle_input(now, peer::Input::Data(&bytes)),
                        Some(Todo::SendFailed { local, remote, errno }) => {
                            self.peer.handle_input(now, peer::Input::SendFailed { local, remote, errno });
                        }
                        None => return,
                    }
                }
                output => self.peer_output(now, output),
            }
        }
    }

    fn drain_channel(&mut self) {
        loop {
            let Some(channel) = &mut self.channel else { return };
            match channel.poll_output() {
                channel::Output::Timeout(_) => return,
                output => self.channel_output(output),
            }
        }
    }

    fn peer_output(&mut self, now: Timestamp, output: peer::Output) {
        match output {
            peer::Output::Transmit(transmit) => self.transmit(now, &transmit),
            peer::Output::Data(bytes) => self.take_dtls(bytes),
            peer::Output::Connect { id, local, remote, tls, framing } => {
                let mark = self.config.mark;
                self.streams.connect(id, ConnectOptions { local: Some(local), remote, tls, mark, framing });
            }
            peer::Output::Disconnect { id } => self.streams.close(id),
            peer::Output::Resolve { name, multicast: true } => self.resolver.resolve_multicast(name),
            peer::Output::Resolve { name, multicast: false } => self.resolver.resolve(name),
            peer::Output::LocalCandidate(candidate) => self.signal_candidate(&candidate),
            peer::Output::LocalEndOfCandidates => self.signal_end_of_candidates(),
            peer::Output::Selected(selected) => {
                let rtt = selected.rtt.map_or(String::new(), |rtt| format!(", {}", millis(rtt)));
                let (local, remote) = (selected.pair.local, selected.pair.remote);
                let (near, far) = (selected.local.kind, selected.remote.kind);
                self.progress.step(&if self.config.redact {
                    format!("path: {near} → {far}{rtt}")
                } else {
                    format!("path: {near} {local} → {far} {remote}{rtt}")
                });
                self.path_usable();
            }
            peer::Output::StateChanged(state) => self.ice_state_changed(state),
            peer::Output::Event(event) => {
                self.show(&event);
                self.sink.record(now, event);
            }
            peer::Output::Closed => self.closed = true,
            peer::Output::Timeout(_) => {}
        }
    }

    /// The door, outbound: record, then send.
    fn transmit(&mut self, now: Timestamp, transmit: &Transmit) {
        let Transmit { transport, stream, local, remote, bytes } = transmit;
        let ends = (bare(*local), *remote);
        self.sink.pass(now, Direction::Out, *transport, ends, bytes, || None);
        let sent = match stream {
            Some(id) if self.streams.send(*id, bytes) => Ok(()),
            Some(_) => Err(std::io::Error::from_raw_os_error(libc::ENOBUFS)),
            None => match self.doors.get(&bare(*local)) {
                Some(door) => door.send(*remote, bytes),
                None => Err(std::io::Error::from_raw_os_error(libc::ENOTCONN)),
            },
        };
        if let Err(error) = sent {
            let errno = error.raw_os_error().unwrap_or(0);
            let (transport, local, remote) = (*transport, bare(*local), *remote);
            self.sink.record(now, EventKind::SendFailed { transport, local, remote, errno, detail: error.to_string() });
            if stream.is_none() {
                self.todo.push_back(Todo::SendFailed { local, remote, errno });
            }
        }
    }

    /// The door, inbound: record, then handle.
    fn udp_input(&mut self, input: UdpInput) {
        match input {
            UdpInput::Datagram { local, remote, kernel_time, bytes } => {
                let at = kernel_time.map_or_else(|| self.clock.now(), |time| self.clock.from_kernel(time));
                let local = bare(local);
                let peer = &self.peer;
                self.sink.pass(at, Direction::In, Transport::Udp, (local, remote), &bytes, || {
                    peer.verify(local, remote, &bytes)
                });
                self.feed(peer::Input::Datagram { local, remote, bytes: &bytes });
            }
            UdpInput::Icmp(error) => {
                let (local, remote, offender) = (bare(error.local), error.remote, error.offender);
                let (icmp_type, icmp_code, errno) = (error.icmp_type, error.icmp_code, error.errno);
                self.record(EventKind::IcmpError { local, remote, offender, icmp_type, icmp_code, errno });
            }
            UdpInput::Broken { local, error } => {
                let (transport, local, detail) = (Transport::Udp, bare(local), error.to_string());
                self.record(EventKind::SocketClosed { transport, local, detail });
            }
        }
    }

    fn stream_input(&mut self, input: StreamInput) {
        match input {
            StreamInput::Connected { id, local, remote, transport } => {
                let (interface, mark) = (None, self.config.mark);
                self.record(EventKind::SocketOpened { transport, local, interface, mark, receive_buffer: None });
                self.progress.step(&format!("connected to {remote} by {}", transport_name(transport)));
                self.feed(peer::Input::Connected { id, local });
            }
            StreamInput::Accepted { id, local, remote } => {
                self.feed(peer::Input::Accepted { id, local: bare(local), remote });
            }
            StreamInput::Message { id, local, remote, transport, bytes } => {
                let peer = &self.peer;
                self.sink.pass(self.clock.now(), Direction::In, transport, (bare(local), remote), &bytes, || {
                    peer.verify(local, remote, &bytes)
                });
                self.feed(peer::Input::Message { id, bytes: &bytes });
            }
            StreamInput::Closed { id, detail } => {
                self.streams.close(id);
                self.feed(peer::Input::Disconnected { id, detail: &detail });
            }
        }
    }

    fn name_input(&mut self, resolved: &Resolved) {
        let addresses = resolved.result.as_ref().cloned().unwrap_or_default();
        self.record(EventKind::NameResolved {
            name: resolved.name.clone(),
            addresses: addresses.clone(),
            took_us: u64::try_from(resolved.took.as_micros()).unwrap_or(u64::MAX),
            error: resolved.result.as_ref().err().cloned(),
        });
        let result = match &resolved.result {
            Ok(_) => Ok(&addresses[..]),
            Err(detail) => Err(detail.as_str()),
        };
        self.feed(peer::Input::Resolved { name: &resolved.name, result });
    }

    fn ice_state_changed(&mut self, state: IceState) {
        self.ice_state = state;
        match state {
            IceState::Connected | IceState::Completed => {
                self.restart_at = None;
                self.path_usable();
            }
            IceState::Disconnected if self.config.stay => {
                self.progress.step("the path is silent");
                self.restart_at.get_or_insert(Instant::now() + RESTART_AFTER);
            }
            IceState::Failed if self.config.stay && self.phase == Phase::Open => {
                self.progress.step("the path is lost");
                self.restart_at.get_or_insert(Instant::now() + RESTART_AFTER);
            }
            IceState::Failed => {
                self.progress.step("ICE failed: nothing is left to try");
                self.end(EndReason::Failed);
            }
            _ => {}
        }
    }

    /// Restarts ICE, or asks the offerer to.
    fn ask_for_restart(&mut self) {
        if matches!(self.ice_state, IceState::Connected | IceState::Completed) {
            return;
        }
        self.restart_at = Some(Instant::now() + RESTART_INTERVAL);
        match self.config.side {
            Vantage::A => self.restart(Side::Local),
            Vantage::B => self.signal_restart(),
        }
    }

    /// A pair can carry data: the DTLS client starts, and what was held goes out.
    fn path_usable(&mut self) {
        self.start_channel();
        for bytes in std::mem::take(&mut self.held) {
            self.todo.push_back(Todo::Data(bytes));
        }
    }

    /// Makes the channel as soon as that is possible: the server when it knows the fingerprint, the client when a pair
    /// can carry its first flight.
    pub(super) fn start_channel(&mut self) {
        if self.channel.is_some() {
            return;
        }
        let Some(config) = self.channel_config() else { return };
        if config.dtls_client && self.peer.agent().send_pair().is_none() {
            return;
        }
        match Channel::new(Instant::now(), config) {
            Ok(channel) => self.channel = Some(channel),
            Err(error) => {
                self.progress.step(&format!("DTLS cannot start: {error:#}"));
                self.end(EndReason::Error);
                return;
            }
        }
        for bytes in std::mem::take(&mut self.early) {
            self.take_dtls(bytes);
        }
    }

    fn take_dtls(&mut self, bytes: Vec<u8>) {
        match &mut self.channel {
            Some(channel) => {
                channel.handle_datagram(Instant::now(), &bytes);
                self.drain_channel();
            }
            None if self.early.len() < MAX_HELD => self.early.push_back(bytes),
            None => {}
        }
    }

    fn channel_output(&mut self, output: channel::Output) {
        match output {
            channel::Output::Transmit(bytes) => {
                if self.peer.agent().send_pair().is_some() {
                    self.todo.push_back(Todo::Data(bytes));
                } else if self.held.len() < MAX_HELD {
                    self.held.push_back(bytes);
                }
            }
            channel::Output::Event(event) => {
                self.show(&event);
                let failed = super::signals::is_channel_failure(&event);
                self.record(event);
                if failed {
                    self.end(EndReason::Failed);
                }
            }
            channel::Output::Opened { channel: id, label } => {
                self.progress.step(&format!("data channel {label:?} is open"));
                if !matches!(self.phase, Phase::Ending(_)) {
                    self.phase = Phase::Open;
                }
                let is_whyrelay = self.signals.peer_is_whyrelay();
                self.measure(|measuring, channel, now| measuring.opened(channel, id, is_whyrelay, now));
            }
            channel::Output::Message { binary, data, .. } => {
                self.measure(|measuring, channel, now| measuring.message(channel, binary, &data, now));
            }
            channel::Output::ChannelClosed { .. } => self.end(EndReason::PeerLeft),
            channel::Output::Closed => {
                let reason = if self.measuring.is_done() { EndReason::Finished } else { EndReason::PeerLeft };
                self.end(reason);
            }
            channel::Output::Timeout(_) => {}
        }
    }

    /// Runs a step of the measurements and takes in what came of it.
    fn measure(&mut self, step: impl FnOnce(&mut Measuring, &mut Channel, Instant)) {
        let Some(channel) = &mut self.channel else { return };
        step(&mut self.measuring, channel, Instant::now());
        for event in self.measuring.take_events() {
            self.show(&event);
            self.record(event);
        }
        if let Some(live) = self.measuring.live_line() {
            self.progress.live(&live);
        }
        if self.measuring.is_done() && !self.config.stay && self.phase == Phase::Open {
            self.end(EndReason::Finished);
        }
    }

    /// Progress for what a user waits for.
    fn show(&mut self, event: &EventKind) {
        if let Some(line) = super::progress::line_for(event).filter(|_| !self.config.redact) {
            self.progress.step(&line);
        }
    }

    fn progress_of_waiting(&mut self) {
        if let Some(line) = self.signals.waiting_line() {
            self.progress.live(&line);
        }
    }
}

/// The same address without IPv6 scope and flow label: one socket, one name.
fn bare(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

fn with_port(address: SocketAddr, port: u16) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => SocketAddr::new(address.ip(), port),
        SocketAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(*v6.ip(), port, 0, v6.scope_id())),
    }
}

fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "UDP",
        Transport::Tcp => "TCP",
        Transport::Tls => "TLS",
    }
}

/// Milliseconds with as many digits as matter.
pub(super) fn millis(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1000.0;
    if millis < 10.0 { format!("{millis:.2} ms") } else { format!("{millis:.0} ms") }
}
