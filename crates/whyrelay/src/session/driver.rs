//! The loop of a session: everything that happens comes in here, one thing at a time, and is recorded first.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use whyrelay_core::diagnosis::finding::{Blame, Finding};
use whyrelay_core::engine::gather::{GatherConfig, Server};
use whyrelay_core::engine::peer::{self, Peer, PeerConfig};
use whyrelay_core::engine::server_url::ServerUrl;
use whyrelay_core::host::{HostFact, Moment};
use whyrelay_core::ice::candidate::Candidate;
use whyrelay_core::ice::{self, Credentials};
use whyrelay_core::random::Random;
use whyrelay_core::report::Report;
use whyrelay_core::sdp::SessionDescription;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::{EVENT_VERSION, EndReason, EventKind, IceState, Role, Vantage};

use super::beside::Beside;
use super::following::Following;
use super::imitation::Imitation;
use super::mapping::{Mapping, release};
use super::measuring::Measuring;
use super::probing::Probing;
use super::progress::Progress;
use super::signals::Signals;
use super::sink::Sink;
use super::trial::Hops;
use super::{Outcome, SessionConfig};
use crate::channel::{Certificate, Channel};
use crate::check::Entry;
use crate::host::Told;
use crate::io::clock::Clock;
use crate::io::names::{Resolved, Resolver};
use crate::io::stream::{StreamInput, Streams};
use crate::io::tls::ClientTls;
use crate::io::udp::{UdpDoor, UdpInput};
use crate::signaling::Client;

/// Datagrams between the sockets' readers and the loop; more wait in the kernel.
const UDP_QUEUE: usize = 1024;

/// Datagrams handled before timers are looked at again.
const UDP_BATCH: usize = 64;

/// The same of other things.
const BATCH: usize = 16;

/// How often counted traffic becomes an event.
pub(super) const TRAFFIC_INTERVAL: Duration = Duration::from_secs(1);

/// Closing gives allocations back within this.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// A session that its user interrupts is over within this: half a second is what somebody waits for a prompt before the
/// second Ctrl-C. Longer by [`Session::exchange_lag`].
const HURRY: Duration = Duration::from_millis(400);

/// The same of a connection that was kept open until then (`--stay`): that is its ordinary end, and the other side's
/// recording belongs to its account.
const HURRY_STAYED: Duration = Duration::from_millis(2500);

/// Of that the exchange of recordings has at least so much; closing gets the rest.
const HURRIED_EXCHANGE: Duration = Duration::from_millis(200);

/// The finding that says why there is no signaling.
const SIGNALING_FAILED: &str = "WR701";

/// How far the session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The other side's description has not come.
    Waiting,
    /// Both descriptions are there; since then.
    Connecting(Instant),
    /// The data channel is open.
    Open,
    /// The end is decided.
    Ending(EndReason),
}

/// One session.
pub(super) struct Session {
    pub(super) config: SessionConfig,
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) sink: Sink,
    pub(super) progress: Progress,
    pub(super) peer: Peer,
    pub(super) signals: Signals,
    pub(super) phase: Phase,
    pub(super) certificate: Certificate,
    pub(super) local: SessionDescription,
    pub(super) remote: Option<SessionDescription>,
    pub(super) generation: u32,
    /// What pseudonyms are made with, once both descriptions are there.
    pub(super) secret: Option<Vec<u8>>,
    pub(super) ice_state: IceState,
    pub(super) measuring: Measuring,
    pub(super) doors: BTreeMap<SocketAddr, UdpDoor>,
    pub(super) streams: Streams,
    pub(super) resolver: Resolver,
    pub(super) channel: Option<Channel>,
    /// DTLS that came before there was a channel to give it to.
    pub(super) early: VecDeque<Vec<u8>>,
    /// DTLS that waits for a pair to go over.
    pub(super) held: VecDeque<Vec<u8>>,
    pub(super) todo: VecDeque<Todo>,
    pub(super) peer_deadline: Timestamp,
    /// A pair has been selected.
    pub(super) has_path: bool,
    /// Since when everything is measured.
    pub(super) done_since: Option<Instant>,
    pub(super) next_traffic: Instant,
    pub(super) restart_at: Option<Instant>,
    /// By when it is over at the latest, as its user has interrupted it.
    pub(super) over_by: Option<Instant>,
    pub(super) closed: bool,
    pub(super) named: bool,
    pub(super) imitation: Imitation,
    pub(super) probing: Probing,
    pub(super) mapping: Option<Mapping>,
    pub(super) beside: Beside,
    pub(super) following: Following,
    /// Files that could not be written to the end.
    unwritten: Vec<String>,
    pub(super) hops: Hops,
    /// Candidates of the peer, and the word that there are no more (`None`), that wait for the openers ahead of them.
    pub(super) held_back: VecDeque<(Instant, Option<Candidate>)>,
}

