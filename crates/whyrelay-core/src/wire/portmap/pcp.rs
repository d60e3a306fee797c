//! The Port Control Protocol (RFC 6887): ANNOUNCE, which only asks whether it is there, and MAP.

use std::net::{IpAddr, Ipv6Addr};

/// The version in every message (RFC 6887 §7.1).
pub const VERSION: u8 = 2;

/// The bit that tells a response from a request.
const RESPONSE: u8 = 0x80;

/// Length of both headers (RFC 6887 §7.1, §7.2).
const HEADER: usize = 24;

/// Length of the body of MAP (RFC 6887 §11.1).
const MAP_LENGTH: usize = 36;

/// The option by which a client wants the suggested port or none (RFC 6887 §13.2).
const PREFER_FAILURE: u8 = 2;

/// Options from this code on may be skipped (RFC 6887 §7.3).
const OPTIONAL: u8 = 128;

/// Largest message (RFC 6887 §7).
const MAX_LENGTH: usize = 1100;

/// UDP in MAP's protocol field.
pub const UDP: u8 = 17;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// RFC 6887 §14.1: nothing but an answer is asked for.
    Announce,
    /// RFC 6887 §11: a mapping, or with a lifetime of 0 its end.
    Map(Map),
    /// Anything else, by its code.
    Other(u8),
}

/// The body of MAP (RFC 6887 §11.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Map {
    /// Who knows it may change the mapping. It never enters an event.
    pub nonce: [u8; 12],
    /// [`UDP`].
    pub protocol: u8,
    /// Our port.
    pub internal_port: u16,
    /// Suggested in a request, given in a response.
    pub external_port: u16,
    /// Suggested in a request, given in a response; unspecified for any.
    pub external_address: IpAddr,
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { protocol, internal_port, external_port, external_address, .. } = self;
        write!(f, "Map({protocol}: {internal_port} at {external_address} port {external_port}, nonce hidden)")
    }
}

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Seconds.
    pub lifetime_s: u32,
    /// Our own address, as we know it: a NAT on the way to the router shows by it (RFC 6887 §8.1).
    pub client: IpAddr,
    /// What it is about.
    pub operation: Operation,
}

/// What a router answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Whether it did it.
    pub result: ResultCode,
    /// Seconds that the mapping, or the error, holds.
    pub lifetime_s: u32,
    /// Seconds since its table was made (RFC 6887 §8.5).
    pub epoch_s: u32,
    /// What it is about.
    pub operation: Operation,
}

/// Success, or why not (RFC 6887 §7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultCode(pub u8);

impl ResultCode {
    /// It did.
    pub const SUCCESS: Self = Self(0);
    /// The router speaks another version.
    pub const UNSUPPORTED_VERSION: Self = Self(1);
    /// Switched off, or somebody else's mapping.
    pub const NOT_AUTHORIZED: Self = Self(2);
    /// It could not be read.
    pub const MALFORMED_REQUEST: Self = Self(3);
    /// An operation that it does not know.
    pub const UNSUPPORTED_OPERATION: Self = Self(4);
    /// An option that it must understand and does not (RFC 6887 §7.3).
    pub const UNSUPPORTED_OPTION: Self = Self(5);
    /// An option that could not be read.
    pub const MALFORMED_OPTION: Self = Self(6);
    /// No room.
    pub const NO_RESOURCES: Self = Self(8);
    /// A transport that it does not map.
    pub const UNSUPPORTED_PROTOCOL: Self = Self(9);
    /// It has not the port or address that was asked for, and the client wants no other (RFC 6887 §13.2).
    pub const CANNOT_PROVIDE_EXTERNAL: Self = Self(11);
    /// The request came from another address than it says: something on the way translates.
    pub const ADDRESS_MISMATCH: Self = Self(12);

    /// In words.
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "success",
            1 => "unsupported version",
            2 => "not authorized",
            3 => "malformed request",
            4 => "unsupported operation",
            5 => "unsupported option",
            6 => "malformed option",
            7 => "it has no external address itself",
            8 => "no resources",
            9 => "unsupported protocol",
            10 => "this host's quota is used up",
            11 => "it cannot give that external address",
            12 => "it sees another address of ours: something between translates",
            13 => "too many remote peers",
            _ => "an unknown error",
        }
    }
}

impl Request {
    /// The datagram.
    pub fn encode(self) -> Vec<u8> {
        let mut bytes = vec![VERSION, self.operation.code(), 0, 0];
        bytes.extend_from_slice(&self.lifetime_s.to_be_bytes());
        write_ip(&mut bytes, self.client);
        self.operation.write(&mut bytes);
        bytes
    }

    /// Reads a datagram; `None` for what is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, body) = split(bytes)?;
        if header[1] & RESPONSE != 0 {
            return None;
        }
        Some(Self {
            lifetime_s: u32_at(header, 4),
            client: read_ip(header, 8)?,
            operation: Operation::read(header[1], body)?,
        })
    }
}

