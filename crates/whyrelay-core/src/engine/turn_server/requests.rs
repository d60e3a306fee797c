//! Requests: authentication, Refresh, CreatePermission, ChannelBind; Allocate is in `allocating`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::allocation::{Family, NotBound, Relay};
use super::credentials::{Grant, quota_name};
use super::reply::{Rejection, Reply};
use super::{Client, ClientTransport, Refusal, RelayId, TurnServer};
use crate::engine::stun_server::unknown_attributes;
use crate::time::Timestamp;
use crate::wire::attribute::{AttributeType, read_xor_address};
use crate::wire::integrity::{Integrity, Key};
use crate::wire::stun::{Message, MessageBuilder, Method};
use crate::wire::turn::ChannelNumber;

/// A request whose MESSAGE-INTEGRITY is valid.
pub(super) struct Authenticated {
    pub(super) username: String,
    pub(super) grant: Grant,
}

/// `Ok(None)` is answered later, or was answered already.
pub(super) type Answer = Result<Option<MessageBuilder>, Rejection>;

impl TurnServer {
    pub(super) fn request(&mut self, now: Timestamp, client: Client, message: &Message<'_>) {
        self.counters.requests += 1;
        *self.counters.methods.entry(message.method).or_default() += 1;
        let reply = Reply::to(message);
        let is_signed = is_signed(message);
        let authenticated = match self.authenticate(now, &client, message) {
            Ok(authenticated) => authenticated,
            Err(code) => return self.challenge(now, client, &reply, (code, is_signed)),
        };
        let known = if self.config.dont_fragment { &UNDERSTOOD[..] } else { &UNDERSTOOD[1..] };
        let unknown = unknown_attributes(message, known);
        let key = authenticated.grant.key.clone();
        let answer = if unknown.is_empty() {
            match message.method {
                Method::ALLOCATE => self.allocate(now, client, message, authenticated, &reply),
                _ => self.on_allocation(now, client, message, &authenticated, &reply),
            }
        } else {
            let rejection = Rejection::new(420, "Unknown Attribute");
            self.refuse(&client, message.method, rejection.code);
            Ok(Some(reply.error(rejection).unknown_attributes(&unknown)))
        };
        let message = match answer {
            Ok(None) => return,
            Ok(Some(message)) => message,
            Err(rejection) => {
                self.refuse(&client, message.method, rejection.code);
                let error = reply.error(rejection);
                match self.alternate_for(&client).filter(|_| rejection.code == 300) {
                    Some(server) => error.address(AttributeType::ALTERNATE_SERVER, server),
                    None => error,
                }
            }
        };
        self.send(client, reply.signed(message, &key));
    }

    /// The long-term credential mechanism (RFC 8489 §9.2.4). The nonce is looked at before the password, so that
    /// guessing costs a round trip to a real address.
    fn authenticate(&mut self, now: Timestamp, client: &Client, message: &Message<'_>) -> Result<Authenticated, u16> {
        if !self.config.turn {
            return Err(403);
        }
        if !is_signed(message) {
            return Err(401);
        }
        let text = |kind| message.text(kind).ok_or(400_u16);
        let (username, realm) = (text(AttributeType::USERNAME)?, text(AttributeType::REALM)?);
        let wall = self.wall(now);
        if !self.nonces.is_valid(now, client, text(AttributeType::NONCE)?) {
            return Err(438);
        }
        if realm != self.config.realm {
            return Err(401);
        }
        let valid = |grant: &Grant| message.check_integrity(&grant.key) == Integrity::Valid;
        let authenticated = |grant| Ok(Authenticated { username: username.to_owned(), grant });
        // The password that made an allocation is good for as long as the allocation lives, also when the
        // credentials have expired or the secret was changed since, unless the operator wants otherwise.
        let made_with = self
            .allocations
            .get(client)
            .filter(|allocation| allocation.username == username)
            .map(|allocation| Grant { key: allocation.key.clone(), expires: allocation.credentials_expire });
        if let Some(grant) = made_with.filter(valid) {
            let expired = self.config.strict_expiry && grant.expires.is_some_and(|expires| expires <= wall);
            return if expired { Err(401) } else { authenticated(grant) };
        }
        let mut grants = self.config.credentials.keys(wall, username, realm);
        if grants.is_empty() {
            // A stranger takes as long as a wrong password.
            let decoy: [u8; 8] = self.random.bytes();
            let key = Key::long_term(username, realm, &format!("{decoy:?}"));
            grants.push(Grant { key, expires: Some(Timestamp::default()) });
        }
        match grants.into_iter().find(valid).filter(|grant| grant.expires.is_none_or(|expires| expires > wall)) {
            Some(grant) => authenticated(grant),
            None => Err(401),
        }
    }

