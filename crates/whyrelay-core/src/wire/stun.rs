//! STUN messages (RFC 8489 §5): lenient decoding and encoding.
//!
//! [`Message::decode`] refuses only what cannot be STUN at all; everything else that is wrong with a message is a
//! [`Defect`] beside the attributes that could be read. Protocol machines must treat a message with a structural
//! defect ([`Message::is_sound`] is false) as noise; the trace shows it all the same.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::attribute::{self, AttributeType};
use super::integrity::{self, Integrity, Key};

pub use super::builder::MessageBuilder;

/// The magic cookie (RFC 8489 §5).
pub const MAGIC_COOKIE: u32 = 0x2112_A442;

/// Length of the STUN header in bytes (RFC 8489 §5).
pub const HEADER_LENGTH: usize = 20;

/// The 96-bit transaction id (RFC 8489 §5), written as 24 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TransactionId(pub [u8; 12]);

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<TransactionId> for String {
    fn from(id: TransactionId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for TransactionId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const WHAT: &str = "a transaction id is 24 hexadecimal digits";
        let digits = text.as_bytes();
        if digits.len() != 24 {
            return Err(WHAT);
        }
        let mut id = [0; 12];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |d: u8| char::from(d).to_digit(16).ok_or(WHAT);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(Self(id))
    }
}

/// The class of a message (RFC 8489 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A request; it gets a response.
    Request,
    /// An indication; it gets none.
    Indication,
    /// A success response.
    Success,
    /// An error response, which carries an ERROR-CODE.
    Error,
}

/// The 12-bit method (RFC 8489 §18.2). Unknown methods stay representable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(pub u16);

impl Method {
    /// RFC 8489 §3.
    pub const BINDING: Self = Self(0x001);
    /// RFC 8656 §17.
    pub const ALLOCATE: Self = Self(0x003);
    /// RFC 8656 §17.
    pub const REFRESH: Self = Self(0x004);
    /// RFC 8656 §17.
    pub const SEND: Self = Self(0x006);
    /// RFC 8656 §17.
    pub const DATA: Self = Self(0x007);
    /// RFC 8656 §17.
    pub const CREATE_PERMISSION: Self = Self(0x008);
    /// RFC 8656 §17.
    pub const CHANNEL_BIND: Self = Self(0x009);
    /// docs/probes.md: whyrelay's own probes.
    pub const PROBE: Self = Self(0x0F3);
    /// docs/probes.md: from one server to its alternate.
    pub const FORWARD: Self = Self(0x0F4);

    /// The registered name, if we know the method.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::BINDING => "Binding",
            Self::ALLOCATE => "Allocate",
            Self::REFRESH => "Refresh",
            Self::SEND => "Send",
            Self::DATA => "Data",
            Self::CREATE_PERMISSION => "CreatePermission",
            Self::CHANNEL_BIND => "ChannelBind",
            Self::PROBE => "Probe",
            Self::FORWARD => "Forward",
            _ => return None,
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "0x{:03X}", self.0),
        }
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Splits the 14-bit message type into class and method (RFC 8489 §5, figure 3).
const fn split_type(bits: u16) -> (Class, Method) {
    let class = match (bits & 0x0100 != 0, bits & 0x0010 != 0) {
        (false, false) => Class::Request,
        (false, true) => Class::Indication,
        (true, false) => Class::Success,
        (true, true) => Class::Error,
    };
    let method = (bits & 0x000F) | ((bits & 0x00E0) >> 1) | ((bits & 0x3E00) >> 2);
    (class, Method(method))
}

pub(super) const fn join_type(class: Class, method: Method) -> u16 {
    let method = method.0;
    let class = match class {
        Class::Request => 0,
        Class::Indication => 0x0010,
        Class::Success => 0x0100,
        Class::Error => 0x0110,
    };
    (method & 0x000F) | ((method & 0x0070) << 1) | ((method & 0x0F80) << 2) | class
}

/// Why bytes cannot be read as STUN at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStun {
    /// Shorter than the header.
    #[error("{0} bytes are shorter than a STUN header")]
    TooShort(usize),
    /// The two most significant bits are not zero.
    #[error("the first two bits are not zero")]
    NotZeroBits,
}

