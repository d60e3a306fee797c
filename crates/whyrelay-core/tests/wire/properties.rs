//! Properties of every message, every byte string and every candidate line.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;
use whyrelay_core::ice::candidate::{Candidate, CandidateAddress, CandidateTransport, CandidateType};
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::framing::{Deframer, Framing};
use whyrelay_core::wire::integrity::{Integrity, Key};
use whyrelay_core::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};
use whyrelay_core::wire::turn::{ChannelData, ChannelNumber};
use whyrelay_core::wire::{demux, dtls};

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![Just(Class::Request), Just(Class::Indication), Just(Class::Success), Just(Class::Error)]
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits))),
    ];
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

/// Any attribute but those that protect: a random value of MESSAGE-INTEGRITY would change what counts behind it.
fn attribute() -> impl Strategy<Value = (AttributeType, Vec<u8>)> {
    let protects = |kind: &u16| !matches!(kind, 0x0008 | 0x001C | 0x8028);
    (any::<u16>().prop_filter("protects", protects).prop_map(AttributeType), vec(any::<u8>(), 0..40))
}

/// A message that is right, with some bytes changed, cut or added.
fn broken() -> impl Strategy<Value = Vec<u8>> {
    let right = (class(), 0_u16..0x1000, any::<[u8; 12]>(), vec(attribute(), 0..8), any::<bool>()).prop_map(
        |(class, method, id, attributes, protect)| {
            let builder = MessageBuilder::new(class, Method(method), TransactionId(id));
            let builder = attributes.iter().fold(builder, |b, (kind, value)| b.attribute(*kind, value));
            if protect { builder.integrity(&Key::short_term("p")).fingerprint().build() } else { builder.build() }
        },
    );
    (
        right,
        vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        any::<prop::sample::Index>(),
        vec(any::<u8>(), 0..9),
    )
        .prop_map(|(mut bytes, changes, cut, more)| {
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(bytes.len() - cut.index(bytes.len().min(30)));
            bytes.extend(more);
            bytes
        })
}

/// Reading is total: no panic, one printable line, and the accessors agree with the list of attributes.
fn read_everything(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(message) = Message::decode(bytes) else { return Ok(()) };
    let line = message.describe();
    prop_assert!(!line.chars().any(char::is_control), "{line:?}");
    prop_assert!(line.len() < 16_384);
    prop_assert_eq!(message.defects.is_empty(), !line.contains("; wrong: "));
    for raw in &message.attributes {
        let value = message.attribute(raw.kind);
        prop_assert_eq!(message.has(raw.kind), value.is_some());
        let _ = (message.text(raw.kind), message.u32(raw.kind), message.u64(raw.kind));
        let _ = (message.address(raw.kind), message.xor_address(raw.kind));
        prop_assert!(bytes[raw.offset + 4..].starts_with(raw.value));
    }
    let _ = (message.error_code(), message.unknown_required(&[]));
    for key in [Key::short_term(""), Key::long_term("a", "b", "c")] {
        let integrity = message.check_integrity(&key);
        let present =
            message.has(AttributeType::MESSAGE_INTEGRITY) || message.has(AttributeType::MESSAGE_INTEGRITY_SHA256);
        prop_assert_eq!(integrity == Integrity::Absent, !present);
    }
    // Reading again what was read changes nothing: the message's own bytes carry all but what followed them.
    let again = Message::decode(message.bytes()).unwrap();
    prop_assert_eq!(&again.attributes, &message.attributes);
    let described = again.describe();
    prop_assert_eq!(described.split("; wrong: ").next(), line.split("; wrong: ").next());
    Ok(())
}