    /// Answers who has not shown a password: shortly, and over UDP, where the source may be forged, not often.
    fn challenge(&mut self, now: Timestamp, client: Client, reply: &Reply, (code, is_signed): (u16, bool)) {
        let forgeable = matches!(client.transport, ClientTransport::Udp(_));
        if forgeable && !self.budget.take(now, client.source.ip()) {
            self.counters.unauthenticated_withheld += 1;
            return;
        }
        if code == 438 || code == 401 && !is_signed {
            self.counters.challenges += 1;
        } else {
            self.refuse(&client, reply.method(), code);
        }
        let mut error = reply.error(Rejection::new(code, ""));
        if matches!(code, 401 | 438) {
            let nonce = self.nonces.make(now, &client);
            error = error.text(AttributeType::REALM, &self.config.realm).text(AttributeType::NONCE, &nonce);
        }
        let bytes = reply.finished(error);
        self.send(client, bytes);
    }

    /// Refresh, CreatePermission and ChannelBind need an allocation, and one made by the same user (RFC 8656 §5).
    fn on_allocation(
        &mut self,
        now: Timestamp,
        client: Client,
        message: &Message<'_>,
        authenticated: &Authenticated,
        reply: &Reply,
    ) -> Answer {
        let allocation = self.allocations.get(&client).filter(|allocation| allocation.is_open());
        let allocation = allocation.ok_or(Rejection::new(437, "Allocation Mismatch"))?;
        if allocation.username != authenticated.username {
            return Err(Rejection::new(441, "Wrong Credentials"));
        }
        match message.method {
            Method::REFRESH => self.refresh(now, client, message, reply),
            Method::CREATE_PERMISSION => self.create_permission(now, client, message, reply),
            _ => self.channel_bind(now, client, message, reply),
        }
    }

