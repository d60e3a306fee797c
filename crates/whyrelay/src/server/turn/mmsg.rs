//! Many datagrams with one system call: `recvmmsg` with UDP_GRO on the way in, `sendmsg` with UDP_SEGMENT and
//! `sendmmsg` on the way out. The safe wrappers that exist neither reset the lengths of addresses between calls nor do without an allocation
//! for each send.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use socket2::{SockAddr, SockAddrStorage};

/// How many messages are read at a time. More would delay the first.
pub(super) const BATCH: usize = 32;

/// And how many at least.
const FEWEST: usize = 4;

/// The largest datagram, and the most that datagrams coalesced by the kernel have together.
const MAX_MESSAGE: usize = 65_536;

/// Room for one control message that carries an integer, aligned as the kernel wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 32]);

/// Where a thread reads to: 2 MiB of address space, of which only what was ever used is resident.
pub(super) struct Arena {
    bytes: Vec<u8>,
    addresses: Vec<SockAddrStorage>,
    controls: Vec<Control>,
    received: Vec<Received>,
    /// How many messages are asked for next time.
    next: usize,
    full: bool,
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
        Self {
            bytes: vec![0; BATCH * MAX_MESSAGE],
            addresses: (0..BATCH).map(|_| SockAddrStorage::zeroed()).collect(),
            controls: vec![Control([0; 32]); BATCH],
            received: Vec::with_capacity(BATCH),
            next: FEWEST,
            full: false,
        }
    }

    /// Reads what is there, up to a batch, without waiting.
    pub(super) fn fill(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.received.clear();
        let mut vectors = [libc::iovec { iov_base: ptr::null_mut(), iov_len: MAX_MESSAGE }; BATCH];
        let mut headers = [empty(); BATCH];
        let places = self.bytes.chunks_exact_mut(MAX_MESSAGE).zip(&mut self.addresses).zip(&mut self.controls);
        for ((header, vector), ((bytes, address), control)) in
            headers.iter_mut().zip(&mut vectors).zip(places).take(self.next)
        {
            vector.iov_base = bytes.as_mut_ptr().cast();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = ptr::from_mut(address).cast();
            header.msg_hdr.msg_namelen = address.size_of();
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = control.0.len() as _;
        }
        let count = receive(socket, &mut headers[..self.next])?;
        for (place, (header, address)) in headers[..count].iter().zip(&self.addresses).enumerate() {
            let length = (header.msg_len as usize).min(MAX_MESSAGE);
            let segment = segment_size(&header.msg_hdr).filter(|size| *size > 0).unwrap_or(length.max(1));
            if let Some(source) = socket_address(address, header.msg_hdr.msg_namelen) {
                self.received.push(Received { place, source, length, segment });
            }
        }
        self.full = count == self.next;
        // Every place costs a little to make ready, and at ordinary rates one is enough.
        self.next = if count == self.next { BATCH.min(self.next * 2) } else { FEWEST.max(count) };
        Ok(())
    }

    /// How many messages were read last.
    pub(super) fn messages(&self) -> usize {
        self.received.len()
    }

    /// Whether more may be there than was read.
    pub(super) fn is_full(&self) -> bool {
        self.full
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
    // SAFETY: `Arena::fill` made each header from exclusive borrows of its own fields that outlive this call, with
    // their true lengths; a null timeout is allowed.
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
    departures: impl Iterator<Item = (&'a [IoSlice<'a>], Option<u16>, &'a SockAddr)>,
) -> io::Result<usize> {
    let mut controls = [Control([0; 32]); BATCH];
    let mut headers = [empty(); BATCH];
    let mut count = 0;
    for ((header, control), (parts, segment, destination)) in headers.iter_mut().zip(&mut controls).zip(departures) {
        header.msg_hdr = departing(parts, segment, destination, control);
        count += 1;
    }
    // SAFETY: as in `send`; the first `count` headers point to what `departures` borrows for 'a, and to `controls`. The
    // kernel writes nothing but `msg_len` of each.
    let sent = unsafe {
        libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as libc::c_uint, libc::MSG_DONTWAIT as _)
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
            send(from.as_fd(), &[], None, &destination).unwrap();
            assert_eq!(read(&mut arena, &to), [(source, 0, 0)], "an empty one");
            send(from.as_fd(), &[IoSlice::new(&[9; 60_000])], None, &destination).unwrap();
            assert_eq!(read(&mut arena, &to), [(source, 60_000, 9)], "a large one");
            assert_eq!(arena.fill(to.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
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
}
