//! Many datagrams with one system call: `recvmmsg` with UDP_GRO on the way in, `sendmsg` with UDP_SEGMENT and
//! `sendmmsg` on the way out. The safe wrappers that exist neither reset the lengths of addresses between calls nor do
//! without an allocation for each send.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use socket2::{SockAddr, SockAddrStorage};

/// How many messages are read at a time. More would delay the first; with fewer, a thread that lets datagrams gather
/// finds more than it asked for when many clients ask at once, and goes round again for the rest.
pub(super) const BATCH: usize = 64;

/// The largest datagram, and the most that datagrams coalesced by the kernel have together.
const MAX_MESSAGE: usize = 65_536;

/// Room for one control message that carries an integer, aligned as the kernel wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 32]);

/// Where a thread reads to: 4 MiB of address space, of which only what was ever used is resident. What the kernel is
/// told of it is made once: most of it stays as it is from call to call.
pub(super) struct Arena {
    bytes: Vec<u8>,
    addresses: Vec<SockAddrStorage>,
    /// Where each message and its control message go; `headers` points to them, and they never move.
    _vectors: Vec<libc::iovec>,
    _controls: Vec<Control>,
    headers: Vec<libc::mmsghdr>,
    /// How many of the headers the kernel has changed last.
    changed: usize,
    received: Vec<Received>,
}

/// One message: a datagram, or several of one size from one source.
struct Received {
    place: usize,
    source: SocketAddr,
    length: usize,
    /// Bytes of each datagram but the last, which may be shorter.
    segment: usize,
}

impl Arena {
    pub(super) fn new() -> Self {
        let (mut bytes, mut controls) = (vec![0_u8; BATCH * MAX_MESSAGE], vec![Control([0; 32]); BATCH]);
        let mut addresses: Vec<_> = (0..BATCH).map(|_| SockAddrStorage::zeroed()).collect();
        let place = |at| bytes.as_mut_ptr().wrapping_add(at * MAX_MESSAGE).cast();
        let mut vectors: Vec<_> =
            (0..BATCH).map(place).map(|iov_base| libc::iovec { iov_base, iov_len: MAX_MESSAGE }).collect();
        let header = |at| {
            let mut header = empty();
            header.msg_hdr.msg_iov = vectors.as_mut_ptr().wrapping_add(at);
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = addresses.as_mut_ptr().wrapping_add(at).cast();
            header.msg_hdr.msg_control = controls.as_mut_ptr().wrapping_add(at).cast();
            header
        };
        let headers = (0..BATCH).map(header).collect();
        let received = Vec::with_capacity(BATCH);
        Self { bytes, addresses, _vectors: vectors, _controls: controls, headers, changed: BATCH, received }
    }

    /// Reads what is there, up to a batch, without waiting.
    pub(super) fn fill(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.received.clear();
        // Lengths are the kernel's to write, too.
        for (header, address) in self.headers[..std::mem::take(&mut self.changed)].iter_mut().zip(&self.addresses) {
            header.msg_hdr.msg_namelen = address.size_of();
            header.msg_hdr.msg_controllen = size_of::<Control>() as _;
        }
        let count = receive(socket, &mut self.headers)?;
        self.changed = count;
        for (place, (header, address)) in self.headers[..count].iter().zip(&self.addresses).enumerate() {
            let length = (header.msg_len as usize).min(MAX_MESSAGE);
            let segment = segment_size(&header.msg_hdr).filter(|size| *size > 0).unwrap_or(length.max(1));
            if let Some(source) = socket_address(address, header.msg_hdr.msg_namelen) {
                self.received.push(Received { place, source, length, segment });
            }
        }
        Ok(())
    }

    /// How many messages were read last.
    pub(super) fn messages(&self) -> usize {
        self.received.len()
    }

    /// How many datagrams were read last.
    pub(super) fn count(&self) -> usize {
        self.received.iter().map(|received| received.length.div_ceil(received.segment).max(1)).sum()
    }

    /// Whether more may be there than was read.
    pub(super) fn is_full(&self) -> bool {
        self.changed == BATCH
    }

    /// What was read last, datagram by datagram.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        self.received.iter().flat_map(|received| {
            let bytes = &self.bytes[received.place * MAX_MESSAGE..][..received.length];
            let empty = bytes.is_empty().then_some(bytes);
            bytes.chunks(received.segment).chain(empty).map(|datagram| (received.source, datagram))
        })
    }
}

#[expect(unsafe_code, reason = "the header has private padding on some systems")]
fn empty() -> libc::mmsghdr {
    // SAFETY: integers and pointers; all zeros is a header of nothing.
    unsafe { std::mem::zeroed() }
}

