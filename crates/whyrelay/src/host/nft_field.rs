//! What an expression of nftables loads, in nft's words, and how its values are written.

use std::net::IpAddr;

use super::netlink::{big_endian, text};

/// Something that a rule looks at or sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// The first bytes of an address of the packet, so many of them.
    Address { source: bool, ipv6: bool, length: usize },
    /// The transport protocol; in the IPv4 header or not.
    Protocol { in_header: bool },
    /// A port.
    Port { source: bool },
    /// NFPROTO_IPV4 or NFPROTO_IPV6.
    Family,
    /// The protocol of the link layer: 0x0800 and the like.
    EtherType,
    /// Another number of the transport header, its name without the protocol's.
    Transport { name: &'static str, kind: Kind, length: usize },
    /// Both ports at once.
    Ports,
    /// Anything else: its words, and how its values are written.
    Other { words: String, kind: Kind, order: Order },
}

/// How the bytes of a number stand in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The host's: what the kernel itself keeps, like marks, users and states.
    Host,
    /// The network's: what stands in a packet.
    Network,
}

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// As a decimal number.
    Number,
    /// As eight or more hexadecimal digits.
    Hexadecimal,
    /// The name of an interface, or how it begins.
    Interface,
    /// The number of an interface.
    Index,
    /// A hardware address.
    Hardware,
    /// The upper six bits of a byte.
    Dscp,
    /// Names of numbers.
    Named(&'static [(u64, &'static str)]),
    /// Names of bits.
    Bits(&'static [(u64, &'static str)]),
}

/// `NFT_META_MARK`.
pub(super) const MARK: u64 = 3;

pub(super) fn meta(key: u64) -> Field {
    let other = |words: &str, kind| Field::Other { words: words.to_owned(), kind, order: Order::Host };
    // enum nft_meta_keys of linux/netfilter/nf_tables.h.
    match key {
        0 => other("meta length", Kind::Number),
        1 => Field::EtherType,
        2 => other("meta priority", Kind::Hexadecimal),
        MARK => other("meta mark", Kind::Hexadecimal),
        4 => other("iif", Kind::Index),
        5 => other("oif", Kind::Index),
        6 => other("iifname", Kind::Interface),
        7 => other("oifname", Kind::Interface),
        8 => other("iiftype", Kind::Named(&[(1, "ether"), (772, "loopback"), (65_534, "none")])),
        9 => other("oiftype", Kind::Named(&[(1, "ether"), (772, "loopback"), (65_534, "none")])),
        10 => other("meta skuid", Kind::Number),
        11 => other("meta skgid", Kind::Number),
        12 => other("meta nftrace", Kind::Number),
        15 => Field::Family,
        16 => Field::Protocol { in_header: false },
        17 => other("meta ibrname", Kind::Interface),
        18 => other("meta obrname", Kind::Interface),
        19 => other("meta pkttype", Kind::Named(&PACKET_TYPES)),
        20 => other("meta cpu", Kind::Number),
        21 => other("iifgroup", Kind::Number),
        22 => other("oifgroup", Kind::Number),
        23 => other("meta cgroup", Kind::Number),
        26 => other("meta iifkind", Kind::Interface),
        27 => other("meta oifkind", Kind::Interface),
        34 => other("meta sdifname", Kind::Interface),
        key => other(&format!("meta {key}"), Kind::Hexadecimal),
    }
}

