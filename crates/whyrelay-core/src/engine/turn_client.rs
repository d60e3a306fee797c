//! The TURN client (RFC 8656): one 5-tuple to one server, and the allocation on it.
//!
//! It is told everything and sends nothing itself; [`super::gather`] owns one per path and lays its messages onto the
//! path. Every error code becomes an event.

mod forwarding;
mod response;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use self::forwarding::{Channel, Permission};
use super::credentials::{LongTerm, Password, Proof};
use super::transaction::{Due, Schedule, Transactions};
use crate::random::Random;
use crate::time::{Now, Timestamp};
use crate::trace::event::{EventKind, ServerFailure, Transport};
use crate::wire::attribute::AttributeType;
use crate::wire::integrity::Integrity;
use crate::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};
use crate::wire::turn::{ChannelNumber, REQUESTED_TRANSPORT_UDP, family};

/// A refresh is sent this long before the allocation ends (RFC 8656 §7: "at least a minute before"), or at half of
/// a lifetime shorter than two minutes.
const REFRESH_MARGIN: Duration = Duration::from_secs(60);

/// After a refresh that was not answered, the next one.
const REFRESH_RETRY: Duration = Duration::from_secs(5);

/// The address families that an allocation is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Families {
    /// IPv4, the default of RFC 8656 §7.1: no attribute.
    Ipv4,
    /// IPv6: REQUESTED-ADDRESS-FAMILY.
    Ipv6,
    /// IPv4, and IPv6 if the server can: ADDITIONAL-ADDRESS-FAMILY.
    Both,
}

/// What a client is made of.
#[derive(Clone, Debug)]
pub(super) struct TurnConfig {
    /// The server, for events.
    pub(super) server: String,
    /// Our end of the path.
    pub(super) local: SocketAddr,
    pub(super) transport: Transport,
    pub(super) username: Option<String>,
    pub(super) password: Option<Password>,
    pub(super) families: Families,
    pub(super) schedule: Schedule,
}

/// What a client wants done or known.
#[derive(Debug)]
pub(super) enum TurnOutput {
    /// Send to the server; whole, padding included.
    Send(Vec<u8>),
    Event(EventKind),
    /// The allocation exists, with one relayed address per family.
    Allocated {
        relayed: Vec<SocketAddr>,
        mapped: Option<SocketAddr>,
    },
    /// 300: try this server instead.
    Redirect(SocketAddr),
    /// Allocate was not answered at all: another address of the server may be alive.
    Unanswered,
    /// An allocation that had been announced is gone.
    Lost {
        relayed: SocketAddr,
        detail: String,
    },
    /// This client has no allocation and will have none.
    Ended,
    PermissionGranted {
        relayed: SocketAddr,
        peer: IpAddr,
    },
    PermissionDenied {
        relayed: SocketAddr,
        peer: IpAddr,
        code: Option<u16>,
    },
    Data {
        relayed: SocketAddr,
        peer: SocketAddr,
        data: Vec<u8>,
    },
    RoundTrip {
        rtt: Duration,
        exact: bool,
    },
}

/// What a transaction is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Purpose {
    Allocate,
    Refresh,
    /// Refresh with lifetime 0; `again`: allocate anew afterwards (after 437).
    Release {
        again: bool,
    },
    CreatePermission(Vec<IpAddr>),
    ChannelBind {
        peer: SocketAddr,
        number: ChannelNumber,
    },
}

impl Purpose {
    const fn method(&self) -> Method {
        match self {
            Self::Allocate => Method::ALLOCATE,
            Self::Refresh | Self::Release { .. } => Method::REFRESH,
            Self::CreatePermission(_) => Method::CREATE_PERMISSION,
            Self::ChannelBind { .. } => Method::CHANNEL_BIND,
        }
    }
}

/// One request, over its renewals after 401 and 438.
#[derive(Clone, Debug)]
struct Request {
    purpose: Purpose,
    proof: Option<Proof>,
    /// Renewals so far; a server that asks for ever is not followed for ever.
    renewals: u8,
    /// Whether an unusable answer to it was reported.
    complained: bool,
}

/// Renewals of one request: 401, a change of realm, and some stale nonces.
const MAX_RENEWALS: u8 = 5;

