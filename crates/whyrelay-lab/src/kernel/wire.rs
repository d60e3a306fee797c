//! A user-space cable between two TAP devices, with the conditions of a scenario's link.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use whyrelay_core::random::Random;

use super::tun::Device;
use crate::scenario::topology::{BURST_MEMORY, Link};

/// The largest Ethernet frame.
const LARGEST: usize = 65_550;
/// Bytes of an Ethernet header, which a link's rate and MTU do not count.
const ETHERNET: usize = 14;
/// Frames under way in one direction before more are lost: a long queue.
const QUEUE: usize = 10_000;
/// How long a queue of a link with a rate is: what does not fit is lost, as in a router.
const LONGEST_QUEUE: Duration = Duration::from_millis(200);
/// How long a frame that is to be overtaken is held back.
const HELD: Duration = Duration::from_millis(10);
const NOTICE: Duration = Duration::from_millis(100);
const BATCH: usize = 64;

/// A delay from which on a cable has a thread of its own. Less changes no outcome and would cost CPU time.
pub(crate) const SHORTEST_DELAY: Duration = Duration::from_millis(10);

/// Whether a link needs a cable of its own: a veth pair is a link without any fault.
pub(crate) fn is_needed(link: &Link) -> bool {
    link.delay >= SHORTEST_DELAY
        || link.jitter > Duration::ZERO
        || link.loss > 0
        || link.burst.is_some()
        || link.reordering > 0
        || link.duplication > 0
        || link.rate.is_some()
}

/// One direction of a cable: what becomes of each frame.
#[derive(Debug)]
struct Direction {
    link: Link,
    random: Random,
    /// In a bad time (Gilbert's model).
    bad: bool,
    /// When the last packet came.
    last: Instant,
    /// When the last frame has left, on a link with a rate.
    idle: Instant,
}

impl Direction {
    const fn new(link: Link, random: Random, now: Instant) -> Self {
        Self { link, random, bad: false, last: now, idle: now }
    }

    /// When the copies of a frame arrive: none, one or two.
    fn carry(&mut self, now: Instant, frame: &[u8]) -> impl Iterator<Item = Instant> + use<> {
        // A scenario's link delays and loses IP packets, as in virtual time. A neighbor that is never found is a fault of its own,
        // and three questions a second apart (Linux's mcast_solicit) are too few to outlast a burst.
        if is_of_neighbors(frame) {
            return [Some(now), None].into_iter().flatten();
        }
        let size = frame.len().saturating_sub(ETHERNET);
        let fits = self.link.mtu.is_none_or(|mtu| size <= usize::from(mtu));
        let lost = !fits || self.is_lost(now);
        let copies = if lost { 0 } else { 1 + usize::from(self.happens(self.link.duplication)) };
        let mut leaves = now;
        if let (Some(rate), false) = (self.link.rate.filter(|rate| *rate > 0), lost) {
            let begins = self.idle.max(now);
            if begins - now > LONGEST_QUEUE {
                return [None, None].into_iter().flatten();
            }
            leaves = begins + Duration::from_secs_f64(size as f64 * 8.0 / rate as f64);
            self.idle = leaves;
        }
        let held = if self.happens(self.link.reordering) { HELD } else { Duration::ZERO };
        let jitter = self.link.jitter.as_micros() as u64;
        let mut moments = [None, None];
        for moment in moments.iter_mut().take(copies) {
            let later = if jitter > 0 { self.random.below(jitter + 1) } else { 0 };
            *moment = Some(leaves + self.link.delay + held + Duration::from_micros(later));
        }
        moments.into_iter().flatten()
    }

    fn is_lost(&mut self, now: Instant) -> bool {
        if let Some(burst) = self.link.burst {
            // A bad time lasts `length` packets on average, and is `bad` percent of all.
            let ends = 1.0 / burst.length.max(1.0);
            let share = (burst.bad / 100.0).clamp(0.0, 0.999);
            let begins = ends * share / (1.0 - share);
            if now.saturating_duration_since(self.last) > BURST_MEMORY {
                self.bad = self.chance(share);
            }
            self.last = now;
            let changes = if self.bad { ends } else { begins };
            if self.chance(changes) {
                self.bad = !self.bad;
            }
            if self.bad && self.chance(burst.loss.unwrap_or(100.0) / 100.0) {
                return true;
            }
        }
        self.happens(self.link.loss)
    }

    fn happens(&mut self, of_10_000: u32) -> bool {
        of_10_000 > 0 && self.random.below(10_000) < u64::from(of_10_000)
    }

    fn chance(&mut self, probability: f64) -> bool {
        const WHOLE: u64 = 1 << 32;
        (self.random.below(WHOLE) as f64) < probability * WHOLE as f64
    }
}

/// Whether a frame is a question for a neighbor's hardware address, or the answer: ARP (RFC 826), or Neighbor Discovery
/// (RFC 4861 §4), whose ICMPv6 messages stand directly behind the header.
fn is_of_neighbors(frame: &[u8]) -> bool {
    const ARP: [u8; 2] = [0x08, 0x06];
    const IPV6: [u8; 2] = [0x86, 0xDD];
    const ICMPV6: u8 = 58;
    match frame.get(ETHERNET - 2..ETHERNET) {
        Some(kind) if kind == ARP => true,
        Some(kind) if kind == IPV6 => {
            let next = frame.get(ETHERNET + 6) == Some(&ICMPV6);
            next && frame.get(ETHERNET + 40).is_some_and(|message| (133..=137).contains(message))
        }
        _ => false,
    }
}

