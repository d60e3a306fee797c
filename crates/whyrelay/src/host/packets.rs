//! A copy of our own packets as they leave and arrive at the interfaces (AF_PACKET).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

/// Bytes of a packet that are copied: all of any that an Ethernet carries, as the checksum is over all of it.
const COPIED: u32 = 2048;

/// Packets of one kind whose checksums are looked at; what is wrong with a program's checksums is wrong with all.
const CHECKED: u64 = 64;

/// Most ports that the filter looks for.
const MAX_PORTS: usize = 64;

/// Most other ends of connections that it looks for.
const MAX_CONNECTED_TO: usize = 5;

/// SYN and RST among the flags of TCP (RFC 9293 §3.1): of a connection only its beginning and its refusal are copied.
const BEGINS_OR_REFUSES: u8 = 0x02 | 0x04;

/// Protocol numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Most different kinds of packets that are told apart.
const MAX_KINDS: usize = 1024;

/// Packets that are taken between two looks whether it is to end: as many as the socket holds, of ordinary ones.
const MOST_AT_ONCE: usize = 1024;

/// `ETH_P_ALL`, in network order: only this one shows what leaves.
const ALL_PROTOCOLS: u16 = 0x0003_u16.to_be();

/// `PACKET_OUTGOING` of linux/if_packet.h.
const OUTGOING: u8 = 4;

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Copied {
    /// UDP.
    Datagram,
    /// A SYN or a RST of TCP.
    Connection,
}

/// Packets of one kind: interface index, whether they arrived, source, destination.
pub(super) type Kind = (u32, bool, SocketAddr, SocketAddr, Copied);

/// How many packets of one kind there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) packets: u64,
    /// When the first was seen.
    pub(super) first: Option<Instant>,
    /// Those of the first [`CHECKED`] whose UDP checksum does not fit their addresses and contents.
    pub(super) wrong_checksums: u64,
}

/// A running copy.
pub(super) struct Copy {
    socket: Arc<Socket>,
    /// Its end is the order to end.
    stop: UnixStream,
    thread: JoinHandle<Kinds>,
    /// Ports that were to be looked for.
    ports: Cell<usize>,
}

impl Copy {
    /// Starts it; it takes nothing before it knows ports.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW.
    pub(super) fn start() -> io::Result<Self> {
        // Protocol 0 takes nothing until the filter is there.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(ALL_PROTOCOLS))))?;
        socket.attach_filter(&program(&[], &[]))?;
        socket.set_nonblocking(true)?;
        let (socket, (stop, ended)) = (Arc::new(socket), UnixStream::pair()?);
        let theirs = Arc::clone(&socket);
        let thread = std::thread::Builder::new().name("own packets".into()).spawn(move || read(&theirs, &ended))?;
        Ok(Self { socket, stop, thread, ports: Cell::new(0) })
    }

    /// From now on copies UDP from and to these ports, and what begins or refuses TCP connections with these ends.
    pub(super) fn look_for<'a>(
        &self,
        ports: impl IntoIterator<Item = u16>,
        connected_to: impl IntoIterator<Item = &'a SocketAddr>,
    ) -> io::Result<()> {
        let mut ports: Vec<u16> = ports.into_iter().collect();
        self.ports.set(ports.len());
        ports.truncate(MAX_PORTS);
        let connected_to: Vec<SocketAddr> = connected_to.into_iter().take(MAX_CONNECTED_TO).copied().collect();
        self.socket.attach_filter(&program(&ports, &connected_to))
    }

    /// Ends it at once; how many packets of each kind there were until now, and why that is not all.
    pub(super) fn stop(self) -> (BTreeMap<Kind, Tally>, Option<String>) {
        let Self { stop, thread, ports, .. } = self;
        drop(stop);
        let kinds = thread.join().unwrap_or_default();
        let why = kinds.left_out(ports.get());
        (kinds.told, why)
    }
}