/// An Allocate without an answer.
#[derive(Clone, Debug)]
struct Asked {
    transaction: TransactionId,
    /// What it was signed with; `None`: a server that asks for no credentials may grant it all the same.
    proof: Option<Proof>,
}

/// States of RFC 8656's client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Entered at the start; left for `Allocated`, or `Ended` on failure, redirection or close.
    Allocating,
    /// Entered by a success response; left for `Releasing` by close, for `Ended` by loss.
    Allocated,
    /// Entered by close, where there is an allocation or may be one: Refresh with lifetime 0 is under way. Left for
    /// `Ended`.
    Releasing,
    /// Nothing more will come. What an Allocate that was given up may have made is still given back.
    Ended,
}

/// See the module.
#[derive(Debug)]
pub(super) struct TurnClient {
    config: TurnConfig,
    random: Random,
    credentials: LongTerm,
    transactions: Transactions<Request>,
    phase: Phase,
    /// The latest Allocate, until it is answered. It may be granted when nobody waits for it any more: then the
    /// allocation is given back.
    asked: Option<Asked>,
    /// Whether 437 and 440 have had their second attempt.
    mismatch_retried: bool,
    family_retried: bool,
    relayed: Vec<SocketAddr>,
    expires: Option<Timestamp>,
    refresh_at: Option<Timestamp>,
    permissions: BTreeMap<IpAddr, Permission>,
    channels: BTreeMap<SocketAddr, Channel>,
    next_channel: Option<ChannelNumber>,
    outputs: VecDeque<TurnOutput>,
}

impl TurnClient {
    /// Starts an allocation: the first Allocate goes out at once, without credentials, to learn realm and nonce.
    pub(super) fn new(now: Timestamp, config: TurnConfig, random: Random) -> Self {
        let credentials = LongTerm::new(config.username.clone(), config.password.clone());
        let mut client = Self {
            config,
            random,
            credentials,
            transactions: Transactions::default(),
            phase: Phase::Allocating,
            asked: None,
            mismatch_retried: false,
            family_retried: false,
            relayed: Vec::new(),
            expires: None,
            refresh_at: None,
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
            next_channel: Some(ChannelNumber::FIRST),
            outputs: VecDeque::new(),
        };
        client.request(now, Purpose::Allocate);
        client
    }

    /// Gives the allocation back: Refresh with lifetime 0. Ends with [`TurnOutput::Ended`].
    pub(super) fn close(&mut self, now: Timestamp) {
        match self.phase {
            Phase::Allocated => self.release(now),
            // Right behind it, as its answer may come too late for us.
            Phase::Allocating if self.may_be_allocated() => self.release(now),
            Phase::Allocating => self.end(),
            Phase::Releasing | Phase::Ended => {}
        }
    }

    /// The time for leaving is over: says the last word once more and ends.
    pub(super) fn abandon(&mut self) {
        if self.is_ended() {
            return;
        }
        if self.phase != Phase::Allocating || self.may_be_allocated() {
            let id = self.random.transaction_id();
            let builder = MessageBuilder::new(Class::Request, Method::REFRESH, id).u32(AttributeType::LIFETIME, 0);
            let (bytes, _) = self.credentials.finish(builder);
            self.outputs.push_back(TurnOutput::Send(bytes));
        }
        for relayed in self.relayed.clone() {
            self.deallocated(relayed, "closed by this side; the server did not confirm it");
        }
        self.end();
        self.transactions.cancel(|_| true);
    }

    /// The connection to the server is gone.
    pub(super) fn path_lost(&mut self, detail: &str) {
        match self.phase {
            Phase::Allocating => {
                let detail = detail.to_owned();
                self.failed(Method::ALLOCATE, ServerFailure::ConnectionFailed { detail });
                self.outputs.push_back(TurnOutput::Unanswered);
                self.end();
            }
            Phase::Allocated => self.lose(&format!("the connection to the server is gone: {detail}")),
            Phase::Releasing => self.released(),
            Phase::Ended => {}
        }
    }

    /// Asks the server whether the allocation is still there, ahead of the time for its refresh.
    pub(super) fn refresh(&mut self, now: Timestamp) {
        let asked = self.transactions.requests().any(|request| request.purpose == Purpose::Refresh);
        if self.phase == Phase::Allocated && !asked {
            self.refresh_at = Some(now);
        }
    }

