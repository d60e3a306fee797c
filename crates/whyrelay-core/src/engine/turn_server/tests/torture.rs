//! Messages that nobody should send, sent to a server by a client that it knows (SECURITY 9): the decoder's own torture
//! set is in `tests/wire/torture.rs`.

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;

use super::super::*;
use super::fixture::*;
use crate::wire::attribute::AttributeType;
use crate::wire::integrity::Key;
use crate::wire::stun::{MessageBuilder, TransactionId};

const ID: TransactionId = TransactionId([3; 12]);

/// A client with an allocation, a server around it, and no permission.
fn allocated(change: impl FnOnce(&mut TurnConfig)) -> (Fixture, Caller) {
    let mut fixture = Fixture::with(change);
    let mut alice = Caller::alice();
    assert_eq!(alice.allocate(&mut fixture).code(), 0);
    (fixture, alice)
}

fn permission() -> MessageBuilder {
    MessageBuilder::new(Class::Request, Method::CREATE_PERMISSION, ID)
        .xor_address(AttributeType::XOR_PEER_ADDRESS, PEER.parse().unwrap())
}

/// Whether what a peer sends comes through: only with a permission.
fn is_permitted(fixture: &mut Fixture) -> bool {
    !fixture.peer_sends(RelayId(0), PEER, b"x").is_empty()
}

