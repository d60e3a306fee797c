//! The simulated network and the two agents on it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::ice::candidate::{Candidate, CandidateTransport, CandidateType};
use crate::ice::{Agent, Config, Credentials, Input, LocalCandidate, Output, SelectedPair, Transmit};
use crate::random::Random;
use crate::time::Timestamp;
use crate::trace::datagram::Passage;
use crate::trace::event::{
    Datagram, Direction, EndReason, Event, EventKind, IceState, Pair, Role, Side, Transport, Vantage,
};

use super::candidate;

pub(super) const A: usize = 0;
pub(super) const B: usize = 1;

/// Where virtual time starts.
pub(super) const START: Timestamp = Timestamp::from_micros(1_000_000_000);

/// What the network does to each datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// One way.
    pub(super) delay: Duration,
    /// Up to so much more, at random: reorders.
    pub(super) jitter: Duration,
    /// Percent, one way.
    pub(super) loss: u64,
    /// Percent.
    pub(super) duplicates: u64,
}

impl Link {
    pub(super) const fn of_delay(millis: u64) -> Self {
        Self { delay: Duration::from_millis(millis), jitter: Duration::ZERO, loss: 0, duplicates: 0 }
    }
}

/// Something that happens to an agent later.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    Datagram { transport: CandidateTransport, local: SocketAddr, remote: SocketAddr, bytes: Vec<u8> },
    Candidate(Candidate),
    Resolved(Candidate, SocketAddr),
    Credentials(Credentials),
    EndOfCandidates,
    Permission { relayed: SocketAddr, peer: IpAddr },
    Connected { pair: Pair, local: SocketAddr },
    Refused { pair: Pair },
}

/// Two agents and what lies between them.
pub(super) struct Network {
    pub(super) now: Timestamp,
    pub(super) agents: [Agent; 2],
    pub(super) link: Link,
    /// One way over signaling.
    pub(super) signaling: Duration,
    /// Which agent has which socket: base, and from outside its mapped address.
    sockets: BTreeMap<SocketAddr, usize>,
    /// A NAT per base: source address as seen by others; endpoint-independent both ways.
    pub(super) mapped: BTreeMap<SocketAddr, SocketAddr>,
    /// Paths, source as sent from to destination, that swallow everything; by IP address.
    pub(super) blocked: BTreeSet<(IpAddr, IpAddr)>,
    pub(super) blackout: bool,
    /// Permissions are denied with this code.
    pub(super) deny: Option<u16>,
    connections: BTreeMap<(SocketAddr, SocketAddr), SocketAddr>,
    next_port: u16,
    queue: BTreeMap<(Timestamp, u64), (usize, Happening)>,
    counter: u64,
    random: Random,
    pub(super) events: [Vec<(Timestamp, EventKind)>; 2],
    pub(super) sent: [Vec<(Timestamp, Transmit)>; 2],
    pub(super) selected: [Vec<(Timestamp, SelectedPair)>; 2],
    pub(super) timeouts: u64,
    /// From where to where TCP connections were asked for.
    pub(super) connecting: Vec<(SocketAddr, SocketAddr)>,
    /// Whether datagrams are events, too: thousands of runs need none.
    pub(super) recorded: bool,
}

impl Network {
    pub(super) fn new(seed: u64, link: Link) -> Self {
        Self::with(seed, link, |_| {})
    }

    /// A network whose two configurations are changed first.
    pub(super) fn with(seed: u64, link: Link, change: impl Fn(&mut [Config; 2])) -> Self {
        let mut random = Random::from_number(seed);
        let mut configs = [Role::Controlling, Role::Controlled].map(|role| {
            let credentials = Credentials::generate(&mut random);
            Config::new(role, credentials)
        });
        change(&mut configs);
        let agents = configs.map(|config| Agent::new(START, config, random.fork()));
        let mut network = Self {
            now: START,
            agents,
            link,
            signaling: link.delay,
            sockets: BTreeMap::new(),
            mapped: BTreeMap::new(),
            blocked: BTreeSet::new(),
            blackout: false,
            deny: None,
            connections: BTreeMap::new(),
            next_port: 50_000,
            queue: BTreeMap::new(),
            counter: 0,
            random,
            events: [Vec::new(), Vec::new()],
            sent: [Vec::new(), Vec::new()],
            selected: [Vec::new(), Vec::new()],
            timeouts: 0,
            connecting: Vec::new(),
            recorded: false,
        };
        network.drain(A);
        network.drain(B);
        network
    }

    /// Feeds one input and does what comes out.
    pub(super) fn input(&mut self, side: usize, input: Input<'_>) {
        self.agents[side].handle_input(self.now, input);
        self.drain(side);
    }

    fn drain(&mut self, side: usize) {
        loop {
            match self.agents[side].poll_output() {
                Output::Timeout(_) => break,
                Output::Event(event) => self.events[side].push((self.now, event)),
                Output::SelectedPair(pair) => self.selected[side].push((self.now, pair)),
                Output::StateChanged(_) => {}
                Output::NeedPermission { relayed, peer } => {
                    let delay = self.link.delay;
                    self.later(side, delay, Happening::Permission { relayed, peer });
                }
                Output::ConnectTcp { pair, local, remote } => {
                    self.connecting.push((local, remote));
                    self.connect(side, pair);
                }
                Output::Transmit(transmit) => self.transmit(side, transmit),
            }
        }
    }

