//! Who may receive as whom, and what becomes of whoever did before.

use std::rc::Rc;

use tracing::debug;
use whyrelay_core::signal::{Join, Joined, MAX_NAME, Message, MessageType, Refusal, RefusalCode, ServersAnnouncement};

use super::super::connection::Connection;
use super::super::mailbox::Mailbox;
use super::super::receiver::{Framing, Receiver};
use super::{Hub, MAX_WATCHED, Peer, RETRY_SERVER, Room, control, same};

impl Hub {
    /// Whether [`Hub::attach`] would refuse the peer for its names or because the id is taken.
    pub(in crate::server::signaling) fn check_join(&self, join: &Join) -> Result<(), Refusal> {
        self.check_names(join)?;
        let rooms = self.rooms.borrow();
        match rooms.get(&join.room).and_then(|room| room.peers.get(&join.id)) {
            Some(peer) => self.check_claim(peer, join),
            None => Ok(()),
        }
    }

    /// Lets `connection` receive as the joining peer.
    pub(in crate::server::signaling) fn attach(
        &self,
        connection: &Rc<Connection>,
        framing: Framing,
        join: &Join,
        wants_welcome: bool,
    ) -> Result<Rc<Receiver>, Refusal> {
        self.check_names(join)?;
        let now = self.now();
        let mut rooms = self.rooms.borrow_mut();
        if !rooms.contains_key(&join.room) && rooms.len() >= self.config.max_rooms {
            return Err(Refusal::new(RefusalCode::ServerFull, "too many rooms").retry_after(RETRY_SERVER));
        }
        let room = rooms.entry(join.room.clone()).or_default();
        let resumed = self.make_way(room, join)?;
        if !room.peers.contains_key(&join.id) {
            let permit = (self.peers.get() < self.config.max_peers)
                .then(|| self.permits.take(connection.remote.ip()))
                .flatten()
                .ok_or_else(|| Refusal::new(RefusalCode::ServerFull, "too many peers").retry_after(RETRY_SERVER))?;
            self.peers.set(self.peers.get() + 1);
            room.peers.insert(
                join.id.clone(),
                Peer {
                    token: String::new(),
                    receiver: None,
                    session: 0,
                    mailbox: Mailbox::new(self.bounds.clone()),
                    away_since: None,
                    expected: None,
                    unacknowledged: 0,
                    watching: Vec::new(),
                    _permit: permit,
                },
            );
        }
        let generation = self.next_generation();
        let receiver = Rc::new(Receiver::new(Rc::clone(connection), framing, generation, now));
        let Some(peer) = room.peers.get_mut(&join.id) else { unreachable!("inserted above") };
        let came_back_soon = peer.away_since.is_some_and(|since| since + self.config.claim_grace > now);
        if !(resumed || join.token.is_empty() && peer.token.is_empty() && came_back_soon) {
            peer.session = generation;
        }
        peer.token.clone_from(&join.token);
        peer.receiver = Some(Rc::clone(&receiver));
        peer.away_since = None;
        if resumed {
            peer.mailbox.resume_after(join.received);
        } else {
            peer.mailbox.restart_numbers();
            peer.expected = None;
            peer.unacknowledged = 0;
        }
        if wants_welcome {
            self.welcome(peer, &receiver, join, resumed);
        }
        debug!(id = join.id, resumed, generation, "receives");
        self.tell_watchers(room, &join.id, MessageType::PeerJoined);
        for target in join.watch.iter().take(MAX_WATCHED) {
            self.add_watch(room, &join.id, target);
            if room.peers.get(target).is_some_and(|peer| peer.receiver.is_some()) {
                receiver.write_control(&Message::new(MessageType::PeerJoined, target, &join.id, ""), now);
            }
        }
        self.drop_stale(room, &join.id);
        if let Some(peer) = room.peers.get_mut(&join.id) {
            self.pump(peer);
        }
        Ok(receiver)
    }

