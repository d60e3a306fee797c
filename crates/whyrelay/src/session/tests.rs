//! A session whose process stands still, and one that is flooded: on real sockets, with the session's own loop.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::sync::{mpsc, watch};
use whyrelay_core::engine::gather::StreamId;
use whyrelay_core::engine::stun_server;
use whyrelay_core::engine::transaction::Schedule;
use whyrelay_core::host::{HostFact, Moment, SocketProfile};
use whyrelay_core::sdp::SdpType;
use whyrelay_core::signal::{self, MessageType, PeerInfo};
use whyrelay_core::trace::event::{
    Direction, EndReason, Event, EventKind, ServerFailure, Side, SignalingState, Vantage,
};
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::stun::{Class, Message, MessageBuilder, Method};

use super::SessionConfig;
use super::beside::Beside;
use super::driver::{Inputs, Phase, Session};
use super::probing::{PROBES_FEATURE, Probing};
use crate::cli::args::PeerArgs;
use crate::io::clock::Clock;
use crate::io::names::{Resolved, Resolver};
use crate::io::stream::{StreamInput, Streams};
use crate::io::tls::ClientTls;
use crate::io::udp::UdpInput;
use crate::signaling::Incoming;

/// Places in each channel.
const QUEUE: usize = 16;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    peer: PeerArgs,
}

/// A session that has asked its servers, and where to put what it hears.
struct Fixture {
    session: Session,
    inputs: Inputs,
    udp: mpsc::Sender<UdpInput>,
    probes: mpsc::Sender<UdpInput>,
    streams: mpsc::Sender<StreamInput>,
    names: mpsc::Sender<Resolved>,
    host: mpsc::Sender<(Moment, HostFact)>,
    interrupt: watch::Sender<u32>,
    /// Answers of the real resolver, which nobody reads.
    _resolved: mpsc::Receiver<Resolved>,
}

impl Fixture {
    fn new(options: &[&str]) -> Self {
        Self::with(options, QUEUE)
    }

    /// With room for so many datagrams.
    fn with(options: &[&str], datagrams: usize) -> Self {
        let line = ["offer", "--signal", "http://127.0.0.1:9", "--address", "127.0.0.1"].iter().chain(options);
        let config = SessionConfig::resolve(Vantage::A, Line::try_parse_from(line).unwrap().peer).unwrap();
        let clock = Clock::start();
        let (udp_sender, udp) = mpsc::channel(datagrams);
        let (stream_sender, streams) = mpsc::channel(QUEUE);
        let (name_sender, names) = mpsc::channel(QUEUE);
        let (resolver_sender, resolved) = mpsc::channel(QUEUE);
        let (host_sender, host) = mpsc::channel(QUEUE);
        let (interrupt_sender, interrupt) = watch::channel(0);
        let (probe_sender, probes) = mpsc::channel(QUEUE);
        let (probing, _) = Probing::new();
        let (beside, entries) = Beside::new(clock);
        let inputs = Inputs { udp, probes, streams, names, host, beside: entries, interrupt };
        let connections = Streams::new(stream_sender.clone(), ClientTls::default());
        let resolver = Resolver::new(resolver_sender);
        let mut session = Session::start(config, clock, beside, connections, resolver, probing).unwrap();
        session.open_sockets(&udp_sender).unwrap();
        session.use_named_servers();
        session.drain();
        Self {
            session,
            inputs,
            udp: udp_sender,
            probes: probe_sender,
            streams: stream_sender,
            names: name_sender,
            host: host_sender,
            interrupt: interrupt_sender,
            _resolved: resolved,
        }
    }

    /// Lets time pass as the session's loop does, and everything else that runs here have its turn.
    async fn turn(&mut self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.session.share(&mut self.inputs);
        self.session.machine_timers(&mut self.inputs).await;
    }

    fn told(&self, wanted: impl Fn(&EventKind) -> bool) -> bool {
        self.session.sink.events().iter().any(|event| wanted(&event.kind))
    }
}

fn is_answer(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Datagram(datagram) if datagram.direction == Direction::In)
}

fn is_given_up(kind: &EventKind) -> bool {
    let silent = |failure: &ServerFailure| {
        matches!(failure, ServerFailure::Timeout { .. } | ServerFailure::Unresolved { .. })
            || matches!(failure, ServerFailure::ConnectionFailed { .. })
    };
    matches!(kind, EventKind::ServerFailed { failure, .. } if silent(failure))
}

