//! A STUN server's answer to a Binding request (RFC 8489 §6.3.1): the address it came from, and nothing else.
//!
//! The answer is kept small, because anybody can have it sent to anybody: no SOFTWARE, FINGERPRINT only for who sent
//! one, no reason phrase. A bare IPv4 request of 20 bytes gets 32 (1.6 ×); an IPv6 address makes it 44.

use std::net::SocketAddr;

use crate::wire::attribute::AttributeType;
use crate::wire::stun::{Class, Message, MessageBuilder, Method};

/// Answers a Binding request that came from `source`.
///
/// `None` for everything that gets no answer: a message that is not a sound STUN request for Binding, and one whose
/// source nobody can receive at (port 0).
pub fn answer(message: &Message<'_>, source: SocketAddr) -> Option<Vec<u8>> {
    answer_with_code(message, source).map(|(bytes, _)| bytes)
}

/// The same, and the code of an answer that is an error.
pub(super) fn answer_with_code(message: &Message<'_>, source: SocketAddr) -> Option<(Vec<u8>, Option<u16>)> {
    let binding = message.class == Class::Request && message.method == Method::BINDING;
    if !binding || !message.is_sound() || source.port() == 0 {
        return None;
    }
    let unknown = unknown_attributes(message, &UNDERSTOOD);
    let code = (!unknown.is_empty()).then_some(420);
    let reply = match code {
        None => MessageBuilder::new(Class::Success, Method::BINDING, message.transaction)
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, source),
        Some(code) => MessageBuilder::new(Class::Error, Method::BINDING, message.transaction)
            .error(code, "")
            .unknown_attributes(&unknown),
    };
    let reply = if message.has(AttributeType::FINGERPRINT) { reply.fingerprint() } else { reply };
    Some((reply.build(), code))
}

/// The comprehension-required attributes before MESSAGE-INTEGRITY that `known` does not name: each once, at most 16,
/// so that the 420 is never larger than a request that carried them (RFC 8489 §14.13).
pub(super) fn unknown_attributes(message: &Message<'_>, known: &[AttributeType]) -> Vec<AttributeType> {
    let mut unknown = Vec::new();
    for attribute in &message.attributes {
        let kind = attribute.kind;
        if kind.comprehension_required() && !known.contains(&kind) && !unknown.contains(&kind) && unknown.len() < 16 {
            unknown.push(kind);
        }
        if kind == AttributeType::MESSAGE_INTEGRITY {
            break;
        }
    }
    unknown
}

/// What RFC 8489 defines and may stand in a Binding request. CHANGE-REQUEST is not among them: a server without a
/// second address answers it 420 (RFC 5780 §6.1).
const UNDERSTOOD: [AttributeType; 10] = [
    AttributeType::MAPPED_ADDRESS,
    AttributeType::USERNAME,
    AttributeType::MESSAGE_INTEGRITY,
    AttributeType::MESSAGE_INTEGRITY_SHA256,
    AttributeType::USERHASH,
    AttributeType::PASSWORD_ALGORITHM,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::XOR_MAPPED_ADDRESS,
    AttributeType::UNKNOWN_ATTRIBUTES,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::stun::TransactionId;

    const ID: TransactionId = TransactionId([5; 12]);

    fn source() -> SocketAddr {
        "203.0.113.9:40000".parse().unwrap()
    }

    fn answer_to(request: MessageBuilder, source: SocketAddr) -> Option<Vec<u8>> {
        answer(&Message::decode(&request.build()).unwrap(), source)
    }

    #[test]
    fn a_binding_request_gets_its_source_back() {
        for source in [source(), "[2001:db8::7]:5000".parse().unwrap()] {
            let bytes = answer_to(MessageBuilder::new(Class::Request, Method::BINDING, ID), source).unwrap();
            let reply = Message::decode(&bytes).unwrap();
            assert_eq!((reply.class, reply.transaction), (Class::Success, ID));
            assert_eq!(reply.xor_address(AttributeType::XOR_MAPPED_ADDRESS), Some(source));
            assert_eq!(reply.attributes.len(), 1, "nothing that was not asked for");
        }
    }

    #[test]
    fn security_5_a_bare_binding_request_is_answered_with_at_most_1_6_times_its_size() {
        let request = MessageBuilder::new(Class::Request, Method::BINDING, ID).build();
        let reply = answer(&Message::decode(&request).unwrap(), source()).unwrap();
        assert!(reply.len() * 10 <= request.len() * 16, "{} for {}", reply.len(), request.len());
    }

    #[test]
    fn fingerprint_is_sent_to_who_sent_it() {
        let request = MessageBuilder::new(Class::Request, Method::BINDING, ID).fingerprint();
        let bytes = answer_to(request, source()).unwrap();
        let reply = Message::decode(&bytes).unwrap();
        assert!(reply.has(AttributeType::FINGERPRINT) && reply.is_sound());
    }

    #[test]
    fn unknown_required_attributes_get_420_no_larger_than_twice_the_request() {
        let mut request = MessageBuilder::new(Class::Request, Method::BINDING, ID);
        for kind in 0..1000 {
            request = request.attribute(AttributeType(0x2000 + kind % 500), &[]);
        }
        let bytes = answer_to(request, source()).unwrap();
        let reply = Message::decode(&bytes).unwrap();
        assert_eq!(reply.error_code().unwrap().code, 420);
        assert_eq!(reply.attribute(AttributeType::UNKNOWN_ATTRIBUTES).unwrap().value.len(), 32);
        let one = MessageBuilder::new(Class::Request, Method::BINDING, ID).u32(AttributeType::CHANGE_REQUEST, 6);
        assert_eq!(answer_to(one, source()).unwrap().len(), 36);
    }

    #[test]
    fn security_10_responses_indications_and_port_zero_get_no_answer() {
        for class in [Class::Success, Class::Error, Class::Indication] {
            assert_eq!(answer_to(MessageBuilder::new(class, Method::BINDING, ID), source()), None);
        }
        let request = MessageBuilder::new(Class::Request, Method::BINDING, ID);
        assert_eq!(answer_to(request, "203.0.113.9:0".parse().unwrap()), None);
    }

    #[test]
    fn broken_messages_get_no_answer() {
        let mut bytes =
            MessageBuilder::new(Class::Request, Method::BINDING, ID).u32(AttributeType::LIFETIME, 1).build();
        bytes[4] ^= 1;
        assert_eq!(answer(&Message::decode(&bytes).unwrap(), source()), None, "cookie off by one bit");
        bytes[4] ^= 1;
        bytes.pop();
        assert_eq!(answer(&Message::decode(&bytes).unwrap(), source()), None, "truncated");
    }
}
