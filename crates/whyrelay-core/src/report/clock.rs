//! How far the two sides' clocks are apart.
//!
//! What is sent on one side and received on the other was received later. So every message that both sides recorded
//! bounds the offset from one direction, and the two directions together enclose it: no symmetry of the path is
//! assumed, as NTP (RFC 5905) has to. Checks and their answers are such messages, over the very path of the data
//! channel; so are the first pings over the channel itself, and descriptions, candidates and pings over signaling, which
//! also come through when no path does.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::diagnosis::evidence::Evidence;
use crate::ice::candidate::{Candidate, CandidateType};
use crate::time::Timestamp;
use crate::trace::event::{Direction, Event, EventKind, Side, Vantage};

/// Only what happened this long after the first message that both sides saw is compared, in microseconds: quartz drifts
/// by up to 100 ppm, 3 ms in this time.
const WINDOW_US: u64 = 30_000_000;

/// Bounds that contradict each other by no more than this, in microseconds, come from drift.
const MAX_CONTRADICTION_US: i64 = 10_000;

/// How far B's clock is ahead of A's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClockOffset {
    /// B's clock minus A's, in microseconds; `null` when it could not be told.
    pub offset_us: Option<i64>,
    /// The offset is certainly within this of the estimate, in microseconds.
    pub uncertainty_us: Option<u64>,
    /// Messages from A to B that both sides recorded.
    pub a_to_b: u32,
    /// Messages from B to A that both sides recorded.
    pub b_to_a: u32,
    /// What bounded it most closely.
    pub measured_by: Vec<Witness>,
    /// In one sentence.
    pub summary: String,
}

/// What a bound comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Witness {
    /// Connectivity checks and their answers, which go the way of the data channel.
    Checks,
    /// Pings over the data channel and their answers.
    Channel,
    /// Messages over signaling.
    Signaling,
}

impl ClockOffset {
    /// Where an event of B would stand on A's clock.
    pub fn on_clock_of_a(&self, vantage: Vantage, at: Timestamp) -> Option<Timestamp> {
        match vantage {
            Vantage::A => Some(at),
            Vantage::B => {
                let offset = self.offset_us?;
                Some(Timestamp::from_micros(at.as_micros().saturating_add_signed(offset.saturating_neg())))
            }
        }
    }
}

/// A message that both sides recorded.
#[derive(Clone, Copy)]
struct Message {
    from: Vantage,
    sent: Timestamp,
    received: Timestamp,
    witness: Witness,
}

impl Message {
    /// B's clock minus A's, as if the message had taken no time.
    fn difference(&self) -> i64 {
        let (sent, received) = (self.sent.as_micros().cast_signed(), self.received.as_micros().cast_signed());
        match self.from {
            Vantage::A => received.saturating_sub(sent),
            Vantage::B => sent.saturating_sub(received),
        }
    }

    /// When, on A's clock.
    const fn on_a(&self) -> u64 {
        match self.from {
            Vantage::A => self.sent.as_micros(),
            Vantage::B => self.received.as_micros(),
        }
    }
}

/// The offset; `None` unless both sides were recorded.
pub(super) fn estimate(evidence: &Evidence, events: &[&Event]) -> Option<ClockOffset> {
    if !evidence.is_recorded(Vantage::A) || !evidence.is_recorded(Vantage::B) {
        return None;
    }
    let mut messages = checks(evidence);
    messages.extend(told(events));
    // The window starts where both directions are there, so that an offer that waited for B is no reason to stop early.
    let first = |from| messages.iter().filter(|message| message.from == from).map(Message::on_a).min();
    let start = first(Vantage::A).max(first(Vantage::B)).unwrap_or_default();
    messages.retain(|message| message.on_a() <= start.saturating_add(WINDOW_US));

    let count = |from| messages.iter().filter(|message| message.from == from).count();
    let (a_to_b, b_to_a) = (count(Vantage::A), count(Vantage::B));
    let of = |from| messages.iter().filter(move |message| message.from == from);
    let upper = of(Vantage::A).min_by_key(|message| (message.difference(), message.witness));
    let lower = of(Vantage::B).max_by_key(|message| (message.difference(), std::cmp::Reverse(message.witness)));
    let counts = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let mut offset = ClockOffset { a_to_b: counts(a_to_b), b_to_a: counts(b_to_a), ..ClockOffset::default() };
    match (lower, upper) {
        (Some(lower), Some(upper)) => {
            offset.measured_by = vec![upper.witness, lower.witness];
            offset.measured_by.sort_unstable();
            offset.measured_by.dedup();
            enclose(&mut offset, lower.difference(), upper.difference());
        }
        _ => "The clocks cannot be compared: no message is in both recordings in both directions. Each side's times \
              count from its own start."
            .clone_into(&mut offset.summary),
    }
    Some(offset)
}

