//! A user-space cable between two TAP devices, with the conditions of a scenario's link.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;

use super::router::Clock;
use super::tun::Device;
use crate::scenario::topology;
use crate::world::Link;
use crate::world::link::{Copies, LinkState};

/// The largest Ethernet frame.
const LARGEST: usize = 65_550;
/// Bytes of an Ethernet header, which a link's rate and MTU do not count.
const ETHERNET: usize = 14;
/// Frames under way in one direction before more are lost: a long queue.
const QUEUE: usize = 10_000;
const NOTICE: Duration = Duration::from_millis(100);
const BATCH: usize = 64;

/// A delay from which on a cable has a thread of its own. Less changes no outcome and would cost CPU time.
pub(crate) const SHORTEST_DELAY: Duration = Duration::from_millis(10);

/// Whether a link needs a cable of its own: a veth pair is a link without any fault.
pub(crate) fn is_needed(link: &topology::Link) -> bool {
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
    state: LinkState,
    random: Random,
}

impl Direction {
    fn new(link: Link, random: Random) -> Self {
        Self { link, state: LinkState::default(), random }
    }

    /// How long the copies of a frame take: none, one or two.
    fn carry(&mut self, now: Timestamp, frame: &[u8]) -> Copies {
        // A scenario's link delays and loses IP packets, as in virtual time. A neighbor that is never found is a fault of its own,
        // and three questions a second apart (Linux's mcast_solicit) are too few to outlast a burst.
        if is_of_neighbors(frame) {
            return [Some(Duration::ZERO), None].into_iter().flatten();
        }
        self.link.pass(now, &mut self.state, &mut self.random, frame.len().saturating_sub(ETHERNET))
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
    arrives: Timestamp,
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
    /// Starts it between two devices: what becomes of frames from the first, and of those from the second.
    pub(crate) fn start(links: [Link; 2], mut random: Random, ends: [Device; 2]) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("lab wire".to_owned()).spawn(move || {
            let clock = Clock::new();
            let mut directions = links.map(|link| Direction::new(link, random.fork()));
            let mut underway: BinaryHeap<Reverse<Underway>> = BinaryHeap::new();
            let mut buffer = vec![0; LARGEST];
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                let next = underway.peek().map(|Reverse(next)| next.arrives.since(clock.now()));
                wait(&ends, next.unwrap_or(NOTICE).min(NOTICE));
                for from in [0, 1] {
                    for _ in 0..BATCH {
                        let Some(length) = ends[from].read(&mut buffer) else { break };
                        let now = clock.now();
                        for later in directions[from].carry(now, &buffer[..length]) {
                            let arrives = now + later;
                            if underway.len() < QUEUE {
                                number += 1;
                                let frame = buffer[..length].to_vec();
                                underway.push(Reverse(Underway { arrives, number, to: 1 - from, frame }));
                            }
                        }
                    }
                }
                while underway.peek().is_some_and(|Reverse(next)| next.arrives <= clock.now()) {
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

    const NOW: Timestamp = Timestamp::from_micros(1_000_000);

    fn link() -> topology::Link {
        topology::Link {
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

    /// What a link does to packets is tested where it is written (`world::link`): here, that a cable has all of it.
    #[test]
    fn a_cable_does_to_frames_what_its_link_says() {
        let burst = Some(Burst { bad: 10.0, length: 8.0, loss: None });
        // Frames with 1000 bytes of IP, 10 ms apart: how many arrive, how many different delays there are, and the longest.
        for (said, link, arrived, delays, longest) in [
            ("delay", link(), 2000..=2000, 1..=1, 20),
            ("jitter", topology::Link { jitter: Duration::from_millis(10), ..link() }, 2000..=2000, 1000..=2000, 30),
            ("loss", topology::Link { loss: 1000, ..link() }, 1700..=1900, 1..=1, 20),
            ("burst", topology::Link { burst, ..link() }, 1600..=1950, 1..=1, 20),
            ("reorder", topology::Link { reordering: 1000, ..link() }, 2000..=2000, 2..=2, 50),
            ("duplicate", topology::Link { duplication: 1000, ..link() }, 2100..=2300, 1..=1, 20),
            ("rate", topology::Link { rate: Some(1_000_000), ..link() }, 2000..=2000, 1..=1, 28),
            ("mtu", topology::Link { mtu: Some(999), ..link() }, 0..=0, 0..=0, 0),
        ] {
            let mut direction = Direction::new((&link).into(), Random::from_number(1));
            let took = |number| direction.carry(NOW + Duration::from_millis(10) * number, &frame(14 + 1000));
            let took: Vec<Duration> = (0..2000).flat_map(took).collect();
            let different: std::collections::BTreeSet<_> = took.iter().copied().collect();
            assert!(arrived.contains(&took.len()), "{said}: {} arrived", took.len());
            assert!(delays.contains(&different.len()), "{said}: {} different delays", different.len());
            let most = different.last().copied().unwrap_or_default();
            assert!(most.abs_diff(Duration::from_millis(longest)) < Duration::from_millis(1), "{said}: {most:?}");
        }
    }

    #[test]
    fn a_slow_or_lossy_link_delays_and_loses_packets_and_no_neighbors() {
        let mut direction = Direction::new((&topology::Link { loss: 10_000, ..link() }).into(), Random::from_number(1));
        let mut arp = frame(42);
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(direction.carry(NOW, &arp).collect::<Vec<_>>(), [Duration::ZERO]);
        // A neighbor solicitation, and an echo request beside it.
        for (message, arrive) in [(135, 1), (128, 0)] {
            let mut icmp = frame(14 + 40 + 32);
            icmp[12..14].copy_from_slice(&[0x86, 0xDD]);
            icmp[14 + 6] = 58;
            icmp[14 + 40] = message;
            assert_eq!(direction.carry(NOW, &icmp).count(), arrive, "ICMPv6 type {message}");
        }
        for length in 0..14 {
            assert_eq!(direction.carry(NOW, &vec![0; length]).count(), 0);
        }
    }
}
