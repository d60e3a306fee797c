//! The peer's probes: answering them, and opening our NAT for them.

use std::net::SocketAddr;

use whyrelay_core::engine::peer_probes::{self, Input};
use whyrelay_core::host::{HostFact, RoutePurpose};
use whyrelay_core::signal::PeerProbing;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::{Direction, Transport};

use crate::world::network::USUAL_TTL;
use crate::world::peer::{Action, Peer};

impl Peer {
    /// The peer says something about probes.
    pub(in crate::world) fn heard_about_probes(&mut self, now: Timestamp, probing: &PeerProbing) {
        if probing.opened {
            self.feed_probes(now, Input::Opened);
        }
        self.probing.asked.knock(now, &probing.knock, probing.after_ms);
        self.probing.asked.open(now, &probing.open);
        self.send_openers(now);
        if !probing.open.is_empty() {
            self.say_about_probes(PeerProbing { opened: true, ..PeerProbing::default() });
        }
    }

    /// Sends the openers that are due, from each of our sockets.
    pub(super) fn send_openers(&mut self, now: Timestamp) {
        while let Some(remote) = self.probing.asked.due_opener(now) {
            let Some((ours, theirs)) = self.both_credentials() else { return };
            self.ask_route_once(now, RoutePurpose::Peer, remote);
            let of_family = |local: &SocketAddr| local.is_ipv4() == remote.is_ipv4();
            for local in self.sockets.clone().into_iter().filter(of_family) {
                let bytes = peer_probes::opener(self.random.transaction_id(), &ours, &theirs);
                self.send_own(now, local, remote, bytes);
            }
        }
    }

    /// Takes a datagram that is about probes; `false`: it is none.
    pub(in crate::world) fn take_probe(
        &mut self,
        now: Timestamp,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
    ) -> bool {
        if !peer_probes::is_between_peers(bytes) {
            return false;
        }
        self.feed_probes(now, Input::Datagram { local, remote, bytes });
        let Some((ours, _)) = self.both_credentials() else { return true };
        let Some(seen) = peer_probes::receive(bytes, remote, &ours) else { return true };
        if let Some(bytes) = seen.answer {
            self.ask_route_once(now, RoutePurpose::Peer, remote);
            self.send_own(now, local, remote, bytes);
        }
        if self.probing.asked.is_new(&seen.aim, local, remote, bytes.len()) {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            self.record_fact(now, HostFact::ProbeSeen { aim: seen.aim, local, remote, length });
        }
        true
    }

    /// Through the door, as all that the session's own sockets send.
    pub(super) fn send_own(&mut self, now: Timestamp, local: SocketAddr, remote: SocketAddr, bytes: Vec<u8>) {
        self.door(now, Direction::Out, Transport::Udp, local, remote, &bytes);
        let (ttl, is_probe) = (USUAL_TTL, false);
        self.actions.push(Action::Send { source: local, destination: remote, bytes, ttl, is_probe });
    }
}
