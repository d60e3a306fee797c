//! A peer's open connection, on which messages are written as they come.

use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use whyrelay_core::signal::{Message, MessageType, Refusal, RefusalCode};

use super::connection::Connection;
use super::websocket::{self, close};

/// Bytes of our own messages (not those of peers, which wait in the mailbox) that wait for a receiver, at most.
const MAX_CONTROL: usize = 64 * 1024;

/// How messages are put on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// A line for each message, in chunks.
    Chunked,
    /// A line for each message, to the end of the connection (HTTP/1.0).
    Lines,
    /// A text frame for each message, with a number if the peer acknowledges.
    WebSocket { numbered: bool },
}

impl Framing {
    pub(super) fn is_numbered(self) -> bool {
        self == Self::WebSocket { numbered: true }
    }

    pub(super) fn is_websocket(self) -> bool {
        matches!(self, Self::WebSocket { .. })
    }

    /// Appends a message, given as JSON without its closing brace.
    fn write_body(self, out: &mut Vec<u8>, body: &[u8], number: u64) {
        match self {
            Self::Chunked => {
                // The chunk holds the body, the closing brace and the newline. Writing to a vector cannot fail.
                let _ = write!(out, "{:x}\r\n", body.len() + 2);
                out.extend_from_slice(body);
                out.extend_from_slice(b"}\n\r\n");
            }
            Self::Lines => {
                out.extend_from_slice(body);
                out.extend_from_slice(b"}\n");
            }
            Self::WebSocket { numbered: false } => {
                websocket::write_header(out, websocket::TEXT, body.len() + 1);
                out.extend_from_slice(body);
                out.push(b'}');
            }
            Self::WebSocket { numbered: true } => {
                let mut tail = [0; 32];
                let mut rest = &mut tail[..];
                let _ = write!(rest, ",\"seq\":{number}}}");
                let len = 32 - rest.len();
                websocket::write_header(out, websocket::TEXT, body.len() + len);
                out.extend_from_slice(body);
                out.extend_from_slice(&tail[..len]);
            }
        }
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// The kernel has taken everything.
    All,
    /// Some of it waits until the client reads.
    Waits,
    /// The connection is broken.
    Broken,
}

/// An open connection that receives.
pub(super) struct Receiver {
    pub(super) connection: Rc<Connection>,
    pub(super) framing: Framing,
    /// Which of the receivers that this id has had.
    pub(super) generation: u64,
    /// What the kernel has not taken yet.
    waiting: RefCell<Vec<u8>>,
    /// Whether `waiting` holds a message of the mailbox, which is then not yet marked as sent.
    pub(super) holds_message: Cell<bool>,
    /// Since when something waits.
    stalled_since: Cell<Option<Duration>>,
    last_write: Cell<Duration>,
    /// Tells the connection's task that something waits.
    pub(super) wake: Notify,
}

impl Receiver {
    pub(super) fn new(connection: Rc<Connection>, framing: Framing, generation: u64, now: Duration) -> Self {
        Self {
            connection,
            framing,
            generation,
            waiting: RefCell::default(),
            holds_message: Cell::new(false),
            stalled_since: Cell::new(None),
            last_write: Cell::new(now),
            wake: Notify::new(),
        }
    }

    /// Writes a message of the mailbox. Nothing may be waiting.
    ///
    /// Who does not acknowledge gets a message once, so it is not written to a connection that has ended already.
    pub(super) fn write_message(&self, scratch: &mut Vec<u8>, body: &[u8], number: u64, now: Duration) -> Written {
        if !self.framing.is_numbered() && self.connection.has_ended() {
            return Written::Broken;
        }
        scratch.clear();
        self.framing.write_body(scratch, body, number);
        let written = self.write(scratch, now);
        self.holds_message.set(written == Written::Waits);
        written
    }

    /// Writes one of our own messages, behind whatever waits.
    pub(super) fn write_control(&self, message: &Message, now: Duration) -> Written {
        let mut body = message.to_json().into_bytes();
        body.pop();
        let mut frame = Vec::with_capacity(body.len() + 16);
        // Our own messages carry no number of the mailbox: an `ack` has its own in the body.
        let framing = match self.framing {
            Framing::WebSocket { .. } => Framing::WebSocket { numbered: false },
            framing => framing,
        };
        framing.write_body(&mut frame, &body, 0);
        self.write(&frame, now)
    }

