//! A scenario file as it is written: TOML, unknown keys refused, everything optional that has an obvious value.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use whyrelay_core::nat::behavior::{
    FilteringBehavior, Hairpinning, MappingBehavior, Pooling, PortAllocation, Refresh, Unsolicited,
};

use super::value::{Cidr, Mark, Rate, Span, Span32};

/// A scenario: a network between two peers, and what is expected of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// One line for lists.
    pub title: String,
    /// What is to be learned from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// Where it can be run; both worlds unless one cannot express it.
    #[serde(default = "both_worlds", skip_serializing_if = "is_both_worlds")]
    pub worlds: Vec<WorldKind>,
    /// Everything random in the virtual world comes from it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub seed: u64,
    /// Routers by name. Each has one network inside, which has the router's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub router: BTreeMap<String, Router>,
    /// Hosts by name. `a`, the offerer, and `b`, the answerer, are the peers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub host: BTreeMap<String, Host>,
    /// The STUN, TURN and signaling server. It is on the Internet.
    #[serde(default, skip_serializing_if = "is_default")]
    pub server: Server,
    /// What signaling does to messages.
    #[serde(default, skip_serializing_if = "is_default")]
    pub signaling: Signaling,
    /// What must come out.
    pub expect: Expect,
}

/// Which world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WorldKind {
    /// Virtual time.
    Virtual,
    /// Network namespaces.
    Kernel,
}

fn both_worlds() -> Vec<WorldKind> {
    vec![WorldKind::Virtual, WorldKind::Kernel]
}

fn is_both_worlds(worlds: &[WorldKind]) -> bool {
    worlds.len() == 2
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

const fn yes() -> bool {
    true
}

const fn is_yes(value: &bool) -> bool {
    *value
}

/// One name or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several, the nearest to the host first.
    Many(Vec<String>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl OneOrMany {
    /// All of them.
    pub fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

/// What a router does to IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Translate {
    /// NAT (RFC 4787).
    Nat,
    /// An external address for each host inside, ports unchanged, as clouds do.
    OneToOne,
    /// Nothing: the network inside has public addresses.
    Nothing,
}

/// A router. A preset gives what is not said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Router {
    /// What it starts from: the name of a preset, `plain` unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// The network outside: a router's name, or `internet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<String>,
    /// The IPv4 network inside, for instance 192.168.1.0/24; the router has its first address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<Cidr>,
    /// What it does to IPv4 addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translate: Option<Translate>,
    /// Which destinations share a mapping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BehaviorName>")]
    pub mapping: Option<MappingBehavior>,
    /// Who is let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BehaviorName>")]
    pub filtering: Option<FilteringBehavior>,
    /// How ports are chosen: preserving, random, sequential, hash, or { contiguous = { block = 512 } }.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<PortAllocationName>")]
    pub ports: Option<PortAllocation>,
    /// Whether two hosts may share an external port as long as their destinations differ, as in Linux.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overloading: Option<bool>,
    /// How many external addresses it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<u8>,
    /// Which of them a mapping gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<PoolingName>")]
    pub pooling: Option<Pooling>,
    /// How long an idle mapping lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Span>,
    /// What keeps it alive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<RefreshName>")]
    pub refresh: Option<Refresh>,
    /// Packets from the inside to its own external addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<HairpinningName>")]
    pub hairpinning: Option<Hairpinning>,
    /// Packets from outside that nobody asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<UnsolicitedName>")]
    pub unsolicited: Option<Unsolicited>,
    /// IPv6, which is never translated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6>,
    /// UDP packets to no destination pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_udp: Option<bool>,
    /// UDP passes to these ports only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_udp: Option<Vec<Span32>>,
    /// TCP connections pass to these ports only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_tcp: Option<Vec<Span32>>,
    /// What is not let out is refused with ICMP (administratively prohibited) instead of dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reject: Option<bool>,
    /// A stateless filter in front: UDP comes in to these ports of the inside only, replies included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stateless_inbound: Option<Vec<Span32>>,
    /// Hosts inside do not reach each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolated: Option<bool>,
    /// Ports that lead to a host inside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forward: Vec<Forward>,
    /// Protocols by which hosts inside may ask for a forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_mapping: Option<Vec<PortMapping>>,
    /// An application-layer gateway that rewrites what it takes for addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<Alg>,
    /// Whether it sends ICMP errors (time exceeded, packet too big, unreachable).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<bool>,
    /// Its link to the outside.
    #[serde(default, skip_serializing_if = "is_default")]
    pub link: Link,
}

impl Router {
    /// This router, with what it does not say taken from another.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        Self {
            preset: self.preset.or(base.preset),
            outside: self.outside.or(base.outside),
            inside: self.inside.or(base.inside),
            translate: self.translate.or(base.translate),
            mapping: self.mapping.or(base.mapping),
            filtering: self.filtering.or(base.filtering),
            ports: self.ports.or(base.ports),
            overloading: self.overloading.or(base.overloading),
            addresses: self.addresses.or(base.addresses),
            pooling: self.pooling.or(base.pooling),
            lifetime: self.lifetime.or(base.lifetime),
            refresh: self.refresh.or(base.refresh),
            hairpinning: self.hairpinning.or(base.hairpinning),
            unsolicited: self.unsolicited.or(base.unsolicited),
            ipv6: self.ipv6.or(base.ipv6),
            block_udp: self.block_udp.or(base.block_udp),
            allow_udp: self.allow_udp.or(base.allow_udp),
            allow_tcp: self.allow_tcp.or(base.allow_tcp),
            reject: self.reject.or(base.reject),
            stateless_inbound: self.stateless_inbound.or(base.stateless_inbound),
            isolated: self.isolated.or(base.isolated),
            forward: if self.forward.is_empty() { base.forward } else { self.forward },
            port_mapping: self.port_mapping.or(base.port_mapping),
            alg: self.alg.or(base.alg),
            icmp: self.icmp.or(base.icmp),
            link: Link { delay: self.link.delay.or(base.link.delay), ..self.link },
        }
    }
}

