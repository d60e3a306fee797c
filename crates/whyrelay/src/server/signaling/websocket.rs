//! WebSocket frames (RFC 6455 §5), server side, without I/O and without extensions: no inflation, so a frame is as
//! large as it says.

use whyrelay_core::signal::MAX_MESSAGE;

/// Close codes (RFC 6455 §7.4) and, from 4000, ours.
pub(super) mod close {
    pub(in super::super) const NORMAL: u16 = 1000;
    pub(in super::super) const GOING_AWAY: u16 = 1001;
    pub(in super::super) const PROTOCOL_ERROR: u16 = 1002;
    pub(in super::super) const NOT_TEXT: u16 = 1003;
    pub(in super::super) const NOT_UTF8: u16 = 1007;
    pub(in super::super) const TOO_LARGE: u16 = 1009;
    /// Too slow, or the server is full.
    pub(in super::super) const TRY_AGAIN_LATER: u16 = 1013;
    /// The first message was no join, or not a good one.
    pub(in super::super) const BAD_JOIN: u16 = 4400;
    /// Another receiver took the id over.
    pub(in super::super) const REPLACED: u16 = 4408;
    /// The id belongs to another token.
    pub(in super::super) const ID_TAKEN: u16 = 4409;
}

pub(super) const TEXT: u8 = 1;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

/// What a client said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Text(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close,
}

/// A breach of the protocol, as the code to close with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CloseWith(pub(super) u16);

/// Puts a client's frames together.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    fragments: Option<Vec<u8>>,
}

impl Decoder {
    /// Takes one frame from the beginning of `input`: bytes used, and the message if one is complete with it.
    /// `None` when the frame is not whole. What comes later in `input` is left alone.
    pub(super) fn next(&mut self, input: &[u8]) -> Result<Option<(usize, Option<Frame>)>, CloseWith> {
        let &[first, second, ..] = input else { return Ok(None) };
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        let is_control = opcode & 8 != 0;
        // Reserved bits belong to extensions, of which there are none; a client must mask (RFC 6455 §5.1, §5.2).
        if first & 0x70 != 0 || second & 0x80 == 0 {
            return Err(CloseWith(close::PROTOCOL_ERROR));
        }
        let (len, header) = match second & 0x7f {
            126 => match input.get(2..4) {
                Some(&[a, b]) => (u64::from(u16::from_be_bytes([a, b])), 4),
                _ => return Ok(None),
            },
            127 => match input.get(2..10).and_then(|bytes| bytes.try_into().ok()) {
                Some(bytes) => (u64::from_be_bytes(bytes), 10),
                None => return Ok(None),
            },
            short => (u64::from(short), 2),
        };
        if is_control && (len > 125 || !fin) {
            return Err(CloseWith(close::PROTOCOL_ERROR));
        }
        let collected = self.fragments.as_ref().map_or(0, Vec::len) as u64;
        if len > MAX_MESSAGE as u64 || (!is_control && collected + len > MAX_MESSAGE as u64) {
            return Err(CloseWith(close::TOO_LARGE));
        }
        let end = header + 4 + len as usize;
        let Some(frame) = input.get(header..end) else { return Ok(None) };
        let (mask, payload) = frame.split_at(4);
        let message = self.take(fin, opcode, unmask([mask[0], mask[1], mask[2], mask[3]], payload))?;
        Ok(Some((end, message)))
    }

    fn take(&mut self, fin: bool, opcode: u8, payload: Vec<u8>) -> Result<Option<Frame>, CloseWith> {
        match (opcode, self.fragments.take()) {
            (TEXT, None) if fin => Ok(Some(Frame::Text(payload))),
            (TEXT, None) => {
                self.fragments = Some(payload);
                Ok(None)
            }
            (0, Some(mut fragments)) => {
                fragments.extend_from_slice(&payload);
                if fin {
                    return Ok(Some(Frame::Text(fragments)));
                }
                self.fragments = Some(fragments);
                Ok(None)
            }
            // Control frames may come between fragments (RFC 6455 §5.4).
            (CLOSE | PING | PONG, fragments) => {
                self.fragments = fragments;
                Ok(Some(match opcode {
                    CLOSE => Frame::Close,
                    PING => Frame::Ping(payload),
                    _ => Frame::Pong,
                }))
            }
            (2, None) => Err(CloseWith(close::NOT_TEXT)),
            _ => Err(CloseWith(close::PROTOCOL_ERROR)),
        }
    }
}

