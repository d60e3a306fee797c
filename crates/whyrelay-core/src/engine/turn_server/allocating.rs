//! Allocate (RFC 8656 §7): what is asked for, the sockets that it takes, and the answer once they are there.

use std::net::{IpAddr, SocketAddr};

use super::allocation::{Allocation, Family, Opening, Relay};
use super::credentials::{Grant, quota_name};
use super::reply::{Rejection, Reply};
use super::requests::{Answer, Authenticated, BAD_REQUEST, UNSUPPORTED_FAMILY, requested_lifetime, seconds};
use super::{Client, Output, RelayId, TurnServer};
use crate::time::Timestamp;
use crate::wire::attribute::AttributeType;
use crate::wire::stun::{Message, MessageBuilder, Method};
use crate::wire::turn::REQUESTED_TRANSPORT_UDP;

impl TurnServer {
    /// Allocate (RFC 8656 §7.2).
    pub(super) fn allocate(
        &mut self,
        now: Timestamp,
        client: Client,
        message: &Message<'_>,
        authenticated: Authenticated,
        reply: &Reply,
    ) -> Answer {
        if let Some(allocation) = self.allocations.get(&client) {
            if allocation.transaction != message.transaction {
                return Err(Rejection::new(437, "Allocation Mismatch"));
            }
            // A retransmission: the same answer again, once there is one.
            return Ok(allocation.is_open().then(|| success(allocation, &client, now, reply)));
        }
        let transport = message.attribute(AttributeType::REQUESTED_TRANSPORT).ok_or(BAD_REQUEST)?;
        match transport.value {
            [protocol, _, _, _] if *protocol == REQUESTED_TRANSPORT_UDP[0] => {}
            [_, _, _, _] => return Err(Rejection::new(442, "Unsupported Transport Protocol")),
            _ => return Err(BAD_REQUEST),
        }
        let families = self.requested_families(message)?;
        let even_port = even_port(message)?.is_some();
        let lifetime = requested_lifetime(message)?;
        if self.alternate_for(&client).is_some() {
            return Err(Rejection::new(300, "Try Alternate"));
        }
        if self.is_draining {
            return Err(Rejection::new(508, "Draining"));
        }
        if self.allocations.len() >= self.config.limits.allocations {
            return Err(Rejection::new(508, "Insufficient Capacity"));
        }
        let count = self.users.entry(quota_name(&authenticated.username).to_owned()).or_default();
        if *count >= self.config.limits.allocations_per_user.max(1) {
            return Err(Rejection::new(486, "Allocation Quota Reached"));
        }
        *count += 1;

        let expires = self.expiry(now, lifetime, authenticated.grant.expires);
        let opening = Opening { reply: reply.clone() };
        let Authenticated { username, grant: Grant { key, expires: credentials_expire } } = authenticated;
        let mut allocation = Allocation::new(username, key, credentials_expire, message.transaction, opening);
        for family in families {
            if !self.offers(family) {
                // Only the additional family can be one that is not offered.
                allocation.failed = Some((family, UNSUPPORTED_FAMILY.code));
                continue;
            }
            let id = RelayId(self.next_relay);
            self.next_relay += 1;
            allocation.relays.push(Relay { id, family, address: None, expires });
            self.relays.insert(id, client);
            self.outputs.push_back(Output::OpenRelay { relay: id, family, client, even_port, as_reached: false });
        }
        self.allocations.insert(client, allocation);
        self.settle(&client);
        Ok(None)
    }

    /// The server that a client is sent to instead: one of the family that it used (RFC 8489 §10).
    pub(super) fn alternate_for(&self, client: &Client) -> Option<SocketAddr> {
        let of_family = |server: &&SocketAddr| server.is_ipv4() == client.source.is_ipv4();
        self.config.alternate_servers.iter().find(of_family).copied()
    }

