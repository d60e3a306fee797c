//! turn-server-proto behind a loop of a few lines: UDP on one address, one user, relays on the same address.
//!
//! `bench-peer-turn-proto ADDR:PORT REALM USER PASSWORD`
//!
//! One thread, because the library has one machine for everything. It waits with epoll and reads a socket until nothing
//! is left; each datagram is one system call in and one out, as the library knows no runs.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant as Clock};

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};
use turn_server_proto::api::{SocketAllocateError, TurnServerApi as _, TurnServerPollRet};
use turn_server_proto::server::TurnServer;
use turn_server_proto::stun::agent::Transmit;
use turn_server_proto::types::prelude::DelayedTransmitBuild as _;
use turn_server_proto::types::stun::TransportType;
use turn_server_proto::types::{AddressFamily, Instant};

/// The largest datagram, in bytes.
const LARGEST: usize = 65_535;

/// The machine is looked at again after this at the latest.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

struct Driver {
    server: TurnServer,
    base: Clock,
    poll: Poll,
    /// By token; `None` once closed.
    sockets: Vec<Option<(SocketAddr, UdpSocket)>>,
    tokens: HashMap<SocketAddr, usize>,
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, realm, user, password] = &arguments[..] else {
        return Err(io::Error::other("bench-peer-turn-proto ADDR:PORT REALM USER PASSWORD"));
    };
    let listen: SocketAddr = listen.parse().map_err(io::Error::other)?;
    let mut server = TurnServer::new(TransportType::Udp, listen, realm.clone());
    server.add_user(user.clone(), password.clone());
    let (poll, sockets, tokens) = (Poll::new()?, Vec::new(), HashMap::new());
    let mut driver = Driver { server, base: Clock::now(), poll, sockets, tokens };
    driver.open(listen)?;
    driver.run()
}

impl Driver {
    fn now(&self) -> Instant {
        Instant::from_std(self.base)
    }

    fn open(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        let mut socket = UdpSocket::bind(address)?;
        let (address, token) = (socket.local_addr()?, self.sockets.len());
        self.poll.registry().register(&mut socket, Token(token), Interest::READABLE)?;
        self.sockets.push(Some((address, socket)));
        self.tokens.insert(address, token);
        Ok(address)
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; LARGEST];
        loop {
            let until = self.drive();
            let wait = until.checked_duration_since(self.now()).unwrap_or_default().min(LONGEST_WAIT);
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                self.read(event.token().0, &mut buffer);
            }
        }
    }

    /// Carries out what the machine wants, until it waits.
    fn drive(&mut self) -> Instant {
        loop {
            let now = self.now();
            while let Some(transmit) = self.server.poll_transmit(now) {
                self.send(transmit.from, transmit.to, &transmit.data);
            }
            match self.server.poll(now) {
                TurnServerPollRet::WaitUntil(until) => return until,
                TurnServerPollRet::AllocateSocket {
                    transport,
                    listen_addr,
                    client_addr,
                    allocation_transport,
                    family,
                } => {
                    let opened = match family {
                        AddressFamily::IPV4 if listen_addr.is_ipv4() => {
                            let opened = self.open(SocketAddr::new(listen_addr.ip(), 0));
                            opened.map_err(|_| SocketAllocateError::InsufficientCapacity)
                        }
                        _ => Err(SocketAllocateError::AddressFamilyNotSupported),
                    };
                    let with = (transport, listen_addr, client_addr);
                    self.server.allocated_socket(with.0, with.1, with.2, allocation_transport, family, opened, now);
                }
                TurnServerPollRet::SocketClose { listen_addr, .. } => {
                    if let Some(token) = self.tokens.remove(&listen_addr) {
                        self.sockets[token] = None;
                    }
                }
                // There are no streams.
                TurnServerPollRet::TcpConnect { .. } | TurnServerPollRet::TcpClose { .. } => {}
            }
        }
    }

    fn read(&mut self, token: usize, buffer: &mut [u8]) {
        while let Some(Some((local, socket))) = self.sockets.get(token) {
            let local = *local;
            let Ok((length, from)) = socket.recv_from(buffer) else { return };
            let arrived = Transmit::new(&buffer[..length], TransportType::Udp, from, local);
            let now = self.now();
            if let Some(answer) = self.server.recv(arrived, now) {
                let (from, to) = (answer.from, answer.to);
                self.send(from, to, &answer.data.build());
            }
        }
    }

    /// What the system does not take is lost, as on any network.
    fn send(&self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if let Some((_, socket)) = self.tokens.get(&from).and_then(|token| self.sockets[*token].as_ref()) {
            let _ = socket.send_to(bytes, to);
        }
    }
}