fn unmask(mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut clear = payload.to_vec();
    let mut words = clear.chunks_exact_mut(4);
    for word in &mut words {
        for (byte, key) in word.iter_mut().zip(mask) {
            *byte ^= key;
        }
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(mask) {
        *byte ^= key;
    }
    clear
}

/// Appends the header of an unmasked frame with `len` bytes.
pub(super) fn write_header(out: &mut Vec<u8>, opcode: u8, len: usize) {
    out.push(0x80 | opcode);
    match len {
        0..126 => out.push(len as u8),
        126..0x1_0000 => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// Appends a close frame.
pub(super) fn write_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let reason = &reason.as_bytes()[..reason.len().min(123)];
    write_header(out, CLOSE, 2 + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        write_header(&mut frame, 0, payload.len());
        frame[0] = first;
        frame[1] |= 0x80;
        let mask = [1, 2, 3, 250];
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    #[test]
    fn breaches_name_their_close_code() {
        let too_large = [0x81, 0xff, 0, 0, 0, 0, 4, 0, 0, 0];
        for (wire, code) in [
            (masked(0xc1, b"a"), close::PROTOCOL_ERROR),
            (vec![0x81, 1, b'a'], close::PROTOCOL_ERROR),
            (masked(0x80, b"a"), close::PROTOCOL_ERROR),
            (masked(0x09, b"a"), close::PROTOCOL_ERROR),
            (masked(0x89, &[0; 126]), close::PROTOCOL_ERROR),
            (masked(0x83, b"a"), close::PROTOCOL_ERROR),
            (masked(0x82, b"a"), close::NOT_TEXT),
            (too_large.to_vec(), close::TOO_LARGE),
        ] {
            assert_eq!(Decoder::default().next(&wire), Err(CloseWith(code)), "{wire:02x?}");
        }
    }

    #[test]
    fn fragments_are_joined_around_a_ping_and_bounded() {
        let mut decoder = Decoder::default();
        assert!(matches!(decoder.next(&masked(0x01, b"a")), Ok(Some((_, None)))));
        assert!(matches!(decoder.next(&masked(0x89, b"p")), Ok(Some((_, Some(Frame::Ping(_)))))));
        assert_eq!(decoder.next(&masked(0x80, b"b")).unwrap().unwrap().1, Some(Frame::Text(b"ab".to_vec())));
        let half = masked(0x01, &vec![b'a'; MAX_MESSAGE / 2 + 1]);
        let rest = masked(0x80, &vec![b'a'; MAX_MESSAGE / 2 + 1]);
        decoder.next(&half).unwrap();
        assert_eq!(decoder.next(&rest), Err(CloseWith(close::TOO_LARGE)));
    }

    proptest! {
        #[test]
        fn a_text_is_read_once_it_is_whole(payload in proptest::collection::vec(any::<u8>(), 0..70_000)) {
            prop_assume!(payload.len() <= MAX_MESSAGE);
            let wire = masked(0x81, &payload);
            for cut in [0, 1, 3, 5, 9, wire.len() - 1] {
                prop_assert_eq!(Decoder::default().next(&wire[..cut.min(wire.len() - 1)]), Ok(None));
            }
            prop_assert_eq!(Decoder::default().next(&wire), Ok(Some((wire.len(), Some(Frame::Text(payload))))));
        }

        #[test]
        fn any_bytes_are_frames_or_a_breach(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut decoder = Decoder::default();
            let mut at = 0;
            while let Ok(Some((used, _))) = decoder.next(&bytes[at..]) { at += used; }
        }
    }
}
