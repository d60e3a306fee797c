//! Probes from one peer to the other that tell causes apart: from sockets made otherwise than the session's, with
//! other TTLs and lengths.
//!
//! Each [`Attempt`] is one socket and one [`ProbeAim`]. It learns its mapped address from a server, has it announced to
//! the peer, which sends openers there so that its own NAT lets the probe in, and asks each address of the peer. What
//! came of it is one [`Probe`] for each address, when all are answered or the time is over.

mod asked;
pub mod plan;
mod silence;
pub mod sizes;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

pub use asked::Asked;
pub use wire::{Seen, is_between_peers, knock, opener, receive};

use crate::host::{Probe, ProbeAim, ProbeOutcome};
use crate::ice::Credentials;
use crate::random::Random;
use crate::time::{Now, Timestamp};
use crate::wire::attribute::AttributeType;
use crate::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};

/// When a request is sent, after the attempt's start at its address.
const SENDS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(60),
    Duration::from_millis(160),
    Duration::from_millis(320),
    Duration::from_millis(560),
    Duration::from_millis(850),
];

/// How long an answer may take after the last send, at least.
const LAST_WAIT: Duration = Duration::from_millis(450);

/// The same at most, on slow paths.
const LONGEST_WAIT: Duration = Duration::from_millis(1500);

/// A server that does not tell the mapped address by then will not.
const MAPPED_WITHIN: Duration = Duration::from_millis(400);

/// The peer says that its openers are out; on a signaling that is slow they are taken to be, by then.
const OPENED_WITHIN: Duration = Duration::from_millis(700);

/// Openers that the peer has sent are on their way for this long, at least.
const OPENERS_ARRIVE: Duration = Duration::from_millis(60);

/// So many answers that were changed on the way are no chance.
const REWRITTEN: u32 = 2;

/// Most addresses of the peer that one attempt asks.
pub const MAX_TARGETS: usize = 8;

/// Most attempts of one session.
pub const MAX_ATTEMPTS: usize = 64;

/// A socket that probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What it changes.
    pub aim: ProbeAim,
    /// The socket.
    pub local: SocketAddr,
    /// A STUN server that tells the mapped address; `None`: nobody is asked and nothing announced.
    pub server: Option<SocketAddr>,
    /// The peer's addresses.
    pub targets: Vec<SocketAddr>,
    /// Servers that are asked where they see the socket, for its own sake: what each says is a fact.
    pub asked: Vec<SocketAddr>,
}

impl Attempt {
    /// Whether it is about every address of the peer; else about one path.
    fn asks_everywhere(&self) -> bool {
        !matches!(
            self.aim,
            ProbeAim::PlainServer | ProbeAim::TimeToLive { .. } | ProbeAim::Padded { .. } | ProbeAim::Silence { .. }
        )
    }

    /// The name of its aim on the wire.
    fn name(&self) -> &'static str {
        match self.aim {
            ProbeAim::Plain => "plain",
            ProbeAim::PlainServer => "plain-server",
            ProbeAim::Device { .. } => "device",
            ProbeAim::OtherPort => "other-port",
            ProbeAim::WithoutMark => "without-mark",
            ProbeAim::TimeToLive { .. } => "time-to-live",
            ProbeAim::Padded { .. } => "padded",
            ProbeAim::Segment { .. } => "segment",
            ProbeAim::EarlyArrival => "early-arrival",
            ProbeAim::AfterOpener { .. } => "after-opener",
            ProbeAim::Silence { .. } => "silence",
        }
    }
}

/// What the probes are told.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// A socket is there: probe from it.
    Attempt(Attempt),
    /// The peer has one more address.
    Target(SocketAddr),
    /// A datagram arrived at a probing socket.
    Datagram {
        /// The socket.
        local: SocketAddr,
        /// Its source.
        remote: SocketAddr,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// The peer says that it has sent its openers to what was announced.
    Opened,
    /// The system refused to send.
    Refused {
        /// The socket.
        local: SocketAddr,
        /// Where to.
        remote: SocketAddr,
        /// errno.
        errno: i32,
    },
    /// An ICMP error came back.
    Icmp {
        /// The socket.
        local: SocketAddr,
        /// Where the datagram was going.
        remote: SocketAddr,
        /// What came.
        outcome: ProbeOutcome,
        /// As much of the datagram as came back.
        quoted: &'a [u8],
    },
    /// The moment of [`Output::Timeout`] came.
    Timeout,
    /// What is not answered stays without an answer.
    Stop,
}