/// Which options a request has that a router without any but PREFER_FAILURE honors: whether that one is there (RFC 6887
/// §13.2). Optional ones, from 128 on, are skipped (§7.3).
///
/// # Errors
/// The result code that the request is answered with.
pub fn prefers_failure(request: &[u8], operation: Operation) -> Result<bool, ResultCode> {
    let mut rest = request.get(HEADER + operation.length()..).ok_or(ResultCode::MALFORMED_REQUEST)?;
    let mut prefers = false;
    while let [code, _, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        // Padded to a multiple of four, which the length does not say.
        rest = after.get(length.next_multiple_of(4)..).ok_or(ResultCode::MALFORMED_OPTION)?;
        match (*code, operation) {
            (PREFER_FAILURE, Operation::Map(_)) if length == 0 && !prefers => prefers = true,
            (PREFER_FAILURE, _) => return Err(ResultCode::MALFORMED_OPTION),
            (..OPTIONAL, _) => return Err(ResultCode::UNSUPPORTED_OPTION),
            _ => {}
        }
    }
    Ok(prefers)
}

/// Whether a datagram is a request of this version that cannot be read: shorter than its operation, longer than any, or
/// of a length that is no multiple of four (RFC 6887 §8.2).
pub fn is_malformed_request(bytes: &[u8]) -> bool {
    matches!(bytes, [VERSION, code, ..] if code & RESPONSE == 0) && Request::decode(bytes).is_none()
}

impl Response {
    /// The datagram.
    pub fn encode(self) -> Vec<u8> {
        let mut bytes = vec![VERSION, RESPONSE | self.operation.code(), 0, self.result.0];
        bytes.extend_from_slice(&self.lifetime_s.to_be_bytes());
        bytes.extend_from_slice(&self.epoch_s.to_be_bytes());
        bytes.extend_from_slice(&[0; 12]);
        self.operation.write(&mut bytes);
        bytes
    }

    /// Reads a datagram; `None` for what is none. An error may come without the body of its request.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, body) = split(bytes)?;
        if header[1] & RESPONSE == 0 {
            return None;
        }
        let (result, code) = (ResultCode(header[3]), header[1] & !RESPONSE);
        let operation = match Operation::read(code, body) {
            None if result != ResultCode::SUCCESS => Operation::Other(code),
            operation => operation?,
        };
        Some(Self { result, lifetime_s: u32_at(header, 4), epoch_s: u32_at(header, 8), operation })
    }
}

impl Operation {
    const fn code(self) -> u8 {
        match self {
            Self::Announce => 0,
            Self::Map(_) => 1,
            Self::Other(code) => code & !RESPONSE,
        }
    }

    /// Of its body, behind which options are, in bytes.
    const fn length(self) -> usize {
        match self {
            Self::Map(_) => MAP_LENGTH,
            Self::Announce | Self::Other(_) => 0,
        }
    }

    fn write(self, bytes: &mut Vec<u8>) {
        let Self::Map(map) = self else { return };
        bytes.extend_from_slice(&map.nonce);
        bytes.extend_from_slice(&[map.protocol, 0, 0, 0]);
        bytes.extend_from_slice(&map.internal_port.to_be_bytes());
        bytes.extend_from_slice(&map.external_port.to_be_bytes());
        write_ip(bytes, map.external_address);
    }

    fn read(code: u8, body: &[u8]) -> Option<Self> {
        match code {
            0 => Some(Self::Announce),
            1 => {
                let (nonce, rest) = body.split_first_chunk::<12>()?;
                let [protocol, _, _, _, a, b, c, d, ..] = rest else { return None };
                Some(Self::Map(Map {
                    nonce: *nonce,
                    protocol: *protocol,
                    internal_port: u16::from_be_bytes([*a, *b]),
                    external_port: u16::from_be_bytes([*c, *d]),
                    external_address: read_ip(rest, 8)?,
                }))
            }
            other => Some(Self::Other(other)),
        }
    }
}

/// Zeroes the nonce of MAP, in place: it is a password of the mapping.
pub fn blank_nonce(bytes: &mut [u8]) {
    if let [VERSION, code, ..] = bytes
        && *code & !RESPONSE == 1
    {
        let end = bytes.len().min(HEADER + 12);
        bytes[HEADER.min(end)..end].fill(0);
    }
}

/// Header and body of what may be a message (RFC 6887 §8.3: a length that is no multiple of four is malformed).
fn split(bytes: &[u8]) -> Option<(&[u8; HEADER], &[u8])> {
    let (header, body) = bytes.split_first_chunk::<HEADER>()?;
    let fits = bytes.len() <= MAX_LENGTH && bytes.len().is_multiple_of(4);
    (header[0] == VERSION && fits).then_some((header, body))
}

fn u32_at(header: &[u8; HEADER], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

/// IPv4 as `::ffff:a.b.c.d` (RFC 6887 §5).
fn write_ip(bytes: &mut Vec<u8>, ip: IpAddr) {
    let v6 = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    bytes.extend_from_slice(&v6.octets());
}

fn read_ip(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets = bytes.get(at..)?.first_chunk::<16>()?;
    Some(Ipv6Addr::from(*octets).to_canonical())
}
