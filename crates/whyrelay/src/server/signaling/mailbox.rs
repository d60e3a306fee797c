//! What waits for one peer, within bounds.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// A message on its way to a peer.
pub(super) struct Queued {
    /// The message as JSON without its closing brace, so that a number can follow.
    pub(super) body: Vec<u8>,
    /// Who sent it, in which of its sessions; 0 if the message stays good whatever becomes of that session.
    pub(super) from: (String, u64),
    /// When it came, on the hub's clock.
    pub(super) at: Duration,
}

/// The bounds of every mailbox and of all together.
#[derive(Clone)]
pub(super) struct Bounds {
    pub(super) messages: usize,
    pub(super) bytes: usize,
    pub(super) age: Duration,
    /// Bytes that may still be queued in the whole server.
    pub(super) budget: Rc<Cell<usize>>,
}

/// Which bound a message would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    Mailbox,
    Server,
}

/// Messages in their order. The first `sent` of them have been written and wait for the peer's acknowledgement, if
/// the peer acknowledges.
pub(super) struct Mailbox {
    bounds: Bounds,
    queue: VecDeque<Queued>,
    bytes: usize,
    sent: usize,
    /// The number of the message in front.
    front_number: u64,
}

impl Mailbox {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, queue: VecDeque::new(), bytes: 0, sent: 0, front_number: 1 }
    }

    pub(super) fn push(&mut self, message: Queued) -> Result<(), Full> {
        let len = message.body.len();
        if self.queue.len() >= self.bounds.messages || self.bytes + len > self.bounds.bytes {
            return Err(Full::Mailbox);
        }
        let Some(left) = self.bounds.budget.get().checked_sub(len) else { return Err(Full::Server) };
        self.bounds.budget.set(left);
        self.bytes += len;
        self.queue.push_back(message);
        Ok(())
    }

    /// How many messages it holds.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// The next message to write, and its number.
    pub(super) fn next_unsent(&self) -> Option<(&Queued, u64)> {
        Some((self.queue.get(self.sent)?, self.front_number + self.sent as u64))
    }

    /// The next message has been written; `keep` it until it is acknowledged.
    pub(super) fn mark_sent(&mut self, keep: bool) {
        if keep {
            self.sent += 1;
        } else {
            self.pop();
        }
    }

    /// The peer has taken everything up to `number`.
    pub(super) fn acknowledge(&mut self, number: u64) {
        while self.sent > 0 && self.front_number <= number {
            self.pop();
        }
    }

    /// The connection is gone: what was not acknowledged will be written again.
    pub(super) fn rewind(&mut self) {
        self.sent = 0;
    }

    /// A receiver that knows no earlier numbers.
    pub(super) fn restart_numbers(&mut self) {
        self.sent = 0;
        self.front_number = 1;
    }

    /// A receiver that has taken everything up to `number` on an earlier connection.
    pub(super) fn resume_after(&mut self, number: u64) {
        self.sent = self.queue.len();
        self.acknowledge(number);
        self.sent = 0;
    }

    /// Drops what has waited too long, but not a message that is being written.
    pub(super) fn expire(&mut self, now: Duration, front_is_being_written: bool) {
        while self.queue.front().is_some_and(|message| message.at + self.bounds.age <= now)
            && !(front_is_being_written && self.sent == 0)
        {
            self.pop();
        }
    }

    /// Keeps only what `is_valid`.
    pub(super) fn retain(&mut self, mut is_valid: impl FnMut(&Queued) -> bool) {
        let (bytes, budget) = (&mut self.bytes, &self.bounds.budget);
        self.queue.retain(|message| {
            let keep = is_valid(message);
            if !keep {
                *bytes -= message.body.len();
                budget.set(budget.get() + message.body.len());
            }
            keep
        });
    }

    fn pop(&mut self) {
        if let Some(message) = self.queue.pop_front() {
            self.bytes -= message.body.len();
            self.bounds.budget.set(self.bounds.budget.get() + message.body.len());
            self.sent = self.sent.saturating_sub(1);
            self.front_number += 1;
        }
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.bounds.budget.set(self.bounds.budget.get() + self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox() -> Mailbox {
        Mailbox::new(Bounds { messages: 4, bytes: 100, age: Duration::from_secs(60), budget: Rc::new(Cell::new(150)) })
    }

    fn message(len: usize) -> Queued {
        Queued { body: vec![b'a'; len], from: (String::new(), 0), at: Duration::ZERO }
    }

    #[test]
    fn each_bound_holds_and_the_budget_comes_back() {
        let mut first = mailbox();
        assert_eq!(first.push(message(101)), Err(Full::Mailbox));
        for _ in 0..4 {
            first.push(message(25)).unwrap();
        }
        assert_eq!(first.push(message(0)), Err(Full::Mailbox));
        let mut second = Mailbox::new(first.bounds.clone());
        second.push(message(50)).unwrap();
        assert_eq!(second.push(message(1)), Err(Full::Server));
        first.expire(Duration::from_secs(60), false);
        second.push(message(1)).unwrap();
        let budget = Rc::clone(&second.bounds.budget);
        drop((first, second));
        assert_eq!(budget.get(), 150);
    }

    #[test]
    fn what_was_not_acknowledged_is_written_again_with_its_number() {
        let mut mailbox = mailbox();
        for _ in 0..3 {
            mailbox.push(message(1)).unwrap();
            mailbox.mark_sent(true);
        }
        assert!(mailbox.next_unsent().is_none());
        mailbox.acknowledge(1);
        mailbox.rewind();
        assert_eq!(mailbox.next_unsent().map(|(_, number)| number), Some(2));
        mailbox.resume_after(2);
        assert_eq!(mailbox.next_unsent().map(|(_, number)| number), Some(3));
    }

    #[test]
    fn what_is_being_written_does_not_expire() {
        let mut mailbox = mailbox();
        mailbox.push(message(1)).unwrap();
        mailbox.expire(Duration::from_secs(100), true);
        assert!(mailbox.next_unsent().is_some());
        mailbox.expire(Duration::from_secs(100), false);
        assert!(mailbox.next_unsent().is_none());
    }
}
