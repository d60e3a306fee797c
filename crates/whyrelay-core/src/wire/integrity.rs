//! MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 and FINGERPRINT (RFC 8489 §9, §14.5 to §14.7).

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::attribute::AttributeType;
use super::stun::{HEADER_LENGTH, Message};

/// XORed into the CRC-32 of FINGERPRINT (RFC 8489 §14.7).
const FINGERPRINT_XOR: u32 = 0x5354_554E;

/// A key for message integrity. It never shows itself: not in `Debug`, not in an event.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl Key {
    /// The short-term key: the password itself (RFC 8489 §9.1.1).
    ///
    /// OpaqueString preparation (RFC 8265) is the identity on ICE's passwords, which are ASCII.
    pub fn short_term(password: &str) -> Self {
        Self(password.as_bytes().to_vec())
    }

    /// The long-term key: MD5 of `username:realm:password` (RFC 8489 §9.2.2).
    pub fn long_term(username: &str, realm: &str, password: &str) -> Self {
        Self(Md5::digest(format!("{username}:{realm}:{password}")).to_vec())
    }

    /// The long-term key under PASSWORD-ALGORITHM SHA-256 (RFC 8489 §18.5.1.2).
    pub fn long_term_sha256(username: &str, realm: &str, password: &str) -> Self {
        Self(Sha256::digest(format!("{username}:{realm}:{password}")).to_vec())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(hidden)")
    }
}

/// The result of checking a message against a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Integrity {
    /// The message carries neither attribute.
    Absent,
    /// It matches the key.
    Valid,
    /// It does not match the key.
    Invalid,
}

/// Checks the first integrity attribute, SHA-256 preferred (RFC 8489 §9.1.3.1).
pub(super) fn check(message: &Message<'_>, key: &Key) -> Integrity {
    if let Some(attribute) = message.attribute(AttributeType::MESSAGE_INTEGRITY_SHA256) {
        let length = attribute.value.len();
        if !(16..=32).contains(&length) || !length.is_multiple_of(4) {
            return Integrity::Invalid;
        }
        let expected = hmac_sha256(message.bytes(), attribute.offset, length, key);
        return verdict(&expected[..length], attribute.value);
    }
    match message.attribute(AttributeType::MESSAGE_INTEGRITY) {
        Some(attribute) => verdict(&hmac_sha1(message.bytes(), attribute.offset, key), attribute.value),
        None => Integrity::Absent,
    }
}

fn verdict(expected: &[u8], found: &[u8]) -> Integrity {
    if bool::from(expected.ct_eq(found)) { Integrity::Valid } else { Integrity::Invalid }
}

/// HMAC-SHA1 over `bytes[..end]`, with the length field set to end behind the attribute at `end` (RFC 8489 §14.5).
pub(super) fn hmac_sha1(bytes: &[u8], end: usize, key: &Key) -> [u8; 20] {
    #[expect(clippy::unwrap_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha1>::new_from_slice(&key.0).unwrap();
    let (head, rest) = split_with_length(bytes, end, 20);
    mac.update(&head);
    mac.update(rest);
    mac.finalize().into_bytes().into()
}

/// HMAC-SHA256 over `bytes[..end]`, for an attribute whose value has `length` bytes (RFC 8489 §14.6).
pub(super) fn hmac_sha256(bytes: &[u8], end: usize, length: usize, key: &Key) -> [u8; 32] {
    #[expect(clippy::unwrap_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).unwrap();
    let (head, rest) = split_with_length(bytes, end, length);
    mac.update(&head);
    mac.update(rest);
    mac.finalize().into_bytes().into()
}

/// CRC-32 over `bytes[..end]`, XORed, with the length field set to end behind FINGERPRINT (RFC 8489 §14.7).
pub(crate) fn fingerprint(bytes: &[u8], end: usize) -> u32 {
    let (head, rest) = split_with_length(bytes, end, 4);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head);
    crc.update(rest);
    crc.finalize() ^ FINGERPRINT_XOR
}

/// The header with its length field as if the message ended behind an attribute of `length` bytes at `end`, and the
/// bytes between header and `end`.
fn split_with_length(bytes: &[u8], end: usize, length: usize) -> ([u8; HEADER_LENGTH], &[u8]) {
    let mut head = [0; HEADER_LENGTH];
    head.copy_from_slice(&bytes[..HEADER_LENGTH]);
    let field = (end - HEADER_LENGTH + 4 + length) as u16;
    head[2..4].copy_from_slice(&field.to_be_bytes());
    (head, &bytes[HEADER_LENGTH..end])
}