/// Something wrong with a message that was read all the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "defect")]
pub enum Defect {
    /// The magic cookie is wrong or, as in RFC 3489, absent.
    #[error("the magic cookie is {found:08x}")]
    WrongCookie {
        /// What stands in its place.
        found: u32,
    },
    /// The length field is not a multiple of four.
    #[error("the length field {length} is not a multiple of four")]
    UnalignedLength {
        /// The length field, in bytes.
        length: u16,
    },
    /// The length field promises more than the datagram holds.
    #[error("the length field says {length} bytes, {available} follow the header")]
    Truncated {
        /// The length field, in bytes.
        length: u16,
        /// Bytes after the header.
        available: usize,
    },
    /// More bytes follow than the length field says.
    #[error("{extra} bytes follow the end of the message")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// An attribute runs past the end of the message.
    #[error("attribute 0x{kind:04x} at byte {offset} claims {length} bytes, {available} are left")]
    AttributeOverrun {
        /// The attribute's type.
        kind: u16,
        /// Where its header starts in the message, in bytes.
        offset: usize,
        /// The length it claims, in bytes.
        length: u16,
        /// What is left for it, in bytes.
        available: usize,
    },
    /// Fewer than four bytes are left where an attribute should start.
    #[error("{left} stray bytes where an attribute should start")]
    StrayBytes {
        /// How many.
        left: usize,
    },
    /// FINGERPRINT is not the last attribute.
    #[error("attributes follow FINGERPRINT")]
    AfterFingerprint,
    /// FINGERPRINT does not match.
    #[error("FINGERPRINT does not match")]
    WrongFingerprint,
    /// An attribute's value cannot be read as its type demands.
    #[error("the value of attribute 0x{kind:04x} is malformed")]
    MalformedValue {
        /// The attribute's type.
        kind: u16,
    },
}

/// One attribute as it stands in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawAttribute<'a> {
    /// Its type.
    pub kind: AttributeType,
    /// Its value without padding.
    pub value: &'a [u8],
    /// Where its header starts in the message, in bytes.
    pub offset: usize,
}

/// The value of an ERROR-CODE attribute (RFC 8489 §14.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorCode {
    /// The code, 300 to 699.
    pub code: u16,
    /// The reason phrase, with anything that is not UTF-8 replaced and at most 763 bytes.
    pub reason: String,
}

