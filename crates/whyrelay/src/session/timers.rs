//! When a session has to act by itself, and what it does then.

use std::time::Instant;

use whyrelay_core::engine::peer;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::EndReason;

use super::driver::{Inputs, Phase, Session, TRAFFIC_INTERVAL};
use crate::io::waiting::{before, waiting};

impl Session {
    /// When something is due next.
    pub(super) fn deadline(&mut self, started: Instant) -> Instant {
        let mut deadline = self.clock.instant(self.peer_deadline).min(self.next_traffic);
        let phase = match self.phase {
            Phase::Waiting => Some(started + self.config.wait),
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
        ];
        for at in others.into_iter().flatten() {
            deadline = deadline.min(at);
        }
        deadline
    }

    /// Does what is due.
    pub(super) fn timers(&mut self, started: Instant, inputs: &mut Inputs) {
        self.machine_timers(inputs);
        if self.probes_are_due() {
            for input in waiting(&mut inputs.probes, self.probing.doors()) {
                self.probe_input(input);
            }
            self.time_out_probes();
        }
        let now = Instant::now();
        if now >= self.next_traffic {
            self.next_traffic = now + TRAFFIC_INTERVAL;
            self.sink.record_traffic(self.clock.now());
        }
        match self.phase {
            Phase::Waiting if now >= started + self.config.wait => {
                let (wait, command) = (self.config.wait.as_secs_f64(), self.config.other_command());
                let step = format!("the other side did not come within {wait} s; there, run `{command}` meanwhile");
                self.progress.step(&step);
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
    pub(super) fn machine_timers(&mut self, inputs: &mut Inputs) {
        if self.clock.now() >= self.peer_deadline {
            for input in waiting(&mut inputs.udp, self.doors.values()) {
                self.udp_input(input);
                self.drain();
            }
            self.peer.handle_input(self.clock.now(), peer::Input::Timeout);
            self.drain();
        }
        let now = Instant::now();
        if let Some(channel) = &mut self.channel {
            channel.handle_timeout(now);
        }
    }

    /// The peer machine's time: it does not pass a deadline before [`Self::machine_timers`] has handled what waited in
    /// the sockets. So an answer that came in time counts, however late this process comes to it.
    pub(super) fn peer_now(&self) -> Timestamp {
        self.clock.now().min(before(self.peer_deadline))
    }

    fn progress_of_waiting(&mut self) {
        if let Some(line) = self.signals.waiting_line() {
            self.progress.live(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use clap::Parser;
    use tokio::sync::{mpsc, watch};
    use whyrelay_core::engine::stun_server;
    use whyrelay_core::engine::transaction::Schedule;
    use whyrelay_core::trace::event::{Direction, EventKind, Vantage};
    use whyrelay_core::wire::stun::Message;

    use super::*;
    use crate::cli::args::PeerArgs;
    use crate::io::clock::Clock;
    use crate::io::names::Resolver;
    use crate::io::stream::Streams;
    use crate::io::tls::ClientTls;
    use crate::session::SessionConfig;
    use crate::session::beside::Beside;
    use crate::session::probing::Probing;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        peer: PeerArgs,
    }

    #[tokio::test]
    async fn an_answer_that_came_in_time_counts_when_the_process_stood_still_until_its_request_was_given_up() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_nonblocking(true).unwrap();
        let stun = format!("stun:{}", server.local_addr().unwrap());
        let line = ["offer", "--signal", "http://127.0.0.1:9", "--stun", &stun, "--address", "127.0.0.1"];
        let args = Line::try_parse_from(line).unwrap().peer;
        let config = SessionConfig::resolve(Vantage::A, args).unwrap();
        let clock = Clock::start();
        let (udp_sender, udp) = mpsc::channel(16);
        let (stream_sender, streams) = mpsc::channel(16);
        let (name_sender, names) = mpsc::channel(16);
        let (_host_sender, host) = mpsc::channel(16);
        let (_interrupt, interrupt) = watch::channel(0);
        let (probing, probes) = Probing::new();
        let (beside, entries) = Beside::new(clock);
        let mut inputs = Inputs { udp, probes, streams, names, host, beside: entries, interrupt };
        let streams = Streams::new(stream_sender, ClientTls::default());
        let resolver = Resolver::new(name_sender);
        let mut session = Session::start(config, clock, beside, streams, resolver, probing).unwrap();
        session.open_sockets(&udp_sender).unwrap();
        session.use_named_servers();
        session.drain();

        // Nothing is awaited, so nothing is read but by what the timers do.
        let mut buffer = [0; 1500];
        let mut requests = 0;
        while requests < Schedule::SERVER.transmissions() {
            match server.recv_from(&mut buffer) {
                Ok((length, client)) => {
                    requests += 1;
                    if requests == Schedule::SERVER.transmissions() {
                        let answer = stun_server::answer(&Message::decode(&buffer[..length]).unwrap(), client).unwrap();
                        server.send_to(&answer, client).unwrap();
                    }
                }
                Err(_) => {
                    std::thread::sleep(Duration::from_millis(1));
                    session.machine_timers(&mut inputs);
                }
            }
        }
        std::thread::sleep(Schedule::SERVER.total());
        session.machine_timers(&mut inputs);

        let told = |wanted: fn(&EventKind) -> bool| session.sink.events().iter().any(|event| wanted(&event.kind));
        assert!(!told(|kind| matches!(kind, EventKind::ServerFailed { .. })), "the server was given up");
        let is_answer = |kind: &EventKind| matches!(kind, EventKind::Datagram(d) if d.direction == Direction::In);
        assert!(told(is_answer), "the answer was not read");
    }
}
