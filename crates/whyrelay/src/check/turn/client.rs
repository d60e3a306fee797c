//! The core's gatherer with one TURN server, on real sockets.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use whyrelay_core::engine::gather::{GatherConfig, Gatherer, Input, LocalSocket, Output, StreamId, Transmit};
use whyrelay_core::ice::candidate::{CandidateTransport, CandidateType};
use whyrelay_core::random::Random;
use whyrelay_core::time::{Now, Timestamp};
use whyrelay_core::trace::event::{Direction, EventKind, ServerFailure, Transport};
use whyrelay_core::wire::framing::Framing;

use super::super::journal::{Journal, Passed};
use super::super::nat::Origin;
use super::super::sockets::{Arrived, Sockets, bare};
use super::Target;
use crate::io::stream::{ConnectOptions, StreamInput, Streams};
use crate::io::tls::ClientTls;
use crate::io::udp::UdpOptions;
use crate::io::waiting::{MOST, readers_have_run};

/// Giving allocations back takes at most this long.
pub(super) const CLOSE_LIMIT: Duration = Duration::from_millis(1200);

/// Something that a check waits for.
#[derive(Debug)]
pub(super) enum Happening {
    /// There is an allocation.
    Allocated { relayed: SocketAddr, mapped: Option<SocketAddr> },
    /// Every request for an allocation has its answer or none.
    Settled,
    /// A permission.
    Permitted { peer: IpAddr },
    /// None.
    Denied { peer: IpAddr, code: Option<u16> },
    /// A peer sent to a relayed address.
    Relayed { relayed: SocketAddr, peer: SocketAddr, data: Vec<u8> },
    /// A datagram arrived on a socket that is not the gatherer's.
    Datagram { local: SocketAddr, bytes: Vec<u8> },
    /// Allocations are given back.
    Closed,
}

/// See the module.
pub(super) struct Client {
    pub(super) journal: Journal,
    pub(super) random: Random,
    pub(super) origin: Origin,
    /// The server, over UDP.
    pub(super) remote: Option<SocketAddr>,
    pub(super) options: UdpOptions,
    gatherer: Gatherer,
    pub(super) sockets: Sockets,
    streams: Streams,
    stream_inputs: mpsc::Receiver<StreamInput>,
    /// Connections that are being made.
    connecting: Vec<StreamId>,
    mapped: Vec<(SocketAddr, Option<SocketAddr>)>,
    ready: VecDeque<Happening>,
    /// When the gatherer has its next timeout.
    deadline: Timestamp,
    /// The time of [`Self::next`] that was over last.
    over: Option<Instant>,
    /// Our end, where the server is asked over UDP, and how many requests left before it answered any.
    pub(super) asked: Option<(SocketAddr, u32)>,
    pub(super) has_answered: bool,
    /// Why there is no allocation, in words; `None`: not known.
    pub(super) refusal: Option<String>,
    /// How long the server took to answer for the last permission; none was asked for yet: no time.
    pub(super) round_trip: Duration,
}

impl Client {
    /// Opens one socket for each allocation and asks.
    pub(super) fn start(
        journal: Journal,
        mut random: Random,
        target: &Target,
        two: bool,
        (tls, options): (ClientTls, UdpOptions),
    ) -> io::Result<Self> {
        let (sender, stream_inputs) = mpsc::channel(64);
        let allocations_per_server = if two { 2 } else { 1 };
        let config = GatherConfig {
            servers: vec![target.server.clone()],
            relay_only: true,
            ipv6: target.origin.address.is_ipv6(),
            allocations_per_server,
            quick: true,
            patient: journal.is_patient(),
            ..GatherConfig::default()
        };
        let url = &target.server.url;
        let over_udp = url.transport() == Transport::Udp;
        let address = target.address().filter(|_| over_udp);
        let mut client = Self {
            gatherer: Gatherer::new(journal.now(), config, random.fork()),
            sockets: Sockets::new(journal.clone()),
            streams: Streams::new(sender, tls),
            stream_inputs,
            remote: address.map(|ip| SocketAddr::new(ip, url.port())),
            random,
            origin: target.origin.clone(),
            options,
            connecting: Vec::new(),
            mapped: Vec::new(),
            ready: VecDeque::new(),
            deadline: journal.now(),
            over: None,
            asked: None,
            has_answered: false,
            refusal: None,
            round_trip: Duration::ZERO,
            journal,
        };
        for _ in 0..allocations_per_server {
            let local = client.open()?;
            let (interface, transport) = (client.origin.interface.clone(), CandidateTransport::Udp);
            client.feed(Input::Socket(LocalSocket { local, interface, transport }));
        }
        client.feed(Input::Complete);
        Ok(client)
    }

