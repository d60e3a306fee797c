//! The Data Channel Establishment Protocol (RFC 8832): DATA_CHANNEL_OPEN and DATA_CHANNEL_ACK.

/// A DCEP message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dcep {
    /// DATA_CHANNEL_OPEN (RFC 8832 §5.1).
    Open(Open),
    /// DATA_CHANNEL_ACK (RFC 8832 §5.2).
    Ack,
}

/// What a DATA_CHANNEL_OPEN says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Open {
    /// Reliability and order: 0x00 is reliable and ordered, the top bit means unordered.
    pub(super) channel_type: u8,
    /// The priority.
    pub(super) priority: u16,
    /// Retransmissions or milliseconds, as the channel type says.
    pub(super) reliability: u32,
    /// The label.
    pub(super) label: String,
    /// The subprotocol.
    pub(super) protocol: String,
}

const OPEN: u8 = 0x03;
const ACK: u8 = 0x02;
/// Bytes of DATA_CHANNEL_OPEN before label and protocol.
const OPEN_HEADER: usize = 12;

impl Open {
    /// A reliable, ordered channel of normal priority (RFC 8832 §6.4).
    pub(super) fn reliable(label: &str) -> Self {
        Self { channel_type: 0, priority: 256, reliability: 0, label: label.to_owned(), protocol: String::new() }
    }
}

impl Dcep {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self::Open(open) = self else { return vec![ACK] };
        let (label, protocol) = (within_u16(&open.label), within_u16(&open.protocol));
        let mut bytes = vec![OPEN, open.channel_type];
        bytes.extend_from_slice(&open.priority.to_be_bytes());
        bytes.extend_from_slice(&open.reliability.to_be_bytes());
        for text in [label, protocol] {
            bytes.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
        bytes.extend_from_slice(label.as_bytes());
        bytes.extend_from_slice(protocol.as_bytes());
        bytes
    }

    /// Reads a message; `None` for what is neither. Labels that are not UTF-8 are read with replacements.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        match *bytes.first()? {
            ACK => Some(Self::Ack),
            OPEN => {
                let (header, rest) = bytes.split_at_checked(OPEN_HEADER)?;
                let u16_at = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
                let (label, rest) = rest.split_at_checked(usize::from(u16_at(8)))?;
                let (protocol, _) = rest.split_at_checked(usize::from(u16_at(10)))?;
                Some(Self::Open(Open {
                    channel_type: header[1],
                    priority: u16_at(2),
                    reliability: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
                    label: String::from_utf8_lossy(label).into_owned(),
                    protocol: String::from_utf8_lossy(protocol).into_owned(),
                }))
            }
            _ => None,
        }
    }
}

/// The longest beginning of `text` whose length fits 16 bits.
fn within_u16(text: &str) -> &str {
    let mut end = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_open_has_the_layout_of_rfc_8832() {
        let bytes = Dcep::Open(Open::reliable("ab")).encode();
        assert_eq!(bytes, [3, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, b'a', b'b']);
        assert_eq!(Dcep::decode(&bytes[..13]), None);
        assert_eq!(Dcep::Ack.encode(), [2]);
    }

    proptest! {
        #[test]
        fn an_open_survives_the_round_trip(channel_type: u8, priority: u16, reliability: u32, label in ".{0,40}", protocol in ".{0,40}") {
            let open = Dcep::Open(Open { channel_type, priority, reliability, label, protocol });
            prop_assert_eq!(Dcep::decode(&open.encode()), Some(open));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Dcep::decode(&bytes);
        }
    }
}
