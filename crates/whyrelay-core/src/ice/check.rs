//! Connectivity checks as transactions: the retransmission schedule and what is under way (RFC 8445 §7.2, §14.3).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::Timestamp;
use crate::trace::event::{Pair, Role};
use crate::wire::integrity::Key;
use crate::wire::stun::TransactionId;

use super::pair::PairId;

/// How often a check is sent (Rc of RFC 8489 §6.2.1).
const TRANSMISSIONS: usize = 7;

/// How often on a long path, where the session cannot fail quickly anyway.
const LONG_PATH_TRANSMISSIONS: usize = 10;

/// The first interval from which a path is long, in milliseconds.
const LONG_PATH_RTO_MS: u64 = 301;

/// When the shorter schedule sends, after the first transmission, in milliseconds. docs/decisions.md has the reasoning.
const OFFSETS_MS: [u64; LONG_PATH_TRANSMISSIONS] = [0, 100, 250, 500, 850, 1200, 1550, 1900, 2250, 2600];

/// The shortest first retransmission interval of the shorter schedule, in milliseconds.
const SHORTEST_RTO_MS: u64 = 100;

/// The longest effect of a measured round trip on the interval, in milliseconds: beyond, only the last wait grows.
const LONGEST_RTO_MS: u64 = 400;

/// The longest effect of the number of checks on the interval, in milliseconds.
const LONGEST_PACED_RTO_MS: u64 = 300;

/// How long the shorter schedule waits after the last transmission at least: a round trip of 1 s is never cut off.
const LAST_WAIT_MS: u64 = 1000;

/// The same when no round trip was ever measured: 2 s, a round trip over two satellites.
const UNMEASURED_LAST_WAIT_MS: u64 = 2000;

/// RFC 8445 §14.3: RTO is at least 500 ms.
const PATIENT_RTO_MS: u64 = 500;

/// Rm of RFC 8489 §6.2.1.
const PATIENT_LAST_WAIT: u32 = 16;

/// When a check is sent again and when it is given up, counted from its first transmission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    offsets: Vec<Duration>,
    reliable: bool,
    give_up: Duration,
}

/// What the schedule depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conditions {
    /// RFC 8445's own schedule.
    pub(super) patient: bool,
    /// Over TCP nothing is retransmitted (RFC 8489 §6.2.2).
    pub(super) reliable: bool,
    /// Ta.
    pub(super) pacing: Duration,
    /// Pairs that are Waiting or In-Progress.
    pub(super) active: usize,
    /// The longest round trip measured.
    pub(super) round_trip: Option<Duration>,
}

impl Schedule {
    pub(super) fn new(conditions: Conditions) -> Self {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let paced = millis(conditions.pacing).saturating_mul(conditions.active as u64);
        let (offsets, last_wait): (Vec<Duration>, Duration) = if conditions.patient {
            let rto = Duration::from_millis(paced.clamp(PATIENT_RTO_MS, 60_000));
            // Doubling: 0, 1, 3, 7 … times RTO, then Rm times RTO.
            ((0..TRANSMISSIONS).map(|n| rto * ((1_u32 << n) - 1)).collect(), rto * PATIENT_LAST_WAIT)
        } else {
            let round_trip = conditions.round_trip.map(millis);
            let rto = round_trip.unwrap_or(0).clamp(SHORTEST_RTO_MS, LONGEST_RTO_MS);
            let rto = rto.max(paced.min(LONGEST_PACED_RTO_MS));
            let count = if rto < LONG_PATH_RTO_MS { TRANSMISSIONS } else { LONG_PATH_TRANSMISSIONS };
            let offset = |n: usize| Duration::from_millis(OFFSETS_MS[n].max(rto * n as u64));
            let last_wait = match round_trip {
                Some(round_trip) => round_trip.saturating_mul(2).clamp(LAST_WAIT_MS, 30_000),
                None => UNMEASURED_LAST_WAIT_MS,
            };
            ((0..count).map(offset).collect(), Duration::from_millis(last_wait))
        };
        let give_up = offsets.last().copied().unwrap_or_default() + last_wait;
        Self { offsets, reliable: conditions.reliable, give_up }
    }

    /// When the next thing happens after `transmissions` were sent: another one, or giving up.
    pub(super) fn next(&self, transmissions: u32) -> Duration {
        match self.offsets.get(transmissions as usize) {
            Some(offset) if !self.reliable => *offset,
            _ => self.give_up,
        }
    }

    /// Whether there is another transmission after `transmissions`.
    pub(super) fn has_more(&self, transmissions: u32) -> bool {
        !self.reliable && (transmissions as usize) < self.offsets.len()
    }

    /// The first interval.
    pub(super) fn rto(&self) -> Duration {
        self.offsets[1]
    }

    /// From the first transmission to giving up.
    pub(super) const fn give_up(&self) -> Duration {
        self.give_up
    }
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// An ordinary or triggered check.
    Check,
    /// A check with USE-CANDIDATE (RFC 8445 §8.1.1).
    Nomination,
    /// A consent check: sent once, remembered until consent would expire (RFC 7675 §5.1).
    Consent,
}

