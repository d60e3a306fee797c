//! What stands before authentication: nonces without memory, and a budget for unauthenticated answers. And an allowance
//! for who is known, which is kept in the same way.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Client;
use crate::time::Timestamp;

/// Makes and recognizes nonces: a minute and a MAC over it and the client's 5-tuple. The server remembers none of
/// them, so that a flood of first requests costs no memory.
pub(super) struct Nonces {
    key: [u8; 32],
    lifetime: Duration,
}

/// Nine bytes: two of the minute, seven of the MAC. As Base64 they are 12 characters, which keeps a 401 at 56 bytes.
const LENGTH: usize = 9;

impl Nonces {
    pub(super) const fn new(key: [u8; 32], lifetime: Duration) -> Self {
        Self { key, lifetime }
    }

    pub(super) fn make(&self, now: Timestamp, client: &Client) -> String {
        STANDARD_NO_PAD.encode(self.bytes(minute(now), client))
    }

    /// Whether a nonce was made for this client no longer ago than the lifetime.
    pub(super) fn is_valid(&self, now: Timestamp, client: &Client, nonce: &str) -> bool {
        let Some(found) = STANDARD_NO_PAD.decode(nonce).ok().filter(|bytes| bytes.len() == LENGTH) else {
            return false;
        };
        let now = minute(now);
        // The minute nearest below now that ends in these 16 bits.
        let age = u64::from((now as u16).wrapping_sub(u16::from_be_bytes([found[0], found[1]])));
        let Some(made) = now.checked_sub(age) else { return false };
        Duration::from_secs(age * 60) <= self.lifetime && bool::from(self.bytes(made, client).ct_eq(&found))
    }

    fn bytes(&self, minute: u64, client: &Client) -> [u8; LENGTH] {
        let mac = keyed_hash(&self.key, |hash| {
            client.write_identity(hash);
            hash.update(minute.to_be_bytes());
        });
        let mut bytes = [0; LENGTH];
        bytes[..2].copy_from_slice(&(minute as u16).to_be_bytes());
        bytes[2..].copy_from_slice(&mac[..LENGTH - 2]);
        bytes
    }
}

const fn minute(now: Timestamp) -> u64 {
    now.as_micros() / 60_000_000
}

/// Something for each source, in a table of a fixed size: the port is not part of the key, and an IPv6 source is its /64.
///
/// A source's place is a keyed hash that nobody outside can predict; a newcomer takes the place over. So a flood from
/// forged sources can neither grow the table nor shut anybody out.
struct Sources<T> {
    key: [u8; 32],
    places: Vec<Place<T>>,
}

#[derive(Clone, Copy, Default)]
struct Place<T> {
    owner: u64,
    held: T,
}

/// 4096 places of 24 to 32 bytes.
const PLACES: usize = 4096;

impl<T: Clone + Default> Sources<T> {
    fn new(key: [u8; 32]) -> Self {
        Self { key, places: vec![Place::default(); PLACES] }
    }

    /// What is held for a user at a source; `fresh` for a newcomer.
    fn of(&mut self, source: IpAddr, user: &str, fresh: impl FnOnce() -> T) -> &mut T {
        let hash = keyed_hash(&self.key, |hash| {
            // A fixed length, whatever the user's name is.
            hash.update(Sha256::digest(user));
            match source {
                IpAddr::V4(ip) => hash.update(ip.octets()),
                IpAddr::V6(ip) => hash.update(&ip.octets()[..8]),
            }
        });
        let owner = u64::from_be_bytes(std::array::from_fn(|at| hash[at]));
        let place = &mut self.places[usize::from(u16::from_be_bytes([hash[8], hash[9]])) % PLACES];
        if place.owner != owner {
            *place = Place { owner, held: fresh() };
        }
        &mut place.held
    }
}

/// How many answers a source address gets, at most so many in any second.
pub(super) struct AnswerBudget {
    per_second: u16,
    sources: Sources<Window>,
}

