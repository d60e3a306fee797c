//! Facts about a host in the words of the commands that show and change them.

use std::fmt::Write as _;

use crate::diagnosis::evidence::HostEvidence;
use crate::diagnosis::finding::Remedy;
use crate::diagnosis::routes::Diversion;
use crate::host::{
    AnsweredRoute, Family, FirewallFramework, FirewallRule, PolicyRule, Route, RouteAnswer, RouteQuestion, RuleAction,
    SoftwareName,
};

/// A policy rule as `ip rule` writes it, without its priority.
pub(super) fn selectors(rule: &PolicyRule) -> String {
    let mut text = String::from(if rule.invert { "not " } else { "" });
    let _ = match &rule.from {
        Some(from) => write!(text, "from {from}"),
        None => write!(text, "from all"),
    };
    if let Some(to) = &rule.to {
        let _ = write!(text, " to {to}");
    }
    if let Some(mark) = rule.mark {
        let _ = write!(text, " fwmark {mark:#x}");
        if let Some(mask) = rule.mask.filter(|mask| *mask != u32::MAX) {
            let _ = write!(text, "/{mask:#x}");
        }
    }
    for (word, device) in [("iif", &rule.in_device), ("oif", &rule.out_device)] {
        if let Some(device) = device {
            let _ = write!(text, " {word} {device}");
        }
    }
    if let Some((first, last)) = rule.users {
        let _ = write!(text, " uidrange {first}-{last}");
    }
    match rule.protocol {
        Some(17) => text.push_str(" ipproto udp"),
        Some(6) => text.push_str(" ipproto tcp"),
        Some(other) => {
            let _ = write!(text, " ipproto {other}");
        }
        None => {}
    }
    for (word, ports) in [("sport", rule.source_ports), ("dport", rule.destination_ports)] {
        match ports {
            Some((first, last)) if first == last => {
                let _ = write!(text, " {word} {first}");
            }
            Some((first, last)) => {
                let _ = write!(text, " {word} {first}-{last}");
            }
            None => {}
        }
    }
    let _ = match (&rule.rule_action, rule.table) {
        (RuleAction::Lookup, Some(table)) => write!(text, " lookup {}", table_name(table)),
        (RuleAction::Blackhole, _) => write!(text, " blackhole"),
        (RuleAction::Unreachable, _) => write!(text, " unreachable"),
        (RuleAction::Prohibit, _) => write!(text, " prohibit"),
        _ => Ok(()),
    };
    if let Some(length) = rule.suppress_prefix_length {
        let _ = write!(text, " suppress_prefixlength {length}");
    }
    text
}

/// A policy rule as a reader quotes it: priority and selectors.
pub fn quoted(rule: &PolicyRule) -> String {
    format!("ip rule {}: {}", rule.priority, selectors(rule))
}

pub(super) fn table_name(table: u32) -> String {
    match table {
        253 => "default".to_owned(),
        254 => "main".to_owned(),
        255 => "local".to_owned(),
        other => other.to_string(),
    }
}

pub(super) const fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip -6",
    }
}

/// A rule ahead of another that looks packets with a mark up where all others are. Where that one is meant to keep them
/// in, they get out.
pub(super) fn exempt_mark(what: &str, rule: &PolicyRule, mark: u32, refused: bool) -> Remedy {
    let (family, before) = (ip(rule.family), rule.priority.saturating_sub(1));
    let remedy = if refused && rule.rule_action == RuleAction::Lookup {
        Remedy::firewall(format!("{what}, {KILL_SWITCH} (undo: the same with del)"))
    } else {
        Remedy::safe(format!("{what} (undo: the same with del)"))
    };
    remedy.run(format!("{family} rule add pref {before} fwmark {mark:#x} lookup main"))
}

/// What nobody should do to a kill switch.
const KILL_SWITCH: &str = "unless it is a VPN's kill switch, which is meant to keep packets from leaving beside it";

