//! Which probes tell causes apart, from where, and when: a session between real machines and one in virtual time go by
//! the same.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::Attempt;
use crate::host::ProbeAim;
use crate::ice::Agent;
use crate::ice::candidate::{CandidateTransport, CandidateType};

/// A session that has no direct path after this is not yet explained.
const SUSPICIOUS_AFTER: Duration = Duration::from_millis(700);

/// The TTL of an opener: past our own NAT, not as far as the peer's.
pub const OPENER_TTL: u8 = 2;

/// TTLs that find the hop where checks die: most paths are not longer.
const TTLS: RangeInclusive<u8> = 1..=12;

/// Local addresses that are probed from.
const MAX_LOCALS: usize = 4;

/// Servers that a plain socket asks.
const MAX_ASKED: usize = 4;

/// When an opener is sent to an address, after the peer asked for it.
pub const OPENERS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(150)];

/// Addresses that a peer can have us send openers to, in one session.
pub const MAX_OPENED: usize = 64;

/// Probes of the peer that are recorded; more are only answered.
pub const MAX_SEEN: usize = 256;

/// The longest silence that is measured, or asked of us.
pub const LONGEST_SILENCE: Duration = Duration::from_secs(300);

/// Knocks that a peer can have us send in one session.
pub const MAX_KNOCKS: usize = 64;

/// Shares of the longest silence, beside one second, which every mapping should outlive.
const SHARES: [(u32, u32); 7] = [(1, 12), (1, 6), (1, 4), (1, 3), (1, 2), (3, 4), (1, 1)];

/// How long after the descriptions met a session without a direct path is looked into.
pub fn suspicious_after(round_trip: Option<Duration>) -> Duration {
    SUSPICIOUS_AFTER.max(round_trip.unwrap_or_default() * 3)
}

/// One of the session's own sockets, as far as it decides what is probed beside it.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    /// The interface that has its address; `None` where that is not known, or the socket is bound to one anyhow.
    pub unbound_on: Option<&'a str>,
    /// It has a mark that probes may leave out.
    pub is_marked: bool,
    /// A server can tell its mapped address.
    pub has_server: bool,
}

/// What the session's own sockets leave untold of the network in front, so that a plain one asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untold {
    /// No server answers them, and they are made otherwise than a plain program's.
    Unheard,
    /// They ask a relay alone.
    RelayOnly,
}

impl Untold {
    /// In words, behind "because".
    pub const fn why(self) -> &'static str {
        match self {
            Self::Unheard => "no server answers the session's own",
            Self::RelayOnly => "the session asks a relay alone",
        }
    }
}

/// Whether a plain socket asks the servers of an address family. `is_special`: the session's own sockets are made
/// otherwise (a mark, an interface, another user); `is_heard`: a server has answered one of them over UDP.
pub const fn untold(relay_only: bool, is_special: bool, is_heard: bool) -> Option<Untold> {
    match (relay_only, is_special, is_heard) {
        (true, ..) => Some(Untold::RelayOnly),
        (false, true, false) => Some(Untold::Unheard),
        (false, ..) => None,
    }
}

/// The servers that a plain socket asks: those of its family, first one at each address, as a NAT may tell them apart.
pub fn worth_asking(servers: impl IntoIterator<Item = SocketAddr>, local: SocketAddr) -> Vec<SocketAddr> {
    let (mut first, mut again): (Vec<SocketAddr>, Vec<SocketAddr>) = Default::default();
    for server in servers.into_iter().filter(|server| server.is_ipv4() == local.is_ipv4()) {
        if first.contains(&server) || again.contains(&server) {
            continue;
        }
        let is_new = first.iter().all(|other| other.ip() != server.ip());
        if is_new { first.push(server) } else { again.push(server) }
    }
    first.append(&mut again);
    first.truncate(MAX_ASKED);
    first
}

/// Whether a probe is made as a plain program's, although the session's own sockets are made otherwise: it is about what
/// the NAT does to packets, and of the session's own none comes as far.
pub const fn goes_plain(aim: &ProbeAim, untold: Option<Untold>) -> bool {
    matches!(aim, ProbeAim::EarlyArrival | ProbeAim::AfterOpener { .. }) && matches!(untold, Some(Untold::Unheard))
}

/// The sockets that are opened beside one of the session's own while nothing direct works.
pub fn separating(own: Own<'_>) -> Vec<ProbeAim> {
    let mut aims = Vec::new();
    aims.extend(own.unbound_on.map(|device| ProbeAim::Device { device: device.to_owned() }));
    aims.push(ProbeAim::OtherPort);
    if own.is_marked {
        aims.push(ProbeAim::WithoutMark);
    }
    if own.has_server {
        aims.extend([ProbeAim::EarlyArrival, ProbeAim::AfterOpener { ttl: OPENER_TTL }]);
    }
    aims
}

/// The silences up to a longest one, in seconds.
pub fn silences(longest: Duration) -> Vec<u32> {
    let longest = u32::try_from(longest.min(LONGEST_SILENCE).as_secs()).unwrap_or(0);
    let mut steps: Vec<u32> = SHARES.iter().map(|(part, of)| longest * part / of).collect();
    steps.push(1);
    steps.retain(|step| *step > 0);
    steps.sort_unstable();
    steps.dedup();
    steps
}

/// Addresses of the peer that are not relayed, and whether a server told them.
pub fn targets(agent: &Agent) -> Vec<(bool, SocketAddr)> {
    let candidates = agent
        .remote_candidates()
        .filter(|candidate| candidate.transport == CandidateTransport::Udp && candidate.kind != CandidateType::Relayed);
    let mut targets: Vec<_> = candidates
        .filter_map(|candidate| {
            let address = candidate.address.ip()?;
            let bare = SocketAddr::new(address.ip(), address.port());
            Some((candidate.kind == CandidateType::ServerReflexive, bare))
        })
        // Without a scope such an address cannot be sent to.
        .filter(|(_, remote)| !matches!(remote, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local()))
        .collect();
    // No attempt asks more than a few: a host with many bridges must not be asked at those alone.
    targets.sort_by_key(|(public, _)| !*public);
    targets
}

