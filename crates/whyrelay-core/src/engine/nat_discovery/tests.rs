//! Discovery in virtual time, behind the simulated NAT, with loss.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;

use super::*;
use crate::nat::behavior::{Behavior, FilteringBehavior, Hairpinning, MappingBehavior, Pooling, PortAllocation};
use crate::nat::table::Table;
use crate::trace::measurement::PortPair;

const START: Timestamp = Timestamp::from_micros(1_000_000);

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// A server as RFC 5780 has it: two addresses, two ports.
struct Server {
    addresses: [IpAddr; 2],
    ports: [u16; 2],
    /// Announces its second address.
    announces: bool,
    /// Its second address is dead.
    second_dead: bool,
    /// Answers CHANGE-REQUEST from where it was asked.
    ignores_change: bool,
    /// Obeys CHANGE-REQUEST only with its nonce, which names our address.
    wants_proof: bool,
    /// A gateway on the way rewrites its answers; whether it knows the hidden form, too.
    gateway: Option<bool>,
}

impl Server {
    fn answer(&self, to: SocketAddr, from: SocketAddr, bytes: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        let message = Message::decode(bytes).ok()?;
        let ip = self.addresses.iter().position(|ip| *ip == to.ip())?;
        let port = self.ports.iter().position(|port| *port == to.port())?;
        if self.second_dead && ip == 1 || message.class != Class::Request {
            return None;
        }
        let nonce = message.attribute(AttributeType::NONCE).map(|nonce| nonce.value.to_vec());
        let proof = from.to_string().into_bytes();
        if let (true, Some(nonce)) = (self.wants_proof, &nonce)
            && *nonce != proof
        {
            // As a whyrelay server: a nonce is at most 1.6 times what asks for it.
            if bytes.len() < 36 {
                return None;
            }
            let reply = MessageBuilder::new(Class::Error, Method::BINDING, message.transaction).error(438, "");
            return Some((to, reply.attribute(AttributeType::NONCE, &proof).build()));
        }
        if self.wants_proof && nonce.is_none() && message.has(AttributeType::CHANGE_REQUEST) {
            return None;
        }
        let change = message.u32(AttributeType::CHANGE_REQUEST).filter(|_| !self.ignores_change).unwrap_or(0);
        let source_ip = if change & 4 != 0 { 1 - ip } else { ip };
        let source_port = if change & 2 != 0 { 1 - port } else { port };
        if self.second_dead && source_ip == 1 {
            return None;
        }
        let mut reply = MessageBuilder::new(Class::Success, Method::BINDING, message.transaction)
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, from);
        if self.announces {
            let other = SocketAddr::new(self.addresses[1 - ip], self.ports[1 - port]);
            reply = reply.address(AttributeType::OTHER_ADDRESS, other);
        }
        let from_where = SocketAddr::new(self.addresses[source_ip], self.ports[source_port]);
        let Some(knows_xor) = self.gateway else { return Some((from_where, reply.build())) };
        // What an application-level gateway at the NAT makes of it.
        let mut bytes = reply.address(AttributeType::MAPPED_ADDRESS, from).fingerprint().build();
        let IpAddr::V4(outside) = from.ip() else { return None };
        for form in if knows_xor { &[0, 0x2112_A442][..] } else { &[0] } {
            let known = (u32::from(outside) ^ form).to_be_bytes();
            let other = (u32::from_be_bytes([192, 168, 1, 2]) ^ form).to_be_bytes();
            while let Some(at) = bytes.windows(4).position(|window| window == known) {
                bytes[at..at + 4].copy_from_slice(&other);
            }
        }
        Some((from_where, bytes))
    }
}

