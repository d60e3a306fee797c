//! Client transactions (RFC 8489 §6.2): retransmission with the same transaction id, matching, timeouts.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::{Now, Timestamp};
use crate::wire::stun::TransactionId;

/// When a request is sent again and when it is given up: the wait behind each transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    waits: &'static [Duration],
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

impl Schedule {
    /// For requests to STUN and TURN servers over UDP: five transmissions within 1.4 s, given up after 2.5 s.
    ///
    /// Shorter than RFC 8489 §6.2.1 on purpose: a blocked path is named within 3 s. The last transmission still
    /// leaves 1.1 s for an answer, so that a round trip of 1 s succeeds, and five transmissions bring a transaction
    /// through 30 % loss each way in 96.5 % of cases.
    pub const SERVER: Self = Self { waits: &[ms(200), ms(300), ms(400), ms(500), ms(1100)] };

    /// RFC 8489 §6.2.1 with its defaults (RTO 500 ms, Rc 7, Rm 16): given up after 39.5 s.
    pub const PATIENT: Self = Self { waits: &[ms(500), ms(1000), ms(2000), ms(4000), ms(8000), ms(16_000), ms(8000)] };

    /// Over TCP and TLS nothing is sent again (RFC 8489 §6.2.2). 3 s, to name a dead server as soon as over UDP.
    pub const STREAM: Self = Self { waits: &[ms(3000)] };

    /// RFC 8489 §6.2.2: Ti, 39.5 s.
    pub const STREAM_PATIENT: Self = Self { waits: &[ms(39_500)] };

    /// For a Binding whose answer tells the NAT's behavior, and all that a whole check of 3 s asks: eight transmissions within 1 s, given up after 1.5 s. Ten in
    /// a hundred lost each way leave 2 in a million unanswered.
    pub const QUICK: Self = Self { waits: &[ms(40), ms(40), ms(50), ms(70), ms(150), ms(250), ms(400), ms(500)] };

    /// The same where there is time for a network whose round trips take seconds: given up after 5 s.
    pub const QUICK_PATIENT: Self =
        Self { waits: &[ms(40), ms(40), ms(50), ms(70), ms(150), ms(250), ms(400), ms(4000)] };

    /// For a request whose silence is an answer: eight transmissions within 175 ms, as many as make loss unlikely. How
    /// long the silence must last is the caller's to say, who knows the round trip; after 3 s it is given up. A busy
    /// machine sends each of them late, and all of it together is to be known within a second.
    pub const SILENCE: Self = Self { waits: &[ms(25), ms(25), ms(25), ms(25), ms(25), ms(25), ms(25), ms(3000)] };

    /// For the last words to a server before we leave: four transmissions, given up after 1 s.
    pub const FAREWELL: Self = Self { waits: &[ms(100), ms(150), ms(250), ms(500)] };

    /// [`Self::FAREWELL`] over TCP and TLS.
    pub const FAREWELL_STREAM: Self = Self { waits: &[ms(1000)] };

    /// From the first transmission until the request is given up.
    pub fn total(self) -> Duration {
        self.waits.iter().sum()
    }

    /// How many times a request is sent.
    pub const fn transmissions(self) -> usize {
        self.waits.len()
    }
}

/// A request that was answered.
#[derive(Debug)]
pub struct Answered<R> {
    /// What it was for.
    pub request: R,
    /// Time since the first transmission: the round trip, and an upper bound of it if the request was sent again.
    pub rtt: Duration,
    /// Whether it was sent once only, so that `rtt` is the round trip.
    pub exact: bool,
}

/// What is due.
#[derive(Debug)]
pub enum Due<R> {
    /// Send these bytes again.
    Retransmit {
        /// What it is for.
        request: R,
        /// The bytes, the same as before.
        bytes: Vec<u8>,
    },
    /// The request was given up.
    TimedOut {
        /// What it was for.
        request: R,
        /// How many times it was sent.
        transmissions: u32,
        /// Since the first transmission.
        took: Duration,
    },
    /// The system refused to send it each time; it was given up.
    Refused {
        /// What it was for.
        request: R,
        /// The last errno.
        errno: i32,
    },
}

/// The open transactions of one client, in the order in which they were started.
#[derive(Debug)]
pub struct Transactions<R> {
    open: Vec<Open<R>>,
    finished: VecDeque<TransactionId>,
}

#[derive(Debug)]
struct Open<R> {
    id: TransactionId,
    request: R,
    bytes: Vec<u8>,
    schedule: Schedule,
    started: Timestamp,
    due: Timestamp,
    transmissions: u32,
    refusals: u32,
    errno: i32,
}

