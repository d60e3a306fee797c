//! A recording in pieces: it travels over signaling, because signaling works also when no path between the peers does.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Bytes of a recording in one message. As base64 in JSON this stays well below [`super::MAX_MESSAGE`].
pub const RECORDING_CHUNK: usize = 32 * 1024;
/// Bytes of a compressed recording, at most: 128 messages.
const MAX_RECORDING: usize = crate::trace::packing::MAX_PACKED;

/// The content of `recording`: one piece of a compressed recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingChunk {
    /// Its place, from 0.
    pub index: u32,
    /// How many pieces there are.
    pub count: u32,
    /// The piece.
    pub data: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    index: u32,
    count: u32,
    data: String,
}

impl RecordingChunk {
    /// The piece as a message's content.
    pub fn to_content(&self) -> String {
        let wire = Wire { index: self.index, count: self.count, data: STANDARD.encode(&self.data) };
        // Two numbers and a string always serialize.
        serde_json::to_string(&wire).unwrap_or_default()
    }

    /// Reads a message's content.
    ///
    /// # Errors
    /// [`RecordingError::Garbled`] when it is no such piece.
    pub fn from_content(content: &str) -> Result<Self, RecordingError> {
        let wire: Wire = serde_json::from_str(content).map_err(|_| RecordingError::Garbled)?;
        let data = STANDARD.decode(wire.data).map_err(|_| RecordingError::Garbled)?;
        Ok(Self { index: wire.index, count: wire.count, data })
    }
}

/// The content of `trace`: events of a recording that goes on, compressed by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracePiece {
    /// How many pieces came before it; 0 begins anew.
    pub index: u32,
    /// Whether there are more events already.
    pub more: bool,
    /// The events, compressed as a recording is: at most [`RECORDING_CHUNK`] bytes.
    pub data: Vec<u8>,
}

impl TracePiece {
    /// The piece as a message's content.
    pub fn to_content(&self) -> String {
        serde_json::json!({ "index": self.index, "more": self.more, "data": STANDARD.encode(&self.data) }).to_string()
    }
}

/// Cuts a compressed recording into pieces; an empty one is one empty piece.
///
/// # Errors
/// [`RecordingError::TooLarge`] beyond 4 MiB.
pub fn split_recording(compressed: &[u8]) -> Result<impl Iterator<Item = RecordingChunk> + '_, RecordingError> {
    if compressed.len() > MAX_RECORDING {
        return Err(RecordingError::TooLarge);
    }
    let count = compressed.len().div_ceil(RECORDING_CHUNK).max(1);
    // At most 128 pieces, so the casts lose nothing.
    Ok((0..count).map(move |index| RecordingChunk {
        index: index as u32,
        count: count as u32,
        data: compressed
            .get(index * RECORDING_CHUNK..compressed.len().min((index + 1) * RECORDING_CHUNK))
            .unwrap_or_default()
            .to_vec(),
    }))
}

/// Puts the other side's pieces together again, within bounds.
#[derive(Debug, Default)]
pub struct RecordingAssembler {
    data: Vec<u8>,
    next: u32,
    count: Option<u32>,
}

impl RecordingAssembler {
    /// Nothing received yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece; answers the compressed recording once it is whole. A repeated piece is ignored, and
    /// piece 0 after others begins anew (the peer came back and starts over).
    ///
    /// # Errors
    /// When a piece is missing, contradicts the others, or the whole is too large; the assembler is then empty.
    pub fn push(&mut self, chunk: &RecordingChunk) -> Result<Option<Vec<u8>>, RecordingError> {
        if chunk.index == 0 && self.count != Some(chunk.count) {
            *self = Self { count: Some(chunk.count), ..Self::default() };
        }
        if chunk.index < self.next {
            return Ok(None);
        }
        if chunk.index != self.next || chunk.index >= chunk.count || self.count != Some(chunk.count) {
            *self = Self::default();
            return Err(RecordingError::Missing);
        }
        if chunk.data.len() > RECORDING_CHUNK || self.data.len() + chunk.data.len() > MAX_RECORDING {
            *self = Self::default();
            return Err(RecordingError::TooLarge);
        }
        self.data.extend_from_slice(&chunk.data);
        self.next += 1;
        Ok((self.next == chunk.count).then(|| std::mem::take(&mut self.data)))
    }

    /// Pieces received, and how many there are in all if that is known.
    pub fn progress(&self) -> (u32, Option<u32>) {
        (self.next, self.count)
    }
}

/// Why the other side's recording cannot be put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordingError {
    /// A message's content is no piece.
    #[error("a piece of the recording is garbled")]
    Garbled,
    /// A piece is missing or contradicts the others.
    #[error("a piece of the recording is missing")]
    Missing,
    /// Larger than is accepted.
    #[error("the recording is larger than 4 MiB compressed")]
    TooLarge,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::signal::MAX_MESSAGE;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_recording_survives_the_journey(len in 0usize..5 * RECORDING_CHUNK, repeat in any::<bool>()) {
            let recording: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            let mut assembler = RecordingAssembler::new();
            let mut whole = None;
            for chunk in split_recording(&recording).unwrap() {
                let content = chunk.to_content();
                prop_assert!(content.len() < MAX_MESSAGE * 3 / 4);
                let chunk = RecordingChunk::from_content(&content).unwrap();
                if let Some(done) = assembler.push(&chunk).unwrap() { whole = Some(done); }
                if repeat { prop_assert_eq!(assembler.push(&chunk).unwrap(), None); }
            }
            prop_assert_eq!(whole, Some(recording));
        }

        #[test]
        fn hostile_pieces_never_grow_without_bound(pieces in proptest::collection::vec((0u32..4, 0u32..4, 0usize..3), 0..60)) {
            let mut assembler = RecordingAssembler::new();
            for (index, count, size) in pieces {
                let _ = assembler.push(&RecordingChunk { index, count, data: vec![0; size * RECORDING_CHUNK] });
                prop_assert!(assembler.data.len() <= 4 * RECORDING_CHUNK);
            }
        }
    }

    #[test]
    fn a_gap_is_an_error_and_not_a_shorter_recording() {
        let mut assembler = RecordingAssembler::new();
        let piece = |index| RecordingChunk { index, count: 3, data: vec![1] };
        assert_eq!(assembler.push(&piece(0)), Ok(None));
        assert_eq!(assembler.push(&piece(2)), Err(RecordingError::Missing));
    }

    #[test]
    fn garbage_is_an_error() {
        assert_eq!(RecordingChunk::from_content("no"), Err(RecordingError::Garbled));
        assert_eq!(RecordingChunk::from_content(r#"{"index":0,"count":1,"data":"*"}"#), Err(RecordingError::Garbled));
    }
}