/// A decoded message that borrows the datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The class.
    pub class: Class,
    /// The method.
    pub method: Method,
    /// The transaction id.
    pub transaction: TransactionId,
    /// All attributes in order, unknown ones included.
    pub attributes: Vec<RawAttribute<'a>>,
    /// What is wrong with the message.
    pub defects: Vec<Defect>,
    bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads a message (RFC 8489 §5) from one datagram or one frame of a stream.
    ///
    /// # Errors
    /// [`NotStun`] when there is no header to read.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, NotStun> {
        let header = bytes.first_chunk::<HEADER_LENGTH>().ok_or(NotStun::TooShort(bytes.len()))?;
        if header[0] & 0xC0 != 0 {
            return Err(NotStun::NotZeroBits);
        }
        let (class, method) = split_type(u16::from_be_bytes([header[0], header[1]]));
        let length = u16::from_be_bytes([header[2], header[3]]);
        let cookie = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let mut id = [0; 12];
        id.copy_from_slice(&header[8..]);

        let mut message = Self {
            class,
            method,
            transaction: TransactionId(id),
            // A bare request has none, and is most of what a server gets.
            attributes: Vec::with_capacity(((bytes.len() - HEADER_LENGTH) / 4).min(8)),
            defects: Vec::new(),
            bytes,
        };
        if cookie != MAGIC_COOKIE {
            message.defects.push(Defect::WrongCookie { found: cookie });
        }
        if length % 4 != 0 {
            message.defects.push(Defect::UnalignedLength { length });
        }
        let available = bytes.len() - HEADER_LENGTH;
        if usize::from(length) > available {
            message.defects.push(Defect::Truncated { length, available });
        } else if usize::from(length) < available {
            message.defects.push(Defect::TrailingBytes { extra: available - usize::from(length) });
        }
        message.bytes = &bytes[..HEADER_LENGTH + available.min(usize::from(length))];
        message.read_attributes();
        message.check_fingerprint();
        message.check_values();
        Ok(message)
    }

    fn read_attributes(&mut self) {
        let bytes = self.bytes;
        let mut offset = HEADER_LENGTH;
        while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
            let Some(header) = rest.first_chunk::<4>() else {
                self.defects.push(Defect::StrayBytes { left: rest.len() });
                return;
            };
            let kind = u16::from_be_bytes([header[0], header[1]]);
            let length = u16::from_be_bytes([header[2], header[3]]);
            let Some(value) = rest.get(4..4 + usize::from(length)) else {
                let available = rest.len() - 4;
                self.defects.push(Defect::AttributeOverrun { kind, offset, length, available });
                return;
            };
            self.attributes.push(RawAttribute { kind: AttributeType(kind), value, offset });
            offset += 4 + usize::from(length).next_multiple_of(4);
        }
    }

    fn check_fingerprint(&mut self) {
        let position = self.attributes.iter().position(|a| a.kind == AttributeType::FINGERPRINT);
        let Some(position) = position else { return };
        if position + 1 != self.attributes.len() {
            self.defects.push(Defect::AfterFingerprint);
        }
        let attribute = self.attributes[position];
        let matches = attribute.value == integrity::fingerprint(self.bytes, attribute.offset).to_be_bytes();
        if !matches {
            self.defects.push(Defect::WrongFingerprint);
        }
    }

    fn check_values(&mut self) {
        for attribute in &self.attributes {
            let length = attribute.value.len();
            let sound = match attribute.kind {
                AttributeType::XOR_MAPPED_ADDRESS
                | AttributeType::XOR_PEER_ADDRESS
                | AttributeType::XOR_RELAYED_ADDRESS
                | AttributeType::MAPPED_ADDRESS
                | AttributeType::OTHER_ADDRESS
                | AttributeType::RESPONSE_ORIGIN
                | AttributeType::ALTERNATE_SERVER => attribute::read_address(attribute.value).is_some(),
                AttributeType::ERROR_CODE => length >= 4,
                AttributeType::PRIORITY
                | AttributeType::LIFETIME
                | AttributeType::FINGERPRINT
                | AttributeType::CHANNEL_NUMBER
                | AttributeType::REQUESTED_TRANSPORT
                | AttributeType::REQUESTED_ADDRESS_FAMILY
                | AttributeType::CHANGE_REQUEST => length == 4,
                AttributeType::ICE_CONTROLLED | AttributeType::ICE_CONTROLLING => length == 8,
                AttributeType::MESSAGE_INTEGRITY => length == 20,
                AttributeType::MESSAGE_INTEGRITY_SHA256 => (16..=32).contains(&length) && length % 4 == 0,
                // RFC 8489 §14.3: fewer than 509 bytes; §14.9, §14.10: at most 763 bytes.
                AttributeType::USERNAME => length < 509,
                AttributeType::REALM | AttributeType::NONCE | AttributeType::SOFTWARE => length <= 763,
                _ => true,
            };
            if !sound {
                self.defects.push(Defect::MalformedValue { kind: attribute.kind.0 });
            }
        }
    }

    /// Whether a protocol machine may act on this message: cookie, lengths, attribute bounds and FINGERPRINT are right.
    ///
    /// A malformed value alone does not make a message unsound: its typed accessor answers `None`.
    pub fn is_sound(&self) -> bool {
        self.defects.iter().all(|defect| matches!(defect, Defect::MalformedValue { .. }))
    }

    /// Whether FINGERPRINT alone is wrong: somebody on the way has changed the message, as gateways do that rewrite
    /// addresses.
    pub fn is_rewritten(&self) -> bool {
        let benign = |defect: &Defect| matches!(defect, Defect::MalformedValue { .. } | Defect::WrongFingerprint);
        self.defects.contains(&Defect::WrongFingerprint) && self.defects.iter().all(benign)
    }

    /// The message's own bytes, without what follows its end.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether a receiver may look at an attribute: behind MESSAGE-INTEGRITY only MESSAGE-INTEGRITY-SHA256 and
    /// FINGERPRINT count, behind MESSAGE-INTEGRITY-SHA256 only FINGERPRINT (RFC 8489 §14.5, §14.6).
    ///
    /// Whatever else stands there is not protected: anyone on the path could have added it.
    pub fn counts(&self, attribute: &RawAttribute<'_>) -> bool {
        let mut before = self.attributes.iter().take_while(|earlier| earlier.offset < attribute.offset);
        match attribute.kind {
            AttributeType::FINGERPRINT => true,
            AttributeType::MESSAGE_INTEGRITY_SHA256 => {
                !before.any(|earlier| earlier.kind == AttributeType::MESSAGE_INTEGRITY_SHA256)
            }
            _ => !before.any(|earlier| {
                matches!(earlier.kind, AttributeType::MESSAGE_INTEGRITY | AttributeType::MESSAGE_INTEGRITY_SHA256)
            }),
        }
    }

    /// The attributes that count, in order: see [`Self::counts`].
    fn counting(&self) -> impl Iterator<Item = &RawAttribute<'a>> {
        let (mut sha1, mut sha256) = (false, false);
        self.attributes.iter().filter(move |attribute| {
            let counts = match attribute.kind {
                AttributeType::FINGERPRINT => true,
                AttributeType::MESSAGE_INTEGRITY_SHA256 => !sha256,
                _ => !sha1 && !sha256,
            };
            sha1 |= attribute.kind == AttributeType::MESSAGE_INTEGRITY;
            sha256 |= attribute.kind == AttributeType::MESSAGE_INTEGRITY_SHA256;
            counts
        })
    }

    /// The first attribute of a type that counts: of duplicates only the first does (RFC 8489 §14), and attributes
    /// behind the integrity attribute do not, save FINGERPRINT and MESSAGE-INTEGRITY-SHA256 (§14.5, §14.6).
    pub fn attribute(&self, kind: AttributeType) -> Option<RawAttribute<'a>> {
        self.counting().find(|attribute| attribute.kind == kind).copied()
    }

    /// Whether an attribute of a type is present.
    pub fn has(&self, kind: AttributeType) -> bool {
        self.attribute(kind).is_some()
    }

    /// A text attribute (USERNAME, REALM, NONCE, SOFTWARE); `None` when absent or not UTF-8.
    pub fn text(&self, kind: AttributeType) -> Option<&'a str> {
        self.attribute(kind).and_then(|attribute| std::str::from_utf8(attribute.value).ok())
    }

    /// A 32-bit attribute (PRIORITY, LIFETIME in seconds, CHANGE-REQUEST).
    pub fn u32(&self, kind: AttributeType) -> Option<u32> {
        Some(u32::from_be_bytes(self.attribute(kind)?.value.try_into().ok()?))
    }

    /// A 64-bit attribute (the tie-breakers ICE-CONTROLLING and ICE-CONTROLLED).
    pub fn u64(&self, kind: AttributeType) -> Option<u64> {
        Some(u64::from_be_bytes(self.attribute(kind)?.value.try_into().ok()?))
    }

    /// An attribute in the format of MAPPED-ADDRESS (MAPPED-ADDRESS, OTHER-ADDRESS, RESPONSE-ORIGIN, ALTERNATE-SERVER).
    pub fn address(&self, kind: AttributeType) -> Option<SocketAddr> {
        attribute::read_address(self.attribute(kind)?.value)
    }

    /// An attribute in the format of XOR-MAPPED-ADDRESS (that one, XOR-PEER-ADDRESS, XOR-RELAYED-ADDRESS).
    pub fn xor_address(&self, kind: AttributeType) -> Option<SocketAddr> {
        attribute::read_xor_address(self.attribute(kind)?.value, self.transaction)
    }

    /// Every XOR-coded address of a type that counts, in order: CreatePermission carries several peers (RFC 8656 §10.1).
    pub fn xor_addresses(&self, kind: AttributeType) -> impl Iterator<Item = SocketAddr> + '_ {
        let of_kind = self.counting().filter(move |attribute| attribute.kind == kind);
        of_kind.filter_map(|attribute| attribute::read_xor_address(attribute.value, self.transaction))
    }

    /// The ERROR-CODE (RFC 8489 §14.8).
    pub fn error_code(&self) -> Option<ErrorCode> {
        let value = self.attribute(AttributeType::ERROR_CODE)?.value;
        let class = u16::from(value.get(2)? & 0x07);
        let number = u16::from(*value.get(3)?);
        let phrase = &value[4..value.len().min(4 + 763)];
        Some(ErrorCode { code: class * 100 + number, reason: String::from_utf8_lossy(phrase).into_owned() })
    }

    /// Comprehension-required attributes that count and that `known` does not name, each once: a request with one is
    /// answered 420 (RFC 8489 §6.3.1), a response with one is discarded (§6.3.3).
    pub fn unknown_required(&self, known: &[AttributeType]) -> Vec<AttributeType> {
        let kinds = self.counting().map(|attribute| attribute.kind);
        let unknown: BTreeSet<_> =
            kinds.filter(|kind| kind.comprehension_required() && !known.contains(kind)).collect();
        unknown.into_iter().collect()
    }

    /// Checks MESSAGE-INTEGRITY or, when present, MESSAGE-INTEGRITY-SHA256 against a key (RFC 8489 §9, §14.5, §14.6).
    pub fn check_integrity(&self, key: &Key) -> Integrity {
        integrity::check(self, key)
    }
}
