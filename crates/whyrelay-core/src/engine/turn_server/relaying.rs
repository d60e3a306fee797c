//! Application data between clients and peers (RFC 8656 §11, §12).
//!
//! Nothing of it is copied here: what comes of a datagram points into it ([`Forward`]), and a driver sends it from
//! where it was read.

use std::net::SocketAddr;

use super::allocation::Family;
use super::{Client, ClientTransport, Output, Refusal, RelayId, TurnServer};
use crate::engine::stun_server::unknown_attributes;
use crate::time::Timestamp;
use crate::wire::attribute::AttributeType;
use crate::wire::stun::{Class, Message, MessageBuilder, Method};
use crate::wire::turn::ChannelData;

/// Application data on its way out, which is still where it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward<'a> {
    /// From a relayed address to a peer.
    ToPeer {
        /// The relay.
        relay: RelayId,
        /// To whom.
        peer: SocketAddr,
        /// The application data.
        data: &'a [u8],
        /// Whether the DF bit is to be set (RFC 8656 §15).
        dont_fragment: bool,
    },
    /// To a client over its channel: the header, the data, and on a stream zeros up to a multiple of four
    /// (RFC 8656 §12.5).
    ToClient {
        /// To whom.
        client: Client,
        /// The header of ChannelData.
        header: [u8; 4],
        /// The application data.
        data: &'a [u8],
    },
}

impl Forward<'_> {
    /// The same as an output that owns its bytes.
    pub fn to_output(self) -> Output {
        match self {
            Self::ToPeer { relay, peer, data, dont_fragment } => {
                Output::SendFromRelay { relay, peer, bytes: data.to_vec(), dont_fragment }
            }
            Self::ToClient { client, header, data } => {
                let mut bytes = Vec::with_capacity(4 + data.len().next_multiple_of(4));
                bytes.extend_from_slice(&header);
                bytes.extend_from_slice(data);
                if matches!(client.transport, ClientTransport::Stream(_)) {
                    bytes.resize(bytes.len().next_multiple_of(4), 0);
                }
                Output::SendToClient { client, bytes }
            }
        }
    }
}

