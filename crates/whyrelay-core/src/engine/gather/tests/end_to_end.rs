//! Against our own TURN server: two peers that relay through it, in virtual time.

use std::collections::BTreeMap;

use super::super::*;
use super::bench::{PASSWORD, START, address, ip, server};
use crate::engine::turn_server::{
    Client, ClientTransport, Credentials, Input as ServerInput, ListenerId, Output as ServerOutput, RelayId,
    StreamId as ServerStream, TurnConfig, TurnServer,
};
use crate::ice::candidate::CandidateTransport;
use crate::wire::framing::{Deframer, Framing};

const SERVER: &str = "198.51.100.2:3478";
const SOCKETS: [&str; 2] = ["192.0.2.1:40000", "192.0.2.2:40000"];
const ONE_WAY: Duration = Duration::from_millis(10);

enum Arrival {
    AtServer(usize, Transmit),
    AtClient(usize, Client, Vec<u8>),
    Connected(usize, StreamId, SocketAddr),
}

/// Two gatherers and one server.
struct World {
    now: Timestamp,
    server: TurnServer,
    gatherers: Vec<Gatherer>,
    outputs: Vec<Vec<Output>>,
    deframers: BTreeMap<(usize, StreamId), Deframer>,
    relays: BTreeMap<RelayId, SocketAddr>,
    next_port: u16,
    line: BTreeMap<(Timestamp, u64), Arrival>,
    sequence: u64,
    loss: u64,
    random: Random,
}

impl World {
    /// Each peer uses one URL.
    fn new(urls: [&str; 2], change: impl FnOnce(&mut TurnConfig)) -> Self {
        let mut config =
            TurnConfig { credentials: Credentials::none().with_user("ali", PASSWORD), ..TurnConfig::default() };
        change(&mut config);
        let mut random = Random::from_number(5);
        let gatherer = |url: &str, seed| {
            let config = GatherConfig { servers: vec![server(url)], ..GatherConfig::default() };
            Gatherer::new(START, config, Random::from_number(seed))
        };
        let gatherers = vec![gatherer(urls[0], 1), gatherer(urls[1], 2)];
        let mut world = Self {
            now: START,
            server: TurnServer::new(config, random.fork()),
            gatherers,
            outputs: vec![Vec::new(), Vec::new()],
            deframers: BTreeMap::new(),
            relays: BTreeMap::new(),
            next_port: 50_000,
            line: BTreeMap::new(),
            sequence: 0,
            loss: 0,
            random,
        };
        for (side, local) in SOCKETS.iter().enumerate() {
            let (local, interface) = (address(local), Some("eth0".to_owned()));
            let transport = CandidateTransport::Udp;
            world.input(side, Input::Socket(LocalSocket { local, interface, transport }));
            world.input(side, Input::Complete);
        }
        world.run_for(500);
        world
    }

    fn input(&mut self, side: usize, input: Input<'_>) {
        self.gatherers[side].handle_input(self.now, input);
        loop {
            match self.gatherers[side].poll_output() {
                Output::Timeout(_) => return,
                Output::Transmit(transmit) => {
                    let lossy = transmit.stream.is_none();
                    self.travel(Arrival::AtServer(side, transmit), lossy);
                }
                Output::ConnectStream { id, local, .. } => {
                    self.deframers.insert((side, id), Deframer::new(Framing::Stun));
                    self.travel(Arrival::Connected(side, id, SocketAddr::new(local, 45_000)), false);
                }
                output => self.outputs[side].push(output),
            }
        }
    }

    fn travel(&mut self, arrival: Arrival, lossy: bool) {
        if lossy && self.random.below(100) < self.loss {
            return;
        }
        self.sequence += 1;
        self.line.insert((self.now + ONE_WAY, self.sequence), arrival);
    }

    fn serve(&mut self, input: ServerInput<'_>) {
        self.server.handle_input(self.now, input);
        loop {
            match self.server.poll_output() {
                ServerOutput::Timeout(_) => return,
                ServerOutput::SendToClient { client, bytes } => {
                    let side = SOCKETS.iter().position(|local| address(local).ip() == client.source.ip()).unwrap();
                    let lossy = matches!(client.transport, ClientTransport::Udp(_));
                    self.travel(Arrival::AtClient(side, client, bytes), lossy);
                }
                ServerOutput::OpenRelay { relay, family, .. } => {
                    self.next_port += 1;
                    let host = match family {
                        crate::engine::turn_server::Family::Ipv4 => ip("198.51.100.2"),
                        crate::engine::turn_server::Family::Ipv6 => ip("2001:db8::2"),
                    };
                    let address = SocketAddr::new(host, self.next_port);
                    self.relays.insert(relay, address);
                    self.server.handle_input(self.now, ServerInput::RelayOpened { relay, address });
                }
                ServerOutput::CloseRelay { relay } => {
                    self.relays.remove(&relay);
                }
                ServerOutput::SendFromRelay { .. } => {}
            }
        }
    }

