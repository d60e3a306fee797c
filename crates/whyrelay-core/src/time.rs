//! Time as an argument: the core never asks a clock.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment, in microseconds since the Unix epoch.
///
/// Whoever drives the core anchors it once to the wall clock and then advances it with a monotonic clock,
/// so that within one run it never goes back. In virtual time it starts wherever the test likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment `micros` microseconds after the Unix epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Time that passed since `earlier`; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}

impl AddAssign<Duration> for Timestamp {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub for Timestamp {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// The time of an input: three moments, which are one as long as the driver is not late.
///
/// A driver that stood still finds timers over and answers unread. It hands in the answers first, each with the moment
/// when it arrived, and says until when everything has been handed in; then it lets the timers pass. So an answer that
/// came in time counts, a round trip is as long as it was, and what is begun meanwhile is begun when it is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// What time it is: what is begun is begun now.
    pub time: Timestamp,
    /// When the input arrived: there a round trip ends. Not after `time`.
    pub arrived: Timestamp,
    /// Everything that arrived before has been handed in: only what was due by then is over. Not after `time`.
    pub heard: Timestamp,
}

impl Now {
    /// The time of an input that arrived then, while something else may wait that arrived earlier: no timer passes.
    pub fn ahead_of_timers(time: Timestamp, arrived: Timestamp) -> Self {
        Self { time, arrived: arrived.min(time), heard: Timestamp::default() }
    }

    /// The time of a timeout, once everything has been handed in that had arrived at `heard`.
    pub fn timers(time: Timestamp, heard: Timestamp) -> Self {
        let heard = heard.min(time);
        Self { time, arrived: heard, heard }
    }
}

impl From<Timestamp> for Now {
    fn from(time: Timestamp) -> Self {
        Self { time, arrived: time, heard: time }
    }
}

impl fmt::Display for Timestamp {
    /// Seconds since the Unix epoch with six decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_to_come_has_arrived() {
        let at = Timestamp::from_micros;
        assert_eq!(Now::ahead_of_timers(at(9), at(4)), Now { time: at(9), arrived: at(4), heard: at(0) });
        assert_eq!(Now::ahead_of_timers(at(9), at(10)).arrived, at(9));
        assert_eq!(Now::timers(at(9), at(7)), Now { time: at(9), arrived: at(7), heard: at(7) });
        assert_eq!(Now::timers(at(9), at(10)), at(9).into());
    }

    #[test]
    fn time_never_wraps() {
        let late = Timestamp::from_micros(u64::MAX - 1);
        assert_eq!(late + Duration::from_secs(1), Timestamp::from_micros(u64::MAX));
        assert_eq!(Timestamp::from_micros(1) - late, Duration::ZERO);
    }
}
