//! Who may allocate: static users, and time-limited credentials made from a shared secret.
//!
//! The time-limited scheme is the one of coturn's `use-auth-secret` ("A REST API For Access To TURN Services",
//! draft-uberti-behave-turn-rest-00): the username is `expiry:name` with the expiry in Unix seconds, the password is
//! the Base64 of HMAC-SHA1(secret, username).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::time::Timestamp;
use crate::wire::integrity::Key;

/// The longest time that credentials may still be valid for: what expires later was not made by us, or by mistake.
pub const LONGEST_VALIDITY: Duration = Duration::from_secs(48 * 3600);

/// A secret from which time-limited credentials are made. It never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedSecret(Vec<u8>);

impl SharedSecret {
    /// A secret from bytes; `None` when there are none, because anybody could then make credentials.
    pub fn new(secret: impl Into<Vec<u8>>) -> Option<Self> {
        let secret = secret.into();
        if secret.is_empty() { None } else { Some(Self(secret)) }
    }

    /// Makes the credentials of `name` that expire at `expires` (rounded down to a second).
    pub fn credentials(&self, name: &str, expires: Timestamp) -> TimeLimited {
        let username = format!("{}:{name}", expires.as_micros() / 1_000_000);
        let password = self.password(&username);
        TimeLimited { username, password }
    }

    /// A password for another purpose, from which the secret cannot be had.
    pub(super) fn derived_password(&self, purpose: &str) -> String {
        // No username of the scheme begins so.
        self.password(&format!("purpose {purpose}"))
    }

    /// A key for another purpose.
    pub(super) fn derived_key(&self, purpose: &str) -> [u8; 32] {
        Sha256::digest(self.derived_password(purpose)).into()
    }

    fn password(&self, username: &str) -> String {
        #[expect(clippy::unwrap_used, reason = "HMAC takes keys of any length")]
        let mut mac = Hmac::<Sha1>::new_from_slice(&self.0).unwrap();
        mac.update(username.as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(hidden)")
    }
}

/// A username and its password, to be handed to one peer.
#[derive(Clone, PartialEq, Eq)]
pub struct TimeLimited {
    /// `expiry:name`.
    pub username: String,
    /// The password. It must not reach a log, an event or an argument list.
    pub password: String,
}

impl fmt::Debug for TimeLimited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeLimited").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Everybody a server lets in. The default lets in nobody; there is no anonymous allocation.
#[derive(Clone, Default)]
pub struct Credentials {
    users: BTreeMap<String, String>,
    secrets: Vec<SharedSecret>,
}

impl Credentials {
    /// Nobody.
    pub fn none() -> Self {
        Self::default()
    }

    /// Lets in a static user.
    #[must_use]
    pub fn with_user(mut self, username: impl Into<String>, password: impl Into<String>) -> Self {
        self.users.insert(username.into(), password.into());
        self
    }

    /// Lets in who has time-limited credentials made from this secret. More than one secret makes rotation possible.
    #[must_use]
    pub fn with_secret(mut self, secret: SharedSecret) -> Self {
        self.secrets.push(secret);
        self
    }

    /// The keys that a user's request may be signed with; none for a stranger and for expired credentials.
    pub(super) fn keys(&self, now: Timestamp, username: &str, realm: &str) -> Vec<Grant> {
        if let Some(password) = self.users.get(username) {
            return vec![Grant { key: Key::long_term(username, realm, password), expires: None }];
        }
        let Some(expires) = expiry(username).filter(|expires| *expires > now) else { return Vec::new() };
        if expires - now > LONGEST_VALIDITY {
            return Vec::new();
        }
        let key = |secret: &SharedSecret| Key::long_term(username, realm, &secret.password(username));
        self.secrets.iter().map(|secret| Grant { key: key(secret), expires: Some(expires) }).collect()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.users.keys().collect();
        f.debug_struct("Credentials").field("users", &names).field("secrets", &self.secrets.len()).finish()
    }
}

/// One key that is right for a username, and until when.
pub(super) struct Grant {
    pub(super) key: Key,
    pub(super) expires: Option<Timestamp>,
}

/// The name that allocations are counted under: time-limited usernames of one name are one user.
pub(super) fn quota_name(username: &str) -> &str {
    match username.split_once(':') {
        Some((expiry, name)) if !name.is_empty() && expiry.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => username,
    }
}

fn expiry(username: &str) -> Option<Timestamp> {
    let digits = username.split_once(':').map_or(username, |(expiry, _)| expiry);
    // `parse` would take a sign.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: u64 = digits.parse().ok()?;
    Some(Timestamp::from_micros(seconds.checked_mul(1_000_000)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    fn secret() -> SharedSecret {
        SharedSecret::new("north").unwrap()
    }

    #[test]
    fn passwords_are_those_of_coturns_shared_secret_scheme() {
        // printf %s 1700000600:alice | openssl dgst -sha1 -hmac north -binary | base64
        let made = secret().credentials("alice", NOW + Duration::from_secs(600));
        assert_eq!(made.username, "1700000600:alice");
        assert_eq!(made.password, "gthUwOpcRoLI0MMCziCEBOWYnpo=");
    }

    #[test]
    fn security_2_credentials_are_good_until_they_expire_and_never_for_more_than_48_hours() {
        let credentials = Credentials::none().with_secret(secret());
        let table = [
            (Duration::from_secs(1), 1),
            (LONGEST_VALIDITY, 1),
            (LONGEST_VALIDITY + Duration::from_secs(1), 0),
            (Duration::ZERO, 0),
        ];
        for (left, keys) in table {
            let made = secret().credentials("alice", NOW + left);
            assert_eq!(credentials.keys(NOW, &made.username, "r").len(), keys, "{left:?} left");
        }
    }

    #[test]
    fn usernames_that_are_no_time_are_strangers() {
        let credentials = Credentials::none().with_secret(secret()).with_user("bob", "b");
        for name in
            ["", ":", "alice", "+1700000600:a", "-1:a", "99999999999999999999:a", "18446744073709551615:a", "1e9:a"]
        {
            assert!(credentials.keys(NOW, name, "r").is_empty(), "{name:?}");
        }
        assert_eq!(credentials.keys(NOW, "bob", "r").len(), 1);
        assert!(Credentials::none().keys(NOW, "bob", "r").is_empty());
    }

    #[test]
    fn quotas_count_the_name_behind_the_expiry() {
        assert_eq!(quota_name("1700000600:alice"), "alice");
        assert_eq!(quota_name("1700000600"), "1700000600");
        assert_eq!(quota_name("1700000600:"), "1700000600:");
        assert_eq!(quota_name("al:ice"), "al:ice");
    }

    #[test]
    fn nothing_shows_a_secret() {
        let made = secret().credentials("alice", NOW);
        let credentials = Credentials::none().with_secret(secret()).with_user("bob", "hunter2");
        let shown = format!("{:?} {made:?} {credentials:?}", secret());
        assert!(!shown.contains("north") && !shown.contains(&made.password) && !shown.contains("hunter2"), "{shown}");
    }
}
