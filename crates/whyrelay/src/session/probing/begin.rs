//! Which probes a session makes, and when.

use std::net::SocketAddr;

use whyrelay_core::engine::peer_probes::plan::{self, Untold};
use whyrelay_core::engine::peer_probes::{self, Attempt, PeerProbes};
use whyrelay_core::host::{
    HostFact, Moment, Probe, ProbeAim, ProbeOutcome, ProfileTally, RoutePurpose, leads_to_guests,
};
use whyrelay_core::signal::PeerProbing;
use whyrelay_core::trace::event::{IceState, PairState};

use super::super::driver::Session;
use super::super::sockets::bare;
use crate::host::{Flow, OwnSocket};
use crate::io::disguise::DeviceName;
use crate::io::udp::{UdpDoor, UdpOptions};

impl Session {
    pub(super) fn may_compare(&self) -> bool {
        let checking = !matches!(self.ice_state, IceState::New | IceState::Closed);
        self.config.application.is_some() && !self.probing.compared && checking && self.peer_answers_probes()
    }

    /// The comparison: the same addresses from sockets as any program has them.
    pub(super) fn compare(&mut self) {
        self.probing.compared = true;
        let name = self.config.application.as_ref().map_or("", |application| application.asked()).to_owned();
        self.progress.step(&format!("probing as a plain program, to compare with {name}"));
        for local in self.locals() {
            self.attempt(local, ProbeAim::Plain, UdpOptions::default());
        }
        self.begin_probes();
    }

    /// The probes that tell causes apart, once, while nothing direct works.
    pub(super) fn separate(&mut self) {
        if self.probing.separated || self.is_direct() || self.config.relay_only || !self.peer_answers_probes() {
            return;
        }
        let locals = self.locals();
        if locals.is_empty() || self.targets().is_empty() {
            return;
        }
        self.probing.separated = true;
        let own = self.imitation.options;
        let unmarked = if own.mark.is_some() && self.config.application.is_none() { "without the mark, " } else { "" };
        self.progress.step(&format!(
            "probing why nothing is direct: bound to the interface, from another port, {unmarked}when the other side has sent first, after an opener, hop by hop"
        ));
        for local in locals {
            let device = self.probing.interfaces.get(&local).filter(|_| own.device.is_none());
            let beside = plan::Own {
                unbound_on: device.map(String::as_str),
                is_marked: own.mark.is_some() && self.config.application.is_none(),
                has_server: self.server_for(local).is_some(),
            };
            for aim in plan::separating(beside) {
                let options = match &aim {
                    ProbeAim::Device { device } => UdpOptions { device: DeviceName::new(device), raw: false, ..own },
                    ProbeAim::WithoutMark => UdpOptions { mark: None, ..own },
                    aim if plan::goes_plain(aim, self.untold(local)) => UdpOptions::default(),
                    _ => own,
                };
                self.attempt(local, aim, options);
            }
        }
        self.trace_hops();
        self.begin_probes();
    }

    /// Plain sockets ask the servers, once, where the session's own cannot tell what is in front.
    pub(super) fn ask_plainly(&mut self) {
        if self.probing.servers_asked || self.is_direct() || self.both_credentials().is_none() {
            return;
        }
        for own in self.locals() {
            let asked = plan::worth_asking(self.peer.servers_over_udp(), own);
            let Some(untold) = self.untold(own).filter(|_| !asked.is_empty()) else { continue };
            if !std::mem::replace(&mut self.probing.servers_asked, true) {
                let line = format!("asking STUN servers from a plain program's socket, because {}", untold.why());
                self.progress.step(&line);
            }
            self.ask_from(own, asked);
        }
        if self.probing.servers_asked {
            self.begin_probes();
        }
    }

