//! Any bytes as a signaling message: what is read is written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whyrelay_core::signal::{Message, RecordingChunk};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = Message::from_json(bytes) {
        let json = message.to_json();
        assert_eq!(Message::from_json(json.as_bytes()).expect("what we write we read"), message);
        let _ = RecordingChunk::from_content(&message.content);
    }
});
