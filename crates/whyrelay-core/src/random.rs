//! Random bytes from a seed that is an argument: same seed, same session.

use sha2::{Digest, Sha256};

use crate::wire::stun::TransactionId;

/// A stream of unpredictable bytes from a 32-byte seed: SHA-256 of seed and counter.
///
/// The binary seeds it from the operating system; tests seed it with a number. It never shows its state.
#[derive(Clone)]
pub struct Random {
    seed: [u8; 32],
    counter: u64,
}

impl Random {
    /// A stream from a seed.
    pub const fn from_seed(seed: [u8; 32]) -> Self {
        Self { seed, counter: 0 }
    }

    /// A stream for tests and simulations.
    pub fn from_number(number: u64) -> Self {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        Self::from_seed(seed)
    }

    /// A stream of its own for a part of the program, so that adding a part does not change the others.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::from_seed(self.block())
    }

    /// The next bytes, up to 32.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= 32, "one block has 32 bytes") };
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.block()[..N]);
        bytes
    }

    /// The next 64-bit number.
    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes())
    }

    /// A number below `bound`; 0 for a bound of 0. The bias of the remainder is below 2⁻³² for bounds below 2³².
    pub fn below(&mut self, bound: u64) -> u64 {
        self.u64().checked_rem(bound).unwrap_or(0)
    }

    /// A transaction id (RFC 8489 §6: uniformly and randomly chosen).
    pub fn transaction_id(&mut self) -> TransactionId {
        TransactionId(self.bytes())
    }

    /// `length` ice-chars (RFC 8839 §5.4), 6 bits of randomness each.
    pub fn ice_chars(&mut self, length: usize) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::with_capacity(length);
        while text.len() < length {
            let left = length - text.len();
            text.extend(self.block().iter().take(left).map(|byte| char::from(ALPHABET[usize::from(byte & 63)])));
        }
        text
    }

    fn block(&mut self) -> [u8; 32] {
        let block = Sha256::new().chain_update(self.seed).chain_update(self.counter.to_be_bytes()).finalize();
        self.counter += 1;
        block.into()
    }
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Random(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_stream_and_forks_differ() {
        let (mut one, mut two) = (Random::from_number(7), Random::from_number(7));
        assert_eq!(one.ice_chars(40), two.ice_chars(40));
        let mut fork = one.fork();
        assert_ne!(fork.u64(), one.u64());
        assert_ne!(Random::from_number(8).u64(), Random::from_number(7).u64());
    }
}
