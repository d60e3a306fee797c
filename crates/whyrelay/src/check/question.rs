//! One Binding request on a socket of its own, and what comes back of it.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;
use whyrelay_core::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};

use super::journal::Journal;
use super::sockets::{Arrived, Sockets, bare};
use crate::io::udp::UdpOptions;

/// A request that can be sent as often as one likes.
#[derive(Debug)]
pub(crate) struct Question {
    sockets: Sockets,
    /// Our end.
    pub(crate) local: SocketAddr,
    remote: SocketAddr,
    /// Its transaction.
    pub(crate) id: TransactionId,
    /// The datagram.
    pub(crate) bytes: Vec<u8>,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The answer, from whom it was asked of, and when it arrived.
    Answer { at: Timestamp },
    /// The system or a router says that it did not get there; `expired`: because its TTL was used up.
    Refused { errno: i32, offender: Option<IpAddr>, expired: bool },
}

impl Question {
    /// Opens the socket; `None` when the system does not, which is an event of its own.
    pub(crate) fn open(
        journal: &Journal,
        random: &mut Random,
        (address, interface): (SocketAddr, Option<&str>),
        remote: SocketAddr,
        options: UdpOptions,
    ) -> Option<Self> {
        Self::open_announced(journal, random, (address, interface), remote, options, |_| {})
    }

    /// The same. `announce` tells of the socket by its address, ahead of its opening in the journal.
    pub(crate) fn open_announced(
        journal: &Journal,
        random: &mut Random,
        (address, interface): (SocketAddr, Option<&str>),
        remote: SocketAddr,
        options: UdpOptions,
        announce: impl FnOnce(SocketAddr),
    ) -> Option<Self> {
        let mut sockets = Sockets::new(journal.clone());
        let local = sockets.open_announced(address, interface, options, announce).ok()?;
        let id = random.transaction_id();
        let bytes = MessageBuilder::new(Class::Request, Method::BINDING, id).fingerprint().build();
        Some(Self { sockets, local, remote, id, bytes })
    }

    /// Sends it; the errno when the system refuses, which is an event of its own.
    pub(crate) fn send(&self) -> Result<(), i32> {
        self.sockets.send(self.local, self.remote, &self.bytes)
    }

    /// Up to when everything that had arrived was looked at, once [`Self::heard`] has said that a time is over.
    pub(crate) fn heard_until(&self) -> Timestamp {
        self.sockets.heard()
    }

    /// What comes back until then; anything else that arrives is left alone.
    pub(crate) async fn heard(&mut self, until: Instant) -> Option<Heard> {
        loop {
            match self.sockets.recv(until).await? {
                Arrived::Datagram { at, remote, bytes, .. } => {
                    let answers = Message::decode(&bytes).is_ok_and(|message| {
                        // Changed on the way, it has come all the same.
                        (message.is_sound() || message.is_rewritten())
                            && message.transaction == self.id
                            && matches!(message.class, Class::Success | Class::Error)
                    });
                    if answers && bare(remote) == bare(self.remote) {
                        return Some(Heard::Answer { at });
                    }
                }
                Arrived::Refused { errno, offender, expired, .. } => {
                    return Some(Heard::Refused { errno, offender, expired });
                }
            }
        }
    }
}
