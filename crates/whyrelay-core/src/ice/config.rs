//! What an agent is told at its start.

use std::fmt;
use std::time::Duration;

use crate::random::Random;
use crate::trace::event::Role;
use crate::wire::integrity::Key;

/// User name fragment and password of one side (RFC 8445 §5.3). The password never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    ufrag: String,
    password: String,
}

impl Credentials {
    /// Credentials as they stand in a session description. Their syntax is the description's business.
    pub fn new(ufrag: impl Into<String>, password: impl Into<String>) -> Self {
        Self { ufrag: ufrag.into(), password: password.into() }
    }

    /// New ones: 48 and 192 bits of randomness, where RFC 8445 §5.3 asks for 24 and 128.
    pub fn generate(random: &mut Random) -> Self {
        Self { ufrag: random.ice_chars(8), password: random.ice_chars(32) }
    }

    /// The user name fragment.
    pub fn ufrag(&self) -> &str {
        &self.ufrag
    }

    /// The password, for the session description. It belongs in no log and no event.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The key of checks sent to the owner of these credentials (RFC 8445 §7.1.2).
    pub(crate) fn key(&self) -> Key {
        Key::short_term(&self.password)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("ufrag", &self.ufrag).field("password", &"hidden").finish()
    }
}

/// Bounds on what the peer and the network can make an agent hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Local candidates.
    pub local_candidates: usize,
    /// Remote candidates that were signaled, unresolved names included.
    pub remote_candidates: usize,
    /// Peer-reflexive candidates, for each side: only authenticated checks make them.
    pub peer_reflexive: usize,
    /// Pairs in the checklist (RFC 8445 §6.1.2.5 recommends 100).
    pub pairs: usize,
    /// Authenticated checks that wait for the peer's credentials or for the candidate that they arrived at.
    pub early_checks: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { local_candidates: 64, remote_candidates: 256, peer_reflexive: 32, pairs: 100, early_checks: 64 }
    }
}

/// What an agent is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The role: the offerer is controlling (RFC 8445 §6.1.1).
    pub role: Role,
    /// The tie-breaker of role conflicts; `None`: drawn at random (RFC 8445 §5.2).
    pub tie_breaker: Option<u64>,
    /// Our credentials.
    pub credentials: Credentials,
    /// Use and answer on relayed candidates only.
    pub relay_only: bool,
    /// RFC 8445's own retransmission schedule (Rc 7, Rm 16, RTO at least 500 ms: 39.5 s) instead of the shorter one.
    pub patient: bool,
    /// Pacing of checks, Ta (RFC 8445 §14.2). Less than 5 ms counts as 5 ms.
    pub pacing: Duration,
    /// Bounds.
    pub limits: Limits,
}

impl Config {
    /// 5 ms, the least that RFC 8445 §14.2 allows. A check takes about 160 bytes on the wire, so a session paces at
    /// 256 kbit/s at most, and for half a second at most, since the checklist is bounded.
    pub const PACING: Duration = Duration::from_millis(5);

    /// The usual: not relay-only, not patient.
    pub fn new(role: Role, credentials: Credentials) -> Self {
        Self {
            role,
            tie_breaker: None,
            credentials,
            relay_only: false,
            patient: false,
            pacing: Self::PACING,
            limits: Limits::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_never_show_the_password() {
        let credentials = Credentials::new("ufrg", "the-secret-password-of-this-test");
        assert!(!format!("{credentials:?}").contains("secret"));
        let config = Config::new(Role::Controlling, credentials);
        assert!(!format!("{config:?}").contains("secret"));
    }
}
