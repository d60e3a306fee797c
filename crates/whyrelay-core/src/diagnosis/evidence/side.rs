//! What one side saw.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::check::Check;
use super::host::HostEvidence;
use super::known::Known;
use super::measured::Measured;
use super::seen::{
    AgentPair, Damaged, Description, FailedServer, IcmpError, LocalCandidate, Outage, RemoteCandidate, RoundTrips,
    SendFailure, Traffic,
};
use super::server::{ServerPath, ServerRequest};
use super::sizes::Sizes;
use crate::host::Subject;
use crate::ice::candidate::{Candidate, CandidateTransport, CandidateType};
use crate::time::Timestamp;
use crate::trace::address::bare;
use crate::trace::event::{
    Direction, DtlsState, EndReason, IceState, IceStateReason, InterfaceUse, Pair, PairCounts, RefuseReason, Role,
    SessionOptions, Side, SignalingState, Transport,
};
use crate::trace::measurement::Measurement;
use crate::wire::stun::{Method, TransactionId};

/// Most transactions, pairs and sockets that are kept a side: 10,000 checks with room for a long session's consent.
pub(super) const MAX_TRANSACTIONS: usize = 200_000;

/// Most entries of any list a side.
pub(super) const MAX_LIST: usize = 10_000;

/// Most entries of lists that are looked through for each entry of another: candidates, servers, errors. An agent has
/// some hundred candidates at most.
pub(super) const MAX_COMPARED: usize = 2000;

/// Most addresses that servers told: each is compared with each.
pub(super) const MAX_TOLD: usize = 300;

/// A path that was silent for longer than this is broken: then ICE restarts.
const DOUBTFUL: Duration = Duration::from_secs(3);

/// How the reason begins for which a check did not measure what it had no time for.
pub const NO_TIME: &str = "there was no time for it";

/// A server that a check asked is called silent after this: by satellite an answer takes 600 ms, and requests get lost.
pub const LEAST_SILENCE: Duration = Duration::from_secs(1);

/// An answer of a server that came when nobody waited for it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LateAnswer {
    /// Our socket.
    pub local: SocketAddr,
    /// The server.
    pub server: SocketAddr,
    /// Since the first request, in microseconds.
    pub after_us: u64,
    /// Number of the answer's event.
    pub seq: u64,
}

/// Everything that one side saw, folded. Fields are facts in the order of their layers.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "a field is named after the event it is folded from; see trace::event")]
pub struct SideEvidence {
    pub events: u64,
    pub last_seq: Option<u64>,
    pub first_at: Timestamp,
    pub last_at: Timestamp,

    pub program: Option<String>,
    pub id: Option<String>,
    pub options: SessionOptions,
    pub peer_program: Option<(String, bool)>,
    pub ended: Option<(u64, EndReason)>,
    /// Whether the peer's recording came: event, and why it is missing.
    pub peer_recording: Option<(u64, Option<String>)>,
    pub dropped: u64,
    /// Things that did not fit into the bounds of this fold.
    pub overflow: u64,

    /// The last state of the signaling connection and everything that went wrong with it.
    pub signaling: Vec<(u64, String, SignalingState)>,
    /// The event that says that the peer left, and when, if it has not come back.
    pub peer_left: Option<(u64, Timestamp)>,
    /// The event with which the peer said that its user or system ended it.
    pub peer_interrupted: Option<u64>,
    pub messages: BTreeMap<(bool, String), u32>,
    pub descriptions: Vec<Description>,
    /// Messages of the peer that cannot be used.
    pub refused_messages: Vec<(u64, String, String)>,
    /// Messages of this side that signaling did not take.
    pub untaken_messages: Vec<(u64, String, String)>,
    pub servers_known: Vec<(u64, String, bool)>,