    /// The system refused the latest datagram to the server, or an ICMP error came back for it.
    pub(super) fn refuse(&mut self, errno: i32) {
        self.transactions.refuse(errno, |_| true);
    }

    /// Does what is due.
    pub(super) fn advance(&mut self, now: Now) {
        let (at, heard) = (now.time, now.heard);
        while let Some(due) = self.transactions.poll(now) {
            match due {
                Due::Retransmit { bytes, .. } => self.outputs.push_back(TurnOutput::Send(bytes)),
                Due::TimedOut { request, transmissions, took } => {
                    let failure = ServerFailure::Timeout { transmissions, took_us: took.as_micros() as u64 };
                    self.unanswered(at, request, failure);
                }
                Due::Refused { request, errno } => {
                    self.unanswered(at, request, ServerFailure::SendFailed { errno });
                }
            }
        }
        if self.phase != Phase::Allocated {
            return;
        }
        if self.expires.is_some_and(|expires| expires <= heard) {
            self.lose("its lifetime ran out and no refresh was granted");
            return;
        }
        if self.refresh_at.is_some_and(|due| due <= at) {
            self.refresh_at = None;
            self.request(at, Purpose::Refresh);
        }
        self.advance_forwarding(now);
    }

    /// When [`Self::advance`] has something to do next.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let own = [self.expires, self.refresh_at, self.forwarding_deadline()];
        let own = own.into_iter().flatten().filter(|_| self.phase == Phase::Allocated);
        own.chain(self.transactions.deadline()).min()
    }

    /// The next thing that the client wants done or known.
    pub(super) fn poll_output(&mut self) -> Option<TurnOutput> {
        self.outputs.pop_front()
    }

    /// Whether it has neither an allocation nor an answer yet.
    pub(super) fn is_allocating(&self) -> bool {
        self.phase == Phase::Allocating
    }

    /// Whether it is over, its last words included.
    pub(super) fn is_ended(&self) -> bool {
        self.phase == Phase::Ended && self.transactions.requests().next().is_none()
    }

    /// Checks a message's integrity with the key in use, for the trace.
    pub(super) fn verify(&self, message: &Message<'_>) -> Option<Integrity> {
        self.credentials.proof().map(|proof| proof.check(message))
    }

    /// Starts a request with the schedule of the path.
    fn request(&mut self, now: Timestamp, purpose: Purpose) {
        self.send_request(now, Request { purpose, proof: None, renewals: 0, complained: false });
    }

    fn send_request(&mut self, now: Timestamp, mut request: Request) {
        let id = self.random.transaction_id();
        let mut builder = MessageBuilder::new(Class::Request, request.purpose.method(), id);
        match &request.purpose {
            Purpose::Allocate => {
                builder = builder.attribute(AttributeType::REQUESTED_TRANSPORT, &REQUESTED_TRANSPORT_UDP);
                builder = match self.config.families {
                    Families::Ipv4 => builder,
                    Families::Ipv6 => builder.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &family::IPV6),
                    Families::Both => builder.attribute(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &family::IPV6),
                };
            }
            Purpose::Refresh => {}
            Purpose::Release { .. } => builder = builder.u32(AttributeType::LIFETIME, 0),
            Purpose::CreatePermission(peers) => {
                // RFC 8656 §10.1: the port is ignored.
                let add = |builder: MessageBuilder, peer: &IpAddr| {
                    builder.xor_address(AttributeType::XOR_PEER_ADDRESS, SocketAddr::new(*peer, 0))
                };
                builder = peers.iter().fold(builder, add);
            }
            Purpose::ChannelBind { peer, number } => {
                builder = builder
                    .attribute(AttributeType::CHANNEL_NUMBER, &number.value())
                    .xor_address(AttributeType::XOR_PEER_ADDRESS, *peer);
            }
        }
        let (bytes, proof) = self.credentials.finish(builder);
        if request.purpose == Purpose::Allocate {
            self.asked = Some(Asked { transaction: id, proof: proof.clone() });
        }
        request.proof = proof;
        let schedule = match (&request.purpose, self.config.transport) {
            (Purpose::Release { again: false }, Transport::Udp) => Schedule::FAREWELL,
            (Purpose::Release { again: false }, _) => Schedule::FAREWELL_STREAM,
            _ => self.config.schedule,
        };
        if self.transactions.start(now, id, bytes.clone(), request, schedule) {
            self.outputs.push_back(TurnOutput::Send(bytes));
        }
    }

    /// A request got no answer.
    fn unanswered(&mut self, now: Timestamp, request: Request, failure: ServerFailure) {
        let method = request.purpose.method();
        match request.purpose {
            Purpose::Allocate => {
                self.failed(method, failure);
                if request.proof.is_some() {
                    // The answer may be late or lost, not the request: no allocation is left behind.
                    self.request(now, Purpose::Release { again: false });
                } else {
                    self.outputs.push_back(TurnOutput::Unanswered);
                }
                self.end();
            }
            Purpose::Refresh => {
                self.failed(method, failure);
                self.refresh_at = Some(now + REFRESH_RETRY);
            }
            Purpose::Release { again: true } => self.request(now, Purpose::Allocate),
            Purpose::Release { again: false } => self.released(),
            Purpose::CreatePermission(peers) => {
                self.failed(method, failure);
                self.permissions_refused(now, &peers, None);
            }
            Purpose::ChannelBind { peer, .. } => {
                self.failed(method, failure);
                self.channel_refused(now, peer);
            }
        }
    }

    /// Sets expiry and refresh from a LIFETIME in seconds.
    fn set_lifetime(&mut self, now: Timestamp, seconds: u32) {
        let lifetime = Duration::from_secs(u64::from(seconds));
        self.expires = Some(now + lifetime);
        let wait = lifetime.checked_sub(REFRESH_MARGIN).unwrap_or_default().max(lifetime / 2);
        self.refresh_at = Some(now + wait);
    }

    fn release(&mut self, now: Timestamp) {
        self.phase = Phase::Releasing;
        self.transactions.cancel(|_| true);
        self.request(now, Purpose::Release { again: false });
    }

    /// The allocation has been given back, or the server no longer answers.
    fn released(&mut self) {
        if self.phase != Phase::Releasing {
            return;
        }
        for relayed in std::mem::take(&mut self.relayed) {
            self.deallocated(relayed, "closed by this side");
        }
        self.end();
    }

    /// The allocation is gone without our doing.
    fn lose(&mut self, detail: &str) {
        self.transactions.cancel(|_| true);
        for relayed in std::mem::take(&mut self.relayed) {
            self.deallocated(relayed, detail);
            self.outputs.push_back(TurnOutput::Lost { relayed, detail: detail.to_owned() });
        }
        self.end();
    }

    /// Only giving back goes on, over UDP: who closes a connection gives back what was allocated over it.
    fn end(&mut self) {
        if self.phase == Phase::Ended {
            return;
        }
        self.phase = Phase::Ended;
        let over_udp = self.config.transport == Transport::Udp;
        self.transactions.cancel(|request| !over_udp || request.purpose != Purpose::Release { again: false });
        self.relayed.clear();
        self.permissions.clear();
        self.channels.clear();
        (self.expires, self.refresh_at) = (None, None);
        self.outputs.push_back(TurnOutput::Ended);
    }

    /// Whether the server may hold an allocation that it has not told of: one that an authenticated Allocate asks for,
    /// or one of an earlier run.
    fn may_be_allocated(&self) -> bool {
        let ends_another = |request: &Request| request.purpose == Purpose::Release { again: true };
        self.asked.as_ref().is_some_and(|asked| asked.proof.is_some()) || self.transactions.requests().any(ends_another)
    }

    fn deallocated(&mut self, relayed: SocketAddr, detail: &str) {
        let detail = detail.to_owned();
        self.outputs.push_back(TurnOutput::Event(EventKind::Deallocated { relayed, detail }));
    }

    fn failed(&mut self, method: Method, failure: ServerFailure) {
        self.outputs.push_back(TurnOutput::Event(EventKind::ServerFailed {
            server: self.config.server.clone(),
            local: Some(self.config.local),
            method: method.to_string(),
            failure,
        }));
    }
}
