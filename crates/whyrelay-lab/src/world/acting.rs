//! What peers and the server do: datagrams, connections, requests and signaling, on their way.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use whyrelay_core::engine::gather::StreamId;
use whyrelay_core::engine::port_mapping::ExchangeId;
use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;

use crate::scenario::SIGNALING_PORT;

use super::kernel::{ECONNREFUSED, EHOSTUNREACH, Leaving, NEIGHBOR_TIMEOUT, Sent};
use super::network::{Packet, Place, TcpWay};
use super::peer::{Peer, Signal};
use super::tcp::Sending;
use super::{CONNECT_TIMEOUT, Connection, Exchange, Happening, QUOTED, World, peer, server};

/// Which way something goes on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Toward {
    Server,
    Peer,
}

impl Connection {
    /// When something that is sent now arrives; nothing: never.
    fn arrival(&mut self, random: &mut Random, sent: Timestamp, bytes: usize, toward: Toward) -> Option<Timestamp> {
        self.passing.arrival(random, sent, self.delay, bytes, &mut self.sending[toward as usize])
    }
}

impl World {
    /// A datagram of a peer: through its kernel, onto the network.
    fn send(&mut self, index: usize, packet: Packet, is_probe: bool) {
        let now = self.now;
        let (source, destination) = (packet.source, packet.destination);
        let packet = Packet { origin: Some((index, source, destination, now)), ..packet };
        let Peer { host, kernel, probing, .. } = &mut self.peers[index];
        let host = *host;
        let Some(kernel) = kernel else {
            return self.queue.push(now, Happening::Packet(Place::From(host), packet));
        };
        let quoted = packet.bytes[..packet.bytes.len().min(QUOTED)].to_vec();
        let icmp = |offender, (icmp_type, icmp_code)| {
            let (local, remote, mtu) = (source, destination, None);
            let icmp = peer::Icmp { local, remote, offender, icmp_type, icmp_code, mtu, quoted };
            Happening::Icmp(index, icmp)
        };
        let socket = probing.socket(source);
        let packet = Packet { wrong_checksum: kernel.spoils(socket, source, destination), ..packet };
        match kernel.send(socket, source, destination, packet.bytes.len()) {
            Sent::Leaves(Leaving { interface, gateway }) => {
                let neighbor = gateway.unwrap_or(destination.ip());
                if !self.network.answers_to(kernel, host, interface, neighbor) {
                    let offender = kernel.neighbor_failed(interface, neighbor);
                    // Unreachable, from the host to itself: the host (RFC 792), the address (RFC 4443).
                    let kind = if destination.is_ipv4() { (3, 1) } else { (1, 3) };
                    return self.queue.push(now + NEIGHBOR_TIMEOUT, icmp(offender, kind));
                }
                self.queue.push(now, Happening::Packet(Place::Leaving(host, interface, gateway), packet));
            }
            // Told a moment later, so that the machine is not fed while it is drained.
            Sent::Refused(errno) => {
                self.queue.push(now, Happening::Refused(index, source, destination, errno, is_probe));
            }
            Sent::Rejected(errno, kind) => {
                self.queue.push(now, icmp(Some(source.ip()), kind));
                self.queue.push(now, Happening::Refused(index, source, destination, errno, is_probe));
            }
        }
    }

    /// As a real host's collector does: the next hops that its routes name for the peer are looked for, whether or not any
    /// packet came to them.
    pub(super) fn look_for_next_hops(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        let (host, others) = (peer.host, peer.addresses_of_peer());
        let Some(kernel) = &mut peer.kernel else { return };
        for (interface, hop) in kernel.next_hops(&others) {
            if !self.network.answers_to(kernel, host, interface, hop) {
                kernel.failed_neighbors.insert((interface, hop));
            }
        }
    }

