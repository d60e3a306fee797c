//! The engine under its lock, and the sockets that it drives.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tracing::{debug, info};
use whyrelay_core::engine::turn_server::{
    Client, ClientTransport, Credentials, Family, Input, ListenerId, Output, RelayId, StreamId, TurnServer,
};
use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;

use super::Metrics;
use super::relay::{Places, RelaySocket};
use super::stream::Outbox;
use super::udp::{GroupedSender, Origin};
use crate::io::clock::Clock;

/// Shared by all tasks of a server.
pub(super) struct Engine {
    clock: Clock,
    turn: Mutex<TurnServer>,
    listeners: Vec<UdpSocket>,
    relays: RwLock<HashMap<RelayId, Arc<RelaySocket>>>,
    streams: Mutex<HashMap<StreamId, (Outbox, SocketAddr)>>,
    places: Places,
    random: Mutex<Random>,
    /// The engine's next deadline in microseconds, `u64::MAX` for none.
    deadline: AtomicU64,
    earlier_deadline: Notify,
    pub(super) unsent_datagrams: AtomicU64,
    pub(super) unsent_stream_messages: AtomicU64,
    pub(super) streams_refused: AtomicU64,
    pub(super) open_streams: AtomicUsize,
}

impl Engine {
    pub(super) fn new(
        clock: Clock,
        turn: TurnServer,
        listeners: Vec<UdpSocket>,
        places: Places,
        random: Random,
    ) -> Self {
        Self {
            clock,
            turn: Mutex::new(turn),
            listeners,
            relays: RwLock::default(),
            streams: Mutex::default(),
            places,
            random: Mutex::new(random),
            deadline: AtomicU64::new(u64::MAX),
            earlier_deadline: Notify::new(),
            unsent_datagrams: AtomicU64::new(0),
            unsent_stream_messages: AtomicU64::new(0),
            streams_refused: AtomicU64::new(0),
            open_streams: AtomicUsize::new(0),
        }
    }

