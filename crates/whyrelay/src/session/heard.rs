//! What a session hears over signaling. All of it comes from a stranger.

use std::time::Instant;

use whyrelay_core::engine::credentials::Password;
use whyrelay_core::engine::peer;
use whyrelay_core::engine::server_url::{ServerProtocol, ServerUrl};
use whyrelay_core::ice::Credentials;
use whyrelay_core::ice::candidate::{Candidate, MAX_LINE};
use whyrelay_core::sdp::{SdpType, SessionDescription};
use whyrelay_core::signal::{Message, MessageType, PeerInfo, RecordingChunk, ServersAnnouncement};
use whyrelay_core::trace::event::{Direction, EndReason, EventKind, RefuseReason, Side, SignalingState, Vantage};

use super::driver::{Phase, Session};
use super::path::RESTART_INTERVAL;
use super::signals::{RECORDING_FEATURE, public_url, shared_secret, with_hint};
use crate::signaling::Incoming;

/// Servers that are taken from an announcement.
const MAX_ANNOUNCED: usize = 16;

impl Session {
    /// Something came over signaling.
    pub(super) fn signaled(&mut self, incoming: Option<Incoming>) -> anyhow::Result<()> {
        let server = public_url(&self.config.signal);
        match incoming {
            Some(Incoming::Message(message)) => self.message(message),
            Some(Incoming::Servers(announcement)) => self.announced(announcement),
            Some(Incoming::PeerJoined(_)) => {
                self.signals.peer_present = true;
                self.signals.peer_left = false;
                self.following.restart();
                self.record(EventKind::Signaling { server, state: SignalingState::PeerPresent });
                self.progress.step(&format!("signaling: {} is there", self.signals.peer.clone()));
            }
            Some(Incoming::PeerLeft(_)) => {
                if std::mem::take(&mut self.signals.peer_present) {
                    self.signals.peer_left = true;
                    self.record(EventKind::Signaling { server, state: SignalingState::PeerLeft });
                    self.progress.step("signaling: the other side left");
                    // A path that works does not need signaling; without one the other side is gone for good.
                    if matches!(self.phase, Phase::Connecting(_)) {
                        self.end(EndReason::PeerLeft);
                    }
                }
            }
            Some(Incoming::WaitingForPeer(_)) => {}
            Some(Incoming::Refused(kind, refusal)) => {
                let (message, detail) = (kind.name().to_owned(), refusal.reason);
                self.record(EventKind::SignalRefused { message, detail, ours: true });
            }
            Some(Incoming::Disconnected { error, retry_in }) => {
                self.signals.is_lost = true;
                let detail = error.to_string();
                self.progress.step(&format!("signaling: {detail}; trying again in {:.1} s", retry_in.as_secs_f64()));
                self.record(EventKind::Signaling { server, state: SignalingState::Lost { detail } });
            }
            Some(Incoming::Reconnected) => {
                self.signals.is_lost = false;
                self.progress.step("signaling: connected again");
                let by = "websocket or long-poll, again".into();
                self.record(EventKind::Signaling { server, state: SignalingState::Connected { by, seen_as: None } });
            }
            Some(Incoming::Failed(error)) => {
                let detail = error.to_string();
                self.record(EventKind::Signaling { server, state: SignalingState::Failed { detail: detail.clone() } });
                self.signals.client = None;
                if self.phase == Phase::Waiting {
                    return Err(with_hint("waiting for the other side", error));
                }
                self.progress.step(&format!("signaling: {detail}"));
            }
            None => self.signals.client = None,
        }
        Ok(())
    }

