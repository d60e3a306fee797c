//! Silence, to see whether a mapping outlives it: the socket opens its NAT toward the peer, then sends nothing, and at the
//! end the peer knocks. Only a packet from outside can tell, as a repeated request would make the mapping anew.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Output, PeerProbes, Running, Stage};
use crate::host::{Probe, ProbeOutcome};
use crate::time::Timestamp;

/// A knock that does not come within this after the silence will not, beside what the path takes.
const KNOCKED_WITHIN: Duration = Duration::from_millis(1200);

impl PeerProbes {
    /// The peer's knock arrived: the mapping has lived through the silence.
    pub(super) fn knocked(&mut self, local: SocketAddr, remote: SocketAddr) {
        let silent =
            |running: &&mut Running| running.attempt.local == local && matches!(running.stage, Stage::Silent(_));
        let Some(running) = self.attempts.iter_mut().find(silent) else { return };
        for request in running.requests.iter_mut().filter(|request| request.remote == remote && !request.told) {
            let round_trip_us = match request.outcome {
                Some(ProbeOutcome::Answered { round_trip_us, .. }) => round_trip_us,
                _ => continue,
            };
            self.outputs.push_back(Output::Probe(Probe {
                aim: running.attempt.aim.clone(),
                local,
                remote,
                transmissions: request.transmissions,
                result: ProbeOutcome::Answered { mapped: None, round_trip_us },
            }));
            // What else arrives says nothing new.
            request.told = true;
        }
        if running.requests.iter().all(|request| request.told) {
            running.stage = Stage::Done;
        }
    }

    /// The way is open to those that answered: from now on nothing is sent, and the peer is asked to knock.
    pub(super) fn be_silent(&mut self, now: Timestamp, index: usize, seconds: u32) {
        let patience = self.patience;
        let running = &mut self.attempts[index];
        for request in &mut running.requests {
            request.told = !matches!(request.outcome, Some(ProbeOutcome::Answered { .. }));
        }
        if running.requests.iter().all(|request| request.told) {
            // Nothing was open that could close.
            running.stage = Stage::Done;
            for remote in &running.attempt.targets {
                let detail = "the peer does not answer this socket, so that there is nothing to forget".to_owned();
                self.outputs.push_back(Output::Probe(Probe {
                    aim: running.attempt.aim.clone(),
                    local: running.attempt.local,
                    remote: *remote,
                    transmissions: 0,
                    result: ProbeOutcome::NotMade { detail },
                }));
            }
            return;
        }
        let after = Duration::from_secs(u64::from(seconds));
        running.stage = Stage::Silent(now + after + KNOCKED_WITHIN + patience);
        self.outputs.push_back(Output::Silence { at: running.mapped.clone(), after });
    }

    /// No knock came to what is still open.
    pub(super) fn end_of_silence(&mut self, index: usize) {
        let running = &mut self.attempts[index];
        running.stage = Stage::Done;
        for request in running.requests.iter().filter(|request| !request.told) {
            self.outputs.push_back(Output::Probe(Probe {
                aim: running.attempt.aim.clone(),
                local: running.attempt.local,
                remote: request.remote,
                transmissions: request.transmissions,
                result: ProbeOutcome::Silent,
            }));
        }
    }
}
