//! UDP sockets of a session: one for each local address, with kernel timestamps and ICMP errors.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::sockopt;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::disguise::{DeviceName, RawSender, as_user};

/// Bytes of receive and send buffer asked for. The default of 212 KB loses bursts at our own socket, which would
/// look like loss on the path in our own report.
const BUFFER: usize = 2 * 1024 * 1024;

/// Bytes of a quoted datagram that are kept: the header of a STUN message.
pub const QUOTED: usize = 20;

/// Largest UDP payload.
const MAX_DATAGRAM: usize = 65_535;

/// How a socket is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct UdpOptions {
    /// SO_MARK, needs CAP_NET_ADMIN.
    pub mark: Option<u32>,
    /// Nothing is fragmented, neither here nor on the way (IP_PMTUDISC_PROBE): what is too large does not arrive.
    pub dont_fragment: bool,
    /// The TTL or hop limit of what is sent.
    pub ttl: Option<u32>,
    /// The interface that it is bound to (SO_BINDTODEVICE).
    pub device: Option<DeviceName>,
    /// The user whose socket it is, for policy rules and firewalls; needs CAP_SETUID unless it is ours.
    pub user: Option<u32>,
    /// What is sent goes through a raw socket, which carries no port for policy rules; needs CAP_NET_RAW.
    pub raw: bool,
}

impl UdpOptions {
    /// What is told of a socket that is opened so.
    pub fn profile(self, local: SocketAddr, as_application: bool) -> whyrelay_core::host::SocketProfile {
        whyrelay_core::host::SocketProfile {
            local,
            as_application,
            mark: self.mark.unwrap_or(0),
            user: self.user.unwrap_or_else(|| nix::unistd::geteuid().as_raw()),
            bound_device: self.device.map(|device| device.name()),
            raw: self.raw,
        }
    }
}

/// Something that a socket's reader saw.
#[derive(Debug)]
pub enum UdpInput {
    /// A datagram.
    Datagram {
        /// Our socket.
        local: SocketAddr,
        /// Its source.
        remote: SocketAddr,
        /// Kernel time since the Unix epoch, where the system tells.
        kernel_time: Option<Duration>,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// An ICMP error for a datagram of ours.
    Icmp(IcmpError),
    /// The socket broke.
    Broken {
        /// Our socket.
        local: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
}

/// An ICMP error from the socket's error queue.
#[derive(Clone, Copy, Debug)]
pub struct IcmpError {
    /// Our socket.
    pub local: SocketAddr,
    /// Where the datagram was going.
    pub remote: SocketAddr,
    /// Who sent the error.
    pub offender: Option<IpAddr>,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// errno.
    pub errno: i32,
    /// The MTU that a "too big" names, in bytes.
    pub mtu: Option<u32>,
    /// The first bytes of the datagram, as far as the error quotes it.
    pub quoted: Option<[u8; QUOTED]>,
}

/// What is left in a socket of which a part was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing.
    Nothing,
    /// Something, perhaps, that came after this: kernel time of the last datagram that was taken, where there is one.
    Later(Option<Duration>),
}

/// An open socket; dropping it ends its reader.
#[derive(Debug)]
pub struct UdpDoor {
    socket: Arc<UdpSocket>,
    raw: Option<RawSender>,
    local: SocketAddr,
    receive_buffer: Option<u32>,
    reader: tokio::task::JoinHandle<()>,
}

impl UdpDoor {
    /// Opens a socket on an address (port 0: any) and starts its reader.
    ///
    /// # Errors
    /// When the system refuses, for example EADDRINUSE, or EPERM for the mark.
    pub fn open(address: SocketAddr, options: UdpOptions, inputs: mpsc::Sender<UdpInput>) -> io::Result<Self> {
        let make = || Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP));
        let socket = as_user(options.user, make)?;
        socket.set_nonblocking(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        prepare(&socket, address, options)?;
        // Granted up to the system's limit; what was granted is reported.
        socket.set_recv_buffer_size(BUFFER)?;
        socket.set_send_buffer_size(BUFFER)?;
        socket.bind(&address.into())?;
        if let SocketAddr::V4(v4) = address
            && !v4.ip().is_unspecified()
        {
            // A search for the router leaves by the interface of its own address, whatever the default route says.
            let _ = socket.set_multicast_if_v4(v4.ip());
        }
        let fd = socket.as_fd();
        // Each is a convenience of the trace: without it events lack a detail.
        let _ = setsockopt(&fd, sockopt::ReceiveTimestampns, &true);
        let _ = match address {
            SocketAddr::V4(_) => setsockopt(&fd, sockopt::Ipv4RecvErr, &true),
            SocketAddr::V6(_) => setsockopt(&fd, sockopt::Ipv6RecvErr, &true),
        };
        let receive_buffer = socket.recv_buffer_size().ok().and_then(|size| u32::try_from(size).ok());
        let socket = Arc::new(UdpSocket::from_std(socket.into())?);
        let local = socket.local_addr()?;
        let raw = if options.raw {
            Some(as_user(options.user, || RawSender::new(local, |raw| prepare(raw, address, options)))?)
        } else {
            None
        };
        let reader = tokio::spawn(read(Arc::clone(&socket), local, inputs));
        Ok(Self { socket, raw, local, receive_buffer, reader })
    }

