//! What the NAT in front of one local address does (RFC 5780): mapping, filtering, ports, hairpinning, rewriting.
//!
//! ```text
//! Opened, OpenFailed ───┐                   ┌─ Open, Transmit
//! Datagram, SendFailed ─┼─> NatDiscovery ───┼─ Event (measured, not measured)
//! Server, Complete, Timeout ┘               └─ Done
//! ```
//!
//! Every test has a socket of its own, so that no test opens the door for another, and all run side by side. Mapping is
//! told by answers; filtering is told by silence, which loss looks like: such a request goes out eight times, and its
//! silence counts only when six of them have waited for max(3 × round trip, 300 ms) and the two behind them for 50 ms less,
//! and only when the same address answers a request that any NAT lets through.

mod conclude;
pub mod lifetime;
mod naming;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use super::stun_client::same_endpoint;
use super::transaction::{Answered, Due, Schedule, Transactions};
use crate::random::Random;
use crate::time::{Now, Timestamp};
use crate::trace::event::EventKind;
use crate::trace::measurement::{Measurement, WITHOUT_ANSWER};
use crate::wire::attribute::AttributeType;
use crate::wire::stun::{Class, Message, MessageBuilder, Method};

/// Servers that are asked; of each one more it is said that it is not.
pub const MAX_SERVERS: usize = 8;

/// Sockets whose ports are compared.
const PORT_SOCKETS: u16 = 4;

/// Least time that a silence must last behind a transmission that counts: shorter ones turn jitter into "filtered".
const LEAST_SILENCE: Duration = Duration::from_millis(300);

/// So many transmissions count: 10 % loss each way takes all of them in 5 of 100,000 cases, and both behind them as well in 2
/// of a million. These have nearly as long, and the NAT is known sooner.
const COUNTED: u32 = 6;

/// Packets each way in the hairpinning test, and the time between two.
const HAIRPIN_TRIALS: u32 = 5;
const HAIRPIN_INTERVAL: Duration = Duration::from_millis(50);

/// CHANGE-REQUEST (RFC 5780 §7.2): the bits "change IP" and "change port".
const CHANGE_IP_AND_PORT: u32 = 0x06;
const CHANGE_PORT: u32 = 0x02;

/// One of the machine's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u16);

/// Asks every destination where it sees us.
const MAPPING: SocketId = SocketId(0);
/// Asks for an answer from another address.
const FROM_OTHER_ADDRESS: SocketId = SocketId(1);
/// Asks for an answer from another port.
const FROM_OTHER_PORT: SocketId = SocketId(2);
/// Exchanges packets with [`MAPPING`] over their mapped addresses.
const HAIRPIN: SocketId = SocketId(3);
/// The first of [`PORT_SOCKETS`].
const FIRST_PORT_SOCKET: u16 = 4;

/// What to look at.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// STUN servers of the address family, resolved.
    pub servers: Vec<SocketAddr>,
    /// Those of them that answer from elsewhere as often as we need only to who has proven itself with their NONCE
    /// (whyrelay's own, docs/probes.md).
    pub proving: Vec<SocketAddr>,
    /// Send packets to our own mapped address: it makes some routers notice us, so it is asked for.
    pub hairpin: bool,
    /// Compare the ports of several sockets.
    pub ports: bool,
    /// Wait for answers as long as a slow network needs (--time).
    pub patient: bool,
    /// More servers may be named by [`Input::Server`], until [`Input::Complete`]: what one of them could still tell is
    /// not concluded before.
    pub naming: bool,
}

/// What the machine is told.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// [`Output::Open`] succeeded.
    Opened {
        /// Which.
        socket: SocketId,
        /// Its address.
        local: SocketAddr,
    },
    /// [`Output::Open`] failed.
    OpenFailed {
        /// Which.
        socket: SocketId,
    },
    /// A datagram arrived.
    Datagram {
        /// On which socket.
        socket: SocketId,
        /// From where.
        remote: SocketAddr,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// The system refused a datagram, or an ICMP error came back for one.
    SendFailed {
        /// Which socket.
        socket: SocketId,
        /// Where to.
        remote: SocketAddr,
        /// errno.
        errno: i32,
    },
    /// Another server has become known.
    Server {
        /// Its address.
        remote: SocketAddr,
        /// Whether it is one of [`DiscoveryConfig::proving`].
        proving: bool,
    },
    /// No further server will be named.
    Complete,
    /// The time of [`Output::Timeout`] has come.
    Timeout,
}

