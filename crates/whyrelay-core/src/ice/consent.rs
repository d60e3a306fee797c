//! Consent freshness (RFC 7675) on the pair that carries data. Its checks keep NAT bindings alive as well
//! (RFC 8445 §11), so there are no Binding indications.

use std::time::Duration;

use crate::random::Random;
use crate::time::Timestamp;

/// The interval between checks before it is randomized (RFC 7675 §5.1).
const INTERVAL: Duration = Duration::from_secs(5);

/// Consent expires this long after the last answer (RFC 7675 §5.1).
pub(super) const EXPIRY: Duration = Duration::from_secs(30);

/// Consent is doubtful after this long without an answer …
const SILENCE: Duration = Duration::from_secs(6);

/// … and at least this long after the first check that is unanswered: with the repetitions below, a loss of 30 % each
/// way raises the alarm in 7 % of the intervals, a loss of 10 % in 0.1 %.
const SILENCE_AFTER_CHECK: Duration = Duration::from_secs(2);

/// An unanswered check is followed by another, with a new transaction id, after this or 1.5 round trips.
const REPEAT: Duration = Duration::from_millis(500);

/// So many times; then at [`REPEAT_SLOWLY`].
const QUICK_REPEATS: u32 = 4;

/// The interval after that, until consent expires.
const REPEAT_SLOWLY: Duration = Duration::from_secs(2);

/// The consent of one pair.
#[derive(Clone, Debug)]
pub(super) struct Consent {
    heard: Timestamp,
    next_check: Timestamp,
    unanswered_since: Option<Timestamp>,
    unanswered: u32,
    silent: bool,
}

impl Consent {
    /// Starts at an answer that was heard now.
    pub(super) fn new(now: Timestamp, random: &mut Random) -> Self {
        let next_check = now + interval(random);
        Self { heard: now, next_check, unanswered_since: None, unanswered: 0, silent: false }
    }

    /// An answer came. True: after a doubtful silence.
    pub(super) fn answered(&mut self, now: Timestamp, random: &mut Random) -> bool {
        let was_silent = self.silent;
        *self = Self::new(now, random);
        was_silent
    }

    /// A check is due; the caller sends it.
    pub(super) fn check_due(&mut self, now: Timestamp, patient: bool, rtt: Duration, random: &mut Random) -> bool {
        if now < self.next_check {
            return false;
        }
        self.unanswered_since.get_or_insert(now);
        self.unanswered += 1;
        self.next_check = now
            + if patient {
                interval(random)
            } else if self.unanswered < QUICK_REPEATS {
                REPEAT.max(rtt * 3 / 2)
            } else {
                REPEAT_SLOWLY.max(rtt * 3 / 2)
            };
        true
    }

    /// Consent just became doubtful.
    pub(super) fn falls_silent(&mut self, now: Timestamp, rtt: Duration) -> bool {
        let silent = self.silence_at(rtt).is_some_and(|at| now >= at);
        self.silent |= silent;
        silent
    }

    /// When consent becomes doubtful, if no answer comes.
    fn silence_at(&self, rtt: Duration) -> Option<Timestamp> {
        let unanswered_since = self.unanswered_since.filter(|_| !self.silent)?;
        Some((self.heard + SILENCE).max(unanswered_since + SILENCE_AFTER_CHECK.max(rtt * 3)))
    }

    pub(super) const fn is_silent(&self) -> bool {
        self.silent
    }

    pub(super) fn expires_at(&self) -> Timestamp {
        self.heard + EXPIRY
    }

    /// The next moment at which something happens by itself.
    pub(super) fn next_at(&self, rtt: Duration) -> Timestamp {
        let next = self.next_check.min(self.expires_at());
        self.silence_at(rtt).map_or(next, |at| next.min(at))
    }
}

/// 0.8 to 1.2 times the interval (RFC 7675 §5.1).
fn interval(random: &mut Random) -> Duration {
    INTERVAL * 4 / 5 + Duration::from_micros(random.below(INTERVAL.as_micros() as u64 * 2 / 5 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_randomized_within_a_fifth() {
        let mut random = Random::from_number(1);
        let intervals: Vec<Duration> = (0..200).map(|_| interval(&mut random)).collect();
        assert!(intervals.iter().all(|i| (Duration::from_secs(4)..=Duration::from_secs(6)).contains(i)));
        assert!(intervals.iter().any(|i| *i < Duration::from_millis(4300)));
        assert!(intervals.iter().any(|i| *i > Duration::from_millis(5700)));
    }

    #[test]
    fn silence_is_doubtful_after_six_seconds_and_final_after_thirty() {
        let mut random = Random::from_number(2);
        let start = Timestamp::from_micros(1_000_000);
        let mut consent = Consent::new(start, &mut random);
        let (mut now, mut checks, mut silent_at) = (start, 0, None);
        while now < consent.expires_at() {
            now = consent.next_at(Duration::from_millis(20));
            checks += u32::from(consent.check_due(now, false, Duration::from_millis(20), &mut random));
            if consent.falls_silent(now, Duration::from_millis(20)) {
                silent_at = Some(now);
            }
        }
        let silence = silent_at.unwrap() - start;
        assert!((Duration::from_secs(6)..=Duration::from_secs(8)).contains(&silence), "{silence:?}");
        assert_eq!(now - start, EXPIRY);
        assert!((10..20).contains(&checks), "{checks}");
        assert!(consent.answered(now, &mut random));
        assert!(!consent.is_silent());
    }
}
