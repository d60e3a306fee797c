//! Any bytes at the door: what the trace keeps of them is never longer, and keeping it twice changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whyrelay_core::trace::datagram::{Classify, Passage};
use whyrelay_core::trace::event::{Datagram, Direction, Transport};

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
    let again = Datagram::sanitised(passage(&kept.data));
    assert_eq!(again.data, kept.data);
});