    fn run_for(&mut self, milliseconds: u64) {
        let end = self.now + Duration::from_millis(milliseconds);
        loop {
            let deadlines: Vec<Timestamp> = self
                .gatherers
                .iter_mut()
                .map(|gatherer| match gatherer.poll_output() {
                    Output::Timeout(deadline) => deadline,
                    other => panic!("left over: {other:?}"),
                })
                .collect();
            let arrival = self.line.first_key_value().map(|(&(at, _), _)| at);
            let next = deadlines.iter().copied().chain(arrival).min().unwrap();
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let (_, arrival) = self.line.pop_first().unwrap();
                self.arrive(arrival);
            } else {
                let side = deadlines.iter().position(|&deadline| deadline == next).unwrap();
                self.input(side, Input::Timeout);
            }
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Connected(side, id, local) => self.input(side, Input::StreamConnected { id, local }),
            Arrival::AtServer(_, Transmit { stream: None, local, bytes, .. }) => {
                let client = Client { transport: ClientTransport::Udp(ListenerId(0)), source: local };
                self.serve(ServerInput::FromClient { client, bytes: &bytes });
            }
            Arrival::AtServer(side, Transmit { stream: Some(id), local, bytes, .. }) => {
                let stream = ServerStream(side as u64 * 100 + id.0);
                let client = Client { transport: ClientTransport::Stream(stream), source: local };
                let mut messages = Vec::new();
                let deframer = self.deframers.get_mut(&(side, id)).unwrap();
                deframer.push(&bytes);
                while let Some(message) = deframer.next_message().unwrap() {
                    messages.push(message.to_vec());
                }
                for bytes in messages {
                    self.serve(ServerInput::FromClient { client, bytes: &bytes });
                }
            }
            Arrival::AtClient(side, client, bytes) => match client.transport {
                ClientTransport::Udp(_) => {
                    let (local, remote) = (client.source, address(SERVER));
                    self.input(side, Input::Datagram { local, remote, bytes: &bytes });
                }
                ClientTransport::Stream(ServerStream(stream)) => {
                    let id = StreamId(stream % 100);
                    // A stream has no message bounds.
                    for bytes in bytes.chunks(3) {
                        self.input(side, Input::StreamData { id, bytes });
                    }
                }
            },
        }
    }

    fn relayed(&self, side: usize) -> SocketAddr {
        let relayed = |output: &Output| match output {
            Output::Candidate(found) if found.candidate.kind == CandidateType::Relayed && found.base.is_ipv4() => {
                Some(found.base)
            }
            _ => None,
        };
        self.outputs[side].iter().find_map(relayed).expect("a relayed candidate")
    }

    /// Data that reached a side.
    fn received(&self, side: usize) -> Vec<Vec<u8>> {
        let data = |output: &Output| match output {
            Output::RelayedData { data, .. } => Some(data.clone()),
            _ => None,
        };
        self.outputs[side].iter().filter_map(data).collect()
    }

    fn codes(&self, side: usize) -> Vec<u16> {
        let code = |output: &Output| match output {
            Output::Event(EventKind::ServerFailed {
                failure: crate::trace::event::ServerFailure::ErrorResponse { code, .. },
                ..
            }) => Some(*code),
            _ => None,
        };
        self.outputs[side].iter().filter_map(code).collect()
    }

    fn connect(&mut self) -> (SocketAddr, SocketAddr) {
        let (a, b) = (self.relayed(0), self.relayed(1));
        self.input(0, Input::NeedPermission { relayed: a, peer: b.ip() });
        self.input(1, Input::NeedPermission { relayed: b, peer: a.ip() });
        self.run_for(100);
        (a, b)
    }
}

