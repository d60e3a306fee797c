//! What goes into an agent and what comes out.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::ice::candidate::{Candidate, CandidateTransport};
use crate::time::Timestamp;
use crate::trace::event::{EventKind, IceState, Pair, PairState, Side};

use super::config::Credentials;

/// A local candidate with what is not signaled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalCandidate {
    /// The candidate, as signaled. Its address must be an IP address.
    pub candidate: Candidate,
    /// The base (RFC 8445 §5.1.1): the socket's own address; of a relayed candidate the relayed address; of a TCP
    /// active candidate the interface's address with any port.
    pub base: SocketAddr,
    /// The index of the interface that has the base, or 0. It becomes the scope of link-local destinations.
    pub interface_index: u32,
}

impl LocalCandidate {
    /// A candidate on no particular interface.
    pub const fn new(candidate: Candidate, base: SocketAddr) -> Self {
        Self { candidate, base, interface_index: 0 }
    }
}

/// What an agent is fed with.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// A candidate was gathered. The gatherer records [`EventKind::LocalCandidate`] itself, with the server; the
    /// agent records those that it discovers and those that it discards.
    LocalCandidate(LocalCandidate),
    /// Gathering is over.
    LocalEndOfCandidates,
    /// The peer's credentials of this generation. They may come after candidates and after checks. Different ones
    /// in the same generation are refused: a peer that restarts needs [`Input::Restart`] first.
    RemoteCredentials(Credentials),
    /// The peer signaled a candidate; the agent records [`EventKind::RemoteCandidate`] or why it refuses it. A
    /// candidate with a name and `resolved: None` is pending, which keeps the agent from failing: it must come again
    /// with its address, or as [`Input::RemoteCandidateUnresolved`].
    RemoteCandidate {
        /// The candidate.
        candidate: Candidate,
        /// For a name: its address.
        resolved: Option<SocketAddr>,
    },
    /// The name of a pending candidate has no address.
    RemoteCandidateUnresolved {
        /// The candidate.
        candidate: Candidate,
        /// What the resolver said.
        detail: String,
    },
    /// The peer has no more candidates.
    RemoteEndOfCandidates,
    /// A STUN message of ICE arrived: the caller has told it from DTLS and from the answers of STUN and TURN servers.
    Datagram {
        /// The transport of the local candidate: an accepted connection's is [`CandidateTransport::TcpPassive`].
        transport: CandidateTransport,
        /// The base where it arrived: the socket's address, the relayed address, or the TCP connection's local end
        /// (for an accepted one the listening address).
        local: SocketAddr,
        /// Where it came from.
        remote: SocketAddr,
        /// The message, without stream framing.
        bytes: &'a [u8],
    },
    /// The system refused to send a [`Transmit`] of this pair.
    SendFailed {
        /// The pair: transport, local and remote of the transmit.
        pair: Pair,
        /// errno.
        errno: i32,
    },
    /// The TURN server gave the permission that [`Output::NeedPermission`] asked for.
    PermissionGranted {
        /// The relayed address.
        relayed: SocketAddr,
        /// The peer's address.
        peer: IpAddr,
    },
    /// It did not.
    PermissionDenied {
        /// The relayed address.
        relayed: SocketAddr,
        /// The peer's address.
        peer: IpAddr,
        /// The error code, if the server answered.
        code: Option<u16>,
    },
    /// An allocation is gone, and with it its candidate.
    AllocationLost {
        /// The relayed address.
        relayed: SocketAddr,
    },
    /// The connection that [`Output::ConnectTcp`] asked for is there.
    TcpConnected {
        /// The pair as it was asked for.
        pair: Pair,
        /// The connection's own local address; from now on it is the pair's.
        local: SocketAddr,
    },
    /// It could not be made.
    TcpFailed {
        /// The pair as it was asked for.
        pair: Pair,
        /// What the system said.
        detail: String,
    },
    /// An established TCP connection, opened or accepted, ended.
    TcpClosed {
        /// Its pair.
        pair: Pair,
        /// What the system said.
        detail: String,
    },
    /// A round trip that was measured: to a STUN or TURN server, over signaling to the peer and back. The longest
    /// counts, and it only ever makes the agent more patient.
    RoundTripHint(Duration),
    /// ICE restarts (RFC 8445 §9) with new local credentials. Remote credentials and all candidates of the new
    /// generation follow; the selected pair of the old one goes on carrying data until the new one selects.
    Restart {
        /// Our new credentials.
        credentials: Credentials,
        /// Who asked for the restart.
        side: Side,
    },
    /// The moment of [`Output::Timeout`] came.
    Timeout,
    /// The session's own time limit is over: an agent without a usable pair fails now.
    TimeLimit,
    /// The session ends.
    Close,
}

/// A datagram, or a message on a stream, to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The local candidate's transport. On TCP the bytes go over the connection between `local` and `remote`, framed
    /// as RFC 4571 says.
    pub transport: CandidateTransport,
    /// The base to send from: a socket's address or a relayed address.
    pub local: SocketAddr,
    /// Where to; a link-local address has its scope.
    pub remote: SocketAddr,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The pair that carries data from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedPair {
    /// The pair as the wire has it.
    pub pair: Pair,
    /// The local candidate: the one whose address the peer sees.
    pub local: Candidate,
    /// The remote candidate.
    pub remote: Candidate,
    /// The shortest round trip measured on it.
    pub rtt: Option<Duration>,
    /// The scope of a link-local remote address, or 0.
    pub scope: u32,
}

/// One pair of the checklist, for comparison with what the wire shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairSnapshot {
    /// The pair as the wire has it.
    pub pair: Pair,
    /// Its state.
    pub state: PairState,
    /// Whether it is nominated: its check with USE-CANDIDATE was answered (controlling), or the peer's arrived and our
    /// own check succeeded (controlled).
    pub nominated: bool,
    /// Its priority.
    pub priority: u64,
    /// Its foundation.
    pub foundation: String,
    /// The shortest round trip measured on it.
    pub rtt: Option<Duration>,
}

/// What an agent wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send this.
    Transmit(Transmit),
    /// Ask the TURN server for a permission; answer with [`Input::PermissionGranted`] or [`Input::PermissionDenied`].
    /// Asked once for each address and generation.
    NeedPermission {
        /// The relayed address of the allocation.
        relayed: SocketAddr,
        /// The peer's address.
        peer: IpAddr,
    },
    /// Open a TCP connection from the pair's local IP address, any port, to its remote address; answer with
    /// [`Input::TcpConnected`] or [`Input::TcpFailed`].
    ConnectTcp {
        /// The pair.
        pair: Pair,
        /// Its local address with port zero and, where it is link-local, the scope without which nothing can be bound to it.
        local: SocketAddr,
        /// Its remote address, likewise with its scope.
        remote: SocketAddr,
    },
    /// Data goes over this pair from now on. Before the first of these, [`super::Agent::send_pair`] names the pair that may
    /// be used already.
    SelectedPair(SelectedPair),
    /// The agent's state changed. The same is in the events.
    StateChanged(IceState),
    /// Record this.
    Event(EventKind),
    /// Nothing more for now. Come back at this moment with [`Input::Timeout`]; `u64::MAX` microseconds: never.
    Timeout(Timestamp),
}
