//! Behavior discovery (RFC 5780) on listeners of its own: Binding with CHANGE-REQUEST, OTHER-ADDRESS,
//! RESPONSE-ORIGIN and PADDING. docs/probes.md says what clients may rely on.
//!
//! An answer that leaves from another address than was asked is what a reflector wants, so it needs a proof of the
//! source. RFC 5780 knows no proof and its clients bring none: where the operator serves them all the same, and the other
//! address is this server's own, it costs a budget, for each source and for all of them together, so that a flood of
//! forged sources can make no more of it than a few kilobytes a second, and those with proof are not touched.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::nonce::{Allowance, AnswerBudget, Nonces, Window};
use super::{Client, ClientTransport, ListenerId, Output, SharedSecret, TurnServer};
use crate::engine::stun_server::unknown_attributes;
use crate::random::Random;
use crate::time::Timestamp;
use crate::wire::attribute::AttributeType;
use crate::wire::integrity::{Integrity, Key};
use crate::wire::probe;
use crate::wire::stun::{Class, HEADER_LENGTH, Message, MessageBuilder, Method};

/// Behavior discovery in one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// The sockets of the primary address: on the discovery port, and on the one after it.
    pub primary: [DiscoverySocket; 2],
    /// Who answers for the other address.
    pub alternate: Alternate,
    /// Whether CHANGE-REQUEST is obeyed, within bounds, for sources that have not proven their address.
    pub serves_unproven: bool,
}

impl Discovery {
    /// The addresses of this server that clients see.
    pub(super) fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let alternate = match &self.alternate {
            Alternate::Here(sockets) => &sockets[..],
            Alternate::Server { .. } => &[],
        };
        self.primary.iter().chain(alternate).map(|socket| socket.address.ip())
    }
}

/// One of the sockets of behavior discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscoverySocket {
    /// The socket. It serves nothing else.
    pub listener: ListenerId,
    /// Its address as clients see it.
    pub address: SocketAddr,
}

/// Who answers from the alternate address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alternate {
    /// This server, from sockets on the same two ports.
    Here([DiscoverySocket; 2]),
    /// Another server, on the same two ports, which shares a secret with this one.
    Server {
        /// Its address.
        ip: IpAddr,
        /// What the two share.
        secret: SharedSecret,
    },
}

/// CHANGE-REQUEST's flags (RFC 5780 §7.2).
const CHANGE_ADDRESS: u32 = 0x04;
const CHANGE_PORT: u32 = 0x02;

/// What a source without proof is sent for five bytes of its request, at most: as much as a bare Binding request of 20
/// bytes gets at any port of this server, 32. Over IPv6 the mapped address alone is more than that.
const MOST_FOR_FIVE: usize = 8;

/// The most PADDING that is sent back.
const MOST_PADDING: usize = 1280;

/// How far the clocks of two servers may be apart, transmission included.
const FORWARD_AGE: Duration = Duration::from_secs(60);
/// FORWARD messages that are remembered, so that none counts twice.
const REMEMBERED: usize = 1024;

/// How long a nonce proves its source.
pub(super) const PROOF_LIFETIME: Duration = Duration::from_secs(120);

/// The state beside the configuration: of fixed size.
pub(super) struct Discoveries {
    families: Vec<Family>,
    /// All requests of a source without proof.
    plain: AnswerBudget,
    /// Those of them with CHANGE-REQUEST.
    changed: AnswerBudget,
    /// Requests of a source with proof.
    proven: Allowance,
    /// Successes for sources without proof, all of them together.
    unproven_in_all: Window,
    /// Those of them with CHANGE-REQUEST.
    changed_in_all: Window,
    /// Errors for sources without proof, all of them together: a flood of the others does not keep anybody from a proof.
    errors_in_all: Window,
}

/// Successes a second for all sources without proof together, and as many errors.
const MOST_UNPROVEN: u16 = 200;
/// Those of them with CHANGE-REQUEST: 50 times 68 bytes are 27 kbit/s.
const MOST_CHANGED: u16 = 50;

struct Family {
    discovery: Discovery,
    nonces: Nonces,
    /// Signs what the two servers say to each other.
    key: Option<Key>,
    seen: VecDeque<[u8; 16]>,
}

impl Family {
    /// Both servers make the same nonces, and sign what they say to each other, with keys from a secret.
    fn share(&mut self, secret: &SharedSecret) {
        self.nonces = Nonces::new(secret.derived_key("whyrelay discovery nonce"), PROOF_LIFETIME);
        self.key = Some(Key::short_term(&secret.derived_password("whyrelay discovery")));
    }
}

