//! The socket table: who has which port, with which mark, by INET_DIAG.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;

use netlink_packet_core::{Emitable, Parseable};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use whyrelay_core::host::{HostFact, HostSocket, Link, SocketTransport, Subject, bounded};

use super::netlink::Netlink;
use super::software;

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;

/// Most sockets that are looked at.
const MAX_LOOKED_AT: usize = 200_000;

/// Most sockets that are recorded.
const MAX_RECORDED: usize = 64;

/// Most descriptors of processes that are looked at to find whose a socket is.
const MAX_DESCRIPTORS: usize = 200_000;

/// Programs whose sockets matter whatever their port.
const PROGRAMS: [&str; 6] = ["netbird", "tailscaled", "wireguard-go", "boringtun", "openvpn", "zerotier-one"];

/// Ports that matter whoever has them: WireGuard's and NetBird's, Tailscale's.
const PORTS: [u16; 2] = [51820, 41641];

/// A socket of the table with its inode.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    inode: u32,
    interface: u32,
    pub(super) socket: HostSocket,
}

/// All UDP and raw sockets of this namespace.
pub(super) fn all() -> io::Result<Vec<Listed>> {
    let mut sockets = Vec::new();
    for (protocol, socket_transport) in
        [(libc::IPPROTO_UDP, SocketTransport::Udp), (libc::IPPROTO_RAW, SocketTransport::Raw)]
    {
        for (family, id) in [(libc::AF_INET, SocketId::new_v4()), (libc::AF_INET6, SocketId::new_v6())] {
            let request = InetRequest {
                family: u8::try_from(family).unwrap_or(0),
                protocol: u8::try_from(protocol).unwrap_or(0),
                extensions: ExtensionFlags::empty(),
                states: StateFlags::all(),
                socket_id: id,
            };
            let mut payload = vec![0; request.buffer_len()];
            request.emit(&mut payload);
            let asked = Netlink::open(NETLINK_SOCK_DIAG)?.dump(SOCK_DIAG_BY_FAMILY, &payload, |_, body| {
                if let Some(socket) = read(body, socket_transport) {
                    sockets.push(socket);
                }
                if sockets.len() < MAX_LOOKED_AT { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            // A kernel may lack the diagnosis of raw sockets, or IPv6.
            if socket_transport == SocketTransport::Udp && family == libc::AF_INET {
                asked?;
            }
        }
    }
    Ok(sockets)
}

fn read(body: &[u8], socket_transport: SocketTransport) -> Option<Listed> {
    let response = InetResponse::parse(body).ok()?;
    let mark = response.nlas.iter().find_map(|attribute| match attribute {
        Nla::Mark(mark) => Some(*mark),
        _ => None,
    });
    let (header, id) = (&response.header, &response.header.socket_id);
    let socket = HostSocket {
        socket_transport,
        local: SocketAddr::new(id.source_address, id.source_port),
        user: header.uid,
        mark,
        bound_device: None,
        process_id: None,
        process: None,
    };
    Some(Listed { inode: header.inode, interface: id.interface_id, socket })
}

/// The sockets of other programs that matter: on the session's ports, on the usual ports of VPNs, or of a VPN.
pub(super) fn facts(ports: &BTreeSet<u16>, links: &BTreeMap<u32, Link>) -> io::Result<Vec<HostFact>> {
    let own = std::process::id();
    let all = all()?;
    let processes: Vec<(u32, String)> = software::processes().collect();
    let is_vpn = |(_, name): &&(u32, String)| PROGRAMS.contains(&name.as_str());
    let vpns: Vec<u32> = processes.iter().filter(is_vpn).map(|(id, _)| *id).collect();
    // Our own are known without a look at every process, which takes milliseconds.
    let mut owners = owners(vpns.iter().copied().chain([own]));
    let on_port = |socket: &HostSocket| {
        socket.socket_transport == SocketTransport::Udp
            && (ports.contains(&socket.local.port()) || PORTS.contains(&socket.local.port()))
    };
    let unknown = |listed: &&Listed| on_port(&listed.socket) && !owners.contains_key(&listed.inode);
    if all.iter().any(|listed| unknown(&listed)) {
        owners.extend(self::owners(processes.iter().map(|(id, _)| *id)));
    }
    let total = all.len() as u64;
    let facts = all.into_iter().filter_map(|listed| {
        let owner = owners.get(&listed.inode).copied();
        let mut socket = listed.socket;
        let matters = on_port(&socket) || owner.is_some_and(|owner| vpns.contains(&owner));
        if !matters || owner == Some(own) {
            return None;
        }
        socket.process_id = owner;
        socket.process = owner.and_then(name_of);
        socket.bound_device = links.get(&listed.interface).map(|link| link.device.clone());
        Some(HostFact::Socket(socket))
    });
    let mut facts: Vec<_> = facts.take(MAX_RECORDED).collect();
    let recorded = facts.len() as u64;
    facts.push(HostFact::Counted { subject: Subject::Sockets, total, recorded });
    Ok(facts)
}

/// The sockets of one process.
///
/// # Errors
/// When the socket table cannot be read.
pub(crate) fn of_process(process: u32, links: &BTreeMap<u32, Link>) -> io::Result<Vec<HostSocket>> {
    let inodes = owners([process]);
    let own = all()?.into_iter().filter(|listed| inodes.contains_key(&listed.inode));
    let sockets = own.map(|listed| HostSocket {
        process_id: Some(process),
        bound_device: links.get(&listed.interface).map(|link| link.device.clone()),
        ..listed.socket
    });
    Ok(sockets.collect())
}

/// Whose sockets are whose: inode and process.
fn owners(processes: impl IntoIterator<Item = u32>) -> BTreeMap<u32, u32> {
    let mut owners = BTreeMap::new();
    let mut looked_at = 0;
    for process in processes {
        // Another user's descriptors cannot be listed: that stays unknown.
        for entry in fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten() {
            looked_at += 1;
            if looked_at > MAX_DESCRIPTORS {
                return owners;
            }
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode {
                owners.insert(inode, process);
            }
        }
    }
    owners
}

fn name_of(process: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
    Some(bounded(name.trim_end().to_owned()))
}
