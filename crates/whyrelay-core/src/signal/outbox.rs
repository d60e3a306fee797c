//! Nothing lost and nothing repeated over a connection that breaks: numbers, acknowledgements, and sending again.

use std::collections::VecDeque;

use super::{MAILBOX_BYTES, MAILBOX_MESSAGES, Message};

/// Messages sent and not yet acknowledged, at most: half of what the server keeps for one peer.
const WINDOW: usize = MAILBOX_MESSAGES / 2;
/// Bytes sent and not yet acknowledged, at most; one message always is. Half of what the server keeps, again.
const WINDOW_BYTES: usize = MAILBOX_BYTES / 2;
/// Messages that wait in the sender, at most. A recording in pieces fits.
const MAX_WAITING: usize = 4096;
/// Bytes that wait in the sender, at most.
const MAX_WAITING_BYTES: usize = 64 * MAILBOX_BYTES;

/// The sender's side: messages in their order until the server has taken them.
///
/// The server takes a peer's messages only in the order of their numbers, so what it refused is sent again together
/// with everything after it, and nothing overtakes.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: VecDeque<Message>,
    bytes: usize,
    /// The first `in_flight` of `waiting` have been sent on this connection.
    in_flight: usize,
    in_flight_bytes: usize,
    last_number: u64,
    held: bool,
}

impl Outbox {
    /// An empty outbox.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes `message` and gives it the next number.
    ///
    /// # Errors
    /// When too many wait already; the message is handed back.
    pub fn push(&mut self, mut message: Message) -> Result<(), OutboxFull> {
        if self.waiting.len() >= MAX_WAITING || self.bytes + message.content.len() > MAX_WAITING_BYTES {
            return Err(OutboxFull(Box::new(message)));
        }
        self.last_number += 1;
        message.seq = Some(self.last_number);
        self.bytes += message.content.len();
        self.waiting.push_back(message);
        Ok(())
    }

    /// The next message to put on the wire, if any may be sent now.
    pub fn poll_send(&mut self) -> Option<Message> {
        if self.held || self.in_flight >= WINDOW {
            return None;
        }
        let message = self.waiting.get(self.in_flight)?;
        if self.in_flight > 0 && self.in_flight_bytes + message.content.len() > WINDOW_BYTES {
            return None;
        }
        self.in_flight += 1;
        self.in_flight_bytes += message.content.len();
        Some(message.clone())
    }

    /// The server has taken everything up to `number`.
    pub fn on_ack(&mut self, number: u64) {
        while self.waiting.front().is_some_and(|message| message.seq <= Some(number)) {
            let Some(message) = self.waiting.pop_front() else { break };
            self.bytes -= message.content.len();
            if self.in_flight > 0 {
                self.in_flight -= 1;
                self.in_flight_bytes -= message.content.len();
            }
        }
    }

    /// The server did not take `number`: it and what follows wait until [`Outbox::release`].
    pub fn on_refused(&mut self, number: u64) {
        self.on_ack(number.saturating_sub(1));
        if self.waiting.front().is_some_and(|message| message.seq == Some(number)) {
            self.nothing_in_flight();
            self.held = true;
        }
    }

    /// Gives up the message `number`, which the server will never take, and returns it.
    pub fn abandon(&mut self, number: u64) -> Option<Message> {
        self.on_ack(number.saturating_sub(1));
        if self.waiting.front()?.seq != Some(number) {
            return None;
        }
        self.nothing_in_flight();
        let message = self.waiting.pop_front()?;
        self.bytes -= message.content.len();
        Some(message)
    }

    /// What was held back may be tried again.
    pub fn release(&mut self) {
        self.held = false;
    }

    /// A new connection: the server has taken everything up to `received`, the rest is sent again.
    pub fn on_connected(&mut self, received: u64) {
        self.on_ack(received);
        self.nothing_in_flight();
        self.held = false;
    }

    fn nothing_in_flight(&mut self) {
        (self.in_flight, self.in_flight_bytes) = (0, 0);
    }

    /// Whether everything has been taken.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether messages are held back until [`Outbox::release`].
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// The oldest message that has not been taken.
    pub fn first(&self) -> Option<&Message> {
        self.waiting.front()
    }
}

/// Too many messages wait for the server.
#[derive(Debug, thiserror::Error)]
#[error("too many messages wait to be sent")]
pub struct OutboxFull(
    /// The message that was not taken.
    pub Box<Message>,
);

/// The receiver's side: what has been taken already.
#[derive(Debug, Default)]
pub struct Inbox {
    last: u64,
    acknowledged: u64,
}

