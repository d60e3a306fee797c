//! UDP sockets of one part of a check. What is sent or received is noted before anything else is done with it.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Instant;

use tokio::sync::mpsc;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::{Direction, EventKind, Transport};
use whyrelay_core::wire::integrity::Integrity;

use super::journal::{Journal, Passed};
use crate::io::udp::{UdpDoor, UdpInput, UdpOptions};
use crate::io::waiting::waiting;

/// Datagrams between the readers and a part.
const QUEUE: usize = 256;

/// Something that arrived.
#[derive(Debug)]
pub(crate) enum Arrived {
    /// A datagram, and when it arrived.
    Datagram { at: Timestamp, local: SocketAddr, remote: SocketAddr, bytes: Vec<u8> },
    /// The system or a router says that a datagram of ours did not get there.
    /// `expired`: because its TTL was used up (RFC 792, RFC 4443 §3.3).
    Refused { local: SocketAddr, remote: SocketAddr, errno: i32, offender: Option<IpAddr>, expired: bool },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Sockets {
    journal: Journal,
    doors: Vec<UdpDoor>,
    sender: mpsc::Sender<UdpInput>,
    inputs: mpsc::Receiver<UdpInput>,
    /// What was found in the sockets when a time was over.
    waiting: VecDeque<UdpInput>,
    /// When that was, and up to when everything that had arrived was found.
    taken_at: Option<(Instant, Timestamp)>,
    /// Whether one has a port that was asked for: another is to have it next.
    is_at_port: bool,
}

impl Sockets {
    pub(crate) fn new(journal: Journal) -> Self {
        let (sender, inputs) = mpsc::channel(QUEUE);
        Self { journal, doors: Vec::new(), sender, inputs, waiting: VecDeque::new(), taken_at: None, is_at_port: false }
    }

    /// Opens a socket on an address; port 0 for any.
    pub(crate) fn open(
        &mut self,
        address: SocketAddr,
        interface: Option<&str>,
        options: UdpOptions,
    ) -> io::Result<SocketAddr> {
        self.open_announced(address, interface, options, |_| {})
    }

    /// The same. `announce` tells of the socket by its address, ahead of its opening in the journal.
    pub(crate) fn open_announced(
        &mut self,
        address: SocketAddr,
        interface: Option<&str>,
        options: UdpOptions,
        announce: impl FnOnce(SocketAddr),
    ) -> io::Result<SocketAddr> {
        let transport = Transport::Udp;
        self.is_at_port |= address.port() != 0;
        match UdpDoor::open(address, options, self.sender.clone()) {
            Ok(door) => {
                let local = bare(door.local());
                announce(local);
                let (interface, receive_buffer) = (interface.map(str::to_owned), door.receive_buffer());
                let mark = options.mark;
                self.journal.fact(EventKind::SocketOpened { transport, local, interface, mark, receive_buffer });
                self.doors.push(door);
                Ok(local)
            }
            Err(error) => {
                let (errno, detail) = (error.raw_os_error().unwrap_or(0), error.to_string());
                self.journal.fact(EventKind::SocketFailed { transport, local: bare(address), errno, detail });
                Err(error)
            }
        }
    }

    /// Sends; the errno when the system refuses.
    pub(crate) fn send(&self, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) -> Result<(), i32> {
        let (at, transport) = (self.journal.now(), Transport::Udp);
        let (direction, integrity) = (Direction::Out, None);
        let (shown, copy) = (bare(remote), bytes.to_vec());
        self.journal.passed(Passed { at, direction, transport, local, remote: shown, bytes: copy, integrity });
        let door = self.doors.iter().find(|door| bare(door.local()) == local);
        let sent =
            door.map_or_else(|| Err(io::Error::from_raw_os_error(libc::ENOTCONN)), |door| door.send(remote, bytes));
        sent.map_err(|error| {
            let (errno, detail) = (error.raw_os_error().unwrap_or(0), error.to_string());
            self.journal.fact(EventKind::SendFailed { transport, local, remote: shown, errno, detail });
            errno
        })
    }

    /// What arrives next, or `None` when the time is over and nothing waits that came before; cancel safe.
    pub(crate) async fn recv(&mut self, until: Instant) -> Option<Arrived> {
        self.recv_verified(until, |_, _, _| None).await
    }