    /// Sends a datagram, or says at once why not: EAGAIN when the send buffer is full.
    ///
    /// # Errors
    /// The errno of the system call, which is evidence.
    pub fn send(&self, remote: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        if let Some(raw) = &self.raw {
            return raw.send(self.with_scope(remote), bytes);
        }
        // Not through tokio: a socket that never reported writable would answer EAGAIN for tokio's own reasons.
        let (socket, remote) = (SockRef::from(&*self.socket), self.with_scope(remote).into());
        match socket.send_to(bytes, &remote) {
            // It may be the ICMP error of an earlier datagram, which a socket tells at the next call, whatever that is;
            // then the second attempt is the answer to this one. The error queue has the error itself.
            Err(error) if is_pending_icmp(&error) && error.raw_os_error() != Some(libc::EPERM) => {
                socket.send_to(bytes, &remote).map(drop)
            }
            sent => sent.map(drop),
        }
    }

    /// Sends one datagram with another TTL or hop limit than the socket's.
    ///
    /// # Errors
    /// As [`Self::send`], and when the TTL cannot be set.
    pub fn send_with_ttl(&self, remote: SocketAddr, bytes: &[u8], ttl: u8) -> io::Result<()> {
        // The datagram leaves by the raw socket where there is one.
        let socket = match &self.raw {
            Some(raw) => SockRef::from(raw.socket()),
            None => SockRef::from(&*self.socket),
        };
        let set = |ttl: u32| match self.local {
            SocketAddr::V4(_) => socket.set_ttl_v4(ttl),
            SocketAddr::V6(_) => socket.set_unicast_hops_v6(ttl),
        };
        let usual = match self.local {
            SocketAddr::V4(_) => socket.ttl_v4(),
            SocketAddr::V6(_) => socket.unicast_hops_v6(),
        }?;
        set(u32::from(ttl))?;
        let sent = self.send(remote, bytes);
        set(usual)?;
        sent
    }

    /// Sends one datagram that nobody may fragment, whatever the system has learned of the path.
    ///
    /// # Errors
    /// As [`Self::send`], and EMSGSIZE where the interface takes no such packet.
    pub fn send_whole(&self, remote: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let socket = match &self.raw {
            Some(raw) => SockRef::from(raw.socket()),
            None => SockRef::from(&*self.socket),
        };
        let usual = discovery(&socket, self.local, None)?;
        dont_fragment(&socket, self.local)?;
        let sent = self.send(remote, bytes);
        discovery(&socket, self.local, Some(usual))?;
        sent
    }

