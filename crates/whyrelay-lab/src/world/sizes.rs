//! Padded probes on the path that was found, each way, as the real session makes them, and answers to the peer's.
//!
//! Only worlds with a limit on sizes make them: elsewhere every one would be answered.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use whyrelay_core::engine::peer_probes::sizes::{LARGEST, SMALLER, patience};
use whyrelay_core::engine::peer_probes::{self, Attempt, Input, Output, PeerProbes};
use whyrelay_core::host::{HostFact, Moment, Probe, ProbeAim, ProbeOutcome};
use whyrelay_core::ice::Credentials;
use whyrelay_core::ice::candidate::CandidateTransport;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::datagram::Passage;
use whyrelay_core::trace::event::{Datagram, Direction, EventKind, Transport};

use super::peer::{Action, Icmp, NEVER, Peer};

/// EMSGSIZE of Linux.
pub(super) const EMSGSIZE: i32 = 90;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The largest is under way, until this moment alone.
    Largest(Timestamp),
    /// All are under way.
    All,
    /// The largest was answered.
    Full,
}

/// The padded probes of one session.
#[derive(Debug)]
pub(super) struct Sizes {
    machine: PeerProbes,
    stage: Stage,
    local: SocketAddr,
    remote: SocketAddr,
    pub(super) wake_at: Timestamp,
}

/// Probes of the peer that were seen: its aim, where, from where, and how long.
pub(super) type Seen = BTreeSet<(String, SocketAddr, SocketAddr, usize)>;

impl Peer {
    /// Begins as soon as there is a direct path.
    pub(super) fn begin_sizes(&mut self, now: Timestamp) {
        if !self.probes_sizes() || self.sizes.is_some() {
            return;
        }
        let Some((ours, theirs)) = self.both_credentials() else { return };
        let Some(agent) = self.agent().filter(|agent| agent.is_relayed() == Some(false)) else { return };
        let Some(selected) = agent.selected_pair().filter(|pair| pair.pair.transport == CandidateTransport::Udp) else {
            return;
        };
        let (local, remote, round_trip) = (selected.pair.local, selected.pair.remote, selected.rtt);
        let machine = PeerProbes::new(ours, theirs, round_trip, self.random.fork());
        let stage = Stage::Largest(now + patience(round_trip));
        self.sizes = Some(Sizes { machine, stage, local, remote, wake_at: NEVER });
        self.pad(now, &[LARGEST]);
    }

    fn pad(&mut self, now: Timestamp, lengths: &[u16]) {
        for length in lengths {
            let Some(sizes) = &mut self.sizes else { return };
            let (aim, local) = (ProbeAim::Padded { length: *length }, sizes.local);
            let attempt = Attempt { aim, local, server: None, targets: vec![sizes.remote] };
            self.feed_sizes(now, Input::Attempt(attempt));
        }
    }

    fn feed_sizes(&mut self, now: Timestamp, input: Input<'_>) {
        let Some(sizes) = &mut self.sizes else { return };
        sizes.machine.handle_input(now, input);
        self.drain_sizes(now);
    }

    /// Its time has come: what is not answered by then is repeated or given up, and smaller ones follow the largest.
    pub(super) fn wake_sizes(&mut self, now: Timestamp) {
        let Some(sizes) = &mut self.sizes else { return };
        if sizes.wake_at > now {
            return;
        }
        if matches!(sizes.stage, Stage::Largest(until) if until <= now) {
            sizes.stage = Stage::All;
            self.pad(now, &SMALLER);
        }
        self.feed_sizes(now, Input::Timeout);
    }

