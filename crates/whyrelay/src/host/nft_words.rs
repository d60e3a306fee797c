//! A rule of nftables in the words in which `nft list ruleset` has it.

use std::collections::BTreeMap;

use super::netlink::{big_endian, text};
use super::nft_condition::Condition;
use super::nft_field::{Field, transport};

/// A part of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A comparison.
    Match(Condition),
    /// Fields that are looked up, and what that is written as behind them.
    Lookup(Vec<Field>, String),
    /// A range that something is not in, or is: the field, and the rest.
    Range(Field, String),
    /// A refusal; of one family where it says so.
    Reject(String, Option<bool>),
    /// Anything else.
    Said(String),
}

impl Piece {
    fn fields(&self) -> &[Field] {
        match self {
            Self::Match(condition) => std::slice::from_ref(&condition.field),
            Self::Lookup(fields, _) => fields,
            Self::Range(field, _) => std::slice::from_ref(field),
            Self::Reject(..) | Self::Said(_) => &[],
        }
    }

    /// Whether it looks into the transport header.
    fn is_of_transport(&self) -> bool {
        let of_it = |field: &Field| matches!(field, Field::Port { .. } | Field::Ports | Field::Transport { .. });
        self.fields().iter().any(of_it)
    }

    /// The family of the network header that it looks into, or that it speaks of: whether it is IPv6.
    fn family(&self) -> Option<bool> {
        if let Self::Reject(_, family) = self {
            return *family;
        }
        self.fields().iter().find_map(|field| match field {
            Field::Address { ipv6, .. } => Some(*ipv6),
            Field::Protocol { in_header: true } => Some(false),
            Field::Other { words, .. } if words.starts_with("ip ") => Some(false),
            Field::Other { words, .. } if words.starts_with("ip6 ") => Some(true),
            _ => None,
        })
    }
}

/// The family that a comparison asks for: whether it is IPv6.
pub(super) fn family_of(condition: &Condition) -> Option<bool> {
    match (&condition.field, condition.required()?) {
        (Field::Family, 2) | (Field::EtherType, 0x0800) => Some(false),
        (Field::Family, 10) | (Field::EtherType, 0x86dd) => Some(true),
        _ => None,
    }
}

/// All of it, without what nft puts before a field to make sure that it is there.
pub(super) fn words(pieces: &[Piece]) -> Vec<String> {
    let (mut words, mut header) = (Vec::new(), None);
    let mut rest = pieces;
    while let Some((piece, more)) = rest.split_first() {
        rest = more;
        match piece {
            Piece::Match(condition) => {
                let next = more.first();
                let named = protocol_of(condition).and_then(transport);
                header = named.or(header);
                if is_understood(condition, more) {
                    continue;
                }
                let range = next.and_then(|next| match next {
                    Piece::Match(end) => condition.range_words(end, header),
                    _ => None,
                });
                if range.is_some() {
                    rest = &more[1..];
                }
                words.push(range.unwrap_or_else(|| condition.words(header)));
            }
            Piece::Lookup(fields, how) => {
                let fields: Vec<String> = fields.iter().map(|field| field.words(header)).collect();
                words.push(format!("{} {how}", fields.join(" . ")));
            }
            Piece::Range(field, how) => words.push(format!("{} {how}", field.words(header))),
            Piece::Reject(said, _) | Piece::Said(said) => words.push(said.clone()),
        }
    }
    words
}

fn protocol_of(condition: &Condition) -> Option<u64> {
    matches!(condition.field, Field::Protocol { .. }).then(|| condition.required())?
}

