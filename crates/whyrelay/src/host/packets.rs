//! A copy of our own packets as they leave and arrive at the interfaces (AF_PACKET).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

/// Bytes of a packet that are copied: both headers with options.
const COPIED: u32 = 128;

/// Most ports that the filter looks for.
const MAX_PORTS: usize = 64;

/// Most different kinds of packets that are told apart.
const MAX_KINDS: usize = 1024;

/// How long the thread waits before it looks whether it should end.
const PATIENCE: Duration = Duration::from_millis(50);

/// `ETH_P_ALL`, in network order: only this one shows what leaves.
const ALL_PROTOCOLS: u16 = 0x0003_u16.to_be();

/// `PACKET_OUTGOING` of linux/if_packet.h.
const OUTGOING: u8 = 4;

/// Packets of one kind: interface index, whether they arrived, source, destination.
pub(super) type Kind = (u32, bool, SocketAddr, SocketAddr);

/// A running copy.
pub(super) struct Copy {
    socket: Arc<Socket>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeMap<Kind, u64>>,
}

impl Copy {
    /// Starts it; it takes nothing before it knows ports.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW.
    pub(super) fn start() -> io::Result<Self> {
        // Protocol 0 takes nothing until the filter is there.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(ALL_PROTOCOLS))))?;
        socket.attach_filter(&program(&[]))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let (socket, stop) = (Arc::new(socket), Arc::new(AtomicBool::new(false)));
        let (theirs, ended) = (Arc::clone(&socket), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("own packets".into()).spawn(move || read(&theirs, &ended))?;
        Ok(Self { socket, stop, thread })
    }

    /// Copies UDP from and to these ports from now on.
    pub(super) fn look_for(&self, ports: impl IntoIterator<Item = u16>) -> io::Result<()> {
        let ports: Vec<u16> = ports.into_iter().take(MAX_PORTS).collect();
        self.socket.attach_filter(&program(&ports))
    }

    /// Ends it; how many packets of each kind there were.
    pub(super) fn stop(self) -> BTreeMap<Kind, u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn read(socket: &Socket, stop: &AtomicBool) -> BTreeMap<Kind, u64> {
    let mut kinds = BTreeMap::new();
    let mut buffer = [0; COPIED as usize];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, Some(link))) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) else { continue };
        let Some((source, destination)) = ends(&buffer[..length.min(buffer.len())]) else { continue };
        let index = u32::try_from(link.ifindex()).unwrap_or(0);
        let kind = (index, link.pkttype() != OUTGOING, source, destination);
        if kinds.len() < MAX_KINDS || kinds.contains_key(&kind) {
            *kinds.entry(kind).or_default() += 1;
        }
    }
    kinds
}

/// Source and destination of a UDP packet.
fn ends(packet: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (source, destination, udp): (IpAddr, IpAddr, &[u8]) = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 15) * 4;
            let (from, to) = (packet.get(12..16)?.first_chunk::<4>()?, packet.get(16..20)?.first_chunk::<4>()?);
            ((*from).into(), (*to).into(), packet.get(header..)?)
        }
        6 => {
            let (from, to) = (packet.get(8..24)?.first_chunk::<16>()?, packet.get(24..40)?.first_chunk::<16>()?);
            ((*from).into(), (*to).into(), packet.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(*udp.get(at..at + 2)?.first_chunk()?));
    Some((SocketAddr::new(source, port(0)?), SocketAddr::new(destination, port(2)?)))
}

/// A filter program that takes UDP over IPv4 or IPv6 from or to one of the ports, so that a busy host copies nothing
/// else.
fn program(ports: &[u16]) -> Vec<SockFilter> {
    // Codes of linux/filter.h.
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_HALF_INDEXED: u16 = 0x48;
    const LOAD_HEADER_LENGTH: u16 = 0xb1;
    const SHIFT_RIGHT: u16 = 0x74;
    const JUMP: u16 = 0x05;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, k| SockFilter::new(code, 0, 0, k);
    let take = |from: u16, at: u32| {
        let mut steps = vec![step(from, at)];
        for port in ports {
            steps.push(SockFilter::new(JUMP_EQUAL, 0, 1, u32::from(*port)));
            steps.push(step(RETURN, COPIED));
        }
        steps
    };
    let mut v4 = vec![step(LOAD_BYTE, 9), SockFilter::new(JUMP_EQUAL, 1, 0, 17), step(RETURN, 0)];
    v4.push(step(LOAD_HEADER_LENGTH, 0));
    v4.extend(take(LOAD_HALF_INDEXED, 0));
    v4.extend(take(LOAD_HALF_INDEXED, 2));
    v4.push(step(RETURN, 0));
    let mut v6 = vec![step(LOAD_BYTE, 6), SockFilter::new(JUMP_EQUAL, 1, 0, 17), step(RETURN, 0)];
    v6.extend(take(LOAD_HALF, 40));
    v6.extend(take(LOAD_HALF, 42));
    v6.push(step(RETURN, 0));
    // Jumps of a condition reach 255 steps, so the long one is unconditional.
    let to_v6 = u32::try_from(v4.len()).unwrap_or(0);
    let mut steps = vec![step(LOAD_BYTE, 0), step(SHIFT_RIGHT, 4), SockFilter::new(JUMP_EQUAL, 1, 0, 4)];
    steps.push(step(JUMP, to_v6));
    steps.extend(v4);
    steps.extend(v6);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_a_packet_are_read_and_short_ones_refused() {
        let mut packet = vec![0x45; 28];
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 198, 51, 100, 7]);
        packet[20..24].copy_from_slice(&[0xca, 0x6c, 0x9c, 0x40]);
        let (source, destination) = ends(&packet).unwrap();
        assert_eq!(
            (source.to_string(), destination.to_string()),
            ("10.0.0.1:51820".into(), "198.51.100.7:40000".into())
        );
        for length in 0..24 {
            assert!(ends(&packet[..length]).is_none());
        }
    }
}