/// IPv6 at a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ipv6 {
    /// No prefix inside and no route.
    None,
    /// Addresses inside, and no route to the outside.
    NoRoute,
    /// A stateful firewall: in comes what answers.
    Stateful,
    /// Everything passes.
    Open,
}

/// What an application-layer gateway rewrites in UDP payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Alg {
    /// Plain addresses: what XOR-MAPPED-ADDRESS was invented against. Harmless to today's STUN.
    Addresses,
    /// XOR-MAPPED-ADDRESS too: STUN's integrity notices.
    Stun,
}

/// A protocol that asks a router for a forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PortMapping {
    /// UPnP IGD.
    Upnp,
    /// NAT-PMP (RFC 6886).
    NatPmp,
    /// PCP (RFC 6887).
    Pcp,
}

/// A port of the router that leads to a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Forward {
    /// The port outside.
    pub port: u16,
    /// The host inside.
    pub to: String,
    /// The port inside; the same unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_port: Option<u16>,
}

/// What a link does to packets, both ways alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Link {
    /// How long every packet takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
    /// At most this much longer.
    #[serde(skip_serializing_if = "is_default")]
    pub jitter: Span,
    /// Packets lost, each by itself, in percent.
    #[serde(skip_serializing_if = "is_default")]
    pub loss: f64,
    /// Losses in bursts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<Burst>,
    /// Packets that are overtaken, in percent.
    #[serde(skip_serializing_if = "is_default")]
    pub reorder: f64,
    /// Packets that arrive twice, in percent.
    #[serde(skip_serializing_if = "is_default")]
    pub duplicate: f64,
    /// Bits a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// The largest IP packet in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// Losses that come together (Gilbert's model).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Burst {
    /// How much of the time is bad, in percent.
    pub bad: f64,
    /// How many packets a bad time lasts on average.
    pub length: f64,
    /// Loss in a bad time, in percent; all of it unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
}

/// A host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Host {
    /// Where its `eth0` is: a router's name or a preset's, or several, the nearest first. Nothing: on the Internet.
    #[serde(default, skip_serializing_if = "is_default")]
    pub behind: OneOrMany,
    /// Whether it has IPv4.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub ipv4: bool,
    /// Whether it has IPv6.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ipv6: bool,
    /// The link of its `eth0`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub link: Link,
    /// Interfaces beside `eth0`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interface: Vec<Interface>,
    /// Routes beside those that its interfaces bring.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub route: Vec<Route>,
    /// Policy rules beside the three that every Linux has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rule: Vec<Rule>,
    /// Kernel parameters: rp_filter, src_valid_mark.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctl: BTreeMap<String, i64>,
    /// Rules of its own packet filter, in order; what none of them matches passes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub firewall: Vec<FirewallRule>,
    /// Gateways or neighbors that do not answer ARP: addresses, `gateway`, `peer` or `server`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent_neighbor: Vec<String>,
    /// Its table of tracked connections is full.
    #[serde(default, skip_serializing_if = "is_default")]
    pub conntrack_full: bool,
    /// What its whyrelay is told.
    #[serde(default, skip_serializing_if = "is_default")]
    pub session: Session,
}

/// What an interface is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InterfaceKind {
    /// A wire.
    #[default]
    Ethernet,
    /// A VPN's device. Without `behind`, what goes in never comes out.
    Tunnel,
    /// A container bridge: a network of this host alone.
    Bridge,
}

