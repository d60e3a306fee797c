//! A server with a driver of a few lines, and clients that speak to it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::*;
use crate::wire::attribute::AttributeType;
use crate::wire::integrity::Key;
use crate::wire::stun::{MessageBuilder, TransactionId};

pub(super) const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
pub(super) const PEER: &str = "198.41.0.4:7000";
pub(super) const PEER_IPV6: &str = "[2a00::7]:7000";

/// What the server has the driver do, the opening of relays aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    ToClient(Client, Vec<u8>),
    ToPeer { peer: SocketAddr, bytes: Vec<u8>, dont_fragment: bool },
    Closed(RelayId),
}

pub(super) struct Fixture {
    pub(super) server: TurnServer,
    pub(super) now: Timestamp,
    pub(super) relays: BTreeMap<RelayId, SocketAddr>,
    /// Families whose sockets cannot be had.
    pub(super) broken: Vec<Family>,
    /// Whether relays stay unopened until `open_relays`.
    pub(super) slow: bool,
    waiting: Vec<(RelayId, Family, bool)>,
    next_port: u16,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut TurnConfig)) -> Self {
        let credentials = Credentials::none()
            .with_user("alice", "wonderland")
            .with_user("bob", "builder")
            .with_secret(SharedSecret::new("north").unwrap());
        let mut config = TurnConfig { credentials, ..TurnConfig::default() };
        change(&mut config);
        Self {
            server: TurnServer::new(config, Random::from_number(1)),
            now: START,
            relays: BTreeMap::new(),
            broken: Vec::new(),
            slow: false,
            waiting: Vec::new(),
            next_port: 50_000,
        }
    }

    pub(super) fn input(&mut self, input: Input<'_>) -> Vec<Seen> {
        self.server.handle_input(self.now, input);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        loop {
            match self.server.poll_output() {
                Output::SendToClient { client, bytes } => seen.push(Seen::ToClient(client, bytes)),
                Output::SendFromRelay { relay, peer, bytes, dont_fragment } => {
                    assert!(self.relays.contains_key(&relay), "sends from a socket that is not open");
                    seen.push(Seen::ToPeer { peer, bytes, dont_fragment });
                }
                Output::CloseRelay { relay } => {
                    self.relays.remove(&relay);
                    seen.push(Seen::Closed(relay));
                }
                Output::OpenRelay { relay, family, even_port, .. } => {
                    self.waiting.push((relay, family, even_port));
                    if !self.slow {
                        seen.extend(self.open_relays());
                    }
                }
                Output::Timeout(_) => return seen,
            }
        }
    }

    /// Lets the driver open the sockets it was asked for.
    pub(super) fn open_relays(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        for (relay, family, even_port) in std::mem::take(&mut self.waiting) {
            if self.broken.contains(&family) {
                self.server.handle_input(self.now, Input::RelayFailed { relay });
            } else {
                self.next_port += if even_port && self.next_port.is_multiple_of(2) { 2 } else { 1 };
                let ip = match family {
                    Family::Ipv4 => "192.0.2.1".parse().unwrap(),
                    Family::Ipv6 => "2001:db8::1".parse().unwrap(),
                };
                let address = SocketAddr::new(ip, self.next_port);
                self.relays.insert(relay, address);
                self.server.handle_input(self.now, Input::RelayOpened { relay, address });
            }
            seen.extend(self.drain());
        }
        seen
    }

    pub(super) fn wait(&mut self, seconds: u64) -> Vec<Seen> {
        self.now += Duration::from_secs(seconds);
        self.input(Input::Timeout)
    }

    pub(super) fn peer_sends(&mut self, relay: RelayId, peer: &str, bytes: &[u8]) -> Vec<Seen> {
        self.input(Input::FromPeer { relay, peer: peer.parse().unwrap(), bytes })
    }

    pub(super) fn raw(&mut self, client: Client, bytes: &[u8]) -> Vec<Seen> {
        self.input(Input::FromClient { client, bytes })
    }
}

/// One client, which remembers realm and nonce.
pub(super) struct Caller {
    pub(super) client: Client,
    pub(super) username: String,
    pub(super) password: String,
    pub(super) nonce: String,
    random: Random,
}

/// A response, owned.
#[derive(Clone, Debug)]
pub(super) struct Response(pub(super) Vec<u8>);