    /// Asks servers from a plain socket beside one of the session's.
    fn ask_from(&mut self, own: SocketAddr, asked: Vec<SocketAddr>) {
        self.prepare_probes();
        let aim = ProbeAim::PlainServer;
        let wanted = SocketAddr::new(own.ip(), 0);
        match UdpDoor::open(wanted, UdpOptions::default(), self.probing.sender.clone()) {
            Ok(door) => {
                let local = bare(door.local());
                self.probing.doors.insert(local, door);
                let socket = OwnSocket { local, protocol: 17, mark: 0, user: None, device: None, raw: false };
                for server in &asked {
                    self.ask_about(socket, *server, RoutePurpose::Server);
                }
                let attempt = Attempt { aim, local, server: None, targets: Vec::new(), asked };
                self.feed_probes(peer_probes::Input::Attempt(attempt));
            }
            Err(error) => {
                for remote in asked {
                    let result = ProbeOutcome::NotMade { detail: error.to_string() };
                    let probe = Probe { aim: aim.clone(), local: wanted, remote, transmissions: 0, result };
                    self.host_input(Moment::During, HostFact::Probe(probe));
                }
            }
        }
    }

    /// What a socket of the session leaves untold of the network in front.
    fn untold(&self, own: SocketAddr) -> Option<Untold> {
        let options = self.imitation.options;
        let is_special = options.mark.is_some() || options.device.is_some() || options.user.is_some() || options.raw;
        plan::untold(self.config.relay_only, is_special, self.peer.hears_servers(own.is_ipv6()))
    }

    /// Probes with low TTLs on the session's own addresses and ports.
    fn trace_hops(&mut self) {
        let Some((local, remote)) = self.path_to_trace() else { return };
        self.prepare_probes();
        self.probing.tracing = true;
        for attempt in plan::tracing(local, remote, self.server_for(local)) {
            self.feed_probes(peer_probes::Input::Attempt(attempt));
        }
    }

    fn path_to_trace(&self) -> Option<(SocketAddr, SocketAddr)> {
        plan::path_to_trace(&self.locals(), &self.targets())
    }

    fn targets(&self) -> Vec<(bool, SocketAddr)> {
        plan::targets(self.peer.agent())
    }

    /// Our own addresses that are worth it, the likeliest way out first.
    fn locals(&self) -> Vec<SocketAddr> {
        let leads_to_guests = |local: SocketAddr| self.probing.interface_of(local).is_some_and(leads_to_guests);
        plan::worth_probing(self.doors.keys().copied(), leads_to_guests)
    }

    fn server_for(&self, local: SocketAddr) -> Option<SocketAddr> {
        self.probing.servers.iter().copied().find(|server| server.is_ipv4() == local.is_ipv4())
    }

    /// Opens a socket for a probe beside one of the session's.
    pub(super) fn attempt(&mut self, own: SocketAddr, aim: ProbeAim, options: UdpOptions) {
        self.prepare_probes();
        let wanted = SocketAddr::new(own.ip(), 0);
        match UdpDoor::open(wanted, options, self.probing.sender.clone()) {
            Ok(door) => {
                let local = bare(door.local());
                self.probing.doors.insert(local, door);
                let mut targets: Vec<SocketAddr> = self.targets().into_iter().map(|(_, remote)| remote).collect();
                // Knocks come from the peer's sockets, and only where it was heard before.
                if let (ProbeAim::Silence { .. }, Some(pair)) = (&aim, self.peer.agent().selected_pair()) {
                    targets = vec![pair.pair.remote];
                }
                let server = self.server_for(local);
                // Only these are routed otherwise than the session's own sockets or one of the others.
                if matches!(aim, ProbeAim::Plain | ProbeAim::WithoutMark | ProbeAim::Device { .. }) {
                    let socket = OwnSocket {
                        local,
                        protocol: 17,
                        mark: options.mark.unwrap_or(0),
                        user: options.user,
                        device: options.device,
                        raw: false,
                    };
                    for remote in &targets {
                        self.ask_about(socket, *remote, RoutePurpose::Peer);
                    }
                    for server in self.probing.servers.clone() {
                        self.ask_about(socket, server, RoutePurpose::Server);
                    }
                }
                if aim == ProbeAim::Plain {
                    self.record_profile(local, options, false);
                }
                self.feed_probes(peer_probes::Input::Attempt(Attempt {
                    aim,
                    local,
                    server,
                    targets,
                    asked: Vec::new(),
                }));
            }
            Err(error) => {
                for (_, remote) in self.targets() {
                    let result = ProbeOutcome::NotMade { detail: error.to_string() };
                    let probe = Probe { aim: aim.clone(), local: wanted, remote, transmissions: 0, result };
                    self.host_input(Moment::During, HostFact::Probe(probe));
                }
            }
        }
    }

