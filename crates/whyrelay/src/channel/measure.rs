//! Measurements between two whyrelay peers over an open data channel: round trips of messages, and throughput each way.
//!
//! # Protocol
//! Binary messages that begin with `WRM1` and one byte of type; numbers are big-endian. Everything else on the channel,
//! like the text greetings of a peer that is not whyrelay, is left alone, and such a peer is sent nothing of this.
//!
//! | type | name | then | meaning |
//! |---|---|---|---|
//! | 0 | hello | u32 ms | I measure; how long I want to stream each way, 0 for not. The longer wish counts, up to a minute |
//! | 1 | ping | u32 id | answer me |
//! | 2 | pong | u32 id | the answer |
//! | 3 | ready | – | my pings are done: from now on a load disturbs nothing |
//! | 4 | start | – | I stream from now on |
//! | 5 | data | filler | counted and dropped |
//! | 6 | stop | – | that was all |
//! | 7 | report | u64 bytes, u64 µs | what I received of your stream, from its start to its last message |
//!
//! Both sides ping at the same time. When both are ready the offerer streams, is reported to, and then the answerer
//! streams. All waiting has an end, so a peer that falls silent costs seconds.
//!
//! # Driving
//! After each input to the [`super::Channel`] and each timeout: hand messages to [`Measurement::handle_message`], then
//! poll [`Measurement::poll_output`] with the channel's buffered amount until it answers `Timeout`, sending what it asks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use whyrelay_core::trace::event::{Direction, EventKind};

const MAGIC: &[u8; 4] = b"WRM1";
const HEADER: usize = 5;

/// Round trips that are measured.
const PINGS: u32 = 20;
/// Pings, and answers, that are events each way: the recordings compare the sides' clocks by them.
const RECORDED_PINGS: u32 = 8;
/// The longest gap between two pings: on a short path the next follows the answer at once.
const PING_GAP: Duration = Duration::from_millis(20);
/// An unanswered ping counts as lost after this long.
const PING_WAIT: Duration = Duration::from_secs(3);
/// A peer that does not say hello in this time does not measure.
const HELLO_WAIT: Duration = Duration::from_secs(2);
/// How long a silent peer is waited for in every other state, beyond what it has to do.
const PEER_WAIT: Duration = Duration::from_secs(10);
/// The longest stream.
const MAX_STREAM: Duration = Duration::from_secs(60);
/// Size of a data message: that of the peers we are compared with.
const DATA: usize = 16 * 1024;
/// Least and most that is kept unacknowledged while streaming, in bytes: the least fills a path of 1 Gbit/s and 1 ms, and
/// more than the path holds only costs time; the most is the peer's receive window.
const MIN_AHEAD: u64 = 128 * 1024;
const MAX_AHEAD: u64 = 1024 * 1024;
/// Bytes a microsecond that a path may carry before the sender is what limits it: 1 Gbit/s.
const BYTES_PER_MICROSECOND: u64 = 125;
/// How often the live line changes, and how soon a full buffer is looked at again.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What is to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Whether this side made the offer: its stream is the first.
    pub offerer: bool,
    /// Whether the peer is known to be whyrelay; otherwise nothing is sent unless the peer says hello.
    pub peer_is_whyrelay: bool,
    /// How long to stream each way (`--throughput`).
    pub throughput: Option<Duration>,
}

/// What a [`Measurement`] gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send this as a binary message.
    Send(Bytes),
    /// A result.
    Event(EventKind),
    /// Something for a live line.
    Progress(Progress),
    /// Nothing more until an input, or this time.
    Timeout(Instant),
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Round trips are being measured.
    RoundTrips {
        /// Answered so far.
        answered: u32,
        /// Of how many.
        of: u32,
        /// The latest.
        latest: Duration,
    },
    /// A stream is under way.
    Throughput {
        /// As seen from here.
        direction: Direction,
        /// Bytes so far: acknowledged when sending, arrived when receiving.
        bytes: u64,
        /// Since its start.
        elapsed: Duration,
    },
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that was asked for is measured.
    Measured,
    /// Nothing: the peer is not whyrelay.
    NotWhyrelay,
    /// The peer fell silent; what was measured before counts.
    Silent,
}