/// Takes a route out that refuses.
pub(super) fn without_route(route: &Route) -> Remedy {
    let kind = format!("{:?}", route.route_kind).to_lowercase();
    let family = ip(Family::of(route.destination.address));
    let table = if route.table == 254 { String::new() } else { format!(" table {}", table_name(route.table)) };
    Remedy::firewall(format!("Take the route out, {KILL_SWITCH}"))
        .run(format!("{family} route del {kind} {}{table}", route.destination))
}

/// Takes a rule out that refuses, or leads to a table that does.
pub(super) fn without_rule(what: &str, rule: &PolicyRule) -> Remedy {
    let command = format!("{} rule del pref {} {}", ip(rule.family), rule.priority, selectors(rule));
    Remedy::firewall(format!("{what}, {KILL_SWITCH}")).run(command)
}

/// The command that asks the kernel the same question.
pub(crate) fn ask(question: &RouteQuestion) -> String {
    let family = Family::of(question.destination);
    let mut text = format!("{} route get {}", ip(family), question.destination);
    if let Some(source) = question.source {
        let _ = write!(text, " from {source}");
    }
    text.push_str(if question.protocol == 6 { " ipproto tcp" } else { " ipproto udp" });
    // Port 0 is one that is not known, and ip takes it for a port.
    for (word, port) in [("sport", question.source_port), ("dport", Some(question.destination_port))] {
        if let Some(port) = port.filter(|port| *port != 0) {
            let _ = write!(text, " {word} {port}");
        }
    }
    if question.mark != 0 {
        let _ = write!(text, " mark {:#x}", question.mark);
    }
    let _ = write!(text, " uid {}", question.user);
    text
}

/// Where an answer leads: `dev wg0 table 200`, or what the kernel refuses with.
pub(crate) fn way(answer: &RouteAnswer) -> String {
    if let Some(failure) = &answer.failure {
        return failure.detail.clone();
    }
    let Some(route) = &answer.route else { return "nowhere".to_owned() };
    let device = route
        .device
        .as_ref()
        .map_or_else(|| format!("{:?}", route.route_kind).to_lowercase(), |device| format!("dev {device}"));
    let table =
        if matches!(route.table, 0 | 254) { String::new() } else { format!(" table {}", table_name(route.table)) };
    let source = route.preferred_source.map(|source| format!(" src {source}")).unwrap_or_default();
    format!("{device}{table}{source}")
}

/// A route of its own for the peer's address, the way that the servers' packets go. A route to this one address that is
/// there already is replaced, and put back to undo that.
pub(super) fn detour(diversion: &Diversion<'_>, what: &str) -> Option<Remedy> {
    let answer = &diversion.answer.fact;
    let (to, route) = (answer.question.destination, answer.route.as_ref()?);
    let usual = diversion.server.as_ref()?.fact.route.as_ref()?;
    let by = |route: &AnsweredRoute| {
        let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        Some(format!("{via} dev {}", route.device.as_ref()?))
    };
    let family = ip(Family::of(to));
    let table = if matches!(route.table, 0 | 254) { String::new() } else { format!(" table {}", route.table) };
    let whole = if to.is_ipv4() { 32 } else { 128 };
    let exact = route.matched.is_some_and(|prefix| prefix.length == whole);
    let (verb, undo) = if exact {
        ("replace", format!("{family} route replace {to}{}{table}", by(route)?))
    } else {
        ("add", format!("{family} route del {to}{table}"))
    };
    let command = format!("{family} route {verb} {to}{}{table}", by(usual)?);
    Some(Remedy::safe(format!("{what} (undo: {undo})")).run(command))
}

/// An interface's name inside a sysctl's: there a dot separates, and a slash stands for the dot of a VLAN's name.
pub(super) fn sysctl_name(device: &str) -> String {
    device.replace('.', "/")
}

/// What belongs to advice that names the port of this session: the next one has another, unless it is told. An
/// application's port is its own.
pub(super) fn again_with(port: Option<u16>, host: &HostEvidence) -> String {
    match port {
        Some(port) if host.application.is_none() => format!(", and run with --port {port} then"),
        _ => String::new(),
    }
}

