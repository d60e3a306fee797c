//! The one way a datagram enters the trace: without secrets and without what it carries for others.
//!
//! STUN stays whole, with the values of integrity attributes and tokens blanked; DTLS handshake records stay, other
//! records are cut to their headers; anything else is cut to its first bytes. What TURN carries inside is treated the
//! same. A FINGERPRINT that was right is made right again, so that a reader of the capture is not misled.

use std::net::SocketAddr;

use super::event::{Datagram, Direction, Transport};
use crate::wire::attribute::AttributeType;
use crate::wire::demux::Protocol;
use crate::wire::dtls::{self, Content};
use crate::wire::integrity::{self, Integrity};
use crate::wire::portmap;
use crate::wire::stun::{Defect, HEADER_LENGTH, MAGIC_COOKIE, Message, Method};
use crate::wire::turn::ChannelData;

/// Bytes kept of any datagram: more than ICE and TURN ever send beside data, and a bound on what a stranger can make
/// a recording hold.
const MAX_KEPT: usize = 4096;

/// Bytes kept of a datagram that is of no protocol we know: enough to tell what it may be.
const UNKNOWN_KEPT: usize = 64;

/// Where the transaction id begins in a STUN message (RFC 8489 §5).
const ID_AT: usize = 8;

/// STUN in DATA in STUN in … deeper than this is blanked: TURN inside TURN has two levels.
const MAX_DEPTH: u32 = 4;

/// PASSWORD of RFC 3489 §11.2.7, which some old servers still send.
const PASSWORD: AttributeType = AttributeType(0x0007);
/// ACCESS-TOKEN (RFC 7635 §6.2).
const ACCESS_TOKEN: AttributeType = AttributeType(0x001B);
/// MOBILITY-TICKET (RFC 8016 §4).
const MOBILITY_TICKET: AttributeType = AttributeType(0x8030);

/// A datagram, or one message of a stream without its framing, as it passes the door.
#[derive(Clone, Copy, Debug)]
pub struct Passage<'a> {
    /// In or out.
    pub direction: Direction,
    /// The socket's transport.
    pub transport: Transport,
    /// Our socket's address.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The interface it came in by, where the system tells.
    pub interface: Option<&'a str>,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Whether its message integrity was right, where there was a key to check it with.
    pub integrity: Option<Integrity>,
}

impl Datagram {
    /// What the trace keeps of a datagram: see the module.
    pub fn sanitised(passage: Passage<'_>) -> Self {
        let Passage { direction, transport, local, remote, interface, bytes, integrity } = passage;
        let mut data = bytes.to_vec();
        // A PCP nonce is the password of a mapping.
        if local.port() == portmap::PORT || remote.port() == portmap::PORT {
            portmap::pcp::blank_nonce(&mut data);
        }
        let kept = blank(&mut data, 0);
        // Damage can lead the walk past an attribute whose header it then blanks: look in the original, too.
        for (at, length) in stray_integrity(bytes) {
            data[at..at + length].fill(0);
        }
        data.truncate(kept.min(MAX_KEPT));
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Self { direction, transport, local, remote, interface: interface.map(str::to_owned), length, data, integrity }
    }
}

/// Whether a datagram is recorded or only counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classify {
    /// It becomes a [`Datagram`] event.
    Record,
    /// Data of the established channel: it adds to the next `Traffic` event.
    Count,
}

impl Classify {
    /// Looks at the bytes, also at those inside of TURN's Send, Data and ChannelData.
    pub fn of(bytes: &[u8]) -> Self {
        match Protocol::of(bytes) {
            Protocol::Rtp => Self::Count,
            Protocol::TurnChannel => {
                ChannelData::decode(bytes).map_or(Self::Record, |inner| Self::of_relayed(inner.data))
            }
            Protocol::Dtls => Self::of_dtls(bytes),
            Protocol::Stun => {
                let Ok(message) = Message::decode(bytes) else { return Self::Record };
                let relays = matches!(message.method, Method::SEND | Method::DATA);
                match message.attribute(AttributeType::DATA).filter(|_| relays) {
                    Some(inner) => Self::of_relayed(inner.value),
                    None => Self::Record,
                }
            }
            Protocol::Zrtp | Protocol::Unknown => Self::Record,
        }
    }