struct World {
    nat: Option<Table>,
    server: Server,
    /// Round trip.
    rtt: Duration,
    /// Lost each way, in percent.
    loss: u64,
    /// Servers that become known later; behind the last there are no more.
    later: Vec<(Duration, SocketAddr)>,
    random: Random,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Arrival {
    AtServer { source: SocketAddr, destination: SocketAddr },
    AtHost { source: SocketAddr, destination: SocketAddr },
}

/// Packets on their way, the next one first; the number keeps those of one moment in order.
type Queue = BinaryHeap<Reverse<(Timestamp, u64, Arrival, Vec<u8>)>>;

struct Run {
    facts: Vec<Measurement>,
    missing: Vec<(String, String)>,
    mapping_told: Option<Duration>,
    concluded: Duration,
    done: Duration,
    sent: usize,
}

impl World {
    fn new(nat: Option<Behavior>, seed: u64) -> Self {
        let mut random = Random::from_number(seed);
        let external = vec!["203.0.113.7".parse().unwrap()];
        Self {
            nat: nat.map(|behavior| Table::new(behavior, external, random.fork())),
            server: Server {
                addresses: ["198.51.100.1".parse().unwrap(), "198.51.100.2".parse().unwrap()],
                ports: [3478, 3479],
                announces: true,
                second_dead: false,
                ignores_change: false,
                wants_proof: false,
                gateway: None,
            },
            rtt: Duration::from_millis(50),
            loss: 0,
            later: Vec::new(),
            random,
        }
    }

    fn run(mut self, config: DiscoveryConfig) -> Run {
        let mut is_naming = config.naming;
        let mut machine = NatDiscovery::new(START, config, self.random.fork());
        let mut queue = Queue::new();
        let mut locals: BTreeMap<SocketId, SocketAddr> = BTreeMap::new();
        let (mut now, mut serial) = (START, 0);
        let mut deadline;
        let (facts, missing, mapping_told) = (vec![], vec![], None);
        let mut run = Run { facts, missing, mapping_told, concluded: Duration::MAX, done: Duration::MAX, sent: 0 };
        for _ in 0..100_000 {
            loop {
                match machine.poll_output() {
                    Output::Open(socket) => {
                        let local = SocketAddr::new("192.168.1.2".parse().unwrap(), 40_000 + socket.0 * 7);
                        locals.insert(socket, local);
                        machine.handle_input(now, Input::Opened { socket, local });
                    }
                    Output::Transmit { socket, remote, bytes } => {
                        run.sent += 1;
                        serial += 1;
                        let source = locals[&socket];
                        let outside = match &mut self.nat {
                            Some(nat) if nat.is_external(remote.ip()) => {
                                if let Some((source, destination)) = nat.hairpin(now, source, remote) {
                                    let arrival = Arrival::AtHost { source, destination };
                                    queue.push(Reverse((now, serial, arrival, bytes)));
                                }
                                continue;
                            }
                            Some(nat) => nat.outbound(now, source, remote),
                            None => Some(source),
                        };
                        let lost = self.random.below(100) < self.loss;
                        if let Some(source) = outside.filter(|_| !lost) {
                            let arrival = Arrival::AtServer { source, destination: remote };
                            queue.push(Reverse((now + self.rtt / 2, serial, arrival, bytes)));
                        }
                    }
                    Output::Event(EventKind::Measured(fact)) => {
                        if matches!(fact, Measurement::Mapping { .. }) {
                            run.mapping_told = Some(now - START);
                        }
                        run.facts.push(fact);
                    }
                    Output::Event(EventKind::NotMeasured { what, why }) => run.missing.push((what, why)),
                    Output::Event(other) => panic!("{other:?}"),
                    Output::Concluded => run.concluded = now - START,
                    Output::Done => {
                        run.done = now - START;
                        return run;
                    }
                    Output::Timeout(time) => {
                        assert!(time >= now, "a deadline in the past would spin");
                        deadline = time;
                        break;
                    }
                }
            }
            match queue.peek() {
                Some(Reverse((time, ..))) if *time <= deadline => {
                    let Some(Reverse((time, _, arrival, bytes))) = queue.pop() else { continue };
                    now = time;
                    self.arrive(now, arrival, &bytes, &mut machine, &mut queue, &mut serial, &locals);
                }
                _ if self.later.first().is_some_and(|(after, _)| START + *after <= deadline) => {
                    let (after, remote) = self.later.remove(0);
                    now = now.max(START + after);
                    machine.handle_input(now, Input::Server { remote, proving: self.server.wants_proof });
                }
                _ if is_naming && self.later.is_empty() => {
                    is_naming = false;
                    machine.handle_input(now, Input::Complete);
                }
                _ => {
                    now = deadline;
                    machine.handle_input(now, Input::Timeout);
                }
            }
        }
        panic!("it does not end");
    }

