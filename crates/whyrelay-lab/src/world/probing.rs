//! Probes beside a simulated session, when and as the real one makes them: by the core's own machine, from sockets made
//! otherwise, with other TTLs and lengths; and the answers to the peer's.

mod causes;
mod peers_side;
mod silence;
mod sizes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use whyrelay_core::engine::peer_probes::{Asked, Input, Output, PeerProbes};
use whyrelay_core::host::{HostFact, Moment, ProbeOutcome};
use whyrelay_core::ice::Credentials;
use whyrelay_core::signal::PeerProbing;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::datagram::Passage;
use whyrelay_core::trace::event::{Datagram, Direction, EventKind, Transport};

use super::kernel::Socket;
use super::network::USUAL_TTL;
use super::peer::{Action, Icmp, NEVER, Peer, Signal};
use sizes::Sizes;

/// The probes of one session.
#[derive(Debug)]
pub(super) struct Probing {
    machine: Option<PeerProbes>,
    /// When the machine wants to be woken.
    due: Timestamp,
    /// Sockets that are the probes' own.
    sockets: BTreeMap<SocketAddr, Socket>,
    /// The peer's addresses that are asked.
    targets: BTreeSet<SocketAddr>,
    /// When the descriptions met.
    described: Option<Timestamp>,
    /// The moment has come at which a session without a direct path is suspicious.
    is_late: bool,
    /// The probes that tell causes apart are out, or were.
    separated: bool,
    /// So are those of servers by plain sockets, where they are called for.
    servers_asked: bool,
    /// Probes with a low TTL are out: what dies of it is theirs.
    tracing: bool,
    sizes: Sizes,
    /// What the peer has this side send for its probes.
    asked: Asked<Timestamp>,
    /// The silence that was asked for has begun.
    silence_begun: bool,
}

impl Probing {
    pub(super) fn new() -> Self {
        Self {
            machine: None,
            due: NEVER,
            sockets: BTreeMap::new(),
            targets: BTreeSet::new(),
            described: None,
            is_late: false,
            separated: false,
            servers_asked: false,
            tracing: false,
            sizes: Sizes::Waiting,
            asked: Asked::default(),
            silence_begun: false,
        }
    }

    /// The description of the other side came.
    pub(super) fn described(&mut self, now: Timestamp) {
        self.described.get_or_insert(now);
    }

    /// A socket of the probes; `None`: it is one of the session's own.
    pub(super) fn socket(&self, local: SocketAddr) -> Option<&Socket> {
        self.sockets.get(&local)
    }

    fn under_way(&self) -> bool {
        self.machine.as_ref().is_some_and(|machine| !machine.is_done())
    }
}

impl Peer {
    /// Begins what is due. To be called after every input.
    pub(super) fn advance_probes(&mut self, now: Timestamp) {
        self.send_openers(now);
        self.send_knocks(now);
        self.probe_sizes(now);
        self.begin_silence(now);
        self.separate_when_due(now);
        self.aim_at_new_candidates(now);
    }

    /// Its time may have come.
    pub(super) fn wake_probes(&mut self, now: Timestamp) {
        if self.probing.due <= now {
            self.feed_probes(now, Input::Timeout);
        }
        self.advance_probes(now);
    }

    /// When something of this is due.
    pub(super) fn probes_due(&self) -> Timestamp {
        let due = [self.probing.asked.deadline(), self.probing.sizes.deadline(), self.suspicious_from()];
        due.into_iter().flatten().fold(self.probing.due, Timestamp::min)
    }

    /// What is not answered stays without an answer.
    pub(super) fn end_probes(&mut self, now: Timestamp) {
        if self.probing.under_way() {
            self.feed_probes(now, Input::Stop);
        }
    }

    fn prepare_probes(&mut self) {
        if self.probing.machine.is_some() {
            return;
        }
        let Some((ours, theirs)) = self.both_credentials() else { return };
        let round_trip = self.agent().and_then(|agent| agent.send_pair()).and_then(|pair| pair.rtt);
        self.probing.machine = Some(PeerProbes::new(ours, theirs, round_trip, self.random.fork()));
    }

