//! A TURN server (RFC 8656) with a STUN server's Binding on the same port, as a sans-IO machine.
//!
//! ```text
//! sockets --Input--> TurnServer::handle_input(now, …)      then poll_output() until Output::Timeout
//! ```
//! - A request changes nothing before its MESSAGE-INTEGRITY is valid. Nonces are MACs, so nothing is remembered of
//!   strangers; unauthenticated errors are few and small ([`Limits::unauthenticated_per_second`]).
//! - Everything that authenticated clients make is bounded by [`Limits`].
//! - A peer is judged by [`PeerPolicy`] on CreatePermission, on ChannelBind, and again on every datagram to it.
//! - **Relay to relay.** When both peers relay through this server, each one's peer address is an address of the
//!   server itself, which the policy refuses. It is allowed if, address and port, it is the relayed address of a live
//!   allocation; such datagrams are handed over inside and never touch a socket. So no other port of the server is
//!   opened by it, and it works behind a 1:1 NAT that does not hairpin and on a private network.
//!
//! Not offered: TCP relaying (RFC 6062; REQUESTED-TRANSPORT TCP gets 442), port pairs (EVEN-PORT with the R bit and
//! RESERVATION-TOKEN get 508), mobility, ICMP errors as indications.

mod allocating;
mod allocation;
mod config;
mod counters;
mod credentials;
mod discovery;
mod nat64;
mod nonce;
mod policy;
mod prefix;
mod probes;
mod relaying;
mod reply;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use sha2::digest::Update as _;

pub use allocation::Family;
pub use config::{Limits, TurnConfig};
pub use counters::Counters;
pub use credentials::{Credentials, LONGEST_VALIDITY, SharedSecret, TimeLimited};
pub use discovery::{Alternate, Discovery, DiscoverySocket};
pub use nat64::{Nat64Prefix, NotANat64Prefix};
pub use policy::{PeerPolicy, Refusal};
pub use prefix::{NotAPrefix, Prefix};
pub use relaying::Forward;

use allocation::{Allocation, Pace};
use discovery::Discoveries;
use nonce::{Allowance, AnswerBudget, Nonces};
use probes::Probes;

use super::stun_server;
use crate::random::Random;
use crate::time::Timestamp;
use crate::wire::demux::Protocol;
use crate::wire::stun::{Class, Message, Method};

/// One of the server's UDP sockets that clients send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u16);

/// One TCP or TLS connection from a client. The driver never uses a number twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// The socket behind one relayed address. The server never uses a number twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId(pub u64);

/// A client's 5-tuple: where it comes from and which of our sockets it comes to (RFC 8656 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client {
    /// The socket or connection it uses.
    pub transport: ClientTransport,
    /// Its address, as the server sees it.
    pub source: SocketAddr,
}

/// How a client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientTransport {
    /// Datagrams to one of our UDP sockets.
    Udp(ListenerId),
    /// A TCP or TLS connection.
    Stream(StreamId),
}

/// What happened outside.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A client sent one datagram, or one message cut out of its stream (`wire::framing`).
    FromClient {
        /// Who.
        client: Client,
        /// The message.
        bytes: &'a [u8],
    },
    /// A client's connection ended; its allocation ends with it (RFC 8656 §3.1).
    StreamClosed {
        /// Who.
        client: Client,
    },
    /// The socket asked for by [`Output::OpenRelay`] is open.
    RelayOpened {
        /// The relay.
        relay: RelayId,
        /// The address it is bound to, before any 1:1 NAT.
        address: SocketAddr,
    },
    /// The socket asked for by [`Output::OpenRelay`] could not be had; the client gets 508.
    RelayFailed {
        /// The relay.
        relay: RelayId,
    },
    /// A datagram arrived at a relayed address.
    FromPeer {
        /// The relay.
        relay: RelayId,
        /// Who sent it.
        peer: SocketAddr,
        /// The application data.
        bytes: &'a [u8],
    },
    /// The deadline of [`Output::Timeout`] has come.
    Timeout,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send bytes to a client: one datagram, or bytes ready for its stream (ChannelData is padded already).
    SendToClient {
        /// To whom.
        client: Client,
        /// What.
        bytes: Vec<u8>,
    },
    /// Open a UDP socket on a random free port for relaying, then say [`Input::RelayOpened`] or [`Input::RelayFailed`].
    /// An IPv6 socket must be IPv6 only.
    OpenRelay {
        /// The relay.
        relay: RelayId,
        /// Its family.
        family: Family,
        /// For whom: a host with several addresses opens it on the one that the client came to.
        client: Client,
        /// Whether the port must be an even number (RFC 8656 §7.2, EVEN-PORT).
        even_port: bool,
        /// Whether it must be on the very address that the client came to, whatever is configured for relays.
        as_reached: bool,
    },
    /// Send a datagram from a relayed address.
    SendFromRelay {
        /// The relay.
        relay: RelayId,
        /// To whom.
        peer: SocketAddr,
        /// The application data.
        bytes: Vec<u8>,
        /// Whether the DF bit is to be set (RFC 8656 §15).
        dont_fragment: bool,
    },
    /// Close a relay's socket.
    CloseRelay {
        /// The relay.
        relay: RelayId,
    },
    /// Nothing more to do until input arrives or, if a moment is named, until then.
    Timeout(Option<Timestamp>),
}

