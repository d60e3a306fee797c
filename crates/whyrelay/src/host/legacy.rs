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
