//! Binding transactions to STUN servers (RFC 8489 §12): the reflexive address of each socket.

use std::net::SocketAddr;

use super::transaction::{Answered, Due, Schedule, Transactions};
use crate::random::Random;
use crate::time::{Now, Timestamp};
use crate::trace::event::ServerFailure;
use crate::wire::attribute::AttributeType;
use crate::wire::stun::{Class, Message, MessageBuilder, Method};

/// One Binding request: from which socket, to which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Binding<P> {
    /// The 5-tuple's owner: a socket or a stream.
    pub(super) path: P,
    /// The server, as an index of the gatherer.
    pub(super) server: usize,
    /// Our socket's address.
    pub(super) local: SocketAddr,
    /// The server's address.
    pub(super) remote: SocketAddr,
}

/// How a Binding transaction ended.
#[derive(Debug)]
pub(super) struct Bound<P> {
    pub(super) binding: Binding<P>,
    /// The mapped address, or why there is none.
    pub(super) outcome: Result<SocketAddr, ServerFailure>,
    /// Round trip and whether it is exact, if there was an answer.
    pub(super) rtt: Option<(std::time::Duration, bool)>,
}

/// All open Binding transactions.
#[derive(Debug)]
pub(super) struct StunClient<P> {
    transactions: Transactions<Binding<P>>,
}

/// What is due.
#[derive(Debug)]
pub(super) enum DueBinding<P> {
    /// Send these bytes again.
    Retransmit(Binding<P>, Vec<u8>),
    /// It ended without an answer.
    Ended(Bound<P>),
}

/// What came of feeding a message.
#[derive(Debug)]
pub(super) enum Fed<P> {
    /// It belongs to no transaction of ours.
    NotOurs,
    /// It is ours and changes nothing.
    Ignored,
    /// It is ours, but came from another address than the request went to.
    FromElsewhere(Binding<P>),
    /// It ended a transaction.
    Done(Bound<P>),
}

impl<P: Copy + std::fmt::Debug + PartialEq> StunClient<P> {
    pub(super) fn new() -> Self {
        Self { transactions: Transactions::default() }
    }

    /// Starts a transaction; the bytes are to be sent now. `None`: too many are open.
    pub(super) fn start(
        &mut self,
        now: Timestamp,
        random: &mut Random,
        binding: Binding<P>,
        schedule: Schedule,
    ) -> Option<Vec<u8>> {
        let id = random.transaction_id();
        let bytes = MessageBuilder::new(Class::Request, Method::BINDING, id).fingerprint().build();
        self.transactions.start(now, id, bytes.clone(), binding, schedule).then_some(bytes)
    }

    /// A sound STUN message arrived then on `path` from `remote`.
    pub(super) fn feed(&mut self, arrived: Timestamp, path: P, remote: SocketAddr, message: &Message<'_>) -> Fed<P> {
        if !matches!(message.class, Class::Success | Class::Error) {
            return Fed::NotOurs;
        }
        let Some(binding) = self.transactions.peek(message.transaction) else {
            return if self.transactions.is_finished(message.transaction) { Fed::Ignored } else { Fed::NotOurs };
        };
        if message.method != Method::BINDING {
            return Fed::Ignored;
        }
        if binding.path != path || !same_endpoint(binding.remote, remote) {
            return Fed::FromElsewhere(*binding);
        }
        let Some(Answered { request, rtt, exact }) = self.transactions.answer(arrived, message.transaction) else {
            return Fed::Ignored;
        };
        Fed::Done(Bound { binding: request, outcome: read_outcome(message), rtt: Some((rtt, exact)) })
    }

    /// The system refused the latest datagram to a server.
    pub(super) fn refuse(&mut self, errno: i32, local: SocketAddr, remote: SocketAddr) {
        let which = |b: &Binding<P>| same_endpoint(b.local, local) && same_endpoint(b.remote, remote);
        self.transactions.refuse(errno, which);
    }

    /// Drops the transactions of a path.
    pub(super) fn cancel(&mut self, path: P) {
        self.transactions.cancel(|binding| binding.path == path);
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.transactions.cancel(|_| true);
    }

    /// What is due: bytes to send again, or a transaction that ended without an answer.
    pub(super) fn poll(&mut self, now: Now) -> Option<DueBinding<P>> {
        let (binding, failure) = match self.transactions.poll(now)? {
            Due::Retransmit { request, bytes } => return Some(DueBinding::Retransmit(request, bytes)),
            Due::TimedOut { request, transmissions, took } => {
                (request, ServerFailure::Timeout { transmissions, took_us: took.as_micros() as u64 })
            }
            Due::Refused { request, errno } => (request, ServerFailure::SendFailed { errno }),
        };
        Some(DueBinding::Ended(Bound { binding, outcome: Err(failure), rtt: None }))
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.transactions.deadline()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.transactions.requests().next().is_none()
    }
}

/// The mapped address of a Binding response; MAPPED-ADDRESS of RFC 3489 servers is read too.
fn read_outcome(message: &Message<'_>) -> Result<SocketAddr, ServerFailure> {
    if message.class == Class::Error {
        return Err(error_response(message, false));
    }
    let mapped = message.xor_address(AttributeType::XOR_MAPPED_ADDRESS);
    mapped
        .or_else(|| message.address(AttributeType::MAPPED_ADDRESS))
        .ok_or_else(|| ServerFailure::BadResponse { detail: "the answer carries no mapped address".to_owned() })
}

/// An error response as an event wants it.
pub(super) fn error_response(message: &Message<'_>, expected: bool) -> ServerFailure {
    match message.error_code() {
        Some(error) => ServerFailure::ErrorResponse { code: error.code, reason: clean(&error.reason), expected },
        None => ServerFailure::BadResponse { detail: "the error response carries no ERROR-CODE".to_owned() },
    }
}

/// A server's text as an event may hold it: one line, at most 128 characters (RFC 8489 §14.8).
fn clean(text: &str) -> String {
    text.chars().take(128).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// The same address and port; IPv6 scope and flow are the system's business.
pub(super) fn same_endpoint(one: SocketAddr, other: SocketAddr) -> bool {
    one.ip() == other.ip() && one.port() == other.port()
}
