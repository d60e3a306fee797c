//! What the rules of a firewall do with one packet, as far as their words tell. What is not understood is not guessed:
//! then nothing is said of the packet.

use std::net::{IpAddr, SocketAddr};

use super::firewall::{FirewallFramework, FirewallRule};
use super::network::Prefix;

/// A UDP packet of the session at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilteredPacket<'a> {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// The interface that it came in by; `None`: none, or not known.
    pub in_device: Option<&'a str>,
    /// The interface that it leaves by; `None`: none, or not known.
    pub out_device: Option<&'a str>,
}

/// Which of these rules surely drops or rejects a packet at one of the hooks: one in a base chain that takes it, while
/// no other rule of that chain that ends it or leads away from it may, whatever their order. The rules must be all that
/// there are.
pub fn surely_stops<'a>(
    rules: &[&'a FirewallRule],
    hooks: &[&str],
    packet: &FilteredPacket<'_>,
) -> Option<&'a FirewallRule> {
    let may_take = |rule: &FirewallRule| rule.takes(packet) != Some(false);
    let is_translated = |rule: &&FirewallRule| {
        let here = rule.hook.as_deref().is_some_and(|hook| hooks.contains(&hook));
        here && rule.chain_type.as_deref() == Some("nat") && may_take(rule)
    };
    if rules.iter().any(is_translated) {
        return None;
    }
    let leads_away = |rule: &FirewallRule| rule.verdict.is_some() && !rule.stops() && may_take(rule);
    rules.iter().copied().filter(|rule| rule.stops_at(hooks) && rule.takes(packet) == Some(true)).find(|rule| {
        let of_table = |other: &&&FirewallRule| {
            (other.framework, &other.table_family, &other.table) == (rule.framework, &rule.table_family, &rule.table)
        };
        let is_base = rules.iter().filter(of_table).all(|other| other.target.as_ref() != Some(&rule.chain));
        is_base && !rules.iter().filter(of_table).any(|other| other.chain == rule.chain && leads_away(other))
    })
}

impl FirewallRule {
    /// Whether it takes a packet; `None`: its words do not tell.
    pub fn takes(&self, packet: &FilteredPacket<'_>) -> Option<bool> {
        let ipv4 = packet.destination.is_ipv4();
        let of_family = match self.table_family.as_str() {
            "inet" => true,
            "ip" => ipv4,
            "ip6" => !ipv4,
            _ => return None,
        };
        if self.framework != FirewallFramework::Nftables || !of_family {
            return (self.framework == FirewallFramework::Nftables).then_some(false);
        }
        let words: Vec<&str> = self.rule.split_whitespace().collect();
        let mut rest = words.as_slice();
        loop {
            let (matches, more) = match rest {
                [] | ["accept" | "drop" | "reject" | "comment", ..] => return Some(true),
                ["counter", more @ ..] => (true, more),
                ["policy", _] => return Some(true),
                // A field of one family is compared in packets of that family alone, whatever the comparison.
                ["ip", "saddr" | "daddr" | "protocol", ..] if !ipv4 => return Some(false),
                ["ip6", "saddr" | "daddr", ..] if ipv4 => return Some(false),
                ["ip" | "ip6", end @ ("saddr" | "daddr"), more @ ..] => {
                    let address = if *end == "saddr" { packet.source.ip() } else { packet.destination.ip() };
                    compare(more, |value| Some(prefix(value)?.contains(address)))?
                }
                ["udp" | "th", end @ ("sport" | "dport"), more @ ..] => {
                    let port = if *end == "sport" { packet.source.port() } else { packet.destination.port() };
                    compare(more, |value| Some(ports(value)?.contains(&port)))?
                }
                ["tcp" | "sctp" | "icmp" | "icmpv6", ..] => return Some(false),
                ["meta", "l4proto", more @ ..] | ["ip", "protocol", more @ ..] => compare(more, is_udp)?,
                ["meta", "nfproto", more @ ..] => compare(more, |value| match value {
                    "ipv4" => Some(ipv4),
                    "ipv6" => Some(!ipv4),
                    _ => None,
                })?,
                ["iifname" | "iif", more @ ..] => compare(more, |value| is_device(value, packet.in_device))?,
                ["oifname" | "oif", more @ ..] => compare(more, |value| is_device(value, packet.out_device))?,
                _ => return None,
            };
            if !matches {
                return Some(false);
            }
            rest = more;
        }
    }
}

