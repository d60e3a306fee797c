//! The rules of the legacy iptables with their counters, by the socket options that iptables-legacy itself uses
//! (`IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES` of linux/netfilter_ipv4/ip_tables.h, and the same of IPv6).
//!
//! Only tables that exist are asked for: the kernel makes one that is asked for and does not.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::legacy_rule::{DROP, Entry, Layout, V4, V6, number, walk};
use super::netlink::text;
use super::nft::{Chain, Firewall};

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
/// Largest table that is read, in bytes: more than 100,000 rules.
const MAX_SIZE: usize = 32 * 1024 * 1024;

/// By the number of the hook (`NF_INET_PRE_ROUTING` and on).
const CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Which tables exist, the socket option that reads them, and how their entries are laid out.
struct Family {
    /// Of the program, in messages.
    program: &'static str,
    names: &'static str,
    layout: &'static Layout,
    address_family: AddressFamily,
    level: i32,
}

const FAMILIES: [Family; 2] = [
    Family {
        program: "iptables",
        names: "ip_tables_names",
        layout: &V4,
        address_family: AddressFamily::Inet,
        level: libc::IPPROTO_IP,
    },
    Family {
        program: "ip6tables",
        names: "ip6_tables_names",
        layout: &V6,
        address_family: AddressFamily::Inet6,
        level: libc::IPPROTO_IPV6,
    },
];

/// What could not be read: which program's tables, and why.
pub(super) type Unread = (&'static str, io::Error);

/// Reads all tables of IPv4 and IPv6; `None`: neither family's could be read. What fails of one family (EACCES or EPERM
/// without CAP_NET_RAW and CAP_NET_ADMIN) leaves the other's as they are.
pub(super) fn read() -> (Option<Firewall>, Vec<Unread>) {
    read_by(names, |family, table| {
        let socket = socket(family.address_family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
        fetch(&socket, family.level, table)
    })
}

/// A table's description and its entries, as the kernel lays them out.
type Bytes = (Vec<u8>, Vec<u8>);

fn read_by(
    names: impl Fn(&Family) -> io::Result<Vec<String>>,
    fetch: impl Fn(&Family, &str) -> io::Result<Bytes>,
) -> (Option<Firewall>, Vec<Unread>) {
    let (mut firewall, mut unread) = (Firewall::legacy(), Vec::new());
    for family in &FAMILIES {
        let tables = names(family).and_then(|tables| {
            if !tables.is_empty() && cfg!(not(target_pointer_width = "64")) {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "its structures are known for 64 bits only"));
            }
            tables
                .into_iter()
                .map(|table| fetch(family, &table).map(|bytes| (table, bytes)))
                .collect::<Result<Vec<_>, _>>()
        });
        match tables {
            Ok(tables) => {
                for (table, (info, entries)) in tables {
                    take(&mut firewall, family.layout, &table, &info, &entries);
                }
            }
            Err(error) => {
                firewall.unread.insert(family.layout.family);
                unread.push((family.program, error));
            }
        }
    }
    ((unread.len() < FAMILIES.len()).then_some(firewall), unread)
}