/// The server. Feed it with [`Self::handle_input`] and drain it with [`Self::poll_output`] after each input.
pub struct TurnServer {
    config: TurnConfig,
    random: Random,
    nonces: Nonces,
    budget: AnswerBudget,
    /// What users may add in new peers.
    new_peers: Option<Allowance>,
    /// What all allocations together have relayed, where that is limited.
    relayed_in_all: Pace,
    allocations: BTreeMap<Client, Allocation>,
    /// How many allocations each user has; an entry only for who has one.
    users: BTreeMap<String, usize>,
    /// Whose relay it is.
    relays: BTreeMap<RelayId, Client>,
    /// The relayed addresses, as peers see them, of live allocations.
    relayed: BTreeMap<SocketAddr, RelayId>,
    /// When each allocation must be looked at: the only timer there is, because expired permissions and channels
    /// count as absent.
    timers: BTreeSet<(Timestamp, Client)>,
    next_relay: u64,
    discoveries: Option<Discoveries>,
    probes: Probes,
    outputs: VecDeque<Output>,
    counters: Counters,
    /// Whether nobody is to come any more.
    is_draining: bool,
    /// Microseconds by which the wall clock is ahead of the time of inputs: it may be set, which that time never is.
    wall_ahead: i64,
    /// The latest refusals, for a log.
    refusals: VecDeque<Refused>,
}

/// A request that was answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What was asked for.
    pub method: Method,
    /// The code of the error (RFC 8489 §14.8).
    pub code: u16,
    /// Who asked.
    pub source: SocketAddr,
}

/// Refusals that are kept until they are taken: of a flood the first ones tell as much as all.
const MOST_REFUSALS: usize = 16;

/// The addresses under which others see this machine behind a 1:1 NAT.
fn external_addresses(config: &TurnConfig) -> impl Iterator<Item = IpAddr> + use<> {
    let relays = [config.external_ipv4.map(IpAddr::V4), config.external_ipv6.map(IpAddr::V6)];
    let discovery: Vec<IpAddr> = config.discovery.iter().flat_map(Discovery::own_addresses).collect();
    relays.into_iter().flatten().chain(discovery)
}

impl TurnServer {
    /// A server without allocations. `random` seeds nonces and transaction ids: it must be unpredictable outside tests.
    pub fn new(mut config: TurnConfig, mut random: Random) -> Self {
        config.policy.own_addresses.extend(external_addresses(&config));
        Self {
            nonces: Nonces::new(random.bytes(), config.limits.nonce_lifetime),
            budget: AnswerBudget::new(random.bytes(), config.limits.unauthenticated_per_second),
            new_peers: config.limits.new_peers_per_second.map(|limit| Allowance::new(random.bytes(), limit)),
            relayed_in_all: Pace::default(),
            discoveries: Discoveries::new(&config.discovery, &mut random),
            probes: Probes::new(&mut random),
            random: random.fork(),
            config,
            allocations: BTreeMap::new(),
            users: BTreeMap::new(),
            relays: BTreeMap::new(),
            relayed: BTreeMap::new(),
            timers: BTreeSet::new(),
            next_relay: 0,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            is_draining: false,
            wall_ahead: 0,
            refusals: VecDeque::new(),
        }
    }

    /// Takes in what happened. Drain [`Self::poll_output`] before the next call.
    pub fn handle_input(&mut self, now: Timestamp, input: Input<'_>) {
        if let Some(forward) = self.forward(now, input) {
            self.outputs.push_back(forward.to_output());
        }
    }

