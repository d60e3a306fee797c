//! What is measured on the open data channel.

use std::time::{Duration, Instant};

use whyrelay_core::trace::event::{EventKind, Vantage};

use super::SessionConfig;
use crate::channel::Channel;

/// How long a peer that is not whyrelay is given for its greeting.
const GREETING_WITHIN: Duration = Duration::from_secs(2);

/// The measurements of one session.
#[derive(Debug)]
pub(super) struct Measuring {
    greeting: String,
    until: Option<Instant>,
    done: bool,
    events: Vec<EventKind>,
}

impl Measuring {
    pub(super) fn new(config: &SessionConfig) -> Self {
        let role = match config.side {
            Vantage::A => "offerer",
            Vantage::B => "answerer",
        };
        Self { greeting: format!("Hello from the whyrelay {role}!"), until: None, done: false, events: Vec::new() }
    }

    pub(super) fn opened(&mut self, channel: &mut Channel, id: u16, _is_whyrelay: bool, now: Instant) {
        // A full buffer is impossible on a channel that has just opened.
        let _ = channel.send_message(now, id, false, self.greeting.as_bytes());
        self.until = Some(now + GREETING_WITHIN);
    }

    pub(super) fn message(&mut self, _channel: &mut Channel, _binary: bool, _data: &[u8], _now: Instant) {
        self.done = true;
    }

    pub(super) fn on_time(&mut self, _channel: &mut Channel, now: Instant) {
        if self.until.is_some_and(|until| now >= until) {
            self.done = true;
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.until.filter(|_| !self.done)
    }

    pub(super) fn take_events(&mut self) -> Vec<EventKind> {
        std::mem::take(&mut self.events)
    }

    pub(super) fn live_line(&self) -> Option<String> {
        None
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }
}
