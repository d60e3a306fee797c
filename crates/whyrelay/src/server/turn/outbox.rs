//! What clients over TCP and TLS are to get. A plain connection's socket is written to by whoever has something, at once
//! and as much as it takes; what it does not take, and all of TLS, waits in one buffer for the connection's own task.

use std::io::IoSlice;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

/// A message on its way to a client, from where it is.
pub(super) enum StreamMessage<'a> {
    /// ChannelData, which is padded to four bytes in a stream (RFC 8656 §12.5).
    ChannelData {
        header: [u8; 4],
        data: &'a [u8],
    },
    Stun(Vec<u8>),
}

/// What one system call is given: three parts each, and the kernel takes 1024 parts.
const MOST_AT_ONCE: usize = 300;

impl StreamMessage<'_> {
    fn parts(&self) -> [&[u8]; 3] {
        match self {
            Self::ChannelData { header, data } => {
                let padding = data.len().next_multiple_of(4) - data.len();
                [header, data, &[0; 3][..padding]]
            }
            Self::Stun(bytes) => [bytes, &[], &[]],
        }
    }

    fn length(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }
}

/// Bytes that may wait for any one connection, whatever waits for the others.
const OWN: usize = 16 * 1024;

/// What all connections of a server share for what waits beyond [`OWN`].
pub(super) struct Reserve {
    /// In bytes. Less than none where the rest of a message that was begun had to be kept.
    left: AtomicIsize,
}

impl Reserve {
    pub(super) fn new(bytes: usize) -> Self {
        Self { left: AtomicIsize::new(isize::try_from(bytes).unwrap_or(isize::MAX)) }
    }

    /// Whether there were so many.
    fn take(&self, bytes: usize) -> bool {
        let less = |left: isize| left.checked_sub_unsigned(bytes).filter(|left| *left >= 0);
        bytes == 0 || self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Takes what cannot be done without.
    fn overdraw(&self, bytes: usize) {
        self.left.fetch_sub(bytes.cast_signed(), Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes.cast_signed(), Ordering::Relaxed);
    }
}

/// One connection's. Full means drop: data is relayed UDP.
pub(super) struct Outbox {
    /// Of a plain connection.
    socket: Option<Arc<OwnedWriteHalf>>,
    state: Mutex<State>,
    more: Notify,
    /// Bytes that may wait.
    limit: usize,
    reserve: Arc<Reserve>,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Bytes that the connection's task has taken, and not written yet.
    taken: usize,
    /// Bytes of the reserve that these hold.
    reserved: usize,
}

impl Outbox {
    pub(super) fn new(socket: Option<Arc<OwnedWriteHalf>>, limit: usize, reserve: Arc<Reserve>) -> Self {
        Self { socket, state: Mutex::default(), more: Notify::new(), limit, reserve }
    }

    /// Sends messages, or has them wait; how many were dropped.
    pub(super) fn push<'a, 'b: 'a>(&self, messages: impl Iterator<Item = &'a StreamMessage<'b>>) -> usize {
        let messages: Vec<&StreamMessage<'_>> = messages.collect();
        let mut state = self.lock();
        let mut dropped = 0;
        for messages in messages.chunks(MOST_AT_ONCE) {
            // What waits goes first.
            let written = match &self.socket {
                Some(socket) if state.waiting.is_empty() && state.taken == 0 => write(socket, messages),
                _ => 0,
            };
            dropped += state.keep(messages, written, self.limit, &self.reserve);
        }
        let is_waiting = !state.waiting.is_empty();
        drop(state);
        if is_waiting {
            self.more.notify_one();
        }
        dropped
    }

    /// What waits, once something does. It is to be written, and [`Self::wrote`] told of each part.
    pub(super) async fn take(&self) -> Vec<u8> {
        loop {
            {
                let mut state = self.lock();
                if !state.waiting.is_empty() {
                    state.taken += state.waiting.len();
                    return std::mem::take(&mut state.waiting);
                }
            }
            self.more.notified().await;
        }
    }

    /// So many bytes of what was taken are written.
    pub(super) fn wrote(&self, length: usize) {
        let mut state = self.lock();
        state.taken -= length;
        let still = state.reserved.min((state.taken + state.waiting.len()).saturating_sub(OWN));
        self.reserve.give_back(state.reserved - still);
        state.reserved = still;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.reserve.give_back(self.lock().reserved);
    }
}

