//! TLS in front of the same connections: this side decrypts, the other side is served like any connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::connection::{Connection, Permit, Reader, Writer};
use super::hub::Hub;
use super::routes::Routes;
use super::serve;
use crate::server::certificates::{Certificates, TlsFileError};

/// A handshake takes two round trips; ten seconds are a bad mobile link's.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A client closes its side within a round trip.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads a certificate chain and its private key, both PEM, for a server.
///
/// # Errors
/// [`TlsFileError`], naming the file.
pub fn load_tls(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsFileError> {
    Certificates::load(certificate, key)?.server_config(&[b"http/1.1"])
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
