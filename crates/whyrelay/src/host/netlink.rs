//! Requests to the kernel over netlink, one at a time, and what it answers.

use std::io;
use std::ops::ControlFlow;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr};

/// Bytes that one receive call takes: what the kernel fills at most in a dump.
const BUFFER: usize = 64 * 1024;

/// Length of a netlink message's header.
const HEADER: usize = 16;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// A netlink socket of one protocol.
pub(crate) struct Netlink {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
    torn: bool,
}

impl Netlink {
    /// Opens one.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Bounds a dump of a hundred thousand routes; without it the kernel only splits it more finely.
        let _ = socket.set_rx_buf_sz(1 << 20);
        Ok(Self { socket, buffer: vec![0; BUFFER], sequence: 0, torn: false })
    }

    /// Asks for a list; `take` gets each message's type and payload and may break off.
    pub(crate) fn dump(
        &mut self,
        message_type: u16,
        payload: &[u8],
        mut take: impl FnMut(u16, &[u8]) -> ControlFlow<()>,
    ) -> io::Result<()> {
        self.send(message_type, NLM_F_REQUEST | NLM_F_DUMP, payload)?;
        self.torn = false;
        let mut going = true;
        loop {
            let messages = self.receive()?;
            for (kind, sequence, body) in messages {
                if sequence != self.sequence {
                    continue;
                }
                let body = &self.buffer[body];
                match kind {
                    NLMSG_DONE => return error_in(body).map_or(Ok(()), Err),
                    NLMSG_ERROR => return error_in(body).map_or(Ok(()), Err),
                    _ if going => going = take(kind, body).is_continue(),
                    _ => {}
                }
            }
            if !going {
                // What is left of the dump belongs to nobody: the socket is not used again.
                return Ok(());
            }
        }
    }

    /// Whether the last list changed while the kernel told it: entries may be missing then, or come twice.
    pub(crate) const fn is_torn(&self) -> bool {
        self.torn
    }

    /// Asks one question; the payload of the answer.
    pub(crate) fn ask(&mut self, message_type: u16, payload: &[u8]) -> io::Result<Vec<u8>> {
        self.send(message_type, NLM_F_REQUEST, payload)?;
        loop {
            for (kind, sequence, body) in self.receive()? {
                if sequence != self.sequence {
                    continue;
                }
                let body = &self.buffer[body];
                if kind == NLMSG_ERROR {
                    return Err(error_in(body).unwrap_or_else(|| io::ErrorKind::InvalidData.into()));
                }
                return Ok(body.to_vec());
            }
        }
    }

    /// Has something made that may not be there yet, and waits until that is done.
    pub(crate) fn make(&mut self, message_type: u16, payload: &[u8]) -> io::Result<()> {
        self.send(message_type, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, payload)?;
        loop {
            for (kind, sequence, body) in self.receive()? {
                if sequence == self.sequence && kind == NLMSG_ERROR {
                    return error_in(&self.buffer[body]).map_or(Ok(()), Err);
                }
            }
        }
    }

    fn send(&mut self, message_type: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let length = u32::try_from(HEADER + payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut message = Vec::with_capacity(HEADER + payload.len());
        message.extend(length.to_ne_bytes());
        message.extend(message_type.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend(payload);
        self.socket.send(&message, 0).map(drop)
    }

    /// The messages of one datagram: type, sequence number and where the payload lies.
    fn receive(&mut self) -> io::Result<Vec<(u16, u32, std::ops::Range<usize>)>> {
        let length = self.socket.recv(&mut &mut self.buffer[..], 0)?;
        let (mut messages, mut at) = (Vec::new(), 0);
        while at + HEADER <= length {
            let Ok(message) = NetlinkBuffer::new_checked(&self.buffer[at..length]) else { break };
            self.torn |= message.flags() & NLM_F_DUMP_INTR != 0;
            let size = message.length() as usize;
            if size < HEADER {
                break;
            }
            messages.push((message.message_type(), message.sequence_number(), at + HEADER..at + size));
            at += size.next_multiple_of(4);
        }
        if messages.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(messages)
    }
}

/// The error that an error or done message carries; `None`: none.
fn error_in(body: &[u8]) -> Option<io::Error> {
    let code = i32::from_ne_bytes(*body.first_chunk()?);
    (code != 0).then(|| io::Error::from_raw_os_error(code.wrapping_neg()))
}

/// The attributes in a payload: type without flags, and value. What cannot be read ends it.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(|attribute| {
        let attribute = attribute.ok()?;
        let value = attribute.into_inner();
        let length = usize::from(u16::from_ne_bytes(*value.first_chunk()?));
        let kind = u16::from_ne_bytes([*value.get(2)?, *value.get(3)?]) & !(3 << 14);
        Some((kind, value.get(4..length)?))
    })
}

/// Appends an attribute.
pub(crate) fn push_attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// A text that ends with a zero.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A number in network order, of two, four or eight bytes.
pub(super) fn big_endian(value: &[u8]) -> Option<u64> {
    match value.len() {
        1 | 2 | 4 | 8 => Some(value.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))),
        _ => None,
    }
}
