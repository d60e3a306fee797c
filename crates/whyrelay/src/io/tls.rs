//! TLS for outgoing connections: the system's roots, read only when a TLS connection is made, because reading them
//! takes longer than a whole session on a fast network.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::sync::OnceCell;

/// The client configuration, made at first use and then shared.
#[derive(Clone, Debug, Default)]
pub struct ClientTls {
    extra_roots: Arc<Vec<PathBuf>>,
    roots: Arc<OnceCell<Arc<RootCertStore>>>,
    witness: Option<Witness>,
}

/// What a server showed of itself, noted while it is judged. Clones are handles to the same.
#[derive(Clone, Debug, Default)]
pub struct Witness(Arc<Mutex<Option<Shown>>>);

/// Certificates and the judgement of them.
#[derive(Clone, Debug)]
pub struct Shown {
    /// DER, the server's own first.
    pub chain: Vec<Vec<u8>>,
    /// Why it is not trusted; `None`: it is.
    pub refused: Option<String>,
}

impl Witness {
    /// What was shown; `None`: no certificate came.
    pub fn shown(&self) -> Option<Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Judges as the usual verifier does, and notes it.
#[derive(Debug)]
struct Watching {
    judge: Arc<WebPkiServerVerifier>,
    witness: Witness,
}

impl ServerCertVerifier for Watching {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.judge.verify_server_cert(own, others, name, ocsp, now);
        let chain = std::iter::once(own).chain(others).map(|certificate| certificate.to_vec()).collect();
        let refused = verdict.as_ref().err().map(|error| in_words(&error.to_string()));
        *self.witness.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Shown { chain, refused });
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}

impl ClientTls {
    /// Trusts the system's roots and the certificates in these PEM files.
    pub fn new(extra_roots: Vec<PathBuf>) -> Self {
        Self { extra_roots: Arc::new(extra_roots), roots: Arc::default(), witness: None }
    }

    /// The same, which also notes what a server shows. For one connection.
    pub fn watched(&self) -> (Self, Witness) {
        let witness = Witness::default();
        (Self { witness: Some(witness.clone()), ..self.clone() }, witness)
    }

    /// The roots to trust, read at first use.
    ///
    /// # Errors
    /// When a PEM file named by the user cannot be read.
    pub async fn roots(&self) -> io::Result<Arc<RootCertStore>> {
        let read = || async {
            let files = Arc::clone(&self.extra_roots);
            tokio::task::spawn_blocking(move || load(&files)).await.map_err(io::Error::other)?
        };
        self.roots.get_or_try_init(read).await.cloned()
    }

    /// The client configuration.
    ///
    /// # Errors
    /// As [`Self::roots`].
    pub async fn config(&self) -> io::Result<Arc<ClientConfig>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = self.roots().await?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let builder = match self.witness.clone() {
            None => builder.with_root_certificates(roots),
            Some(witness) => {
                let judge = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
                let judge = judge.map_err(io::Error::other)?;
                // "Dangerous" would be another judgement: this is the same.
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Watching { judge, witness }))
            }
        };
        Ok(Arc::new(builder.with_no_client_auth()))
    }
}

/// What TLS says of a certificate, where it says so in the names of its source code.
fn in_words(detail: &str) -> String {
    if detail.contains("CaUsedAsEndEntity") {
        return "the server shows the certificate of an authority (CA:TRUE) as its own: make one of its own with \
                basicConstraints=CA:FALSE (openssl req -x509 -addext basicConstraints=critical,CA:FALSE …), which may be \
                its own authority (--tls-ca)"
            .to_owned();
    }
    detail.to_owned()
}

/// An error of a handshake, the same way.
pub(crate) fn handshake_failed(error: io::Error) -> io::Error {
    let detail = error.to_string();
    match in_words(&detail) {
        same if same == detail => error,
        words => io::Error::new(error.kind(), words),
    }
}

fn load(extra: &[PathBuf]) -> io::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    // A broken certificate in the system's store must not keep us from using the others.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for file in extra {
        let wrong =
            |detail: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {detail}", file.display()));
        let before = roots.len();
        for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))? {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.len() == before {
            return Err(wrong("it holds no certificate (PEM)".to_owned()));
        }
    }
    Ok(Arc::new(roots))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn an_authority_as_a_server_is_said_in_words() {
        let debug = "invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))";
        let told = handshake_failed(io::Error::new(io::ErrorKind::InvalidData, debug)).to_string();
        assert!(told.contains("(CA:TRUE)") && told.contains("basicConstraints=CA:FALSE"), "{told}");
        assert!(!told.contains("OtherError"), "{told}");
        let other = handshake_failed(io::Error::other("invalid peer certificate: UnknownIssuer")).to_string();
        assert_eq!(other, "invalid peer certificate: UnknownIssuer");
    }

    #[test]
    fn an_authority_file_without_a_certificate_is_named() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "nothing").unwrap();
        let error = load(&[file.path().to_owned()]).unwrap_err().to_string();
        assert!(error.contains(&file.path().display().to_string()) && error.contains("no certificate"), "{error}");
    }
}
