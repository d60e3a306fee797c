//! The one clock: anchored to the wall clock once, advanced by the monotonic clock, so that it never goes back.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use whyrelay_core::time::Timestamp;

/// Tells the core what time it is.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    anchor: Instant,
    epoch: Timestamp,
}

impl Clock {
    /// Reads the wall clock, once.
    pub fn start() -> Self {
        Self { anchor: Instant::now(), epoch: wall_clock() }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        self.epoch + self.anchor.elapsed()
    }

    /// The moment on the monotonic clock, for timers and for libraries that take one.
    pub fn instant(&self, at: Timestamp) -> Instant {
        self.anchor + at.since(self.epoch)
    }

    /// The same the other way round: what happened at that moment, happened then.
    pub fn timestamp(&self, at: Instant) -> Timestamp {
        self.epoch + at.saturating_duration_since(self.anchor)
    }

    /// The moment of a wall-clock time that the kernel put on a datagram. Not after now; and now, where nobody can tell:
    /// the wall clock was set since the anchor, or stood still with the machine, and the datagram is not of the last
    /// half second.
    pub fn from_kernel(&self, since_epoch: Duration) -> Timestamp {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        moment_of(since_epoch, wall, self.now())
    }
}

/// What the wall clock says now: somebody may set it, also back.
pub fn wall_clock() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX))
}

/// How far the wall clock may be from ours, by being slewed, without having been set.
const SLEWED: Duration = Duration::from_millis(100);

/// What has waited no longer is not older than the moment at which the wall clock was set, most likely.
const JUST_NOW: Duration = Duration::from_millis(500);

fn moment_of(stamp: Duration, wall: Duration, now: Timestamp) -> Timestamp {
    let ours = Duration::from_micros(now.as_micros());
    let Some(age) = wall.checked_sub(stamp) else { return now };
    if wall.abs_diff(ours) > SLEWED && age > JUST_NOW {
        return now;
    }
    let age = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
    Timestamp::from_micros(now.as_micros().saturating_sub(age))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_that_waited_long_arrived_when_it_did_unless_the_wall_clock_was_set() {
        let at = |seconds: f64| Timestamp::from_micros((seconds * 1e6) as u64);
        for (stamp, wall, now, arrived) in [
            (99.0, 100.0, 100.0, 99.0),
            (40.0, 100.0, 100.05, 40.05),
            // Set an hour ahead meanwhile; what came a moment ago is known all the same.
            (3699.0, 3700.0, 100.0, 100.0),
            (3699.75, 3700.0, 100.0, 99.75),
            // Set back.
            (100.0, 50.0, 100.0, 100.0),
        ] {
            let told = moment_of(Duration::from_secs_f64(stamp), Duration::from_secs_f64(wall), at(now));
            assert_eq!(told, at(arrived), "{stamp} {wall} {now}");
        }
    }
}
