//! Routes that are not signaling: the web page, metrics and what else there will be, in an [`axum::Router`].

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tracing::debug;

use super::connection::{Connection, Permit, Reader, WholeStream};

/// A request's head may take this long.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// One request with its response may take this long in all.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);

/// Where connections go whose request is for another route.
pub(super) struct Routes {
    pub(super) router: Router,
    /// The runtime on which the routes are served, so that they cannot hold up signaling.
    pub(super) runtime: Handle,
}

impl Routes {
    /// Serves the one request that has begun with `begun`, elsewhere.
    ///
    /// One only: the next request on a connection that was kept open could be for signaling again.
    pub(super) fn hand_over(&self, connection: Connection, reader: Reader, begun: Vec<u8>) {
        let remote = connection.remote;
        let (stream, permit) = match connection.reunite(reader) {
            Ok(whole) => whole,
            Err(error) => return debug!(%error, "cannot hand a connection over"),
        };
        let service = TowerToHyperService::new(self.router.clone());
        self.runtime.spawn(async move {
            let served = match stream {
                WholeStream::Tcp(stream) => match TcpStream::from_std(stream) {
                    Ok(stream) => serve(Resumed { begun, stream }, service, remote, permit).await,
                    Err(error) => Err(error.into()),
                },
                WholeStream::Unix(stream) => match UnixStream::from_std(stream) {
                    Ok(stream) => serve(Resumed { begun, stream }, service, remote, permit).await,
                    Err(error) => Err(error.into()),
                },
            };
            if let Err(error) = served {
                debug!(%error, "a request failed");
            }
        });
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    service: TowerToHyperService<Router>,
    remote: SocketAddr,
    _permit: Permit,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(remote));
        service.call(request)
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::time::timeout(CONNECTION_TIMEOUT, serving).await??;
    Ok(())
}

/// A stream of which some bytes have been read already.
struct Resumed<S> {
    begun: Vec<u8>,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Resumed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.begun.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let len = self.begun.len().min(buffer.remaining());
        buffer.put_slice(&self.begun[..len]);
        self.begun.drain(..len);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Resumed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
