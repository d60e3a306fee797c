//! One entry of a table of the legacy iptables, in the words of iptables-save (linux/netfilter_ipv4/ip_tables.h,
//! linux/netfilter/x_tables.h).

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

use super::netlink::text;
use super::nft_condition::{Comparison, Condition};
use super::nft_field::{Field, Order};
use super::nft_rule::Rule;

/// `struct xt_entry_match` and `struct xt_entry_target` before their data: size, name, revision.
const EXTENSION_HEADER: usize = 32;

/// Where things stand in an entry, in bytes from its start, where pointers have 64 bits.
pub(super) struct Layout {
    pub(super) family: u8,
    address: usize,
    in_device: usize,
    out_device: usize,
    protocol: usize,
    flags: usize,
    /// The bit of `flags` by which a jump does not come back (`-g`).
    goto: u8,
    inverted: usize,
    /// What the kernel keeps for itself begins here: it is no part of what the rule says.
    cache: usize,
    target_offset: usize,
    next_offset: usize,
    packets: usize,
    matches: usize,
}

/// `struct ipt_entry`.
pub(super) const V4: Layout = Layout {
    family: 2,
    address: 4,
    in_device: 16,
    out_device: 32,
    protocol: 80,
    flags: 82,
    goto: 0x02,
    inverted: 83,
    cache: 84,
    target_offset: 88,
    next_offset: 90,
    packets: 96,
    matches: 112,
};

/// `struct ip6t_entry`.
pub(super) const V6: Layout = Layout {
    family: 10,
    address: 16,
    in_device: 64,
    out_device: 80,
    protocol: 128,
    flags: 131,
    goto: 0x04,
    inverted: 132,
    cache: 136,
    target_offset: 140,
    next_offset: 142,
    packets: 152,
    matches: 168,
};

/// Verdicts of a standard target: `-NF_DROP - 1` and on.
pub(super) const DROP: i32 = -1;
const ACCEPT: i32 = -2;
const QUEUE: i32 = -4;
/// `XT_RETURN`.
const RETURN: i32 = -5;

/// One entry of a table.
pub(super) struct Entry<'a> {
    pub(super) at: usize,
    pub(super) length: usize,
    bytes: &'a [u8],
    target: usize,
}

pub(super) fn walk<'a>(layout: &'a Layout, entries: &'a [u8]) -> impl Iterator<Item = Entry<'a>> + 'a {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = entries.get(at..)?;
        let (target, length) = (short(rest, layout.target_offset)?, short(rest, layout.next_offset)?);
        let bytes = rest.get(..length)?;
        if target < layout.matches || target + EXTENSION_HEADER > length {
            return None;
        }
        let entry = Entry { at, length, bytes, target };
        at += length;
        Some(entry)
    })
}