    /// Feeds a batch and carries out what comes of it.
    pub(super) fn feed<'a>(self: &Arc<Self>, inputs: impl Iterator<Item = Input<'a>>) {
        let mut outputs = Vec::new();
        let now = self.clock.now();
        {
            let mut turn = lock(&self.turn);
            for input in inputs {
                turn.handle_input(now, input);
                self.drain(&mut turn, &mut outputs);
            }
        }
        // Opening a relay is answered with an input, which has outputs of its own.
        while !outputs.is_empty() {
            let opened = self.carry_out(std::mem::take(&mut outputs));
            if opened.is_empty() {
                break;
            }
            let mut turn = lock(&self.turn);
            for (relay, address) in opened {
                let input = match address {
                    Some(address) => Input::RelayOpened { relay, address },
                    None => Input::RelayFailed { relay },
                };
                turn.handle_input(self.clock.now(), input);
                self.drain(&mut turn, &mut outputs);
            }
        }
    }

    fn drain(&self, turn: &mut TurnServer, outputs: &mut Vec<Output>) {
        loop {
            match turn.poll_output() {
                Output::Timeout(deadline) => {
                    let deadline = deadline.map_or(u64::MAX, Timestamp::as_micros);
                    if deadline < self.deadline.swap(deadline, Ordering::Relaxed) {
                        self.earlier_deadline.notify_one();
                    }
                    return;
                }
                output => outputs.push(output),
            }
        }
    }

    fn carry_out(self: &Arc<Self>, outputs: Vec<Output>) -> Vec<(RelayId, Option<SocketAddr>)> {
        let mut opened = Vec::new();
        let mut sender = GroupedSender::new(&self.unsent_datagrams);
        for output in outputs {
            match output {
                Output::SendToClient { client, bytes } => match client.transport {
                    ClientTransport::Udp(ListenerId(listener)) => {
                        if let Some(socket) = self.listeners.get(usize::from(listener)) {
                            sender.send(Origin::Listener(socket), client.source, bytes);
                        }
                    }
                    ClientTransport::Stream(stream) => {
                        let taken = lock(&self.streams).get(&stream).is_none_or(|(outbox, _)| outbox.push(bytes));
                        self.unsent_stream_messages.fetch_add(u64::from(!taken), Ordering::Relaxed);
                    }
                },
                Output::SendFromRelay { relay, peer, bytes, dont_fragment } => {
                    let socket = self.relays.read().unwrap_or_else(PoisonError::into_inner).get(&relay).cloned();
                    match socket {
                        Some(socket) if dont_fragment => {
                            sender.flush();
                            let sent = socket.send(true, |socket| socket.send_to(&bytes, &peer.into()));
                            let lost = !matches!(sent, Ok(Ok(_)));
                            self.unsent_datagrams.fetch_add(u64::from(lost), Ordering::Relaxed);
                        }
                        Some(socket) => sender.send(Origin::Relay(socket), peer, bytes),
                        None => {}
                    }
                }
                Output::OpenRelay { relay, family, client, even_port, as_reached } => {
                    let wanted = Wanted { family, even_port, as_reached };
                    opened.push((relay, self.open_relay(relay, client, &wanted)));
                }
                Output::CloseRelay { relay } => {
                    // Dropping the last reference closes the socket; its task ends by the abort.
                    let socket = self.relays.write().unwrap_or_else(PoisonError::into_inner).remove(&relay);
                    if let Some(socket) = socket {
                        info!(relay = relay.0, "relay closed");
                        socket.stop();
                    }
                }
                Output::Timeout(_) => {}
            }
        }
        sender.flush();
        opened
    }

    fn open_relay(self: &Arc<Self>, relay: RelayId, client: Client, wanted: &Wanted) -> Option<SocketAddr> {
        let reached = match client.transport {
            ClientTransport::Udp(ListenerId(listener)) => {
                self.listeners.get(usize::from(listener)).and_then(|socket| socket.local_addr().ok())
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
                socket.start(Arc::clone(self), relay);
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
            let deadline = self.deadline.load(Ordering::Relaxed);
            let sleep = async {
                match deadline {
                    u64::MAX => std::future::pending().await,
                    micros => tokio::time::sleep_until(self.clock.instant(Timestamp::from_micros(micros)).into()).await,
                }
            };
            tokio::select! {
                () = sleep => self.feed(std::iter::once(Input::Timeout)),
                () = self.earlier_deadline.notified() => {}
            }
        }
    }

    /// Makes a connection known. What the engine has for it goes to the outbox.
    pub(super) fn open_stream(&self, stream: StreamId, outbox: Outbox, local: SocketAddr) {
        lock(&self.streams).insert(stream, (outbox, local));
        self.open_streams.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets a connection, and its allocation.
    pub(super) fn close_stream(self: &Arc<Self>, stream: StreamId, client: Client) {
        if lock(&self.streams).remove(&stream).is_some() {
            self.open_streams.fetch_sub(1, Ordering::Relaxed);
        }
        self.feed(std::iter::once(Input::StreamClosed { client }));
    }

    /// Closes every relay.
    pub(super) fn close(&self) {
        let relays = std::mem::take(&mut *self.relays.write().unwrap_or_else(PoisonError::into_inner));
        for socket in relays.into_values() {
            socket.stop();
        }
        lock(&self.streams).clear();
    }

    pub(super) fn has_allocation(&self, client: &Client) -> bool {
        lock(&self.turn).has_allocation(client)
    }

    pub(super) fn set_credentials(&self, credentials: Credentials) {
        lock(&self.turn).set_credentials(credentials);
    }

    pub(super) fn listeners(&self) -> usize {
        self.listeners.len()
    }

    pub(super) fn listener(&self, listener: usize) -> Option<&UdpSocket> {
        self.listeners.get(listener)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn metrics(&self) -> Metrics {
        let turn = lock(&self.turn);
        Metrics {
            allocations: turn.allocations(),
            probe_sessions: turn.probe_sessions(),
            streams: self.open_streams.load(Ordering::Relaxed),
            counters: turn.counters().clone(),
            unsent_datagrams: self.unsent_datagrams.load(Ordering::Relaxed),
            unsent_stream_messages: self.unsent_stream_messages.load(Ordering::Relaxed),
            streams_refused: self.streams_refused.load(Ordering::Relaxed),
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