    /// The same, for a driver that sends application data from where it was read: such data is not among the outputs
    /// then, but answered here.
    pub fn forward<'a>(&mut self, now: Timestamp, input: Input<'a>) -> Option<Forward<'a>> {
        self.expire(now);
        match input {
            Input::FromClient { client, bytes } => return self.receive(now, client, bytes),
            Input::StreamClosed { client } => self.remove(&client),
            Input::RelayOpened { relay, address } => self.relay_opened(now, relay, Some(address)),
            Input::RelayFailed { relay } => self.relay_opened(now, relay, None),
            Input::FromPeer { relay, peer, bytes } => {
                let peer = without_scope(peer);
                if self.relays.contains_key(&relay) || !self.probe_arrived(relay, peer, bytes) {
                    return self.deliver(now, relay, peer, bytes);
                }
            }
            Input::Timeout => {}
        }
        None
    }

    /// The next thing to do; [`Output::Timeout`] when there is nothing more.
    pub fn poll_output(&mut self) -> Output {
        let output = self.outputs.pop_front();
        let due = || self.timers.first().map(|(due, _)| *due).into_iter().chain(self.probes.due()).min();
        output.unwrap_or_else(|| Output::Timeout(due()))
    }

    /// Replaces who may allocate: allocations that exist stay and may be refreshed with the password they have.
    pub fn set_credentials(&mut self, credentials: Credentials) {
        self.config.credentials = credentials;
    }

    /// Replaces the servers that new clients are sent to instead; allocations that exist stay.
    pub fn set_alternate_servers(&mut self, servers: Vec<SocketAddr>) {
        self.config.alternate_servers = servers;
    }

    /// Replaces what this server shares with the one that is its alternate address in behavior discovery. Until that one
    /// has it, too, neither answers for the other.
    pub fn set_discovery_secret(&mut self, secret: &SharedSecret) {
        if let Some(discoveries) = &mut self.discoveries {
            discoveries.set_secret(secret);
        }
    }

    /// Lets nobody in any more: whoever would allocate is sent to an alternate server of its family, or gets 508.
    /// Allocations that exist live on, and may be refreshed.
    pub fn drain(&mut self) {
        self.is_draining = true;
    }

    /// Tells what the wall clock says now, which may be set while the time of inputs only goes on. Lifetimes, nonces and
    /// budgets do not follow it; when credentials expire does, with allocations that end with them
    /// ([`TurnConfig::strict_expiry`]) and nonces that two servers share, and what this server says of its time. What
    /// expires by it does with the next input.
    pub fn set_wall_clock(&mut self, now: Timestamp, wall: Timestamp) {
        let micros = |time: Timestamp| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        self.wall_ahead = micros(wall).saturating_sub(micros(now));
        if self.config.strict_expiry {
            self.follow_credentials(now, wall);
        }
    }

    /// Has allocations end with their credentials, as the wall clock is now. One that was set back prolongs nothing.
    fn follow_credentials(&mut self, now: Timestamp, wall: Timestamp) {
        // It is looked at often, and differs by little each time.
        const TOLERANCE: Duration = Duration::from_secs(1);
        let mut earlier = Vec::new();
        for (client, allocation) in &mut self.allocations {
            let Some(expires) = allocation.credentials_expire.map(|expires| now + expires.since(wall)) else {
                continue;
            };
            for relay in allocation.relays.iter_mut().filter(|relay| relay.expires > expires + TOLERANCE) {
                relay.expires = expires;
                earlier.push(*client);
            }
        }
        for client in earlier {
            self.settle(&client);
        }
    }

    /// The wall clock's time.
    fn wall(&self, now: Timestamp) -> Timestamp {
        Timestamp::from_micros(now.as_micros().saturating_add_signed(self.wall_ahead))
    }

    /// The refusals since this was asked last, up to a bound; the counters have them all.
    pub fn take_refusals(&mut self) -> VecDeque<Refused> {
        std::mem::take(&mut self.refusals)
    }

    /// Counts an error response to this client, and keeps it for the log.
    fn refuse(&mut self, client: &Client, method: Method, code: u16) {
        self.count_error(code);
        if self.refusals.len() < MOST_REFUSALS {
            self.refusals.push_back(Refused { method, code, source: client.source });
        }
    }

    /// Replaces the addresses of this machine, which peers may not have: they come and go. The external ones stay.
    pub fn set_own_addresses(&mut self, interfaces: &[IpAddr]) {
        self.config.policy.own_addresses = interfaces.iter().copied().chain(external_addresses(&self.config)).collect();
    }

    /// What has been counted so far.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether a client has an allocation, or one that is being made.
    pub fn has_allocation(&self, client: &Client) -> bool {
        self.allocations.contains_key(client)
    }

    /// How many allocations live now.
    pub fn allocations(&self) -> usize {
        self.allocations.len()
    }

    /// How many sessions of probes live now.
    pub fn probe_sessions(&self) -> usize {
        self.probes.len()
    }

    fn receive<'a>(&mut self, now: Timestamp, client: Client, bytes: &'a [u8]) -> Option<Forward<'a>> {
        // From port 0 nobody receives; a datagram from one of our own listeners is a loop.
        if client.source.port() == 0 || self.config.policy.is_own_endpoint(client.source) {
            self.counters.noise += 1;
            return None;
        }
        match Protocol::of(bytes) {
            Protocol::TurnChannel => return self.channel_data(now, client, bytes),
            _ if self.config.rfc5766_channels && matches!(bytes, [0x50..=0x7F, ..]) => {
                return self.channel_data(now, client, bytes);
            }
            Protocol::Stun => match Message::decode(bytes) {
                Ok(message) if message.is_sound() => return self.message(now, client, &message),
                _ => self.counters.noise += 1,
            },
            _ => self.counters.noise += 1,
        }
        None
    }

    fn message<'a>(&mut self, now: Timestamp, client: Client, message: &Message<'a>) -> Option<Forward<'a>> {
        if self.discover(now, client, message) {
            return None;
        }
        match (message.class, message.method) {
            (Class::Request, Method::BINDING) => {
                if let Some((bytes, code)) = stun_server::answer_with_code(message, client.source) {
                    let is_forgeable = matches!(client.transport, ClientTransport::Udp(_));
                    if code.is_some() && is_forgeable && !self.budget.take(now, client.source.ip()) {
                        self.counters.unauthenticated_withheld += 1;
                        return None;
                    }
                    match code {
                        None => self.counters.bindings += 1,
                        Some(code) => self.refuse(&client, message.method, code),
                    }
                    self.outputs.push_back(Output::SendToClient { client, bytes });
                }
            }
            (Class::Request, Method::ALLOCATE | Method::REFRESH | Method::CREATE_PERMISSION | Method::CHANNEL_BIND) => {
                self.request(now, client, message)
            }
            (Class::Indication, Method::SEND) => return self.send_indication(now, client, message),
            (Class::Request, Method::PROBE) if probes::is_datagram(&client) => self.probe(now, client, message),
            _ => self.counters.noise += 1,
        }
        None
    }

    /// Ends what has expired.
    fn expire(&mut self, now: Timestamp) {
        self.expire_probes(now);
        while let Some((due, client)) = self.timers.first().copied().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, client));
            let Some(allocation) = self.allocations.get_mut(&client) else { continue };
            let expired: Vec<RelayId> =
                allocation.relays.iter().filter(|relay| relay.expires <= now).map(|relay| relay.id).collect();
            for relay in expired {
                self.close_relay(&client, relay);
            }
            self.settle(&client);
        }
    }

    /// Sets the timer of an allocation anew, or removes it when it has no relay left.
    fn settle(&mut self, client: &Client) {
        let Some(allocation) = self.allocations.get_mut(client) else { return };
        self.timers.remove(&(allocation.due, *client));
        match allocation.relays.iter().map(|relay| relay.expires).min() {
            Some(due) => {
                allocation.due = due;
                self.timers.insert((due, *client));
            }
            None => self.remove(client),
        }
    }

    fn close_relay(&mut self, client: &Client, relay: RelayId) {
        if let Some(allocation) = self.allocations.get_mut(client) {
            let addresses =
                allocation.relays.iter().filter(|other| other.id == relay).filter_map(|other| other.address);
            for address in addresses {
                self.relayed.remove(&address);
            }
            allocation.relays.retain(|other| other.id != relay);
        }
        self.relays.remove(&relay);
        self.outputs.push_back(Output::CloseRelay { relay });
    }

    fn remove(&mut self, client: &Client) {
        let Some(allocation) = self.allocations.get(client) else { return };
        let relays: Vec<RelayId> = allocation.relays.iter().map(|relay| relay.id).collect();
        for relay in relays {
            self.close_relay(client, relay);
        }
        let Some(allocation) = self.allocations.remove(client) else { return };
        self.timers.remove(&(allocation.due, *client));
        let user = credentials::quota_name(&allocation.username);
        if let Some(count) = self.users.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(user);
            }
        }
    }

    fn send(&mut self, client: Client, bytes: Vec<u8>) {
        self.outputs.push_back(Output::SendToClient { client, bytes });
    }
}

impl Client {
    /// Feeds every field, in a fixed length, to a hash.
    fn write_identity(&self, hash: &mut sha2::Sha256) {
        let (kind, number) = match self.transport {
            ClientTransport::Udp(listener) => (0, u64::from(listener.0)),
            ClientTransport::Stream(stream) => (1, stream.0),
        };
        let ip = match self.source.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        hash.update(&[kind]);
        hash.update(&number.to_be_bytes());
        hash.update(&ip.octets());
        hash.update(&self.source.port().to_be_bytes());
    }
}

/// An address as attributes can carry it: without IPv6 scope and flow label.
fn without_scope(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0)),
    }
}
