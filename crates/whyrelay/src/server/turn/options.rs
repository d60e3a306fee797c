//! From configuration to open sockets.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdTcpListener};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use super::udp::BUFFER;
use crate::io::interfaces::{self, InterfaceFilter};

/// The listening sockets; a UDP socket's index is its `ListenerId`.
pub(super) struct Listeners {
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: Vec<TcpListener>,
    pub(super) addresses: Vec<SocketAddr>,
    /// Whether the system chose the port.
    pub(super) any_port: bool,
}

/// The addresses of this host's interfaces, without IPv6 link-local ones, which mean nothing elsewhere.
pub(super) fn local_addresses() -> io::Result<Vec<IpAddr>> {
    let interfaces = interfaces::list(&InterfaceFilter::default())?;
    let mut addresses: Vec<IpAddr> =
        interfaces.iter().flat_map(|interface| &interface.addresses).map(|address| address.ip()).collect();
    addresses.retain(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()));
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Opens UDP and TCP sockets. One socket for each address, so that answers leave from the address that was asked.
pub(super) fn open_listeners(listen: &[SocketAddr], local: &[IpAddr]) -> Result<Listeners> {
    let mut listeners = Listeners { udp: Vec::new(), tcp: Vec::new(), addresses: Vec::new(), any_port: false };
    for address in listen {
        listeners.any_port |= address.port() == 0;
        let ips: Vec<IpAddr> = if address.ip().is_unspecified() {
            local.iter().copied().filter(|ip| ip.is_ipv4() == address.is_ipv4()).collect()
        } else {
            vec![address.ip()]
        };
        ensure!(!ips.is_empty(), "listening on {address}: this host has no address of that family");
        let (udp, tcp) = open_all(&ips, address.port()).with_context(|| format!("listening on {address}"))?;
        for (udp, tcp) in udp.into_iter().zip(tcp) {
            listeners.addresses.push(udp.local_addr()?);
            listeners.udp.push(udp);
            listeners.tcp.push(tcp);
        }
    }
    ensure!(!listeners.udp.is_empty(), "there is no address to listen on");
    Ok(listeners)
}

/// One port on all addresses, for UDP and TCP. When any port will do, several are tried: the one that the system
/// gives for the first socket may be taken for another.
fn open_all(ips: &[IpAddr], port: u16) -> io::Result<(Vec<UdpSocket>, Vec<TcpListener>)> {
    const TRIES: usize = 20;
    let mut outcome = Err(io::ErrorKind::AddrInUse.into());
    for _ in 0..if port == 0 { TRIES } else { 1 } {
        outcome = try_open_all(ips, port);
        if !matches!(&outcome, Err(error) if error.kind() == io::ErrorKind::AddrInUse) {
            break;
        }
    }
    outcome
}

fn try_open_all(ips: &[IpAddr], mut port: u16) -> io::Result<(Vec<UdpSocket>, Vec<TcpListener>)> {
    let (mut udp, mut tcp) = (Vec::new(), Vec::new());
    for ip in ips {
        let socket = open(SocketAddr::new(*ip, port), Type::DGRAM, Protocol::UDP)?;
        socket.set_recv_buffer_size(BUFFER)?;
        socket.set_send_buffer_size(BUFFER)?;
        let socket = UdpSocket::from_std(socket.into())?;
        port = socket.local_addr()?.port();
        udp.push(socket);
        let socket = open(SocketAddr::new(*ip, port), Type::STREAM, Protocol::TCP)?;
        socket.listen(1024)?;
        tcp.push(TcpListener::from_std(StdTcpListener::from(socket))?);
    }
    Ok((udp, tcp))
}

pub(super) fn open(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if protocol == Protocol::TCP {
        // A restart must not wait for old connections; for UDP the option would let two servers share a port.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Which families relays can be had in.
pub(super) struct Families {
    pub(super) ipv4: bool,
    pub(super) ipv6: bool,
}

pub(super) fn relay_families(configured: &[IpAddr], listen: &[SocketAddr], local: &[IpAddr]) -> Families {
    let listening = listen.iter().map(SocketAddr::ip);
    // An IPv6 loopback address alone is no IPv6: a relay there could reach nobody.
    let reaching = local.iter().copied().filter(|ip| !ip.is_loopback());
    let all: Vec<IpAddr> =
        if configured.is_empty() { listening.chain(reaching).collect() } else { configured.to_vec() };
    Families { ipv4: all.iter().any(IpAddr::is_ipv4), ipv6: all.iter().any(IpAddr::is_ipv6) }
}

/// The one element of a kind; more than one is a contradiction.
pub(super) fn only<T>(addresses: &[IpAddr], kind: impl Fn(&IpAddr) -> Option<T>) -> Result<Option<T>> {
    let mut found = addresses.iter().filter_map(kind);
    let first = found.next();
    if found.next().is_some() {
        bail!("there can be one external address of each family");
    }
    Ok(first)
}

/// Random bytes from the system.
pub(super) fn entropy() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("the system's random source")?;
    Ok(bytes)
}