impl Discoveries {
    pub(super) fn new(discoveries: &[Discovery], random: &mut Random) -> Option<Self> {
        if discoveries.is_empty() {
            return None;
        }
        let family = |discovery: &Discovery, random: &mut Random| {
            let nonces = Nonces::new(random.bytes(), PROOF_LIFETIME);
            let mut family = Family { discovery: discovery.clone(), nonces, key: None, seen: VecDeque::new() };
            if let Alternate::Server { secret, .. } = &discovery.alternate {
                family.share(secret);
            }
            family
        };
        Some(Self {
            families: discoveries.iter().map(|discovery| family(discovery, random)).collect(),
            plain: AnswerBudget::new(random.bytes(), 30),
            changed: AnswerBudget::new(random.bytes(), 5),
            proven: Allowance::new(random.bytes(), 60),
            unproven_in_all: Window::default(),
            changed_in_all: Window::default(),
            errors_in_all: Window::default(),
        })
    }

    /// Replaces what is shared with the other server, if there is one.
    pub(super) fn set_secret(&mut self, secret: &SharedSecret) {
        self.families.iter_mut().filter(|family| family.key.is_some()).for_each(|family| family.share(secret));
    }

    /// The discovery port in the family of an address.
    pub(super) fn port(&self, like: SocketAddr) -> Option<u16> {
        let sockets = self.families.iter().map(|family| family.discovery.primary[0].address);
        sockets.filter(|address| address.is_ipv4() == like.is_ipv4()).map(|address| address.port()).next()
    }

    fn find(&self, listener: ListenerId) -> Option<(usize, Place)> {
        self.families.iter().enumerate().find_map(|(at, family)| Some((at, family.discovery.place(listener)?)))
    }
}

/// Which of the four sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    alternate: bool,
    second_port: bool,
}

impl Discovery {
    fn place(&self, listener: ListenerId) -> Option<Place> {
        let find = |sockets: &[DiscoverySocket; 2], alternate| {
            let at = sockets.iter().position(|socket| socket.listener == listener)?;
            Some(Place { alternate, second_port: at == 1 })
        };
        find(&self.primary, false).or_else(|| match &self.alternate {
            Alternate::Here(sockets) => find(sockets, true),
            Alternate::Server { .. } => None,
        })
    }

    /// The address of a place.
    fn address(&self, place: Place) -> SocketAddr {
        let primary = self.primary[usize::from(place.second_port)].address;
        match &self.alternate {
            _ if !place.alternate => primary,
            Alternate::Here(sockets) => sockets[usize::from(place.second_port)].address,
            Alternate::Server { ip, .. } => SocketAddr::new(*ip, primary.port()),
        }
    }

    /// The socket of a place, if it is ours.
    fn socket(&self, place: Place) -> Option<DiscoverySocket> {
        match &self.alternate {
            _ if !place.alternate => Some(self.primary[usize::from(place.second_port)]),
            Alternate::Here(sockets) => Some(sockets[usize::from(place.second_port)]),
            Alternate::Server { .. } => None,
        }
    }

    /// A success response as it leaves from a place (RFC 5780 §6.1), of at most `room` bytes: what does not fit is left
    /// out, the least needed first. The mapped address alone always fits.
    fn answer(&self, request: &Message<'_>, mapped: SocketAddr, place: Place, room: usize) -> MessageBuilder {
        let other = Place { alternate: !place.alternate, second_port: !place.second_port };
        let addresses = [
            (AttributeType::OTHER_ADDRESS, self.address(other)),
            (AttributeType::RESPONSE_ORIGIN, self.address(place)),
            (AttributeType::MAPPED_ADDRESS, mapped),
        ];
        let reply = MessageBuilder::new(Class::Success, Method::BINDING, request.transaction)
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, mapped);
        let begun = reply.clone().build().len();
        // Each as long as the one that is there already.
        let fit = room.saturating_sub(begun) / (begun - HEADER_LENGTH);
        addresses.into_iter().take(fit).fold(reply, |reply, (kind, address)| reply.address(kind, address))
    }
}

