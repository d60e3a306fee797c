//! What a peer is told and what it wants done.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use crate::engine::gather::Transmit;
use crate::engine::gather::{LocalSocket, Server, StreamId};
use crate::ice::candidate::Candidate;
use crate::ice::{Credentials, SelectedPair};
use crate::time::Timestamp;
use crate::trace::event::{EventKind, IceState, Side};
use crate::wire::framing::Framing;

/// What a peer is told.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// A socket is open.
    Socket(LocalSocket),
    /// A STUN or TURN server became known.
    Server(Server),
    /// All sockets and servers have been named.
    AllNamed,
    /// [`Output::Resolve`] ended, with the addresses or with what the resolver said.
    Resolved {
        /// The name.
        name: &'a str,
        /// What came of it.
        result: Result<&'a [IpAddr], &'a str>,
    },
    /// A datagram arrived on a UDP socket.
    Datagram {
        /// The socket's address.
        local: SocketAddr,
        /// Its source.
        remote: SocketAddr,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// [`Output::Connect`] succeeded, TLS included.
    Connected {
        /// Which.
        id: StreamId,
        /// Our end.
        local: SocketAddr,
    },
    /// A peer connected to one of our TCP sockets.
    Accepted {
        /// The connection's id from now on, chosen by the caller from 2⁶³ on.
        id: StreamId,
        /// The listening address.
        local: SocketAddr,
        /// The peer.
        remote: SocketAddr,
    },
    /// A whole message arrived on a connection, without framing.
    Message {
        /// Which.
        id: StreamId,
        /// The message.
        bytes: &'a [u8],
    },
    /// A connection could not be made, or ended.
    Disconnected {
        /// Which.
        id: StreamId,
        /// What the system or TLS said.
        detail: &'a str,
    },
    /// The system refused a datagram of [`Output::Transmit`].
    SendFailed {
        /// The socket's address.
        local: SocketAddr,
        /// Where to.
        remote: SocketAddr,
        /// errno.
        errno: i32,
    },
    /// The peer's credentials, from its description.
    RemoteCredentials(Credentials),
    /// A candidate of the peer.
    RemoteCandidate(Candidate),
    /// The peer has no more candidates.
    RemoteEndOfCandidates,
    /// A round trip that was measured elsewhere, like over signaling.
    RoundTripHint(Duration),
    /// Data for the peer, over the selected pair or, before one is selected, over the best valid one.
    Data(&'a [u8]),
    /// ICE restarts with these local credentials.
    Restart {
        /// Ours.
        credentials: Credentials,
        /// Who asked for it.
        side: Side,
    },
    /// A socket of ours is reached from outside at an address that no server told: a router maps it.
    External {
        /// The socket.
        base: SocketAddr,
        /// The address.
        external: SocketAddr,
    },
    /// The session's time limit is over.
    TimeLimit,
    /// The time of [`Output::Timeout`] has come.
    Timeout,
    /// The session ends: allocations are given back, then [`Output::Closed`] comes.
    Close,
}

/// What a peer wants done or known.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send.
    Transmit(Transmit),
    /// Open a connection.
    Connect {
        /// Its name from now on.
        id: StreamId,
        /// The local address, port 0 for any.
        local: SocketAddr,
        /// Where to.
        remote: SocketAddr,
        /// TLS with this server name.
        tls: Option<String>,
        /// How its messages are framed.
        framing: Framing,
    },
    /// Close a connection, or stop connecting.
    Disconnect {
        /// Which.
        id: StreamId,
    },
    /// Look a name up: a server's, or a peer's `.local` name by multicast DNS.
    Resolve {
        /// The name.
        name: String,
        /// Whether by multicast DNS.
        multicast: bool,
    },
    /// Signal this candidate.
    LocalCandidate(Candidate),
    /// Signal that there are no more.
    LocalEndOfCandidates,
    /// DTLS from the peer.
    Data(Vec<u8>),
    /// Data goes over this pair from now on.
    Selected(SelectedPair),
    /// The agent's state changed.
    StateChanged(IceState),
    /// Record this.
    Event(EventKind),
    /// [`Input::Close`] is done.
    Closed,
    /// Nothing more until this time.
    Timeout(Timestamp),
}