/// What to do against a firewall rule.
pub(super) fn against(rule: &FirewallRule, host: &HostEvidence, port: Option<u16>, inbound: bool) -> Vec<Remedy> {
    let mut remedies = Vec::new();
    let has = |name| host.software(name).is_some();
    let (then, ports) = (again_with(port, host), port.map_or_else(|| "1024:65535".to_owned(), |port| port.to_string()));
    if has(SoftwareName::Ufw) {
        let command = if inbound {
            format!("ufw prepend allow in proto udp to any port {ports}")
        } else {
            "ufw prepend allow out proto udp to any".to_owned()
        };
        remedies.push(
            Remedy::firewall(format!("With ufw, allow it{}", if inbound { then.as_str() } else { "" })).run(command),
        );
    }
    if has(SoftwareName::Firewalld) && inbound {
        let port = port.map_or_else(|| "1024-65535".to_owned(), |port| port.to_string());
        let command = format!("firewall-cmd --permanent --add-port={port}/udp && firewall-cmd --reload");
        remedies.push(Remedy::firewall(format!("With firewalld, allow it{then}")).run(command));
    }
    if rule.framework == FirewallFramework::Nftables {
        let (family, table, chain) = (&rule.table_family, &rule.table, &rule.chain);
        let what = match (inbound, port) {
            (true, Some(port)) => format!("udp dport {port}"),
            (false, Some(port)) => format!("udp sport {port}"),
            (_, None) => "meta l4proto udp".to_owned(),
        };
        remedies.push(
            Remedy::firewall(format!(
                "Accept this traffic ahead of the rule, until the next reload of the ruleset{then}"
            ))
            .run(format!("nft insert rule {family} {table} {chain} {what} accept")),
        );
        if let Some(handle) = rule.handle {
            remedies.push(
                Remedy::firewall("Or take the rule out")
                    .run(format!("nft delete rule {family} {table} {chain} handle {handle}")),
            );
        }
    } else {
        let (chain, command) =
            (&rule.chain, if rule.table_family == "ip6" { "ip6tables-legacy" } else { "iptables-legacy" });
        let table = if rule.table == "filter" { String::new() } else { format!("-t {} ", rule.table) };
        let what = match (inbound, port) {
            (true, Some(port)) => format!("-p udp --dport {port}"),
            (false, Some(port)) => format!("-p udp --sport {port}"),
            (_, None) => "-p udp".to_owned(),
        };
        remedies.push(
            Remedy::firewall(format!("Accept this traffic ahead of the rule{then}"))
                .run(format!("{command} {table}-I {chain} {what} -j ACCEPT")),
        );
    }
    remedies
}

/// A firewall rule as a reader finds it.
pub(crate) fn quoted_firewall(rule: &FirewallRule) -> String {
    let place = format!("{} {} {}", rule.table_family, rule.table, rule.chain);
    match rule.handle {
        Some(handle) => format!("nft rule \"{}\" in {place}, handle {handle}", rule.rule),
        None => format!("rule \"{}\" in {place}", rule.rule),
    }
}

/// Whether a program is what this session stands in for, or is there at all.
pub(super) fn is_about(host: &HostEvidence, name: SoftwareName) -> bool {
    let asked = host
        .application
        .as_ref()
        .is_some_and(|(_, application)| application.asked.eq_ignore_ascii_case(&format!("{name:?}")));
    asked || host.software(name).is_some()
}

/// What is missing where the host was not looked at.
pub(super) const NO_FACTS: &str = "nothing is recorded about routes, rules and firewall on the host";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::RoutePurpose;

    #[test]
    fn a_port_that_is_not_known_is_not_asked_about() {
        let question = |source_port, destination_port| RouteQuestion {
            purpose: RoutePurpose::Peer,
            destination: "192.0.2.1".parse().unwrap(),
            destination_port,
            source: None,
            source_port,
            protocol: 17,
            mark: 0,
            user: 0,
            out_device: None,
            probe: false,
        };
        assert_eq!(ask(&question(Some(0), 0)), "ip route get 192.0.2.1 ipproto udp uid 0");
        assert_eq!(ask(&question(Some(7), 9)), "ip route get 192.0.2.1 ipproto udp sport 7 dport 9 uid 0");
    }
}