/// Whether what follows says it as well: `udp dport` that it is UDP, `ip saddr` that it is IPv4.
fn is_understood(condition: &Condition, more: &[Piece]) -> bool {
    let Some(next) = more.first() else { return false };
    match &condition.field {
        Field::Protocol { in_header: false } => {
            protocol_of(condition).and_then(transport).is_some() && next.is_of_transport()
        }
        Field::Family | Field::EtherType => {
            let Some(ipv6) = family_of(condition) else { return false };
            // ICMP is of one family; what else is said of the transport first says nothing of it.
            let protocol = match next {
                Piece::Match(of) if is_understood(of, &more[1..]) => protocol_of(of),
                _ => None,
            };
            let behind = if protocol.is_some() { more.get(1) } else { Some(next) };
            protocol == Some(if ipv6 { 58 } else { 1 }) || behind.and_then(Piece::family) == Some(ipv6)
        }
        Field::Other { words, .. } => {
            let ether = |field: &Field| matches!(field, Field::Other { words, .. } if words.starts_with("ether "));
            words == "iiftype" && condition.required() == Some(1) && next.fields().first().is_some_and(ether)
        }
        _ => false,
    }
}

/// The attributes of an expression.
pub(super) type Fields<'a> = BTreeMap<u16, &'a [u8]>;

fn number(fields: &Fields<'_>, kind: u16) -> Option<u64> {
    fields.get(&kind).and_then(|value| big_endian(value))
}

/// `family`: of the table.
pub(super) fn reject(fields: &Fields<'_>, family: u8, ipv6: Option<bool>) -> Piece {
    const INET: u8 = 1;
    let code = number(fields, 2).unwrap_or(0);
    let named = |names: &[(u64, &'static str)]| {
        let name = names.iter().find(|(number, _)| *number == code).map(|(_, name)| (*name).to_owned());
        name.unwrap_or_else(|| code.to_string())
    };
    let (with, what) = match number(fields, 1) {
        Some(1) => return Piece::Reject("reject with tcp reset".into(), None),
        // What every family has; port unreachable is what a reject says unless told otherwise.
        Some(2) if code == 1 => return Piece::Reject("reject".into(), None),
        Some(2) => ("icmpx", named(&[(0, "no-route"), (2, "host-unreachable"), (3, "admin-prohibited")])),
        _ if family != INET && (ipv6, code) == (Some(false), 3) => return Piece::Reject("reject".into(), ipv6),
        _ if family != INET && (ipv6, code) == (Some(true), 4) => return Piece::Reject("reject".into(), ipv6),
        _ if ipv6 == Some(true) => (
            "icmpv6",
            named(&[
                (0, "no-route"),
                (1, "admin-prohibited"),
                (3, "addr-unreachable"),
                (4, "port-unreachable"),
                (5, "policy-fail"),
                (6, "reject-route"),
            ]),
        ),
        _ => (
            "icmp",
            named(&[
                (0, "net-unreachable"),
                (1, "host-unreachable"),
                (2, "prot-unreachable"),
                (3, "port-unreachable"),
                (9, "net-prohibited"),
                (10, "host-prohibited"),
                (13, "admin-prohibited"),
            ]),
        ),
    };
    Piece::Reject(format!("reject with {with} {what}"), ipv6.filter(|_| with != "icmpx"))
}

/// What a translation does with ports (NF_NAT_RANGE_ of linux/netfilter/nf_nat.h).
fn nat_flags(flags: u64) -> String {
    let names = [(4, "random"), (16, "fully-random"), (8, "persistent")];
    let set: Vec<&str> = names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { String::new() } else { format!(" {}", set.join(",")) }
}

/// A masquerade, a redirect, or a translation to an address; `register`: what a register holds, in words, as an address
/// of IPv6, one of IPv4, or a port.
pub(super) fn nat(
    name: &str,
    fields: &Fields<'_>,
    family: u8,
    register: impl Fn(u64, Register) -> Option<String>,
) -> String {
    const INET: u8 = 1;
    let span = |min: u16, max: u16, kind| {
        let at = |attribute| number(fields, attribute).and_then(|from| register(from, kind));
        let (low, high) = (at(min)?, at(max));
        Some(high.filter(|high| *high != low).map_or_else(|| low.clone(), |high| format!("{low}-{high}")))
    };
    let to_port = |ports: Option<String>| ports.map_or_else(String::new, |ports| format!(" to :{ports}"));
    match name {
        "masq" => {
            let ports = to_port(span(2, 3, Register::Port));
            format!("masquerade{ports}{}", nat_flags(number(fields, 1).unwrap_or(0)))
        }
        "redir" => {
            let ports = to_port(span(1, 2, Register::Port));
            format!("redirect{ports}{}", nat_flags(number(fields, 3).unwrap_or(0)))
        }
        "nat" => {
            let which = if number(fields, 1) == Some(1) { "dnat" } else { "snat" };
            let ipv6 = number(fields, 2) == Some(10);
            let address = span(3, 4, Register::Address { ipv6 });
            let ports = span(5, 6, Register::Port);
            let to = match (address, ports) {
                (Some(address), Some(ports)) if ipv6 => format!("[{address}]:{ports}"),
                (Some(address), Some(ports)) => format!("{address}:{ports}"),
                (Some(address), None) => address,
                (None, Some(ports)) => format!(":{ports}"),
                (None, None) => "?".to_owned(),
            };
            let of = match (family, ipv6) {
                (INET, true) => " ip6",
                (INET, false) => " ip",
                _ => "",
            };
            format!("{which}{of} to {to}{}", nat_flags(number(fields, 7).unwrap_or(0)))
        }
        other => other.to_owned(),
    }
}

/// How what a register holds is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Address { ipv6: bool },
    Port,
}

