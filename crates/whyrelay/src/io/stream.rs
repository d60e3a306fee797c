//! TCP and TLS connections of a session: to TURN servers, and between ICE-TCP peers.
//!
//! A connection has a task for reading and one for writing; what they see arrives on one channel as whole messages,
//! so that the session's loop can record each before it handles it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsConnector;
use whyrelay_core::engine::gather::StreamId;
use whyrelay_core::trace::event::Transport;
use whyrelay_core::wire::framing::{Deframer, Framing};

use super::tls::{ClientTls, handshake_failed};
use super::witness::Witness;

/// How long a connection may take, TLS included. A firewall that swallows SYNs is found out well before the session
/// gives up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Messages that may wait for one slow connection; more are dropped, as a full UDP buffer would.
const WRITE_QUEUE: usize = 256;

/// Accepted connections at most: a stranger must not make us hold more. The next ones wait until one of these ends.
const MAX_ACCEPTED: usize = 64;

/// What an accepted connection must say its first message within: ICE-TCP peers check as soon as they are connected.
const FIRST_MESSAGE_WITHIN: Duration = Duration::from_secs(5);

/// An accepted connection that says nothing for so long is closed. One that is in use carries a consent check, or its
/// answer, every few seconds.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// Something that happened on a connection.
#[derive(Debug)]
pub enum StreamInput {
    /// A connection that we asked for is there, TLS included.
    Connected {
        /// Which.
        id: StreamId,
        /// Our end.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
        /// TCP, or TLS over it.
        transport: Transport,
    },
    /// A peer connected to one of our listeners.
    Accepted {
        /// The connection's id.
        id: StreamId,
        /// The listener's address.
        local: SocketAddr,
        /// The peer.
        remote: SocketAddr,
    },
    /// A whole message, without framing.
    Message {
        /// Which connection.
        id: StreamId,
        /// Our end; of an accepted connection the listener's address.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
        /// TCP, or TLS over it.
        transport: Transport,
        /// When its last byte arrived, as far as the kernel tells.
        arrived: Instant,
        /// The message.
        bytes: Vec<u8>,
    },
    /// It could not be made, or it ended.
    Closed {
        /// Which.
        id: StreamId,
        /// Why.
        detail: String,
    },
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Our address, port 0 for any.
    pub local: Option<SocketAddr>,
    /// Where to.
    pub remote: SocketAddr,
    /// TLS with this server name.
    pub tls: Option<String>,
    /// SO_MARK.
    pub mark: Option<u32>,
    /// How messages are laid into the stream.
    pub framing: Framing,
}

/// All connections and listeners of a session; dropping it closes them.
#[derive(Debug)]
pub struct Streams {
    inputs: mpsc::Sender<StreamInput>,
    open: BTreeMap<StreamId, Open>,
    listeners: Vec<tokio::task::JoinHandle<()>>,
    accepted: mpsc::Receiver<(StreamId, Open)>,
    accepted_sender: mpsc::Sender<(StreamId, Open)>,
    next_accepted: Arc<std::sync::atomic::AtomicU64>,
    places: Arc<Semaphore>,
    patience: Patience,
    tls: ClientTls,
}

/// How long a connection may be silent: before its first message, and after it.
#[derive(Clone, Copy, Debug)]
struct Patience {
    first: Duration,
    later: Duration,
}

