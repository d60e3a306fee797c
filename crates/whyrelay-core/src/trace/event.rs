//! The events: a closed, versioned list of facts.
//!
//! An [`Event`] says what was seen, by whom, when. It never advises. ICE passwords, TURN passwords and keys have no
//! place in any variant; the values of integrity attributes are blanked in [`Datagram::data`], and whether they were
//! right stands beside it.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::ice::candidate::{Candidate, CandidateTransport};
use crate::time::Timestamp;
use crate::wire::integrity::Integrity;

/// The version of the event list. A reader refuses a recording of a newer one by name.
pub const EVENT_VERSION: u32 = 1;

/// One fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Unique across both sides of a session: the offerer counts 0, 2, 4 …, the answerer 1, 3, 5 …
    pub seq: u64,
    /// When, on the clock of the vantage, in microseconds since the Unix epoch.
    pub at: Timestamp,
    /// Who saw it.
    pub vantage: Vantage,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Which side saw an event. A is the offerer, B the answerer, in every format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vantage {
    /// The offerer.
    A,
    /// The answerer.
    B,
}

impl Vantage {
    /// The other side.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The letter, as it is written for a reader.
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }

    /// The sequence number of this side's first event.
    pub const fn first_seq(self) -> u64 {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }
}

/// The transport of a socket as the operating system knows it, with TLS told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// TLS over TCP: [`Datagram::data`] is what stood inside.
    Tls,
}

impl Transport {
    /// The usual spelling.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }
}

/// Inbound or outbound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Sent by this side.
    Out,
    /// Received by this side.
    In,
}

/// Whose description, candidate or role an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The side that saw the event.
    Local,
    /// Its peer.
    Remote,
}

/// The role of an ICE agent (RFC 8445 §6.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Nominates.
    Controlling,
    /// Follows.
    Controlled,
}

/// The state of a candidate pair (RFC 8445 §6.1.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairState {
    /// Waits for another pair of its foundation.
    Frozen,
    /// Its check has not been sent.
    Waiting,
    /// Its check is under way.
    InProgress,
    /// A check was answered.
    Succeeded,
    /// A check failed.
    Failed,
}

/// The state of the whole agent, in the words of the W3C's RTCIceConnectionState.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IceState {
    /// No remote candidate yet.
    New,
    /// Checks are under way, no pair is usable.
    Checking,
    /// A pair is usable; checks may go on.
    Connected,
    /// A pair is nominated and selected, nothing better is being tried.
    Completed,
    /// Consent is doubtful: no answer for some seconds.
    Disconnected,
    /// Nothing is left to try, or consent is lost.
    Failed,
    /// Closed by this side.
    Closed,
}

/// A candidate pair as the wire shows it: where this side sends from and where to.
///
/// `local` is the base of the local candidate (RFC 8445 §6.1.2.4): the socket's own address, or the relayed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pair {
    /// The local candidate's transport.
    pub transport: CandidateTransport,
    /// The local candidate's base.
    pub local: SocketAddr,
    /// The remote candidate's address.
    pub remote: SocketAddr,
}

/// Something passed the door.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Datagram {
    /// In or out.
    pub direction: Direction,
    /// The socket's transport.
    pub transport: Transport,
    /// Our socket's address; of inbound UDP the destination address of the datagram itself.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The interface it came in by, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Its length in bytes, before anything was cut or blanked.
    pub length: u32,
    /// Its bytes, base64 in JSON: STUN whole with integrity values blanked, anything else cut to its head.
    #[serde(with = "base64_bytes")]
    pub data: Vec<u8>,
    /// Whether the message integrity was right, where there was a key to check it with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integrity: Option<Integrity>,
}

/// Why an interface's addresses were or were not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InterfaceUse {
    /// Candidates are gathered from it.
    Used,
    /// It is not up.
    Down,
    /// It is the loopback interface and the session does not ask for it.
    Loopback,
    /// `--interface` names others.
    NotIncluded,
    /// `--exclude-interface` names it.
    Excluded,
    /// It has no usable address.
    NoAddress,
}

