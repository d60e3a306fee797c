//! A peer's connection to a signaling server: whyrelay's over WebSocket, or the origin's over long poll.
//!
//! [`Client::connect`] finds out which server it is, and from then on keeps the connection: it comes back after every
//! loss, and what was given to [`Client::send`] arrives once and in order (with the origin's server, which knows no
//! numbers, a message whose answer was lost may arrive twice). Either peer may start first: messages for a peer that is not there yet wait here.

mod driver;
mod error;
mod link;
mod long_poll;
pub(crate) mod segments;
mod stream;
mod websocket;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use whyrelay_core::signal::{MAX_MESSAGE, Message, MessageType, Refusal, ServersAnnouncement, unguessable_name};

use driver::Driver;
use link::Link;

pub use error::SignalingError;

/// Messages between a client and its task, at most.
const CHANNEL: usize = 4096;
/// Bytes of a message's number in JSON, at most.
const NUMBER_ROOM: usize = 32;

/// How to reach the server, and as whom.
#[derive(Clone)]
pub struct SignalingOptions {
    /// `http://`, `https://`, `ws://` or `wss://`, with a path in front of the routes if a proxy needs one.
    pub url: String,
    /// The room; empty for the default room.
    pub room: String,
    /// Our id.
    pub id: String,
    /// The id of the peer that is waited for.
    pub peer: String,
    /// What claims our id; a random one if there is none. Secret.
    pub token: Option<String>,
    /// How to speak with the server.
    pub transport: Transport,
    /// How long one attempt to connect may take, the look-up of the name apart.
    pub connect_timeout: Duration,
    /// Who may certify the server; the system's roots if there are none. They are read only when TLS is used.
    pub roots: Option<Arc<RootCertStore>>,
    /// Where the round trip is told of the first connection over TCP that is made, as far as it is known.
    pub made: Arc<OnceLock<Duration>>,
}

/// The name of a signaling server that has to be looked up; `None`: the URL has an address.
///
/// # Errors
/// When the URL is broken.
pub fn name_in(url: &str) -> Result<Option<String>, SignalingError> {
    Ok(stream::Endpoint::parse(url)?.name())
}

/// Where a signaling server is connected to; `found`: the addresses of its name, where it has one.
pub(crate) fn addresses_in(url: &str, found: &[IpAddr]) -> Vec<SocketAddr> {
    stream::Endpoint::parse(url).map(|endpoint| endpoint.at(found)).unwrap_or_default()
}

/// How long after a refusal the server is asked once more: by then the host has read the counters of its own firewall,
/// which may be who refuses, and counts the second time for sure.
const ONCE_MORE_AFTER: Duration = Duration::from_millis(200);

/// What `connect` answers; where it is refused, what it answers the second time.
pub(crate) async fn unless_refused<T>(
    connect: impl AsyncFn() -> Result<T, SignalingError>,
) -> Result<T, SignalingError> {
    match connect().await {
        Err(error) if error.is_refusal() => {
            tokio::time::sleep(ONCE_MORE_AFTER).await;
            connect().await
        }
        answer => answer,
    }
}

/// Refuses a broken URL before anything else is done.
///
/// # Errors
/// A sentence that names the flag, what is wrong, and the way out.
pub fn check_url(flag: &str, url: &str) -> anyhow::Result<()> {
    name_in(url).map(drop).map_err(|error| anyhow::anyhow!("{flag}: {error}\nhint: {}", error.hint()))
}

impl SignalingOptions {
    /// `id` waits for `peer` in the default room of the server at `url`.
    pub fn new(url: impl Into<String>, id: impl Into<String>, peer: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            room: String::new(),
            id: id.into(),
            peer: peer.into(),
            token: None,
            transport: Transport::Auto,
            connect_timeout: Duration::from_secs(10),
            roots: None,
            made: Arc::default(),
        }
    }
}

impl fmt::Debug for SignalingOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalingOptions").field("id", &self.id).field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// How to speak with the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// WebSocket; long poll if the server has none.
    Auto,
    /// WebSocket or nothing.
    WebSocket,
    /// Long poll, as with the origin's server.
    LongPoll,
}

/// What a client hears.
#[derive(Debug)]
pub enum Incoming {
    /// A message of a peer.
    Message(Message),
    /// The server's STUN and TURN servers; again after each connection.
    Servers(ServersAnnouncement),
    /// The peer with this id receives now.
    PeerJoined(String),
    /// The peer with this id receives no more.
    PeerLeft(String),
    /// The peer with this id is not there yet; what was sent to it waits here. Said once for each absence.
    WaitingForPeer(String),
    /// The server will not take a message of this type, which is dropped.
    Refused(MessageType, Refusal),
    /// The connection is lost and will be tried again.
    Disconnected {
        /// Why.
        error: SignalingError,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// The connection is back.
    Reconnected,
    /// The end: trying again would not help. Nothing follows.
    Failed(SignalingError),
}

/// What is known of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// Its address.
    pub address: SocketAddr,
    /// Our own address on the way there.
    pub local: SocketAddr,
    /// [`Transport::WebSocket`] or [`Transport::LongPoll`].
    pub transport: Transport,
    /// The version of a whyrelay server; `None` for another one.
    pub whyrelay: Option<String>,
    /// How long its first answer took, behind TCP and TLS: a round trip, and what the server took; `None`: not measured.
    pub round_trip: Option<Duration>,
    /// The address from which a whyrelay server sees us.
    pub seen_as: Option<IpAddr>,
    /// Its clock, by the Date of its answer, where that came.
    pub clock: Option<ServerClock>,
}

