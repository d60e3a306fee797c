//! The rules of the legacy iptables with their counters, by the socket options that iptables-legacy itself uses
//! (`IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES` of linux/netfilter_ipv4/ip_tables.h, and the same of IPv6).
//!
//! Only tables that exist are asked for: the kernel makes one that is asked for and does not.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::netlink::text;
use super::nft::{Chain, Firewall};
use super::nft_condition::{Comparison, Condition, Field, Order};
use super::nft_rule::Rule;

/// `IPT_SO_GET_INFO`, `IP6T_SO_GET_INFO`.
const GET_INFO: i32 = 64;
/// `IPT_SO_GET_ENTRIES`, `IP6T_SO_GET_ENTRIES`.
const GET_ENTRIES: i32 = 65;

/// `struct ipt_getinfo`: name, valid_hooks, hook_entry, underflow, num_entries, size.
const INFO_LENGTH: usize = 84;
/// `struct ipt_get_entries` before its entries: name, size, padding.
const ENTRIES_AT: usize = 40;
/// `XT_TABLE_MAXNAMELEN`.
const NAME_LENGTH: usize = 32;
/// `struct xt_entry_match` and `struct xt_entry_target` before their data: size, name, revision.
const EXTENSION_HEADER: usize = 32;

/// Largest table that is read, in bytes: more than 100,000 rules.
const MAX_SIZE: usize = 32 * 1024 * 1024;

/// By the number of the hook (`NF_INET_PRE_ROUTING` and on).
const CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Where things stand in an entry, in bytes from its start, where pointers have 64 bits.
struct Layout {
    family: u8,
    address: usize,
    in_device: usize,
    out_device: usize,
    protocol: usize,
    inverted: usize,
    target_offset: usize,
    next_offset: usize,
    packets: usize,
    matches: usize,
}

/// `struct ipt_entry`.
const V4: Layout = Layout {
    family: 2,
    address: 4,
    in_device: 16,
    out_device: 32,
    protocol: 80,
    inverted: 83,
    target_offset: 88,
    next_offset: 90,
    packets: 96,
    matches: 112,
};

/// `struct ip6t_entry`.
const V6: Layout = Layout {
    family: 10,
    address: 16,
    in_device: 64,
    out_device: 80,
    protocol: 128,
    inverted: 132,
    target_offset: 140,
    next_offset: 142,
    packets: 152,
    matches: 168,
};

/// The names of the tables that exist, for IPv4 and IPv6.
///
/// # Errors
/// EACCES where only root may know.
pub(super) fn tables() -> io::Result<[Vec<String>; 2]> {
    let of = |name: &str| match std::fs::read_to_string(format!("/proc/self/net/{name}")) {
        Ok(text) => Ok(text.split_ascii_whitespace().map(str::to_owned).collect()),
        // The kernel's part is not loaded, so there are none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    Ok([of("ip_tables_names")?, of("ip6_tables_names")?])
}

/// Reads all tables.
///
/// # Errors
/// EPERM without CAP_NET_RAW and CAP_NET_ADMIN.
pub(super) fn read(tables: &[Vec<String>; 2]) -> io::Result<Firewall> {
    let mut firewall = Firewall::legacy();
    if cfg!(not(target_pointer_width = "64")) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "its structures are known for 64 bits only"));
    }
    for (names, layout, family, level) in [
        (&tables[0], &V4, AddressFamily::Inet, libc::IPPROTO_IP),
        (&tables[1], &V6, AddressFamily::Inet6, libc::IPPROTO_IPV6),
    ] {
        if names.is_empty() {
            continue;
        }
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
        for name in names {
            let (info, entries) = fetch(&socket, level, name)?;
            take(&mut firewall, layout, name, &info, &entries);
        }
    }
    Ok(firewall)
}

