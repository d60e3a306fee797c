//! What a rule of nftables compares: a field, its mask and a value, in nft's words, and whether it holds for a packet.

use std::net::{IpAddr, SocketAddr};

use super::netlink::{big_endian, text};

/// A packet of the session as a rule would see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) protocol: u8,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
}

/// A comparison of a field that is known of our packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) field: Field,
    pub(super) mask: Option<Vec<u8>>,
    pub(super) order: Order,
    pub(super) comparison: Comparison,
    pub(super) value: Vec<u8>,
}

/// How the bytes of a number stand in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The host's: what the kernel itself keeps, like marks, users and states.
    Host,
    /// The network's: what stands in a packet.
    Network,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Source(u32),
    Destination(u32),
    Protocol,
    SourcePort,
    DestinationPort,
    Family,
    /// Nothing that is known of our packets, with its words.
    Other(String),
}

impl Condition {
    /// Whether it holds for a packet; `None`: that cannot be known here.
    pub(super) fn holds(&self, packet: &Packet) -> Option<bool> {
        let mut value = self.field.of(packet)?;
        // An address of the other family makes nft's own family check fail, which comes before.
        if value.len() != self.value.len() {
            return Some(false);
        }
        if let Some(mask) = &self.mask {
            value.iter_mut().zip(mask).for_each(|(byte, mask)| *byte &= mask);
        }
        Some(match self.comparison {
            Comparison::Equal => value == self.value,
            Comparison::Unequal => value != self.value,
            Comparison::Less => value < self.value,
            Comparison::LessOrEqual => value <= self.value,
            Comparison::Greater => value > self.value,
            Comparison::GreaterOrEqual => value >= self.value,
        })
    }

    /// As nft lists it.
    pub(super) fn words(&self) -> String {
        let field = self.field.words();
        let sign = match self.comparison {
            Comparison::Equal => "==",
            Comparison::Unequal => "!=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
        };
        let short = if self.comparison == Comparison::Equal { String::new() } else { format!("{sign} ") };
        let value = self.value_words();
        let Some(mask) = &self.mask else { return format!("{field} {short}{value}") };
        if let Field::Source(_) | Field::Destination(_) = &self.field {
            let length: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
            return format!("{field} {short}{value}/{length}");
        }
        match self.states() {
            Some(states) => format!("{field} {states}"),
            None => format!("{field} & 0x{} {sign} {value}", self.hexadecimal(mask)),
        }
    }

    /// The names of the states of which one must be there; `None`: it does not ask for that.
    fn states(&self) -> Option<String> {
        let Field::Other(words) = &self.field else { return None };
        let names: &[(u64, &str)] = match words.as_str() {
            "ct state" => &STATES,
            "ct status" => &STATUSES,
            _ => return None,
        };
        let any = self.comparison == Comparison::Unequal && self.value.iter().all(|byte| *byte == 0);
        let mask = any.then(|| self.number(self.mask.as_ref()?)).flatten()?;
        let known = names.iter().fold(0, |known, (bit, _)| known | bit);
        let set: Vec<&str> = names.iter().filter(|(bit, _)| mask & bit != 0).map(|(_, name)| *name).collect();
        (!set.is_empty() && mask & !known == 0).then(|| set.join(","))
    }

    fn value_words(&self) -> String {
        let value = &self.value;
        let number = || self.number(value).map_or_else(|| hexadecimal(value), |number| number.to_string());
        match &self.field {
            Field::Source(_) | Field::Destination(_) => {
                let mut bytes = value.clone();
                let whole = if bytes.len() <= 4 { 4 } else { 16 };
                bytes.resize(whole, 0);
                match (bytes.first_chunk::<4>(), bytes.first_chunk::<16>()) {
                    (_, Some(v6)) => IpAddr::from(*v6).to_string(),
                    (Some(v4), _) => IpAddr::from(*v4).to_string(),
                    _ => hexadecimal(value),
                }
            }
            Field::Protocol | Field::SourcePort | Field::DestinationPort | Field::Family => number(),
            Field::Other(words) => match words.as_str() {
                "iifname" | "oifname" => text(value),
                "meta skuid" | "meta skgid" | "meta length" | "iif" | "oif" => number(),
                _ => format!("0x{}", self.hexadecimal(value)),
            },
        }
    }

