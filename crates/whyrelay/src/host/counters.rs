//! Counters and settings of the kernel, from procfs, which has no other interface.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use whyrelay_core::host::HostFact;

/// The groups whose movement can explain a session.
const GROUPS: [&str; 7] = ["Ip", "Icmp", "Udp", "IpExt", "TcpExt", "Ip6", "Udp6"];

/// Counters by name, and the groups that could be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    values: BTreeMap<String, i64>,
    groups: BTreeSet<String>,
}

impl Counters {
    /// Reads them.
    pub(super) fn read() -> Self {
        let mut counters = Self::default();
        for file in ["/proc/self/net/snmp", "/proc/self/net/netstat"] {
            counters.take_pairs(&fs::read_to_string(file).unwrap_or_default());
        }
        counters.take_snmp6(&fs::read_to_string("/proc/self/net/snmp6").unwrap_or_default());
        counters.take_xfrm(&fs::read_to_string("/proc/self/net/xfrm_stat").unwrap_or_default());
        if let Ok(text) = fs::read_to_string("/proc/self/net/stat/nf_conntrack") {
            counters.take_conntrack(&text);
        }
        counters
    }

    /// What moved since an earlier reading.
    pub(super) fn since(&self, before: &Self) -> HostFact {
        let moved = self.values.iter().filter_map(|(name, value)| {
            let by = value - before.values.get(name)?;
            (by != 0).then(|| (name.clone(), by))
        });
        HostFact::Counters { moved: moved.collect(), read: self.groups.intersection(&before.groups).cloned().collect() }
    }

    /// Whether nothing at all could be read.
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    fn insert(&mut self, group: &str, name: &str, value: i64) {
        self.groups.insert(group.to_owned());
        self.values.insert(format!("{group}.{name}"), value);
    }

    /// Pairs of lines: `Udp: InDatagrams NoPorts …` and `Udp: 12 0 …`.
    fn take_pairs(&mut self, text: &str) {
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.chunks_exact(2) {
            let (mut names, mut values) = (pair[0].split_ascii_whitespace(), pair[1].split_ascii_whitespace());
            let Some(group) = names.next().and_then(|group| group.strip_suffix(':')) else { continue };
            if values.next().and_then(|other| other.strip_suffix(':')) != Some(group) || !GROUPS.contains(&group) {
                continue;
            }
            for (name, value) in names.zip(values) {
                if let Ok(value) = value.parse() {
                    self.insert(group, name, value);
                }
            }
        }
    }

    /// Lines like `Ip6OutNoRoutes  4`.
    fn take_snmp6(&mut self, text: &str) {
        for line in text.lines() {
            let Some((name, value)) = line.split_once(char::is_whitespace) else { continue };
            let group = GROUPS.iter().find(|group| group.ends_with('6') && name.starts_with(**group));
            if let (Some(group), Ok(value)) = (group, value.trim().parse()) {
                self.insert(group, &name[group.len()..], value);
            }
        }
    }

    /// IPsec's, lines like `XfrmOutPolBlock  4`.
    fn take_xfrm(&mut self, text: &str) {
        for line in text.lines() {
            let Some((name, value)) = line.split_once(char::is_whitespace) else { continue };
            if let Some(value) = value.trim().parse().ok().filter(|_| name.starts_with("Xfrm")) {
                self.insert("Xfrm", name, value);
            }
        }
    }

    /// A line of names and one of hexadecimal values for each processor.
    fn take_conntrack(&mut self, text: &str) {
        let mut lines = text.lines();
        let names: Vec<&str> = lines.next().unwrap_or_default().split_ascii_whitespace().collect();
        for line in lines {
            for (name, value) in names.iter().zip(line.split_ascii_whitespace()) {
                // The number of entries is not a count of events.
                if *name == "entries" {
                    continue;
                }
                if let Ok(value) = i64::from_str_radix(value, 16) {
                    self.groups.insert("nf_conntrack".into());
                    *self.values.entry(format!("nf_conntrack.{name}")).or_default() += value;
                }
            }
        }
    }
}

/// Settings of the whole namespace: what they are called in facts, and where they are.
const SETTINGS: [(&str, &str); 7] = [
    ("ip_forward", "ipv4/ip_forward"),
    ("ip_local_port_range", "ipv4/ip_local_port_range"),
    ("ip_no_pmtu_disc", "ipv4/ip_no_pmtu_disc"),
    ("fwmark_reflect", "ipv4/fwmark_reflect"),
    ("nf_conntrack_udp_timeout", "netfilter/nf_conntrack_udp_timeout"),
    ("nf_conntrack_udp_timeout_stream", "netfilter/nf_conntrack_udp_timeout_stream"),
    ("disable_ipv6", "ipv6/conf/all/disable_ipv6"),
];

/// Settings of each interface.
const INTERFACE_SETTINGS: [&str; 3] = ["rp_filter", "src_valid_mark", "accept_local"];

/// The settings that matter, of these interfaces.
pub(super) fn settings<'a>(devices: impl IntoIterator<Item = &'a str>) -> Vec<HostFact> {
    let mut facts = Vec::new();
    for (name, path) in SETTINGS {
        if let Some(value) = read(&format!("/proc/sys/net/{path}")) {
            facts.push(HostFact::Sysctl { sysctl: name.into(), interface: None, value });
        }
    }
    for device in devices.into_iter().chain(["all", "default"]) {
        // An interface's name cannot hold a slash; one of a dot is written as it is below /proc.
        for name in INTERFACE_SETTINGS {
            if let Some(value) = read(&format!("/proc/sys/net/ipv4/conf/{device}/{name}")) {
                facts.push(HostFact::Sysctl { sysctl: name.into(), interface: Some(device.into()), value });
            }
        }
    }
    facts
}

/// The connection tracking table's use, where the module is loaded.
pub(super) fn conntrack_use() -> Option<HostFact> {
    let number = |name: &str| read(&format!("/proc/sys/net/netfilter/{name}"))?.parse().ok();
    Some(HostFact::ConntrackUse { entries: number("nf_conntrack_count")?, max: number("nf_conntrack_max")? })
}

fn read(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_enter_as_differences() {
        let read = |drops: u32, filtered: u32| {
            let mut counters = Counters::default();
            counters.take_pairs(&format!(
                "TcpExt: SyncookiesSent IPReversePathFilter\nTcpExt: 7 {filtered}\nFoo: A\nFoo: 1\n"
            ));
            counters.take_snmp6("Ip6InReceives     \t12\nIp6OutNoRoutes \t3\nIcmp6InMsgs 1\n");
            counters.take_conntrack(&format!("entries  drop\n0000000a {drops:08x}\n0000000a 00000001\n"));
            counters
        };
        match read(0x1f, 9).since(&read(0, 0)) {
            HostFact::Counters { moved, read } => {
                let moved: Vec<_> = moved.into_iter().collect();
                assert_eq!(moved, [("TcpExt.IPReversePathFilter".into(), 9), ("nf_conntrack.drop".into(), 31)]);
                assert_eq!(read, ["Ip6", "TcpExt", "nf_conntrack"]);
            }
            other => panic!("{other:?}"),
        }
    }
}
