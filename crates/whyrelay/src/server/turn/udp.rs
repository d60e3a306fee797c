//! Sending datagrams, runs of them with one system call.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
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

/// Flows of one batch that are kept apart; with more, those that are there leave. As many as one batch has sources.
const MAX_RUNS: usize = mmsg::BATCH;

/// Twice as many, so that a search ends soon at one that is free.
const SLOTS: usize = 2 * MAX_RUNS;

/// Sends datagrams, runs of one size from one socket to one destination together (UDP_SEGMENT), and what one listener
/// sends to many destinations with one system call (`sendmmsg`), from where they are. Those of different flows may come
/// in any order, and keep theirs within each. What the system does not take is lost, as on any path, and counted.
pub(super) struct GroupedSender<'a> {
    unsent: &'a AtomicU64,
    runs: Vec<Run<'a>>,
    /// Where each run is found by its destination: its number from 1 on, or 0.
    slots: [u8; SLOTS],
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
    /// Header and data of the first datagram, as long as it is alone: most are.
    first: [IoSlice<'a>; 2],
    /// Two for each datagram, header and data, once there are several.
    parts: Vec<IoSlice<'a>>,
}

impl<'a> GroupedSender<'a> {
    pub(super) const fn new(unsent: &'a AtomicU64) -> Self {
        Self { unsent, runs: Vec::new(), slots: [0; SLOTS] }
    }

    /// Takes a datagram; it leaves at the latest with [`Self::flush`].
    pub(super) fn send(&mut self, origin: Origin<'a>, destination: SocketAddr, header: &'a [u8], data: &'a [u8]) {
        let size = header.len() + data.len();
        let mut slot = match self.find(&origin, destination) {
            Ok(at) => {
                let run = &mut self.runs[at];
                if !run.takes(size) {
                    run.leave(self.unsent);
                }
                return run.push(header, data);
            }
            Err(slot) => slot,
        };
        if self.runs.len() == MAX_RUNS {
            self.flush();
            slot = first_slot(destination);
        }
        let first = [IoSlice::new(&[]), IoSlice::new(&[])];
        let mut run = Run { origin, destination, size, total: 0, datagrams: 0, first, parts: Vec::new() };
        run.push(header, data);
        self.runs.push(run);
        self.slots[slot] = self.runs.len() as u8;
    }

    /// The run of a flow, or the slot for one.
    fn find(&self, origin: &Origin<'a>, destination: SocketAddr) -> Result<usize, usize> {
        let mut slot = first_slot(destination);
        // At most half of them are taken.
        while let Some(at) = usize::from(self.slots[slot]).checked_sub(1) {
            if self.runs[at].destination == destination && self.runs[at].origin.is(origin) {
                return Ok(at);
            }
            slot = (slot + 1) % SLOTS;
        }
        Err(slot)
    }

    /// Sends what was taken.
    pub(super) fn flush(&mut self) {
        let of_listener = |run: &Run<'a>| match run.origin {
            Origin::Listener(socket) => Some(socket),
            Origin::Relay(_) => None,
        };
        for together in self.runs.chunk_by(|one, next| of_listener(one).is_some() && one.origin.is(&next.origin)) {
            match (of_listener(&together[0]), together) {
                (Some(socket), [_, _, ..]) => leave_together(socket, together, self.unsent),
                _ => together.iter().for_each(|run| run.leave_alone(self.unsent)),
            }
        }
        self.runs.clear();
        self.slots = [0; SLOTS];
    }

    /// Sends one datagram that must not be fragmented, at once.
    pub(super) fn send_whole(&mut self, relay: &RelaySocket, destination: SocketAddr, data: &[u8]) {
        self.flush();
        let parts = [IoSlice::new(data)];
        let sent = relay.send(true, |socket| mmsg::send(socket, &parts, None, &destination.into()));
        self.unsent.fetch_add(u64::from(!matches!(sent, Ok(Ok(())))), Ordering::Relaxed);
    }
}

/// Where the search for a destination begins. Who chooses addresses that begin at the same slot makes it one along all
/// runs, which are few.
fn first_slot(destination: SocketAddr) -> usize {
    let ip = match destination.ip() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits() as u64 ^ (ip.to_bits() >> 64) as u64,
    };
    // Fibonacci hashing: the upper bits of a product with 2^64 divided by the golden ratio.
    let mixed = (ip << 16 ^ ip ^ u64::from(destination.port())).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> (u64::BITS - SLOTS.ilog2())) as usize
}

