//! Rooms and peers: who receives where, and what may be said to whom.
//!
//! One thread owns all of it, so there is no lock to hold over I/O, and writes to receivers never wait: what the
//! kernel does not take at once stays in the recipient's mailbox, within bounds.

mod joining;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use tracing::debug;
use whyrelay_core::signal::{LARGE_MESSAGE, MAX_NAME, Message, MessageType, Refusal, RefusalCode};

use super::Gauges;
use super::SignalingConfig;
use super::connection::{Connection, Permit, Permits};
use super::mailbox::{Bounds, Full, Mailbox, Queued};
use super::receiver::{Receiver, Written};

/// Ids that one peer may wait for, at most: it has one counterpart.
const MAX_WATCHED: usize = 8;
/// A peer that acknowledges is acknowledged every so many messages, or at the next sweep.
const ACK_EVERY: u64 = 8;
/// A full mailbox is worth another try after this.
const RETRY_FULL: Duration = Duration::from_millis(50);
/// A full server is worth another try after this.
const RETRY_SERVER: Duration = Duration::from_secs(5);

/// Everything the server knows.
pub(super) struct Hub {
    pub(super) config: SignalingConfig,
    pub(super) permits: Permits,
    rooms: RefCell<HashMap<String, Room>>,
    connections: RefCell<Vec<Weak<Connection>>>,
    bounds: Bounds,
    peers: Cell<usize>,
    generations: Cell<u64>,
    started: Instant,
    clock: Cell<Duration>,
    scratch: RefCell<Vec<u8>>,
    pub(super) is_shutting_down: Cell<bool>,
}

#[derive(Default)]
struct Room {
    peers: HashMap<String, Peer>,
    /// Who waits for an id.
    watchers: HashMap<String, Vec<String>>,
}

/// An id that receives, or has lately received.
struct Peer {
    /// What claims the id; empty: nothing does.
    token: String,
    receiver: Option<Rc<Receiver>>,
    /// Stays while the same peer comes back, changes when another one uses the id.
    session: u64,
    mailbox: Mailbox,
    /// Since when nothing receives.
    away_since: Option<Duration>,
    /// The number that the peer's next message has; `None`: whichever comes first.
    expected: Option<u64>,
    /// Messages taken from the peer and not yet acknowledged to it.
    unacknowledged: u64,
    watching: Vec<String>,
    _permit: Permit,
}

/// Who sends.
pub(super) enum Sender<'a> {
    /// A request, perhaps with a token.
    Request(Option<&'a str>),
    /// The connection that receives as `from`.
    Receiver,
}

impl Hub {
    pub(super) fn new(config: SignalingConfig, permits: Permits) -> Self {
        let bounds = Bounds {
            messages: config.mailbox_messages,
            bytes: config.mailbox_bytes,
            age: config.mailbox_age,
            budget: Rc::new(Cell::new(config.max_queued_bytes)),
        };
        Self {
            config,
            permits,
            rooms: RefCell::default(),
            connections: RefCell::default(),
            bounds,
            peers: Cell::new(0),
            generations: Cell::new(0),
            started: Instant::now(),
            clock: Cell::new(Duration::ZERO),
            scratch: RefCell::default(),
            is_shutting_down: Cell::new(false),
        }
    }

    /// Time since the start, as of the last sweep. Deadlines need no more precision than that.
    pub(super) fn now(&self) -> Duration {
        self.clock.get()
    }

    pub(super) fn register(&self, connection: &Rc<Connection>) {
        self.connections.borrow_mut().push(Rc::downgrade(connection));
    }