/// A further interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Interface {
    /// Its name: eth1, wg0, docker0.
    pub name: String,
    /// What it is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: InterfaceKind,
    /// Where it leads, as for a host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub behind: OneOrMany,
    /// Its addresses with their prefixes, where the place does not give one; `peer/24` is the peer's network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<String>,
    /// Whether it has IPv6 of the place where it leads.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ipv6: bool,
    /// Whether a default route with this metric leads out of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_metric: Option<u32>,
    /// Its link.
    #[serde(default, skip_serializing_if = "is_default")]
    pub link: Link,
}

/// What a route does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RouteKind {
    /// Leads somewhere.
    #[default]
    Unicast,
    /// Drops without a word: EINVAL.
    Blackhole,
    /// EHOSTUNREACH.
    Unreachable,
    /// EACCES.
    Prohibit,
    /// Ends this table's lookup.
    Throw,
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Route {
    /// Where to: a network, `default`, `default6`, or `peer`, `peer-host`, `server` with or without a prefix length.
    pub to: String,
    /// What it does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: RouteKind,
    /// The device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<String>,
    /// The gateway: an address, or `gateway` for the device's own router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// The source address that it prefers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<String>,
    /// The table: main unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// The lesser wins.
    #[serde(default, skip_serializing_if = "is_default")]
    pub metric: u32,
    /// The largest IP packet in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// What a policy rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuleAction {
    /// Looks in a table.
    #[default]
    Lookup,
    /// EINVAL.
    Blackhole,
    /// ENETUNREACH.
    Unreachable,
    /// EACCES.
    Prohibit,
}

/// A policy rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rule {
    /// The lesser is asked first.
    pub priority: u32,
    /// It matches what its selectors do not match.
    #[serde(default, skip_serializing_if = "is_default")]
    pub not: bool,
    /// Sources: a network or an interface's own address, `address-of eth1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Destinations, as for a route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fwmark: Option<Mark>,
    /// The device that the socket is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oif: Option<String>,
    /// The device it came in by; `lo` is this host's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iif: Option<String>,
    /// udp or tcp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipproto: Option<Protocol>,
    /// Source ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sport: Option<Span32>,
    /// Destination ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dport: Option<Span32>,
    /// User ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uidrange: Option<Span32>,
    /// What it does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub action: RuleAction,
    /// The table it looks in: main is 254.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Routes with a prefix of at most this length do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suppress_prefixlength: Option<u8>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// Where a packet filter's rule sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// Before routing, ahead of connection tracking.
    Prerouting,
    /// To this host.
    Input,
    /// From this host.
    Output,
}

/// What a packet filter's rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Passes.
    Accept,
    /// Goes.
    Drop,
    /// Goes, and the sender is told: administratively prohibited on input, port unreachable on output.
    Reject,
    /// Has its mark changed; on output it is then routed again.
    SetMark,
}

/// A rule of a host's packet filter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FirewallRule {
    /// Where.
    pub hook: Hook,
    /// What it does.
    pub verdict: Verdict,
    /// The mark that it sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
    /// Only packets with this mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fwmark: Option<Mark>,
    /// udp or tcp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipproto: Option<Protocol>,
    /// Sources, as a route's destinations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Destinations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Source ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sport: Option<Span32>,
    /// Destination ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dport: Option<Span32>,
    /// The device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<String>,
    /// Only packets that belong to no connection that this host began.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unsolicited: bool,
}

/// What a host's whyrelay is told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Session {
    /// The port of its sockets: 40000 for a, 40001 for b unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The mark of its sockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
    /// The user it runs as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Relayed candidates only.
    #[serde(skip_serializing_if = "is_default")]
    pub relay_only: bool,
    /// No TURN at all.
    #[serde(skip_serializing_if = "is_default")]
    pub no_turn: bool,
    /// RFC 8445's own schedule.
    #[serde(skip_serializing_if = "is_default")]
    pub patient: bool,
    /// When it starts.
    #[serde(skip_serializing_if = "is_default")]
    pub starts: Span,
}

