//! What a server answers: success, challenge, redirection, refusal.

use std::net::SocketAddr;

use super::super::credentials::Challenge;
use super::super::local_candidates::is_usable;
use super::super::stun_client::error_response;
use super::super::transaction::Answered;
use super::{Asked, Families, MAX_RENEWALS, Phase, Purpose, REFRESH_RETRY, Request, TurnClient, TurnOutput};
use crate::time::Timestamp;
use crate::trace::event::{EventKind, ServerFailure};
use crate::wire::attribute::AttributeType;
use crate::wire::integrity::Integrity;
use crate::wire::stun::{Class, Message, Method, TransactionId};

/// Lifetime of an allocation whose server does not name one (RFC 8656 §3.2), in seconds.
const DEFAULT_LIFETIME_S: u32 = 600;

impl TurnClient {
    /// A sound STUN message came from the server, and arrived then. Answers whether it was meant for this client.
    pub(in super::super) fn feed(&mut self, now: Timestamp, arrived: Timestamp, message: &Message<'_>) -> bool {
        match message.class {
            Class::Request => false,
            Class::Indication => self.feed_indication(now, message),
            Class::Success | Class::Error => self.feed_response(now, arrived, message),
        }
    }

    /// Whether a transaction is open under this id.
    pub(in super::super) fn is_open(&mut self, id: TransactionId) -> bool {
        self.transactions.peek(id).is_some()
    }

    fn feed_response(&mut self, now: Timestamp, arrived: Timestamp, message: &Message<'_>) -> bool {
        let Some(request) = self.transactions.peek(message.transaction) else {
            self.feed_late_answer(now, message);
            return self.transactions.is_finished(message.transaction);
        };
        let method = request.purpose.method();
        if let Some(detail) = distrust(request, message) {
            // RFC 8489 §9.2.5: as if it had never been received; said once, and not of last words.
            let farewell = matches!(request.purpose, Purpose::Release { .. });
            if !farewell && !std::mem::replace(&mut request.complained, true) {
                self.failed(method, ServerFailure::BadResponse { detail: detail.to_owned() });
            }
            return true;
        }
        let Some(Answered { request, rtt, exact }) = self.transactions.answer(arrived, message.transaction) else {
            return true;
        };
        if request.purpose == Purpose::Allocate {
            self.asked = None;
        }
        self.outputs.push_back(TurnOutput::RoundTrip { rtt, exact });
        match message.class {
            Class::Success => self.granted(now, request, message),
            _ => self.refused(now, request, message),
        }
        true
    }

    /// An Allocate is answered that nobody waits for any more.
    fn feed_late_answer(&mut self, now: Timestamp, message: &Message<'_>) {
        let is_it = |asked: &mut Asked| {
            let proven = asked.proof.as_ref().is_none_or(|proof| proof.check(message) == Integrity::Valid);
            asked.transaction == message.transaction && message.method == Method::ALLOCATE && proven
        };
        if message.class != Class::Success || self.asked.take_if(is_it).is_none() {
            return;
        }
        match self.phase {
            // What is under way gives it back, as it left later.
            Phase::Releasing => {
                let _ = self.note_allocated(message);
            }
            _ => {
                let purpose = Purpose::Release { again: false };
                if self.transactions.requests().all(|request| request.purpose != purpose) {
                    self.request(now, purpose);
                }
            }
        }
    }

    fn granted(&mut self, now: Timestamp, request: Request, message: &Message<'_>) {
        match request.purpose {
            Purpose::Allocate => self.allocated(now, message),
            Purpose::Refresh => {
                let lifetime = message.u32(AttributeType::LIFETIME).unwrap_or(DEFAULT_LIFETIME_S);
                if lifetime == 0 {
                    self.lose("the server answered a refresh with lifetime 0");
                } else {
                    self.set_lifetime(now, lifetime);
                }
            }
            Purpose::Release { again: true } => self.request(now, Purpose::Allocate),
            Purpose::Release { again: false } => self.released(),
            Purpose::CreatePermission(peers) => self.permissions_granted(now, &peers),
            Purpose::ChannelBind { peer, .. } => self.channel_granted(now, peer),
        }
    }