/// A frame under way; ordered by arrival, then by departure.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Underway {
    arrives: Instant,
    number: u64,
    to: usize,
    frame: Vec<u8>,
}

/// A cable's thread; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Starts it between two devices.
    pub(crate) fn start(link: Link, mut random: Random, ends: [Device; 2]) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("lab wire".to_owned()).spawn(move || {
            let began = Instant::now();
            let mut directions = [(); 2].map(|()| Direction::new(link, random.fork(), began));
            let mut underway: BinaryHeap<Reverse<Underway>> = BinaryHeap::new();
            let mut buffer = vec![0; LARGEST];
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                let next = underway.peek().map(|Reverse(next)| next.arrives.saturating_duration_since(Instant::now()));
                wait(&ends, next.unwrap_or(NOTICE).min(NOTICE));
                for from in [0, 1] {
                    for _ in 0..BATCH {
                        let Some(length) = ends[from].read(&mut buffer) else { break };
                        for arrives in directions[from].carry(Instant::now(), &buffer[..length]) {
                            if underway.len() < QUEUE {
                                number += 1;
                                let frame = buffer[..length].to_vec();
                                underway.push(Reverse(Underway { arrives, number, to: 1 - from, frame }));
                            }
                        }
                    }
                }
                while underway.peek().is_some_and(|Reverse(next)| next.arrives <= Instant::now()) {
                    if let Some(Reverse(next)) = underway.pop() {
                        ends[next.to].write(&next.frame);
                    }
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn wait(ends: &[Device; 2], limit: Duration) {
    let mut both = [0, 1].map(|end| PollFd::new(ends[end].as_fd(), PollFlags::POLLIN));
    let _ = ppoll(&mut both, Some(TimeSpec::from_duration(limit)), None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::file::Burst;

    fn link() -> Link {
        Link {
            delay: Duration::from_millis(20),
            jitter: Duration::ZERO,
            loss: 0,
            burst: None,
            reordering: 0,
            duplication: 0,
            rate: None,
            mtu: None,
        }
    }

    /// A frame of IPv4 that is so long.
    fn frame(length: usize) -> Vec<u8> {
        let mut frame = vec![0; length];
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame
    }

    fn lost(link: Link) -> f64 {
        let now = Instant::now();
        let mut direction = Direction::new(link, Random::from_number(1), now);
        let all = 20_000;
        let arrived = (0..all).filter(|_| direction.carry(now, &frame(100)).count() > 0).count();
        1.0 - arrived as f64 / f64::from(all)
    }

    #[test]
    fn losses_are_as_many_as_the_link_says() {
        assert!((lost(Link { loss: 500, ..link() }) - 0.05).abs() < 0.01);
        let burst = Some(Burst { bad: 10.0, length: 8.0, loss: None });
        assert!((lost(Link { burst, ..link() }) - 0.10).abs() < 0.02);
        assert_eq!(lost(link()), 0.0);
    }

    #[test]
    fn repetitions_seconds_apart_do_not_fall_into_one_burst() {
        let now = Instant::now();
        let burst = Some(Burst { bad: 10.0, length: 100.0, loss: None });
        let mut direction = Direction::new(Link { burst, ..link() }, Random::from_number(1), now);
        let mut arrives = |number: u32| direction.carry(now + Duration::from_secs(1) * number, &frame(100)).count() > 0;
        let lost: Vec<bool> = (0..10_000).map(|number| !arrives(number)).collect();
        let in_a_row = lost.windows(2).filter(|pair| pair[0] && pair[1]).count();
        let lost = lost.iter().filter(|lost| **lost).count();
        assert!((800..1_200).contains(&lost), "{lost} of 10,000, and a tenth is meant");
        assert!(in_a_row * 5 < lost, "{in_a_row} of {lost} behind another");
    }

    #[test]
    fn a_rate_spaces_frames_and_a_full_queue_loses_them() {
        let now = Instant::now();
        let mut direction = Direction::new(Link { rate: Some(1_000_000), ..link() }, Random::from_number(1), now);
        let arrivals: Vec<_> = (0..30).filter_map(|_| direction.carry(now, &frame(1014)).next()).collect();
        // 1000 bytes take 8 ms at 1 Mbit/s, and 200 ms of them fit.
        assert_eq!(arrivals[1] - arrivals[0], Duration::from_millis(8));
        assert_eq!(arrivals.len(), 26);
    }

    #[test]
    fn what_is_larger_than_the_mtu_does_not_arrive() {
        let now = Instant::now();
        let mut direction = Direction::new(Link { mtu: Some(1280), ..link() }, Random::from_number(1), now);
        assert_eq!(direction.carry(now, &frame(14 + 1280)).count(), 1);
        assert_eq!(direction.carry(now, &frame(14 + 1281)).count(), 0);
    }
    #[test]
    fn a_slow_or_lossy_link_delays_and_loses_packets_and_no_neighbors() {
        let now = Instant::now();
        let mut direction = Direction::new(Link { loss: 10_000, ..link() }, Random::from_number(1), now);
        let mut arp = frame(42);
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(direction.carry(now, &arp).collect::<Vec<_>>(), [now]);
        // A neighbor solicitation, and an echo request beside it.
        for (message, arrive) in [(135, 1), (128, 0)] {
            let mut icmp = frame(14 + 40 + 32);
            icmp[12..14].copy_from_slice(&[0x86, 0xDD]);
            icmp[14 + 6] = 58;
            icmp[14 + 40] = message;
            assert_eq!(direction.carry(now, &icmp).count(), arrive, "ICMPv6 type {message}");
        }
        for length in 0..14 {
            assert_eq!(direction.carry(now, &vec![0; length]).count(), 0);
        }
    }
}