#[expect(unsafe_code, reason = "recvmmsg(2); every pointer in the headers is to a live buffer of the length beside it")]
fn receive(socket: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    // SAFETY: each header points to places of its own in buffers that `Arena` keeps, none of which is borrowed while its
    // `fill` is called, with their true lengths; a null timeout is allowed.
    let count = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            libc::MSG_DONTWAIT as _,
            ptr::null_mut(),
        )
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// The size of coalesced datagrams (UDP_GRO).
#[expect(unsafe_code, reason = "control messages are read through the pointers of cmsg(3)")]
fn segment_size(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel has filled in `msg_control` and `msg_controllen` of a header whose buffer is alive and aligned;
    // the CMSG functions stay inside it, and a UDP_GRO message carries an int.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while let Some(found) = message.as_ref() {
            if (found.cmsg_level, found.cmsg_type) == (libc::SOL_UDP, libc::UDP_GRO) {
                let size: libc::c_int = ptr::read_unaligned(libc::CMSG_DATA(message).cast());
                return usize::try_from(size).ok();
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    None
}

#[expect(unsafe_code, reason = "a socket address that the kernel has written")]
fn socket_address(address: &SockAddrStorage, length: libc::socklen_t) -> Option<SocketAddr> {
    // SAFETY: plain bytes, zeroed before their first use and written by the kernel alone; the length is the kernel's own,
    // which is cut to the size of the storage.
    unsafe { SockAddr::new(ptr::read(address), length.min(address.size_of())) }.as_socket()
}

/// Sends the parts as one datagram, or as several of `segment` bytes each (UDP_SEGMENT).
#[expect(unsafe_code, reason = "sendmsg(2) with a control message, without an allocation for each")]
pub(super) fn send(
    socket: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    segment: Option<u16>,
    destination: &SockAddr,
) -> io::Result<()> {
    let mut control = Control([0; 32]);
    let header = departing(parts, segment, destination, &mut control);
    // SAFETY: every pointer is to something borrowed for longer than this call, with its true length; the kernel only
    // reads through them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The same for many destinations with one system call: parts, size of a segment, destination. Answers how many of the
/// first were sent; an error is about the first.
#[expect(unsafe_code, reason = "sendmmsg(2) with control messages, without an allocation for each")]
pub(super) fn send_many<'a>(
    socket: BorrowedFd<'_>,
    departures: impl ExactSizeIterator<Item = (&'a [IoSlice<'a>], Option<u16>, &'a SockAddr)>,
) -> io::Result<usize> {
    let mut controls = vec![Control([0; 32]); departures.len()];
    let header = |((parts, segment, destination), control): (_, &mut Control)| libc::mmsghdr {
        msg_hdr: departing(parts, segment, destination, control),
        msg_len: 0,
    };
    let mut headers: Vec<_> = departures.zip(&mut controls).map(header).collect();
    // SAFETY: as in `send`; the headers point to what `departures` borrows for 'a, and to `controls`. The kernel writes
    // nothing but `msg_len` of each.
    let sent = unsafe {
        libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), headers.len() as libc::c_uint, libc::MSG_DONTWAIT as _)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// The header of a message; it points to what is passed here, which must outlive its use.
#[expect(unsafe_code, reason = "a control message is written through the pointers of cmsg(3)")]
fn departing(
    parts: &[IoSlice<'_>],
    segment: Option<u16>,
    destination: &SockAddr,
    control: &mut Control,
) -> libc::msghdr {
    let mut header = empty().msg_hdr;
    header.msg_name = destination.as_ptr().cast_mut().cast();
    header.msg_namelen = destination.len();
    // IoSlice is an iovec by its documentation.
    header.msg_iov = parts.as_ptr().cast_mut().cast();
    header.msg_iovlen = parts.len() as _;
    if let Some(segment) = segment {
        header.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: arithmetic on a constant.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(2) } as _;
        // SAFETY: the buffer is alive, aligned, and larger than CMSG_SPACE(2) = 24 bytes, so there is a first header
        // with room for two bytes of data.
        unsafe {
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::SOL_UDP;
            (*message).cmsg_type = libc::UDP_SEGMENT;
            (*message).cmsg_len = libc::CMSG_LEN(2) as _;
            ptr::write_unaligned(libc::CMSG_DATA(message).cast(), segment);
        }
    }
    header
}

/// Has the kernel hand over datagrams of one flow together. Where it cannot, they come one by one.
#[expect(unsafe_code, reason = "setsockopt(UDP_GRO) has no safe wrapper")]
pub(super) fn coalesce(socket: BorrowedFd<'_>) {
    let on: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointer is to a live c_int, and the length is its size; the kernel only reads it.
    unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, ptr::from_ref(&on).cast(), length);
    }
}

