//! Rates: Ta between checks (RFC 8445 §14.2), and how often strangers are answered.

use std::time::Duration;

use crate::time::Timestamp;

/// The least Ta that RFC 8445 §14.2 allows.
const LEAST_PACING: Duration = Duration::from_millis(5);

/// Checks that answer the peer's own may run so many slots ahead: the peer paces them, and waiting for a slot would
/// cost the very milliseconds in which a NAT binding opens. On average there is still one check per Ta.
const AHEAD: u32 = 8;

/// When the next check may be sent.
#[derive(Clone, Debug)]
pub(super) struct Pacer {
    interval: Duration,
    next: Timestamp,
}

impl Pacer {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval: interval.max(LEAST_PACING), next: Timestamp::default() }
    }

    pub(super) const fn interval(&self) -> Duration {
        self.interval
    }

    /// When an ordinary check may be sent.
    pub(super) const fn ordinary_at(&self) -> Timestamp {
        self.next
    }

    /// When a triggered check may be sent.
    pub(super) fn triggered_at(&self) -> Timestamp {
        let ahead = self.next.as_micros().saturating_sub((self.interval * AHEAD).as_micros() as u64);
        Timestamp::from_micros(ahead)
    }

    /// A check was sent.
    pub(super) fn sent(&mut self, now: Timestamp) {
        self.next = self.next.max(now) + self.interval;
    }
}

/// Refusals that are answered and recorded, a second: enough to see a misconfigured peer, no use as a reflector.
const REFUSALS_PER_SECOND: u32 = 20;

/// Counts what is left of this second.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals {
    since: Timestamp,
    taken: u32,
}

impl Refusals {
    pub(super) fn take(&mut self, now: Timestamp) -> bool {
        if now - self.since >= Duration::from_secs(1) {
            *self = Self { since: now, taken: 0 };
        }
        self.taken += 1;
        self.taken <= REFUSALS_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggered_checks_run_ahead_by_a_bound() {
        let now = Timestamp::from_micros(1_000_000);
        let mut pacer = Pacer::new(Duration::ZERO);
        let mut sent = 0;
        while pacer.triggered_at() <= now {
            pacer.sent(now);
            sent += 1;
        }
        assert_eq!(sent, 9);
        assert_eq!(pacer.ordinary_at() - now, Duration::from_millis(45));
    }

    #[test]
    fn refusals_are_bounded_per_second() {
        let mut refusals = Refusals::default();
        let count = |refusals: &mut Refusals, now| (0..100).filter(|_| refusals.take(now)).count();
        assert_eq!(count(&mut refusals, Timestamp::from_micros(5_000_000)), 20);
        assert_eq!(count(&mut refusals, Timestamp::from_micros(5_900_000)), 0);
        assert_eq!(count(&mut refusals, Timestamp::from_micros(6_000_000)), 20);
    }
}
