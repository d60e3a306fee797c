//! Any bytes as a STUN message: no panic, one printable line, and reading what was read changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::integrity::{Integrity, Key};
use whyrelay_core::wire::stun::Message;

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::decode(bytes) else { return };
    let line = message.describe();
    assert!(!line.chars().any(char::is_control) && line.len() < 16_384);
    for raw in &message.attributes {
        let _ = (message.attribute(raw.kind), message.text(raw.kind), message.u32(raw.kind), message.u64(raw.kind));
        let _ = (message.address(raw.kind), message.xor_address(raw.kind), message.xor_addresses(raw.kind).count());
        assert_eq!(&bytes[raw.offset + 4..raw.offset + 4 + raw.value.len()], raw.value);
        if message.attributes.len() > 64 {
            break;
        }
    }
    let _ = (message.error_code(), message.unknown_required(&[]));
    let present = message.has(AttributeType::MESSAGE_INTEGRITY) || message.has(AttributeType::MESSAGE_INTEGRITY_SHA256);
    let integrity = message.check_integrity(&Key::short_term("VOkJxbRl1RmTxUk/WvJxBt"));
    assert_eq!(integrity == Integrity::Absent, !present);
    let again = Message::decode(message.bytes()).expect("it has a header");
    assert_eq!(again.attributes, message.attributes);
});
