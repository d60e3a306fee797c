//! Any bytes as a recording: events that are read are written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whyrelay_core::trace::packing;
use whyrelay_core::trace::recording::{Recording, encode};

fuzz_target!(|bytes: &[u8]| {
    let _ = packing::unpack(bytes);
    if let Ok(recording) = Recording::read(bytes) {
        let written: String = recording.events.iter().map(encode).collect();
        let again = Recording::read(written.as_bytes()).expect("what we write we read");
        assert_eq!(again.events, recording.events);
    }
});
