//! Whether a server is reached over UDP, TCP and TLS: one Binding request over each.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use whyrelay_core::diagnosis::evidence::LEAST_SILENCE;
use whyrelay_core::engine::gather::StreamId;
use whyrelay_core::engine::transaction::{Due, Schedule, Transactions};
use whyrelay_core::random::Random;
use whyrelay_core::time::Now;
use whyrelay_core::trace::event::{Direction, EventKind, ServerFailure, Transport};
use whyrelay_core::trace::measurement::Measurement;
use whyrelay_core::wire::framing::Framing;
use whyrelay_core::wire::stun::{Class, Message, MessageBuilder, Method};

use super::certificate;
use super::journal::{Journal, Passed};
use super::nat::Origin;
use super::question::{Heard, Question};
use super::sockets::bare;
use crate::io::stream::{ConnectOptions, StreamInput, Streams};
use crate::io::tls::ClientTls;
use crate::io::udp::UdpOptions;
use crate::io::waiting::{MOST, readers_have_run};

/// For a port where perhaps nobody listens. Twice: three requests without an answer are what makes a server a silent one
/// for the diagnosis, and here none is known to be.
const OTHER_PORT_SENDS: u32 = 2;
const OTHER_PORT_INTERVAL: Duration = Duration::from_millis(200);
const OTHER_PORT_WAIT: Duration = Duration::from_millis(500);

/// A server to reach.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Its URL, for events.
    pub(crate) label: String,
    /// Its address.
    pub(crate) remote: SocketAddr,
    /// Our end.
    pub(crate) origin: Origin,
    /// Whether its URL is a STUN server's over this transport: then what fails is told of it. TURN has its own requests.
    pub(crate) expected: bool,
    /// Whether no URL says that it is offered.
    pub(crate) unannounced: bool,
}

/// Asks over UDP.
pub(crate) async fn over_udp(
    journal: Journal,
    mut random: Random,
    target: Target,
    options: UdpOptions,
    until: Instant,
) {
    let from = (target.origin.address, target.origin.interface.as_deref());
    let Some(mut question) = Question::open(&journal, &mut random, from, target.remote, options) else { return };
    let mut transactions = Transactions::default();
    let schedule = if journal.is_patient() { Schedule::QUICK_PATIENT } else { Schedule::QUICK };
    transactions.start(journal.now(), question.id, question.bytes.clone(), (), schedule);
    let (remote, started) = (target.remote, Instant::now());
    let mut refused = send(&question, &mut transactions);
    let failure = loop {
        let Some(deadline) = transactions.deadline() else { return };
        let wake = journal.clock().instant(deadline).min(until);
        let heard = question.heard(wake).await;
        // What came in time is handled as such, however late we come to it.
        let mut now = Now::ahead_of_timers(journal.now(), journal.now());
        match heard {
            Some(Heard::Answer { at }) => {
                let transport = Transport::Udp;
                let rtt = transactions.answer(at, question.id).map(|answered| answered.rtt);
                let rtt_us = Some(micros(rtt.unwrap_or_else(|| started.elapsed())));
                let (local, detail, unannounced) = (Some(question.local), None, target.unannounced);
                return journal.measured(Measurement::Reach { transport, local, remote, rtt_us, detail, unannounced });
            }
            Some(Heard::Refused { errno, .. }) => {
                transactions.refuse(errno, |()| true);
                refused = Some(in_words(errno));
            }
            None if Instant::now() >= until && started.elapsed() < LEAST_SILENCE => {
                return journal.missing(format!("UDP to {remote}"), journal.no_time());
            }
            None if Instant::now() >= until => {
                break ServerFailure::Timeout { transmissions: 1, took_us: micros(started.elapsed()) };
            }
            None => now = Now::timers(journal.now(), question.heard_until()),
        }
        match transactions.poll(now) {
            Some(Due::Retransmit { .. }) => refused = send(&question, &mut transactions).or(refused),
            Some(Due::TimedOut { transmissions, took, .. }) => {
                break ServerFailure::Timeout { transmissions, took_us: micros(took) };
            }
            Some(Due::Refused { errno, .. }) => break ServerFailure::SendFailed { errno },
            None => {}
        }
    };
    let (transport, rtt_us, detail, unannounced) = (Transport::Udp, None, refused, target.unannounced);
    let local = Some(question.local);
    journal.measured(Measurement::Reach { transport, local, remote, rtt_us, detail, unannounced });
    if target.expected {
        let (server, method) = (target.label, Method::BINDING.to_string());
        journal.fact(EventKind::ServerFailed { server, local: Some(question.local), method, failure });
    }
}

