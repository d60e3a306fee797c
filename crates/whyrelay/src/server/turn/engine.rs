//! The engine under its lock, and the sockets that it drives.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use socket2::Socket;
use tokio::sync::Notify;
use tracing::{debug, info};
use whyrelay_core::engine::turn_server::{
    Client, ClientTransport, Credentials, Family, Forward, Input, ListenerId, Output, RelayId, SharedSecret, StreamId,
    TurnServer,
};
use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;

use super::Metrics;
use super::mmsg;
use super::outbox::{Outbox, StreamMessage};
use super::refusals;
use super::relay::{Places, RelaySocket};
use super::udp::{GroupedSender, Origin};
use super::worker::Pollers;
use crate::io::clock::{Clock, wall_clock};

/// Shared by all threads and tasks of a server.
pub(super) struct Engine {
    clock: Clock,
    turn: Mutex<TurnServer>,
    /// For each listening address one socket, or one for each thread.
    listeners: Vec<Vec<Socket>>,
    pollers: Pollers,
    relays: RwLock<HashMap<RelayId, Arc<RelaySocket>>>,
    streams: Mutex<HashMap<StreamId, (Arc<Outbox>, SocketAddr)>>,
    places: Places,
    random: Mutex<Random>,
    /// The engine's next deadline in microseconds, `u64::MAX` for none.
    deadline: AtomicU64,
    /// Up to when [`Self::expire`] sleeps, in the same.
    alarm: AtomicU64,
    earlier_deadline: Notify,
    pub(super) received_datagrams: AtomicU64,
    pub(super) unsent_datagrams: AtomicU64,
    pub(super) unsent_stream_messages: AtomicU64,
    pub(super) streams_refused: AtomicU64,
    pub(super) open_streams: AtomicUsize,
}

impl Engine {
    pub(super) fn new(
        clock: Clock,
        turn: TurnServer,
        listeners: Vec<Vec<Socket>>,
        pollers: Pollers,
        places: Places,
        random: Random,
    ) -> Self {
        Self {
            clock,
            turn: Mutex::new(turn),
            listeners,
            pollers,
            relays: RwLock::default(),
            streams: Mutex::default(),
            places,
            random: Mutex::new(random),
            deadline: AtomicU64::new(u64::MAX),
            alarm: AtomicU64::new(u64::MAX),
            earlier_deadline: Notify::new(),
            received_datagrams: AtomicU64::new(0),
            unsent_datagrams: AtomicU64::new(0),
            unsent_stream_messages: AtomicU64::new(0),
            streams_refused: AtomicU64::new(0),
            open_streams: AtomicUsize::new(0),
        }
    }

