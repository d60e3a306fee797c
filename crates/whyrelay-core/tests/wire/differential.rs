//! On sound messages our decoder, our integrity and our encoder agree with `stun-types`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;
use stun_types::attribute::{Attribute as _, Nonce, Realm, Software, Username, XorMappedAddress};
use stun_types::message::{
    BINDING, IntegrityAlgorithm, LongTermKeyCredentials, Message as TheirMessage, MessageClass,
    MessageIntegrityCredentials, MessageType, MessageWrite, MessageWriteExt, MessageWriteVec, ShortTermCredentials,
};
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::integrity::{Integrity, Key};
use whyrelay_core::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};

const CLASSES: [(Class, MessageClass); 4] = [
    (Class::Request, MessageClass::Request),
    (Class::Indication, MessageClass::Indication),
    (Class::Success, MessageClass::Success),
    (Class::Error, MessageClass::Error),
];

fn address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits))),
    ];
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn transaction(id: [u8; 12]) -> u128 {
    id.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

#[derive(Clone, Debug)]
enum Credentials {
    Short(String),
    Long(String, String, String),
}

impl Credentials {
    fn ours(&self, sha256: bool) -> Key {
        match self {
            Self::Short(password) => Key::short_term(password),
            Self::Long(user, realm, password) if sha256 => Key::long_term_sha256(user, realm, password),
            Self::Long(user, realm, password) => Key::long_term(user, realm, password),
        }
    }

    fn theirs(&self) -> MessageIntegrityCredentials {
        match self {
            Self::Short(password) => ShortTermCredentials::new(password.clone()).into(),
            Self::Long(user, realm, password) => {
                LongTermKeyCredentials::new(user.clone(), password.clone(), realm.clone()).into()
            }
        }
    }
}

fn credentials() -> impl Strategy<Value = Credentials> {
    prop_oneof![
        "[ -~]{1,40}".prop_map(Credentials::Short),
        ("[a-z0-9:]{1,20}", "[a-z.]{1,20}", "[ -~]{1,40}").prop_map(|(u, r, p)| Credentials::Long(u, r, p)),
    ]
}

proptest! {
    #[test]
    fn they_read_what_we_write(
        (ours, theirs) in prop::sample::select(&CLASSES[..]), method in 0_u16..0x1000, id in any::<[u8; 12]>(),
        username in "[a-zA-Z0-9+/:]{1,60}", software in "[ -~]{0,40}", realm in "[a-z.]{1,30}", nonce in "[!-~]{1,50}",
        address in address(), unknown in vec((0xC100_u16..0xC200, vec(any::<u8>(), 0..30)), 0..4),
        credentials in credentials(), sha256 in any::<bool>(), fingerprint in any::<bool>(),
    ) {
        let mut builder = MessageBuilder::new(ours, Method(method), TransactionId(id))
            .text(AttributeType::USERNAME, &username)
            .text(AttributeType::SOFTWARE, &software)
            .text(AttributeType::REALM, &realm)
            .text(AttributeType::NONCE, &nonce)
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address);
        for (kind, value) in &unknown {
            builder = builder.attribute(AttributeType(*kind), value);
        }
        let key = credentials.ours(sha256);
        builder = if sha256 { builder.integrity_sha256(&key) } else { builder.integrity(&key) };
        let bytes = if fingerprint { builder.fingerprint().build() } else { builder.build() };

        let read = TheirMessage::from_bytes(&bytes).unwrap();
        prop_assert_eq!(read.class(), theirs);
        prop_assert_eq!(read.method().value(), method);
        prop_assert_eq!(read.transaction_id(), transaction(id).into());
        let username_read = read.attribute::<Username>().unwrap();
        prop_assert_eq!(username_read.username(), &username);
        let software_read = read.attribute::<Software>().unwrap();
        prop_assert_eq!(software_read.software(), &software);
        let realm_read = read.attribute::<Realm>().unwrap();
        prop_assert_eq!(realm_read.realm(), &realm);
        let nonce_read = read.attribute::<Nonce>().unwrap();
        prop_assert_eq!(nonce_read.nonce(), &nonce);
        let mapped = read.attribute::<XorMappedAddress>().unwrap();
        prop_assert_eq!(mapped.addr(read.transaction_id()), address);
        let algorithm = if sha256 { IntegrityAlgorithm::Sha256 } else { IntegrityAlgorithm::Sha1 };
        prop_assert_eq!(read.validate_integrity(&credentials.theirs()).unwrap(), algorithm);

        let message = Message::decode(&bytes).unwrap();
        let ours: Vec<_> = message.attributes.iter().map(|raw| (raw.kind.0, raw.value.to_vec())).collect();
        let theirs: Vec<_> = read.iter_attributes().map(|(_, raw)| (raw.get_type().value(), raw.value.to_vec())).collect();
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn we_read_what_they_write(
        (ours, theirs) in prop::sample::select(&CLASSES[..]), id in any::<[u8; 12]>(), software in "[ -~]{0,40}",
        address in address(), credentials in credentials(), sha256 in any::<bool>(), fingerprint in any::<bool>(),
    ) {
        let kind = MessageType::from_class_method(theirs, BINDING);
        let mut builder = TheirMessage::builder(kind, transaction(id).into(), MessageWriteVec::new());
        builder.add_attribute(&Software::new(&software).unwrap()).unwrap();
        builder.add_attribute(&XorMappedAddress::new(address, transaction(id).into())).unwrap();
        let algorithm = if sha256 { IntegrityAlgorithm::Sha256 } else { IntegrityAlgorithm::Sha1 };
        builder.add_message_integrity(&credentials.theirs(), algorithm).unwrap();
        if fingerprint {
            builder.add_fingerprint().unwrap();
        }
        let bytes = builder.finish();

        let message = Message::decode(&bytes).unwrap();
        prop_assert_eq!(&message.defects, &[]);
        prop_assert_eq!((message.class, message.method), (ours, Method::BINDING));
        prop_assert_eq!(message.transaction, TransactionId(id));
        prop_assert_eq!(message.text(AttributeType::SOFTWARE), Some(&software[..]));
        prop_assert_eq!(message.xor_address(AttributeType::XOR_MAPPED_ADDRESS), Some(address));
        prop_assert_eq!(message.check_integrity(&credentials.ours(sha256)), Integrity::Valid);
    }

    /// What they refuse for its structure, we call unsound; what we call sound, they read.
    #[test]
    fn what_we_call_sound_they_read(
        attributes in vec((0xC000_u16..0xC010, vec(any::<u8>(), 0..12)), 0..5),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..3), cut in 0_usize..6,
    ) {
        let mut builder = MessageBuilder::new(Class::Request, Method::BINDING, TransactionId([5; 12]));
        for (kind, value) in &attributes {
            builder = builder.attribute(AttributeType(*kind), value);
        }
        let mut bytes = builder.fingerprint().build();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(bytes.len() - cut);
        let sound = Message::decode(&bytes).is_ok_and(|message| message.is_sound());
        let read = TheirMessage::from_bytes(&bytes);
        prop_assert!(!sound || read.is_ok(), "we read it, they say {:?}", read.err());
    }
}