/// Asks on a port where no server was announced: an answer, or the server's own refusal, shows that packets get through.
/// Silence shows nothing, so it is said to be unmeasured.
pub(crate) async fn over_another_port(
    journal: Journal,
    mut random: Random,
    target: Target,
    options: UdpOptions,
    until: Instant,
) {
    let (transport, remote) = (Transport::Udp, target.remote);
    let from = (target.origin.address, target.origin.interface.as_deref());
    let Some(mut question) = Question::open(&journal, &mut random, from, remote, options) else { return };
    for sent in 1..=OTHER_PORT_SENDS {
        let started = Instant::now();
        // The system's refusal is an event of its own.
        let _ = question.send();
        let wait = if sent == OTHER_PORT_SENDS { OTHER_PORT_WAIT } else { OTHER_PORT_INTERVAL };
        let wake = (started + wait).min(until);
        while let Some(heard) = question.heard(wake).await {
            let detail = match heard {
                Heard::Answer { .. } => None,
                Heard::Refused { offender, .. } if offender == Some(remote.ip()) => {
                    Some("refused by the server itself, where nobody listens".to_owned())
                }
                // A firewall's refusal tells of nothing but itself, and is an event.
                Heard::Refused { .. } => continue,
            };
            let (local, rtt_us) = (Some(question.local), Some(micros(started.elapsed())));
            let unannounced = target.unannounced;
            return journal.measured(Measurement::Reach { transport, local, remote, rtt_us, detail, unannounced });
        }
    }
    let what = format!("UDP to port {} of {}", remote.port(), remote.ip());
    let why = "no server there was given, and this one neither answers nor refuses, which it need not";
    journal.missing(what, why);
}

/// Sends; what the system said when it refused.
fn send(question: &Question, transactions: &mut Transactions<()>) -> Option<String> {
    let errno = question.send().err()?;
    transactions.refuse(errno, |()| true);
    Some(in_words(errno))
}

