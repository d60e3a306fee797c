//! A stream in pieces gives the same messages as in one piece, and never more bytes than went in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whyrelay_core::wire::framing::{Deframer, Framing, NotFramed};
use whyrelay_core::wire::turn::{ChannelData, ChannelNumber};

fn messages(framing: Framing, pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Option<NotFramed>) {
    let mut deframer = Deframer::new(framing);
    let mut found = Vec::new();
    for piece in pieces {
        deframer.push(piece);
        loop {
            match deframer.next_message() {
                Ok(Some(message)) => found.push(message.to_vec()),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((split, stream)) = bytes.split_first() else { return };
    let (first, second) = stream.split_at(usize::from(*split).min(stream.len()));
    for framing in [Framing::Stun, Framing::LengthPrefixed] {
        let whole = messages(framing, &[stream]);
        assert_eq!(messages(framing, &[first, second]), whole);
        assert!(whole.0.iter().map(Vec::len).sum::<usize>() <= stream.len());
    }
    if let Some(message) = ChannelData::decode(stream) {
        assert!(message.data.len() + 4 <= stream.len());
        if let Some(channel) = ChannelNumber::new(message.number) {
            let encoded = ChannelData::encode(channel, message.data);
            assert_eq!(ChannelData::decode(&encoded), Some(message));
        }
    }
});
