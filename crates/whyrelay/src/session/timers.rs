//! When a session has to act by itself, and what it does then.

use std::time::Instant;

use whyrelay_core::engine::peer;
use whyrelay_core::time::{Now, Timestamp};
use whyrelay_core::trace::event::EndReason;

use super::driver::{Inputs, Phase, Session, TRAFFIC_INTERVAL};
use crate::io::waiting::{MOST, readers_have_run, waiting};

impl Session {
    /// When something is due next.
    pub(super) fn deadline(&mut self) -> Instant {
        let mut deadline = self.clock.instant(self.peer_deadline).min(self.next_traffic);
        let phase = match self.phase {
            Phase::Waiting => self.wait_until(),
            Phase::Connecting(since) => Some(since + self.config.timeout),
            Phase::Open | Phase::Ending(_) => None,
        };
        let others = [
            phase,
            self.channel_deadline(),
            self.restart_at,
            self.measuring.deadline(),
            self.announcement_deadline(),
            self.probing_deadline(),
            self.following_deadline(),
            self.held_back.front().map(|(at, _)| *at),
            self.hops.deadline(),
        ];
        for at in others.into_iter().flatten() {
            deadline = deadline.min(at);
        }
        deadline
    }

    /// Does what is due.
    pub(super) async fn timers(&mut self, inputs: &mut Inputs) {
        self.machine_timers(inputs).await;
        if self.probes_are_due() {
            let noted = self.clock.now();
            let found = waiting(&mut inputs.probes, self.probing.doors(), self.clock);
            for input in found.inputs {
                self.probe_input(input);
            }
            self.time_out_probes(noted.min(found.heard));
        }
        let now = Instant::now();
        if now >= self.next_traffic {
            self.next_traffic = now + TRAFFIC_INTERVAL;
            self.sink.record_traffic(self.clock.now());
        }
        match self.phase {
            Phase::Waiting if self.wait_until().is_some_and(|until| now >= until) => {
                let (wait, command) = (self.config.wait.as_secs_f64(), self.config.other_command());
                self.progress.step(&if self.signals.is_lost {
                    format!("the connection to the signaling server did not come back within the {wait} s of --wait")
                } else {
                    format!("the other side did not come within {wait} s; there, run `{command}` meanwhile")
                });
                self.end(EndReason::TimeLimit);
            }
            Phase::Waiting => self.progress_of_waiting(),
            Phase::Connecting(since) if now >= since + self.config.timeout => {
                self.progress.step("the time limit is over (--timeout)");
                self.feed(peer::Input::TimeLimit);
                self.end(EndReason::Failed);
            }
            _ => {}
        }
        self.check_announcement();
        self.send_waiting_openers();
        self.release_candidates();
        self.advance_probes();
        self.let_follow();
        if self.restart_at.is_some_and(|at| now >= at) {
            self.restart_at = None;
            self.ask_for_restart();
        }
        self.measure(|measuring, channel, now| measuring.on_time(channel, now));
    }

    /// Tells the machines whose time has come, once everything that came before has been handled.
    pub(super) async fn machine_timers(&mut self, inputs: &mut Inputs) {
        let noted = self.clock.now();
        if noted >= self.peer_deadline {
            readers_have_run(self.clock.instant(self.peer_deadline), &mut self.streams).await;
            let found = waiting(&mut inputs.udp, self.doors.values(), self.clock);
            for input in found.inputs {
                self.udp_input(input);
                self.drain();
            }
            self.take_streams(inputs, MOST);
            self.take_names(inputs, MOST);
            let heard = noted.min(found.heard);
            self.peer.handle_input(Now::timers(self.clock.now(), heard), peer::Input::Timeout);
            self.drain();
        }
        let now = Instant::now();
        if let Some(channel) = &mut self.channel {
            channel.handle_timeout(now);
        }
    }

    /// The time of what is fed to the peer machine, and arrived then: no deadline passes before
    /// [`Self::machine_timers`] has handled what waited. So an answer that came in time counts, however late this process
    /// comes to it.
    pub(super) fn peer_now(&self, arrived: Timestamp) -> Now {
        Now::ahead_of_timers(self.clock.now(), arrived)
    }

    /// Until when the other side is waited for: `--wait` begins when it could come, with the connection to signaling.
    /// Making that has a limit of its own.
    fn wait_until(&self) -> Option<Instant> {
        self.signals.client.as_ref().map(|_| self.signals.waiting_since + self.config.wait)
    }

    fn progress_of_waiting(&mut self) {
        if let Some(line) = self.signals.waiting_line() {
            self.progress.live(&line);
        }
    }
}
