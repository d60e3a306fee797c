//! The server's host: the core's STUN and TURN server, with its sockets in the simulated network.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use whyrelay_core::engine::turn_server::{
    Client, ClientTransport, Credentials, Family, Input, ListenerId, Output, PeerPolicy, RelayId, SharedSecret,
    StreamId, TurnConfig, TurnServer,
};
use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;
use whyrelay_core::wire::framing::{Deframer, Framing};

use super::network::{HostId, Packet};
use super::tls;
use crate::scenario::STUN_PORT;
use crate::scenario::file::Certificate;

/// The one user of the simulated server.
pub(super) const USERNAME: &str = "lab";
/// Its password: the simulated server guards nothing.
pub(super) const PASSWORD: &str = "lab-password";

/// The secret for credentials that expire.
pub(super) fn secret() -> Option<SharedSecret> {
    SharedSecret::new("lab-secret")
}

/// The first relayed port (RFC 8656 §7.2 recommends 49152 and up).
const FIRST_RELAY_PORT: u16 = 49_152;

/// What the server wants done.
#[derive(Debug)]
pub(super) enum Action {
    Send(Packet),
    SendOnStream(u64, Vec<u8>),
    Wake(Timestamp),
}

/// What is wrong with a server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ServerFaults {
    /// It says nothing over UDP.
    pub(super) no_udp: bool,
    /// Its host says so: nothing listens there.
    pub(super) refuses_udp: bool,
    /// It takes no connections.
    pub(super) no_tcp: bool,
    /// Its host says so: nothing listens there.
    pub(super) refuses_tcp: bool,
    /// The relayed address that it announces instead of its own.
    pub(super) relay_address: Option<IpAddr>,
    /// Nothing from outside reaches its relayed ports.
    pub(super) relay_ports_closed: bool,
    /// How long it takes to answer.
    pub(super) answers_after: Duration,
    /// Where it serves TURN over TLS, and what its certificate is like.
    pub(super) tls: Option<(SocketAddr, Certificate)>,
}

pub(super) struct Server {
    pub(super) host: HostId,
    faults: ServerFaults,
    addresses: Vec<IpAddr>,
    turn: TurnServer,
    relays: BTreeMap<RelayId, SocketAddr>,
    by_address: BTreeMap<SocketAddr, RelayId>,
    next_port: u16,
    streams: BTreeMap<u64, (SocketAddr, Deframer)>,
    /// Nothing gets in.
    is_cut: bool,
}

impl Server {
    pub(super) fn new(host: HostId, addresses: Vec<IpAddr>, faults: ServerFaults, random: Random) -> Self {
        // The simulated Internet is made of documentation addresses, which the policy rightly refuses.
        let allowed = ["203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24", "2001:db8::/32"];
        let policy = PeerPolicy {
            allowed: allowed.iter().filter_map(|prefix| prefix.parse().ok()).collect(),
            own_addresses: addresses.clone(),
            own_endpoints: addresses.iter().map(|address| SocketAddr::new(*address, STUN_PORT)).collect(),
            ..PeerPolicy::default()
        };
        let mut credentials = Credentials::none().with_user(USERNAME, PASSWORD);
        if let Some(secret) = secret() {
            credentials = credentials.with_secret(secret);
        }
        let config = TurnConfig { realm: "lab".to_owned(), credentials, policy, ..TurnConfig::default() };
        Self {
            host,
            faults,
            addresses,
            turn: TurnServer::new(config, random),
            relays: BTreeMap::new(),
            by_address: BTreeMap::new(),
            next_port: FIRST_RELAY_PORT,
            streams: BTreeMap::new(),
            is_cut: false,
        }
    }

    /// Cuts it off: nothing that is sent to it arrives, so that it relays nothing.
    pub(super) const fn cut(&mut self) {
        self.is_cut = true;
    }

    /// It is there again.
    pub(super) const fn mend(&mut self) {
        self.is_cut = false;
    }

    pub(super) fn receive(&mut self, now: Timestamp, packet: &Packet) -> Vec<Action> {
        if self.is_cut {
            return Vec::new();
        }
        let local = packet.destination;
        if let Some(relay) = self.by_address.get(&local).copied() {
            if self.faults.relay_ports_closed {
                return Vec::new();
            }
            self.turn.handle_input(now, Input::FromPeer { relay, peer: packet.source, bytes: &packet.bytes });
        } else if local.port() == STUN_PORT && !self.faults.no_udp {
            // One listener for each address, so that an answer leaves from where the request went.
            let listener = self.addresses.iter().position(|address| *address == local.ip()).unwrap_or_default();
            let transport = ClientTransport::Udp(ListenerId(listener as u16));
            let client = Client { transport, source: packet.source };
            self.turn.handle_input(now, Input::FromClient { client, bytes: &packet.bytes });
        }
        self.drain(now)
    }

    /// Whether its host refuses a packet, because nothing listens at that port.
    pub(super) fn refuses(&self, packet: &Packet) -> bool {
        self.faults.refuses_udp && packet.destination.port() == STUN_PORT
    }

