//! The signaling server: the origin's long poll, and WebSocket with the same messages.
//!
//! `POST /send` and `GET /receive?id=` are exactly the origin's, so its clients work unchanged in the default room.
//! `GET /ws` carries the same messages, with numbers and acknowledgements for peers that want nothing lost. Both take
//! `room=`; `GET /health` answers 200 while the server takes peers, and 503 while it drains. All other requests go to
//! an [`axum::Router`].
//!
//! One thread serves all of signaling (see `hub`); the other routes run on the caller's runtime.

mod connection;
mod gauges;
mod http;
mod hub;
mod mailbox;
mod receive;
mod receiver;
mod routes;
mod serve;
mod tls;
mod websocket;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use rustls::ServerConfig;
use socket2::{Domain, Socket, TcpKeepalive, Type};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tracing::{debug, info, warn};
use whyrelay_core::signal::{HEARTBEAT_INTERVAL, MAILBOX_AGE, MAILBOX_BYTES, MAILBOX_MESSAGES, ServersAnnouncement};

use connection::{Connection, Permits, Reader, Writer};
use hub::Hub;
use routes::Routes;

use super::log::Seldom;

pub use gauges::Gauges;
pub use tls::load_tls;

pub use super::certificates::TlsFileError;

/// Which STUN and TURN servers a joining whyrelay peer is told: from its room, its id, and the address at which it
/// reached us. The credentials that this makes are limited in time.
pub type Announce = Arc<dyn Fn(&str, &str, Option<IpAddr>) -> Option<ServersAnnouncement> + Send + Sync>;

/// Bounds and choices of a [`SignalingServer`].
#[derive(Clone)]
pub struct SignalingConfig {
    /// Whether the room without a name exists, which the origin's clients need.
    pub has_default_room: bool,
    /// Origins (`https://example.org`) whose pages may use the server besides its own; `*` for any.
    pub allowed_origins: Vec<String>,
    /// The servers to announce to whyrelay peers.
    pub announce: Option<Announce>,
    /// Serves HTTPS and WSS instead of HTTP and WS.
    pub tls: Option<Arc<ServerConfig>>,
    /// Messages that wait for one peer.
    pub mailbox_messages: usize,
    /// Bytes that wait for one peer.
    pub mailbox_bytes: usize,
    /// How long a message waits, and how long a peer that is away is remembered.
    pub mailbox_age: Duration,
    /// Bytes that wait in the whole server.
    pub max_queued_bytes: usize,
    /// How long an id stays claimed when its peer's connection broke. A peer that leaves properly frees it at once.
    pub claim_grace: Duration,
    /// A receiver hears something at least this often.
    pub heartbeat_interval: Duration,
    /// A request must be complete within this.
    pub request_timeout: Duration,
    /// A connection may wait this long between two requests. Longer than clients keep theirs, so that a request never
    /// meets a connection that is just being closed.
    pub idle_timeout: Duration,
    /// A client that takes nothing for this long is dropped.
    pub write_timeout: Duration,
    /// Connections, and peers that are away, in all.
    pub max_connections: usize,
    /// The same for one client address (an IPv6 /64); loopback is exempt.
    pub max_connections_per_ip: usize,
    /// Peers that receive or are away.
    pub max_peers: usize,
    /// Rooms.
    pub max_rooms: usize,
    /// Where the server shows what it holds.
    pub gauges: Arc<Gauges>,
    /// How long a shutdown waits for clients to take what was written.
    pub drain_timeout: Duration,
}

impl Default for SignalingConfig {
    fn default() -> Self {
        Self {
            has_default_room: true,
            allowed_origins: Vec::new(),
            announce: None,
            tls: None,
            mailbox_messages: MAILBOX_MESSAGES,
            mailbox_bytes: MAILBOX_BYTES,
            mailbox_age: MAILBOX_AGE,
            max_queued_bytes: 64 * 1024 * 1024,
            claim_grace: Duration::from_secs(10),
            heartbeat_interval: HEARTBEAT_INTERVAL,
            request_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(120),
            write_timeout: Duration::from_secs(10),
            max_connections: 400_000,
            max_connections_per_ip: 1024,
            max_peers: 200_000,
            max_rooms: 50_000,
            gauges: Arc::default(),
            drain_timeout: Duration::from_secs(2),
        }
    }
}

impl fmt::Debug for SignalingConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalingConfig").field("has_default_room", &self.has_default_room).finish_non_exhaustive()
    }
}

/// Why the signaling server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The server's thread cannot start or has ended by itself.
    #[error("the signaling server stopped")]
    Stopped(#[source] io::Error),
}

/// A signaling server that listens.
pub struct SignalingServer {
    listener: std::net::TcpListener,
    local: SocketAddr,
    config: SignalingConfig,
    router: Router,
}