    /// Refresh (RFC 8656 §8.2).
    fn refresh(&mut self, now: Timestamp, client: Client, message: &Message<'_>, reply: &Reply) -> Answer {
        let only = match message.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY) {
            None => None,
            Some(attribute) if attribute.value.len() != 4 => return Err(BAD_REQUEST),
            Some(attribute) => Some(Family::read(attribute.value).ok_or(FAMILY_MISMATCH)?),
        };
        let lifetime = requested_lifetime(message)?;
        let Some(allocation) = self.allocations.get(&client) else { return Ok(None) };
        let chosen = |relay: &&Relay| only.is_none_or(|family| relay.family == family);
        let chosen: Vec<RelayId> = allocation.relays.iter().filter(chosen).map(|relay| relay.id).collect();
        if chosen.is_empty() {
            return Err(FAMILY_MISMATCH);
        }
        let credentials_expire = allocation.credentials_expire;
        let granted = if lifetime == Some(Duration::ZERO) {
            for relay in chosen {
                self.close_relay(&client, relay);
            }
            Duration::ZERO
        } else {
            let expires = self.expiry(now, lifetime, credentials_expire);
            if let Some(allocation) = self.allocations.get_mut(&client) {
                for relay in allocation.relays.iter_mut().filter(|relay| chosen.contains(&relay.id)) {
                    relay.expires = expires;
                }
            }
            expires - now
        };
        self.settle(&client);
        Ok(Some(reply.success().u32(AttributeType::LIFETIME, seconds(granted))))
    }

    /// CreatePermission (RFC 8656 §10.2): all peers of the request, or none.
    fn create_permission(&mut self, now: Timestamp, client: Client, message: &Message<'_>, reply: &Reply) -> Answer {
        let peers = peers(message)?;
        for peer in &peers {
            if !self.is_former_relay(now, &client, *peer) {
                self.check_peer(&client, self.relay_without_port(*peer).unwrap_or(*peer))?;
            }
        }
        let limit = self.config.limits.permissions;
        let Some(allocation) = self.allocations.get_mut(&client) else { return Ok(None) };
        let mut fresh: Vec<IpAddr> = peers.iter().map(|peer| peer.ip()).collect();
        fresh.sort_unstable();
        fresh.dedup();
        fresh.retain(|ip| !allocation.has_permission(now, *ip));
        if fresh.len() > allocation.permissions_left(now, limit) {
            return Err(FULL);
        }
        self.may_add_peers(now, &client, fresh.len())?;
        if let Some(allocation) = self.allocations.get_mut(&client) {
            for peer in peers {
                allocation.permit(now, peer.ip(), limit);
            }
        }
        Ok(Some(reply.success()))
    }

    /// ChannelBind (RFC 8656 §12.2). Of several peers the first counts.
    fn channel_bind(&mut self, now: Timestamp, client: Client, message: &Message<'_>, reply: &Reply) -> Answer {
        let number = message.attribute(AttributeType::CHANNEL_NUMBER);
        let number = number.and_then(|attribute| self.channel_number(attribute.value)).ok_or(BAD_REQUEST)?;
        let peer = message.xor_address(AttributeType::XOR_PEER_ADDRESS).ok_or(BAD_REQUEST)?;
        self.check_peer(&client, peer)?;
        let Some(allocation) = self.allocations.get(&client) else { return Ok(None) };
        let permitted = allocation.has_permission(now, peer.ip());
        let (permissions, channels) = (self.config.limits.permissions, self.config.limits.channels);
        if !permitted && allocation.permissions_left(now, permissions) == 0 {
            return Err(FULL);
        }
        allocation.may_bind(now, number, peer, channels).map_err(|why| match why {
            NotBound::Taken => Rejection::new(400, "Channel Or Peer Already Bound"),
            NotBound::Full => FULL,
        })?;
        // Last: what is refused for another reason costs nothing. Nor does a channel to an address that is permitted
        // already: it reaches nothing that a Send indication does not.
        if !permitted {
            self.may_add_peers(now, &client, 1)?;
        }
        let Some(allocation) = self.allocations.get_mut(&client) else { return Ok(None) };
        allocation.bind(now, number, peer);
        allocation.permit(now, peer.ip(), permissions);
        Ok(Some(reply.success()))
    }

    /// Whether a client may add so many peers now. The budget is the user's at that address, because the next allocation
    /// costs nothing.
    fn may_add_peers(&mut self, now: Timestamp, client: &Client, amount: usize) -> Result<(), Rejection> {
        let (Some(budget), Some(allocation)) = (&mut self.new_peers, self.allocations.get(client)) else {
            return Ok(());
        };
        if amount == 0 || budget.take(now, client.source.ip(), quota_name(&allocation.username), amount) {
            return Ok(());
        }
        self.counters.peers_limited += 1;
        Err(Rejection::new(508, "Too Many New Peers"))
    }

    /// Reads CHANNEL-NUMBER (RFC 8656 §18.1), if it is in the range that clients may bind.
    fn channel_number(&self, value: &[u8]) -> Option<u16> {
        let last = if self.config.rfc5766_channels { 0x7FFF } else { ChannelNumber::LAST.number() };
        let [high, low, _, _] = *value else { return None };
        let number = u16::from_be_bytes([high, low]);
        (ChannelNumber::FIRST.number()..=last).contains(&number).then_some(number)
    }

    /// Whether a client may have a permission or a channel for this peer.
    fn check_peer(&mut self, client: &Client, peer: SocketAddr) -> Result<(), Rejection> {
        let Some(allocation) = self.allocations.get(client) else { return Ok(()) };
        if allocation.relay(Family::of(peer.ip())).is_none() {
            return Err(FAMILY_MISMATCH);
        }
        if self.relayed.contains_key(&peer) {
            return Ok(());
        }
        if let Err(refusal) = self.config.policy.check(peer) {
            self.count_refusal(refusal);
            return Err(Rejection::new(403, "Forbidden"));
        }
        Ok(())
    }

    /// A live relayed address at the address of a peer that is named without its port, as RFC 8656 §10.1 lets clients
    /// do. A permission is for an address alone; what is sent there is judged with its port, each time.
    fn relay_without_port(&self, peer: SocketAddr) -> Option<SocketAddr> {
        let (relayed, _) = self.relayed.range(SocketAddr::new(peer.ip(), 0)..).next()?;
        (peer.port() == 0 && relayed.ip() == peer.ip()).then_some(*relayed)
    }

    /// Whether a client refreshes its permission for a peer that relays here as well and whose allocation has ended:
    /// refusing would take the other permissions of the same request with it. What it sends there is dropped.
    fn is_former_relay(&self, now: Timestamp, client: &Client, peer: SocketAddr) -> bool {
        let policy = &self.config.policy;
        let permitted =
            self.allocations.get(client).is_some_and(|allocation| allocation.has_permission(now, peer.ip()));
        permitted && policy.own_addresses.contains(&peer.ip()) && !policy.is_own_endpoint(peer)
    }

    /// When an allocation made or refreshed now expires.
    pub(super) fn expiry(
        &self,
        now: Timestamp,
        requested: Option<Duration>,
        credentials: Option<Timestamp>,
    ) -> Timestamp {
        let limits = &self.config.limits;
        let lifetime = requested.unwrap_or_default().max(limits.default_lifetime).min(limits.maximum_lifetime);
        let expires = now + lifetime;
        match credentials.filter(|_| self.config.strict_expiry) {
            // They name a time of the wall clock.
            Some(credentials) => expires.min(now + (credentials - self.wall(now))),
            None => expires,
        }
    }

    pub(super) fn count_refusal(&mut self, refusal: Refusal) {
        self.counters.policy_refusals += 1;
        *self.counters.refusals.entry(refusal).or_default() += 1;
    }

    pub(super) fn count_error(&mut self, code: u16) {
        *self.counters.errors.entry(code).or_default() += 1;
    }
}

