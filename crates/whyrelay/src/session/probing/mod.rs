//! Probes beside the session: the comparison with a plain program's sockets (`--as`), and those that tell causes apart
//! while nothing direct works. Each has a socket of its own; what came of it is a fact in the recording.

mod begin;
mod peers_side;
mod silence;
mod sizes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use whyrelay_core::engine::peer_probes::{self, Asked, PeerProbes};
use whyrelay_core::host::{HostFact, Moment, ProbeOutcome};
use whyrelay_core::signal::{MessageType, PeerProbing};
use whyrelay_core::time::{Now, Timestamp};
use whyrelay_core::trace::event::{Direction, EndReason};

use super::driver::{Phase, Session};
use super::sockets::bare;
use crate::io::udp::{IcmpError, UdpDoor, UdpInput};

/// The feature of a peer that answers probes and sends openers.
pub(super) const PROBES_FEATURE: &str = "probes";

/// How long a session that is over goes on for probes of either side.
const LINGER: Duration = Duration::from_secs(3);

/// How long after the end the peer may take to say that its probes of the path have begun. It has the same path, and
/// what it says goes by the signaling server while our own probes may be answered within a millisecond.
const PEER_BEGINS_WITHIN: Duration = Duration::from_millis(500);

/// Datagrams of probes that wait for the loop; more wait in the kernel.
const QUEUE: usize = 256;

/// Servers that tell mapped addresses; more are not asked.
const MAX_SERVERS: usize = 4;

/// The probes of one session.
#[derive(Debug)]
pub(super) struct Probing {
    probes: Option<PeerProbes>,
    /// Their sockets.
    doors: BTreeMap<SocketAddr, UdpDoor>,
    sender: mpsc::Sender<UdpInput>,
    /// STUN servers over UDP that the session asks.
    servers: BTreeSet<SocketAddr>,
    /// The interfaces of the session's sockets.
    interfaces: BTreeMap<SocketAddr, String>,
    /// The peer's addresses that are asked.
    targets: BTreeSet<SocketAddr>,
    compared: bool,
    separated: bool,
    /// Plain sockets have asked the servers.
    servers_asked: bool,
    /// Probes with a low TTL are out: what dies of it is theirs.
    tracing: bool,
    deadline: Option<Timestamp>,
    /// Whether the peer's probes are under way; `None`: it has not said anything yet.
    peer_probes: Option<bool>,
    /// Since when the session is over and goes on.
    over_since: Option<Instant>,
    /// What the peer has this side send for its probes.
    asked: Asked<Instant>,
    /// Until when a session that is over waits for knocks, our own or the peer's.
    silent_until: Option<Instant>,
    /// The silence that was asked for has begun.
    silence_begun: bool,
    /// The peer was told that there will be one.
    silence_announced: bool,
    sizes: sizes::Sizes,
}

impl Probing {
    /// None yet; what arrives at their sockets comes by the receiver.
    pub(super) fn new() -> (Self, mpsc::Receiver<UdpInput>) {
        let (sender, inputs) = mpsc::channel(QUEUE);
        let probing = Self {
            probes: None,
            doors: BTreeMap::new(),
            sender,
            servers: BTreeSet::new(),
            interfaces: BTreeMap::new(),
            targets: BTreeSet::new(),
            compared: false,
            separated: false,
            servers_asked: false,
            tracing: false,
            deadline: None,
            peer_probes: None,
            over_since: None,
            asked: Asked::default(),
            silent_until: None,
            silence_begun: false,
            silence_announced: false,
            sizes: sizes::Sizes::default(),
        };
        (probing, inputs)
    }

    /// One of the session's own sockets.
    pub(super) fn own_socket(&mut self, local: SocketAddr, interface: Option<&str>) {
        if let Some(interface) = interface {
            self.interfaces.insert(local, interface.to_owned());
        }
    }

    /// The interface of one of the session's sockets.
    pub(super) fn interface_of(&self, local: SocketAddr) -> Option<&str> {
        self.interfaces.get(&local).map(String::as_str)
    }

    /// A server that was asked for a mapped address.
    pub(super) fn server(&mut self, remote: SocketAddr) {
        if self.servers.len() < MAX_SERVERS {
            self.servers.insert(remote);
        }
    }

    /// The sockets that are the probes' own.
    pub(super) fn doors(&self) -> impl Iterator<Item = &UdpDoor> {
        self.doors.values()
    }

    /// As after the path's largest packet was answered.
    #[cfg(test)]
    pub(super) fn sized(&mut self) {
        self.sizes = sizes::Sizes::Full;
    }

