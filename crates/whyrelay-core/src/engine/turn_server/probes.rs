//! whyrelay's own probes (docs/probes.md): sessions on fresh ports, for addresses that have proven themselves.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::discovery::PROOF_LIFETIME;
use super::nonce::{Allowance, Nonces};
use super::reply::{Rejection, Reply};
use super::{Client, ClientTransport, Family, Output, RelayId, TurnServer};
use crate::engine::stun_server::unknown_attributes;
use crate::random::Random;
use crate::time::Timestamp;
use crate::wire::attribute::AttributeType;
use crate::wire::demux::Protocol;
use crate::wire::probe::{self, LARGEST_ANSWER, LARGEST_ANSWER_IPV6, Operation, ProbeToken, Tally};
use crate::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};

/// How long a session lives: longer than a check takes, no longer than a forgotten one may cost.
const LIFETIME: Duration = Duration::from_secs(30);
/// Sessions in all, and of one source.
const MOST_SESSIONS: usize = 512;
const MOST_SESSIONS_OF_ONE: usize = 8;
/// New sessions of one source per second.
const OPENS_PER_SECOND: u32 = 4;
/// Answered requests of one source with proof per second.
const REQUESTS_PER_SECOND: u32 = 60;
/// What one session may be answered.
const MOST_ANSWERS: u32 = 96;
const MOST_BYTES: usize = 96 * 1024;
/// Sources that a session remembers.
const MOST_SOURCES: usize = 4;
/// The lowest port that a knock may be sent to, unless it is the client's own.
const LOWEST_KNOCK: u16 = 1024;

/// All sessions: bounded in number and in time.
pub(super) struct Probes {
    nonces: Nonces,
    requests: Allowance,
    opens: Allowance,
    /// By relay; since those are numbered in the order of time, the first expires first.
    sessions: BTreeMap<RelayId, Session>,
}

struct Session {
    client: Client,
    transaction: TransactionId,
    token: ProbeToken,
    reply: Reply,
    /// Where the knock goes.
    knock: Option<SocketAddr>,
    /// The fresh port, once it is open.
    port: Option<u16>,
    expires: Timestamp,
    answers: u32,
    bytes: usize,
    tally: Tally,
    sources: Vec<SocketAddr>,
}

impl Probes {
    pub(super) fn new(random: &mut Random) -> Self {
        Self {
            nonces: Nonces::new(random.bytes(), PROOF_LIFETIME),
            requests: Allowance::new(random.bytes(), REQUESTS_PER_SECOND),
            opens: Allowance::new(random.bytes(), OPENS_PER_SECOND),
            sessions: BTreeMap::new(),
        }
    }

    /// When the first session expires.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.sessions.first_key_value().map(|(_, session)| session.expires)
    }

    /// How many sessions there are.
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }
}

impl TurnServer {
    /// A PROBE request to a listener.
    pub(super) fn probe(&mut self, now: Timestamp, client: Client, message: &Message<'_>) {
        let reply = Reply::to(message);
        let nonce = message.text(AttributeType::NONCE).unwrap_or_default();
        if !self.probes.nonces.is_valid(now, &client, nonce) {
            // As any answer to a source without proof; the two kinds share a budget.
            if !self.budget.take(now, client.source.ip()) {
                self.counters.unauthenticated_withheld += 1;
                return;
            }
            self.counters.challenges += 1;
            let nonce = self.probes.nonces.make(now, &client);
            let error = reply.error(Rejection::new(438, "")).text(AttributeType::NONCE, &nonce);
            let bytes = reply.finished(error);
            return self.send(client, bytes);
        }
        if !self.probes.requests.take(now, client.source.ip(), "", 1) {
            self.counters.probes_withheld += 1;
            return;
        }
        self.counters.probes += 1;
        let unknown = unknown_attributes(message, &UNDERSTOOD);
        let operation = message.attribute(AttributeType::PROBE_OPERATION);
        let answer = if !unknown.is_empty() {
            self.refuse(&client, message.method, 420);
            Ok(Some(reply.error(Rejection::new(420, "")).unknown_attributes(&unknown)))
        } else {
            match operation.and_then(|operation| Operation::read(operation.value)) {
                Some(Operation::Describe) => Ok(Some(self.describe(now, client, &reply))),
                Some(Operation::Open { knock }) => self.open(now, client, message, &reply, knock),
                Some(Operation::Result) => self.result(client, message, &reply).map(Some),
                Some(Operation::Observe) | None => Err(Rejection::new(400, "")),
            }
        };
        let message = match answer {
            Ok(None) => return,
            Ok(Some(message)) => message,
            Err(rejection) => {
                self.refuse(&client, message.method, rejection.code);
                reply.error(rejection)
            }
        };
        let bytes = reply.finished(message);
        self.send(client, bytes);
    }