impl Entry<'_> {
    pub(super) fn target_name(&self) -> String {
        extension_name(&self.bytes[self.target..])
    }

    pub(super) fn target_data(&self) -> &[u8] {
        &self.bytes[self.target + EXTENSION_HEADER..]
    }

    pub(super) fn packets(&self, layout: &Layout) -> Option<u64> {
        long(self.bytes, layout.packets)
    }

    /// What it says, as one number: the same wherever it stands in its table and whatever it has counted.
    pub(super) fn identity(&self, layout: &Layout, starts: &BTreeMap<usize, String>) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.bytes[..layout.cache].hash(&mut hasher);
        self.bytes[layout.matches..self.target].hash(&mut hasher);
        match self.action(layout, starts) {
            // A jump is kept as the place where the chain begins, which moves.
            Some(action) => action.hash(&mut hasher),
            None => self.bytes[self.target..].hash(&mut hasher),
        }
        hasher.finish()
    }

    /// What a standard target does.
    fn action(&self, layout: &Layout, starts: &BTreeMap<usize, String>) -> Option<Action> {
        Some(match self.verdict()? {
            DROP => Action::Verdict("DROP"),
            ACCEPT => Action::Verdict("ACCEPT"),
            QUEUE => Action::Verdict("QUEUE"),
            RETURN => Action::Verdict("RETURN"),
            to => match usize::try_from(to) {
                // A rule without a target is kept as a jump to what comes next.
                Ok(to) if to == self.at + self.length => Action::Nothing,
                Ok(to) => {
                    let chain = starts.get(&to).cloned().unwrap_or_else(|| to.to_string());
                    match self.bytes[layout.flags] & layout.goto {
                        0 => Action::Jump(chain),
                        _ => Action::Goto(chain),
                    }
                }
                Err(_) => Action::Verdict("unknown"),
            },
        })
    }

    /// Of a standard target: a verdict, or where it jumps to.
    pub(super) fn verdict(&self) -> Option<i32> {
        let value = self.target_data().first_chunk::<4>().filter(|_| self.target_name().is_empty())?;
        Some(i32::from_ne_bytes(*value))
    }

    /// In the words of iptables-save.
    pub(super) fn rule(&self, layout: &Layout, starts: &BTreeMap<usize, String>) -> Rule {
        let mut rule = Rule { packets: self.packets(layout), ..Rule::default() };
        let inverted = self.bytes[layout.inverted];
        let not = |bit: u8| if inverted & bit != 0 { "! " } else { "" };
        let comparison = |bit: u8| if inverted & bit != 0 { Comparison::Unequal } else { Comparison::Equal };
        for (word, bit, at, field) in [
            ("-s", 0x08, 0, Field::Address { source: true, ipv6: layout.address == 16, length: layout.address }),
            (
                "-d",
                0x10,
                layout.address,
                Field::Address { source: false, ipv6: layout.address == 16, length: layout.address },
            ),
        ] {
            let value = self.bytes[at..at + layout.address].to_vec();
            let mask = self.bytes[at + 2 * layout.address..at + 3 * layout.address].to_vec();
            let length: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
            if length > 0 {
                rule.words.push(format!("{}{word} {}/{length}", not(bit), shown(&value)));
                let (order, mask) = (Order::Network, Some(mask));
                rule.conditions.push(Condition { field, mask, order, comparison: comparison(bit), value });
            }
        }
        for (word, bit, at) in [("-i", 0x01, layout.in_device), ("-o", 0x02, layout.out_device)] {
            let device = text(&self.bytes[at..at + 16]);
            if !device.is_empty() {
                // The mask of a name without its end: every name that begins so.
                let whole = self.bytes[at + 32 + device.len()] != 0;
                rule.words.push(format!("{}{word} {device}{}", not(bit), if whole { "" } else { "+" }));
            }
        }
        // `IPT_F_FRAG`; IPv6 asks for fragments by a match.
        if layout.family == V4.family && self.bytes[layout.flags] & 0x01 != 0 {
            rule.words.push(format!("{}-f", not(0x20)));
        }
        let protocol = short(self.bytes, layout.protocol).unwrap_or(0) as u8;
        if protocol != 0 {
            let name = match protocol {
                1 => "icmp".to_owned(),
                6 => "tcp".to_owned(),
                17 => "udp".to_owned(),
                58 => "ipv6-icmp".to_owned(),
                other => other.to_string(),
            };
            rule.words.push(format!("{}-p {name}", not(0x40)));
            let (field, order, value) = (Field::Protocol { in_header: true }, Order::Network, vec![protocol]);
            rule.conditions.push(Condition { field, mask: None, order, comparison: comparison(0x40), value });
        }
        let mut at = layout.matches;
        while at + EXTENSION_HEADER <= self.target {
            let Some(size) = short(self.bytes, at).filter(|size| *size >= EXTENSION_HEADER) else { break };
            let Some(bytes) = self.bytes.get(at..(at + size).min(self.target)) else { break };
            take_match(&mut rule, &extension_name(bytes), &bytes[EXTENSION_HEADER..]);
            at += size;
        }
        self.take_target(layout, &mut rule, starts);
        rule
    }

    fn take_target(&self, layout: &Layout, rule: &mut Rule, starts: &BTreeMap<usize, String>) {
        let name = match self.action(layout, starts) {
            Some(Action::Nothing) => return,
            Some(Action::Jump(chain)) => {
                rule.words.push(format!("-j {chain}"));
                (rule.verdict, rule.target) = (Some("jump"), Some(chain));
                return;
            }
            Some(Action::Goto(chain)) => {
                rule.words.push(format!("-g {chain}"));
                (rule.verdict, rule.target) = (Some("goto"), Some(chain));
                return;
            }
            Some(Action::Verdict(name)) => name.to_owned(),
            None => self.target_name(),
        };
        rule.verdict = match name.as_str() {
            "DROP" => Some("drop"),
            "REJECT" => Some("reject"),
            "ACCEPT" => Some("accept"),
            "QUEUE" | "NFQUEUE" => Some("queue"),
            "RETURN" => Some("return"),
            other => (!goes_on(other) && !translates(other)).then_some(OTHER_VERDICT),
        };
        let data = self.target_data();
        let options = match (name.as_str(), number(data, 0), number(data, 4)) {
            ("MARK", Some(mark), Some(mask)) => format!(" --set-xmark {mark:#x}/{mask:#x}"),
            ("CONNMARK", ..) => connection_mark(self.bytes[self.target + 31], data).words(),
            // `NF_NAT_RANGE_PROTO_RANDOM` and `..._FULLY` of `struct nf_nat_ipv4_multi_range_compat`.
            ("MASQUERADE", _, Some(flags)) if flags & 1 << 4 != 0 => " --random-fully".to_owned(),
            ("MASQUERADE", _, Some(flags)) if flags & 1 << 2 != 0 => " --random".to_owned(),
            _ => String::new(),
        };
        rule.sets_mark = match name.as_str() {
            "MARK" => true,
            "CONNMARK" => connection_mark(self.bytes[self.target + 31], data).sets_packet(),
            _ => false,
        };
        rule.translates = translates(&name);
        rule.words.push(format!("-j {name}{options}"));
    }
}