/// Whether a request shows a password, right or wrong.
fn is_signed(message: &Message<'_>) -> bool {
    message.has(AttributeType::MESSAGE_INTEGRITY) || message.has(AttributeType::MESSAGE_INTEGRITY_SHA256)
}

/// LIFETIME as asked for.
pub(super) fn requested_lifetime(message: &Message<'_>) -> Result<Option<Duration>, Rejection> {
    if !message.has(AttributeType::LIFETIME) {
        return Ok(None);
    }
    let lifetime = message.u32(AttributeType::LIFETIME).ok_or(BAD_REQUEST)?;
    Ok(Some(Duration::from_secs(lifetime.into())))
}

/// Every XOR-PEER-ADDRESS that MESSAGE-INTEGRITY protects; there must be one, and all must be readable.
fn peers(message: &Message<'_>) -> Result<Vec<SocketAddr>, Rejection> {
    let protected = message.attributes.iter().take_while(|attribute| {
        !matches!(attribute.kind, AttributeType::MESSAGE_INTEGRITY | AttributeType::MESSAGE_INTEGRITY_SHA256)
    });
    let of_kind = protected.filter(|attribute| attribute.kind == AttributeType::XOR_PEER_ADDRESS);
    let peers = of_kind.map(|attribute| read_xor_address(attribute.value, message.transaction).ok_or(BAD_REQUEST));
    let peers = peers.collect::<Result<Vec<_>, _>>()?;
    if peers.is_empty() { Err(BAD_REQUEST) } else { Ok(peers) }
}

/// Whole seconds, at most what LIFETIME can say.
pub(super) fn seconds(duration: Duration) -> u32 {
    duration.as_secs().try_into().unwrap_or(u32::MAX)
}

pub(super) const BAD_REQUEST: Rejection = Rejection::new(400, "Bad Request");
pub(super) const UNSUPPORTED_FAMILY: Rejection = Rejection::new(440, "Address Family Not Supported");
const FULL: Rejection = Rejection::new(508, "Insufficient Capacity");
const FAMILY_MISMATCH: Rejection = Rejection::new(443, "Peer Address Family Mismatch");

/// What requests may carry; DONT-FRAGMENT stands first, to be left out where it is not obeyed.
const UNDERSTOOD: [AttributeType; 15] = [
    AttributeType::DONT_FRAGMENT,
    AttributeType::USERNAME,
    AttributeType::MESSAGE_INTEGRITY,
    AttributeType::MESSAGE_INTEGRITY_SHA256,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::USERHASH,
    AttributeType::PASSWORD_ALGORITHM,
    AttributeType::CHANNEL_NUMBER,
    AttributeType::LIFETIME,
    AttributeType::XOR_PEER_ADDRESS,
    AttributeType::REQUESTED_ADDRESS_FAMILY,
    AttributeType::EVEN_PORT,
    AttributeType::REQUESTED_TRANSPORT,
    AttributeType::RESERVATION_TOKEN,
];
