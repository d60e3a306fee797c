//! A link between a host or router and the segment it is on: what it does to each packet. Both worlds have it from here:
//! the virtual network, and the cables of the namespaces.

use std::time::Duration;

use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;

use crate::scenario::topology::{self, BURST_MEMORY};

/// What IP and UDP put around a payload, in bytes.
const HEADERS: [usize; 2] = [28, 48];

/// How long a queue in front of a link with a rate may become; what comes later is dropped.
const LONGEST_QUEUE: Duration = Duration::from_secs(1);

/// How many packets may be under way on one link and in one direction; what comes then is dropped. As many as the cables
/// of the namespaces hold.
pub(super) const MOST_UNDER_WAY: usize = 10_000;

/// How long a scenario's links hold back a packet that is to be overtaken: by whatever follows within a few packets.
const HELD: Duration = Duration::from_millis(30);

/// When the copies of a packet arrive, counted from when it came: none, one or two.
pub(crate) type Copies = std::iter::Flatten<std::array::IntoIter<Option<Duration>, 2>>;

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
pub(crate) struct LinkState {
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
        self.mtu.filter(|mtu| size_of(payload, ipv4) > usize::from(*mtu))
    }

    /// Whether what becomes of a packet depends on those before it.
    pub(super) const fn remembers(&self) -> bool {
        self.burst.is_some() || self.rate.is_some()
    }

    /// What becomes of an IP packet of so many bytes.
    pub(crate) fn pass(&self, now: Timestamp, state: &mut LinkState, random: &mut Random, size: usize) -> Copies {
        let mut moments = [None, None];
        if let Some(waits) = self.admit(now, state, random, size) {
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
            for moment in moments.iter_mut().take(copies) {
                let later = if jitter > 0 { random.below(jitter + 1) } else { 0 };
                *moment = Some(waits + self.delay + held + Duration::from_micros(later));
            }
        }
        moments.into_iter().flatten()
    }

    /// What the limits of the link do to one packet: how long it waits for its turn, or `None` when it is lost.
    fn admit(&self, now: Timestamp, state: &mut LinkState, random: &mut Random, size: usize) -> Option<Duration> {
        if self.mtu.is_some_and(|mtu| size > usize::from(mtu)) {
            return None;
        }
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
        if begins.since(now) > LONGEST_QUEUE {
            return None;
        }
        state.busy_until = begins + takes(size, rate);
        Some(state.busy_until.since(now))
    }
}

/// How long so many bytes take at so many bits a second.
pub(super) fn takes(size: usize, rate: u64) -> Duration {
    Duration::from_micros(size as u64 * 8 * 1_000_000 / rate.max(1))
}

/// The size of the IP packet of a datagram, in bytes.
pub(super) const fn size_of(payload: usize, ipv4: bool) -> usize {
    payload + if ipv4 { HEADERS[0] } else { HEADERS[1] }
}