    /// What waits in the socket now, ahead of its reader: at most so many datagrams and errors together.
    pub(super) fn take_waiting(&self, most: usize, buffer: &mut Vec<u8>, inputs: &mut VecDeque<UdpInput>) -> Left {
        let mut last = None;
        buffer.resize(MAX_DATAGRAM, 0);
        let (local, tries, most) = (self.local, 2 * most, inputs.len() + most);
        for _ in 0..tries {
            // Also without a pending error: a send call may have been told of it, and taken it.
            while inputs.len() < most
                && let Some(error) = receive_error(&self.socket, local, buffer)
            {
                inputs.push_back(UdpInput::Icmp(error));
            }
            if inputs.len() >= most {
                break;
            }
            match receive(&self.socket, buffer) {
                Ok((remote, kernel_time, length)) => {
                    let bytes = buffer[..length].to_vec();
                    last = kernel_time;
                    inputs.push_back(UdpInput::Datagram { local, remote, kernel_time, bytes });
                }
                // Told once, and its entry is in the queue of errors.
                Err(error) if is_pending_icmp(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Left::Nothing,
                // The reader would not be told again.
                Err(error) => {
                    inputs.push_back(UdpInput::Broken { local, error });
                    return Left::Nothing;
                }
            }
        }
        Left::Later(last)
    }

    /// Our address.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The receive buffer as granted, in bytes.
    pub fn receive_buffer(&self) -> Option<u32> {
        self.receive_buffer
    }

    /// A link-local destination is reached through the scope of our own address, unless it comes with one.
    fn with_scope(&self, remote: SocketAddr) -> SocketAddr {
        match (remote, self.local) {
            (SocketAddr::V6(remote), SocketAddr::V6(local))
                if remote.ip().is_unicast_link_local() && remote.scope_id() == 0 =>
            {
                SocketAddr::V6(SocketAddrV6::new(*remote.ip(), remote.port(), 0, local.scope_id()))
            }
            _ => remote,
        }
    }
}

/// Whether the system lets this process make such sockets. Nothing is bound or sent.
///
/// # Errors
/// What the system says: EPERM, or ENODEV for an interface that is not there.
pub fn is_permitted(options: UdpOptions) -> io::Result<()> {
    let address = SocketAddr::from(([0, 0, 0, 0], 0));
    let kinds = if options.raw { &[Type::DGRAM, Type::RAW][..] } else { &[Type::DGRAM] };
    for kind in kinds {
        let socket = as_user(options.user, || Socket::new(Domain::IPV4, *kind, Some(Protocol::UDP)))?;
        prepare(&socket, address, options)?;
    }
    Ok(())
}

/// What the datagram socket and the raw one beside it have in common.
fn prepare(socket: &Socket, address: SocketAddr, options: UdpOptions) -> io::Result<()> {
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.bytes()))?;
    }
    if options.dont_fragment {
        dont_fragment(socket, address)?;
    }
    match (options.ttl, address) {
        (Some(ttl), SocketAddr::V4(_)) => socket.set_ttl_v4(ttl),
        (Some(ttl), SocketAddr::V6(_)) => socket.set_unicast_hops_v6(ttl),
        (None, _) => Ok(()),
    }
}

/// Sends with DF, whatever the system has learned of the path.
fn dont_fragment(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let (level, option, value) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
    };
    set_int(socket, level, option, value)
}

/// How a socket finds out the path's MTU: what is set, or was set before something else is.
#[expect(unsafe_code, reason = "one getsockopt with pointers to a live integer and its size")]
fn discovery(socket: &Socket, address: SocketAddr, to: Option<libc::c_int>) -> io::Result<libc::c_int> {
    let (level, option) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    };
    if let Some(to) = to {
        return set_int(socket, level, option, to).map(|()| to);
    }
    let mut value: libc::c_int = 0;
    let mut length = std::mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is open as long as `socket` is borrowed; the pointers are to `value` and its length.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, std::ptr::from_mut(&mut value).cast(), &mut length)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// An integer option that no crate of ours has a name for.
#[expect(unsafe_code, reason = "one setsockopt with a pointer to a live integer and its size")]
fn set_int(socket: &Socket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = std::mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is open as long as `socket` is borrowed; the pointer is to `value`, of that length.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(&value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Drop for UdpDoor {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Reads datagrams and errors until the session's loop is gone. When the loop falls behind, the channel fills, this
/// waits, and datagrams wait in the kernel: nothing is read that there is no room for, because what a reader that waits
/// held in its hands would be nowhere to be found.
async fn read(socket: Arc<UdpSocket>, local: SocketAddr, inputs: mpsc::Sender<UdpInput>) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let ready = match socket.ready(Interest::READABLE | Interest::ERROR).await {
            Ok(ready) => ready,
            Err(error) => {
                let _ = inputs.send(UdpInput::Broken { local, error }).await;
                return;
            }
        };
        if ready.is_error() && !read_errors(&socket, local, &inputs, &mut buffer).await {
            return;
        }
        loop {
            let Ok(room) = inputs.reserve().await else { return };
            let received = socket.try_io(Interest::READABLE, || receive(&socket, &mut buffer));
            match received {
                Ok((remote, kernel_time, length)) => {
                    let bytes = buffer[..length].to_vec();
                    room.send(UdpInput::Datagram { local, remote, kernel_time, bytes });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if is_pending_icmp(&error) => {
                    // The error queue has the details; this only clears the socket's pending error.
                    drop(room);
                    if !read_errors(&socket, local, &inputs, &mut buffer).await {
                        return;
                    }
                }
                Err(error) => return room.send(UdpInput::Broken { local, error }),
            }
        }
        if ready.is_error() {
            // tokio keeps the error readiness until an operation for it would block.
            let cleared = socket.try_io(Interest::ERROR, || Err::<(), _>(io::Error::from(io::ErrorKind::WouldBlock)));
            drop(cleared);
        }
    }
}

/// Reads the queue of errors; false when the session's loop is gone.
async fn read_errors(
    socket: &UdpSocket,
    local: SocketAddr,
    inputs: &mpsc::Sender<UdpInput>,
    buffer: &mut [u8],
) -> bool {
    loop {
        let Ok(room) = inputs.reserve().await else { return false };
        match receive_error(socket, local, buffer) {
            Some(error) => room.send(UdpInput::Icmp(error)),
            None => return true,
        }
    }
}

/// Errors that a receive call reports for an earlier datagram of ours.
fn is_pending_icmp(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EMSGSIZE | libc::EPROTO | libc::EACCES
        ) | Some(
            libc::ENONET
                | libc::ENETDOWN
                | libc::EPERM
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::ECONNRESET
                | libc::EHOSTDOWN
                | libc::EINTR
        )
    )
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(SocketAddr, Option<Duration>, usize)> {
    let mut control = nix::cmsg_space!(libc::timespec);
    let mut slices = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let mut kernel_time = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmTimestampns(time) = control {
            kernel_time = Some(time.into());
        }
    }
    let remote = message.address.and_then(|address| to_std(&address)).ok_or(io::ErrorKind::InvalidData)?;
    Ok((remote, kernel_time, message.bytes))
}

