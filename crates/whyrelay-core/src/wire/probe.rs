//! The wire of whyrelay's own probes (docs/probes.md): what client and server must agree on.

use super::attribute::AttributeType;
use super::stun::{Class, Message, MessageBuilder, Method, TransactionId};

/// The most bytes of UDP payload that an answer may be padded to: what fits Ethernet's 1500 bytes over IPv4.
pub const LARGEST_ANSWER: usize = 1472;
/// The same over IPv6.
pub const LARGEST_ANSWER_IPV6: usize = 1452;

/// The size of a WireGuard handshake initiation, and of the random datagram beside it.
pub const DISGUISED_REQUEST: usize = 148;
/// The size of a WireGuard handshake response, and of either answer.
pub const DISGUISED_ANSWER: usize = 92;

/// Flag of OPEN: send an unsolicited packet first.
pub const KNOCK: u8 = 0x01;

/// Names a session, for whoever was told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeToken(pub [u8; 8]);

/// What a PROBE request asks for (PROBE-OPERATION).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// What the server offers.
    Describe,
    /// A session on a fresh port.
    Open {
        /// Whether an unsolicited packet is sent from it first.
        knock: bool,
    },
    /// Where does this come from, and how large did it arrive?
    Observe,
    /// What was seen at a session's port.
    Result,
}

impl Operation {
    /// Reads PROBE-OPERATION; `None` for operations and flags that we do not know.
    pub fn read(value: &[u8]) -> Option<Self> {
        Some(match *value {
            [0, 0, ..] => Self::Describe,
            [1, flags, ..] if flags & !KNOCK == 0 => Self::Open { knock: flags & KNOCK != 0 },
            [2, 0, ..] => Self::Observe,
            [3, 0, ..] => Self::Result,
            _ => return None,
        })
        .filter(|_| value.len() == 4)
    }

    /// The value of PROBE-OPERATION.
    pub const fn value(self) -> [u8; 4] {
        match self {
            Self::Describe => [0; 4],
            Self::Open { knock } => [1, if knock { KNOCK } else { 0 }, 0, 0],
            Self::Observe => [2, 0, 0, 0],
            Self::Result => [3, 0, 0, 0],
        }
    }

    /// Starts a request.
    pub fn request(self, transaction: TransactionId) -> MessageBuilder {
        MessageBuilder::new(Class::Request, Method::PROBE, transaction)
            .attribute(AttributeType::PROBE_OPERATION, &self.value())
    }
}

/// What a session's port has counted (PROBE-TALLY). Counts stop at 65,535.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// OBSERVE requests with the right token.
    pub observe: u16,
    /// WireGuard-shaped datagrams with the right token.
    pub wireguard: u16,
    /// Random ones with the right token.
    pub random: u16,
    /// Datagrams that were not answered: no token, another address, nothing left to spend.
    pub refused: u16,
}

impl Tally {
    /// Reads PROBE-TALLY.
    pub fn read(value: &[u8]) -> Option<Self> {
        let count = |at: usize| Some(u16::from_be_bytes([*value.get(at)?, *value.get(at + 1)?]));
        Some(Self { observe: count(0)?, wireguard: count(2)?, random: count(4)?, refused: count(6)? })
    }

    /// The value of PROBE-TALLY.
    pub fn value(self) -> [u8; 8] {
        let mut value = [0; 8];
        for (at, count) in [self.observe, self.wireguard, self.random, self.refused].into_iter().enumerate() {
            value[2 * at..2 * at + 2].copy_from_slice(&count.to_be_bytes());
        }
        value
    }
}