#[tokio::test]
async fn an_answer_that_came_in_time_counts_when_the_process_stood_still_until_its_request_was_given_up() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let mut fixture = Fixture::new(&["--stun", &format!("stun:{}", server.local_addr().unwrap())]);
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
            // Nothing is awaited, so nothing is read but by what the timers do.
            Err(_) => {
                std::thread::sleep(Duration::from_millis(1));
                fixture.session.machine_timers(&mut fixture.inputs).await;
            }
        }
    }
    std::thread::sleep(Schedule::SERVER.total());
    fixture.session.machine_timers(&mut fixture.inputs).await;
    assert!(!fixture.told(is_given_up), "the server was given up");
    assert!(fixture.told(is_answer), "the answer was not read");
}

/// The next message of a client, as long as the session goes on.
async fn message_from(stream: &mut std::net::TcpStream, fixture: &mut Fixture) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1500];
    let until = Instant::now() + Duration::from_secs(20);
    while bytes.len() < 20 || bytes.len() < 20 + usize::from(u16::from_be_bytes([bytes[2], bytes[3]])) {
        assert!(Instant::now() < until, "no message");
        match stream.read(&mut buffer) {
            Ok(length) => bytes.extend_from_slice(&buffer[..length]),
            Err(_) => fixture.turn().await,
        }
    }
    bytes
}

#[tokio::test]
async fn an_answer_that_waits_in_a_connection_counts_and_arrived_when_it_did() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "wonderland").unwrap();
    let url = format!("turn:{}?transport=tcp", listener.local_addr().unwrap());
    let file = password.path().to_str().unwrap();
    let mut fixture = Fixture::new(&["--turn", &url, "--turn-user", "alice", "--turn-password-file", file]);
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(_) => fixture.turn().await,
        }
    };
    stream.set_nonblocking(true).unwrap();
    let request = message_from(&mut stream, &mut fixture).await;
    let request = Message::decode(&request).unwrap();
    assert_eq!(request.method, Method::ALLOCATE);
    let answer = MessageBuilder::new(Class::Error, Method::ALLOCATE, request.transaction)
        .error(401, "Unauthorized")
        .text(AttributeType::REALM, "example.org")
        .text(AttributeType::NONCE, "nonce");
    stream.write_all(&answer.build()).unwrap();
    let answered = fixture.session.clock.now();
    // The one thread sleeps: no reader has its turn until the request is given up.
    std::thread::sleep(Schedule::STREAM.total());
    fixture.session.machine_timers(&mut fixture.inputs).await;
    assert!(!fixture.told(is_given_up), "the server was given up");
    let events = fixture.session.sink.events();
    let answer = events.iter().find(|event| is_answer(&event.kind)).expect("the answer was not read");
    let late = answer.at.since(answered);
    assert!(late < Duration::from_millis(500), "recorded {late:?} after it came");
    // What follows from it is under way and gets its own time.
    let request = message_from(&mut stream, &mut fixture).await;
    assert!(Message::decode(&request).unwrap().has(AttributeType::MESSAGE_INTEGRITY));
    assert!(!fixture.told(is_given_up), "the second request was given up with the first one's time");
}

#[tokio::test]
async fn a_name_that_was_resolved_in_time_counts() {
    let mut fixture = Fixture::new(&["--stun", "stun:localhost:9"]);
    let (name, took) = ("localhost".to_owned(), Duration::from_millis(1));
    fixture.names.send(Resolved { name, result: Ok(vec!["127.0.0.1".parse().unwrap()]), took }).await.unwrap();
    std::thread::sleep(Schedule::STREAM.total() + Duration::from_millis(10));
    fixture.session.machine_timers(&mut fixture.inputs).await;
    assert!(!fixture.told(is_given_up), "the name was given up");
    assert!(fixture.told(|kind| matches!(kind, EventKind::NameResolved { .. })));
}

