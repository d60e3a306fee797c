//! Long-term credentials (RFC 8489 §9.2): a password that never shows itself, and what a server's challenge makes of it.

use std::fmt;

use crate::wire::attribute::AttributeType;
use crate::wire::integrity::{Integrity, Key};
use crate::wire::stun::{Message, MessageBuilder};

/// Starts every nonce of a server that announces security features (RFC 8489 §9.2).
const NONCE_COOKIE: &str = "obMatJos2";

/// The most significant of the 24 feature bits: password algorithms (RFC 8489 §18.1).
const FEATURE_PASSWORD_ALGORITHMS: u8 = 0x80;

/// PASSWORD-ALGORITHM numbers (RFC 8489 §18.5).
const ALGORITHM_MD5: u16 = 0x0001;
const ALGORITHM_SHA256: u16 = 0x0002;

/// A TURN password. It is shown by nothing: `Debug` hides it, there is no `Display` and no serialization, and its
/// memory is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Takes a password in.
    pub const fn new(password: String) -> Self {
        Self(password)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

impl Drop for Password {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0).into_bytes();
        bytes.fill(0);
        // Keeps the overwriting from being optimized away.
        std::hint::black_box(&bytes);
    }
}

/// How a request was authenticated: what its answer is checked with.
#[derive(Clone, Debug)]
pub(super) struct Proof {
    key: Key,
    realm: String,
}

impl Proof {
    /// Checks an answer.
    pub(super) fn check(&self, message: &Message<'_>) -> Integrity {
        message.check_integrity(&self.key)
    }
}

/// What became of a challenge (401 or 438).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Answer it with a new request.
    Answer,
    /// There is no user name or password to answer it with.
    NoCredentials,
    /// It asks for the same proof that was just refused: the credentials are wrong.
    Refused,
    /// It cannot be answered.
    Unusable(&'static str),
}

/// One client's credentials and the server's latest challenge.
#[derive(Clone, Debug)]
pub(super) struct LongTerm {
    username: Option<String>,
    password: Option<Password>,
    session: Option<Session>,
}

#[derive(Clone, Debug)]
struct Session {
    proof: Proof,
    nonce: Vec<u8>,
    /// PASSWORD-ALGORITHMS as the server sent it, and our choice of it.
    algorithms: Option<(Vec<u8>, u16)>,
}

impl LongTerm {
    pub(super) const fn new(username: Option<String>, password: Option<Password>) -> Self {
        Self { username, password, session: None }
    }

    /// Takes in the challenge of a 401 or 438 that answered a request authenticated with `refused`.
    ///
    /// RFC 8489 §9.2.5: a 401 is answered once per realm, a 438 with the new nonce.
    pub(super) fn challenge(&mut self, message: &Message<'_>, code: u16, refused: Option<&Proof>) -> Challenge {
        let (Some(username), Some(password)) = (&self.username, &self.password) else {
            return Challenge::NoCredentials;
        };
        let known_realm = self.session.as_ref().map(|session| session.proof.realm.clone());
        let realm = match (message.text(AttributeType::REALM), code, known_realm) {
            (Some(realm), ..) => realm.to_owned(),
            // RFC 8489 §9.2.4 wants REALM in a 438 too; some servers leave it out.
            (None, 438, Some(realm)) => realm,
            (None, ..) => return Challenge::Unusable("the challenge carries no REALM"),
        };
        let Some(nonce) = message.attribute(AttributeType::NONCE).map(|attribute| attribute.value.to_vec()) else {
            return Challenge::Unusable("the challenge carries no NONCE");
        };
        if code == 401 && refused.is_some_and(|proof| proof.realm == realm) {
            return Challenge::Refused;
        }
        let list = message.attribute(AttributeType::PASSWORD_ALGORITHMS).map(|attribute| attribute.value);
        let algorithms = match list {
            // RFC 8489 §9.2.5: a nonce that promises the list without the list is a bid-down attack.
            None if announces_algorithms(&nonce) => {
                return Challenge::Unusable("the nonce announces password algorithms, the list is missing");
            }
            // Without the cookie the list may have been slipped in; RFC 8489 §9.2.1.
            Some(list) if announces_algorithms(&nonce) => match choose_algorithm(list) {
                Some(algorithm) => Some((list.to_vec(), algorithm)),
                None => return Challenge::Unusable("the server offers no password algorithm that we know"),
            },
            _ => None,
        };
        let key = match algorithms {
            Some((_, ALGORITHM_SHA256)) => Key::long_term_sha256(username, &realm, &password.0),
            _ => Key::long_term(username, &realm, &password.0),
        };
        self.session = Some(Session { proof: Proof { key, realm }, nonce, algorithms });
        Challenge::Answer
    }

