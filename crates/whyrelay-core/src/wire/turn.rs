//! What TURN adds on the wire: ChannelData and small attribute values (RFC 8656 §12, §18).

use serde::{Deserialize, Serialize};

/// A TURN channel number: 0x4000 to 0x4FFF (RFC 8656 §12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChannelNumber(u16);

impl ChannelNumber {
    /// The lowest number a client may bind.
    pub const FIRST: Self = Self(0x4000);
    /// The highest number a client may bind.
    pub const LAST: Self = Self(0x4FFF);

    /// A channel number, if it is in the range of RFC 8656 §12.
    pub const fn new(number: u16) -> Option<Self> {
        if number >= Self::FIRST.0 && number <= Self::LAST.0 { Some(Self(number)) } else { None }
    }

    /// Reads the value of CHANNEL-NUMBER (RFC 8656 §18.1).
    pub fn read(value: &[u8]) -> Option<Self> {
        let value: &[u8; 4] = value.try_into().ok()?;
        Self::new(u16::from_be_bytes([value[0], value[1]]))
    }

    /// The value of CHANNEL-NUMBER (RFC 8656 §18.1).
    pub fn value(self) -> [u8; 4] {
        let [high, low] = self.0.to_be_bytes();
        [high, low, 0, 0]
    }

    /// The number itself.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The number after this one, if there is one.
    pub const fn next(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }
}

/// REQUESTED-TRANSPORT's value for UDP (RFC 8656 §18.8): protocol number 17 and three zero bytes.
pub const REQUESTED_TRANSPORT_UDP: [u8; 4] = [17, 0, 0, 0];

/// Address families as REQUESTED-ADDRESS-FAMILY writes them (RFC 8656 §18.6).
pub mod family {
    /// IPv4.
    pub const IPV4: [u8; 4] = [0x01, 0, 0, 0];
    /// IPv6.
    pub const IPV6: [u8; 4] = [0x02, 0, 0, 0];
}

/// A ChannelData message (RFC 8656 §12.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelData<'a> {
    /// The channel, as it stands on the wire: 0x5000 to 0x7FFF are reserved but readable.
    pub number: u16,
    /// The application data without padding.
    pub data: &'a [u8],
}

impl<'a> ChannelData<'a> {
    /// Reads a message; padding behind the data is ignored (RFC 8656 §12.5). `None` when the length field promises
    /// more than there is.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.first_chunk::<4>()?;
        let number = u16::from_be_bytes([header[0], header[1]]);
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        Some(Self { number, data: bytes.get(4..4 + length)? })
    }

    /// Writes a message without padding, as UDP wants it.
    pub fn encode(channel: ChannelNumber, data: &[u8]) -> Vec<u8> {
        let data = &data[..data.len().min(usize::from(u16::MAX))];
        let mut bytes = Vec::with_capacity(4 + data.len().next_multiple_of(4));
        bytes.extend_from_slice(&channel.0.to_be_bytes());
        bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    /// Writes a message padded to four bytes, as TCP and TLS want it (RFC 8656 §12.5).
    pub fn encode_padded(channel: ChannelNumber, data: &[u8]) -> Vec<u8> {
        let mut bytes = Self::encode(channel, data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}
