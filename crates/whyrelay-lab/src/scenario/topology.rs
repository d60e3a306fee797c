//! What a scenario resolves to: one plain value with every address given, which both worlds build from.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use whyrelay_core::nat::behavior::{Behavior, FilteringBehavior};

use super::file::{
    Alg, Burst, Credentials, Expect, Hook, InterfaceKind, Ipv6, PortMapping, Protocol, Refusal, RouteKind, RuleAction,
    Verdict, WorldKind,
};
use super::value::{Cidr, Mark, Span32};

/// The Internet's place in [`Topology::segments`].
pub const INTERNET: usize = 0;

/// The table `main`.
pub const MAIN: u32 = 254;

/// A network between two peers, with all addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// The scenario's name: its file's.
    pub name: String,
    /// One line for lists.
    pub title: String,
    /// What is to be learned from it.
    pub about: Option<String>,
    /// Where it can be run.
    pub worlds: Vec<WorldKind>,
    /// Everything random in the virtual world comes from it.
    pub seed: u64,
    /// Networks in which everybody reaches everybody; the first is the Internet.
    pub segments: Vec<Segment>,
    /// Routers, those next to the Internet before those behind them.
    pub routers: Vec<Router>,
    /// Hosts: a, b, then the others by name.
    pub hosts: Vec<Host>,
    /// What the peers, the first two hosts, are told.
    pub sessions: [Session; 2],
    /// The server.
    pub server: Server,
    /// How the messages of a and of b fare on their way to the other.
    pub signaling: [Signaling; 2],
    /// What must come out.
    pub expect: Expect,
}

/// A network: the Internet, or the inside of a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// `internet`, or the name of the router whose inside it is.
    pub name: String,
    /// Its IPv4 network. The Internet has several.
    pub ipv4: Vec<Cidr>,
    /// Its IPv6 network.
    pub ipv6: Vec<Cidr>,
    /// Who forwards for hosts here, one address for each family. On the Internet: an address of its core.
    pub gateways: Vec<IpAddr>,
    /// Hosts do not reach each other.
    pub isolated: bool,
}

/// What a router does to IPv4 addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Translation {
    /// NAT.
    Nat(Behavior),
    /// Each inside address has one outside; in comes what the filter lets in.
    OneToOne {
        /// The filter.
        filtering: FilteringBehavior,
        /// How long it remembers.
        lifetime: Duration,
        /// Inside and outside.
        pairs: Vec<(IpAddr, IpAddr)>,
    },
    /// Nothing; in comes what the filter lets in.
    Nothing {
        /// The filter.
        filtering: FilteringBehavior,
        /// How long it remembers.
        lifetime: Duration,
    },
}

impl Translation {
    /// How long it remembers what nobody uses.
    pub const fn lifetime(&self) -> Duration {
        match self {
            Self::Nat(behavior) => behavior.lifetime,
            Self::OneToOne { lifetime, .. } | Self::Nothing { lifetime, .. } => *lifetime,
        }
    }
}

/// What a router lets out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// UDP to these ports only; `Some` of nothing is no UDP.
    pub udp: Option<Vec<Span32>>,
    /// TCP to these ports only.
    pub tcp: Option<Vec<Span32>>,
}

/// A router between an inside and an outside.
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// Its name.
    pub name: String,
    /// The segment inside.
    pub inside: usize,
    /// The segment outside.
    pub outside: usize,
    /// Its own addresses inside, with their prefixes.
    pub inside_addresses: Vec<Cidr>,
    /// Its own addresses outside, with their prefixes: IPv4, of which a NAT with several uses all, then IPv6.
    pub outside_addresses: Vec<Cidr>,
    /// What it does to IPv4 addresses.
    pub translation: Translation,
    /// What it does with IPv6.
    pub ipv6: Ipv6,
    /// What it lets out.
    pub egress: Egress,
    /// What is not let out is refused with ICMP so, instead of dropped.
    pub rejects: Option<Refusal>,
    /// A stateless filter in front: UDP comes in to these ports only.
    pub stateless_inbound: Option<Vec<Span32>>,
    /// Outside endpoints that lead to inside ones.
    pub forwards: Vec<(SocketAddr, SocketAddr)>,
    /// Protocols by which hosts inside may ask for a forward.
    pub port_mapping: Vec<PortMapping>,
    /// An application-layer gateway.
    pub alg: Option<Alg>,
    /// Whether it sends ICMP errors.
    pub icmp: bool,
    /// Its link to the outside.
    pub link: Link,
}

impl Router {
    /// Its IPv4 addresses outside, without those of a 1:1 translation.
    pub fn external(&self) -> impl Iterator<Item = IpAddr> {
        self.outside_addresses.iter().map(|cidr| cidr.address).filter(IpAddr::is_ipv4)
    }

    /// Whether it translates between two networks with the same addresses: what is meant for the one outside goes to the
    /// one inside.
    pub fn is_astray(&self, topology: &Topology) -> bool {
        let inside = &topology.segments[self.inside].ipv4;
        let mut gateways = topology.segments[self.outside].gateways.iter().filter(|gateway| gateway.is_ipv4());
        let translates = !matches!(self.translation, Translation::Nothing { .. });
        translates && gateways.any(|outer| inside.iter().any(|own| own.contains(*outer)))
    }
}

