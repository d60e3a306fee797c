//! The embedded STUN and TURN server: sockets around [`whyrelay_core::engine::turn_server`].
//!
//! Datagrams are read by threads of their own, one for each core; connections have tasks. Either reads what there is, up
//! to a batch, feeds the engine under its lock, which keeps quotas and allocations in one place, and carries out what
//! the engine says after the lock is released. Nothing waits for a socket: a datagram that cannot be sent at once is
//! dropped, as UDP does, and what a connection does not take waits in its `outbox`.

mod crew;
mod discovery;
mod engine;
mod mmsg;
mod options;
mod outbox;
mod plain;
mod refusals;
mod relay;
mod stream;
mod udp;
mod worker;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use whyrelay_core::engine::turn_server::{
    Counters, Credentials, Limits, PeerPolicy, SharedSecret, TurnConfig, TurnServer,
};
use whyrelay_core::random::Random;
use whyrelay_core::signal::{IceServer, ServersAnnouncement};

use crate::io::clock::{Clock, wall_clock};
use crate::server::certificates::{Certificates, TlsFileError};
use crate::server::log::Seldom;
pub use discovery::{AlternateAddress, AlternateConfig, DiscoveryConfig};
use engine::Engine;
pub use stream::StreamLimits;
use worker::{Pollers, Workers};

/// What the server is asked to do.
#[derive(Clone, Debug)]
pub struct StunTurnConfig {
    /// Where it listens, for UDP and TCP each. An unspecified address stands for every address of this host, as they
    /// are when the server starts; port 0 for any free port.
    pub listen: Vec<SocketAddr>,
    /// Certificate chain and key, as PEM: TLS is then spoken on the TCP ports with who begins with it.
    pub tls: Option<TlsFiles>,
    /// Where relays are opened. For a family without an entry: the address that the client came to.
    pub relay_addresses: Vec<IpAddr>,
    /// The ports of relays, both ends included.
    pub relay_ports: (u16, u16),
    /// The address that peers see in place of the relay's own (1:1 NAT), at most one of each family.
    pub external_addresses: Vec<IpAddr>,
    /// The host name or address to announce, if it is not the one that peers reach signaling under.
    pub public_host: Option<String>,
    /// Users beside the time-limited credentials that [`StunTurnServer::announce`] makes.
    pub credentials: Credentials,
    /// The secrets of the time-limited credentials: the first makes them, all are good. Empty: a random one, for this
    /// run only.
    pub secrets: Vec<SharedSecret>,
    /// The realm of the credentials. With more than eight bytes a 401 is larger than it need be.
    pub realm: String,
    /// Where clients are sent instead (ALTERNATE-SERVER), at most one of each family.
    pub alternate_servers: Vec<SocketAddr>,
    /// Whether an allocation ends when the credentials that made it expire.
    pub strict_expiry: bool,
    /// How long announced credentials hold; at most 48 hours.
    pub credential_lifetime: Duration,
    /// Which peers may be reached. The server adds this host's addresses and its own listeners to it.
    pub policy: PeerPolicy,
    /// Whether clients may bind channel numbers that only RFC 5766 allowed (0x5000 to 0x7FFF).
    pub rfc5766_channels: bool,
    /// Whether TURN is served; if not, its requests get 403 and STUN remains.
    pub turn: bool,
    /// Behavior discovery (RFC 5780); `None`: not offered.
    pub discovery: Option<DiscoveryConfig>,
    /// Bounds on allocations.
    pub limits: Limits,
    /// Bounds on connections.
    pub streams: StreamLimits,
}

/// Where certificate and key are.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub certificates: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl Default for StunTurnConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 3478))],
            tls: None,
            relay_addresses: Vec::new(),
            // The dynamic ports (RFC 6335 §6), as RFC 8656 §7.2 suggests.
            relay_ports: (49_152, 65_535),
            external_addresses: Vec::new(),
            public_host: None,
            credentials: Credentials::none(),
            secrets: Vec::new(),
            realm: TurnConfig::default().realm,
            alternate_servers: Vec::new(),
            strict_expiry: false,
            credential_lifetime: Duration::from_secs(12 * 3600),
            policy: PeerPolicy::default(),
            rfc5766_channels: false,
            turn: true,
            discovery: None,
            limits: Limits::default(),
            streams: StreamLimits::default(),
        }
    }
}