/// One request of ours and its fate so far.
#[derive(Clone, Debug)]
pub(super) struct Transaction {
    pub(super) pair: PairId,
    pub(super) generation: u32,
    pub(super) wire: Pair,
    pub(super) scope: u32,
    pub(super) purpose: Purpose,
    /// The role it claims.
    pub(super) role: Role,
    /// The PRIORITY it carries.
    pub(super) priority: u32,
    /// The peer's key.
    pub(super) key: Key,
    pub(super) bytes: Vec<u8>,
    pub(super) schedule: Schedule,
    pub(super) first_sent: Timestamp,
    pub(super) transmissions: u32,
    /// Transmissions that the system refused.
    pub(super) refused: u32,
    pub(super) errno: i32,
    /// An error response that nobody vouched for: 400 and 401 cannot be authenticated.
    pub(super) unverified_error: Option<(u16, String)>,
    /// No retransmission, no failure, but an answer still counts (RFC 8445 §7.3.1.4).
    pub(super) cancelled: bool,
    /// The next transmission, or the end.
    pub(super) next_at: Timestamp,
}

/// The requests under way, by transaction id.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    by_id: BTreeMap<TransactionId, Transaction>,
}

/// Cancelled checks that one pair keeps; an older one's answer is worth nothing by then.
const CANCELLED_KEPT: usize = 8;

impl Transactions {
    pub(super) fn insert(&mut self, id: TransactionId, transaction: Transaction) {
        self.by_id.insert(id, transaction);
    }

    pub(super) fn remove(&mut self, id: TransactionId) -> Option<Transaction> {
        self.by_id.remove(&id)
    }

    /// Stops retransmission; an answer within the schedule still counts.
    pub(super) fn cancel(&mut self, id: TransactionId) {
        let Some(transaction) = self.by_id.get_mut(&id) else { return };
        transaction.cancelled = true;
        transaction.next_at = transaction.first_sent + transaction.schedule.give_up();
        let pair = transaction.pair;
        let mut cancelled: Vec<(Timestamp, TransactionId)> = self
            .by_id
            .iter()
            .filter(|(_, other)| other.pair == pair && other.cancelled)
            .map(|(id, other)| (other.first_sent, *id))
            .collect();
        if cancelled.len() > CANCELLED_KEPT {
            cancelled.sort_unstable();
            self.by_id.remove(&cancelled[0].1);
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Transaction) -> bool) {
        self.by_id.retain(|_, transaction| keep(transaction));
    }

    pub(super) fn get(&self, id: TransactionId) -> Option<&Transaction> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: TransactionId) -> Option<&mut Transaction> {
        self.by_id.get_mut(&id)
    }

    /// The transactions whose moment has come, the earliest first.
    pub(super) fn due(&self, now: Timestamp) -> Vec<TransactionId> {
        let due = self.by_id.iter().filter(|(_, transaction)| transaction.next_at <= now);
        let mut due: Vec<_> = due.map(|(id, transaction)| (transaction.next_at, *id)).collect();
        due.sort_unstable();
        due.into_iter().map(|(_, id)| id).collect()
    }

    pub(super) fn next_at(&self) -> Option<Timestamp> {
        self.by_id.values().map(|transaction| transaction.next_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Conditions = Conditions {
        patient: false,
        reliable: false,
        pacing: Duration::from_millis(5),
        active: 1,
        round_trip: Some(Duration::from_millis(20)),
    };

    fn millis(schedule: &Schedule) -> Vec<u128> {
        (1..=schedule.offsets.len() as u32).map(|n| schedule.next(n).as_millis()).collect()
    }

    #[test]
    fn the_usual_schedule_gives_up_within_three_seconds() {
        for (round_trip, gives_up) in [(1, 2550), (50, 2550), (250, 2550), (300, 2800)] {
            let schedule = Schedule::new(Conditions { round_trip: Some(Duration::from_millis(round_trip)), ..USUAL });
            assert_eq!(schedule.give_up(), Duration::from_millis(gives_up), "{round_trip} ms");
        }
        assert_eq!(millis(&Schedule::new(USUAL)), [100, 250, 500, 850, 1200, 1550, 2550]);
    }

    #[test]
    fn every_transmission_can_be_answered_after_one_second() {
        for round_trip in [None, Some(Duration::from_millis(1)), Some(Duration::from_secs(1))] {
            let schedule = Schedule::new(Conditions { round_trip, ..USUAL });
            let last = schedule.next(schedule.offsets.len() as u32 - 1);
            assert!(schedule.give_up() - last >= Duration::from_secs(1), "{round_trip:?}");
        }
    }

    #[test]
    fn a_measured_round_trip_only_lengthens() {
        let at =
            |round_trip| Schedule::new(Conditions { round_trip: Some(Duration::from_millis(round_trip)), ..USUAL });
        assert_eq!(millis(&at(250)), [250, 500, 750, 1000, 1250, 1550, 2550]);
        assert_eq!(millis(&at(1000)), [400, 800, 1200, 1600, 2000, 2400, 2800, 3200, 3600, 5600]);
    }

    #[test]
    fn many_checks_stretch_the_interval() {
        let schedule = Schedule::new(Conditions { active: 40, ..USUAL });
        assert_eq!(schedule.rto(), Duration::from_millis(200));
        let schedule = Schedule::new(Conditions { active: 1000, ..USUAL });
        assert_eq!(schedule.rto(), Duration::from_millis(300));
    }

    #[test]
    fn the_patient_schedule_is_the_rfcs() {
        let schedule = Schedule::new(Conditions { patient: true, ..USUAL });
        assert_eq!(millis(&schedule), [500, 1500, 3500, 7500, 15500, 31500, 39500]);
    }

    #[test]
    fn nothing_is_retransmitted_over_tcp() {
        let schedule = Schedule::new(Conditions { reliable: true, ..USUAL });
        assert!(!schedule.has_more(1));
        assert_eq!(schedule.next(1), schedule.give_up());
    }
}