    /// Finishes a request: with credentials once the server has asked for them (RFC 8489 §9.2.3).
    pub(super) fn finish(&self, builder: MessageBuilder) -> (Vec<u8>, Option<Proof>) {
        let (Some(session), Some(username)) = (&self.session, &self.username) else {
            return (builder.build(), None);
        };
        let builder = builder.long_term_credential(username, &session.proof.realm, &session.nonce);
        let key = &session.proof.key;
        let bytes = match &session.algorithms {
            // RFC 8489 §9.2.5: with PASSWORD-ALGORITHMS only MESSAGE-INTEGRITY-SHA256 is used.
            Some((list, algorithm)) => {
                let [high, low] = algorithm.to_be_bytes();
                builder
                    .attribute(AttributeType::PASSWORD_ALGORITHMS, list)
                    .attribute(AttributeType::PASSWORD_ALGORITHM, &[high, low, 0, 0])
                    .integrity_sha256(key)
                    .build()
            }
            None => builder.integrity(key).build(),
        };
        (bytes, Some(session.proof.clone()))
    }

    /// The key in use, to check a message with that belongs to no request of ours.
    pub(super) fn proof(&self) -> Option<&Proof> {
        self.session.as_ref().map(|session| &session.proof)
    }
}

/// Whether a nonce carries the cookie and the bit "password algorithms" (RFC 8489 §9.2, §18.1).
fn announces_algorithms(nonce: &[u8]) -> bool {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let features = nonce.strip_prefix(NONCE_COOKIE.as_bytes()).and_then(|rest| rest.get(..4));
    let features = features.and_then(|text| STANDARD.decode(text).ok());
    features.is_some_and(|bits| bits.first().is_some_and(|first| first & FEATURE_PASSWORD_ALGORITHMS != 0))
}

/// The first algorithm of the server's list that we know (RFC 8489 §9.2.5, §14.11).
fn choose_algorithm(list: &[u8]) -> Option<u16> {
    let mut rest = list;
    while let Some(header) = rest.first_chunk::<4>() {
        let algorithm = u16::from_be_bytes([header[0], header[1]]);
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if matches!(algorithm, ALGORITHM_MD5 | ALGORITHM_SHA256) {
            return Some(algorithm);
        }
        rest = rest.get(4 + length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_shows_itself_nowhere() {
        let password = Password::new("opensesame".to_owned());
        let credentials = LongTerm::new(Some("ali".to_owned()), Some(password.clone()));
        assert!(!format!("{password:?} {credentials:?}").contains("opensesame"));
    }

    #[test]
    fn nonce_cookie_and_list_are_read_as_rfc_8489_lays_them_out() {
        assert!(announces_algorithms(b"obMatJos2gAAAxyz"));
        assert!(!announces_algorithms(b"obMatJos2AAAAxyz"));
        assert!(!announces_algorithms(b"obMatJos2g"));
        assert!(!announces_algorithms(b""));
        assert_eq!(choose_algorithm(&[0, 2, 0, 0, 0, 1, 0, 0]), Some(ALGORITHM_SHA256));
        assert_eq!(choose_algorithm(&[0, 9, 0, 2, 7, 7, 0, 0, 0, 1, 0, 0]), Some(ALGORITHM_MD5));
        assert_eq!(choose_algorithm(&[0, 9, 0xFF, 0xFF]), None);
    }
}
