//! Silence, to see for how long the NAT remembers a mapping: all lengths at the same time, and the peer knocks at each.

use std::net::SocketAddr;

use whyrelay_core::engine::peer_probes;
use whyrelay_core::engine::peer_probes::plan::silences;
use whyrelay_core::host::ProbeAim;
use whyrelay_core::time::Timestamp;

use crate::world::peer::Peer;

impl Peer {
    /// Begins, once there is a direct path, with the socket of the selected pair for a model.
    pub(super) fn begin_silence(&mut self, now: Timestamp) {
        let longest = self.longest_silence();
        if longest.is_zero() || self.probing.silence_begun || !self.is_direct() {
            return;
        }
        let selected = self.agent().and_then(|agent| agent.selected_pair()).map(|pair| pair.pair.local);
        let Some(local) = selected.filter(|local| self.sockets.contains(local)) else { return };
        self.probing.silence_begun = true;
        for seconds in silences(longest) {
            self.attempt(now, local, ProbeAim::Silence { seconds });
        }
    }

    /// Whether it finds out how long a mapping lives, or helps the peer to: the session waits for that.
    pub(in crate::world) fn awaits_silence(&self) -> bool {
        self.probing.silence_begun && self.probing.under_way() || self.probing.asked.is_to_knock()
    }

    /// Sends the knocks that are due, from each of our sockets.
    pub(super) fn send_knocks(&mut self, now: Timestamp) {
        while let Some(remote) = self.probing.asked.due_knock(now) {
            let Some((ours, theirs)) = self.both_credentials() else { return };
            let of_family = |local: &SocketAddr| local.is_ipv4() == remote.is_ipv4();
            for local in self.sockets.clone().into_iter().filter(of_family) {
                let bytes = peer_probes::knock(self.random.transaction_id(), &ours, &theirs);
                self.send_own(now, local, remote, bytes);
            }
        }
    }
}
