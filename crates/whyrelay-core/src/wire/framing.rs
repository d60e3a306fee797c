//! Finding messages in a byte stream: STUN and ChannelData to a TURN server (RFC 8656 §12.5), and RFC 4571 frames
//! between ICE-TCP peers (RFC 6544 §3).

/// How messages are laid into a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// To a STUN or TURN server: STUN messages by their own length, ChannelData padded to four bytes.
    Stun,
    /// Between ICE-TCP peers: a 16-bit length before each packet (RFC 4571 §2).
    LengthPrefixed,
}

impl Framing {
    /// Lays one message into the stream.
    pub fn wrap(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Stun => {
                let mut bytes = message.to_vec();
                bytes.resize(bytes.len().next_multiple_of(4), 0);
                bytes
            }
            Self::LengthPrefixed => {
                let message = &message[..message.len().min(usize::from(u16::MAX))];
                let mut bytes = Vec::with_capacity(2 + message.len());
                bytes.extend_from_slice(&(message.len() as u16).to_be_bytes());
                bytes.extend_from_slice(message);
                bytes
            }
        }
    }
}

/// The stream holds something that no message can start with; the connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte 0x{first:02x} starts no STUN or ChannelData message")]
pub struct NotFramed {
    /// The offending byte.
    pub first: u8,
}

/// Cuts a stream into messages. It holds at most one incomplete message: 64 KiB and a header.
#[derive(Debug)]
pub struct Deframer {
    framing: Framing,
    buffer: Vec<u8>,
    start: usize,
}

impl Deframer {
    /// An empty stream.
    pub const fn new(framing: Framing) -> Self {
        Self { framing, buffer: Vec::new(), start: 0 }
    }

    /// Appends what was read. Call [`Self::next_message`] until it has no more before pushing again.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete message, without framing and padding.
    ///
    /// # Errors
    /// [`NotFramed`] when the stream is out of step.
    pub fn next_message(&mut self) -> Result<Option<&[u8]>, NotFramed> {
        self.messages().next().transpose()
    }

    /// All complete messages that are left, as by [`Self::next_message`]; an error is the last of them.
    pub fn messages(&mut self) -> Messages<'_> {
        Messages { framing: self.framing, buffer: &self.buffer, start: &mut self.start }
    }
}

/// See [`Deframer::messages`].
#[derive(Debug)]
pub struct Messages<'a> {
    framing: Framing,
    buffer: &'a [u8],
    start: &'a mut usize,
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<&'a [u8], NotFramed>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.buffer[*self.start..];
        let Frame { skip, length, padded } = match self.framing.first(rest) {
            Ok(frame) => frame?,
            Err(noise) => {
                // The connection is of no more use.
                self.buffer = &self.buffer[..*self.start];
                return Some(Err(noise));
            }
        };
        let message = rest.get(..padded)?.get(skip..skip + length)?;
        *self.start += padded;
        Some(Ok(message))
    }
}

/// Where a message is, seen from where its frame begins.
struct Frame {
    skip: usize,
    length: usize,
    /// From the frame's beginning to the next one's.
    padded: usize,
}

impl Framing {
    /// The frame that begins here; `None` when too little of it is there to tell.
    fn first(self, rest: &[u8]) -> Result<Option<Frame>, NotFramed> {
        let Some(&first) = rest.first() else { return Ok(None) };
        let (skip, length, padded) = match self {
            Self::LengthPrefixed => {
                let Some(header) = rest.first_chunk::<2>() else { return Ok(None) };
                let length = usize::from(u16::from_be_bytes(*header));
                (2, length, 2 + length)
            }
            Self::Stun => {
                let Some(header) = rest.first_chunk::<4>() else {
                    return if first & 0x80 == 0 { Ok(None) } else { Err(NotFramed { first }) };
                };
                let field = usize::from(u16::from_be_bytes([header[2], header[3]]));
                match first >> 6 {
                    0 => (0, 20 + field, 20 + field),
                    1 => (0, 4 + field, (4 + field).next_multiple_of(4)),
                    _ => return Err(NotFramed { first }),
                }
            }
        };
        Ok(Some(Frame { skip, length, padded }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(deframer: &mut Deframer) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        while let Some(message) = deframer.next_message().unwrap() {
            messages.push(message.to_vec());
        }
        messages
    }

    #[test]
    fn a_stream_split_at_every_byte_gives_the_same_messages() {
        let stun = [&[0, 1, 0, 4, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12], &[0x80, 0x22, 0, 0]].concat();
        let channel = vec![0x40, 0x00, 0x00, 0x05, 1, 2, 3, 4, 5];
        for (framing, messages) in [
            (Framing::Stun, vec![stun.clone(), channel.clone(), stun.clone()]),
            (Framing::LengthPrefixed, vec![stun, vec![], channel]),
        ] {
            let stream: Vec<u8> = messages.iter().flat_map(|message| framing.wrap(message)).collect();
            for split in 0..=stream.len() {
                let mut deframer = Deframer::new(framing);
                deframer.push(&stream[..split]);
                let mut found = drain(&mut deframer);
                deframer.push(&stream[split..]);
                found.extend(drain(&mut deframer));
                assert_eq!(found, messages, "{framing:?} split at {split}");
            }
        }
    }

    #[test]
    fn noise_ends_the_stream() {
        let mut deframer = Deframer::new(Framing::Stun);
        deframer.push(&[0xFF]);
        assert_eq!(deframer.next_message(), Err(NotFramed { first: 0xFF }));
        deframer.push(&[]);
        assert_eq!(deframer.next_message(), Err(NotFramed { first: 0xFF }), "it stays of no use");
        let mut deframer = Deframer::new(Framing::Stun);
        deframer.push(&[0x40, 0, 0, 0, 0xFF, 0x40, 0, 0, 0]);
        let found: Vec<_> = deframer.messages().collect();
        assert_eq!(found, [Ok(&[0x40, 0, 0, 0][..]), Err(NotFramed { first: 0xFF })], "what came before is whole");
    }
}
