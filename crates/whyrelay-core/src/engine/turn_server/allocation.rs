//! One client's allocation: its relays, permissions and channels (RFC 8656 §6 to §12).
//!
//! Permissions and channels are short lists that are searched from the front: an allocation has a handful of peers,
//! and a list of a handful is smaller and faster than a tree. What has expired counts as absent and is removed when
//! something new needs the room.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Limits, RelayId};
use crate::time::Timestamp;
use crate::wire::integrity::Key;
use crate::wire::stun::TransactionId;
use crate::wire::turn::family;

/// How long a permission lives (RFC 8656 §9).
pub(super) const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// How long a channel binding lives (RFC 8656 §12).
pub(super) const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);

/// The family of a relayed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// The family of an address.
    pub const fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// Reads REQUESTED-ADDRESS-FAMILY: the family is its first byte, the rest is ignored (RFC 8656 §18.6).
    pub(super) fn read(value: &[u8]) -> Option<Self> {
        match value {
            [first, _, _, _] if *first == family::IPV4[0] => Some(Self::Ipv4),
            [first, _, _, _] if *first == family::IPV6[0] => Some(Self::Ipv6),
            _ => None,
        }
    }

    /// The byte that attributes write it as.
    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Ipv4 => family::IPV4[0],
            Self::Ipv6 => family::IPV6[0],
        }
    }
}

pub(super) struct Allocation {
    pub(super) username: String,
    pub(super) key: Key,
    /// When the credentials that made it expire.
    pub(super) credentials_expire: Option<Timestamp>,
    /// Of the Allocate request that made it, to know its retransmissions.
    pub(super) transaction: TransactionId,
    /// The request that is answered once every relay is open or has failed. `None` from then on.
    pub(super) opening: Option<Opening>,
    /// At most one of each family.
    pub(super) relays: Vec<Relay>,
    /// The family that was asked for in addition and could not be had, and the code (ADDRESS-ERROR-CODE).
    pub(super) failed: Option<(Family, u16)>,
    /// When it is looked at next for expired relays; the key under which it stands in the table of timers.
    pub(super) due: Timestamp,
    permissions: Vec<Permission>,
    channels: Vec<Channel>,
    /// Of the bytes relayed, both ways together, and of the datagrams.
    bytes: Pace,
    datagrams: Pace,
}

/// Until when what was relayed would have taken at a permitted rate.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace(Timestamp);

impl Pace {
    /// Half a second's worth may come at once.
    const AT_ONCE: Duration = Duration::from_millis(500);

    /// After so much more, at so much a second; `None` when there is no room for it now. Without a rate all fits.
    fn after(self, now: Timestamp, amount: u64, rate: Option<u64>) -> Option<Self> {
        let Some(rate) = rate else { return Some(self) };
        let until = self.0.max(now) + Duration::from_micros(amount * 1_000_000 / rate.max(1));
        (until <= now + Self::AT_ONCE).then_some(Self(until))
    }
}

/// How the pending Allocate request wants its answer.
pub(super) struct Opening {
    pub(super) reply: super::reply::Reply,
}

/// One relayed transport address.
pub(super) struct Relay {
    pub(super) id: RelayId,
    pub(super) family: Family,
    /// The address that peers see: `None` until its socket is open.
    pub(super) address: Option<SocketAddr>,
    pub(super) expires: Timestamp,
}

struct Permission {
    ip: IpAddr,
    expires: Timestamp,
}

struct Channel {
    number: u16,
    peer: SocketAddr,
    expires: Timestamp,
}

/// Why a channel is not bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotBound {
    /// The number is bound to another peer, or the peer to another number.
    Taken,
    /// The allocation has as many channels as it may.
    Full,
}

impl Allocation {
    pub(super) fn new(
        username: String,
        key: Key,
        credentials_expire: Option<Timestamp>,
        transaction: TransactionId,
        opening: Opening,
    ) -> Self {
        Self {
            username,
            key,
            credentials_expire,
            transaction,
            opening: Some(opening),
            relays: Vec::with_capacity(1),
            failed: None,
            due: Timestamp::default(),
            permissions: Vec::new(),
            channels: Vec::new(),
            bytes: Pace::default(),
            datagrams: Pace::default(),
        }
    }

    /// Installs or refreshes a permission; false when there are `limit` already (RFC 8656 §9).
    pub(super) fn permit(&mut self, now: Timestamp, ip: IpAddr, limit: usize) -> bool {
        let expires = now + PERMISSION_LIFETIME;
        if let Some(permission) = self.permissions.iter_mut().find(|permission| permission.ip == ip) {
            permission.expires = expires;
            return true;
        }
        if self.permissions.len() >= limit {
            self.permissions.retain(|permission| permission.expires > now);
        }
        let room = self.permissions.len() < limit;
        if room {
            reserve_little(&mut self.permissions);
            self.permissions.push(Permission { ip, expires });
        }
        room
    }

    /// How many more permissions fit.
    pub(super) fn permissions_left(&self, now: Timestamp, limit: usize) -> usize {
        limit.saturating_sub(self.permissions.iter().filter(|permission| permission.expires > now).count())
    }

    pub(super) fn has_permission(&self, now: Timestamp, ip: IpAddr) -> bool {
        self.permissions.iter().any(|permission| permission.ip == ip && permission.expires > now)
    }