    fn ask_about(&mut self, socket: OwnSocket, remote: SocketAddr, purpose: RoutePurpose) {
        if remote.is_ipv4() == socket.local.is_ipv4() {
            self.sink.ask_about(Flow { socket: Some(socket), remote, purpose, probe: true });
        }
    }

    /// The machine, as soon as both sides' credentials are there.
    pub(super) fn prepare_probes(&mut self) {
        if self.probing.probes.is_some() {
            return;
        }
        let Some((ours, theirs)) = self.both_credentials() else { return };
        let round_trip = self.peer.agent().send_pair().and_then(|pair| pair.rtt);
        self.probing.probes = Some(PeerProbes::new(ours, theirs, round_trip, self.random.fork()));
        self.say_about_probes(&PeerProbing { under_way: Some(true), ..PeerProbing::default() });
    }

    pub(super) fn begin_probes(&mut self) {
        if self.probing.under_way() {
            // Again, when these are the second: the peer has heard that the first were over.
            self.say_about_probes(&PeerProbing { under_way: Some(true), ..PeerProbing::default() });
        }
    }

    /// Candidates of the peer come one by one.
    pub(super) fn aim_at_new_candidates(&mut self) {
        if !self.probing.under_way() {
            return;
        }
        for (_, remote) in self.targets() {
            if self.probing.targets.len() < peer_probes::MAX_TARGETS && self.probing.targets.insert(remote) {
                self.feed_probes(peer_probes::Input::Target(remote));
            }
        }
    }

    /// How the sockets of either kind fared, once everything is over.
    pub(in super::super) fn record_tallies(&mut self) {
        if self.config.application.is_none() {
            return;
        }
        let targets: Vec<SocketAddr> = self.targets().into_iter().map(|(_, remote)| remote).collect();
        let pairs = self.peer.agent().checklist();
        let own = pairs.iter().filter(|pair| {
            self.doors.contains_key(&pair.pair.local)
                && targets.contains(&pair.pair.remote)
                && !matches!(pair.state, PairState::Frozen | PairState::Waiting)
        });
        let mut tally = ProfileTally { as_application: true, ..ProfileTally::default() };
        for pair in own {
            tally.pairs_checked += 1;
            tally.pairs_answered += u32::from(pair.state == PairState::Succeeded);
        }
        self.host_input(Moment::After, HostFact::ProfileTally(tally));
        let plain = self.sink.probes(|aim| *aim == ProbeAim::Plain);
        if plain.is_empty() {
            let why = if self.remote.is_none() {
                "the other side never came, so that nobody was there to be asked"
            } else if self.signals.peer_answers_probes() {
                "the session ended before a plain program's sockets were tried"
            } else {
                "the other side does not answer probes: it is not whyrelay, or an older one"
            };
            let fact = HostFact::NotMeasured {
                subject: whyrelay_core::host::Subject::Application,
                why: why.into(),
                needs: None,
            };
            self.host_input(Moment::After, fact);
            return;
        }
        let mut tally = ProfileTally::default();
        for probe in &plain {
            let answered = u32::from(matches!(probe.result, ProbeOutcome::Answered { .. }));
            tally.sends_refused += u32::from(matches!(probe.result, ProbeOutcome::Refused { .. }));
            if self.probing.servers.contains(&probe.remote) {
                tally.server_requests += 1;
                tally.server_answers += answered;
            } else {
                tally.pairs_checked += 1;
                tally.pairs_answered += answered;
            }
        }
        self.host_input(Moment::After, HostFact::ProfileTally(tally));
    }
}