/// Open transactions of one client; a request beyond is not started.
pub const MAX_OPEN: usize = 256;

/// Ids of finished transactions that are remembered, so that a duplicate answer is known for what it is.
const MAX_FINISHED: usize = 64;

/// The system may refuse one send for a passing reason (a full queue, a rule being replaced); not this many.
const REFUSALS_TO_GIVE_UP: u32 = 3;

impl<R> Default for Transactions<R> {
    fn default() -> Self {
        Self { open: Vec::new(), finished: VecDeque::new() }
    }
}

impl<R> Transactions<R> {
    /// Starts a transaction whose first transmission the caller sends now. False when [`MAX_OPEN`] are open.
    pub fn start(&mut self, now: Timestamp, id: TransactionId, bytes: Vec<u8>, request: R, schedule: Schedule) -> bool {
        if self.open.len() >= MAX_OPEN {
            return false;
        }
        let due = now + schedule.waits.first().copied().unwrap_or_default();
        let (transmissions, refusals, errno) = (1, 0, 0);
        self.open.push(Open { id, request, bytes, schedule, started: now, due, transmissions, refusals, errno });
        true
    }

    /// The request of an open transaction, to look at before its answer is accepted.
    pub fn peek(&mut self, id: TransactionId) -> Option<&mut R> {
        self.open.iter_mut().find(|open| open.id == id).map(|open| &mut open.request)
    }

    /// Ends a transaction with its answer, which arrived then.
    pub fn answer(&mut self, arrived: Timestamp, id: TransactionId) -> Option<Answered<R>> {
        let position = self.open.iter().position(|open| open.id == id)?;
        let open = self.remove(position);
        Some(Answered { request: open.request, rtt: arrived - open.started, exact: open.transmissions == 1 })
    }

    /// The system refused the latest transmission of the requests that `which` names, or an ICMP error came back.
    pub fn refuse(&mut self, errno: i32, which: impl Fn(&R) -> bool) {
        for open in self.open.iter_mut().filter(|open| which(&open.request)) {
            open.refusals = (open.refusals + 1).min(open.transmissions);
            open.errno = errno;
        }
    }

    /// What is due. Call until it answers `None`.
    pub fn poll(&mut self, now: impl Into<Now>) -> Option<Due<R>>
    where
        R: Clone,
    {
        let Now { time, heard, .. } = now.into();
        let gone = |open: &Open<R>| open.refusals >= REFUSALS_TO_GIVE_UP && open.refusals == open.transmissions;
        if let Some(position) = self.open.iter().position(gone) {
            let open = self.remove(position);
            return Some(Due::Refused { request: open.request, errno: open.errno });
        }
        let position = self.open.iter().position(|open| open.due <= heard)?;
        let open = &mut self.open[position];
        match open.schedule.waits.get(open.transmissions as usize) {
            Some(&wait) => {
                open.transmissions += 1;
                open.due = time + wait;
                Some(Due::Retransmit { request: open.request.clone(), bytes: open.bytes.clone() })
            }
            None => {
                let open = self.remove(position);
                let Open { request, transmissions, started, .. } = open;
                Some(Due::TimedOut { request, transmissions, took: time - started })
            }
        }
    }

