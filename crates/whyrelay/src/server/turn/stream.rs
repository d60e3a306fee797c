//! Clients over TCP and TLS: bounded in number, in memory, and in patience.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};
use whyrelay_core::engine::turn_server::{Client, ClientTransport, Input, StreamId};
use whyrelay_core::wire::framing::{Deframer, Framing};

use super::engine::Engine;
use super::outbox::{Outbox, Reserve};
use super::plain::Plain;
use crate::server::client_network;
use crate::server::log::Seldom;

/// Bounds on connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one source: an IPv4 address or an IPv6 /64.
    pub connections_per_source: usize,
    /// How long a connection may take for its TLS handshake and its first message, and how long it may be silent
    /// without an allocation.
    pub idle: Duration,
    /// How long a write of up to 64 KiB may take: who reads less in that time is dropped.
    pub write: Duration,
    /// Bytes that may wait for a reader; messages beyond are dropped.
    pub outbox_bytes: usize,
    /// Bytes that may wait for all readers together, but for 16 KiB that each may have whatever the others do.
    pub all_outboxes_bytes: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_source: 256,
            idle: Duration::from_secs(15),
            write: Duration::from_secs(10),
            outbox_bytes: 512 * 1024,
            all_outboxes_bytes: 64 << 20,
        }
    }
}

/// Bytes that a client without an allocation may have sent of an unfinished message: requests are short.
const LARGEST_FIRST_MESSAGE: usize = 4096;

/// Bytes read at once: a TLS record, and what many packets of a call have together.
const READ_SIZE: usize = 16 * 1024;

/// Bytes that a reader must take within [`StreamLimits::write`].
const WRITE_SIZE: usize = 64 * 1024;

thread_local! {
    /// One buffer for all connections of the thread: none has its own while it waits.
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
}

/// All connections of a server.
#[derive(Clone)]
pub(super) struct Streams {
    engine: Arc<Engine>,
    tls: Option<TlsAcceptor>,
    limits: Arc<StreamLimits>,
    reserve: Arc<Reserve>,
    next: Arc<AtomicU64>,
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
    open: Arc<AtomicUsize>,
}

impl Streams {
    pub(super) fn new(engine: Arc<Engine>, tls: Option<TlsAcceptor>, limits: StreamLimits) -> Self {
        Self {
            engine,
            tls,
            reserve: Arc::new(Reserve::new(limits.all_outboxes_bytes)),
            limits: Arc::new(limits),
            next: Arc::default(),
            sources: Arc::default(),
            open: Arc::default(),
        }
    }

