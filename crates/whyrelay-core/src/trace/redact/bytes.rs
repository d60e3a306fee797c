//! Pseudonyms inside of recorded bytes: STUN messages are written anew, of anything else only the head stays.

use std::net::SocketAddr;

use super::Redactor;
use crate::wire::attribute::{AttributeType, read_address, read_xor_address, write_address, write_xor_address};
use crate::wire::demux::Protocol;
use crate::wire::integrity;
use crate::wire::stun::{Defect, HEADER_LENGTH, Message, RawAttribute, TransactionId};
use crate::wire::turn::ChannelData;

/// STUN inside of STUN deeper than this is blanked.
const MAX_DEPTH: u32 = 4;

/// Record header and handshake header of DTLS (RFC 6347 §4.1, §4.2.2): what follows has certificates with names.
const DTLS_HEAD: usize = 13 + 12;

impl Redactor {
    /// The bytes of a datagram without originals. Lengths change where pseudonyms have another length.
    pub(super) fn bytes(&mut self, bytes: &[u8], depth: u32) -> Vec<u8> {
        match Protocol::of(bytes) {
            _ if depth >= MAX_DEPTH => vec![0; bytes.len()],
            Protocol::Stun => self.stun(bytes, depth),
            Protocol::TurnChannel => match ChannelData::decode(bytes) {
                Some(message) => {
                    let inner = self.bytes(message.data, depth + 1);
                    let mut redacted = bytes[..2].to_vec();
                    redacted.extend_from_slice(&(inner.len() as u16).to_be_bytes());
                    redacted.extend_from_slice(&inner);
                    redacted
                }
                None => head(bytes, 4),
            },
            Protocol::Dtls => head(bytes, DTLS_HEAD),
            Protocol::Zrtp | Protocol::Rtp | Protocol::Unknown => head(bytes, 1),
        }
    }

    fn stun(&mut self, bytes: &[u8], depth: u32) -> Vec<u8> {
        let Ok(message) = Message::decode(bytes) else { return head(bytes, 1) };
        let readable = |defect: &Defect| matches!(defect, Defect::MalformedValue { .. } | Defect::WrongFingerprint);
        if !message.defects.iter().all(readable) {
            // Where attributes begin and end is not sure, so none can be redacted: the header names nobody.
            return head(bytes, HEADER_LENGTH);
        }
        let mut redacted = message.bytes()[..HEADER_LENGTH].to_vec();
        let mut fingerprint_at = None;
        for attribute in &message.attributes {
            if attribute.kind == AttributeType::FINGERPRINT && attribute.value.len() == 4 {
                fingerprint_at = Some(redacted.len());
            }
            let value = self.attribute(attribute, message.transaction, depth);
            redacted.extend_from_slice(&attribute.kind.0.to_be_bytes());
            redacted.extend_from_slice(&(value.len() as u16).to_be_bytes());
            redacted.extend_from_slice(&value);
            redacted.resize(redacted.len().next_multiple_of(4), 0);
        }
        let length = (redacted.len() - HEADER_LENGTH) as u16;
        redacted[2..4].copy_from_slice(&length.to_be_bytes());
        if let Some(at) = fingerprint_at {
            let mut right = integrity::fingerprint(&redacted, at).to_be_bytes();
            if message.defects.contains(&Defect::WrongFingerprint) {
                right[3] ^= 1;
            }
            redacted[at + 4..at + 8].copy_from_slice(&right);
        }
        redacted
    }

    fn attribute(&mut self, attribute: &RawAttribute<'_>, transaction: TransactionId, depth: u32) -> Vec<u8> {
        let value = attribute.value;
        match attribute.kind {
            AttributeType::XOR_MAPPED_ADDRESS
            | AttributeType::XOR_PEER_ADDRESS
            | AttributeType::XOR_RELAYED_ADDRESS => {
                let address = read_xor_address(value, transaction);
                self.written(address, value.len(), |address| write_xor_address(address, transaction))
            }
            AttributeType::MAPPED_ADDRESS
            | AttributeType::ALTERNATE_SERVER
            | AttributeType::RESPONSE_ORIGIN
            | AttributeType::OTHER_ADDRESS => self.written(read_address(value), value.len(), write_address),
            AttributeType::USERNAME => self.user_name(value),
            AttributeType::REALM | AttributeType::ALTERNATE_DOMAIN => match std::str::from_utf8(value) {
                Ok(name) => self.realm(name).into_bytes(),
                Err(_) => vec![0; value.len()],
            },
            AttributeType::SOFTWARE => self.text(&String::from_utf8_lossy(value)).into_bytes(),
            AttributeType::ERROR_CODE if value.len() >= 4 => {
                let reason = self.text(&String::from_utf8_lossy(&value[4..]));
                [&value[..4], reason.as_bytes()].concat()
            }
            AttributeType::DATA => self.bytes(value, depth + 1),
            AttributeType::PRIORITY
            | AttributeType::USE_CANDIDATE
            | AttributeType::ICE_CONTROLLED
            | AttributeType::ICE_CONTROLLING
            | AttributeType::LIFETIME
            | AttributeType::CHANNEL_NUMBER
            | AttributeType::REQUESTED_TRANSPORT
            | AttributeType::REQUESTED_ADDRESS_FAMILY
            | AttributeType::ADDITIONAL_ADDRESS_FAMILY
            | AttributeType::EVEN_PORT
            | AttributeType::DONT_FRAGMENT
            | AttributeType::UNKNOWN_ATTRIBUTES
            | AttributeType::CHANGE_REQUEST
            | AttributeType::RESPONSE_PORT
            | AttributeType::PASSWORD_ALGORITHM
            | AttributeType::PASSWORD_ALGORITHMS
            | AttributeType::FINGERPRINT => value.to_vec(),
            // Nonces, hashes, integrity values and whatever we do not know: only the length stays.
            _ => vec![0; value.len()],
        }
    }

    fn written(
        &mut self,
        address: Option<SocketAddr>,
        length: usize,
        write: impl Fn(SocketAddr) -> Vec<u8>,
    ) -> Vec<u8> {
        address.map_or_else(|| vec![0; length], |address| write(self.socket(address)))
    }

    /// Parts between colons have the pseudonyms of the user name fragments; the expiry of time-limited credentials stays.
    fn user_name(&mut self, value: &[u8]) -> Vec<u8> {
        let Ok(text) = std::str::from_utf8(value) else { return vec![0; value.len()] };
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let parts: Vec<_> = text
            .split(':')
            .enumerate()
            .map(|(position, part)| {
                if position == 0 && part.len() >= 9 && is_number(part) { part.to_owned() } else { self.name("u", part) }
            })
            .collect();
        parts.join(":").into_bytes()
    }
}

/// The first bytes; the others become zero.
fn head(bytes: &[u8], kept: usize) -> Vec<u8> {
    let mut redacted = bytes.to_vec();
    let kept = kept.min(redacted.len());
    redacted[kept..].fill(0);
    redacted
}
