//! One line for a reader about a fact of a host, in the words of the commands that show it.

use std::fmt::Write as _;

use super::probes;
use crate::diagnosis::rules::{ask, quoted, quoted_firewall, way};
use crate::host::{
    ConntrackEntry, FirewallChain, HostFact, HostSocket, Installed, Link, Moment, NextHop, ProfileTally, Route,
    SocketProfile, Software, System,
};

/// What a fact says and when it was taken; `None`: its fields say it as well as a sentence would.
pub(super) fn describe(moment: Moment, fact: &HostFact) -> Option<String> {
    let when = match moment {
        Moment::Before => "before the checks",
        Moment::During => "during the checks",
        Moment::After => "after the checks",
    };
    Some(format!("{} ({when})", words(fact)?))
}

/// The same without the moment.
fn words(fact: &HostFact) -> Option<String> {
    Some(match fact {
        HostFact::Link(fact) => link(fact),
        HostFact::Address(fact) => format!("address {}/{} on {}", fact.address, fact.prefix_length, fact.device),
        HostFact::Route(fact) => route(fact),
        HostFact::PolicyRule(rule) => format!("\"{}\"", quoted(rule)),
        HostFact::Neighbor(fact) => {
            let mac = fact.mac.as_ref().map_or_else(String::new, |mac| format!(" at {mac}"));
            let state = super::describe::word(&fact.neighbor_state);
            format!("neighbor {} on {}{mac}: {state}", fact.address, fact.device)
        }
        HostFact::Sysctl { sysctl, interface, value } => {
            let of = interface.as_ref().map_or_else(String::new, |interface| format!(" of {interface}"));
            format!("{sysctl}{of} = {value}")
        }
        HostFact::FirewallRule(rule) => {
            let counted = rule.packets_since.or(rule.packets).map_or_else(String::new, |packets| {
                let when = if rule.packets_since.is_some() {
                    "during the session"
                } else {
                    "in all; how many of them during the session cannot be told"
                };
                format!(", {packets} packets {when}")
            });
            format!("{}{counted}", quoted_firewall(rule))
        }
        HostFact::FirewallChain(fact) => chain(fact),
        HostFact::IpsecPolicy(policy) => format!("ip xfrm policy: {policy}"),
        HostFact::ConntrackUse { entries, max } => format!("connection tracking: {entries} of {max} entries in use"),
        HostFact::ConntrackEntry(entry) => tracked(entry),
        HostFact::Socket(fact) => socket(fact),
        HostFact::SocketProfile(fact) => profile(fact),
        HostFact::RouteAnswer(fact) => format!("\"{}\" leads to {}", ask(&fact.question), way(fact)),
        HostFact::OwnPacket(fact) => {
            let verb = if fact.arrived { "arrived at" } else { "left by" };
            let wrong = match fact.wrong_checksums {
                0 => String::new(),
                wrong => format!(", {wrong} with a wrong checksum"),
            };
            format!("{} packets {} > {} {verb} {}{wrong}", fact.packets, fact.source, fact.destination, fact.device)
        }
        HostFact::OwnConnection(fact) => {
            let verb = if fact.arrived { "arrived at" } else { "left by" };
            format!(
                "{} packets of connections {} > {} {verb} {} (SYN, or RST)",
                fact.packets, fact.source, fact.destination, fact.device
            )
        }
        HostFact::Probe(fact) => {
            let result = probes::result(&fact.result).1;
            format!("probe {}, {} > {}: {result}", probes::aim(&fact.aim), fact.local, fact.remote)
        }
        HostFact::ProfileTally(fact) => tally(fact),
        HostFact::Counted { subject, total, recorded } => {
            format!("{recorded} of {total} {} are recorded", super::describe::word(subject))
        }
        HostFact::NotMeasured { subject, why, needs } => {
            let needs = needs.as_ref().map_or_else(String::new, |needs| format!(" (needs {needs})"));
            format!("not measured: {}: {why}{needs}", super::describe::word(subject))
        }
        HostFact::Software(fact) => software(fact),
        HostFact::System(fact) => system(fact),
        HostFact::ManagedInterface(fact) => {
            let netplan = fact.netplan.as_ref().map_or_else(String::new, |id| format!(", by netplan's {id}"));
            let profile = fact.profile.as_ref().map_or_else(String::new, |profile| format!(" ({profile})"));
            format!("{} is set up by {}{profile}{netplan}", fact.device, fact.manager.name())
        }
        HostFact::Gone { gone } => format!("no longer there: {}", words(gone)?),
        HostFact::Resolver { .. }
        | HostFact::Capabilities { .. }
        | HostFact::Counters { .. }
        | HostFact::ProbeSeen { .. }
        | HostFact::Application(_) => return None,
    })
}

fn chain(chain: &FirewallChain) -> String {
    let FirewallChain { table_family, table, chain: name, rules, recorded, .. } = chain;
    let at = chain.hook.as_ref().map_or_else(String::new, |hook| format!(" at {hook}"));
    let policy = if chain.drops { ", policy drop" } else { "" };
    let told = if recorded < rules { format!("; {recorded} of them are recorded") } else { String::new() };
    let (rules, verb) =
        if *rules == 1 { ("1 rule".to_owned(), "decides") } else { (format!("{rules} rules"), "decide") };
    format!("chain {table_family} {table} {name}{at}{policy}: {rules} {verb} about the session's packets{told}")
}

