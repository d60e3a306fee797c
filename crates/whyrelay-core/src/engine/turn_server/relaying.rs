//! Application data between clients and peers (RFC 8656 §11, §12).

use std::net::SocketAddr;

use super::allocation::Family;
use super::{Client, ClientTransport, Output, Refusal, RelayId, TurnServer};
use crate::engine::stun_server::unknown_attributes;
use crate::time::Timestamp;
use crate::wire::attribute::AttributeType;
use crate::wire::stun::{Class, Message, MessageBuilder, Method};
use crate::wire::turn::ChannelData;

impl TurnServer {
    /// A Send indication (RFC 8656 §11.2). Whatever is wrong with it, there is no answer.
    pub(super) fn send_indication(&mut self, now: Timestamp, client: Client, message: &Message<'_>) {
        let peer = message.xor_address(AttributeType::XOR_PEER_ADDRESS);
        let data = message.attribute(AttributeType::DATA);
        let (Some(peer), Some(data)) = (peer, data) else {
            self.counters.noise += 1;
            return;
        };
        let dont_fragment = message.has(AttributeType::DONT_FRAGMENT);
        let understood = unknown_attributes(message, &UNDERSTOOD).is_empty();
        if !understood || (dont_fragment && !self.config.dont_fragment) {
            self.counters.noise += 1;
            return;
        }
        self.send_to_peer(now, client, peer, data.value, dont_fragment);
    }

    /// ChannelData from a client (RFC 8656 §12.6).
    pub(super) fn channel_data(&mut self, now: Timestamp, client: Client, bytes: &[u8]) {
        let message = ChannelData::decode(bytes);
        let peer = message.and_then(|message| self.allocations.get(&client)?.peer_of(now, message.number));
        match (message, peer) {
            (Some(message), Some(peer)) => self.send_to_peer(now, client, peer, message.data, false),
            _ => self.counters.datagrams_dropped += 1,
        }
    }

    fn send_to_peer(&mut self, now: Timestamp, client: Client, peer: SocketAddr, data: &[u8], dont_fragment: bool) {
        let relay = self.allocations.get(&client).and_then(|allocation| {
            let relay = allocation.relay(Family::of(peer.ip())).filter(|_| allocation.is_open())?;
            let permitted = allocation.has_permission(now, peer.ip());
            permitted.then_some(relay)
        });
        let Some((relay, Some(source))) = relay.map(|relay| (relay.id, relay.address)) else {
            self.counters.datagrams_dropped += 1;
            return;
        };
        let inside = self.relayed.get(&peer).copied();
        // A permission is for an address with all its ports, and it outlives changes: the policy is asked each time.
        if inside.is_none() {
            let verdict = if peer.port() == 0 { Err(Refusal::Unspecified) } else { self.config.policy.check(peer) };
            if let Err(refusal) = verdict {
                return self.count_refusal(refusal);
            }
        }
        if !self.within_rate(now, &client, data.len()) {
            return;
        }
        self.counters.datagrams_to_peers += 1;
        self.counters.bytes_to_peers += data.len() as u64;
        match inside {
            Some(target) => self.deliver(now, target, source, data),
            None => self.outputs.push_back(Output::SendFromRelay { relay, peer, bytes: data.to_vec(), dont_fragment }),
        }
    }

    /// Takes bytes out of what an allocation may relay now, both ways together; false when there is too little left.
    fn within_rate(&mut self, now: Timestamp, client: &Client, length: usize) -> bool {
        let Some(rate) = self.config.limits.bytes_per_second else { return true };
        let taken = self.allocations.get_mut(client).is_some_and(|allocation| allocation.spend(now, rate, length));
        if !taken {
            self.counters.datagrams_dropped += 1;
            self.counters.datagrams_limited += 1;
        }
        taken
    }

    /// A datagram from a peer (RFC 8656 §11.3, §12.7).
    pub(super) fn deliver(&mut self, now: Timestamp, relay: RelayId, peer: SocketAddr, data: &[u8]) {
        let owner = self.relays.get(&relay).copied();
        let found = owner.and_then(|client| {
            let allocation = self.allocations.get(&client)?;
            let permitted = allocation.is_open() && allocation.has_permission(now, peer.ip());
            permitted.then(|| (client, allocation.channel_to(now, peer)))
        });
        let Some((client, channel)) = found.filter(|_| data.len() <= LARGEST_DATA) else {
            self.counters.datagrams_dropped += 1;
            return;
        };
        if !self.within_rate(now, &client, data.len()) {
            return;
        }
        let bytes = match (channel, client.transport) {
            (Some(channel), ClientTransport::Udp(_)) => encode(channel, data),
            (Some(channel), ClientTransport::Stream(_)) => {
                // RFC 8656 §12.5: padded on streams.
                let mut bytes = encode(channel, data);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
                bytes
            }
            (None, _) => MessageBuilder::new(Class::Indication, Method::DATA, self.random.transaction_id())
                .xor_address(AttributeType::XOR_PEER_ADDRESS, peer)
                .attribute(AttributeType::DATA, data)
                .build(),
        };
        self.counters.datagrams_to_clients += 1;
        self.counters.bytes_to_clients += data.len() as u64;
        self.send(client, bytes);
    }
}

/// ChannelData (RFC 8656 §12.4), also on the numbers of RFC 5766, which `ChannelNumber` refuses.
fn encode(channel: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + data.len().next_multiple_of(4));
    bytes.extend_from_slice(&channel.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// What fits a Data indication whose length field has 16 bits, beside an IPv6 peer address.
const LARGEST_DATA: usize = u16::MAX as usize - 40;

/// What a Send indication may carry (RFC 8656 §11.2).
const UNDERSTOOD: [AttributeType; 3] =
    [AttributeType::XOR_PEER_ADDRESS, AttributeType::DATA, AttributeType::DONT_FRAGMENT];
