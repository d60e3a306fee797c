//! A peer: the core's gatherer and ICE agent as one machine, driven as the real driver drives it, with the door that
//! records.

mod host;
mod machine;
mod signaling;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use whyrelay_core::engine::gather::{GatherConfig, LocalSocket, StreamId};
use whyrelay_core::engine::peer::{self, Input, PeerConfig};
use whyrelay_core::engine::port_mapping::{self, ExchangeId};
use whyrelay_core::ice::candidate::CandidateTransport;
use whyrelay_core::ice::{self, Credentials, PairSnapshot, SelectedPair};
use whyrelay_core::random::Random;
use whyrelay_core::signal::PeerProbing;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::{
    Direction, EVENT_VERSION, EndReason, Event, EventKind, IceState, InterfaceUse, Role, SessionOptions, Side,
    SignalingState, Transport, Vantage,
};
use whyrelay_core::trace::recording::{Recorder, encode};
use whyrelay_core::wire::framing::{Deframer, Framing};

use whyrelay_core::host::Moment;

use super::facts;
use super::kernel::Kernel;
use super::mapping::{Asking, default_gateway};
use super::network::{HostId, USUAL_TTL};
use super::probing::Probing;
use super::setup::PeerSetup;

/// Never, as the machine says it.
pub(super) const NEVER: Timestamp = Timestamp::from_micros(u64::MAX);

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
    /// About probes.
    Probing(PeerProbing),
}

/// What a peer wants the world to do.
#[derive(Debug)]
pub(super) enum Action {
    Send { source: SocketAddr, destination: SocketAddr, bytes: Vec<u8>, ttl: u8, is_probe: bool },
    Connect { id: StreamId, local: IpAddr, remote: SocketAddr },
    SendOnStream { id: StreamId, bytes: Vec<u8> },
    CloseStream(StreamId),
    Exchange { id: ExchangeId, local: IpAddr, remote: SocketAddr, request: Vec<u8> },
    Signal(Signal),
    Wake(Timestamp),
}

/// An ICMP error for a datagram of a peer.
#[derive(Clone, Debug)]
pub(super) struct Icmp {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) offender: Option<IpAddr>,
    pub(super) icmp_type: u8,
    pub(super) icmp_code: u8,
    /// The size that the next link takes, in bytes.
    pub(super) mtu: Option<u32>,
    /// The beginning of what it is about.
    pub(super) quoted: Vec<u8>,
}

/// A connection to the server.
struct Stream {
    id: StreamId,
    local: SocketAddr,
    remote: SocketAddr,
    transport: Transport,
    deframer: Deframer,
}