/// What a comparison says, and the words behind it.
fn compare<'a, 'b>(words: &'b [&'a str], is: impl Fn(&'a str) -> Option<bool>) -> Option<(bool, &'b [&'a str])> {
    match words {
        ["!=", value, more @ ..] => Some((!is(value)?, more)),
        [value, more @ ..] => Some((is(value)?, more)),
        [] => None,
    }
}

fn prefix(value: &str) -> Option<Prefix> {
    let (address, length) = value.split_once('/').map_or((value, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.parse().ok()?;
    let whole = Prefix::host(address);
    let length = length.map_or(Some(whole.length), |length| length.parse().ok())?;
    (length <= whole.length).then_some(Prefix { address, length })
}

fn ports(value: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

fn is_udp(value: &str) -> Option<bool> {
    match value {
        "udp" | "17" => Some(true),
        "tcp" | "icmp" | "ipv6-icmp" | "sctp" | "esp" | "ah" | "gre" => Some(false),
        _ => None,
    }
}

/// An interface's name, or its beginning before a star.
fn is_device(value: &str, device: Option<&str>) -> Option<bool> {
    let (name, device) = (value.trim_matches('"'), device?);
    Some(name.strip_suffix('*').map_or_else(|| name == device, |begin| device.starts_with(begin)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(chain: &str, words: &str, verdict: &str) -> FirewallRule {
        FirewallRule {
            framework: FirewallFramework::Nftables,
            table_family: "inet".into(),
            table: "filter".into(),
            chain: chain.into(),
            hook: Some("input".into()),
            chain_type: Some("filter".into()),
            priority: Some(0),
            handle: None,
            rule: words.into(),
            verdict: Some(verdict.into()),
            target: None,
            sets_mark: false,
            packets: Some(0),
            packets_since: Some(0),
        }
    }

    fn packet() -> FilteredPacket<'static> {
        FilteredPacket {
            source: "203.0.113.7:40000".parse().unwrap(),
            destination: "192.168.1.2:51820".parse().unwrap(),
            in_device: Some("eth0"),
            out_device: None,
        }
    }

    #[test]
    fn words_that_are_understood_tell_whether_a_rule_takes_a_packet() {
        let table: &[(&str, Option<bool>)] = &[
            ("ip saddr 203.0.113.0/26 counter drop", Some(true)),
            ("ip saddr 203.0.113.7 drop", Some(true)),
            ("ip saddr != 203.0.113.7 drop", Some(false)),
            ("ip saddr 198.51.100.0/24 ct state new drop", Some(false)),
            ("ip6 saddr 2001:db8::/32 drop", Some(false)),
            ("ip6 saddr != 2001:db8::/32 drop", Some(false)),
            ("ip6 daddr != @blocked drop", Some(false)),
            ("ip protocol udp drop", Some(true)),
            ("ip protocol != tcp drop", Some(true)),
            ("ip daddr 192.168.1.2 udp dport 51820 drop", Some(true)),
            ("udp dport 5353 counter drop", Some(false)),
            ("udp dport 1024-65535 reject with icmpx admin-prohibited", Some(true)),
            ("udp dport != 1024-65535 drop", Some(false)),
            ("tcp dport 22 drop", Some(false)),
            ("meta l4proto tcp counter drop", Some(false)),
            ("meta l4proto udp drop", Some(true)),
            ("iifname \"eth*\" drop", Some(true)),
            ("iifname != \"eth0\" drop", Some(false)),
            ("oifname \"eth0\" drop", None),
            ("policy drop", Some(true)),
            ("counter drop comment \"ip saddr 10.0.0.0/8\"", Some(true)),
            // What is not understood tells nothing.
            ("ct state new counter drop", None),
            ("ip saddr @blocked drop", None),
            ("udp dport { 3478, 5349 } drop", None),
            ("udp dport 70000 drop", None),
            ("ip saddr 203.0.113.7/33 drop", None),
            ("limit rate 10/second drop", None),
            ("ip saddr", None),
        ];
        for (words, takes) in table {
            assert_eq!(rule("input", words, "drop").takes(&packet()), *takes, "{words}");
        }
        let over_ipv6 = FilteredPacket {
            source: "[2001:db8::7]:40000".parse().unwrap(),
            destination: "[2001:db8:1::2]:51820".parse().unwrap(),
            ..packet()
        };
        for (words, takes) in [
            ("ip saddr 203.0.113.7 drop", Some(false)),
            ("ip saddr != 203.0.113.7 drop", Some(false)),
            ("ip daddr != 192.168.1.0/24 counter drop", Some(false)),
            ("ip protocol udp drop", Some(false)),
            ("ip protocol != tcp drop", Some(false)),
            ("ip6 saddr 2001:db8::/32 drop", Some(true)),
            ("ip6 saddr != 2001:db8::7 drop", Some(false)),
        ] {
            assert_eq!(rule("input", words, "drop").takes(&over_ipv6), takes, "{words}, over IPv6");
        }
        let other = FirewallRule { table_family: "ip6".into(), ..rule("input", "drop", "drop") };
        assert_eq!(other.takes(&packet()), Some(false));
        let legacy = FirewallRule { framework: FirewallFramework::LegacyIptables, ..rule("input", "drop", "drop") };
        assert_eq!(legacy.takes(&packet()), None, "its words are others");
    }

    #[test]
    fn a_rule_stops_a_packet_surely_only_where_no_other_may_take_it_elsewhere() {
        let stops = |rules: &[FirewallRule]| {
            let rules: Vec<&FirewallRule> = rules.iter().collect();
            surely_stops(&rules, &["prerouting", "input"], &packet()).is_some()
        };
        let drop = || rule("input", "ip saddr 203.0.113.0/26 counter drop", "drop");
        assert!(stops(&[drop()]));
        assert!(stops(&[rule("input", "tcp dport 22 accept", "accept"), drop()]), "that is about TCP");
        assert!(!stops(&[drop(), rule("input", "ct state established accept", "accept")]), "it may come first");
        assert!(stops(&[drop(), rule("other", "ct state established accept", "accept")]), "another chain's");
        let jump = FirewallRule { target: Some("input".into()), ..rule("base", "tcp dport 22 jump input", "jump") };
        assert!(!stops(&[jump, drop()]), "what comes to the chain is not known");
        let nat = FirewallRule {
            hook: Some("prerouting".into()),
            chain_type: Some("nat".into()),
            ..rule("pre", "udp dport 51820 dnat to 10.0.0.2", "accept")
        };
        assert!(!stops(&[nat, drop()]), "it may have another address by then");
        let forwarded = FirewallRule { hook: Some("forward".into()), ..drop() };
        assert!(!stops(&[forwarded]));
    }
}
