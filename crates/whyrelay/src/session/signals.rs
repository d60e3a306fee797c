//! What a session says over signaling.

use std::time::{Duration, Instant};

use whyrelay_core::engine::peer;
use whyrelay_core::ice::Credentials;
use whyrelay_core::ice::candidate::Candidate;
use whyrelay_core::random::Random;
use whyrelay_core::sdp::{LocalParameters, SdpType, SessionDescription};
use whyrelay_core::signal::{MessageType, PeerInfo, RecordingAssembler};
use whyrelay_core::trace::event::{Direction, DtlsState, EventKind, Side, SignalingState, Vantage};

use super::SessionConfig;
use super::driver::Session;
use super::probing::PROBES_FEATURE;
use crate::channel::{Certificate, ChannelConfig, DtlsVersions};
use crate::check::{Entry, origin_toward};
use crate::io::tls::ClientTls;
use crate::signaling::{Client, SignalingError, SignalingOptions, Transport, addresses_in, name_in, unless_refused};

/// A whyrelay server announces its servers at once, even when it has none. Waiting costs nothing but the end of
/// candidates, and a lost segment on a slow path takes a second or two.
const ANNOUNCEMENT_WITHIN: Duration = Duration::from_secs(3);

/// The server's name was resolved a moment ago: the resolver need not be waited for.
const NAME_AGAIN: Duration = Duration::from_millis(500);

/// Addresses of the server of which the host is asked.
const MAX_ADDRESSES: usize = 5;

/// How we call ourselves.
pub(super) const PROGRAM: &str = "whyrelay";

/// The feature of a peer that sends its recording.
pub(super) const RECORDING_FEATURE: &str = "recording";

/// The feature of a peer that wants to see our events while the session lasts.
const FOLLOWING_FEATURE: &str = "trace";

/// The feature of a peer that replaces addresses and names by pseudonyms: then both sides do, to agree.
const REDACTED_FEATURE: &str = "redacted";

/// The feature of a peer whose answers have the session version of the offer that they answer. RFC 3264 §6 leaves the
/// answerer its own.
const VERSIONS_FEATURE: &str = "versions";

/// The state of signaling.
pub(super) struct Signals {
    pub(super) client: Option<Client>,
    pub(super) peer: String,
    /// Candidates wait until the description went out, so that no peer gets them first.
    pub(super) described: bool,
    pending: Vec<(MessageType, String)>,
    pub(super) hello: Option<PeerInfo>,
    pub(super) announcement_by: Option<Instant>,
    pub(super) peer_present: bool,
    pub(super) peer_left: bool,
    pub(super) assembler: RecordingAssembler,
    pub(super) peer_recording: Option<Vec<u8>>,
    pub(super) waiting_since: Instant,
    /// The connection is lost, and is being made again.
    pub(super) is_lost: bool,
    /// What to run on the other side.
    other_command: String,
}

impl Signals {
    pub(super) fn new(config: &SessionConfig) -> Self {
        Self {
            client: None,
            peer: config.peer.clone(),
            described: false,
            pending: Vec::new(),
            hello: None,
            announcement_by: None,
            peer_present: false,
            peer_left: false,
            assembler: RecordingAssembler::new(),
            peer_recording: None,
            waiting_since: Instant::now(),
            is_lost: false,
            other_command: config.other_command(),
        }
    }

    /// Connects; independent of `self`, so that the loop goes on meanwhile.
    pub(super) fn connect(
        &self,
        config: &SessionConfig,
        tls: ClientTls,
    ) -> impl Future<Output = anyhow::Result<Client>> + use<> {
        let mut options = SignalingOptions::new(config.signal.clone(), config.id.clone(), config.peer.clone());
        options.room = config.room.clone();
        let own_roots = !config.tls_roots.is_empty();
        async move {
            if own_roots {
                options.roots = Some(tls.roots().await?);
            }
            let connected = unless_refused(async || Client::connect(options.clone()).await).await;
            connected.map_err(|error| with_hint("connecting to signaling", error))
        }
    }