/// Why a pair was removed from the checklist or never entered it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum PruneReason {
    /// Same base and same remote as a pair of higher priority (RFC 8445 §6.1.2.4).
    Redundant {
        /// The pair that stays. Often it is the same pair: then a local candidate with the same base was to be paired.
        kept: Pair,
        /// The local candidate whose pair this would have been.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        candidate: Option<SocketAddr>,
    },
    /// The local candidate is TCP passive: it waits for the peer's connection (RFC 6544 §6.2).
    WaitsForConnection,
    /// The TCP connection is there: the pair goes on under the connection's own local address.
    Connected {
        /// The pair from now on.
        pair: Pair,
    },
    /// The checklist is full (RFC 8445 §6.1.2.5).
    ChecklistFull {
        /// The bound, in pairs.
        limit: u32,
    },
    /// A pair was nominated, the others are of no more use (RFC 8445 §8.1.2).
    Nominated,
    /// The generation ended: ICE restarted (RFC 8445 §9).
    Restarted,
}

/// Why a candidate was not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum RefuseReason {
    /// The line cannot be read.
    Malformed {
        /// What is wrong with it.
        detail: String,
    },
    /// Same base and address as one of higher priority (RFC 8445 §5.1.3).
    Redundant,
    /// The session is relay-only.
    RelayOnly,
    /// No local candidate has its address family or transport.
    NoCounterpart,
    /// More candidates than are accepted.
    TooMany {
        /// The bound.
        limit: u32,
    },
    /// Its name could not be resolved.
    Unresolved {
        /// What the resolver said.
        detail: String,
    },
    /// It belongs to another generation: its ufrag is not the current one.
    OtherGeneration,
    /// Unspecified, multicast, or port zero.
    Unusable,
}

/// Why a pair failed. Its tag is not `why`, because it stands inside [`StateReason`], whose tag that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "failure")]
pub enum FailReason {
    /// Every transmission of its check stayed unanswered.
    Timeout {
        /// How many were sent.
        transmissions: u32,
    },
    /// The peer answered with an error other than 487.
    ErrorResponse {
        /// The code.
        code: u16,
        /// Its reason phrase.
        reason: String,
    },
    /// The answer came from or to another address than the check had (RFC 8445 §7.2.5.2.1).
    NotSymmetric {
        /// Where the answer came from.
        from: SocketAddr,
        /// Where it arrived.
        to: SocketAddr,
    },
    /// The system refused to send, each time.
    SendFailed {
        /// errno.
        errno: i32,
    },
    /// The TURN server gave no permission for the peer.
    NoPermission {
        /// The error code, if it answered.
        code: Option<u16>,
    },
    /// The allocation of the pair's local candidate is gone.
    AllocationLost,
    /// The TCP connection could not be made or broke.
    ConnectionFailed {
        /// What the system said.
        detail: String,
    },
    /// Consent expired on it (RFC 7675 §5.1).
    ConsentExpired,
}

/// Why a pair changed state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum StateReason {
    /// Entered the checklist.
    Formed,
    /// First of its foundation (RFC 8445 §6.1.2.6), or one of its foundation succeeded (§7.2.5.3.3).
    Unfrozen,
    /// Its check was sent, in its turn.
    CheckSent,
    /// A check arrived on it (RFC 8445 §7.3.1.4).
    Triggered,
    /// Its check was answered.
    Answered {
        /// Round trip, in microseconds.
        rtt_us: u64,
    },
    /// A valid pair produced by another pair's check (RFC 8445 §7.2.5.3.2).
    Discovered {
        /// The pair whose check it was.
        by: Pair,
    },
    /// 487: the roles were in conflict, it will be checked again (RFC 8445 §7.2.5.1).
    RoleConflict,
    /// It failed.
    Failed(FailReason),
}