    /// Inside of TURN, one level deep: what is relayed through a relay is recorded.
    fn of_relayed(bytes: &[u8]) -> Self {
        match Protocol::of(bytes) {
            Protocol::Rtp => Self::Count,
            Protocol::Dtls => Self::of_dtls(bytes),
            _ => Self::Record,
        }
    }

    fn of_dtls(bytes: &[u8]) -> Self {
        let records = dtls::records(bytes);
        let is_data = |record: &dtls::Record| match record.content {
            Content::ApplicationData => true,
            // RFC 9147 §6.1: epoch 2 is the handshake, 3 and up are data; only two bits are visible.
            Content::Encrypted => record.epoch & 3 != 2,
            _ => false,
        };
        if !records.is_empty() && records.iter().all(is_data) { Self::Count } else { Self::Record }
    }
}

/// Blanks what must not be kept and zeroes everything behind it; answers how many bytes are worth keeping.
fn blank(bytes: &mut [u8], depth: u32) -> usize {
    let kept = match Protocol::of(bytes) {
        _ if depth >= MAX_DEPTH => 0,
        Protocol::Stun => blank_stun(bytes, depth),
        Protocol::TurnChannel => blank_channel_data(bytes, depth),
        Protocol::Dtls => blank_dtls(bytes),
        Protocol::Zrtp | Protocol::Rtp | Protocol::Unknown => blank_unknown(bytes),
    };
    bytes[kept..].fill(0);
    kept
}

fn blank_channel_data(bytes: &mut [u8], depth: u32) -> usize {
    let Some(length) = ChannelData::decode(bytes).map(|message| message.data.len()) else {
        return blank_unknown(bytes);
    };
    4 + blank(&mut bytes[4..4 + length], depth + 1)
}

fn blank_stun(bytes: &mut [u8], depth: u32) -> usize {
    let Ok(message) = Message::decode(bytes) else {
        return blank_unknown(bytes);
    };
    let end = message.bytes().len();
    let attributes: Vec<_> = message.attributes.iter().map(|a| (a.kind, a.offset, a.value.len())).collect();
    let wrong_fingerprint = message.defects.contains(&Defect::WrongFingerprint);
    if message.defects.iter().any(|defect| matches!(defect, Defect::WrongCookie { .. })) {
        return blank_unknown(bytes);
    }
    // Where the attributes stop making sense: whatever stands there may be part of a secret.
    let lost_at = message.defects.iter().find_map(|defect| match defect {
        Defect::AttributeOverrun { offset, .. } => Some(offset + 4),
        Defect::StrayBytes { left } => Some(end - left),
        _ => None,
    });

    // An integrity attribute of a length that it cannot have: its value may go on behind it.
    let misfit_at = attributes.iter().find_map(|&(kind, offset, length)| match kind {
        AttributeType::MESSAGE_INTEGRITY if length != 20 => Some(offset + 4),
        AttributeType::MESSAGE_INTEGRITY_SHA256 if !(16..=32).contains(&length) || length % 4 != 0 => Some(offset + 4),
        _ => None,
    });

    let sound_to = lost_at.unwrap_or(end).min(misfit_at.unwrap_or(end)).min(end);
    bytes[sound_to..].fill(0);
    for &(kind, offset, length) in &attributes {
        let value = &mut bytes[offset + 4..offset + 4 + length];
        match kind {
            AttributeType::MESSAGE_INTEGRITY
            | AttributeType::MESSAGE_INTEGRITY_SHA256
            | AttributeType::RESERVATION_TOKEN
            | PASSWORD
            | ACCESS_TOKEN
            | MOBILITY_TICKET => value.fill(0),
            AttributeType::DATA => {
                blank(value, depth + 1);
            }
            _ => {}
        }
    }
    blank_stray_integrity(&mut bytes[HEADER_LENGTH.min(end)..end]);

    let fingerprint = attributes.iter().find(|(kind, _, length)| *kind == AttributeType::FINGERPRINT && *length == 4);
    if let Some(&(_, offset, _)) = fingerprint {
        let right = integrity::fingerprint(&bytes[..end], offset).to_be_bytes();
        let value = &mut bytes[offset + 4..offset + 8];
        if !wrong_fingerprint {
            value.copy_from_slice(&right);
        } else if value == right {
            // What was wrong must not become right by blanking.
            value[3] ^= 1;
        }
    }
    bytes.len()
}