/// Another attribute behind the end of a message, with the header's length corrected.
fn followed_by(mut bytes: Vec<u8>, kind: AttributeType, value: &[u8]) -> Vec<u8> {
    bytes.extend_from_slice(&kind.0.to_be_bytes());
    bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
    bytes.extend_from_slice(value);
    let length = (bytes.len() - 20) as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn many_unknown(mut request: MessageBuilder) -> MessageBuilder {
    for kind in 0..1000 {
        request = request.attribute(AttributeType(0x3000 + kind), b"?");
    }
    request
}

#[test]
fn security_9_a_thousand_unknown_required_attributes_get_one_small_420_and_change_nothing() {
    let (mut fixture, alice) = allocated(|_| {});
    let binding = many_unknown(MessageBuilder::new(Class::Request, Method::BINDING, ID)).build();
    let signed = alice.sign(many_unknown(permission()));
    for bytes in [binding, signed] {
        let response = alice.response(fixture.raw(alice.client, &bytes));
        assert_eq!(response.code(), 420);
        let message = response.message();
        let named = message.attribute(AttributeType::UNKNOWN_ATTRIBUTES).unwrap().value;
        assert_eq!(named, (0x3000_u16..0x3010).flat_map(u16::to_be_bytes).collect::<Vec<_>>());
        assert!(response.0.len() < 128, "{} bytes", response.0.len());
    }
    assert!(!is_permitted(&mut fixture));
    // In an indication they cost it its effect, and there is no answer.
    let indication = many_unknown(
        MessageBuilder::new(Class::Indication, Method::SEND, ID)
            .xor_address(AttributeType::XOR_PEER_ADDRESS, PEER.parse().unwrap())
            .attribute(AttributeType::DATA, b"x"),
    );
    assert_eq!(fixture.raw(alice.client, &alice.sign(permission())).len(), 1);
    assert_eq!(fixture.raw(alice.client, &indication.build()), []);
    assert!(is_permitted(&mut fixture), "by the sound request alone");
}

#[test]
fn security_9_method_zero_and_methods_of_others_are_noise() {
    let (mut fixture, alice) = allocated(|_| {});
    let before = fixture.server.counters().clone();
    let mut sent = 0;
    for method in [0x000, 0x002, 0x005, 0x00A, 0x00B, 0x00C, 0x080, 0xFFF] {
        for class in [Class::Request, Class::Indication, Class::Success, Class::Error] {
            let start = || MessageBuilder::new(class, Method(method), ID);
            let peer = start().xor_address(AttributeType::XOR_PEER_ADDRESS, PEER.parse().unwrap());
            for bytes in [start().build(), alice.sign(start()), alice.sign(peer)] {
                assert_eq!(fixture.raw(alice.client, &bytes), [], "{class:?} {method:#x}");
                sent += 1;
            }
        }
    }
    let counters = fixture.server.counters();
    assert_eq!((counters.noise - before.noise, counters.requests), (sent, before.requests));
    assert!(!is_permitted(&mut fixture));
}

#[test]
fn security_9_what_follows_fingerprint_or_a_wrong_one_makes_a_message_unread() {
    let (mut fixture, alice) = allocated(|_| {});
    let whole = |request: MessageBuilder| {
        request
            .long_term_credential(&alice.username, "whyrelay", &alice.nonce)
            .integrity(&alice.key())
            .fingerprint()
            .build()
    };
    let binding = MessageBuilder::new(Class::Request, Method::BINDING, ID).fingerprint().build();
    for good in [whole(permission()), binding.clone()] {
        let mut wrong = good.clone();
        *wrong.last_mut().unwrap() ^= 1;
        let twice = followed_by(good.clone(), AttributeType::FINGERPRINT, &good[good.len() - 4..]);
        for bytes in [
            followed_by(good.clone(), AttributeType::SOFTWARE, b"tail"),
            followed_by(good.clone(), AttributeType(0x7777), b""),
            twice,
            wrong,
        ] {
            assert_eq!(fixture.raw(alice.client, &bytes), [], "{bytes:02x?}");
        }
    }
    assert!(!is_permitted(&mut fixture));
    assert_eq!(fixture.raw(alice.client, &binding).len(), 1);
    assert_eq!(alice.response(fixture.raw(alice.client, &whole(permission()))).code(), 0, "the same as it should be");
}

#[test]
fn security_9_of_two_signatures_the_first_decides_and_one_over_the_final_length_is_none() {
    let (mut fixture, alice) = allocated(|_| {});
    let named = || permission().long_term_credential(&alice.username, "whyrelay", &alice.nonce);
    // Over a length that covers FINGERPRINT as well: RFC 8489 §14.5 wants the one that ends with the signature itself.
    let mut head = named().build();
    let length = (head.len() - 20 + 24 + 8) as u16;
    head[2..4].copy_from_slice(&length.to_be_bytes());
    let key = Md5::digest("alice:whyrelay:wonderland");
    let mut mac = Hmac::<Sha1>::new_from_slice(&key).unwrap();
    Mac::update(&mut mac, &head);
    let value = mac.finalize().into_bytes();
    let over_all = named().attribute(AttributeType::MESSAGE_INTEGRITY, &value).fingerprint().build();
    let second_right = named().attribute(AttributeType::MESSAGE_INTEGRITY, &[0; 20]).integrity(&alice.key()).build();
    let somebody_elses = named().integrity(&Key::long_term("bob", "whyrelay", "builder")).build();
    for bytes in [over_all, second_right, somebody_elses] {
        for seen in fixture.raw(alice.client, &bytes) {
            let Seen::ToClient(_, bytes) = seen else { panic!("only answers") };
            assert_eq!(Message::decode(&bytes).unwrap().error_code().unwrap().code, 401);
        }
        assert!(!is_permitted(&mut fixture));
    }
    let first_right = followed_by(named().integrity(&alice.key()).build(), AttributeType::MESSAGE_INTEGRITY, &[0; 20]);
    assert_eq!(alice.response(fixture.raw(alice.client, &first_right)).code(), 0);
    assert!(is_permitted(&mut fixture));
}

#[test]
fn security_9_requests_without_cookie_are_unread() {
    let (mut fixture, alice) = allocated(|_| {});
    let binding = MessageBuilder::new(Class::Request, Method::BINDING, ID).build();
    for bit in 0..32 {
        let mut bytes = binding.clone();
        bytes[4 + bit / 8] ^= 1 << (bit % 8);
        assert_eq!(fixture.raw(alice.client, &bytes), [], "bit {bit} of the cookie");
    }
    // RFC 3489: sixteen bytes of transaction id where the cookie would stand.
    let mut classic = binding;
    classic[4..20].copy_from_slice(&[0xAB; 16]);
    assert_eq!(fixture.raw(alice.client, &classic), []);
}

#[test]
fn security_9_channel_data_that_is_empty_cut_or_of_0x5000_and_up_reaches_nobody_else() {
    for rfc5766_channels in [false, true] {
        let (mut fixture, mut alice) = allocated(|config| config.rfc5766_channels = rfc5766_channels);
        assert_eq!(alice.bind(&mut fixture, 0x4000, PEER), 0);
        for number in (0x4001..=0x7FFF_u16).step_by(0x3F).chain([0x4FFF, 0x5000, 0x6000, 0x7FFE, 0x7FFF]) {
            let [high, low] = number.to_be_bytes();
            assert_eq!(fixture.raw(alice.client, &[high, low, 0, 1, b'x']), [], "{number:#x}");
        }
        for cut in [&[0x40][..], &[0x40, 0], &[0x40, 0, 0], &[0x40, 0, 0, 2, b'x'], &[0x40, 0, 0xFF, 0xFF]] {
            assert_eq!(fixture.raw(alice.client, cut), [], "{cut:02x?}");
        }
        // No data is a datagram of its own (RFC 8656 §12.4), to the peer that the channel has.
        let seen = fixture.raw(alice.client, &[0x40, 0, 0, 0]);
        assert!(
            matches!(&seen[..], [Seen::ToPeer { peer, bytes, .. }] if bytes.is_empty() && peer.to_string() == PEER)
        );
        // Out of the range no channel can be had in the first place; within RFC 5766's only by leave of the operator.
        assert_eq!(alice.bind(&mut fixture, 0x8000, "198.41.0.5:1"), 400);
        let expected = if rfc5766_channels { 0 } else { 400 };
        assert_eq!(alice.bind(&mut fixture, 0x5000, "198.41.0.5:1"), expected);
        let reached = fixture.raw(alice.client, &[0x50, 0, 0, 1, b'x']).len();
        assert_eq!(reached, usize::from(rfc5766_channels));
    }
}

#[test]
fn security_4_nothing_of_tcp_relaying_or_port_pairs_is_to_be_had() {
    let mut fixture = Fixture::new();
    let mut alice = Caller::alice();
    alice.greet(&mut fixture);
    for (attribute, value, code) in [
        (AttributeType::REQUESTED_TRANSPORT, &[6, 0, 0, 0][..], 442),
        (AttributeType::EVEN_PORT, &[0x80], 508),
        (AttributeType::RESERVATION_TOKEN, &[1; 8], 508),
    ] {
        let mut request = alice.start(Method::ALLOCATE).attribute(attribute, value);
        if attribute != AttributeType::REQUESTED_TRANSPORT {
            request = request.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        }
        assert_eq!(alice.once(&mut fixture, request).code(), code, "{attribute:?}");
    }
    assert_eq!((fixture.server.allocations(), fixture.relays.len()), (0, 0));
    assert_eq!(alice.allocate(&mut fixture).code(), 0);
    let again = alice.allocation_request();
    assert_eq!(alice.once(&mut fixture, again).code(), 437, "the same 5-tuple again");
}
