//! A gatherer, a virtual clock, and servers that answer as a script says.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::super::*;
use crate::ice::candidate::CandidateTransport;
use crate::trace::event::ServerFailure;
use crate::wire::attribute::AttributeType;
use crate::wire::integrity::{Integrity, Key};
use crate::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};
use crate::wire::turn::ChannelData;

pub(super) const START: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);
pub(super) const PASSWORD: &str = "opensesame";

pub(super) const SOCKET: &str = "192.0.2.1:40000";
pub(super) const TURN: &str = "198.51.100.2:3478";
pub(super) const RELAYED: &str = "198.51.100.2:50000";

/// The default configuration with servers by their URLs.
pub(super) fn config(urls: &[&str]) -> GatherConfig {
    GatherConfig { servers: urls.iter().map(|url| server(url)).collect(), ..GatherConfig::default() }
}

/// A bench with one socket and one TURN server, gathered.
pub(super) fn relayed(script: TurnScript) -> Bench {
    let mut bench = Bench::new(config(&["turn:198.51.100.2"]));
    bench.turn(TURN, script);
    bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
    bench.complete();
    bench.run_for(3000);
    bench
}

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A server by its URL, with credentials if it is a TURN server.
pub(super) fn server(url: &str) -> Server {
    let credentials = url.starts_with("turn");
    Server {
        url: url.parse().unwrap(),
        addresses: vec![],
        username: credentials.then(|| "ali".to_owned()),
        password: credentials.then(|| Password::new(PASSWORD.to_owned())),
    }
}

/// What a TURN server does.
#[derive(Clone, Debug)]
pub(super) struct TurnScript {
    pub(super) realm: &'static str,
    pub(super) nonce: String,
    pub(super) password: &'static str,
    /// PASSWORD-ALGORITHMS to offer.
    pub(super) algorithms: Option<Vec<u8>>,
    pub(super) sha256: bool,
    pub(super) lifetime_s: u32,
    pub(super) relayed: Vec<&'static str>,
    pub(super) mapped: &'static str,
    /// Errors for authenticated requests, in order: method, code.
    pub(super) errors: VecDeque<(Method, u16)>,
    /// Errors that stay.
    pub(super) always: BTreeMap<u16, u16>,
    pub(super) alternate: Option<SocketAddr>,
    /// Sign answers with another key.
    pub(super) forged: bool,
    pub(super) allocated: bool,
    /// Every authenticated request, in order, with its attributes' types.
    pub(super) requests: Vec<(Method, Vec<AttributeType>, Option<u32>)>,
    /// What came through Send and ChannelData: peer or channel, data.
    pub(super) sent: Vec<(String, Vec<u8>)>,
    pub(super) unauthenticated: usize,
}

impl Default for TurnScript {
    fn default() -> Self {
        Self {
            realm: "example.org",
            nonce: "nonce-1".to_owned(),
            password: PASSWORD,
            algorithms: None,
            sha256: false,
            lifetime_s: 600,
            relayed: vec!["198.51.100.2:50000"],
            mapped: "203.0.113.1:61000",
            errors: VecDeque::new(),
            always: BTreeMap::new(),
            alternate: None,
            forged: false,
            allocated: false,
            requests: Vec::new(),
            sent: Vec::new(),
            unauthenticated: 0,
        }
    }
}

impl TurnScript {
    fn key(&self) -> Key {
        let password = if self.forged { "another" } else { self.password };
        match self.sha256 {
            true => Key::long_term_sha256("ali", self.realm, password),
            false => Key::long_term("ali", self.realm, password),
        }
    }

    fn sign(&self, builder: MessageBuilder) -> Vec<u8> {
        if self.algorithms.is_some() {
            builder.integrity_sha256(&self.key()).build()
        } else {
            builder.integrity(&self.key()).build()
        }
    }

    pub(super) fn count(&self, method: Method) -> usize {
        self.requests.iter().filter(|(m, ..)| *m == method).count()
    }

    fn challenge(&self, method: Method, id: TransactionId, code: u16) -> Vec<u8> {
        let builder = MessageBuilder::new(Class::Error, method, id)
            .error(code, if code == 401 { "Unauthorized" } else { "Stale Nonce" })
            .text(AttributeType::REALM, self.realm)
            .text(AttributeType::NONCE, &self.nonce);
        match &self.algorithms {
            Some(list) => builder.attribute(AttributeType::PASSWORD_ALGORITHMS, list).build(),
            None => builder.build(),
        }
    }

