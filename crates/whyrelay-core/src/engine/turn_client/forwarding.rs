//! Permissions, channels, and the data they let through (RFC 8656 §9 to §12).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Phase, Purpose, TurnClient, TurnOutput};
use crate::time::{Now, Timestamp};
use crate::trace::event::{EventKind, Transport};
use crate::wire::attribute::AttributeType;
use crate::wire::stun::{Class, Message, MessageBuilder, Method};
use crate::wire::turn::{ChannelData, ChannelNumber};

/// RFC 8656 §9: a permission lasts five minutes.
const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);

/// When a permission is renewed: a minute before its end.
const PERMISSION_REFRESH: Duration = Duration::from_secs(240);

/// RFC 8656 §12: a channel binding lasts ten minutes.
const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);

/// When a channel is bound again: two minutes before its end.
const CHANNEL_REFRESH: Duration = Duration::from_secs(480);

/// A permission or channel that was not used for so long is let go.
const IDLE: Duration = Duration::from_secs(300);

/// After a renewal that failed, the next one.
const RETRY: Duration = Duration::from_secs(5);

/// Permissions of one allocation; a checklist has at most 100 pairs.
pub(in super::super) const MAX_PERMISSIONS: usize = 128;

/// Channels of one allocation; only the selected pair needs one.
const MAX_CHANNELS: usize = 32;

/// Peers in one CreatePermission that renews.
const BATCH: usize = 16;

/// Longest data in one message: the length fields of STUN message and UDP datagram bound it.
const MAX_DATA: usize = 65_000;

/// Leave to receive from an IP address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permission {
    /// Until when; `None` before the server has granted it.
    expires: Option<Timestamp>,
    renew_at: Option<Timestamp>,
    used: Timestamp,
}

/// A peer's short form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    number: ChannelNumber,
    /// Until when; `None` before the server has bound it.
    expires: Option<Timestamp>,
    renew_at: Option<Timestamp>,
}

impl TurnClient {
    /// Asks for a permission; the answer is an output, at once if there is one already.
    pub(in super::super) fn need_permission(&mut self, now: Timestamp, relayed: SocketAddr, peer: IpAddr) {
        if self.phase != Phase::Allocated || relayed.is_ipv4() != peer.is_ipv4() {
            self.outputs.push_back(TurnOutput::PermissionDenied { relayed, peer, code: None });
            return;
        }
        if let Some(permission) = self.permissions.get_mut(&peer) {
            permission.used = now;
            if permission.expires.is_some() {
                self.outputs.push_back(TurnOutput::PermissionGranted { relayed, peer });
            }
            return;
        }
        if self.permissions.len() >= MAX_PERMISSIONS {
            self.outputs.push_back(TurnOutput::PermissionDenied { relayed, peer, code: None });
            return;
        }
        self.permissions.insert(peer, Permission { expires: None, renew_at: None, used: now });
        self.request(now, Purpose::CreatePermission(vec![peer]));
    }

    /// Binds a channel to a peer, if there is none and there is room; until then data goes in Send indications.
    pub(in super::super) fn bind_channel(&mut self, now: Timestamp, peer: SocketAddr) {
        let known = self.channels.contains_key(&peer) || self.relayed_for(peer.ip()).is_none();
        if self.phase != Phase::Allocated || known || self.channels.len() >= MAX_CHANNELS {
            return;
        }
        // Numbers are not used twice: RFC 8656 §12 forbids it for five minutes after the end of a binding.
        let Some(number) = self.next_channel else { return };
        self.next_channel = number.next();
        self.channels.insert(peer, Channel { number, expires: None, renew_at: None });
        self.request(now, Purpose::ChannelBind { peer, number });
    }