/// Why a pair was nominated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NominateReason {
    /// We are controlling; it is the best possible: no pair of higher priority is still open.
    BestPossible,
    /// We are controlling; the time to wait for a better pair is over.
    BestSoFar,
    /// We are controlling; the earlier selected pair failed or a better one turned up.
    Replacement,
    /// The peer is controlling and nominated it.
    ByPeer,
    /// The peer is controlling and nominated it before our own check succeeded (RFC 8445 §7.3.1.5).
    ByPeerAheadOfCheck,
}

/// Why the agent's role changed or was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoleReason {
    /// The peer's request claims our role and the tie-breakers give it to the peer: we switch (RFC 8445 §7.3.1.1).
    LostTieBreak,
    /// The peer's request claims our role and the tie-breakers leave it to us: the peer was told 487.
    WonTieBreak,
    /// The peer answered 487: we switch (RFC 8445 §7.2.5.1).
    ToldByPeer,
}

/// Why the agent's state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IceStateReason {
    /// The first pair was formed.
    FirstPair,
    /// A pair succeeded.
    PairSucceeded,
    /// A pair was selected.
    PairSelected,
    /// Nothing better than the selected pair is being tried any more.
    NothingBetter,
    /// A check of the peer arrived after everything had failed.
    PeerChecked,
    /// Another candidate came after everything had failed.
    NewPair,
    /// Every pair failed and both sides said end-of-candidates.
    NothingLeft,
    /// There is no pair and both sides said end-of-candidates.
    NoPairs,
    /// The session's own time limit is over.
    TimeLimit,
    /// No consent response for some seconds.
    ConsentSilent,
    /// Consent responses are back.
    ConsentBack,
    /// Consent expired (RFC 7675 §5.1).
    ConsentExpired,
    /// ICE restarted (RFC 8445 §9).
    Restarted,
    /// Closed by this side.
    Closed,
}

/// What a session was asked to do, as far as it matters for reading its recording.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOptions {
    /// Relayed candidates only.
    #[serde(default)]
    pub relay_only: bool,
    /// No TURN.
    #[serde(default)]
    pub no_turn: bool,
    /// Interfaces asked for.
    #[serde(default)]
    pub interfaces: Vec<String>,
    /// Interfaces excluded.
    #[serde(default)]
    pub excluded_interfaces: Vec<String>,
    /// The local port asked for.
    #[serde(default)]
    pub port: Option<u16>,
    /// The firewall mark asked for.
    #[serde(default)]
    pub mark: Option<u32>,
    /// RFC 8445's own retransmission schedule instead of the shorter one.
    #[serde(default)]
    pub patient: bool,
    /// Addresses and names are pseudonyms.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redacted: bool,
}