/// Until the other end of `stop` is closed, and then what waits still.
fn read(socket: &Socket, stop: &UnixStream) -> Kinds {
    let mut kinds = Kinds::default();
    loop {
        let mut waited = [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        let polled = poll(&mut waited, PollTimeout::NONE);
        let is_over = waited[1].any().unwrap_or(false);
        take(socket, &mut kinds);
        if is_over || polled.is_err_and(|errno| errno != Errno::EINTR) {
            return kinds;
        }
    }
}

/// Takes what waits in the socket, and no more than [`MOST_AT_ONCE`].
fn take(socket: &Socket, kinds: &mut Kinds) {
    let mut buffer = [0; COPIED as usize];
    for _ in 0..MOST_AT_ONCE {
        let (length, link) = match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok((length, Some(link))) => (length, link),
            Ok((_, None)) | Err(Errno::EINTR) => continue,
            // Nothing waits, or the interface went down (ENETDOWN), which the next wait shows.
            Err(_) => return,
        };
        let Some(packet) = Packet::of(&buffer[..length.min(buffer.len())]) else { continue };
        let index = u32::try_from(link.ifindex()).unwrap_or(0);
        let kind = (index, link.pkttype() != OUTGOING, packet.source, packet.destination, packet.what);
        let Some(tally) = kinds.of(kind) else { continue };
        tally.packets += 1;
        tally.first.get_or_insert_with(Instant::now);
        tally.wrong_checksums += u64::from(tally.packets <= CHECKED && packet.is_checksum_wrong());
    }
}

/// What was seen of each kind.
#[derive(Default)]
struct Kinds {
    told: BTreeMap<Kind, Tally>,
    /// Packets of kinds for which there was no room.
    untold: u64,
}

impl Kinds {
    fn of(&mut self, kind: Kind) -> Option<&mut Tally> {
        if self.told.len() >= MAX_KINDS && !self.told.contains_key(&kind) {
            self.untold += 1;
            return None;
        }
        Some(self.told.entry(kind).or_default())
    }

    /// Why this is not all of a session with so many ports.
    fn left_out(&self, ports: usize) -> Option<String> {
        if ports > MAX_PORTS {
            return Some(format!("of {ports} ports {MAX_PORTS} were looked for"));
        }
        let untold = self.untold;
        (untold > 0).then(|| format!("{untold} packets had more ends than are told apart ({MAX_KINDS})"))
    }
}

/// A packet of UDP, or one of TCP that begins or refuses a connection.
struct Packet<'a> {
    what: Copied,
    source: SocketAddr,
    destination: SocketAddr,
    /// The UDP or TCP header and what follows, as much of it as was copied.
    transport: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads an IP packet; a later fragment has no ports.
    fn of(packet: &'a [u8]) -> Option<Self> {
        let (protocol, source, destination, transport): (u8, IpAddr, IpAddr, &[u8]) = match packet.first()? >> 4 {
            4 => {
                let header = usize::from(packet[0] & 15) * 4;
                let fragment = u16::from_be_bytes(*packet.get(6..8)?.first_chunk()?);
                if fragment & 0x1FFF != 0 {
                    return None;
                }
                let (from, to) = (packet.get(12..16)?.first_chunk::<4>()?, packet.get(16..20)?.first_chunk::<4>()?);
                (*packet.get(9)?, (*from).into(), (*to).into(), packet.get(header..)?)
            }
            6 => {
                let (from, to) = (packet.get(8..24)?.first_chunk::<16>()?, packet.get(24..40)?.first_chunk::<16>()?);
                (*packet.get(6)?, (*from).into(), (*to).into(), packet.get(40..)?)
            }
            _ => return None,
        };
        let what = match protocol {
            UDP => Copied::Datagram,
            TCP if transport.get(13)? & BEGINS_OR_REFUSES != 0 => Copied::Connection,
            _ => return None,
        };
        let port = |at: usize| Some(u16::from_be_bytes(*transport.get(at..at + 2)?.first_chunk()?));
        let (source, destination) = (SocketAddr::new(source, port(0)?), SocketAddr::new(destination, port(2)?));
        Some(Self { what, source, destination, transport })
    }

    /// Whether its checksum (RFC 768) is there and wrong. Not known of a packet that was not copied whole; and a packet
    /// whose checksum the device computes carries only the sum over its addresses until then.
    fn is_checksum_wrong(&self) -> bool {
        if self.what != Copied::Datagram {
            return false;
        }
        let field = |at: usize| self.transport.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
        let (Some(length), Some(checksum)) = (field(4), field(6)) else { return false };
        let whole = self.transport.get(..usize::from(length)).filter(|whole| whole.len() >= 8);
        let Some(whole) = whole.filter(|_| checksum != 0) else { return false };
        let addresses = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
            (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
            _ => return false,
        };
        let pseudo_header = ones_complement_sum(&addresses, 17 + u32::from(length));
        let sum = ones_complement_sum(whole, u32::from(pseudo_header));
        sum != 0xFFFF && checksum != pseudo_header
    }
}