#[derive(Debug)]
struct Open {
    framing: Framing,
    writer: mpsc::Sender<Vec<u8>>,
    witness: Witness,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Streams {
    /// Nothing open yet. `inputs` gets what happens.
    pub fn new(inputs: mpsc::Sender<StreamInput>, tls: ClientTls) -> Self {
        let (accepted_sender, accepted) = mpsc::channel(MAX_ACCEPTED);
        Self {
            inputs,
            open: BTreeMap::new(),
            listeners: Vec::new(),
            accepted,
            accepted_sender,
            // Ids of our own connections are given by the caller and small; accepted ones count from the top half.
            next_accepted: Arc::new(std::sync::atomic::AtomicU64::new(1 << 63)),
            places: Arc::new(Semaphore::new(MAX_ACCEPTED)),
            patience: Patience { first: FIRST_MESSAGE_WITHIN, later: IDLE_LIMIT },
            tls,
        }
    }

    /// Starts a connection; [`StreamInput::Connected`] or [`StreamInput::Closed`] follows.
    pub fn connect(&mut self, id: StreamId, options: ConnectOptions) {
        let (writer, queue) = mpsc::channel(WRITE_QUEUE);
        let framing = options.framing;
        let inputs = self.inputs.clone();
        let tls = self.tls.clone();
        let witness = Witness::default();
        let of_task = witness.clone();
        let task = tokio::spawn(async move {
            let connecting = connect(&options, &tls, &of_task);
            let connected = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()),
                )),
            };
            match connected {
                Ok((local, stream)) => {
                    let transport = if options.tls.is_some() { Transport::Tls } else { Transport::Tcp };
                    let ends = Ends { id, local, remote: options.remote, transport };
                    let connected = StreamInput::Connected { id, local, remote: options.remote, transport };
                    if inputs.send(connected).await.is_ok() {
                        carry(ends, stream, framing, queue, (inputs, of_task), None).await;
                    }
                }
                Err(error) => {
                    of_task.forget();
                    let _ = inputs.send(StreamInput::Closed { id, detail: chain(&error) }).await;
                }
            }
        });
        self.open.insert(id, Open { framing, writer, witness, task });
    }

    /// Listens for ICE-TCP peers.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen(&mut self, address: SocketAddr, mark: Option<u32>) -> io::Result<SocketAddr> {
        let socket = tcp_socket(address, mark)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(16)?;
        let listener = TcpListener::from_std(socket.into())?;
        let local = listener.local_addr()?;
        let (patience, places) = (self.patience, Arc::clone(&self.places));
        let (inputs, opens, ids) = (self.inputs.clone(), self.accepted_sender.clone(), Arc::clone(&self.next_accepted));
        self.listeners.push(tokio::spawn(async move {
            loop {
                let Ok((stream, remote)) = listener.accept().await else {
                    // Out of descriptors, most likely: do not spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let _ = stream.set_nodelay(true);
                // Never closed.
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let id = StreamId(ids.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
                let (writer, queue) = mpsc::channel(WRITE_QUEUE);
                let witness = Witness::default();
                witness.sees(&stream);
                let (task_inputs, of_task) = (inputs.clone(), witness.clone());
                let task = tokio::spawn(async move {
                    let _place = place;
                    if task_inputs.send(StreamInput::Accepted { id, local, remote }).await.is_ok() {
                        let ends = Ends { id, local, remote, transport: Transport::Tcp };
                        let framing = Framing::LengthPrefixed;
                        carry(ends, Box::new(stream), framing, queue, (task_inputs, of_task), Some(patience)).await;
                    }
                });
                let framing = Framing::LengthPrefixed;
                if opens.send((id, Open { framing, writer, witness, task })).await.is_err() {
                    return;
                }
            }
        }));
        Ok(local)
    }

    /// Sends a message on a connection; false when it is gone or its queue is full.
    pub fn send(&mut self, id: StreamId, message: &[u8]) -> bool {
        self.take_accepted();
        let Some(open) = self.open.get(&id) else { return false };
        open.writer.try_send(open.framing.wrap(message)).is_ok()
    }

    /// Closes a connection.
    pub fn close(&mut self, id: StreamId) {
        self.take_accepted();
        self.open.remove(&id);
    }

    /// What has arrived by now and nobody has read.
    pub(super) fn unread(&mut self) -> Unread {
        self.take_accepted();
        let of = |open: &Open| {
            let (arrived, read) = open.witness.progress()?;
            (read < arrived).then(|| (open.witness.clone(), arrived))
        };
        Unread(self.open.values().filter_map(of).collect())
    }

    /// Whether what is read finds no room: then no reader gets any further.
    pub(super) fn are_full(&self) -> bool {
        self.inputs.capacity() == 0
    }

    /// Takes over what the listeners accepted.
    fn take_accepted(&mut self) {
        while let Ok((id, open)) = self.accepted.try_recv() {
            self.open.insert(id, open);
        }
    }
}

/// Bytes that had arrived on connections at a moment, and had not been read then. What comes later is none of them, so
/// that the other end of a connection cannot make it last.
#[derive(Debug)]
pub(super) struct Unread(Vec<(Witness, u64)>);