/// Blanks what looks like STUN in bytes that are not, and answers how many of these are kept. What follows a magic cookie there is a STUN message that
/// we cannot read: only its header is kept.
fn blank_unknown(bytes: &mut [u8]) -> usize {
    let cookie = MAGIC_COOKIE.to_be_bytes();
    if let Some(at) = bytes.windows(4).position(|window| window == cookie) {
        let end = bytes.len().min(at + 16);
        bytes[end..].fill(0);
    }
    blank_stray_integrity(bytes);
    bytes.len().min(UNKNOWN_KEPT)
}

fn blank_stray_integrity(bytes: &mut [u8]) {
    let found: Vec<_> = stray_integrity(bytes).collect();
    for (at, length) in found {
        bytes[at..at + length].fill(0);
    }
}

/// What stands behind the four header bytes of an integrity attribute, at any position (start and length): peers that
/// pad wrongly put the attributes where nobody looks for them.
fn stray_integrity(bytes: &[u8]) -> impl Iterator<Item = (usize, usize)> + '_ {
    bytes.windows(4).enumerate().filter_map(|(at, header)| {
        let length = match *header {
            [0x00, 0x08, 0x00, 0x14] => 20,
            [0x00, 0x1C, 0x00, length @ 0x10..=0x20] => usize::from(length),
            _ => return None,
        };
        (!is_in_transaction_id(bytes, at)).then(|| (at + 4, length.min(bytes.len() - at - 4)))
    })
}

/// Whether a position lies in the transaction id of a message that can be read: one in 65,536 ids ends like the header
/// of an integrity attribute, and what stands behind it is the first attribute.
fn is_in_transaction_id(bytes: &[u8], at: usize) -> bool {
    let starts = at.saturating_sub(HEADER_LENGTH - 1)..(at + 1).saturating_sub(ID_AT);
    starts.into_iter().any(|start| {
        bytes[start + ID_AT - 4..].starts_with(&MAGIC_COOKIE.to_be_bytes())
            && Message::decode(&bytes[start..]).is_ok_and(|message| {
                let harmless =
                    |defect: &Defect| matches!(defect, Defect::TrailingBytes { .. } | Defect::WrongFingerprint);
                message.defects.iter().all(harmless)
            })
    })
}