/// The sum of RFC 1071 over bytes, on top of another.
fn ones_complement_sum(bytes: &[u8], begin: u32) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    // 2048 bytes are 1024 words: no overflow.
    let sum: u32 = begin + words.sum::<u32>();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    ((folded & 0xFFFF) + (folded >> 16)) as u16
}

// Codes of linux/filter.h.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF_INDEXED: u16 = 0x48;
const LOAD_BYTE_INDEXED: u16 = 0x50;
const LOAD_HEADER_LENGTH: u16 = 0xb1;
const SHIFT_RIGHT: u16 = 0x74;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// A filter program that takes UDP over IPv4 or IPv6 from or to one of the ports, and what begins or refuses connections
/// with these ends, so that a busy host copies nothing else.
fn program(ports: &[u16], connected_to: &[SocketAddr]) -> Vec<SockFilter> {
    let family = |ipv4: bool| {
        let (udp, tcp) = (of_datagrams(ipv4, ports), of_connections(ipv4, connected_to));
        // Where the protocol's number is in the header.
        let mut steps = vec![step(LOAD_BYTE, if ipv4 { 9 } else { 6 }), SockFilter::new(JUMP_EQUAL, 0, 1, UDP.into())];
        // Jumps of a condition reach 255 steps, so the long ones are unconditional.
        steps.push(step(JUMP, 2 + length_of(&tcp)));
        steps.push(SockFilter::new(JUMP_EQUAL, 1, 0, TCP.into()));
        steps.push(step(RETURN, 0));
        steps.extend(tcp);
        steps.extend(udp);
        steps
    };
    let mut steps = vec![step(LOAD_BYTE, 0), step(SHIFT_RIGHT, 4), SockFilter::new(JUMP_EQUAL, 1, 0, 4)];
    let v4 = family(true);
    steps.push(step(JUMP, length_of(&v4)));
    steps.extend(v4);
    steps.extend(family(false));
    steps
}

fn step(code: u16, k: u32) -> SockFilter {
    SockFilter::new(code, 0, 0, k)
}

fn length_of(steps: &[SockFilter]) -> u32 {
    u32::try_from(steps.len()).unwrap_or(u32::MAX)
}

/// Takes packets from or to one of the ports.
fn of_datagrams(ipv4: bool, ports: &[u16]) -> Vec<SockFilter> {
    let take = |from: u16, at: u32| {
        let mut steps = vec![step(from, at)];
        for port in ports {
            steps.push(SockFilter::new(JUMP_EQUAL, 0, 1, u32::from(*port)));
            steps.push(step(RETURN, COPIED));
        }
        steps
    };
    let (load, begin) = if ipv4 { (LOAD_HALF_INDEXED, 0) } else { (LOAD_HALF, 40) };
    let mut steps = Vec::new();
    if ipv4 {
        steps.push(step(LOAD_HEADER_LENGTH, 0));
    }
    steps.extend(take(load, begin));
    steps.extend(take(load, begin + 2));
    steps.push(step(RETURN, 0));
    steps
}

