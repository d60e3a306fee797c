//! Messages that nobody should send, in the spirit of RFC 4475: each is read, described, and not acted upon.

use std::net::SocketAddr;

use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::demux::Protocol;
use whyrelay_core::wire::framing::{Deframer, Framing};
use whyrelay_core::wire::integrity::{Integrity, Key};
use whyrelay_core::wire::stun::{Class, Defect, Message, MessageBuilder, Method, NotStun, TransactionId};
use whyrelay_core::wire::turn::{ChannelData, ChannelNumber};

const ID: TransactionId = TransactionId([0x11; 12]);

fn request() -> MessageBuilder {
    MessageBuilder::new(Class::Request, Method::BINDING, ID)
}

fn key() -> Key {
    Key::short_term("swordfish")
}

fn patched(mut bytes: Vec<u8>, at: usize, with: &[u8]) -> Vec<u8> {
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

fn followed_by(mut bytes: Vec<u8>, kind: AttributeType, value: &[u8]) -> Vec<u8> {
    bytes.extend_from_slice(&kind.0.to_be_bytes());
    bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let length = (bytes.len() - 20) as u16;
    patched(bytes, 2, &length.to_be_bytes())
}

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    /// Whether a protocol machine may act on it.
    sound: bool,
    integrity: Integrity,
    /// What the description must contain.
    says: &'static str,
}

fn case(name: &'static str, bytes: Vec<u8>, sound: bool, integrity: Integrity, says: &'static str) -> Case {
    Case { name, bytes, sound, integrity, says }
}