/// The names of a family's tables.
fn names(family: &Family) -> io::Result<Vec<String>> {
    match std::fs::read_to_string(format!("/proc/self/net/{}", family.names)) {
        Ok(text) => Ok(text.split_ascii_whitespace().map(str::to_owned).collect()),
        // The kernel's part is not loaded, so there are none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// A table's description and entries. Between the two questions it may have changed: then it is asked for again.
fn fetch(socket: &OwnedFd, level: i32, name: &str) -> io::Result<Bytes> {
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
            packets: None,
        });
        if base.is_some_and(|(_, _, end)| *end == entry.at) {
            known.drops = entry.verdict() == Some(DROP);
            known.packets = entry.packets(layout);
            continue;
        }
        let rule = entry.rule(layout, &starts);
        // What every chain of the user ends with.
        if !(rule.words == ["-j RETURN"] && all.get(position + 1).is_some_and(|next| next.target_name() == "ERROR")) {
            // Where it stands in the table changes with every rule that is put in before it; what it says does not.
            let identity = entry.identity(layout, &starts);
            firewall.rules.push(((layout.family, table.to_owned(), chain.clone(), identity), rule));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use whyrelay_core::host::{FirewallRule, HostFact};

    use super::super::{OwnSocket, Scope};
    use super::*;

    /// What a rule does.
    #[derive(Clone)]
    enum Target {
        Verdict(i32),
        /// Into a chain, and back.
        Jump(&'static str),
        /// Into a chain for good.
        Goto(&'static str),
        /// Nothing but counting.
        None,
        /// A target of its own: name, revision, data.
        Named(&'static str, u8, Vec<u8>),
    }

    const ACCEPT: i32 = -2;
    const RETURN: i32 = -5;

    /// A rule for UDP from 198.51.100.x.
    fn from(host: u8, target: Target, packets: u64) -> (u8, Target, u64) {
        (host, target, packets)
    }

    /// The table "filter" of IPv4 as the kernel lays it out: what is in INPUT, and in a chain of the user.
    fn filter(input: &[(u8, Target, u64)], chain: &[(u8, Target, u64)]) -> Bytes {
        let last = |verdict| [(0, Target::Verdict(verdict), 0)];
        let name = |name: &'static str| [(0, Target::Named("ERROR", 0, name.as_bytes().to_vec()), 0)];
        let parts = [
            input,
            &last(ACCEPT),
            &last(ACCEPT),
            &last(ACCEPT),
            &name("SESSION"),
            chain,
            &last(RETURN),
            &name("ERROR"),
        ];
        let data = |target: &Target| match target {
            Target::Named("ERROR", ..) => 32,
            Target::Named(_, _, data) => data.len().next_multiple_of(8),
            _ => 8,
        };
        let mut starts = Vec::new();
        let mut at = 0;
        for part in parts {
            starts.push(at);
            at += part.iter().map(|(_, target, _)| 112 + 32 + data(target)).sum::<usize>();
        }
        let places = BTreeMap::from([("SESSION", starts[5])]);
        let mut entries = Vec::new();
        for (host, target, packets) in parts.into_iter().flatten() {
            let mut entry = vec![0; 112 + 32 + data(target)];
            let length = entry.len();
            if *host > 0 {
                entry[..4].copy_from_slice(&[198, 51, 100, *host]);
                entry[8..12].copy_from_slice(&[255; 4]);
                entry[80] = 17;
            }
            entry[82] = if matches!(target, Target::Goto(_)) { 2 } else { 0 };
            entry[88..90].copy_from_slice(&112_u16.to_ne_bytes());
            entry[90..92].copy_from_slice(&u16::try_from(length).expect("short").to_ne_bytes());
            entry[96..104].copy_from_slice(&packets.to_ne_bytes());
            let next = i32::try_from(entries.len() + length).expect("small");
            let standard = |to: i32| ("", 0, to.to_ne_bytes().to_vec());
            let place = |name: &str| i32::try_from(places[name]).expect("small");
            let (name, revision, data) = match target {
                Target::Verdict(verdict) => standard(*verdict),
                Target::Jump(chain) | Target::Goto(chain) => standard(place(chain)),
                Target::None => standard(next),
                Target::Named(name, revision, data) => (*name, *revision, data.clone()),
            };
            entry[114..114 + name.len()].copy_from_slice(name.as_bytes());
            entry[143] = revision;
            entry[144..144 + data.len()].copy_from_slice(&data);
            entries.extend(entry);
        }
        let mut info = named("filter", INFO_LENGTH);
        info[32..36].copy_from_slice(&0b1110_u32.to_ne_bytes());
        // The beginning and the policy of INPUT, FORWARD and OUTPUT.
        for (hook, start, policy) in [(1, 0, 1), (2, 2, 2), (3, 3, 3)] {
            for (field, part) in [(36, start), (56, policy)] {
                let at = field + 4 * hook;
                info[at..at + 4].copy_from_slice(&u32::try_from(starts[part]).expect("small").to_ne_bytes());
            }
        }
        (info, entries)
    }

    fn firewall((info, entries): &Bytes) -> Firewall {
        let mut firewall = Firewall::legacy();
        take(&mut firewall, &V4, "filter", info, entries);
        firewall
    }

    /// What the second reading says of a session with 198.51.100.7: chain, rule, and what it counted since the first.
    fn since(before: &Firewall, now: &Firewall) -> Vec<(String, String, Option<u64>)> {
        rules(before, now).into_iter().map(|rule| (rule.chain, rule.rule, rule.packets_since)).collect()
    }

    fn rules(before: &Firewall, now: &Firewall) -> Vec<FirewallRule> {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let socket = OwnSocket {
            local: address("203.0.113.34:51820"),
            protocol: 17,
            mark: 0,
            user: None,
            device: None,
            raw: false,
        };
        let scope =
            Scope { sockets: [socket].into(), peers: [address("198.51.100.7:51820")].into(), ..Scope::default() };
        let mut told = Vec::new();
        now.facts(before, &scope, &mut |fact| {
            if let HostFact::FirewallRule(rule) = fact {
                told.push(rule);
            }
        });
        told
    }

    fn row(chain: &str, rule: &str, since: Option<u64>) -> (String, String, Option<u64>) {
        (chain.into(), rule.into(), since)
    }

    #[test]
    fn a_rule_that_is_put_in_before_others_moves_nobody_s_counter() {
        let rule = |packets| from(7, Target::Verdict(DROP), packets);
        let before = firewall(&filter(&[from(0, Target::Verdict(ACCEPT), 900), rule(500)], &[]));
        let after = [from(8, Target::Verdict(DROP), 3), from(0, Target::Verdict(ACCEPT), 950), rule(500)];
        let told = since(&before, &firewall(&filter(&after, &[])));
        assert_eq!(
            told,
            [row("INPUT", "-s 198.51.100.7/32 -p udp -j DROP", Some(0)), row("INPUT", "-j ACCEPT", Some(50))]
        );
    }

    #[test]
    fn of_rules_that_say_the_same_and_are_more_or_fewer_now_nothing_is_said() {
        let rule = |packets| from(7, Target::Verdict(DROP), packets);
        let words = "-s 198.51.100.7/32 -p udp -j DROP";
        let two = firewall(&filter(&[rule(5), rule(60)], &[]));
        let told = since(&two, &firewall(&filter(&[rule(60)], &[])));
        assert_eq!(told, [row("INPUT", words, None)], "which of the two was taken out?");
        let told = since(&two, &firewall(&filter(&[rule(7), rule(61)], &[])));
        assert_eq!(told, [row("INPUT", words, Some(2)), row("INPUT", words, Some(1))]);
        let other_chain = since(&two, &firewall(&filter(&[from(0, Target::Jump("SESSION"), 0)], &[rule(4)])));
        assert_eq!(other_chain[0], row("SESSION", words, Some(4)), "a new rule counts from nothing");
    }

    #[test]
    fn a_chain_for_several_hooks_is_told_for_each() {
        let (info, mut entries) = filter(&[from(0, Target::Jump("SESSION"), 0)], &[from(7, Target::Verdict(DROP), 4)]);
        let before = firewall(&filter(&[from(0, Target::Jump("SESSION"), 0)], &[from(7, Target::Verdict(DROP), 1)]));
        let hooks = |entries: &[u8]| {
            let told = rules(&before, &firewall(&(info.clone(), entries.to_vec())));
            let told = told.into_iter().filter(|rule| rule.chain == "SESSION");
            told.map(|rule| (rule.hook.unwrap_or_default(), rule.packets_since)).collect::<Vec<_>>()
        };
        assert_eq!(hooks(&entries), [("input".to_owned(), Some(3))]);
        // Every chain of the system now begins with the jump: FORWARD's and OUTPUT's policies become it.
        let jump = entries[144..148].to_vec();
        for policy in [2, 3] {
            let at = policy * (112 + 32 + 8) + 144;
            entries[at..at + 4].copy_from_slice(&jump);
        }
        let mut info = info;
        // Their policies are what comes after.
        for hook in [2, 3] {
            info[56 + 4 * hook..60 + 4 * hook].copy_from_slice(&u32::MAX.to_ne_bytes());
        }
        let told = rules(&before, &firewall(&(info, entries)));
        let told = told.iter().filter(|rule| rule.chain == "SESSION");
        let hooks: Vec<_> = told.filter_map(|rule| rule.hook.as_deref()).collect();
        assert_eq!(hooks, ["input", "output"], "and nothing that only forwards");
    }

    #[test]
    fn a_chain_that_moves_stays_what_a_jump_leads_to() {
        let input = |more: &[(u8, Target, u64)], packets| {
            let mut rules = more.to_vec();
            rules.push(from(7, Target::Jump("SESSION"), packets));
            firewall(&filter(&rules, &[from(7, Target::Verdict(DROP), packets)]))
        };
        let told = since(&input(&[], 2), &input(&[from(9, Target::Verdict(ACCEPT), 0)], 5));
        assert_eq!(
            told,
            [
                row("SESSION", "-s 198.51.100.7/32 -p udp -j DROP", Some(3)),
                row("INPUT", "-s 198.51.100.7/32 -p udp -j SESSION", Some(3)),
            ]
        );
    }

    #[test]
    fn a_rule_is_read_as_iptables_save_writes_it() {
        let numbers = |numbers: &[u32], mode: u8| {
            let mut data: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
            data.push(mode);
            data
        };
        let full = u32::MAX;
        let cases = [
            (Target::None, "", None, false),
            (Target::Goto("SESSION"), " -g SESSION", Some("goto"), false),
            (Target::Jump("SESSION"), " -j SESSION", Some("jump"), false),
            (Target::Named("MARK", 2, numbers(&[1, 0xFF], 0)), " -j MARK --set-xmark 0x1/0xff", None, true),
            (
                Target::Named("CONNMARK", 1, numbers(&[2, full, full], 0)),
                " -j CONNMARK --set-xmark 0x2/0xffffffff",
                None,
                false,
            ),
            (
                Target::Named("CONNMARK", 1, numbers(&[0, 0xFF, full], 1)),
                " -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xff",
                None,
                false,
            ),
            (
                Target::Named("CONNMARK", 1, numbers(&[0, full, 0xF0], 2)),
                " -j CONNMARK --restore-mark --nfmask 0xf0 --ctmask 0xffffffff",
                None,
                true,
            ),
        ];
        for (target, words, verdict, sets_mark) in cases {
            let now = firewall(&filter(&[from(7, target, 4)], &[]));
            let told = rules(&firewall(&filter(&[], &[])), &now);
            let first = told.first().unwrap_or_else(|| panic!("nothing is told of \"{words}\""));
            assert_eq!(first.rule, format!("-s 198.51.100.7/32 -p udp{words}"));
            assert_eq!((first.verdict.as_deref(), first.sets_mark), (verdict, sets_mark), "{words}");
        }
    }

    #[test]
    fn what_fails_of_ipv6_leaves_the_rules_of_ipv4() {
        let table = filter(&[from(7, Target::Verdict(DROP), 5)], &[]);
        let names = |_: &Family| Ok(vec!["filter".to_owned()]);
        let (firewall, unread) = read_by(names, |family, _| match family.program {
            "iptables" => Ok(table.clone()),
            _ => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
        });
        let firewall = firewall.expect("IPv4 was read");
        assert_eq!(firewall.rules.len(), 1);
        assert_eq!(unread.iter().map(|(program, _)| *program).collect::<Vec<_>>(), ["ip6tables"]);
        let (none, unread) = read_by(|_| Err(io::ErrorKind::PermissionDenied.into()), |_, _| Ok(table.clone()));
        assert!(none.is_none() && unread.len() == 2);
    }

    #[test]
    fn what_was_not_read_before_the_checks_has_no_count_of_its_own() {
        let mut before = Firewall::legacy();
        before.unread.insert(V4.family);
        let now = firewall(&filter(&[from(7, Target::Verdict(DROP), 500)], &[]));
        assert_eq!(since(&before, &now), [row("INPUT", "-s 198.51.100.7/32 -p udp -j DROP", None)]);
    }

    #[test]
    fn a_table_that_is_cut_off_or_garbled_is_read_without_harm() {
        let (info, entries) = filter(&[from(7, Target::Jump("SESSION"), 5)], &[from(7, Target::Verdict(DROP), 5)]);
        for length in 0..entries.len() {
            let _ = firewall(&(info.clone(), entries[..length].to_vec()));
        }
        for at in 0..entries.len() {
            let mut garbled = entries.clone();
            garbled[at] ^= 0xFF;
            let _ = firewall(&(info.clone(), garbled));
        }
    }
}