/// The value of PROBE-PORT.
pub const fn port_value(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// PROBE-PORT of a message.
pub fn port_of(message: &Message<'_>) -> Option<u16> {
    match message.attribute(AttributeType::PROBE_PORT)?.value {
        [high, low, _, _] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

/// PROBE-TOKEN of a message.
pub fn token_of(message: &Message<'_>) -> Option<ProbeToken> {
    Some(ProbeToken(message.attribute(AttributeType::PROBE_TOKEN)?.value.try_into().ok()?))
}

/// As what a datagram that is not STUN is disguised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Disguise {
    /// As a WireGuard handshake initiation.
    WireGuard,
    /// As nothing known: random bytes of the same size.
    Random,
}

/// The first four bytes of a WireGuard handshake initiation: its type and three reserved bytes.
const INITIATION: [u8; 4] = [1, 0, 0, 0];
/// The same of a handshake response.
const RESPONSE: [u8; 4] = [2, 0, 0, 0];
/// Where token and the client's own bytes stand.
const CARRIED: std::ops::Range<usize> = 8..24;

/// Makes a disguised probe. `noise` fills what is not given; it should be random, and so should `own`, by which the
/// answer is known.
pub fn disguise(kind: Disguise, token: ProbeToken, own: [u8; 8], noise: [u8; DISGUISED_REQUEST]) -> Vec<u8> {
    let mut bytes = noise.to_vec();
    match kind {
        Disguise::WireGuard => bytes[..4].copy_from_slice(&INITIATION),
        // Neither STUN nor WireGuard begins so.
        Disguise::Random => bytes[0] |= 0x80,
    }
    bytes[8..16].copy_from_slice(&token.0);
    bytes[16..24].copy_from_slice(&own);
    bytes
}

/// Recognizes a disguised probe by its size and its beginning; the token is still to be checked.
pub fn undisguise(bytes: &[u8]) -> Option<(Disguise, ProbeToken)> {
    if bytes.len() != DISGUISED_REQUEST {
        return None;
    }
    let kind = match bytes {
        _ if bytes[..4] == INITIATION => Disguise::WireGuard,
        [0x80..=0xFF, ..] => Disguise::Random,
        _ => return None,
    };
    Some((kind, ProbeToken(bytes[8..16].try_into().ok()?)))
}

/// The answer to a disguised probe.
pub fn disguised_answer(kind: Disguise, request: &[u8], noise: [u8; DISGUISED_ANSWER]) -> Option<Vec<u8>> {
    let mut bytes = noise.to_vec();
    bytes[..4].copy_from_slice(match kind {
        Disguise::WireGuard => &RESPONSE,
        Disguise::Random => request.get(..4)?,
    });
    bytes[CARRIED].copy_from_slice(request.get(CARRIED)?);
    Some(bytes)
}

/// Recognizes the answer to a disguised probe by what it carries.
pub fn is_answer_to(answer: &[u8], request: &[u8]) -> bool {
    answer.len() == DISGUISED_ANSWER && request.get(CARRIED).is_some_and(|carried| answer.get(CARRIED) == Some(carried))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: ProbeToken = ProbeToken([7; 8]);

    #[test]
    fn operations_are_read_as_they_are_written_and_unknown_ones_are_none() {
        let all = [
            Operation::Describe,
            Operation::Open { knock: false },
            Operation::Open { knock: true },
            Operation::Observe,
            Operation::Result,
        ];
        for operation in all {
            assert_eq!(Operation::read(&operation.value()), Some(operation));
        }
        for unknown in [&[4, 0, 0, 0][..], &[1, 2, 0, 0], &[0], &[], &[0; 5], &[2, 1, 0, 0]] {
            assert_eq!(Operation::read(unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn tallies_are_read_as_they_are_written() {
        let tally = Tally { observe: 1, wireguard: 2, random: 3, refused: u16::MAX };
        assert_eq!(Tally::read(&tally.value()), Some(tally));
        assert_eq!(Tally::read(&[0; 7]), None);
    }

    #[test]
    fn a_disguised_probe_is_recognized_and_so_is_its_answer() {
        for noise in [0, 1, 0x7F, 0xFF] {
            for kind in [Disguise::WireGuard, Disguise::Random] {
                let request = disguise(kind, TOKEN, [9; 8], [noise; DISGUISED_REQUEST]);
                assert_eq!(undisguise(&request), Some((kind, TOKEN)));
                let answer = disguised_answer(kind, &request, [3; DISGUISED_ANSWER]).unwrap();
                assert!(is_answer_to(&answer, &request) && undisguise(&answer).is_none());
                let other = disguise(kind, TOKEN, [8; 8], [noise; DISGUISED_REQUEST]);
                assert!(!is_answer_to(&answer, &other));
            }
        }
        for other in [&[][..], &[1; 147], &[1; 148], &[0; 148]] {
            assert_eq!(undisguise(other), None);
        }
    }
}
