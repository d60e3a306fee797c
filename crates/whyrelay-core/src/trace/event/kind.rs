//! The list of kinds: everything that can be seen, by layer.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{
    Datagram, Direction, DtlsState, EndReason, IceState, IceStateReason, InterfaceUse, NominateReason, Pair,
    PairCounts, PairState, PruneReason, RefuseReason, Role, RoleReason, ServerFailure, SessionOptions, Side,
    SignalingState, StateReason, Transport,
};
use crate::host::{HostFact, Moment};
use crate::ice::candidate::Candidate;
use crate::trace::measurement::Measurement;

/// Everything that can be seen. A change to this list is a change of [`super::EVENT_VERSION`] and of docs/events.md.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum EventKind {
    // ---- the session -----------------------------------------------------------------------------------------
    /// The first event of every recording.
    RecordingStarted {
        /// [`super::EVENT_VERSION`] of the writer.
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
    /// A description or other message of the peer cannot be used; or the signaling server does not take one of ours.
    SignalRefused {
        /// Its type.
        message: String,
        /// Why.
        detail: String,
        /// Whether it is ours, and the signaling server does not take it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        ours: bool,
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
    /// A probe or what it was answered with, beside the session: what came of it is a fact of the host. Its parts are those
    /// of `datagram`.
    ProbeDatagram(Datagram),
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

    // ---- the host --------------------------------------------------------------------------------------------
    /// Something that this host's kernel knows or did that can touch the session's packets.
    HostFact {
        /// When it was taken.
        moment: Moment,
        /// The fact.
        fact: Box<HostFact>,
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
        /// The server that it was learned from, without credentials; [`super::BY_PORT_MAPPING`] where it was none.
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
        /// Our socket's address, once there is one. In a check of the network also where no connection came about: with
        /// port 0, it is the address that it was to leave from.
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
    /// What an agent that shows no packets says of a pair: a browser's statistics (RTCIceCandidatePairStats of the
    /// W3C's webrtc-stats). The last one of a pair holds. A number that is missing was not told.
    PairCounted {
        /// The pair. An address that the browser hides is the unspecified one, with the port.
        pair: Pair,
        /// What was counted.
        counts: PairCounts,
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
    /// One of the first pings over the channel, or the answer to it: both sides record them, so that their clocks can
    /// be compared.
    ChannelPing {
        /// Direction as seen from here.
        direction: Direction,
        /// Whether it is the answer.
        answer: bool,
        /// Its number, counted by who asks.
        id: u32,
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

    // ---- measurements of one host ----------------------------------------------------------------------------
    /// This is the recording of one host that looks at its own network (`whyrelay check`), not of a session.
    CheckStarted {
        /// What changes something or takes long, and was asked for: `hairpin`, `lifetime`, `map`.
        consents: Vec<String>,
    },
    /// Something was measured.
    Measured(Measurement),
    /// Something could not be measured.
    NotMeasured {
        /// What.
        what: String,
        /// Why: what it would take.
        why: String,
    },
}
