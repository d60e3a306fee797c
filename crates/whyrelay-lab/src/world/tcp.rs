//! What links do to a connection. Loss costs time, by Linux's own schedules; nothing of what was sent is missing later.
//! Jitter and a rate cost time, too, in order; a connection and datagrams do not wait for each other. Sizes: a router
//! that says what its link takes costs a round trip once (RFC 1191 §3); behind one that does not, what is larger is
//! sent again for ever, and nothing that follows arrives.

use std::net::IpAddr;
use std::time::Duration;

use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;

use super::link::{Link, takes};

/// When a SYN is sent again, in seconds from the first (Linux: tcp_syn_retries, a second that doubles; RFC 6298 §2). Those
/// who answer repeat their SYN-ACK in the same way (tcp_synack_retries).
const SYNS: [u64; 6] = [0, 1, 3, 7, 15, 31];

/// The least wait for an acknowledgement, beside a round trip (Linux: TCP_RTO_MIN). It doubles each time.
const LEAST_WAIT: Duration = Duration::from_millis(200);

/// Transmissions of one segment until a connection is given up (Linux: tcp_retries2).
const TRANSMISSIONS: u32 = 16;

/// What IPv4 and IPv6, and TCP with time stamps, put around a segment, in bytes (RFC 791 §3.1, RFC 8200 §3, RFC 9293 §3.1,
/// RFC 7323 §3.2).
const HEADERS: [usize; 2] = [20 + 32, 40 + 32];

/// What the links of a way let pass, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passing {
    /// What is around each segment, in bytes.
    headers: usize,
    /// The share of packets that pass all of them, of [`Self::ALL`].
    share: u64,
    /// At most so much longer than their delays.
    jitter: Duration,
    /// Bits a second of the slowest.
    rate: Option<u64>,
    /// The largest packet of a link that says so, and of one that does not, in bytes.
    told: u16,
    untold: u16,
}

impl Passing {
    const ALL: u64 = 1_000_000;

    /// Nothing is lost on the way to an address.
    pub(super) const fn everything(to: IpAddr) -> Self {
        let headers = HEADERS[to.is_ipv6() as usize];
        Self { headers, share: Self::ALL, jitter: Duration::ZERO, rate: None, told: u16::MAX, untold: u16::MAX }
    }

    /// What is left of it behind one more link. Bursts count by what they take on average: a connection outlasts them.
    #[must_use]
    pub(super) fn behind(self, link: &Link) -> Self {
        Self {
            share: self.share * (10_000 - link.average_loss().min(10_000)) / 10_000,
            jitter: self.jitter + link.jitter,
            rate: [self.rate, link.rate].into_iter().flatten().min(),
            ..self
        }
    }

    /// The same behind the link of a router, whose MTU neither end knows; `tells`: it sends ICMP errors. Those of the ends'
    /// own links stand in their maximum segment sizes (RFC 9293 §3.7.1).
    #[must_use]
    pub(super) fn behind_router(self, link: &Link, tells: bool) -> Self {
        let mtu = link.mtu.unwrap_or(u16::MAX);
        let Self { told, untold, .. } = self;
        let (told, untold) = if tells { (told.min(mtu), untold) } else { (told, untold.min(mtu)) };
        Self { told, untold, ..self.behind(link) }
    }

    /// Whether nothing ever passes.
    pub(super) const fn is_nothing(self) -> bool {
        self.share == 0
    }

    fn passes(self, random: &mut Random) -> bool {
        // Without loss nothing is drawn, so that such worlds are as they were.
        self.share == Self::ALL || random.below(Self::ALL) < self.share
    }

    /// How long a connection takes until it is there for who asked for it, with so much delay one way; nothing: longer
    /// than anybody asks. `luck` is for jitter.
    pub(super) fn established(self, random: &mut Random, luck: &mut Random, delay: Duration) -> Option<Duration> {
        let asked: Vec<Duration> = self.of_these(random, SYNS.map(Duration::from_secs));
        // Each SYN is answered, and the answer to the first is repeated besides.
        let repeated = asked.first().map(|first| SYNS[1..].iter().map(|later| *first + Duration::from_secs(*later)));
        let answers: Vec<Duration> = asked.iter().copied().chain(repeated.into_iter().flatten()).collect();
        let earliest = self.of_these(random, answers).into_iter().min();
        earliest.map(|answered| answered + delay * 2 + self.later(luck) + self.later(luck))
    }

