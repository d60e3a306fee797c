//! A link between a host or router and the segment it is on: what it does to each packet.

use std::time::Duration;

use whyrelay_core::random::Random;

/// Conditions of a link; they apply to each packet by itself and in both directions alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// How long every packet takes.
    pub delay: Duration,
    /// At most this much longer, evenly spread. Jitter above the distance between packets reorders them.
    pub jitter: Duration,
    /// Packets lost, of 10,000.
    pub loss: u32,
    /// Packets that arrive twice, of 10,000.
    pub duplication: u32,
    /// Packets held back for [`Self::held`], of 10,000.
    pub reordering: u32,
    /// How long a packet that is to be overtaken is held back.
    pub held: Duration,
}

impl Link {
    /// A link with a delay and no fault.
    pub const fn with_delay(delay: Duration) -> Self {
        Self { delay, jitter: Duration::ZERO, loss: 0, duplication: 0, reordering: 0, held: Duration::ZERO }
    }

    /// The same link losing so many packets in a hundred.
    #[must_use]
    pub const fn losing(mut self, percent: u32) -> Self {
        self.loss = percent * 100;
        self
    }

    /// The moments, counted from now, at which copies of one packet arrive: none, one or two.
    pub(super) fn carry(&self, random: &mut Random) -> impl Iterator<Item = Duration> + use<> {
        let mut happens = |of_10_000: u32| of_10_000 > 0 && random.below(10_000) < u64::from(of_10_000);
        let copies = if happens(self.loss) {
            0
        } else if happens(self.duplication) {
            2
        } else {
            1
        };
        let held = if happens(self.reordering) { self.held } else { Duration::ZERO };
        let jitter = self.jitter.as_micros() as u64;
        let mut moments = [None, None];
        for moment in moments.iter_mut().take(copies) {
            let later = if jitter > 0 { random.below(jitter + 1) } else { 0 };
            *moment = Some(self.delay + held + Duration::from_micros(later));
        }
        moments.into_iter().flatten()
    }
}
