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
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX);
        Self { anchor: Instant::now(), epoch: Timestamp::from_micros(micros) }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        self.epoch + self.anchor.elapsed()
    }

    /// The moment on the monotonic clock, for timers and for libraries that take one.
    pub fn instant(&self, at: Timestamp) -> Instant {
        self.anchor + at.since(self.epoch)
    }

    /// The moment of a wall-clock time that the kernel put on a datagram, kept between the last half second and now:
    /// the wall clock may have been set since the anchor.
    pub fn from_kernel(&self, since_epoch: Duration) -> Timestamp {
        let now = self.now();
        let stamp = Timestamp::from_micros(u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX));
        if stamp <= now && now.since(stamp) < Duration::from_millis(500) { stamp } else { now }
    }
}