    /// Writes a ping or a pong.
    pub(super) fn write_frame(&self, opcode: u8, payload: &[u8], now: Duration) -> Written {
        let mut frame = Vec::with_capacity(payload.len() + 2);
        websocket::write_header(&mut frame, opcode, payload.len());
        frame.extend_from_slice(payload);
        self.write(&frame, now)
    }

    fn write(&self, bytes: &[u8], now: Duration) -> Written {
        let mut waiting = self.waiting.borrow_mut();
        let written = if waiting.is_empty() {
            match self.connection.try_write(bytes) {
                Ok(written) => written,
                Err(_) => return Written::Broken,
            }
        } else {
            0
        };
        self.last_write.set(now);
        if written == bytes.len() {
            return Written::All;
        }
        if waiting.len() > MAX_CONTROL {
            return Written::Broken;
        }
        waiting.extend_from_slice(&bytes[written..]);
        if self.stalled_since.get().is_none() {
            self.stalled_since.set(Some(now));
            self.wake.notify_one();
        }
        Written::Waits
    }

    /// Writes more of what waits.
    pub(super) fn flush(&self, now: Duration) -> Written {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            return Written::All;
        }
        match self.connection.try_write(&waiting) {
            Err(_) => Written::Broken,
            Ok(written) if written == waiting.len() => {
                *waiting = Vec::new();
                self.stalled_since.set(None);
                Written::All
            }
            Ok(written) => {
                if written > 0 {
                    waiting.drain(..written);
                    self.stalled_since.set(Some(now));
                }
                Written::Waits
            }
        }
    }

    /// Whether nothing waits for the kernel.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Whether the client has taken nothing for `timeout`.
    pub(super) fn is_stalled(&self, now: Duration, timeout: Duration) -> bool {
        self.stalled_since.get().is_some_and(|since| since + timeout <= now)
    }

    /// Keeps the connection alive when nothing was written for `interval`.
    pub(super) fn beat(&self, id: &str, now: Duration, interval: Duration) -> Written {
        if self.last_write.get() + interval > now || !self.is_idle() {
            return Written::All;
        }
        if self.framing.is_websocket() {
            return self.write_frame(websocket::PING, b"", now);
        }
        self.write_control(&Message::new(MessageType::Heartbeat, "", id, ""), now)
    }

    /// Ends the connection, with the reason if the client still takes it.
    pub(super) fn end(&self, id: &str, refusal: &Refusal, now: Duration) {
        if self.is_idle() {
            let kind = match refusal.code {
                RefusalCode::ShuttingDown => MessageType::Bye,
                _ => MessageType::Error,
            };
            // A refusal always serializes.
            let content = serde_json::to_string(refusal).unwrap_or_default();
            self.write_control(&Message::new(kind, "", id, content), now);
            let mut last = Vec::new();
            match self.framing {
                Framing::Chunked => last.extend_from_slice(b"0\r\n\r\n"),
                Framing::Lines => {}
                Framing::WebSocket { .. } => {
                    websocket::write_close(&mut last, close_code(refusal.code), &refusal.reason)
                }
            }
            self.write(&last, now);
        }
        self.connection.end();
    }
}

/// The close code that says the same as a refusal.
pub(super) fn close_code(code: RefusalCode) -> u16 {
    match code {
        RefusalCode::IdTaken => close::ID_TAKEN,
        RefusalCode::Replaced => close::REPLACED,
        RefusalCode::ShuttingDown => close::GOING_AWAY,
        RefusalCode::TooLarge => close::TOO_LARGE,
        RefusalCode::ServerFull | RefusalCode::TooSlow | RefusalCode::MailboxFull => close::TRY_AGAIN_LATER,
        _ => close::BAD_JOIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_framing_ends_the_message_that_was_left_open() {
        for (framing, wire) in [
            (Framing::Chunked, &b"a\r\n{\"type\":\"}\n\r\n"[..]),
            (Framing::Lines, b"{\"type\":\"}\n"),
            (Framing::WebSocket { numbered: false }, b"\x81\x09{\"type\":\"}"),
            (Framing::WebSocket { numbered: true }, b"\x81\x12{\"type\":\",\"seq\":12}"),
        ] {
            let mut out = Vec::new();
            framing.write_body(&mut out, b"{\"type\":\"", 12);
            assert_eq!(String::from_utf8_lossy(&out[2..]), String::from_utf8_lossy(&wire[2..]), "{framing:?}");
        }
    }
}
