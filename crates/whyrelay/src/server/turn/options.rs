//! From configuration to open sockets.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::mmsg;
use super::udp::BUFFER;
use crate::io::interfaces::{self, InterfaceFilter};

/// The listening sockets; the index of a UDP address is its `ListenerId`.
pub(super) struct Listeners {
    /// For each address one socket, or one for each thread.
    pub(super) udp: Vec<Vec<Socket>>,
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

/// Opens UDP and TCP sockets, for each address its own, so that answers leave from the address that was asked; for UDP
/// one for each of the threads.
pub(super) fn open_listeners(listen: &[SocketAddr], local: &[IpAddr], threads: usize) -> Result<Listeners> {
    let mut listeners = Listeners { udp: Vec::new(), tcp: Vec::new(), addresses: Vec::new(), any_port: false };
    for address in listen {
        listeners.any_port |= address.port() == 0;
        let ips: Vec<IpAddr> = if address.ip().is_unspecified() {
            local.iter().copied().filter(|ip| ip.is_ipv4() == address.is_ipv4()).collect()
        } else {
            vec![address.ip()]
        };
        ensure!(!ips.is_empty(), "listening on {address}: this host has no address of that family");
        let (udp, tcp) = open_all(&ips, address.port(), threads).with_context(|| format!("listening on {address}"))?;
        for (udp, tcp) in udp.into_iter().zip(tcp) {
            listeners.addresses.push(tcp.local_addr()?);
            listeners.udp.push(udp);
            listeners.tcp.push(tcp);
        }
    }
    ensure!(!listeners.udp.is_empty(), "there is no address to listen on");
    Ok(listeners)
}

/// One port on all addresses, for UDP and TCP. When any port will do, several are tried: the one that the system
/// gives for the first socket may be taken for another.
fn open_all(ips: &[IpAddr], port: u16, threads: usize) -> io::Result<(Vec<Vec<Socket>>, Vec<TcpListener>)> {
    const TRIES: usize = 20;
    let mut outcome = Err(io::ErrorKind::AddrInUse.into());
    for _ in 0..if port == 0 { TRIES } else { 1 } {
        outcome = try_open_all(ips, port, threads);
        if !matches!(&outcome, Err(error) if error.kind() == io::ErrorKind::AddrInUse) {
            break;
        }
    }
    outcome
}

fn try_open_all(ips: &[IpAddr], mut port: u16, threads: usize) -> io::Result<(Vec<Vec<Socket>>, Vec<TcpListener>)> {
    let (mut udp, mut tcp) = (Vec::new(), Vec::new());
    for ip in ips {
        // The first is bound as if it were the only one: two servers must not share a port unknowingly.
        let first = open(SocketAddr::new(*ip, port), Type::DGRAM, Protocol::UDP)?;
        let address = first.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        port = address.port();
        let mut shards = vec![first];
        if threads > 1 {
            shards[0].set_reuse_port(true)?;
        }
        while shards.len() < threads {
            let socket = unbound(address, Type::DGRAM, Protocol::UDP)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            shards.push(socket);
        }
        for socket in &shards {
            socket.set_recv_buffer_size(BUFFER)?;
            socket.set_send_buffer_size(BUFFER)?;
            mmsg::coalesce(socket.as_fd());
        }
        udp.push(shards);
        let socket = open(address, Type::STREAM, Protocol::TCP)?;
        socket.listen(1024)?;
        tcp.push(TcpListener::from_std(StdTcpListener::from(socket))?);
    }
    Ok((udp, tcp))
}

pub(super) fn open(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = unbound(address, kind, protocol)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn unbound(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if protocol == Protocol::TCP {
        // A restart must not wait for old connections; for UDP the option would let two servers share a port.
        socket.set_reuse_address(true)?;
    }
    Ok(socket)
}

/// Which families relays can be had in.
pub(super) struct Families {
    pub(super) ipv4: bool,
    pub(super) ipv6: bool,
}

pub(super) fn relay_families(configured: &[IpAddr], listen: &[SocketAddr], local: &[IpAddr]) -> Families {
    // A loopback address alone is no IPv6: a relay there could reach nobody. A server that listens on all addresses
    // listens on that one, too; one that listens on nothing else wants it.
    let at_home = listen.iter().all(|address| address.ip().is_loopback());
    let listening = listen.iter().map(SocketAddr::ip).filter(|ip| at_home || !ip.is_loopback());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_address_alone_is_no_family_to_relay_in() {
        type Case = (&'static [&'static str], &'static [&'static str], (bool, bool));
        let cases: [Case; 5] = [
            // On all addresses of a host without IPv6.
            (&["127.0.0.1:1", "192.0.2.1:1", "[::1]:1"], &["192.0.2.1", "::1"], (true, false)),
            (&["192.0.2.1:1"], &["192.0.2.1", "2001:db8::1", "::1"], (true, true)),
            (&["192.0.2.1:1"], &["192.0.2.1", "127.0.0.1", "::1"], (true, false)),
            // A demonstration on one machine.
            (&["127.0.0.1:1"], &["127.0.0.1", "::1"], (true, false)),
            (&["[::1]:1"], &["127.0.0.1", "::1"], (false, true)),
        ];
        for (listen, local, expected) in cases {
            let listen: Vec<SocketAddr> = listen.iter().map(|text| text.parse().expect("an address")).collect();
            let local: Vec<IpAddr> = local.iter().map(|text| text.parse().expect("an address")).collect();
            let families = relay_families(&[], &listen, &local);
            assert_eq!((families.ipv4, families.ipv6), expected, "{listen:?} {local:?}");
        }
    }
}