/// How many datagrams the kernel dropped at this socket so far: no room, or broken; those that came coalesced count once.
/// 0 where it does not tell.
#[expect(unsafe_code, reason = "getsockopt(SO_MEMINFO) has no safe wrapper")]
pub(super) fn overflowed(socket: BorrowedFd<'_>) -> u32 {
    // linux/sock_diag.h: nine numbers, of which the last is how many were dropped.
    const SK_MEMINFO_DROPS: usize = 8;
    let mut numbers = [0_u32; SK_MEMINFO_DROPS + 1];
    let mut length = size_of_val(&numbers) as libc::socklen_t;
    // SAFETY: the pointers are to live places, and the length is the first one's size; the kernel writes no more than that.
    unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            numbers.as_mut_ptr().cast(),
            &raw mut length,
        );
    }
    numbers[SK_MEMINFO_DROPS]
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    fn read(arena: &mut Arena, socket: &UdpSocket) -> Vec<(SocketAddr, usize, u8)> {
        arena.fill(socket.as_fd()).unwrap();
        let first = |bytes: &[u8]| bytes.first().copied().unwrap_or_default();
        arena.datagrams().map(|(source, bytes)| (source, bytes.len(), first(bytes))).collect()
    }

    #[test]
    fn what_leaves_together_arrives_together_or_apart_but_the_same() {
        let mut arena = Arena::new();
        for (ip, coalesced) in [("127.0.0.1", true), ("::1", true), ("127.0.0.1", false), ("::1", false)] {
            let (from, to) = (UdpSocket::bind((ip, 0)).unwrap(), UdpSocket::bind((ip, 0)).unwrap());
            if coalesced {
                coalesce(to.as_fd());
            }
            let source = from.local_addr().unwrap();
            let destination = to.local_addr().unwrap().into();
            let parts = [[1; 100], [2; 100], [3; 100]];
            let parts = [IoSlice::new(&parts[0]), IoSlice::new(&parts[1]), IoSlice::new(&parts[2][..40])];
            send(from.as_fd(), &parts, Some(100), &destination).unwrap();
            assert_eq!(read(&mut arena, &to), [(source, 100, 1), (source, 100, 2), (source, 40, 3)], "{ip}");
            assert_eq!(arena.count(), 3);
            send(from.as_fd(), &[], None, &destination).unwrap();
            assert_eq!(read(&mut arena, &to), [(source, 0, 0)], "an empty one");
            assert_eq!(arena.count(), 1);
            send(from.as_fd(), &[IoSlice::new(&[9; 60_000])], None, &destination).unwrap();
            assert_eq!(read(&mut arena, &to), [(source, 60_000, 9)], "a large one");
            assert_eq!(arena.fill(to.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn as_many_as_have_gathered_are_read_at_once_however_few_came_before() {
        let (from, to) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let mut arena = Arena::new();
        for count in [1, 1, 40, 40, 2] {
            (0..count).for_each(|_| assert_eq!(from.send_to(b"x", to.local_addr().unwrap()).unwrap(), 1));
            assert_eq!(read(&mut arena, &to).len(), count);
            assert!(!arena.is_full(), "there are no more");
        }
    }

    #[test]
    fn a_batch_is_read_in_order_and_the_rest_stays() {
        let (from, to) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let sent: Vec<u8> = (0..100).collect();
        for number in &sent {
            from.send_to(&[*number], to.local_addr().unwrap()).unwrap();
        }
        let mut arena = Arena::new();
        let mut found = Vec::new();
        while found.len() < sent.len() {
            let batch = read(&mut arena, &to);
            assert!(!batch.is_empty() && batch.len() <= BATCH);
            found.extend(batch.into_iter().map(|(_, _, first)| first));
        }
        assert_eq!(found, sent);
    }

    #[test]
    fn every_datagram_is_read_or_counted_as_overflowed() {
        const SENT: usize = 1000;
        let (from, to) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        socket2::SockRef::from(&to).set_recv_buffer_size(64 * 1024).unwrap();
        for _ in 0..SENT {
            from.send_to(&[1; 1000], to.local_addr().unwrap()).unwrap();
        }
        let (mut arena, mut found) = (Arena::new(), 0);
        while arena.fill(to.as_fd()).is_ok() {
            found += arena.count();
        }
        assert!((1..SENT).contains(&found), "{found}");
        assert_eq!(found + overflowed(to.as_fd()) as usize, SENT);
    }
}