    pub interfaces: Vec<(u64, String, Vec<IpAddr>, InterfaceUse)>,
    pub sockets: BTreeMap<(Transport, SocketAddr), (u64, Option<String>)>,
    /// Sockets that could not be opened: event, transport, address, errno and what the system said.
    pub socket_failures: Vec<(u64, Transport, SocketAddr, i32, String)>,
    pub datagrams: u64,
    pub unsound: u64,
    /// Answers of servers over UDP whose fingerprint or integrity was wrong, by our socket and the server.
    pub damaged: BTreeMap<(SocketAddr, SocketAddr), Damaged>,
    pub forged_answers: u64,
    pub send_failures: BTreeMap<(SocketAddr, SocketAddr, i32), SendFailure>,
    /// By our socket, where the datagram was going, type and code.
    pub icmp_errors: BTreeMap<(SocketAddr, SocketAddr, u8, u8), IcmpError>,
    /// Datagrams over UDP that came to a socket of ours, by that and the other end.
    pub delivered: BTreeMap<(SocketAddr, SocketAddr), u64>,
    /// By our socket and the other end.
    pub sizes: BTreeMap<(SocketAddr, SocketAddr), Sizes>,
    pub traffic: BTreeMap<(Transport, SocketAddr, SocketAddr), Traffic>,

    /// What this side's host told of itself.
    pub host: HostEvidence,
    /// All addresses that the fields below and above tell of.
    pub known: Known,

    pub local_candidates: Vec<LocalCandidate>,
    pub remote_candidates: Vec<RemoteCandidate>,
    /// Where probes went, with the event of the first one there.
    pub probed: BTreeMap<SocketAddr, u64>,
    pub refused_candidates: Vec<(u64, String, RefuseReason)>,
    pub discarded_candidates: Vec<(u64, Candidate, RefuseReason)>,
    pub end_of_candidates: BTreeMap<Side, u64>,
    pub names: Vec<(u64, String, Vec<IpAddr>, Option<String>)>,
    pub server_failures: Vec<FailedServer>,
    pub servers: BTreeMap<(Transport, SocketAddr, SocketAddr), ServerPath>,
    /// Mapped addresses that are kept of all servers.
    pub(super) addresses_told: usize,
    pub requests: BTreeMap<TransactionId, ServerRequest>,
    /// Relayed addresses by the client's own word, with the server's name.
    pub allocated: BTreeMap<SocketAddr, (u64, String)>,

    pub generation: u32,
    /// Of each user name fragment of this side.
    pub(super) generations: BTreeMap<String, u32>,
    pub role: Option<Role>,
    pub role_conflicts: u32,
    pub sent: BTreeMap<TransactionId, Check>,
    pub received: BTreeMap<TransactionId, Check>,
    pub(super) last_sent: BTreeMap<(SocketAddr, SocketAddr), TransactionId>,
    pub pairs: BTreeMap<Pair, AgentPair>,
    /// TCP active pairs by the connection's own address: the pair as it was before it was connected, from the
    /// candidate's base.
    pub connections: BTreeMap<Pair, Pair>,
    /// Pairs of an agent that shows no packets, with the number of the last event about each.
    pub counts: BTreeMap<Pair, (u64, PairCounts)>,
    pub refused_checks: Vec<(u64, SocketAddr, SocketAddr, Option<u16>, String)>,
    pub nominated: Vec<(u64, Pair)>,
    pub selected: Vec<(u64, Pair)>,
    pub ice_states: Vec<(u64, IceState, IceStateReason)>,
    /// Times without a path after there had been one.
    pub outages: Vec<Outage>,
    /// When the agent closed: what comes then is still read, and not answered.
    pub closed_at: Option<Timestamp>,

    pub dtls: Vec<(u64, DtlsState)>,
    pub channel_opened: Option<(u64, Timestamp)>,
    pub channel_closed: Option<(u64, String)>,
    pub round_trips: Option<RoundTrips>,
    pub throughput: BTreeMap<Direction, (u64, u64)>,

    /// What it measured of its own network: NAT behavior, servers, the way out.
    pub measured: Measured,
}

impl SideEvidence {
    /// Whether ICE-TCP connections are accepted at an address.
    pub(super) fn is_listening(&self, local: SocketAddr) -> bool {
        let at = self.known.locals_of(local).iter().filter_map(|at| self.local_candidates.get(*at));
        at.into_iter().any(|local| local.candidate.transport == CandidateTransport::TcpPassive)
    }

    /// The generation of this side's description with a user name fragment.
    pub(super) fn generation_with(&self, ufrag: &str) -> Option<u32> {
        self.generations.get(ufrag).copied()
    }

    /// The agent's last state.
    pub fn ice_state(&self) -> Option<(u64, IceState, IceStateReason)> {
        self.ice_states.last().copied()
    }