    fn under_way(&self) -> bool {
        self.probes.as_ref().is_some_and(|probes| !probes.is_done())
    }
}

impl Session {
    /// Begins what is due. To be called after every input.
    pub(super) fn advance_probes(&mut self) {
        self.send_openers();
        self.send_knocks();
        self.probe_sizes();
        self.announce_silence();
        self.begin_silence();
        if self.may_compare() {
            self.compare();
        }
        if let Phase::Connecting(since) = self.phase
            && since.elapsed() >= self.suspicious_after()
        {
            self.separate();
            self.ask_plainly();
        }
        self.aim_at_new_candidates();
    }

    /// Whether the time of the probes has come.
    pub(super) fn probes_are_due(&self) -> bool {
        self.probing.deadline.is_some_and(|deadline| self.clock.now() >= deadline)
    }

    /// Tells the probes so, once what waited in their sockets was handled that had arrived by then.
    pub(super) fn time_out_probes(&mut self, noted: Timestamp) {
        self.feed_probes_at(Now::timers(self.clock.now(), noted), peer_probes::Input::Timeout);
    }

    /// When something of this is due.
    pub(super) fn probing_deadline(&self) -> Option<Instant> {
        let own = self.probing.deadline.map(|deadline| self.clock.instant(deadline));
        let asked = self.probing.asked.deadline();
        let suspicious = match self.phase {
            Phase::Connecting(since) => Some(since + self.suspicious_after()),
            _ => None,
        };
        // Once it has come, what is still missing comes with some input.
        let suspicious = suspicious.filter(|at| Instant::now() < *at);
        let sizes = self.probing.sizes.deadline();
        let begin = self.begin_deadline().filter(|until| Instant::now() < *until);
        [own, asked, sizes, suspicious, begin, self.linger_deadline()].into_iter().flatten().min()
    }

    /// Whether a session that is over goes on for the sake of probes.
    pub(super) fn lingers(&mut self, reason: EndReason) -> bool {
        if matches!(reason, EndReason::Interrupted | EndReason::Error) {
            return false;
        }
        if self.probing.over_since.is_none() {
            self.probing.over_since = Some(Instant::now());
            // Servers answer, whoever the peer is.
            self.ask_plainly();
            if self.peer_answers_probes() {
                self.release_all_candidates();
                self.separate();
                self.probe_sizes();
                self.begin_silence();
                self.withdraw_silence();
            }
        }
        let over = self.linger_deadline().is_some_and(|until| Instant::now() >= until);
        let wanted = self.probing.under_way() || self.probing.peer_probes.unwrap_or_default() || self.peer_will_probe();
        // Who has ended its recording answers no probes, and waits for ours.
        if over || self.signals.peer_left || self.signals.peer_recording.is_some() {
            self.feed_probes(peer_probes::Input::Stop);
            return false;
        }
        wanted
    }

    /// Until when a session that is over waits for the peer to begin.
    fn begin_deadline(&self) -> Option<Instant> {
        let since = self.probing.over_since.filter(|_| self.probing.peer_probes.is_none())?;
        self.probing.sizes.has_begun().then_some(since + PEER_BEGINS_WITHIN)
    }

    fn peer_will_probe(&self) -> bool {
        self.begin_deadline().is_some_and(|until| Instant::now() < until)
    }

    /// The last moment of a session that is over.
    fn linger_deadline(&self) -> Option<Instant> {
        let until = self.probing.over_since? + LINGER;
        Some(self.probing.silent_until.map_or(until, |silent| silent.max(until)))
    }

    /// Feeds the probes and does what they want. As for the session's checks, what came in time counts.
    pub(super) fn feed_probes(&mut self, input: peer_probes::Input<'_>) {
        self.feed_probes_arrived(self.clock.now(), input);
    }

    fn feed_probes_arrived(&mut self, arrived: Timestamp, input: peer_probes::Input<'_>) {
        self.feed_probes_at(Now::ahead_of_timers(self.clock.now(), arrived), input);
    }

    fn feed_probes_at(&mut self, now: Now, input: peer_probes::Input<'_>) {
        let Some(probes) = &mut self.probing.probes else { return };
        let was_under_way = !probes.is_done();
        probes.handle_input(now, input);
        self.drain_probes(now, was_under_way);
    }