    fn number(&self, bytes: &[u8]) -> Option<u64> {
        big_endian(&self.as_read(bytes))
    }

    fn hexadecimal(&self, bytes: &[u8]) -> String {
        hexadecimal(&self.as_read(bytes))
    }

    /// The bytes as people read them, the highest first.
    fn as_read(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        if self.order == Order::Host && cfg!(target_endian = "little") {
            bytes.reverse();
        }
        bytes
    }
}

/// `ct state` as nft names its bits (`NF_CT_STATE_BIT` of linux/netfilter/nf_conntrack_common.h).
const STATES: [(u64, &str); 5] = [(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")];

/// `enum ip_conntrack_status`, those that rules ask for.
const STATUSES: [(u64, &str); 6] =
    [(1, "expected"), (2, "seen-reply"), (4, "assured"), (8, "confirmed"), (16, "snat"), (32, "dnat")];

impl Field {
    /// How its bytes stand in a register when they were just read.
    pub(super) fn order(&self) -> Order {
        match self {
            // `NFT_META_PROTOCOL` alone of the numbers of `meta` is of the packet.
            Self::Other(words) if words.starts_with('@') || words == "meta 1" => Order::Network,
            Self::Other(_) => Order::Host,
            _ => Order::Network,
        }
    }

    /// Its value in a packet, in network order; `None`: not known.
    fn of(&self, packet: &Packet) -> Option<Vec<u8>> {
        let address = |ip: IpAddr, length: u32| {
            let bytes = match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            bytes.get(..length as usize).map(<[u8]>::to_vec).or(Some(bytes))
        };
        match self {
            Self::Source(length) => address(packet.source.ip(), *length),
            Self::Destination(length) => address(packet.destination.ip(), *length),
            Self::Protocol => Some(vec![packet.protocol]),
            Self::SourcePort => Some(packet.source.port().to_be_bytes().to_vec()),
            Self::DestinationPort => Some(packet.destination.port().to_be_bytes().to_vec()),
            // NFPROTO_IPV4 and NFPROTO_IPV6.
            Self::Family => Some(vec![if packet.source.is_ipv4() { 2 } else { 10 }]),
            Self::Other(_) => None,
        }
    }

    pub(super) fn words(&self) -> String {
        match self {
            Self::Source(16) => "ip6 saddr".into(),
            Self::Destination(16) => "ip6 daddr".into(),
            Self::Source(_) => "ip saddr".into(),
            Self::Destination(_) => "ip daddr".into(),
            Self::Protocol => "meta l4proto".into(),
            Self::SourcePort => "th sport".into(),
            Self::DestinationPort => "th dport".into(),
            Self::Family => "meta nfproto".into(),
            Self::Other(words) => words.clone(),
        }
    }
}

/// `NFT_META_MARK`.
pub(super) const MARK: u64 = 3;

pub(super) fn meta(key: u64) -> Field {
    match key {
        15 => Field::Family,
        16 => Field::Protocol,
        MARK => Field::Other("meta mark".into()),
        6 => Field::Other("iifname".into()),
        7 => Field::Other("oifname".into()),
        4 => Field::Other("iif".into()),
        5 => Field::Other("oif".into()),
        10 => Field::Other("meta skuid".into()),
        0 => Field::Other("meta length".into()),
        2 => Field::Other("meta priority".into()),
        11 => Field::Other("meta skgid".into()),
        key => Field::Other(format!("meta {key}")),
    }
}

pub(super) fn payload(base: u64, offset: u64, length: u64) -> Field {
    let bytes = u32::try_from(length).unwrap_or(0);
    match (base, offset, length) {
        (1, 12, 1..=4) => Field::Source(bytes),
        (1, 16, 1..=4) => Field::Destination(bytes),
        (1, 8, 5..=16) => Field::Source(bytes),
        (1, 24, 5..=16) => Field::Destination(bytes),
        (1, 9, 1) => Field::Protocol,
        (2, 0, 2) => Field::SourcePort,
        (2, 2, 2) => Field::DestinationPort,
        _ => Field::Other(format!("@{base},{offset},{length}")),
    }
}

pub(super) fn ct(key: u64) -> &'static str {
    match key {
        0 => "state",
        1 => "direction",
        2 => "status",
        3 => "mark",
        _ => "key",
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