    /// Feeds a batch and carries out what comes of it. `thread` is the number of the thread that does.
    pub(super) fn feed<'a>(&self, thread: usize, inputs: impl Iterator<Item = Input<'a>>) {
        let mut inputs = inputs.fuse();
        let mut opened = Vec::new();
        loop {
            let mut turn = Turn { work: Vec::with_capacity(8), to_streams: Vec::new(), opens_relay: false };
            let now = self.clock.now();
            {
                let mut server = lock(&self.turn);
                for (relay, address) in opened {
                    let input = match address {
                        Some(address) => Input::RelayOpened { relay, address },
                        None => Input::RelayFailed { relay },
                    };
                    server.handle_input(now, input);
                    self.drain(&mut server, &mut turn);
                }
                // What comes after an Allocate may be for its relay, which is to be there by then.
                while !turn.opens_relay
                    && let Some(input) = inputs.next()
                {
                    let forward = server.forward(now, input);
                    turn.forward(forward);
                    self.drain(&mut server, &mut turn);
                }
            }
            let is_over = !turn.opens_relay;
            // Opening a relay is answered with an input, which has outputs of its own.
            opened = self.carry_out(thread, turn);
            if is_over {
                break;
            }
        }
    }

    fn drain(&self, server: &mut TurnServer, turn: &mut Turn<'_>) {
        loop {
            match server.poll_output() {
                Output::Timeout(deadline) => {
                    let deadline = deadline.map_or(u64::MAX, Timestamp::as_micros);
                    if deadline != self.deadline.load(Ordering::Relaxed) {
                        self.deadline.store(deadline, Ordering::SeqCst);
                        // Who sleeps until an earlier one that is no more looks again by itself.
                        if deadline < self.alarm.load(Ordering::SeqCst) {
                            self.earlier_deadline.notify_one();
                        }
                    }
                    return;
                }
                Output::SendToClient { client: Client { transport: ClientTransport::Stream(stream), .. }, bytes } => {
                    turn.to_streams.push((stream, StreamMessage::Stun(bytes)));
                }
                output => {
                    turn.opens_relay |= matches!(output, Output::OpenRelay { .. });
                    turn.work.push(Work::Output(output));
                }
            }
        }
    }

    fn carry_out(&self, thread: usize, turn: Turn<'_>) -> Vec<(RelayId, Option<SocketAddr>)> {
        for messages in turn.to_streams.chunk_by(|(one, _), (next, _)| one == next) {
            let outbox = lock(&self.streams).get(&messages[0].0).map(|(outbox, _)| Arc::clone(outbox));
            let dropped = outbox.map_or(0, |outbox| outbox.push(messages.iter().map(|(_, message)| message)));
            self.unsent_stream_messages.fetch_add(dropped as u64, Ordering::Relaxed);
        }
        self.send(thread, &turn.work);
        let mut opened = Vec::new();
        for work in turn.work {
            match work {
                Work::Output(Output::OpenRelay { relay, family, client, even_port, as_reached }) => {
                    let wanted = Wanted { family, even_port, as_reached };
                    opened.push((relay, self.open_relay(relay, client, &wanted)));
                }
                Work::Output(Output::CloseRelay { relay }) => {
                    // Dropping the last reference closes the socket; its thread then hears no more of it.
                    let socket = self.relays.write().unwrap_or_else(PoisonError::into_inner).remove(&relay);
                    if socket.is_some() {
                        info!(relay = relay.0, "relay closed");
                    }
                }
                _ => {}
            }
        }
        opened
    }

    /// Sends all datagrams. Relays are opened and closed after that: what goes through one that closes was there first.
    fn send(&self, thread: usize, work: &[Work<'_>]) {
        let relays = self.relays.read().unwrap_or_else(PoisonError::into_inner);
        let mut sender = GroupedSender::new(&self.unsent_datagrams);
        for work in work {
            let (origin, destination, header, data, whole): (_, _, &[u8], &[u8], _) = match work {
                Work::Forward(Forward::ToClient { client, header, data }) => {
                    (self.origin(client, thread), client.source, header, data, false)
                }
                Work::Output(Output::SendToClient { client, bytes }) => {
                    (self.origin(client, thread), client.source, &[], bytes, false)
                }
                Work::Forward(Forward::ToPeer { relay, peer, data, dont_fragment }) => {
                    (relays.get(relay).map(|relay| Origin::Relay(relay)), *peer, &[], data, *dont_fragment)
                }
                Work::Output(Output::SendFromRelay { relay, peer, bytes, dont_fragment }) => {
                    (relays.get(relay).map(|relay| Origin::Relay(relay)), *peer, &[], bytes, *dont_fragment)
                }
                Work::Output(_) => continue,
            };
            match origin {
                Some(Origin::Relay(relay)) if whole => sender.send_whole(relay, destination, data),
                Some(origin) => sender.send(origin, destination, header, data),
                None => {}
            }
        }
        sender.flush();
    }

    /// The socket that a client on UDP is answered from: the thread's own share of where it came to.
    fn origin(&self, client: &Client, thread: usize) -> Option<Origin<'_>> {
        let ClientTransport::Udp(listener) = client.transport else { return None };
        let shards = self.listeners.get(usize::from(listener.0))?;
        shards.get(thread % shards.len().max(1)).map(Origin::Listener)
    }

    fn open_relay(&self, relay: RelayId, client: Client, wanted: &Wanted) -> Option<SocketAddr> {
        let reached = match client.transport {
            ClientTransport::Udp(ListenerId(listener)) => {
                self.shard(ListenerId(listener), 0).and_then(|socket| socket.local_addr().ok()?.as_socket())
            }
            ClientTransport::Stream(stream) => lock(&self.streams).get(&stream).map(|(_, local)| *local),
        };
        let start = lock(&self.random).u64();
        let reached = reached.map(|address| address.ip());
        let opened = match reached.filter(|_| wanted.as_reached) {
            Some(ip) => self.places.open_at(ip, wanted.even_port, start),
            None => self.places.open(wanted.family, reached, wanted.even_port, start),
        };
        match opened {
            Ok(socket) => {
                let address = socket.local();
                let socket = Arc::new(socket);
                self.relays.write().unwrap_or_else(PoisonError::into_inner).insert(relay, Arc::clone(&socket));
                if let Err(error) = self.pollers.add_relay(relay, socket.as_fd()) {
                    debug!("watching a relay: {error}");
                    self.relays.write().unwrap_or_else(PoisonError::into_inner).remove(&relay);
                    return None;
                }
                info!(relay = relay.0, port = address.port(), "relay opened");
                debug!(relay = relay.0, client = %client.source, "for this client");
                Some(address)
            }
            Err(error) => {
                debug!("opening a relay: {error}");
                None
            }
        }
    }

    /// Ends what expires, when it expires.
    pub(super) async fn expire(self: Arc<Self>) {
        loop {
            let deadline = self.deadline.load(Ordering::SeqCst);
            self.alarm.store(deadline, Ordering::SeqCst);
            if self.deadline.load(Ordering::SeqCst) < deadline {
                continue;
            }
            let sleep = async {
                match deadline {
                    u64::MAX => std::future::pending().await,
                    micros => tokio::time::sleep_until(self.clock.instant(Timestamp::from_micros(micros)).into()).await,
                }
            };
            tokio::select! {
                () = sleep => self.feed(0, std::iter::once(Input::Timeout)),
                () = self.earlier_deadline.notified() => {}
            }
        }
    }

    /// Makes a connection known. What the engine has for it goes to the outbox.
    pub(super) fn open_stream(&self, stream: StreamId, outbox: Arc<Outbox>, local: SocketAddr) {
        lock(&self.streams).insert(stream, (outbox, local));
        self.open_streams.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets a connection, and its allocation.
    pub(super) fn close_stream(&self, stream: StreamId, client: Client) {
        if lock(&self.streams).remove(&stream).is_some() {
            self.open_streams.fetch_sub(1, Ordering::Relaxed);
        }
        self.feed(0, std::iter::once(Input::StreamClosed { client }));
    }

    /// Reads nothing more and closes every relay.
    pub(super) fn close(&self) {
        self.ignore_listeners();
        self.relays.write().unwrap_or_else(PoisonError::into_inner).clear();
        lock(&self.streams).clear();
    }

    pub(super) fn has_allocation(&self, client: &Client) -> bool {
        lock(&self.turn).has_allocation(client)
    }

    pub(super) fn set_credentials(&self, credentials: Credentials) {
        lock(&self.turn).set_credentials(credentials);
    }

    pub(super) fn set_alternate_servers(&self, servers: Vec<SocketAddr>) {
        lock(&self.turn).set_alternate_servers(servers);
    }

    pub(super) fn set_discovery_secret(&self, secret: &SharedSecret) {
        lock(&self.turn).set_discovery_secret(secret);
    }

    pub(super) fn refuse_newcomers(&self) {
        lock(&self.turn).drain();
    }

    pub(super) fn follow_wall_clock(&self) {
        lock(&self.turn).set_wall_clock(self.clock.now(), wall_clock());
        // What expires by it.
        self.feed(0, std::iter::once(Input::Timeout));
    }

    /// Logs what was refused since the last time.
    pub(super) fn log_refusals(&self, log: &mut refusals::Log) {
        let (counters, latest) = {
            let mut turn = lock(&self.turn);
            (turn.counters().clone(), turn.take_refusals())
        };
        log.write(&counters, self.streams_refused.load(Ordering::Relaxed), latest);
    }

    pub(super) fn set_own_addresses(&self, interfaces: &[IpAddr]) {
        lock(&self.turn).set_own_addresses(interfaces);
    }

    /// Has the listening sockets read from now on.
    pub(super) fn listen(&self) -> io::Result<()> {
        for (at, shards) in self.listeners.iter().enumerate() {
            for (shard, socket) in shards.iter().enumerate() {
                self.pollers.add_listener(ListenerId(at as u16), shard, socket)?;
            }
        }
        Ok(())
    }

    /// Has them read no more.
    fn ignore_listeners(&self) {
        for (at, shards) in self.listeners.iter().enumerate() {
            for (shard, socket) in shards.iter().enumerate() {
                self.pollers.remove_listener(ListenerId(at as u16), shard, socket);
            }
        }
    }

    pub(super) const fn pollers(&self) -> &Pollers {
        &self.pollers
    }

    pub(super) fn shard(&self, listener: ListenerId, shard: usize) -> Option<&Socket> {
        self.listeners.get(usize::from(listener.0))?.get(shard)
    }

    pub(super) fn relay(&self, relay: RelayId) -> Option<Arc<RelaySocket>> {
        self.relays.read().unwrap_or_else(PoisonError::into_inner).get(&relay).cloned()
    }

    pub(super) fn metrics(&self) -> Metrics {
        let overflowed_datagrams =
            self.listeners.iter().flatten().map(|socket| u64::from(mmsg::overflowed(socket.as_fd()))).sum();
        let turn = lock(&self.turn);
        Metrics {
            allocations: turn.allocations(),
            probe_sessions: turn.probe_sessions(),
            streams: self.open_streams.load(Ordering::Relaxed),
            counters: turn.counters().clone(),
            received_datagrams: self.received_datagrams.load(Ordering::Relaxed),
            overflowed_datagrams,
            unsent_datagrams: self.unsent_datagrams.load(Ordering::Relaxed),
            unsent_stream_messages: self.unsent_stream_messages.load(Ordering::Relaxed),
            streams_refused: self.streams_refused.load(Ordering::Relaxed),
        }
    }
}

/// What a batch of inputs has led to.
struct Turn<'a> {
    work: Vec<Work<'a>>,
    to_streams: Vec<(StreamId, StreamMessage<'a>)>,
    /// Whether a relay is to be opened, so that nothing more may be fed before.
    opens_relay: bool,
}

/// What is to be done.
enum Work<'a> {
    Forward(Forward<'a>),
    Output(Output),
}

impl<'a> Turn<'a> {
    fn forward(&mut self, forward: Option<Forward<'a>>) {
        match forward {
            Some(Forward::ToClient {
                client: Client { transport: ClientTransport::Stream(stream), .. },
                header,
                data,
            }) => {
                self.to_streams.push((stream, StreamMessage::ChannelData { header, data }));
            }
            Some(forward) => self.work.push(Work::Forward(forward)),
            None => {}
        }
    }
}

/// The socket that a relay is to have.
struct Wanted {
    family: Family,
    even_port: bool,
    as_reached: bool,
}

/// A panic elsewhere must not take the server down: what the lock guards is whole between calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
