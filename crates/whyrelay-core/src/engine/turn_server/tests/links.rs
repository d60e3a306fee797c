//! A server at the far end of a bad link, in virtual time, with our own client at the near end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::*;
use super::fixture::{Fixture, PEER, START, Seen, udp};
use crate::engine::credentials::Password;
use crate::engine::transaction::Schedule;
use crate::engine::turn_client::{self, Families, TurnClient, TurnOutput};
use crate::time::Now;
use crate::trace::event::Transport;

/// A datagram on its way.
enum Packet {
    ToServer(Vec<u8>),
    ToClient(Vec<u8>),
    /// Over the second link, between server and peer.
    ToPeer(Vec<u8>),
    FromPeer(Vec<u8>),
}

/// 300 ms there and back at least, up to 200 ms more, so that packets overtake each other; every tenth comes twice.
struct Link {
    random: Random,
    under_way: BTreeMap<(Timestamp, u64), Packet>,
    sent: u64,
}

impl Link {
    fn send(&mut self, now: Timestamp, packet: impl Fn() -> Packet) {
        for _ in 0..=u64::from(self.random.below(10) == 0) {
            self.sent += 1;
            let late = Duration::from_micros(150_000 + self.random.below(100_000));
            self.under_way.insert((now + late, self.sent), packet());
        }
    }

    fn arrival(&self) -> Option<Timestamp> {
        self.under_way.first_key_value().map(|((at, _), _)| *at)
    }
}

/// One client with one peer that sends everything back.
struct World {
    fixture: Fixture,
    client: TurnClient,
    link: Link,
    relayed: Option<SocketAddr>,
    /// Numbers that were sent to the peer, and that came back from it.
    asked: u32,
    back: BTreeSet<u32>,
    overtaken: u32,
    ended: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::from_number(seed);
        let config = turn_client::TurnConfig {
            server: "turn:192.0.2.1".into(),
            local: "198.18.0.1:40000".parse().unwrap(),
            transport: Transport::Udp,
            username: Some("alice".into()),
            password: Some(Password::new("wonderland".into())),
            families: Families::Ipv4,
            schedule: Schedule::SERVER,
        };
        let client = TurnClient::new(START, config, random.fork());
        let link = Link { random, under_way: BTreeMap::new(), sent: 0 };
        let (fixture, back) = (Fixture::new(), BTreeSet::new());
        Self { fixture, client, link, relayed: None, asked: 0, back, overtaken: 0, ended: false }
    }

    /// Lets everything happen up to a time.
    fn run(&mut self, until: Timestamp) {
        loop {
            self.drain();
            let next = self.link.arrival().into_iter().chain(self.client.deadline()).min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            self.fixture.now = self.fixture.now.max(next);
            if self.link.arrival() == Some(next)
                && let Some((_, packet)) = self.link.under_way.pop_first()
            {
                self.arrive(packet);
            }
            self.client.advance(Now::from(self.fixture.now));
        }
        self.fixture.now = until;
        self.serve(|fixture| fixture.input(Input::Timeout));
    }

    fn arrive(&mut self, packet: Packet) {
        let now = self.fixture.now;
        match packet {
            Packet::ToServer(bytes) => self.serve(|fixture| fixture.raw(udp("198.18.0.1:40000"), &bytes)),
            Packet::FromPeer(bytes) => self.serve(|fixture| {
                let relay = fixture.relays.keys().next().copied();
                relay.map(|relay| fixture.peer_sends(relay, PEER, &bytes)).unwrap_or_default()
            }),
            Packet::ToPeer(bytes) => self.link.send(now, || Packet::FromPeer(bytes.clone())),
            Packet::ToClient(bytes) => match Message::decode(&bytes) {
                Ok(message) => drop(self.client.feed(now, now, &message)),
                Err(_) => assert!(self.client.feed_channel_data(now, &bytes)),
            },
        }
    }

    fn serve(&mut self, input: impl FnOnce(&mut Fixture) -> Vec<Seen>) {
        for seen in input(&mut self.fixture) {
            let now = self.fixture.now;
            match seen {
                Seen::ToClient(_, bytes) => self.link.send(now, || Packet::ToClient(bytes.clone())),
                Seen::ToPeer { bytes, .. } => self.link.send(now, || Packet::ToPeer(bytes.clone())),
                Seen::Closed(_) => {}
            }
        }
    }

    fn drain(&mut self) {
        let peer: SocketAddr = PEER.parse().unwrap();
        while let Some(output) = self.client.poll_output() {
            let now = self.fixture.now;
            match output {
                TurnOutput::Send(bytes) => self.link.send(now, || Packet::ToServer(bytes.clone())),
                TurnOutput::Allocated { relayed, .. } => {
                    self.relayed = relayed.first().copied();
                    self.client.need_permission(now, relayed[0], peer.ip());
                }
                TurnOutput::PermissionGranted { .. } => {
                    self.ask(20);
                    self.client.bind_channel(now, peer);
                }
                TurnOutput::Data { data, .. } => {
                    let number = u32::from_be_bytes(data.try_into().unwrap());
                    self.overtaken += u32::from(self.back.last().is_some_and(|last| *last > number));
                    self.back.insert(number);
                }
                TurnOutput::Ended => self.ended = true,
                TurnOutput::Event(_) | TurnOutput::RoundTrip { .. } => {}
                wrong => panic!("{wrong:?} at {now}"),
            }
        }
    }

    fn ask(&mut self, count: u32) {
        let (now, peer) = (self.fixture.now, PEER.parse().unwrap());
        for _ in 0..count {
            self.client.send(now, self.relayed.unwrap(), peer, &self.asked.to_be_bytes());
            self.asked += 1;
        }
    }
}

#[test]
fn at_the_end_of_a_slow_link_that_reorders_and_repeats_each_client_is_served_and_has_one_allocation() {
    let mut overtaken = 0;
    for seed in 0..50 {
        let mut world = World::new(seed);
        world.run(START + Duration::from_secs(5));
        assert_eq!((world.asked, world.back.len()), (20, 20), "by indications, seed {seed}");
        world.ask(20);
        world.run(START + Duration::from_secs(7));
        assert_eq!(world.back.len(), 40, "by the channel, seed {seed}");
        // Over the refresh of all there is, and the nonce's end.
        world.run(START + Duration::from_secs(4000));
        world.client.need_permission(world.fixture.now, world.relayed.unwrap(), [198, 41, 0, 4].into());
        world.run(START + Duration::from_secs(4005));
        assert!(world.asked >= 60 && world.back.len() as u32 == world.asked, "after an hour, seed {seed}");
        let counters = world.fixture.server.counters();
        assert_eq!((world.fixture.server.allocations(), counters.allocations), (1, 1), "seed {seed}");
        world.client.close(world.fixture.now);
        world.run(START + Duration::from_secs(4010));
        assert!(world.ended && world.fixture.server.allocations() == 0, "seed {seed}");
        overtaken += world.overtaken;
    }
    assert!(overtaken > 100, "{overtaken}: the link is to reorder");
}