    fn answer(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if bytes[0] >= 0x40 {
            let data = ChannelData::decode(bytes).unwrap();
            self.sent.push((format!("0x{:04x}", data.number), data.data.to_vec()));
            return None;
        }
        let message = Message::decode(bytes).unwrap();
        assert_eq!(message.defects, [], "what we send is sound");
        let (method, id) = (message.method, message.transaction);
        if message.class == Class::Indication {
            let peer = message.xor_address(AttributeType::XOR_PEER_ADDRESS).unwrap();
            let data = message.attribute(AttributeType::DATA).unwrap().value.to_vec();
            self.sent.push((peer.to_string(), data));
            return None;
        }
        let key = match self.sha256 {
            true => Key::long_term_sha256("ali", self.realm, self.password),
            false => Key::long_term("ali", self.realm, self.password),
        };
        match message.check_integrity(&key) {
            Integrity::Absent => {
                self.unauthenticated += 1;
                return Some(self.challenge(method, id, 401));
            }
            Integrity::Invalid => return Some(self.challenge(method, id, 401)),
            Integrity::Valid => {}
        }
        if message.text(AttributeType::NONCE) != Some(&self.nonce) {
            return Some(self.challenge(method, id, 438));
        }
        let kinds = message.attributes.iter().map(|attribute| attribute.kind).collect();
        self.requests.push((method, kinds, message.u32(AttributeType::LIFETIME)));
        let error = match self.errors.front() {
            Some(&(of, code)) if of == method => {
                self.errors.pop_front();
                Some(code)
            }
            _ => self.always.get(&method.0).copied(),
        };
        if error == Some(438) {
            return Some(self.challenge(method, id, 438));
        }
        if let Some(code) = error {
            let mut builder = MessageBuilder::new(Class::Error, method, id).error(code, "scripted");
            if let Some(alternate) = self.alternate {
                builder = builder.address(AttributeType::ALTERNATE_SERVER, alternate);
            }
            return Some(self.sign(builder));
        }
        let builder = MessageBuilder::new(Class::Success, method, id);
        Some(match method {
            Method::ALLOCATE => {
                self.allocated = true;
                let relayed = self.relayed.iter().map(|relayed| address(relayed));
                let builder = relayed
                    .fold(builder, |builder, relayed| builder.xor_address(AttributeType::XOR_RELAYED_ADDRESS, relayed));
                let builder = builder.xor_address(AttributeType::XOR_MAPPED_ADDRESS, address(self.mapped));
                self.sign(builder.u32(AttributeType::LIFETIME, self.lifetime_s))
            }
            Method::REFRESH => {
                let lifetime = message.u32(AttributeType::LIFETIME).unwrap_or(self.lifetime_s);
                self.allocated &= lifetime != 0;
                self.sign(builder.u32(AttributeType::LIFETIME, lifetime))
            }
            _ => self.sign(builder),
        })
    }
}

pub(super) enum Script {
    Stun(SocketAddr),
    Turn(Box<TurnScript>),
    /// Answers with noise.
    Garbage,
    /// Takes connections and says nothing.
    Silent,
}

enum Arrival {
    AtServer(Transmit),
    AtUs { path: Option<StreamId>, local: SocketAddr, from: SocketAddr, bytes: Vec<u8> },
    Connected(StreamId, SocketAddr),
    Refused(StreamId),
}

pub(super) struct Bench {
    pub(super) now: Timestamp,
    pub(super) gatherer: Gatherer,
    pub(super) one_way: Duration,
    /// Loss each way, in percent.
    pub(super) loss: u64,
    pub(super) outputs: Vec<(Timestamp, Output)>,
    pub(super) servers: BTreeMap<SocketAddr, Script>,
    /// Streams are refused instead of connected.
    pub(super) refuse_streams: bool,
    /// Streams deliver their bytes one by one.
    pub(super) trickle: bool,
    /// Answers come from here instead.
    pub(super) answer_from: Option<SocketAddr>,
    /// So many datagrams are refused by the system.
    pub(super) refuse_sends: u32,
    /// No answer arrives any more.
    pub(super) deaf: bool,
    random: Random,
    line: BTreeMap<(Timestamp, u64), Arrival>,
    sequence: u64,
    streams: BTreeMap<StreamId, SocketAddr>,
}

