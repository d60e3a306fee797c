//! What the peer has us send for its probes, and when: openers ahead of them, knocks after a silence. Bounded over the
//! session, as it may ask for any address.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Add;
use std::time::Duration;

use super::plan::{LONGEST_SILENCE, MAX_KNOCKS, MAX_OPENED, MAX_SEEN, OPENERS};

/// What the peer asked for; `T`: how time is told.
#[derive(Clone, Debug)]
pub struct Asked<T> {
    openers: VecDeque<(T, SocketAddr)>,
    /// Where openers went or will go.
    opened: BTreeSet<SocketAddr>,
    knocks: VecDeque<(T, SocketAddr)>,
    /// How many knocks were asked for and taken.
    taken: usize,
    /// Probes of the peer that were told: aim, where, from where, and how long.
    seen: BTreeSet<(String, SocketAddr, SocketAddr, usize)>,
}

impl<T> Default for Asked<T> {
    fn default() -> Self {
        let (openers, opened, knocks) = (VecDeque::new(), BTreeSet::new(), VecDeque::new());
        Self { openers, opened, knocks, taken: 0, seen: BTreeSet::new() }
    }
}

impl<T: Copy + Ord + Add<Duration, Output = T>> Asked<T> {
    /// Openers to these addresses.
    pub fn open(&mut self, now: T, at: &[SocketAddr]) {
        for remote in at.iter().copied().filter(is_usable) {
            if self.opened.len() < MAX_OPENED && self.opened.insert(remote) {
                self.openers.extend(OPENERS.map(|after| (now + after, remote)));
            }
        }
        self.openers.make_contiguous().sort_by_key(|(at, _)| *at);
    }

    /// Knocks at these addresses after so many milliseconds; when they are due, unless none is taken.
    pub fn knock(&mut self, now: T, at: &[SocketAddr], after_ms: Option<u32>) -> Option<T> {
        let after = Duration::from_millis(after_ms?.into());
        let room = MAX_KNOCKS.saturating_sub(self.taken);
        let usable: Vec<SocketAddr> = at.iter().copied().filter(is_usable).take(room).collect();
        if after > LONGEST_SILENCE || usable.is_empty() {
            return None;
        }
        self.taken += usable.len();
        self.knocks.extend(usable.into_iter().map(|remote| (now + after, remote)));
        self.knocks.make_contiguous().sort_by_key(|(at, _)| *at);
        Some(now + after)
    }

    /// Where an opener is due.
    pub fn due_opener(&mut self, now: T) -> Option<SocketAddr> {
        self.openers.pop_front_if(|(at, _)| *at <= now).map(|(_, remote)| remote)
    }

    /// Where a knock is due.
    pub fn due_knock(&mut self, now: T) -> Option<SocketAddr> {
        self.knocks.pop_front_if(|(at, _)| *at <= now).map(|(_, remote)| remote)
    }

    /// Whether a probe of the peer is to be told: each once, and no more than there is room for.
    pub fn is_new(&mut self, aim: &str, local: SocketAddr, remote: SocketAddr, length: usize) -> bool {
        self.seen.len() < MAX_SEEN && self.seen.insert((aim.to_owned(), local, remote, length))
    }

    /// When the next of them is due.
    pub fn deadline(&self) -> Option<T> {
        let first = |queue: &VecDeque<(T, SocketAddr)>| queue.front().map(|(at, _)| *at);
        [first(&self.openers), first(&self.knocks)].into_iter().flatten().min()
    }

    /// Whether knocks wait for their time.
    pub fn is_to_knock(&self) -> bool {
        !self.knocks.is_empty()
    }
}

/// Whether one host can be meant.
fn is_usable(remote: &SocketAddr) -> bool {
    remote.port() != 0 && !remote.ip().is_unspecified() && !remote.ip().is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    fn addresses(ports: std::ops::Range<u16>) -> Vec<SocketAddr> {
        ports.map(|port| SocketAddr::from(([198, 51, 100, 7], port))).collect()
    }

    /// How many datagrams are sent until nothing is left to send.
    fn sent(asked: &mut Asked<Timestamp>) -> usize {
        let mut sent = 0;
        while let Some(now) = asked.deadline() {
            sent += [asked.due_opener(now), asked.due_knock(now)].into_iter().flatten().count();
        }
        sent
    }

    #[test]
    fn a_peer_has_so_many_knocks_sent_in_one_session_however_it_asks() {
        for after_ms in [0, 1000] {
            let (mut asked, mut all) = (Asked::default(), 0);
            for round in 0..100 {
                asked.knock(Timestamp::from_micros(round), &addresses(1..65), Some(after_ms));
                all += sent(&mut asked);
            }
            assert_eq!(all, MAX_KNOCKS, "after {after_ms} ms");
        }
    }

    #[test]
    fn a_peer_has_openers_sent_to_so_many_addresses_in_one_session() {
        let (mut asked, mut all) = (Asked::default(), 0);
        for round in 0..10 {
            asked.open(Timestamp::from_micros(0), &addresses(1 + 40 * round..41 + 40 * round));
            all += sent(&mut asked);
        }
        assert_eq!(all, MAX_OPENED * OPENERS.len());
    }

    #[test]
    fn what_no_host_has_is_not_sent_to() {
        let none = ["198.51.100.7:0", "0.0.0.0:9", "[::]:9", "224.0.0.1:9", "[ff02::1]:9"];
        let none = none.map(|text| text.parse().expect("an address"));
        let (mut asked, now) = (Asked::default(), Timestamp::from_micros(0));
        asked.open(now, &none);
        assert_eq!((asked.knock(now, &none, Some(0)), asked.deadline()), (None, None));
    }

    #[test]
    fn a_knock_waits_for_its_time_and_no_longer_than_the_longest_silence() {
        let (mut asked, now) = (Asked::default(), Timestamp::from_micros(0));
        let (later, soon) = (addresses(1..2), addresses(2..3));
        assert_eq!(asked.knock(now, &later, Some(300_001)), None);
        assert_eq!(asked.knock(now, &later, None), None);
        asked.knock(now, &later, Some(2000));
        assert_eq!(asked.knock(now, &soon, Some(1000)), Some(now + Duration::from_secs(1)));
        assert_eq!(asked.due_knock(now), None);
        assert_eq!(asked.due_knock(now + Duration::from_secs(2)), Some(soon[0]));
        assert!(asked.is_to_knock());
        assert_eq!(asked.due_knock(now + Duration::from_secs(2)), Some(later[0]));
        assert!(!asked.is_to_knock());
    }
}