/// A server whose sockets are open and which serves once [`Self::run`] is called. Clones are handles to the same.
#[derive(Clone)]
pub struct StunTurnServer {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Arc<Engine>,
    _workers: Workers,
    tcp: Vec<TcpListener>,
    tls: Option<tokio_rustls::TlsAcceptor>,
    certificates: Option<Arc<Certificates>>,
    listen: Vec<SocketAddr>,
    discovery: Vec<SocketAddr>,
    public_host: Option<String>,
    external: Vec<IpAddr>,
    /// Addresses of this machine that no interface has.
    own: Vec<IpAddr>,
    /// The first makes credentials.
    secrets: RwLock<Vec<SharedSecret>>,
    credential_lifetime: Duration,
    streams: StreamLimits,
}

impl StunTurnServer {
    /// Opens the sockets. Needs a tokio runtime.
    ///
    /// # Errors
    /// When a socket cannot be opened, the certificate cannot be used, or the configuration contradicts itself.
    pub fn bind(config: StunTurnConfig) -> Result<Self> {
        let (first, last) = config.relay_ports;
        ensure!(
            first > 0 && first <= last,
            "relay ports {first}-{last}: the first must be 1 or more and not over the last"
        );
        let interfaces = options::local_addresses().context("listing this host's addresses")?;
        let load = |files: &TlsFiles| Certificates::load(&files.certificates, &files.key);
        let certificates = config.tls.as_ref().map(load).transpose()?;
        let acceptor = |certificates: &Arc<Certificates>| Ok(certificates.server_config(&[])?.into());
        let tls = certificates.as_ref().map(acceptor).transpose().map_err(|error: TlsFileError| error)?;
        let threads = worker::suitable_count();
        let mut sockets = options::open_listeners(&config.listen, &interfaces, threads)?;
        let discovery = match &config.discovery {
            Some(wanted) => discovery::open(wanted, &mut sockets, &config.external_addresses)?,
            None => discovery::Opened::default(),
        };

        let mut secrets = config.secrets;
        if secrets.is_empty() {
            let bytes: [u8; 32] = options::entropy().context("making a secret")?;
            secrets.push(SharedSecret::new(bytes).context("making a secret")?);
        }
        let mut policy = config.policy;
        let own = policy.own_addresses.clone();
        policy.own_addresses.extend(&interfaces);
        policy.own_endpoints.extend(&sockets.addresses);
        policy.own_endpoints.extend(&discovery.addresses);
        let families = options::relay_families(&config.relay_addresses, &sockets.addresses, &interfaces);
        let turn = TurnConfig {
            realm: config.realm,
            credentials: secrets.iter().cloned().fold(config.credentials, Credentials::with_secret),
            alternate_servers: config.alternate_servers,
            strict_expiry: config.strict_expiry,
            policy,
            relay_ipv4: families.ipv4,
            relay_ipv6: families.ipv6,
            external_ipv4: options::only(&config.external_addresses, |ip| match ip {
                IpAddr::V4(ip) => Some(*ip),
                IpAddr::V6(_) => None,
            })?,
            external_ipv6: options::only(&config.external_addresses, |ip| match ip {
                IpAddr::V6(ip) => Some(*ip),
                IpAddr::V4(_) => None,
            })?,
            rfc5766_channels: config.rfc5766_channels,
            turn: config.turn,
            discovery: discovery.families,
            limits: config.limits,
            ..TurnConfig::default()
        };
        let mut random = Random::from_seed(options::entropy().context("seeding the server")?);
        let places = relay::Places { configured: config.relay_addresses, local: interfaces, ports: config.relay_ports };
        let server = TurnServer::new(turn, random.fork());
        let pollers = Pollers::new(threads).context("preparing threads for datagrams")?;
        let engine = Arc::new(Engine::new(Clock::start(), server, sockets.udp, pollers, places, random));
        let workers = Workers::start(&engine).context("starting threads for datagrams")?;
        Ok(Self {
            inner: Arc::new(Inner {
                engine,
                _workers: workers,
                tcp: sockets.tcp,
                tls,
                certificates,
                listen: sockets.addresses,
                discovery: discovery.addresses,
                public_host: config.public_host,
                external: config.external_addresses,
                own,
                secrets: RwLock::new(secrets),
                credential_lifetime: config.credential_lifetime,
                streams: config.streams,
            }),
        })
    }

