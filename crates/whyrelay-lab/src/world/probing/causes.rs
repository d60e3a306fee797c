//! The probes that tell causes apart, while nothing direct works.

use std::net::SocketAddr;

use whyrelay_core::engine::peer_probes::plan::{self, Untold};
use whyrelay_core::engine::peer_probes::{Attempt, Input, MAX_TARGETS};
use whyrelay_core::host::{HostFact, ProbeAim, RoutePurpose, RouteQuestion, leads_to_guests};
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::IceState;

use crate::scenario::STUN_PORT;
use crate::world::kernel::Socket;
use crate::world::peer::Peer;

impl Peer {
    /// When a session that has no path at all becomes suspicious; `None`: it has, or was, or never will.
    pub(super) fn suspicious_from(&self) -> Option<Timestamp> {
        if self.probing.is_late || !self.probes_causes() {
            return None;
        }
        let round_trip = self.agent()?.send_pair().and_then(|pair| pair.rtt);
        Some(self.probing.described? + plan::suspicious_after(round_trip))
    }

    /// Begins, once: some time after the descriptions met where nothing works by then, else when a session would end
    /// that is not direct.
    pub(super) fn separate_when_due(&mut self, now: Timestamp) {
        if self.suspicious_from().is_some_and(|from| now >= from) {
            self.probing.is_late = true;
        }
        let Some(agent) = self.agent() else { return };
        let connecting = agent.send_pair().is_none();
        let due = match agent.state() {
            IceState::New | IceState::Closed => false,
            IceState::Failed => true,
            IceState::Completed => self.knows_all_candidates() || self.probing.is_late,
            _ => connecting && self.probing.is_late,
        };
        if due && self.probes_causes() && !self.is_direct() {
            if !self.probing.separated && !self.is_relay_only() {
                self.separate(now);
            }
            if !std::mem::replace(&mut self.probing.servers_asked, true) {
                self.ask_plainly(now);
            }
        }
    }

    /// Plain sockets ask the servers, where the session's own cannot tell what is in front.
    fn ask_plainly(&mut self, now: Timestamp) {
        let servers = self.servers_over_udp();
        for own in self.probing_locals() {
            let asked = plan::worth_asking(servers.iter().copied(), own);
            if self.untold(own).is_none() || asked.is_empty() {
                continue;
            }
            self.prepare_probes();
            let local = SocketAddr::new(own.ip(), self.free_port());
            let socket = Socket { mark: 0, device: None };
            for server in &asked {
                self.ask_about(now, &socket, local, *server, RoutePurpose::Server);
            }
            self.probing.sockets.insert(local, socket);
            let (aim, server, targets) = (ProbeAim::PlainServer, None, Vec::new());
            self.feed_probes(now, Input::Attempt(Attempt { aim, local, server, targets, asked }));
        }
    }

    /// What a socket of the session leaves untold of the network in front.
    fn untold(&self, own: SocketAddr) -> Option<Untold> {
        let is_marked = self.kernel.as_ref().is_some_and(|kernel| kernel.mark != 0);
        plan::untold(self.is_relay_only(), is_marked, self.hears_servers(own.is_ipv6()))
    }

    fn separate(&mut self, now: Timestamp) {
        let (locals, targets) = (self.probing_locals(), self.probing_targets());
        if locals.is_empty() || targets.is_empty() {
            return;
        }
        self.probing.separated = true;
        let is_marked = self.kernel.as_ref().is_some_and(|kernel| kernel.mark != 0);
        for local in &locals {
            let device = self.interface_of(local.ip());
            let has_server = self.server_for(*local).is_some();
            for aim in plan::separating(plan::Own { unbound_on: Some(&device), is_marked, has_server }) {
                self.attempt(now, *local, aim);
            }
        }
        if let Some((local, remote)) = plan::path_to_trace(&locals, &targets) {
            self.prepare_probes();
            self.probing.tracing = true;
            for attempt in plan::tracing(local, remote, self.server_for(local)) {
                self.feed_probes(now, Input::Attempt(attempt));
            }
        }
    }

    /// Opens a socket for a probe beside one of the session's.
    pub(super) fn attempt(&mut self, now: Timestamp, own: SocketAddr, aim: ProbeAim) {
        self.prepare_probes();
        let local = SocketAddr::new(own.ip(), self.free_port());
        let mark = self.kernel.as_ref().map_or(0, |kernel| kernel.mark);
        let is_plain = plan::goes_plain(&aim, self.untold(own));
        let socket = match &aim {
            ProbeAim::Device { device } => Socket { mark, device: Some(device.clone()) },
            _ if is_plain => Socket { mark: 0, device: None },
            ProbeAim::WithoutMark => Socket { mark: 0, device: None },
            _ => Socket { mark, device: None },
        };
        let mut targets: Vec<SocketAddr> = self.probing_targets().into_iter().map(|(_, remote)| remote).collect();
        // Knocks come from the peer's sockets, and only where it was heard before.
        let selected = self.agent().and_then(|agent| agent.selected_pair()).map(|pair| pair.pair.remote);
        if let (ProbeAim::Silence { .. }, Some(remote)) = (&aim, selected) {
            targets = vec![remote];
        }
        // Only these are routed otherwise than the session's own sockets or one of the others.
        if matches!(aim, ProbeAim::WithoutMark | ProbeAim::Device { .. }) {
            for remote in &targets {
                self.ask_about(now, &socket, local, *remote, RoutePurpose::Peer);
            }
            for server in self.server.clone() {
                self.ask_about(now, &socket, local, SocketAddr::new(server, STUN_PORT), RoutePurpose::Server);
            }
        }
        self.probing.sockets.insert(local, socket);
        let server = self.server_for(local);
        self.feed_probes(now, Input::Attempt(Attempt { aim, local, server, targets, asked: Vec::new() }));
    }

    fn ask_about(
        &mut self,
        now: Timestamp,
        socket: &Socket,
        local: SocketAddr,
        remote: SocketAddr,
        purpose: RoutePurpose,
    ) {
        let Some(kernel) = self.kernel.as_ref().filter(|_| remote.is_ipv4() == local.is_ipv4()) else { return };
        let question = RouteQuestion { probe: true, ..kernel.question_of(socket, purpose, Some(local), remote) };
        let answer = kernel.ask(&question);
        self.record_fact(now, HostFact::RouteAnswer(answer));
    }

    /// Candidates of the peer come one by one.
    pub(super) fn aim_at_new_candidates(&mut self, now: Timestamp) {
        if !self.probing.under_way() {
            return;
        }
        for (_, remote) in self.probing_targets() {
            if self.probing.targets.len() < MAX_TARGETS && self.probing.targets.insert(remote) {
                self.feed_probes(now, Input::Target(remote));
            }
        }
    }

    fn probing_targets(&self) -> Vec<(bool, SocketAddr)> {
        self.agent().map(plan::targets).unwrap_or_default()
    }

    fn probing_locals(&self) -> Vec<SocketAddr> {
        let mut sockets = self.sockets.clone();
        sockets.sort();
        plan::worth_probing(sockets.into_iter(), |local| leads_to_guests(&self.interface_of(local.ip())))
    }

    /// The server that tells mapped addresses: the first by its address, as a real session has them in order.
    fn server_for(&self, local: SocketAddr) -> Option<SocketAddr> {
        let of_family = self.server.iter().filter(|server| server.is_ipv4() == local.is_ipv4());
        of_family.min().map(|server| SocketAddr::new(*server, STUN_PORT))
    }
}
