//! NAT-PMP (RFC 6886): the external address, and mappings for UDP.

use std::net::Ipv4Addr;

/// The version in every message (RFC 6886 §3.5).
pub const VERSION: u8 = 0;

/// The bit that tells a response from a request (RFC 6886 §3.5).
const RESPONSE: u8 = 0x80;

const EXTERNAL_ADDRESS: u8 = 0;
const MAP_UDP: u8 = 1;

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The external address (RFC 6886 §3.2).
    ExternalAddress,
    /// A mapping for UDP (RFC 6886 §3.3), or the end of one.
    Map(Mapping),
}

/// A mapping, as asked for or as made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Our port.
    pub internal_port: u16,
    /// The router's: suggested in a request, 0 for any; as given in a response.
    pub external_port: u16,
    /// Seconds; 0 ends the mapping (RFC 6886 §3.4).
    pub lifetime_s: u32,
}

/// What a router answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Its external address; 0.0.0.0 while it has none.
    ExternalAddress {
        /// Seconds since its table was made (RFC 6886 §3.6).
        epoch_s: u32,
        /// The address.
        address: Ipv4Addr,
    },
    /// The mapping as it is now.
    Mapped {
        /// Seconds since its table was made.
        epoch_s: u32,
        /// The mapping.
        mapping: Mapping,
    },
    /// It will not.
    Refused {
        /// The operation that it answers.
        operation: u8,
        /// Why.
        result: ResultCode,
    },
}

/// Why not (RFC 6886 §3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultCode(pub u16);

impl ResultCode {
    /// The router speaks another version, for example only PCP.
    pub const UNSUPPORTED_VERSION: Self = Self(1);
    /// The function is switched off.
    pub const REFUSED: Self = Self(2);
    /// The router has no external address itself.
    pub const NETWORK_FAILURE: Self = Self(3);
    /// No room.
    pub const OUT_OF_RESOURCES: Self = Self(4);
    /// An operation that it does not know.
    pub const UNSUPPORTED_OPERATION: Self = Self(5);

    /// In words.
    pub const fn name(self) -> &'static str {
        match self.0 {
            1 => "unsupported version",
            2 => "not authorized",
            3 => "it has no external address itself",
            4 => "out of resources",
            5 => "unsupported operation",
            _ => "an unknown error",
        }
    }
}

impl Request {
    /// The datagram.
    pub fn encode(self) -> Vec<u8> {
        match self {
            Self::ExternalAddress => vec![VERSION, EXTERNAL_ADDRESS],
            Self::Map(mapping) => {
                let mut bytes = vec![VERSION, MAP_UDP, 0, 0];
                mapping.write(&mut bytes);
                bytes
            }
        }
    }

    /// Reads a datagram; `None` for what is none of these.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [VERSION, EXTERNAL_ADDRESS, ..] => Some(Self::ExternalAddress),
            [VERSION, MAP_UDP, _, _, rest @ ..] => Mapping::read(rest).map(Self::Map),
            _ => None,
        }
    }
}

impl Response {
    /// The datagram.
    pub fn encode(self) -> Vec<u8> {
        let head = |operation: u8, result: u16| {
            let mut bytes = vec![VERSION, RESPONSE | operation];
            bytes.extend_from_slice(&result.to_be_bytes());
            bytes
        };
        match self {
            Self::ExternalAddress { epoch_s, address } => {
                let mut bytes = head(EXTERNAL_ADDRESS, 0);
                bytes.extend_from_slice(&epoch_s.to_be_bytes());
                bytes.extend_from_slice(&address.octets());
                bytes
            }
            Self::Mapped { epoch_s, mapping } => {
                let mut bytes = head(MAP_UDP, 0);
                bytes.extend_from_slice(&epoch_s.to_be_bytes());
                mapping.write(&mut bytes);
                bytes
            }
            // RFC 6886 §3.5: the operation, the result, and the time.
            Self::Refused { operation, result } => {
                let mut bytes = head(operation, result.0);
                bytes.extend_from_slice(&[0; 4]);
                bytes
            }
        }
    }

    /// Reads a datagram; `None` for what is none of these.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [VERSION, operation, high, low, rest @ ..] = bytes else { return None };
        if operation & RESPONSE == 0 {
            return None;
        }
        let operation = operation & !RESPONSE;
        let result = ResultCode(u16::from_be_bytes([*high, *low]));
        if result.0 != 0 {
            return Some(Self::Refused { operation, result });
        }
        let (epoch, rest) = rest.split_first_chunk::<4>()?;
        let epoch_s = u32::from_be_bytes(*epoch);
        match operation {
            EXTERNAL_ADDRESS => {
                let address = Ipv4Addr::from(*rest.first_chunk::<4>()?);
                Some(Self::ExternalAddress { epoch_s, address })
            }
            MAP_UDP => Some(Self::Mapped { epoch_s, mapping: Mapping::read(rest)? }),
            _ => None,
        }
    }
}

impl Mapping {
    fn write(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.internal_port.to_be_bytes());
        bytes.extend_from_slice(&self.external_port.to_be_bytes());
        bytes.extend_from_slice(&self.lifetime_s.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, d, lifetime @ ..] = bytes else { return None };
        Some(Self {
            internal_port: u16::from_be_bytes([*a, *b]),
            external_port: u16::from_be_bytes([*c, *d]),
            lifetime_s: u32::from_be_bytes(*lifetime.first_chunk::<4>()?),
        })
    }
}