/// Everything that can be seen. A change to this list is a change of [`EVENT_VERSION`] and of docs/events.md.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum EventKind {
    // ---- the session -----------------------------------------------------------------------------------------
    /// The first event of every recording.
    RecordingStarted {
        /// [`EVENT_VERSION`] of the writer.
        version: u32,
        /// The writing program and its version, like `whyrelay 0.1.0`.
        program: String,
        /// The peer's id in signaling.
        id: String,
        /// What was asked for.
        options: SessionOptions,
    },
    /// What the peer says it is, over signaling. Absent for a peer that is not whyrelay.
    PeerIdentified {
        /// Its program and version.
        program: String,
        /// Whether it will send its recording.
        sends_recording: bool,
    },
    /// The last event of a recording that was not cut off.
    RecordingEnded {
        /// Why.
        reason: EndReason,
    },
    /// Whether the peer's recording came.
    PeerRecording {
        /// `None`: it came whole. Otherwise why it is missing or incomplete.
        #[serde(default)]
        missing: Option<String>,
    },
    /// The writer could not keep up or hit its bound: this many events were dropped here.
    EventsDropped {
        /// How many.
        count: u64,
    },

    // ---- signaling -------------------------------------------------------------------------------------------
    /// The connection to the signaling server.
    Signaling {
        /// The server, without user, password, query.
        server: String,
        /// What happened.
        state: SignalingState,
    },
    /// A message went out or came in; its content enters only through the events below.
    SignalMessage {
        /// In or out.
        direction: Direction,
        /// Its type on the wire, like `offer`.
        message: String,
        /// Length of its content, in bytes.
        length: u32,
    },
    /// A session description took effect.
    Description {
        /// Whose.
        side: Side,
        /// `offer` or `answer`.
        description: String,
        /// Its ICE user name fragment; the password never enters.
        ufrag: String,
        /// DTLS role: `active`, `passive` or `actpass`.
        setup: String,
        /// The certificate fingerprint.
        fingerprint: String,
        /// `a=ice-options`, like `trickle`.
        #[serde(default)]
        ice_options: Vec<String>,
        /// The generation: 0, and one more with each restart.
        generation: u32,
    },
    /// A description or other message of the peer cannot be used.
    SignalRefused {
        /// Its type.
        message: String,
        /// Why.
        detail: String,
    },
    /// A STUN or TURN server that this session uses.
    ServerKnown {
        /// Its URL, without credentials.
        url: String,
        /// Whether the user named it or the signaling server announced it.
        announced: bool,
    },

    // ---- sockets ---------------------------------------------------------------------------------------------
    /// An interface of this host.
    Interface {
        /// Its name.
        name: String,
        /// Its index.
        index: u32,
        /// Its addresses.
        addresses: Vec<IpAddr>,
        /// Whether it is used, else why not.
        used: InterfaceUse,
    },
    /// A socket was opened.
    SocketOpened {
        /// Its transport.
        transport: Transport,
        /// Its address.
        local: SocketAddr,
        /// The interface that has the address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interface: Option<String>,
        /// Its firewall mark, if one was set.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mark: Option<u32>,
        /// Its receive buffer as granted, in bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        receive_buffer: Option<u32>,
    },
    /// A socket could not be opened.
    SocketFailed {
        /// Its transport.
        transport: Transport,
        /// The address asked for.
        local: SocketAddr,
        /// errno, or 0.
        errno: i32,
        /// What the system said.
        detail: String,
    },
    /// A socket was closed, by us or by the other end.
    SocketClosed {
        /// Its transport.
        transport: Transport,
        /// Its address.
        local: SocketAddr,
        /// Why.
        detail: String,
    },
    /// Something passed the door.
    Datagram(Datagram),
    /// Data of the established channel, counted instead of recorded one by one.
    Traffic {
        /// In or out.
        direction: Direction,
        /// The socket's transport.
        transport: Transport,
        /// Our socket's address.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
        /// Datagrams since the last such event.
        datagrams: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// The system refused to send.
    SendFailed {
        /// The socket's transport.
        transport: Transport,
        /// Our socket's address.
        local: SocketAddr,
        /// Where to.
        remote: SocketAddr,
        /// errno.
        errno: i32,
        /// Its name and meaning.
        detail: String,
    },
    /// An ICMP error came back for a datagram of ours.
    IcmpError {
        /// Our socket's address.
        local: SocketAddr,
        /// Where the datagram was going.
        remote: SocketAddr,
        /// Who sent the error, where the system tells.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offender: Option<IpAddr>,
        /// ICMP type.
        icmp_type: u8,
        /// ICMP code.
        icmp_code: u8,
        /// errno that the system made of it.
        errno: i32,
    },

    // ---- gathering -------------------------------------------------------------------------------------------
    /// A local candidate.
    LocalCandidate {
        /// The candidate, as signaled.
        candidate: Candidate,
        /// Its base.
        base: SocketAddr,
        /// The interface that has the base.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interface: Option<String>,
        /// The server that it was learned from, without credentials.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<String>,
    },
    /// A local candidate that was not kept.
    LocalCandidateDiscarded {
        /// The candidate.
        candidate: Candidate,
        /// Why.
        reason: RefuseReason,
    },
    /// A remote candidate, as signaled or discovered.
    RemoteCandidate {
        /// The candidate.
        candidate: Candidate,
        /// For a name: what it resolved to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resolved: Option<SocketAddr>,
    },
    /// A remote candidate that is not used.
    RemoteCandidateRefused {
        /// The line as it came, cut to 1024 bytes.
        line: String,
        /// Why.
        reason: RefuseReason,
    },
    /// One side has no more candidates to come.
    EndOfCandidates {
        /// Whose.
        side: Side,
    },
    /// A STUN or TURN server's name was looked up.
    NameResolved {
        /// The name.
        name: String,
        /// What it resolved to; empty when it failed.
        addresses: Vec<IpAddr>,
        /// How long it took, in microseconds.
        took_us: u64,
        /// What the resolver said when it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// A STUN transaction outside of ICE checks ended without an answer or with an error.
    ServerFailed {
        /// The server, without credentials.
        server: String,
        /// Our socket's address, once there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        local: Option<SocketAddr>,
        /// The STUN method, like `Binding` or `Allocate`.
        method: String,
        /// What went wrong.
        failure: ServerFailure,
    },
    /// A TURN allocation exists.
    Allocated {
        /// The server, without credentials.
        server: String,
        /// Our socket's address.
        local: SocketAddr,
        /// XOR-RELAYED-ADDRESS.
        relayed: SocketAddr,
        /// XOR-MAPPED-ADDRESS.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mapped: Option<SocketAddr>,
        /// LIFETIME, in seconds.
        lifetime_s: u32,
    },
    /// A TURN permission was asked for and given (RFC 8656 §9).
    PermissionCreated {
        /// The allocation's relayed address.
        relayed: SocketAddr,
        /// The peer's address.
        peer: IpAddr,
    },
    /// A TURN channel was bound (RFC 8656 §12).
    ChannelBound {
        /// The allocation's relayed address.
        relayed: SocketAddr,
        /// The peer.
        peer: SocketAddr,
        /// The channel number.
        channel: u16,
    },
    /// A TURN allocation ended.
    Deallocated {
        /// Its relayed address.
        relayed: SocketAddr,
        /// Why.
        detail: String,
    },

    // ---- ICE: each decision with its reason ------------------------------------------------------------------
    /// The agent started, with its role.
    IceStarted {
        /// The role.
        role: Role,
        /// Pacing between new checks (Ta, RFC 8445 §14.2), in milliseconds.
        pacing_ms: u32,
    },
    /// A pair entered the checklist.
    PairFormed {
        /// The pair.
        pair: Pair,
        /// Its priority (RFC 8445 §6.1.2.3).
        priority: u64,
        /// Its foundation: local and remote, joined by a colon.
        foundation: String,
        /// Its first state.
        state: PairState,
    },
    /// A pair left the checklist or did not enter it.
    PairPruned {
        /// The pair.
        pair: Pair,
        /// Why.
        reason: PruneReason,
    },
    /// A pair changed state.
    PairStateChanged {
        /// The pair.
        pair: Pair,
        /// Before.
        from: PairState,
        /// After.
        to: PairState,
        /// Why.
        reason: StateReason,
    },
    /// An inbound check was refused.
    CheckRefused {
        /// Where it arrived.
        local: SocketAddr,
        /// Where it came from.
        remote: SocketAddr,
        /// The error code that was sent back; `None`: it was dropped.
        code: Option<u16>,
        /// Why.
        detail: String,
    },
    /// A pair was nominated.
    PairNominated {
        /// The pair.
        pair: Pair,
        /// Why.
        reason: NominateReason,
    },
    /// A pair is used for data from now on.
    PairSelected {
        /// The pair.
        pair: Pair,
        /// The pair used before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaces: Option<Pair>,
    },
    /// The roles were in conflict.
    RoleConflict {
        /// The role from now on.
        role: Role,
        /// Why.
        reason: RoleReason,
    },
    /// The agent's state changed.
    IceStateChanged {
        /// Before.
        from: IceState,
        /// After.
        to: IceState,
        /// Why.
        reason: IceStateReason,
    },
    /// ICE restarted (RFC 8445 §9).
    IceRestarted {
        /// The new generation.
        generation: u32,
        /// Who asked for it.
        side: Side,
    },

    // ---- DTLS, SCTP, the data channel ------------------------------------------------------------------------
    /// The DTLS handshake got somewhere.
    Dtls {
        /// What happened.
        state: DtlsState,
    },
    /// A data channel opened.
    ChannelOpened {
        /// Its label.
        label: String,
    },
    /// A data channel or its SCTP association ended.
    ChannelClosed {
        /// Why.
        detail: String,
    },
    /// Round trips of messages over the channel.
    RoundTrips {
        /// How many were measured.
        count: u32,
        /// How many went unanswered.
        lost: u32,
        /// Median, in microseconds.
        median_us: u64,
        /// 99th percentile, in microseconds.
        p99_us: u64,
    },
    /// Throughput over the channel.
    Throughput {
        /// Direction as seen from here.
        direction: Direction,
        /// Bytes of messages received by the receiving side.
        bytes: u64,
        /// Over how long, in microseconds.
        took_us: u64,
    },
}

/// Why a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// The session did what it was asked to.
    Finished,
    /// No path was found.
    Failed,
    /// The peer left.
    PeerLeft,
    /// Ctrl-C or a termination signal.
    Interrupted,
    /// The time limit.
    TimeLimit,
    /// whyrelay itself could not go on.
    Error,
}

