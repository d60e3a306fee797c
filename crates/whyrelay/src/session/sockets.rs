//! The sockets of a session: opened at its start, and the one door that every datagram passes, recorded first.

use std::net::{SocketAddr, SocketAddrV6};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use whyrelay_core::engine::gather::LocalSocket;
use whyrelay_core::engine::peer::{self, Transmit};
use whyrelay_core::ice::candidate::CandidateTransport;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::{Direction, EventKind, InterfaceUse, Transport};

use super::driver::{Session, Todo};
use crate::io::interfaces;
use crate::io::names::Resolved;
use crate::io::stream::StreamInput;
use crate::io::udp::{UdpDoor, UdpInput};

/// A resolver that takes longer is worth a word where the session ends before it answers; sessions may be shorter than an
/// ordinary look-up.
const SLOW_RESOLVER: Duration = Duration::from_secs(1);

impl Session {
    /// Opens a socket on every usable address.
    pub(super) fn open_sockets(&mut self, inputs: &mpsc::Sender<UdpInput>) -> anyhow::Result<()> {
        let found = interfaces::list(&self.config.interfaces).context("listing the interfaces")?;
        for interface in &found {
            let addresses = interface.addresses.iter().map(SocketAddr::ip).collect();
            let (name, index, used) = (interface.name.clone(), interface.index, interface.used);
            self.record(EventKind::Interface { name, index, addresses, used });
        }
        for name in self.config.absent.clone() {
            let there: Vec<&str> = found.iter().map(|interface| interface.name.as_str()).collect();
            let there = if self.config.redact { String::new() } else { format!("; it has {}", there.join(", ")) };
            self.progress
                .step(&format!("warning: --exclude-interface {name}: this host has no interface of that name{there}"));
            self.record(EventKind::Interface { name, index: 0, addresses: vec![], used: InterfaceUse::Absent });
        }
        let usable = interfaces::usable(&found, &self.config.interfaces);
        if usable.is_empty() {
            let names: Vec<&str> = found.iter().map(|interface| interface.name.as_str()).collect();
            let excluded = found.iter().any(|i| matches!(i.used, InterfaceUse::NotIncluded | InterfaceUse::Excluded));
            let hint = if excluded { "check --interface and --exclude-interface" } else { "is the network up?" };
            anyhow::bail!("no usable address on this host's interfaces ({})\nhint: {hint}", names.join(", "));
        }
        let mut first_error = None;
        for (address, interface) in usable {
            let wanted = with_port(address, self.config.port.unwrap_or(0));
            match self.open_door(wanted, interface.as_deref(), inputs) {
                Ok(door) => self.opened(door, interface.clone()),
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(0);
                    let (transport, local, detail) = (Transport::Udp, wanted, error.to_string());
                    self.record(EventKind::SocketFailed { transport, local, errno, detail });
                    first_error.get_or_insert((wanted, error));
                    continue;
                }
            }
            if !self.config.no_tcp {
                self.open_tcp(address, interface);
            }
        }
        self.record_application();
        match first_error {
            Some((address, error)) if self.doors.is_empty() => {
                let hint = match error.raw_os_error() {
                    Some(libc::EPERM) if self.config.mark.is_some() => {
                        "\nhint: --mark needs CAP_NET_ADMIN: run as root, or give the binary that capability".to_owned()
                    }
                    Some(libc::EADDRINUSE) => {
                        "\nhint: another program has this port; the mark alone (--mark) often shows the same fault"
                            .to_owned()
                    }
                    Some(libc::EADDRNOTAVAIL) => {
                        interfaces::not_available(&found, &self.config.interfaces, address.ip())
                    }
                    _ => String::new(),
                };
                Err(anyhow::anyhow!("opening a UDP socket on {address}: {error}{hint}"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn opened(&mut self, door: UdpDoor, interface: Option<String>) {
        let local = door.local();
        self.record_profile(bare(local), self.options_on(interface.as_deref()), true);
        self.record(EventKind::SocketOpened {
            transport: Transport::Udp,
            local: bare(local),
            interface: interface.clone(),
            mark: self.config.mark,
            receive_buffer: door.receive_buffer(),
        });
        self.probing.own_socket(bare(local), interface.as_deref());
        self.doors.insert(bare(local), door);
        let socket = LocalSocket { local, interface, transport: CandidateTransport::Udp };
        self.feed(peer::Input::Socket(socket));
    }

    /// A listener for peers that connect, and a candidate for connecting ourselves.
    pub(super) fn open_tcp(&mut self, address: SocketAddr, interface: Option<String>) {
        match self.streams.listen(with_port(address, 0), self.config.mark) {
            Ok(local) => {
                self.record(EventKind::SocketOpened {
                    transport: Transport::Tcp,
                    local: bare(local),
                    interface: interface.clone(),
                    mark: self.config.mark,
                    receive_buffer: None,
                });
                let transport = CandidateTransport::TcpPassive;
                self.feed(peer::Input::Socket(LocalSocket { local, interface: interface.clone(), transport }));
                let (local, transport) = (with_port(address, 9), CandidateTransport::TcpActive);
                self.feed(peer::Input::Socket(LocalSocket { local, interface, transport }));
            }
            Err(error) => {
                let (transport, errno) = (Transport::Tcp, error.raw_os_error().unwrap_or(0));
                self.record(EventKind::SocketFailed { transport, local: address, errno, detail: error.to_string() });
            }
        }
    }

    /// The door, outbound: record, then send.
    pub(super) fn transmit(&mut self, now: Timestamp, transmit: &Transmit) {
        let Transmit { transport, stream, local, remote, bytes } = transmit;
        let ends = (bare(*local), *remote);
        self.sink.pass(now, Direction::Out, *transport, ends, bytes, || None);
        if *transport == Transport::Udp && crate::host::is_server_request(bytes) {
            self.probing.server(*remote);
        }
        let sent = match stream {
            Some(id) if self.streams.send(*id, bytes) => Ok(()),
            Some(_) => Err(std::io::Error::from_raw_os_error(libc::ENOBUFS)),
            None => match self.doors.get(&bare(*local)) {
                Some(door) => door.send(*remote, bytes),
                None => Err(std::io::Error::from_raw_os_error(libc::ENOTCONN)),
            },
        };
        if let Err(error) = sent {
            let errno = error.raw_os_error().unwrap_or(0);
            let (transport, local, remote) = (*transport, bare(*local), *remote);
            self.sink.record(now, EventKind::SendFailed { transport, local, remote, errno, detail: error.to_string() });
            if stream.is_none() {
                self.todo.push_back(Todo::SendFailed { local, remote, errno });
            }
        }
    }

    /// The door, inbound: record, then handle.
    pub(super) fn udp_input(&mut self, input: UdpInput) {
        match input {
            UdpInput::Datagram { local, remote, kernel_time, bytes } => {
                let at = kernel_time.map_or_else(|| self.clock.now(), |time| self.clock.from_kernel(time));
                let local = bare(local);
                let peer = &self.peer;
                self.sink.pass(at, Direction::In, Transport::Udp, (local, remote), &bytes, || {
                    peer.verify(local, remote, &bytes)
                });
                if !self.take_probe(local, remote, &bytes) {
                    self.feed_arrived(at, peer::Input::Datagram { local, remote, bytes: &bytes });
                }
            }
            UdpInput::Icmp(error) if self.probe_error(&error) => {}
            UdpInput::Icmp(error) => {
                let (local, remote, offender) = (bare(error.local), error.remote, error.offender);
                let (icmp_type, icmp_code, errno) = (error.icmp_type, error.icmp_code, error.errno);
                self.record(EventKind::IcmpError { local, remote, offender, icmp_type, icmp_code, errno });
            }
            UdpInput::Broken { local, error } => {
                let (transport, local, detail) = (Transport::Udp, bare(local), error.to_string());
                self.record(EventKind::SocketClosed { transport, local, detail });
            }
        }
    }

    pub(super) fn stream_input(&mut self, input: StreamInput) {
        match input {
            StreamInput::Connected { id, local, remote, transport } => {
                let (interface, mark) = (None, self.config.mark);
                self.record(EventKind::SocketOpened { transport, local, interface, mark, receive_buffer: None });
                self.progress.step(&format!("connected to {remote} by {}", transport_name(transport)));
                self.feed(peer::Input::Connected { id, local });
            }
            StreamInput::Accepted { id, local, remote } => {
                self.feed(peer::Input::Accepted { id, local: bare(local), remote });
            }
            StreamInput::Message { id, local, remote, transport, arrived, bytes } => {
                let peer = &self.peer;
                let at = self.clock.timestamp(arrived);
                self.sink.pass(at, Direction::In, transport, (bare(local), remote), &bytes, || {
                    peer.verify(local, remote, &bytes)
                });
                self.feed_arrived(at, peer::Input::Message { id, bytes: &bytes });
            }
            StreamInput::Closed { id, detail } => {
                self.streams.close(id);
                self.feed(peer::Input::Disconnected { id, detail: &detail });
            }
        }
    }

    pub(super) fn name_input(&mut self, resolved: &Resolved) {
        self.resolver.ended(&resolved.name);
        let addresses = resolved.result.as_ref().cloned().unwrap_or_default();
        self.record(EventKind::NameResolved {
            name: resolved.name.clone(),
            addresses: addresses.clone(),
            took_us: u64::try_from(resolved.took.as_micros()).unwrap_or(u64::MAX),
            error: resolved.result.as_ref().err().cloned(),
        });
        let result = match &resolved.result {
            Ok(_) => Ok(&addresses[..]),
            Err(detail) => Err(detail.as_str()),
        };
        self.feed(peer::Input::Resolved { name: &resolved.name, result });
    }

    /// The session ends: names that the resolver left open until now are said to be.
    pub(super) fn give_names_up(&mut self) {
        for (name, took) in self.resolver.give_up() {
            if took >= SLOW_RESOLVER {
                let error = Some(format!(
                    "no answer from the resolver for {:.1} s, until the session ended",
                    took.as_secs_f32()
                ));
                let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                self.record(EventKind::NameResolved { name, addresses: Vec::new(), took_us, error });
            }
        }
    }
}

/// The same address without IPv6 scope and flow label: one socket, one name.
pub(super) fn bare(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

fn with_port(address: SocketAddr, port: u16) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => SocketAddr::new(address.ip(), port),
        SocketAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(*v6.ip(), port, 0, v6.scope_id())),
    }
}

fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "UDP",
        Transport::Tcp => "TCP",
        Transport::Tls => "TLS",
    }
}
