//! Interfaces, addresses, routes, policy rules, neighbors.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Prefix {
    /// Its first address.
    pub address: IpAddr,
    /// Its length in bits.
    pub length: u8,
}

impl Prefix {
    /// One address alone.
    pub const fn host(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let shift = |bits: u32| bits.saturating_sub(u32::from(self.length));
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (u32::from(own) ^ u32::from(other)).checked_shr(shift(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (u128::from(own) ^ u128::from(other)).checked_shr(shift(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// The first letters of names of interfaces that lead to a host's own guests: containers and virtual machines.
const GUESTS: [&str; 12] =
    ["docker", "br-", "veth", "virbr", "cni", "cilium", "cali", "flannel", "lxc", "lxd", "podman", "vnet"];

/// Whether an interface leads to the host's own guests, as far as its name tells.
pub fn leads_to_guests(interface: &str) -> bool {
    GUESTS.iter().any(|prefix| interface.starts_with(prefix))
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its name.
    pub device: String,
    /// Its index.
    pub index: u32,
    /// Its kind as the kernel names it: `veth`, `bridge`, `wireguard`, `tun`, `vlan` …; `None` for hardware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_kind: Option<String>,
    /// Whether it is the loopback interface.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub loopback: bool,
    /// Whether it is set up.
    pub up: bool,
    /// Whether it has a carrier.
    pub running: bool,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The bridge, bond or VRF that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// Of a VRF: the table in which its interfaces' packets are looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vrf_table: Option<u32>,
}

impl Link {
    /// Whether it is up and has a carrier.
    pub const fn works(&self) -> bool {
        self.up && self.running
    }

    /// Whether packets that leave by it go into a tunnel, by its kind or, for drivers without one, by its name.
    ///
    /// Linux calls TUN and TAP devices alike `tun`. A TAP is an Ethernet, which has a hardware address; it may well be
    /// a virtual machine's or a container's uplink, so that only its name can tell.
    pub fn is_tunnel(&self) -> bool {
        const KINDS: [&str; 16] = [
            "wireguard",
            "tun",
            "ipip",
            "sit",
            "gre",
            "gretap",
            "ip6tnl",
            "ip6gre",
            "vti",
            "vti6",
            "xfrm",
            "vxlan",
            "geneve",
            "ppp",
            "amneziawg",
            "ovpn",
        ];
        const NAMES: [&str; 8] = ["wg", "wt", "tun", "utun", "tailscale", "zt", "ppp", "tap"];
        const LAYER_2: [&str; 8] = ["tap", "zt", "vpn", "ovpn", "tun", "wg", "wt", "tailscale"];
        match &self.link_kind {
            Some(kind) if kind == "tun" && self.mac.is_some() => {
                LAYER_2.iter().any(|name| self.device.starts_with(name))
            }
            Some(kind) => KINDS.contains(&kind.as_str()),
            None => NAMES.iter().any(|name| {
                self.device.strip_prefix(name).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
            }),
        }
    }

    /// Whether it is one of the virtual interfaces of containers and virtual machines.
    pub fn is_virtual_bridge(&self) -> bool {
        self.link_kind.as_deref().is_some_and(|kind| matches!(kind, "bridge" | "veth" | "macvlan" | "ipvlan" | "dummy"))
    }
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The interface.
    pub device: String,
    /// The address.
    pub address: IpAddr,
    /// The length of its network's prefix, in bits.
    pub prefix_length: u8,
    /// Its scope: `global`, `link`, `host` …
    pub scope: String,
    /// Its flags: `temporary`, `deprecated`, `tentative`, `dadfailed`, `secondary`, `permanent` …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
}

/// What a route does with a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteKind {
    /// Sends it on.
    Unicast,
    /// Delivers it here.
    Local,
    /// Broadcasts it.
    Broadcast,
    /// Sends it to a group.
    Multicast,
    /// Drops it: `sendto` says EINVAL.
    Blackhole,
    /// Refuses it: EHOSTUNREACH.
    Unreachable,
    /// Refuses it: EACCES.
    Prohibit,
    /// Leaves it to the next rule.
    Throw,
    /// Something else.
    Other,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Its table: 254 main, 255 local, 253 default.
    pub table: u32,
    /// What it covers.
    pub destination: Prefix,
    /// What it does.
    pub route_kind: RouteKind,
    /// The interface that it leaves by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The source that it prefers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_source: Option<IpAddr>,
    /// Its metric; less is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// Its MTU, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Where there are several next hops: those beside the first. By which one a packet goes the kernel says of each
    /// flow ([`HostFact::RouteAnswer`](super::HostFact::RouteAnswer)).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_hops: Vec<NextHop>,
    /// The number of the next hop object that it uses (`ip nexthop`), if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop_object: Option<u32>,
}

/// One of several next hops of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// The interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// What a policy rule does with a packet that it selects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleAction {
    /// Looks its table up.
    Lookup,
    /// Goes on at another rule.
    Goto,
    /// Does nothing.
    Nop,
    /// Drops it: EINVAL.
    Blackhole,
    /// Refuses it: ENETUNREACH.
    Unreachable,
    /// Refuses it: EACCES.
    Prohibit,
    /// Something else.
    Other,
}

/// A policy rule (`ip rule`) with every selector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Its priority; less comes first.
    pub priority: u32,
    /// What it does.
    pub rule_action: RuleAction,
    /// The table that it looks up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Whether it selects what its selectors do not match.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub invert: bool,
    /// Source addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Prefix>,
    /// Destination addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Prefix>,
    /// The interface that the packet came by; `lo` means sent by this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_device: Option<String>,
    /// The interface that the socket is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_device: Option<String>,
    /// The firewall mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// The bits of the mark that count; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<u32>,
    /// User ids, first and last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<(u32, u32)>,
    /// The IP protocol: 17 UDP, 6 TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// Source ports, first and last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ports: Option<(u16, u16)>,
    /// Destination ports, first and last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_ports: Option<(u16, u16)>,
    /// DSCP or TOS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tos: Option<u8>,
    /// Routes with a prefix of at most this length are ignored (`suppress_prefixlength`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suppress_prefix_length: Option<u32>,
    /// The rule that it goes on at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goto: Option<u32>,
    /// Whether it looks up the table of the packet's VRF.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub l3mdev: bool,
    /// Who installed it, as the kernel's protocol number says; `None`: the user or not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<u8>,
}

impl PolicyRule {
    /// A rule without any selector, that looks up `table`.
    pub const fn lookup(family: Family, priority: u32, table: u32) -> Self {
        Self {
            family,
            priority,
            rule_action: RuleAction::Lookup,
            table: Some(table),
            invert: false,
            from: None,
            to: None,
            in_device: None,
            out_device: None,
            mark: None,
            mask: None,
            users: None,
            protocol: None,
            source_ports: None,
            destination_ports: None,
            tos: None,
            suppress_prefix_length: None,
            goto: None,
            l3mdev: false,
            origin: None,
        }
    }
}

/// The state of a neighbor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NeighborState {
    /// Being asked for.
    Incomplete,
    /// Known.
    Reachable,
    /// Known some time ago.
    Stale,
    /// Being confirmed.
    Delay,
    /// Being asked again.
    Probe,
    /// It did not answer.
    Failed,
    /// Needs no resolution.
    NoArp,
    /// Set by hand.
    Permanent,
    /// Something else.
    Other,
}

/// A neighbor (ARP, NDP).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbor {
    /// The interface.
    pub device: String,
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its state.
    pub neighbor_state: NeighborState,
}