impl Bench {
    pub(super) fn new(config: GatherConfig) -> Self {
        Self::seeded(config, 1)
    }

    pub(super) fn seeded(config: GatherConfig, seed: u64) -> Self {
        let mut random = Random::from_number(seed);
        Self {
            now: START,
            gatherer: Gatherer::new(START, config, random.fork()),
            one_way: Duration::from_millis(10),
            loss: 0,
            outputs: Vec::new(),
            servers: BTreeMap::new(),
            refuse_streams: false,
            trickle: false,
            answer_from: None,
            refuse_sends: 0,
            deaf: false,
            random,
            line: BTreeMap::new(),
            sequence: 0,
            streams: BTreeMap::new(),
        }
    }

    pub(super) fn stun(&mut self, at: &str, mapped: &str) {
        self.servers.insert(address(at), Script::Stun(address(mapped)));
    }

    pub(super) fn turn(&mut self, at: &str, script: TurnScript) {
        self.servers.insert(address(at), Script::Turn(Box::new(script)));
    }

    pub(super) fn script(&mut self, at: &str) -> &mut TurnScript {
        match self.servers.get_mut(&address(at)) {
            Some(Script::Turn(script)) => script,
            _ => panic!("{at} is no TURN server"),
        }
    }

    pub(super) fn socket(&mut self, local: &str, interface: &str, transport: CandidateTransport) {
        let (local, interface) = (address(local), Some(interface.to_owned()));
        self.input(Input::Socket(LocalSocket { local, interface, transport }));
    }

    pub(super) fn complete(&mut self) {
        self.input(Input::Complete);
    }

    pub(super) fn input(&mut self, input: Input<'_>) -> bool {
        let ours = self.gatherer.handle_input(self.now, input);
        let mut refused = Vec::new();
        loop {
            match self.gatherer.poll_output() {
                Output::Timeout(deadline) => {
                    assert!(deadline <= self.now + IDLE_WAIT);
                    break;
                }
                Output::Transmit(transmit) if self.refuse_sends > 0 => {
                    self.refuse_sends -= 1;
                    refused.push((transmit.local, transmit.remote));
                }
                output => self.perform(output),
            }
        }
        for (local, remote) in refused {
            self.input(Input::SendFailed { local, remote, errno: 1 });
        }
        ours
    }

    fn perform(&mut self, output: Output) {
        match &output {
            Output::Transmit(transmit) => {
                if let Some(stream) = transmit.stream {
                    assert!(self.streams.contains_key(&stream), "sends on an open stream only");
                    assert_eq!(transmit.bytes.len() % 4, 0, "streams are padded");
                }
                self.travel(Arrival::AtServer(transmit.clone()), transmit.stream.is_none());
            }
            Output::ConnectStream { id, local, remote, .. } => {
                if self.refuse_streams {
                    self.travel(Arrival::Refused(*id), false);
                } else if self.servers.contains_key(remote) {
                    let local = SocketAddr::new(*local, 45_000 + id.0 as u16);
                    self.travel(Arrival::Connected(*id, local), false);
                }
            }
            Output::CloseStream { id } => {
                self.streams.remove(id);
            }
            _ => {}
        }
        self.outputs.push((self.now, output));
    }

    fn travel(&mut self, arrival: Arrival, lossy: bool) {
        if lossy && self.random.below(100) < self.loss {
            return;
        }
        let connecting = matches!(arrival, Arrival::Connected(..) | Arrival::Refused(_));
        let delay = if connecting { 2 * self.one_way } else { self.one_way };
        self.sequence += 1;
        self.line.insert((self.now + delay, self.sequence), arrival);
    }

    /// Something from a server, now.
    pub(super) fn deliver(&mut self, local: &str, from: &str, bytes: &[u8]) -> bool {
        self.input(Input::Datagram { local: address(local), remote: address(from), bytes })
    }