/// The server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Server {
    /// Whether it answers STUN and TURN at all.
    #[serde(skip_serializing_if = "is_yes")]
    pub answers: bool,
    /// Whether it is a TURN server.
    #[serde(skip_serializing_if = "is_yes")]
    pub turn: bool,
    /// Whether it serves UDP.
    #[serde(skip_serializing_if = "is_yes")]
    pub udp: bool,
    /// Whether it serves TURN over TCP.
    #[serde(skip_serializing_if = "is_yes")]
    pub tcp: bool,
    /// IPv6 too.
    #[serde(skip_serializing_if = "is_yes")]
    pub ipv6: bool,
    /// A wrong relayed address that it announces, as a server behind a NAT does that does not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_address: Option<std::net::IpAddr>,
    /// What the peers' credentials are like.
    #[serde(skip_serializing_if = "is_default")]
    pub credentials: Credentials,
    /// Its relayed ports are closed to everybody by a firewall.
    #[serde(skip_serializing_if = "is_default")]
    pub relay_ports_closed: bool,
    /// Its TLS certificate: the peers use TURN over TLS when this is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
    /// It answers after this long.
    #[serde(skip_serializing_if = "is_default")]
    pub answers_after: Span,
    /// Its link.
    #[serde(skip_serializing_if = "is_default")]
    pub link: Link,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            answers: true,
            turn: true,
            udp: true,
            tcp: true,
            ipv6: true,
            relay_address: None,
            credentials: Credentials::Right,
            relay_ports_closed: false,
            certificate: None,
            answers_after: Span::default(),
            link: Link::default(),
        }
    }
}

/// What TURN credentials are like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Credentials {
    /// As the server wants them.
    #[default]
    Right,
    /// A wrong password.
    Wrong,
    /// Of the kind that carries its end, which is past.
    Expired,
    /// None.
    Missing,
}

/// What a TLS certificate is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Certificate {
    /// By an authority that the peers trust.
    Good,
    /// By nobody they know.
    SelfSigned,
    /// Past.
    Expired,
    /// For another name.
    WrongName,
}

/// What signaling does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Signaling {
    /// How messages of a fare.
    #[serde(skip_serializing_if = "is_default")]
    pub a: SignalingFaults,
    /// How messages of b fare.
    #[serde(skip_serializing_if = "is_default")]
    pub b: SignalingFaults,
}

/// How one side's messages fare.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SignalingFaults {
    /// How long messages take: 20ms unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
    /// How much longer candidates take.
    #[serde(skip_serializing_if = "is_default")]
    pub candidates_delay: Span,
    /// Candidates are lost, end-of-candidates too.
    #[serde(skip_serializing_if = "is_default")]
    pub lose_candidates: bool,
    /// Everything is lost.
    #[serde(skip_serializing_if = "is_default")]
    pub lose_all: bool,
}

/// What must come out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Expect {
    /// The path.
    pub path: Path,
    /// The best that these networks allow, as the account says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Path>,
    /// Findings of severity error or warning that must be there. None: nothing may be wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finding: Vec<Finding>,
    /// Findings that may be there when none must.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// The NAT behavior that a stranger discovers from a host's place.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nat: BTreeMap<String, Discovered>,
}

impl Default for Expect {
    fn default() -> Self {
        Self { path: Path::Direct, expected: None, finding: Vec::new(), also: Vec::new(), nat: BTreeMap::new() }
    }
}

/// How the peers are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Path {
    /// From host to host.
    Direct,
    /// By a relay.
    Relayed,
    /// Not at all.
    Failed,
}

/// A finding that must be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Finding {
    /// Its code or its name.
    pub name: String,
    /// Whose fault it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blame: Option<Blame>,
    /// Whether it must come before all others.
    #[serde(default, skip_serializing_if = "is_default")]
    pub first: bool,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Blame {
    /// Side a.
    A,
    /// Side b.
    B,
    /// Both sides.
    Both,
    /// The server.
    Relay,
    /// Signaling.
    Signaling,
    /// Between the two.
    Path,
}

/// What is discovered of a NAT (RFC 5780).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Discovered {
    /// Whether UDP gets out and back at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<bool>,
    /// Which destinations share a mapping.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BehaviorName>")]
    pub mapping: Option<MappingBehavior>,
    /// Who is let in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BehaviorName>")]
    pub filtering: Option<FilteringBehavior>,
    /// Whether a host reaches its own mapped address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hairpinning: Option<bool>,
    /// Whether the port outside is the one inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_preservation: Option<bool>,
}

/// For the schema: the words of RFC 4787, whose types are the core's.
#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only its schema is used")]
enum BehaviorName {
    EndpointIndependent,
    AddressDependent,
    AddressAndPortDependent,
}

#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only its schema is used")]
enum PortAllocationName {
    Preserving,
    Random,
    Sequential,
    Hash,
    Contiguous { block: u16 },
}

#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only its schema is used")]
enum PoolingName {
    Paired,
    Arbitrary,
}

#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only its schema is used")]
enum RefreshName {
    Outbound,
    Both,
}

#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only its schema is used")]
enum HairpinningName {
    Unsupported,
    ExternalSource,
    InternalSource,
}

#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only its schema is used")]
enum UnsolicitedName {
    Dropped,
    Tracked,
}
