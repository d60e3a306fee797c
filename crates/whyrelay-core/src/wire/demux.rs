//! Telling the protocols that share one socket apart by their first byte (RFC 7983 §7).

/// What a datagram is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// First byte 0 to 3: STUN, which includes TURN's own messages.
    Stun,
    /// First byte 16 to 19.
    Zrtp,
    /// First byte 20 to 63.
    Dtls,
    /// First byte 64 to 79: TURN ChannelData (RFC 8656 §12.4 assigns 0x4000 to 0x4FFF).
    TurnChannel,
    /// First byte 128 to 191: RTP or RTCP.
    Rtp,
    /// Anything else, the empty datagram included.
    Unknown,
}

impl Protocol {
    /// Classifies a datagram; the caller still has to validate it.
    pub fn of(datagram: &[u8]) -> Self {
        match datagram.first() {
            Some(0..=3) => Self::Stun,
            Some(16..=19) => Self::Zrtp,
            Some(20..=63) => Self::Dtls,
            Some(64..=79) => Self::TurnChannel,
            Some(128..=191) => Self::Rtp,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_has_the_class_of_rfc_7983() {
        let table: [(std::ops::RangeInclusive<u8>, Protocol); 9] = [
            (0..=3, Protocol::Stun),
            (4..=15, Protocol::Unknown),
            (16..=19, Protocol::Zrtp),
            (20..=63, Protocol::Dtls),
            (64..=79, Protocol::TurnChannel),
            (80..=127, Protocol::Unknown),
            (128..=191, Protocol::Rtp),
            (192..=254, Protocol::Unknown),
            (255..=255, Protocol::Unknown),
        ];
        for (range, expected) in table {
            for first in range {
                assert_eq!(Protocol::of(&[first, 0]), expected, "first byte {first}");
            }
        }
        assert_eq!(Protocol::of(&[]), Protocol::Unknown);
    }
}