    fn connect(&mut self, side: usize, pair: Pair) {
        self.next_port += 1;
        let local = SocketAddr::new(pair.local.ip(), self.next_port);
        let happening = match self.sockets.get(&pair.remote) {
            Some(owner) if *owner != side && !self.is_blocked(local, pair.remote) => {
                self.connections.insert((local, pair.remote), local);
                Happening::Connected { pair, local }
            }
            _ => Happening::Refused { pair },
        };
        self.later(side, self.link.delay * 2, happening);
    }

    fn is_blocked(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.blackout || self.blocked.contains(&(from.ip(), to.ip()))
    }

    fn transmit(&mut self, side: usize, transmit: Transmit) {
        self.sent[side].push((self.now, transmit.clone()));
        self.saw(side, Direction::Out, transmit.transport, transmit.local, transmit.remote, &transmit.bytes);
        let Transmit { transport, local, remote, bytes } = transmit;
        if self.is_blocked(local, remote) {
            return;
        }
        if transport.is_tcp() {
            // Loss and disorder stay below TCP.
            let known =
                self.connections.contains_key(&(local, remote)) || self.connections.contains_key(&(remote, local));
            assert!(known, "no connection {local} {remote}");
            let happening =
                Happening::Datagram { transport: transport.counterpart(), local: remote, remote: local, bytes };
            return self.later(1 - side, self.link.delay, happening);
        }
        let source = self.mapped.get(&local).copied().unwrap_or(local);
        let inside = self.mapped.iter().find(|(_, outside)| **outside == remote).map(|(inside, _)| *inside);
        let destination = inside.unwrap_or(remote);
        // A base behind a NAT is not reached by its own address.
        let unreachable = inside.is_none() && self.mapped.contains_key(&remote);
        let Some(owner) = self.sockets.get(&destination).copied().filter(|_| !unreachable) else { return };
        let copies = if self.random.below(100) < self.link.duplicates { 2 } else { 1 };
        for _ in 0..copies {
            if self.random.below(100) < self.link.loss {
                continue;
            }
            let jitter = self.random.below(self.link.jitter.as_micros() as u64 + 1);
            let delay = self.link.delay + Duration::from_micros(jitter);
            let bytes = bytes.clone();
            self.later(owner, delay, Happening::Datagram { transport, local: destination, remote: source, bytes });
        }
    }

    /// What the door records.
    fn saw(
        &mut self,
        side: usize,
        direction: Direction,
        transport: CandidateTransport,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
    ) {
        if !self.recorded {
            return;
        }
        let transport = if transport.is_tcp() { Transport::Tcp } else { Transport::Udp };
        let passage = Passage { direction, transport, local, remote, interface: None, bytes, integrity: None };
        self.events[side].push((self.now, EventKind::Datagram(Datagram::sanitised(passage))));
    }

    pub(super) fn later(&mut self, side: usize, delay: Duration, happening: Happening) {
        self.counter += 1;
        self.queue.insert((self.now + delay, self.counter), (side, happening));
    }

    fn happen(&mut self, side: usize, happening: Happening) {
        match happening {
            Happening::Datagram { transport, local, remote, bytes } => {
                self.saw(side, Direction::In, transport, local, remote, &bytes);
                self.input(side, Input::Datagram { transport, local, remote, bytes: &bytes });
            }
            Happening::Candidate(candidate) => {
                self.input(side, Input::RemoteCandidate { candidate, resolved: None });
            }
            Happening::Resolved(candidate, address) => {
                self.input(side, Input::RemoteCandidate { candidate, resolved: Some(address) });
            }
            Happening::Credentials(credentials) => self.input(side, Input::RemoteCredentials(credentials)),
            Happening::EndOfCandidates => self.input(side, Input::RemoteEndOfCandidates),
            Happening::Permission { relayed, peer } => match self.deny {
                None => self.input(side, Input::PermissionGranted { relayed, peer }),
                code => self.input(side, Input::PermissionDenied { relayed, peer, code }),
            },
            Happening::Connected { pair, local } => self.input(side, Input::TcpConnected { pair, local }),
            Happening::Refused { pair } => {
                self.input(side, Input::TcpFailed { pair, detail: "connection refused".to_owned() });
            }
        }
    }

