//! The fold of datagrams: checks between the peers, requests to servers, and what TURN carries inside.

use std::net::SocketAddr;

use super::check::{Answer, Check, Outcome};
use super::seen::Damaged;
use super::server::{Allocation, ServerPath, ServerRequest};
use super::side::{MAX_COMPARED, MAX_LIST, MAX_TOLD, MAX_TRANSACTIONS, SideEvidence};
use crate::ice::candidate::CandidateTransport;
use crate::time::Timestamp;
use crate::trace::address::bare;
use crate::trace::event::{Datagram, Direction, Pair, Transport};
use crate::wire::attribute::AttributeType;
use crate::wire::demux::Protocol;
use crate::wire::integrity::Integrity;
use crate::wire::stun::{Class, Defect, Message, Method};
use crate::wire::turn::ChannelData;

/// A datagram, or what TURN carries inside of one.
#[derive(Clone, Copy, Debug)]
struct Seen<'a> {
    seq: u64,
    at: Timestamp,
    direction: Direction,
    transport: Transport,
    local: SocketAddr,
    remote: SocketAddr,
    integrity: Option<Integrity>,
    bytes: &'a [u8],
    /// Whether it was inside of TURN: `local` is then the relayed address.
    relayed: bool,
}

impl SideEvidence {
    pub(super) fn apply_datagram(&mut self, seq: u64, at: Timestamp, datagram: &Datagram) {
        let Datagram { direction, transport, integrity, ref data, .. } = *datagram;
        // One side's scope is nothing that the other knows.
        let (local, remote) = (bare(datagram.local), bare(datagram.remote));
        let is_data = datagram.transport == Transport::Udp && Protocol::of(&datagram.data) == Protocol::Dtls;
        if is_data && self.sizes.len() < MAX_LIST {
            let sizes = self.sizes.entry((local, remote)).or_default();
            sizes.add(seq, datagram.direction, datagram.length);
        }
        let is_arrival = transport == Transport::Udp && direction == Direction::In;
        if is_arrival && (self.delivered.len() < MAX_LIST || self.delivered.contains_key(&(local, remote))) {
            *self.delivered.entry((local, remote)).or_default() += 1;
        }
        self.datagrams += 1;
        self.apply_seen(Seen { seq, at, direction, transport, local, remote, integrity, bytes: data, relayed: false });
    }

    fn apply_seen(&mut self, seen: Seen<'_>) {
        match Protocol::of(seen.bytes) {
            Protocol::Stun => self.apply_stun(seen),
            Protocol::TurnChannel if !seen.relayed => {
                let Some(inner) = ChannelData::decode(seen.bytes) else { return };
                let path = self.servers.get(&(seen.transport, seen.local, seen.remote));
                let peer = path.and_then(|path| path.allocation.as_ref()?.channels.get(&inner.number).copied());
                if let Some(peer) = peer {
                    self.apply_inside(seen, peer, inner.data);
                }
            }
            _ => {}
        }
    }

    fn apply_stun(&mut self, seen: Seen<'_>) {
        let Ok(message) = Message::decode(seen.bytes) else { return };
        if !message.is_sound() {
            self.unsound += 1;
            if message.defects.contains(&Defect::WrongFingerprint) {
                self.apply_damaged(seen, &message);
            }
            return;
        }
        match (message.class, message.method) {
            (Class::Request, Method::BINDING) if is_check(&message) => self.apply_check(seen, &message),
            (Class::Request, _) => self.apply_server_request(seen, &message),
            (Class::Success | Class::Error, _) => self.apply_answer(seen, &message),
            (Class::Indication, Method::SEND | Method::DATA) if !seen.relayed => {
                let peer = message.xor_address(AttributeType::XOR_PEER_ADDRESS);
                if let (Some(peer), Some(data)) = (peer, message.attribute(AttributeType::DATA)) {
                    self.apply_inside(seen, peer, data.value);
                }
            }
            (Class::Indication, _) => {}
        }
    }

    /// What TURN carries: the relayed address takes the place of our socket, the peer that of the server.
    fn apply_inside(&mut self, seen: Seen<'_>, peer: SocketAddr, bytes: &[u8]) {
        let path = self.servers.get(&(seen.transport, seen.local, seen.remote));
        let Some(relayed) = path.and_then(|path| path.relayed_for(peer)) else { return };
        let (transport, local, remote) = (Transport::Udp, relayed, peer);
        self.apply_seen(Seen { transport, local, remote, bytes, relayed: true, ..seen });
    }