    /// Serves until `shutdown` completes; then connections and relays close, and the listening sockets with the last
    /// handle. A server runs once.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let mut tasks = JoinSet::new();
        let engine = &self.inner.engine;
        if let Err(error) = engine.listen() {
            tracing::error!("serving UDP: {error}");
        }
        tasks.spawn(Arc::clone(engine).expire());
        tasks.spawn(look_around(Arc::clone(engine), self.inner.own.clone()));
        let streams = stream::Streams::new(Arc::clone(engine), self.inner.tls.clone(), self.inner.streams.clone());
        for at in 0..self.inner.tcp.len() {
            let (inner, streams) = (Arc::clone(&self.inner), streams.clone());
            tasks.spawn(async move { streams.accept(&inner.tcp[at]).await });
        }
        shutdown.await;
        tasks.shutdown().await;
        engine.close();
    }

    /// Lets nobody in any more; how many allocations live on. Once that is enough, stop [`Self::run`].
    pub fn refuse_newcomers(&self) -> usize {
        self.inner.engine.refuse_newcomers();
        self.metrics().allocations
    }

    /// Completes once no allocation is left.
    pub async fn emptied(&self) {
        while self.metrics().allocations > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The STUN and TURN servers for one peer, with credentials of its own that hold for a while.
    ///
    /// `name` is what quotas count (a peer's id); `local` the server's address that the peer has reached, for a
    /// server that listens on all of them. `None` when there is no address to announce.
    pub fn announce(&self, name: &str, local: Option<IpAddr>) -> Option<ServersAnnouncement> {
        let (host, port) = self.public_end_point(local)?;
        let expires = wall_clock() + self.inner.credential_lifetime;
        let made =
            self.inner.secrets.read().unwrap_or_else(PoisonError::into_inner).first()?.credentials(name, expires);
        let mut urls = vec![format!("turn:{host}:{port}?transport=udp"), format!("turn:{host}:{port}?transport=tcp")];
        if self.inner.tls.is_some() {
            urls.push(format!("turns:{host}:{port}?transport=tcp"));
        }
        let stun = IceServer { urls: vec![format!("stun:{host}:{port}")], ..IceServer::default() };
        let turn = IceServer { urls, username: Some(made.username), credential: Some(made.password) };
        let lifetime_s = Some(self.inner.credential_lifetime.as_secs());
        // Its first socket of the family that the peer came by; behavior discovery needs addresses, not names.
        let family =
            |address: &&SocketAddr| local.is_none_or(|local| local.to_canonical().is_ipv4() == address.is_ipv4());
        let discovery = self.inner.discovery.iter().find(family).map(|address| {
            let public = self.inner.external.iter().find(|ip| ip.is_ipv4() == address.is_ipv4());
            format!("stun:{}", SocketAddr::new(public.copied().unwrap_or_else(|| address.ip()), address.port()))
        });
        let discovery = discovery.into_iter().collect();
        Some(ServersAnnouncement { servers: vec![stun, turn], lifetime_s, discovery })
    }

    /// Host, as URLs write it, and port under which a peer that has reached `local` reaches this server.
    fn public_end_point(&self, local: Option<IpAddr>) -> Option<(String, u16)> {
        let listen = &self.inner.listen;
        let local = local.map(|ip| ip.to_canonical());
        let family = |ip: IpAddr| listen.iter().find(|address| address.is_ipv4() == ip.is_ipv4());
        if let Some(host) = &self.inner.public_host {
            return Some((host.clone(), listen.first()?.port()));
        }
        let same_family = |ip: &&IpAddr| local.is_none_or(|local| local.is_ipv4() == ip.is_ipv4());
        let external = self.inner.external.iter().find(same_family).and_then(|ip| Some((*ip, family(*ip)?.port())));
        let reached = || {
            let address = listen.iter().find(|address| Some(address.ip()) == local)?;
            Some((address.ip(), address.port()))
        };
        let any = || {
            let usable = |address: &&SocketAddr| !address.ip().is_loopback();
            let address = listen.iter().find(usable).or(listen.first())?;
            Some((address.ip(), address.port()))
        };
        let (ip, port) = external.or_else(reached).or_else(any)?;
        Some((if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }, port))
    }

    /// The addresses it listens on, with their ports; none of them unspecified.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.inner.listen
    }

    /// The sockets of behavior discovery: those of the primary address first, by family.
    pub fn discovery_addresses(&self) -> &[SocketAddr] {
        &self.inner.discovery
    }

    /// What it has counted, for `/metrics`.
    pub fn metrics(&self) -> Metrics {
        self.inner.engine.metrics()
    }

    /// Replaces users and secrets, for example after a reload; without secrets, those that there are stay. Allocations
    /// live on, and are refreshed with what made them.
    pub fn set_credentials(&self, users: Credentials, secrets: Vec<SharedSecret>) {
        let mut current = self.inner.secrets.write().unwrap_or_else(PoisonError::into_inner);
        if !secrets.is_empty() {
            *current = secrets;
        }
        self.inner.engine.set_credentials(current.iter().cloned().fold(users, Credentials::with_secret));
    }

    /// Replaces the servers that new clients are sent to instead. Allocations live on.
    pub fn set_alternate_servers(&self, servers: Vec<SocketAddr>) {
        self.inner.engine.set_alternate_servers(servers);
    }

    /// Replaces what is shared with the server that is the alternate address of behavior discovery.
    pub fn set_discovery_secret(&self, secret: &SharedSecret) {
        self.inner.engine.set_discovery_secret(secret);
    }

    /// Reads certificate and key again: new connections get the new ones.
    ///
    /// # Errors
    /// When they cannot be used; what was there before stays.
    pub fn reload_certificates(&self) -> Result<(), TlsFileError> {
        self.inner.certificates.as_ref().map_or(Ok(()), |certificates| certificates.reload())
    }
}

