//! One nftables rule: its expressions read into words, and whether it can touch a packet of the session.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::netlink::{attributes, big_endian, text};

/// Most expressions of a rule that are read.
const MAX_EXPRESSIONS: usize = 64;

/// A packet of the session as a rule would see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) protocol: u8,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
}

/// What a rule says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) words: Vec<String>,
    pub(super) verdict: Option<&'static str>,
    pub(super) target: Option<String>,
    pub(super) sets_mark: bool,
    /// It changes addresses or ports.
    pub(super) translates: bool,
    pub(super) packets: Option<u64>,
    pub(super) conditions: Vec<Condition>,
}

/// A comparison of a field that is known of our packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    field: Field,
    mask: Option<Vec<u8>>,
    comparison: Comparison,
    value: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Source(u32),
    Destination(u32),
    Protocol,
    SourcePort,
    DestinationPort,
    Family,
    /// Nothing that is known of our packets, with its words.
    Other(String),
}

/// What is in a register.
#[derive(Clone, Debug)]
struct Loaded {
    field: Field,
    mask: Option<Vec<u8>>,
}

impl Rule {
    /// Reads the list of expressions (`NFTA_RULE_EXPRESSIONS`).
    pub(super) fn read(expressions: &[u8]) -> Self {
        let mut rule = Self::default();
        let mut registers: BTreeMap<u64, Loaded> = BTreeMap::new();
        for (_, expression) in attributes(expressions).take(MAX_EXPRESSIONS) {
            let (mut name, mut data) = (String::new(), &[][..]);
            for (kind, value) in attributes(expression) {
                match kind {
                    1 => name = text(value),
                    2 => data = value,
                    _ => {}
                }
            }
            let fields: BTreeMap<u16, &[u8]> = attributes(data).collect();
            rule.take(&name, &fields, &mut registers);
        }
        rule
    }

    /// Whether no condition that we can judge speaks against the packet.
    pub(super) fn can_touch(&self, packet: &Packet) -> bool {
        self.conditions.iter().all(|condition| condition.holds(packet).unwrap_or(true))
    }

    fn take(&mut self, name: &str, fields: &BTreeMap<u16, &[u8]>, registers: &mut BTreeMap<u64, Loaded>) {
        let number = |kind: u16| fields.get(&kind).and_then(|value| big_endian(value));
        match name {
            "meta" => match (number(1), number(2), number(3)) {
                (Some(to), Some(key), None) => {
                    registers.insert(to, Loaded { field: meta(key), mask: None });
                }
                (None, Some(MARK), Some(_)) => {
                    self.sets_mark = true;
                    self.words.push("meta mark set".into());
                }
                (None, Some(key), Some(_)) => self.words.push(format!("meta {key} set")),
                _ => {}
            },
            "payload" => {
                let (Some(base), Some(offset), Some(length)) = (number(2), number(3), number(4)) else { return };
                match number(1) {
                    Some(to) => {
                        registers.insert(to, Loaded { field: payload(base, offset, length), mask: None });
                    }
                    None => self.words.push(format!("@{base},{offset},{length} set")),
                }
            }
            "ct" => {
                let words = number(2).map_or_else(|| "ct".into(), |key| format!("ct {}", ct_key(key)));
                match number(1) {
                    Some(to) => {
                        registers.insert(to, Loaded { field: Field::Other(words), mask: None });
                    }
                    None => self.words.push(format!("{words} set")),
                }
            }
            "bitwise" => {
                let mask = fields.get(&4).and_then(|data| data_value(data)).map(<[u8]>::to_vec);
                if let (Some(from), Some(to)) = (number(1), number(2))
                    && let Some(loaded) = registers.get(&from).cloned()
                {
                    registers.insert(to, Loaded { mask, ..loaded });
                }
            }
            "cmp" => {
                let loaded = number(1).and_then(|from| registers.get(&from).cloned());
                let value = fields.get(&3).and_then(|data| data_value(data));
                let (Some(loaded), Some(value)) = (loaded, value) else { return };
                let comparison = match number(2) {
                    Some(1) => Comparison::Unequal,
                    Some(2) => Comparison::Less,
                    Some(3) => Comparison::LessOrEqual,
                    Some(4) => Comparison::Greater,
                    Some(5) => Comparison::GreaterOrEqual,
                    _ => Comparison::Equal,
                };
                let condition = Condition { field: loaded.field, mask: loaded.mask, comparison, value: value.to_vec() };
                self.words.push(condition.words());
                self.conditions.push(condition);
            }
            "lookup" => {
                let set = fields.get(&1).map(|value| text(value)).unwrap_or_default();
                let loaded = number(2).and_then(|from| registers.get(&from));
                let what = loaded.map_or_else(|| "?".into(), |loaded| loaded.field.words());
                self.words.push(format!("{what} @{set}"));
                if fields.contains_key(&3) {
                    // A verdict map may do anything.
                    self.verdict.get_or_insert("jump");
                }
            }
            "range" => {
                let loaded = number(1).and_then(|from| registers.get(&from));
                let what = loaded.map_or_else(|| "?".into(), |loaded| loaded.field.words());
                self.words.push(format!("{what} range"));
            }
            "counter" => self.packets = number(2),
            "immediate" => self.take_immediate(fields),
            "reject" => {
                self.verdict = Some("reject");
                self.words.push("reject".into());
            }
            "queue" => {
                self.verdict = Some("queue");
                self.words.push("queue".into());
            }
            "masq" | "nat" | "redir" | "tproxy" => {
                self.translates = true;
                self.words.push(if name == "masq" { "masquerade".into() } else { name.into() });
            }
            "target" => self.take_target(&fields.get(&1).map(|value| text(value)).unwrap_or_default()),
            "match" => {
                let name = fields.get(&1).map(|value| text(value)).unwrap_or_default();
                self.words.push(format!("xt {name}"));
            }
            other => self.words.push(other.into()),
        }
    }

