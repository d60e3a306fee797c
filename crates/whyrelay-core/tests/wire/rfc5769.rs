//! The vectors of RFC 5769, and two of our own for MESSAGE-INTEGRITY-SHA256, which RFC 5769 does not have.

use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::integrity::{Integrity, Key};
use whyrelay_core::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};

use crate::hex;

const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";
/// The user name of §2.4, six katakana, and the password after OpaqueString preparation.
const USERNAME: &str = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";
const LONG_PASSWORD: &str = "TheMatrIX";

struct Vector {
    name: &'static str,
    key: Key,
    wrong_key: Key,
    bytes: Vec<u8>,
}

fn vectors() -> Vec<Vector> {
    let short = |name, bytes| Vector {
        name,
        key: Key::short_term(PASSWORD),
        wrong_key: Key::short_term("VOkJxbRl1RmTxUk/WvJxBu"),
        bytes: hex(bytes),
    };
    vec![
        short(
            "RFC 5769 §2.1, request",
            "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e20746573
             7420636c69656e74002400046e0001ff80290008932ff9b151263b3600060009
             6576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249
             c1b571a280280004e57a3bcf",
        ),
        short(
            "RFC 5769 §2.2, IPv4 response",
            "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563
             746f7220002000080001a147e112a643000800142b91f599fd9e90c38c7489f9
             2af9ba53f06be7d780280004c07d4c96",
        ),
        short(
            "RFC 5769 §2.3, IPv6 response",
            "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563
             746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014
             a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c",
        ),
        Vector {
            name: "RFC 5769 §2.4, long-term request",
            key: Key::long_term(USERNAME, "example.org", LONG_PASSWORD),
            wrong_key: Key::long_term(USERNAME, "example.com", LONG_PASSWORD),
            bytes: hex("000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383
                        aae38383e382afe382b900000015001c662f2f3439396b39353464364f4c3334
                        6f4c394653547679363473410014000b6578616d706c652e6f72670000080014
                        f67024656dd64a3e02b8e0712e85c9a28ca89666"),
        },
        // Made with Python's hmac over the attributes of RFC 8489 appendix B.1.
        Vector {
            name: "SHA-256, whole",
            key: Key::long_term_sha256(USERNAME, "example.org", LONG_PASSWORD),
            wrong_key: Key::long_term(USERNAME, "example.org", LONG_PASSWORD),
            bytes: hex("000100902112a44278ad3433c6ad72c029da412e001e00204a3cf38fef6992bd
                        a952c6780417da0f24819415569e60b205c46e41407f1704001500296f624d61
                        744a6f733241414143662f2f3439396b39353464364f4c33346f4c3946535476
                        79363473410000000014000b6578616d706c652e6f726700001d000400020000
                        001c0020b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278c
                        c6518e65"),
        },
        Vector {
            name: "SHA-256, truncated to 16 bytes",
            key: Key::long_term_sha256(USERNAME, "example.org", LONG_PASSWORD),
            wrong_key: Key::long_term(USERNAME, "example.org", LONG_PASSWORD),
            bytes: hex("000100802112a44278ad3433c6ad72c029da412e001e00204a3cf38fef6992bd
                        a952c6780417da0f24819415569e60b205c46e41407f1704001500296f624d61
                        744a6f733241414143662f2f3439396b39353464364f4c33346f4c3946535476
                        79363473410000000014000b6578616d706c652e6f726700001d000400020000
                        001c0010c7d5412b8aa86b8153a94da6eb9ba50f"),
        },
    ]
}

#[test]
fn the_vectors_are_sound_and_match_their_key_only() {
    for vector in vectors() {
        let message = Message::decode(&vector.bytes).unwrap();
        assert_eq!(message.defects, [], "{}", vector.name);
        assert_eq!(message.check_integrity(&vector.key), Integrity::Valid, "{}", vector.name);
        assert_eq!(message.check_integrity(&vector.wrong_key), Integrity::Invalid, "{}", vector.name);
    }
}

#[test]
fn the_vectors_say_what_the_rfc_says() {
    let vectors = vectors();
    let described: Vec<String> = vectors.iter().map(|v| Message::decode(&v.bytes).unwrap().describe()).collect();
    assert_eq!(
        described,
        [
            r#"Binding request b7e7a701bc34d686fa87dfae: SOFTWARE "STUN test client", PRIORITY 1845494271, ICE-CONTROLLED 932ff9b151263b36, USERNAME "evtj:h6vY", MESSAGE-INTEGRITY, FINGERPRINT"#,
            r#"Binding success response b7e7a701bc34d686fa87dfae: SOFTWARE "test vector", XOR-MAPPED-ADDRESS 192.0.2.1:32853, MESSAGE-INTEGRITY, FINGERPRINT"#,
            r#"Binding success response b7e7a701bc34d686fa87dfae: SOFTWARE "test vector", XOR-MAPPED-ADDRESS [2001:db8:1234:5678:11:2233:4455:6677]:32853, MESSAGE-INTEGRITY, FINGERPRINT"#,
            r#"Binding request 78ad3433c6ad72c029da412e: USERNAME "マトリックス", NONCE "f//499k954d6OL34oL9FSTvy64sA", REALM "example.org", MESSAGE-INTEGRITY"#,
            r#"Binding request 78ad3433c6ad72c029da412e: USERHASH (32 bytes), NONCE "obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA", REALM "example.org", PASSWORD-ALGORITHM (4 bytes), MESSAGE-INTEGRITY-SHA256"#,
            r#"Binding request 78ad3433c6ad72c029da412e: USERHASH (32 bytes), NONCE "obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA", REALM "example.org", PASSWORD-ALGORITHM (4 bytes), MESSAGE-INTEGRITY-SHA256"#,
        ]
    );
    let response = Message::decode(&vectors[1].bytes).unwrap();
    assert_eq!((response.class, response.method), (Class::Success, Method::BINDING));
    assert_eq!(response.xor_address(AttributeType::XOR_MAPPED_ADDRESS), "192.0.2.1:32853".parse().ok());
}

/// A flipped bit is noticed, or it stands behind the integrity attribute (FINGERPRINT's type) and changes nothing that
/// a receiver looks at.
#[test]
fn no_flipped_bit_of_a_vector_changes_what_is_believed() {
    for vector in vectors() {
        for bit in 0..vector.bytes.len() * 8 {
            let mut bytes = vector.bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Ok(message) = Message::decode(&bytes) else { continue };
            let believed = message.is_sound() && message.check_integrity(&vector.key) == Integrity::Valid;
            if believed {
                let original = Message::decode(&vector.bytes).unwrap();
                assert!(looked_at(&message).eq(looked_at(&original)), "{}, bit {bit}", vector.name);
            }
        }
    }
}

fn looked_at<'a>(message: &'a Message<'_>) -> impl Iterator<Item = (AttributeType, &'a [u8])> {
    let counting = message.attributes.iter().filter(|raw| message.counts(raw));
    counting.map(|raw| (raw.kind, raw.value)).filter(|(kind, _)| *kind != AttributeType::FINGERPRINT)
}

#[test]
fn the_vector_without_padding_bytes_of_its_own_is_written_byte_for_byte() {
    let vector = vectors().swap_remove(3);
    let id = Message::decode(&vector.bytes).unwrap().transaction;
    let written = MessageBuilder::new(Class::Request, Method::BINDING, id)
        .text(AttributeType::USERNAME, USERNAME)
        .text(AttributeType::NONCE, "f//499k954d6OL34oL9FSTvy64sA")
        .text(AttributeType::REALM, "example.org")
        .integrity(&vector.key)
        .build();
    assert_eq!(written, vector.bytes);
}

#[test]
fn the_sha256_vector_is_written_byte_for_byte() {
    let vector = vectors().swap_remove(4);
    let read = Message::decode(&vector.bytes).unwrap();
    let mut written = MessageBuilder::new(Class::Request, Method::BINDING, TransactionId(read.transaction.0));
    for raw in read.attributes.iter().filter(|raw| raw.kind != AttributeType::MESSAGE_INTEGRITY_SHA256) {
        written = written.attribute(raw.kind, raw.value);
    }
    assert_eq!(written.integrity_sha256(&vector.key).build(), vector.bytes);
}