/// What has to be fed to the peer machine once it is drained.
pub(super) enum Todo {
    Data(Vec<u8>),
    SendFailed { local: SocketAddr, remote: SocketAddr, errno: i32 },
}

/// What the loop waits for.
pub(super) struct Inputs {
    pub(super) udp: mpsc::Receiver<UdpInput>,
    pub(super) probes: mpsc::Receiver<UdpInput>,
    pub(super) streams: mpsc::Receiver<StreamInput>,
    pub(super) names: mpsc::Receiver<Resolved>,
    pub(super) host: mpsc::Receiver<(Moment, HostFact)>,
    pub(super) beside: mpsc::Receiver<Entry>,
    pub(super) interrupt: watch::Receiver<u32>,
}

/// Runs one session to its end. `interrupt` counts how often the user asked to stop.
///
/// # Errors
/// When whyrelay cannot look: no socket, no signaling, no file.
pub async fn run(config: SessionConfig, interrupt: watch::Receiver<u32>) -> anyhow::Result<Outcome> {
    let (udp_sender, udp) = mpsc::channel(UDP_QUEUE);
    let (stream_sender, streams) = mpsc::channel(UDP_QUEUE);
    let (name_sender, names) = mpsc::channel(64);
    let (tap, host) = crate::host::start(crate::host::Beside::Session);
    let (probing, probes) = Probing::new();
    let clock = Clock::start();
    let (beside, entries) = Beside::new(clock);
    let mut inputs = Inputs { udp, probes, streams, names, host, beside: entries, interrupt };

    let tls = ClientTls::new(config.tls_roots.clone());
    let streams = Streams::new(stream_sender, tls.clone());
    let resolver = Resolver::new(name_sender);
    let mut session = Session::start(config, clock, beside, streams, resolver, probing)?;
    session.sink.tap(tap);
    session.imitate();
    session.announce_trials();
    session.open_sockets(&udp_sender)?;
    // Nothing is under way yet that would have to be served meanwhile. A clone: the loop hears of an interrupt, too.
    session.map_port(inputs.interrupt.clone()).await;
    session.machine_timers(&mut inputs).await;
    session.use_named_servers();
    session.drain();

    let connecting = session.signals.connect(&session.config, tls);
    tokio::pin!(connecting);
    let end = session.live(&mut inputs, connecting).await;
    let reason = match &end {
        Ok(reason) => *reason,
        Err(_) => EndReason::Error,
    };
    if reason == EndReason::Interrupted {
        session.say_interrupted();
    }
    session.end(reason);
    // At once: a relay that does not answer must not keep the router's port open.
    let mapping = session.mapping.take();
    let ((), released) = tokio::join!(session.close(&mut inputs), release(mapping));
    session.mapping_released(released);
    if session.remote.is_none() {
        // Nobody to agree with: any secret will do, and nobody else has it.
        let secret: [u8; 32] = session.random.bytes();
        session.sink.redact_with(&secret);
    }
    for (what, why) in session.measuring.unmeasured() {
        session.record(EventKind::NotMeasured { what, why });
    }
    session.sink.end(session.clock.now(), EventKind::RecordingEnded { reason });
    if let Err(error) = end {
        session.signals.leave("whyrelay could not go on", Duration::from_secs(2)).await;
        return Err(session.with_cause(error));
    }
    session.exchange(&mut inputs.interrupt, reason).await;
    session.tell_unwritten();
    Ok(Outcome { events: session.sink.events().to_vec(), unwritten: session.unwritten })
}