    pub(super) fn act(&mut self, index: usize, actions: Vec<peer::Action>) {
        let now = self.now;
        for action in actions {
            match action {
                peer::Action::Send { source, destination, bytes, ttl, is_probe } => {
                    self.send(index, Packet { ttl, ..Packet::new(source, destination, bytes) }, is_probe);
                }
                peer::Action::Connect { id, local, remote } => self.connect(index, id, local, remote),
                peer::Action::SendOnStream { id, bytes } => {
                    let found = self.connections.iter_mut().find(|(_, c)| c.peer == index && c.id == id);
                    let arrival = found.and_then(|(stream, connection)| {
                        Some((*stream, connection.arrival(self.network.random(), now, bytes.len(), Toward::Server)?))
                    });
                    if let Some((stream, at)) = arrival {
                        self.queue.push(at, Happening::ToServer(stream, bytes));
                    }
                }
                peer::Action::CloseStream(id) => {
                    let found = self.connections.iter().find(|(_, c)| c.peer == index && c.id == id);
                    if let Some((stream, connection)) = found {
                        // Behind what was sent before.
                        let at = (now + connection.delay).max(connection.sending[Toward::Server as usize].last);
                        self.queue.push(at, Happening::StreamClosed(*stream));
                    }
                }
                peer::Action::Exchange { id, local, remote, request } => {
                    self.exchange(index, id, local, remote, request);
                }
                peer::Action::Signal(signal) => {
                    let way = self.signaling[index];
                    let candidate = matches!(signal, Signal::Candidate(_) | Signal::EndOfCandidates);
                    let about_probes = matches!(signal, Signal::Probing(_));
                    let early = about_probes || matches!(signal, Signal::Description { .. });
                    let mut at = now + if early { way.description } else { way.candidates };
                    if about_probes {
                        // What follows a late message is late, too.
                        at = at.max(self.signaled[index]);
                    }
                    if !(way.lose_all || candidate && way.lose_candidates) {
                        self.signaled[index] = self.signaled[index].max(at);
                        self.queue.push(at, Happening::Signal(1 - index, signal));
                    }
                }
                peer::Action::Wake(at) => {
                    let at = at.max(now);
                    if self.wakes[index] != Some(at) {
                        self.wakes[index] = Some(at);
                        self.queue.push(at, Happening::WakePeer(index, at));
                    }
                }
            }
        }
        self.look();
    }

    pub(super) fn serve(&mut self, actions: Vec<server::Action>) {
        for action in actions {
            match action {
                server::Action::Send(packet) => {
                    let from = Place::From(self.server.host);
                    let at = self.now + self.server.answers_after();
                    self.queue.push(at, Happening::Packet(from, packet));
                }
                server::Action::SendOnStream(stream, bytes) => {
                    let sent = self.now + self.server.answers_after();
                    let connection = self.connections.get_mut(&stream);
                    let arrival =
                        connection.and_then(|own| own.arrival(self.network.random(), sent, bytes.len(), Toward::Peer));
                    if let Some(at) = arrival {
                        self.queue.push(at, Happening::FromServer(stream, bytes));
                    }
                }
                server::Action::Wake(at) => {
                    let at = at.max(self.now);
                    if self.server_wake != Some(at) {
                        self.server_wake = Some(at);
                        self.queue.push(at, Happening::WakeServer(at));
                    }
                }
            }
        }
    }

    fn connect(&mut self, index: usize, id: StreamId, local: IpAddr, remote: SocketAddr) {
        let local = SocketAddr::new(local, 50_000 + (self.next_connection % 10_000) as u16);
        let host = self.peers[index].host;
        // What `connect` says, and when; without an errno nothing ever comes of it.
        let interface = match &mut self.peers[index].kernel {
            Some(kernel) => match kernel.connect(local, remote) {
                Ok(Leaving { interface, gateway }) => {
                    let neighbor = gateway.unwrap_or(remote.ip());
                    if self.network.answers_to(kernel, host, interface, neighbor) {
                        Ok(interface)
                    } else {
                        kernel.neighbor_failed(interface, neighbor);
                        Err(Some((EHOSTUNREACH, NEIGHBOR_TIMEOUT)))
                    }
                }
                // Told a moment later, so that the machine is not fed while it is drained.
                Err(errno) => Err(errno.map(|errno| (errno, Duration::ZERO))),
            },
            None => Ok(0),
        };
        let way = interface.and_then(|interface| self.network.connect(self.now, host, interface, local, remote));
        let there = way.and_then(|way| {
            let refused = self.server.refuses_connections();
            let served =
                way.far == self.server.host && self.server.serves(remote) && (refused || self.server.accepts());
            let mut established = || {
                let (random, luck) = self.network.chances();
                way.passing.established(random, luck, way.delay)
            };
            let takes = served.then(&mut established).flatten().ok_or(None)?;
            match takes < CONNECT_TIMEOUT {
                true if refused => Err(Some((ECONNREFUSED, takes))),
                true => Ok((way, takes)),
                false => Err(None),
            }
        });
        match there {
            // TLS takes one more round trip until the client has judged the server (RFC 8446 §2).
            Ok((TcpWay { delay, .. }, takes)) if self.server.tls_refused(self.now, remote).is_some() => {
                let at = self.now + takes + delay * 2;
                let why = self.server.tls_refused(at, remote).unwrap_or_default();
                self.queue.push(at, Happening::ConnectFailed(index, id, why));
            }
            Ok((TcpWay { source, delay, passing, .. }, takes)) => {
                let takes = if self.server.speaks_tls(remote) { takes + delay * 2 } else { takes };
                let (stream, there) = (self.next_connection, self.now + takes);
                self.next_connection += 1;
                let sending = [(); 2].map(|()| Sending::from(there, self.network.chances().1.fork()));
                self.connections.insert(stream, Connection { peer: index, id, source, delay, passing, sending });
                self.queue.push(there, Happening::Connected(index, id, local, remote));
            }
            Err(refused) => {
                let timeout = ("connection timed out", CONNECT_TIMEOUT);
                let (why, after) = refused.map_or(timeout, |(errno, after)| (peer::errno_name(errno), after));
                self.queue.push(self.now + after, Happening::ConnectFailed(index, id, why.to_owned()));
            }
        }
    }