    fn describe(&self, now: Timestamp, client: Client, reply: &Reply) -> MessageBuilder {
        let message = reply
            .success()
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, client.source)
            .u32(AttributeType::PROBE_SIZE, largest_answer(client.source) as u32)
            .u64(AttributeType::PROBE_TIME, self.wall(now).as_micros());
        match self.discoveries.as_ref().and_then(|discoveries| discoveries.port(client.source)) {
            Some(port) => message.attribute(AttributeType::PROBE_PORT, &probe::port_value(port)),
            None => message,
        }
    }

    fn open(
        &mut self,
        now: Timestamp,
        client: Client,
        message: &Message<'_>,
        reply: &Reply,
        knock: bool,
    ) -> Result<Option<MessageBuilder>, Rejection> {
        let sessions = &self.probes.sessions;
        let again = |session: &&Session| session.client == client && session.transaction == message.transaction;
        if let Some(session) = sessions.values().find(again) {
            return Ok(session.port.map(|port| session.success(port)));
        }
        let port = probe::port_of(message);
        if message.has(AttributeType::PROBE_PORT) && (port.is_none() || !knock) {
            return Err(Rejection::new(400, ""));
        }
        let knock = match knock {
            true => Some(self.knock_to(client.source, port.unwrap_or_else(|| client.source.port()))?),
            false => None,
        };
        let of_source = sessions.values().filter(|session| same_source(session.client.source.ip(), client.source.ip()));
        if of_source.count() >= MOST_SESSIONS_OF_ONE || !self.probes.opens.take(now, client.source.ip(), "", 1) {
            return Err(Rejection::new(486, ""));
        }
        if self.probes.sessions.len() >= MOST_SESSIONS {
            return Err(Rejection::new(508, ""));
        }
        let relay = RelayId(self.next_relay);
        self.next_relay += 1;
        let session = Session {
            client,
            transaction: message.transaction,
            token: ProbeToken(self.random.bytes()),
            reply: reply.clone(),
            knock,
            port: None,
            expires: now + LIFETIME,
            answers: MOST_ANSWERS,
            bytes: MOST_BYTES,
            tally: Tally::default(),
            sources: Vec::new(),
        };
        self.probes.sessions.insert(relay, session);
        self.counters.probe_sessions += 1;
        let family = Family::of(client.source.ip());
        self.outputs.push_back(Output::OpenRelay { relay, family, client, even_port: false, as_reached: true });
        Ok(None)
    }

    /// Where a knock may go: to the address that has proven itself, but not to other services of it, nor to ours.
    fn knock_to(&self, source: SocketAddr, port: u16) -> Result<SocketAddr, Rejection> {
        let to = SocketAddr::new(source.ip(), port);
        let policy = &self.config.policy;
        let own = policy.is_own_endpoint(to)
            || (source.ip().is_loopback() && !policy.allow_loopback_peers && port != source.port())
            || self.relayed.contains_key(&to);
        if own || (port < LOWEST_KNOCK && port != source.port()) {
            return Err(Rejection::new(403, ""));
        }
        Ok(to)
    }

    /// The driver has opened the socket of a session, or could not; false when the relay is none of a session.
    pub(super) fn probe_opened(&mut self, relay: RelayId, bound: Option<SocketAddr>) -> bool {
        let Some(session) = self.probes.sessions.get_mut(&relay) else { return false };
        let client = session.client;
        let Some(bound) = bound else {
            let bytes = session.reply.finished(session.reply.error(Rejection::new(508, "")));
            self.probes.sessions.remove(&relay);
            self.refuse(&client, Method::PROBE, 508);
            self.send(client, bytes);
            return true;
        };
        session.port = Some(bound.port());
        if let Some(peer) = session.knock {
            let bytes = MessageBuilder::new(Class::Indication, Method::PROBE, session.transaction)
                .attribute(AttributeType::PROBE_TOKEN, &session.token.0)
                .build();
            self.outputs.push_back(Output::SendFromRelay { relay, peer, bytes, dont_fragment: true });
        }
        let bytes = session.reply.finished(session.success(bound.port()));
        self.send(client, bytes);
        true
    }

    fn result(&self, client: Client, message: &Message<'_>, reply: &Reply) -> Result<MessageBuilder, Rejection> {
        let token = probe::token_of(message).ok_or(Rejection::new(400, ""))?;
        let session = self.probes.sessions.values().find(|session| session.token == token);
        let session = session.filter(|session| session.client.source.ip() == client.source.ip());
        let session = session.ok_or(Rejection::new(437, ""))?;
        let message = reply.success().attribute(AttributeType::PROBE_TALLY, &session.tally.value());
        let add = |message: MessageBuilder, source: &SocketAddr| {
            message.xor_address(AttributeType::XOR_PEER_ADDRESS, *source)
        };
        Ok(session.sources.iter().fold(message, add))
    }

    /// A datagram at the port of a session; false when the relay is none of a session.
    pub(super) fn probe_arrived(&mut self, relay: RelayId, source: SocketAddr, bytes: &[u8]) -> bool {
        let Some(session) = self.probes.sessions.get_mut(&relay) else { return false };
        let noise = std::iter::repeat_with(|| self.random.bytes::<32>()).take(3).flatten();
        match session.answer(source, bytes, noise) {
            Some(bytes) => {
                self.counters.probes += 1;
                self.outputs.push_back(Output::SendFromRelay { relay, peer: source, bytes, dont_fragment: true });
            }
            None => self.counters.probes_withheld += 1,
        }
        true
    }

    /// Ends the sessions that have expired.
    pub(super) fn expire_probes(&mut self, now: Timestamp) {
        while let Some(first) = self.probes.sessions.first_entry() {
            if first.get().expires > now {
                return;
            }
            let (relay, session) = first.remove_entry();
            if session.port.is_some() {
                self.outputs.push_back(Output::CloseRelay { relay });
            }
        }
    }
}