impl Session {
    pub(super) fn start(
        config: SessionConfig,
        clock: Clock,
        beside: Beside,
        streams: Streams,
        resolver: Resolver,
        probing: Probing,
    ) -> anyhow::Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("getting random bytes from the system: {error}"))?;
        let mut random = Random::from_seed(seed);
        let certificate = Certificate::generate()?;
        let local = super::signals::local_description(&mut random, &certificate)?;
        let credentials = Credentials::new(local.ufrag.clone(), local.password.expose());
        let role = match config.side {
            Vantage::A => Role::Controlling,
            Vantage::B => Role::Controlled,
        };
        let mut ice = ice::Config::new(role, credentials);
        ice.relay_only = config.relay_only;
        ice.patient = config.patient;
        let gather = GatherConfig {
            relay_only: config.relay_only,
            no_turn: config.no_turn,
            patient: config.patient,
            ..GatherConfig::default()
        };
        let mut sink = Sink::open(config.side, config.record.as_deref(), config.pcap.as_deref(), config.redact)?;
        if let Some(watch) = config.watch.clone() {
            sink.watch(watch);
        }
        let now = clock.now();
        sink.record(
            now,
            EventKind::RecordingStarted {
                version: EVENT_VERSION,
                program: concat!("whyrelay ", env!("CARGO_PKG_VERSION")).into(),
                id: config.id.clone(),
                options: config.options(),
            },
        );
        let peer = Peer::new(now, PeerConfig { ice, gather }, &mut random);
        Ok(Self {
            progress: Progress::new(&config.label),
            measuring: Measuring::new(&config),
            signals: Signals::new(&config),
            config,
            clock,
            random,
            sink,
            peer,
            phase: Phase::Waiting,
            certificate,
            local,
            remote: None,
            generation: 0,
            secret: None,
            ice_state: IceState::New,
            doors: BTreeMap::new(),
            streams,
            resolver,
            channel: None,
            early: VecDeque::new(),
            held: VecDeque::new(),
            todo: VecDeque::new(),
            peer_deadline: now,
            has_path: false,
            done_since: None,
            next_traffic: Instant::now() + TRAFFIC_INTERVAL,
            restart_at: None,
            over_by: None,
            closed: false,
            named: false,
            imitation: Imitation::default(),
            probing,
            mapping: None,
            beside,
            following: Following::new(),
            unwritten: Vec::new(),
            hops: Hops::default(),
            held_back: VecDeque::new(),
        })
    }

    pub(super) fn use_named_servers(&mut self) {
        let stun = self.config.stun.clone();
        let turn = if self.config.no_turn { Vec::new() } else { self.config.turn.clone() };
        for url in stun {
            self.use_server(url, None, false);
        }
        for url in turn {
            self.use_server(url, self.config.turn_credentials.clone(), false);
        }
    }

    /// Makes a server known to the gatherer.
    pub(super) fn use_server(
        &mut self,
        url: ServerUrl,
        credentials: Option<(String, whyrelay_core::engine::credentials::Password)>,
        announced: bool,
    ) {
        self.record(EventKind::ServerKnown { url: url.to_string(), announced });
        self.trace_for_openers(&url);
        let (username, password) = credentials.unzip();
        self.feed(peer::Input::Server(Server { url, addresses: Vec::new(), username, password }));
    }

    /// Whether all servers are known.
    pub(super) fn named(&self) -> bool {
        self.named
    }

    /// All servers are known: gathering can end.
    pub(super) fn all_named(&mut self) {
        if !std::mem::replace(&mut self.named, true) {
            self.feed(peer::Input::AllNamed);
        }
    }

    /// The loop, until the end is decided.
    pub(super) async fn live(
        &mut self,
        inputs: &mut Inputs,
        mut connecting: std::pin::Pin<&mut impl Future<Output = anyhow::Result<Client>>>,
    ) -> anyhow::Result<EndReason> {
        let mut connected = false;
        loop {
            self.drain();
            self.sink.flush();
            self.tell_unwritten();
            if let Phase::Ending(reason) = self.phase
                && !self.lingers(reason)
            {
                return Ok(reason);
            }
            let deadline = self.deadline();
            let signaling = async {
                match self.signals.client.as_mut() {
                    Some(client) => client.recv().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = inputs.interrupt.changed() => {
                    if changed.is_ok() {
                        self.hurry();
                    }
                    // An end that is decided already stands.
                    if let Phase::Ending(reason) = self.phase {
                        return Ok(reason);
                    }
                    return Ok(EndReason::Interrupted);
                }
                result = &mut connecting, if !connected => {
                    connected = true;
                    match result {
                        Ok(client) => self.signaling_connected(client)?,
                        Err(error) => {
                            self.signaling_failed(&error).await;
                            return Err(error);
                        }
                    }
                }
                incoming = signaling => self.signaled(incoming)?,
                // Which of the others is ready first: all have their share below.
                Some(input) = inputs.udp.recv() => self.udp_input(input),
                Some(input) = inputs.probes.recv() => self.probe_input(input),
                Some(input) = inputs.streams.recv() => self.stream_input(input),
                Some(resolved) = inputs.names.recv() => self.name_input(&resolved),
                Some((moment, fact)) = inputs.host.recv() => self.host_input(moment, fact),
                Some(entry) = inputs.beside.recv() => self.note(entry),
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            self.share(inputs);
            self.timers(inputs).await;
        }
    }

    /// Handles what else is there, a bounded number of each kind: a flood of one delays the others by no more than that.
    pub(super) fn share(&mut self, inputs: &mut Inputs) {
        for _ in 0..UDP_BATCH {
            let Ok(input) = inputs.udp.try_recv() else { break };
            self.udp_input(input);
            self.drain();
        }
        for _ in 0..BATCH {
            let Ok(input) = inputs.probes.try_recv() else { break };
            self.probe_input(input);
        }
        self.take_streams(inputs, BATCH);
        self.take_names(inputs, BATCH);
        for _ in 0..BATCH {
            let Ok((moment, fact)) = inputs.host.try_recv() else { break };
            self.host_input(moment, fact);
        }
        for _ in 0..BATCH {
            let Ok(entry) = inputs.beside.try_recv() else { break };
            self.note(entry);
        }
    }

    pub(super) fn take_streams(&mut self, inputs: &mut Inputs, most: usize) {
        for _ in 0..most {
            let Ok(input) = inputs.streams.try_recv() else { break };
            self.stream_input(input);
        }
    }

    pub(super) fn take_names(&mut self, inputs: &mut Inputs, most: usize) {
        for _ in 0..most {
            let Ok(resolved) = inputs.names.try_recv() else { break };
            self.name_input(&resolved);
        }
    }

    /// The user has interrupted the session: from now on it takes no longer than a user waits.
    pub(super) fn hurry(&mut self) {
        // A path that is silent brings no recording, and what is left of the network perhaps nothing at all.
        let works = matches!(self.ice_state, IceState::Connected | IceState::Completed) && !self.signals.is_lost;
        let kept_open = self.config.stay && self.phase == Phase::Open && works;
        let within = if kept_open { HURRY_STAYED } else { HURRY };
        let lag = self.exchange_lag();
        self.over_by.get_or_insert_with(|| Instant::now() + within + lag);
        self.progress.step("interrupted: closing");
    }

    /// The error that ends the session, with what its own host says of it in place of a hint about the server.
    fn with_cause(&self, error: anyhow::Error) -> anyhow::Error {
        let report = Report::from_events(self.sink.events());
        let own =
            |finding: &&Finding| finding.code == SIGNALING_FAILED && finding.blame == Blame::side(self.config.side);
        let Some(finding) = report.findings.iter().find(own) else { return error };
        let text = format!("{error:#}");
        let what = text.split("\nhint: ").next().unwrap_or_default();
        let mut cause = format!("{what}\nhint: {} ({})", finding.summary, finding.code);
        for remedy in &finding.remedies {
            cause.push_str(&format!("\n  - {}", remedy.text));
            remedy.commands.iter().for_each(|command| cause.push_str(&format!("\n      $ {command}")));
        }
        anyhow::Error::msg(cause)
    }

    /// Gives allocations back and says goodbye on the data channel.
    pub(super) async fn close(&mut self, inputs: &mut Inputs) {
        let began = Instant::now();
        self.give_names_up();
        // The checks are over: the last facts are collected while everything is closed.
        self.record_tallies();
        let mut facts = self.sink.finish_tap();
        let mut told = Told::default();
        while let Ok(entry) = inputs.beside.try_recv() {
            self.sink.note(entry);
        }
        if let Some(channel) = &mut self.channel {
            channel.close(Instant::now());
        }
        let mut closing = false;
        let mut batch = Vec::with_capacity(UDP_BATCH);
        loop {
            let exchange = HURRIED_EXCHANGE + self.exchange_lag();
            let hurried = self.over_by.and_then(|over_by| over_by.checked_sub(exchange));
            let until = hurried.map_or(began + CLOSE_LIMIT, |hurried| hurried.min(began + CLOSE_LIMIT));
            self.drain();
            let channel_done = self.channel.as_ref().is_none_or(Channel::is_closed);
            if !closing && (channel_done || Instant::now() + Duration::from_secs(1) > until) {
                closing = true;
                self.feed(peer::Input::Close);
                self.drain();
            }
            let is_late = Instant::now() >= until;
            if is_late && facts {
                for fact in told.missing("it took longer than the session waits for it") {
                    self.host_input(Moment::After, fact);
                }
            }
            if self.closed && !facts || is_late {
                return;
            }
            let deadline = if self.closed {
                until
            } else {
                let channel_deadline = self.channel_deadline().unwrap_or(until);
                self.clock.instant(self.peer_deadline).min(channel_deadline).min(until)
            };
            tokio::select! {
                Ok(()) = inputs.interrupt.changed(), if self.over_by.is_none() => self.hurry(),
                _ = inputs.udp.recv_many(&mut batch, UDP_BATCH) => {
                    for input in batch.drain(..) {
                        self.udp_input(input);
                        self.drain();
                    }
                }
                Some(input) = inputs.streams.recv() => self.stream_input(input),
                fact = inputs.host.recv(), if facts => match fact {
                    Some((moment, fact)) => {
                        told.note(moment, &fact);
                        self.host_input(moment, fact);
                    }
                    None => facts = false,
                },
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            self.machine_timers(inputs).await;
        }
    }

    pub(super) fn host_input(&mut self, moment: Moment, fact: HostFact) {
        if let (Moment::During, HostFact::Link(link)) = (moment, &fact)
            && !self.config.redact
        {
            let how = match (link.up, link.running) {
                (false, _) => "was set down",
                (true, false) => "has no carrier any more",
                (true, true) => "works again",
            };
            self.progress.step(&format!("the interface {} {how}", link.device));
        }
        self.record(EventKind::HostFact { moment, fact: Box::new(fact) });
    }

    /// Says which file cannot be written any more, as soon as that is known.
    fn tell_unwritten(&mut self) {
        while let Some(unwritten) = self.sink.take_unwritten() {
            self.progress.step(&format!("warning: {unwritten}"));
            self.unwritten.push(unwritten.to_string());
        }
    }

    /// Records a fact at this moment.
    pub(super) fn record(&mut self, kind: EventKind) {
        self.sink.record(self.clock.now(), kind);
    }

    /// Decides the end; the first decision counts.
    pub(super) fn end(&mut self, reason: EndReason) {
        if !matches!(self.phase, Phase::Ending(_)) {
            self.phase = Phase::Ending(reason);
        }
    }

    /// Feeds the peer machine and drains it.
    pub(super) fn feed(&mut self, input: peer::Input<'_>) {
        self.feed_arrived(self.clock.now(), input);
    }

    /// The same with something that arrived before now, perhaps.
    pub(super) fn feed_arrived(&mut self, arrived: Timestamp, input: peer::Input<'_>) {
        self.peer.handle_input(self.peer_now(arrived), input);
        self.drain();
    }

    /// Carries outputs where they belong until everything is at rest.
    pub(super) fn drain(&mut self) {
        loop {
            let now = self.clock.now();
            match self.peer.poll_output(self.peer_now(now)) {
                peer::Output::Timeout(at) => {
                    self.peer_deadline = at;
                    self.drain_channel();
                    match self.todo.pop_front() {
                        Some(Todo::Data(bytes)) => {
                            self.peer.handle_input(self.peer_now(now), peer::Input::Data(&bytes))
                        }
                        Some(Todo::SendFailed { local, remote, errno }) => {
                            let failed = peer::Input::SendFailed { local, remote, errno };
                            self.peer.handle_input(self.peer_now(now), failed);
                        }
                        None => return,
                    }
                }
                output => self.peer_output(now, output),
            }
        }
    }

    /// Progress for what a user waits for.
    pub(super) fn show(&mut self, event: &EventKind) {
        if let Some(line) = super::progress::line_for(event).filter(|_| !self.config.redact) {
            self.progress.step(&line);
        }
    }
}

/// Milliseconds with as many digits as matter.
pub(super) fn millis(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1000.0;
    if millis < 10.0 { format!("{millis:.2} ms") } else { format!("{millis:.0} ms") }
}