    /// Whether the other side said that it is whyrelay.
    pub(super) fn peer_is_whyrelay(&self) -> bool {
        self.hello.is_some()
    }

    /// Whether the other side will send its recording.
    pub(super) fn peer_sends_recording(&self) -> bool {
        self.has_feature(RECORDING_FEATURE)
    }

    /// Whether the other side uses pseudonyms.
    pub(super) fn peer_redacts(&self) -> bool {
        self.has_feature(REDACTED_FEATURE)
    }

    /// Whether the other side wants to see our events while the session lasts.
    pub(super) fn peer_follows(&self) -> bool {
        self.has_feature(FOLLOWING_FEATURE)
    }

    /// Whether the other side answers probes and sends openers.
    pub(super) fn peer_answers_probes(&self) -> bool {
        self.has_feature(PROBES_FEATURE)
    }

    /// Whether an answer of the other side tells which offer it answers.
    pub(super) fn peer_answers_by_version(&self) -> bool {
        self.has_feature(VERSIONS_FEATURE)
    }

    fn has_feature(&self, name: &str) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.features.iter().any(|feature| feature == name))
    }

    /// What the user waits for.
    pub(super) fn waiting_line(&self) -> Option<String> {
        let client = self.client.as_ref().filter(|_| !self.is_lost)?;
        let waited = self.waiting_since.elapsed();
        if waited < Duration::from_millis(900) {
            return None;
        }
        let server = client.server().address;
        // A loopback address is this machine's alone.
        let there = if server.ip().is_loopback() { "in another terminal" } else { "on the other machine" };
        let (waited, peer, command) = (waited.as_secs_f64(), &self.peer, &self.other_command);
        Some(format!("waiting {waited:.0} s for {peer} at {server}; run `{command}` {there}"))
    }

    /// Ends signaling on purpose.
    pub(super) async fn leave(&mut self, reason: &str, within: Duration) {
        if let Some(client) = self.client.take() {
            // The server frees the id either way; this only tells the other side sooner.
            let _ = client.send(MessageType::Bye, &self.peer, reason);
            client.close(within).await;
        }
    }
}

/// An error of signaling, with the operation in front and the way out behind.
pub(super) fn with_hint(operation: &'static str, error: SignalingError) -> anyhow::Error {
    let hint = error.hint();
    anyhow::anyhow!("{:#}\nhint: {hint}", anyhow::Error::new(error).context(operation))
}

/// Our description's parts that last for the session.
///
/// # Errors
/// When SCTP gives no INIT chunk.
pub(super) fn local_description(random: &mut Random, certificate: &Certificate) -> anyhow::Result<SessionDescription> {
    let parameters = LocalParameters::generate(random, certificate.fingerprint().clone());
    let mut description = SessionDescription::offer(parameters);
    description.sctp_init = Some(crate::channel::sctp_init()?.to_vec());
    Ok(description)
}

/// What both sides have and nobody who reads a recording: the ICE passwords of the first generation.
pub(super) fn shared_secret(local: &SessionDescription, remote: &SessionDescription) -> Vec<u8> {
    let mut passwords = [local.password.expose(), remote.password.expose()];
    passwords.sort_unstable();
    passwords.concat().into_bytes()
}

/// Whether this event means that the channel can never open.
pub(super) fn is_channel_failure(event: &EventKind) -> bool {
    matches!(event, EventKind::Dtls { state: DtlsState::Failed { .. } | DtlsState::FingerprintMismatch { .. } })
}