pub(super) fn limit(fields: &Fields<'_>) -> String {
    let (rate, burst) = (number(fields, 1).unwrap_or(0), number(fields, 3).unwrap_or(0));
    let over = if number(fields, 5).unwrap_or(0) & 1 == 1 { "over " } else { "" };
    let unit = match number(fields, 2) {
        Some(60) => "minute",
        Some(3600) => "hour",
        Some(86_400) => "day",
        Some(604_800) => "week",
        _ => "second",
    };
    let bytes = |count: u64| match count {
        0 => "0 bytes".to_owned(),
        count if count % (1024 * 1024) == 0 => format!("{} mbytes", count / 1024 / 1024),
        count if count % 1024 == 0 => format!("{} kbytes", count / 1024),
        count => format!("{count} bytes"),
    };
    if number(fields, 4) == Some(1) {
        let burst = if burst == 0 { String::new() } else { format!(" burst {}", bytes(burst)) };
        return format!("limit rate {over}{}/{unit}{burst}", bytes(rate));
    }
    // Five is what it is unless said.
    let burst = if matches!(burst, 0 | 5) { String::new() } else { format!(" burst {burst} packets") };
    format!("limit rate {over}{rate}/{unit}{burst}")
}

pub(super) fn log(fields: &Fields<'_>) -> String {
    let mut words = "log".to_owned();
    if let Some(prefix) = fields.get(&2) {
        words.push_str(&format!(" prefix \"{}\"", text(prefix)));
    }
    if let Some(group) = number(fields, 1) {
        words.push_str(&format!(" group {group}"));
    }
    let levels = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug", "audit"];
    if let Some(level) = number(fields, 5).filter(|level| *level != 4)
        && let Some(level) = usize::try_from(level).ok().and_then(|level| levels.get(level))
    {
        words.push_str(&format!(" level {level}"));
    }
    words
}

pub(super) fn queue(fields: &Fields<'_>) -> String {
    let flags = number(fields, 3).unwrap_or(0);
    let names = [(1, "bypass"), (2, "fanout")];
    let set: Vec<&str> = names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    let set = if set.is_empty() { String::new() } else { format!(" flags {}", set.join(",")) };
    let first = number(fields, 1).unwrap_or(0);
    let count = number(fields, 2).unwrap_or(1).max(1);
    let to = if count > 1 { format!("{first}-{}", first + count - 1) } else { first.to_string() };
    format!("queue{set} to {to}")
}

/// What the routing would say of an address.
pub(super) fn fib(fields: &Fields<'_>) -> (String, bool) {
    let flags = number(fields, 3).unwrap_or(0);
    let names = [(1, "saddr"), (2, "daddr"), (4, "mark"), (8, "iif"), (16, "oif")];
    let of: Vec<&str> = names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    let result = match number(fields, 2) {
        Some(2) => "oifname",
        Some(3) => "type",
        _ => "oif",
    };
    (format!("fib {} {result}", of.join(" . ")), flags & 32 != 0)
}
