//! The certificate of this side: self-signed, ECDSA P-256, new for each session (RFC 8827 §6.5).

use std::fmt;

use anyhow::Context as _;
use dimpl::DtlsCertificate;
use whyrelay_core::sdp::Fingerprint;

/// A certificate with its private key. Its `Debug` form shows neither.
#[derive(Clone)]
pub struct Certificate {
    pub(super) inner: DtlsCertificate,
    fingerprint: Fingerprint,
}

impl Certificate {
    /// Makes a key and signs its certificate: about a tenth of a millisecond.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> anyhow::Result<Self> {
        let inner = dimpl::certificate::generate_self_signed_certificate().context("generate a DTLS certificate")?;
        let fingerprint = Fingerprint::of_certificate(&inner.certificate);
        Ok(Self { inner, fingerprint })
    }

    /// Its fingerprint, for the description.
    pub const fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", self.fingerprint)
    }
}
