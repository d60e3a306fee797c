//! What probing peers say to each other: PROBE requests, their answers and openers, secured like checks (RFC 8445
//! §7.1: USERNAME of both fragments, MESSAGE-INTEGRITY with the receiver's password).

use std::net::SocketAddr;

use crate::ice::Credentials;
use crate::wire::attribute::AttributeType;
use crate::wire::integrity::Integrity;
use crate::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};

/// PROBE-OPERATION of a probe between peers: no operation of a server has this number.
const BETWEEN_PEERS: u8 = 0x50;

/// Type and length of an attribute.
const ATTRIBUTE_HEADER: usize = 4;

/// The names of aims on the wire: the order is the number.
const AIMS: [&str; 9] = [
    "plain",
    "device",
    "other-port",
    "without-mark",
    "time-to-live",
    "padded",
    "early-arrival",
    "after-opener",
    SILENCE,
];

/// The aim of a socket that is silent for a while.
const SILENCE: &str = "silence";

/// A request or an opener.
pub(super) fn message(
    class: Class,
    id: TransactionId,
    aim: &str,
    ours: &Credentials,
    theirs: &Credentials,
    length: Option<u16>,
) -> Vec<u8> {
    let number = AIMS.iter().position(|known| *known == aim).unwrap_or(usize::from(u8::MAX));
    let build = |padding: usize| {
        let mut message = MessageBuilder::new(class, Method::PROBE, id)
            .text(AttributeType::USERNAME, &format!("{}:{}", theirs.ufrag(), ours.ufrag()))
            .attribute(AttributeType::PROBE_OPERATION, &[BETWEEN_PEERS, number.try_into().unwrap_or(u8::MAX), 0, 0]);
        if padding > 0 {
            message = message.attribute(AttributeType::PADDING, &vec![0; padding]);
        }
        message.integrity(&theirs.key()).fingerprint().build()
    };
    let plain = build(0);
    match length.map(usize::from) {
        Some(length) if length > plain.len() + ATTRIBUTE_HEADER => build(length - plain.len() - ATTRIBUTE_HEADER),
        _ => plain,
    }
}

/// An opener for the peer's probes: it asks for nothing and only opens what is in front of us.
pub fn opener(id: TransactionId, ours: &Credentials, theirs: &Credentials) -> Vec<u8> {
    message(Class::Indication, id, "opener", ours, theirs, None)
}

/// What ends the silence of a peer's socket, unasked: it arrives where the mapping still stands.
pub fn knock(id: TransactionId, ours: &Credentials, theirs: &Credentials) -> Vec<u8> {
    message(Class::Indication, id, SILENCE, ours, theirs, None)
}

/// Whether it is a [`knock`] of the peer.
pub(super) fn is_knock(bytes: &[u8], from: SocketAddr, ours: &Credentials) -> bool {
    receive(bytes, from, ours).is_some_and(|seen| seen.aim == SILENCE && seen.answer.is_none())
}

/// A probe of the peer, its integrity proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What the peer calls its aim.
    pub aim: String,
    /// The answer to send; `None` for an opener.
    pub answer: Option<Vec<u8>>,
}

/// Whether a datagram claims to be a probe between peers: no agent and no server should see it.
pub fn is_between_peers(bytes: &[u8]) -> bool {
    Message::decode(bytes).is_ok_and(|message| {
        message.method == Method::PROBE && (message.has(AttributeType::USERNAME) || message.class != Class::Request)
    })
}

/// Reads a probe for us; `None` for everything else, and for what a stranger may have sent.
pub fn receive(bytes: &[u8], from: SocketAddr, ours: &Credentials) -> Option<Seen> {
    let message = Message::decode(bytes).ok().filter(Message::is_sound)?;
    if message.method != Method::PROBE || !matches!(message.class, Class::Request | Class::Indication) {
        return None;
    }
    let to = message.text(AttributeType::USERNAME)?.split_once(':')?.0;
    if to != ours.ufrag() || message.check_integrity(&ours.key()) != Integrity::Valid {
        return None;
    }
    let [BETWEEN_PEERS, number, ..] = message.attribute(AttributeType::PROBE_OPERATION)?.value else { return None };
    let answer = (message.class == Class::Request).then(|| {
        MessageBuilder::new(Class::Success, Method::PROBE, message.transaction)
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, from)
            .integrity(&ours.key())
            .fingerprint()
            .build()
    });
    Some(Seen { aim: (*AIMS.get(usize::from(*number)).unwrap_or(&"unknown")).to_owned(), answer })
}

/// Reads an answer of the peer: its transaction and where the peer saw the request come from.
pub(super) fn read_answer(bytes: &[u8], theirs: &Credentials) -> Option<(TransactionId, SocketAddr)> {
    let message = Message::decode(bytes).ok().filter(Message::is_sound)?;
    let ours = message.method == Method::PROBE
        && message.class == Class::Success
        && message.check_integrity(&theirs.key()) == Integrity::Valid;
    let mapped = message.xor_address(AttributeType::XOR_MAPPED_ADDRESS)?;
    ours.then_some((message.transaction, mapped))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> (Credentials, Credentials) {
        (Credentials::new("aaaa", "a".repeat(22)), Credentials::new("bbbb", "b".repeat(22)))
    }

    #[test]
    fn a_request_is_answered_with_its_source_and_the_answer_is_read() {
        let (a, b) = both();
        let from: SocketAddr = "203.0.113.9:4000".parse().unwrap();
        for aim in AIMS {
            let id = TransactionId([7; 12]);
            let seen = receive(&message(Class::Request, id, aim, &a, &b, None), from, &b).unwrap();
            assert_eq!(seen.aim, aim);
            assert_eq!(read_answer(&seen.answer.unwrap(), &b), Some((id, from)));
            let opener = message(Class::Indication, id, aim, &a, &b, None);
            assert_eq!(receive(&opener, from, &b), Some(Seen { aim: aim.into(), answer: None }));
        }
    }

    #[test]
    fn padding_makes_a_datagram_as_long_as_asked() {
        let (a, b) = both();
        for length in [1200, 1252, 1452, 1472] {
            let bytes = message(Class::Request, TransactionId([1; 12]), "padded", &a, &b, Some(length));
            assert_eq!(bytes.len(), usize::from(length));
            assert!(receive(&bytes, "192.0.2.1:1".parse().unwrap(), &b).is_some());
        }
    }

    #[test]
    fn strangers_and_garbage_get_nothing() {
        let (a, b) = both();
        let from = "203.0.113.9:4000".parse().unwrap();
        let good = message(Class::Request, TransactionId([7; 12]), "plain", &a, &b, None);
        assert!(receive(&good, from, &a).is_none(), "it is for b");
        let stranger = Credentials::new("bbbb", "c".repeat(22));
        assert!(
            receive(&message(Class::Request, TransactionId([7; 12]), "plain", &a, &stranger, None), from, &b).is_none()
        );
        // The fingerprint behind it is no part of what is proven.
        for at in 0..good.len() - 8 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(receive(&bad, from, &b).is_none(), "byte {at}");
            assert!(receive(&good[..at], from, &b).is_none());
        }
        let answer = receive(&good, from, &b).unwrap().answer.unwrap();
        assert!(read_answer(&answer, &a).is_none(), "it was not made with a's password");
        assert!(is_between_peers(&good) && is_between_peers(&answer) && !is_between_peers(b"\x16\xfe\xfd"));
    }
}
