//! Reading datagrams in batches, and sending runs of them with one system call.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use socket2::SockRef;
use tokio::net::UdpSocket;
use whyrelay_core::engine::turn_server::{Client, ClientTransport, Input, ListenerId};

use super::engine::Engine;
use super::relay::RelaySocket;

/// How many datagrams are read before the engine sees them. More would delay the first.
const BATCH: usize = 32;

/// Largest datagram that a read can return.
const MAX_DATAGRAM: usize = 65_535;

/// Largest payload of all segments of one `UDP_SEGMENT` send, and how many there may be in it (Linux's limits).
const MAX_GROUP: usize = 65_000;
const MAX_SEGMENTS: usize = 64;

/// Datagrams that wait in the kernel while the task is busy; granted up to the system's limit.
pub(super) const BUFFER: usize = 4 * 1024 * 1024;

thread_local! {
    /// Where a thread reads a batch to: no task holds it while it waits, so a relay costs no buffer of its own.
    static ARENA: RefCell<Arena> = const { RefCell::new(Arena { bytes: Vec::new(), datagrams: Vec::new() }) };
}

struct Arena {
    bytes: Vec<u8>,
    datagrams: Vec<(SocketAddr, Range<usize>)>,
}

/// Serves one listening socket.
pub(super) async fn serve(engine: Arc<Engine>, listener: usize) {
    let Some(socket) = engine.listener(listener) else { return };
    let transport = ClientTransport::Udp(ListenerId(listener as u16));
    loop {
        receive(socket, |datagrams| {
            engine.feed(
                datagrams.map(|(source, bytes)| Input::FromClient { client: Client { transport, source }, bytes }),
            );
        })
        .await;
    }
}

/// Waits until a socket has something and hands over up to a batch.
pub(super) async fn receive(socket: &UdpSocket, take: impl FnOnce(&mut dyn Iterator<Item = (SocketAddr, &[u8])>)) {
    let outcome = match socket.readable().await {
        Ok(()) => ARENA.with_borrow_mut(|arena| {
            let outcome = arena.fill(socket);
            if !arena.datagrams.is_empty() {
                let Arena { bytes, datagrams } = arena;
                take(&mut datagrams.iter().map(|(source, range)| (*source, &bytes[range.clone()])));
            }
            outcome
        }),
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        // Whatever it is, it may last; it must not cost a processor.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Arena {
    fn fill(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.bytes.resize(BATCH * 2048 + MAX_DATAGRAM, 0);
        self.datagrams.clear();
        let mut start = 0;
        while self.datagrams.len() < BATCH && self.bytes.len() - start >= MAX_DATAGRAM {
            match socket.try_recv_from(&mut self.bytes[start..]) {
                Ok((length, source)) => {
                    self.datagrams.push((source, start..start + length));
                    start += length;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Sends datagrams, runs of one size from one socket to one destination together (UDP_SEGMENT). What the system does
/// not take is lost, as on any path, and counted.
pub(super) struct GroupedSender<'a> {
    unsent: &'a AtomicU64,
    run: Option<Run<'a>>,
}

/// The socket that a datagram leaves from.
pub(super) enum Origin<'a> {
    Listener(&'a UdpSocket),
    Relay(Arc<RelaySocket>),
}

struct Run<'a> {
    origin: Origin<'a>,
    destination: SocketAddr,
    size: usize,
    bytes: Vec<u8>,
    datagrams: usize,
}

impl<'a> GroupedSender<'a> {
    pub(super) const fn new(unsent: &'a AtomicU64) -> Self {
        Self { unsent, run: None }
    }

    /// Takes a datagram; it leaves at the latest with [`Self::flush`].
    pub(super) fn send(&mut self, origin: Origin<'a>, destination: SocketAddr, bytes: Vec<u8>) {
        if let Some(run) = &mut self.run {
            // Only the last segment may be shorter, and none may be empty.
            let whole = run.bytes.len() == run.size * run.datagrams;
            let fits = bytes.len() <= run.size
                && run.bytes.len() + bytes.len() <= MAX_GROUP
                && run.datagrams < MAX_SEGMENTS
                && !bytes.is_empty();
            if whole && fits && run.destination == destination && run.origin.socket_is(&origin) {
                run.bytes.extend_from_slice(&bytes);
                run.datagrams += 1;
                return;
            }
        }
        self.flush();
        let size = bytes.len();
        self.run = Some(Run { origin, destination, size, bytes, datagrams: 1 });
    }

    /// Sends what was taken.
    pub(super) fn flush(&mut self) {
        let Some(run) = self.run.take() else { return };
        let lost = match &run.origin {
            Origin::Listener(socket) => run.leave(&SockRef::from(*socket)),
            Origin::Relay(relay) => relay.send(false, |socket| run.leave(socket)).unwrap_or(run.datagrams),
        };
        if lost > 0 {
            self.unsent.fetch_add(lost as u64, Ordering::Relaxed);
        }
    }
}

impl Origin<'_> {
    fn socket_is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Listener(one), Self::Listener(other)) => std::ptr::eq(*one, *other),
            (Self::Relay(one), Self::Relay(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Run<'_> {
    /// Sends all datagrams; how many were lost.
    fn leave(&self, socket: &SockRef<'_>) -> usize {
        let destination = self.destination.into();
        if self.datagrams == 1 {
            return usize::from(socket.send_to(&self.bytes, &destination).is_err());
        }
        if self.leave_together(socket).is_ok() {
            return 0;
        }
        // A device without segmentation, or a datagram over its MTU: one by one.
        self.bytes.chunks(self.size).filter(|bytes| socket.send_to(bytes, &destination).is_err()).count()
    }

    fn leave_together(&self, socket: &SockRef<'_>) -> nix::Result<()> {
        let size = u16::try_from(self.size).map_err(|_| nix::Error::EMSGSIZE)?;
        let destination = SockaddrStorage::from(self.destination);
        let control = [ControlMessage::UdpGsoSegments(&size)];
        let bytes = [IoSlice::new(&self.bytes)];
        sendmsg(socket.as_raw_fd(), &bytes, &control, MsgFlags::empty(), Some(&destination)).map(drop)
    }
}
