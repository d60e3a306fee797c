//! Whether a rule takes a packet, as far as its words tell.

use std::net::IpAddr;

use super::FilteredPacket;
use crate::host::MAX_TEXT;
use crate::host::firewall::{FirewallFramework, FirewallRule};
use crate::host::network::Prefix;

impl FirewallRule {
    /// Whether it takes a packet; `None`: its words do not tell.
    pub fn takes(&self, packet: &FilteredPacket<'_>) -> Option<bool> {
        self.takes_of(packet, "udp")
    }

    /// The same of a packet with these ends over TCP.
    pub fn takes_tcp(&self, packet: &FilteredPacket<'_>) -> Option<bool> {
        self.takes_of(packet, "tcp")
    }

    /// The same of a packet of ICMPv6 between these addresses, whatever its type.
    pub fn takes_icmpv6(&self, packet: &FilteredPacket<'_>) -> Option<bool> {
        let protocol = match self.framework {
            FirewallFramework::Nftables => "icmpv6",
            FirewallFramework::LegacyIptables => "ipv6-icmp",
        };
        self.takes_of(packet, protocol)
    }

    fn takes_of(&self, packet: &FilteredPacket<'_>, protocol: &str) -> Option<bool> {
        let ipv4 = packet.destination.is_ipv4();
        let of_family = match self.table_family.as_str() {
            "inet" => true,
            "ip" => ipv4,
            "ip6" => !ipv4,
            _ => return None,
        };
        if !of_family {
            return Some(false);
        }
        // What was cut off may say more.
        if self.rule.len() >= MAX_TEXT {
            return None;
        }
        let words: Vec<&str> = self.rule.split_whitespace().collect();
        match self.framework {
            FirewallFramework::Nftables => nftables_takes(&words, packet, protocol),
            FirewallFramework::LegacyIptables => iptables_takes(&words, packet, protocol),
        }
    }
}

/// The same of a rule in the words of nft.
fn nftables_takes(words: &[&str], packet: &FilteredPacket<'_>, protocol: &str) -> Option<bool> {
    let ipv4 = packet.destination.is_ipv4();
    let mut rest = words;
    loop {
        let (matches, more) = match rest {
            // Who reads the rule leaves a comparison of the family away where the refusal says it as well.
            ["reject", "with", "icmp", ..] if !ipv4 => return Some(false),
            ["reject", "with", "icmpv6", ..] if ipv4 => return Some(false),
            [] | ["accept" | "drop" | "reject" | "jump" | "goto" | "return" | "queue" | "comment", ..] => {
                return Some(true);
            }
            ["meta", "mark", "set", ..] => return Some(true),
            ["counter", more @ ..] => (true, more),
            ["policy", _] => return Some(true),
            // A field of one family is compared in packets of that family alone, whatever the comparison.
            ["ip", "saddr" | "daddr" | "protocol", ..] if !ipv4 => return Some(false),
            ["ip6", "saddr" | "daddr", ..] if ipv4 => return Some(false),
            ["ip" | "ip6", end @ ("saddr" | "daddr"), more @ ..] => {
                let address = if *end == "saddr" { packet.source.ip() } else { packet.destination.ip() };
                compare(more, |value| Some(prefix(value)?.contains(address)))?
            }
            ["th", ..] if protocol == "icmpv6" => return None,
            [of, end @ ("sport" | "dport"), more @ ..] if *of == "th" || *of == protocol => {
                let port = if *end == "sport" { packet.source.port() } else { packet.destination.port() };
                compare(more, |value| Some(ports(value)?.contains(&port)))?
            }
            [of @ ("udp" | "tcp" | "sctp" | "icmp" | "icmpv6"), ..] if *of != protocol => return Some(false),
            ["meta", "l4proto", more @ ..] | ["ip", "protocol", more @ ..] => {
                compare(more, |value| is_of(value, protocol))?
            }
            ["meta", "nfproto", more @ ..] => compare(more, |value| match value {
                "ipv4" => Some(ipv4),
                "ipv6" => Some(!ipv4),
                _ => None,
            })?,
            ["iifname" | "iif", more @ ..] => {
                compare(more, |value| is_device(name(value)?, '*', packet.in_device, packet))?
            }
            ["oifname" | "oif", more @ ..] => {
                compare(more, |value| is_device(name(value)?, '*', packet.out_device, packet))?
            }
            _ => return None,
        };
        if !matches {
            return Some(false);
        }
        rest = more;
    }
}