#[tokio::test]
async fn a_flood_of_datagrams_starves_neither_probes_nor_streams_nor_names_nor_facts() {
    const FLOOD: usize = 20_000;
    let fixture = Fixture::with(&[], FLOOD);
    let Fixture { mut session, mut inputs, udp, probes, streams, names, host, interrupt, _resolved } = fixture;
    let [local, remote]: [SocketAddr; 2] = ["127.0.0.1:1", "127.0.0.1:2"].map(|text| text.parse().unwrap());
    let datagram = || UdpInput::Datagram { local, remote, kernel_time: None, bytes: vec![0; 20] };
    for _ in 0..FLOOD {
        udp.try_send(datagram()).unwrap();
    }
    probes.try_send(datagram()).unwrap();
    streams.try_send(StreamInput::Closed { id: StreamId(1), detail: "x".into() }).unwrap();
    names.try_send(Resolved { name: "x".into(), result: Err("no".into()), took: Duration::ZERO }).unwrap();
    let profile = SocketProfile { local, as_application: false, mark: 0, user: 0, bound_device: None, raw: false };
    host.try_send((Moment::During, HostFact::SocketProfile(profile))).unwrap();
    let connecting = std::future::pending();
    tokio::pin!(connecting);
    let watching = async {
        // Until all four have been taken: then the flood must not be over yet.
        let until = Instant::now() + Duration::from_secs(20);
        let left = || [probes.capacity(), streams.capacity(), names.capacity(), host.capacity()];
        while left() != [QUEUE; 4] && Instant::now() < until {
            tokio::task::yield_now().await;
        }
        let flood = udp.max_capacity() - udp.capacity();
        interrupt.send(1).unwrap();
        flood
    };
    let (end, flood) = futures_util::future::join(session.live(&mut inputs, connecting), watching).await;
    assert_eq!(end.unwrap(), EndReason::Interrupted);
    assert!(flood > FLOOD / 2, "the others waited until {} of {FLOOD} datagrams were handled", FLOOD - flood);
}

#[tokio::test]
async fn a_session_that_is_over_waits_for_what_its_peer_says_about_its_probes() {
    let over = || {
        let Fixture { mut session, .. } = Fixture::new(&[]);
        session.signals.hello = Some(PeerInfo { features: vec![PROBES_FEATURE.into()], ..PeerInfo::default() });
        session.remote = Some(session.local.clone());
        session
    };
    let waits = |session: &mut Session| session.lingers(EndReason::Finished);

    let mut session = over();
    assert!(!waits(&mut session), "nobody probes sizes without a path");

    let mut session = over();
    session.probing.sized();
    assert!(waits(&mut session), "its own packets were answered before the peer said that it has begun");
    session.heard_about_probes(r#"{"under_way":true}"#);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(waits(&mut session), "the peer's probes are under way");
    session.heard_about_probes(r#"{"under_way":false}"#);
    assert!(!waits(&mut session));

    let mut session = over();
    session.probing.sized();
    assert!(waits(&mut session));
    let due = session.probing_deadline().expect("it wakes for it");
    tokio::time::sleep_until(due.into()).await;
    assert!(!waits(&mut session), "a peer that says nothing is not waited for");
}

#[tokio::test]
async fn an_answer_to_an_offer_that_was_replaced_is_left_alone() {
    for (features, is_left_alone) in [(&["versions"][..], true), (&[], false)] {
        let Fixture { mut session, .. } = Fixture::new(&[]);
        let features = features.iter().map(|feature| (*feature).to_owned()).collect();
        session.signals.hello = Some(PeerInfo { features, ..PeerInfo::default() });
        let answer = |session: &mut Session, ufrag: &str, version: u64| {
            let mut answer = session.local.clone();
            (answer.ufrag, answer.session_version) = (ufrag.to_owned(), version);
            answer.setup = answer.setup.answer();
            session.described(SdpType::Answer, &answer.to_string());
        };
        session.send_description(SdpType::Offer);
        answer(&mut session, "first", 1);
        // Twice, as where signaling is away: both offers are answered when it is back.
        session.restart(Side::Local);
        session.restart(Side::Local);
        answer(&mut session, "stale", 2);
        answer(&mut session, "fresh", 3);
        let refused = session.sink.events().iter().any(|event| matches!(event.kind, EventKind::SignalRefused { .. }));
        assert_eq!(refused, !is_left_alone, "{:#?}", session.sink.events());
        assert_eq!(session.remote.as_ref().map(|remote| remote.ufrag.as_str()), Some("fresh"));
    }
}

#[tokio::test]
async fn a_peer_that_says_it_is_interrupted_ends_the_checks_at_once_and_no_measurement() {
    for (phase, expected) in [
        (Phase::Waiting, Phase::Waiting),
        (Phase::Connecting(Instant::now()), Phase::Ending(EndReason::PeerLeft)),
        (Phase::Open, Phase::Open),
    ] {
        let Fixture { mut session, .. } = Fixture::new(&[]);
        session.remote = (phase != Phase::Waiting).then(|| session.local.clone());
        session.phase = phase;
        let message = signal::Message::new(MessageType::Interrupted, "", "", "");
        session.signaled(Some(Incoming::Message(message))).unwrap();
        assert_eq!(session.phase, expected);
        let told =
            |event: &Event| matches!(&event.kind, EventKind::Signaling { state: SignalingState::PeerInterrupted, .. });
        // One who has not heard of us means another session.
        assert_eq!(session.sink.events().iter().any(told), phase != Phase::Waiting);
    }
}
