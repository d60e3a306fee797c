//! What loss does to a connection: it costs time, by Linux's own schedules. Nothing of what was sent is missing later.

use std::time::Duration;

use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;

use super::link::Link;

/// When a SYN is sent again, in seconds from the first (Linux: tcp_syn_retries, a second that doubles; RFC 6298 §2). Those
/// who answer repeat their SYN-ACK in the same way (tcp_synack_retries).
const SYNS: [u64; 6] = [0, 1, 3, 7, 15, 31];

/// The least wait for an acknowledgement, beside a round trip (Linux: TCP_RTO_MIN). It doubles each time.
const LEAST_WAIT: Duration = Duration::from_millis(200);

/// Transmissions of one segment until a connection is given up (Linux: tcp_retries2).
const TRANSMISSIONS: u32 = 16;

/// The share of packets that pass all links of a way, of [`Passing::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passing(u64);

impl Passing {
    /// Nothing is lost.
    pub(super) const EVERYTHING: Self = Self(Self::ALL);

    const ALL: u64 = 1_000_000;

    /// What is left of it behind one more link. Bursts count by what they take on average: a connection outlasts them.
    #[must_use]
    pub(super) fn behind(self, link: &Link) -> Self {
        Self(self.0 * (10_000 - link.average_loss().min(10_000)) / 10_000)
    }

    /// Whether nothing ever passes.
    pub(super) const fn is_nothing(self) -> bool {
        self.0 == 0
    }

    fn passes(self, random: &mut Random) -> bool {
        // Without loss nothing is drawn, so that such worlds are as they were.
        self.0 == Self::ALL || random.below(Self::ALL) < self.0
    }

    /// How long a connection takes until it is there for who asked for it, with so much delay one way; nothing: longer
    /// than anybody asks.
    pub(super) fn established(self, random: &mut Random, delay: Duration) -> Option<Duration> {
        let asked: Vec<Duration> = self.of_these(random, SYNS.map(Duration::from_secs));
        // Each SYN is answered, and the answer to the first is repeated besides.
        let repeated = asked.first().map(|first| SYNS[1..].iter().map(|later| *first + Duration::from_secs(*later)));
        let answers: Vec<Duration> = asked.iter().copied().chain(repeated.into_iter().flatten()).collect();
        self.of_these(random, answers).into_iter().min().map(|answered| answered + delay * 2)
    }

    fn of_these(self, random: &mut Random, sent: impl IntoIterator<Item = Duration>) -> Vec<Duration> {
        sent.into_iter().filter(|_| self.passes(random)).collect()
    }

    /// When what is sent now arrives, in its order. Nothing: it is given up.
    pub(super) fn arrival(
        self,
        random: &mut Random,
        now: Timestamp,
        delay: Duration,
        sending: &mut Sending,
    ) -> Option<Timestamp> {
        let (mut sent, mut wait, mut arrived) = (now.max(sending.free), delay * 2 + LEAST_WAIT, None);
        for transmission in 0..TRANSMISSIONS {
            if self.passes(random) {
                let arrival = *arrived.get_or_insert(sent + delay);
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
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    /// When what was sent last arrives.
    pub(super) last: Timestamp,
    /// Until then one segment at a time is let out, and one that was sent again has not been acknowledged.
    free: Timestamp,
}

impl Sending {
    /// Of a connection that is there from some moment on.
    pub(super) const fn from(there: Timestamp) -> Self {
        Self { last: there, free: there }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(20);

    fn losing(percent: u32) -> Passing {
        Passing::EVERYTHING.behind(&Link::with_delay(DELAY).losing(percent))
    }

    #[test]
    fn without_loss_a_connection_takes_a_round_trip_and_draws_nothing() {
        let (mut random, mut same) = (Random::from_number(1), Random::from_number(1));
        assert_eq!(losing(0).established(&mut random, DELAY), Some(DELAY * 2));
        let (now, mut sending) = (Timestamp::from_micros(5), Sending::from(Timestamp::from_micros(0)));
        assert_eq!(losing(0).arrival(&mut random, now, DELAY, &mut sending), Some(now + DELAY));
        assert_eq!(random.below(u64::MAX), same.below(u64::MAX));
    }

    /// With 60 % each way: 1 SYN of 2.5 arrives, and 1 answer of 2.5.
    #[test]
    fn loss_costs_a_connection_seconds() {
        let mut random = Random::from_number(2);
        let mut took: Vec<Duration> = (0..1000).filter_map(|_| losing(60).established(&mut random, DELAY)).collect();
        took.sort();
        assert!((900..1000).contains(&took.len()), "{} came about", took.len());
        let at_once = took.iter().filter(|took| **took == DELAY * 2).count();
        assert!((120..200).contains(&at_once), "{at_once} of 1000 at once, and 0.4² is meant");
        assert!(took[500] >= Duration::from_secs(3), "half of them take {:?}", took[500]);
        assert_eq!(losing(100).established(&mut random, DELAY), None);
    }

    #[test]
    fn what_is_lost_is_sent_again_and_holds_up_what_comes_behind_it() {
        let mut random = Random::from_number(3);
        let (mut apart, mut behind) = (0, 0);
        for _ in 0..1000 {
            let (now, mut sending) = (Timestamp::from_micros(1), Sending::from(Timestamp::from_micros(1)));
            let mut arrival = || losing(60).arrival(&mut random, now, DELAY, &mut sending);
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
}