    fn drain_probes(&mut self, now: Now, was_under_way: bool) {
        loop {
            let Some(probes) = &mut self.probing.probes else { return };
            match probes.poll_output() {
                peer_probes::Output::Transmit { local, remote, bytes, ttl, whole } => {
                    self.sink.pass_probe(self.clock.now(), Direction::Out, (local, remote), &bytes);
                    let door = self.probing.doors.get(&local).or_else(|| self.doors.get(&local));
                    let sent = match (door, ttl) {
                        (Some(door), Some(ttl)) => door.send_with_ttl(remote, &bytes, ttl),
                        (Some(door), None) if whole => door.send_whole(remote, &bytes),
                        (Some(door), None) => door.send(remote, &bytes),
                        (None, _) => Err(std::io::Error::from_raw_os_error(libc::ENOTCONN)),
                    };
                    // A full send buffer is no refusal: the request is repeated.
                    if let Err(error) = sent
                        && let Some(errno) = error.raw_os_error().filter(|errno| *errno != libc::EAGAIN)
                        && let Some(probes) = &mut self.probing.probes
                    {
                        probes.handle_input(now, peer_probes::Input::Refused { local, remote, errno });
                    }
                }
                peer_probes::Output::Announce(open) => {
                    self.say_about_probes(&PeerProbing { open, ..PeerProbing::default() });
                }
                peer_probes::Output::Silence { at, after } => self.ask_for_knocks(at, after),
                peer_probes::Output::Probe(probe) => {
                    self.probing.sizes.told(&probe);
                    self.host_input(Moment::During, HostFact::Probe(probe));
                }
                peer_probes::Output::Timeout(deadline) => {
                    self.probing.deadline = deadline;
                    break;
                }
            }
        }
        if was_under_way && !self.probing.under_way() {
            self.probing.tracing = false;
            self.say_about_probes(&PeerProbing { under_way: Some(false), ..PeerProbing::default() });
        }
    }

    /// Something arrived at a probing socket.
    pub(super) fn probe_input(&mut self, input: UdpInput) {
        match input {
            UdpInput::Datagram { local, remote, kernel_time, bytes } => {
                let at = kernel_time.map_or_else(|| self.clock.now(), |time| self.clock.from_kernel(time));
                let local = bare(local);
                self.sink.pass_probe(at, Direction::In, (local, remote), &bytes);
                self.feed_probes_arrived(at, peer_probes::Input::Datagram { local, remote, bytes: &bytes });
            }
            UdpInput::Icmp(error) => {
                self.probe_error(&error);
            }
            UdpInput::Broken { local, .. } => drop(self.probing.doors.remove(&bare(local))),
        }
    }

    /// An ICMP error for a probe. Answers whether it is one: on the session's own sockets only what died of a low TTL.
    pub(super) fn probe_error(&mut self, error: &IcmpError) -> bool {
        let local = bare(error.local);
        let time_exceeded = match error.remote {
            SocketAddr::V4(_) => error.icmp_type == 11,
            SocketAddr::V6(_) => error.icmp_type == 3,
        };
        let too_big = match error.remote {
            SocketAddr::V4(_) => (error.icmp_type, error.icmp_code) == (3, 4),
            SocketAddr::V6(_) => error.icmp_type == 2,
        };
        let quoted: &[u8] = error.quoted.as_ref().map_or(&[], |quoted| &quoted[..]);
        // What a router quotes may end before the transaction; then it is the probes that are large.
        let is_about = |probes: &PeerProbes| quoted.is_empty() || probes.is_about(local, error.remote, quoted);
        let of_a_probe = self.probing.doors.contains_key(&local)
            || self.probing.tracing && time_exceeded
            || self.probing.sizes.under_way() && too_big && self.probing.probes.as_ref().is_some_and(is_about);
        if !of_a_probe {
            return false;
        }
        let (offender, icmp_type, icmp_code) = (error.offender, error.icmp_type, error.icmp_code);
        let mtu = error.mtu.filter(|_| too_big);
        let outcome = ProbeOutcome::Icmp { offender, icmp_type, icmp_code, mtu };
        self.feed_probes(peer_probes::Input::Icmp { local, remote: error.remote, outcome, quoted });
        true
    }

    /// Whether the session has a direct path, or one that is.
    pub(super) fn is_direct(&self) -> bool {
        self.peer.agent().is_relayed() == Some(false)
    }

    pub(super) fn peer_answers_probes(&self) -> bool {
        self.signals.peer_answers_probes() && self.remote.is_some()
    }

    fn suspicious_after(&self) -> Duration {
        peer_probes::plan::suspicious_after(self.peer.agent().send_pair().and_then(|pair| pair.rtt))
    }

    pub(super) fn say_about_probes(&mut self, content: &PeerProbing) {
        if !self.signals.peer_answers_probes() {
            return;
        }
        // Numbers and addresses always serialize.
        let content = serde_json::to_string(content).unwrap_or_default();
        self.say(MessageType::Probe, content);
    }
}