    fn apply_check(&mut self, seen: Seen<'_>, message: &Message<'_>) {
        let pair = self.pair_of(seen);
        let generation = self.generation_of(seen.direction, message);
        let checks = match seen.direction {
            Direction::Out => &mut self.sent,
            Direction::In => &mut self.received,
        };
        if let Some(check) = checks.get_mut(&message.transaction) {
            check.last = seen.at;
            check.transmissions += 1;
            return;
        }
        if checks.len() >= MAX_TRANSACTIONS {
            self.overflow += 1;
            return;
        }
        let controlling =
            match (message.has(AttributeType::ICE_CONTROLLING), message.has(AttributeType::ICE_CONTROLLED)) {
                (true, false) => Some(true),
                (false, true) => Some(false),
                _ => None,
            };
        let check = Check {
            pair,
            generation,
            seq: seen.seq,
            first: seen.at,
            last: seen.at,
            transmissions: 1,
            refused: 0,
            use_candidate: message.has(AttributeType::USE_CANDIDATE),
            controlling,
            priority: message.u32(AttributeType::PRIORITY),
            after_close: seen.direction == Direction::In && self.closed_at.is_some(),
            integrity: seen.integrity,
            answer: None,
            answers: 0,
        };
        if seen.direction == Direction::Out {
            self.last_sent.insert((seen.local, seen.remote), message.transaction);
        }
        checks.insert(message.transaction, check);
    }

    fn apply_answer(&mut self, seen: Seen<'_>, message: &Message<'_>) {
        let checks = match seen.direction {
            Direction::In => &mut self.sent,
            Direction::Out => &mut self.received,
        };
        if let Some(check) = checks.get_mut(&message.transaction).filter(|_| message.method == Method::BINDING) {
            // An answer that fails the integrity check is not from the peer.
            if seen.integrity == Some(Integrity::Invalid) {
                self.forged_answers += 1;
                return;
            }
            check.answers += 1;
            let outcome = match (message.class, message.error_code()) {
                (Class::Error, error) => Outcome::Error(error.map_or(0, |error| error.code)),
                _ => Outcome::Success { mapped: message.xor_address(AttributeType::XOR_MAPPED_ADDRESS) },
            };
            let symmetric = (check.pair.local, check.pair.remote) == (seen.local, seen.remote);
            check.answer.get_or_insert(Answer { seq: seen.seq, at: seen.at, outcome, symmetric });
        } else if seen.direction == Direction::In && !seen.relayed {
            self.apply_server_answer(seen, message);
        }
    }

    fn apply_server_request(&mut self, seen: Seen<'_>, message: &Message<'_>) {
        if seen.direction == Direction::In || seen.relayed {
            return;
        }
        let key = (seen.transport, seen.local, seen.remote);
        let fits = self.servers.len() < MAX_COMPARED || self.servers.contains_key(&key);
        if !fits || self.requests.len() >= MAX_TRANSACTIONS {
            self.overflow += 1;
            return;
        }
        self.known.add_server(seen.remote);
        let path = self.servers.entry(key).or_default();
        let tally = path.requests.entry(message.method).or_default();
        tally.transmissions += 1;
        if tally.transmissions == 1 {
            (tally.seq, tally.first) = (seen.seq, seen.at);
        }
        if let Some(request) = self.requests.get_mut(&message.transaction) {
            request.transmissions += 1;
            return;
        }
        tally.transactions += 1;
        let channel = message.attribute(AttributeType::CHANNEL_NUMBER).and_then(|attribute| {
            let number = attribute.value.first_chunk::<2>()?;
            Some(u16::from_be_bytes(*number))
        });
        let peers: Vec<_> = message.xor_addresses(AttributeType::XOR_PEER_ADDRESS).collect();
        // Data may follow before the answer does; the binding is removed again when it is refused.
        if let (Some(allocation), Some(channel), Some(peer)) = (&mut path.allocation, channel, peers.first()) {
            allocation.channels.entry(channel).or_insert(*peer);
        }
        let request = ServerRequest {
            method: message.method,
            server: seen.remote,
            authenticated: message.has(AttributeType::USERNAME) || message.has(AttributeType::USERHASH),
            first: seen.at,
            transmissions: 1,
            peers,
            channel,
            answered: false,
            error: None,
            expires_s: message.text(AttributeType::USERNAME).and_then(end_of_credentials),
            seq: seen.seq,
        };
        self.requests.insert(message.transaction, request);
    }

    /// An answer of a server that was changed on its way.
    fn apply_damaged(&mut self, seen: Seen<'_>, message: &Message<'_>) {
        let answers = matches!(message.class, Class::Success | Class::Error) && seen.direction == Direction::In;
        let ours = self.requests.contains_key(&message.transaction);
        let key = (seen.local, seen.remote);
        let fits = self.damaged.len() < MAX_LIST || self.damaged.contains_key(&key);
        if !answers || !ours || seen.transport != Transport::Udp || seen.relayed || !fits {
            return;
        }
        let told = message.xor_address(AttributeType::XOR_MAPPED_ADDRESS);
        let damaged = Damaged { count: 0, seq: seen.seq, told };
        self.damaged.entry(key).or_insert(damaged).count += 1;
    }