    /// The pair used for data last.
    pub fn selected_pair(&self) -> Option<(u64, Pair)> {
        self.selected.last().copied()
    }

    /// The time without a path that has not ended: the path broke and did not come back. Checks of consent that are
    /// not answered for a while are a doubt: with heavy loss that happens on paths that work, and the next answer may
    /// be behind the end of a recording that was cut.
    pub fn outage(&self) -> Option<&Outage> {
        let is_doubt = |outage: &Outage| {
            let is_short = self.last_at.since(outage.at) < DOUBTFUL || self.ended.is_none();
            outage.reason == IceStateReason::ConsentSilent && outage.restarts == 0 && is_short
        };
        self.outages.last().filter(|outage| outage.ended.is_none() && !is_doubt(outage))
    }

    /// The base of the candidate behind a pair's own end. A TCP active candidate has no port (RFC 6544 §4.5): each of
    /// its connections gets one of its own.
    pub fn base_of(&self, pair: Pair) -> SocketAddr {
        self.connections.get(&pair).map_or(pair.local, |asked| asked.local)
    }

    /// Whether an address is a relayed address of this side.
    pub fn is_relayed(&self, address: SocketAddr) -> bool {
        self.known.is_relayed(address)
    }

    /// Whether it has a TURN server to ask: one was named to it, was asked, failed or allocated.
    pub fn knows_relay(&self) -> bool {
        let is_turn = |url: &str| url.starts_with("turn");
        !self.options.no_turn
            && (!self.allocated.is_empty()
                || self.servers_known.iter().any(|(_, url, _)| is_turn(url))
                || self.server_failures.iter().any(|failed| is_turn(&failed.server))
                || self.servers.values().any(|path| path.requests.contains_key(&Method::ALLOCATE))
                || self.local_candidates.iter().any(|local| local.candidate.kind == CandidateType::Relayed))
    }

    /// The addresses from which one of its sockets heard anything.
    pub fn heard_from(&self) -> BTreeSet<SocketAddr> {
        // What came by a relay did not come to one of these sockets.
        let here = |check: &&Check| !self.is_relayed(check.pair.local);
        let checks = self.received.values().chain(self.sent.values().filter(|check| check.answer.is_some()));
        let servers = self.servers.iter().filter(|(_, path)| path.has_answered()).map(|((.., server), _)| *server);
        checks
            .filter(here)
            .map(|check| check.pair.remote)
            .chain(servers)
            .chain(self.probed_by().map(|(_, by)| by))
            .collect()
    }

    /// Sockets of this side that the peer's probes came to, and where from.
    fn probed_by(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
        self.host.probes_seen.iter().map(|seen| (seen.fact.1, seen.fact.2))
    }

    /// Packets that reached this host's interfaces for one of its sockets, from addresses that no socket heard anything
    /// from: source, packets and event. `None`: arrivals were not looked at, or not all, and of those none was such a one.
    pub fn unheard(&self) -> Option<Vec<(SocketAddr, u64, u64)>> {
        // Who saw packets leave would have seen them arrive.
        if self.host.own_packets.is_empty() {
            return None;
        }
        let arrivals = self.host.own_packets.iter().filter(|packet| packet.fact.arrived);
        let heard = self.heard_from();
        let unheard = arrivals.map(|packet| (packet.fact.source, packet.fact.packets, packet.seq));
        self.if_seen(unheard.filter(|(source, ..)| !heard.contains(source)).collect())
    }

    /// Packets that reached an interface for one of this host's sockets, from an address that this very socket never
    /// heard from: how many, and the event. `None`: as of those that nobody heard.
    pub fn undelivered(&self) -> Option<Vec<(u64, u64)>> {
        if self.host.own_packets.is_empty() {
            return None;
        }
        let arrivals = self.host.own_packets.iter().filter(|packet| packet.fact.arrived);
        let checks = self.received.values().chain(self.sent.values().filter(|check| check.answer.is_some()));
        let servers = self.servers.iter().filter(|(_, path)| path.has_answered());
        let heard: BTreeSet<_> = checks
            .map(|check| (check.pair.local, check.pair.remote))
            .chain(servers.map(|((_, local, server), _)| (*local, *server)))
            .chain(self.probed_by())
            .collect();
        let lost = arrivals.filter(|packet| !heard.contains(&(packet.fact.destination, packet.fact.source)));
        self.if_seen(lost.map(|packet| (packet.fact.packets, packet.seq)).collect())
    }