impl From<&topology::Link> for Link {
    fn from(link: &topology::Link) -> Self {
        let burst = link.burst.map(|burst| {
            // The chances that give this share of bad time and this length on average.
            let ends = 1.0 / burst.length.max(1.0);
            let bad = (burst.bad / 100.0).clamp(0.0, 0.99);
            let begins = ends * bad / (1.0 - bad);
            Burst {
                begins: (begins.min(1.0) * 1e6) as u32,
                ends: (ends * 1e6) as u32,
                loss: (burst.loss.unwrap_or(100.0) * 100.0) as u32,
            }
        });
        Self {
            delay: link.delay,
            jitter: link.jitter,
            loss: link.loss,
            duplication: link.duplication,
            reordering: link.reordering,
            held: HELD,
            burst,
            rate: link.rate,
            mtu: link.mtu,
        }
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
            let this = BURSTY.pass(now, &mut state, &mut random, 128).next().is_none();
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

    const PLAIN: Link = Link::with_delay(Duration::from_millis(20));

    /// What becomes of 10,000 packets of 1250 bytes, so far apart: the moments of their copies, counted from the first.
    fn passed(link: Link, between: Duration) -> Vec<Vec<Duration>> {
        let (mut state, mut random) = (LinkState::default(), Random::from_number(5));
        let begins = Timestamp::from_micros(1_000_000);
        let pass = |number| {
            let after = between * number;
            let copies = link.pass(begins + after, &mut state, &mut random, 1250);
            copies.map(|later| after + later).collect()
        };
        (0..10_000).map(pass).collect()
    }

    /// How long each took that arrived.
    fn took(passed: &[Vec<Duration>], between: Duration) -> Vec<Duration> {
        let numbered = passed.iter().zip(0..);
        numbered.flat_map(|(copies, number)| copies.iter().map(move |at| *at - between * number)).collect()
    }

    /// How many arrive behind one that was sent later.
    fn overtaken(passed: &[Vec<Duration>]) -> usize {
        let first: Vec<Duration> = passed.iter().filter_map(|copies| copies.first().copied()).collect();
        first
            .iter()
            .enumerate()
            .filter(|(number, at)| first[*number + 1..].iter().take(200).any(|later| later < at))
            .count()
    }

    const APART: Duration = Duration::from_millis(10);

    #[test]
    fn a_plain_link_delays_every_packet_alike_and_keeps_their_order() {
        let passed = passed(PLAIN, APART);
        assert!(took(&passed, APART).iter().all(|took| *took == PLAIN.delay));
        assert_eq!((passed.len(), passed.concat().len(), overtaken(&passed)), (10_000, 10_000, 0));
    }

    #[test]
    fn jitter_spreads_the_delay_evenly_up_to_its_bound() {
        let jitter = Duration::from_millis(40);
        let mut took = took(&passed(Link { jitter, ..PLAIN }, APART), APART);
        took.sort();
        let above = |part: usize| took[took.len() * part / 100] - PLAIN.delay;
        assert!(above(0) < Duration::from_millis(1) && took.last().is_some_and(|last| *last <= PLAIN.delay + jitter));
        for part in [25, 50, 75, 99] {
            let meant = jitter * part as u32 / 100;
            assert!(above(part).abs_diff(meant) < Duration::from_millis(2), "{part} %: {:?}", above(part));
        }
    }

    #[test]
    fn the_share_that_is_lost_doubled_or_overtaken_is_the_one_that_is_asked_for() {
        let near = |found: usize, meant: usize| found.abs_diff(meant) < 200;
        let lossy = passed(Link { loss: 2_000, ..PLAIN }, APART);
        assert!(near(lossy.iter().filter(|copies| copies.is_empty()).count(), 2_000));
        let doubled = passed(Link { duplication: 2_000, ..PLAIN }, APART);
        assert!(near(doubled.iter().filter(|copies| copies.len() == 2).count(), 2_000));
        assert!(doubled.iter().all(|copies| !copies.is_empty()));
        let mixed = passed(Link { reordering: 2_000, held: HELD, ..PLAIN }, APART);
        assert!(near(overtaken(&mixed), 2_000), "{}", overtaken(&mixed));
        assert!(took(&mixed, APART).iter().all(|took| *took == PLAIN.delay || *took == PLAIN.delay + HELD));
    }

    #[test]
    fn a_rate_spaces_packets_and_loses_those_that_find_a_second_of_them_waiting() {
        // 10 ms each.
        let link = Link { rate: Some(1_000_000), ..PLAIN };
        let at_ease = passed(link, APART);
        assert!(took(&at_ease, APART).iter().all(|took| *took == PLAIN.delay + APART));
        let hurried = passed(link, Duration::from_millis(5));
        let arrived = hurried.concat();
        assert!(arrived.windows(2).all(|pair| pair[1] - pair[0] == APART), "one after the other");
        assert!((5_000..5_110).contains(&arrived.len()), "{} of 10,000, twice as many as it takes", arrived.len());
        let longest = took(&hurried, Duration::from_millis(5)).into_iter().max();
        assert!(longest.is_some_and(|longest| longest <= LONGEST_QUEUE + PLAIN.delay + APART), "{longest:?}");
    }

    #[test]
    fn what_is_larger_than_the_mtu_is_gone() {
        let (mut state, mut random) = (LinkState::default(), Random::from_number(1));
        let link = Link { mtu: Some(1280), ..PLAIN };
        let mut passes = |size| link.pass(Timestamp::from_micros(1), &mut state, &mut random, size).count();
        assert_eq!((passes(1280), passes(1281)), (1, 0));
    }
}