/// Something of the connection, in a direction where one is said.
pub(super) fn ct(key: u64, direction: Option<u64>) -> Field {
    // enum nft_ct_keys.
    let (name, kind) = match key {
        0 => ("state", Kind::Bits(&STATES)),
        1 => ("direction", Kind::Named(&[(0, "original"), (1, "reply")])),
        2 => ("status", Kind::Bits(&STATUSES)),
        3 => ("mark", Kind::Hexadecimal),
        5 => ("expiration", Kind::Number),
        6 => ("helper", Kind::Interface),
        7 => ("l3proto", Kind::Named(&FAMILIES)),
        8 => ("saddr", Kind::Hexadecimal),
        9 => ("daddr", Kind::Hexadecimal),
        10 => ("protocol", Kind::Named(&PROTOCOLS)),
        11 => ("proto-src", Kind::Number),
        12 => ("proto-dst", Kind::Number),
        13 => ("label", Kind::Hexadecimal),
        14 => ("packets", Kind::Number),
        15 => ("bytes", Kind::Number),
        16 => ("avgpkt", Kind::Number),
        17 => ("zone", Kind::Number),
        19 => ("ip saddr", Kind::Hexadecimal),
        20 => ("ip daddr", Kind::Hexadecimal),
        21 => ("ip6 saddr", Kind::Hexadecimal),
        22 => ("ip6 daddr", Kind::Hexadecimal),
        23 => ("id", Kind::Number),
        _ => ("key", Kind::Hexadecimal),
    };
    let direction = match direction {
        Some(0) => "original ",
        Some(1) => "reply ",
        _ => "",
    };
    let order = if matches!(key, 8 | 9 | 11 | 12 | 19..=22) { Order::Network } else { Order::Host };
    Field::Other { words: format!("ct {direction}{name}"), kind, order }
}

/// Something of the packet. `ipv6`: which network header it is, where that is known.
pub(super) fn payload(base: u64, offset: u64, length: u64, ipv6: Option<bool>) -> Field {
    let bytes = usize::try_from(length).unwrap_or(0);
    let number = |words: &str, kind| Field::Other { words: words.to_owned(), kind, order: Order::Network };
    let address = |source, ipv6| Field::Address { source, ipv6, length: bytes };
    match (base, offset, length, ipv6) {
        (0, 0, 6, _) => number("ether daddr", Kind::Hardware),
        (0, 6, 6, _) => number("ether saddr", Kind::Hardware),
        (1, 8, 5..=16, None) | (1, 8, 2..=16, Some(true)) => address(true, true),
        (1, 24, 5..=16, None) | (1, 24, 1..=16, Some(true)) => address(false, true),
        (1, 6, 1, Some(true)) => number("ip6 nexthdr", Kind::Named(&PROTOCOLS)),
        (1, 7, 1, Some(true)) => number("ip6 hoplimit", Kind::Number),
        (1, 12, 1..=4, None | Some(false)) => address(true, false),
        (1, 16, 1..=4, None | Some(false)) => address(false, false),
        (1, 9, 1, None | Some(false)) => Field::Protocol { in_header: true },
        (1, 8, 1, None | Some(false)) => number("ip ttl", Kind::Number),
        (1, 1, 1, None | Some(false)) => number("ip dscp", Kind::Dscp),
        (1, 2, 2, None | Some(false)) => number("ip length", Kind::Number),
        (1, 4, 2, None | Some(false)) => number("ip id", Kind::Number),
        (1, 6, 2, None | Some(false)) => number("ip frag-off", Kind::Number),
        (2, 0, 4, _) => Field::Ports,
        (2, 0, 2, _) => Field::Port { source: true },
        (2, 2, 2, _) => Field::Port { source: false },
        (2, 0, 1, _) => Field::Transport { name: "type", kind: Kind::Number, length: 1 },
        (2, 1, 1, _) => Field::Transport { name: "code", kind: Kind::Number, length: 1 },
        (2, 4, 2, _) => Field::Transport { name: "length", kind: Kind::Number, length: 2 },
        (2, 13, 1, _) => Field::Transport { name: "flags", kind: Kind::Bits(&TCP_FLAGS), length: 1 },
        _ => raw(base, offset, length),
    }
}

/// Some bytes of the packet.
pub(super) fn raw(base: u64, offset: u64, length: u64) -> Field {
    let base = ["ll", "nh", "th", "ih"].get(usize::try_from(base).unwrap_or(9)).unwrap_or(&"?");
    let (offset, bits) = (offset.saturating_mul(8), length.saturating_mul(8));
    Field::Other { words: format!("@{base},{offset},{bits}"), kind: Kind::Hexadecimal, order: Order::Network }
}