impl SignalingServer {
    /// Listens on `address`; connections wait until [`SignalingServer::run`].
    ///
    /// # Errors
    /// [`ServerError::Listen`].
    pub fn bind(address: SocketAddr, config: SignalingConfig) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Listen { address, source };
        raise_descriptor_limit();
        let listener = listen(address).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, local, config, router: Router::new() })
    }

    /// Serves all other routes with `router`, one request for each connection. Handlers find the client's address as
    /// `ConnectInfo<SocketAddr>`.
    #[must_use]
    pub fn with_routes(mut self, router: Router) -> Self {
        self.router = router;
        self
    }

    /// The address that is listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Serves until `shutdown` completes; then tells the clients, drains, and returns.
    ///
    /// # Errors
    /// [`ServerError::Stopped`].
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let stopped = |error| ServerError::Stopped(io::Error::other(error));
        let (stop, stopping) = oneshot::channel::<()>();
        let (finish, finished) = oneshot::channel();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServerError::Stopped)?;
        let routes = Handle::current();
        std::thread::Builder::new()
            .name("signaling".into())
            .spawn(move || {
                let served = LocalSet::new().block_on(&runtime, self.serve(routes, stopping));
                // Whoever waits for it may be gone.
                let _ = finish.send(served);
            })
            .map_err(ServerError::Stopped)?;
        tokio::pin!(finished);
        tokio::select! {
            served = &mut finished => return served.map_err(stopped)?.map_err(ServerError::Stopped),
            () = shutdown => {}
        }
        drop(stop);
        finished.await.map_err(stopped)?.map_err(ServerError::Stopped)
    }

    /// Runs on the signaling thread until `stopping` ends.
    async fn serve(self, runtime: Handle, stopping: oneshot::Receiver<()>) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let permits = Permits::new(self.config.max_connections, self.config.max_connections_per_ip);
        let hub = Rc::new(Hub::new(self.config, permits));
        let routes = Rc::new(Routes { router: self.router, runtime });
        let sweeping = tokio::task::spawn_local(sweep(Rc::clone(&hub)));
        tokio::select! {
            () = accept(listener, &hub, &routes) => {}
            _ = stopping => {}
        }
        info!("signaling drains");
        hub.shut_down();
        let drained = async {
            while hub.open_connections() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(hub.config.drain_timeout, drained).await;
        sweeping.abort();
        Ok(())
    }
}

impl fmt::Debug for SignalingServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalingServer").field("local", &self.local).finish_non_exhaustive()
    }
}

/// Each receiver is a descriptor, and the usual soft limit of 1024 is for programs that use `select`.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        debug!(%error, "the limit on open files stays at {soft}");
    }
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.ip() == IpAddr::from([0u16; 8]) {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    // Linux hands these on to every accepted connection, which saves as many calls for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(30)))?;
    // A client whose machine is gone acknowledges nothing: 30 s is a dozen retransmissions.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(Duration::from_secs(30)))?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

async fn sweep(hub: Rc<Hub>) {
    let config = &hub.config;
    let shortest = config
        .request_timeout
        .min(config.write_timeout)
        .min(config.heartbeat_interval)
        .min(config.claim_grace)
        .min(config.mailbox_age);
    // A tenth of what is to be noticed, and no more often than is cheap.
    let mut interval =
        tokio::time::interval((shortest / 10).clamp(Duration::from_millis(10), Duration::from_millis(500)));
    loop {
        interval.tick().await;
        hub.sweep();
    }
}

async fn accept(listener: TcpListener, hub: &Rc<Hub>, routes: &Rc<Routes>) {
    let tls = hub.config.tls.clone().map(tokio_rustls::TlsAcceptor::from);
    let mut failures = Seldom::default();
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: connections that end give some back. The others go on.
                if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                    if let Some(times) = failures.note(Instant::now()) {
                        warn!(%error, times, "cannot accept a connection");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                continue;
            }
        };
        let Some(permit) = hub.permits.take(remote.ip()) else {
            debug!(%remote, "too many connections");
            continue;
        };
        let local = stream.local_addr().ok().map(|address| address.ip().to_canonical());
        let (hub, routes) = (Rc::clone(hub), Rc::clone(routes));
        if let Some(tls) = &tls {
            tokio::task::spawn_local(tls::serve(tls.clone(), stream, remote, local, permit, hub, routes));
        } else {
            let (reader, writer) = stream.into_split();
            let connection = Rc::new(Connection::new(Writer::Tcp(writer), remote, local, permit));
            hub.register(&connection);
            tokio::task::spawn_local(serve::serve(hub, connection, Reader::Tcp(reader), routes));
        }
    }
}
