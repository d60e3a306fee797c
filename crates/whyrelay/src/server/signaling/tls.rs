//! TLS in front of the same connections: this side decrypts, the other side is served like any connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::connection::{Connection, Permit, Reader, Writer};
use super::hub::Hub;
use super::routes::Routes;
use super::serve;

/// A handshake takes two round trips; ten seconds are a bad mobile link's.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A client closes its side within a round trip.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

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

/// Reads a certificate chain and its private key, both PEM, for a server.
///
/// # Errors
/// [`TlsFileError`], naming the file.
pub fn load_tls(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsFileError> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| TlsFileError::Certificate { path: certificate.display().to_string(), source })?;
    let private_key = PrivateKeyDer::from_pem_file(key)
        .map_err(|source| TlsFileError::Key { path: key.display().to_string(), source })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsFileError::Unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, private_key)
        .map_err(TlsFileError::Unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Decrypts one connection and serves it.
pub(super) async fn serve(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    remote: SocketAddr,
    local: Option<IpAddr>,
    permit: Permit,
    hub: Rc<Hub>,
    routes: Rc<Routes>,
) {
    let served: io::Result<()> = async {
        let encrypted = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
        let (inner, outer) = UnixStream::pair()?;
        let (reader, writer) = inner.into_split();
        let connection = Rc::new(Connection::new(Writer::Unix(writer), remote, local, permit));
        hub.register(&connection);
        tokio::task::spawn_local(serve::serve(hub, connection, Reader::Unix(reader), routes));
        let (mut from_client, mut to_client) = tokio::io::split(encrypted);
        let (mut from_server, mut to_server) = outer.into_split();
        let inward = async {
            tokio::io::copy(&mut from_client, &mut to_server).await?;
            to_server.shutdown().await
        };
        let outward = async {
            tokio::io::copy(&mut from_server, &mut to_client).await?;
            to_client.shutdown().await
        };
        tokio::pin!(inward, outward);
        // Once our side has ended, the client has a moment to read it; it may not keep the connection.
        tokio::select! {
            ended = &mut outward => {
                ended?;
                tokio::time::timeout(CLOSE_TIMEOUT, inward).await?
            }
            ended = &mut inward => ended.and(outward.await),
        }
    }
    .await;
    if let Err(error) = served {
        debug!(%remote, %error, "TLS ended");
    }
}
