//! The path of a session: what the peer machine asks for, and what a lost path leads to.

use std::time::{Duration, Instant};

use whyrelay_core::engine::peer;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::{EndReason, IceState, Side, Vantage};

use super::driver::{Phase, Session, Todo, millis};
use crate::io::stream::ConnectOptions;

/// A lost path is given this long to come back by itself before ICE restarts (`--stay`).
const RESTART_AFTER: Duration = Duration::from_secs(3);

/// Between two restarts.
pub(super) const RESTART_INTERVAL: Duration = Duration::from_secs(10);

impl Session {
    pub(super) fn peer_output(&mut self, now: Timestamp, output: peer::Output) {
        match output {
            peer::Output::Transmit(transmit) => self.transmit(now, &transmit),
            peer::Output::Data(bytes) => self.take_dtls(bytes),
            peer::Output::Connect { id, local, remote, tls, framing } => {
                let mark = self.config.mark;
                self.streams.connect(id, ConnectOptions { local: Some(local), remote, tls, mark, framing });
            }
            peer::Output::Disconnect { id } => self.streams.close(id),
            peer::Output::Resolve { name, multicast: true } => self.resolver.resolve_multicast(name),
            peer::Output::Resolve { name, multicast: false } => self.resolver.resolve(name),
            peer::Output::LocalCandidate(candidate) => self.signal_candidate(&candidate),
            peer::Output::LocalEndOfCandidates => self.signal_end_of_candidates(),
            peer::Output::Selected(selected) => {
                let rtt = selected.rtt.map_or(String::new(), |rtt| format!(", {}", millis(rtt)));
                let (local, remote) = (selected.pair.local, selected.pair.remote);
                let (near, far) = (selected.local.kind, selected.remote.kind);
                self.progress.step(&if self.config.redact {
                    format!("path: {near} → {far}{rtt}")
                } else {
                    format!("path: {near} {local} → {far} {remote}{rtt}")
                });
                self.path_usable();
                self.has_path = true;
                self.end_when_done();
            }
            peer::Output::StateChanged(state) => self.ice_state_changed(state),
            peer::Output::Event(event) => {
                self.show(&event);
                self.sink.record(now, event);
            }
            peer::Output::Closed => self.closed = true,
            peer::Output::Timeout(_) => {}
        }
    }

    pub(super) fn ice_state_changed(&mut self, state: IceState) {
        self.ice_state = state;
        match state {
            IceState::Connected | IceState::Completed => {
                self.restart_at = None;
                self.path_usable();
            }
            IceState::Disconnected if self.config.stay => {
                self.progress.step("the path is silent");
                self.restart_at.get_or_insert(Instant::now() + RESTART_AFTER);
            }
            IceState::Failed if self.config.stay && self.phase == Phase::Open => {
                self.progress.step("the path is lost");
                self.restart_at.get_or_insert(Instant::now() + RESTART_AFTER);
            }
            IceState::Failed => {
                self.progress.step("ICE failed: nothing is left to try");
                self.end(EndReason::Failed);
            }
            _ => {}
        }
    }

    /// Restarts ICE, or asks the offerer to.
    pub(super) fn ask_for_restart(&mut self) {
        if matches!(self.ice_state, IceState::Connected | IceState::Completed) {
            return;
        }
        self.restart_at = Some(Instant::now() + RESTART_INTERVAL);
        match self.config.side {
            Vantage::A => self.restart(Side::Local),
            Vantage::B => self.signal_restart(),
        }
    }

    /// A pair can carry data: the DTLS client starts, and what was held goes out.
    pub(super) fn path_usable(&mut self) {
        self.start_channel();
        for bytes in std::mem::take(&mut self.held) {
            self.todo.push_back(Todo::Data(bytes));
        }
    }
}