impl State {
    /// Keeps what is behind the first `written` bytes, as far as it may wait; how many messages are dropped.
    fn keep(&mut self, messages: &[&StreamMessage<'_>], mut written: usize, limit: usize, reserve: &Reserve) -> usize {
        let mut dropped = 0;
        for message in messages {
            let length = message.length();
            let begun = std::mem::take(&mut written);
            if begun >= length {
                written = begun - length;
                continue;
            }
            let held = self.taken + self.waiting.len() + length - begun;
            let owed = held.saturating_sub(OWN).saturating_sub(self.reserved);
            if begun > 0 || (held <= limit && reserve.take(owed)) {
                // Without the rest of one that has begun, the stream would be out of step.
                if begun > 0 {
                    reserve.overdraw(owed);
                }
                self.reserved += owed;
                let from = self.waiting.len();
                message.parts().iter().for_each(|part| self.waiting.extend_from_slice(part));
                self.waiting.drain(from..from + begun);
            } else {
                dropped += 1;
            }
        }
        dropped
    }
}

/// How many bytes the socket takes without waiting. Of an error the connection's task hears, too.
fn write(socket: &OwnedWriteHalf, messages: &[&StreamMessage<'_>]) -> usize {
    let parts = messages.iter().flat_map(|message| message.parts());
    let parts: Vec<IoSlice<'_>> = parts.filter(|part| !part.is_empty()).map(IoSlice::new).collect();
    socket.try_write_vectored(&parts).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    fn channel_data(data: &[u8]) -> StreamMessage<'_> {
        StreamMessage::ChannelData { header: [0x40, 0, 0, data.len() as u8], data }
    }

    #[tokio::test]
    async fn what_the_socket_does_not_take_waits_in_order_and_up_to_the_limit() {
        const LIMIT: usize = 10_000;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut reader = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (_unread, socket) = listener.accept().await.unwrap().0.into_split();
        let socket = Arc::new(socket);
        socket.writable().await.unwrap();
        let outbox = Outbox::new(Some(Arc::clone(&socket)), LIMIT, Arc::new(Reserve::new(0)));
        let (mut sent, mut number) = (Vec::new(), 0_u8);
        while outbox.lock().waiting.is_empty() {
            number = number.wrapping_add(1);
            let data = [[number; 201], [!number; 201]];
            let messages = [channel_data(&data[0]), StreamMessage::Stun(vec![number; 20]), channel_data(&data[1])];
            let whole: Vec<Vec<u8>> = messages.iter().map(|message| message.parts().concat()).collect();
            assert_eq!(whole.iter().map(Vec::len).collect::<Vec<_>>(), [208, 20, 208]);
            assert_eq!(outbox.push(messages.iter()), 0);
            sent.extend(whole.concat());
        }
        let last = StreamMessage::Stun(vec![0xAB; 20]);
        while outbox.push(std::iter::once(&last)) == 0 {
            sent.extend([0xAB; 20]);
        }
        let mut taken = outbox.take().await;
        assert!((LIMIT - 20..=LIMIT).contains(&taken.len()), "{}", taken.len());
        let mut received = vec![0; sent.len() - taken.len()];
        reader.read_exact(&mut received).await.unwrap();
        outbox.wrote(100);
        // As long as not all of it is written, nothing overtakes it.
        assert_eq!(outbox.push([channel_data(b"late")].iter()), 0);
        outbox.wrote(taken.len() - 100);
        received.append(&mut taken);
        assert!(received == sent, "all in order");
        assert_eq!(outbox.take().await, b"\x40\0\0\x04late");
        outbox.wrote(8);
        socket.writable().await.unwrap();
        assert_eq!(outbox.push([channel_data(b"x")].iter()), 0);
        let mut at_once = [0; 8];
        reader.read_exact(&mut at_once).await.unwrap();
        assert_eq!(at_once, *b"\x40\0\0\x01x\0\0\0", "there is room again");
        assert!(outbox.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn all_of_tls_waits_for_the_connections_task() {
        let outbox = Outbox::new(None, 16, Arc::new(Reserve::new(0)));
        let messages = [channel_data(b"first"), channel_data(b"none"), channel_data(b"")];
        assert_eq!(outbox.push(messages.iter()), 1);
        assert_eq!(outbox.take().await, b"\x40\0\0\x05first\0\0\0\x40\0\0\0");
        assert_eq!(outbox.push(messages.iter()), 3, "it is not written yet");
        outbox.wrote(16);
        assert_eq!(outbox.push(messages.iter()), 1);
    }

    #[tokio::test]
    async fn what_waits_for_all_is_bounded_and_each_has_a_little_of_its_own() {
        const RESERVE: usize = 100_000;
        let reserve = Arc::new(Reserve::new(RESERVE));
        let left = || reserve.left.load(Ordering::Relaxed);
        let message = channel_data(&[7; 996]);
        let fill = |outbox: &Outbox| (0..).take_while(|_| outbox.push(std::iter::once(&message)) == 0).count() * 1000;
        let outboxes: Vec<_> = (0..4).map(|_| Outbox::new(None, 64_000, Arc::clone(&reserve))).collect();
        let waits: Vec<usize> = outboxes.iter().map(fill).collect();
        assert_eq!(waits[0], 64_000, "the first may have all that one may");
        assert!(waits[1] > 60_000 && waits[1] < 64_000 + 1, "{waits:?}");
        assert!(waits[2..].iter().all(|waits| (15_000..=OWN + 10_000).contains(waits)), "{waits:?}");
        assert!(waits.iter().sum::<usize>() <= RESERVE + 4 * OWN && left() >= 0, "{waits:?}");
        let taken = outboxes[0].take().await.len();
        outboxes[0].wrote(taken);
        assert!(left() >= 40_000, "{}: what is written is free again", left());
        assert_eq!(fill(&outboxes[3]), 64_000 - waits[3]);
        drop(outboxes);
        assert_eq!(left(), RESERVE.cast_signed(), "so is what a connection leaves behind");
    }
}