fn system(system: &System) -> String {
    let mut text = match &system.distribution {
        Some(id) => format!("distribution {id}"),
        None => "a distribution that does not say its name".to_owned(),
    };
    if let Some(version) = &system.version {
        let _ = write!(text, " {version}");
    }
    if !system.like.is_empty() {
        let _ = write!(text, " (like {})", system.like.join(", "));
    }
    if let Some(init) = system.init {
        let _ = write!(text, ", services by {}", super::describe::word(&init));
    }
    text
}

/// A program with how it was recognized, what it installed and how it is set.
pub(super) fn software(software: &Software) -> String {
    let is_certain = software.is_certain();
    let guess = if is_certain { "" } else { "what looks like " };
    let mut text = format!("{guess}{} ({})", super::describe::word(&software.software), software.signs.join(", "));
    if !software.installed.is_empty() {
        // One word for a row of the same kind: "policy rules 105, 110".
        let mut parts: Vec<(&str, Vec<&str>)> = Vec::new();
        for Installed { part, which } in &software.installed {
            match parts.iter_mut().find(|(known, _)| *known == part.name()) {
                Some((_, names)) => names.push(which),
                None => parts.push((part.name(), vec![which])),
            }
        }
        let parts = parts.into_iter().map(|(part, names)| format!("{part} {}", names.join(", ")));
        text.push_str(if is_certain { " has installed " } else { ": " });
        text.push_str(&parts.collect::<Vec<_>>().join("; "));
    }
    if let Some(settings) = software.environment.as_ref().filter(|settings| !settings.is_empty()) {
        let settings: Vec<_> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        text.push_str(", with ");
        text.push_str(&settings.join(" "));
    }
    text
}

fn link(link: &Link) -> String {
    let kind = link.link_kind.as_ref().map_or_else(String::new, |kind| format!(", {kind}"));
    let master = link.master.as_ref().map_or_else(String::new, |master| format!(", part of {master}"));
    let state = match (link.up, link.running) {
        (true, true) => "up",
        (true, false) => "up, without carrier",
        (false, _) => "down",
    };
    let table = link.vrf_table.map_or_else(String::new, |table| format!(", VRF of table {table}"));
    format!("interface {}: {state}, MTU {}{kind}{master}{table}", link.device, link.mtu)
}

fn route(route: &Route) -> String {
    let kind = super::describe::word(&route.route_kind);
    let kind = if kind == "unicast" { String::new() } else { format!("{kind} ") };
    let via = route.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
    let device = route.device.as_ref().map_or_else(String::new, |device| format!(" dev {device}"));
    let metric = route.metric.map_or_else(String::new, |metric| format!(" metric {metric}"));
    let hop = |hop: &NextHop| {
        let via = hop.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
        let device = hop.device.as_ref().map_or_else(String::new, |device| format!(" dev {device}"));
        format!(", or{via}{device}")
    };
    let others: String = route.other_hops.iter().map(hop).collect();
    let object = route.next_hop_object.map_or_else(String::new, |id| format!(" nhid {id}"));
    format!("route {kind}{}{object}{via}{device} table {}{metric}{others}", route.destination, route.table)
}

fn tracked(entry: &ConntrackEntry) -> String {
    let state = if entry.replied { "replied" } else { "not replied" };
    let mark = if entry.mark == 0 { String::new() } else { format!(", mark {:#x}", entry.mark) };
    format!(
        "tracked: {} > {}, back {} > {}, {state}{mark}",
        entry.original_source, entry.original_destination, entry.reply_source, entry.reply_destination
    )
}

fn socket(socket: &HostSocket) -> String {
    let owner = socket.process.as_ref().map_or_else(|| format!("user {}", socket.user), Clone::clone);
    let mark = match socket.mark {
        Some(mark) => format!("mark {mark:#x}"),
        None => "mark not measured".to_owned(),
    };
    let device = socket.bound_device.as_ref().map_or_else(String::new, |device| format!(", bound to {device}"));
    let transport = super::describe::word(&socket.socket_transport);
    format!("{transport} socket {} of {owner}, {mark}{device}", socket.local)
}

fn profile(profile: &SocketProfile) -> String {
    let like = if profile.as_application { "the application's" } else { "a plain program's" };
    let device = profile.bound_device.as_ref().map_or_else(String::new, |device| format!(", bound to {device}"));
    format!("own socket {} like {like}: mark {:#x}, user {}{device}", profile.local, profile.mark, profile.user)
}

fn tally(tally: &ProfileTally) -> String {
    let like = if tally.as_application { "the application's" } else { "a plain program's" };
    format!(
        "sockets like {like}: {} of {} pairs with the peer answered, {} of {} requests to servers",
        tally.pairs_answered, tally.pairs_checked, tally.server_answers, tally.server_requests
    )
}