/// One entry of the error queue (IP_RECVERR), `None` when it is empty.
fn receive_error(socket: &UdpSocket, local: SocketAddr, buffer: &mut [u8]) -> Option<IcmpError> {
    let (error, length) = receive_error_into(socket, local, buffer)?;
    let quoted = buffer.get(..length).and_then(|bytes| bytes.first_chunk().copied());
    Some(IcmpError { quoted, ..error })
}

/// The same, with as much of the datagram as it quotes in the buffer.
fn receive_error_into(socket: &UdpSocket, local: SocketAddr, buffer: &mut [u8]) -> Option<(IcmpError, usize)> {
    let mut control = nix::cmsg_space!(libc::timespec, libc::sock_extended_err, libc::sockaddr_in6);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags).ok()?;
    let remote = message.address.and_then(|address| to_std(&address))?;
    for control in message.cmsgs().ok()? {
        let (error, offender) = match control {
            ControlMessageOwned::Ipv4RecvErr(error, offender) => {
                (error, offender.map(|offender| IpAddr::from(offender.sin_addr.s_addr.to_ne_bytes())))
            }
            ControlMessageOwned::Ipv6RecvErr(error, offender) => {
                (error, offender.map(|offender| IpAddr::from(offender.sin6_addr.s6_addr)))
            }
            _ => continue,
        };
        let error = IcmpError {
            local,
            remote,
            offender: offender.filter(|offender| !offender.is_unspecified()),
            icmp_type: error.ee_type,
            icmp_code: error.ee_code,
            errno: i32::try_from(error.ee_errno).unwrap_or(0),
            mtu: Some(error.ee_info).filter(|mtu| *mtu != 0),
            quoted: None,
        };
        return Some((error, message.bytes));
    }
    None
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::new(IpAddr::V4(v4.ip()), v4.port()));
    }
    // Scope and flow label are dropped: they would make one remote address look like two.
    address.as_sockaddr_in6().map(|v6| SocketAddr::new(IpAddr::V6(v6.ip()), v6.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_shows_as_an_icmp_error_with_its_offender() {
        let (sender, mut inputs) = mpsc::channel(8);
        let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let door = UdpDoor::open("127.0.0.1:0".parse().unwrap(), UdpOptions::default(), sender).unwrap();
        for _ in 0..3 {
            // Each finds the error of the one before, and is none itself.
            door.send(closed, b"is there anyone here?").unwrap();
        }
        let input = tokio::time::timeout(Duration::from_secs(5), inputs.recv()).await.unwrap();
        match input {
            Some(UdpInput::Icmp(error)) => {
                assert_eq!((error.icmp_type, error.icmp_code, error.errno), (3, 3, libc::ECONNREFUSED));
                assert_eq!((error.remote, error.offender), (closed, Some(closed.ip())));
                assert_eq!(error.quoted.as_ref(), Some(b"is there anyone here"));
            }
            other => panic!("an ICMP error was expected, not {other:?}"),
        }
        for _ in 0..2 {
            assert!(matches!(inputs.recv().await, Some(UdpInput::Icmp(_))));
        }
        door.send(door.local(), b"hello").unwrap();
        match tokio::time::timeout(Duration::from_secs(5), inputs.recv()).await.unwrap() {
            Some(UdpInput::Datagram { bytes, kernel_time, .. }) => {
                assert_eq!(bytes, b"hello");
                assert!(kernel_time.is_some());
            }
            other => panic!("a datagram was expected, not {other:?}"),
        }
    }
}