    fn announced(&mut self, announcement: ServersAnnouncement) {
        self.signals.announcement_by = None;
        if self.named() {
            return;
        }
        let (use_stun, use_turn) = (self.config.stun.is_empty(), self.config.turn.is_empty() && !self.config.no_turn);
        let mut left = MAX_ANNOUNCED;
        for server in announcement.servers {
            for url in &server.urls {
                let url: ServerUrl = match url.parse() {
                    Ok(url) => url,
                    Err(error) => {
                        self.record(EventKind::SignalRefused {
                            message: "servers".into(),
                            detail: error.to_string(),
                            ours: false,
                        });
                        continue;
                    }
                };
                let wanted = match url.protocol() {
                    ServerProtocol::Stun => use_stun,
                    ServerProtocol::Turn => use_turn,
                };
                if wanted && left > 0 {
                    left -= 1;
                    let password = server.credential.clone().map(Password::new);
                    self.use_server(url, server.username.clone().zip(password), true);
                }
            }
        }
        self.all_named();
        // Relayed only: no server is asked who need not be.
        if use_stun && !self.config.relay_only {
            let servers = announcement.discovery.iter().filter_map(|url| url.parse().ok()).collect();
            let random = self.random.fork();
            self.beside.discover(&self.config, random, servers);
        }
    }

    fn message(&mut self, message: Message) {
        let kind = message.kind.clone();
        if matches!(kind, MessageType::Heartbeat) {
            return;
        }
        let length = u32::try_from(message.content.len()).unwrap_or(u32::MAX);
        if !matches!(kind, MessageType::Recording) {
            let name: String = kind.name().chars().take(64).collect();
            self.record(EventKind::SignalMessage { direction: Direction::In, message: name, length });
        }
        if !message.from.is_empty() && message.from != self.signals.peer {
            let detail = "it comes from another id than --peer names".to_owned();
            let message = kind.name().chars().take(64).collect();
            self.record(EventKind::SignalRefused { message, detail, ours: false });
            return;
        }
        self.signals.peer_present = true;
        match kind {
            MessageType::Offer if self.config.side == Vantage::B => self.described(SdpType::Offer, &message.content),
            MessageType::Answer if self.config.side == Vantage::A => self.described(SdpType::Answer, &message.content),
            MessageType::Offer | MessageType::Answer => {
                let detail = "both sides have the same role: one runs `whyrelay offer`, the other `whyrelay answer`";
                self.progress.step(detail);
                self.record(EventKind::SignalRefused {
                    message: kind.name().into(),
                    detail: detail.into(),
                    ours: false,
                });
            }
            MessageType::Candidate => self.remote_candidate(&message.content),
            MessageType::EndOfCandidates => self.take_end_of_candidates(),
            MessageType::Hello => self.greeted(&message.content),
            MessageType::Restart if self.config.side == Vantage::A && self.phase == Phase::Open => {
                // Both sides find a path lost at about the same time, and one restart is enough.
                let now = Instant::now();
                if self.restart_at.is_none_or(|at| at < now + RESTART_INTERVAL / 2) {
                    self.restart_at = Some(now + RESTART_INTERVAL);
                    self.restart(Side::Remote);
                }
            }
            // Left over from a session that this peer has not met.
            MessageType::Recording | MessageType::Interrupted | MessageType::Bye if self.remote.is_none() => {}
            MessageType::Recording => self.recording_chunk(&message.content),
            MessageType::Probe => self.heard_about_probes(&message.content),
            MessageType::Interrupted => {
                let server = public_url(&self.config.signal);
                self.record(EventKind::Signaling { server, state: SignalingState::PeerInterrupted });
                self.progress.step("the other side was interrupted (Ctrl-C or a signal)");
                // Its checks are over. What is measured over an open channel ends with that.
                if matches!(self.phase, Phase::Connecting(_)) {
                    self.end(EndReason::PeerLeft);
                }
            }
            MessageType::Bye => {
                self.signals.peer_left = true;
                let server = public_url(&self.config.signal);
                self.record(EventKind::Signaling { server, state: SignalingState::PeerLeft });
                let reason: String = message.content.chars().take(200).collect();
                self.progress.step(&format!("the other side left: {reason}"));
                self.end(EndReason::PeerLeft);
            }
            _ => {}
        }
    }

    fn greeted(&mut self, content: &str) {
        match serde_json::from_str::<PeerInfo>(content) {
            Ok(info) => {
                let clip = |text: &str| text.chars().take(64).collect::<String>();
                let program = format!("{} {}", clip(&info.implementation), clip(&info.version));
                let sends_recording = info.features.iter().any(|feature| feature == RECORDING_FEATURE);
                self.record(EventKind::PeerIdentified { program, sends_recording });
                self.signals.hello = Some(info);
            }
            Err(error) => {
                self.record(EventKind::SignalRefused {
                    message: "hello".into(),
                    detail: error.to_string(),
                    ours: false,
                });
            }
        }
    }