/// What the machine wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Open a socket on the local address, any port.
    Open(SocketId),
    /// Send.
    Transmit {
        /// From which socket.
        socket: SocketId,
        /// Where to.
        remote: SocketAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// A fact for the recording.
    Event(EventKind),
    /// Mapping and filtering are known, or known to be unknowable here; the rest may go on.
    Concluded,
    /// Everything is settled.
    Done,
    /// Nothing more for now: call again with [`Input::Timeout`] at this time.
    Timeout(Timestamp),
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Mapping,
    /// A nonce for the filtering test of the same socket.
    Proof,
    Filter,
    Port,
    /// The mapped address of [`HAIRPIN`].
    Hairpin,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    socket: SocketId,
    remote: SocketAddr,
    what: What,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// An answer with a mapped address, from here.
    Answered { mapped: SocketAddr, from: SocketAddr },
    /// An error response, one that makes no sense, or the system would not send.
    Refused(u16),
    /// Nothing.
    Silent,
}

/// A server with two addresses, by its own word.
#[derive(Clone, Copy, Debug)]
struct TwoAddresses {
    primary: SocketAddr,
    other: SocketAddr,
}

impl TwoAddresses {
    const fn other_port(&self) -> SocketAddr {
        SocketAddr::new(self.primary.ip(), self.other.port())
    }

    const fn other_ip(&self) -> SocketAddr {
        SocketAddr::new(self.other.ip(), self.primary.port())
    }
}

/// A filtering test: silent so far since its last transmission, or ended.
#[derive(Clone, Copy, Debug, Default)]
struct FilterTest {
    started: bool,
    transmissions: u32,
    /// When the last of [`COUNTED`] transmissions left.
    counted: Option<Timestamp>,
    ended: Option<Ended>,
}

/// See the module.
#[derive(Debug)]
pub struct NatDiscovery {
    config: DiscoveryConfig,
    random: Random,
    sockets: BTreeMap<SocketId, Option<SocketAddr>>,
    transactions: Transactions<Request>,
    outputs: VecDeque<Output>,
    now: Now,
    /// Answers to [`MAPPING`]'s requests, by destination, in the order in which they came.
    mapped: Vec<(SocketAddr, Ended)>,
    /// When the last of these requests was begun.
    last_asked: Timestamp,
    /// Round trips by destination, upper bounds where a request was repeated.
    round_trips: BTreeMap<SocketAddr, Duration>,
    server: Option<TwoAddresses>,
    /// The first server that answered.
    first: Option<SocketAddr>,
    filters: [FilterTest; 2],
    /// Nonces of the two filtering tests' sockets.
    nonces: [Option<Vec<u8>>; 2],
    ports: BTreeMap<SocketId, Ended>,
    rewriting_told: bool,
    /// An answer came that somebody on the way had changed, in what matters.
    disbelieved: bool,
    hairpin: Hairpin,
    mapping_done: bool,
    filtering_done: bool,
    ports_done: bool,
    concluded: bool,
    done: bool,
}

/// The hairpinning test: waits for the mapped address of its own socket, then for packets.
#[derive(Clone, Copy, Debug, Default)]
struct Hairpin {
    mapped: Option<SocketAddr>,
    sent: u32,
    arrived: u32,
    internal: bool,
    next: Option<Timestamp>,
    settled: bool,
}

impl NatDiscovery {
    /// Opens its sockets first; drain before the first input.
    pub fn new(now: Timestamp, config: DiscoveryConfig, random: Random) -> Self {
        let mut machine = Self {
            random,
            sockets: BTreeMap::new(),
            transactions: Transactions::default(),
            outputs: VecDeque::new(),
            now: now.into(),
            mapped: Vec::new(),
            last_asked: now,
            round_trips: BTreeMap::new(),
            server: None,
            first: None,
            filters: [FilterTest::default(); 2],
            nonces: [None, None],
            ports: BTreeMap::new(),
            rewriting_told: false,
            disbelieved: false,
            hairpin: Hairpin { settled: !config.hairpin, ..Hairpin::default() },
            mapping_done: false,
            filtering_done: false,
            ports_done: !config.ports,
            concluded: false,
            done: false,
            config,
        };
        let mut wanted = vec![MAPPING, FROM_OTHER_ADDRESS, FROM_OTHER_PORT];
        if machine.config.hairpin {
            wanted.push(HAIRPIN);
        }
        if machine.config.ports {
            wanted.extend((0..PORT_SOCKETS).map(|number| SocketId(FIRST_PORT_SOCKET + number)));
        }
        machine.outputs.extend(wanted.into_iter().map(Output::Open));
        machine
    }

