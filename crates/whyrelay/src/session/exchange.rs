//! At the end each side sends its recording to the other over signaling, so that both compute the same account.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use whyrelay_core::signal::{MessageType, split_recording};
use whyrelay_core::trace::event::{EndReason, EventKind};
use whyrelay_core::trace::packing::{pack, unpack};

use super::driver::Session;
use crate::signaling::Client;

/// How long the other side's recording is waited for when this side has come to its end in the ordinary way: the
/// other may still be trying pairs.
const WAIT: Duration = Duration::from_secs(10);

/// Saying goodbye to the signaling server may take this long when the user is waiting for the prompt, or so long as its
/// acknowledgement is on its way, if that is longer.
const GOODBYE: Duration = Duration::from_millis(50);

/// A round trip to the signaling server counts as this at most: nobody waits longer for a prompt because of a server that
/// took its time.
const LONGEST_ROUND_TRIP: Duration = Duration::from_millis(250);

/// How long pieces of a recording that come one by one may stop.
const STALLED: Duration = Duration::from_secs(5);

/// How long what the other side sent before it left may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Pieces handed to signaling at a time; the next ones when these are on their way.
const PACE: Duration = Duration::from_millis(2);

impl Session {
    /// Sends our recording, waits for the other side's, and appends it to ours. Who has interrupted the session waits no
    /// longer than until [`Self::over_by`].
    pub(super) async fn exchange(&mut self, interrupt: &mut watch::Receiver<u32>, reason: EndReason) {
        let met = self.remote.is_some();
        let missing = if !met {
            Some("the two sides never met over signaling".to_owned())
        } else if !self.signals.peer_sends_recording() {
            Some("the other side is not whyrelay: it keeps no recording".to_owned())
        } else {
            if let (true, Some(secret)) = (self.signals.peer_redacts(), &self.secret)
                && self.sink.redact_all(secret)
            {
                self.progress
                    .step("the other side wants pseudonyms (--redact): the account and the recording use them");
            }
            self.send_recording(interrupt).await;
            self.await_recording(interrupt).await;
            self.take_recording()
        };
        if let Some(missing) = missing {
            let now = self.clock.now();
            self.sink.record_after_end(now, EventKind::PeerRecording { missing: Some(missing) });
        }
        self.progress.clear();
        let goodbye = match reason {
            EndReason::Interrupted => "interrupted",
            EndReason::Finished => "finished",
            _ => "ended",
        };
        let goodbye_takes = self.goodbye_takes();
        let within =
            self.over_by.map_or(WAIT, |over_by| over_by.saturating_duration_since(Instant::now()).max(goodbye_takes));
        self.signals.leave(goodbye, within).await;
    }

    /// How much longer than on the own link an exchange of recordings takes through the signaling server: ours on its way,
    /// the other side's on its way back, and a goodbye.
    pub(super) fn exchange_lag(&self) -> Duration {
        3 * self.round_trip()
    }

    fn goodbye_takes(&self) -> Duration {
        goodbye_within(self.round_trip())
    }

    /// Of the connection to signaling, as far as it was measured.
    fn round_trip(&self) -> Duration {
        let measured = self.signals.client.as_ref().and_then(|client| client.server().round_trip);
        measured.unwrap_or_default().min(LONGEST_ROUND_TRIP)
    }

    /// The moment by which nothing is sent or waited for any more but the goodbye; `None`: nobody waits for the prompt.
    fn last_moment(&self) -> Option<Instant> {
        self.over_by.and_then(|over_by| over_by.checked_sub(self.goodbye_takes()))
    }

    /// A recording that is not whole is worth nothing: what is left of one at the last moment is not sent.
    async fn send_recording(&mut self, interrupt: &mut watch::Receiver<u32>) {
        let Some(sender) = self.signals.client.as_ref().map(Client::sender) else { return };
        let packed = pack(self.sink.events());
        let Ok(chunks) = split_recording(&packed) else { return };
        for chunk in chunks {
            let is_over = self.last_moment().is_some_and(|last| Instant::now() >= last);
            if is_over || sender.send(MessageType::Recording, &self.config.peer, chunk.to_content()).is_err() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(PACE) => {}
                Ok(()) = interrupt.changed() => self.hurry(),
            }
        }
    }

    async fn await_recording(&mut self, interrupt: &mut watch::Receiver<u32>) {
        let started = Instant::now();
        let mut until = started + WAIT;
        let mut left = false;
        loop {
            until = self.last_moment().map_or(until, |latest| until.min(latest));
            if self.signals.peer_recording.is_some() || Instant::now() >= until {
                return;
            }
            let Some(client) = self.signals.client.as_mut() else { return };
            let tick = Instant::now() + Duration::from_secs(1);
            tokio::select! {
                incoming = client.recv() => {
                    // The recording has ended: nothing of this enters it.
                    if self.signaled(incoming).is_err() {
                        return;
                    }
                    if self.signals.peer_left && !std::mem::replace(&mut left, true) {
                        // Its last words may still be on their way.
                        until = until.min(Instant::now() + LAST_WORDS);
                    } else {
                        until = until.max(Instant::now() + STALLED);
                    }
                }
                Ok(()) = interrupt.changed() => return self.hurry(),
                () = tokio::time::sleep_until(tick.min(until).into()) => {
                    let waited = started.elapsed().as_secs();
                    self.progress.live(&format!("waiting {waited} s for the other side's recording"));
                }
            }
        }
    }

    /// Appends the other side's events; answers why they are missing.
    fn take_recording(&mut self) -> Option<String> {
        let Some(packed) = self.signals.peer_recording.take() else {
            return Some(if self.signals.peer_left {
                "the other side left without sending it".into()
            } else {
                "it did not come in time".into()
            });
        };
        match unpack(&packed) {
            Ok(recording) => {
                let other = self.config.side.other();
                let events = recording.events.into_iter().filter(|event| event.vantage == other).collect();
                self.sink.append(events);
                None
            }
            Err(error) => Some(error.to_string()),
        }
    }
}

/// How long a goodbye is waited for where its acknowledgement takes a round trip: a little longer.
fn goodbye_within(round_trip: Duration) -> Duration {
    GOODBYE.max(round_trip + round_trip / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goodbye_waits_for_what_acknowledges_it() {
        for (round_trip, within) in [(0, 50), (30, 50), (100, 125), (250, 312)] {
            assert_eq!(goodbye_within(Duration::from_millis(round_trip)).as_millis(), within, "{round_trip} ms");
        }
    }
}