/// What a target does that is not known here: nobody can tell whether the packet comes further.
pub(super) const OTHER_VERDICT: &str = "other";

/// Whether a target of iptables changes addresses or ports, or gives the packet to a socket of its choice.
pub(super) fn translates(target: &str) -> bool {
    matches!(target, "MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT" | "NETMAP" | "TPROXY")
}

/// Whether a packet surely comes to the next rule behind a target of iptables: those of the kernel's net/netfilter and
/// net/ipv4/netfilter that answer XT_CONTINUE.
pub(super) fn goes_on(target: &str) -> bool {
    const NAMES: [&str; 25] = [
        "AUDIT",
        "CHECKSUM",
        "CLASSIFY",
        "CONNMARK",
        "CONNSECMARK",
        "CT",
        "DSCP",
        "ECN",
        "HL",
        "HMARK",
        "IDLETIMER",
        "LED",
        "LOG",
        "MARK",
        "NFLOG",
        "NOTRACK",
        "RATEEST",
        "SECMARK",
        "SET",
        "TCPMSS",
        "TCPOPTSTRIP",
        "TEE",
        "TOS",
        "TRACE",
        "TTL",
    ];
    NAMES.contains(&target)
}

/// What a standard target does.
#[derive(Hash)]
enum Action {
    /// Count.
    Nothing,
    /// A verdict, by its name.
    Verdict(&'static str),
    /// Go on in a chain and come back.
    Jump(String),
    /// Go on in a chain.
    Goto(String),
}

/// What the target CONNMARK does, by its revision and data (`struct xt_connmark_tginfo1` and `...2`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionMark {
    /// The connection's mark is set: value, mask.
    Set(u32, u32),
    /// The packet's mark is kept with the connection: masks of packet and connection.
    Save(u32, u32),
    /// The packet gets the connection's mark: masks of packet and connection.
    Restore(u32, u32),
    /// A revision that is not known.
    Unknown,
}

/// Reads the data of CONNMARK.
pub(super) fn connection_mark(revision: u8, data: &[u8]) -> ConnectionMark {
    let mode = match revision {
        1 => data.get(12),
        2 => data.get(14),
        _ => None,
    };
    match (mode, number(data, 0), number(data, 4), number(data, 8)) {
        (Some(0), Some(mark), Some(mask), _) => ConnectionMark::Set(mark, mask),
        (Some(1), _, Some(connection), Some(packet)) => ConnectionMark::Save(packet, connection),
        (Some(2), _, Some(connection), Some(packet)) => ConnectionMark::Restore(packet, connection),
        _ => ConnectionMark::Unknown,
    }
}

impl ConnectionMark {
    /// Whether it changes the packet's own mark, by which it is routed; a revision that is not known may.
    pub(super) const fn sets_packet(self) -> bool {
        matches!(self, Self::Restore(..) | Self::Unknown)
    }

