//! How a socket is made so that the system treats it as another program's: mark, user, interface, raw.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::unistd::{Uid, setfsuid};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

/// Length of a UDP header.
const UDP_HEADER: usize = 8;

/// Longest name of an interface, its final zero included (`IFNAMSIZ`).
const NAME: usize = 16;

/// The name of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceName([u8; NAME]);

impl DeviceName {
    /// `None`: no interface can be called that.
    pub fn new(name: &str) -> Option<Self> {
        let mut bytes = [0; NAME];
        if name.is_empty() || name.len() >= NAME || name.contains(['\0', '/']) {
            return None;
        }
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Some(Self(bytes))
    }

    /// The name as text.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// The name without the zeros behind it.
    pub fn bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(NAME);
        &self.0[..end]
    }
}

/// Runs `make` with this thread's file system user changed: whoever makes a socket is its user, for policy rules
/// (`uidrange`) as for firewalls (`skuid`). Nothing else of the process changes, and capabilities of the network stay.
///
/// # Errors
/// EPERM without CAP_SETUID, and what `make` says.
pub(super) fn as_user<T>(user: Option<u32>, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some(user) = user else { return make() };
    let previous = setfsuid(Uid::from_raw(user));
    // It answers the user before, in success and failure alike: only asking again tells.
    let now = setfsuid(Uid::from_raw(user));
    if now.as_raw() != user {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    let made = make();
    setfsuid(previous);
    made
}

/// A raw socket that sends UDP from a port which another socket holds, as NetBird does beside kernel WireGuard. The
/// system then routes without looking at ports.
#[derive(Debug)]
pub(super) struct RawSender {
    socket: Socket,
    local: SocketAddr,
}

impl RawSender {
    /// Sends from `local`, whose port is another socket's.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW.
    pub(super) fn new(local: SocketAddr, prepare: impl Fn(&Socket) -> io::Result<()>) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(local), Type::RAW, Some(Protocol::UDP))?;
        prepare(&socket)?;
        let mut address = local;
        address.set_port(0);
        socket.bind(&address.into())?;
        // What arrives is the other socket's: a filter whose only step takes nothing.
        const RETURN: u16 = 0x06;
        socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)])?;
        Ok(Self { socket, local })
    }

    /// The socket, for its options.
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Sends a datagram with a header of our own.
    pub(super) fn send(&self, remote: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let packet = with_header(self.local, remote, bytes)?;
        let mut to = remote;
        // The kernel takes the port of a raw socket's destination for a protocol.
        to.set_port(0);
        self.socket.send_to(&packet, &to.into()).map(drop)
    }
}

/// The datagram with its UDP header (RFC 768).
fn with_header(local: SocketAddr, remote: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(UDP_HEADER + bytes.len()).map_err(|_| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
    let mut packet = Vec::with_capacity(usize::from(length));
    packet.extend(local.port().to_be_bytes());
    packet.extend(remote.port().to_be_bytes());
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(bytes);
    let sum = checksum(local.ip(), remote.ip(), &packet);
    packet[6..8].copy_from_slice(&sum.to_be_bytes());
    Ok(packet)
}

/// The checksum over pseudo header, header and data (RFC 768, RFC 8200 §8.1).
fn checksum(source: IpAddr, destination: IpAddr, packet: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum()
    };
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => words(&ip.octets()),
        IpAddr::V6(ip) => words(&ip.octets()),
    };
    let length = u32::try_from(packet.len()).unwrap_or(0);
    let mut sum = address(source) + address(destination) + 17 + length + words(packet);
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    match !u16::try_from(sum).unwrap_or(0) {
        0 => 0xFFFF,
        sum => sum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_ports_length_and_a_checksum_that_adds_up() {
        let (local, remote) = ("192.0.2.1:51820".parse().unwrap(), "198.51.100.7:40000".parse().unwrap());
        for data in [&b"even"[..], b"odd", b""] {
            let packet = with_header(local, remote, data).unwrap();
            assert_eq!(packet[..6], [0xca, 0x6c, 0x9c, 0x40, 0, 8 + u8::try_from(data.len()).unwrap()]);
            assert_eq!(&packet[8..], data);
            // The sum over everything, the checksum included, is zero, which is written 0xFFFF.
            assert_eq!(checksum(local.ip(), remote.ip(), &packet), 0xFFFF, "{data:?}");
        }
        assert!(with_header(local, remote, &vec![0; 65_536]).is_err());
    }

    #[test]
    fn only_what_can_be_an_interface_is_one() {
        assert_eq!(DeviceName::new("eth0").unwrap().bytes(), b"eth0");
        for name in ["", "a/b", "sixteen-letters-", "nul\0"] {
            assert!(DeviceName::new(name).is_none(), "{name}");
        }
    }

    #[test]
    fn the_user_is_changed_for_the_socket_alone() {
        let before = setfsuid(Uid::from_raw(u32::MAX));
        let other = before.as_raw() ^ 1;
        match as_user(Some(other), || Ok(setfsuid(Uid::from_raw(u32::MAX)).as_raw())) {
            Ok(inside) => assert_eq!(inside, other),
            // Only a privileged process may.
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM)),
        }
        assert_eq!(setfsuid(Uid::from_raw(u32::MAX)), before);
    }
}