    /// That there is none says something only where all packets were looked for.
    fn if_seen<T>(&self, arrivals: Vec<T>) -> Option<Vec<T>> {
        (!arrivals.is_empty() || self.host.why_not_measured(Subject::OwnPackets).is_none()).then_some(arrivals)
    }

    /// How many requests to each server left over UDP: what the system refused to send did not. Nor counts what was asked
    /// at the last moment, where the session was ended before its time, or a check says that its time was too short.
    pub fn asked(&self) -> BTreeMap<SocketAddr, u32> {
        let mut asked: BTreeMap<SocketAddr, u32> = BTreeMap::new();
        let is_cut_off = self.was_ended() || self.measured.missing.iter().any(|(.., why)| why.starts_with(NO_TIME));
        let had_time = |server: SocketAddr, path: &ServerPath| {
            let is_told = path.has_answered() || self.icmp_errors.keys().any(|(_, remote, ..)| *remote == server);
            let waited = path.first().map(|first| self.closed_at.unwrap_or(self.last_at).since(first));
            !is_cut_off || is_told || waited.is_some_and(|waited| waited >= LEAST_SILENCE)
        };
        for ((transport, _, server), path) in &self.servers {
            if *transport == Transport::Udp && had_time(*server, path) {
                let sent = asked.entry(*server).or_default();
                *sent = sent.saturating_add(path.transmissions());
            }
        }
        for ((_, remote, _), failure) in &self.send_failures {
            if let Some(sent) = asked.get_mut(remote) {
                *sent = sent.saturating_sub(failure.count);
            }
        }
        asked
    }

    /// Servers that a check asked over UDP and gave up, and that answered after that: each with its socket, how long after
    /// the first request, in microseconds, and the answer's event.
    pub fn late(&self) -> impl Iterator<Item = LateAnswer> + '_ {
        self.measured.facts.iter().filter_map(|(_, fact)| match fact {
            Measurement::Reach { transport: Transport::Udp, local: Some(local), remote, rtt_us: None, .. } => {
                let (local, server) = (bare(*local), bare(*remote));
                let (after_us, seq) = self.servers.get(&(Transport::Udp, local, server))?.answered_after_us?;
                Some(LateAnswer { local, server, after_us, seq })
            }
            _ => None,
        })
    }

    /// Whether it was ended by its user, its system or the peer, before its agent gave up or anything came out.
    fn was_ended(&self) -> bool {
        let gave_up = self.ice_states.iter().any(|(_, state, _)| *state == IceState::Failed);
        let by_others =
            matches!(self.ended, Some((_, EndReason::Interrupted | EndReason::PeerLeft | EndReason::Failed)));
        by_others && !gave_up && self.selected.is_empty()
    }

    /// Whether the network is so slow that no server answered over UDP as long as a check waits, and one did later: then
    /// nothing is known of those that have not answered yet. A server that alone is late is slow itself.
    pub fn is_slow(&self) -> bool {
        let late: BTreeSet<SocketAddr> = self.late().map(|late| late.server).collect();
        let in_time =
            |fact: &Measurement| matches!(fact, Measurement::Reach { transport: Transport::Udp, rtt_us: Some(_), .. });
        let answered = |((transport, _, server), path): (&(Transport, SocketAddr, SocketAddr), &ServerPath)| {
            *transport == Transport::Udp && path.has_answered() && !late.contains(server)
        };
        !late.is_empty()
            && !self.measured.facts.iter().any(|(_, fact)| in_time(fact))
            && !self.servers.iter().any(answered)
    }

    /// Whether anything was heard of one address family from outside: an answer of a server, or a check that the system
    /// let out.
    pub fn reaches(&self, is_ipv6: bool) -> bool {
        let of_family = |address: SocketAddr| address.is_ipv6() == is_ipv6;
        self.sent.values().any(|check| of_family(check.pair.remote) && check.refused < check.transmissions)
            || self.servers.iter().any(|((_, _, remote), path)| of_family(*remote) && path.has_answered())
    }

    /// Whether this side's agent shows no packets, only counts: a browser's. What did not arrive cannot be read from
    /// its datagrams then.
    pub fn is_counted(&self) -> bool {
        !self.counts.is_empty() && self.datagrams == 0
    }
}