impl Field {
    /// Something without a name of its own.
    pub(super) fn other(words: impl Into<String>, kind: Kind) -> Self {
        Self::Other { words: words.into(), kind, order: Order::Host }
    }

    /// How its bytes stand in a register when they were just read.
    pub(super) const fn order(&self) -> Order {
        match self {
            Self::Other { order, .. } => *order,
            _ => Order::Network,
        }
    }

    /// Its name; `transport`: what the transport header is.
    pub(super) fn words(&self, transport: Option<&str>) -> String {
        let header = transport.unwrap_or("th");
        match self {
            Self::Address { source, ipv6, .. } => {
                format!("{} {}", if *ipv6 { "ip6" } else { "ip" }, if *source { "saddr" } else { "daddr" })
            }
            Self::Protocol { in_header } => if *in_header { "ip protocol" } else { "meta l4proto" }.to_owned(),
            Self::Port { source } => format!("{header} {}", if *source { "sport" } else { "dport" }),
            Self::Ports => format!("{header} sport . {header} dport"),
            Self::Family => "meta nfproto".to_owned(),
            Self::EtherType => "meta protocol".to_owned(),
            Self::Transport { name, .. } => format!("{header} {name}"),
            Self::Other { words, .. } => words.clone(),
        }
    }

    pub(super) fn kind(&self, transport: Option<&str>) -> Kind {
        match self {
            Self::Protocol { .. } => Kind::Named(&PROTOCOLS),
            Self::Family => Kind::Named(&FAMILIES),
            Self::EtherType => Kind::Named(&[(0x0800, "ip"), (0x0806, "arp"), (0x86dd, "ip6"), (0x8100, "8021q")]),
            Self::Transport { name: "type", .. } if transport == Some("icmp") => Kind::Named(&ICMP_TYPES),
            Self::Transport { name: "type", .. } if transport == Some("icmpv6") => Kind::Named(&ICMPV6_TYPES),
            Self::Transport { kind, .. } | Self::Other { kind, .. } => *kind,
            Self::Address { .. } | Self::Port { .. } | Self::Ports => Kind::Number,
        }
    }

    /// A value of it; `bytes` in the order in which people read a number, but for names.
    pub(super) fn value(&self, bytes: &[u8], transport: Option<&str>) -> String {
        if let Self::Address { ipv6, .. } = self {
            return address(bytes, *ipv6);
        }
        let kind = self.kind(transport);
        match kind {
            Kind::Interface => return interface(bytes),
            Kind::Hardware => return bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"),
            _ => {}
        }
        let Some(number) = big_endian(bytes) else { return format!("0x{}", hexadecimal(bytes)) };
        match kind {
            Kind::Number => number.to_string(),
            Kind::Hexadecimal | Kind::Interface | Kind::Hardware => format!("0x{}", hexadecimal(bytes)),
            Kind::Index => {
                let name = u32::try_from(number).ok().and_then(|index| nix::net::if_::if_indextoname(index).ok());
                name.map_or_else(|| number.to_string(), |name| format!("\"{}\"", name.to_string_lossy()))
            }
            Kind::Dscp => dscp(number >> 2),
            Kind::Named(names) => named(names, number).unwrap_or_else(|| number.to_string()),
            Kind::Bits(names) => bits(names, number).unwrap_or_else(|| format!("0x{number:x}")),
        }
    }
}

/// The name of a protocol whose header a rule looks into, as nft begins the names of its fields.
pub(super) fn transport(protocol: u64) -> Option<&'static str> {
    match protocol {
        58 => Some("icmpv6"),
        _ => PROTOCOLS.iter().find(|(number, _)| *number == protocol).map(|(_, name)| *name),
    }
}

fn named(names: &[(u64, &str)], number: u64) -> Option<String> {
    names.iter().find(|(known, _)| *known == number).map(|(_, name)| (*name).to_owned())
}