/// The state; each says until when it lasts at most.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Before [`Measurement::start`].
    Idle,
    /// Left when the peer says hello.
    AwaitHello(Instant),
    /// Left when every ping is answered or given up.
    Pinging { next: Instant },
    /// Left when the peer is ready too.
    AwaitReady(Instant),
    /// Ours is the stream, until the time is over.
    Sending { since: Instant, until: Instant },
    /// Left by the peer's report.
    AwaitReport(Instant),
    /// The peer's is the stream; left by its stop.
    Receiving(Instant),
    /// Nothing more to do, though pings are still answered.
    Done(Outcome),
}

/// The measurements of one data channel.
#[derive(Debug)]
pub struct Measurement {
    plan: Plan,
    phase: Phase,
    said_hello: bool,
    peer_ready: bool,
    stream: Duration,
    /// Pings and answers that have been events, so that a peer which repeats itself fills no recording.
    recorded: BTreeSet<(Direction, bool, u32)>,
    /// Pings on their way, by id.
    pending: BTreeMap<u32, Instant>,
    sent: u32,
    round_trips: Vec<Duration>,
    /// Bytes handed to the channel in our stream.
    streamed: u64,
    incoming: Option<Incoming>,
    filler: Bytes,
    progress_at: Option<Instant>,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug)]
struct Incoming {
    since: Instant,
    last: Instant,
    bytes: u64,
}

impl Measurement {
    /// Measurements that have not begun.
    pub fn new(plan: Plan) -> Self {
        let mut filler = message(DATA_TYPE, &[]);
        filler.resize(DATA, 0);
        Self {
            plan,
            phase: Phase::Idle,
            said_hello: false,
            peer_ready: false,
            stream: plan.throughput.unwrap_or_default().min(MAX_STREAM),
            recorded: BTreeSet::new(),
            pending: BTreeMap::new(),
            sent: 0,
            round_trips: Vec::new(),
            streamed: 0,
            incoming: None,
            filler: Bytes::from(filler),
            progress_at: None,
            outputs: VecDeque::new(),
        }
    }

