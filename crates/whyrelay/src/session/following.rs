//! While a session lasts, its events go to a peer that follows it: the page, which shows what both sides saw.

use std::time::{Duration, Instant};

use whyrelay_core::signal::{MessageType, RECORDING_CHUNK, TracePiece};
use whyrelay_core::trace::event::Event;
use whyrelay_core::trace::packing::pack;
use whyrelay_core::trace::recording::encode;

use super::driver::Session;

/// Pieces that go at once, and the time until the next may go: what connects the peers shares the way with them. That
/// is 0.5 MB a second at most, before compression.
const BURST: usize = 4;
const INTERVAL: Duration = Duration::from_millis(250);

/// Bytes of events that are sent, before compression. The rest comes with the recording, at the end.
const MOST: usize = 4 * 1024 * 1024;

/// What the peer has of the events so far.
#[derive(Debug)]
pub(super) struct Following {
    /// So many of them.
    sent: usize,
    /// In so many pieces.
    pieces: u32,
    /// Bytes that may still be sent, before compression.
    left: usize,
    /// When the next piece may go.
    next: Instant,
}

impl Following {
    pub(super) fn new() -> Self {
        Self { sent: 0, pieces: 0, left: MOST, next: Instant::now() }
    }

    /// The peer came again, and has nothing.
    pub(super) fn restart(&mut self) {
        (self.sent, self.pieces) = (0, 0);
    }

    /// The next events of `all`, as many as one message holds.
    fn take(&mut self, all: &[Event]) -> Option<TracePiece> {
        let new = all.get(self.sent..)?;
        let mut bytes = 0;
        let fits = |event: &&Event| {
            bytes += encode(event).len();
            bytes <= RECORDING_CHUNK
        };
        // An event that alone is longer still goes, if it can be compressed.
        let count = new.iter().take_while(fits).count().max(1).min(new.len());
        let data = pack(&new[..count]);
        self.left = self.left.saturating_sub(bytes);
        if count == 0 || data.len() > RECORDING_CHUNK {
            self.left = 0;
            return None;
        }
        let piece = TracePiece { index: self.pieces, more: count < new.len(), data };
        self.sent += count;
        self.pieces += 1;
        Some(piece)
    }
}

impl Session {
    /// Pseudonyms are final only when a recording is complete, so with them the peer waits for the end.
    fn is_followed(&self) -> bool {
        let signals = &self.signals;
        let is_there = signals.client.is_some() && signals.peer_present && !signals.peer_left;
        let follows = self.remote.is_some() && is_there && signals.peer_follows();
        follows && self.following.left > 0 && !self.config.redact && !self.signals.peer_redacts()
    }

    /// When events go to the peer next.
    pub(super) fn following_deadline(&self) -> Option<Instant> {
        let has_new = self.sink.events().len() > self.following.sent;
        (has_new && self.is_followed()).then_some(self.following.next)
    }

    /// Sends the peer what it has not seen, if that is due.
    pub(super) fn let_follow(&mut self) {
        let now = Instant::now();
        if self.following_deadline().is_none_or(|at| now < at) {
            return;
        }
        self.following.next = now + INTERVAL;
        let Some(client) = &self.signals.client else { return };
        for _ in 0..BURST {
            let Some(piece) = self.following.take(self.sink.events()) else { return };
            // Not recorded: each piece would make the next. What is lost with the connection comes at the end.
            if client.send(MessageType::Trace, &self.signals.peer, piece.to_content()).is_err() {
                self.following.left = 0;
            }
            if !piece.more {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use whyrelay_core::time::Timestamp;
    use whyrelay_core::trace::event::{EventKind, Vantage};
    use whyrelay_core::trace::packing::unpack;
    use whyrelay_core::trace::recording::Recorder;

    use super::*;

    fn events(texts: impl Iterator<Item = String>) -> Vec<Event> {
        let mut recorder = Recorder::new(Vantage::A);
        texts.map(|detail| recorder.record(Timestamp::from_micros(1), EventKind::ChannelClosed { detail })).collect()
    }

    #[test]
    fn pieces_hold_every_event_once_and_in_order() {
        let all = events((0..2000).map(|number| format!("{number} {}", "x".repeat(100))));
        let (mut following, mut seen) = (Following::new(), Vec::new());
        for upto in [1, 2, 700, 700, 2000, 2000, 2000, 2000, 2000, 2000, 2000, 2000, 2000, 2000, 2000, 2000] {
            let before = following.pieces;
            let Some(piece) = following.take(&all[..upto]) else { continue };
            assert_eq!(piece.index, before);
            seen.extend(unpack(&piece.data).unwrap().events);
        }
        assert_eq!(seen, all);
        following.restart();
        assert_eq!(following.take(&all).unwrap().index, 0);
    }

    #[test]
    fn nothing_is_sent_beyond_the_bound() {
        let all = events((0..60_000).map(|number| format!("{number} {}", "x".repeat(100))));
        let mut following = Following::new();
        while following.left > 0 {
            following.take(&all).expect("a piece");
        }
        assert!(following.sent < all.len());
        // What cannot be made small enough ends it as well.
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b' ' + (state >> 33) as u8 % 90)
        };
        let all = events(std::iter::once((0..4 * RECORDING_CHUNK).map(|_| noise()).collect()));
        let mut following = Following::new();
        assert_eq!(following.take(&all), None);
        assert_eq!(following.left, 0);
    }
}