    fn feed_probes(&mut self, now: Timestamp, input: Input<'_>) {
        let Some(machine) = &mut self.probing.machine else { return };
        machine.handle_input(now, input);
        self.drain_probes(now);
    }

    fn drain_probes(&mut self, now: Timestamp) {
        loop {
            let Some(machine) = &mut self.probing.machine else { return };
            match machine.poll_output() {
                Output::Transmit { local, remote, bytes, ttl, .. } => {
                    self.pass_probe(now, Direction::Out, local, remote, &bytes);
                    let ttl = ttl.unwrap_or(USUAL_TTL);
                    self.actions.push(Action::Send { source: local, destination: remote, bytes, ttl, is_probe: true });
                }
                Output::Announce(open) => self.say_about_probes(PeerProbing { open, ..PeerProbing::default() }),
                Output::Silence { at, after } => {
                    let after_ms = u32::try_from(after.as_millis()).ok();
                    self.say_about_probes(PeerProbing { knock: at, after_ms, ..PeerProbing::default() });
                }
                Output::Probe(probe) => {
                    self.probing.sizes.told(now, &probe);
                    self.record_fact(now, HostFact::Probe(probe));
                }
                Output::Timeout(due) => {
                    self.probing.due = due.unwrap_or(NEVER);
                    break;
                }
            }
        }
        if !self.probing.under_way() {
            self.probing.tracing = false;
        }
    }

    /// Something arrived at a probing socket.
    pub(super) fn probe_answered(&mut self, now: Timestamp, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        self.pass_probe(now, Direction::In, local, remote, bytes);
        self.feed_probes(now, Input::Datagram { local, remote, bytes });
    }

    /// The system refused to send a probe.
    pub(super) fn probe_refused(&mut self, now: Timestamp, local: SocketAddr, remote: SocketAddr, errno: i32) {
        self.feed_probes(now, Input::Refused { local, remote, errno });
    }

    /// An ICMP error for a probe. Answers whether it is one: on the session's own sockets only what died of a low TTL, or
    /// was too large.
    pub(super) fn probe_error(&mut self, now: Timestamp, icmp: &Icmp) -> bool {
        let Icmp { local, remote, offender, icmp_type, icmp_code, mtu, ref quoted } = *icmp;
        let time_exceeded = icmp_type == if remote.is_ipv4() { 11 } else { 3 };
        let too_big = match remote {
            SocketAddr::V4(_) => (icmp_type, icmp_code) == (3, 4),
            SocketAddr::V6(_) => icmp_type == 2,
        };
        let is_about = |machine: &PeerProbes| machine.is_about(local, remote, quoted);
        let of_a_probe = self.probing.sockets.contains_key(&local)
            || self.probing.tracing && time_exceeded
            || self.probing.sizes.under_way() && too_big && self.probing.machine.as_ref().is_some_and(is_about);
        if of_a_probe {
            let outcome = ProbeOutcome::Icmp { offender, icmp_type, icmp_code, mtu: mtu.filter(|_| too_big) };
            self.feed_probes(now, Input::Icmp { local, remote, outcome, quoted });
        }
        of_a_probe
    }

    /// Records a probe, or what it was answered with.
    fn pass_probe(
        &mut self,
        now: Timestamp,
        direction: Direction,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
    ) {
        let interface = self.interface_of(local.ip());
        let (transport, interface, integrity) = (Transport::Udp, Some(interface.as_str()), None);
        let passage = Passage { direction, transport, local, remote, interface, bytes, integrity };
        self.record(now, EventKind::ProbeDatagram(Datagram::sanitised(passage)));
    }

    fn record_fact(&mut self, now: Timestamp, fact: HostFact) {
        self.record(now, EventKind::HostFact { moment: Moment::During, fact: Box::new(fact) });
    }

    fn say_about_probes(&mut self, content: PeerProbing) {
        self.actions.push(Action::Signal(Signal::Probing(content)));
    }

    fn is_direct(&self) -> bool {
        self.agent().is_some_and(|agent| agent.is_relayed() == Some(false))
    }

    fn both_credentials(&self) -> Option<(Credentials, Credentials)> {
        Some((self.agent()?.local_credentials().clone(), self.remote_credentials.clone()?))
    }
}