impl Response {
    pub(super) fn message(&self) -> Message<'_> {
        Message::decode(&self.0).unwrap()
    }

    /// 0 for success.
    pub(super) fn code(&self) -> u16 {
        let message = self.message();
        if message.class == Class::Success { 0 } else { message.error_code().unwrap().code }
    }

    pub(super) fn relayed(&self) -> SocketAddr {
        self.message().xor_address(AttributeType::XOR_RELAYED_ADDRESS).expect("a relayed address")
    }

    pub(super) fn lifetime(&self) -> u32 {
        self.message().u32(AttributeType::LIFETIME).expect("a lifetime")
    }
}

pub(super) fn udp(source: &str) -> Client {
    Client { transport: ClientTransport::Udp(ListenerId(0)), source: source.parse().unwrap() }
}

pub(super) fn stream(number: u64, source: &str) -> Client {
    Client { transport: ClientTransport::Stream(StreamId(number)), source: source.parse().unwrap() }
}

impl Caller {
    pub(super) fn new(client: Client, username: &str, password: &str) -> Self {
        let seed = u64::from(client.source.port());
        Self {
            client,
            username: username.into(),
            password: password.into(),
            nonce: String::new(),
            random: Random::from_number(seed),
        }
    }

    pub(super) fn alice() -> Self {
        Self::new(udp("198.18.0.1:40000"), "alice", "wonderland")
    }

    pub(super) fn bob() -> Self {
        Self::new(udp("198.18.0.2:40001"), "bob", "builder")
    }

    pub(super) fn id(&mut self) -> TransactionId {
        self.random.transaction_id()
    }

    pub(super) fn key(&self) -> Key {
        Key::long_term(&self.username, "whyrelay", &self.password)
    }

    pub(super) fn start(&mut self, method: Method) -> MessageBuilder {
        let id = self.id();
        MessageBuilder::new(Class::Request, method, id)
    }

    /// Signs and sends a request as it is, and reads the one response.
    pub(super) fn once(&mut self, fixture: &mut Fixture, request: MessageBuilder) -> Response {
        let bytes = self.sign(request);
        self.response(fixture.raw(self.client, &bytes))
    }

    pub(super) fn sign(&self, request: MessageBuilder) -> Vec<u8> {
        request.long_term_credential(&self.username, "whyrelay", &self.nonce).integrity(&self.key()).build()
    }

    pub(super) fn response(&self, seen: Vec<Seen>) -> Response {
        let mut responses = seen.into_iter().filter_map(|seen| match seen {
            Seen::ToClient(client, bytes) if client == self.client => Some(Response(bytes)),
            _ => None,
        });
        let response = responses.next().expect("a response");
        assert!(responses.next().is_none(), "one response");
        response
    }

    /// Fetches a nonce with an unsigned Allocate.
    pub(super) fn greet(&mut self, fixture: &mut Fixture) -> Response {
        let request =
            self.start(Method::ALLOCATE).attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]).build();
        let response = self.response(fixture.raw(self.client, &request));
        self.nonce = response.message().text(AttributeType::NONCE).unwrap_or_default().to_owned();
        response
    }

    pub(super) fn allocation_request(&mut self) -> MessageBuilder {
        self.start(Method::ALLOCATE).attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
    }

    /// Greets and allocates.
    pub(super) fn allocate(&mut self, fixture: &mut Fixture) -> Response {
        self.greet(fixture);
        let request = self.allocation_request();
        self.once(fixture, request)
    }

    pub(super) fn refresh(&mut self, fixture: &mut Fixture, lifetime: u32) -> Response {
        let request = self.start(Method::REFRESH).u32(AttributeType::LIFETIME, lifetime);
        self.once(fixture, request)
    }

    pub(super) fn permit(&mut self, fixture: &mut Fixture, peers: &[&str]) -> u16 {
        let mut request = self.start(Method::CREATE_PERMISSION);
        for peer in peers {
            request = request.xor_address(AttributeType::XOR_PEER_ADDRESS, peer.parse().unwrap());
        }
        self.once(fixture, request).code()
    }

    pub(super) fn bind(&mut self, fixture: &mut Fixture, number: u16, peer: &str) -> u16 {
        let [high, low] = number.to_be_bytes();
        let request = self
            .start(Method::CHANNEL_BIND)
            .attribute(AttributeType::CHANNEL_NUMBER, &[high, low, 0, 0])
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer.parse().unwrap());
        self.once(fixture, request).code()
    }

    pub(super) fn send(&mut self, fixture: &mut Fixture, peer: &str, data: &[u8]) -> Vec<Seen> {
        let id = self.id();
        let bytes = MessageBuilder::new(Class::Indication, Method::SEND, id)
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer.parse().unwrap())
            .attribute(AttributeType::DATA, data)
            .build();
        fixture.raw(self.client, &bytes)
    }
}
