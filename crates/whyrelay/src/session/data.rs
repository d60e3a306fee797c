//! The data channel of a session, over whichever pair carries it.

use std::time::{Duration, Instant};

use whyrelay_core::trace::event::EndReason;

use super::driver::{Phase, Session, Todo};
use super::measuring::Measuring;
use crate::channel::{self, Channel};

/// How long a session that has measured everything waits for a nomination: a better pair gets two seconds at most.
const NOMINATED_WITHIN: Duration = Duration::from_secs(5);

/// DTLS datagrams kept until the other side's description is there, or until a pair can carry ours.
const MAX_HELD: usize = 64;

impl Session {
    /// Makes the channel as soon as that is possible: the server when it knows the fingerprint, the client when a pair
    /// can carry its first flight.
    pub(super) fn start_channel(&mut self) {
        if self.channel.is_some() {
            return;
        }
        let Some(config) = self.channel_config() else { return };
        if config.dtls_client && self.peer.agent().send_pair().is_none() {
            return;
        }
        match Channel::new(Instant::now(), config) {
            Ok(channel) => self.channel = Some(channel),
            Err(error) => {
                self.progress.step(&format!("DTLS cannot start: {error:#}"));
                self.end(EndReason::Error);
                return;
            }
        }
        for bytes in std::mem::take(&mut self.early) {
            self.take_dtls(bytes);
        }
    }

    pub(super) fn take_dtls(&mut self, bytes: Vec<u8>) {
        match &mut self.channel {
            Some(channel) => {
                channel.handle_datagram(Instant::now(), &bytes);
                self.drain_channel();
            }
            None if self.early.len() < MAX_HELD => self.early.push_back(bytes),
            None => {}
        }
    }

    pub(super) fn drain_channel(&mut self) {
        loop {
            let Some(channel) = &mut self.channel else { return };
            match channel.poll_output() {
                channel::Output::Timeout(_) => return,
                output => self.channel_output(output),
            }
        }
    }

    pub(super) fn channel_output(&mut self, output: channel::Output) {
        match output {
            channel::Output::Transmit(bytes) => {
                if self.peer.agent().send_pair().is_some() {
                    self.todo.push_back(Todo::Data(bytes));
                } else if self.held.len() < MAX_HELD {
                    self.held.push_back(bytes);
                }
            }
            channel::Output::Event(event) => {
                self.show(&event);
                let failed = super::signals::is_channel_failure(&event);
                self.record(event);
                if failed {
                    self.end(EndReason::Failed);
                }
            }
            channel::Output::Opened { channel: id, label } => {
                self.progress.step(&format!("data channel {label:?} is open"));
                if !matches!(self.phase, Phase::Ending(_)) {
                    self.phase = Phase::Open;
                }
                let is_whyrelay = self.signals.peer_is_whyrelay();
                self.measure(|measuring, channel, now| measuring.opened(channel, id, is_whyrelay, now));
            }
            channel::Output::Message { binary, data, .. } => {
                self.measure(|measuring, channel, now| measuring.message(channel, binary, &data, now));
            }
            channel::Output::ChannelClosed { .. } => self.closed_by_peer(EndReason::PeerLeft),
            channel::Output::Closed => {
                self.closed_by_peer(if self.measuring.is_done() { EndReason::Finished } else { EndReason::PeerLeft })
            }
            channel::Output::Timeout(_) => {}
        }
    }

    /// The other side has closed the channel: the session ends, and says why, also where this side was to stay.
    fn closed_by_peer(&mut self, reason: EndReason) {
        if !matches!(self.phase, Phase::Ending(_)) {
            self.progress.step(if self.config.stay {
                "the other side closed the data channel: the session ends. --stay keeps this side; to keep the other, give --stay there, too (in the browser: \"Stay connected until I press Finish\")"
            } else {
                "the other side closed the data channel: the session ends"
            });
        }
        self.end(reason);
    }

    pub(super) fn channel_deadline(&mut self) -> Option<Instant> {
        // Drained before, so that this is its deadline.
        match self.channel.as_mut()?.poll_output() {
            channel::Output::Timeout(at) => Some(at),
            output => {
                self.channel_output(output);
                Some(Instant::now())
            }
        }
    }

    /// Runs a step of the measurements and takes in what came of it.
    pub(super) fn measure(&mut self, step: impl FnOnce(&mut Measuring, &mut Channel, Instant)) {
        let Some(channel) = &mut self.channel else { return };
        step(&mut self.measuring, channel, Instant::now());
        for event in self.measuring.take_events() {
            self.show(&event);
            self.record(event);
        }
        if let Some(live) = self.measuring.live_line() {
            self.progress.live(&live);
        }
        self.end_when_done();
    }

    /// Ends a session that has measured all it was asked to. On a quick network that is before a pair is nominated,
    /// without which nobody could say what the path was.
    pub(super) fn end_when_done(&mut self) {
        if !self.measuring.is_done() || self.config.stay || self.phase != Phase::Open {
            return;
        }
        let since = *self.done_since.get_or_insert_with(Instant::now);
        if self.has_path || since.elapsed() >= NOMINATED_WITHIN {
            self.end(EndReason::Finished);
        }
    }
}