    /// Whether a channel can be bound or refreshed.
    pub(super) fn may_bind(&self, now: Timestamp, number: u16, peer: SocketAddr, limit: usize) -> Result<(), NotBound> {
        let mut live = 0;
        for channel in self.channels.iter().filter(|channel| channel.expires > now) {
            live += 1;
            match (channel.number == number, channel.peer == peer) {
                (true, true) => return Ok(()),
                (false, false) => {}
                _ => return Err(NotBound::Taken),
            }
        }
        if live < limit { Ok(()) } else { Err(NotBound::Full) }
    }

    /// Binds or refreshes a channel (RFC 8656 §12.2) that [`Self::may_bind`] allows.
    pub(super) fn bind(&mut self, now: Timestamp, number: u16, peer: SocketAddr) {
        let expires = now + CHANNEL_LIFETIME;
        self.channels.retain(|channel| channel.expires > now);
        if let Some(channel) = self.channels.iter_mut().find(|channel| channel.number == number) {
            channel.expires = expires;
            return;
        }
        reserve_little(&mut self.channels);
        self.channels.push(Channel { number, peer, expires });
    }

    pub(super) fn channel_to(&self, now: Timestamp, peer: SocketAddr) -> Option<u16> {
        let channel = self.channels.iter().find(|channel| channel.peer == peer && channel.expires > now)?;
        Some(channel.number)
    }

    pub(super) fn peer_of(&self, now: Timestamp, number: u16) -> Option<SocketAddr> {
        let channel = self.channels.iter().find(|channel| channel.number == number && channel.expires > now)?;
        Some(channel.peer)
    }

    /// Takes a datagram out of the rates that there are, of which one is of all allocations together. What one of them
    /// has no room for costs nothing.
    pub(super) fn spend(&mut self, now: Timestamp, limits: &Limits, in_all: &mut Pace, length: usize) -> bool {
        let length = length as u64;
        let paces = (
            self.bytes.after(now, length, limits.bytes_per_second),
            self.datagrams.after(now, 1, limits.datagrams_per_second.map(u64::from)),
            in_all.after(now, length, limits.total_bytes_per_second),
        );
        let (Some(bytes), Some(datagrams), Some(together)) = paces else { return false };
        (self.bytes, self.datagrams, *in_all) = (bytes, datagrams, together);
        true
    }

    /// The open relay that reaches this family.
    pub(super) fn relay(&self, family: Family) -> Option<&Relay> {
        self.relays.iter().find(|relay| relay.family == family && relay.address.is_some())
    }

    /// Whether the Allocate request has been answered with success.
    pub(super) const fn is_open(&self) -> bool {
        self.opening.is_none()
    }
}

/// Grows a list by one, then two, then by half: most allocations have one peer, and `Vec` would start with four.
fn reserve_little<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact(1 + list.len() / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::stun::{Class, Message, MessageBuilder, Method};

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    fn allocation() -> Allocation {
        let id = TransactionId([0; 12]);
        let bytes = MessageBuilder::new(Class::Request, Method::ALLOCATE, id).build();
        let reply = super::super::reply::Reply::to(&Message::decode(&bytes).unwrap());
        Allocation::new("u".into(), Key::short_term("k"), None, id, Opening { reply })
    }

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 7], port))
    }

    #[test]
    fn permissions_live_five_minutes_and_make_room_when_they_expire() {
        let mut allocation = allocation();
        let ip = |last| IpAddr::from([203, 0, 113, last]);
        assert!(allocation.permit(NOW, ip(1), 2) && allocation.permit(NOW, ip(2), 2));
        assert!(!allocation.permit(NOW, ip(3), 2) && allocation.permit(NOW, ip(1), 2));
        assert!(allocation.has_permission(NOW + Duration::from_secs(299), ip(1)));
        let later = NOW + PERMISSION_LIFETIME;
        assert!(!allocation.has_permission(later, ip(1)));
        assert!(allocation.permit(later, ip(3), 2));
    }

    #[test]
    fn a_channel_has_one_peer_and_a_peer_one_channel_for_ten_minutes() {
        let mut allocation = allocation();
        let [one, two] = [0x4000, 0x4001];
        assert_eq!(allocation.may_bind(NOW, one, peer(1), 2), Ok(()));
        allocation.bind(NOW, one, peer(1));
        assert_eq!(allocation.may_bind(NOW, one, peer(1), 1), Ok(()));
        assert_eq!(allocation.may_bind(NOW, one, peer(2), 2), Err(NotBound::Taken));
        assert_eq!(allocation.may_bind(NOW, two, peer(1), 2), Err(NotBound::Taken));
        assert_eq!(allocation.may_bind(NOW, two, peer(2), 1), Err(NotBound::Full));
        assert_eq!(allocation.peer_of(NOW, one), Some(peer(1)));
        assert_eq!(allocation.channel_to(NOW, peer(1)), Some(one));
        let later = NOW + CHANNEL_LIFETIME;
        assert_eq!((allocation.peer_of(later, one), allocation.channel_to(later, peer(1))), (None, None));
        assert_eq!(allocation.may_bind(later, one, peer(2), 1), Ok(()));
        allocation.bind(later, one, peer(2));
        assert_eq!(allocation.peer_of(later, one), Some(peer(2)));
    }
}