proptest! {
    #[test]
    fn what_is_built_is_read_back(
        class in class(), method in 0_u16..0x1000, id in any::<[u8; 12]>(), attributes in vec(attribute(), 0..12),
        address in address(), password in ".{0,20}", sha1 in any::<bool>(), sha256 in any::<bool>(),
    ) {
        let key = Key::short_term(&password);
        let mut builder = MessageBuilder::new(class, Method(method), TransactionId(id));
        for (kind, value) in &attributes {
            builder = builder.attribute(*kind, value);
        }
        builder = builder.xor_address(AttributeType::XOR_RELAYED_ADDRESS, address);
        if sha1 { builder = builder.integrity(&key); }
        if sha256 { builder = builder.integrity_sha256(&key); }
        let bytes = builder.fingerprint().build();

        let message = Message::decode(&bytes).unwrap();
        prop_assert!(message.is_sound(), "{:?}", message.defects);
        prop_assert_eq!((message.class, message.method, message.transaction), (class, Method(method), TransactionId(id)));
        prop_assert_eq!(message.bytes(), &bytes[..]);
        for ((kind, value), raw) in attributes.iter().zip(&message.attributes) {
            prop_assert_eq!((*kind, &value[..]), (raw.kind, raw.value));
        }
        if attributes.iter().all(|(kind, _)| *kind != AttributeType::XOR_RELAYED_ADDRESS) {
            prop_assert_eq!(message.xor_address(AttributeType::XOR_RELAYED_ADDRESS), Some(address));
        }
        let expected = if sha1 || sha256 { Integrity::Valid } else { Integrity::Absent };
        prop_assert_eq!(message.check_integrity(&key), expected);
        if expected == Integrity::Valid {
            prop_assert_eq!(message.check_integrity(&Key::short_term(&format!("{password}!"))), Integrity::Invalid);
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in vec(any::<u8>(), 0..200)) {
        read_everything(&bytes)?;
        let _ = (ChannelData::decode(&bytes), demux::Protocol::of(&bytes));
        let records = dtls::records(&bytes);
        prop_assert!(records.len() <= bytes.len());
        prop_assert!(records.iter().map(|record| usize::from(record.length)).sum::<usize>() <= bytes.len());
        records.iter().for_each(|record| assert!(!record.content.name().is_empty()));
    }

    #[test]
    fn any_broken_message_is_read_and_described(bytes in broken()) {
        read_everything(&bytes)?;
    }

    #[test]
    fn what_is_unsound_says_why(bytes in broken()) {
        if let Ok(message) = Message::decode(&bytes) && !message.is_sound() {
            prop_assert!(message.describe().contains("; wrong: "));
        }
    }

    #[test]
    fn transaction_ids_survive_text(id in any::<[u8; 12]>(), text in "\\PC{0,30}") {
        let id = TransactionId(id);
        prop_assert_eq!(TransactionId::try_from(String::from(id)), Ok(id));
        let _ = TransactionId::try_from(text);
    }

    #[test]
    fn channel_data_survives_the_round_trip(number in 0x4000_u16..0x5000, data in vec(any::<u8>(), 0..1500)) {
        let channel = ChannelNumber::new(number).unwrap();
        for bytes in [ChannelData::encode(channel, &data), ChannelData::encode_padded(channel, &data)] {
            prop_assert_eq!(ChannelData::decode(&bytes), Some(ChannelData { number, data: &data }));
        }
        prop_assert_eq!(ChannelData::encode_padded(channel, &data).len() % 4, 0);
        prop_assert_eq!(ChannelNumber::read(&channel.value()), Some(channel));
    }

    #[test]
    fn a_stream_in_any_pieces_gives_the_same_messages(
        messages in vec(prop_oneof![
            vec(any::<u8>(), 0..60).prop_map(|data| ChannelData::encode(ChannelNumber::FIRST, &data)),
            vec(any::<u8>(), 0..60).prop_map(|data| {
                MessageBuilder::new(Class::Indication, Method::DATA, TransactionId([1; 12])).attribute(AttributeType::DATA, &data).build()
            }),
        ], 0..6),
        cuts in vec(1_usize..50, 0..20), framing in prop_oneof![Just(Framing::Stun), Just(Framing::LengthPrefixed)],
    ) {
        let stream: Vec<u8> = messages.iter().flat_map(|message| framing.wrap(message)).collect();
        let mut deframer = Deframer::new(framing);
        let (mut rest, mut found, mut cuts) = (&stream[..], Vec::new(), cuts.into_iter());
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(cuts.next().unwrap_or(usize::MAX).min(rest.len()));
            deframer.push(piece);
            while let Some(message) = deframer.next_message().unwrap() {
                found.push(message.to_vec());
            }
            rest = later;
        }
        prop_assert_eq!(found, messages);
    }

    #[test]
    fn any_stream_ends_or_waits(bytes in vec(any::<u8>(), 0..400), piece in 1_usize..40) {
        for framing in [Framing::Stun, Framing::LengthPrefixed] {
            let mut deframer = Deframer::new(framing);
            'stream: for piece in bytes.chunks(piece) {
                deframer.push(piece);
                loop {
                    match deframer.next_message() {
                        Ok(Some(message)) => prop_assert!(message.len() <= bytes.len()),
                        Ok(None) => break,
                        Err(_) => break 'stream,
                    }
                }
            }
        }
    }

    #[test]
    fn every_candidate_survives_its_line(
        foundation in "[A-Za-z0-9+/]{1,32}", component in 1_u16..257, priority in any::<u32>(), address in address(),
        name in proptest::option::of("[a-z0-9-]{1,20}\\.local"),
        transport in prop_oneof![
            Just(CandidateTransport::Udp), Just(CandidateTransport::TcpActive),
            Just(CandidateTransport::TcpPassive), Just(CandidateTransport::TcpSimultaneousOpen),
        ],
        kind in prop_oneof![
            Just(CandidateType::Host), Just(CandidateType::ServerReflexive),
            Just(CandidateType::PeerReflexive), Just(CandidateType::Relayed),
        ],
        related in proptest::option::of(self::address()),
        extensions in vec(("x-[a-z]{1,8}", "[!-~]{1,12}"), 0..4),
    ) {
        let address = match name {
            Some(name) => CandidateAddress::Name { name, port: address.port() },
            None => CandidateAddress::Ip(address),
        };
        let candidate = Candidate { foundation, component, transport, priority, address, kind, related, extensions };
        let line = candidate.to_string();
        prop_assert_eq!(line.parse::<Candidate>(), Ok(candidate.clone()), "{}", &line);
        prop_assert_eq!(format!("a={line}\r\n").parse::<Candidate>(), Ok(candidate.clone()));
        let json = serde_json::to_string(&candidate).unwrap();
        prop_assert_eq!(serde_json::from_str::<Candidate>(&json).unwrap(), candidate);
    }

    #[test]
    fn any_line_is_read_or_refused_in_a_short_sentence(line in prop_oneof![
        "\\PC{0,200}",
        "(a=)?(candidate:)?[a-z0-9]{0,3} [0-9]{0,6} (udp|TCP|tls)? ?[0-9]{0,11} [0-9a-f.:]{0,20} [0-9]{0,6} typ (host|srflx|x)( [a-z]{1,9}){0,5}",
    ]) {
        match line.parse::<Candidate>() {
            Ok(candidate) => prop_assert_eq!(candidate.to_string().parse::<Candidate>(), Ok(candidate)),
            Err(error) => prop_assert!(error.to_string().len() < 1000),
        }
    }
}
