//! What a rule of nftables compares: a field, its mask and a value, in nft's words, and whether it holds for a packet.

use std::net::{IpAddr, SocketAddr};

use super::netlink::big_endian;
use super::nft_field::{Field, Kind, Order, bits};

/// A packet of the session as a rule would see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) protocol: u8,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
}

/// A comparison of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) field: Field,
    pub(super) mask: Option<Vec<u8>>,
    pub(super) order: Order,
    pub(super) comparison: Comparison,
    pub(super) value: Vec<u8>,
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

impl Condition {
    /// Whether it holds for a packet; `None`: that cannot be known here.
    pub(super) fn holds(&self, packet: &Packet) -> Option<bool> {
        let mut value = of_packet(&self.field, packet)?;
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

    /// The number that the field must be, where it must be one.
    pub(super) fn required(&self) -> Option<u64> {
        (self.comparison == Comparison::Equal && self.mask.is_none()).then(|| self.number(&self.value))?
    }

    /// As nft lists it; `transport`: what the transport header is.
    pub(super) fn words(&self, transport: Option<&str>) -> String {
        if let (Field::Ports, Comparison::Equal, None, Some((source, destination))) =
            (&self.field, self.comparison, &self.mask, self.value.split_at_checked(2))
        {
            let port = |source, value: &[u8]| {
                let field = Field::Port { source };
                format!("{} {}", field.words(transport), field.value(value, transport))
            };
            return format!("{} {}", port(true, source), port(false, destination));
        }
        let (field, sign) = (self.field.words(transport), self.sign());
        let short = if self.comparison == Comparison::Equal { String::new() } else { format!("{sign} ") };
        let value = self.value_words(transport);
        let kind = self.field.kind(transport);
        if let Field::Address { ipv6, length, .. } = self.field {
            let whole = if ipv6 { 128 } else { 32 };
            // A prefix of whole bytes is loaded without the rest.
            let prefix = match &self.mask {
                Some(mask) => mask.iter().map(|byte| byte.count_ones()).sum(),
                None => u32::try_from(length * 8).unwrap_or(whole),
            };
            let prefix = if prefix == whole { String::new() } else { format!("/{prefix}") };
            return format!("{field} {short}{value}{prefix}");
        }
        let Some(mask) = &self.mask else { return format!("{field} {short}{value}") };
        let none = self.value.iter().all(|byte| *byte == 0);
        match (kind, self.number(mask)) {
            (Kind::Dscp, Some(0xfc)) => format!("{field} {short}{value}"),
            (Kind::Bits(names), Some(mask)) if none && bits(names, mask).is_some() => {
                let any = if self.comparison == Comparison::Unequal { "" } else { "! " };
                format!("{field} {any}{}", bits(names, mask).unwrap_or_default())
            }
            (Kind::Bits(names), Some(mask)) if bits(names, mask).is_some() => {
                format!("{field} {value} / {}", bits(names, mask).unwrap_or_default())
            }
            (Kind::Number, Some(mask)) => format!("{field} & {mask} {sign} {value}"),
            _ => format!("{field} & {} {sign} {value}", self.field.value(&self.as_read(mask), transport)),
        }
    }

    /// A range: this is its beginning, and the other its end; `None`: they are two things.
    pub(super) fn range_words(&self, end: &Self, transport: Option<&str>) -> Option<String> {
        let both = (self.comparison, end.comparison) == (Comparison::GreaterOrEqual, Comparison::LessOrEqual);
        (both && self.field == end.field && self.mask.is_none() && end.mask.is_none()).then(|| {
            let field = self.field.words(transport);
            format!("{field} {}-{}", self.value_words(transport), end.value_words(transport))
        })
    }

    const fn sign(&self) -> &'static str {
        match self.comparison {
            Comparison::Equal => "==",
            Comparison::Unequal => "!=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
        }
    }

    pub(super) fn value_words(&self, transport: Option<&str>) -> String {
        let name = matches!(self.field.kind(transport), Kind::Interface);
        let bytes = if name { self.value.clone() } else { self.as_read(&self.value) };
        self.field.value(&bytes, transport)
    }

    fn number(&self, bytes: &[u8]) -> Option<u64> {
        big_endian(&self.as_read(bytes))
    }

    /// The bytes as people read them, the highest first.
    fn as_read(&self, bytes: &[u8]) -> Vec<u8> {
        as_read(bytes, self.order)
    }
}

/// The bytes of a number as people read them, the highest first.
pub(super) fn as_read(bytes: &[u8], order: Order) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if order == Order::Host && cfg!(target_endian = "little") {
        bytes.reverse();
    }
    bytes
}

/// The value of a field in a packet, in network order; `None`: not known.
fn of_packet(field: &Field, packet: &Packet) -> Option<Vec<u8>> {
    let (source, destination) = (packet.source, packet.destination);
    Some(match field {
        Field::Address { source: from, ipv6, length } => {
            let bytes = match if *from { source.ip() } else { destination.ip() } {
                IpAddr::V4(ip) if !ipv6 => ip.octets().to_vec(),
                IpAddr::V6(ip) if *ipv6 => ip.octets().to_vec(),
                _ => Vec::new(),
            };
            bytes.get(..*length).map(<[u8]>::to_vec).unwrap_or_default()
        }
        Field::Protocol { .. } => vec![packet.protocol],
        Field::Port { source: from } => if *from { source } else { destination }.port().to_be_bytes().to_vec(),
        Field::Ports => [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat(),
        // NFPROTO_IPV4 and NFPROTO_IPV6.
        Field::Family => vec![if source.is_ipv4() { 2 } else { 10 }],
        Field::EtherType => if source.is_ipv4() { 0x0800_u16 } else { 0x86dd }.to_be_bytes().to_vec(),
        Field::Transport { .. } | Field::Other { .. } => return None,
    })
}