    /// Takes an input in; drain with [`Self::poll_output`] before the next.
    pub fn handle_input(&mut self, now: impl Into<Now>, input: Input<'_>) {
        self.now = now.into();
        if self.done {
            return;
        }
        match input {
            Input::Opened { socket, local } => self.opened(socket, Some(local)),
            Input::OpenFailed { socket } => self.opened(socket, None),
            Input::Datagram { socket, remote, bytes } => self.datagram(socket, remote, bytes),
            Input::SendFailed { socket, remote, errno } => {
                let which = |request: &Request| request.socket == socket && same_endpoint(request.remote, remote);
                self.transactions.refuse(errno, which);
            }
            Input::Server { remote, proving } => self.add_server(remote, proving),
            Input::Complete => self.config.naming = false,
            Input::Timeout => {}
        }
        self.advance();
    }

    /// The next thing to do, or until when there is nothing.
    pub fn poll_output(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| Output::Timeout(self.deadline()))
    }

    fn opened(&mut self, socket: SocketId, local: Option<SocketAddr>) {
        self.sockets.insert(socket, local);
        if local.is_none() || !self.all_opened() {
            return;
        }
        for server in std::mem::take(&mut self.config.servers) {
            self.ask_server(server);
        }
        self.ask_for_proof();
    }

    /// The tests need each other's sockets, so none starts before the last is open.
    fn all_opened(&self) -> bool {
        let ports = if self.config.ports { usize::from(PORT_SOCKETS) } else { 0 };
        self.sockets.len() == 3 + usize::from(self.config.hairpin) + ports
    }

    fn local(&self, socket: SocketId) -> Option<SocketAddr> {
        self.sockets.get(&socket).copied().flatten()
    }

    /// Starts a transaction.
    fn ask(&mut self, socket: SocketId, remote: SocketAddr, what: What, change: Option<u32>) {
        if self.local(socket).is_none() {
            return;
        }
        let id = self.random.transaction_id();
        let mut builder = MessageBuilder::new(Class::Request, Method::BINDING, id);
        if let Some(flags) = change {
            builder = builder.u32(AttributeType::CHANGE_REQUEST, flags);
        }
        if let Some(nonce) = self.nonce_for(socket, what) {
            builder = builder.attribute(AttributeType::NONCE, &nonce);
        }
        // Who has proven nothing yet is answered with little more than was asked with: a nonce is longer than its request.
        if matches!(what, What::Mapping | What::Proof) {
            builder = builder.text(AttributeType::SOFTWARE, ballast(remote));
        }
        let bytes = builder.fingerprint().build();
        let schedule = match what {
            What::Filter => Schedule::SILENCE,
            _ if self.config.patient => Schedule::QUICK_PATIENT,
            _ => Schedule::QUICK,
        };
        let request = Request { socket, remote, what };
        if what == What::Mapping {
            self.last_asked = self.now.time;
        }
        if self.transactions.start(self.now.time, id, bytes.clone(), request, schedule) {
            self.outputs.push_back(Output::Transmit { socket, remote, bytes });
        }
    }

    /// What a request proves itself with: nothing at first, which asks for a nonce.
    fn nonce_for(&self, socket: SocketId, what: What) -> Option<Vec<u8>> {
        match what {
            What::Proof => Some(Vec::new()),
            What::Filter => self.nonces[usize::from(socket == FROM_OTHER_PORT)].clone(),
            What::Mapping | What::Port | What::Hairpin => None,
        }
    }

    fn datagram(&mut self, socket: SocketId, remote: SocketAddr, bytes: &[u8]) {
        let Ok(message) = Message::decode(bytes) else { return };
        if message.method != Method::BINDING {
            return;
        }
        if message.is_rewritten() && message.class == Class::Success {
            return self.rewritten_answer(socket, remote, &message);
        }
        if !message.is_sound() {
            return;
        }
        match message.class {
            Class::Success | Class::Error => self.answer(socket, remote, &message),
            Class::Indication => self.hairpinned(socket, remote, &message),
            Class::Request => {}
        }
    }

    /// An application-level gateway changes addresses inside of packets, and leaves FINGERPRINT as it was. Where it knows
    /// the plain one only, XOR-MAPPED-ADDRESS is right, and differs; else nothing of the answer can be believed.
    fn rewritten_answer(&mut self, socket: SocketId, remote: SocketAddr, message: &Message<'_>) {
        let plain = message.address(AttributeType::MAPPED_ADDRESS);
        let xored = message.xor_address(AttributeType::XOR_MAPPED_ADDRESS);
        let Some(request) = self.transactions.peek(message.transaction) else { return };
        if plain.zip(xored).is_some_and(|(plain, xored)| plain != xored) {
            self.answer(socket, remote, message);
        } else if request.socket == socket && same_endpoint(request.remote, remote) {
            self.disbelieved = true;
        }
    }

    /// Why nothing is known where no server has answered.
    pub(super) fn without_answers(&self) -> &'static str {
        if self.disbelieved {
            "the answers were changed on the way (their FINGERPRINT is wrong): an application-level gateway rewrites them"
        } else {
            WITHOUT_ANSWER
        }
    }

    fn answer(&mut self, socket: SocketId, remote: SocketAddr, message: &Message<'_>) {
        let Some(request) = self.transactions.peek(message.transaction).copied() else { return };
        // Only a filtering test is answered from elsewhere than it was sent.
        let expected = same_endpoint(request.remote, remote) || request.what == What::Filter;
        if request.socket != socket || !expected {
            return;
        }
        let Some(Answered { rtt, exact, .. }) = self.transactions.answer(self.now.arrived, message.transaction) else {
            return;
        };
        // Of several requests the least: each may have been lost, and asked again.
        if request.what != What::Filter {
            let known = self.round_trips.entry(remote).or_insert(rtt);
            *known = rtt.min(*known);
        }
        let plain = message.address(AttributeType::MAPPED_ADDRESS);
        let xored = message.xor_address(AttributeType::XOR_MAPPED_ADDRESS);
        let ended = match (message.class, xored.or(plain)) {
            (Class::Error, _) => Ended::Refused(message.error_code().map_or(0, |error| error.code)),
            (_, Some(mapped)) => Ended::Answered { mapped, from: remote },
            (_, None) => Ended::Refused(0),
        };
        if let (Ended::Answered { mapped, .. }, What::Mapping, Some(local)) = (ended, request.what, self.local(socket))
        {
            let rtt_us = exact.then(|| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
            self.tell(Measurement::MappedAddress { local, remote, mapped, rtt_us });
            if let (Some(plain), Some(xored), false) = (plain, xored, self.rewriting_told) {
                self.rewriting_told = true;
                self.tell(Measurement::AddressRewriting { local, remote, plain, xored });
            }
            if self.first.is_none() {
                self.first = Some(remote);
                self.start_ports(remote);
            }
            self.consider(remote, message.address(AttributeType::OTHER_ADDRESS));
        }
        if request.what == What::Proof {
            let nonce = message.attribute(AttributeType::NONCE).map(|nonce| nonce.value.to_vec());
            self.nonces[usize::from(socket == FROM_OTHER_PORT)] = nonce;
        }
        self.end(request, ended);
    }

    fn end(&mut self, request: Request, ended: Ended) {
        match request.what {
            What::Mapping => self.mapped.push((request.remote, ended)),
            What::Proof => self.start_filters(),
            What::Filter => {
                let test = usize::from(request.socket == FROM_OTHER_PORT);
                self.filters[test].ended = Some(ended);
            }
            What::Port => {
                self.ports.insert(request.socket, ended);
            }
            What::Hairpin => match ended {
                Ended::Answered { mapped, .. } => {
                    self.hairpin.mapped = Some(mapped);
                    self.hairpin.next = Some(self.now.time);
                }
                Ended::Refused(_) | Ended::Silent => {
                    self.hairpin.settled = true;
                    self.missing("hairpinning", "the server told no mapped address of a second socket");
                }
            },
        }
    }

    /// A server told its other address: with it, the tests of RFC 5780 can start.
    fn consider(&mut self, primary: SocketAddr, other: Option<SocketAddr>) {
        let Some(other) = other.filter(|other| is_usable(primary, *other)) else { return };
        // One that knows us is asked from elsewhere only if it is the one whose nonce we have.
        let unproven = self.config.proving.contains(&primary) && self.config.proving.first() != Some(&primary);
        if self.server.is_some() || unproven {
            return;
        }
        let server = TwoAddresses { primary, other };
        self.server = Some(server);
        for destination in [server.other_ip(), other, server.other_port()] {
            if !self.config.servers.contains(&destination) {
                self.ask(MAPPING, destination, What::Mapping, None);
            }
        }
        self.start_filters();
    }

    /// Starts the filtering tests, once a server with two addresses is known and, where it wants that, the proof is there.
    fn start_filters(&mut self) {
        let Some(TwoAddresses { primary, .. }) = self.server else { return };
        let asking = self.transactions.requests().any(|request| request.what == What::Proof);
        if self.filters[0].started || asking && self.config.proving.contains(&primary) {
            return;
        }
        self.ask(FROM_OTHER_ADDRESS, primary, What::Filter, Some(CHANGE_IP_AND_PORT));
        self.ask(FROM_OTHER_PORT, primary, What::Filter, Some(CHANGE_PORT));
        for (test, socket) in self.filters.iter_mut().zip([FROM_OTHER_ADDRESS, FROM_OTHER_PORT]) {
            let opened = self.sockets.get(&socket).is_some_and(Option::is_some);
            *test = FilterTest { started: opened, transmissions: 1, counted: None, ended: None };
        }
    }

    fn start_ports(&mut self, server: SocketAddr) {
        if self.config.hairpin {
            self.ask(HAIRPIN, server, What::Hairpin, None);
        }
        if self.config.ports {
            (0..PORT_SOCKETS).for_each(|number| {
                self.ask(SocketId(FIRST_PORT_SOCKET + number), server, What::Port, None);
            });
        }
    }

    fn advance(&mut self) {
        while let Some(due) = self.transactions.poll(self.now) {
            match due {
                Due::Retransmit { request, bytes } => {
                    if request.what == What::Filter {
                        let test = &mut self.filters[usize::from(request.socket == FROM_OTHER_PORT)];
                        test.transmissions += 1;
                        if test.transmissions == COUNTED {
                            test.counted = Some(self.now.time);
                        }
                    }
                    let Request { socket, remote, .. } = request;
                    self.outputs.push_back(Output::Transmit { socket, remote, bytes });
                }
                Due::TimedOut { request, .. } => self.end(request, Ended::Silent),
                // What was never sent was not filtered.
                Due::Refused { request, .. } => self.end(request, Ended::Refused(0)),
            }
        }
        if self.all_opened() {
            self.conclude();
        }
    }

    fn deadline(&self) -> Timestamp {
        let hairpin = self.hairpin.next.filter(|_| self.concluded);
        let times = [self.transactions.deadline(), self.silence_ends(), hairpin, self.enough_at()];
        times.into_iter().flatten().min().unwrap_or(self.now.time + Duration::from_secs(3600))
    }

    fn tell(&mut self, fact: Measurement) {
        self.outputs.push_back(Output::Event(EventKind::Measured(fact)));
    }

    fn missing(&mut self, what: &str, why: &str) {
        let local = self.local(MAPPING).map(|local| format!(" of {}", local.ip())).unwrap_or_default();
        let (what, why) = (format!("{what}{local}"), why.to_owned());
        self.outputs.push_back(Output::Event(EventKind::NotMeasured { what, why }));
    }
}

/// Whether a server's other address differs in both, is of its family, and is no place that a hostile server could
/// want us to send to: what a public server names must be public, too.
fn is_usable(primary: SocketAddr, other: SocketAddr) -> bool {
    use crate::trace::address::AddressClass;
    let class = AddressClass::of(other.ip());
    let reachable = match class {
        AddressClass::Unspecified | AddressClass::Multicast => false,
        AddressClass::Loopback | AddressClass::LinkLocal => class == AddressClass::of(primary.ip()),
        AddressClass::Private | AddressClass::CarrierGrade => AddressClass::of(primary.ip()) != AddressClass::Public,
        AddressClass::Public => true,
    };
    let differs = other.ip() != primary.ip() && other.port() != primary.port() && other.port() != 0;
    reachable && differs && other.is_ipv4() == primary.is_ipv4()
}

/// What makes a request long enough for a whole answer: a server that sends nobody much more than was asked for leaves
/// OTHER-ADDRESS out of the answer to a short one (docs/probes.md). With FINGERPRINT 48 and 80 bytes for 76 and 124.
const fn ballast(remote: SocketAddr) -> &'static str {
    if remote.is_ipv4() { "whyrelay, padded" } else { "whyrelay, padded for four addresses of IPv6 each" }
}