/// The direct pair that should have worked: to the peer's most public address.
pub fn path_to_trace(locals: &[SocketAddr], targets: &[(bool, SocketAddr)]) -> Option<(SocketAddr, SocketAddr)> {
    let paths = targets.iter().filter_map(|(public, remote)| {
        let local = locals.iter().find(|local| local.is_ipv4() == remote.is_ipv4())?;
        Some((*public, *local, *remote))
    });
    paths.max_by_key(|(public, ..)| *public).map(|(_, local, remote)| (local, remote))
}

/// The attempts that find the hop where packets to the peer die, from a socket of the session's. The first router is also
/// asked by a packet for a server: one that tells of that and of none for the peer drops the latter, and does not only keep
/// silent about packets whose TTL ran out.
pub fn tracing(local: SocketAddr, remote: SocketAddr, server: Option<SocketAddr>) -> impl Iterator<Item = Attempt> {
    TTLS.map(move |ttl| Attempt {
        aim: ProbeAim::TimeToLive { ttl },
        local,
        server: None,
        targets: vec![remote],
        asked: server.filter(|server| ttl == *TTLS.start() && server.ip() != remote.ip()).into_iter().collect(),
    })
}

/// A few of a host's addresses: those of bridges to its own guests last, of which there may be dozens, and the families in
/// turn.
pub fn worth_probing(
    locals: impl Iterator<Item = SocketAddr>,
    leads_to_guests: impl Fn(SocketAddr) -> bool,
) -> Vec<SocketAddr> {
    let usable = |local: &SocketAddr| match local {
        SocketAddr::V4(v4) => !v4.ip().is_link_local(),
        SocketAddr::V6(v6) => !v6.ip().is_unicast_link_local(),
    };
    let mut ranked: Vec<(bool, usize, SocketAddr)> = Vec::new();
    for local in locals.filter(usable) {
        let to_guests = leads_to_guests(local);
        let alike = |other: &&(bool, usize, SocketAddr)| other.0 == to_guests && other.2.is_ipv4() == local.is_ipv4();
        ranked.push((to_guests, ranked.iter().filter(alike).count(), local));
    }
    ranked.sort_by_key(|(to_guests, place, _)| (*to_guests, *place));
    ranked.into_iter().map(|(.., local)| local).take(MAX_LOCALS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silences_go_from_a_second_to_what_was_asked_for() {
        assert_eq!(silences(Duration::from_secs(60)), [1, 5, 10, 15, 20, 30, 45, 60]);
        assert_eq!(silences(Duration::from_secs(6)), [1, 2, 3, 4, 6]);
        assert_eq!(silences(Duration::ZERO), [1]);
        assert_eq!(silences(Duration::from_secs(100_000)).last(), Some(&300));
    }

    #[test]
    fn a_plain_socket_asks_servers_at_different_addresses_first() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let servers = ["192.0.2.1:3478", "192.0.2.1:3479", "[2001:db8::1]:3478", "192.0.2.1:3478", "192.0.2.2:3478"];
        let asked = worth_asking(servers.map(address), address("10.0.0.1:1"));
        assert_eq!(asked, ["192.0.2.1:3478", "192.0.2.2:3478", "192.0.2.1:3479"].map(address));
        let many = (1..100).map(|port| SocketAddr::new(address("192.0.2.1:1").ip(), port));
        assert_eq!(worth_asking(many, address("10.0.0.1:1")).len(), MAX_ASKED);
    }

    #[test]
    fn a_plain_socket_is_asked_for_where_the_sessions_own_cannot_tell() {
        assert_eq!(untold(true, false, true), Some(Untold::RelayOnly));
        assert_eq!(untold(false, true, false), Some(Untold::Unheard));
        assert_eq!([untold(false, true, true), untold(false, false, false)], [None, None]);
    }

    #[test]
    fn the_first_router_is_asked_towards_a_server_too() {
        let [local, remote, server] = ["10.0.0.1:1", "203.0.113.1:2", "192.0.2.1:3478"].map(|at| at.parse().unwrap());
        let asked = |server| tracing(local, remote, server).map(|attempt| attempt.asked.len()).collect::<Vec<_>>();
        let first = asked(Some(server));
        assert_eq!((first.len(), first[0], first[1..].iter().sum::<usize>()), (12, 1, 0));
        assert_eq!(asked(None), [0; 12]);
        // The peer behind the server's own address: that would be the same way.
        assert_eq!(asked(Some(SocketAddr::new(remote.ip(), 3478))), [0; 12]);
    }

    #[test]
    fn the_uplink_is_probed_however_many_bridges_come_before_it() {
        let host = [
            "172.17.0.1:1",
            "172.18.0.1:1",
            "172.19.0.1:1",
            "172.20.0.1:1",
            "192.168.1.2:1",
            "192.168.7.2:1",
            "[2001:db8::1]:1",
            "[fe80::1]:1",
        ];
        let to_guests = |local: SocketAddr| local.to_string().starts_with("172.");
        let chosen = worth_probing(host.into_iter().map(|local| local.parse().unwrap()), to_guests);
        let chosen: Vec<String> = chosen.iter().map(ToString::to_string).collect();
        assert_eq!(chosen, ["192.168.1.2:1", "[2001:db8::1]:1", "192.168.7.2:1", "172.17.0.1:1"]);
    }
}
