//! Clients over TCP and TLS: bounded in number, in memory, and in patience.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};
use whyrelay_core::engine::turn_server::{Client, ClientTransport, Input, StreamId};
use whyrelay_core::wire::framing::{Deframer, Framing};

use super::engine::Engine;
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
    /// How long a write may take: who reads nothing for so long is dropped.
    pub write: Duration,
    /// Bytes that may wait for a reader; messages beyond are dropped.
    pub outbox_bytes: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_source: 256,
            idle: Duration::from_secs(15),
            write: Duration::from_secs(10),
            outbox_bytes: 512 * 1024,
        }
    }
}

/// Bytes that a client without an allocation may have sent of an unfinished message: requests are short.
const LARGEST_FIRST_MESSAGE: usize = 4096;

/// Messages that may wait for a reader, however short they are.
const OUTBOX_MESSAGES: usize = 1024;

/// What a connection's writer has yet to write. Full means drop: data is relayed UDP.
pub(super) struct Outbox {
    messages: mpsc::Sender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
    limit: usize,
}

impl Outbox {
    fn new(limit: usize) -> (Self, mpsc::Receiver<Vec<u8>>, Arc<AtomicUsize>) {
        let (messages, receiver) = mpsc::channel(OUTBOX_MESSAGES);
        let waiting = Arc::new(AtomicUsize::new(0));
        (Self { messages, waiting: Arc::clone(&waiting), limit }, receiver, waiting)
    }

    /// False when the message does not fit.
    pub(super) fn push(&self, message: Vec<u8>) -> bool {
        let length = message.len();
        if self.waiting.fetch_add(length, Ordering::Relaxed) + length <= self.limit
            && self.messages.try_send(message).is_ok()
        {
            return true;
        }
        self.waiting.fetch_sub(length, Ordering::Relaxed);
        false
    }
}

/// All connections of a server.
#[derive(Clone)]
pub(super) struct Streams {
    engine: Arc<Engine>,
    tls: Option<TlsAcceptor>,
    limits: Arc<StreamLimits>,
    next: Arc<AtomicU64>,
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
    open: Arc<AtomicUsize>,
}

impl Streams {
    pub(super) fn new(engine: Arc<Engine>, tls: Option<TlsAcceptor>, limits: StreamLimits) -> Self {
        Self {
            engine,
            tls,
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
                self.converse(stream, source, local, deadline).await
            }
            _ => self.converse(stream, source, local, deadline).await,
        }
    }

    async fn converse(
        &self,
        stream: impl AsyncRead + AsyncWrite,
        source: SocketAddr,
        local: SocketAddr,
        deadline: Instant,
    ) -> io::Result<()> {
        let id = StreamId(self.next.fetch_add(1, Ordering::Relaxed));
        let client = Client { transport: ClientTransport::Stream(id), source };
        let (outbox, messages, waiting) = Outbox::new(self.limits.outbox_bytes);
        self.engine.open_stream(id, outbox, local);
        let _closing = Closing { engine: Arc::clone(&self.engine), id, client };
        let (reader, writer) = tokio::io::split(stream);
        tokio::select! {
            outcome = self.read(reader, client, deadline) => outcome,
            outcome = self.write(writer, messages, waiting) => outcome,
        }
    }

    async fn read(&self, reader: impl AsyncRead, client: Client, mut deadline: Instant) -> io::Result<()> {
        let mut reader = std::pin::pin!(reader);
        let mut deframer = Deframer::new(Framing::Stun);
        let mut buffer = vec![0; 4096];
        // Bytes since the last whole message.
        let mut unfinished = 0;
        loop {
            let read = match timeout_at(deadline, reader.read(&mut buffer)).await {
                Ok(read) => read?,
                Err(_) if self.engine.has_allocation(&client) => {
                    deadline = Instant::now() + self.limits.idle;
                    continue;
                }
                Err(late) => return Err(late.into()),
            };
            if read == 0 {
                return Ok(());
            }
            deframer.push(&buffer[..read]);
            unfinished += read;
            loop {
                match deframer.next_message() {
                    Ok(Some(bytes)) => {
                        unfinished = 0;
                        deadline = Instant::now() + self.limits.idle;
                        self.engine.feed(0, std::iter::once(Input::FromClient { client, bytes }));
                    }
                    Ok(None) => break,
                    Err(noise) => return Err(io::Error::new(io::ErrorKind::InvalidData, noise)),
                }
            }
            if unfinished > LARGEST_FIRST_MESSAGE && !self.engine.has_allocation(&client) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a first message that large is no request"));
            }
        }
    }

    async fn write(
        &self,
        writer: impl AsyncWrite,
        mut messages: mpsc::Receiver<Vec<u8>>,
        waiting: Arc<AtomicUsize>,
    ) -> io::Result<()> {
        let mut writer = std::pin::pin!(writer);
        let mut batch = Vec::new();
        while messages.recv_many(&mut batch, 64).await > 0 {
            let bytes = batch.concat();
            batch.clear();
            let write = async {
                writer.write_all(&bytes).await?;
                writer.flush().await
            };
            timeout(self.limits.write, write).await??;
            waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
        Ok(())
    }
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
