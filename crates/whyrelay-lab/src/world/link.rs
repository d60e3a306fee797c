//! A link between a host or router and the segment it is on: what it does to each packet.

use std::time::Duration;

use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;

use crate::scenario::topology::BURST_MEMORY;

/// What IP and UDP put around a payload, in bytes.
const HEADERS: [usize; 2] = [28, 48];

/// How long a queue in front of a link with a rate may become; what comes later is dropped.
const LONGEST_QUEUE: Duration = Duration::from_secs(1);

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
    /// Losses in bursts.
    pub burst: Option<Burst>,
    /// Bits a second.
    pub rate: Option<u64>,
    /// The largest IP packet in bytes; a larger one is dropped.
    pub mtu: Option<u16>,
}

/// Losses that come together (Gilbert's model): a link is good or bad, and changes with every packet at random; behind a
/// pause of [`BURST_MEMORY`] it is what it is most of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// The chance that a good link becomes bad, of 1,000,000.
    pub begins: u32,
    /// The chance that a bad link becomes good, of 1,000,000.
    pub ends: u32,
    /// Packets lost while it is bad, of 10,000.
    pub loss: u32,
}

/// What a link remembers from packet to packet, each way by itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LinkState {
    bad: bool,
    /// When the last packet came, for links with bursts.
    last: Timestamp,
    /// When the last packet has left, for links with a rate.
    busy_until: Timestamp,
}

impl Link {
    /// A link with a delay and no fault.
    pub const fn with_delay(delay: Duration) -> Self {
        Self {
            delay,
            jitter: Duration::ZERO,
            loss: 0,
            duplication: 0,
            reordering: 0,
            held: Duration::ZERO,
            burst: None,
            rate: None,
            mtu: None,
        }
    }

    /// The same link losing so many packets in a hundred.
    #[must_use]
    pub const fn losing(mut self, percent: u32) -> Self {
        self.loss = percent * 100;
        self
    }

    /// What it loses, bursts on average, of 10,000.
    pub(super) fn average_loss(&self) -> u64 {
        let in_bursts = self.burst.map_or(0, |burst| {
            let Burst { begins, ends, loss } = burst;
            u64::from(loss) * u64::from(begins) / u64::from(begins + ends).max(1)
        });
        10_000 - (10_000 - u64::from(self.loss.min(10_000))) * (10_000 - in_bursts.min(10_000)) / 10_000
    }

    /// What the link takes, in bytes, where that is less than a packet with so much payload.
    pub(super) fn too_small_for(&self, payload: usize, ipv4: bool) -> Option<u16> {
        let size = payload + if ipv4 { HEADERS[0] } else { HEADERS[1] };
        self.mtu.filter(|mtu| size > usize::from(*mtu))
    }

    /// What the limits of the link do to one packet: how long it waits for its turn, or `None` when it is lost.
    pub(super) fn admit(
        &self,
        now: Timestamp,
        state: &mut LinkState,
        random: &mut Random,
        payload: usize,
        ipv4: bool,
    ) -> Option<Duration> {
        if self.too_small_for(payload, ipv4).is_some() {
            return None;
        }
        let size = payload + if ipv4 { HEADERS[0] } else { HEADERS[1] };
        if let Some(burst) = self.burst {
            if now.since(state.last) > BURST_MEMORY {
                state.bad = random.below(u64::from(burst.begins + burst.ends).max(1)) < u64::from(burst.begins);
            }
            state.last = now;
            let change = if state.bad { burst.ends } else { burst.begins };
            if random.below(1_000_000) < u64::from(change) {
                state.bad = !state.bad;
            }
            if state.bad && random.below(10_000) < u64::from(burst.loss) {
                return None;
            }
        }
        let Some(rate) = self.rate else { return Some(Duration::ZERO) };
        let begins = state.busy_until.max(now);
        let waits = begins.since(now);
        if waits > LONGEST_QUEUE {
            return None;
        }
        state.busy_until = begins + Duration::from_micros(size as u64 * 8 * 1_000_000 / rate.max(1));
        Some(state.busy_until.since(now))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A tenth of the time is bad, for a hundred packets on average.
    const BURSTY: Link =
        Link { burst: Some(Burst { begins: 1_111, ends: 10_000, loss: 10_000 }), ..Link::with_delay(Duration::ZERO) };

    /// Of packets with so much time between them: how many are lost, and how many behind another that was lost.
    fn lost(between: Duration) -> (u32, u32) {
        let (mut state, mut random) = (LinkState::default(), Random::from_number(3));
        let (mut lost, mut in_a_row, mut before) = (0, 0, false);
        for number in 0..200_000 {
            let now = Timestamp::from_micros(1_000_000) + between * number;
            let this = BURSTY.admit(now, &mut state, &mut random, 100, true).is_none();
            lost += u32::from(this);
            in_a_row += u32::from(this && before);
            before = this;
        }
        (lost, in_a_row)
    }

    #[test]
    fn a_burst_does_not_outlast_a_pause_and_takes_its_share_all_the_same() {
        let (together, apart) = (lost(Duration::from_millis(1)), lost(Duration::from_secs(1)));
        for (lost, _) in [together, apart] {
            assert!((16_000..24_000).contains(&lost), "{lost} of 200,000, and a tenth is meant");
        }
        assert!(together.1 * 10 > together.0 * 9, "{together:?}: losses come together");
        assert!(apart.1 * 5 < apart.0, "{apart:?}: and not behind a pause");
    }
}