impl Session {
    /// None came about: what the host's own firewall does to connections there belongs to the recording.
    pub(super) async fn signaling_failed(&mut self, error: &anyhow::Error) {
        let detail = error.to_string();
        let detail = detail.split("\nhint: ").next().unwrap_or_default().to_owned();
        let url = self.config.signal.clone();
        self.record(EventKind::Signaling { server: public_url(&url), state: SignalingState::Failed { detail } });
        let mut found = Vec::new();
        if let Ok(Some(name)) = name_in(&url) {
            let started = Instant::now();
            let lookup = tokio::net::lookup_host((name.as_str(), 0));
            if let Ok(Ok(addresses)) = tokio::time::timeout(NAME_AGAIN, lookup).await {
                found = addresses.map(|address| address.ip()).collect();
                let took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                let (name, addresses) = (name.clone(), found.clone());
                self.record(EventKind::NameResolved { name, addresses, took_us, error: None });
            }
        }
        for remote in addresses_in(&url, &found).into_iter().take(MAX_ADDRESSES) {
            // As the system sends it: the mark of the session's sockets is none of signaling's.
            if let Some(origin) = origin_toward(remote, &[], None) {
                self.sink.note(Entry::Connection { local: origin.address, remote });
            }
        }
    }

    /// The connection to the signaling server is there.
    pub(super) fn signaling_connected(&mut self, client: Client) -> anyhow::Result<()> {
        let server = client.server().clone();
        let by = match server.transport {
            Transport::LongPoll => "long-poll",
            Transport::WebSocket | Transport::Auto => "websocket",
        };
        let url = public_url(&self.config.signal);
        let state = SignalingState::Connected { by: by.into(), seen_as: server.seen_as };
        self.record(EventKind::Signaling { server: url, state });
        let kind = if server.whyrelay.is_some() { "whyrelay serve" } else { "another server" };
        self.progress.step(&format!("signaling: connected to {} ({by}, {kind})", server.address));
        if server.address.ip() != server.local.ip() && !server.address.ip().is_loopback() {
            self.progress.step("probing whether large packets reach the signaling server");
            self.beside.ask_for_segments(server.address);
        }
        self.signals.client = Some(client);
        // Three round trips to the server and more: about one to the other side and back over it.
        let took = self.signals.waiting_since.elapsed();
        self.feed(peer::Input::RoundTripHint(took));
        self.signals.waiting_since = Instant::now();
        let has_all = !self.config.stun.is_empty() && (self.config.no_turn || !self.config.turn.is_empty());
        if server.whyrelay.is_none() || has_all {
            self.all_named();
        } else {
            self.signals.announcement_by = Some(Instant::now() + ANNOUNCEMENT_WITHIN);
        }
        if self.config.side == Vantage::A {
            self.say_hello();
            self.send_description(SdpType::Offer);
        }
        Ok(())
    }

    pub(super) fn say_hello(&mut self) {
        let mut features = [RECORDING_FEATURE, PROBES_FEATURE, VERSIONS_FEATURE].map(str::to_owned).to_vec();
        if self.config.redact {
            features.push(REDACTED_FEATURE.to_owned());
        }
        let info = PeerInfo { implementation: PROGRAM.into(), version: env!("CARGO_PKG_VERSION").into(), features };
        // Strings and a list always serialize.
        let content = serde_json::to_string(&info).unwrap_or_default();
        self.say(MessageType::Hello, content);
    }

    /// Sends, and records that it was sent: the type and the length, never the content.
    pub(super) fn say(&mut self, kind: MessageType, content: String) {
        let message = kind.name().to_owned();
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let Some(client) = &self.signals.client else { return };
        match client.send(kind, &self.signals.peer, content) {
            Ok(()) => self.record(EventKind::SignalMessage { direction: Direction::Out, message, length }),
            Err(error) => {
                let (server, detail) = (public_url(&self.config.signal), error.to_string());
                self.record(EventKind::Signaling { server, state: SignalingState::Failed { detail } });
            }
        }
    }

    pub(super) fn send_description(&mut self, kind: SdpType) {
        let mut description = match (&self.remote, kind) {
            (Some(offer), SdpType::Answer) => SessionDescription {
                setup: offer.setup.answer(),
                mid: offer.mid.clone(),
                bundled: offer.bundled,
                protocol: offer.protocol,
                section: offer.section,
                other_media: offer.other_media.clone(),
                ..self.local.clone()
            },
            _ => self.local.clone(),
        };
        let answered = self.remote.as_ref().filter(|_| kind == SdpType::Answer).map(|offer| offer.session_version);
        description.session_version = answered.unwrap_or_else(|| u64::from(self.generation) + 1);
        self.local = description.clone();
        let message = match kind {
            SdpType::Offer => MessageType::Offer,
            SdpType::Answer => MessageType::Answer,
        };
        self.record_description(Side::Local, message.name(), &description);
        self.say(message, description.to_string());
        self.signals.described = true;
        for (kind, content) in std::mem::take(&mut self.signals.pending) {
            self.say(kind, content);
        }
    }

