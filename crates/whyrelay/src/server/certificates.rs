//! The certificate of a server, which can be replaced while it serves.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why the files of a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// The certificate chain cannot be read.
    #[error("cannot read the certificate {path}")]
    Certificate {
        /// The file.
        path: String,
        /// Why not.
        source: pem::Error,
    },
    /// There is none in the file.
    #[error("{path} holds no certificate: it is to hold the chain in PEM, the server's own first")]
    NoCertificate {
        /// The file.
        path: String,
    },
    /// The private key cannot be read.
    #[error("cannot read the private key {path}")]
    Key {
        /// The file.
        path: String,
        /// Why not.
        source: pem::Error,
    },
    /// They do not fit each other, or are of a kind that is not supported.
    #[error("the certificate and the private key cannot be used")]
    Unusable(#[source] rustls::Error),
}

/// A certificate chain with its key, from files. Connections keep what they began with; new ones get what was read last.
pub struct Certificates {
    chain: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Reads a certificate chain and its private key, both PEM.
    ///
    /// # Errors
    /// [`TlsFileError`], naming the file.
    pub fn load(chain: &Path, key: &Path) -> Result<Arc<Self>, TlsFileError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let current = RwLock::new(read(chain, key, &provider)?);
        Ok(Arc::new(Self { chain: chain.to_owned(), key: key.to_owned(), provider, current }))
    }

    /// Reads the files again. What was there before stays if they cannot be used.
    ///
    /// # Errors
    /// [`TlsFileError`], naming the file.
    pub fn reload(&self) -> Result<(), TlsFileError> {
        let read = read(&self.chain, &self.key, &self.provider)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    /// A server's configuration with this certificate, now and after each reload.
    ///
    /// # Errors
    /// [`TlsFileError::Unusable`].
    pub fn server_config(self: &Arc<Self>, protocols: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsFileError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsFileError::Unusable)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("chain", &self.chain).finish_non_exhaustive()
    }
}

fn read(chain: &Path, key: &Path, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsFileError> {
    let certificates = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| TlsFileError::Certificate { path: chain.display().to_string(), source })?;
    if certificates.is_empty() {
        return Err(TlsFileError::NoCertificate { path: chain.display().to_string() });
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|source| TlsFileError::Key { path: key.display().to_string(), source })?;
    CertifiedKey::from_der(certificates, private, provider).map(Arc::new).map_err(TlsFileError::Unusable)
}