    fn apply_server_answer(&mut self, seen: Seen<'_>, message: &Message<'_>) {
        // As with a wrong fingerprint, nothing of it is believed: neither the client nor this fold learns what it tells.
        if seen.integrity == Some(Integrity::Invalid) {
            return self.apply_damaged(seen, message);
        }
        let Some(request) = self.requests.get_mut(&message.transaction) else { return };
        let key = (seen.transport, seen.local, seen.remote);
        let Some(path) = self.servers.get_mut(&key) else { return };
        if request.answered || request.method != message.method {
            return;
        }
        request.answered = true;
        let took = u64::try_from((seen.at - request.first).as_micros()).unwrap_or(u64::MAX);
        if path.answered_after_us.is_none_or(|(least, _)| took < least) {
            path.answered_after_us = Some((took, seen.seq));
        }
        if request.transmissions == 1 {
            path.round_trip_us = Some(path.round_trip_us.map_or(took, |best| best.min(took)));
        }
        if let Some(tally) = path.requests.get_mut(&message.method) {
            tally.answered += 1;
        }
        if message.class == Class::Error {
            let code = message.error_code().map_or(0, |error| error.code);
            (request.error, request.seq) = (Some(code), seen.seq);
            let entry = path.errors.entry((message.method, code, request.authenticated)).or_insert((0, seen.seq));
            entry.0 += 1;
            if let Some(alternate) = message.address(AttributeType::ALTERNATE_SERVER).filter(|_| code == 300) {
                path.alternate = Some((alternate, seen.seq));
            }
            refuse_peers(path, request, code, seen.seq);
            return;
        }
        let mapped = message
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS)
            .or_else(|| message.address(AttributeType::MAPPED_ADDRESS));
        if let Some(mapped) = mapped.filter(|mapped| !path.mapped.contains_key(mapped)) {
            if self.addresses_told < MAX_TOLD {
                path.mapped.insert(mapped, seen.seq);
                self.addresses_told += 1;
            } else {
                self.overflow += 1;
            }
        }
        match message.method {
            Method::ALLOCATE => {
                let relayed: Vec<_> = message.xor_addresses(AttributeType::XOR_RELAYED_ADDRESS).take(2).collect();
                relayed.iter().for_each(|address| self.known.add_relayed(*address));
                path.allocation = Some(Allocation {
                    seq: seen.seq,
                    relayed,
                    lifetime_s: message.u32(AttributeType::LIFETIME).unwrap_or_default(),
                    ..Allocation::default()
                });
            }
            Method::CREATE_PERMISSION | Method::CHANNEL_BIND => {
                if let Some(allocation) = &mut path.allocation {
                    for peer in &request.peers {
                        allocation.permissions.entry(peer.ip()).or_insert(seen.at);
                    }
                }
            }
            _ => {}
        }
    }

    fn pair_of(&self, seen: Seen<'_>) -> Pair {
        let transport = match seen.transport {
            Transport::Udp => CandidateTransport::Udp,
            _ if self.is_listening(seen.local) => CandidateTransport::TcpPassive,
            _ => CandidateTransport::TcpActive,
        };
        Pair { transport, local: seen.local, remote: seen.remote }
    }

    /// The generation that a check belongs to, by this side's user name fragment in its USERNAME: the second half of
    /// what we send, the first half of what we receive (RFC 8445 §7.2.2).
    fn generation_of(&self, direction: Direction, message: &Message<'_>) -> u32 {
        let halves = message.text(AttributeType::USERNAME).and_then(|name| name.split_once(':'));
        let ours = halves.map(|(to, from)| if direction == Direction::Out { from } else { to });
        ours.and_then(|ufrag| self.generation_with(ufrag)).unwrap_or(self.generation)
    }
}

/// Checks carry USERNAME (RFC 8445 §7.2.2); a server's Binding request in our sessions does not.
fn is_check(message: &Message<'_>) -> bool {
    message.has(AttributeType::USERNAME) && message.has(AttributeType::PRIORITY)
        || message.text(AttributeType::USERNAME).is_some_and(|name| name.contains(':'))
}

/// The time that the user name of time-limited credentials begins with: `1735689600` or `1735689600:alice`. Shorter
/// numbers are names.
fn end_of_credentials(username: &str) -> Option<u64> {
    let number = username.split(':').next().filter(|number| number.len() >= 9)?;
    number.parse().ok()
}

fn refuse_peers(path: &mut ServerPath, request: &ServerRequest, code: u16, seq: u64) {
    // 401 and 438 belong to the protocol: the request is repeated with a realm and a fresh nonce.
    if code == 401 && !request.authenticated || code == 438 {
        return;
    }
    let Some(allocation) = &mut path.allocation else { return };
    for peer in &request.peers {
        allocation.refused.entry(peer.ip()).or_insert((code, seq));
    }
    if let (Some(channel), Some(peer)) = (request.channel, request.peers.first())
        && allocation.channels.get(&channel) == Some(peer)
        && !allocation.permissions.contains_key(&peer.ip())
    {
        allocation.channels.remove(&channel);
    }
}