    /// When [`Self::poll`] has something next.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.open.iter().map(|open| open.due).min()
    }

    /// Drops the transactions whose request `which` names.
    pub fn cancel(&mut self, which: impl Fn(&R) -> bool) {
        while let Some(position) = self.open.iter().position(|open| which(&open.request)) {
            self.remove(position);
        }
    }

    /// Whether a transaction of this id was open and ended: its answer is a late duplicate.
    pub fn is_finished(&self, id: TransactionId) -> bool {
        self.finished.contains(&id)
    }

    /// The open requests.
    pub fn requests(&self) -> impl Iterator<Item = &R> {
        self.open.iter().map(|open| &open.request)
    }

    fn remove(&mut self, position: usize) -> Open<R> {
        let open = self.open.remove(position);
        if self.finished.len() >= MAX_FINISHED {
            self.finished.pop_front();
        }
        self.finished.push_back(open.id);
        open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TransactionId = TransactionId([7; 12]);

    fn sent_at(schedule: Schedule) -> (Vec<u64>, u64) {
        let mut transactions = Transactions::default();
        assert!(transactions.start(Timestamp::default(), ID, vec![1], (), schedule));
        let mut sent = vec![0];
        loop {
            let now = transactions.deadline().unwrap();
            match transactions.poll(now).unwrap() {
                Due::Retransmit { bytes, .. } => {
                    assert_eq!(bytes, [1]);
                    sent.push(now.as_micros() / 1000);
                }
                Due::TimedOut { transmissions, took, .. } => {
                    assert_eq!(transmissions as usize, sent.len());
                    return (sent, took.as_millis() as u64);
                }
                Due::Refused { .. } => unreachable!("nothing was refused"),
            }
        }
    }

    #[test]
    fn requests_are_sent_again_as_the_schedules_say() {
        assert_eq!(sent_at(Schedule::SERVER), (vec![0, 200, 500, 900, 1400], 2500));
        assert_eq!(sent_at(Schedule::PATIENT), (vec![0, 500, 1500, 3500, 7500, 15_500, 31_500], 39_500));
        assert_eq!(sent_at(Schedule::STREAM), (vec![0], 3000));
        assert_eq!(sent_at(Schedule::QUICK), (vec![0, 40, 80, 130, 200, 350, 600, 1000], 1500));
        assert_eq!(sent_at(Schedule::SILENCE).0, [0, 25, 50, 75, 100, 125, 150, 175]);
        assert_eq!(Schedule::PATIENT.total(), Duration::from_millis(39_500));
        assert_eq!(Schedule::SERVER.transmissions(), 5);
    }

    #[test]
    fn an_answer_ends_a_transaction_and_a_second_one_is_known_as_a_duplicate() {
        let mut transactions = Transactions::default();
        transactions.start(Timestamp::default(), ID, vec![], "binding", Schedule::SERVER);
        let answered = transactions.answer(Timestamp::from_micros(30_000), ID).unwrap();
        assert_eq!((answered.request, answered.rtt, answered.exact), ("binding", Duration::from_millis(30), true));
        assert!(transactions.answer(Timestamp::from_micros(30_001), ID).is_none());
        assert!(transactions.is_finished(ID));
        assert_eq!(transactions.deadline(), None);
    }

    #[test]
    fn a_late_driver_neither_lengthens_round_trips_nor_shortens_waits() {
        let at = |ms: u64| Timestamp::from_micros(ms * 1000);
        let [answered, silent] = [TransactionId([1; 12]), TransactionId([2; 12])];
        let mut transactions = Transactions::default();
        for id in [answered, silent] {
            transactions.start(at(0), id, vec![], id, Schedule::SERVER);
        }
        // The process stood still until 5000 ms; one answer came after 30 ms and waited.
        let late = Now::ahead_of_timers(at(5000), at(30));
        assert!(transactions.poll(late).is_none(), "nothing is over before what waits is handed in");
        let answer = transactions.answer(late.arrived, answered).unwrap();
        assert_eq!((answer.rtt, answer.exact), (Duration::from_millis(30), true));
        // What is begun meanwhile gets its whole time.
        let begun = TransactionId([3; 12]);
        transactions.start(late.time, begun, vec![], begun, Schedule::SERVER);
        let passing = Now::timers(at(5010), at(5000));
        assert!(matches!(transactions.poll(passing), Some(Due::Retransmit { request, .. }) if request == silent));
        assert!(transactions.poll(passing).is_none());
        assert_eq!(transactions.deadline(), Some(at(5200)), "200 ms after the one that began at 5000");
        let answer = transactions.answer(at(5040), begun).unwrap();
        assert_eq!(answer.rtt, Duration::from_millis(40));
    }

    #[test]
    fn a_request_refused_each_time_is_given_up_early_and_one_refused_once_is_not() {
        for (refusals, expected) in [(1, false), (3, true)] {
            let mut transactions = Transactions::default();
            transactions.start(Timestamp::default(), ID, vec![], (), Schedule::SERVER);
            let mut given_up = None;
            for attempt in 0..5 {
                if attempt < refusals {
                    transactions.refuse(1, |()| true);
                }
                let now = transactions.deadline().unwrap();
                if let Some(Due::Refused { errno: 1, .. }) = transactions.poll(now) {
                    given_up = Some(attempt);
                    break;
                }
            }
            assert_eq!(given_up.is_some(), expected, "{refusals} refusals");
        }
    }

    #[test]
    fn open_transactions_are_bounded() {
        let mut transactions = Transactions::default();
        for number in 0..MAX_OPEN as u64 + 5 {
            let mut id = [0; 12];
            id[..8].copy_from_slice(&number.to_be_bytes());
            let started = transactions.start(Timestamp::default(), TransactionId(id), vec![], (), Schedule::SERVER);
            assert_eq!(started, number < MAX_OPEN as u64);
        }
    }
}