    /// Data for a peer. Without a permission it is dropped, as the server would do, and the permission is asked for.
    pub(in super::super) fn send(&mut self, now: Timestamp, relayed: SocketAddr, peer: SocketAddr, data: &[u8]) {
        if self.phase != Phase::Allocated || data.len() > MAX_DATA {
            return;
        }
        match self.permissions.get_mut(&peer.ip()) {
            Some(permission) if permission.expires.is_some() => permission.used = now,
            _ => return self.need_permission(now, relayed, peer.ip()),
        }
        let channel = self.channels.get(&peer).filter(|channel| channel.expires.is_some());
        let bytes = match (channel, self.config.transport) {
            (Some(channel), Transport::Udp) => ChannelData::encode(channel.number, data),
            (Some(channel), _) => ChannelData::encode_padded(channel.number, data),
            (None, _) => MessageBuilder::new(Class::Indication, Method::SEND, self.random.transaction_id())
                .xor_address(AttributeType::XOR_PEER_ADDRESS, peer)
                .attribute(AttributeType::DATA, data)
                .build(),
        };
        self.outputs.push_back(TurnOutput::Send(bytes));
    }

    /// ChannelData came from the server. Answers whether it is of a channel of ours.
    pub(in super::super) fn feed_channel_data(&mut self, now: Timestamp, bytes: &[u8]) -> bool {
        let Some(message) = ChannelData::decode(bytes) else { return false };
        // The server may use a channel before its answer to ChannelBind has reached us.
        let channel = self.channels.iter().find(|(_, channel)| channel.number.number() == message.number);
        let Some((&peer, _)) = channel else { return false };
        self.deliver(now, peer, message.data);
        true
    }

    pub(super) fn feed_indication(&mut self, now: Timestamp, message: &Message<'_>) -> bool {
        if message.method != Method::DATA {
            return false;
        }
        let Some(peer) = message.xor_address(AttributeType::XOR_PEER_ADDRESS) else { return true };
        if let Some(data) = message.attribute(AttributeType::DATA) {
            self.deliver(now, peer, data.value);
        } else if let Some(icmp) = message.attribute(AttributeType::ICMP) {
            self.note_icmp(peer, icmp.value);
        }
        true
    }

    fn deliver(&mut self, now: Timestamp, peer: SocketAddr, data: &[u8]) {
        // RFC 8656 §11.4: data from a peer that has no permission is not ours.
        let Some(permission) = self.permissions.get_mut(&peer.ip()) else { return };
        permission.used = now;
        if let Some(relayed) = self.relayed_for(peer.ip()) {
            self.outputs.push_back(TurnOutput::Data { relayed, peer, data: data.to_vec() });
        }
    }

    /// An ICMP error came back to the relayed address (RFC 8656 §18.13).
    fn note_icmp(&mut self, peer: SocketAddr, value: &[u8]) {
        let (Some(local), Some(&[_, _, kind, code])) = (self.relayed_for(peer.ip()), value.first_chunk::<4>()) else {
            return;
        };
        if !self.permissions.contains_key(&peer.ip()) {
            return;
        }
        self.outputs.push_back(TurnOutput::Event(EventKind::IcmpError {
            local,
            remote: peer,
            offender: None,
            // Seven bits of type and nine of code.
            icmp_type: kind >> 1,
            icmp_code: code,
            errno: 0,
        }));
    }

    pub(super) fn permissions_granted(&mut self, now: Timestamp, peers: &[IpAddr]) {
        for &peer in peers {
            let Some(relayed) = self.relayed_for(peer) else { continue };
            let Some(permission) = self.permissions.get_mut(&peer) else { continue };
            let first = permission.expires.is_none();
            permission.expires = Some(now + PERMISSION_LIFETIME);
            permission.renew_at = Some(now + PERMISSION_REFRESH);
            if first {
                self.outputs.push_back(TurnOutput::Event(EventKind::PermissionCreated { relayed, peer }));
                self.outputs.push_back(TurnOutput::PermissionGranted { relayed, peer });
            }
        }
    }