/// A server's clock against ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerClock {
    /// Its clock minus ours, in milliseconds.
    pub offset_ms: i64,
    /// How exact that is, in milliseconds: Date counts in seconds.
    pub precision_ms: u32,
}

impl ServerClock {
    /// From a Date header (RFC 9110 §6.6.1) that came now, `took` after it was asked for.
    fn of(date: Option<&str>, took: Duration) -> Option<Self> {
        let theirs = httpdate::parse_http_date(date?).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let ours = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.saturating_sub(took / 2);
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        // The second that it names is half over, on average.
        let offset_ms = milliseconds(theirs).saturating_add(500).saturating_sub(milliseconds(ours));
        let precision_ms = 500_u32.saturating_add(u32::try_from(took.as_millis() / 2).unwrap_or(u32::MAX));
        Some(Self { offset_ms, precision_ms })
    }
}

/// A peer's connection to a signaling server. Dropping it abandons what was not delivered, and the server keeps the
/// id claimed for a few seconds; [`Client::close`] does neither.
#[derive(Debug)]
pub struct Client {
    id: String,
    server: ServerInfo,
    commands: mpsc::Sender<Command>,
    incoming: mpsc::Receiver<Incoming>,
    driver: JoinHandle<()>,
}

/// A handle for sending, to be cloned freely.
#[derive(Clone, Debug)]
pub struct Sender {
    id: String,
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
    Send(Message),
    Close(oneshot::Sender<bool>),
}

impl Client {
    /// Connects once; from then on the connection is kept.
    ///
    /// An id that is taken by a peer whose connection broke is waited for, because that is most often ourselves a
    /// moment ago.
    ///
    /// # Errors
    /// [`SignalingError`], one variant for each situation.
    pub async fn connect(options: SignalingOptions) -> Result<Self, SignalingError> {
        let mut options = options;
        if options.token.is_none() {
            let mut random = [0; 16];
            getrandom::fill(&mut random).map_err(|_| SignalingError::NoRandomness)?;
            options.token = Some(unguessable_name(random));
        }
        let options = Arc::new(options);
        let link = loop {
            match Link::open(&options, 0).await {
                Err(SignalingError::IdTaken { free_in: Some(free_in), .. }) => {
                    tracing::info!(?free_in, "the id is claimed by a peer that is away");
                    tokio::time::sleep(free_in).await;
                }
                opened => break opened?,
            }
        };
        let (commands, commanded) = mpsc::channel(CHANNEL);
        let (events, incoming) = mpsc::channel(CHANNEL);
        let (id, server) = (options.id.clone(), link.server().clone());
        let driver = tokio::spawn(Driver::new(options, commanded, events).run(link));
        Ok(Self { id, server, commands, incoming, driver })
    }

    /// Sends to the peer `to`. What cannot be delivered yet waits.
    ///
    /// # Errors
    /// [`SignalingError::TooManyWaiting`], or [`SignalingError::Closed`] after [`Incoming::Failed`].
    pub fn send(&self, kind: MessageType, to: &str, content: impl Into<String>) -> Result<(), SignalingError> {
        send(&self.commands, Message::new(kind, &*self.id, to, content))
    }

    /// A handle for sending from elsewhere.
    pub fn sender(&self) -> Sender {
        Sender { id: self.id.clone(), commands: self.commands.clone() }
    }

    /// What comes next; `None` after [`Incoming::Failed`]. Cancel safe.
    pub async fn recv(&mut self) -> Option<Incoming> {
        self.incoming.recv().await
    }

    /// The server that was connected to first.
    pub fn server(&self) -> &ServerInfo {
        &self.server
    }

    /// Delivers what was sent, gives the id back, and ends; at the latest after `timeout`. Answers whether the server
    /// has taken everything.
    pub async fn close(mut self, timeout: Duration) -> bool {
        let (done, closed) = oneshot::channel();
        let closing = async {
            let _ = self.commands.send(Command::Close(done)).await;
            // Nobody reads these any more, and the task must not wait for it.
            while self.incoming.recv().await.is_some() {}
            closed.await.unwrap_or(false)
        };
        tokio::time::timeout(timeout, closing).await.unwrap_or(false)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Sender {
    /// As [`Client::send`].
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn send(&self, kind: MessageType, to: &str, content: impl Into<String>) -> Result<(), SignalingError> {
        send(&self.commands, Message::new(kind, &*self.id, to, content))
    }
}

fn send(commands: &mpsc::Sender<Command>, message: Message) -> Result<(), SignalingError> {
    // JSON takes at most six bytes for one of the content's, so only long contents need a closer look.
    if message.content.len() > MAX_MESSAGE / 8 && message.to_json().len() + NUMBER_ROOM > MAX_MESSAGE {
        return Err(SignalingError::TooLarge);
    }
    commands.try_send(Command::Send(message)).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => SignalingError::TooManyWaiting,
        mpsc::error::TrySendError::Closed(_) => SignalingError::Closed,
    })
}