/// What the probes want.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send this, with a TTL where one is named.
    Transmit {
        /// The socket.
        local: SocketAddr,
        /// Where to.
        remote: SocketAddr,
        /// The bytes.
        bytes: Vec<u8>,
        /// The TTL or hop limit; `None`: the system's.
        ttl: Option<u8>,
        /// Nobody may fragment it.
        whole: bool,
    },
    /// Tell the peer to send openers to these addresses.
    Announce(Vec<SocketAddr>),
    /// Tell the peer to knock at these addresses after a silence.
    Silence {
        /// The mapped address of the socket, and its own.
        at: Vec<SocketAddr>,
        /// After this time.
        after: Duration,
    },
    /// Record this.
    Probe(Probe),
    /// Come back at this moment; `None`: everything is done.
    Timeout(Option<Timestamp>),
}

/// One address of the peer that is asked, or a server.
#[derive(Debug)]
struct Request {
    remote: SocketAddr,
    to_server: bool,
    id: TransactionId,
    /// When the next one is sent, or given up.
    next_at: Timestamp,
    first: Option<Timestamp>,
    transmissions: u32,
    outcome: Option<ProbeOutcome>,
    /// Answers of a server that were changed on the way, and the address that they tell.
    rewritten: (u32, Option<SocketAddr>),
    /// Its fact is out.
    told: bool,
}

impl Request {
    /// What it comes to when nothing more is waited for.
    const fn given_up(&self) -> ProbeOutcome {
        match self.rewritten {
            (0, _) => ProbeOutcome::Silent,
            (answers, told) => ProbeOutcome::Rewritten { told, answers },
        }
    }
}

/// How far an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The server is asked until this moment. Left with its answer.
    Mapping(Timestamp),
    /// Where it matters who comes first: the peer's openers are waited for, until this moment.
    Opening(Timestamp),
    /// The peer is asked. Left when every address is settled.
    Asking,
    /// Nothing is sent, and the peer's knock is waited for until this moment.
    Silent(Timestamp),
    /// Everything is told.
    Done,
}

#[derive(Debug)]
struct Running {
    attempt: Attempt,
    stage: Stage,
    started: Timestamp,
    mapping: TransactionId,
    mapping_sent: u32,
    /// What the server told, and the socket's own address.
    mapped: Vec<SocketAddr>,
    requests: Vec<Request>,
}

/// See the module.
#[derive(Debug)]
pub struct PeerProbes {
    ours: Credentials,
    theirs: Credentials,
    random: Random,
    patience: Duration,
    attempts: Vec<Running>,
    answers: BTreeMap<TransactionId, (usize, usize)>,
    outputs: VecDeque<Output>,
    /// No more is begun.
    stopping: bool,
    /// A hop that is silent was told.
    silent_hop: bool,
}

impl PeerProbes {
    /// Probes between two peers with these credentials. `round_trip`: what is known of the path's.
    pub fn new(ours: Credentials, theirs: Credentials, round_trip: Option<Duration>, random: Random) -> Self {
        let patience = (round_trip.unwrap_or_default() * 2).clamp(LAST_WAIT, LONGEST_WAIT);
        Self {
            ours,
            theirs,
            random,
            patience,
            attempts: Vec::new(),
            answers: BTreeMap::new(),
            outputs: VecDeque::new(),
            stopping: false,
            silent_hop: false,
        }
    }

    /// Takes an input in; drain [`Self::poll_output`] before the next.
    pub fn handle_input(&mut self, now: impl Into<Now>, input: Input<'_>) {
        let Now { time: now, arrived, heard } = now.into();
        match input {
            Input::Attempt(attempt) => self.begin(now, attempt),
            Input::Target(remote) => {
                for index in 0..self.attempts.len() {
                    if self.attempts[index].stage != Stage::Done && self.attempts[index].attempt.asks_everywhere() {
                        self.aim_at(now, index, remote);
                    }
                }
            }
            Input::Datagram { local, remote, bytes } => self.datagram(now, arrived, (local, remote), bytes),
            Input::Opened => {
                for running in &mut self.attempts {
                    if let Stage::Opening(until) = &mut running.stage {
                        *until = (*until).min(now + OPENERS_ARRIVE + self.patience / 8);
                    }
                }
            }
            Input::Refused { local, remote, errno } => {
                self.settle(local, remote, &[], &ProbeOutcome::Refused { errno });
            }
            Input::Icmp { local, remote, outcome, quoted } => self.settle(local, remote, quoted, &outcome),
            Input::Timeout => {}
            Input::Stop => {
                self.stopping = true;
                for running in &mut self.attempts {
                    for request in &mut running.requests {
                        if request.outcome.is_none() {
                            request.outcome = Some(request.given_up());
                        }
                    }
                    match running.stage {
                        // Cut short: that no knock came says nothing.
                        Stage::Silent(_) => running.stage = Stage::Done,
                        Stage::Done => {}
                        _ if matches!(running.attempt.aim, ProbeAim::Silence { .. }) => running.stage = Stage::Done,
                        _ => running.stage = Stage::Asking,
                    }
                }
            }
        }
        self.advance(now, heard);
    }