    /// Another socket.
    pub(super) fn open(&mut self) -> io::Result<SocketAddr> {
        self.sockets.open(self.origin.address, self.origin.interface.as_deref(), self.options)
    }

    pub(super) fn permit(&mut self, relayed: SocketAddr, peer: IpAddr) {
        self.feed(Input::NeedPermission { relayed, peer });
    }

    pub(super) fn send_from_relay(&mut self, relayed: SocketAddr, peer: SocketAddr, data: &[u8]) {
        self.feed(Input::SendToPeer { relayed, peer, data });
    }

    /// What happens next; `None` at `until`.
    pub(super) async fn next(&mut self, until: Instant) -> Option<Happening> {
        loop {
            if let Some(happening) = self.ready.pop_front() {
                return Some(happening);
            }
            let gatherer = &self.gatherer;
            let wake = self.journal.clock().instant(self.deadline).min(until);
            let verify = |local, remote, bytes: &[u8]| gatherer.verify(local, remote, bytes);
            tokio::select! {
                // A stream that talks on does not hold the gatherer's time.
                Some(input) = self.stream_inputs.recv(), if Instant::now() < wake => self.stream(input),
                arrived = self.sockets.recv_verified(wake, verify) => match arrived {
                    Some(arrived) => self.arrived(arrived),
                    None => {
                        let (heard, over) = (self.sockets.heard(), Instant::now() >= until);
                        if over && self.over.is_some_and(|over| over >= until) {
                            return None;
                        }
                        self.take_streams(wake).await;
                        if over {
                            // Once: what comes later came too late.
                            self.over = Some(until);
                            continue;
                        }
                        self.gatherer.handle_input(Now::timers(self.journal.now(), heard), Input::Timeout);
                        self.drain();
                    }
                },
            }
        }
    }

    /// Takes what streams have read, or could have, by the time that is over: it comes before the timeout, as what waits
    /// in the sockets does.
    async fn take_streams(&mut self, over: Instant) {
        readers_have_run(over, &mut self.streams).await;
        for _ in 0..MOST {
            let Ok(input) = self.stream_inputs.try_recv() else { return };
            self.stream(input);
        }
    }

    /// Takes connections that are not there by now for failed: nobody waits any longer. Whether there were any.
    pub(super) fn give_up_connecting(&mut self, waited: Duration) -> bool {
        let any = !self.connecting.is_empty();
        let detail = format!("no answer within {:.1} s", waited.as_secs_f64());
        for id in std::mem::take(&mut self.connecting) {
            self.streams.close(id);
            self.feed(Input::StreamFailed { id, detail: &detail });
        }
        any
    }

    /// Lets go of connections that are not there by now, without a word about them.
    pub(super) fn drop_connecting(&mut self) {
        for id in std::mem::take(&mut self.connecting) {
            self.streams.close(id);
        }
    }

    /// Gives the allocations back, those included that were asked for and are not there yet; their confirmation is waited
    /// for until `latest`.
    pub(super) async fn close(mut self, latest: Instant) {
        let until = (Instant::now() + CLOSE_LIMIT).min(latest);
        self.feed(Input::Close);
        while !matches!(self.next(until).await, Some(Happening::Closed) | None) {}
    }

    fn arrived(&mut self, arrived: Arrived) {
        match arrived {
            Arrived::Datagram { at, local, remote, bytes } => {
                let now = Now::ahead_of_timers(self.journal.now(), at);
                let ours = self.gatherer.handle_input(now, Input::Datagram { local, remote, bytes: &bytes });
                self.has_answered |= ours;
                self.drain();
                if !ours {
                    self.ready.push_back(Happening::Datagram { local, bytes });
                }
            }
            Arrived::Refused { local, remote, errno, .. } => self.feed(Input::SendFailed { local, remote, errno }),
        }
    }