    pub(super) fn described(&mut self, kind: SdpType, text: &str) {
        let name = match kind {
            SdpType::Offer => "offer",
            SdpType::Answer => "answer",
        };
        let description = match SessionDescription::parse(kind, text) {
            Ok(description) => description,
            Err(error) => {
                let detail = error.to_string();
                self.progress.step(&format!("the other side's {name} cannot be used: {detail}"));
                self.record(EventKind::SignalRefused { message: name.into(), detail, ours: false });
                if self.remote.is_none() {
                    self.end(EndReason::Failed);
                }
                return;
            }
        };
        // An answer to an offer that a restart has replaced since, as where signaling was away for a while: its credentials
        // are of a generation that is over.
        let is_stale = description.session_version < self.local.session_version;
        if kind == SdpType::Answer && is_stale && self.signals.peer_answers_by_version() {
            return;
        }
        let restarts = self.remote.as_ref().is_some_and(|before| before.ufrag != description.ufrag);
        if self.remote.is_some() && !restarts && kind == SdpType::Offer {
            // The same offer again, as after a reconnection: answer it again.
            self.send_description(SdpType::Answer);
            return;
        }
        if restarts && kind == SdpType::Offer {
            self.restart(Side::Remote);
        }
        self.record_description(Side::Remote, name, &description);
        let credentials = Credentials::new(description.ufrag.clone(), description.password.expose());
        let (candidates, refused) = (description.candidates.clone(), description.refused_candidates.clone());
        let ended = description.end_of_candidates;
        if self.remote.is_none() {
            let secret = shared_secret(&self.local, &description);
            self.sink.redact_with(&secret);
            self.secret = Some(secret);
        }
        self.remote = Some(description);
        if self.phase == Phase::Waiting {
            self.phase = Phase::Connecting(Instant::now());
            self.progress.step(&format!("{name} received"));
        }
        self.feed(peer::Input::RemoteCredentials(credentials));
        if kind == SdpType::Offer {
            if self.generation == 0 {
                self.say_hello();
            }
            self.send_description(SdpType::Answer);
        }
        for candidate in candidates {
            self.take_candidate(candidate);
        }
        for bad in refused {
            let reason = RefuseReason::Malformed { detail: bad.to_string() };
            self.record(EventKind::RemoteCandidateRefused { line: String::new(), reason });
        }
        if ended {
            self.take_end_of_candidates();
        }
        self.start_channel();
    }

    fn remote_candidate(&mut self, line: &str) {
        // Browsers signal the end as an empty candidate (RFC 8838 §8.2 leaves the form to the signaling protocol).
        if line.trim().is_empty() {
            self.take_end_of_candidates();
            return;
        }
        match line.parse::<Candidate>() {
            Ok(candidate) => self.take_candidate(candidate),
            Err(error) => {
                // Anything else in its place could be a description, with a password.
                let is_candidate = line.starts_with("candidate:") || line.starts_with("a=candidate:");
                let first = line.lines().next().filter(|_| is_candidate).unwrap_or("(no candidate line)");
                let line = first.chars().take(MAX_LINE / 4).collect();
                let reason = RefuseReason::Malformed { detail: error.to_string() };
                self.progress.step(&format!("a candidate of the other side cannot be read: {error}"));
                self.record(EventKind::RemoteCandidateRefused { line, reason });
            }
        }
    }

    fn recording_chunk(&mut self, content: &str) {
        let chunk = match RecordingChunk::from_content(content) {
            Ok(chunk) => self.signals.assembler.push(&chunk),
            Err(error) => Err(error),
        };
        match chunk {
            Ok(Some(packed)) => {
                self.signals.peer_recording = Some(packed);
                // The other side has ended its recording: there is nothing more to come on the path either.
                self.end(match self.phase {
                    Phase::Open => EndReason::Finished,
                    _ => EndReason::Failed,
                });
            }
            Ok(None) => {}
            Err(error) => {
                self.record(EventKind::SignalRefused {
                    message: "recording".into(),
                    detail: error.to_string(),
                    ours: false,
                });
            }
        }
    }
}