    /// What jitter adds to one packet.
    fn later(self, luck: &mut Random) -> Duration {
        let most = self.jitter.as_micros() as u64;
        Duration::from_micros(if most > 0 { luck.below(most + 1) } else { 0 })
    }

    fn of_these(self, random: &mut Random, sent: impl IntoIterator<Item = Duration>) -> Vec<Duration> {
        sent.into_iter().filter(|_| self.passes(random)).collect()
    }

    /// When so many bytes that are sent now arrive, in their order. Nothing: they are given up.
    pub(super) fn arrival(
        self,
        random: &mut Random,
        now: Timestamp,
        delay: Duration,
        bytes: usize,
        sending: &mut Sending,
    ) -> Option<Timestamp> {
        let size = bytes + self.headers;
        if sending.is_stuck || size > usize::from(self.untold) {
            sending.is_stuck = true;
            return None;
        }
        let mut begins = now.max(sending.free);
        if let Some(rate) = self.rate {
            begins = begins.max(sending.idle) + takes(size, rate);
            sending.idle = begins;
        }
        if size > usize::from(self.told) && !sending.has_been_told {
            sending.has_been_told = true;
            begins += delay * 2;
        }
        let later = self.later(&mut sending.luck);
        let (mut sent, mut wait, mut arrived) = (begins, delay * 2 + LEAST_WAIT, None);
        for transmission in 0..TRANSMISSIONS {
            if self.passes(random) {
                let arrival = *arrived.get_or_insert(sent + delay + later);
                // What came twice is acknowledged twice.
                if self.passes(random) {
                    sending.last = sending.last.max(arrival);
                    if transmission > 0 {
                        sending.free = sent + delay * 2;
                    }
                    return Some(sending.last);
                }
            }
            sent += wait;
            wait *= 2;
        }
        arrived.map(|arrival| {
            sending.free = sent;
            sending.last = sending.last.max(arrival);
            sending.last
        })
    }
}

/// One way of a connection.
#[derive(Clone, Debug)]
pub(super) struct Sending {
    /// When what was sent last arrives.
    pub(super) last: Timestamp,
    /// Until then one segment at a time is let out, and one that was sent again has not been acknowledged.
    free: Timestamp,
    /// When the slowest link has sent all of it.
    idle: Timestamp,
    /// A router has said what its link takes.
    has_been_told: bool,
    /// Something was too large for a link that nobody told of.
    is_stuck: bool,
    /// For jitter, apart from what is drawn for losses.
    luck: Random,
}