    /// The next output.
    pub fn poll_output(&mut self) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| Output::Timeout(self.deadline()))
    }

    /// Whether an error for a datagram between these addresses is about a probe, as far as what it quotes tells. What
    /// is not, is somebody else's.
    pub fn is_about(&self, local: SocketAddr, remote: SocketAddr, quoted: &[u8]) -> bool {
        self.request_of(local, remote, quoted).is_some()
    }

    /// Whether everything is told.
    pub fn is_done(&self) -> bool {
        self.attempts.iter().all(|running| running.stage == Stage::Done)
    }

    fn begin(&mut self, now: Timestamp, attempt: Attempt) {
        if self.attempts.len() >= MAX_ATTEMPTS {
            return;
        }
        let stage = match attempt.server {
            Some(_) => Stage::Mapping(now + MAPPED_WITHIN),
            None => Stage::Asking,
        };
        let mapping = self.random.transaction_id();
        let (targets, asked) = (attempt.targets.clone(), attempt.asked.clone());
        self.attempts.push(Running {
            attempt,
            stage,
            started: now,
            mapping,
            mapping_sent: 0,
            mapped: Vec::new(),
            requests: Vec::new(),
        });
        let index = self.attempts.len() - 1;
        for remote in targets {
            self.aim_at(now, index, remote);
        }
        for remote in asked {
            self.request(now, index, remote, true);
        }
    }

    fn aim_at(&mut self, now: Timestamp, index: usize, remote: SocketAddr) {
        self.request(now, index, remote, false);
    }

    fn request(&mut self, now: Timestamp, index: usize, remote: SocketAddr, to_server: bool) {
        let id = self.random.transaction_id();
        let running = &mut self.attempts[index];
        let known = running.requests.iter().any(|request| request.remote == remote);
        if known || running.requests.len() >= MAX_TARGETS || remote.is_ipv4() != running.attempt.local.is_ipv4() {
            return;
        }
        self.answers.insert(id, (index, running.requests.len()));
        running.requests.push(Request {
            remote,
            to_server,
            id,
            next_at: now,
            first: None,
            transmissions: 0,
            outcome: None,
            rewritten: (0, None),
            told: false,
        });
    }

    fn datagram(
        &mut self,
        now: Timestamp,
        arrived: Timestamp,
        (local, remote): (SocketAddr, SocketAddr),
        bytes: &[u8],
    ) {
        if let Some((id, mapped)) = wire::read_answer(bytes, &self.theirs) {
            let Some(&(index, number)) = self.answers.get(&id) else { return };
            let request = &mut self.attempts[index].requests[number];
            let first = request.first.unwrap_or(arrived);
            if request.remote == remote {
                let round_trip_us = u64::try_from((arrived - first).as_micros()).unwrap_or(u64::MAX);
                // An answer outweighs an error that a lost twin of the request got.
                request.outcome = Some(ProbeOutcome::Answered { mapped: Some(mapped), round_trip_us });
            }
            return;
        }
        if wire::is_knock(bytes, remote, &self.ours) {
            return self.knocked(local, remote);
        }
        let Ok(message) = Message::decode(bytes) else { return };
        if self.server_answered(arrived, (local, remote), &message) {
            return;
        }
        let is_mapping = |running: &&mut Running| {
            running.attempt.local == local
                && running.attempt.server == Some(remote)
                && running.mapping == message.transaction
                && matches!(running.stage, Stage::Mapping(_))
        };
        let Some(running) = self.attempts.iter_mut().find(is_mapping) else { return };
        let Some(mapped) = message.xor_address(AttributeType::XOR_MAPPED_ADDRESS).filter(|_| message.is_sound()) else {
            return;
        };
        let round_trip_us = u64::try_from((arrived - running.started).as_micros()).unwrap_or(u64::MAX);
        if !matches!(running.attempt.aim, ProbeAim::Silence { .. }) {
            self.outputs.push_back(Output::Probe(Probe {
                aim: running.attempt.aim.clone(),
                local,
                remote,
                transmissions: running.mapping_sent,
                result: ProbeOutcome::Answered { mapped: Some(mapped), round_trip_us },
            }));
        }
        self.mapped(now, local, &[mapped]);
    }

    /// Takes the answer of a server that was asked for its own sake; `false`: it is none.
    fn server_answered(
        &mut self,
        arrived: Timestamp,
        (local, remote): (SocketAddr, SocketAddr),
        message: &Message<'_>,
    ) -> bool {
        let Some(&(index, number)) = self.answers.get(&message.transaction) else { return false };
        let running = &mut self.attempts[index];
        let request = &mut running.requests[number];
        let expected = request.to_server && running.attempt.local == local && request.remote == remote;
        if !expected || message.method != Method::BINDING || !matches!(message.class, Class::Success | Class::Error) {
            return false;
        }
        let mapped = message.xor_address(AttributeType::XOR_MAPPED_ADDRESS);
        if message.is_sound() {
            let round_trip_us = u64::try_from((arrived - request.first.unwrap_or(arrived)).as_micros());
            // A whole answer outweighs all that were not.
            let round_trip_us = round_trip_us.unwrap_or(u64::MAX);
            request.outcome = Some(ProbeOutcome::Answered { mapped, round_trip_us });
        } else if message.is_rewritten() {
            let (answers, told) = &mut request.rewritten;
            (*answers, *told) = (*answers + 1, told.or(mapped));
            // One may be chance.
            if *answers >= REWRITTEN && request.outcome.is_none() {
                request.outcome = Some(request.given_up());
            }
        }
        true
    }

    /// The mapping of a socket is known, or will not be: announce it and go on.
    fn mapped(&mut self, now: Timestamp, local: SocketAddr, mapped: &[SocketAddr]) {
        let mapping =
            |running: &&mut Running| running.attempt.local == local && matches!(running.stage, Stage::Mapping(_));
        let Some(running) = self.attempts.iter_mut().find(mapping) else { return };
        if let ProbeAim::AfterOpener { ttl } = running.attempt.aim {
            // Ahead of the announcement: the peer's openers must find this flow in our NAT.
            for request in &running.requests {
                let id = self.random.transaction_id();
                let bytes =
                    wire::message(Class::Indication, id, running.attempt.name(), &self.ours, &self.theirs, None);
                let ttl = Some(ttl);
                self.outputs.push_back(Output::Transmit { local, remote: request.remote, bytes, ttl, whole: false });
            }
        }
        running.stage = match running.attempt.aim {
            // What comes first matters in both: the peer's packets, without and with a flow of ours to match.
            ProbeAim::EarlyArrival | ProbeAim::AfterOpener { .. } => Stage::Opening(now + OPENED_WITHIN),
            _ => Stage::Asking,
        };
        for request in &mut running.requests {
            request.next_at = now;
        }
        // Where there is no NAT, or no server told: the socket's own address.
        let mut addresses = mapped.to_vec();
        if !addresses.contains(&local) {
            addresses.push(local);
        }
        running.mapped.clone_from(&addresses);
        self.outputs.push_back(Output::Announce(addresses));
    }

    /// An error for what was sent. Of several requests on the same addresses the quoted bytes tell which, and without
    /// them the oldest that is open.
    fn settle(&mut self, local: SocketAddr, remote: SocketAddr, quoted: &[u8], outcome: &ProbeOutcome) {
        if let Some((index, number)) = self.request_of(local, remote, quoted) {
            // What died of a low TTL was the opener: that is what it is for. Time exceeded is type 11 (RFC 792), in
            // ICMPv6 3 with code 0 (RFC 4443 §3.3), which in ICMP means that a network is unreachable.
            let died = match outcome {
                ProbeOutcome::Icmp { icmp_type: 11, .. } => remote.is_ipv4(),
                ProbeOutcome::Icmp { icmp_type: 3, icmp_code: 0, .. } => remote.is_ipv6(),
                _ => false,
            };
            let of_opener = died && matches!(self.attempts[index].attempt.aim, ProbeAim::AfterOpener { .. });
            let request = &mut self.attempts[index].requests[number];
            if !of_opener && !matches!(request.outcome, Some(ProbeOutcome::Answered { .. })) {
                request.outcome = Some(outcome.clone());
            }
        }
    }

    /// The request that an error is about: by the transaction that it quotes; where it quotes less, the first open one
    /// between these addresses.
    fn request_of(&self, local: SocketAddr, remote: SocketAddr, quoted: &[u8]) -> Option<(usize, usize)> {
        if let Some(id) = quoted.get(8..20).and_then(|bytes| Some(TransactionId(*bytes.first_chunk()?))) {
            return self.answers.get(&id).copied();
        }
        self.attempts.iter().enumerate().filter(|(_, running)| running.attempt.local == local).find_map(
            |(index, running)| {
                let open = |request: &Request| {
                    request.remote == remote && request.first.is_some() && request.outcome.is_none()
                };
                running.requests.iter().position(open).map(|number| (index, number))
            },
        )
    }

    fn advance(&mut self, now: Timestamp, heard: Timestamp) {
        for index in 0..self.attempts.len() {
            let running = &mut self.attempts[index];
            let local = running.attempt.local;
            match running.stage {
                Stage::Mapping(until) if heard >= until => self.mapped(now, local, &[]),
                Stage::Mapping(_) => {
                    let due = SENDS.get(running.mapping_sent as usize).map(|after| running.started + *after);
                    if let (Some(remote), true) = (running.attempt.server, due.is_some_and(|due| now >= due)) {
                        running.mapping_sent += 1;
                        let request = MessageBuilder::new(Class::Request, Method::BINDING, running.mapping);
                        let bytes = request.fingerprint().build();
                        self.outputs.push_back(Output::Transmit { local, remote, bytes, ttl: None, whole: false });
                    }
                }
                Stage::Opening(until) if heard >= until => {
                    running.stage = Stage::Asking;
                    for request in &mut running.requests {
                        request.next_at = now;
                    }
                }
                Stage::Silent(until) if heard >= until => self.end_of_silence(index),
                Stage::Opening(_) | Stage::Asking | Stage::Silent(_) | Stage::Done => {}
            }
            self.ask(now, heard, index);
        }
    }

    fn ask(&mut self, now: Timestamp, heard: Timestamp, index: usize) {
        let running = &mut self.attempts[index];
        if running.stage != Stage::Asking {
            return;
        }
        let local = running.attempt.local;
        let (ttl, length) = match running.attempt.aim {
            ProbeAim::TimeToLive { ttl } => (Some(ttl), None),
            // The length is that of the IP packet; the rest is headers.
            ProbeAim::Padded { length } => (None, Some(length - if local.is_ipv4() { 28 } else { 48 })),
            _ => (None, None),
        };
        let name = running.attempt.name();
        for request in &mut running.requests {
            if request.outcome.is_some() || request.transmissions > 0 && heard < request.next_at {
                continue;
            }
            let first = *request.first.get_or_insert(now);
            if request.transmissions as usize >= SENDS.len() {
                request.outcome = Some(request.given_up());
                continue;
            }
            request.transmissions += 1;
            request.next_at = match SENDS.get(request.transmissions as usize) {
                Some(after) => first + *after,
                None => now + self.patience,
            };
            let remote = request.remote;
            let bytes = if request.to_server {
                MessageBuilder::new(Class::Request, Method::BINDING, request.id).fingerprint().build()
            } else {
                wire::message(Class::Request, request.id, name, &self.ours, &self.theirs, length)
            };
            let whole = length.is_some();
            self.outputs.push_back(Output::Transmit { local, remote, bytes, ttl, whole });
        }
        if running.requests.iter().all(|request| request.outcome.is_some()) {
            if let ProbeAim::Silence { seconds } = running.attempt.aim
                && !self.stopping
            {
                return self.be_silent(now, index, seconds);
            }
            running.stage = Stage::Done;
            for request in &running.requests {
                let result = request.outcome.clone().unwrap_or(ProbeOutcome::Silent);
                let is_silent_hop = !request.to_server
                    && matches!((&running.attempt.aim, &result), (ProbeAim::TimeToLive { .. }, ProbeOutcome::Silent));
                // Behind the first hop that is silent the others tell nothing more.
                if is_silent_hop && std::mem::replace(&mut self.silent_hop, true) {
                    continue;
                }
                self.outputs.push_back(Output::Probe(Probe {
                    aim: running.attempt.aim.clone(),
                    local,
                    remote: request.remote,
                    transmissions: request.transmissions,
                    result,
                }));
            }
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        let of_attempt = |running: &Running| match running.stage {
            Stage::Mapping(until) => {
                let next = SENDS.get(running.mapping_sent as usize).map(|after| running.started + *after);
                Some(next.map_or(until, |next| next.min(until)))
            }
            Stage::Opening(until) | Stage::Silent(until) => Some(until),
            Stage::Asking => {
                let open = running.requests.iter().filter(|request| request.outcome.is_none());
                open.map(|request| request.next_at).min()
            }
            Stage::Done => None,
        };
        self.attempts.iter().filter_map(of_attempt).min()
    }
}

#[cfg(test)]
mod tests;