    /// The receiver's connection is gone. The mailbox stays for a while, unless the peer said that it leaves.
    pub(in crate::server::signaling) fn detach(&self, room_name: &str, id: &str, generation: u64, leaves: bool) {
        let mut rooms = self.rooms.borrow_mut();
        let Some(room) = rooms.get_mut(room_name) else { return };
        let Some(peer) = room.peers.get_mut(id) else { return };
        // A later receiver with this id is none of this one's business.
        if peer.receiver.as_ref().is_none_or(|receiver| receiver.generation != generation) {
            return;
        }
        self.lose_receiver(peer);
        debug!(id, generation, leaves, "receives no more");
        if leaves {
            self.remove(room, id);
            if room.peers.is_empty() {
                rooms.remove(room_name);
            }
        }
    }

    /// Ends the claim of whoever has the id, if `join` may have it; answers whether it is the same peer again.
    fn make_way(&self, room: &mut Room, join: &Join) -> Result<bool, Refusal> {
        let Some(peer) = room.peers.get_mut(&join.id) else { return Ok(false) };
        let is_claimed = !peer.token.is_empty();
        let resumed = is_claimed && same(&peer.token, &join.token);
        if is_claimed && !resumed {
            self.check_claim(peer, join)?;
            // What waits was meant for the other one.
            self.remove(room, &join.id);
            return Ok(false);
        }
        if let Some(receiver) = peer.receiver.take() {
            let refusal = Refusal::new(RefusalCode::Replaced, "replaced by another receiver with this id");
            receiver.end(&join.id, &refusal, self.now());
            peer.mailbox.rewind();
        }
        Ok(resumed)
    }

    /// A claim holds as long as the claimer receives, and a little longer, for when its connection breaks.
    fn check_claim(&self, peer: &Peer, join: &Join) -> Result<(), Refusal> {
        if peer.token.is_empty() || same(&peer.token, &join.token) {
            return Ok(());
        }
        let taken = Refusal::new(RefusalCode::IdTaken, "the id is already taken by another peer");
        let Some(since) = peer.away_since else { return Err(taken) };
        let free_at = since + self.config.claim_grace;
        if self.now() < free_at { Err(taken.retry_after(free_at - self.now())) } else { Ok(()) }
    }

    /// Drops what waits from peers that are gone or have begun anew: an offer of a session that is over only
    /// confuses.
    fn drop_stale(&self, room: &mut Room, id: &str) {
        let Some(mut peer) = room.peers.remove(id) else { return };
        let gone_before = self.now().saturating_sub(self.config.claim_grace);
        peer.mailbox.retain(|message| {
            let (from, session) = &message.from;
            *session == 0
                || from == id
                || room.peers.get(from).is_some_and(|sender| {
                    sender.session == *session && sender.away_since.is_none_or(|since| since >= gone_before)
                })
        });
        room.peers.insert(id.to_owned(), peer);
    }

    fn check_names(&self, join: &Join) -> Result<(), Refusal> {
        let bad = |reason| Err(Refusal::new(RefusalCode::BadMessage, reason));
        if join.id.is_empty() {
            return bad("missing client ID");
        }
        if join.id.len() > MAX_NAME || join.room.len() > MAX_NAME || join.token.len() > MAX_NAME {
            return bad("an id, a room and a token have at most 128 bytes");
        }
        if join.room.is_empty() && !self.config.has_default_room {
            return Err(Refusal::new(RefusalCode::Forbidden, "this server has no default room: name one"));
        }
        Ok(())
    }

    fn welcome(&self, peer: &Peer, receiver: &Receiver, join: &Join, resumed: bool) {
        let joined = Joined {
            implementation: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            resumed,
            received: peer.expected.map_or(0, |expected| expected - 1),
            address: Some(receiver.connection.remote.ip().to_canonical()),
        };
        receiver.write_control(&control(MessageType::Joined, "", &join.id, &joined), self.now());
        // Without servers an empty announcement says so: whoever joins waits for the word, not for the servers.
        let announcement: ServersAnnouncement = self
            .config
            .announce
            .as_ref()
            .and_then(|announce| announce(&join.room, &join.id, receiver.connection.local))
            .unwrap_or_default();
        receiver.write_control(&control(MessageType::Servers, "", &join.id, &announcement), self.now());
    }
}
