//! Hosts: addresses, routes, policy rules, packet filters, and the faults of each.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use crate::scenario::file::{Hook, InterfaceKind, Protocol, RouteKind, RuleAction, Verdict};
use crate::scenario::topology::{FirewallRule, Host, HostChain, Interface, Route, Rule, Topology, WrongChecksum};
use crate::scenario::value::{Mark, Span32};

use super::conntrack;
use super::plan::{Node, Port};

/// What a host needs.
pub(super) fn node(topology: &Topology, host: &Host) -> Node {
    let mut node = Node::new(&host.name);
    node.sinks = sinks(host).map(str::to_owned).collect();
    for interface in &host.interfaces {
        let name = &interface.name;
        match (interface.segment, interface.kind) {
            (Some(segment), _) => {
                let isolated = topology.segments[segment].isolated;
                let tunnel = interface.kind == InterfaceKind::Tunnel;
                node.ports.push(Port {
                    name: name.clone(),
                    segment: Some(segment),
                    link: interface.link,
                    late: Duration::ZERO,
                    isolated,
                    tunnel,
                    no_offload: host.wrong_checksum.is_some(),
                });
            }
            (None, InterfaceKind::Bridge) => node.bridges.push(name.clone()),
            // Of the sinks below.
            (None, InterfaceKind::Tunnel) => {}
            (None, InterfaceKind::Ethernet) => {
                node.ports.push(Port {
                    name: name.clone(),
                    segment: None,
                    link: interface.link,
                    late: Duration::ZERO,
                    isolated: false,
                    tunnel: false,
                    no_offload: false,
                });
            }
        }
        if let Some(mtu) = interface.link.mtu {
            node.ip.push(format!("link set {name} mtu {mtu}"));
        }
        node.up(name, &interface.addresses);
        for (gateway, metric) in &interface.gateways {
            let family = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            // An on-link gateway whose network the interface does not have is for the scenario to say.
            node.ip.push(format!("route add {family} via {gateway} dev {name} metric {metric}"));
        }
    }
    node.ip.extend(host.routes.iter().map(route));
    for rule in &host.rules {
        let line = policy_rule(rule);
        match rule.from.or(rule.to) {
            Some(network) if network.address.is_ipv6() => node.ip6.push(line),
            Some(_) => node.ip.push(line),
            None => {
                node.ip.push(line.clone());
                node.ip6.push(line);
            }
        }
    }
    if !host.addresses().any(|address| address.is_ipv6()) {
        // Else its interfaces give themselves link-local ones.
        node.sysctls.push(("net.ipv6.conf.all.disable_ipv6".to_owned(), 1));
    }
    node.sysctls.extend(host.sysctls.iter().map(|(name, value)| (name.clone(), *value)));
    node.nft = firewall(host);
    node.nft.push_str(&host.wrong_checksum.as_ref().map(wrong_checksum).unwrap_or_default());
    if host.conntrack_full {
        node.nft.push_str(conntrack::RULES);
        node.conntrack_full = true;
    }
    node
}

/// A host's tunnels that lead nowhere.
pub(super) fn sinks(host: &Host) -> impl Iterator<Item = &str> {
    let is_sink = |own: &&Interface| own.segment.is_none() && own.kind == InterfaceKind::Tunnel;
    host.interfaces.iter().filter(is_sink).map(|own| &*own.name)
}

fn route(route: &Route) -> String {
    let mut line = "route add".to_owned();
    match route.kind {
        RouteKind::Unicast => {}
        RouteKind::Blackhole => line.push_str(" blackhole"),
        RouteKind::Unreachable => line.push_str(" unreachable"),
        RouteKind::Prohibit => line.push_str(" prohibit"),
        RouteKind::Throw => line.push_str(" throw"),
    }
    let _ = write!(line, " {}", route.to);
    if route.kind == RouteKind::Unicast {
        if let Some(via) = route.via {
            let _ = write!(line, " via {via}");
        }
        if let Some(dev) = &route.dev {
            let _ = write!(line, " dev {dev}");
        }
        if let Some(src) = route.src {
            let _ = write!(line, " src {src}");
        }
    }
    let _ = write!(line, " table {}", route.table);
    if route.metric > 0 {
        let _ = write!(line, " metric {}", route.metric);
    }
    if let Some(mtu) = route.mtu {
        let _ = write!(line, " mtu {mtu}");
    }
    line
}

fn policy_rule(rule: &Rule) -> String {
    let mut line = "rule add".to_owned();
    if rule.not {
        line.push_str(" not");
    }
    match rule.from {
        Some(from) => _ = write!(line, " from {from}"),
        None => line.push_str(" from all"),
    }
    if let Some(to) = rule.to {
        let _ = write!(line, " to {to}");
    }
    if let Some(mark) = rule.fwmark {
        let _ = write!(line, " fwmark {mark}");
    }
    for (word, device) in [("iif", &rule.iif), ("oif", &rule.oif)] {
        if let Some(device) = device {
            let _ = write!(line, " {word} {device}");
        }
    }
    if let Some(protocol) = rule.ipproto {
        let _ = write!(line, " ipproto {}", name_of(protocol));
    }
    for (word, span) in [("sport", &rule.sport), ("dport", &rule.dport)] {
        if let Some(span) = span {
            let _ = write!(line, " {word} {span}");
        }
    }
    if let Some(Span32(uids)) = &rule.uidrange {
        let _ = write!(line, " uidrange {}-{}", uids.start(), uids.end());
    }
    let _ = write!(line, " priority {}", rule.priority);
    match rule.action {
        RuleAction::Lookup => _ = write!(line, " lookup {}", rule.table),
        RuleAction::Blackhole => line.push_str(" blackhole"),
        RuleAction::Unreachable => line.push_str(" unreachable"),
        RuleAction::Prohibit => line.push_str(" prohibit"),
    }
    if let Some(length) = rule.suppress_prefixlength {
        let _ = write!(line, " suppress_prefixlength {length}");
    }
    line
}