#[test]
fn two_peers_talk_through_two_allocations_over_every_transport() {
    let urls = ["turn:198.51.100.2", "turn:198.51.100.2?transport=tcp", "turns:198.51.100.2:3478"];
    for first in urls {
        for second in urls {
            let mut world = World::new([first, second], |_| {});
            assert_eq!(world.server.allocations(), 2, "{first} {second}");
            let (a, b) = world.connect();
            world.input(0, Input::SendToPeer { relayed: a, peer: b, data: b"in a Send indication" });
            world.run_for(100);
            assert_eq!(world.received(1), [b"in a Send indication".to_vec()], "{first} {second}");
            world.input(0, Input::BindChannel { relayed: a, peer: b });
            world.input(1, Input::BindChannel { relayed: b, peer: a });
            world.run_for(100);
            world.input(0, Input::SendToPeer { relayed: a, peer: b, data: b"in a channel" });
            world.input(1, Input::SendToPeer { relayed: b, peer: a, data: b"back" });
            world.input(1, Input::SendToPeer { relayed: b, peer: a, data: b"again" });
            world.run_for(100);
            assert_eq!(world.received(1).last().unwrap(), b"in a channel");
            assert_eq!(world.received(0), [b"back".to_vec(), b"again".to_vec()]);
            for side in 0..2 {
                world.input(side, Input::Close);
            }
            world.run_for(1000);
            assert_eq!(world.server.allocations(), 0, "{first} {second}");
            assert_eq!(world.relays.len(), 0);
            assert!(world.outputs.iter().all(|outputs| outputs.contains(&Output::Closed)));
        }
    }
}

#[test]
fn a_session_of_three_hours_outlives_nonces_lifetimes_and_loss() {
    let mut world = World::new(["turn:198.51.100.2", "turn:198.51.100.2"], |_| {});
    let (a, b) = world.connect();
    world.input(0, Input::BindChannel { relayed: a, peer: b });
    world.run_for(100);
    world.loss = 10;
    let mut sent = 0;
    for _ in 0..3 * 720 {
        for (side, relayed, peer) in [(0, a, b), (1, b, a)] {
            world.input(side, Input::SendToPeer { relayed, peer, data: b"consent" });
        }
        sent += 1;
        world.run_for(5000);
    }
    assert!(world.codes(0).contains(&438), "the nonce lasts an hour");
    for side in 0..2 {
        let received = world.received(side).len();
        assert!(received * 100 > sent * 75, "{received} of {sent} at two legs of 10 % loss");
        let lost = |output: &&Output| matches!(output, Output::AllocationLost { .. } | Output::PermissionDenied { .. });
        assert_eq!(world.outputs[side].iter().find(lost), None);
    }
}

#[test]
fn a_peer_that_the_server_refuses_is_denied_with_403() {
    let mut world = World::new(["turn:198.51.100.2", "turn:198.51.100.2"], |_| {});
    let relayed = world.relayed(0);
    let peer = ip("169.254.169.254");
    world.input(0, Input::NeedPermission { relayed, peer });
    world.run_for(100);
    assert!(world.outputs[0].contains(&Output::PermissionDenied { relayed, peer, code: Some(403) }));
    assert_eq!(world.codes(0), [401, 403]);
}

#[test]
fn a_server_of_one_family_gives_that_one() {
    let v6_only = World::new(["turn:198.51.100.2", "turn:198.51.100.2"], |config| config.relay_ipv4 = false);
    assert_eq!(v6_only.codes(0), [401, 440]);
    let relayed = |world: &World| {
        let events = world.outputs[0].iter().filter_map(|output| match output {
            Output::Event(EventKind::Allocated { relayed, .. }) => Some(relayed.is_ipv6()),
            _ => None,
        });
        events.collect::<Vec<bool>>()
    };
    assert_eq!(relayed(&v6_only), [true]);
    let v4_only = World::new(["turn:198.51.100.2", "turn:198.51.100.2"], |config| config.relay_ipv6 = false);
    assert_eq!(relayed(&v4_only), [false]);
    assert_eq!(v4_only.codes(0), [401, 440], "ADDRESS-ERROR-CODE says why there is no IPv6");
}

#[test]
fn a_second_gatherer_on_the_same_socket_takes_the_place_of_a_crashed_one() {
    let mut world = World::new(["turn:198.51.100.2", "turn:198.51.100.2"], |_| {});
    // The first run dies without a word; the next one has the same port.
    let config = GatherConfig { servers: vec![server("turn:198.51.100.2")], ..GatherConfig::default() };
    world.gatherers[0] = Gatherer::new(world.now, config, Random::from_number(9));
    world.outputs[0].clear();
    let (local, transport) = (address(SOCKETS[0]), CandidateTransport::Udp);
    world.input(0, Input::Socket(LocalSocket { local, interface: None, transport }));
    world.run_for(500);
    assert_eq!(world.codes(0), [401, 437]);
    world.relayed(0);
    assert_eq!(world.server.allocations(), 2);
}