    /// Whether an address is one of its relayed sockets, whatever it announces.
    pub(super) fn is_relay(&self, address: SocketAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    /// How long it takes to answer.
    pub(super) const fn answers_after(&self) -> Duration {
        self.faults.answers_after
    }

    /// Whether it serves TURN over TCP or TLS at a port.
    pub(super) fn serves(&self, remote: SocketAddr) -> bool {
        remote.port() == STUN_PORT || self.speaks_tls(remote)
    }

    /// Whether it speaks TLS there.
    pub(super) fn speaks_tls(&self, remote: SocketAddr) -> bool {
        self.faults.tls.is_some_and(|(address, _)| address == remote)
    }

    /// What TLS says of it to who connects at an address: nothing, where the certificate is good or TLS is not spoken.
    pub(super) fn tls_refused(&self, now: Timestamp, remote: SocketAddr) -> Option<String> {
        let (_, certificate) = self.faults.tls.filter(|(address, _)| *address == remote)?;
        tls::refusal(certificate, remote.ip(), now)
    }

    /// Whether its host refuses connections.
    pub(super) const fn refuses_connections(&self) -> bool {
        self.faults.refuses_tcp
    }

    /// Whether it takes connections.
    pub(super) const fn accepts(&self) -> bool {
        !self.faults.no_tcp
    }

    /// Takes a connection the first time that it says something.
    pub(super) fn accept_once(&mut self, stream: u64, source: SocketAddr) {
        self.streams.entry(stream).or_insert_with(|| (source, Deframer::new(Framing::Stun)));
    }

    pub(super) fn receive_on_stream(&mut self, now: Timestamp, stream: u64, bytes: &[u8]) -> Vec<Action> {
        if self.is_cut {
            return Vec::new();
        }
        let Some((source, deframer)) = self.streams.get_mut(&stream) else { return Vec::new() };
        let client = Client { transport: ClientTransport::Stream(StreamId(stream)), source: *source };
        deframer.push(bytes);
        let mut messages = Vec::new();
        while let Ok(Some(message)) = deframer.next_message() {
            messages.push(message.to_vec());
        }
        let mut actions = Vec::new();
        for message in messages {
            self.turn.handle_input(now, Input::FromClient { client, bytes: &message });
            actions.extend(self.drain(now));
        }
        actions
    }

    pub(super) fn stream_closed(&mut self, now: Timestamp, stream: u64) -> Vec<Action> {
        let Some((source, _)) = self.streams.remove(&stream) else { return Vec::new() };
        let client = Client { transport: ClientTransport::Stream(StreamId(stream)), source };
        self.turn.handle_input(now, Input::StreamClosed { client });
        self.drain(now)
    }

    pub(super) fn wake(&mut self, now: Timestamp) -> Vec<Action> {
        self.turn.handle_input(now, Input::Timeout);
        self.drain(now)
    }

    /// Datagrams from clients that were relayed, wherever to.
    pub(super) fn relayed(&self) -> u64 {
        self.turn.counters().datagrams_to_peers
    }

    pub(super) fn allocations(&self) -> usize {
        self.turn.allocations()
    }

    fn drain(&mut self, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        loop {
            match self.turn.poll_output() {
                Output::SendToClient { client, bytes } => match client.transport {
                    ClientTransport::Stream(StreamId(stream)) => actions.push(Action::SendOnStream(stream, bytes)),
                    ClientTransport::Udp(ListenerId(listener)) => {
                        let local = self.addresses.get(usize::from(listener)).copied();
                        let Some(local) = local else { continue };
                        let source = SocketAddr::new(local, STUN_PORT);
                        actions.push(Action::Send(Packet::new(source, client.source, bytes)));
                    }
                },
                Output::OpenRelay { relay, family, .. } => {
                    let wanted = |address: &&IpAddr| address.is_ipv4() == (family == Family::Ipv4);
                    match self.addresses.iter().find(wanted) {
                        Some(address) => {
                            let address = SocketAddr::new(*address, self.next_port);
                            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_RELAY_PORT);
                            self.relays.insert(relay, address);
                            self.by_address.insert(address, relay);
                            // It is of one family, and the other has its right one.
                            let wrong = self.faults.relay_address.filter(|wrong| wrong.is_ipv4() == address.is_ipv4());
                            let ip = wrong.unwrap_or(address.ip());
                            let address = SocketAddr::new(ip, address.port());
                            self.turn.handle_input(now, Input::RelayOpened { relay, address });
                        }
                        None => self.turn.handle_input(now, Input::RelayFailed { relay }),
                    }
                }
                Output::SendFromRelay { relay, peer, bytes, .. } => {
                    if let Some(source) = self.relays.get(&relay) {
                        actions.push(Action::Send(Packet::new(*source, peer, bytes)));
                    }
                }
                Output::CloseRelay { relay } => {
                    if let Some(address) = self.relays.remove(&relay) {
                        self.by_address.remove(&address);
                    }
                }
                Output::Timeout(deadline) => {
                    actions.extend(deadline.map(Action::Wake));
                    return actions;
                }
            }
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("relays", &self.relays).finish_non_exhaustive()
    }
}
