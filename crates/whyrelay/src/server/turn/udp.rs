//! Sending datagrams, runs of them with one system call.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use socket2::{SockAddr, Socket};

use super::mmsg;
use super::relay::RelaySocket;

/// Largest payload of all segments of one `UDP_SEGMENT` send, and how many there may be in it (Linux's limits).
const MAX_GROUP: usize = 65_000;
const MAX_SEGMENTS: usize = 64;

/// Datagrams that wait in the kernel while the thread is busy; granted up to the system's limit.
pub(super) const BUFFER: usize = 4 * 1024 * 1024;

/// Sends datagrams, runs of one size from one socket to one destination together (UDP_SEGMENT), from where they are.
/// What the system does not take is lost, as on any path, and counted.
pub(super) struct GroupedSender<'a> {
    unsent: &'a AtomicU64,
    run: Option<Run<'a>>,
    /// Of the run: two for each datagram, header and data.
    parts: Vec<IoSlice<'a>>,
}

/// The socket that a datagram leaves from.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    Listener(&'a Socket),
    Relay(&'a RelaySocket),
}

struct Run<'a> {
    origin: Origin<'a>,
    destination: SocketAddr,
    size: usize,
    /// Of all its datagrams.
    total: usize,
    datagrams: usize,
}

impl<'a> GroupedSender<'a> {
    pub(super) const fn new(unsent: &'a AtomicU64) -> Self {
        Self { unsent, run: None, parts: Vec::new() }
    }

    /// Takes a datagram; it leaves at the latest with [`Self::flush`].
    pub(super) fn send(&mut self, origin: Origin<'a>, destination: SocketAddr, header: &'a [u8], data: &'a [u8]) {
        let size = header.len() + data.len();
        match &mut self.run {
            Some(run) if run.takes(origin, destination, size) => {
                run.total += size;
                run.datagrams += 1;
            }
            _ => {
                self.flush();
                self.run = Some(Run { origin, destination, size, total: size, datagrams: 1 });
            }
        }
        self.parts.extend([IoSlice::new(header), IoSlice::new(data)]);
    }

    /// Sends what was taken.
    pub(super) fn flush(&mut self) {
        let Some(run) = self.run.take() else { return };
        let lost = match run.origin {
            Origin::Listener(socket) => run.leave(socket.as_fd(), &self.parts),
            Origin::Relay(relay) => relay.send(false, |socket| run.leave(socket, &self.parts)).unwrap_or(run.datagrams),
        };
        self.parts.clear();
        if lost > 0 {
            self.unsent.fetch_add(lost as u64, Ordering::Relaxed);
        }
    }

    /// Sends one datagram that must not be fragmented, at once.
    pub(super) fn send_whole(&mut self, relay: &RelaySocket, destination: SocketAddr, data: &[u8]) {
        self.flush();
        let parts = [IoSlice::new(data)];
        let sent = relay.send(true, |socket| mmsg::send(socket, &parts, None, &destination.into()));
        self.unsent.fetch_add(u64::from(!matches!(sent, Ok(Ok(())))), Ordering::Relaxed);
    }
}

impl Origin<'_> {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Listener(one), Self::Listener(other)) => std::ptr::eq(*one, *other),
            (Self::Relay(one), Self::Relay(other)) => std::ptr::eq(*one, *other),
            _ => false,
        }
    }
}

impl Run<'_> {
    /// Only the last segment may be shorter, and none may be empty.
    fn takes(&self, origin: Origin<'_>, destination: SocketAddr, size: usize) -> bool {
        self.total == self.size * self.datagrams
            && (1..=self.size).contains(&size)
            && self.total + size <= MAX_GROUP
            && self.datagrams < MAX_SEGMENTS
            && self.destination == destination
            && self.origin.is(&origin)
    }

    /// Sends all datagrams; how many were lost.
    fn leave(&self, socket: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> usize {
        let destination = SockAddr::from(self.destination);
        let size = u16::try_from(self.size).ok().filter(|_| self.datagrams > 1);
        if size.is_some() && mmsg::send(socket, parts, size, &destination).is_ok() {
            return 0;
        }
        // One alone; or a device without segmentation, or datagrams over its MTU: one by one.
        parts.chunks(2).filter(|parts| mmsg::send(socket, parts, None, &destination).is_err()).count()
    }
}