    fn stream(&mut self, input: StreamInput) {
        match input {
            StreamInput::Connected { id, local, transport, .. } => {
                self.connecting.retain(|connecting| *connecting != id);
                let (interface, mark, receive_buffer) = (self.origin.interface.clone(), self.options.mark, None);
                let local = bare(local);
                self.journal.fact(EventKind::SocketOpened { transport, local, interface, mark, receive_buffer });
                self.feed(Input::StreamConnected { id, local });
            }
            StreamInput::Message { id, local, remote, transport, arrived, bytes } => {
                let at = self.journal.clock().timestamp(arrived);
                let (direction, local) = (Direction::In, bare(local));
                let integrity = self.gatherer.verify(local, remote, &bytes);
                let framed = Framing::Stun.wrap(&bytes);
                self.journal.passed(Passed { at, direction, transport, local, remote, bytes, integrity });
                let now = Now::ahead_of_timers(self.journal.now(), at);
                self.gatherer.handle_input(now, Input::StreamData { id, bytes: &framed });
                self.drain();
            }
            StreamInput::Closed { id, detail } => {
                self.connecting.retain(|connecting| *connecting != id);
                self.streams.close(id);
                self.feed(Input::StreamFailed { id, detail: &detail });
            }
            StreamInput::Accepted { .. } => {}
        }
    }

    fn feed(&mut self, input: Input<'_>) {
        // What came before its timeout counts as in time, however late we come to it.
        let now = self.journal.now();
        self.gatherer.handle_input(Now::ahead_of_timers(now, now), input);
        self.drain();
    }

    fn drain(&mut self) {
        loop {
            let happening = match self.gatherer.poll_output() {
                Output::Transmit(transmit) => {
                    self.transmit(&transmit);
                    continue;
                }
                Output::ConnectStream { id, local, remote, tls } => {
                    let local = Some(SocketAddr::new(local, 0));
                    let (mark, framing) = (self.options.mark, Framing::Stun);
                    self.connecting.push(id);
                    self.streams.connect(id, ConnectOptions { local, remote, tls, mark, framing });
                    continue;
                }
                Output::CloseStream { id } => {
                    self.streams.close(id);
                    continue;
                }
                Output::Event(kind) => {
                    self.event(kind);
                    continue;
                }
                Output::Candidate(candidate) if candidate.candidate.kind == CandidateType::Relayed => {
                    let relayed = candidate.base;
                    let mapped =
                        self.mapped.iter().find(|(known, _)| *known == relayed).and_then(|(_, mapped)| *mapped);
                    Happening::Allocated { relayed, mapped }
                }
                Output::RelayedData { relayed, peer, data } => Happening::Relayed { relayed, peer, data },
                Output::PermissionGranted { peer, .. } => Happening::Permitted { peer },
                Output::PermissionDenied { peer, code, .. } => Happening::Denied { peer, code },
                Output::EndOfCandidates => Happening::Settled,
                Output::Closed => Happening::Closed,
                // Names are resolved before, and reaching is measured apart.
                Output::Candidate(_)
                | Output::Resolve { .. }
                | Output::RoundTrip { .. }
                | Output::AllocationLost { .. } => continue,
                Output::Timeout(at) => {
                    self.deadline = at;
                    return;
                }
            };
            self.ready.push_back(happening);
        }
    }

    fn event(&mut self, kind: EventKind) {
        let kind = match kind {
            // A connection that was not made has no port; which of our addresses it is about tells the family.
            EventKind::ServerFailed { server, local: None, method, failure } => {
                let local = Some(bare(self.origin.address));
                EventKind::ServerFailed { server, local, method, failure }
            }
            kind => kind,
        };
        match &kind {
            // Host candidates are of no interest here: there is no peer to tell.
            EventKind::LocalCandidateDiscarded { .. } | EventKind::EndOfCandidates { .. } => return,
            EventKind::Allocated { relayed, mapped, .. } => self.mapped.push((*relayed, *mapped)),
            EventKind::ServerFailed { failure, .. } => self.refusal = in_words(failure).or(self.refusal.take()),
            _ => {}
        }
        self.journal.fact(kind);
    }

