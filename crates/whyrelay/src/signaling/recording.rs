//! A recording as contents of messages: compressed, in pieces, within bounds.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use whyrelay_core::signal::{RecordingError, split_recording};

/// Bytes of the other side's recording once decompressed, at most. A session of a minute records well below 1 MB.
const MAX_UNPACKED: u64 = 256 * 1024 * 1024;

/// Why a recording cannot travel.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// It is too large, or its pieces do not fit each other.
    #[error(transparent)]
    Pieces(#[from] RecordingError),
    /// It cannot be compressed or decompressed.
    #[error("the recording's compression is broken")]
    Compression(#[from] io::Error),
}

/// Compresses a recording and cuts it into the contents of `recording` messages, to be sent in this order.
///
/// # Errors
/// [`PackError::Pieces`] when it is larger than 32 MiB compressed.
pub fn pack_recording(recording: &[u8]) -> Result<Vec<String>, PackError> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(recording)?;
    let compressed = encoder.finish()?;
    Ok(split_recording(&compressed)?.map(|chunk| chunk.to_content()).collect())
}

/// Decompresses what a [`whyrelay_core::signal::RecordingAssembler`] put together.
///
/// # Errors
/// [`PackError::Compression`] when it is garbled, [`PackError::Pieces`] beyond 256 MiB.
pub fn unpack_recording(compressed: &[u8]) -> Result<Vec<u8>, PackError> {
    let mut recording = Vec::new();
    DeflateDecoder::new(compressed).take(MAX_UNPACKED + 1).read_to_end(&mut recording)?;
    if recording.len() as u64 > MAX_UNPACKED {
        return Err(RecordingError::TooLarge.into());
    }
    Ok(recording)
}

#[cfg(test)]
mod tests {
    use whyrelay_core::signal::{RecordingAssembler, RecordingChunk};

    use super::*;

    #[test]
    fn a_recording_survives_packing() {
        let mut random = 1u32;
        let recording: Vec<u8> = (0..300_000)
            .map(|_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (random >> 24) as u8
            })
            .collect();
        let contents = pack_recording(&recording).unwrap();
        assert!(contents.len() > 1);
        let mut assembler = RecordingAssembler::new();
        let whole = contents
            .iter()
            .find_map(|content| assembler.push(&RecordingChunk::from_content(content).unwrap()).unwrap())
            .unwrap();
        assert_eq!(unpack_recording(&whole).unwrap(), recording);
    }

    #[test]
    fn a_compression_bomb_is_refused() {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        let zeros = vec![0; 1024 * 1024];
        for _ in 0..257 {
            encoder.write_all(&zeros).unwrap();
        }
        let bomb = encoder.finish().unwrap();
        assert!(matches!(unpack_recording(&bomb), Err(PackError::Pieces(RecordingError::TooLarge))));
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(unpack_recording(&[0xff; 100]).is_err());
    }
}