    /// Lets time pass.
    pub(super) fn run_for(&mut self, milliseconds: u64) {
        let end = self.now + Duration::from_millis(milliseconds);
        loop {
            let deadline = match self.gatherer.poll_output() {
                Output::Timeout(deadline) => deadline,
                other => panic!("left over: {other:?}"),
            };
            let arrival = self.line.first_key_value().map(|(&(at, _), _)| at);
            let next = arrival.map_or(deadline, |at| at.min(deadline));
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let (_, arrival) = self.line.pop_first().unwrap();
                self.arrive(arrival);
            } else {
                self.input(Input::Timeout);
            }
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::AtServer(Transmit { stream, local, remote, bytes, .. }) => {
                let answer = match self.servers.get_mut(&remote) {
                    Some(Script::Stun(mapped)) => {
                        let message = Message::decode(&bytes).unwrap();
                        assert_eq!((message.method, message.class), (Method::BINDING, Class::Request));
                        let builder = MessageBuilder::new(Class::Success, Method::BINDING, message.transaction);
                        Some(builder.xor_address(AttributeType::XOR_MAPPED_ADDRESS, *mapped).build())
                    }
                    Some(Script::Turn(script)) => script.answer(&bytes),
                    Some(Script::Garbage) => Some(vec![1, 1, 0xFF, 0xFF, 0x21, 0x12, 0xA4, 0x42, 0, 0, 0, 0]),
                    Some(Script::Silent) | None => None,
                };
                if let Some(bytes) = answer.filter(|_| !self.deaf) {
                    let from = self.answer_from.unwrap_or(remote);
                    self.travel(Arrival::AtUs { path: stream, local, from, bytes }, stream.is_none());
                }
            }
            Arrival::AtUs { path: None, local, from, bytes } => {
                self.input(Input::Datagram { local, remote: from, bytes: &bytes });
            }
            Arrival::AtUs { path: Some(id), bytes, .. } => {
                let chunk = if self.trickle { 1 } else { bytes.len() };
                for bytes in bytes.chunks(chunk) {
                    self.input(Input::StreamData { id, bytes });
                }
            }
            Arrival::Connected(id, local) => {
                self.streams.insert(id, local);
                self.input(Input::StreamConnected { id, local });
            }
            Arrival::Refused(id) => {
                self.input(Input::StreamFailed { id, detail: "connection refused" });
            }
        }
    }

    fn milliseconds(&self, at: Timestamp) -> u64 {
        at.since(START).as_millis() as u64
    }

    /// Everything that was sent, in order.
    pub(super) fn transmits(&self) -> Vec<&Transmit> {
        self.outputs
            .iter()
            .filter_map(|(_, output)| match output {
                Output::Transmit(transmit) => Some(transmit),
                _ => None,
            })
            .collect()
    }

    pub(super) fn sent_to(&self, remote: &str) -> usize {
        self.transmits().iter().filter(|transmit| transmit.remote == address(remote)).count()
    }

    /// The names that were asked for.
    pub(super) fn resolves(&self) -> Vec<&str> {
        self.outputs
            .iter()
            .filter_map(|(_, output)| match output {
                Output::Resolve { name } => Some(name.as_str()),
                _ => None,
            })
            .collect()
    }

    pub(super) fn candidates(&self) -> Vec<&LocalCandidate> {
        self.outputs
            .iter()
            .filter_map(|(_, output)| match output {
                Output::Candidate(candidate) => Some(candidate),
                _ => None,
            })
            .collect()
    }

    pub(super) fn candidate_lines(&self) -> Vec<String> {
        self.candidates().iter().map(|candidate| candidate.candidate.to_string()).collect()
    }

    pub(super) fn events(&self) -> Vec<&EventKind> {
        self.outputs
            .iter()
            .filter_map(|(_, output)| match output {
                Output::Event(event) => Some(event),
                _ => None,
            })
            .collect()
    }

    /// Every ServerFailed: method, failure.
    pub(super) fn failures(&self) -> Vec<(String, ServerFailure)> {
        self.events()
            .into_iter()
            .filter_map(|event| match event {
                EventKind::ServerFailed { method, failure, .. } => Some((method.clone(), failure.clone())),
                _ => None,
            })
            .collect()
    }

    /// Codes of the error responses, with whether each was expected.
    pub(super) fn codes(&self) -> Vec<(u16, bool)> {
        self.failures()
            .into_iter()
            .filter_map(|(_, failure)| match failure {
                ServerFailure::ErrorResponse { code, expected, .. } => Some((code, expected)),
                _ => None,
            })
            .collect()
    }

    /// When EndOfCandidates came, in milliseconds.
    pub(super) fn ended_at(&self) -> Option<u64> {
        let end = self.outputs.iter().find(|(_, output)| *output == Output::EndOfCandidates);
        end.map(|(at, _)| self.milliseconds(*at))
    }

    pub(super) fn has(&self, output: &Output) -> bool {
        self.outputs.iter().any(|(_, other)| other == output)
    }
}
