//! Policy rules and routes in the words of NetworkManager, netplan, systemd-networkd, ifupdown and OpenWrt.

use std::fmt::Write as _;

use crate::diagnosis::evidence::HostEvidence;
use crate::diagnosis::finding::Remedy;
use crate::host::{InterfaceManager, ManagedInterface};

/// How steps are made to last on this host, in a file that is named by the rule's code.
pub(super) fn lasting(steps: &[Step<'_>], code: &str, host: &HostEvidence) -> Remedy {
    // A rule may have a finding of each family.
    let is_ipv6 = steps.iter().any(|step| step.is_ipv6);
    let name = format!("whyrelay-{code}{}", if is_ipv6 { "-ipv6" } else { "" });
    let device = steps.iter().find_map(|step| match step.kind {
        StepKind::Route { device, .. } => Some(device),
        StepKind::Rule { .. } => None,
    });
    // Rules belong to no interface: then to that by which the servers are reached.
    let device = device.or_else(|| host.routes_to_servers().find_map(|answer| answer.fact.device()));
    let managed = device.and_then(|device| host.managed.get(device)).map(|(_, managed)| managed);
    let known = managed.and_then(|managed| {
        let (file, commands) = match (managed.manager, &managed.netplan) {
            (InterfaceManager::NetworkManager | InterfaceManager::SystemdNetworkd, Some(id)) => {
                let file = format!("90-{name}.yaml");
                let commands = netplan(steps, &managed.device, (id, &file), host)?;
                (file, commands)
            }
            (InterfaceManager::NetworkManager, None) => (String::new(), network_manager(steps, managed)?),
            (InterfaceManager::SystemdNetworkd, None) => {
                let file = format!("{name}.conf");
                let commands = networkd(steps, managed, &file)?;
                (file, commands)
            }
            (InterfaceManager::Ifupdown, _) => ("that file".to_owned(), ifupdown(steps, &managed.device, &name)),
            (InterfaceManager::Netifd, _) => (String::new(), netifd(steps)?),
        };
        let by = if managed.netplan.is_some() { "netplan" } else { managed.manager.name() };
        let undo = if file.is_empty() { String::new() } else { format!(" (undo: remove {file})") };
        let text = format!("To make it last, with {by}, which sets {} up{undo}", managed.device);
        Some(Remedy { commands, ..Remedy::safe(text) })
    });
    known.unwrap_or_else(|| {
        let (of, device) = match (managed, device) {
            (Some(managed), _) => (format!("{}, ", managed.manager.name()), managed.device.as_str()),
            (None, device) => (String::new(), device.unwrap_or("the interface")),
        };
        Remedy::safe(format!(
            "To make it last, say the same to {of}what sets {device} up (NetworkManager: ipv4.routing-rules, ipv4.routes; netplan: routing-policy, routes; systemd-networkd: [RoutingPolicyRule], [Route]; ifupdown: an \"up\" line in /etc/network/interfaces)"
        ))
    })
}

/// `nmcli connection modify`, in nm-settings-nmcli(5)'s words.
fn network_manager(steps: &[Step<'_>], managed: &ManagedInterface) -> Option<Vec<String>> {
    let profile = managed.profile.as_ref()?;
    let mut commands = Vec::new();
    for step in steps {
        let family = step.family();
        let value = match &step.kind {
            StepKind::Rule { priority, from, to, mark, table } => {
                // A rule needs its priority there.
                let mut rule = format!("priority {}", priority.unwrap_or_else(|| number(table)));
                let _ = write!(
                    rule,
                    " from {}",
                    from.map_or_else(|| step.everything().to_owned(), |from| step.prefix(from))
                );
                for (word, value) in [("to", to.map(|to| step.prefix(to))), ("fwmark", mark.map(str::to_owned))] {
                    if let Some(value) = value {
                        let _ = write!(rule, " {word} {value}");
                    }
                }
                let _ = write!(rule, " table {}", number(table));
                format!("+{family}.routing-rules \"{rule}\"")
            }
            StepKind::Route { to, via, table, .. } => {
                let via = via.map_or_else(String::new, |via| format!(" {via}"));
                let table = table.map_or_else(String::new, |table| format!(" table={}", number(table)));
                format!("+{family}.routes \"{}{via}{table}\"", step.prefix(to))
            }
        };
        commands.push(format!("nmcli connection modify {profile} {value}"));
    }
    commands.push(format!("nmcli device reapply {}", managed.device));
    Some(commands)
}

/// A drop-in of the interface's own file, in systemd.network(5)'s words.
fn networkd(steps: &[Step<'_>], managed: &ManagedInterface, file: &str) -> Option<Vec<String>> {
    // A file under /run or /usr has its drop-ins under /etc by the same name.
    let own = managed.profile.as_ref()?.rsplit('/').next()?;
    let directory = format!("/etc/systemd/network/{own}.d");
    let mut text = String::new();
    for step in steps {
        match &step.kind {
            StepKind::Rule { priority, from, to, mark, table } => {
                let _ = write!(text, "[RoutingPolicyRule]\\nFamily={}\\n", step.family());
                let values = [
                    ("Priority", priority.map(str::to_owned)),
                    ("From", from.map(|from| step.prefix(from))),
                    ("To", to.map(|to| step.prefix(to))),
                    ("FirewallMark", mark.map(str::to_owned)),
                    ("Table", Some(number(table).to_owned())),
                ];
                for (key, value) in values {
                    if let Some(value) = value {
                        let _ = write!(text, "{key}={value}\\n");
                    }
                }
            }
            StepKind::Route { to, via, table, .. } => {
                let _ = write!(text, "[Route]\\nDestination={}\\n", step.prefix(to));
                for (key, value) in [("Gateway", via), ("Table", table)] {
                    if let Some(value) = value {
                        let _ = write!(text, "{key}={}\\n", number(value));
                    }
                }
            }
        }
    }
    Some(vec![
        format!("mkdir -p {directory}"),
        format!("printf '{text}' > {directory}/{file}"),
        "networkctl reload".to_owned(),
        format!("networkctl reconfigure {}", managed.device),
    ])
}

/// A file of its own, which netplan merges with the others: lists are joined.
fn netplan(steps: &[Step<'_>], device: &str, (id, file): (&str, &str), host: &HostEvidence) -> Option<Vec<String>> {
    let kind = match host.link(device).and_then(|link| link.fact.link_kind.as_deref()) {
        Some("bond") => "bonds",
        Some("bridge") => "bridges",
        Some("vlan") => "vlans",
        Some(_) => return None,
        None if device.starts_with("wl") => "wifis",
        None => "ethernets",
    };
    let (mut rules, mut routes) = (Vec::new(), Vec::new());
    for step in steps {
        match &step.kind {
            StepKind::Rule { priority, from, to, mark, table } => {
                let mut rule = vec![format!(
                    "{}: {:?}",
                    if from.is_some() { "from" } else { "to" },
                    from.or(*to).map_or_else(|| step.everything().to_owned(), |network| step.prefix(network))
                )];
                if let (Some(_), Some(to)) = (from, to) {
                    rule.push(format!("to: {:?}", step.prefix(to)));
                }
                let mark = mark.map(|mark| crate::host::parse_number(mark).map(|mark| mark.to_string()));
                if let Some(mark) = mark {
                    rule.push(format!("mark: {}", mark?));
                }
                if let Some(priority) = priority {
                    rule.push(format!("priority: {priority}"));
                }
                rule.push(format!("table: {}", number(table)));
                rules.push(format!("{{{}}}", rule.join(", ")));
            }
            StepKind::Route { to, via, table, .. } => {
                let mut route = vec![format!("to: {:?}", step.prefix(to))];
                match via {
                    Some(via) => route.push(format!("via: {via:?}")),
                    None => route.push("scope: link".to_owned()),
                }
                if let Some(table) = table {
                    route.push(format!("table: {}", number(table)));
                }
                routes.push(format!("{{{}}}", route.join(", ")));
            }
        }
    }
    let lists = [("routes", routes), ("routing-policy", rules)].into_iter().filter(|(_, list)| !list.is_empty());
    let lists: Vec<_> = lists.map(|(key, list)| format!("{key}: [{}]", list.join(", "))).collect();
    let text = format!("network: {{version: 2, {kind}: {{{id}: {{{}}}}}}}", lists.join(", "));
    Some(vec![
        format!("install -m 600 /dev/null /etc/netplan/{file} && printf '{text}\\n' > /etc/netplan/{file}"),
        "netplan apply".to_owned(),
    ])
}

/// A script that ifupdown runs with `IFACE` when an interface has come up (interfaces(5)).
fn ifupdown(steps: &[Step<'_>], device: &str, name: &str) -> Vec<String> {
    let script = format!("/etc/network/if-up.d/{name}");
    let commands: Vec<_> = steps.iter().map(|step| step.command).collect();
    vec![
        format!("printf '#!/bin/sh\\n[ \"$IFACE\" = {device} ] || exit 0\\n{}\\n' > {script}", commands.join("\\n")),
        format!("chmod 755 {script}"),
    ]
}

/// OpenWrt's own rules. A route there belongs to an interface by a name that only its configuration knows.
fn netifd(steps: &[Step<'_>]) -> Option<Vec<String>> {
    let mut commands = Vec::new();
    for step in steps {
        let StepKind::Rule { priority, from, to, mark, table } = &step.kind else { return None };
        commands.push(format!("uci add network {}", if step.is_ipv6 { "rule6" } else { "rule" }));
        let section = if step.is_ipv6 { "rule6" } else { "rule" };
        let values = [
            ("priority", priority.map(str::to_owned)),
            ("src", from.map(|from| step.prefix(from))),
            ("dest", to.map(|to| step.prefix(to))),
            ("mark", mark.map(str::to_owned)),
            ("lookup", Some(number(table).to_owned())),
        ];
        for (key, value) in values {
            if let Some(value) = value {
                commands.push(format!("uci set network.@{section}[-1].{key}={value}"));
            }
        }
    }
    commands.push("uci commit network && /etc/init.d/network reload".to_owned());
    Some(commands)
}

/// One `ip rule add` or `ip route add`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step<'a> {
    /// The whole command.
    command: &'a str,
    is_ipv6: bool,
    kind: StepKind<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum StepKind<'a> {
    Rule {
        priority: Option<&'a str>,
        from: Option<&'a str>,
        to: Option<&'a str>,
        mark: Option<&'a str>,
        table: &'a str,
    },
    Route {
        to: &'a str,
        via: Option<&'a str>,
        device: &'a str,
        table: Option<&'a str>,
    },
}

impl<'a> Step<'a> {
    /// What a command does, if it is one of these and nothing in it is unknown.
    pub(super) fn of(command: &'a str) -> Option<Self> {
        let (is_ipv6, rest) = match command.strip_prefix("ip -6 ") {
            Some(rest) => (true, rest),
            None => (false, command.strip_prefix("ip ")?),
        };
        let kind = if let Some(rest) = rest.strip_prefix("rule add ") {
            StepKind::rule(rest)?
        } else {
            StepKind::route(rest.strip_prefix("route add ").or_else(|| rest.strip_prefix("route replace "))?)?
        };
        Some(Self { command, is_ipv6, kind })
    }

    /// The family in the names of settings.
    const fn family(&self) -> &'static str {
        if self.is_ipv6 { "ipv6" } else { "ipv4" }
    }

    /// Everything of its family.
    const fn everything(&self) -> &'static str {
        if self.is_ipv6 { "::/0" } else { "0.0.0.0/0" }
    }

    /// A destination with the length of its prefix.
    fn prefix(&self, destination: &str) -> String {
        match destination {
            "default" => self.everything().to_owned(),
            with_length if with_length.contains('/') => with_length.to_owned(),
            host => format!("{host}/{}", if self.is_ipv6 { 128 } else { 32 }),
        }
    }
}

impl<'a> StepKind<'a> {
    fn rule(words: &'a str) -> Option<Self> {
        let (mut priority, mut from, mut to, mut mark, mut table) = (None, None, None, None, None);
        let mut words = words.split_whitespace();
        while let Some(word) = words.next() {
            let place = match word {
                "pref" => &mut priority,
                "from" => &mut from,
                "to" => &mut to,
                "fwmark" => &mut mark,
                "lookup" => &mut table,
                // A selector that not everything that sets networks up knows.
                _ => return None,
            };
            *place = Some(words.next()?);
        }
        Some(Self::Rule { priority, from: from.filter(|from| *from != "all"), to, mark, table: table? })
    }

    fn route(words: &'a str) -> Option<Self> {
        let mut words = words.split_whitespace();
        let to = words.next()?;
        let (mut via, mut device, mut table) = (None, None, None);
        while let Some(word) = words.next() {
            let place = match word {
                "via" => &mut via,
                "dev" => &mut device,
                "table" => &mut table,
                _ => return None,
            };
            *place = Some(words.next()?);
        }
        Some(Self::Route { to, via, device: device?, table })
    }
}

/// A table's number.
fn number(table: &str) -> &str {
    match table {
        "main" => "254",
        "default" => "253",
        other => other,
    }
}
