//! Any bytes at the door: what the trace keeps of them is never longer and holds no integrity value.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whyrelay_core::trace::datagram::{Classify, Passage};
use whyrelay_core::trace::event::{Datagram, Direction, Transport};
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::stun::Message;

fuzz_target!(|bytes: &[u8]| {
    let address = "192.0.2.1:1".parse().expect("an address");
    let passage = |bytes| Passage {
        direction: Direction::In,
        transport: Transport::Udp,
        local: address,
        remote: address,
        interface: None,
        bytes,
        integrity: None,
    };
    let _ = Classify::of(bytes);
    let kept = Datagram::sanitised(passage(bytes));
    assert!(kept.data.len() <= bytes.len() && kept.length as usize == bytes.len());
    // Not a bit of an integrity value is kept.
    if let Ok(message) = Message::decode(bytes)
        && message.is_sound()
    {
        for raw in message.attributes.iter().filter(|raw| raw.kind == AttributeType::MESSAGE_INTEGRITY) {
            let value = kept.data.iter().skip(raw.offset + 4).take(raw.value.len());
            assert!(value.copied().all(|byte| byte == 0));
        }
    }
});
