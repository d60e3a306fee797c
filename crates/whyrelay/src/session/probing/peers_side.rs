//! The peer's probes: answering them, and opening our NAT for them.

use std::net::SocketAddr;
use std::time::Instant;

use whyrelay_core::engine::peer::Transmit;
use whyrelay_core::engine::peer_probes;
use whyrelay_core::host::{HostFact, Moment};
use whyrelay_core::ice::Credentials;
use whyrelay_core::signal::PeerProbing;
use whyrelay_core::trace::event::{EventKind, Transport};

use super::super::driver::Session;

impl Session {
    /// The peer says something about probes.
    pub(in super::super) fn heard_about_probes(&mut self, content: &str) {
        let probing: PeerProbing = match serde_json::from_str(content) {
            Ok(probing) => probing,
            Err(error) => {
                let (message, detail) = ("probe".into(), error.to_string());
                return self.record(EventKind::SignalRefused { message, detail, ours: false });
            }
        };
        self.probing.peer_probes = probing.under_way.or(self.probing.peer_probes);
        if probing.opened {
            self.feed_probes(peer_probes::Input::Opened);
        }
        self.take_knocks(&probing.knock, probing.after_ms);
        self.probing.asked.open(Instant::now(), &probing.open);
        self.send_openers();
        if !probing.open.is_empty() {
            self.say_about_probes(&PeerProbing { opened: true, ..PeerProbing::default() });
        }
    }

    /// Sends the openers that are due, from each of our sockets.
    pub(super) fn send_openers(&mut self) {
        let now = Instant::now();
        while let Some(remote) = self.probing.asked.due_opener(now) {
            let Some((ours, theirs)) = self.both_credentials() else { return };
            let locals: Vec<SocketAddr> =
                self.doors.keys().filter(|local| local.is_ipv4() == remote.is_ipv4()).copied().collect();
            for local in locals {
                let bytes = peer_probes::opener(self.random.transaction_id(), &ours, &theirs);
                let (transport, stream) = (Transport::Udp, None);
                self.transmit(self.clock.now(), &Transmit { transport, stream, local, remote, bytes });
            }
        }
    }

    pub(in super::super) fn both_credentials(&self) -> Option<(Credentials, Credentials)> {
        let remote = self.remote.as_ref()?;
        Some((
            Credentials::new(self.local.ufrag.clone(), self.local.password.expose()),
            Credentials::new(remote.ufrag.clone(), remote.password.expose()),
        ))
    }

    /// Takes a datagram of one of our own sockets that is about probes; `false`: it is none.
    pub(in super::super) fn take_probe(&mut self, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) -> bool {
        if !peer_probes::is_between_peers(bytes) {
            return false;
        }
        self.feed_probes(peer_probes::Input::Datagram { local, remote, bytes });
        let Some((ours, _)) = self.both_credentials() else { return true };
        let Some(seen) = peer_probes::receive(bytes, remote, &ours) else { return true };
        if let Some(bytes) = seen.answer {
            let (transport, stream) = (Transport::Udp, None);
            self.transmit(self.clock.now(), &Transmit { transport, stream, local, remote, bytes });
        }
        if self.probing.asked.is_new(&seen.aim, local, remote, bytes.len()) {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            self.host_input(Moment::During, HostFact::ProbeSeen { aim: seen.aim, local, remote, length });
        }
        true
    }
}