impl TurnServer {
    /// A Send indication (RFC 8656 §11.2). Whatever is wrong with it, there is no answer.
    pub(super) fn send_indication<'a>(
        &mut self,
        now: Timestamp,
        client: Client,
        message: &Message<'a>,
    ) -> Option<Forward<'a>> {
        let peer = message.xor_address(AttributeType::XOR_PEER_ADDRESS);
        let data = message.attribute(AttributeType::DATA);
        let (Some(peer), Some(data)) = (peer, data) else {
            self.counters.noise += 1;
            return None;
        };
        let dont_fragment = message.has(AttributeType::DONT_FRAGMENT);
        let understood = unknown_attributes(message, &UNDERSTOOD).is_empty();
        if !understood || (dont_fragment && !self.config.dont_fragment) {
            self.counters.noise += 1;
            return None;
        }
        self.send_to_peer(now, client, peer, data.value, dont_fragment)
    }

    /// ChannelData from a client (RFC 8656 §12.6).
    pub(super) fn channel_data<'a>(&mut self, now: Timestamp, client: Client, bytes: &'a [u8]) -> Option<Forward<'a>> {
        let message = ChannelData::decode(bytes);
        let peer = message.and_then(|message| self.allocations.get(&client)?.peer_of(now, message.number));
        match (message, peer) {
            (Some(message), Some(peer)) => self.send_to_peer(now, client, peer, message.data, false),
            _ => {
                self.counters.datagrams_dropped += 1;
                None
            }
        }
    }

    fn send_to_peer<'a>(
        &mut self,
        now: Timestamp,
        client: Client,
        peer: SocketAddr,
        data: &'a [u8],
        dont_fragment: bool,
    ) -> Option<Forward<'a>> {
        let relay = self.allocations.get(&client).and_then(|allocation| {
            let relay = allocation.relay(Family::of(peer.ip())).filter(|_| allocation.is_open())?;
            let permitted = allocation.has_permission(now, peer.ip());
            permitted.then_some(relay)
        });
        let Some((relay, Some(source))) = relay.map(|relay| (relay.id, relay.address)) else {
            self.counters.datagrams_dropped += 1;
            return None;
        };
        let inside = self.relayed.get(&peer).copied();
        // A permission is for an address with all its ports, and it outlives changes: the policy is asked each time.
        if inside.is_none() {
            let verdict = if peer.port() == 0 { Err(Refusal::Unspecified) } else { self.config.policy.check(peer) };
            if let Err(refusal) = verdict {
                self.count_refusal(refusal);
                return None;
            }
        }
        if !self.within_rate(now, &client, data.len()) {
            return None;
        }
        self.counters.datagrams_to_peers += 1;
        self.counters.bytes_to_peers += data.len() as u64;
        match inside {
            Some(target) => self.deliver(now, target, source, data),
            None => Some(Forward::ToPeer { relay, peer, data, dont_fragment }),
        }
    }

    /// Takes a datagram out of what an allocation may relay now, both ways together; false when there is too little left.
    fn within_rate(&mut self, now: Timestamp, client: &Client, length: usize) -> bool {
        let limits = &self.config.limits;
        if [limits.bytes_per_second, limits.total_bytes_per_second, limits.datagrams_per_second.map(u64::from)]
            .iter()
            .all(Option::is_none)
        {
            return true;
        }
        let in_all = &mut self.relayed_in_all;
        let allocation = self.allocations.get_mut(client);
        let taken = allocation.is_some_and(|allocation| allocation.spend(now, limits, in_all, length));
        if !taken {
            self.counters.datagrams_dropped += 1;
            self.counters.datagrams_limited += 1;
        }
        taken
    }

    /// A datagram from a peer (RFC 8656 §11.3, §12.7).
    pub(super) fn deliver<'a>(
        &mut self,
        now: Timestamp,
        relay: RelayId,
        peer: SocketAddr,
        data: &'a [u8],
    ) -> Option<Forward<'a>> {
        let owner = self.relays.get(&relay).copied();
        let found = owner.and_then(|client| {
            let allocation = self.allocations.get(&client)?;
            let permitted = allocation.is_open() && allocation.has_permission(now, peer.ip());
            permitted.then(|| (client, allocation.channel_to(now, peer)))
        });
        let Some((client, channel)) = found.filter(|_| data.len() <= LARGEST_DATA) else {
            self.counters.datagrams_dropped += 1;
            return None;
        };
        if !self.within_rate(now, &client, data.len()) {
            return None;
        }
        self.counters.datagrams_to_clients += 1;
        self.counters.bytes_to_clients += data.len() as u64;
        if let Some(channel) = channel {
            return Some(Forward::ToClient { client, header: header(channel, data.len()), data });
        }
        let bytes = MessageBuilder::new(Class::Indication, Method::DATA, self.random.transaction_id())
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer)
            .attribute(AttributeType::DATA, data)
            .build();
        self.send(client, bytes);
        None
    }
}

/// The header of ChannelData (RFC 8656 §12.4), also on the numbers of RFC 5766, which `ChannelNumber` refuses.
fn header(channel: u16, length: usize) -> [u8; 4] {
    let ([a, b], [c, d]) = (channel.to_be_bytes(), (length as u16).to_be_bytes());
    [a, b, c, d]
}

/// What fits a Data indication whose length field has 16 bits, beside an IPv6 peer address.
const LARGEST_DATA: usize = u16::MAX as usize - 40;

/// What a Send indication may carry (RFC 8656 §11.2).
const UNDERSTOOD: [AttributeType; 3] =
    [AttributeType::XOR_PEER_ADDRESS, AttributeType::DATA, AttributeType::DONT_FRAGMENT];