    /// As iptables-save writes it.
    pub(super) fn words(self) -> String {
        match self {
            Self::Set(mark, mask) => format!(" --set-xmark {mark:#x}/{mask:#x}"),
            Self::Save(packet, connection) => format!(" --save-mark --nfmask {packet:#x} --ctmask {connection:#x}"),
            Self::Restore(packet, connection) => {
                format!(" --restore-mark --nfmask {packet:#x} --ctmask {connection:#x}")
            }
            Self::Unknown => String::new(),
        }
    }
}

fn take_match(rule: &mut Rule, name: &str, data: &[u8]) {
    match name {
        // `struct xt_udp` and the beginning of `struct xt_tcp`: first and last source and destination port.
        "udp" | "tcp" => {
            let inverted = data.get(if name == "udp" { 8 } else { 11 }).copied().unwrap_or(0);
            for (word, at, bit, field) in
                [("--sport", 0, 1, Field::Port { source: true }), ("--dport", 4, 2, Field::Port { source: false })]
            {
                let (Some(first), Some(last)) = (short(data, at), short(data, at + 2)) else { continue };
                let (not, is_not) = if inverted & bit != 0 { ("! ", true) } else { ("", false) };
                if (first, last) == (0, 65_535) {
                    continue;
                }
                let range = if first == last { first.to_string() } else { format!("{first}:{last}") };
                rule.words.push(format!("{not}{word} {range}"));
                let order = Order::Network;
                let mut condition = |comparison, port: usize| {
                    let value = (port as u16).to_be_bytes().to_vec();
                    rule.conditions.push(Condition { field: field.clone(), mask: None, order, comparison, value });
                };
                match (is_not, first == last) {
                    (true, true) => condition(Comparison::Unequal, first),
                    // What is outside of a range cannot be said with conditions that must all hold.
                    (true, false) => {}
                    (false, _) => {
                        condition(Comparison::GreaterOrEqual, first);
                        condition(Comparison::LessOrEqual, last);
                    }
                }
            }
        }
        // `struct xt_mark_mtinfo1`.
        "mark" => {
            if let (Some(mark), Some(mask)) = (number(data, 0), number(data, 4)) {
                let not = if data.get(8).is_some_and(|invert| *invert != 0) { "! " } else { "" };
                rule.words.push(format!("-m mark {not}--mark {mark:#x}/{mask:#x}"));
            }
        }
        // `struct xt_conntrack_mtinfo3`: flags at 146 and 148, states at 150.
        "conntrack" => {
            // XT_CONNTRACK_STATE_*: what is no state of its own begins one bit after the fifth of IP_CT_*.
            const STATES: [(usize, &str); 7] = [
                (1, "INVALID"),
                (2, "ESTABLISHED"),
                (4, "RELATED"),
                (8, "NEW"),
                (64, "SNAT"),
                (128, "DNAT"),
                (256, "UNTRACKED"),
            ];
            let words =
                short(data, 146).zip(short(data, 148)).zip(short(data, 150)).map(|((asks, inverts), states)| {
                    let names: Vec<_> =
                        STATES.iter().filter(|(bit, _)| states & bit != 0).map(|(_, name)| *name).collect();
                    let not = if inverts & 1 != 0 { "! " } else { "" };
                    if asks & 1 != 0 { format!(" {not}--ctstate {}", names.join(",")) } else { String::new() }
                });
            rule.words.push(format!("-m conntrack{}", words.unwrap_or_default()));
        }
        "comment" => rule.words.push(format!("-m comment --comment \"{}\"", text(data))),
        other => rule.words.push(format!("-m {other}")),
    }
}

fn extension_name(bytes: &[u8]) -> String {
    text(bytes.get(2..31).unwrap_or_default())
}

fn shown(address: &[u8]) -> String {
    match (address.first_chunk::<4>(), address.first_chunk::<16>()) {
        (_, Some(v6)) => IpAddr::from(*v6).to_string(),
        (Some(v4), _) => IpAddr::from(*v4).to_string(),
        _ => String::new(),
    }
}

fn short(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk::<2>()?)))
}

pub(super) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk::<4>()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk::<8>()?))
}
