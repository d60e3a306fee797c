//! A recording on its way to the other side: compressed here, cut into messages by [`crate::signal`].

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use super::event::{Event, EventKind};
use super::recording::{Recording, RecordingError, encode};

/// Most bytes of a recording that travels, before compression.
pub const MAX_UNPACKED: usize = 32 * 1024 * 1024;

/// Most bytes of a packed recording that are accepted.
pub const MAX_PACKED: usize = 4 * 1024 * 1024;

/// Why a packed recording cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Larger than is accepted, packed or unpacked.
    #[error("the peer's recording is larger than is accepted ({MAX_PACKED} bytes packed, {MAX_UNPACKED} unpacked)")]
    TooLarge,
    /// It cannot be decompressed.
    #[error("the peer's recording cannot be decompressed")]
    Garbled,
    /// It is no recording that we read.
    #[error(transparent)]
    Recording(#[from] RecordingError),
}

/// Compresses a recording (zlib). Where it is longer than the bounds allow, the middle is left out and an
/// [`EventKind::EventsDropped`] stands there: how a session started and how it ended says most.
pub fn pack(events: &[Event]) -> Vec<u8> {
    let mut budget = MAX_UNPACKED;
    loop {
        let packed = compress(&fit(events, budget));
        // A recording that hardly compresses is cut further; a few lines are left at the end at the latest.
        if packed.len() <= MAX_PACKED || budget < 64 * 1024 {
            return packed;
        }
        budget /= 2;
    }
}

/// Reads what [`pack`] made.
///
/// # Errors
/// When it is too large, damaged, or no recording that this version reads.
pub fn unpack(packed: &[u8]) -> Result<Recording, UnpackError> {
    unpack_at_most(packed, MAX_UNPACKED)
}

/// The same with another bound, in bytes before compression.
///
/// # Errors
/// As for [`unpack`].
pub fn unpack_at_most(packed: &[u8], most: usize) -> Result<Recording, UnpackError> {
    if packed.len() > MAX_PACKED {
        return Err(UnpackError::TooLarge);
    }
    let mut bytes = Vec::new();
    // One byte beyond the bound tells too large from just fitting.
    let mut decoder = ZlibDecoder::new(packed).take(most as u64 + 1);
    decoder.read_to_end(&mut bytes).map_err(|_| UnpackError::Garbled)?;
    if bytes.len() > most {
        return Err(UnpackError::TooLarge);
    }
    Ok(Recording::read(&bytes)?)
}

fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    // Writing to a vector cannot fail.
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.unwrap_or_default()
}

/// The lines of the events, or of as many of the first and the last as fit.
fn fit(events: &[Event], budget: usize) -> Vec<u8> {
    let lines: Vec<String> = events.iter().map(encode).collect();
    if lines.iter().map(String::len).sum::<usize>() <= budget {
        return lines.concat().into_bytes();
    }
    let half = budget / 2 - 256;
    let fitting = |mut lengths: Box<dyn Iterator<Item = usize> + '_>| {
        let mut left = half;
        std::iter::from_fn(move || {
            left = left.checked_sub(lengths.next()?)?;
            Some(())
        })
        .count()
    };
    let head = fitting(Box::new(lines.iter().map(String::len)));
    let tail = fitting(Box::new(lines.iter().rev().map(String::len))).min(lines.len() - head);
    let dropped = &events[head..events.len() - tail];
    let mut bytes = lines[..head].concat().into_bytes();
    if let Some(first) = dropped.first() {
        let count = dropped.len() as u64;
        let gap = Event { kind: EventKind::EventsDropped { count }, ..first.clone() };
        bytes.extend_from_slice(encode(&gap).as_bytes());
    }
    bytes.extend_from_slice(lines[lines.len() - tail..].concat().as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::Timestamp;
    use crate::trace::event::Vantage;
    use crate::trace::recording::Recorder;

    fn events(count: usize, text: &str) -> Vec<Event> {
        let mut recorder = Recorder::new(Vantage::B);
        let kind = |i| EventKind::ChannelClosed { detail: format!("{i} {text}") };
        (0..count).map(|i| recorder.record(Timestamp::from_micros(i as u64), kind(i))).collect()
    }

    #[test]
    fn a_recording_survives_the_journey() {
        let events = events(1000, "closed");
        let packed = pack(&events);
        assert!(packed.len() < 20_000, "{} bytes", packed.len());
        assert_eq!(unpack(&packed).unwrap().events, events);
    }

    #[test]
    fn a_long_recording_loses_its_middle_and_says_so() {
        let events = events(100, &"x".repeat(1000));
        let recording = Recording::read(&fit(&events, 40_000)).unwrap();
        let gaps: Vec<_> =
            recording.events.iter().filter(|e| matches!(e.kind, EventKind::EventsDropped { .. })).collect();
        let EventKind::EventsDropped { count } = gaps[0].kind else { unreachable!() };
        assert_eq!(count as usize + recording.events.len() - 1, 100);
        assert_eq!((recording.events.first(), recording.events.last()), (events.first(), events.last()));
        let whole = Recording { events: events.clone(), ..Recording::default() };
        assert_eq!(Recording::merge([recording, whole]).unwrap().events, events);
    }

    #[test]
    fn a_bomb_is_not_inflated() {
        let bomb = compress(&vec![b' '; MAX_UNPACKED + 1]);
        assert!(bomb.len() < MAX_PACKED);
        assert!(matches!(unpack(&bomb), Err(UnpackError::TooLarge)));
        assert!(matches!(unpack(&vec![0; MAX_PACKED + 1]), Err(UnpackError::TooLarge)));
    }

    proptest! {
        #[test]
        fn garbage_never_unpacks_to_events(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            if let Ok(recording) = unpack(&bytes) {
                prop_assert!(recording.events.is_empty());
            }
        }
    }
}
