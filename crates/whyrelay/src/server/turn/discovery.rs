//! The sockets of behavior discovery (RFC 5780, docs/probes.md).

use std::io;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use socket2::{Protocol, Socket, Type};
use whyrelay_core::engine::turn_server::{Alternate, Discovery, DiscoverySocket, ListenerId, SharedSecret};

use super::options::{self, Listeners};

/// How behavior discovery is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryConfig {
    /// The first of the two ports; the other is the one after it. `None`: the one after the STUN port, or any two if
    /// that is any.
    pub port: Option<u16>,
    /// Where the second address is.
    pub alternate: AlternateConfig,
    /// Whether CHANGE-REQUEST is obeyed, within bounds, for sources that have not proven their address.
    pub serves_unproven: bool,
}

/// Where the second address of behavior discovery is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlternateConfig {
    /// On this host: its addresses, and those under which clients see them; at most one of each family.
    Here(Vec<AlternateAddress>),
    /// On another server, which offers the same with this one as its alternate.
    Server {
        /// Its addresses, at most one of each family.
        addresses: Vec<IpAddr>,
        /// What both know.
        secret: SharedSecret,
    },
}

/// A second address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlternateAddress {
    /// The address of an interface.
    pub local: IpAddr,
    /// The address that clients see: another one behind a 1:1 NAT.
    pub public: IpAddr,
}

/// What was opened.
#[derive(Default)]
pub(super) struct Opened {
    pub(super) families: Vec<Discovery>,
    /// The local addresses of all sockets, the primary ones first.
    pub(super) addresses: Vec<SocketAddr>,
}

/// Opens four sockets for each family, or two where the alternate is another server, and adds them to the listeners.
pub(super) fn open(config: &DiscoveryConfig, listeners: &mut Listeners, external: &[IpAddr]) -> Result<Opened> {
    let alternates: Vec<AlternateAddress> = match &config.alternate {
        AlternateConfig::Here(addresses) => addresses.clone(),
        AlternateConfig::Server { addresses, .. } => {
            addresses.iter().map(|ip| AlternateAddress { local: *ip, public: *ip }).collect()
        }
    };
    let (mut families, mut primary_addresses, mut other_addresses) = (Vec::new(), Vec::new(), Vec::new());
    for alternate in alternates {
        let ip = alternate.local;
        let same_family = |other: &&SocketAddr| other.is_ipv4() == ip.is_ipv4() && other.ip() != ip;
        let mut usable = listeners.addresses.iter().filter(same_family);
        let primary = usable.clone().find(|address| !address.ip().is_loopback()).or_else(|| usable.next());
        let primary = primary.with_context(|| format!("the alternate address {ip} needs another one of its family"))?;
        let known = families.iter().any(|family: &Discovery| family.primary[0].address.is_ipv4() == ip.is_ipv4());
        ensure!(!known, "there can be one alternate address of each family");
        let public = external.iter().find(|ip| ip.is_ipv4() == primary.is_ipv4()).copied().unwrap_or(primary.ip());
        let here = matches!(config.alternate, AlternateConfig::Here(_));
        let ips = if here { vec![primary.ip(), ip] } else { vec![primary.ip()] };
        let port = config.port.unwrap_or(if listeners.any_port { 0 } else { primary.port().saturating_add(1) });
        let sockets = open_all(&ips, port).with_context(|| {
            let list = ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
            format!("opening the ports {port} and {} of behavior discovery on {list}", port.saturating_add(1))
        })?;
        let mut place = |socket: Socket, public: IpAddr, list: &mut Vec<SocketAddr>| -> Result<DiscoverySocket> {
            let local = local_address(&socket)?;
            list.push(local);
            let listener = ListenerId(u16::try_from(listeners.udp.len())?);
            listeners.udp.push(vec![socket]);
            Ok(DiscoverySocket { listener, address: SocketAddr::new(public, local.port()) })
        };
        let mut pairs = sockets.into_iter();
        let mut pair = |public, list: &mut Vec<SocketAddr>| -> Result<[DiscoverySocket; 2]> {
            let [first, second] = pairs.next().context("a pair of sockets")?;
            Ok([place(first, public, list)?, place(second, public, list)?])
        };
        let primary = pair(public, &mut primary_addresses)?;
        let alternate = match &config.alternate {
            AlternateConfig::Here(_) => Alternate::Here(pair(alternate.public, &mut other_addresses)?),
            AlternateConfig::Server { secret, .. } => Alternate::Server { ip, secret: secret.clone() },
        };
        families.push(Discovery { primary, alternate, serves_unproven: config.serves_unproven });
    }
    primary_addresses.extend(other_addresses);
    Ok(Opened { families, addresses: primary_addresses })
}

/// Two ports on each address, the same ones. When any will do, several are tried.
fn open_all(ips: &[IpAddr], port: u16) -> io::Result<Vec<[Socket; 2]>> {
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

fn try_open_all(ips: &[IpAddr], mut port: u16) -> io::Result<Vec<[Socket; 2]>> {
    let mut pairs = Vec::new();
    for ip in ips {
        let first = open_one(*ip, port)?;
        port = local_address(&first)?.port();
        let next = port.checked_add(1).ok_or(io::ErrorKind::AddrInUse)?;
        pairs.push([first, open_one(*ip, next)?]);
    }
    Ok(pairs)
}

fn open_one(ip: IpAddr, port: u16) -> io::Result<Socket> {
    options::open(SocketAddr::new(ip, port), Type::DGRAM, Protocol::UDP)
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}