    fn drain_sizes(&mut self, now: Timestamp) {
        loop {
            let Some(sizes) = &mut self.sizes else { return };
            match sizes.machine.poll_output() {
                Output::Transmit { local, remote, bytes, .. } => {
                    let (direction, transport) = (Direction::Out, Transport::Udp);
                    let interface = self.interface_of(local.ip());
                    let interface = Some(interface.as_str());
                    let passage =
                        Passage { direction, transport, local, remote, interface, bytes: &bytes, integrity: None };
                    self.record(now, EventKind::ProbeDatagram(Datagram::sanitised(passage)));
                    self.actions.push(Action::Send { source: local, destination: remote, bytes });
                }
                Output::Probe(probe) => {
                    self.told_size(now, &probe);
                    self.record_fact(now, HostFact::Probe(probe));
                }
                // Padded probes have no other socket to announce, and no silence.
                Output::Announce(_) | Output::Silence { .. } => {}
                Output::Timeout(due) => {
                    let due = due.unwrap_or(NEVER);
                    sizes.wake_at = if let Stage::Largest(until) = sizes.stage { due.min(until) } else { due };
                    return;
                }
            }
        }
    }

    /// What came of a probe: when the largest got an error there is no need to wait.
    fn told_size(&mut self, now: Timestamp, probe: &Probe) {
        let Some(sizes) = &mut self.sizes else { return };
        if let (ProbeAim::Padded { length: LARGEST }, Stage::Largest(_)) = (&probe.aim, sizes.stage) {
            sizes.stage = match probe.result {
                ProbeOutcome::Answered { .. } => Stage::Full,
                _ => Stage::Largest(now),
            };
        }
    }

    /// Takes a datagram that is about probes; `false`: it is none.
    pub(super) fn take_probe(&mut self, now: Timestamp, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) -> bool {
        if !peer_probes::is_between_peers(bytes) {
            return false;
        }
        self.feed_sizes(now, Input::Datagram { local, remote, bytes });
        let Some((ours, _)) = self.both_credentials() else { return true };
        let Some(seen) = peer_probes::receive(bytes, remote, &ours) else { return true };
        if let Some(bytes) = seen.answer {
            self.door(now, Direction::Out, Transport::Udp, local, remote, &bytes);
            self.actions.push(Action::Send { source: local, destination: remote, bytes });
        }
        if self.probes_seen.insert((seen.aim.clone(), local, remote, bytes.len())) {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            self.record_fact(now, HostFact::ProbeSeen { aim: seen.aim, local, remote, length });
        }
        true
    }

    /// An ICMP error for a padded probe; `false`: it is for something else.
    pub(super) fn size_error(&mut self, now: Timestamp, icmp: &Icmp) -> bool {
        let too_big = match icmp.remote {
            SocketAddr::V4(_) => (icmp.icmp_type, icmp.icmp_code) == (3, 4),
            SocketAddr::V6(_) => icmp.icmp_type == 2,
        };
        let is_own = |sizes: &Sizes| sizes.machine.is_about(icmp.local, icmp.remote, &icmp.quoted);
        if !too_big || !self.sizes.as_ref().is_some_and(is_own) {
            return false;
        }
        let (offender, icmp_type, icmp_code, mtu) = (icmp.offender, icmp.icmp_type, icmp.icmp_code, icmp.mtu);
        let outcome = ProbeOutcome::Icmp { offender, icmp_type, icmp_code, mtu };
        let (local, remote, quoted) = (icmp.local, icmp.remote, &icmp.quoted);
        self.feed_sizes(now, Input::Icmp { local, remote, outcome, quoted });
        true
    }

    /// The system refused a padded probe; `false`: it refused something else.
    pub(super) fn size_refused(&mut self, now: Timestamp, local: SocketAddr, remote: SocketAddr, errno: i32) -> bool {
        let is_own = |sizes: &Sizes| sizes.machine.is_about(local, remote, &[]);
        if errno != EMSGSIZE || !self.sizes.as_ref().is_some_and(is_own) {
            return false;
        }
        self.feed_sizes(now, Input::Refused { local, remote, errno });
        true
    }

    fn record_fact(&mut self, now: Timestamp, fact: HostFact) {
        self.record(now, EventKind::HostFact { moment: Moment::During, fact: Box::new(fact) });
    }

    fn both_credentials(&self) -> Option<(Credentials, Credentials)> {
        Some((self.agent()?.local_credentials().clone(), self.remote_credentials.clone()?))
    }
}