    #[expect(clippy::too_many_arguments, reason = "the state of one simulation step")]
    fn arrive(
        &mut self,
        now: Timestamp,
        arrival: Arrival,
        bytes: &[u8],
        machine: &mut NatDiscovery,
        queue: &mut Queue,
        serial: &mut u64,
        locals: &BTreeMap<SocketId, SocketAddr>,
    ) {
        match arrival {
            Arrival::AtServer { source, destination } => {
                let lost = self.random.below(100) < self.loss;
                let Some((from, reply)) = self.server.answer(destination, source, bytes).filter(|_| !lost) else {
                    return;
                };
                *serial += 1;
                // The NAT judges when it arrives there; half a round trip later is close enough to that.
                let arrival = Arrival::AtHost { source: from, destination: source };
                queue.push(Reverse((now + self.rtt / 2, *serial, arrival, reply)));
            }
            Arrival::AtHost { source, destination } => {
                let inside = locals.values().any(|local| *local == destination);
                let destination = match &mut self.nat {
                    Some(nat) if !inside => nat.inbound(now, source, destination),
                    _ => Some(destination),
                };
                let socket = locals.iter().find(|(_, local)| Some(**local) == destination);
                if let Some((socket, _)) = socket {
                    machine.handle_input(now, Input::Datagram { socket: *socket, remote: source, bytes });
                }
            }
        }
    }
}

fn config() -> DiscoveryConfig {
    DiscoveryConfig {
        servers: vec![at("198.51.100.1:3478")],
        proving: vec![],
        hairpin: false,
        ports: true,
        naming: false,
        patient: false,
    }
}

impl Run {
    fn mapping(&self) -> Option<(MappingBehavior, bool)> {
        self.facts.iter().find_map(|fact| match fact {
            Measurement::Mapping { behavior, exact, .. } => Some((*behavior, *exact)),
            _ => None,
        })
    }

    fn filtering(&self) -> Option<FilteringBehavior> {
        self.facts.iter().find_map(|fact| match fact {
            Measurement::Filtering { behavior, .. } => Some(*behavior),
            _ => None,
        })
    }