/// What the signaling connection does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum SignalingState {
    /// Connected, by `websocket` or `long-poll`.
    Connected {
        /// How.
        by: String,
    },
    /// The connection broke; it will be tried again.
    Lost {
        /// What happened.
        detail: String,
    },
    /// The peer is there.
    PeerPresent,
    /// The peer left.
    PeerLeft,
    /// Given up, or refused.
    Failed {
        /// What happened.
        detail: String,
    },
}

/// What went wrong with a request to a STUN or TURN server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum ServerFailure {
    /// No answer to any transmission.
    Timeout {
        /// How many were sent.
        transmissions: u32,
        /// Over how long, in microseconds.
        took_us: u64,
    },
    /// An error response: 300, 400, 401, 403, 420, 437, 438, 440, 442, 443, 486, 508 …
    ErrorResponse {
        /// The code.
        code: u16,
        /// The reason phrase.
        reason: String,
        /// True for what belongs to the protocol: the first 401, a 438 that is retried, a 300 that is followed.
        expected: bool,
    },
    /// The connection to the server could not be made or broke.
    ConnectionFailed {
        /// What the system or TLS said.
        detail: String,
    },
    /// The answer makes no sense.
    BadResponse {
        /// What is wrong with it.
        detail: String,
    },
    /// There is no user name or password for it.
    NoCredentials,
    /// Its name was not resolved.
    Unresolved {
        /// What the resolver said.
        detail: String,
    },
    /// The system refused to send to it each time, or an ICMP error came back each time.
    SendFailed {
        /// The last errno.
        errno: i32,
    },
    /// No socket of ours has its address family and scope.
    NoLocalAddress,
}

/// Steps of the DTLS handshake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum DtlsState {
    /// Started.
    Started {
        /// Whether this side is the DTLS client.
        client: bool,
    },
    /// The peer's certificate matches the fingerprint of its description.
    FingerprintVerified,
    /// The peer's certificate does not match.
    FingerprintMismatch {
        /// What its certificate has.
        found: String,
    },
    /// Connected.
    Connected {
        /// The version, like `DTLS 1.2`.
        version: String,
    },
    /// Failed or timed out.
    Failed {
        /// What happened.
        detail: String,
    },
    /// Closed by an alert.
    Closed,
}

/// Bytes as base64 in JSON.
mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD_NO_PAD.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}