    pub(super) fn record_description(&mut self, side: Side, kind: &str, description: &SessionDescription) {
        let fingerprint = description.fingerprints.first().map(ToString::to_string).unwrap_or_default();
        self.record(EventKind::Description {
            side,
            description: kind.into(),
            ufrag: description.ufrag.clone(),
            setup: description.setup.name().into(),
            fingerprint,
            ice_options: description.ice_options.clone(),
            generation: self.generation,
        });
    }

    /// A local candidate goes out, behind the description.
    pub(super) fn signal_candidate(&mut self, candidate: &Candidate) {
        self.say_or_keep(MessageType::Candidate, candidate.to_string());
    }

    /// So does the word that there are no more.
    pub(super) fn signal_end_of_candidates(&mut self) {
        self.say_or_keep(MessageType::EndOfCandidates, String::new());
    }

    fn say_or_keep(&mut self, kind: MessageType, content: String) {
        if self.signals.described {
            self.say(kind, content);
        } else {
            self.signals.pending.push((kind, content));
        }
    }

    /// Tells the other side at once that this one is ended by its user: closing takes seconds, in which the other's checks
    /// are no longer answered.
    pub(super) fn say_interrupted(&mut self) {
        // Nobody who has not heard of this side waits for it.
        if self.signals.described {
            self.say(MessageType::Interrupted, String::new());
        }
    }

    /// Asks the offerer to restart ICE.
    pub(super) fn signal_restart(&mut self) {
        self.progress.step("asking the other side to restart ICE");
        self.say(MessageType::Restart, "the path is lost".into());
    }

    /// Restarts ICE with new credentials (RFC 8445 §9). The offerer says it with a new offer.
    pub(super) fn restart(&mut self, side: Side) {
        self.progress.step("restarting ICE");
        self.generation += 1;
        let credentials = Credentials::generate(&mut self.random);
        self.local.ufrag = credentials.ufrag().to_owned();
        self.local.password = whyrelay_core::sdp::IcePassword::new(credentials.password());
        // Candidates of the new generation must not overtake the description.
        self.signals.described = false;
        self.feed(peer::Input::Restart { credentials, side });
        if self.config.side == Vantage::A {
            self.send_description(SdpType::Offer);
        }
    }

    /// Whether the time to wait for announced servers is over.
    pub(super) fn announcement_deadline(&self) -> Option<Instant> {
        self.signals.announcement_by
    }

    /// Goes on without announced servers when none came in time.
    pub(super) fn check_announcement(&mut self) {
        if self.signals.announcement_by.is_some_and(|by| Instant::now() >= by) {
            self.signals.announcement_by = None;
            self.all_named();
        }
    }

    /// What the channel needs, once the other side's description is there.
    pub(super) fn channel_config(&self) -> Option<ChannelConfig> {
        let remote = self.remote.as_ref()?;
        let offerer = self.config.side == Vantage::A;
        let mut config =
            ChannelConfig::from_descriptions(&self.local, remote, offerer, self.certificate.clone()).ok()?;
        config.versions = if self.config.dtls12 { DtlsVersions::Only12 } else { DtlsVersions::Any };
        config.round_trip = self.peer.agent().send_pair().and_then(|pair| pair.rtt);
        Some(config)
    }
}

/// A signaling URL without user, password, query and fragment: what may be recorded.
pub(super) fn public_url(text: &str) -> String {
    match url::Url::parse(text) {
        Ok(mut url) => {
            // Fails only for URLs that cannot have them.
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.set_query(None);
            url.set_fragment(None);
            url.to_string()
        }
        Err(_) => "(not a URL)".into(),
    }
}