impl Inbox {
    /// Nothing received yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the message numbered `seq` is new. Messages without a number always are.
    pub fn accept(&mut self, seq: Option<u64>) -> bool {
        match seq {
            None => true,
            Some(number) if number > self.last => {
                self.last = number;
                true
            }
            Some(_) => false,
        }
    }

    /// The server does not know this peer any more, and counts from one again.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// The number to acknowledge when at least `pending` messages have not been.
    pub fn poll_ack(&mut self, pending: u64) -> Option<u64> {
        (self.last >= self.acknowledged + pending.max(1)).then(|| {
            self.acknowledged = self.last;
            self.last
        })
    }

    /// The last number taken, 0 for none.
    pub fn last(&self) -> u64 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::signal::MessageType;

    fn numbered(content: usize) -> Message {
        Message::new(MessageType::Candidate, "a", "b", content.to_string())
    }

    /// What a server does with numbers: takes the next one, repeats its acknowledgement, ignores what jumps.
    #[derive(Default)]
    struct Server {
        received: u64,
        taken: Vec<String>,
    }

    impl Server {
        fn take(&mut self, message: &Message) {
            if message.seq == Some(self.received + 1) {
                self.received += 1;
                self.taken.push(message.content.clone());
            }
        }
    }

    #[test]
    fn what_was_refused_is_sent_again_in_order_after_the_release() {
        let mut outbox = Outbox::new();
        for content in 0..3 {
            outbox.push(numbered(content)).unwrap();
        }
        assert_eq!(std::iter::from_fn(|| outbox.poll_send()).count(), 3);
        outbox.on_refused(2);
        assert_eq!(outbox.poll_send(), None);
        outbox.release();
        let again: Vec<_> = std::iter::from_fn(|| outbox.poll_send()).map(|message| message.seq).collect();
        assert_eq!(again, [Some(2), Some(3)]);
    }

    #[test]
    fn an_outbox_is_bounded() {
        let mut outbox = Outbox::new();
        let refused = (0..).find(|content| outbox.push(numbered(*content)).is_err());
        assert_eq!(refused, Some(MAX_WAITING));
    }

    #[test]
    fn an_abandoned_message_lets_the_next_one_through() {
        let mut outbox = Outbox::new();
        outbox.push(numbered(0)).unwrap();
        outbox.push(numbered(1)).unwrap();
        outbox.poll_send();
        assert_eq!(outbox.abandon(1).map(|message| message.content), Some("0".to_owned()));
        assert_eq!(outbox.poll_send().map(|message| message.content), Some("1".to_owned()));
    }

    #[test]
    fn large_messages_leave_one_by_one() {
        let mut outbox = Outbox::new();
        for _ in 0..3 {
            outbox.push(Message::new(MessageType::Recording, "a", "b", "x".repeat(WINDOW_BYTES))).unwrap();
        }
        for number in 1..=3 {
            assert_eq!(outbox.poll_send().and_then(|message| message.seq), Some(number));
            assert_eq!(outbox.poll_send(), None);
            outbox.on_ack(number);
        }
    }

    proptest! {
        /// Whatever is lost, refused or cut off, the server ends with every message once and in order.
        #[test]
        fn nothing_is_lost_or_repeated(count in 0usize..80, chances in proptest::collection::vec(0u8..10, 0..400)) {
            let mut outbox = Outbox::new();
            let mut server = Server::default();
            for content in 0..count {
                outbox.push(numbered(content)).unwrap();
            }
            for chance in chances.into_iter().chain(std::iter::repeat(9)) {
                match chance {
                    0 => outbox.on_connected(server.received),
                    1 => outbox.on_refused(server.received + 1),
                    2 => { outbox.poll_send(); }
                    3 => outbox.release(),
                    4 => outbox.on_ack(server.received),
                    _ => match outbox.poll_send() {
                        Some(message) => server.take(&message),
                        None => outbox.on_connected(server.received),
                    },
                }
                if outbox.is_empty() { break; }
            }
            prop_assert_eq!(server.taken, (0..count).map(|content| content.to_string()).collect::<Vec<_>>());
        }

        #[test]
        fn a_receiver_takes_each_number_once(numbers in proptest::collection::vec(1u64..20, 0..60)) {
            let mut inbox = Inbox::new();
            let taken: Vec<_> = numbers.into_iter().filter(|number| inbox.accept(Some(*number))).collect();
            prop_assert!(taken.is_sorted_by(|a, b| a < b));
            prop_assert_eq!(inbox.last(), taken.last().copied().unwrap_or(0));
        }
    }
}
