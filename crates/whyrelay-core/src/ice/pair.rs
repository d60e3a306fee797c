//! Candidate pairs: which candidates pair, the pair's priority, its state (RFC 8445 §6.1.2).

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use crate::ice::candidate::{Candidate, CandidateTransport, CandidateType};
use crate::time::Timestamp;
use crate::trace::event::{NominateReason, Pair, PairState, Role};
use crate::wire::stun::TransactionId;

/// Names a pair of this agent; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PairId(pub(super) u32);

/// Whether a pair may be checked as far as others are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// Nothing is in the way.
    Ready,
    /// The TURN permission was asked for and has not come.
    AwaitsPermission,
    /// TCP active: no connection yet; the check's turn opens it.
    Unconnected,
    /// The connection was asked for; given up at this moment.
    Connecting(Timestamp),
}

/// One pair of the checklist.
#[derive(Clone, Debug)]
pub(super) struct CandidatePair {
    pub(super) wire: Pair,
    /// Scope of a link-local remote address.
    pub(super) scope: u32,
    /// Index of the local candidate that was paired.
    pub(super) local: usize,
    /// Index of the remote candidate.
    pub(super) remote: usize,
    pub(super) priority: u64,
    pub(super) foundation: String,
    pub(super) state: PairState,
    pub(super) readiness: Readiness,
    pub(super) nominated: bool,
    /// Controlling: a check with USE-CANDIDATE is wanted or under way.
    pub(super) nominating: Option<NominateReason>,
    /// Nominations of it that nobody answered.
    pub(super) unanswered_nominations: u32,
    /// Controlled: the peer nominated it before our own check succeeded (RFC 8445 §7.3.1.5).
    pub(super) nominated_by_peer: bool,
    /// When the peer's last USE-CANDIDATE arrived.
    pub(super) use_candidate_at: Option<Timestamp>,
    /// After another pair's nomination: its check is not retransmitted and nobody waits for it (RFC 8445 §8.1.2).
    pub(super) abandoned: bool,
    /// The check under way; cancelled ones are not named here.
    pub(super) transaction: Option<TransactionId>,
    /// When a check of the peer last triggered one of ours.
    pub(super) triggered_at: Option<Timestamp>,
    pub(super) succeeded_at: Option<Timestamp>,
    pub(super) rtt: Option<Duration>,
    /// Index of the local candidate that the peer sees (RFC 8445 §7.2.5.3.1), once a check succeeded.
    pub(super) mapped: Option<usize>,
}

impl CandidatePair {
    /// Whether something may still come of it without the peer's doing.
    pub(super) const fn is_open(&self) -> bool {
        !self.abandoned && matches!(self.state, PairState::Frozen | PairState::Waiting | PairState::InProgress)
    }

    pub(super) fn is_valid(&self) -> bool {
        self.state == PairState::Succeeded
    }
}

/// RFC 8445 §6.1.2.3: 2³² × min(G, D) + 2 × max(G, D) + (G > D), with G the controlling side's priority.
pub(super) fn priority(role: Role, local: u32, remote: u32) -> u64 {
    let (controlling, controlled) = match role {
        Role::Controlling => (local, remote),
        Role::Controlled => (remote, local),
    };
    let (low, high) = (u64::from(controlling.min(controlled)), u64::from(controlling.max(controlled)));
    (low << 32) + 2 * high + u64::from(controlling > controlled)
}

/// Whether a local candidate with this base may be paired with a remote address: same address family, link-local
/// with link-local only (RFC 8445 §6.1.2.2), and the transports of RFC 6544 §6.2.
pub(super) fn may_pair(
    local: CandidateTransport,
    base: SocketAddr,
    remote: CandidateTransport,
    address: SocketAddr,
) -> bool {
    remote == local.counterpart()
        && base.is_ipv4() == address.is_ipv4()
        && is_link_local(base.ip()) == is_link_local(address.ip())
}

/// fe80::/10 and 169.254.0.0/16.
pub(super) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => is_link_local_v6(ip),
    }
}