impl Sending {
    /// Of a connection that is there from some moment on; `luck` is for jitter.
    pub(super) fn from(there: Timestamp, luck: Random) -> Self {
        Self { last: there, free: there, idle: there, has_been_told: false, is_stuck: false, luck }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const DELAY: Duration = Duration::from_millis(20);

    const fn everything() -> Passing {
        Passing::everything(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    fn luck() -> Random {
        Random::from_number(7)
    }

    fn losing(percent: u32) -> Passing {
        everything().behind(&Link::with_delay(DELAY).losing(percent))
    }

    #[test]
    fn without_loss_a_connection_takes_a_round_trip_and_draws_nothing() {
        let (mut random, mut same) = (Random::from_number(1), Random::from_number(1));
        assert_eq!(losing(0).established(&mut random, &mut luck(), DELAY), Some(DELAY * 2));
        let (now, mut sending) = (Timestamp::from_micros(5), Sending::from(Timestamp::from_micros(0), luck()));
        assert_eq!(losing(0).arrival(&mut random, now, DELAY, 100, &mut sending), Some(now + DELAY));
        assert_eq!(random.below(u64::MAX), same.below(u64::MAX));
    }

    /// With 60 % each way: 1 SYN of 2.5 arrives, and 1 answer of 2.5.
    #[test]
    fn loss_costs_a_connection_seconds() {
        let mut random = Random::from_number(2);
        let mut took: Vec<Duration> =
            (0..1000).filter_map(|_| losing(60).established(&mut random, &mut luck(), DELAY)).collect();
        took.sort();
        assert!((900..1000).contains(&took.len()), "{} came about", took.len());
        let at_once = took.iter().filter(|took| **took == DELAY * 2).count();
        assert!((120..200).contains(&at_once), "{at_once} of 1000 at once, and 0.4² is meant");
        assert!(took[500] >= Duration::from_secs(3), "half of them take {:?}", took[500]);
        assert_eq!(losing(100).established(&mut random, &mut luck(), DELAY), None);
    }

    #[test]
    fn what_is_lost_is_sent_again_and_holds_up_what_comes_behind_it() {
        let mut random = Random::from_number(3);
        let (mut apart, mut behind) = (0, 0);
        for _ in 0..1000 {
            let (now, mut sending) = (Timestamp::from_micros(1), Sending::from(Timestamp::from_micros(1), luck()));
            let mut arrival = || losing(60).arrival(&mut random, now, DELAY, 100, &mut sending);
            // Of 3000 one is given up.
            let (Some(first), Some(second)) = (arrival(), arrival()) else { continue };
            assert!(second >= first, "in order");
            apart += u32::from(first > now + DELAY);
            behind += u32::from(second > now + DELAY);
        }
        assert!((550..650).contains(&apart), "{apart} of 1000 late, and 60 % are meant");
        // Only 0.4² of the first are acknowledged at once; of what follows these, 40 % arrive at once.
        assert!((900..970).contains(&behind), "{behind} of 1000 late");
    }

    /// When 100 messages of 948 bytes arrive that are sent at once, counted from then.
    fn arrivals(passing: Passing) -> Vec<Option<Duration>> {
        let (mut random, now) = (Random::from_number(4), Timestamp::from_micros(1));
        let mut sending = Sending::from(now, luck());
        let mut arrival = || passing.arrival(&mut random, now, DELAY, 948, &mut sending);
        (0..100).map(|_| Some(arrival()?.since(now))).collect()
    }

    #[test]
    fn a_rate_sends_one_segment_after_the_other() {
        let link = Link { rate: Some(1_000_000), ..Link::with_delay(DELAY) };
        // 1000 bytes take 8 ms.
        let meant = (1..=100).map(|number| Some(DELAY + Duration::from_millis(8) * number));
        assert_eq!(arrivals(everything().behind(&link)), meant.collect::<Vec<_>>());
    }

    #[test]
    fn jitter_makes_segments_late_and_never_changes_their_order() {
        let jitter = Duration::from_millis(30);
        let passing = everything().behind(&Link { jitter, ..Link::with_delay(DELAY) });
        let arrivals = arrivals(passing);
        assert!(arrivals.is_sorted() && arrivals.iter().all(|at| at.is_some_and(|at| at <= DELAY + jitter)));
        assert!(arrivals.last() > arrivals.first(), "{arrivals:?}");
        let mut random = Random::from_number(1);
        assert!(passing.established(&mut random, &mut luck(), DELAY) > Some(DELAY * 2));
    }

    #[test]
    fn a_small_link_costs_a_round_trip_if_its_router_says_so_and_the_connection_if_not() {
        let link = Link { mtu: Some(999), ..Link::with_delay(DELAY) };
        assert_eq!(arrivals(everything().behind_router(&link, true)), [Some(DELAY * 3); 100]);
        assert_eq!(arrivals(everything().behind_router(&link, false)), [None; 100]);
        for large in [Link { mtu: Some(1000), ..link }, Link { mtu: None, ..link }] {
            assert_eq!(arrivals(everything().behind_router(&large, false)), [Some(DELAY); 100]);
        }
        // The header of IPv6 is 20 bytes longer.
        let ipv6 = Passing::everything(IpAddr::V6(Ipv6Addr::LOCALHOST));
        for (mtu, arrival) in [(1019, None), (1020, Some(DELAY))] {
            let link = Link { mtu: Some(mtu), ..link };
            assert_eq!(arrivals(ipv6.behind_router(&link, false)), [arrival; 100], "{mtu}");
        }
        // The ends know their own.
        assert_eq!(arrivals(everything().behind(&link)), [Some(DELAY); 100]);
    }
}