    /// The same. `verify` tells whether a datagram's integrity is right.
    pub(crate) async fn recv_verified(
        &mut self,
        until: Instant,
        verify: impl Fn(SocketAddr, SocketAddr, &[u8]) -> Option<Integrity>,
    ) -> Option<Arrived> {
        let over = self.journal.clock().timestamp(until);
        loop {
            let input = match self.waiting.pop_front() {
                Some(input) => input,
                // A flood ends nothing, and delays it by no more than what waited.
                None if self.taken_at.is_some_and(|(at, heard)| at >= until && heard >= over) => return None,
                None => tokio::select! {
                    // A sender of ours is kept, so that this never ends.
                    Some(input) = self.inputs.recv() => input,
                    () = tokio::time::sleep_until(until.into()) => {
                        let at = Instant::now();
                        let found = waiting(&mut self.inputs, &self.doors, self.journal.clock());
                        self.taken_at = Some((at, found.heard));
                        self.waiting = found.inputs;
                        continue;
                    }
                },
            };
            if let Some(arrived) = self.arrived(input, &verify) {
                return Some(arrived);
            }
        }
    }

    /// Up to when everything that had arrived was handed out, once [`Self::recv`] has said that a time is over.
    pub(crate) fn heard(&self) -> Timestamp {
        self.taken_at.map_or_else(|| self.journal.now(), |(_, heard)| heard)
    }

    fn arrived(
        &self,
        input: UdpInput,
        verify: &impl Fn(SocketAddr, SocketAddr, &[u8]) -> Option<Integrity>,
    ) -> Option<Arrived> {
        match input {
            UdpInput::Datagram { local, remote, kernel_time, bytes } => {
                let clock = self.journal.clock();
                let at = kernel_time.map_or_else(|| clock.now(), |time| clock.from_kernel(time));
                let (local, transport, direction) = (bare(local), Transport::Udp, Direction::In);
                let integrity = verify(local, remote, &bytes);
                let passed = Passed { at, direction, transport, local, remote, bytes: bytes.clone(), integrity };
                self.journal.passed(passed);
                Some(Arrived::Datagram { at, local, remote, bytes })
            }
            UdpInput::Icmp(error) => {
                let (local, remote, offender) = (bare(error.local), error.remote, error.offender);
                let (icmp_type, icmp_code, errno) = (error.icmp_type, error.icmp_code, error.errno);
                self.journal.fact(EventKind::IcmpError { local, remote, offender, icmp_type, icmp_code, errno });
                let expired = matches!((remote.is_ipv4(), icmp_type), (true, 11) | (false, 3));
                Some(Arrived::Refused { local, remote, errno, offender, expired })
            }
            UdpInput::Broken { local, error } => {
                let (transport, local, detail) = (Transport::Udp, bare(local), error.to_string());
                self.journal.fact(EventKind::SocketClosed { transport, local, detail });
                None
            }
        }
    }
}

/// What comes to it later is noted as long as the check goes on: an answer that was not waited for is none that did not
/// come.
impl Drop for Sockets {
    fn drop(&mut self) {
        if !self.is_at_port {
            let (_, none) = mpsc::channel(1);
            self.journal.keep_open(std::mem::take(&mut self.doors), std::mem::replace(&mut self.inputs, none));
        }
    }
}

/// Without IPv6 scope and flow, as events have it.
pub(crate) fn bare(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::io::clock::Clock;

    #[tokio::test]
    async fn a_flood_ends_no_time_early_and_holds_it_back_by_a_bounded_one() {
        let (journal, entries) = Journal::new(Clock::start());
        drop(entries);
        let mut sockets = Sockets::new(journal);
        let local = sockets.open("127.0.0.1:0".parse().unwrap(), None, UdpOptions::default()).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let until_then = Arc::clone(&over);
        let flooding = std::thread::spawn(move || {
            let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
            while !until_then.load(Ordering::Relaxed) {
                // A full buffer is no reason to stop.
                let _ = stranger.send_to(b"noise", local);
            }
        });
        let began = Instant::now();
        for milliseconds in [200, 400, 600] {
            let until = began + Duration::from_millis(milliseconds);
            let mut arrived = 0;
            while sockets.recv(until).await.is_some() {
                arrived += 1;
            }
            let ended = Instant::now();
            assert!(ended >= until && arrived > 0, "{arrived} arrived");
            assert!(ended < until + Duration::from_secs(3), "{:?} late", ended.saturating_duration_since(until));
            // What the end is told by was handed out: the time itself is among it.
            assert!(sockets.heard() >= sockets.journal.clock().timestamp(until));
        }
        over.store(true, Ordering::Relaxed);
        flooding.join().unwrap();
    }
}