/// How long a link without packets is still in the burst that it was in: what fades, is congested or is reconnected comes
/// and goes within such a time. Behind a longer pause it is as likely to be bad as at any moment; else the repetitions of
/// a patient protocol, seconds apart, would all fall into one burst, as if time stood still between packets.
pub const BURST_MEMORY: Duration = Duration::from_millis(100);

/// A link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// How long every packet takes, one way.
    pub delay: Duration,
    /// At most this much longer.
    pub jitter: Duration,
    /// Packets lost, of 10,000.
    pub loss: u32,
    /// Losses in bursts.
    pub burst: Option<Burst>,
    /// Packets that are overtaken, of 10,000.
    pub reordering: u32,
    /// Packets that arrive twice, of 10,000.
    pub duplication: u32,
    /// Bits a second.
    pub rate: Option<u64>,
    /// The largest IP packet in bytes.
    pub mtu: Option<u16>,
}

/// A host.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its interfaces, `eth0` first. Loopback is not said.
    pub interfaces: Vec<Interface>,
    /// Routes beside those that its interfaces bring; see [`Self::all_routes`].
    pub routes: Vec<Route>,
    /// Policy rules beside the three that every Linux has; see [`Self::all_rules`].
    pub rules: Vec<Rule>,
    /// Kernel parameters by their full names, `net.ipv4.conf.all.rp_filter`.
    pub sysctls: BTreeMap<String, i64>,
    /// Its own packet filter, in order; what matches nothing passes.
    pub firewall: Vec<FirewallRule>,
    /// Neighbors that do not answer ARP.
    pub silent_neighbors: Vec<IpAddr>,
    /// Its table of tracked connections is full.
    pub conntrack_full: bool,
    /// What its session sends with a wrong checksum.
    pub wrong_checksum: Option<WrongChecksum>,
}

/// Packets whose UDP checksum is for another source address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongChecksum {
    /// The port of the sockets that send them.
    pub port: u16,
    /// Where they go.
    pub to: Vec<Cidr>,
}

impl WrongChecksum {
    /// Whether a packet is one of them.
    pub fn is_of(&self, source: SocketAddr, to: SocketAddr) -> bool {
        source.port() == self.port && self.to.iter().any(|network| network.contains(to.ip()))
    }
}

/// An interface.
#[derive(Clone, Debug, PartialEq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: InterfaceKind,
    /// Where it leads; nowhere: what goes out never arrives.
    pub segment: Option<usize>,
    /// Its addresses with their prefixes.
    pub addresses: Vec<Cidr>,
    /// Default routes that it brings: gateway and metric.
    pub gateways: Vec<(IpAddr, u32)>,
    /// Its link.
    pub link: Link,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: Cidr,
    /// What it does.
    pub kind: RouteKind,
    /// The device.
    pub dev: Option<String>,
    /// The gateway.
    pub via: Option<IpAddr>,
    /// The source address that it prefers.
    pub src: Option<IpAddr>,
    /// The table.
    pub table: u32,
    /// The lesser wins.
    pub metric: u32,
    /// The largest IP packet in bytes.
    pub mtu: Option<u16>,
}

/// A policy rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The lesser is asked first.
    pub priority: u32,
    /// It matches what its selectors do not match.
    pub not: bool,
    /// Sources.
    pub from: Option<Cidr>,
    /// Destinations.
    pub to: Option<Cidr>,
    /// The mark.
    pub fwmark: Option<Mark>,
    /// The device that the socket is bound to.
    pub oif: Option<String>,
    /// The device it came in by; `lo` is this host's own.
    pub iif: Option<String>,
    /// The protocol.
    pub ipproto: Option<Protocol>,
    /// Source ports.
    pub sport: Option<Span32>,
    /// Destination ports.
    pub dport: Option<Span32>,
    /// User ids.
    pub uidrange: Option<Span32>,
    /// What it does.
    pub action: RuleAction,
    /// The table it looks in.
    pub table: u32,
    /// Routes with a prefix of at most this length do not count.
    pub suppress_prefixlength: Option<u8>,
}

/// A rule of a host's packet filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirewallRule {
    /// Where.
    pub hook: Hook,
    /// What it does.
    pub verdict: Verdict,
    /// The mark that it sets.
    pub mark: Option<Mark>,
    /// Only packets with this mark.
    pub fwmark: Option<Mark>,
    /// The protocol.
    pub ipproto: Option<Protocol>,
    /// Sources.
    pub from: Option<Cidr>,
    /// Destinations.
    pub to: Option<Cidr>,
    /// Source ports.
    pub sport: Option<Span32>,
    /// Destination ports.
    pub dport: Option<Span32>,
    /// The device.
    pub dev: Option<String>,
    /// Only packets that belong to no connection that this host began.
    pub unsolicited: bool,
}