const fn name_of(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Udp => "udp",
        Protocol::Tcp => "tcp",
    }
}

/// A host's packet filter and its silent neighbors.
fn firewall(host: &Host) -> String {
    let mut text = String::new();
    if !host.firewall.is_empty() {
        text.push_str("table inet host {\n");
        for hook in [Hook::Prerouting, Hook::Input, Hook::Output] {
            let wanted = |rule: &&FirewallRule| rule.hook == hook;
            let rules: Vec<String> = host.firewall.iter().filter(wanted).map(filter_rule).collect();
            if !rules.is_empty() {
                let HostChain { name, hook_name, kind, priority } = HostChain::of(host, hook);
                // What a host says to itself is beside every scenario.
                let own = if hook == Hook::Output { "oifname" } else { "iifname" };
                let _ = writeln!(
                    text,
                    "chain {name} {{ type {kind} hook {hook_name} priority {priority};\n{own} lo accept\n{}\n}}",
                    rules.join("\n")
                );
            }
        }
        text.push_str("}\n");
    }
    let (ipv4, ipv6): (Vec<&IpAddr>, Vec<_>) = host.silent_neighbors.iter().partition(|address| address.is_ipv4());
    if !ipv4.is_empty() {
        text.push_str("table arp silent {\nchain in { type filter hook input priority 0;\n");
        ipv4.iter().for_each(|address| _ = writeln!(text, "arp saddr ip {address} drop"));
        text.push_str("}\n}\n");
    }
    if !ipv6.is_empty() {
        text.push_str("table ip6 silent {\nchain in { type filter hook input priority 0;\n");
        ipv6.iter().for_each(|address| silence6(&mut text, address));
        text.push_str("}\n}\n");
    }
    text
}

/// Behind the packet filter, another checksum than the kernel's.
fn wrong_checksum(WrongChecksum { port, to }: &WrongChecksum) -> String {
    let mut text = "table inet checksum {\nchain out { type filter hook output priority 100;\n".to_owned();
    for network in to {
        let family = if network.address.is_ipv4() { "ip" } else { "ip6" };
        let _ = writeln!(text, "udp sport {port} {family} daddr {network} udp checksum set 0x1234");
    }
    text.push_str("}\n}\n");
    text
}

/// Neither what an IPv6 neighbor answers nor what it asks, which names its hardware address, too (RFC 4861 §4.3, §4.4).
fn silence6(text: &mut String, address: &IpAddr) {
    let IpAddr::V6(ipv6) = address else { return };
    // The target of an advertisement by its place, 64 bits in: nft has a word for it since 1.0.7 only.
    let target = u128::from(*ipv6);
    let _ = writeln!(
        text,
        "icmpv6 type nd-neighbor-advert @th,64,128 {target:#034x} drop\n\
         icmpv6 type nd-neighbor-solicit ip6 saddr {address} drop"
    );
}

fn filter_rule(rule: &FirewallRule) -> String {
    let mut line = String::new();
    if let Some(device) = &rule.dev {
        let word = if rule.hook == Hook::Output { "oifname" } else { "iifname" };
        let _ = write!(line, "{word} \"{device}\" ");
    }
    for (word, network) in [("saddr", rule.from), ("daddr", rule.to)] {
        if let Some(network) = network {
            let family = if network.address.is_ipv4() { "ip" } else { "ip6" };
            let _ = write!(line, "{family} {word} {network} ");
        }
    }
    if let Some(protocol) = rule.ipproto {
        let _ = write!(line, "meta l4proto {} ", name_of(protocol));
    }
    for (word, span) in [("sport", &rule.sport), ("dport", &rule.dport)] {
        if let Some(span) = span {
            let _ = write!(line, "th {word} {span} ");
        }
    }
    if let Some(Mark { value, mask }) = rule.fwmark {
        let _ = write!(line, "meta mark & {mask:#x} == {:#x} ", value & mask);
    }
    if rule.unsolicited {
        line.push_str("ct state new ");
    }
    line.push_str("counter ");
    match (rule.verdict, rule.mark) {
        (Verdict::Accept, _) => line.push_str("accept"),
        (Verdict::Drop, _) => line.push_str("drop"),
        (Verdict::Reject, _) if rule.hook == Hook::Output => line.push_str("reject with icmpx port-unreachable"),
        (Verdict::Reject, _) => line.push_str("reject with icmpx admin-prohibited"),
        (Verdict::SetMark, Some(Mark { value, mask: u32::MAX })) => _ = write!(line, "meta mark set {value:#x}"),
        (Verdict::SetMark, Some(Mark { value, mask })) => {
            let _ = write!(line, "meta mark set meta mark & {:#x} | {:#x}", !mask, value & mask);
        }
        (Verdict::SetMark, None) => line.push_str("accept"),
    }
    line
}
