//! Silence, to see for how long the NAT remembers a mapping (`--lifetime`, opt-in as it takes that long): one socket for
//! each length, all silent at the same time, and the peer knocks at each.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use whyrelay_core::engine::peer::Transmit;
use whyrelay_core::engine::peer_probes;
use whyrelay_core::engine::peer_probes::plan::silences;
use whyrelay_core::host::ProbeAim;
use whyrelay_core::signal::PeerProbing;
use whyrelay_core::trace::event::Transport;

use super::super::driver::Session;

/// Signaling, the openers and the last knock take this beside the silence.
const BESIDE: Duration = Duration::from_secs(4);

impl Session {
    /// Tells the peer as soon as it can be told anything: one that has all it wants would be gone before it heard of a
    /// silence that begins with the path.
    pub(super) fn announce_silence(&mut self) {
        let wanted = self.config.lifetime.is_some() && self.signals.peer_answers_probes();
        if wanted && !self.probing.silence_announced {
            self.probing.silence_announced = true;
            self.say_about_probes(&PeerProbing { under_way: Some(true), ..PeerProbing::default() });
        }
    }

    /// The session is over, and there was no path to be silent on: the peer need not wait for it.
    pub(super) fn withdraw_silence(&mut self) {
        let begun = self.probing.silence_begun || self.probing.under_way();
        if self.probing.silence_announced && !begun {
            self.say_about_probes(&PeerProbing { under_way: Some(false), ..PeerProbing::default() });
        }
    }

    /// Begins, once there is a direct path, with the socket of the selected pair for a model.
    pub(super) fn begin_silence(&mut self) {
        let Some(longest) = self.config.lifetime.filter(|_| !self.probing.silence_begun) else { return };
        if !self.peer_answers_probes() || !self.is_direct() {
            return;
        }
        let Some(pair) = self.peer.agent().selected_pair().map(|pair| pair.pair) else { return };
        let local = super::super::sockets::bare(pair.local);
        if !self.doors.contains_key(&local) {
            return;
        }
        self.probing.silence_begun = true;
        let steps = silences(longest);
        let last = steps.last().copied().unwrap_or(1);
        self.progress.step(&format!("probing for how long the NAT remembers a silent mapping: this takes {last} s"));
        self.probing.silent_until = Some(Instant::now() + Duration::from_secs(u64::from(last)) + BESIDE);
        let own = self.imitation.options;
        for seconds in steps {
            self.attempt(local, ProbeAim::Silence { seconds }, own);
        }
        self.begin_probes();
    }

    /// Our socket is silent from now on: the peer is to end that.
    pub(super) fn ask_for_knocks(&mut self, at: Vec<SocketAddr>, after: Duration) {
        let after_ms = u32::try_from(after.as_millis()).ok();
        self.say_about_probes(&PeerProbing { knock: at, after_ms, ..PeerProbing::default() });
    }

    /// The peer's socket is silent from now on.
    pub(super) fn take_knocks(&mut self, at: &[SocketAddr], after_ms: Option<u32>) {
        let Some(due) = self.probing.asked.knock(Instant::now(), at, after_ms) else { return };
        let until = due + BESIDE;
        if self.probing.silent_until.is_none_or(|silent| silent < until) {
            if self.probing.silent_until.is_none() {
                let step =
                    "the other side finds out for how long its NAT remembers a silent mapping, and needs this one";
                self.progress.step(step);
            }
            self.probing.silent_until = Some(until);
        }
    }

    /// Sends the knocks that are due, from each of our sockets.
    pub(super) fn send_knocks(&mut self) {
        let now = Instant::now();
        while let Some(remote) = self.probing.asked.due_knock(now) {
            let Some((ours, theirs)) = self.both_credentials() else { return };
            let locals: Vec<SocketAddr> =
                self.doors.keys().filter(|local| local.is_ipv4() == remote.is_ipv4()).copied().collect();
            for local in locals {
                let bytes = peer_probes::knock(self.random.transaction_id(), &ours, &theirs);
                let (transport, stream) = (Transport::Udp, None);
                self.transmit(self.clock.now(), &Transmit { transport, stream, local, remote, bytes });
            }
        }
    }
}
