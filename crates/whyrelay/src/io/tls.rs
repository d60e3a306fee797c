//! TLS for outgoing connections: the system's roots, read only when a TLS connection is made, because reading them
//! takes longer than a whole session on a fast network.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::OnceCell;

/// The client configuration, made at first use and then shared.
#[derive(Clone, Debug, Default)]
pub struct ClientTls {
    extra_roots: Arc<Vec<PathBuf>>,
    roots: Arc<OnceCell<Arc<RootCertStore>>>,
}

impl ClientTls {
    /// Trusts the system's roots and the certificates in these PEM files.
    pub fn new(extra_roots: Vec<PathBuf>) -> Self {
        Self { extra_roots: Arc::new(extra_roots), roots: Arc::default() }
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
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(self.roots().await?)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

fn load(extra: &[PathBuf]) -> io::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    // A broken certificate in the system's store must not keep us from using the others.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for file in extra {
        let wrong =
            |detail: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {detail}", file.display()));
        for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))? {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
    }
    Ok(Arc::new(roots))
}