    fn take_immediate(&mut self, fields: &BTreeMap<u16, &[u8]>) {
        let Some(data) = fields.get(&2) else { return };
        let Some((_, verdict)) = attributes(data).find(|(kind, _)| *kind == 2) else { return };
        for (kind, value) in attributes(verdict) {
            match (kind, value.first_chunk::<4>()) {
                (1, Some(code)) => {
                    // NF_DROP and NF_ACCEPT of linux/netfilter.h, NFT_JUMP and the like of linux/nf_tables.h.
                    self.verdict = match i32::from_be_bytes(*code) {
                        0 => Some("drop"),
                        1 => Some("accept"),
                        3 => Some("queue"),
                        -3 => Some("jump"),
                        -4 => Some("goto"),
                        -5 => Some("return"),
                        _ => None,
                    };
                }
                (2, _) => self.target = Some(text(value)),
                _ => {}
            }
        }
        let words = [self.verdict, self.target.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ");
        self.words.push(words);
    }

    /// A target of iptables.
    fn take_target(&mut self, name: &str) {
        match name {
            "REJECT" => self.verdict = Some("reject"),
            "DROP" => self.verdict = Some("drop"),
            "MARK" | "CONNMARK" => self.sets_mark = true,
            "MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT" | "NETMAP" => self.translates = true,
            _ => {}
        }
        self.words.push(name.into());
    }
}

impl Condition {
    /// Whether it holds for a packet; `None`: that cannot be known here.
    fn holds(&self, packet: &Packet) -> Option<bool> {
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

    fn words(&self) -> String {
        let comparison = match self.comparison {
            Comparison::Equal => "",
            Comparison::Unequal => "!= ",
            Comparison::Less => "< ",
            Comparison::LessOrEqual => "<= ",
            Comparison::Greater => "> ",
            Comparison::GreaterOrEqual => ">= ",
        };
        let mask = self.mask.as_ref().map(|mask| match &self.field {
            Field::Source(_) | Field::Destination(_) => {
                format!("/{}", mask.iter().map(|byte| byte.count_ones()).sum::<u32>())
            }
            _ => format!(" & 0x{}", hexadecimal(mask)),
        });
        format!("{} {comparison}{}{}", self.field.words(), self.value_words(), mask.unwrap_or_default())
    }

    fn value_words(&self) -> String {
        let value = &self.value;
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
            Field::Protocol | Field::SourcePort | Field::DestinationPort | Field::Family => {
                big_endian(value).map_or_else(|| hexadecimal(value), |number| number.to_string())
            }
            Field::Other(words) if words.ends_with("name") => text(value),
            Field::Other(words) if words == "meta mark" || words == "meta skuid" => {
                // The kernel's own order.
                value.first_chunk().map_or_else(
                    || hexadecimal(value),
                    |bytes| {
                        let number = u32::from_ne_bytes(*bytes);
                        if words == "meta mark" { format!("{number:#x}") } else { number.to_string() }
                    },
                )
            }
            Field::Other(_) => format!("0x{}", hexadecimal(value)),
        }
    }
}

impl Field {
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

    fn words(&self) -> String {
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
const MARK: u64 = 3;

fn meta(key: u64) -> Field {
    match key {
        15 => Field::Family,
        16 => Field::Protocol,
        MARK => Field::Other("meta mark".into()),
        6 => Field::Other("iifname".into()),
        7 => Field::Other("oifname".into()),
        4 => Field::Other("iif".into()),
        5 => Field::Other("oif".into()),
        10 => Field::Other("meta skuid".into()),
        key => Field::Other(format!("meta {key}")),
    }
}

fn payload(base: u64, offset: u64, length: u64) -> Field {
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

fn ct_key(key: u64) -> &'static str {
    match key {
        0 => "state",
        1 => "direction",
        2 => "status",
        3 => "mark",
        _ => "key",
    }
}

/// `NFTA_DATA_VALUE` inside of nested data.
fn data_value(data: &[u8]) -> Option<&[u8]> {
    attributes(data).find(|(kind, _)| *kind == 1).map(|(_, value)| value)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