/// A table's description and entries. Between the two questions it may have changed: then it is asked for again.
fn fetch(socket: &OwnedFd, level: i32, name: &str) -> io::Result<(Vec<u8>, Vec<u8>)> {
    const ATTEMPTS: usize = 3;
    let mut failed = io::Error::from(io::ErrorKind::InvalidData);
    for _ in 0..ATTEMPTS {
        let mut info = named(name, INFO_LENGTH);
        get(socket, level, GET_INFO, &mut info)?;
        let size = number(&info, 80).unwrap_or(0) as usize;
        if size > MAX_SIZE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the table is too large"));
        }
        let mut entries = named(name, ENTRIES_AT + size);
        entries[NAME_LENGTH..NAME_LENGTH + 4].copy_from_slice(&(size as u32).to_ne_bytes());
        match get(socket, level, GET_ENTRIES, &mut entries) {
            Ok(()) => return Ok((info, entries.split_off(ENTRIES_AT))),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn named(name: &str, length: usize) -> Vec<u8> {
    let mut buffer = vec![0; length];
    let name = &name.as_bytes()[..name.len().min(NAME_LENGTH - 1)];
    buffer[..name.len()].copy_from_slice(name);
    buffer
}

/// One socket option: the buffer is question and answer.
#[expect(unsafe_code, reason = "one getsockopt with pointers to a live buffer and its length")]
fn get(socket: &OwnedFd, level: i32, option: i32, buffer: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to the buffer, which has that many and lives through the call.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, buffer.as_mut_ptr().cast(), &raw mut length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes a table in.
fn take(firewall: &mut Firewall, layout: &Layout, table: &str, info: &[u8], entries: &[u8]) {
    let valid = number(info, 32).unwrap_or(0);
    let hooks: Vec<(u32, usize, usize)> = (0..CHAINS.len())
        .filter(|hook| valid >> hook & 1 == 1)
        .filter_map(|hook| {
            let (start, end) = (number(info, 36 + 4 * hook)?, number(info, 56 + 4 * hook)?);
            Some((hook as u32, start as usize, end as usize))
        })
        .collect();
    let all: Vec<Entry<'_>> = walk(layout, entries).collect();
    // Where a chain of the user begins: behind the entry that has its name.
    let mut starts: BTreeMap<usize, String> = BTreeMap::new();
    for entry in &all {
        if entry.target_name() == "ERROR" {
            starts.insert(entry.at + entry.length, text(entry.target_data()));
        }
    }
    for (hook, start, _) in &hooks {
        starts.insert(*start, CHAINS[*hook as usize].to_owned());
    }
    for (position, entry) in all.iter().enumerate() {
        let Some((_, chain)) = starts.range(..=entry.at).next_back() else { continue };
        if entry.target_name() == "ERROR" {
            continue;
        }
        let base = hooks.iter().find(|(hook, ..)| CHAINS[*hook as usize] == chain);
        let key = (layout.family, table.to_owned(), chain.clone());
        let known = firewall.chains.entry(key).or_insert_with(|| Chain {
            hook: base.map(|(hook, ..)| *hook),
            priority: 0,
            kind: table.to_owned(),
            drops: false,
        });
        if base.is_some_and(|(_, _, end)| *end == entry.at) {
            known.drops = entry.verdict() == Some(DROP);
            continue;
        }
        let rule = entry.rule(layout, &starts);
        // What every chain of the user ends with.
        if !(rule.words == ["-j RETURN"] && all.get(position + 1).is_some_and(|next| next.target_name() == "ERROR")) {
            firewall.rules.push(((layout.family, table.to_owned(), chain.clone(), entry.at as u64), rule));
        }
    }
}

/// Verdicts of a standard target: `-NF_DROP - 1` and on.
const DROP: i32 = -1;
const ACCEPT: i32 = -2;
const QUEUE: i32 = -4;
/// `XT_RETURN`.
const RETURN: i32 = -5;

/// One entry of a table.
struct Entry<'a> {
    at: usize,
    length: usize,
    bytes: &'a [u8],
    target: usize,
}

fn walk<'a>(layout: &'a Layout, entries: &'a [u8]) -> impl Iterator<Item = Entry<'a>> + 'a {
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
    fn target_name(&self) -> String {
        extension_name(&self.bytes[self.target..])
    }

    fn target_data(&self) -> &[u8] {
        &self.bytes[self.target + EXTENSION_HEADER..]
    }

    /// Of a standard target: a verdict, or where it jumps to.
    fn verdict(&self) -> Option<i32> {
        let value = self.target_data().first_chunk::<4>().filter(|_| self.target_name().is_empty())?;
        Some(i32::from_ne_bytes(*value))
    }

    /// In the words of iptables-save.
    fn rule(&self, layout: &Layout, starts: &BTreeMap<usize, String>) -> Rule {
        let mut rule = Rule { packets: long(self.bytes, layout.packets), ..Rule::default() };
        let inverted = self.bytes[layout.inverted];
        let not = |bit: u8| if inverted & bit != 0 { "! " } else { "" };
        let comparison = |bit: u8| if inverted & bit != 0 { Comparison::Unequal } else { Comparison::Equal };
        for (word, bit, at, field) in [
            ("-s", 0x08, 0, Field::Source(layout.address as u32)),
            ("-d", 0x10, layout.address, Field::Destination(layout.address as u32)),
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
            let (field, order, value) = (Field::Protocol, Order::Network, vec![protocol]);
            rule.conditions.push(Condition { field, mask: None, order, comparison: comparison(0x40), value });
        }
        let mut at = layout.matches;
        while at + EXTENSION_HEADER <= self.target {
            let Some(size) = short(self.bytes, at).filter(|size| *size >= EXTENSION_HEADER) else { break };
            let Some(bytes) = self.bytes.get(at..(at + size).min(self.target)) else { break };
            take_match(&mut rule, &extension_name(bytes), &bytes[EXTENSION_HEADER..]);
            at += size;
        }
        self.take_target(&mut rule, starts);
        rule
    }

    fn take_target(&self, rule: &mut Rule, starts: &BTreeMap<usize, String>) {
        let word = match self.verdict() {
            Some(DROP) => "DROP".to_owned(),
            Some(ACCEPT) => "ACCEPT".to_owned(),
            Some(QUEUE) => "QUEUE".to_owned(),
            Some(RETURN) => "RETURN".to_owned(),
            Some(to) => {
                rule.target = usize::try_from(to).ok().and_then(|to| starts.get(&to).cloned());
                rule.target.clone().unwrap_or_else(|| to.to_string())
            }
            None => self.target_name(),
        };
        rule.verdict = match word.as_str() {
            _ if rule.target.is_some() => None,
            "DROP" => Some("drop"),
            "REJECT" => Some("reject"),
            "ACCEPT" => Some("accept"),
            "QUEUE" | "NFQUEUE" => Some("queue"),
            _ => None,
        };
        let values = (number(self.target_data(), 0), number(self.target_data(), 4));
        let (mark, random) = match (word.as_str(), values) {
            ("MARK", (Some(mark), Some(mask))) => (format!(" --set-xmark {mark:#x}/{mask:#x}"), ""),
            // `NF_NAT_RANGE_PROTO_RANDOM` and `..._FULLY` of `struct nf_nat_ipv4_multi_range_compat`.
            ("MASQUERADE", (_, Some(flags))) if flags & 1 << 4 != 0 => (String::new(), " --random-fully"),
            ("MASQUERADE", (_, Some(flags))) if flags & 1 << 2 != 0 => (String::new(), " --random"),
            _ => (String::new(), ""),
        };
        rule.sets_mark = rule.target.is_none() && matches!(word.as_str(), "MARK" | "CONNMARK");
        rule.translates = matches!(word.as_str(), "MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT" | "NETMAP");
        rule.words.push(format!("-j {word}{mark}{random}"));
    }
}

fn take_match(rule: &mut Rule, name: &str, data: &[u8]) {
    match name {
        // `struct xt_udp` and the beginning of `struct xt_tcp`: first and last source and destination port.
        "udp" | "tcp" => {
            let inverted = data.get(if name == "udp" { 8 } else { 11 }).copied().unwrap_or(0);
            for (word, at, bit, field) in
                [("--sport", 0, 1, Field::SourcePort), ("--dport", 4, 2, Field::DestinationPort)]
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

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk::<4>()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk::<8>()?))
}