    /// The channel is open.
    pub fn start(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Idle) {
            return;
        }
        self.phase = Phase::AwaitHello(now + HELLO_WAIT);
        if self.plan.peer_is_whyrelay {
            self.recognized(now);
        }
    }

    /// The peer turns out to be whyrelay after [`Measurement::start`].
    pub fn recognized(&mut self, now: Instant) {
        if matches!(self.phase, Phase::AwaitHello(_)) {
            self.plan.peer_is_whyrelay = true;
            self.say_hello();
            self.phase = Phase::AwaitHello(now + PEER_WAIT);
        }
    }

    /// Takes a message of the channel; false if it is none of ours.
    pub fn handle_message(&mut self, now: Instant, binary: bool, data: &[u8]) -> bool {
        let Some(rest) = data.strip_prefix(MAGIC).filter(|_| binary) else { return false };
        let Some((kind, body)) = rest.split_first() else { return true };
        self.start(now);
        match *kind {
            HELLO_TYPE => self.take_hello(now, body),
            PING_TYPE => self.take_ping(body),
            PONG_TYPE => self.take_pong(now, body),
            READY_TYPE => {
                self.peer_ready = true;
                if matches!(self.phase, Phase::AwaitReady(_)) {
                    self.first_turn(now);
                }
            }
            START_TYPE => self.incoming = Some(Incoming { since: now, last: now, bytes: 0 }),
            DATA_TYPE => {
                if let Some(incoming) = &mut self.incoming {
                    incoming.bytes += data.len() as u64;
                    incoming.last = now;
                }
            }
            STOP_TYPE => self.take_stop(now),
            REPORT_TYPE => self.take_report(now, body),
            _ => {}
        }
        true
    }

    /// What there is to do. `buffered` is [`super::Channel::buffered_amount`].
    pub fn poll_output(&mut self, now: Instant, buffered: usize) -> Output {
        if self.outputs.is_empty() {
            self.advance(now, buffered as u64);
        }
        self.outputs.pop_front().unwrap_or_else(|| Output::Timeout(self.deadline(now)))
    }

    /// How it ended, once it has.
    pub fn outcome(&self) -> Option<Outcome> {
        if let Phase::Done(outcome) = self.phase { Some(outcome) } else { None }
    }

    fn take_hello(&mut self, now: Instant, body: &[u8]) {
        if !matches!(self.phase, Phase::AwaitHello(_)) {
            return;
        }
        let wish = body.first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        self.stream = self.stream.max(Duration::from_millis(wish.into())).min(MAX_STREAM);
        self.say_hello();
        self.phase = Phase::Pinging { next: now };
    }

    fn take_ping(&mut self, body: &[u8]) {
        let Some(id) = body.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)) else { return };
        self.record_ping(Direction::In, false, id);
        self.record_ping(Direction::Out, true, id);
        self.send(PONG_TYPE, &id.to_be_bytes());
    }

    fn record_ping(&mut self, direction: Direction, answer: bool, id: u32) {
        if id < RECORDED_PINGS && self.recorded.insert((direction, answer, id)) {
            self.outputs.push_back(Output::Event(EventKind::ChannelPing { direction, answer, id }));
        }
    }

    fn take_pong(&mut self, now: Instant, body: &[u8]) {
        let Some(id) = body.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)) else { return };
        let Some(sent_at) = self.pending.remove(&id) else { return };
        self.record_ping(Direction::In, true, id);
        let latest = now.saturating_duration_since(sent_at);
        self.round_trips.push(latest);
        let answered = self.round_trips.len() as u32;
        self.outputs.push_back(Output::Progress(Progress::RoundTrips { answered, of: PINGS, latest }));
        if let Phase::Pinging { next } = &mut self.phase {
            *next = now;
        }
    }

    fn take_stop(&mut self, now: Instant) {
        let Some(incoming) = self.incoming.take() else { return };
        let took_us = micros(incoming.last.saturating_duration_since(incoming.since)).max(1);
        let mut body = incoming.bytes.to_be_bytes().to_vec();
        body.extend_from_slice(&took_us.to_be_bytes());
        self.send(REPORT_TYPE, &body);
        self.report(Direction::In, incoming.bytes, took_us);
        if matches!(self.phase, Phase::Receiving(_)) {
            if self.plan.offerer { self.phase = Phase::Done(Outcome::Measured) } else { self.start_sending(now) }
        }
    }

    fn take_report(&mut self, now: Instant, body: &[u8]) {
        if !matches!(self.phase, Phase::AwaitReport(_)) {
            return;
        }
        let number = |at: usize| body.get(at..at + 8)?.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
        if let (Some(bytes), Some(took_us)) = (number(0), number(8)) {
            // More than was sent is a lie.
            self.report(Direction::Out, bytes.min(self.streamed), took_us);
        }
        self.phase = if self.plan.offerer { self.receiving(now) } else { Phase::Done(Outcome::Measured) };
    }

    fn report(&mut self, direction: Direction, bytes: u64, took_us: u64) {
        self.outputs.push_back(Output::Event(EventKind::Throughput { direction, bytes, took_us }));
    }

    /// Does what the state asks for at this time.
    fn advance(&mut self, now: Instant, buffered: u64) {
        match self.phase {
            Phase::Idle | Phase::Done(_) => {}
            Phase::AwaitHello(until) if now >= until => {
                let known = self.plan.peer_is_whyrelay;
                self.phase = Phase::Done(if known { Outcome::Silent } else { Outcome::NotWhyrelay });
            }
            Phase::Pinging { next } => self.ping(now, next),
            Phase::AwaitReady(_) if self.peer_ready => self.first_turn(now),
            Phase::AwaitReady(until) | Phase::AwaitReport(until) if now >= until => {
                self.phase = Phase::Done(Outcome::Silent);
            }
            Phase::Receiving(until) => {
                if now >= until {
                    self.phase = Phase::Done(Outcome::Silent);
                } else if let Some(incoming) = self.incoming
                    && self.is_progress_due(now)
                {
                    let (bytes, elapsed) = (incoming.bytes, now.saturating_duration_since(incoming.since));
                    self.progress(Direction::In, bytes, elapsed);
                }
            }
            Phase::Sending { since, until } => self.stream(now, since, until, buffered),
            Phase::AwaitHello(_) | Phase::AwaitReady(_) | Phase::AwaitReport(_) => {}
        }
    }

    fn ping(&mut self, now: Instant, next: Instant) {
        self.pending.retain(|_, sent_at| now.saturating_duration_since(*sent_at) < PING_WAIT);
        if self.sent < PINGS && now >= next {
            self.pending.insert(self.sent, now);
            self.record_ping(Direction::Out, false, self.sent);
            self.send(PING_TYPE, &self.sent.to_be_bytes());
            self.sent += 1;
            self.phase = Phase::Pinging { next: now + PING_GAP };
        } else if self.sent == PINGS && self.pending.is_empty() {
            self.report_round_trips();
            self.send(READY_TYPE, &[]);
            self.phase = Phase::AwaitReady(now + PEER_WAIT);
        }
    }

    fn report_round_trips(&mut self) {
        self.round_trips.sort_unstable();
        let count = self.round_trips.len();
        // The nearest rank: the smallest value that at least this share does not exceed.
        let percentile = |percent: usize| {
            let rank = (count * percent).div_ceil(100).max(1);
            self.round_trips.get(rank - 1).map_or(0, |round_trip| micros(*round_trip))
        };
        let (median_us, p99_us) = (percentile(50), percentile(99));
        let count = count as u32;
        let event = EventKind::RoundTrips { count, lost: PINGS - count, median_us, p99_us };
        self.outputs.push_back(Output::Event(event));
    }

    fn first_turn(&mut self, now: Instant) {
        if self.stream.is_zero() {
            self.phase = Phase::Done(Outcome::Measured);
        } else if self.plan.offerer {
            self.start_sending(now);
        } else {
            self.phase = self.receiving(now);
        }
    }

    fn receiving(&self, now: Instant) -> Phase {
        Phase::Receiving(now + self.stream + PEER_WAIT)
    }

    fn start_sending(&mut self, now: Instant) {
        self.send(START_TYPE, &[]);
        self.phase = Phase::Sending { since: now, until: now + self.stream };
    }

    fn stream(&mut self, now: Instant, since: Instant, until: Instant, buffered: u64) {
        if now >= until {
            self.send(STOP_TYPE, &[]);
            self.phase = Phase::AwaitReport(now + PEER_WAIT);
            return;
        }
        if self.is_progress_due(now) {
            let acknowledged = self.streamed.saturating_sub(buffered);
            self.progress(Direction::Out, acknowledged, now.saturating_duration_since(since));
        }
        // A message at a time: the caller comes back with the new buffered amount.
        if buffered < self.ahead() {
            self.streamed += self.filler.len() as u64;
            self.outputs.push_back(Output::Send(self.filler.clone()));
        }
    }

    /// How much to keep unacknowledged: what the path holds at 1 Gbit/s.
    fn ahead(&self) -> u64 {
        let median = self.round_trips.get(self.round_trips.len() / 2).map_or(0, |round_trip| micros(*round_trip));
        median.saturating_mul(BYTES_PER_MICROSECOND).clamp(MIN_AHEAD, MAX_AHEAD)
    }

    fn is_progress_due(&mut self, now: Instant) -> bool {
        let due = self.progress_at.is_none_or(|at| now >= at);
        if due {
            self.progress_at = Some(now + PROGRESS_EVERY);
        }
        due
    }

    fn progress(&mut self, direction: Direction, bytes: u64, elapsed: Duration) {
        self.outputs.push_back(Output::Progress(Progress::Throughput { direction, bytes, elapsed }));
    }

    fn deadline(&self, now: Instant) -> Instant {
        match self.phase {
            Phase::Idle | Phase::Done(_) => now + Duration::from_secs(3600),
            Phase::AwaitHello(until) | Phase::AwaitReady(until) | Phase::AwaitReport(until) => until,
            Phase::Pinging { next } if self.sent < PINGS => next,
            Phase::Pinging { .. } => self.pending.values().min().map_or(now, |sent_at| *sent_at + PING_WAIT),
            Phase::Sending { until, .. } => until.min(now + LOOK_AGAIN),
            Phase::Receiving(until) => until.min(now + PROGRESS_EVERY),
        }
    }

    fn say_hello(&mut self) {
        if !self.said_hello {
            self.said_hello = true;
            let wish = self.plan.throughput.unwrap_or_default().min(MAX_STREAM);
            self.send(HELLO_TYPE, &u32::try_from(wish.as_millis()).unwrap_or(u32::MAX).to_be_bytes());
        }
    }

    fn send(&mut self, kind: u8, body: &[u8]) {
        self.outputs.push_back(Output::Send(Bytes::from(message(kind, body))));
    }
}

const HELLO_TYPE: u8 = 0;
const PING_TYPE: u8 = 1;
const PONG_TYPE: u8 = 2;
const READY_TYPE: u8 = 3;
const START_TYPE: u8 = 4;
const DATA_TYPE: u8 = 5;
const STOP_TYPE: u8 = 6;
const REPORT_TYPE: u8 = 7;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.push(kind);
    bytes.extend_from_slice(body);
    bytes
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