/// A chain of a host's packet filter, in nftables' words. Each hook has one, so that rules are asked in the file's order,
/// those that set a mark among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostChain {
    pub(crate) name: &'static str,
    pub(crate) hook_name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) priority: i32,
}

impl HostChain {
    /// That of a hook: the rules behind which a packet that leaves is routed again stand in a chain of type route.
    pub(crate) fn of(host: &Host, hook: Hook) -> Self {
        let marks = host.firewall.iter().any(|rule| rule.hook == hook && rule.verdict == Verdict::SetMark);
        let (name, hook_name, kind, priority) = match hook {
            Hook::Prerouting => ("pre", "prerouting", "filter", -300),
            Hook::Input => ("in", "input", "filter", 0),
            Hook::Output if marks => ("out", "output", "route", -150),
            Hook::Output => ("out", "output", "filter", 0),
        };
        Self { name, hook_name, kind, priority }
    }
}

/// What a peer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The port of its sockets.
    pub port: u16,
    /// The mark of its sockets.
    pub mark: Option<u32>,
    /// The user it runs as.
    pub uid: u32,
    /// Relayed candidates only.
    pub relay_only: bool,
    /// No TURN at all.
    pub no_turn: bool,
    /// RFC 8445's own schedule.
    pub patient: bool,
    /// Asks its router for a port mapping.
    pub map_port: bool,
    /// Finds out whether its NAT remembers a mapping that is silent for so long; zero: it does not.
    pub silence: Duration,
    /// When it starts, from the beginning.
    pub starts: Duration,
}

/// The server, on the Internet.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Its addresses with their prefixes: IPv4 (two, for behavior discovery), then IPv6.
    pub addresses: Vec<Cidr>,
    /// As the scenario has it: what it serves, and its faults.
    pub faults: super::file::Server,
    /// Its link.
    pub link: Link,
}

impl Server {
    /// What the peers' credentials are like.
    pub const fn credentials(&self) -> Credentials {
        self.faults.credentials
    }
}

/// How one side's messages fare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signaling {
    /// How long messages take.
    pub delay: Duration,
    /// How much longer candidates take.
    pub candidates_delay: Duration,
    /// Candidates are lost.
    pub lose_candidates: bool,
    /// Everything is lost.
    pub lose_all: bool,
}

impl Topology {
    /// The host of a name.
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// The router whose inside a segment is.
    pub fn router_of(&self, segment: usize) -> Option<&Router> {
        self.routers.iter().find(|router| router.inside == segment)
    }

    /// The routers from a segment to the Internet, the nearest first.
    pub fn way_out(&self, segment: usize) -> Vec<&Router> {
        let mut way: Vec<&Router> = Vec::new();
        let mut at = segment;
        while let Some(router) = self.router_of(at).filter(|_| way.len() < self.routers.len()) {
            way.push(router);
            at = router.outside;
        }
        way
    }

    /// The STUN and TURN server's first address.
    pub fn server_address(&self) -> IpAddr {
        self.server.addresses[0].address
    }

    /// Where the server serves TURN over TLS, if it does.
    pub fn tls_address(&self) -> SocketAddr {
        SocketAddr::new(self.server_address(), self.server.faults.tls_port.unwrap_or(super::TLS_PORT))
    }
}

impl Host {
    /// Every address of every interface.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.interfaces.iter().flat_map(|interface| interface.addresses.iter().map(|cidr| cidr.address))
    }

    /// All routes that the kernel would have, without those of table local: what the interfaces bring, then the rest.
    pub fn all_routes(&self) -> Vec<Route> {
        let mut routes = Vec::new();
        for interface in &self.interfaces {
            let dev = Some(interface.name.clone());
            let route = |to: Cidr, via, src, metric| Route {
                to,
                kind: RouteKind::Unicast,
                dev: dev.clone(),
                via,
                src,
                table: MAIN,
                metric,
                mtu: None,
            };
            let own = |ipv4: bool| interface.addresses.iter().find(|cidr| cidr.address.is_ipv4() == ipv4);
            routes.extend(interface.addresses.iter().map(|cidr| route(cidr.network(), None, Some(cidr.address), 0)));
            routes.extend(interface.gateways.iter().map(|(gateway, metric)| {
                let src = own(gateway.is_ipv4()).map(|cidr| cidr.address);
                route(Cidr::default_of(gateway.is_ipv4()), Some(*gateway), src, *metric)
            }));
        }
        routes.extend(self.routes.iter().cloned());
        routes
    }

    /// All rules in the order in which they are asked, local, main and default included.
    pub fn all_rules(&self) -> Vec<Rule> {
        let usual = |priority, table| Rule { priority, table, ..Rule::default() };
        let mut rules = vec![usual(0, 255), usual(32_766, MAIN), usual(32_767, 253)];
        rules.extend(self.rules.iter().cloned());
        // A rule added later is asked before an earlier one of the same priority... only if none is said; the order
        // in the file is kept here, as `ip rule add` keeps it.
        rules.sort_by_key(|rule| rule.priority);
        rules
    }
}