impl Session {
    fn success(&self, port: u16) -> MessageBuilder {
        self.reply
            .success()
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, self.client.source)
            .attribute(AttributeType::PROBE_PORT, &probe::port_value(port))
            .attribute(AttributeType::PROBE_TOKEN, &self.token.0)
            .u32(AttributeType::LIFETIME, LIFETIME.as_secs() as u32)
    }

    /// Counts what arrived and makes the answer, if there is to be one.
    fn answer(&mut self, source: SocketAddr, bytes: &[u8], noise: impl Iterator<Item = u8>) -> Option<Vec<u8>> {
        let answer = self.read(source, bytes, noise).filter(|answer| self.answers > 0 && self.bytes >= answer.len());
        match &answer {
            Some(answer) => {
                self.answers -= 1;
                self.bytes -= answer.len();
            }
            None => self.tally.refused = self.tally.refused.saturating_add(1),
        }
        answer
    }

    fn read(&mut self, source: SocketAddr, bytes: &[u8], mut noise: impl Iterator<Item = u8>) -> Option<Vec<u8>> {
        if let Some((kind, token)) = probe::undisguise(bytes) {
            self.admit(source, token)?;
            let count = match kind {
                probe::Disguise::WireGuard => &mut self.tally.wireguard,
                probe::Disguise::Random => &mut self.tally.random,
            };
            *count = count.saturating_add(1);
            return probe::disguised_answer(kind, bytes, std::array::from_fn(|_| noise.next().unwrap_or_default()));
        }
        let message = Message::decode(bytes).ok().filter(|_| Protocol::of(bytes) == Protocol::Stun)?;
        let asks = message.is_sound() && (message.class, message.method) == (Class::Request, Method::PROBE);
        let operation = Operation::read(message.attribute(AttributeType::PROBE_OPERATION)?.value)?;
        if !asks || operation != Operation::Observe {
            return None;
        }
        self.admit(source, probe::token_of(&message)?)?;
        self.tally.observe = self.tally.observe.saturating_add(1);
        let reply = MessageBuilder::new(Class::Success, Method::PROBE, message.transaction)
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, source)
            .address(AttributeType::MAPPED_ADDRESS, source)
            .u32(AttributeType::PROBE_SIZE, bytes.len() as u32);
        let wanted = message.u32(AttributeType::PROBE_SIZE).unwrap_or_default() as usize;
        let wanted = wanted.min(largest_answer(source)) & !3;
        let bare = reply.clone().build().len() + 4;
        Some(match wanted.checked_sub(bare) {
            Some(padding) => reply.attribute(AttributeType::PADDING, &[0; LARGEST_ANSWER][..padding]).build(),
            None => reply.build(),
        })
    }

    /// Whether the token is right and the source the address that opened the session. Who has the token is
    /// remembered either way.
    fn admit(&mut self, source: SocketAddr, token: ProbeToken) -> Option<()> {
        if token != self.token {
            return None;
        }
        if !self.sources.contains(&source) && self.sources.len() < MOST_SOURCES {
            self.sources.push(source);
        }
        (source.ip() == self.client.source.ip() && source.port() != 0).then_some(())
    }
}

const fn largest_answer(to: SocketAddr) -> usize {
    if to.is_ipv4() { LARGEST_ANSWER } else { LARGEST_ANSWER_IPV6 }
}

/// Whether two addresses count as one source: an IPv6 source is its /64.
fn same_source(one: IpAddr, other: IpAddr) -> bool {
    match (one, other) {
        (IpAddr::V6(one), IpAddr::V6(other)) => one.octets()[..8] == other.octets()[..8],
        _ => one == other,
    }
}

/// Whether probes may come this way: over UDP, where mappings are.
pub(super) const fn is_datagram(client: &Client) -> bool {
    matches!(client.transport, ClientTransport::Udp(_))
}

/// What a PROBE request to a listener may carry.
const UNDERSTOOD: [AttributeType; 5] = [
    AttributeType::NONCE,
    AttributeType::PROBE_OPERATION,
    AttributeType::PROBE_TOKEN,
    AttributeType::PROBE_PORT,
    AttributeType::PADDING,
];