    fn transmit(&mut self, transmit: &Transmit) {
        let Transmit { transport, stream, local, remote, bytes } = transmit;
        let (transport, local, remote) = (*transport, bare(*local), *remote);
        let Some(id) = stream else {
            if !self.has_answered {
                self.asked.get_or_insert((local, 0)).1 += 1;
            }
            if let Err(errno) = self.sockets.send(local, remote, bytes) {
                let now = self.journal.now();
                self.gatherer.handle_input(Now::ahead_of_timers(now, now), Input::SendFailed { local, remote, errno });
            }
            return;
        };
        let (at, direction, integrity) = (self.journal.now(), Direction::Out, None);
        self.journal.passed(Passed { at, direction, transport, local, remote, bytes: bytes.clone(), integrity });
        self.streams.send(*id, bytes);
    }
}

/// Why a server gives no allocation; `None`: what happened belongs to the protocol.
fn in_words(failure: &ServerFailure) -> Option<String> {
    Some(match failure {
        ServerFailure::ErrorResponse { expected: true, .. } => return None,
        ServerFailure::ErrorResponse { code, .. } => format!("it refuses one with {code}"),
        ServerFailure::Timeout { .. } => "it does not answer".to_owned(),
        ServerFailure::NoCredentials => "it asks for a user name and password, and none were given".to_owned(),
        ServerFailure::ConnectionFailed { detail } => format!("no connection ({detail})"),
        ServerFailure::BadResponse { detail } | ServerFailure::Unresolved { detail } => detail.clone(),
        ServerFailure::SendFailed { errno } => {
            format!("nothing gets to it ({})", io::Error::from_raw_os_error(*errno))
        }
        ServerFailure::NoLocalAddress => "no address of this host reaches it".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use whyrelay_core::engine::gather::{Password, Server, StreamId};
    use whyrelay_core::engine::transaction::Schedule;
    use whyrelay_core::wire::stun::{Class, MessageBuilder, Method, TransactionId};

    use super::*;
    use crate::io::clock::Clock;

    #[tokio::test]
    async fn a_server_that_talks_on_over_its_connection_holds_neither_the_clock_nor_the_end() {
        const TALK: usize = 20_000;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let remote = listener.local_addr().unwrap();
        let (journal, _entries) = Journal::new(Clock::start());
        let (username, password) = (Some("alice".into()), Some(Password::new("wonderland".to_owned())));
        let url = format!("turn:{remote}?transport=tcp").parse().unwrap();
        let server = Server { url, addresses: vec![remote.ip()], username, password };
        let origin = Origin { address: "127.0.0.1:0".parse().unwrap(), interface: None };
        let target = Target { server, label: String::new(), origin, experiments: false };
        let with = (ClientTls::default(), UdpOptions::default());
        let mut client = Client::start(journal, Random::from_number(1), &target, false, with).unwrap();
        // Connected and asked. Nothing is answered, until the time of the request is over.
        let asked = Instant::now() + Duration::from_millis(300);
        assert!(client.next(asked).await.is_none());
        std::thread::sleep(Schedule::STREAM.total());
        let (talk, talking) = mpsc::channel(TALK);
        client.stream_inputs = talking;
        let noise = MessageBuilder::new(Class::Indication, Method::BINDING, TransactionId([7; 12])).build();
        for _ in 0..TALK {
            let (local, transport, arrived) = (client.origin.address, Transport::Tcp, Instant::now());
            let (id, bytes) = (StreamId(0), noise.clone());
            talk.try_send(StreamInput::Message { id, local, remote, transport, arrived, bytes }).unwrap();
        }
        let left = || talk.max_capacity() - talk.capacity();
        let settled = client.next(Instant::now() + Duration::from_secs(30)).await;
        assert!(matches!(settled, Some(Happening::Settled)), "{settled:?}");
        assert!(left() > TALK / 2, "it was given up after {} of {TALK} messages", TALK - left());
        let before = left();
        assert!(client.next(Instant::now()).await.is_none());
        assert!(left() > before / 2, "the end came after {} messages", before - left());
    }
}