    /// One step: the next thing in flight or the next timer. False: nothing more until `until`.
    fn step(&mut self, until: Timestamp) -> bool {
        let timer = |side: usize, agents: &mut [Agent; 2]| match agents[side].poll_output() {
            Output::Timeout(at) => at,
            other => panic!("an undrained agent: {other:?}"),
        };
        let (at_a, at_b) = (timer(A, &mut self.agents), timer(B, &mut self.agents));
        let (side, timeout) = if at_a <= at_b { (A, at_a) } else { (B, at_b) };
        let next = self.queue.first_key_value().map(|((at, _), _)| *at);
        if let Some(at) = next.filter(|at| *at <= timeout && *at <= until) {
            self.now = self.now.max(at);
            let (_, (side, happening)) = self.queue.pop_first().unwrap();
            self.happen(side, happening);
            return true;
        }
        if timeout > until {
            return false;
        }
        self.now = self.now.max(timeout);
        self.timeouts += 1;
        self.input(side, Input::Timeout);
        assert!(timer(side, &mut self.agents) > self.now, "a timer that does not move at {}", self.now);
        true
    }

    pub(super) fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.step(until) {}
        self.now = until;
    }

    /// Runs until a condition holds; false when it does not within the time.
    pub(super) fn run_until(&mut self, limit: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let until = self.now + limit;
        while !condition(self) {
            if !self.step(until) {
                return false;
            }
        }
        true
    }

    /// Gives a side a UDP host candidate and signals it.
    pub(super) fn host(&mut self, side: usize, address: &str) {
        let preference = 65_535 - self.agents[side].local_candidates().count() as u16;
        let candidate = candidate(CandidateType::Host, CandidateTransport::Udp, address, preference);
        self.gathered(side, candidate, address);
    }

    /// Gives a side a relayed candidate and signals it.
    pub(super) fn relay(&mut self, side: usize, address: &str) {
        let candidate = candidate(CandidateType::Relayed, CandidateTransport::Udp, address, 65_535);
        self.gathered(side, candidate, address);
    }

    /// A host candidate behind a NAT, with the server-reflexive one.
    pub(super) fn natted(&mut self, side: usize, base: &str, outside: &str) {
        self.mapped.insert(base.parse().unwrap(), outside.parse().unwrap());
        self.host(side, base);
        let candidate = candidate(CandidateType::ServerReflexive, CandidateTransport::Udp, outside, 65_535);
        self.gathered(side, candidate, base);
    }

    pub(super) fn gathered(&mut self, side: usize, candidate: Candidate, base: &str) {
        let base: SocketAddr = base.parse().unwrap();
        if candidate.transport != CandidateTransport::TcpActive {
            self.sockets.insert(base, side);
        }
        let told = EventKind::LocalCandidate { candidate: candidate.clone(), base, interface: None, server: None };
        self.events[side].push((self.now, told));
        self.input(side, Input::LocalCandidate(LocalCandidate::new(candidate.clone(), base)));
        self.later(1 - side, self.signaling, Happening::Candidate(candidate));
    }

    /// A socket without a candidate that the peer hears of.
    pub(super) fn unsignaled(&mut self, side: usize, candidate: Candidate, base: &str) {
        let base: SocketAddr = base.parse().unwrap();
        self.sockets.insert(base, side);
        self.input(side, Input::LocalCandidate(LocalCandidate::new(candidate, base)));
    }

    /// Signals a side's credentials.
    pub(super) fn describe(&mut self, side: usize) {
        let credentials = self.agents[side].local_credentials().clone();
        self.later(1 - side, self.signaling, Happening::Credentials(credentials));
    }

    /// Ends gathering and signals it.
    pub(super) fn done(&mut self, side: usize) {
        self.input(side, Input::LocalEndOfCandidates);
        self.later(1 - side, self.signaling, Happening::EndOfCandidates);
    }

    /// Both sides say everything at once.
    pub(super) fn start_both(&mut self) {
        for side in [A, B] {
            self.describe(side);
            self.done(side);
        }
    }

    /// An ordinary restart asked for by `first`: its new description, the peer's restart when that arrives.
    pub(super) fn restart(&mut self, first: usize) {
        for (side, who) in [(first, Side::Local), (1 - first, Side::Remote)] {
            let credentials = Credentials::generate(&mut self.random);
            self.input(side, Input::Restart { credentials, side: who });
        }
    }

    /// Both sides' recordings so far, ended.
    pub(super) fn recordings(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (side, vantage) in [(A, Vantage::A), (B, Vantage::B)] {
            let end = (self.now, EventKind::RecordingEnded { reason: EndReason::Finished });
            for (number, (at, kind)) in self.events[side].iter().cloned().chain([end]).enumerate() {
                events.push(Event { seq: (2 * number + side) as u64, at, vantage, kind });
            }
        }
        events
    }

    pub(super) fn are_selected(&self) -> bool {
        self.agents.iter().all(|agent| agent.selected_pair().is_some())
    }

    pub(super) fn are_completed(&self) -> bool {
        self.agents.iter().all(|agent| agent.state() == IceState::Completed)
    }

    pub(super) fn pair(&self, side: usize) -> Pair {
        self.agents[side].selected_pair().expect("a selected pair").pair
    }

    pub(super) fn has_event(&self, side: usize, matches: impl Fn(&EventKind) -> bool) -> bool {
        self.events[side].iter().any(|(_, event)| matches(event))
    }

    pub(super) fn count_events(&self, side: usize, matches: impl Fn(&EventKind) -> bool) -> usize {
        self.events[side].iter().filter(|(_, event)| matches(event)).count()
    }
}