fn enclose(offset: &mut ClockOffset, lower: i64, upper: i64) {
    let width = upper.saturating_sub(lower);
    if width < -MAX_CONTRADICTION_US {
        let by = super::describe::duration(width.unsigned_abs());
        offset.summary = format!(
            "The clocks cannot be compared: the recordings contradict each other by {by}, so a clock was set during \
             the session. Each side's times count from its own start."
        );
        return;
    }
    let middle = lower.saturating_add(width / 2);
    let uncertainty = width.unsigned_abs().div_ceil(2);
    let ahead = super::describe::duration(middle.unsigned_abs());
    let within = super::describe::duration(uncertainty);
    let order = match middle {
        0 => "agree".to_owned(),
        1.. => format!("differ: B's is {ahead} ahead of A's"),
        _ => format!("differ: B's is {ahead} behind A's"),
    };
    offset.offset_us = Some(middle);
    offset.uncertainty_us = Some(uncertainty);
    let drift = if width < 0 { "; they drifted during the session" } else { "" };
    offset.summary = format!("The clocks {order}, within {within}{drift}. Times of both sides are on A's clock.");
}

/// Checks and answers, joined by transaction id.
fn checks(evidence: &Evidence) -> Vec<Message> {
    let mut messages = Vec::new();
    for from in [Vantage::A, Vantage::B] {
        let (sender, receiver) = (evidence.side(from), evidence.side(from.other()));
        for (id, check) in &sender.sent {
            let Some(seen) = receiver.received.get(id) else { continue };
            let witness = Witness::Checks;
            messages.push(Message { from, sent: check.first, received: seen.first, witness });
            if let (Some(answered), Some(answer)) = (&seen.answer, &check.answer) {
                messages.push(Message { from: from.other(), sent: answered.at, received: answer.at, witness });
            }
        }
    }
    messages
}

/// What identifies something that went over signaling or the channel.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Content {
    Description(String),
    Candidate(String),
    /// The n-th ping or pong.
    Ping(String, u32),
    /// A ping over the channel, or the answer to it.
    ChannelPing {
        answer: bool,
        id: u32,
    },
}

impl Content {
    const fn witness(&self) -> Witness {
        match self {
            Self::ChannelPing { .. } => Witness::Channel,
            Self::Description(_) | Self::Candidate(_) | Self::Ping(..) => Witness::Signaling,
        }
    }
}

/// Messages over signaling and the channel, joined by what they say: when one side had it, and when the other got it.
fn told(events: &[&Event]) -> Vec<Message> {
    let mut had: BTreeMap<(Vantage, Content), Timestamp> = BTreeMap::new();
    let mut got: BTreeMap<(Vantage, Content), Timestamp> = BTreeMap::new();
    let mut pings: BTreeMap<(Vantage, Direction, &str), u32> = BTreeMap::new();
    for event in events {
        let (side, content) = match &event.kind {
            EventKind::Description { side, ufrag, .. } => (*side, Content::Description(ufrag.clone())),
            EventKind::LocalCandidate { candidate, .. } => (Side::Local, named(candidate)),
            // A check of the peer tells of a peer-reflexive candidate, signaling does not.
            EventKind::RemoteCandidate { candidate, .. } if candidate.kind != CandidateType::PeerReflexive => {
                (Side::Remote, named(candidate))
            }
            EventKind::SignalMessage { direction, message, .. } if message == "ping" || message == "pong" => {
                let number = pings.entry((event.vantage, *direction, message)).or_default();
                *number += 1;
                let side = if *direction == Direction::Out { Side::Local } else { Side::Remote };
                (side, Content::Ping(message.clone(), *number))
            }
            EventKind::ChannelPing { direction, answer, id } => {
                let side = if *direction == Direction::Out { Side::Local } else { Side::Remote };
                (side, Content::ChannelPing { answer: *answer, id: *id })
            }
            _ => continue,
        };
        let (map, from) = match side {
            Side::Local => (&mut had, event.vantage),
            Side::Remote => (&mut got, event.vantage.other()),
        };
        map.entry((from, content)).or_insert(event.at);
    }
    let message = |(key, sent): (&(Vantage, Content), &Timestamp)| {
        let received = *got.get(key)?;
        Some(Message { from: key.0, sent: *sent, received, witness: key.1.witness() })
    };
    had.iter().filter_map(message).collect()
}

fn named(candidate: &Candidate) -> Content {
    Content::Candidate(format!("{} {} {}", candidate.kind, candidate.transport, candidate.address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enclosed(lower: i64, upper: i64) -> ClockOffset {
        let mut offset = ClockOffset::default();
        enclose(&mut offset, lower, upper);
        offset
    }

    #[test]
    fn bounds_enclose_the_offset() {
        let offset = enclosed(40_000, 50_001);
        assert_eq!((offset.offset_us, offset.uncertainty_us), (Some(45_000), Some(5_001)));
        assert_eq!(
            offset.summary,
            "The clocks differ: B's is 45 ms ahead of A's, within 5.0 ms. Times of both sides are on A's clock."
        );
        let behind = enclosed(-2_000_000, -1_900_000);
        assert_eq!(
            behind.on_clock_of_a(Vantage::B, Timestamp::from_micros(50)),
            Some(Timestamp::from_micros(1_950_050))
        );
    }

    #[test]
    fn a_clock_that_was_set_is_no_estimate_and_drift_is_said() {
        assert_eq!(enclosed(1_000_000, 0).offset_us, None);
        assert!(enclosed(1_000_000, 0).summary.contains("a clock was set"));
        let drifted = enclosed(500, 0);
        assert_eq!((drifted.offset_us, drifted.uncertainty_us), (Some(250), Some(250)));
        assert!(drifted.summary.contains("drifted"));
    }
}
