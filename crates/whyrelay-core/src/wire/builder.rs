//! STUN messages (RFC 8489 §5): encoding.

use std::net::SocketAddr;

use super::attribute::{self, AttributeType};
use super::integrity::{self, Key};
use super::stun::{Class, HEADER_LENGTH, MAGIC_COOKIE, Method, TransactionId, join_type};

/// The largest length field that is a multiple of four (RFC 8489 §5).
const MAX_LENGTH: usize = 65_532;

/// Room kept for MESSAGE-INTEGRITY (24 bytes), MESSAGE-INTEGRITY-SHA256 (36) and FINGERPRINT (8).
const RESERVED: usize = 68;

/// Writes one message. Attributes stand in the order of the calls; integrity and fingerprint come last.
#[derive(Clone, Debug)]
pub struct MessageBuilder {
    bytes: Vec<u8>,
    transaction: TransactionId,
}

impl MessageBuilder {
    /// Starts a message.
    pub fn new(class: Class, method: Method, transaction: TransactionId) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&join_type(class, method).to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        bytes.extend_from_slice(&transaction.0);
        Self { bytes, transaction }
    }

    /// Adds an attribute with a raw value, padded with zeros. A value is cut so that the message, with room for
    /// integrity and fingerprint behind it, fits the 16-bit length field; such a message fits no datagram anyway.
    #[must_use]
    pub fn attribute(mut self, kind: AttributeType, value: &[u8]) -> Self {
        let reserved = match kind {
            AttributeType::MESSAGE_INTEGRITY | AttributeType::MESSAGE_INTEGRITY_SHA256 | AttributeType::FINGERPRINT => {
                0
            }
            _ => RESERVED,
        };
        let room = (MAX_LENGTH - reserved + HEADER_LENGTH).saturating_sub(self.bytes.len() + 4);
        if room == 0 && !value.is_empty() {
            return self;
        }
        let value = &value[..value.len().min(room)];
        self.bytes.extend_from_slice(&kind.0.to_be_bytes());
        self.bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a text attribute.
    #[must_use]
    pub fn text(self, kind: AttributeType, value: &str) -> Self {
        self.attribute(kind, value.as_bytes())
    }

    /// Adds a 32-bit attribute.
    #[must_use]
    pub fn u32(self, kind: AttributeType, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Adds a 64-bit attribute.
    #[must_use]
    pub fn u64(self, kind: AttributeType, value: u64) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Adds an attribute in the format of MAPPED-ADDRESS.
    #[must_use]
    pub fn address(self, kind: AttributeType, address: SocketAddr) -> Self {
        self.attribute(kind, &attribute::write_address(address))
    }

    /// Adds an attribute in the format of XOR-MAPPED-ADDRESS.
    #[must_use]
    pub fn xor_address(self, kind: AttributeType, address: SocketAddr) -> Self {
        let value = attribute::write_xor_address(address, self.transaction);
        self.attribute(kind, &value)
    }

    /// Adds ERROR-CODE (RFC 8489 §14.8).
    #[must_use]
    pub fn error(self, code: u16, reason: &str) -> Self {
        let mut value = vec![0, 0, (code / 100) as u8 & 0x07, (code % 100) as u8];
        value.extend_from_slice(reason.as_bytes());
        self.attribute(AttributeType::ERROR_CODE, &value)
    }

    /// Adds UNKNOWN-ATTRIBUTES (RFC 8489 §14.13).
    #[must_use]
    pub fn unknown_attributes(self, kinds: &[AttributeType]) -> Self {
        let value: Vec<u8> = kinds.iter().flat_map(|kind| kind.0.to_be_bytes()).collect();
        self.attribute(AttributeType::UNKNOWN_ATTRIBUTES, &value)
    }

    /// Adds USERNAME, REALM and NONCE, which a request with a long-term credential has (RFC 8489 §9.2.3.2); its integrity is
    /// to follow.
    #[must_use]
    pub fn long_term_credential(self, username: &str, realm: &str, nonce: impl AsRef<[u8]>) -> Self {
        self.text(AttributeType::USERNAME, username)
            .text(AttributeType::REALM, realm)
            .attribute(AttributeType::NONCE, nonce.as_ref())
    }

    /// Adds MESSAGE-INTEGRITY over all before it (RFC 8489 §14.5).
    #[must_use]
    pub fn integrity(mut self, key: &Key) -> Self {
        let end = self.bytes.len();
        self = self.attribute(AttributeType::MESSAGE_INTEGRITY, &[0; 20]);
        let value = integrity::hmac_sha1(&self.bytes, end, key);
        self.bytes[end + 4..].copy_from_slice(&value);
        self
    }

    /// Adds MESSAGE-INTEGRITY-SHA256 over all before it (RFC 8489 §14.6).
    #[must_use]
    pub fn integrity_sha256(mut self, key: &Key) -> Self {
        let end = self.bytes.len();
        self = self.attribute(AttributeType::MESSAGE_INTEGRITY_SHA256, &[0; 32]);
        let value = integrity::hmac_sha256(&self.bytes, end, 32, key);
        self.bytes[end + 4..].copy_from_slice(&value);
        self
    }

    /// Adds FINGERPRINT over all before it (RFC 8489 §14.7).
    #[must_use]
    pub fn fingerprint(mut self) -> Self {
        let end = self.bytes.len();
        self = self.attribute(AttributeType::FINGERPRINT, &[0; 4]);
        let value = integrity::fingerprint(&self.bytes, end);
        self.bytes[end + 4..].copy_from_slice(&value.to_be_bytes());
        self
    }

    /// The finished message.
    pub fn build(mut self) -> Vec<u8> {
        let length = (self.bytes.len() - HEADER_LENGTH) as u16;
        self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
        self.bytes
    }
}
