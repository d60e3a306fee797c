//! One TCP connection: its two halves, its deadline, and its place under the bounds.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use crate::server::client_network;

/// What is read from: the network itself, or the thread that decrypts TLS.
pub(super) enum Reader {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
}

pub(super) enum Writer {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

/// A connection whole again, for somebody else to serve.
pub(super) enum WholeStream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Reader {
    /// Reads into `buffer`; 0 is the end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let polled = match self {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, &mut buffer),
            Self::Unix(half) => Pin::new(half).poll_read(cx, &mut buffer),
        };
        polled.map_ok(|()| buffer.filled().len())
    }
}

impl Writer {
    /// Writes what the kernel takes now, without waiting.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => half.try_write(bytes),
            Self::Unix(half) => half.try_write(bytes),
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(half) => half.writable().await,
            Self::Unix(half) => half.writable().await,
        }
    }

    fn socket(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(half) => SockRef::from(AsRef::<TcpStream>::as_ref(half)),
            Self::Unix(half) => SockRef::from(AsRef::<UnixStream>::as_ref(half)),
        }
    }
}

/// What a connection is doing; decides what happens when its deadline passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between requests: ends quietly.
    Idle,
    /// A request has begun and is not whole: ends with 408.
    Request,
    /// Anything else: ends at once.
    Other,
}

/// The part of a connection that others than its own task use.
pub(super) struct Connection {
    writer: Writer,
    /// The peer's address.
    pub(super) remote: SocketAddr,
    /// The address at which the peer reached us.
    pub(super) local: Option<IpAddr>,
    /// When the sweep ends this connection, on the hub's clock.
    deadline: Cell<Option<Duration>>,
    phase: Cell<Phase>,
    /// When bytes last came, on the hub's clock.
    pub(super) last_heard: Cell<Duration>,
    permit: Permit,
}

impl Connection {
    pub(super) fn new(writer: Writer, remote: SocketAddr, local: Option<IpAddr>, permit: Permit) -> Self {
        Self {
            writer,
            remote,
            local,
            deadline: Cell::new(None),
            phase: Cell::new(Phase::Other),
            last_heard: Cell::new(Duration::ZERO),
            permit,
        }
    }

    /// Ends the connection `at` that time unless told otherwise before.
    pub(super) fn set_deadline(&self, phase: Phase, at: Option<Duration>) {
        self.phase.set(phase);
        self.deadline.set(at);
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Ends the connection if its time is over.
    pub(super) fn expire(&self, now: Duration) {
        if self.deadline.get().is_some_and(|deadline| deadline <= now) {
            if self.phase.get() == Phase::Request {
                let _ = self
                    .writer
                    .try_write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            }
            self.deadline.set(None);
            self.end();
        }
    }

    /// Both directions end: what was written still goes out, and the connection's own task reads the end.
    pub(super) fn end(&self) {
        let _ = self.writer.socket().shutdown(std::net::Shutdown::Both);
    }

    /// Ends the connection if it is between requests.
    pub(super) fn end_if_idle(&self) {
        if self.phase.get() == Phase::Idle {
            self.end();
        }
    }

    /// No more is written; what the client still sends can be read.
    pub(super) fn end_writing(&self) {
        let _ = self.writer.socket().shutdown(std::net::Shutdown::Write);
    }

    /// Writes what the kernel takes now and answers how much; 0 when it takes nothing.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.writer.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            written => written,
        }
    }

    /// Whether the client has ended the connection, even if the connection's own task was not told yet: what is
    /// written now would be lost.
    pub(super) fn has_ended(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        match self.writer.socket().peek(&mut byte) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        self.writer.writable().await
    }

    /// Writes all of `bytes`, waiting for the client as long as the deadline lets it.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            bytes = &bytes[self.try_write(bytes)?..];
            if bytes.is_empty() {
                return Ok(());
            }
            self.writable().await?;
        }
    }

    /// The connection whole again, outside of this thread's runtime.
    pub(super) fn reunite(self, reader: Reader) -> io::Result<(WholeStream, Permit)> {
        let foreign = |_| io::Error::other("the halves of two connections");
        let stream = match (reader, self.writer) {
            (Reader::Tcp(reader), Writer::Tcp(writer)) => {
                WholeStream::Tcp(reader.reunite(writer).map_err(|_| foreign(()))?.into_std()?)
            }
            (Reader::Unix(reader), Writer::Unix(writer)) => {
                WholeStream::Unix(reader.reunite(writer).map_err(|_| foreign(()))?.into_std()?)
            }
            _ => return Err(foreign(())),
        };
        Ok((stream, self.permit))
    }
}

/// How many connections there are, in all and for each client address.
#[derive(Clone)]
pub(super) struct Permits {
    counts: Arc<Mutex<Counts>>,
    max: usize,
    max_per_ip: usize,
}

#[derive(Default)]
struct Counts {
    all: usize,
    by_ip: HashMap<IpAddr, usize>,
}

impl Permits {
    pub(super) fn new(max: usize, max_per_ip: usize) -> Self {
        Self { counts: Arc::default(), max, max_per_ip }
    }

    /// One more for `ip`, unless it has too many.
    pub(super) fn take(&self, ip: IpAddr) -> Option<Permit> {
        let key = limited_as(ip);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.all >= self.max {
            return None;
        }
        if let Some(key) = key {
            let count = counts.by_ip.entry(key).or_default();
            if *count >= self.max_per_ip {
                return None;
            }
            *count += 1;
        }
        counts.all += 1;
        Some(Permit { counts: Arc::clone(&self.counts), key })
    }
}

/// What one client's connections are counted under. Loopback is not limited: those are our own machine's processes, or a
/// reverse proxy that limits by itself.
fn limited_as(ip: IpAddr) -> Option<IpAddr> {
    Some(client_network(ip)).filter(|_| !ip.to_canonical().is_loopback())
}

/// A place under the bounds, given back when dropped.
pub(super) struct Permit {
    counts: Arc<Mutex<Counts>>,
    key: Option<IpAddr>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        if let Some(key) = self.key
            && let Some(count) = counts.by_ip.get_mut(&key)
        {
            *count -= 1;
            if *count == 0 {
                counts.by_ip.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_every_connection() {
        let permits = Permits::new(10, 2);
        let [one, neighbor, other]: [IpAddr; 3] =
            ["2001:db8::1", "2001:db8::2", "2001:db8:1::1"].map(|ip| ip.parse().unwrap());
        let held = [permits.take(one).unwrap(), permits.take(neighbor).unwrap()];
        assert!(permits.take(one).is_none());
        assert!(permits.take(other).is_some());
        drop(held);
        assert!(permits.take(one).is_some());
        assert_eq!(permits.counts.lock().unwrap().by_ip.len(), 0);
    }

    #[test]
    fn a_mapped_address_counts_as_the_ipv4_address_that_it_is() {
        assert_eq!(limited_as("::ffff:192.0.2.1".parse().unwrap()), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(limited_as("::ffff:127.0.0.1".parse().unwrap()), None);
    }

    #[test]
    fn the_bound_on_all_connections_holds_for_loopback_too() {
        let permits = Permits::new(1, 1);
        let _held = permits.take("127.0.0.1".parse().unwrap()).unwrap();
        assert!(permits.take("127.0.0.1".parse().unwrap()).is_none());
    }
}
