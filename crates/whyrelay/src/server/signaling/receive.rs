//! Serves a connection that receives: watches for its end, and takes what a WebSocket's peer says.

use std::rc::Rc;

use whyrelay_core::signal::{Join, Message, MessageType, Refusal, RefusalCode};

use super::connection::{Connection, Phase, Reader};
use super::http;
use super::hub::Hub;
use super::receiver::{Framing, Receiver, Written, close_code};
use super::serve::{read_with, status_of};
use super::websocket::{self, CloseWith, Decoder, Frame, close};

/// Bytes that a long-poll receiver may send after its request; there is no reason for any.
const MAX_CHATTER: usize = 64 * 1024;

/// Serves a peer that joined with its request.
pub(super) async fn receive(
    hub: &Hub,
    connection: Rc<Connection>,
    reader: Reader,
    framing: Framing,
    join: Join,
    wants_welcome: bool,
    carry: Vec<u8>,
) {
    connection.set_deadline(Phase::Other, Some(hub.now() + hub.config.write_timeout));
    if !framing.is_websocket() {
        // The head goes first, and only if the join will succeed; joining writes the first messages.
        if let Err(refusal) = hub.check_join(&join) {
            let (status, refusal) = status_of(refusal);
            let mut response = Vec::new();
            let retry = refusal
                .retry_after_ms
                .map_or(String::new(), |millis| format!("Retry-After: {}\r\n", millis.div_ceil(1000)));
            http::write_response(&mut response, status, &retry, &format!("{}\n", refusal.reason), false);
            let _ = connection.write_all(&response).await;
            return;
        }
        let coding = if framing == Framing::Chunked { "Transfer-Encoding: chunked\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 200 OK\r\nServer: whyrelay/{}\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\n{coding}\r\n",
            env!("CARGO_PKG_VERSION")
        );
        if connection.write_all(head.as_bytes()).await.is_err() {
            return;
        }
    }
    let receiver = match hub.attach(&connection, framing, &join, wants_welcome) {
        Ok(receiver) => receiver,
        Err(refusal) => {
            Receiver::new(connection, framing, 0, hub.now()).end(&join.id, &refusal, hub.now());
            return;
        }
    };
    connection.set_deadline(Phase::Other, None);
    let peer = Attached { hub, room: join.room.into(), id: join.id.into(), receiver };
    if framing.is_websocket() {
        peer.websocket(reader, carry).await;
    } else {
        peer.long_poll(reader).await;
    }
}

/// Serves a WebSocket whose first message is the join.
pub(super) async fn websocket(hub: &Hub, connection: Rc<Connection>, mut reader: Reader, mut carry: Vec<u8>) {
    connection.set_deadline(Phase::Other, Some(hub.now() + hub.config.request_timeout));
    let mut decoder = Decoder::default();
    let refuse = |code, reason| {
        Receiver::new(Rc::clone(&connection), Framing::WebSocket { numbered: false }, 0, hub.now()).end(
            "",
            &Refusal::new(code, reason),
            hub.now(),
        );
    };
    let first = loop {
        match decoder.next(&carry) {
            Ok(Some((used, frame))) => {
                carry.drain(..used);
                match frame {
                    Some(Frame::Text(text)) => break text,
                    Some(Frame::Close) => return,
                    _ => continue,
                }
            }
            Ok(None) => {}
            Err(CloseWith(code)) => return end_with(&connection, code),
        }
        match read_with(&mut reader, |bytes| carry.extend_from_slice(bytes)).await {
            Ok(Some(())) => {}
            Ok(None) | Err(_) => return,
        }
    };
    let join = Message::from_json(&first)
        .ok()
        .filter(|message| message.kind == MessageType::Join)
        .and_then(|message| serde_json::from_str::<Join>(&message.content).ok());
    let Some(join) = join else {
        return refuse(RefusalCode::BadMessage, "the first message must be a join");
    };
    let framing = Framing::WebSocket { numbered: join.ack };
    receive(hub, connection, reader, framing, join, true, carry).await;
}