    /// The address from which a signaling server at the server's own addresses would see a peer. Signaling itself goes
    /// beside the network; this is where a plain program's connection would come from, if it came about.
    pub(super) fn signals_from(&mut self, index: usize) -> Option<IpAddr> {
        let servers = self.peers[index].server.clone();
        servers.into_iter().find_map(|server| {
            let remote = SocketAddr::new(server, SIGNALING_PORT);
            let Peer { host, kernel, .. } = &mut self.peers[index];
            let kernel = kernel.as_mut()?;
            let (source, Leaving { interface, gateway }) = kernel.plain_connection(remote)?;
            if !self.network.answers_to(kernel, *host, interface, gateway.unwrap_or(server)) {
                return None;
            }
            let way = self.network.connect(self.now, *host, interface, source, remote).ok()?;
            (way.far == self.server.host).then(|| way.source.ip())
        })
    }

    /// A request to a router on the link: a handshake, the request, the response.
    fn exchange(&mut self, index: usize, id: ExchangeId, source: IpAddr, to: SocketAddr, request: Vec<u8>) {
        let Peer { host, kernel, .. } = &mut self.peers[index];
        let leaving = kernel.as_mut().and_then(|kernel| kernel.connect(SocketAddr::new(source, 0), to).ok());
        let way = leaving.and_then(|leaving| self.network.router_on_link(*host, leaving.interface, to.ip()));
        match way {
            Some((router, delay)) => {
                let exchange = Exchange { peer: index, id, router, source, to, request, delay };
                self.queue.push(self.now + delay * 3, Happening::ToRouter(exchange));
            }
            None => {
                let failed = Happening::FromRouter(index, id, Err("connection timed out"));
                self.queue.push(self.now + CONNECT_TIMEOUT, failed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::from_topology;
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn signaling_sees_a_peer_where_a_plain_program_s_connections_come_from() {
        const NAT: &str = "behind = \"home-router\"\n";
        const REFUSED: &str = "[[host.a.rule]]\npriority = 5\nfwmark = \"0x7\"\naction = \"blackhole\"\n\
                               [host.a.session]\nmark = \"0x7\"\n";
        const DROPPED: &str =
            "[[host.a.firewall]]\nhook = \"output\"\nverdict = \"drop\"\nipproto = \"tcp\"\ndport = \"8080\"\n";
        const TUNNEL: &str = "[[host.a.interface]]\nname = \"wg0\"\nkind = \"tunnel\"\n[[host.a.route]]\nto = \"default\"\n\
                              dev = \"wg0\"\ntable = 200\n[[host.a.rule]]\npriority = 5\ntable = 200\n";
        let at_nat = Some("203.0.113.10");
        for (place, more, seen) in [
            (NAT, "", at_nat),
            // Without a NAT the host has that address itself.
            ("", "", at_nat),
            (NAT, REFUSED, at_nat),
            (NAT, DROPPED, None),
            (NAT, TUNNEL, None),
            (NAT, "[server]\nanswers = false\n", at_nat),
            ("behind = \"home-router\"\nconntrack-full = true\n", "", None),
        ] {
            let text = format!("title = \"t\"\n[host.a]\n{place}{more}[host.b]\n[expect]\npath = \"direct\"\n");
            let topology = Scenario::parse("test", &text).unwrap().topology;
            let mut world = from_topology::build(&topology);
            let expected = seen.map(|address| address.parse::<IpAddr>().unwrap());
            assert_eq!(world.signals_from(0), expected, "{text}");
            let kernel = world.peers[0].kernel.as_ref().unwrap();
            assert!(kernel.matched.iter().all(|matched| *matched == 0), "no packet was sent: {text}");
        }
    }
}