pub(super) struct Peer {
    pub(super) host: HostId,
    setup: PeerSetup,
    addresses: Vec<IpAddr>,
    pub(super) server: Vec<IpAddr>,
    /// The address from which the signaling server sees it.
    pub(super) seen_as: Option<IpAddr>,
    /// Its kernel; none in worlds without one, where everything is sent by the one way.
    pub(super) kernel: Option<Kernel>,
    pub(super) random: Random,
    recorder: Recorder,
    pub(super) events: Vec<Event>,
    traffic: BTreeMap<(Direction, SocketAddr, SocketAddr), (Transport, u64, u64)>,
    /// The machine, once the peer has started.
    machine: Option<peer::Peer>,
    pub(super) sockets: Vec<SocketAddr>,
    /// Servers and candidates of the other side that the kernel was asked about.
    others: BTreeSet<SocketAddr>,
    streams: Vec<Stream>,
    /// What arrived before this peer started, as a mailbox keeps it.
    mailbox: Vec<Signal>,
    /// What an answerer has to say before it has an offer.
    held: Vec<Signal>,
    may_signal: bool,
    gathered: bool,
    /// Whether a description of the other side came.
    described: bool,
    /// The generation for which the other side last said end-of-candidates.
    remote_ended: Option<u32>,
    wake_at: Timestamp,
    /// Its port mapping, from the beginning to the end of the session.
    pub(super) asking: Option<Asking>,
    pub(super) probing: Probing,
    pub(super) remote_credentials: Option<Credentials>,
    pub(super) actions: Vec<Action>,
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
        kernel: Option<Kernel>,
        random: Random,
    ) -> Self {
        Self {
            host,
            setup,
            addresses,
            server,
            seen_as: None,
            kernel,
            random,
            recorder: Recorder::new(vantage),
            events: Vec::new(),
            traffic: BTreeMap::new(),
            machine: None,
            sockets: Vec::new(),
            others: BTreeSet::new(),
            streams: Vec::new(),
            mailbox: Vec::new(),
            held: Vec::new(),
            may_signal: vantage == Vantage::A,
            gathered: false,
            described: false,
            remote_ended: None,
            wake_at: NEVER,
            asking: None,
            probing: Probing::new(),
            remote_credentials: None,
            actions: Vec::new(),
            first_selected: None,
            first_usable: None,
            failed: None,
            data_received: 0,
        }
    }

    pub(super) fn start(&mut self, now: Timestamp) -> Vec<Action> {
        let (relay_only, no_turn, patient) = (self.setup.relay_only, self.no_turn(), self.setup.patient);
        let tried = if self.setup.map_port { vec!["mapping".to_owned()] } else { Vec::new() };
        let port = Some(self.setup.port);
        let options = SessionOptions { relay_only, no_turn, port, patient, tried, ..SessionOptions::default() };
        let id = if self.is_offerer() { "offer-peer-1" } else { "answer-peer-1" }.to_owned();
        let program = "whyrelay lab".to_owned();
        self.record(now, EventKind::RecordingStarted { version: EVENT_VERSION, program, id, options });
        self.sockets = self.bound();
        if let (true, Some(kernel)) = (self.setup.map_port, &self.kernel) {
            let random = self.random.fork();
            let gateway = |own: Ipv4Addr| default_gateway(&kernel.routes, &self.interface_of(own.into()));
            self.asking = Asking::begin(now, &self.sockets, &gateway, random);
        }
        match self.asking {
            // The session waits for it, as nothing is under way yet.
            Some(_) => self.follow_asking(now),
            None => self.begin(now, None),
        }
        self.finish()
    }

    /// Its sockets' addresses. Port 0 is any free one, for each socket.
    fn bound(&mut self) -> Vec<SocketAddr> {
        let addresses = self.addresses.clone();
        let port = |peer: &mut Self| match peer.setup.port {
            0 => peer.free_port(),
            port => port,
        };
        addresses.into_iter().map(|ip| SocketAddr::new(ip, port(self))).collect()
    }

    /// A port that a system gives (Linux's ip_local_port_range).
    pub(super) fn free_port(&mut self) -> u16 {
        const FREE: std::ops::Range<u64> = 32_768..61_000;
        (FREE.start + self.random.below(FREE.end - FREE.start)) as u16
    }

    /// Begins the session itself, with the port that the router has mapped.
    pub(super) fn begin(&mut self, now: Timestamp, mapped: Option<(SocketAddr, SocketAddr)>) {
        let (relay_only, no_turn, patient) = (self.setup.relay_only, self.no_turn(), self.setup.patient);
        if self.kernel.is_some() {
            let (server, state) =
                ("lab".to_owned(), SignalingState::Connected { by: "lab".to_owned(), seen_as: self.seen_as });
            self.record(now, EventKind::Signaling { server, state });
        }
        let credentials = Credentials::generate(&mut self.random);
        let tie_breaker = self.setup.tie_breaker;
        let usual = ice::Config::new(self.setup.role, credentials.clone());
        let config = PeerConfig {
            ice: ice::Config { tie_breaker, relay_only, patient, ..usual },
            gather: GatherConfig { servers: self.servers(), relay_only, no_turn, patient, ..GatherConfig::default() },
        };
        let machine = peer::Peer::new(now, config, &mut self.random);
        self.machine = Some(machine);
        for (name, index, addresses) in self.interfaces() {
            self.record(now, EventKind::Interface { name, index, addresses, used: InterfaceUse::Used });
        }
        let facts = self.kernel.as_ref().map(facts::before).unwrap_or_default();
        self.record_facts(now, Moment::Before, facts);
        if self.is_offerer() {
            self.describe(now, Side::Local, true, &credentials, 0);
            self.actions.push(Action::Signal(Signal::Description { offer: true, credentials, generation: 0 }));
        }
        self.drain(now);
        for local in self.sockets.clone() {
            let (transport, interface) = (Transport::Udp, Some(self.interface_of(local.ip())));
            let (mark, receive_buffer) =
                (self.kernel.as_ref().map(|kernel| kernel.mark).filter(|mark| *mark != 0), None);
            let opened =
                EventKind::SocketOpened { transport, local, interface: interface.clone(), mark, receive_buffer };
            self.record(now, opened);
            self.feed(now, Input::Socket(LocalSocket { local, interface, transport: CandidateTransport::Udp }));
        }
        if let Some((base, external)) = mapped {
            self.feed(now, Input::External { base, external });
        }
        self.ask_for_servers(now);
        self.feed(now, Input::AllNamed);
        for signal in std::mem::take(&mut self.mailbox) {
            self.take_signal(now, signal);
        }
    }

    const fn no_turn(&self) -> bool {
        !self.setup.turn_udp && !self.setup.turn_tcp
    }

    pub(super) fn receive(
        &mut self,
        now: Timestamp,
        source: SocketAddr,
        local: SocketAddr,
        bytes: &[u8],
    ) -> Vec<Action> {
        if self.is_asking(local) {
            self.door(now, Direction::In, Transport::Udp, local, source, bytes);
            self.ask(now, port_mapping::Input::Datagram { remote: source, bytes });
        } else if self.probing.socket(local).is_some() {
            self.probe_answered(now, local, source, bytes);
        } else if self.machine.is_some() && self.sockets.contains(&local) {
            self.door(now, Direction::In, Transport::Udp, local, source, bytes);
            if !self.take_probe(now, local, source, bytes) {
                self.feed(now, Input::Datagram { local, remote: source, bytes });
            }
        }
        self.finish()
    }

    pub(super) fn send_failed(
        &mut self,
        now: Timestamp,
        local: SocketAddr,
        remote: SocketAddr,
        errno: i32,
        is_probe: bool,
    ) -> Vec<Action> {
        if is_probe {
            self.probe_refused(now, local, remote, errno);
            return self.finish();
        }
        let (transport, detail) = (Transport::Udp, errno_name(errno).to_owned());
        self.record(now, EventKind::SendFailed { transport, local, remote, errno, detail });
        if self.is_asking(local) {
            self.ask(now, port_mapping::Input::SendFailed { remote });
        } else {
            self.feed(now, Input::SendFailed { local, remote, errno });
        }
        self.finish()
    }

    pub(super) fn icmp(&mut self, now: Timestamp, icmp: Icmp) -> Vec<Action> {
        if self.probe_error(now, &icmp) {
            return self.finish();
        }
        let Icmp { local, remote, offender, icmp_type, icmp_code, .. } = icmp;
        // What Linux makes of them (net/ipv4/icmp.c, net/ipv6/icmp.c): port ECONNREFUSED, too big EMSGSIZE, IPv6's
        // prohibition EACCES, else EHOSTUNREACH.
        let errno = match (local.is_ipv4(), icmp_type, icmp_code) {
            (true, 3, 3) | (false, 1, 4) => 111,
            (true, 3, 4) | (false, 2, _) => 90,
            (false, 1, 1) => 13,
            _ => 113,
        };
        self.record(now, EventKind::IcmpError { local, remote, offender, icmp_type, icmp_code, errno });
        if self.is_asking(local) {
            self.ask(now, port_mapping::Input::SendFailed { remote });
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
        let transport = if self.setup.tls == Some(remote) { Transport::Tls } else { Transport::Tcp };
        self.streams.push(Stream { id, local, remote, transport, deframer: Deframer::new(Framing::Stun) });
        self.feed(now, Input::Connected { id, local });
        self.finish()
    }

    pub(super) fn stream_failed(&mut self, now: Timestamp, id: StreamId, detail: &str) -> Vec<Action> {
        self.feed(now, Input::Disconnected { id, detail });
        self.finish()
    }

    pub(super) fn stream_data(&mut self, now: Timestamp, id: StreamId, bytes: &[u8]) -> Vec<Action> {
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) else { return Vec::new() };
        let (local, remote, transport) = (stream.local, stream.remote, stream.transport);
        stream.deframer.push(bytes);
        let mut messages = Vec::new();
        while let Ok(Some(message)) = stream.deframer.next_message() {
            messages.push(message.to_vec());
        }
        for message in messages {
            self.door(now, Direction::In, transport, local, remote, &message);
            self.feed(now, Input::Message { id, bytes: &message });
        }
        self.finish()
    }

    pub(super) fn wake(&mut self, now: Timestamp) -> Vec<Action> {
        if self.wake_at <= now {
            self.feed(now, Input::Timeout);
        }
        self.wake_asking(now);
        self.wake_probes(now);
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

    /// No path was found in time: the machine fails.
    pub(super) fn time_out(&mut self, now: Timestamp) -> Vec<Action> {
        self.feed(now, Input::TimeLimit);
        self.finish()
    }

    /// Whether a description of the other side came.
    pub(super) const fn is_described(&self) -> bool {
        self.described
    }

    /// Gives every allocation back and writes the last event.
    pub(super) fn close(&mut self, now: Timestamp) -> Vec<Action> {
        let reason = match self.state() {
            // Nobody came: the session's time limit ends it.
            IceState::New if !self.described => EndReason::TimeLimit,
            IceState::Failed => EndReason::Failed,
            _ => EndReason::Finished,
        };
        self.end_probes(now);
        self.feed(now, Input::Close);
        for ((direction, local, remote), (transport, datagrams, bytes)) in std::mem::take(&mut self.traffic) {
            self.record(now, EventKind::Traffic { direction, transport, local, remote, datagrams, bytes });
        }
        let facts = self.kernel.as_ref().map(|kernel| facts::after(kernel, &self.sockets, &self.others));
        let facts = facts.unwrap_or_default();
        self.record_facts(now, Moment::After, facts);
        // The port mapping goes last, as it came first.
        if !self.remove_mapping(now, reason) {
            self.record(now, EventKind::RecordingEnded { reason });
        }
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

    pub(super) fn agent(&self) -> Option<&ice::Agent> {
        self.machine.as_ref().map(peer::Peer::agent)
    }

    pub(super) const fn probes_sizes(&self) -> bool {
        self.setup.probe_sizes
    }

    /// Whether it finds out why nothing is direct, or what is in front of it.
    pub(super) const fn probes_causes(&self) -> bool {
        self.setup.probe_causes
    }

    pub(super) const fn is_relay_only(&self) -> bool {
        self.setup.relay_only
    }

    /// Where its servers are asked over UDP.
    pub(super) fn servers_over_udp(&self) -> Vec<SocketAddr> {
        self.machine.as_ref().map(|machine| machine.servers_over_udp().collect()).unwrap_or_default()
    }

    /// Whether a server of an address family has answered it over UDP.
    pub(super) fn hears_servers(&self, is_ipv6: bool) -> bool {
        self.machine.as_ref().is_some_and(|machine| machine.hears_servers(is_ipv6))
    }

    /// How long a mapping is to be silent; zero: nobody asks.
    pub(super) const fn longest_silence(&self) -> Duration {
        self.setup.silence
    }

    /// Whether a socket gets what arrives by an interface: one that is bound to another does not.
    pub(super) fn hears(&self, interface: usize, local: SocketAddr) -> bool {
        let device = self.probing.socket(local).and_then(|socket| socket.device.as_ref());
        let Some((device, kernel)) = device.zip(self.kernel.as_ref()) else { return true };
        kernel.host.interfaces[interface].name == *device
    }

    fn is_offerer(&self) -> bool {
        self.recorder.vantage() == Vantage::A
    }
}

/// The name of an errno that a simulated kernel gives.
pub(super) fn errno_name(errno: i32) -> &'static str {
    match errno {
        1 => "Operation not permitted (os error 1)",
        13 => "Permission denied (os error 13)",
        22 => "Invalid argument (os error 22)",
        90 => "Message too long (os error 90)",
        101 => "Network is unreachable (os error 101)",
        111 => "Connection refused (os error 111)",
        113 => "No route to host (os error 113)",
        _ => "refused",
    }
}

/// How long a moment is after another, for outcomes.
pub(super) fn after(start: Timestamp, moment: Option<Timestamp>) -> Option<Duration> {
    moment.map(|moment| moment.since(start))
}
