//! Certificate fingerprints (RFC 8122 §5).

use std::fmt;
use std::str::FromStr;

use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};

/// The hash function of a fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HashFunction {
    /// sha-1, only read.
    Sha1,
    /// sha-256, what everybody writes.
    Sha256,
    /// sha-384.
    Sha384,
    /// sha-512.
    Sha512,
    /// Another one, which we cannot check.
    Unknown(String),
}

impl HashFunction {
    /// The SDP spelling.
    pub fn name(&self) -> &str {
        match self {
            Self::Sha1 => "sha-1",
            Self::Sha256 => "sha-256",
            Self::Sha384 => "sha-384",
            Self::Sha512 => "sha-512",
            Self::Unknown(name) => name,
        }
    }

    /// The digest of `bytes`, if we know the function.
    pub fn digest(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        Some(match self {
            Self::Sha1 => Sha1::digest(bytes).to_vec(),
            Self::Sha256 => Sha256::digest(bytes).to_vec(),
            Self::Sha384 => Sha384::digest(bytes).to_vec(),
            Self::Sha512 => Sha512::digest(bytes).to_vec(),
            Self::Unknown(_) => return None,
        })
    }

    /// How many bytes its digest has, if we know the function.
    const fn digest_length(&self) -> Option<usize> {
        match self {
            Self::Sha1 => Some(20),
            Self::Sha256 => Some(32),
            Self::Sha384 => Some(48),
            Self::Sha512 => Some(64),
            Self::Unknown(_) => None,
        }
    }
}

/// The fingerprint of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// The hash function.
    pub hash: HashFunction,
    /// The digest.
    pub digest: Vec<u8>,
}

impl Fingerprint {
    /// The sha-256 fingerprint of a certificate in DER.
    pub fn of_certificate(der: &[u8]) -> Self {
        Self { hash: HashFunction::Sha256, digest: Sha256::digest(der).to_vec() }
    }

    /// Whether a certificate in DER has this fingerprint; false for a hash function that we do not know.
    pub fn matches(&self, der: &[u8]) -> bool {
        self.hash.digest(der).is_some_and(|digest| digest == self.digest)
    }

    /// Whether we can check it.
    pub fn is_known(&self) -> bool {
        !matches!(self.hash, HashFunction::Unknown(_))
    }
}

impl fmt::Display for Fingerprint {
    /// As in SDP after `a=fingerprint:`, with capital digits as RFC 8122 §5 has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.hash.name())?;
        for (index, byte) in self.digest.iter().enumerate() {
            if index > 0 {
                f.write_str(":")?;
            }
            write!(f, "{byte:02X}")?;
        }
        Ok(())
    }
}

/// Not a fingerprint: no two words, no hexadecimal digits, or not as many as its hash function gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a certificate fingerprint")]
pub struct BadFingerprint;

impl FromStr for Fingerprint {
    type Err = BadFingerprint;

    fn from_str(text: &str) -> Result<Self, BadFingerprint> {
        let (name, digest) = text.trim().split_once(' ').ok_or(BadFingerprint)?;
        let hash = match name.to_ascii_lowercase().as_str() {
            "sha-1" => HashFunction::Sha1,
            "sha-256" => HashFunction::Sha256,
            "sha-384" => HashFunction::Sha384,
            "sha-512" => HashFunction::Sha512,
            other if other.len() <= 32 => HashFunction::Unknown(other.to_owned()),
            _ => return Err(BadFingerprint),
        };
        let digest: Vec<u8> = digest.trim().split(':').map(byte).collect::<Option<_>>().ok_or(BadFingerprint)?;
        let length_fits = hash.digest_length().map_or(digest.len() <= 64, |length| length == digest.len());
        if length_fits { Ok(Self { hash, digest }) } else { Err(BadFingerprint) }
    }
}

fn byte(digits: &str) -> Option<u8> {
    let both_are_digits = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if both_are_digits { u8::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_known_hash_function_recognizes_its_certificate() {
        for hash in [HashFunction::Sha1, HashFunction::Sha256, HashFunction::Sha384, HashFunction::Sha512] {
            let digest = hash.digest(b"certificate").unwrap();
            let fingerprint = Fingerprint { hash, digest };
            let read: Fingerprint = fingerprint.to_string().to_ascii_lowercase().parse().unwrap();
            assert_eq!(read, fingerprint);
            assert!(read.matches(b"certificate"));
            assert!(!read.matches(b"another"));
        }
    }

    #[test]
    fn a_fingerprint_of_the_wrong_shape_is_refused() {
        for bad in ["", "sha-256", "sha-256 AB", "sha-1 +1:00", "sha-256 GG:00", "sha-256 A:B"] {
            assert_eq!(bad.parse::<Fingerprint>(), Err(BadFingerprint), "{bad}");
        }
        let later: Fingerprint = "sha3-256 01:02".parse().unwrap();
        assert!(!later.is_known() && !later.matches(b"anything"));
    }
}