/// Sends the datagrams of several runs of one listener.
fn leave_together(socket: &Socket, runs: &[Run<'_>], unsent: &AtomicU64) {
    let departure = |run: &Run<'_>| (SockAddr::from(run.destination), run.segment());
    let departures: Vec<(SockAddr, Option<u16>)> = runs.iter().map(departure).collect();
    let mut at = 0;
    while at < runs.len() {
        let waiting = runs[at..].iter().zip(&departures[at..]);
        let waiting = waiting.map(|(run, (destination, segment))| (run.parts(), *segment, destination));
        at += match mmsg::send_many(socket.as_fd(), waiting) {
            Ok(left) if left > 0 => left,
            // The first of them is refused: as it would be alone.
            _ => {
                let lost = runs[at].leave_by(socket.as_fd());
                unsent.fetch_add(lost as u64, Ordering::Relaxed);
                1
            }
        };
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

impl<'a> Run<'a> {
    /// Only the last segment may be shorter, and none may be empty.
    fn takes(&self, size: usize) -> bool {
        self.total == self.size * self.datagrams
            && (1..=self.size).contains(&size)
            && self.total + size <= MAX_GROUP
            && self.datagrams < MAX_SEGMENTS
    }

    fn push(&mut self, header: &'a [u8], data: &'a [u8]) {
        let size = header.len() + data.len();
        let parts = [IoSlice::new(header), IoSlice::new(data)];
        match self.datagrams {
            0 => (self.size, self.first) = (size, parts),
            1 => self.parts.extend([self.first, parts].into_iter().flatten()),
            _ => self.parts.extend(parts),
        }
        self.total += size;
        self.datagrams += 1;
    }

    /// Two for each datagram; of one alone that has no header, its data only.
    fn parts(&self) -> &[IoSlice<'a>] {
        match self.datagrams {
            0 => &[],
            // One part takes the kernel a shorter way than two.
            1 if self.first[0].is_empty() => &self.first[1..],
            1 => &self.first,
            _ => &self.parts,
        }
    }

    /// The size that the kernel cuts them to, if there are several.
    fn segment(&self) -> Option<u16> {
        u16::try_from(self.size).ok().filter(|_| self.datagrams > 1)
    }

    /// Sends all its datagrams, and is empty.
    fn leave(&mut self, unsent: &AtomicU64) {
        self.leave_alone(unsent);
        self.parts.clear();
        (self.total, self.datagrams) = (0, 0);
    }

    fn leave_alone(&self, unsent: &AtomicU64) {
        let lost = match self.origin {
            Origin::Listener(socket) => self.leave_by(socket.as_fd()),
            Origin::Relay(relay) => relay.send(false, |socket| self.leave_by(socket)).unwrap_or(self.datagrams),
        };
        if lost > 0 {
            unsent.fetch_add(lost as u64, Ordering::Relaxed);
        }
    }

    /// How many datagrams were lost.
    fn leave_by(&self, socket: BorrowedFd<'_>) -> usize {
        let destination = SockAddr::from(self.destination);
        let size = self.segment();
        if size.is_some() && mmsg::send(socket, self.parts(), size, &destination).is_ok() {
            return 0;
        }
        // One alone; or a device without segmentation, or datagrams over its MTU: one by one.
        self.parts().chunks(2).filter(|parts| mmsg::send(socket, parts, None, &destination).is_err()).count()
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::mmsg::Arena;
    use super::*;

    #[test]
    fn flows_that_alternate_leave_together_each_in_its_order() {
        let from = Socket::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        let receivers = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        for receiver in &receivers {
            mmsg::coalesce(receiver.as_fd());
        }
        let unsent = AtomicU64::new(0);
        let data: Vec<Vec<u8>> = [50, 50, 50, 20, 60, 60].iter().zip(0..).map(|(size, at)| vec![at; *size]).collect();
        let mut sender = GroupedSender::new(&unsent);
        for data in &data {
            for receiver in &receivers {
                sender.send(Origin::Listener(&from), receiver.local_addr().unwrap(), b"head", data);
            }
        }
        sender.flush();
        for receiver in &receivers {
            let (mut arena, mut calls, mut found) = (Arena::new(), 0, Vec::new());
            while found.len() < data.len() {
                arena.fill(receiver.as_fd()).unwrap();
                calls += arena.messages();
                found.extend(arena.datagrams().map(|(_, bytes)| bytes.to_vec()));
            }
            let sent: Vec<Vec<u8>> = data.iter().map(|data| [b"head", &data[..]].concat()).collect();
            assert_eq!(found, sent);
            assert_eq!(calls, 2, "50 50 50 20 and 60 60");
        }
        assert_eq!(unsent.into_inner(), 0);
    }

    #[test]
    fn more_flows_than_are_kept_apart_all_leave() {
        let from = Socket::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        let receivers: Vec<UdpSocket> = (0..MAX_RUNS + 8).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let unsent = AtomicU64::new(0);
        let mut sender = GroupedSender::new(&unsent);
        for receiver in receivers.iter().chain(&receivers) {
            sender.send(Origin::Listener(&from), receiver.local_addr().unwrap(), b"", b"x");
        }
        sender.flush();
        for receiver in receivers {
            let mut arena = Arena::new();
            arena.fill(receiver.as_fd()).unwrap();
            assert_eq!(arena.datagrams().count(), 2);
        }
    }

    #[test]
    fn one_that_is_refused_among_many_is_counted_and_keeps_back_none() {
        let from = Socket::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        let receivers: Vec<UdpSocket> = (0..5).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let unsent = AtomicU64::new(0);
        let mut sender = GroupedSender::new(&unsent);
        // Nothing can be sent to port 0, and a socket of IPv4 sends nothing to IPv6.
        let refused = ["127.0.0.1:0", "[::1]:9"];
        for (at, receiver) in receivers.iter().enumerate() {
            if let Some(refused) = refused.get(at / 2).filter(|_| at % 2 == 0) {
                sender.send(Origin::Listener(&from), refused.parse().unwrap(), b"", b"x");
            }
            for _ in 0..=at {
                sender.send(Origin::Listener(&from), receiver.local_addr().unwrap(), b"ab", b"x");
            }
        }
        sender.flush();
        for (at, receiver) in receivers.iter().enumerate() {
            receiver.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            let mut buffer = [0; 10];
            for _ in 0..=at {
                let length = receiver.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], b"abx");
            }
        }
        assert_eq!(unsent.into_inner(), refused.len() as u64);
    }
}
