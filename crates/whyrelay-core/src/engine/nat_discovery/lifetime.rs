//! How long an idle mapping lives, by bisection: which silence to try next, and what is known.
//!
//! Each silence is tried with a mapping of its own, because one that was refreshed may live longer than a new one
//! (RFC 4787 §4.3). Nothing is assumed of the NAT but that what dies in a silence dies in a longer one.

use std::time::Duration;

/// The first silence, in seconds, where there is time for it: no NAT of today forgets sooner.
const FIRST_S: u32 = 15;

/// The first silence is this part of the time that there is: there must be time to double it, and to go back.
const FIRST_PART: u32 = 6;

/// See the module. Times are whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifetimeSearch {
    lives_s: u32,
    dies_s: Option<u32>,
    left: Duration,
    first_s: u32,
}

impl LifetimeSearch {
    /// Nothing is known yet; so long may be waited in all.
    pub fn new(limit: Duration) -> Self {
        let limit_s = u32::try_from(limit.as_secs()).unwrap_or(u32::MAX);
        let first_s = (limit_s / FIRST_PART).clamp(1, FIRST_S);
        Self { lives_s: 0, dies_s: None, left: limit, first_s }
    }

    /// What came of a silence of so many seconds, which took so long with all that belongs to it. `lives`: a packet from
    /// outside came in after it.
    pub fn tried(&mut self, silence_s: u32, took: Duration, lives: bool) {
        self.left = self.left.saturating_sub(took);
        if lives {
            self.lives_s = self.lives_s.max(silence_s);
        } else {
            self.dies_s = Some(self.dies_s.map_or(silence_s, |dies_s| dies_s.min(silence_s)));
        }
    }

    /// The silence to try next, in seconds. `None`: it is known well enough, or there is no time for more.
    pub fn next_s(&self) -> Option<u32> {
        let left_s = u32::try_from(self.left.as_secs()).unwrap_or(u32::MAX);
        let next_s = match self.dies_s {
            Some(dies_s) if dies_s - self.lives_s.min(dies_s) <= exactness(dies_s) => return None,
            Some(dies_s) => self.lives_s + (dies_s - self.lives_s) / 2,
            None if self.lives_s == 0 => self.first_s,
            None => self.lives_s.saturating_mul(2).min(left_s),
        };
        // Behind one that is outlived, a silence that is hardly longer is not worth the wait.
        let is_needed = self.dies_s.is_some() || self.lives_s == 0;
        let tells_more = is_needed || next_s > self.lives_s.saturating_add(exactness(self.lives_s));
        (next_s > 0 && next_s <= left_s && tells_more).then_some(next_s)
    }

    /// The longest silence that a mapping outlived, in seconds, and the shortest that it did not; 0 and `None`: unknown.
    pub const fn known_s(&self) -> (u32, Option<u32>) {
        (self.lives_s, self.dies_s)
    }
}

/// How exact an answer is enough: to 2 s, or to a tenth.
fn exactness(seconds: u32) -> u32 {
    (seconds / 10).max(2)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::nat::behavior::{Behavior, FilteringBehavior, MappingBehavior};
    use crate::nat::table::Table;
    use crate::random::Random;
    use crate::time::Timestamp;

    /// Searches behind a simulated NAT that forgets after so many seconds; what was tried, and what came of it.
    fn search(lifetime_s: u32, limit: Duration) -> (Vec<u32>, (u32, Option<u32>)) {
        let external = vec!["203.0.113.7".parse().unwrap()];
        let mut kind = Behavior::new(MappingBehavior::EndpointIndependent, FilteringBehavior::AddressAndPortDependent);
        kind.lifetime = Duration::from_secs(lifetime_s.into());
        let mut nat = Table::new(kind, external, Random::from_number(lifetime_s.into()));
        let relay: SocketAddr = "198.51.100.1:50000".parse().unwrap();
        let (mut search, mut tried, mut now) = (LifetimeSearch::new(limit), Vec::new(), Timestamp::default());
        let began = now;
        while let Some(silence_s) = search.next_s() {
            let local = SocketAddr::new("192.168.1.2".parse().unwrap(), 40_000 + tried.len() as u16);
            let mapped = nat.outbound(now, local, relay).expect("it maps");
            let silence = Duration::from_secs(silence_s.into());
            let lives = nat.inbound(now + silence, relay, mapped).is_some();
            tried.push(silence_s);
            // With a second for the packets themselves.
            let took = silence + Duration::from_secs(1);
            now += took;
            search.tried(silence_s, took, lives);
            assert!(tried.len() < 30, "it does not end: {tried:?}");
        }
        let over = Duration::from_secs(1);
        assert!(now.since(began) <= limit + over, "{lifetime_s} s within {limit:?} took {:?}", now.since(began));
        (tried, search.known_s())
    }

    #[test]
    fn every_lifetime_is_found_to_a_tenth_where_there_is_time() {
        for lifetime_s in 1..=700 {
            let (tried, (lives_s, dies_s)) = search(lifetime_s, Duration::from_secs(7200));
            let dies_s = dies_s.unwrap_or_else(|| panic!("{lifetime_s}: {tried:?}"));
            // At the very second it may be either.
            assert!(lives_s <= lifetime_s && lifetime_s <= dies_s, "{lifetime_s}: {lives_s} to {dies_s} by {tried:?}");
            assert!(dies_s - lives_s <= exactness(dies_s), "{lifetime_s}: {lives_s} to {dies_s} by {tried:?}");
        }
    }

    #[test]
    fn silences_double_until_one_is_too_long_and_then_halve_what_is_open() {
        assert_eq!(search(21, Duration::from_secs(600)), (vec![15, 30, 22, 18, 20], (20, Some(22))));
        let tried = vec![15, 30, 60, 120, 240, 180, 150, 165];
        assert_eq!(search(166, Duration::from_secs(3600)), (tried, (165, Some(180))));
        assert_eq!(search(5, Duration::from_secs(20)), (vec![3, 6, 4], (4, Some(6))));
    }

    #[test]
    fn in_a_short_time_less_is_known_and_nothing_wrong() {
        for limit_s in 1..=120 {
            for lifetime_s in [1, 2, 3, 5, 20, 30, 60, 165] {
                let (tried, (lives_s, dies_s)) = search(lifetime_s, Duration::from_secs(limit_s));
                assert!(lives_s <= lifetime_s && dies_s.is_none_or(|dies_s| lifetime_s <= dies_s), "{tried:?}");
                assert!(!tried.is_empty(), "{limit_s} s are enough for one");
            }
        }
        assert_eq!(search(1000, Duration::from_secs(60)).1, (28, None));
    }
}
