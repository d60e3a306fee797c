//! An account that grows with the events: for a live screen, and for stepping through time.

use std::sync::Arc;

use super::timeline::Scale;
use super::{Report, clock, describe};
use crate::diagnosis::evidence::Evidence;
use crate::trace::event::{Event, Vantage};

/// Events folded as they come; the report of any moment is the one that [`Report::from_events`] makes of the same
/// events.
#[derive(Clone, Debug, Default)]
pub struct Account {
    evidence: Evidence,
    /// A's and B's, in the order of their numbers, each with what it says.
    events: [Vec<(Event, Arc<str>)>; 2],
}

/// One event in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Its number.
    pub seq: u64,
    /// Who saw it.
    pub side: Vantage,
    /// When, in microseconds on the time line.
    pub at_us: u64,
    /// What it says, in one line.
    pub text: Arc<str>,
}

impl Account {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one event. Events of one side come in their order; a repeated one is ignored.
    pub fn apply(&mut self, event: Event) {
        let side = &mut self.events[usize::from(event.vantage == Vantage::B)];
        if side.last().is_some_and(|(last, _)| last.seq >= event.seq) {
            return;
        }
        self.evidence.apply(&event);
        let text = describe(&event).into();
        side.push((event, text));
    }

    /// The account of the events so far.
    pub fn report(&self) -> Report {
        let events: Vec<&Event> = self.events.iter().flatten().map(|(event, _)| event).collect();
        Report::build(&self.evidence, &events)
    }

    /// Every event in words, in the order of time: on one clock where that is honest, else by the time since each side's
    /// own first event.
    pub fn log(&self) -> Vec<LogLine> {
        self.in_order().into_iter().map(|(_, line)| line).collect()
    }

    /// Every event in the order of [`Self::log`].
    pub fn events_in_order(&self) -> Vec<&Event> {
        self.in_order().into_iter().map(|(event, _)| event).collect()
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.events.iter().map(Vec::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn in_order(&self) -> Vec<(&Event, LogLine)> {
        let events: Vec<&Event> = self.events.iter().flatten().map(|(event, _)| event).collect();
        let clock = clock::estimate(&self.evidence, &events);
        let scale = Scale::new(&self.evidence, clock.as_ref());
        let mut lines = Vec::with_capacity(events.len());
        for side in &self.events {
            // A clock that jumps back must not put a side's events out of their own order.
            let mut latest = 0;
            for (event, text) in side {
                let at_us = scale.us(event.vantage, event.at);
                latest = at_us.max(latest);
                let line = LogLine { seq: event.seq, side: event.vantage, at_us, text: Arc::clone(text) };
                lines.push((latest, event, line));
            }
        }
        // Stable: each side stays in order.
        lines.sort_by_key(|(at, _, line)| (*at, line.side));
        lines.into_iter().map(|(_, event, line)| (event, line)).collect()
    }
}
