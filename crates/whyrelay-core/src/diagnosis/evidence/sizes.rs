//! How large the datagrams were that passed between one socket and one address, STUN aside.

use crate::trace::event::Direction;

/// Sizes of datagrams, in bytes of UDP payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Number of the event of the largest one sent.
    pub seq: u64,
    /// The largest sent.
    pub largest_out: u32,
    /// The largest received.
    pub largest_in: u32,
    /// How many of at least [`LARGE`] bytes were sent.
    pub large_out: u32,
}

/// A large datagram: a DTLS flight with a certificate is, checks and keep-alives are not.
pub const LARGE: u32 = 600;

impl Sizes {
    pub(super) fn add(&mut self, seq: u64, direction: Direction, length: u32) {
        match direction {
            Direction::Out => {
                if length > self.largest_out {
                    (self.largest_out, self.seq) = (length, seq);
                }
                self.large_out = self.large_out.saturating_add(u32::from(length >= LARGE));
            }
            Direction::In => self.largest_in = self.largest_in.max(length),
        }
    }
}