/// The same of a rule in the words of iptables-save.
fn iptables_takes(words: &[&str], packet: &FilteredPacket<'_>, protocol: &str) -> Option<bool> {
    let mut rest = words;
    loop {
        let (is_not, condition) = match rest {
            ["!", condition @ ..] => (true, condition),
            condition => (false, condition),
        };
        let (matches, more) = match condition {
            [] | ["-j" | "-g", ..] | ["policy", _] => return Some(true),
            [flag @ ("-s" | "-d"), value, more @ ..] => {
                let address = if *flag == "-s" { packet.source.ip() } else { packet.destination.ip() };
                (prefix(value)?.contains(address), more)
            }
            ["-p", value, more @ ..] => (is_of(value, protocol)?, more),
            [flag @ ("--sport" | "--dport"), value, more @ ..] => {
                let port = if *flag == "--sport" { packet.source.port() } else { packet.destination.port() };
                (ports(&value.replace(':', "-"))?.contains(&port), more)
            }
            ["-i", value, more @ ..] => (is_device(value, '+', packet.in_device, packet)?, more),
            ["-o", value, more @ ..] => (is_device(value, '+', packet.out_device, packet)?, more),
            _ => return None,
        };
        if matches == is_not {
            return Some(false);
        }
        rest = more;
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

fn is_of(value: &str, protocol: &str) -> Option<bool> {
    match value {
        "17" => Some(protocol == "udp"),
        "icmpv6" | "ipv6-icmp" | "58" => Some(matches!(protocol, "icmpv6" | "ipv6-icmp")),
        "udp" | "tcp" | "icmp" | "sctp" | "esp" | "ah" | "gre" => Some(value == protocol),
        _ => None,
    }
}

/// A name of nft stands between quotes: a set, a map and more fields do not.
fn name(value: &str) -> Option<&str> {
    value.strip_prefix('"')?.strip_suffix('"')
}

/// An interface's name, or its beginning before a sign. By the loopback goes only what is for the host itself.
fn is_device(name: &str, sign: char, device: Option<&str>, packet: &FilteredPacket<'_>) -> Option<bool> {
    let Some(device) = device else {
        let leaves = packet.source.ip() != packet.destination.ip() && !packet.destination.ip().is_loopback();
        return (name == "lo" && leaves).then_some(false);
    };
    Some(name.strip_suffix(sign).map_or_else(|| name == device, |begin| device.starts_with(begin)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{packet, rule};
    use super::*;

    #[test]
    fn a_rule_takes_icmpv6_whatever_its_type_or_does_not_tell() {
        let (source, destination) = ("[2001:db8::1]:0".parse(), "[2001:db8::2]:0".parse());
        let (source, destination) = (source.expect("an address"), destination.expect("an address"));
        let packet = FilteredPacket { source, destination, in_device: Some("eth0"), out_device: None };
        for (words, takes) in [
            ("ip6 saddr 2001:db8::/32 drop", Some(true)),
            ("ip6 saddr 2001:db9::/32 drop", Some(false)),
            ("udp dport 40000 accept", Some(false)),
            ("meta l4proto udp drop", Some(false)),
            ("meta l4proto ipv6-icmp accept", Some(true)),
            ("icmpv6 type nd-neighbor-advert accept", None),
            ("th dport 40000 drop", None),
            ("ct state new drop", None),
        ] {
            assert_eq!(rule("input", words, "drop").takes_icmpv6(&packet), takes, "{words}");
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
            ("iif \"eth0\" drop", Some(true)),
            ("iif != \"lo\" drop", Some(true)),
            // What is compared with a set, looked up or put together is no name.
            ("iifname @__set0 drop", None),
            ("iifname != @__set0 drop", None),
            ("iifname { \"lo\", \"eth0\" } accept", None),
            ("iifname != { \"lo\", \"eth0\" } drop", None),
            ("iifname vmap @__map0", None),
            ("iifname . ip saddr @pairs drop", None),
            ("iif @__set0 accept", None),
            ("iif != @__set0 drop", None),
            ("iif vmap @__map0", None),
            ("iif 7 drop", None),
            ("oifname @__set0 accept", None),
            ("oifname != @__set0 drop", None),
            // A reject says its family where nothing else does.
            ("reject with icmp host-unreachable", Some(true)),
            ("reject with icmpv6 no-route", Some(false)),
            ("udp dport 51820 reject with icmpv6 no-route", Some(false)),
            ("reject with icmpx no-route", Some(true)),
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
            ("reject with icmp host-unreachable", Some(false)),
            ("reject with icmpv6 no-route", Some(true)),
            ("reject with icmpx no-route", Some(true)),
        ] {
            assert_eq!(rule("input", words, "drop").takes(&over_ipv6), takes, "{words}, over IPv6");
        }
        let leaving = FilteredPacket { out_device: Some("eth0"), ..packet() };
        for (words, takes) in [
            ("oifname \"eth0\" drop", Some(true)),
            ("oifname @__set0 accept", None),
            ("oifname != @__set0 drop", None),
            ("oifname vmap @__map0", None),
            ("oifname . ip daddr @pairs drop", None),
            ("oif != @__set0 drop", None),
        ] {
            assert_eq!(rule("output", words, "drop").takes(&leaving), takes, "{words}, on its way out");
        }
        let other = FirewallRule { table_family: "ip6".into(), ..rule("input", "drop", "drop") };
        assert_eq!(other.takes(&packet()), Some(false));
        let cut = format!("{} drop", "ip saddr 203.0.113.7 ".repeat(40));
        assert_eq!(rule("input", &cut[..MAX_TEXT], "drop").takes(&packet()), None, "what else it asks for is not told");
    }

    #[test]
    fn a_packet_over_tcp_is_told_from_one_over_udp() {
        for (words, takes) in [
            ("udp dport 51820 drop", Some(false)),
            ("udp length 8 drop", Some(false)),
            ("meta l4proto udp counter drop", Some(false)),
            ("meta l4proto tcp drop", Some(true)),
            ("ip protocol != udp drop", Some(true)),
            ("tcp dport 51820 drop", Some(true)),
            ("tcp sport 443 drop", Some(false)),
            ("tcp flags syn drop", None),
            ("th dport 51820 drop", Some(true)),
            ("icmp type echo-request drop", Some(false)),
        ] {
            assert_eq!(rule("input", words, "drop").takes_tcp(&packet()), takes, "{words}");
        }
        let framework = FirewallFramework::LegacyIptables;
        for (words, takes) in [("-p udp -j DROP", Some(false)), ("-p tcp --dport 51820 -j DROP", Some(true))] {
            let legacy = FirewallRule { framework, table_family: "ip".into(), ..rule("INPUT", words, "drop") };
            assert_eq!(legacy.takes_tcp(&packet()), takes, "{words}");
        }
    }

    #[test]
    fn words_of_the_legacy_iptables_tell_it_as_well() {
        let table: &[(&str, Option<bool>)] = &[
            ("-s 203.0.113.0/26 -j DROP", Some(true)),
            ("! -s 203.0.113.0/26 -j DROP", Some(false)),
            ("-s 198.51.100.0/24 -m conntrack --ctstate NEW -j DROP", Some(false)),
            ("-d 192.168.1.2/32 -p udp --dport 51820 -j ACCEPT", Some(true)),
            ("-p udp --dport 1024:65535 -j SESSION", Some(true)),
            ("-p udp ! --dport 51820 -j DROP", Some(false)),
            ("-p tcp --dport 22 -j ACCEPT", Some(false)),
            ("! -p tcp -j DROP", Some(true)),
            ("-i lo -j ACCEPT", Some(false)),
            ("-i eth+ -j DROP", Some(true)),
            ("! -i wg0 -j DROP", Some(true)),
            ("-o lo -j ACCEPT", Some(false)),
            ("-o eth0 -j ACCEPT", None),
            ("-g SESSION", Some(true)),
            ("policy drop", Some(true)),
            ("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", None),
            ("-f -j DROP", None),
            ("-s 203.0.113.0/33 -j DROP", None),
        ];
        for (words, takes) in table {
            let framework = FirewallFramework::LegacyIptables;
            let legacy = FirewallRule { framework, table_family: "ip".into(), ..rule("INPUT", words, "drop") };
            assert_eq!(legacy.takes(&packet()), *takes, "{words}");
        }
    }
}