    fn ports(&self) -> (Vec<PortPair>, Vec<IpAddr>) {
        let found = self.facts.iter().find_map(|fact| match fact {
            Measurement::PortAllocation { ports, addresses, .. } => Some((ports.clone(), addresses.clone())),
            _ => None,
        });
        found.expect("ports were compared")
    }
}

fn nine_kinds() -> impl Iterator<Item = (MappingBehavior, FilteringBehavior)> {
    let kinds = MappingBehavior::ALL.into_iter();
    kinds.flat_map(|mapping| FilteringBehavior::ALL.into_iter().map(move |filtering| (mapping, filtering)))
}

#[test]
fn each_of_the_nine_kinds_is_right_in_every_run_at_50_ms_with_2_and_with_10_percent_loss() {
    const RUNS: u64 = 300;
    for (mapping, filtering) in nine_kinds() {
        for loss in [0, 2, 10] {
            let mut late = 0;
            for seed in 0..if loss == 0 { 3 } else { RUNS } {
                let mut world = World::new(Some(Behavior::new(mapping, filtering)), seed * 31 + loss);
                world.loss = loss;
                let run = world.run(config());
                assert_eq!(run.mapping(), Some((mapping, true)), "{mapping} {filtering} seed {seed} loss {loss}");
                assert_eq!(run.filtering(), Some(filtering), "{mapping} {filtering} seed {seed} loss {loss}");
                late += u64::from(run.concluded > Duration::from_secs(1));
            }
            // A first answer that is lost five times comes late; no wait of ours does.
            assert!(late <= RUNS / 50, "{mapping} {filtering} {loss} %: {late} of {RUNS} took over 1 s");
            assert!(loss > 0 || late == 0);
        }
    }
}

#[test]
fn a_server_that_wants_proof_gets_it_and_is_as_fast() {
    for (mapping, filtering) in nine_kinds() {
        for seed in 0..30 {
            let mut world = World::new(Some(Behavior::new(mapping, filtering)), seed);
            world.loss = if seed == 0 { 0 } else { 10 };
            world.server.wants_proof = true;
            let servers = config().servers;
            let run = world.run(DiscoveryConfig { proving: servers, ..config() });
            assert_eq!((run.mapping(), run.filtering()), (Some((mapping, true)), Some(filtering)), "seed {seed}");
            assert!(seed > 0 || run.concluded <= Duration::from_millis(500), "{:?}", run.concluded);
        }
    }
}

/// What is left of a second is for who finds the server, and for a busy machine.
#[test]
fn a_nat_that_filters_is_known_within_650_ms_in_95_of_100_runs_where_one_packet_in_ten_is_lost_each_way() {
    const RUNS: u64 = 1000;
    for wants_proof in [false, true] {
        let behavior = Behavior::new(MappingBehavior::EndpointIndependent, FilteringBehavior::AddressAndPortDependent);
        let concluded = |seed| {
            let mut world = World::new(Some(behavior.clone()), seed);
            (world.loss, world.server.wants_proof) = (10, wants_proof);
            let proving = if wants_proof { config().servers } else { Vec::new() };
            world.run(DiscoveryConfig { proving, ..config() }).concluded
        };
        let mut all: Vec<Duration> = (0..RUNS).map(concluded).collect();
        all.sort_unstable();
        let at = |part: f64| all[(RUNS as f64 * part) as usize];
        let told = [at(0.5), at(0.95), at(0.99)];
        assert!(at(0.95) <= Duration::from_millis(650) && at(0.99) <= Duration::from_millis(750), "{told:?}");
    }
}

#[test]
fn without_a_nat_it_takes_two_round_trips() {
    let run = World::new(None, 1).run(config());
    assert_eq!(run.mapping(), Some((MappingBehavior::EndpointIndependent, true)));
    assert_eq!(run.filtering(), Some(FilteringBehavior::EndpointIndependent));
    assert_eq!(run.concluded, Duration::from_millis(100));
    assert_eq!(run.done, Duration::from_millis(100));
}

#[test]
fn a_slow_path_is_not_taken_for_a_filter() {
    for (milliseconds, limit) in [(1, 620), (50, 1000), (300, 2000), (600, 3500)] {
        for filtering in FilteringBehavior::ALL {
            let mut world = World::new(Some(Behavior::new(MappingBehavior::EndpointIndependent, filtering)), 3);
            world.rtt = Duration::from_millis(milliseconds);
            let run = world.run(config());
            assert_eq!(run.filtering(), Some(filtering), "{milliseconds} ms");
            assert!(run.concluded <= Duration::from_millis(limit), "{milliseconds} ms: {:?}", run.concluded);
        }
    }
}

#[test]
fn silence_of_everything_is_not_measured_and_takes_at_most_1_5_s() {
    let mut world = World::new(None, 1);
    world.loss = 100;
    let run = world.run(config());
    assert!(run.facts.is_empty());
    let whats: Vec<_> = run.missing.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(whats, ["mapping of 192.168.1.2", "filtering of 192.168.1.2"]);
    assert_eq!(run.done, Schedule::QUICK.total());
}

#[test]
fn a_gateway_that_rewrites_plain_addresses_is_told_and_hides_nothing_else() {
    for (mapping, filtering) in nine_kinds() {
        let mut world = World::new(Some(Behavior::new(mapping, filtering)), 5);
        world.server.gateway = Some(false);
        let run = world.run(config());
        assert_eq!((run.mapping(), run.filtering()), (Some((mapping, true)), Some(filtering)));
        let told: Vec<_> = run
            .facts
            .iter()
            .filter_map(|fact| match fact {
                Measurement::AddressRewriting { plain, xored, .. } => Some((plain.ip(), xored.ip())),
                _ => None,
            })
            .collect();
        assert_eq!(told, [("192.168.1.2".parse().unwrap(), "203.0.113.7".parse().unwrap())]);
    }
}

#[test]
fn a_gateway_that_knows_the_hidden_address_too_is_not_believed_and_is_no_blocked_udp() {
    let behavior = Behavior::new(MappingBehavior::EndpointIndependent, FilteringBehavior::AddressAndPortDependent);
    let mut world = World::new(Some(behavior), 5);
    world.server.gateway = Some(true);
    let run = world.run(config());
    assert_eq!((run.mapping(), run.filtering()), (None, None), "it would seem that there is no NAT");
    assert_eq!(run.missing.len(), 2, "{:?}", run.missing);
    assert!(run.missing.iter().all(|(_, why)| why.contains("application-level gateway")), "{:?}", run.missing);
}

#[test]
fn a_server_that_cannot_help_is_said_and_no_filter_is_invented() {
    let behavior = || Some(Behavior::new(MappingBehavior::EndpointIndependent, FilteringBehavior::EndpointIndependent));
    type Fault = fn(&mut Server);
    let faults: [(Fault, &str); 3] = [
        (|server| server.announces = false, "no server has a second address to answer from (RFC 5780)"),
        (|server| server.ignores_change = true, "the server announces a second address and does not answer from it"),
        (
            |server| server.second_dead = true,
            "the server's second address does not answer either where any NAT lets it",
        ),
    ];
    for (fault, why) in faults {
        let mut world = World::new(behavior(), 1);
        fault(&mut world.server);
        let run = world.run(config());
        assert_eq!(run.filtering(), None, "{why}");
        assert!(run.missing.iter().any(|(what, reason)| what.starts_with("filtering") && reason == why), "{why}");
    }
}

#[test]
fn a_second_address_that_is_only_not_reached_is_not_said_to_be_missing() {
    let mut world = World::new(None, 1);
    world.server.announces = false;
    let run = world.run(DiscoveryConfig { proving: vec![at("192.0.2.99:3479")], ..config() });
    for what in ["mapping", "filtering"] {
        let why = run.missing.iter().find(|(missing, _)| missing.starts_with(what)).map(|(_, why)| why.as_str());
        let expected =
            "the server would answer from a second address, and 192.0.2.99:3479, its port for that, is silent";
        assert_eq!(why, Some(expected), "{what}");
    }
}

#[test]
fn two_plain_servers_tell_the_mapping_as_far_as_they_can() {
    let servers = vec![at("198.51.100.1:3478"), at("198.51.100.2:3478")];
    for (mapping, told) in [
        (MappingBehavior::EndpointIndependent, (MappingBehavior::EndpointIndependent, true)),
        (MappingBehavior::AddressDependent, (MappingBehavior::AddressDependent, false)),
        (MappingBehavior::AddressAndPortDependent, (MappingBehavior::AddressDependent, false)),
    ] {
        let mut world = World::new(Some(Behavior::new(mapping, FilteringBehavior::AddressAndPortDependent)), 1);
        world.server.announces = false;
        let run = world.run(DiscoveryConfig { servers: servers.clone(), ..config() });
        assert_eq!(run.mapping(), Some(told));
    }
}

#[test]
fn a_dead_server_beside_two_plain_ones_is_not_waited_for() {
    let dead = at("192.0.2.99:3478");
    let servers = vec![dead, at("198.51.100.1:3478"), at("198.51.100.2:3478")];
    let kind = Behavior::new(MappingBehavior::EndpointIndependent, FilteringBehavior::AddressAndPortDependent);
    let mut world = World::new(Some(kind), 1);
    world.server.announces = false;
    let run = world.run(DiscoveryConfig { servers, ..config() });
    assert_eq!(run.mapping(), Some((MappingBehavior::EndpointIndependent, true)));
    let told = run.mapping_told.expect("the mapping is told");
    assert!((Duration::from_millis(600)..Duration::from_millis(700)).contains(&told), "{told:?}");
    assert!(run.done >= Schedule::QUICK.total(), "its answer is waited for all the same: {:?}", run.done);
}

/// The first server has two addresses; a second becomes known after the time that its name's look-up takes.
#[test]
fn a_server_that_becomes_known_late_holds_nothing_up_and_is_asked_all_the_same() {
    for (mapping, filtering) in nine_kinds() {
        let mut world = World::new(Some(Behavior::new(mapping, filtering)), 7);
        let late = at("198.51.100.1:3479");
        world.later = vec![(Duration::from_millis(1500), late)];
        let run = world.run(DiscoveryConfig { naming: true, ..config() });
        assert_eq!((run.mapping(), run.filtering()), (Some((mapping, true)), Some(filtering)));
        assert!(run.concluded <= Duration::from_millis(750), "{:?}", run.concluded);
        // Once as the first server's other port, and once as a server.
        let told = |fact: &&Measurement| matches!(fact, Measurement::MappedAddress { remote, .. } if *remote == late);
        assert_eq!(run.facts.iter().filter(told).count(), 2, "{mapping} {filtering}");
        assert!(run.done > Duration::from_millis(1500));
    }
}

/// Nothing is concluded from the first alone, which tells too little; and one that proves us may be named late, too.
#[test]
fn what_only_a_later_server_can_tell_is_waited_for() {
    for (mapping, filtering) in nine_kinds() {
        let mut world = World::new(Some(Behavior::new(mapping, filtering)), 3);
        world.server.wants_proof = true;
        world.later = vec![(Duration::from_millis(400), at("198.51.100.1:3478"))];
        let run = world.run(DiscoveryConfig { servers: vec![], naming: true, ..config() });
        assert_eq!((run.mapping(), run.filtering()), (Some((mapping, true)), Some(filtering)));
        assert!(run.concluded <= Duration::from_millis(1150), "{:?}", run.concluded);
    }
    let mut world = World::new(None, 1);
    world.server.announces = false;
    world.later = vec![(Duration::from_millis(900), at("198.51.100.2:3478"))];
    let run = world.run(DiscoveryConfig { naming: true, ..config() });
    assert_eq!(run.mapping(), Some((MappingBehavior::EndpointIndependent, true)));
}

#[test]
fn a_server_too_many_is_said_to_be_unasked() {
    let servers: Vec<_> = (1..=MAX_SERVERS + 2).map(|n| at(&format!("198.51.100.{n}:3478"))).collect();
    let run = World::new(None, 1).run(DiscoveryConfig { servers, ..config() });
    let told: Vec<_> = run.missing.iter().filter(|(_, why)| why.contains("only 8 servers")).collect();
    assert_eq!(told.len(), 2, "{:?}", run.missing);
    assert_eq!(told[0].0, "where 198.51.100.9:3478 sees a socket of 192.168.1.2");
}

#[test]
fn ports_are_told_as_the_nat_gives_them() {
    let allocate = |ports| {
        let kind = Behavior::new(MappingBehavior::EndpointIndependent, FilteringBehavior::AddressAndPortDependent);
        World::new(Some(Behavior { ports, ..kind }), 5).run(config()).ports().0
    };
    let kept = allocate(PortAllocation::Preserving);
    assert_eq!(kept.len(), 5);
    assert!(kept.iter().all(|pair| pair.internal == pair.external));
    let sequential = allocate(PortAllocation::Sequential);
    let mut steps = sequential.windows(2).skip(1).map(|pairs| pairs[1].external - pairs[0].external);
    assert!(steps.all(|step| step == 1), "{sequential:?}");
    assert!(allocate(PortAllocation::Random).iter().all(|pair| pair.internal != pair.external));
}

#[test]
fn several_external_addresses_are_seen() {
    let kind = Behavior::new(MappingBehavior::AddressDependent, FilteringBehavior::AddressAndPortDependent);
    let behavior = Behavior { pooling: Pooling::Arbitrary, ..kind };
    let mut world = World::new(None, 5);
    let pool = vec!["203.0.113.7".parse().unwrap(), "203.0.113.8".parse().unwrap()];
    world.nat = Some(Table::new(behavior, pool, Random::from_number(9)));
    assert_eq!(world.run(config()).ports().1.len(), 2);
}

#[test]
fn hairpinning_is_tried_last_and_told_as_it_is() {
    for hairpinning in [Hairpinning::Unsupported, Hairpinning::ExternalSource, Hairpinning::InternalSource] {
        let kind = Behavior::new(MappingBehavior::EndpointIndependent, FilteringBehavior::EndpointIndependent);
        let run =
            World::new(Some(Behavior { hairpinning, ..kind }), 2).run(DiscoveryConfig { hairpin: true, ..config() });
        let told = run.facts.iter().find_map(|fact| match fact {
            Measurement::Hairpin { behavior, sent, .. } => Some((*behavior, *sent)),
            _ => None,
        });
        assert_eq!(told, Some((hairpinning, HAIRPIN_TRIALS)));
        assert_eq!(run.filtering(), Some(FilteringBehavior::EndpointIndependent));
    }
}

#[test]
fn a_hostile_server_cannot_aim_us_elsewhere() {
    let public = at("198.51.100.1:3478");
    for other in ["127.0.0.1:3479", "10.0.0.1:3479", "224.0.0.1:3479", "0.0.0.0:3479", "198.51.100.1:3479"] {
        assert!(!is_usable(public, at(other)), "{other}");
    }
    assert!(!is_usable(public, at("[2001:db8::1]:3479")));
    assert!(!is_usable(public, at("198.51.100.2:0")));
    assert!(is_usable(public, at("198.51.100.2:3479")));
    assert!(is_usable(at("10.0.0.1:3478"), at("10.0.0.2:3479")));
}

#[test]
fn what_is_sent_is_bounded() {
    let mut world = World::new(None, 1);
    world.loss = 100;
    let servers = (1..100).map(|n| at(&format!("198.51.100.{n}:3478"))).collect();
    assert!(world.run(DiscoveryConfig { servers, ..config() }).sent <= MAX_SERVERS * Schedule::QUICK.transmissions());
    let behavior = Behavior::new(MappingBehavior::EndpointIndependent, FilteringBehavior::AddressAndPortDependent);
    assert!(World::new(Some(behavior), 1).run(config()).sent < 40);
}

#[test]
fn answers_from_strangers_and_noise_change_nothing() {
    let mut machine = NatDiscovery::new(START, config(), Random::from_number(1));
    let mut requests = Vec::new();
    let drain = |machine: &mut NatDiscovery, requests: &mut Vec<Vec<u8>>| loop {
        match machine.poll_output() {
            Output::Open(socket) => {
                let local = at("192.168.1.2:5000");
                machine.handle_input(START, Input::Opened { socket, local });
            }
            Output::Transmit { bytes, .. } => requests.push(bytes),
            Output::Timeout(_) => break,
            other => panic!("{other:?}"),
        }
    };
    drain(&mut machine, &mut requests);
    let id = Message::decode(&requests[0]).unwrap().transaction;
    let forged = MessageBuilder::new(Class::Success, Method::BINDING, id)
        .xor_address(AttributeType::XOR_MAPPED_ADDRESS, at("203.0.113.66:6666"))
        .build();
    for (remote, bytes) in [("198.51.100.9:3478", forged.as_slice()), ("198.51.100.1:3478", b"\x01\x01noise")] {
        machine.handle_input(START, Input::Datagram { socket: MAPPING, remote: at(remote), bytes });
        drain(&mut machine, &mut requests);
    }
}