fn cases() -> Vec<Case> {
    use Integrity::{Absent, Invalid, Valid};
    let signed = || request().text(AttributeType::USERNAME, "a:b").integrity(&key());
    let peer: SocketAddr = "192.0.2.9:9".parse().unwrap();
    let mut many = request();
    for kind in 0..1000 {
        many = many.attribute(AttributeType(0x3000 + kind), b"?");
    }
    vec![
        case(
            "length no multiple of four",
            patched(request().u32(AttributeType::PRIORITY, 1).build(), 2, &[0, 7]),
            false,
            Absent,
            "not a multiple of four",
        ),
        case(
            "length past the end",
            patched(request().u32(AttributeType::PRIORITY, 1).build(), 2, &[0, 12]),
            false,
            Absent,
            "the length field says 12 bytes, 8 follow",
        ),
        case(
            "length of 65535",
            patched(request().build(), 2, &[0xFF, 0xFF]),
            false,
            Absent,
            "the length field says 65535 bytes, 0 follow",
        ),
        case(
            "length too short",
            patched(request().u32(AttributeType::PRIORITY, 1).build(), 2, &[0, 0]),
            false,
            Absent,
            "8 bytes follow the end",
        ),
        case(
            "attribute past the end",
            patched(request().u32(AttributeType::PRIORITY, 1).build(), 22, &[0xFF, 0xFF]),
            false,
            Absent,
            "claims 65535 bytes, 4 are left",
        ),
        case(
            "stray bytes",
            patched([request().build(), vec![0, 1, 2]].concat(), 2, &[0, 3]),
            false,
            Absent,
            "3 stray bytes",
        ),
        case(
            "attribute after MESSAGE-INTEGRITY",
            followed_by(signed().build(), AttributeType::PRIORITY, &[0, 0, 0, 1]),
            true,
            Valid,
            "PRIORITY 1 (ignored)",
        ),
        case(
            "unknown required attribute after MESSAGE-INTEGRITY",
            followed_by(signed().build(), AttributeType(0x7777), b""),
            true,
            Valid,
            "0x7777 (0 bytes) (ignored)",
        ),
        case(
            "attribute after FINGERPRINT",
            followed_by(signed().fingerprint().build(), AttributeType::SOFTWARE, b"x"),
            false,
            Valid,
            "attributes follow FINGERPRINT",
        ),
        case(
            "two MESSAGE-INTEGRITY, the first right",
            followed_by(signed().build(), AttributeType::MESSAGE_INTEGRITY, &[0; 20]),
            true,
            Valid,
            "MESSAGE-INTEGRITY (ignored)",
        ),
        case(
            "two MESSAGE-INTEGRITY, the second right",
            request().attribute(AttributeType::MESSAGE_INTEGRITY, &[0; 20]).integrity(&key()).build(),
            true,
            Invalid,
            "MESSAGE-INTEGRITY, MESSAGE-INTEGRITY (ignored)",
        ),
        case(
            "MESSAGE-INTEGRITY over the final length instead of its own end",
            integrity_over_final_length(),
            true,
            Invalid,
            "MESSAGE-INTEGRITY",
        ),
        case(
            "MESSAGE-INTEGRITY of 19 bytes",
            request().attribute(AttributeType::MESSAGE_INTEGRITY, &[0; 19]).build(),
            true,
            Invalid,
            "the value of attribute 0x0008 is malformed",
        ),
        case(
            "empty MESSAGE-INTEGRITY-SHA256",
            request().attribute(AttributeType::MESSAGE_INTEGRITY_SHA256, b"").build(),
            true,
            Invalid,
            "the value of attribute 0x001c is malformed",
        ),
        case(
            "both integrities, the stronger wrong",
            signed().attribute(AttributeType::MESSAGE_INTEGRITY_SHA256, &[0; 32]).build(),
            true,
            Invalid,
            "MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256",
        ),
        case(
            "both integrities, both right",
            signed().integrity_sha256(&key()).fingerprint().build(),
            true,
            Valid,
            "MESSAGE-INTEGRITY-SHA256, FINGERPRINT",
        ),
        case(
            "FINGERPRINT before MESSAGE-INTEGRITY",
            request().fingerprint().integrity(&key()).build(),
            false,
            Valid,
            "attributes follow FINGERPRINT",
        ),
        case(
            "wrong FINGERPRINT",
            request().attribute(AttributeType::FINGERPRINT, &[0; 4]).build(),
            false,
            Absent,
            "FINGERPRINT does not match",
        ),
        case(
            "empty FINGERPRINT",
            request().attribute(AttributeType::FINGERPRINT, b"").build(),
            false,
            Absent,
            "FINGERPRINT does not match",
        ),
        case(
            "truncated XOR address",
            request().attribute(AttributeType::XOR_MAPPED_ADDRESS, &[0, 1, 2]).build(),
            true,
            Absent,
            "XOR-MAPPED-ADDRESS malformed (3 bytes)",
        ),
        case(
            "IPv4 address of 16 bytes",
            request()
                .attribute(
                    AttributeType::XOR_PEER_ADDRESS,
                    &[0, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
                )
                .build(),
            true,
            Absent,
            "XOR-PEER-ADDRESS malformed (20 bytes)",
        ),
        case(
            "address family 0",
            request().attribute(AttributeType::MAPPED_ADDRESS, &[0, 0, 0, 80, 1, 2, 3, 4]).build(),
            true,
            Absent,
            "MAPPED-ADDRESS malformed",
        ),
        case(
            "address family 3",
            request().attribute(AttributeType::XOR_MAPPED_ADDRESS, &[0, 3, 0, 80, 1, 2, 3, 4]).build(),
            true,
            Absent,
            "0x0020 is malformed",
        ),
        case("a thousand unknown required attributes", many.build(), true, Absent, "and 976 more"),
        case("empty USERNAME", request().text(AttributeType::USERNAME, "").build(), true, Absent, r#"USERNAME """#),
        case(
            "USERNAME of 513 bytes",
            request().text(AttributeType::USERNAME, &"u".repeat(513)).build(),
            true,
            Absent,
            "the value of attribute 0x0006 is malformed",
        ),
        case(
            "REALM with NUL, newline and no UTF-8",
            request().attribute(AttributeType::REALM, b"a\0b\n\xff").build(),
            true,
            Absent,
            "REALM \"a\\0b\\n\u{FFFD}\"",
        ),
        case(
            "terminal escapes in SOFTWARE",
            request().text(AttributeType::SOFTWARE, "\x1b[2J").build(),
            true,
            Absent,
            r#"SOFTWARE "\u{1b}[2J""#,
        ),
        case(
            "text that runs right to left",
            request().text(AttributeType::SOFTWARE, "a\u{202E}b").build(),
            true,
            Absent,
            r#"SOFTWARE "a\u{202e}b""#,
        ),
        case(
            "ERROR-CODE of two bytes",
            request().attribute(AttributeType::ERROR_CODE, &[0, 0]).build(),
            true,
            Absent,
            "ERROR-CODE malformed (2 bytes)",
        ),
        case(
            "ERROR-CODE with class 7 and number 255",
            request().attribute(AttributeType::ERROR_CODE, &[0, 0, 0xFF, 0xFF]).build(),
            true,
            Absent,
            "ERROR-CODE 955",
        ),
        case("method 0", MessageBuilder::new(Class::Request, Method(0), ID).build(), true, Absent, "0x000 request"),
        case(
            "method 0xFFF as error response",
            MessageBuilder::new(Class::Error, Method(0xFFF), ID).build(),
            true,
            Absent,
            "0xFFF error response",
        ),
        case(
            "Send as success response",
            MessageBuilder::new(Class::Success, Method::SEND, ID).build(),
            true,
            Absent,
            "Send success response",
        ),
        case(
            "cookie off by one bit",
            patched(request().build(), 7, &[0x43]),
            false,
            Absent,
            "the magic cookie is 2112a443",
        ),
        case(
            "RFC 3489 without cookie",
            patched(request().u32(AttributeType::CHANGE_REQUEST, 6).build(), 4, &[9, 9, 9, 9]),
            false,
            Absent,
            "CHANGE-REQUEST address port; wrong: the magic cookie is 09090909",
        ),
        case(
            "duplicated and contradictory XOR-PEER-ADDRESS",
            request()
                .xor_address(AttributeType::XOR_PEER_ADDRESS, peer)
                .xor_address(AttributeType::XOR_PEER_ADDRESS, "[::1]:1".parse().unwrap())
                .build(),
            true,
            Absent,
            "XOR-PEER-ADDRESS 192.0.2.9:9, XOR-PEER-ADDRESS [::1]:1",
        ),
        case(
            "both ICE roles",
            request().u64(AttributeType::ICE_CONTROLLING, 1).u64(AttributeType::ICE_CONTROLLED, 2).build(),
            true,
            Absent,
            "ICE-CONTROLLING 0000000000000001, ICE-CONTROLLED 0000000000000002",
        ),
        case(
            "CHANNEL-NUMBER outside the range",
            request().attribute(AttributeType::CHANNEL_NUMBER, &[0x50, 0, 0, 0]).build(),
            true,
            Absent,
            "CHANNEL-NUMBER malformed",
        ),
        case(
            "LIFETIME of 3 bytes",
            request().attribute(AttributeType::LIFETIME, &[0, 0, 1]).build(),
            true,
            Absent,
            "LIFETIME malformed",
        ),
        case(
            "REQUESTED-TRANSPORT for TCP",
            request().attribute(AttributeType::REQUESTED_TRANSPORT, &[6, 0, 0, 0]).build(),
            true,
            Absent,
            "REQUESTED-TRANSPORT TCP",
        ),
        case(
            "UNKNOWN-ATTRIBUTES of odd length",
            request().attribute(AttributeType::UNKNOWN_ATTRIBUTES, &[0x77, 0x77, 0x12]).build(),
            true,
            Absent,
            "UNKNOWN-ATTRIBUTES 0x7777",
        ),
        case(
            "a datagram of 65507 bytes",
            patched([request().build(), vec![0xEE; 65_487]].concat(), 2, &65_484_u16.to_be_bytes()),
            false,
            Absent,
            "0xEEEE",
        ),
    ]
}

/// What a sender does that forgets the dummy length of RFC 8489 §14.5: it hashes the header as it is finally sent.
fn integrity_over_final_length() -> Vec<u8> {
    // The longer message's own integrity, over a length that covers FINGERPRINT too, put into the shorter one.
    let long = request()
        .text(AttributeType::USERNAME, "a:b")
        .attribute(AttributeType::SOFTWARE, &[0; 4])
        .integrity(&key())
        .build();
    let short = request().text(AttributeType::USERNAME, "a:b").integrity(&key()).fingerprint().build();
    assert_eq!(long.len(), short.len());
    let value = long[long.len() - 20..].to_vec();
    let unsigned = patched(short, 20 + 8 + 4, &value);
    // FINGERPRINT is made anew, so that only the integrity is wrong.
    let end = unsigned.len() - 8;
    let mut again = MessageBuilder::new(Class::Request, Method::BINDING, ID);
    for raw in
        &Message::decode(&patched(unsigned[..end].to_vec(), 2, &((end - 20) as u16).to_be_bytes())).unwrap().attributes
    {
        again = again.attribute(raw.kind, raw.value);
    }
    again.fingerprint().build()
}

#[test]
fn every_torturous_message_is_read_described_and_judged() {
    for Case { name, bytes, sound, integrity, says } in cases() {
        let message = Message::decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let description = message.describe();
        assert_eq!(message.is_sound(), sound, "{name}: {description}");
        assert_eq!(message.check_integrity(&key()), integrity, "{name}: {description}");
        assert!(description.contains(says), "{name}: {description}");
        assert!(!description.chars().any(char::is_control) && description.len() < 8192, "{name}: {description}");
    }
}

#[test]
fn what_has_no_stun_header_is_refused_by_name() {
    for (bytes, expected) in [
        (&b""[..], NotStun::TooShort(0)),
        (&[0; 19], NotStun::TooShort(19)),
        (&[0x40; 20], NotStun::NotZeroBits),
        (&[0xFF; 2000], NotStun::NotZeroBits),
    ] {
        assert_eq!(Message::decode(bytes).unwrap_err(), expected);
    }
}

/// coturn #2016 and CVE-2020-26262's kin: an attacker on the path appends a peer behind the integrity attribute.
#[test]
fn unprotected_attributes_reach_no_accessor() {
    let evil: SocketAddr = "169.254.169.254:80".parse().unwrap();
    let good: SocketAddr = "198.51.100.1:1".parse().unwrap();
    let request = MessageBuilder::new(Class::Request, Method::CREATE_PERMISSION, ID)
        .xor_address(AttributeType::XOR_PEER_ADDRESS, good)
        .integrity(&key());
    let bytes = request
        .xor_address(AttributeType::XOR_PEER_ADDRESS, evil)
        .text(AttributeType::USERNAME, "evil")
        .attribute(AttributeType(0x7001), b"")
        .build();
    let message = Message::decode(&bytes).unwrap();
    assert_eq!(message.check_integrity(&key()), Integrity::Valid);
    assert_eq!(message.xor_addresses(AttributeType::XOR_PEER_ADDRESS).collect::<Vec<_>>(), [good]);
    assert_eq!(message.text(AttributeType::USERNAME), None);
    let known = [AttributeType::XOR_PEER_ADDRESS, AttributeType::MESSAGE_INTEGRITY];
    assert_eq!(message.unknown_required(&known), []);
}

#[test]
fn unknown_required_attributes_are_named_once_each() {
    let message = request()
        .attribute(AttributeType(0x7002), b"")
        .attribute(AttributeType(0x7001), b"")
        .attribute(AttributeType(0x7002), b"")
        .attribute(AttributeType(0xF001), b"")
        .build();
    let unknown = Message::decode(&message).unwrap().unknown_required(&[]);
    assert_eq!(unknown, [AttributeType(0x7001), AttributeType(0x7002)]);
}

#[test]
fn of_duplicates_the_first_counts() {
    let bytes = request().text(AttributeType::USERNAME, "first").text(AttributeType::USERNAME, "second").build();
    assert_eq!(Message::decode(&bytes).unwrap().text(AttributeType::USERNAME), Some("first"));
}

/// coturn #1964: a length that overflows 16 bits.
#[test]
fn a_message_never_outgrows_its_length_field() {
    for size in [0, 1, 65_000, 65_460, 65_464, 65_465, 65_532, 65_535, 200_000] {
        let bytes = request()
            .attribute(AttributeType::DATA, &vec![7; size])
            .attribute(AttributeType::PADDING, &[8; 99])
            .integrity(&key())
            .integrity_sha256(&key())
            .fingerprint()
            .build();
        let message = Message::decode(&bytes).unwrap();
        assert_eq!(message.defects, [], "{size}");
        assert_eq!(message.check_integrity(&key()), Integrity::Valid, "{size}");
    }
}

#[test]
fn descriptions_hide_integrity_data_and_tokens() {
    let bytes = request()
        .attribute(AttributeType::DATA, b"SECRETDATA")
        .attribute(AttributeType::RESERVATION_TOKEN, b"TOKENTOK")
        .integrity(&key())
        .build();
    let message = Message::decode(&bytes).unwrap();
    let description = message.describe();
    assert!(description.contains("DATA (10 bytes), RESERVATION-TOKEN (8 bytes), MESSAGE-INTEGRITY"), "{description}");
    let value = message.attribute(AttributeType::MESSAGE_INTEGRITY).unwrap().value;
    let shown: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!description.contains(&shown[..8]) && !description.contains("SECRET") && !description.contains("TOKENTOK"));
}

#[test]
fn channel_data_is_read_as_far_as_it_goes() {
    let data = |number, data| Some(ChannelData { number, data });
    for (bytes, expected) in [
        (&[0x40, 0, 0, 0][..], data(0x4000, &b""[..])),
        (&[0x4F, 0xFF, 0, 1, 9, 0, 0, 0], data(0x4FFF, &[9])),
        (&[0x40, 0, 0, 5, 1, 2, 3, 4], None),
        (&[0x40, 0, 0xFF, 0xFF], None),
        (&[0x40, 0, 0], None),
        (&[], None),
        (&[0x7F, 0xFF, 0, 1, 9], data(0x7FFF, &[9])),
    ] {
        assert_eq!(ChannelData::decode(bytes), expected, "{bytes:?}");
    }
    // 0x5000 to 0x7FFF are reserved: readable, but no channel number, and not demultiplexed as TURN.
    assert_eq!(ChannelNumber::new(0x5000), None);
    assert_eq!(Protocol::of(&[0x50, 0, 0, 0]), Protocol::Unknown);
}

#[test]
fn three_messages_over_tcp_survive_every_pair_of_cuts() {
    let stun = request().text(AttributeType::USERNAME, "abc").integrity(&key()).fingerprint().build();
    let channel = ChannelData::encode(ChannelNumber::FIRST, b"12345");
    let messages = [channel.clone(), stun, channel];
    let stream: Vec<u8> = messages.iter().flat_map(|message| Framing::Stun.wrap(message)).collect();
    for first in 0..=stream.len() {
        for second in first..=stream.len() {
            let mut deframer = Deframer::new(Framing::Stun);
            let mut found = Vec::new();
            for part in [&stream[..first], &stream[first..second], &stream[second..]] {
                deframer.push(part);
                while let Some(message) = deframer.next_message().unwrap() {
                    found.push(message.to_vec());
                }
            }
            assert_eq!(found, messages, "cut at {first} and {second}");
        }
    }
}

#[test]
fn every_defect_has_a_sentence_of_its_own() {
    let defects = [
        Defect::WrongCookie { found: 1 },
        Defect::UnalignedLength { length: 1 },
        Defect::Truncated { length: 8, available: 0 },
        Defect::TrailingBytes { extra: 1 },
        Defect::AttributeOverrun { kind: 1, offset: 20, length: 4, available: 0 },
        Defect::StrayBytes { left: 1 },
        Defect::AfterFingerprint,
        Defect::WrongFingerprint,
        Defect::MalformedValue { kind: 1 },
    ];
    let sentences: std::collections::BTreeSet<String> = defects.iter().map(ToString::to_string).collect();
    assert_eq!(sentences.len(), defects.len());
}
