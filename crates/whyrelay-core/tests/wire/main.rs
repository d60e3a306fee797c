//! The wire's proofs: published vectors, a torture set, properties, and agreement with another decoder.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod differential;
mod properties;
mod rfc5769;
mod torture;

/// Bytes from hexadecimal digits; anything else between them is for the reader.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
