//! What is measured on the open data channel, and the greeting that every peer gets.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use whyrelay_core::trace::event::{Direction, EventKind, Vantage};
use whyrelay_core::trace::measurement::THROUGHPUT;

use super::SessionConfig;
use crate::channel::Channel;
use crate::channel::measure::{Measurement, Outcome, Output, Plan, Progress};

/// How long a peer that is not whyrelay is given for its greeting.
const GREETING_WITHIN: Duration = Duration::from_secs(2);

/// How long the channel to such a peer stays open at least, so that it gets our greeting before the end.
const LINGER: Duration = Duration::from_millis(700);

/// Between two looks for the file that measuring waits for.
const LOOK: Duration = Duration::from_millis(10);

/// How our greeting begins: a peer that sends one measures, even if signaling did not say what it is.
const GREETING: &str = "Hello from the whyrelay ";

/// The measurements of one session.
#[derive(Debug)]
pub(super) struct Measuring {
    greeting: String,
    offerer: bool,
    throughput: Option<Duration>,
    /// Measuring waits until this file is there.
    after: Option<PathBuf>,
    open: Option<Open>,
    /// The directions whose throughput is known.
    reported: Vec<Direction>,
    events: Vec<EventKind>,
    live: Option<String>,
}

/// The channel that is measured; the first to open.
#[derive(Debug)]
struct Open {
    channel: u16,
    measurement: Measurement,
    is_whyrelay: bool,
    greeted: bool,
    since: Instant,
    greet_until: Instant,
    next: Instant,
}

impl Measuring {
    pub(super) fn new(config: &SessionConfig) -> Self {
        let role = match config.side {
            Vantage::A => "offerer",
            Vantage::B => "answerer",
        };
        Self {
            greeting: format!("{GREETING}{role}!"),
            offerer: config.side == Vantage::A,
            throughput: config.throughput,
            after: config.measure_after.clone(),
            open: None,
            reported: Vec::new(),
            events: Vec::new(),
            live: None,
        }
    }

    pub(super) fn opened(&mut self, channel: &mut Channel, id: u16, is_whyrelay: bool, now: Instant) {
        if self.open.is_some() {
            return;
        }
        // A full buffer is impossible on a channel that has just opened.
        let _ = channel.send_message(now, id, false, self.greeting.as_bytes());
        let plan = Plan { offerer: self.offerer, peer_is_whyrelay: is_whyrelay, throughput: self.throughput };
        let measurement = Measurement::new(plan);
        let greet_until = now + GREETING_WITHIN;
        self.open =
            Some(Open { channel: id, measurement, is_whyrelay, greeted: false, since: now, greet_until, next: now });
        self.begin(now);
        self.poll(channel, now);
    }

    pub(super) fn message(&mut self, channel: &mut Channel, binary: bool, data: &[u8], now: Instant) {
        let Some(open) = &mut self.open else { return };
        if open.measurement.handle_message(now, binary, data) {
            open.is_whyrelay = true;
        } else if !binary && data.starts_with(GREETING.as_bytes()) {
            open.is_whyrelay = true;
            open.measurement.recognized(now);
        } else {
            open.greet_until = open.greet_until.min(open.since + LINGER);
            open.greeted = now >= open.greet_until;
        }
        self.poll(channel, now);
    }

    /// To be called after every input to the channel, not only at the deadline: room in its buffer comes with them.
    pub(super) fn on_time(&mut self, channel: &mut Channel, now: Instant) {
        if let Some(open) = &mut self.open
            && now >= open.greet_until
        {
            open.greeted = true;
        }
        self.begin(now);
        self.poll(channel, now);
    }

    /// Begins to measure, unless it has begun or waits for its file.
    fn begin(&mut self, now: Instant) {
        if self.after.take_if(|file| file.exists()).is_some() || self.after.is_none() {
            self.open.iter_mut().for_each(|open| open.measurement.start(now));
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let open = self.open.as_ref()?;
        let greeting = if open.greeted { open.next } else { open.greet_until };
        let look = self.after.as_ref().map_or(open.next, |_| Instant::now() + LOOK);
        Some(greeting.min(open.next).min(look)).filter(|_| !self.is_done())
    }

    pub(super) fn take_events(&mut self) -> Vec<EventKind> {
        std::mem::take(&mut self.events)
    }

    pub(super) fn live_line(&mut self) -> Option<String> {
        self.live.take()
    }

    pub(super) fn is_done(&self) -> bool {
        self.open
            .as_ref()
            .is_some_and(|open| if open.is_whyrelay { open.measurement.outcome().is_some() } else { open.greeted })
    }

    /// What was asked for and is not known at the end, and why.
    pub(super) fn unmeasured(&self) -> Vec<(String, String)> {
        let outcome = self.open.as_ref().map(|open| open.measurement.outcome());
        let why = match outcome {
            None => "the data channel did not open",
            Some(Some(Outcome::NotWhyrelay)) => "the other side is no whyrelay, and measures nothing",
            Some(Some(Outcome::Silent)) => {
                "nothing more came over the channel: the path broke, or it carries less than was sent, as a relay does that limits its rate"
            }
            Some(Some(Outcome::Measured)) => "the other side did not say what it received",
            Some(None) => "the session ended before it was measured",
        };
        let asked = [(Direction::Out, "to"), (Direction::In, "from")];
        let open = asked.into_iter().filter(|(direction, _)| !self.reported.contains(direction));
        let told = open.map(|(_, arrow)| (format!("{THROUGHPUT} {arrow} the other side"), why.to_owned()));
        self.throughput.map_or_else(Vec::new, |_| told.collect())
    }

    fn poll(&mut self, channel: &mut Channel, now: Instant) {
        let Some(open) = &mut self.open else { return };
        loop {
            match open.measurement.poll_output(now, channel.buffered_amount(open.channel)) {
                // Refused only by a channel that has ended, which ends the session.
                Output::Send(bytes) => {
                    if channel.send_message(now, open.channel, true, &bytes).is_err() {
                        return;
                    }
                }
                Output::Event(event) => {
                    if let EventKind::Throughput { direction, .. } = &event {
                        self.reported.push(*direction);
                    }
                    self.events.push(event);
                }
                Output::Progress(progress) => self.live = Some(line(progress)),
                Output::Timeout(at) => {
                    open.next = at;
                    return;
                }
            }
        }
    }
}

fn line(progress: Progress) -> String {
    match progress {
        Progress::RoundTrips { answered, of, latest } => {
            format!("round trip over the channel: {answered} of {of}, {:.1} ms", latest.as_secs_f64() * 1e3)
        }
        Progress::Throughput { direction, bytes, elapsed } => {
            let arrow = if direction == Direction::Out { "to" } else { "from" };
            let seconds = elapsed.as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            let rate = bytes as f64 * 8.0 / seconds.max(1e-3) / 1e6;
            format!("throughput {arrow} the other side: {rate:.1} Mbit/s after {seconds:.1} s")
        }
    }
}
