//! The sockets behind relayed addresses.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use socket2::{Domain, Protocol, Socket, Type};
use whyrelay_core::engine::turn_server::Family;

use super::mmsg;

/// Where relays may be opened.
pub(super) struct Places {
    pub(super) configured: Vec<IpAddr>,
    /// This host's addresses.
    pub(super) local: Vec<IpAddr>,
    /// Both included.
    pub(super) ports: (u16, u16),
}

/// How many ports are tried before a relay is refused: enough to find one of few free ones, not enough to be slow.
const MOST_TRIES: u64 = 1000;

impl Places {
    /// Opens a socket of a family on a port that starts at a random place of the range, for a client that came to
    /// `reached`.
    pub(super) fn open(
        &self,
        family: Family,
        reached: Option<IpAddr>,
        even_port: bool,
        start: u64,
    ) -> io::Result<RelaySocket> {
        let ip = self.address(family, reached).ok_or(io::ErrorKind::AddrNotAvailable)?;
        self.open_at(ip, even_port, start)
    }

    /// Opens a socket on this address, on a port that starts at a random place of the range.
    pub(super) fn open_at(&self, ip: IpAddr, even_port: bool, start: u64) -> io::Result<RelaySocket> {
        let (first, last) = self.ports;
        let count = u64::from(last - first) + 1;
        let mut refusal = io::Error::from(io::ErrorKind::AddrInUse);
        for step in 0..count.min(MOST_TRIES) {
            let port = first + ((start.wrapping_add(step)) % count) as u16;
            if even_port && port % 2 == 1 {
                continue;
            }
            match RelaySocket::open(SocketAddr::new(ip, port)) {
                Ok(socket) => return Ok(socket),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => refusal = error,
                Err(error) => return Err(error),
            }
        }
        Err(refusal)
    }

    /// The configured address of the family; else the one that the client came to, if others can reach it as well;
    /// else another one of this host.
    fn address(&self, family: Family, reached: Option<IpAddr>) -> Option<IpAddr> {
        let fits = |ip: &IpAddr| Family::of(*ip) == family;
        let public = |ip: &IpAddr| !ip.is_loopback();
        let configured = self.configured.iter().copied().find(fits);
        let reached = reached.filter(fits);
        configured
            .or_else(|| reached.filter(public))
            .or_else(|| self.local.iter().copied().filter(public).find(fits))
            .or(reached)
            .or_else(|| self.local.iter().copied().find(fits))
    }
}

/// One relay's socket.
pub(super) struct RelaySocket {
    socket: Socket,
    local: SocketAddr,
    /// Whether the socket sets DF now.
    dont_fragment: Mutex<bool>,
}

impl RelaySocket {
    /// On a port of one's choice.
    fn open(address: SocketAddr) -> io::Result<Self> {
        // It blocks, but each call on it says that it is not to (MSG_DONTWAIT): an allocation costs two calls less.
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // A burst from a fast peer waits here. Granted up to the system's limit.
        socket.set_recv_buffer_size(1024 * 1024)?;
        socket.bind(&address.into())?;
        fragmentation::set(socket.as_raw_fd(), address.is_ipv4(), false)?;
        mmsg::coalesce(socket.as_fd());
        Ok(Self { socket, local: address, dont_fragment: Mutex::new(false) })
    }

    pub(super) const fn local(&self) -> SocketAddr {
        self.local
    }

    /// Has something sent, with or without DF.
    pub(super) fn send<T>(&self, dont_fragment: bool, send: impl FnOnce(BorrowedFd<'_>) -> T) -> io::Result<T> {
        // DF is an option of the socket: held while sending, so that another sender does not change it.
        let mut set = self.dont_fragment.lock().unwrap_or_else(PoisonError::into_inner);
        if *set != dont_fragment {
            fragmentation::set(self.socket.as_raw_fd(), self.local.is_ipv4(), dont_fragment)?;
            *set = dont_fragment;
        }
        Ok(send(self.socket.as_fd()))
    }
}

impl AsFd for RelaySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether datagrams carry DF (RFC 8656 §15): an option of the socket for which there is no safe wrapper.
mod fragmentation {
    use std::io;

    use super::RawFd;

    /// `PROBE`, not `DO`: the kernel must not refuse what it believes too large; the path decides.
    #[expect(unsafe_code, reason = "setsockopt(IP_MTU_DISCOVER) has no safe wrapper")]
    pub(super) fn set(socket: RawFd, ipv4: bool, dont_fragment: bool) -> io::Result<()> {
        let (level, option, on, off) = if ipv4 {
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE, libc::IP_PMTUDISC_DONT)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE, libc::IPV6_PMTUDISC_DONT)
        };
        let value: libc::c_int = if dont_fragment { on } else { off };
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the pointer is to a live c_int, and the length is its size; the kernel only reads it.
        let outcome = unsafe { libc::setsockopt(socket, level, option, std::ptr::from_ref(&value).cast(), length) };
        if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn places(configured: &[&str], local: &[&str]) -> Places {
        let parse = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect();
        Places { configured: parse(configured), local: parse(local), ports: (50_000, 50_100) }
    }

    #[test]
    fn relays_open_where_peers_can_reach_them() {
        let home: IpAddr = Ipv4Addr::LOCALHOST.into();
        let lan: IpAddr = "192.0.2.1".parse().unwrap();
        let other: IpAddr = "192.0.2.2".parse().unwrap();
        let address = |places: &Places, family, reached| places.address(family, reached);
        let host = places(&[], &["127.0.0.1", "::1", "192.0.2.1", "192.0.2.2"]);
        assert_eq!(address(&host, Family::Ipv4, Some(other)), Some(other), "where the client came to");
        assert_eq!(address(&host, Family::Ipv4, Some(home)), Some(lan), "not on loopback");
        assert_eq!(address(&host, Family::Ipv6, Some(lan)), Some("::1".parse().unwrap()), "there is nothing else");
        let alone = places(&[], &["127.0.0.1"]);
        assert_eq!(address(&alone, Family::Ipv4, Some(home)), Some(home));
        assert_eq!(address(&alone, Family::Ipv6, Some(home)), None);
        let told = places(&["127.0.0.1"], &["192.0.2.1"]);
        assert_eq!(address(&told, Family::Ipv4, Some(lan)), Some(home), "where the operator says");
    }
}
