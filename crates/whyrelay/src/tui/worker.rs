//! From events to snapshots, in a thread of its own: neither the session nor the screen waits for a report.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use whyrelay_core::report::Account;
use whyrelay_core::trace::event::{Event, EventKind, Side};

use super::screen::Snapshot;

/// Between two snapshots, at least.
const LEAST_INTERVAL: Duration = Duration::from_millis(40);

/// A snapshot may take this part of the time, as one of so many.
const SHARE: u32 = 3;

/// What the worker is told. A session sends at most as many events as its recording holds.
#[derive(Debug)]
pub enum Feed {
    /// An event.
    Event(Box<Event>),
    /// Everything so far, written anew: addresses have become pseudonyms.
    Anew(Vec<Event>),
    /// Show the first so many events; `None`: all.
    Seek(Option<usize>),
}

/// Where the latest snapshot waits for the screen; an older one that nobody took is gone.
#[derive(Clone, Debug, Default)]
pub struct Slot(Arc<Mutex<Option<Arc<Snapshot>>>>);

impl Slot {
    /// The snapshot that has not been taken yet.
    pub fn take(&self) -> Option<Arc<Snapshot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, snapshot: Snapshot) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(snapshot));
    }
}

/// Folds what comes until nobody feeds any more.
pub fn run(feed: &Receiver<Feed>, slot: &Slot) {
    let mut worker = Worker::default();
    let mut due: Option<Instant> = None;
    loop {
        let next = match due {
            None => feed.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => feed.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        match next {
            Ok(next) => {
                let asked = matches!(next, Feed::Seek(_));
                let changed = worker.apply(next);
                if asked {
                    due = Some(Instant::now());
                } else if changed && due.is_none() {
                    due = Some(worker.next_snapshot());
                }
                // What waits is taken at once, as long as no snapshot is due.
                if due.is_none_or(|at| Instant::now() < at) {
                    continue;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        due = None;
        let started = Instant::now();
        slot.put(worker.snapshot());
        worker.last = Some((Instant::now(), started.elapsed()));
    }
}

fn is_meeting(event: &Event) -> bool {
    matches!(event.kind, EventKind::Description { side: Side::Remote, .. })
}

#[derive(Debug, Default)]
struct Worker {
    all: Account,
    /// The account of the first so many events, where not all are shown.
    past: Option<Account>,
    position: Option<usize>,
    /// The other side's description has come.
    met: bool,
    /// When the last snapshot was ready, and how long it took.
    last: Option<(Instant, Duration)>,
}

impl Worker {
    /// Answers whether what is shown may have changed.
    fn apply(&mut self, feed: Feed) -> bool {
        match feed {
            Feed::Event(event) => {
                self.met |= is_meeting(&event);
                self.all.apply(*event);
            }
            Feed::Anew(events) => {
                self.all = Account::new();
                self.met |= events.iter().any(is_meeting);
                events.into_iter().for_each(|event| self.all.apply(event));
                self.past = None;
            }
            Feed::Seek(position) => self.position = position,
        }
        true
    }

    fn next_snapshot(&self) -> Instant {
        self.last.map_or_else(Instant::now, |(at, took)| at + LEAST_INTERVAL.max(took * (SHARE - 1)))
    }

    fn snapshot(&mut self) -> Snapshot {
        let total = self.all.len();
        let account = match self.position {
            Some(position) if position < total => self.first(position),
            _ => &self.all,
        };
        Snapshot { report: account.report(), log: account.log(), total, met: self.met }
    }

    /// The account of the first events in the order of time.
    fn first(&mut self, count: usize) -> &Account {
        let reusable = self.past.take().filter(|past| past.len() <= count);
        let ordered = self.all.events_in_order();
        let mut past = reusable.unwrap_or_default();
        // A past whose clocks were compared otherwise may hold others than the first events; then it is made anew.
        let same = past.events_in_order().iter().zip(&ordered).all(|(one, other)| one.seq == other.seq);
        if !same {
            past = Account::new();
        }
        let have = past.len();
        ordered.into_iter().take(count).skip(have).for_each(|event| past.apply(event.clone()));
        self.past.insert(past)
    }
}