/// How old what is known of this host may be, and how often refusals are logged.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps the list of this host's addresses: nobody may be relayed to one that came after the start, either. And tells the
/// engine what the wall clock says, and the log what was refused.
async fn look_around(engine: Arc<Engine>, configured: Vec<IpAddr>) {
    let mut known = Vec::new();
    let mut refusals = refusals::Log::default();
    let mut failures = Seldom::default();
    loop {
        engine.follow_wall_clock();
        engine.log_refusals(&mut refusals);
        match options::local_addresses() {
            Ok(now) if now != known => {
                engine.set_own_addresses(&[&configured[..], &now[..]].concat());
                known = now;
            }
            Ok(_) => {}
            Err(error) => {
                if let Some(times) = failures.note(Instant::now()) {
                    tracing::warn!(%error, times, "cannot list this host's addresses");
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A moment's view of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Allocations that live now.
    pub allocations: usize,
    /// Connections that are open now.
    pub streams: usize,
    /// Sessions of probes that live now.
    pub probe_sessions: usize,
    /// Totals of the protocol.
    pub counters: Counters,
    /// Datagrams read from the listening sockets.
    pub received_datagrams: u64,
    /// Datagrams that the kernel dropped at these sockets: no room, or broken; those that came coalesced count once.
    pub overflowed_datagrams: u64,
    /// Datagrams that the system did not take: full buffers, unreachable networks.
    pub unsent_datagrams: u64,
    /// Messages dropped because a connection's reader was too slow.
    pub unsent_stream_messages: u64,
    /// Connections refused or closed by a bound: too many, idle, too slow, not STUN.
    pub streams_refused: u64,
}