fn in_words(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

/// Connects and asks over TCP, or over TLS with the name that the certificate must have.
pub(crate) async fn over_stream(
    journal: Journal,
    mut random: Random,
    target: Target,
    tls: Option<(ClientTls, String)>,
    mark: Option<u32>,
    until: Instant,
) {
    let transport = if tls.is_some() { Transport::Tls } else { Transport::Tcp };
    let (sender, mut inputs) = mpsc::channel(16);
    let (roots, witness, name) = match tls {
        Some((roots, name)) => {
            let (roots, witness) = roots.watched();
            (roots, Some(witness), Some(name))
        }
        None => (ClientTls::default(), None, None),
    };
    let asked_for = name.clone().unwrap_or_default();
    let mut streams = Streams::new(sender, roots);
    let (id, remote, started) = (StreamId(1), target.remote, Instant::now());
    let local = Some(target.origin.address);
    streams.connect(id, ConnectOptions { local, remote, tls: name, mark, framing: Framing::Stun });
    let request = random.transaction_id();
    let (mut late, mut over, mut connected) = (0, false, None);
    let outcome = loop {
        // What came before the time was over counts; a server that talks on does not hold it.
        let input = tokio::select! {
            biased;
            input = inputs.recv(), if late < MOST => {
                late += usize::from(Instant::now() >= until);
                input
            }
            () = tokio::time::sleep_until(until.into()) => None,
        };
        // Once: what the connection's reader had no time to hand over came before, too.
        if input.is_none() && !over {
            over = true;
            readers_have_run(until, &mut streams).await;
            continue;
        }
        match input {
            Some(StreamInput::Connected { local, .. }) => {
                let (interface, receive_buffer) = (target.origin.interface.clone(), None);
                let local = bare(local);
                connected = Some(local);
                journal.fact(EventKind::SocketOpened { transport, local, interface, mark, receive_buffer });
                let bytes = MessageBuilder::new(Class::Request, Method::BINDING, request).fingerprint().build();
                let (at, direction, integrity) = (journal.now(), Direction::Out, None);
                let passed = Passed { at, direction, transport, local, remote, bytes: bytes.clone(), integrity };
                journal.passed(passed);
                streams.send(id, &bytes);
            }
            Some(StreamInput::Message { local, arrived, bytes, .. }) => {
                let (at, direction, integrity) = (journal.clock().timestamp(arrived), Direction::In, None);
                let is_answer = Message::decode(&bytes).is_ok_and(|message| message.transaction == request);
                journal.passed(Passed { at, direction, transport, local: bare(local), remote, bytes, integrity });
                if is_answer {
                    break Ok(arrived.saturating_duration_since(started));
                }
            }
            Some(StreamInput::Closed { detail, .. }) => break Err(detail),
            Some(StreamInput::Accepted { .. }) => {}
            None if started.elapsed() < LEAST_SILENCE => {
                return journal.missing(format!("{} to {remote}", transport.name()), journal.no_time());
            }
            None => break Err(format!("no answer within {:.1} s", started.elapsed().as_secs_f64())),
        }
    };
    let shown = witness.and_then(|witness| witness.shown());
    let distrust = shown.as_ref().and_then(|shown| shown.refused.clone());
    if let (Some(shown), false) = (shown, target.unannounced) {
        journal.measured(certificate::measurement(target.label.clone(), asked_for, shown));
    }
    let (rtt_us, detail) = match (outcome, distrust) {
        (Ok(took), _) => (Some(micros(took)), None),
        // TLS itself got there and back: what is wrong is the server's.
        (Err(_), Some(why)) => (Some(micros(started.elapsed())), Some(why)),
        (Err(detail), None) => (None, Some(detail)),
    };
    if let (Some(detail), true) = (&detail, target.expected) {
        let failure = ServerFailure::ConnectionFailed { detail: detail.clone() };
        let (server, method) = (target.label, Method::BINDING.to_string());
        journal.fact(EventKind::ServerFailed { server, local: None, method, failure });
    }
    let (local, unannounced) = (connected, target.unannounced);
    journal.measured(Measurement::Reach { transport, local, remote, rtt_us, detail, unannounced });
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::super::journal::Entry;
    use super::*;
    use crate::io::clock::Clock;

    #[tokio::test]
    async fn an_answer_over_tcp_that_came_while_the_process_stood_still_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let remote = listener.local_addr().unwrap();
        let (asked, is_asked) = tokio::sync::oneshot::channel();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = [0; 28];
            stream.read_exact(&mut bytes).unwrap();
            let request = Message::decode(&bytes).unwrap().transaction;
            asked.send(()).unwrap();
            // The process stands still by now.
            std::thread::sleep(Duration::from_millis(100));
            stream.write_all(&MessageBuilder::new(Class::Success, Method::BINDING, request).build()).unwrap();
            stream
        });
        let (journal, mut entries) = Journal::new(Clock::start());
        let origin = Origin { address: "127.0.0.1:0".parse().unwrap(), interface: None };
        let target = Target { label: String::new(), remote, origin, expected: false, unannounced: false };
        let until = Instant::now() + Duration::from_secs(4);
        let stand_still = async {
            is_asked.await.unwrap();
            // Nothing is awaited, so no reader has its turn.
            std::thread::sleep(until.saturating_duration_since(Instant::now()) + Duration::from_millis(100));
        };
        tokio::join!(over_stream(journal, Random::from_number(1), target, None, None, until), stand_still);
        let facts = std::iter::from_fn(|| entries.try_recv().ok());
        let reached = facts.filter_map(|entry| match entry {
            Entry::Fact(_, EventKind::Measured(Measurement::Reach { rtt_us, detail, .. })) => Some((rtt_us, detail)),
            _ => None,
        });
        let reached: Vec<_> = reached.collect();
        assert!(matches!(reached[..], [(Some(_), None)]), "{reached:?}");
        server.join().unwrap();
    }
}
