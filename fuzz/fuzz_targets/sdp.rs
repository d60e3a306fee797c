//! Any text as a session description: what is read is written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whyrelay_core::sdp::{SdpType, SessionDescription};

fuzz_target!(|text: &str| {
    for kind in [SdpType::Offer, SdpType::Answer] {
        if let Ok(description) = SessionDescription::parse(kind, text) {
            let written = description.to_string();
            let again = SessionDescription::parse(kind, &written).expect("what we write we read");
            assert_eq!(again.to_string(), written);
        }
    }
});
