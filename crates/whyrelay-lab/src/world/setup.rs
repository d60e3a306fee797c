//! What a world is made of: two sites, a server, signaling, and what the peers are told.

use std::net::SocketAddr;
use std::time::Duration;

use whyrelay_core::nat::behavior::{Behavior, FilteringBehavior};
use whyrelay_core::trace::event::Role;

use crate::scenario::file::Credentials;

use super::link::Link;
pub use super::network::Egress;

/// What a router does to addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouterKind {
    /// Translates IPv4.
    Nat(Behavior),
    /// Gives the hosts inside an external IPv4 address each, ports unchanged, as clouds do.
    OneToOne(FilteringBehavior),
    /// Translates nothing and filters.
    Firewall(FilteringBehavior),
}

/// What a router does with IPv6, which it never translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6 {
    /// No route.
    Closed,
    /// Filters.
    Filtered(FilteringBehavior),
}

/// One router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// What it does to IPv4.
    pub kind: RouterKind,
    /// What it does with IPv6.
    pub ipv6: Ipv6,
    /// What it lets out.
    pub egress: Egress,
    /// Its link to the outside.
    pub link: Link,
    /// How many external IPv4 addresses a NAT has.
    pub external: u8,
    /// Hosts inside do not reach each other.
    pub isolated: bool,
}

impl Router {
    /// A router that lets everything out, with 1 ms to the outside and IPv6 behind a stateful firewall.
    pub const fn new(kind: RouterKind) -> Self {
        Self {
            kind,
            ipv6: Ipv6::Filtered(FilteringBehavior::AddressAndPortDependent),
            egress: Egress::Everything,
            link: Link::with_delay(Duration::from_millis(1)),
            external: 1,
            isolated: false,
        }
    }

    /// A NAT.
    pub const fn nat(behavior: Behavior) -> Self {
        Self::new(RouterKind::Nat(behavior))
    }

    /// The same with another rule for what it lets out.
    #[must_use]
    pub fn letting_out(mut self, egress: Egress) -> Self {
        self.egress = egress;
        self
    }
}

/// Where one peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The routers between the peer and the Internet, the nearest first. None: it has a public address.
    pub routers: Vec<Router>,
    /// The peer's own link.
    pub link: Link,
    /// Whether the peer has an IPv4 address.
    pub ipv4: bool,
    /// Whether the peer has an IPv6 address.
    pub ipv6: bool,
}

impl Site {
    /// An IPv4 host behind routers, with half a millisecond to the first.
    pub const fn behind(routers: Vec<Router>) -> Self {
        Self { routers, link: Link::with_delay(Duration::from_micros(500)), ipv4: true, ipv6: false }
    }

    /// An IPv4 host with a public address.
    pub const fn public() -> Self {
        Self::behind(Vec::new())
    }

    /// The same with IPv6, too.
    #[must_use]
    pub const fn dual_stack(mut self) -> Self {
        self.ipv6 = true;
        self
    }
}

/// Where the second peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Neighbor {
    /// Somewhere else on the Internet.
    At(Site),
    /// On the same segment as the first peer.
    OnSameSegment(Link),
}

/// What one peer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSetup {
    /// When it starts, counted from the beginning of the world.
    pub starts: Duration,
    /// How long its signaling messages take to the other side. They arrive in order, none is lost.
    pub signaling_delay: Duration,
    /// How much longer its candidates take than its offer or answer.
    pub candidates_delay: Duration,
    /// Its ICE role; both alike is a conflict.
    pub role: Role,
    /// Its tie-breaker, or one drawn at random.
    pub tie_breaker: Option<u64>,
    /// Relayed candidates only.
    pub relay_only: bool,
    /// Whether it uses TURN over UDP.
    pub turn_udp: bool,
    /// Whether it uses TURN over TCP.
    pub turn_tcp: bool,
    /// RFC 8445's own retransmission schedule.
    pub patient: bool,
    /// The local port of its sockets.
    pub port: u16,
    /// What its TURN credentials are like.
    pub credentials: Credentials,
    /// It uses TURN over TLS at this address and no other, and STUN by the same.
    pub tls: Option<SocketAddr>,
    /// Asks a direct path for large packets, each way.
    pub probe_sizes: bool,
    /// Probes why nothing is direct; only hosts of a scenario have a kernel that would tell.
    pub probe_causes: bool,
    /// Asks on a direct path for how long its NAT remembers a mapping; zero: it does not.
    pub silence: Duration,
    /// Has its router map the port of its socket; only hosts of a scenario know their router.
    pub map_port: bool,
}

impl PeerSetup {
    /// Starts at once, signals in 20 ms, uses TURN over UDP.
    pub const fn new(role: Role) -> Self {
        Self {
            starts: Duration::ZERO,
            signaling_delay: Duration::from_millis(20),
            candidates_delay: Duration::ZERO,
            role,
            tie_breaker: None,
            relay_only: false,
            turn_udp: true,
            turn_tcp: false,
            patient: false,
            port: 40_000,
            credentials: Credentials::Right,
            tls: None,
            probe_sizes: false,
            probe_causes: false,
            silence: Duration::ZERO,
            map_port: false,
        }
    }
}

/// A whole world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Everything random comes from it.
    pub seed: u64,
    /// Where the offerer is.
    pub a: Site,
    /// Where the answerer is.
    pub b: Neighbor,
    /// What the offerer is told.
    pub offerer: PeerSetup,
    /// What the answerer is told.
    pub answerer: PeerSetup,
    /// The link of the server, 5 ms to everybody unless changed.
    pub server: Link,
    /// When ICE restarts, counted from the moment both sides have selected a pair, and which side asks for it:
    /// `true` for the offerer.
    pub restart: Option<(Duration, bool)>,
    /// When the world ends at the latest.
    pub limit: Duration,
}

impl Setup {
    /// Two sites, everything else as usual.
    pub const fn new(seed: u64, a: Site, b: Site) -> Self {
        Self {
            seed,
            a,
            b: Neighbor::At(b),
            offerer: PeerSetup::new(Role::Controlling),
            answerer: PeerSetup::new(Role::Controlled),
            server: Link::with_delay(Duration::from_millis(5)),
            restart: None,
            limit: Duration::from_secs(120),
        }
    }
}