/// The names of all bits of a number; `None`: one has none.
pub(super) fn bits(names: &[(u64, &str)], number: u64) -> Option<String> {
    let known = names.iter().fold(0, |known, (bit, _)| known | bit);
    let set: Vec<&str> = names.iter().filter(|(bit, _)| number & bit != 0).map(|(_, name)| *name).collect();
    (!set.is_empty() && number & !known == 0).then(|| set.join(","))
}

/// The name of an interface, or how it begins.
fn interface(bytes: &[u8]) -> String {
    let more = if bytes.contains(&0) { "" } else { "*" };
    format!("\"{}{more}\"", text(bytes))
}

pub(super) fn address(bytes: &[u8], ipv6: bool) -> String {
    let mut bytes = bytes.to_vec();
    bytes.resize(if ipv6 { 16 } else { 4 }, 0);
    match (bytes.first_chunk::<4>(), bytes.first_chunk::<16>()) {
        (_, Some(v6)) => IpAddr::from(*v6).to_string(),
        (Some(v4), _) => IpAddr::from(*v4).to_string(),
        _ => hexadecimal(&bytes),
    }
}

/// As RFC 2474, 2597 and 3246 name them.
fn dscp(number: u64) -> String {
    match (number >> 3, number & 7) {
        (5, 6) => "ef".to_owned(),
        (class, 0) => format!("cs{class}"),
        (class @ 1..=4, drop @ (2 | 4 | 6)) => format!("af{class}{}", drop / 2),
        _ => format!("0x{number:02x}"),
    }
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const FAMILIES: [(u64, &str); 2] = [(2, "ipv4"), (10, "ipv6")];

const PROTOCOLS: [(u64, &str); 11] = [
    (1, "icmp"),
    (2, "igmp"),
    (6, "tcp"),
    (17, "udp"),
    (33, "dccp"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (58, "ipv6-icmp"),
    (132, "sctp"),
    (136, "udplite"),
];

/// `ct state` as nft names its bits (`NF_CT_STATE_BIT` of linux/netfilter/nf_conntrack_common.h).
const STATES: [(u64, &str); 5] = [(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")];

/// `enum ip_conntrack_status`, those that rules ask for.
const STATUSES: [(u64, &str); 6] =
    [(1, "expected"), (2, "seen-reply"), (4, "assured"), (8, "confirmed"), (16, "snat"), (32, "dnat")];

const PACKET_TYPES: [(u64, &str); 4] = [(0, "host"), (1, "broadcast"), (2, "multicast"), (3, "other")];

const TCP_FLAGS: [(u64, &str); 8] =
    [(1, "fin"), (2, "syn"), (4, "rst"), (8, "psh"), (16, "ack"), (32, "urg"), (64, "ecn"), (128, "cwr")];

const ICMP_TYPES: [(u64, &str); 9] = [
    (0, "echo-reply"),
    (3, "destination-unreachable"),
    (4, "source-quench"),
    (5, "redirect"),
    (8, "echo-request"),
    (9, "router-advertisement"),
    (10, "router-solicitation"),
    (11, "time-exceeded"),
    (12, "parameter-problem"),
];

const ICMPV6_TYPES: [(u64, &str); 11] = [
    (1, "destination-unreachable"),
    (2, "packet-too-big"),
    (3, "time-exceeded"),
    (4, "parameter-problem"),
    (128, "echo-request"),
    (129, "echo-reply"),
    (133, "nd-router-solicit"),
    (134, "nd-router-advert"),
    (135, "nd-neighbor-solicit"),
    (136, "nd-neighbor-advert"),
    (137, "nd-redirect"),
];

/// The kinds of addresses that `fib` tells apart (RTN_ of linux/rtnetlink.h).
pub(super) const ADDRESS_TYPES: [(u64, &str); 8] = [
    (1, "unicast"),
    (2, "local"),
    (3, "broadcast"),
    (4, "anycast"),
    (5, "multicast"),
    (6, "blackhole"),
    (7, "unreachable"),
    (8, "prohibit"),
];