/// Keeps clear handshake, alert, change-cipher-spec and ACK records, and the headers of all others.
fn blank_dtls(bytes: &mut [u8]) -> usize {
    blank_unknown(bytes);
    let total = bytes.len();
    let (mut at, mut kept) = (0, 0);
    while at < total {
        let first = bytes[at];
        let (body, end, clear) = if first & 0xE0 == 0x20 {
            // The unified header, 001CSLEE (RFC 9147 §4); a connection id counts as body.
            let length_at = at + if first & 0x08 != 0 { 3 } else { 2 };
            match bytes.get(length_at..length_at + 2) {
                Some(length) if first & 0x04 != 0 => {
                    let end = length_at + 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
                    (length_at + 2, end, false)
                }
                _ => (length_at, total, false),
            }
        } else {
            let Some(header) = bytes.get(at..at + 13) else {
                break;
            };
            let clear = header[3..5] == [0, 0] && matches!(first, 20 | 21 | 22 | 26);
            let end = at + 13 + usize::from(u16::from_be_bytes([header[11], header[12]]));
            (at + 13, end, clear && end <= total)
        };
        let (body, end) = (body.min(total), end.min(total));
        if clear {
            kept = end;
        } else {
            bytes[body..end].fill(0);
            kept = body;
        }
        at = end;
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::integrity::Key;
    use crate::wire::stun::{Class, MessageBuilder, TransactionId};
    use crate::wire::turn::ChannelNumber;

    const ID: TransactionId = TransactionId([7; 12]);

    fn sanitise(bytes: &[u8]) -> Datagram {
        let address = "127.0.0.1:1".parse().unwrap();
        Datagram::sanitised(Passage {
            direction: Direction::Out,
            transport: Transport::Udp,
            local: address,
            remote: address,
            interface: None,
            bytes,
            integrity: None,
        })
    }

    fn check(key: &Key) -> Vec<u8> {
        let message =
            MessageBuilder::new(Class::Request, Method::BINDING, ID).text(AttributeType::USERNAME, "bbbb:aaaa");
        message.u32(AttributeType::PRIORITY, 1).integrity(key).integrity_sha256(key).fingerprint().build()
    }

    /// The HMAC values of a message.
    fn secrets(bytes: &[u8]) -> Vec<Vec<u8>> {
        let message = Message::decode(bytes).unwrap();
        let is_secret =
            |kind| matches!(kind, AttributeType::MESSAGE_INTEGRITY | AttributeType::MESSAGE_INTEGRITY_SHA256);
        message.attributes.iter().filter(|a| is_secret(a.kind)).map(|a| a.value.to_vec()).collect()
    }

    fn holds(haystack: &[u8], secret: &[u8]) -> bool {
        secret.windows(6).any(|part| haystack.windows(6).any(|window| window == part))
    }

    #[test]
    fn a_check_stays_whole_but_for_its_integrity_and_keeps_a_right_fingerprint() {
        let original = check(&Key::short_term("password"));
        let kept = sanitise(&original);
        assert_eq!((kept.data.len(), kept.length as usize), (original.len(), original.len()));
        let message = Message::decode(&kept.data).unwrap();
        assert_eq!(message.defects, []);
        assert_eq!(message.text(AttributeType::USERNAME), Some("bbbb:aaaa"));
        assert_eq!(message.attribute(AttributeType::MESSAGE_INTEGRITY).unwrap().value, [0; 20]);
        assert_eq!(message.attribute(AttributeType::MESSAGE_INTEGRITY_SHA256).unwrap().value, [0; 32]);
    }

    #[test]
    fn a_wrong_fingerprint_stays_wrong() {
        let mut original = check(&Key::short_term("password"));
        *original.last_mut().unwrap() ^= 0x55;
        let kept = sanitise(&original);
        assert_eq!(Message::decode(&kept.data).unwrap().defects, [Defect::WrongFingerprint]);

        // The same value would be right for the blanked message.
        let mut crafted = check(&Key::short_term("password"));
        let right = sanitise(&crafted).data;
        let end = crafted.len();
        crafted[end - 4..].copy_from_slice(&right[end - 4..]);
        assert_eq!(Message::decode(&sanitise(&crafted).data).unwrap().defects, [Defect::WrongFingerprint]);
    }

    #[test]
    fn an_id_that_ends_like_the_header_of_an_integrity_attribute_hides_nothing() {
        let key = Key::short_term("password");
        let own = "192.0.2.7:1234".parse().unwrap();
        // Behind the id stands the type of the first attribute, which reads as a length.
        for end in [[0x07, 0x07, 0x00, 0x1C], [0x00, 0x1C, 0x00, 0x20], [0x00, 0x08, 0x00, 0x14]] {
            let mut id = [7; 12];
            id[8..].copy_from_slice(&end);
            let answer = MessageBuilder::new(Class::Success, Method::BINDING, TransactionId(id))
                .xor_address(AttributeType::XOR_MAPPED_ADDRESS, own)
                .integrity(&key)
                .fingerprint()
                .build();
            let read = |bytes: &[u8]| {
                let message = Message::decode(bytes).unwrap();
                let found = message.attribute(AttributeType::MESSAGE_INTEGRITY).map(|found| found.value.to_vec());
                (
                    message.transaction,
                    message.xor_address(AttributeType::XOR_MAPPED_ADDRESS),
                    found,
                    message.defects.clone(),
                )
            };
            let expected = (TransactionId(id), Some(own), Some(vec![0; 20]), vec![]);
            assert_eq!(read(&sanitise(&answer).data), expected);
            let channel = ChannelData::encode(ChannelNumber::FIRST, &answer);
            assert_eq!(read(&sanitise(&channel).data[4..]), expected);
            let sent = MessageBuilder::new(Class::Indication, Method::SEND, ID).attribute(AttributeType::DATA, &answer);
            let kept = sanitise(&sent.build()).data;
            assert_eq!(read(Message::decode(&kept).unwrap().attribute(AttributeType::DATA).unwrap().value), expected);
        }
    }

    #[test]
    fn tokens_and_passwords_are_blanked() {
        for kind in [AttributeType::RESERVATION_TOKEN, PASSWORD, ACCESS_TOKEN, MOBILITY_TICKET] {
            let bytes =
                MessageBuilder::new(Class::Success, Method::ALLOCATE, ID).attribute(kind, b"secret token").build();
            assert!(!holds(&sanitise(&bytes).data, b"secret token"), "{kind}");
        }
    }

    #[test]
    fn application_data_inside_of_dtls_is_cut_to_its_header_and_only_counted() {
        let data = [&[23, 0xFE, 0xFD, 0, 1, 0, 0, 0, 0, 0, 9, 0, 6][..], b"secret"].concat();
        let hello = [&[22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5][..], b"hello"].concat();
        assert_eq!(sanitise(&data).data, &data[..13]);
        assert_eq!(sanitise(&hello).data, hello);
        assert_eq!(sanitise(&[hello.clone(), data.clone()].concat()).data.len(), hello.len() + 13);
        assert_eq!(Classify::of(&data), Classify::Count);
        assert_eq!(Classify::of(&hello), Classify::Record);
        assert_eq!(Classify::of(&[hello.clone(), data.clone()].concat()), Classify::Record);

        let sent =
            MessageBuilder::new(Class::Indication, Method::SEND, ID).attribute(AttributeType::DATA, &data).build();
        assert_eq!(Classify::of(&sent), Classify::Count);
        assert!(!holds(&sanitise(&sent).data, b"secret"));
        let channel = ChannelData::encode(ChannelNumber::FIRST, &data);
        assert_eq!(Classify::of(&channel), Classify::Count);
        assert_eq!(sanitise(&channel).data.len(), 4 + 13);
        assert_eq!(
            Classify::of(&ChannelData::encode(ChannelNumber::FIRST, &check(&Key::short_term("x")))),
            Classify::Record
        );
    }

    #[test]
    fn dtls_1_3_data_is_counted_and_its_handshake_is_recorded() {
        assert_eq!(Classify::of(&[0b0010_1111, 0, 1, 0, 3, 1, 2, 3]), Classify::Count);
        assert_eq!(Classify::of(&[0b0010_1110, 0, 1, 0, 3, 1, 2, 3]), Classify::Record);
        assert_eq!(sanitise(&[0b0010_1110, 0, 1, 0, 3, 1, 2, 3]).data, [0b0010_1110, 0, 1, 0, 3]);
    }

    #[test]
    fn unknown_bytes_are_cut() {
        assert_eq!(sanitise(&[200; 500]).data, [200; 64]);
        assert_eq!(sanitise(&[200; 500]).length, 500);
        assert!(sanitise(&[]).data.is_empty());
    }

    /// How a secret may be wrapped or damaged on its way.
    #[derive(Clone, Debug)]
    enum Step {
        Send,
        Channel,
        Unknown,
        Truncate(usize),
        Insert(usize, u8),
        Append(Vec<u8>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Send),
            Just(Step::Channel),
            Just(Step::Unknown),
            (0usize..200).prop_map(Step::Truncate),
            (0usize..200, any::<u8>()).prop_map(|(at, byte)| Step::Insert(at, byte)),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Step::Append),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn no_integrity_value_survives(password in "[a-zA-Z0-9]{22,40}", steps in proptest::collection::vec(step(), 0..5)) {
            let mut bytes = check(&Key::short_term(&password));
            let secrets = secrets(&bytes);
            prop_assert_eq!(secrets.len(), 2);
            let mut inserted = false;
            for step in steps {
                bytes = match step {
                    Step::Send => {
                        let indication = MessageBuilder::new(Class::Indication, Method::SEND, ID);
                        indication.attribute(AttributeType::DATA, &bytes).fingerprint().build()
                    }
                    Step::Channel => ChannelData::encode(ChannelNumber::FIRST, &bytes),
                    Step::Unknown => [&[200], &bytes[..]].concat(),
                    Step::Truncate(from_end) => bytes[..bytes.len().saturating_sub(from_end)].to_vec(),
                    // Damaged twice, in the cookie and in the attribute's header, nobody could find it.
                    Step::Insert(..) if inserted => bytes,
                    Step::Insert(at, byte) => {
                        inserted = true;
                        let at = at.min(bytes.len());
                        [&bytes[..at], &[byte], &bytes[at..]].concat()
                    }
                    Step::Append(more) => [bytes, more].concat(),
                };
            }
            let kept = sanitise(&bytes);
            for secret in &secrets {
                prop_assert!(!holds(&kept.data, secret), "{:?} in {:?}", secret, kept.data);
            }
        }

        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Classify::of(&bytes);
            let kept = sanitise(&bytes);
            prop_assert!(kept.data.len() <= bytes.len());
        }
    }
}
