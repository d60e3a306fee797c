//! What a gatherer is told and what it wants: its configuration, inputs and outputs.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::super::credentials::Password;
use super::super::server_url::ServerUrl;
use crate::ice::candidate::{Candidate, CandidateTransport};
use crate::time::Timestamp;
use crate::trace::event::{EventKind, Transport};

/// A STUN or TURN server.
#[derive(Clone, Debug)]
pub struct Server {
    /// Where it is and what it is asked for.
    pub url: ServerUrl,
    /// Its addresses if they are known already. Of each family the first one is used. Empty for a name: then
    /// [`Output::Resolve`] asks for them.
    pub addresses: Vec<IpAddr>,
    /// The TURN user name.
    pub username: Option<String>,
    /// The TURN password.
    pub password: Option<Password>,
}

/// What to gather and how.
#[derive(Clone, Debug)]
pub struct GatherConfig {
    /// The servers known from the start; more may come as [`Input::Server`].
    pub servers: Vec<Server>,
    /// Relayed candidates only: the others are found where that costs nothing, and discarded.
    pub relay_only: bool,
    /// No TURN server is contacted.
    pub no_turn: bool,
    /// Whether to ask for IPv6 allocations beside IPv4 ones.
    pub ipv6: bool,
    /// RFC 8489's own retransmission schedule instead of the shorter one.
    pub patient: bool,
    /// A still shorter one, for who has 3 s for everything: a server that is silent over UDP is given up after 1.5 s.
    pub quick: bool,
    /// Allocations on one server: of many interfaces the first ones get one.
    pub allocations_per_server: usize,
}

impl Default for GatherConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            relay_only: false,
            no_turn: false,
            ipv6: true,
            patient: false,
            quick: false,
            allocations_per_server: 4,
        }
    }
}

/// A socket to gather from. Its address is a specific one: a wildcard makes no candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalSocket {
    /// Its address; for TCP active the address that connections will be opened from, with any port.
    pub local: SocketAddr,
    /// The interface that has the address.
    pub interface: Option<String>,
    /// UDP, a TCP listener, or TCP active.
    pub transport: CandidateTransport,
}

/// Names one connection to a server, for the life of the gatherer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// What a gatherer is told.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// A socket is open: its host candidate comes at once, its reflexive and relayed ones as servers answer.
    Socket(LocalSocket),
    /// A server became known, as when signaling announces it. One already known by its URL is ignored.
    Server(Server),
    /// All sockets and servers have been named: [`Output::EndOfCandidates`] comes when they are settled.
    Complete,
    /// [`Output::Resolve`] was answered.
    Resolved {
        /// The name.
        name: &'a str,
        /// Its addresses, in order of preference.
        addresses: &'a [IpAddr],
    },
    /// [`Output::Resolve`] failed.
    Unresolved {
        /// The name.
        name: &'a str,
        /// What the resolver said.
        detail: &'a str,
    },
    /// A datagram arrived on one of the UDP sockets. [`super::Gatherer::handle_input`] answers whether it was the gatherer's;
    /// if not, it is the ICE agent's, or DTLS.
    Datagram {
        /// The socket's address.
        local: SocketAddr,
        /// Where it came from.
        remote: SocketAddr,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// [`Output::ConnectStream`] succeeded, TLS handshake included.
    StreamConnected {
        /// Which.
        id: StreamId,
        /// Our end.
        local: SocketAddr,
    },
    /// [`Output::ConnectStream`] failed.
    StreamFailed {
        /// Which.
        id: StreamId,
        /// What the system or TLS said.
        detail: &'a str,
    },
    /// Bytes arrived on a connection, as they come: messages are cut out here.
    StreamData {
        /// Which.
        id: StreamId,
        /// The bytes, decrypted.
        bytes: &'a [u8],
    },
    /// The other end closed a connection, or it broke.
    StreamClosed {
        /// Which.
        id: StreamId,
        /// What happened.
        detail: &'a str,
    },
    /// Data for a peer from a relayed address: as ChannelData once a channel is bound, else in a Send indication.
    /// Without a permission it is dropped and the permission asked for.
    SendToPeer {
        /// The relayed address.
        relayed: SocketAddr,
        /// The peer.
        peer: SocketAddr,
        /// The data.
        data: &'a [u8],
    },
    /// A check will be sent from a relayed address: is the peer permitted? The answer is
    /// [`Output::PermissionGranted`] or [`Output::PermissionDenied`], at once if there is a permission already.
    NeedPermission {
        /// The relayed address.
        relayed: SocketAddr,
        /// The peer.
        peer: IpAddr,
    },
    /// Bind a channel: the pair was selected.
    BindChannel {
        /// The relayed address.
        relayed: SocketAddr,
        /// The peer.
        peer: SocketAddr,
    },
    /// The path is doubtful: ask every server whether its allocation is still there. One that is not is lost, and made
    /// again.
    VerifyAllocations,
    /// The system refused a datagram of [`Output::Transmit`], or an ICMP error came back for one. Three in a row end
    /// a transaction before its schedule does.
    SendFailed {
        /// The socket's address.
        local: SocketAddr,
        /// The server's address.
        remote: SocketAddr,
        /// errno.
        errno: i32,
    },
    /// Give every allocation back. Nothing new is started; [`Output::Closed`] comes within a second.
    Close,
    /// The time of [`Output::Timeout`] has come.
    Timeout,
}