impl AnswerBudget {
    pub(super) fn new(key: [u8; 32], per_second: u16) -> Self {
        Self { per_second, sources: Sources::new(key) }
    }

    /// Takes one answer out of the source's budget; false when there is none left.
    pub(super) fn take(&mut self, now: Timestamp, source: IpAddr) -> bool {
        self.sources.of(source, "", Window::default).take(now, self.per_second)
    }
}

/// What was answered lately, so that it is never more than so many in any second, however they are spread: a bucket that
/// fills while it empties would give twice as many in its first.
#[derive(Clone, Copy, Default)]
pub(super) struct Window {
    /// The slice of time of the last answer.
    slice: u64,
    /// Answers of that slice and of those before it, by the slice's number.
    answers: [u16; Self::SLICES],
}

impl Window {
    const SLICES: usize = 8;

    /// Seven whole ones are a second: whatever is asked in the eighth, a second lies behind the first.
    const SLICE_MICROS: u64 = 142_858;

    /// Takes one; false when there were enough in this second.
    pub(super) fn take(&mut self, now: Timestamp, per_second: u16) -> bool {
        let slice = now.as_micros() / Self::SLICE_MICROS;
        let place = |slice: u64| (slice % Self::SLICES as u64) as usize;
        for passed in (self.slice + 1..=slice).rev().take(Self::SLICES) {
            self.answers[place(passed)] = 0;
        }
        self.slice = self.slice.max(slice);
        let passes = self.answers.iter().map(|count| u32::from(*count)).sum::<u32>() < u32::from(per_second);
        self.answers[place(self.slice)] += u16::from(passes);
        passes
    }
}

/// What a user at a source address may do that is no answer to a stranger: who has shown a password adds new peers, who has
/// proven its address probes.
pub(super) struct Allowance {
    per_second: u32,
    sources: Sources<Bucket>,
}

impl Allowance {
    pub(super) fn new(key: [u8; 32], per_second: u32) -> Self {
        Self { per_second, sources: Sources::new(key) }
    }

    /// Takes so many out of the budget of a user at a source, all or none. More than a second's worth has to find the
    /// bucket full, and the seconds after it pay: otherwise it would never pass.
    pub(super) fn take(&mut self, now: Timestamp, source: IpAddr, user: &str, amount: usize) -> bool {
        let per_second = self.per_second;
        self.sources.of(source, user, || Bucket::full(now, per_second)).take(now, per_second, amount)
    }
}

/// It fills at so many a second and holds one second's worth.
#[derive(Clone, Copy, Default)]
struct Bucket {
    /// Millionths left; below zero what is owed.
    left: i64,
    filled_at: Timestamp,
}

impl Bucket {
    const ONE: i64 = 1_000_000;

    /// The longest time that is counted at once, so that nothing overflows: what is owed is paid by then.
    const LONGEST: u128 = 600_000_000;

    fn full(now: Timestamp, per_second: u32) -> Self {
        Self { left: i64::from(per_second) * Self::ONE, filled_at: now }
    }

    /// Takes several at once: all or none, and more than there ever are from a full bucket on credit.
    fn take(&mut self, now: Timestamp, per_second: u32, amount: usize) -> bool {
        let full = i64::from(per_second) * Self::ONE;
        let micros = now.since(self.filled_at).as_micros().min(Self::LONGEST) as i64;
        self.left = full.min(self.left.saturating_add(micros.saturating_mul(per_second.into())));
        self.filled_at = now;
        let wanted = Self::ONE.saturating_mul(i64::try_from(amount).unwrap_or(i64::MAX));
        let passes = wanted <= self.left || per_second > 0 && wanted > full && self.left == full;
        if passes {
            self.left = self.left.saturating_sub(wanted);
        }
        passes
    }
}

