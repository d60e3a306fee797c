//! How often one client address may have something made.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests of one address in a [`WINDOW`].
const MOST: u32 = 60;

/// The time in which they are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are remembered; when there are more, the window begins anew for all.
const MAX_ADDRESSES: usize = 10_000;

/// Counts requests by client address, an IPv6 /64 as one.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    counts: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl Limiter {
    /// Counts a request; false where it is one too many.
    pub(super) fn admits(&self, address: IpAddr, now: Instant) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= MAX_ADDRESSES {
            counts.retain(|_, (since, _)| now.saturating_duration_since(*since) < WINDOW);
            if counts.len() >= MAX_ADDRESSES {
                counts.clear();
            }
        }
        let (since, count) = counts.entry(network(address)).or_insert((now, 0));
        if now.saturating_duration_since(*since) >= WINDOW {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count <= MOST
    }
}

/// What counts as one client.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_limited_and_others_are_not() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        let greedy: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!((0..100).filter(|_| limiter.admits(greedy, now)).count(), MOST as usize);
        assert!(limiter.admits("192.0.2.2".parse().unwrap(), now));
        assert!(limiter.admits(greedy, now + WINDOW));
    }

    #[test]
    fn a_whole_ipv6_network_is_one_client() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        for host in 0..MOST {
            assert!(limiter.admits(format!("2001:db8::{host:x}").parse().unwrap(), now));
        }
        assert!(!limiter.admits("2001:db8::ffff".parse().unwrap(), now));
    }

    #[test]
    fn memory_is_bounded() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        for number in 0..30_000u32 {
            limiter.admits(IpAddr::V4(number.into()), now);
        }
        assert!(limiter.counts.lock().unwrap().len() <= MAX_ADDRESSES);
    }
}