    /// The server refused permissions, or did not answer (`code` is `None`).
    pub(super) fn permissions_refused(&mut self, now: Timestamp, peers: &[IpAddr], code: Option<u16>) {
        if peers.len() > 1 && code.is_some() {
            // RFC 8656 §10.2: one forbidden peer refuses the whole request.
            for &peer in peers {
                self.request(now, Purpose::CreatePermission(vec![peer]));
            }
            return;
        }
        for &peer in peers {
            let Some(permission) = self.permissions.get_mut(&peer) else { continue };
            if permission.expires.is_some() && code != Some(403) {
                permission.renew_at = Some(now + RETRY);
            } else {
                self.permission_ended(peer, code);
            }
        }
    }

    pub(super) fn channel_granted(&mut self, now: Timestamp, peer: SocketAddr) {
        let Some(relayed) = self.relayed_for(peer.ip()) else { return };
        let Some(channel) = self.channels.get_mut(&peer) else { return };
        let (first, number) = (channel.expires.is_none(), channel.number.number());
        channel.expires = Some(now + CHANNEL_LIFETIME);
        channel.renew_at = Some(now + CHANNEL_REFRESH);
        if first {
            self.outputs.push_back(TurnOutput::Event(EventKind::ChannelBound { relayed, peer, channel: number }));
        }
        // RFC 8656 §12: binding a channel installs or renews the permission as well.
        self.permissions.entry(peer.ip()).or_insert(Permission { expires: None, renew_at: None, used: now });
        self.permissions_granted(now, &[peer.ip()]);
    }

    /// The server refused a channel or did not answer: data goes in Send indications.
    pub(super) fn channel_refused(&mut self, now: Timestamp, peer: SocketAddr) {
        let Some(channel) = self.channels.get_mut(&peer) else { return };
        if channel.expires.is_some() {
            channel.renew_at = Some(now + RETRY);
        } else {
            self.channels.remove(&peer);
        }
    }

    /// Renews what is in use and lets go what has ended.
    pub(super) fn advance_forwarding(&mut self, Now { time: now, heard, .. }: Now) {
        let is_due = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
        let ended = |expires: Option<Timestamp>| expires.is_some_and(|expires| expires <= heard);

        self.channels.retain(|_, channel| !ended(channel.expires));
        let over: Vec<IpAddr> = self.permissions.iter().filter(|(_, p)| ended(p.expires)).map(|(&ip, _)| ip).collect();
        for peer in over {
            // What nobody used ends quietly: the next send asks for it again.
            if self.permissions.get(&peer).is_some_and(|permission| now.since(permission.used) < IDLE) {
                self.permission_ended(peer, None);
            } else {
                self.permissions.remove(&peer);
            }
        }

        let mut renew = Vec::new();
        for (&peer, permission) in &mut self.permissions {
            if is_due(permission.renew_at) {
                permission.renew_at = None;
                if now.since(permission.used) < IDLE {
                    renew.push(peer);
                }
            }
        }
        for peers in renew.chunks(BATCH) {
            self.request(now, Purpose::CreatePermission(peers.to_vec()));
        }

        let mut bind = Vec::new();
        for (&peer, channel) in &mut self.channels {
            if is_due(channel.renew_at) {
                channel.renew_at = None;
                if self.permissions.contains_key(&peer.ip()) {
                    bind.push((peer, channel.number));
                }
            }
        }
        for (peer, number) in bind {
            self.request(now, Purpose::ChannelBind { peer, number });
        }
    }

    pub(super) fn forwarding_deadline(&self) -> Option<Timestamp> {
        let permissions = self.permissions.values().flat_map(|p| [p.expires, p.renew_at]);
        let channels = self.channels.values().flat_map(|channel| [channel.expires, channel.renew_at]);
        permissions.chain(channels).flatten().min()
    }

    fn permission_ended(&mut self, peer: IpAddr, code: Option<u16>) {
        self.permissions.remove(&peer);
        if let Some(relayed) = self.relayed_for(peer) {
            self.outputs.push_back(TurnOutput::PermissionDenied { relayed, peer, code });
        }
    }

    /// The relayed address of a peer's family.
    fn relayed_for(&self, peer: IpAddr) -> Option<SocketAddr> {
        self.relayed.iter().copied().find(|relayed| relayed.is_ipv4() == peer.is_ipv4())
    }
}