fn end_with(connection: &Connection, code: u16) {
    let mut frame = Vec::new();
    websocket::write_close(&mut frame, code, "");
    let _ = connection.try_write(&frame);
    connection.end();
}

/// A peer with its open connection.
struct Attached<'a> {
    hub: &'a Hub,
    room: Box<str>,
    id: Box<str>,
    receiver: Rc<Receiver>,
}

impl Attached<'_> {
    async fn long_poll(self, mut reader: Reader) {
        let mut chatter = 0;
        loop {
            tokio::select! {
                read = read_with(&mut reader, <[u8]>::len) => match read {
                    Ok(Some(len)) if chatter + len <= MAX_CHATTER => chatter += len,
                    _ => break,
                },
                () = self.flush() => {}
            }
        }
        self.hub.detach(&self.room, &self.id, self.receiver.generation, false);
    }

    async fn websocket(self, mut reader: Reader, mut carry: Vec<u8>) {
        let mut decoder = Decoder::default();
        let mut end = self.take_frames(&mut decoder, &mut carry, &[]);
        while end.is_none() {
            tokio::select! {
                read = read_with(&mut reader, |bytes| self.take_frames(&mut decoder, &mut carry, bytes)) => {
                    end = match read {
                        Ok(Some(end)) => end,
                        Ok(None) | Err(_) => Some(None),
                    };
                }
                () = self.flush() => {}
            }
        }
        let code = end.flatten();
        // Detach first: what is written to the ending connection would be lost.
        self.hub.detach(&self.room, &self.id, self.receiver.generation, code == Some(close::NORMAL));
        if let Some(code) = code {
            end_with(&self.receiver.connection, code);
        }
    }

    /// Waits until something waits to be written, and writes it as the kernel takes it.
    async fn flush(&self) {
        self.receiver.wake.notified().await;
        loop {
            match self.hub.flush(&self.room, &self.id, &self.receiver) {
                Written::All => return,
                Written::Broken => return self.receiver.connection.end(),
                Written::Waits => {}
            }
            if self.receiver.connection.writable().await.is_err() {
                return self.receiver.connection.end();
            }
        }
    }

    /// Takes the frames in `carry` and `bytes`. `Some`: the connection ends, with this code if there is one to send.
    fn take_frames(&self, decoder: &mut Decoder, carry: &mut Vec<u8>, bytes: &[u8]) -> Option<Option<u16>> {
        self.receiver.connection.last_heard.set(self.hub.now());
        let is_carried = !carry.is_empty();
        if is_carried {
            carry.extend_from_slice(bytes);
        }
        let input = if is_carried { &carry[..] } else { bytes };
        let mut at = 0;
        let end = loop {
            match decoder.next(&input[at..]) {
                Ok(Some((used, frame))) => {
                    at += used;
                    if let Some(code) = frame.and_then(|frame| self.take_frame(frame)) {
                        break Some(Some(code));
                    }
                }
                Ok(None) => break None,
                Err(CloseWith(code)) => break Some(Some(code)),
            }
        };
        if at == input.len() {
            *carry = Vec::new();
        } else if is_carried {
            carry.drain(..at);
        } else {
            *carry = bytes[at..].to_vec();
        }
        end
    }

    /// Takes one frame; answers the code to close with, if the connection ends.
    fn take_frame(&self, frame: Frame) -> Option<u16> {
        let hub = self.hub;
        let text = match frame {
            Frame::Text(text) => text,
            Frame::Ping(payload) => {
                self.receiver.write_frame(websocket::PONG, &payload, hub.now());
                return None;
            }
            Frame::Pong => return None,
            Frame::Close => return Some(close::NORMAL),
        };
        if std::str::from_utf8(&text).is_err() {
            return Some(close::NOT_UTF8);
        }
        let Ok(message) = Message::from_json(&text) else { return Some(close_code(RefusalCode::BadMessage)) };
        match message.kind {
            MessageType::Ack => {
                hub.on_ack(&self.room, &self.id, &self.receiver, message.seq, !message.content.is_empty());
            }
            MessageType::Heartbeat if message.to.is_empty() => {}
            _ => hub.post_from_receiver(&self.room, &self.id, &self.receiver, message),
        }
        None
    }
}