/// A MAC with a secret key over input of the caller's making. The key comes last and first, so that SHA-256 cannot
/// be extended; every input here has a fixed length besides.
fn keyed_hash(key: &[u8; 32], input: impl FnOnce(&mut Sha256)) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(key);
    input(&mut hash);
    hash.update(key);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::super::{ClientTransport, ListenerId};
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    fn client(text: &str) -> Client {
        Client { transport: ClientTransport::Udp(ListenerId(0)), source: text.parse().unwrap() }
    }

    #[test]
    fn security_7_a_nonce_is_valid_for_its_client_and_its_time_only() {
        let nonces = Nonces::new([7; 32], Duration::from_secs(3600));
        let one = client("203.0.113.9:1000");
        let nonce = nonces.make(NOW, &one);
        assert_eq!(nonce.len(), 12);
        let later = |seconds| NOW + Duration::from_secs(seconds);
        assert!(nonces.is_valid(NOW, &one, &nonce) && nonces.is_valid(later(3600), &one, &nonce));
        assert!(!nonces.is_valid(later(3660), &one, &nonce), "an hour and a minute later");
        assert!(!nonces.is_valid(later(65_536 * 60), &one, &nonce), "when the 16 bits come round");
        for other in ["203.0.113.9:1001", "203.0.113.8:1000", "[2001:db8::1]:1000"] {
            assert!(!nonces.is_valid(NOW, &client(other), &nonce), "{other}");
        }
        assert!(!Nonces::new([8; 32], Duration::from_secs(3600)).is_valid(NOW, &one, &nonce), "another server");
        for garbage in ["", "AAAA", "AAAAAAAAAAAA", "!!!!!!!!!!!!", "AAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert!(!nonces.is_valid(NOW, &one, garbage), "{garbage:?}");
        }
    }

    #[test]
    fn security_5_a_source_gets_ten_answers_in_any_second() {
        let source: IpAddr = "203.0.113.9".parse().unwrap();
        // Every millisecond; in bursts; a few, then many as the first second ends; from wherever a slice begins.
        let asked: [&dyn Fn(u64) -> u64; 4] =
            [&|_| 1, &|ms| u64::from(ms % 400 == 0) * 30, &|ms| u64::from(ms == 0 || ms > 900), &|ms| ms % 3];
        for (case, asked) in asked.iter().enumerate() {
            for begin in [0, 17, 71, 142] {
                let mut budget = AnswerBudget::new([1; 32], 10);
                let mut answered: Vec<u64> = Vec::new();
                for millisecond in 0..10_000 {
                    let now = NOW + Duration::from_millis(begin + millisecond);
                    let passed = (0..asked(millisecond)).filter(|_| budget.take(now, source)).count();
                    answered.extend(std::iter::repeat_n(millisecond, passed));
                }
                let in_a_second = |from: &u64| answered.iter().filter(|at| (*from..*from + 1000).contains(at)).count();
                let most = answered.iter().map(in_a_second).max().unwrap_or_default();
                assert_eq!(most, 10, "case {case} from {begin} ms on");
                assert!(answered.len() >= 80, "case {case}: {} in ten seconds", answered.len());
            }
        }
    }

    #[test]
    fn a_flood_of_forged_sources_neither_grows_the_table_nor_shuts_anybody_out() {
        let mut budget = AnswerBudget::new([1; 32], 10);
        for source in 0..200_000_u32 {
            budget.take(NOW, IpAddr::V4(source.into()));
        }
        assert_eq!(budget.sources.places.len(), PLACES);
        assert!(budget.take(NOW, "203.0.113.9".parse().unwrap()));
    }

    #[test]
    fn ipv6_sources_of_one_64_share_a_budget() {
        let mut budget = AnswerBudget::new([1; 32], 10);
        let answered =
            (0..100_u128).filter(|host| budget.take(NOW, IpAddr::V6(((0x2001_0db8_u128 << 96) | host).into())));
        assert_eq!(answered.count(), 10);
    }
}