/// Takes packets from or to one of the ends that begin or refuse a connection.
fn of_connections(ipv4: bool, connected_to: &[SocketAddr]) -> Vec<SockFilter> {
    // IPv6's header is 40 bytes long; where others follow it, none of these packets does.
    let (half, byte, begin) = if ipv4 { (LOAD_HALF_INDEXED, LOAD_BYTE_INDEXED, 0) } else { (LOAD_HALF, LOAD_BYTE, 40) };
    let mut steps = Vec::new();
    if ipv4 {
        steps.push(step(LOAD_HEADER_LENGTH, 0));
    }
    steps.push(step(byte, begin + 13));
    steps.push(SockFilter::new(JUMP_ANY_BIT, 1, 0, BEGINS_OR_REFUSES.into()));
    steps.push(step(RETURN, 0));
    for end in connected_to.iter().filter(|end| end.is_ipv4() == ipv4) {
        let words: Vec<u32> = match end.ip() {
            IpAddr::V4(ip) => vec![ip.into()],
            IpAddr::V6(ip) => ip.octets().as_chunks::<4>().0.iter().map(|word| u32::from_be_bytes(*word)).collect(),
        };
        // As a source and as a destination: where the address stands, and its port.
        let stands = if ipv4 { [(12, 0), (16, 2)] } else { [(8, 40), (24, 42)] };
        for (mut address, port) in stands {
            let mut left = u8::try_from(2 * words.len() + 3).unwrap_or(u8::MAX);
            for word in &words {
                left -= 2;
                steps.push(step(LOAD_WORD, address));
                steps.push(SockFilter::new(JUMP_EQUAL, 0, left, *word));
                address += 4;
            }
            steps.push(step(half, port));
            steps.push(SockFilter::new(JUMP_EQUAL, 0, 1, end.port().into()));
            steps.push(step(RETURN, COPIED));
        }
    }
    steps.push(step(RETURN, 0));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet of 10.0.0.1:51820 to 198.51.100.7:40000 with four bytes of payload.
    fn packet(checksum: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0];
        packet.extend([10, 0, 0, 1, 198, 51, 100, 7]);
        packet.extend([0xca, 0x6c, 0x9c, 0x40, 0, 12]);
        packet.extend(checksum.to_be_bytes());
        packet.extend([1, 2, 3, 4]);
        packet
    }

    #[test]
    fn the_ends_of_a_packet_are_read_and_short_ones_refused() {
        let whole = packet(0);
        let ends = Packet::of(&whole).map(|packet| (packet.source.to_string(), packet.destination.to_string()));
        assert_eq!(ends, Some(("10.0.0.1:51820".into(), "198.51.100.7:40000".into())));
        for length in 0..24 {
            assert!(Packet::of(&whole[..length]).is_none());
        }
        // Of TCP only what begins a connection or refuses it.
        let flags = |flags: u8| {
            let mut tcp = packet(0);
            tcp[9] = TCP;
            tcp.resize(40, 0);
            tcp[33] = flags;
            Packet::of(&tcp).map(|packet| packet.what)
        };
        assert_eq!(
            [0x02, 0x12, 0x14, 0x10].map(flags).map(|what| what == Some(Copied::Connection)),
            [true, true, true, false]
        );
        let mut fragment = whole;
        fragment[7] = 1;
        assert!(Packet::of(&fragment).is_none());
    }

    #[test]
    fn packets_and_ports_for_which_there_is_no_room_are_told_of() {
        let end = |port: usize| SocketAddr::from(([192, 0, 2, 1], u16::try_from(port).unwrap()));
        let seen = |number: usize| {
            let mut kinds = Kinds::default();
            for port in 0..number {
                // Another packet of a kind that is told apart takes no more room.
                for _ in 0..2 {
                    if let Some(tally) = kinds.of((1, false, end(port), end(0), Copied::Datagram)) {
                        tally.packets += 1;
                    }
                }
            }
            kinds
        };
        let all = seen(MAX_KINDS);
        assert!(all.told.len() == MAX_KINDS && all.told.values().all(|tally| tally.packets == 2));
        assert_eq!((all.left_out(1), all.left_out(MAX_PORTS)), (None, None));
        assert!(all.left_out(MAX_PORTS + 1).is_some_and(|why| why.starts_with("of 65 ports 64")));
        assert!(seen(MAX_KINDS + 1).left_out(1).is_some_and(|why| why.starts_with("2 packets")));
    }

    #[test]
    fn a_wrong_checksum_is_told_from_a_right_one_one_that_is_not_there_and_one_that_the_device_computes() {
        // By hand: addresses 0x0a00 + 0x0001 + 0xc633 + 0x6407 = 0x1343b, protocol 0x11, length 0x0c: 0x13458, folded
        // 0x3459; header 0xca6c + 0x9c40 + 0x0c, payload 0x0102 + 0x0304: with the former 0x19f17, folded 0x9f18.
        for (checksum, wrong) in [(!0x9f18, false), (0, false), (0x3459, false), (!0x9f17, true), (0x1234, true)] {
            let bytes = packet(checksum);
            assert_eq!(Packet::of(&bytes).unwrap().is_checksum_wrong(), wrong, "{checksum:#x}");
            // What was not copied whole is not known.
            assert!(!Packet::of(&bytes[..31]).unwrap().is_checksum_wrong());
        }
        // For another source, as a program that chose one and sent with another.
        let mut bytes = packet(!0x9f18);
        bytes[15] = 2;
        assert!(Packet::of(&bytes).unwrap().is_checksum_wrong());
    }
}