/// What a gatherer wants done or known.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send.
    Transmit(Transmit),
    /// Connect to a server, and do the TLS handshake if `tls` names it.
    ConnectStream {
        /// Names the connection from now on.
        id: StreamId,
        /// The local address to bind to, any port.
        local: IpAddr,
        /// The server.
        remote: SocketAddr,
        /// The name or IP address that the server's certificate must have.
        tls: Option<String>,
    },
    /// Close a connection, or stop connecting.
    CloseStream {
        /// Which.
        id: StreamId,
    },
    /// Look a server's name up; answer with [`Input::Resolved`] or [`Input::Unresolved`].
    Resolve {
        /// The name.
        name: String,
    },
    /// A candidate; its [`EventKind::LocalCandidate`] came before it.
    Candidate(LocalCandidate),
    /// A fact for the recording.
    Event(EventKind),
    /// Data that a peer sent to a relayed address.
    RelayedData {
        /// The relayed address.
        relayed: SocketAddr,
        /// The peer.
        peer: SocketAddr,
        /// The data.
        data: Vec<u8>,
    },
    /// Data to and from the peer may pass.
    PermissionGranted {
        /// The relayed address.
        relayed: SocketAddr,
        /// The peer.
        peer: IpAddr,
    },
    /// The server gives no permission, or one could not be renewed.
    PermissionDenied {
        /// The relayed address.
        relayed: SocketAddr,
        /// The peer.
        peer: IpAddr,
        /// The error code, if the server answered.
        code: Option<u16>,
    },
    /// An allocation is gone: every pair with this base fails. It is asked for again; what comes is a new candidate.
    AllocationLost {
        /// The relayed address.
        relayed: SocketAddr,
        /// Why.
        detail: String,
    },
    /// A server answered.
    RoundTrip {
        /// The server's URL.
        server: String,
        /// Time from the first transmission to the answer.
        rtt: Duration,
        /// Whether it was sent once only: else `rtt` is an upper bound.
        exact: bool,
    },
    /// Everything named before [`Input::Complete`] is settled. Its event came before it.
    EndOfCandidates,
    /// [`Input::Close`] is done: no allocation is left.
    Closed,
    /// Nothing more for now: call again with [`Input::Timeout`] at this time, at most an hour ahead.
    Timeout(Timestamp),
}

/// Something to send from a real socket: to a server or, when a peer wants it, to the other peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// UDP, TCP or TLS.
    pub transport: Transport,
    /// For TCP and TLS: on which connection.
    pub stream: Option<StreamId>,
    /// The socket's address.
    pub local: SocketAddr,
    /// Where to.
    pub remote: SocketAddr,
    /// One whole message without stream framing; ChannelData is padded where a stream wants it.
    pub bytes: Vec<u8>,
}

/// A local candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalCandidate {
    /// The candidate, as it is signaled.
    pub candidate: Candidate,
    /// Its base (RFC 8445 §5.1.1): the socket, or of a relayed candidate the relayed address itself.
    pub base: SocketAddr,
    /// The interface that has the base, or over which the server is reached.
    pub interface: Option<String>,
    /// The URL of the server that it was learned from.
    pub server: Option<String>,
}
