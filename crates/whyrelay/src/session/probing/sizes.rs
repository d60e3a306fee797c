//! Padded checks on the path that was found, each way: the largest packet first, and where it is not answered at once,
//! smaller ones. The session's own packets are small; those of a VPN or of bulk data are not.

use std::net::SocketAddr;
use std::time::Instant;

use whyrelay_core::engine::peer_probes::sizes::{LARGEST, SMALLER, patience};
use whyrelay_core::engine::peer_probes::{self, Attempt};
use whyrelay_core::host::{Probe, ProbeAim, ProbeOutcome};
use whyrelay_core::ice::candidate::CandidateTransport;

use super::super::driver::Session;
use super::super::sockets::bare;

/// How far it is.
#[derive(Debug, Default)]
pub(super) enum Sizes {
    /// No direct path yet.
    #[default]
    Waiting,
    /// The largest is under way, until this moment alone.
    Largest { until: Instant, local: SocketAddr, remote: SocketAddr },
    /// All are under way.
    All,
    /// The largest was answered.
    Full,
}

impl Sizes {
    pub(super) fn deadline(&self) -> Option<Instant> {
        if let Self::Largest { until, .. } = self { Some(*until) } else { None }
    }

    pub(super) fn has_begun(&self) -> bool {
        !matches!(self, Self::Waiting)
    }

    pub(super) fn under_way(&self) -> bool {
        matches!(self, Self::Largest { .. } | Self::All)
    }

    /// What came of a probe.
    pub(super) fn told(&mut self, probe: &Probe) {
        if let (ProbeAim::Padded { length: LARGEST }, Self::Largest { until, .. }) = (&probe.aim, &mut *self) {
            match probe.result {
                ProbeOutcome::Answered { .. } => *self = Self::Full,
                // Refused, or an ICMP error: no need to wait.
                _ => *until = Instant::now(),
            }
        }
    }
}

impl Session {
    /// Begins with the largest as soon as there is a direct path, and goes on with the others where that is not answered.
    pub(super) fn probe_sizes(&mut self) {
        match self.probing.sizes {
            Sizes::Waiting => {
                let Some((local, remote)) = self.path_to_size() else { return };
                self.prepare_probes();
                let round_trip = self.peer.agent().selected_pair().and_then(|pair| pair.rtt);
                let until = Instant::now() + patience(round_trip);
                self.probing.sizes = Sizes::Largest { until, local, remote };
                self.progress.step(&format!("probing whether packets of {LARGEST} bytes pass"));
                self.pad(LARGEST, local, remote);
                self.begin_probes();
            }
            Sizes::Largest { until, local, remote } if Instant::now() >= until => {
                self.probing.sizes = Sizes::All;
                self.progress.step("they are not answered: probing smaller ones");
                for length in SMALLER {
                    self.pad(length, local, remote);
                }
                self.begin_probes();
            }
            _ => {}
        }
    }

    /// The selected pair, where it is direct and not on one machine.
    fn path_to_size(&self) -> Option<(SocketAddr, SocketAddr)> {
        if !self.peer_answers_probes() || !self.is_direct() {
            return None;
        }
        // A session that is over hears of no more candidates.
        if self.peer.agent().selected_may_be_relayed() && self.probing.over_since.is_none() {
            return None;
        }
        let pair = self.peer.agent().selected_pair()?.pair;
        let (local, remote) = (bare(pair.local), pair.remote);
        let usable = pair.transport == CandidateTransport::Udp
            && self.doors.contains_key(&local)
            && local.ip() != remote.ip()
            && !local.ip().is_loopback();
        usable.then_some((local, remote))
    }

    fn pad(&mut self, length: u16, local: SocketAddr, remote: SocketAddr) {
        let attempt =
            Attempt { aim: ProbeAim::Padded { length }, local, server: None, targets: vec![remote], asked: Vec::new() };
        self.feed_probes(peer_probes::Input::Attempt(attempt));
    }
}