impl Unread {
    /// Whether some of them are still not read.
    pub(super) fn any(&mut self) -> bool {
        self.0.retain(|(witness, arrived)| witness.progress().is_some_and(|(_, read)| read < *arrived));
        !self.0.is_empty()
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.listeners.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

fn tcp_socket(address: SocketAddr, mark: Option<u32>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    Ok(socket)
}

/// A plain connection from an address (port 0: any) with a mark.
///
/// # Errors
/// When the system or the other end refuses.
pub async fn connect_tcp(local: Option<SocketAddr>, remote: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let socket = tcp_socket(remote, mark)?;
    if let Some(local) = local {
        socket.bind(&local.into())?;
    }
    let stream = TcpSocket::from_std_stream(socket.into()).connect(remote).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn connect(
    options: &ConnectOptions,
    tls: &ClientTls,
    witness: &Witness,
) -> io::Result<(SocketAddr, Box<dyn Duplex>)> {
    let stream = connect_tcp(options.local, options.remote, options.mark).await?;
    witness.sees(&stream);
    let local = stream.local_addr()?;
    let Some(name) = &options.tls else { return Ok((local, Box::new(stream))) };
    let name = server_name(name)?;
    let connector = TlsConnector::from(tls.config().await?);
    Ok((local, Box::new(connector.connect(name, stream).await.map_err(handshake_failed)?)))
}

fn server_name(name: &str) -> io::Result<ServerName<'static>> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(ServerName::from(ip));
    }
    ServerName::try_from(name.to_owned())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no TLS server name")))
}

/// Which connection a message came by.
#[derive(Clone, Copy)]
struct Ends {
    id: StreamId,
    local: SocketAddr,
    remote: SocketAddr,
    transport: Transport,
}

/// Reads and writes until either end closes, or until the other end has been silent for too long.
async fn carry(
    ends: Ends,
    stream: Box<dyn Duplex>,
    framing: Framing,
    mut queue: mpsc::Receiver<Vec<u8>>,
    (inputs, witness): (mpsc::Sender<StreamInput>, Witness),
    patience: Option<Patience>,
) {
    let Ends { id, local, remote, transport } = ends;
    let (mut read, mut write) = tokio::io::split(stream);
    let writing = async {
        while let Some(bytes) = queue.recv().await {
            write.write_all(&bytes).await?;
            write.flush().await?;
        }
        write.shutdown().await
    };
    let reading = async {
        let mut deframer = Deframer::new(framing);
        let mut buffer = vec![0; 16 * 1024];
        let mut until = patience.map(|patience| tokio::time::Instant::now() + patience.first);
        loop {
            let received = match until {
                Some(until) => tokio::time::timeout_at(until, read.read(&mut buffer)).await,
                None => Ok(read.read(&mut buffer).await),
            };
            let Ok(received) = received else { return Ok("the other end was silent".into()) };
            let length = received?;
            if length == 0 {
                return Ok::<String, io::Error>("closed by the other end".into());
            }
            let arrived = witness.arrived();
            deframer.push(&buffer[..length]);
            loop {
                match deframer.next_message() {
                    Ok(Some(message)) => {
                        let bytes = message.to_vec();
                        // Bytes alone do not count: one now and then would hold a place for ever.
                        until = patience.map(|patience| tokio::time::Instant::now() + patience.later);
                        let message = StreamInput::Message { id, local, remote, transport, arrived, bytes };
                        if inputs.send(message).await.is_err() {
                            return Ok("the session is over".into());
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return Ok(format!("what came is no STUN or TURN: {error}")),
                }
            }
        }
    };
    let detail = tokio::select! {
        read = reading => read.unwrap_or_else(|error| chain(&error)),
        written = writing => written.map_or_else(|error| chain(&error), |()| "closed".into()),
    };
    witness.forget();
    let _ = inputs.send(StreamInput::Closed { id, detail }).await;
}

/// An error with its sources on one line.
fn chain(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next input within a time that only a hung test reaches.
    async fn next(inputs: &mut mpsc::Receiver<StreamInput>) -> StreamInput {
        tokio::time::timeout(Duration::from_secs(20), inputs.recv()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn idle_connections_give_way_to_those_that_come_after_them() {
        let (sender, mut inputs) = mpsc::channel(16);
        let mut streams = Streams::new(sender, ClientTls::new(Vec::new()));
        streams.patience = Patience { first: Duration::from_millis(200), later: Duration::from_secs(30) };
        let address = streams.listen("127.0.0.1:0".parse().unwrap(), None).unwrap();
        // A Binding request without attributes, framed as RFC 4571 has it.
        let mut message = vec![0, 20, 0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42];
        message.extend([7; 12]);
        let request = message.clone();
        let connecting = tokio::spawn(async move {
            let mut open = Vec::new();
            for _ in 0..=2 * MAX_ACCEPTED {
                open.push(TcpStream::connect(address).await.unwrap());
            }
            open.last_mut().unwrap().write_all(&request).await.unwrap();
            open
        });
        let (mut silent, mut heard) = (0, None);
        while silent < 2 * MAX_ACCEPTED {
            match next(&mut inputs).await {
                StreamInput::Closed { id, .. } => {
                    streams.close(id);
                    silent += 1;
                }
                StreamInput::Message { id, bytes, .. } => heard = Some((id, bytes)),
                _ => {}
            }
        }
        let (id, bytes) = heard.expect("the one that talks was taken in its turn");
        assert_eq!(bytes, message[2..]);
        assert!(streams.send(id, &bytes), "it is still open");
        drop(connecting.await.unwrap());
    }
}