    /// The families of the relayed addresses, the indispensable one first.
    fn requested_families(&self, message: &Message<'_>) -> Result<Vec<Family>, Rejection> {
        let requested = message.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY);
        let additional = message.attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY);
        let pair = even_port(message)? == Some(EvenPort::AndTheNext);
        let even_port = message.has(AttributeType::EVEN_PORT);
        let token = message.has(AttributeType::RESERVATION_TOKEN);
        if (requested.is_some() && additional.is_some())
            || (token && (even_port || requested.is_some() || additional.is_some()))
            || (pair && additional.is_some())
        {
            return Err(BAD_REQUEST);
        }
        // RFC 8656 §18.11: only IPv6 can be additional.
        if additional.is_some_and(|attribute| Family::read(attribute.value) != Some(Family::Ipv6)) {
            return Err(BAD_REQUEST);
        }
        if token || pair {
            return Err(Rejection::new(508, "No Port Pairs"));
        }
        let first = match requested {
            None => Family::Ipv4,
            Some(attribute) if attribute.value.len() != 4 => return Err(BAD_REQUEST),
            Some(attribute) => Family::read(attribute.value).ok_or(UNSUPPORTED_FAMILY)?,
        };
        if !self.offers(first) {
            return Err(UNSUPPORTED_FAMILY);
        }
        Ok(std::iter::once(first).chain(additional.map(|_| Family::Ipv6)).collect())
    }

    const fn offers(&self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.config.relay_ipv4,
            Family::Ipv6 => self.config.relay_ipv6,
        }
    }

    /// The driver has opened the socket of a relay, or could not.
    pub(super) fn relay_opened(&mut self, now: Timestamp, id: RelayId, bound: Option<SocketAddr>) {
        if self.probe_opened(id, bound) {
            return;
        }
        let owner = self.relays.get(&id).copied();
        let Some((client, allocation)) = owner.and_then(|client| Some((client, self.allocations.get_mut(&client)?)))
        else {
            // The allocation is gone; so must the socket be.
            if bound.is_some() {
                self.outputs.push_back(Output::CloseRelay { relay: id });
            }
            return;
        };
        let Some(relay) = allocation.relays.iter_mut().find(|relay| relay.id == id) else { return };
        let family = relay.family;
        let bound = bound.filter(|bound| Family::of(bound.ip()) == family);
        let external = match family {
            Family::Ipv4 => self.config.external_ipv4.map(IpAddr::V4),
            Family::Ipv6 => self.config.external_ipv6.map(IpAddr::V6),
        };
        let address = bound.map(|bound| SocketAddr::new(external.unwrap_or_else(|| bound.ip()), bound.port()));
        match address.filter(|address| !self.relayed.contains_key(address)) {
            Some(address) => {
                relay.address = Some(address);
                self.relayed.insert(address, id);
                let own = &mut self.config.policy.own_addresses;
                own.extend(bound.map(|bound| bound.ip()).filter(|ip| !own.contains(ip)));
            }
            None => {
                allocation.failed = Some((family, 508));
                self.close_relay(&client, id);
            }
        }
        self.answer_allocate(now, client);
    }

    fn answer_allocate(&mut self, now: Timestamp, client: Client) {
        let Some(allocation) = self.allocations.get_mut(&client) else { return };
        if allocation.relays.iter().any(|relay| relay.address.is_none()) {
            return;
        }
        let Some(Opening { reply }) = allocation.opening.take() else { return };
        let key = allocation.key.clone();
        // Without the first family there is no allocation, whatever became of the additional one.
        let indispensable = allocation.failed.is_none_or(|(family, _)| family == Family::Ipv6);
        let answer = if indispensable && !allocation.relays.is_empty() {
            self.counters.allocations += 1;
            success(allocation, &client, now, &reply)
        } else {
            self.refuse(&client, Method::ALLOCATE, 508);
            self.remove(&client);
            reply.error(Rejection::new(508, "Insufficient Capacity"))
        };
        self.send(client, reply.signed(answer, &key));
    }
}

/// The success response to Allocate (RFC 8656 §7.3).
fn success(allocation: &Allocation, client: &Client, now: Timestamp, reply: &Reply) -> MessageBuilder {
    let mut message = reply.success();
    for address in allocation.relays.iter().filter_map(|relay| relay.address) {
        message = message.xor_address(AttributeType::XOR_RELAYED_ADDRESS, address);
    }
    let expires = allocation.relays.iter().map(|relay| relay.expires).min().unwrap_or(now);
    message = message
        .u32(AttributeType::LIFETIME, seconds(expires - now))
        .xor_address(AttributeType::XOR_MAPPED_ADDRESS, client.source);
    match allocation.failed {
        // RFC 8656 §18.12: the family, a reserved byte, then as in ERROR-CODE.
        Some((family, code)) => {
            let value = [family.byte(), 0, (code / 100) as u8, (code % 100) as u8];
            message.attribute(AttributeType::ADDRESS_ERROR_CODE, &value)
        }
        None => message,
    }
}

/// What EVEN-PORT asks for (RFC 8656 §18.7).
#[derive(Clone, Copy, PartialEq, Eq)]
enum EvenPort {
    /// An even port.
    Alone,
    /// An even port, and the next one kept for another allocation.
    AndTheNext,
}

fn even_port(message: &Message<'_>) -> Result<Option<EvenPort>, Rejection> {
    match message.attribute(AttributeType::EVEN_PORT).map(|attribute| attribute.value) {
        None => Ok(None),
        Some([bits]) if bits & 0x80 == 0 => Ok(Some(EvenPort::Alone)),
        Some([_]) => Ok(Some(EvenPort::AndTheNext)),
        Some(_) => Err(BAD_REQUEST),
    }
}