impl TurnServer {
    /// What came to a listener of behavior discovery; false when the listener is none.
    pub(super) fn discover(&mut self, now: Timestamp, client: Client, message: &Message<'_>) -> bool {
        let ClientTransport::Udp(listener) = client.transport else { return false };
        let wall = self.wall(now);
        let Some(discoveries) = &mut self.discoveries else { return false };
        let Some((at, place)) = discoveries.find(listener) else { return false };
        match (message.class, message.method) {
            (Class::Request, Method::BINDING) => {
                let answer = discoveries.binding((now, wall), at, place, client, message);
                match answer {
                    Some((output, code)) => {
                        match code {
                            None => self.counters.discoveries += 1,
                            Some(438) => self.counters.challenges += 1,
                            Some(code) => self.refuse(&client, message.method, code),
                        }
                        self.outputs.push_back(output);
                    }
                    None => self.counters.discoveries_withheld += 1,
                }
            }
            (Class::Indication, Method::FORWARD) => {
                let policy = &self.config.policy;
                let usable = |peer: SocketAddr| peer.port() != 0 && !policy.is_own_endpoint(peer);
                let answer =
                    discoveries.forwarded((now, wall), at, client.source, message).filter(|(peer, _)| usable(*peer));
                match answer {
                    Some((_, output)) => {
                        self.counters.discoveries += 1;
                        self.outputs.push_back(output);
                    }
                    None => self.counters.discoveries_withheld += 1,
                }
            }
            _ => self.counters.noise += 1,
        }
        true
    }
}

impl Discoveries {
    /// A Binding request, at a time of inputs and of the wall clock, which two servers have in common: what is sent for
    /// it, and the code if that is an error. `None` when the source has had its share, or all without proof have, or a
    /// nonce would be much more than was asked with.
    fn binding(
        &mut self,
        (now, wall): (Timestamp, Timestamp),
        at: usize,
        place: Place,
        client: Client,
        message: &Message<'_>,
    ) -> Option<(Output, Option<u16>)> {
        let family = &self.families[at];
        let source = client.source;
        // One server alone needs no clock that others have, too, and its own is never set.
        let wall = if family.key.is_some() { wall } else { now };
        let nonce = message.attribute(AttributeType::NONCE);
        let shown = message.text(AttributeType::NONCE).unwrap_or_default();
        let proven = nonce.is_some() && family.nonces.is_valid(wall, &source_alone(source), shown);
        let is_within = match proven {
            true => self.proven.take(now, source.ip(), "", 1),
            false => self.plain.take(now, source.ip()),
        };
        if !is_within {
            return None;
        }
        let fingerprint = message.has(AttributeType::FINGERPRINT);
        let finish = |reply: MessageBuilder| if fingerprint { reply.fingerprint() } else { reply }.build();
        let error = |code| MessageBuilder::new(Class::Error, Method::BINDING, message.transaction).error(code, "");
        let errors_in_all = &mut self.errors_in_all;
        let mut refuse = |code, reply| {
            let is_affordable = proven || errors_in_all.take(now, MOST_UNPROVEN);
            is_affordable.then(|| (Output::SendToClient { client, bytes: finish(reply) }, Some(code)))
        };
        let challenge = || {
            let nonce = family.nonces.make(wall, &source_alone(source));
            let reply = error(438).text(AttributeType::NONCE, &nonce);
            let length = finish(reply.clone()).len();
            (length * 5 <= message.bytes().len() * MOST_FOR_FIVE).then_some(reply)
        };

        let unknown = unknown_attributes(message, &UNDERSTOOD);
        if !unknown.is_empty() {
            return refuse(420, error(420).unknown_attributes(&unknown));
        }
        if nonce.is_some() && !proven {
            return challenge().and_then(|reply| refuse(438, reply));
        }
        let flags = match message.has(AttributeType::CHANGE_REQUEST) {
            true => match message.u32(AttributeType::CHANGE_REQUEST) {
                Some(flags) => flags,
                None => return refuse(400, error(400)),
            },
            false => 0,
        };
        let (change_address, change_port) = (flags & CHANGE_ADDRESS != 0, flags & CHANGE_PORT != 0);
        let wanted =
            Place { alternate: place.alternate ^ change_address, second_port: place.second_port ^ change_port };
        match family.discovery.socket(wanted) {
            Some(_) if !proven && wanted != place && !family.discovery.serves_unproven => {
                // What any Binding request gets: an answer from where it was asked.
                challenge().and_then(|reply| refuse(438, reply))
            }
            Some(socket) => {
                let affordable = proven
                    || if wanted == place {
                        self.unproven_in_all.take(now, MOST_UNPROVEN)
                    } else {
                        self.changed.take(now, source.ip()) && self.changed_in_all.take(now, MOST_CHANGED)
                    };
                if !affordable {
                    return None;
                }
                let family = &self.families[at];
                let padding = message.attribute(AttributeType::PADDING).map(|padding| padding.value.len());
                let padding = padding.map(|length| &[0; MOST_PADDING][..length.min(MOST_PADDING)]);
                let room = match proven || family.discovery.serves_unproven {
                    true => usize::MAX,
                    false => {
                        let besides = padding.map_or(0, |padding| 4 + padding.len().next_multiple_of(4));
                        let fingerprint = if fingerprint { 8 } else { 0 };
                        (message.bytes().len() * MOST_FOR_FIVE / 5).saturating_sub(besides + fingerprint)
                    }
                };
                let reply = family.discovery.answer(message, source, wanted, room);
                let reply = match padding {
                    Some(padding) => reply.attribute(AttributeType::PADDING, padding),
                    None => reply,
                };
                let client = Client { transport: ClientTransport::Udp(socket.listener), source };
                Some((Output::SendToClient { client, bytes: finish(reply) }, None))
            }
            None if !proven => challenge().and_then(|reply| refuse(438, reply)),
            None => {
                // The other server answers; it checks the same nonce.
                let port = family.discovery.address(wanted).port();
                let forward = MessageBuilder::new(Class::Indication, Method::FORWARD, message.transaction)
                    .xor_address(AttributeType::XOR_PEER_ADDRESS, source)
                    .attribute(AttributeType::PROBE_PORT, &probe::port_value(port))
                    .text(AttributeType::NONCE, shown)
                    .u64(AttributeType::PROBE_TIME, wall.as_micros())
                    .integrity_sha256(family.key.as_ref()?);
                let partner = Client { transport: client.transport, source: family.discovery.address(wanted) };
                Some((Output::SendToClient { client: partner, bytes: forward.build() }, None))
            }
        }
    }

