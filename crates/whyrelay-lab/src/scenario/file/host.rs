//! Hosts: interfaces, routes, rules, firewall, and what whyrelay is told there.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::link::Link;
use super::router::OneOrMany;
use super::{is_default, is_yes, yes};
use crate::scenario::value::{Mark, Span, Span32};

/// A host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Host {
    /// Where its `eth0` is: a router's name or a preset's, or several, the nearest first. Nothing,
    /// or an empty list: on the Internet.
    #[serde(default, skip_serializing_if = "is_default")]
    pub behind: OneOrMany,
    /// Whether it has IPv4.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub ipv4: bool,
    /// Whether it has IPv6; refused where its network has none.
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
    /// Rules of its own packet filter, in order within each hook; what none of them matches passes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub firewall: Vec<FirewallRule>,
    /// Gateways or neighbors that do not answer ARP: addresses, `gateway`, `peer` or `server`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent_neighbor: Vec<String>,
    /// Its table of tracked connections is full.
    #[serde(default, skip_serializing_if = "is_default")]
    pub conntrack_full: bool,
    /// Where what its whyrelay sends carries a UDP checksum for another source address, as a raw socket's may: networks, as a
    /// route's destinations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wrong_checksum: Vec<String>,
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
    /// Its addresses with their prefixes, where the place does not give one; `peer/24` is the peer's network. Without a
    /// prefix it is alone in its network (/32, /128).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<String>,
    /// Whether it has IPv6 of the place where it leads; refused where it leads nowhere, or where that has none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ipv6: bool,
    /// Whether a default route with this metric leads out of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_metric: Option<u32>,
    /// Its link.
    #[serde(default, skip_serializing_if = "is_default")]
    pub link: Link,
}

impl Interface {
    /// Whether it leads to a router or to the Internet.
    pub(crate) fn is_plugged_in(&self) -> bool {
        let leads = !self.behind.names().is_empty();
        leads || (self.kind == InterfaceKind::Ethernet && self.address.is_empty())
    }
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
    /// Sources: a network or an interface's own address, `address-of eth1`, of the family of `to`.
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
    /// Source ports, from 1 to 65534.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sport: Option<Span32>,
    /// Destination ports, from 1 to 65534.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
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
    /// The user it runs as; another than root has a port from 1024 on, and no mark.
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
    /// Asks its router for a port mapping (`--try mapping`).
    #[serde(skip_serializing_if = "is_default")]
    pub map_port: bool,
    /// Finds out whether its NAT remembers a mapping that is silent for so long (`--lifetime`).
    #[serde(skip_serializing_if = "is_default")]
    pub silence: Span,
    /// When it starts.
    #[serde(skip_serializing_if = "is_default")]
    pub starts: Span,
}