    /// Accepts until cancelled; the connections end with it.
    pub(super) async fn accept(&self, listener: &TcpListener) {
        let mut connections = JoinSet::new();
        let mut failures = Seldom::default();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, source)) => {
                        if let Some(place) = self.admit(source.ip()) {
                            let streams = self.clone();
                            connections.spawn(async move { streams.serve(stream, source, place).await });
                        } else {
                            self.count_refusal();
                        }
                    }
                    Err(error) => {
                        // Out of file descriptors, most likely: it must not cost a processor.
                        if let Some(times) = failures.note(std::time::Instant::now()) {
                            warn!(%error, times, "cannot accept a connection to STUN and TURN");
                        }
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// A place for one more connection, if there is one.
    fn admit(&self, source: IpAddr) -> Option<Place> {
        let source = client_network(source);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.get(&source).copied().unwrap_or(0);
        if self.open.load(Ordering::Relaxed) >= self.limits.connections || count >= self.limits.connections_per_source {
            return None;
        }
        sources.insert(source, count + 1);
        self.open.fetch_add(1, Ordering::Relaxed);
        Some(Place { streams: self.clone(), source })
    }

    fn count_refusal(&self) {
        self.engine.streams_refused.fetch_add(1, Ordering::Relaxed);
    }

    async fn serve(&self, stream: TcpStream, source: SocketAddr, place: Place) {
        let deadline = Instant::now() + self.limits.idle;
        let outcome = self.begin(stream, source, deadline).await;
        if let Err(error) = outcome {
            self.count_refusal();
            debug!("a connection ended: {error}");
        }
        drop(place);
    }

    /// TLS begins with a handshake record, STUN and ChannelData never with 22.
    async fn begin(&self, stream: TcpStream, source: SocketAddr, deadline: Instant) -> io::Result<()> {
        const HANDSHAKE: u8 = 22;
        let local = stream.local_addr()?;
        stream.set_nodelay(true)?;
        let mut first = [0];
        if timeout_at(deadline, stream.peek(&mut first)).await?? == 0 {
            return Ok(());
        }
        match &self.tls {
            Some(acceptor) if first[0] == HANDSHAKE => {
                let stream = timeout_at(deadline, acceptor.accept(stream)).await??;
                let (reader, writer) = tokio::io::split(stream);
                let outbox = self.outbox(None);
                self.converse(reader, writer, outbox, [source, local], deadline).await
            }
            _ => {
                let (reader, writer) = stream.into_split();
                let writer = Arc::new(writer);
                let outbox = self.outbox(Some(Arc::clone(&writer)));
                let writer = Plain(writer);
                self.converse(reader, writer, outbox, [source, local], deadline).await
            }
        }
    }

    fn outbox(&self, socket: Option<Arc<OwnedWriteHalf>>) -> Outbox {
        Outbox::new(socket, self.limits.outbox_bytes, Arc::clone(&self.reserve))
    }

    /// `ends`: the client's address and ours.
    async fn converse(
        &self,
        reader: impl AsyncRead,
        writer: impl AsyncWrite,
        outbox: Outbox,
        ends: [SocketAddr; 2],
        deadline: Instant,
    ) -> io::Result<()> {
        let id = StreamId(self.next.fetch_add(1, Ordering::Relaxed));
        let [source, local] = ends;
        let client = Client { transport: ClientTransport::Stream(id), source };
        let outbox = Arc::new(outbox);
        self.engine.open_stream(id, Arc::clone(&outbox), local);
        let _closing = Closing { engine: Arc::clone(&self.engine), id, client };
        tokio::select! {
            outcome = self.read(reader, client, deadline) => outcome,
            outcome = self.write(writer, &outbox) => outcome,
        }
    }

    async fn read(&self, reader: impl AsyncRead, client: Client, mut deadline: Instant) -> io::Result<()> {
        let mut reader = std::pin::pin!(reader);
        let mut deframer = Deframer::new(Framing::Stun);
        // Bytes since the last whole message.
        let mut unfinished = 0;
        // It is set anew when it is over, not with every message.
        let mut alarm = std::pin::pin!(tokio::time::sleep_until(deadline));
        loop {
            let read = tokio::select! {
                biased;
                read = read_into(reader.as_mut(), &mut deframer) => read?,
                () = alarm.as_mut() => {
                    let now = Instant::now();
                    if deadline <= now && !self.engine.has_allocation(&client) {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    if deadline <= now {
                        deadline = now + self.limits.idle;
                    }
                    alarm.as_mut().reset(deadline);
                    continue;
                }
            };
            if read == 0 {
                return Ok(());
            }
            unfinished += read;
            let mut noise = None;
            // What was read at once is carried out at once.
            self.engine.feed(
                0,
                deframer.messages().map_while(|message| {
                    let bytes = message.map_err(|error| noise = Some(error)).ok()?;
                    unfinished = 0;
                    Some(Input::FromClient { client, bytes })
                }),
            );
            if let Some(noise) = noise {
                return Err(io::Error::new(io::ErrorKind::InvalidData, noise));
            }
            if unfinished == 0 {
                deadline = Instant::now() + self.limits.idle;
            }
            if unfinished > LARGEST_FIRST_MESSAGE && !self.engine.has_allocation(&client) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a first message that large is no request"));
            }
        }
    }

    /// Writes what the outbox could not, to the end of the connection.
    async fn write(&self, writer: impl AsyncWrite, outbox: &Outbox) -> io::Result<()> {
        let mut writer = std::pin::pin!(writer);
        loop {
            for bytes in outbox.take().await.chunks(WRITE_SIZE) {
                let write = async {
                    writer.write_all(bytes).await?;
                    writer.flush().await
                };
                timeout(self.limits.write, write).await??;
                outbox.wrote(bytes.len());
            }
        }
    }
}

/// Reads once; how many bytes, 0 at the end.
async fn read_into(mut reader: Pin<&mut impl AsyncRead>, deframer: &mut Deframer) -> io::Result<usize> {
    poll_fn(|cx| {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(reader.as_mut().poll_read(cx, &mut buffer))?;
            deframer.push(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    })
    .await
}

/// One of the places that [`Streams::admit`] gives; dropping it frees it.
struct Place {
    streams: Streams,
    source: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.streams.open.fetch_sub(1, Ordering::Relaxed);
        let mut sources = self.streams.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

/// Tells the engine that a connection is over, also when its task is cancelled.
struct Closing {
    engine: Arc<Engine>,
    id: StreamId,
    client: Client,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.engine.close_stream(self.id, self.client);
    }
}