    /// What the other server asks for; `None` for everything that is not surely its own, fresh, and for an address
    /// that has proven itself.
    fn forwarded(
        &mut self,
        (now, wall): (Timestamp, Timestamp),
        at: usize,
        source: SocketAddr,
        message: &Message<'_>,
    ) -> Option<(SocketAddr, Output)> {
        let family = &mut self.families[at];
        let Alternate::Server { ip, .. } = &family.discovery.alternate else { return None };
        let ports = family.discovery.primary.map(|socket| socket.address.port());
        if source.ip() != *ip || !ports.contains(&source.port()) {
            return None;
        }
        let mac = message.attribute(AttributeType::MESSAGE_INTEGRITY_SHA256).filter(|mac| mac.value.len() == 32)?;
        if message.check_integrity(family.key.as_ref()?) != Integrity::Valid {
            return None;
        }
        let made = Timestamp::from_micros(message.u64(AttributeType::PROBE_TIME)?);
        let mac: [u8; 16] = mac.value.get(..16)?.try_into().ok()?;
        if wall.since(made) > FORWARD_AGE || made.since(wall) > FORWARD_AGE || family.seen.contains(&mac) {
            return None;
        }
        let peer = message.xor_address(AttributeType::XOR_PEER_ADDRESS)?;
        // The other clock may be ahead.
        let valid_at = |now| {
            let nonce = message.text(AttributeType::NONCE).unwrap_or_default();
            family.nonces.is_valid(now, &source_alone(peer), nonce)
        };
        if !valid_at(wall) && !valid_at(wall + FORWARD_AGE) {
            return None;
        }
        let port = probe::port_of(message)?;
        let second_port = ports.iter().position(|own| *own == port)? == 1;
        if family.seen.len() == REMEMBERED {
            family.seen.pop_front();
        }
        family.seen.push_back(mac);
        if !self.proven.take(now, peer.ip(), "", 1) {
            return None;
        }
        let discovery = &self.families[at].discovery;
        let place = Place { alternate: false, second_port };
        let bytes = discovery.answer(message, peer, place, usize::MAX).build();
        let transport = ClientTransport::Udp(discovery.primary[usize::from(second_port)].listener);
        Some((peer, Output::SendToClient { client: Client { transport, source: peer }, bytes }))
    }
}

/// A nonce of behavior discovery proves an address and port, whichever of the sockets it came from.
const fn source_alone(source: SocketAddr) -> Client {
    Client { transport: ClientTransport::Udp(ListenerId(u16::MAX)), source }
}

/// What may stand in a request here. RESPONSE-PORT is not among them: it would have answers sent to another port.
const UNDERSTOOD: [AttributeType; 8] = [
    AttributeType::CHANGE_REQUEST,
    AttributeType::PADDING,
    AttributeType::NONCE,
    AttributeType::USERNAME,
    AttributeType::REALM,
    AttributeType::MESSAGE_INTEGRITY,
    AttributeType::MESSAGE_INTEGRITY_SHA256,
    AttributeType::MAPPED_ADDRESS,
];