    /// Peers that receive or have lately received, and rooms.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.peers.get(), self.rooms.borrow().len())
    }

    /// Takes a message into its recipient's mailbox and writes it if the recipient receives.
    pub(super) fn post(&self, room: &str, message: Message, sender: &Sender<'_>) -> Result<(), Refusal> {
        let outcome = self.take(room, message, sender);
        let gauges = &self.config.gauges;
        Gauges::count(if outcome.is_ok() { &gauges.messages } else { &gauges.refused });
        outcome
    }

    fn take(&self, room: &str, mut message: Message, sender: &Sender<'_>) -> Result<(), Refusal> {
        if message.kind.is_servers_own() {
            return Err(Refusal::new(RefusalCode::Forbidden, "only the server sends this type"));
        }
        let absent = || Refusal::new(RefusalCode::RecipientNotFound, "recipient not found");
        let mut rooms = self.rooms.borrow_mut();
        let peers = &mut rooms.get_mut(room).ok_or_else(absent)?.peers;
        let session = match (peers.get(&message.from), sender) {
            (Some(peer), Sender::Request(token)) if !same(&peer.token, token.unwrap_or_default()) => {
                return Err(Refusal::new(RefusalCode::Forbidden, "the sender's id is claimed by a token"));
            }
            // What a peer with a claim has sent stays good when it has left: its recording, its goodbye.
            (Some(peer), _) if peer.token.is_empty() => peer.session,
            _ => 0,
        };
        let recipient = peers.get_mut(&message.to).ok_or_else(absent)?;
        message.seq = None;
        let mut body = message.to_json().into_bytes();
        body.pop();
        let queued = Queued { body, from: (message.from, session), at: self.now() };
        recipient.mailbox.push(queued).map_err(|full| match full {
            Full::Mailbox => Refusal::new(RefusalCode::MailboxFull, "the recipient reads too slowly, or not at all")
                .retry_after(RETRY_FULL),
            Full::Server => {
                Refusal::new(RefusalCode::ServerFull, "too many bytes wait in this server").retry_after(RETRY_SERVER)
            }
        })?;
        self.pump(recipient);
        Ok(())
    }

    /// Takes a message from a receiver on its own connection, in the order of its numbers if it has one. What is
    /// refused is told to the sender.
    pub(super) fn post_from_receiver(&self, room: &str, id: &str, receiver: &Receiver, mut message: Message) {
        let number = message.seq;
        let is_next = self.with_peer(room, id, receiver.generation, |peer| match (peer.expected, number) {
            (Some(expected), Some(number)) if number != expected => {
                // A repetition is worth an acknowledgement; a jump follows what was refused and comes again.
                peer.unacknowledged += u64::from(number < expected);
                false
            }
            _ => true,
        });
        if is_next != Some(true) {
            return debug!(id, number, "not the next message");
        }
        message.from = id.to_owned();
        let to = message.to.clone();
        let weight = if message.content.len() > LARGE_MESSAGE { ACK_EVERY } else { 1 };
        let refusal = self.post(room, message, &Sender::Receiver).err();
        let is_lasting = refusal.as_ref().is_some_and(|refusal| refusal.code == RefusalCode::Forbidden);
        if let Some(number) = number {
            self.with_peer(room, id, receiver.generation, |peer| {
                if refusal.is_none() || is_lasting {
                    peer.expected = Some(number + 1);
                    peer.unacknowledged += weight;
                } else {
                    peer.expected = Some(number);
                }
                if peer.unacknowledged >= ACK_EVERY {
                    self.acknowledge(id, peer);
                }
            });
        }
        if let Some(refusal) = refusal {
            if refusal.code == RefusalCode::RecipientNotFound {
                self.watch(room, id, &to);
            }
            let mut told = control(MessageType::Refused, &to, id, &refusal);
            told.seq = number;
            receiver.write_control(&told, self.now());
        }
    }

    /// The receiver has taken everything up to `number`; `wants_ack`: it asks how much the server has taken.
    pub(super) fn on_ack(&self, room: &str, id: &str, receiver: &Receiver, number: Option<u64>, wants_ack: bool) {
        self.with_peer(room, id, receiver.generation, |peer| {
            peer.mailbox.acknowledge(number.unwrap_or(0));
            if wants_ack {
                self.acknowledge(id, peer);
            }
        });
    }

    /// The kernel takes bytes for the receiver again.
    pub(super) fn flush(&self, room: &str, id: &str, receiver: &Receiver) -> Written {
        let written = receiver.flush(self.now());
        if written == Written::All {
            self.with_peer(room, id, receiver.generation, |peer| {
                if receiver.holds_message.take() {
                    peer.mailbox.mark_sent(receiver.framing.is_numbered());
                }
                self.pump(peer);
            });
            return if receiver.is_idle() { Written::All } else { Written::Waits };
        }
        written
    }

    /// Ends what has had its time, keeps alive what waits. Called about once a second.
    pub(super) fn sweep(&self) {
        let now = self.started.elapsed();
        self.clock.set(now);
        self.connections
            .borrow_mut()
            .retain(|connection| connection.upgrade().inspect(|connection| connection.expire(now)).is_some());
        let mut rooms = self.rooms.borrow_mut();
        let (mut queued, mut deepest) = (0, 0);
        rooms.retain(|_, room| {
            let mut gone = Vec::new();
            for (id, peer) in &mut room.peers {
                self.sweep_peer(id, peer, now);
                queued += peer.mailbox.len();
                deepest = deepest.max(peer.mailbox.len());
                if peer.away_since.is_some_and(|since| since + self.config.mailbox_age <= now) {
                    gone.push(id.clone());
                }
            }
            for id in gone {
                self.remove(room, &id);
            }
            !room.peers.is_empty()
        });
        let gauges = &self.config.gauges;
        Gauges::set(&gauges.connections, self.connections.borrow().len());
        Gauges::set(&gauges.peers, self.peers.get());
        Gauges::set(&gauges.rooms, rooms.len());
        Gauges::set(&gauges.queued_messages, queued);
        Gauges::set(&gauges.queued_bytes, self.config.max_queued_bytes.saturating_sub(self.bounds.budget.get()));
        Gauges::set(&gauges.deepest_mailbox, deepest);
    }

    /// Tells every receiver that the server leaves, and ends its connection.
    pub(super) fn shut_down(&self) {
        self.is_shutting_down.set(true);
        let refusal = Refusal::new(RefusalCode::ShuttingDown, "the server shuts down").retry_after(RETRY_SERVER);
        for room in self.rooms.borrow_mut().values_mut() {
            for (id, peer) in &mut room.peers {
                if let Some(receiver) = &peer.receiver {
                    self.acknowledge_on(id, peer.expected, receiver);
                    receiver.end(id, &refusal, self.now());
                }
            }
        }
        for connection in self.connections.borrow().iter().filter_map(Weak::upgrade) {
            connection.end_if_idle();
        }
    }

    /// Connections that are still open.
    pub(super) fn open_connections(&self) -> usize {
        self.connections.borrow().iter().filter(|connection| connection.strong_count() > 0).count()
    }

    fn sweep_peer(&self, id: &str, peer: &mut Peer, now: Duration) {
        let mut is_writing = false;
        if let Some(receiver) = peer.receiver.clone() {
            let config = &self.config;
            is_writing = receiver.holds_message.get();
            // Two pings unanswered; a third of the interval for a slow path.
            let is_dead = receiver.framing.is_websocket()
                && receiver.connection.last_heard.get() + config.heartbeat_interval * 7 / 3 <= now;
            if is_dead || receiver.is_stalled(now, config.write_timeout) {
                debug!(id, is_dead, "too slow");
                let refusal = Refusal::new(RefusalCode::TooSlow, "nothing was read for too long");
                receiver.end(id, &refusal, now);
                self.lose_receiver(peer);
            } else {
                if peer.unacknowledged > 0 {
                    self.acknowledge(id, peer);
                }
                if receiver.beat(id, now, config.heartbeat_interval) == Written::Broken {
                    receiver.connection.end();
                }
            }
        }
        peer.mailbox.expire(now, is_writing);
    }

    /// Writes what waits, as far as the kernel takes it.
    fn pump(&self, peer: &mut Peer) {
        let Some(receiver) = peer.receiver.clone() else { return };
        let mut scratch = self.scratch.borrow_mut();
        while receiver.is_idle() {
            let Some((message, number)) = peer.mailbox.next_unsent() else { return };
            match receiver.write_message(&mut scratch, &message.body, number, self.now()) {
                Written::All => peer.mailbox.mark_sent(receiver.framing.is_numbered()),
                Written::Waits => return,
                Written::Broken => {
                    receiver.connection.end();
                    self.lose_receiver(peer);
                    return;
                }
            }
        }
    }

    fn lose_receiver(&self, peer: &mut Peer) {
        if peer.receiver.take().is_some() {
            peer.away_since = Some(self.now());
            peer.mailbox.rewind();
        }
    }

    fn acknowledge(&self, id: &str, peer: &mut Peer) {
        peer.unacknowledged = 0;
        if let Some(receiver) = &peer.receiver {
            self.acknowledge_on(id, peer.expected, receiver);
        }
    }

    fn acknowledge_on(&self, id: &str, expected: Option<u64>, receiver: &Receiver) {
        if !receiver.framing.is_numbered() {
            return;
        }
        let mut ack = Message::new(MessageType::Ack, "", id, "");
        ack.seq = Some(expected.map_or(0, |expected| expected - 1));
        receiver.write_control(&ack, self.now());
    }

    fn watch(&self, room: &str, id: &str, target: &str) {
        if let Some(room) = self.rooms.borrow_mut().get_mut(room) {
            self.add_watch(room, id, target);
        }
    }

    fn add_watch(&self, room: &mut Room, id: &str, target: &str) {
        let Some(peer) = room.peers.get_mut(id) else { return };
        if target.is_empty() || target.len() > MAX_NAME || peer.watching.len() >= MAX_WATCHED {
            return;
        }
        if !peer.watching.iter().any(|watched| watched == target) {
            peer.watching.push(target.to_owned());
            room.watchers.entry(target.to_owned()).or_default().push(id.to_owned());
        }
    }

    fn tell_watchers(&self, room: &Room, id: &str, kind: MessageType) {
        for watcher in room.watchers.get(id).into_iter().flatten() {
            if let Some(receiver) = room.peers.get(watcher).and_then(|peer| peer.receiver.as_ref()) {
                receiver.write_control(&Message::new(kind.clone(), id, watcher, ""), self.now());
            }
        }
    }

    fn remove(&self, room: &mut Room, id: &str) {
        let Some(peer) = room.peers.remove(id) else { return };
        self.peers.set(self.peers.get() - 1);
        for target in &peer.watching {
            if let Some(watchers) = room.watchers.get_mut(target) {
                watchers.retain(|watcher| watcher != id);
                if watchers.is_empty() {
                    room.watchers.remove(target);
                }
            }
        }
        self.tell_watchers(room, id, MessageType::PeerLeft);
    }

    fn with_peer<T>(&self, room: &str, id: &str, generation: u64, act: impl FnOnce(&mut Peer) -> T) -> Option<T> {
        let mut rooms = self.rooms.borrow_mut();
        let peer = rooms.get_mut(room)?.peers.get_mut(id)?;
        peer.receiver.as_ref().filter(|receiver| receiver.generation == generation)?;
        Some(act(peer))
    }

    fn next_generation(&self) -> u64 {
        self.generations.set(self.generations.get() + 1);
        self.generations.get()
    }
}

/// One of the server's own messages.
fn control(kind: MessageType, from: &str, to: &str, content: &impl serde::Serialize) -> Message {
    // Our own contents are structures of strings and numbers, which always serialize.
    Message::new(kind, from, to, serde_json::to_string(content).unwrap_or_default())
}

/// Whether two tokens are equal, in a time that does not tell how far they agree.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}