    fn allocated(&mut self, now: Timestamp, message: &Message<'_>) {
        let lifetime_s = match self.note_allocated(message) {
            Ok(lifetime_s) => lifetime_s,
            Err(detail) => {
                self.failed(Method::ALLOCATE, ServerFailure::BadResponse { detail: detail.to_owned() });
                self.request(now, Purpose::Release { again: false });
                self.end();
                return;
            }
        };
        self.phase = Phase::Allocated;
        self.set_lifetime(now, lifetime_s);
        let mapped = message.xor_address(AttributeType::XOR_MAPPED_ADDRESS);
        self.outputs.push_back(TurnOutput::Allocated { relayed: self.relayed.clone(), mapped });
    }

    /// Keeps what was allocated, and tells of it; its lifetime in seconds, or why it is of no use.
    fn note_allocated(&mut self, message: &Message<'_>) -> Result<u32, &'static str> {
        let mut relayed: Vec<SocketAddr> = Vec::with_capacity(2);
        for address in message.xor_addresses(AttributeType::XOR_RELAYED_ADDRESS) {
            let new_family = relayed.iter().all(|other| other.is_ipv4() != address.is_ipv4());
            if is_usable(address) && new_family {
                relayed.push(address);
            }
        }
        let lifetime_s = message.u32(AttributeType::LIFETIME).unwrap_or(DEFAULT_LIFETIME_S);
        match (relayed.is_empty(), lifetime_s) {
            (true, _) => return Err("the answer carries no usable XOR-RELAYED-ADDRESS"),
            (_, 0) => return Err("the answer grants a lifetime of 0"),
            _ => {}
        }
        self.note_address_error(message);
        let mapped = message.xor_address(AttributeType::XOR_MAPPED_ADDRESS);
        for &relayed in &relayed {
            let (server, local) = (self.config.server.clone(), self.config.local);
            self.outputs.push_back(TurnOutput::Event(EventKind::Allocated {
                server,
                local,
                relayed,
                mapped,
                lifetime_s,
            }));
        }
        self.relayed = relayed;
        Ok(lifetime_s)
    }

    /// ADDRESS-ERROR-CODE (RFC 8656 §18.12): one family of two was refused.
    fn note_address_error(&mut self, message: &Message<'_>) {
        let value = message.attribute(AttributeType::ADDRESS_ERROR_CODE).map(|attribute| attribute.value);
        let Some(&[family, _, class, number, ref reason @ ..]) = value else { return };
        let family = if family == 2 { "IPv6" } else { "IPv4" };
        let reason = String::from_utf8_lossy(&reason[..reason.len().min(128)]);
        self.failed(
            Method::ALLOCATE,
            ServerFailure::ErrorResponse {
                code: u16::from(class & 0x07) * 100 + u16::from(number),
                reason: format!("{family}: {}", reason.replace(char::is_control, " ").trim()),
                expected: true,
            },
        );
    }

    fn refused(&mut self, now: Timestamp, request: Request, message: &Message<'_>) {
        let method = request.purpose.method();
        let code = message.error_code().map_or(0, |error| error.code);
        if matches!(code, 401 | 438) {
            self.challenged(now, request, message, code);
            return;
        }
        match request.purpose {
            Purpose::Allocate => self.allocation_refused(now, message, code),
            Purpose::Refresh => {
                self.failed(method, error_response(message, false));
                if code == 437 {
                    self.lose("the server no longer knows it (437)");
                } else {
                    self.refresh_at = Some(now + REFRESH_RETRY);
                }
            }
            // Whatever the server says, there is nothing more to do than to try.
            Purpose::Release { again: true } => self.request(now, Purpose::Allocate),
            Purpose::Release { again: false } => self.released(),
            Purpose::CreatePermission(peers) => {
                self.failed(method, error_response(message, false));
                self.permissions_refused(now, &peers, Some(code));
            }
            Purpose::ChannelBind { peer, .. } => {
                self.failed(method, error_response(message, false));
                self.channel_refused(now, peer);
            }
        }
        if code == 437 && self.phase == Phase::Allocated {
            self.lose("the server no longer knows it (437)");
        }
    }

    /// Allocate was refused for good, or for what can be asked otherwise.
    fn allocation_refused(&mut self, now: Timestamp, message: &Message<'_>, code: u16) {
        match (code, self.config.families) {
            (300, _) => {
                let alternate = message.address(AttributeType::ALTERNATE_SERVER);
                self.failed(Method::ALLOCATE, error_response(message, alternate.is_some()));
                if let Some(alternate) = alternate {
                    self.outputs.push_back(TurnOutput::Redirect(alternate));
                }
                self.end();
            }
            // An allocation of an earlier run still holds our 5-tuple: it is ended, then asked again.
            (437, _) if !self.mismatch_retried => {
                self.mismatch_retried = true;
                self.failed(Method::ALLOCATE, error_response(message, true));
                self.request(now, Purpose::Release { again: true });
            }
            (440, families) if !self.family_retried => {
                self.family_retried = true;
                self.failed(Method::ALLOCATE, error_response(message, true));
                self.config.families = if families == Families::Ipv6 { Families::Ipv4 } else { Families::Ipv6 };
                self.request(now, Purpose::Allocate);
            }
            // A server that does not know the family attributes.
            (420, Families::Ipv6 | Families::Both) => {
                self.failed(Method::ALLOCATE, error_response(message, true));
                self.config.families = Families::Ipv4;
                self.request(now, Purpose::Allocate);
            }
            _ => {
                self.failed(Method::ALLOCATE, error_response(message, false));
                self.end();
            }
        }
    }

    /// 401 or 438: RFC 8489 §9.2.5.
    fn challenged(&mut self, now: Timestamp, mut request: Request, message: &Message<'_>, code: u16) {
        let method = request.purpose.method();
        let answer = self.credentials.challenge(message, code, request.proof.as_ref());
        let again = answer == Challenge::Answer && request.renewals < MAX_RENEWALS;
        self.failed(method, error_response(message, again));
        match answer {
            Challenge::NoCredentials => self.failed(method, ServerFailure::NoCredentials),
            Challenge::Unusable(detail) => {
                self.failed(method, ServerFailure::BadResponse { detail: detail.to_owned() })
            }
            Challenge::Answer | Challenge::Refused => {}
        }
        if again {
            request.renewals += 1;
            request.complained = false;
            self.send_request(now, request);
            return;
        }
        match request.purpose {
            Purpose::Allocate => self.end(),
            // The credentials no longer hold: the allocation lives until it expires.
            Purpose::Refresh => self.refresh_at = None,
            Purpose::Release { again: true } => self.end(),
            Purpose::Release { again: false } => self.released(),
            Purpose::CreatePermission(peers) => self.permissions_refused(now, &peers, Some(code)),
            Purpose::ChannelBind { peer, .. } => self.channel_refused(now, peer),
        }
    }
}

/// Why an answer to an authenticated request must be taken as never received.
///
/// Stricter servers than RFC 8489 §9.2.5 exist and laxer ones too: an error without any integrity is believed, for it
/// can do no more than a lost answer does, and the reason matters more here than the doubt.
fn distrust(request: &Request, message: &Message<'_>) -> Option<&'static str> {
    if message.method != request.purpose.method() {
        return Some("the answer is of another method than the request");
    }
    let proof = request.proof.as_ref()?;
    let success = message.class == Class::Success;
    let challenge = !success && message.error_code().is_some_and(|error| matches!(error.code, 401 | 438));
    match proof.check(message) {
        Integrity::Valid => None,
        Integrity::Absent if success => Some("the answer carries no message integrity"),
        Integrity::Invalid if !challenge => Some("the answer's message integrity does not match"),
        Integrity::Absent | Integrity::Invalid => None,
    }
}
