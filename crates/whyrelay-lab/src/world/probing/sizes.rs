//! Padded probes on the path that was found, each way, the largest first.
//!
//! Only worlds with a limit on sizes make them: elsewhere every one would be answered.

use std::net::SocketAddr;

use whyrelay_core::engine::peer_probes::sizes::{LARGEST, SMALLER, patience};
use whyrelay_core::engine::peer_probes::{Attempt, Input};
use whyrelay_core::host::{Probe, ProbeAim, ProbeOutcome};
use whyrelay_core::ice::candidate::CandidateTransport;
use whyrelay_core::time::Timestamp;

use crate::world::peer::Peer;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sizes {
    /// No direct path yet.
    Waiting,
    /// The largest is under way, until this moment alone.
    Largest { until: Timestamp, local: SocketAddr, remote: SocketAddr },
    /// All are under way.
    All,
    /// The largest was answered.
    Full,
}

impl Sizes {
    pub(super) const fn deadline(&self) -> Option<Timestamp> {
        if let Self::Largest { until, .. } = self { Some(*until) } else { None }
    }

    pub(super) const fn under_way(&self) -> bool {
        matches!(self, Self::Largest { .. } | Self::All)
    }

    /// What came of a probe: when the largest got an error there is no need to wait.
    pub(super) fn told(&mut self, now: Timestamp, probe: &Probe) {
        if let (ProbeAim::Padded { length: LARGEST }, Self::Largest { until, .. }) = (&probe.aim, &mut *self) {
            match probe.result {
                ProbeOutcome::Answered { .. } => *self = Self::Full,
                _ => *until = now,
            }
        }
    }
}

impl Peer {
    /// Begins with the largest as soon as there is a direct path, and goes on with the others where that is not answered.
    pub(super) fn probe_sizes(&mut self, now: Timestamp) {
        if !self.probes_sizes() {
            return;
        }
        match self.probing.sizes {
            Sizes::Waiting => {
                let Some(agent) = self.agent().filter(|agent| agent.is_relayed() == Some(false)) else { return };
                let over_udp = agent.selected_pair().filter(|pair| pair.pair.transport == CandidateTransport::Udp);
                let Some(selected) = over_udp else { return };
                let (local, remote, round_trip) = (selected.pair.local, selected.pair.remote, selected.rtt);
                self.prepare_probes();
                self.probing.sizes = Sizes::Largest { until: now + patience(round_trip), local, remote };
                self.pad(now, LARGEST, local, remote);
            }
            Sizes::Largest { until, local, remote } if now >= until => {
                self.probing.sizes = Sizes::All;
                for length in SMALLER {
                    self.pad(now, length, local, remote);
                }
            }
            _ => {}
        }
    }

    fn pad(&mut self, now: Timestamp, length: u16, local: SocketAddr, remote: SocketAddr) {
        let attempt =
            Attempt { aim: ProbeAim::Padded { length }, local, server: None, targets: vec![remote], asked: Vec::new() };
        self.feed_probes(now, Input::Attempt(attempt));
    }
}