fn is_link_local_v6(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xFFC0 == 0xFE80
}

/// The address without scope and flow label: what candidates and the wire compare by.
pub(super) fn bare(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

/// The address to send to: link-local ones need the scope of the interface.
pub(super) fn scoped(address: SocketAddr, scope: u32) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if is_link_local_v6(*v6.ip()) => {
            SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, scope))
        }
        _ => address,
    }
}

/// Whether an address can be a candidate's at all. Port zero is fine for TCP active, whose port means nothing.
pub(super) fn is_usable(transport: CandidateTransport, address: SocketAddr) -> bool {
    let ip = address.ip();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !ip.is_unspecified()
        && !ip.is_multicast()
        && !broadcast
        && (address.port() != 0 || transport == CandidateTransport::TcpActive)
}

/// Whether a pair of these types goes without a TURN server. A peer-reflexive candidate counts as direct until
/// signaling says that it is a relayed one.
pub(super) fn is_direct(local: &Candidate, remote: &Candidate) -> bool {
    local.kind != CandidateType::Relayed && remote.kind != CandidateType::Relayed
}

/// How a pair goes. What is better comes last, and may replace what is selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// Through a TURN server.
    Relayed,
    /// Peer to peer over TCP: what stands in for UDP where that does not get through.
    DirectTcp,
    /// Peer to peer over UDP.
    DirectUdp,
}

impl Way {
    pub(super) fn of(local: &Candidate, remote: &Candidate) -> Self {
        match (is_direct(local, remote), local.transport.is_tcp()) {
            (false, _) => Self::Relayed,
            (true, true) => Self::DirectTcp,
            (true, false) => Self::DirectUdp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priority_is_the_same_for_both_roles_and_follows_the_formula() {
        let (host, relayed) = (2_130_706_431, 16_777_215);
        let offerer = priority(Role::Controlling, host, relayed);
        assert_eq!(offerer, priority(Role::Controlled, relayed, host));
        assert_eq!(offerer, (16_777_215_u64 << 32) + 2 * 2_130_706_431 + 1);
        assert_eq!(offerer - 1, priority(Role::Controlling, relayed, host));
    }

    #[test]
    fn only_like_pairs_with_like() {
        use CandidateTransport::{TcpActive, TcpPassive, Udp};
        for (local, base, remote, address, expected) in [
            (Udp, "192.0.2.1:1", Udp, "198.51.100.1:1", true),
            (Udp, "192.0.2.1:1", Udp, "[2001:db8::1]:1", false),
            (Udp, "[2001:db8::2]:1", Udp, "[2001:db8::1]:1", true),
            (Udp, "[fe80::2]:1", Udp, "[2001:db8::1]:1", false),
            (Udp, "[fe80::2]:1", Udp, "[fe80::1]:1", true),
            (Udp, "169.254.1.1:1", Udp, "192.0.2.1:1", false),
            (Udp, "192.0.2.1:1", TcpPassive, "198.51.100.1:1", false),
            (TcpActive, "192.0.2.1:9", TcpPassive, "198.51.100.1:1", true),
            (TcpActive, "192.0.2.1:9", TcpActive, "198.51.100.1:9", false),
            (TcpPassive, "192.0.2.1:1", TcpActive, "198.51.100.1:9", true),
        ] {
            let (base, address) = (base.parse().unwrap(), address.parse().unwrap());
            assert_eq!(may_pair(local, base, remote, address), expected, "{local} {base} {remote} {address}");
        }
    }

    #[test]
    fn only_link_local_destinations_get_a_scope() {
        let scope = |text: &str| scoped(text.parse().unwrap(), 3).to_string();
        assert_eq!(scope("[fe80::1]:5"), "[fe80::1%3]:5");
        assert_eq!(scope("[2001:db8::1]:5"), "[2001:db8::1]:5");
        assert_eq!(bare("[fe80::1%3]:5".parse().unwrap()), "[fe80::1]:5".parse().unwrap());
    }
}
