//! Routers by nftables: what Linux does itself, its faults included.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use whyrelay_core::nat::behavior::{
    Behavior, FilteringBehavior, Hairpinning, MappingBehavior, PortAllocation, Refresh, Unsolicited,
};
use whyrelay_core::nat::table::TRACKED_LIFETIME;

use super::command::run;
use super::error::LabError;
use crate::scenario::file::{Ipv6, Refusal};
use crate::scenario::topology::{Router, Translation};
use crate::scenario::value::Span32;

/// The interface toward the inside.
pub(super) const LAN: &str = "lan0";
/// The interface toward the outside.
pub(super) const WAN: &str = "wan0";

/// Why nftables cannot translate as a router does; `None` when it can.
pub(super) fn cannot(router: &Router) -> Option<&'static str> {
    use FilteringBehavior as F;
    use MappingBehavior as M;
    let lifetime = router.translation.lifetime();
    if lifetime.is_zero() || lifetime.subsec_nanos() > 0 {
        return Some("a lifetime that is no whole number of seconds");
    }
    let behavior = match &router.translation {
        Translation::Nat(behavior) => behavior,
        Translation::OneToOne { filtering, .. } | Translation::Nothing { filtering, .. } => {
            return (*filtering == F::AddressDependent).then_some("its filter remembers addresses without ports");
        }
    };
    let possible = matches!(
        (behavior.mapping, behavior.filtering, behavior.ports),
        (M::EndpointIndependent, _, PortAllocation::Preserving)
            | (M::AddressAndPortDependent, F::AddressAndPortDependent, PortAllocation::Random)
    );
    if !possible {
        Some("this mix of mapping, filtering and port allocation")
    } else if behavior.refresh == Refresh::Outbound {
        Some("inbound packets refresh Linux's mappings")
    } else if router.external().count() > 1 {
        Some("a pool of addresses, which Linux deals out by a hash of its own")
    } else if behavior.hairpinning != Hairpinning::Unsupported {
        Some("hairpinning")
    } else if router.alg.is_some() {
        Some("an application-layer gateway")
    } else if !router.port_mapping.is_empty() {
        Some("ports mapped as hosts ask")
    } else {
        None
    }
}

/// How the timeout begins that a flow from outside has in a router's own table (`ct timeout`).
const TIMEOUT: &str = "ct timeout early {";

/// Loads rules into the namespace that this thread is in.
///
/// # Errors
/// When `nft` refuses them. Where the kernel was built without what they need, the scenario is what cannot be done.
pub(super) fn load(program: &Path, rules: &str) -> Result<(), LabError> {
    let load = |rules: &str| run(program, &["-f", "-"], rules).map(drop);
    let Err(refused) = load(rules) else { return Ok(()) };
    let alone = || load(&format!("table inet trial {{\n{TIMEOUT} protocol udp; l3proto ip; }}\n}}\n"));
    if rules.contains(TIMEOUT) && alone().is_err() {
        return Err(LabError::Unsupported(
            "flows from outside in a router's table: this kernel has no timeouts for some flows alone \
             (CONFIG_NF_CONNTRACK_TIMEOUT)"
                .to_owned(),
        ));
    }
    Err(refused)
}

/// The rules of a router that translates by nftables.
pub(super) fn translating(router: &Router) -> String {
    let mut text = match &router.translation {
        Translation::Nat(behavior) => nat(router, behavior),
        Translation::OneToOne { pairs, .. } => one_to_one(router, pairs),
        Translation::Nothing { .. } => String::new(),
    };
    let open = match &router.translation {
        Translation::Nat(behavior) => behavior.filtering != FilteringBehavior::AddressAndPortDependent,
        Translation::OneToOne { filtering, .. } | Translation::Nothing { filtering, .. } => {
            *filtering == FilteringBehavior::EndpointIndependent
        }
    };
    text.push_str(&filter(router, open));
    text
}

/// The rules of a router whose translation is done elsewhere: only what it lets out and in.
pub(super) fn filtering(router: &Router) -> String {
    filter(router, true)
}

fn nat(router: &Router, behavior: &Behavior) -> String {
    let mut text = "table ip nat {\n".to_owned();
    // A map of who has which external port, filled when a mapping is made: who is let in beyond the kernel's own entry.
    let key = match behavior.filtering {
        FilteringBehavior::EndpointIndependent => Some(("inet_service", "", "")),
        FilteringBehavior::AddressDependent => Some(("ipv4_addr . inet_service", "ip daddr . ", "ip saddr . ")),
        FilteringBehavior::AddressAndPortDependent => None,
    };
    let seconds = behavior.lifetime.as_secs().max(1);
    if let Some((kind, to, from)) = key {
        // Packets of both directions keep it, as they keep the kernel's own entry; those that come in are seen here with
        // their destination inside, of a connection that began inside or outside.
        let _ = writeln!(
            text,
            "map known {{ type {kind} : ipv4_addr . inet_service; flags dynamic,timeout; timeout {seconds}s; }}\n\
             chain learn {{ type filter hook postrouting priority 110; policy accept;\n\
             oifname \"{WAN}\" meta l4proto udp \
             update @known {{ {to}udp sport : ct original ip saddr . ct original proto-src }}\n}}\n\
             chain keep {{ type filter hook forward priority 10; policy accept;\n\
             iifname \"{WAN}\" meta l4proto udp ct direction reply \
             update @known {{ {from}ct reply proto-dst : ip daddr . udp dport }}\n\
             iifname \"{WAN}\" meta l4proto udp ct direction original \
             update @known {{ {from}ct original proto-dst : ip daddr . udp dport }}\n}}"
        );
    }
    text.push_str("chain pre { type nat hook prerouting priority -100; policy accept;\n");
    text.push_str(&forwards_in(router));
    if let Some((_, _, from)) = key {
        let _ = writeln!(text, "iifname \"{WAN}\" meta l4proto udp dnat ip to {from}udp dport map @known");
    }
    text.push_str("}\nchain post { type nat hook postrouting priority 100; policy accept;\n");
    text.push_str(&forwards_out(router));
    let fully = if behavior.ports == PortAllocation::Random { " random,fully-random" } else { "" };
    let _ = writeln!(text, "oifname \"{WAN}\" masquerade{fully}\n}}\n}}");
    text
}

/// Forwards of ports, as far as they are not what the translation does already.
fn forwards_in(router: &Router) -> String {
    let mut text = String::new();
    for (outside, inside) in router.forwards.iter().filter(|(outside, inside)| outside != inside) {
        for protocol in ["udp", "tcp"] {
            let (address, port) = (outside.ip(), outside.port());
            let _ = writeln!(text, "iifname \"{WAN}\" ip daddr {address} {protocol} dport {port} dnat to {inside}");
        }
    }
    text
}

/// What leaves from a forwarded port is seen as coming from it.
fn forwards_out(router: &Router) -> String {
    let mut text = String::new();
    for (outside, inside) in router.forwards.iter().filter(|(outside, inside)| outside != inside) {
        for protocol in ["udp", "tcp"] {
            let (address, port) = (inside.ip(), inside.port());
            let _ = writeln!(text, "oifname \"{WAN}\" ip saddr {address} {protocol} sport {port} snat to {outside}");
        }
    }
    text
}

fn one_to_one(router: &Router, pairs: &[(IpAddr, IpAddr)]) -> String {
    let mut text = "table ip nat {\nchain pre { type nat hook prerouting priority -100; policy accept;\n".to_owned();
    text.push_str(&forwards_in(router));
    for (inside, outside) in pairs {
        let _ = writeln!(text, "iifname \"{WAN}\" ip daddr {outside} dnat to {inside}");
    }
    text.push_str("}\nchain post { type nat hook postrouting priority 100; policy accept;\n");
    text.push_str(&forwards_out(router));
    for (inside, outside) in pairs {
        let _ = writeln!(text, "oifname \"{WAN}\" ip saddr {inside} snat to {outside}");
    }
    text.push_str("}\n}\n");
    text
}

fn filter(router: &Router, open: bool) -> String {
    let is_tracked = matches!(&router.translation, Translation::Nat(nat) if nat.unsolicited == Unsolicited::Tracked);
    let input = if is_tracked { "accept" } else { "drop" };
    let mut text = "table inet filter {\n".to_owned();
    if is_tracked {
        // As in `nat::table`: the router's lifetime is that of what a host inside began.
        let seconds = TRACKED_LIFETIME.as_secs();
        let _ = writeln!(
            text,
            "{TIMEOUT}\nprotocol udp;\nl3proto ip;\n\
             policy = {{ unreplied : {seconds}, replied : {seconds} }}\n}}\n\
             chain early {{ type filter hook input priority -1; policy accept;\n\
             iifname \"{WAN}\" meta nfproto ipv4 meta l4proto udp ct state new ct timeout set \"early\"\n}}"
        );
    }
    text.push_str("chain raw { type filter hook prerouting priority -300; policy accept;\n");
    if let Some(ports) = &router.stateless_inbound {
        let _ = writeln!(text, "iifname \"{WAN}\" meta l4proto udp {} drop", not_in("dport", ports));
    }
    let _ = writeln!(
        text,
        "}}\nchain input {{ type filter hook input priority 0; policy {input};\n\
         iifname != \"{WAN}\" accept\nct state established,related accept\nmeta l4proto {{ icmp, icmpv6 }} accept\n}}"
    );
    let _ = writeln!(text, "chain forward {{ type filter hook forward priority 0; policy accept;");
    let verdict = match router.rejects {
        Some(Refusal::Prohibited) => "reject with icmpx admin-prohibited",
        Some(Refusal::PortUnreachable) => "reject with icmpx port-unreachable",
        None => "drop",
    };
    for (protocol, ports) in [("udp", &router.egress.udp), ("tcp", &router.egress.tcp)] {
        if let Some(ports) = ports {
            let others = not_in("dport", ports);
            let _ = writeln!(text, "iifname \"{LAN}\" oifname != \"{LAN}\" meta l4proto {protocol} {others} {verdict}");
        }
    }
    match router.ipv6 {
        Ipv6::Open => text.push_str("meta nfproto ipv6 accept\n"),
        Ipv6::Stateful => {
            let _ = writeln!(
                text,
                "meta nfproto ipv6 iifname \"{WAN}\" ct state established,related accept\n\
                 meta nfproto ipv6 iifname \"{WAN}\" drop"
            );
        }
        Ipv6::None | Ipv6::NoRoute => text.push_str("meta nfproto ipv6 drop\n"),
    }
    if !open {
        let _ = writeln!(text, "iifname \"{WAN}\" ct state established,related accept");
        // By where it goes now: translation comes first.
        for (_, inside) in &router.forwards {
            for protocol in ["udp", "tcp"] {
                let (address, port) = (inside.ip(), inside.port());
                let _ = writeln!(text, "iifname \"{WAN}\" ip daddr {address} {protocol} dport {port} accept");
            }
        }
        let _ = writeln!(text, "iifname \"{WAN}\" drop");
    }
    text.push_str("}\n");
    if !router.icmp {
        text.push_str(
            "chain output { type filter hook output priority 0; policy accept;\n\
             icmp type { destination-unreachable, time-exceeded, parameter-problem } drop\n\
             icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } drop\n}\n",
        );
    }
    text.push_str("}\n");
    text
}

/// What matches every port but these.
fn not_in(which: &str, ports: &[Span32]) -> String {
    if ports.is_empty() {
        return String::new();
    }
    let list: Vec<String> = ports.iter().map(ToString::to_string).collect();
    format!("th {which} != {{ {} }}", list.join(", "))
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, remove_file, set_permissions, write};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// `nft` on a kernel that takes no timeouts, and that refuses one more word.
    #[test]
    fn a_kernel_without_timeouts_of_flows_makes_the_scenario_impossible_and_not_broken() {
        let program = std::env::temp_dir().join(format!("whyrelay-lab-nft-{}", std::process::id()));
        let fake = |refuses: &str| {
            write(&program, format!("#!/bin/sh\n! grep -qE '{refuses}'\n")).unwrap();
            set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        };
        let rules = format!("table inet filter {{\n{TIMEOUT}\n}}\nchain wrong {{ }}\n}}\n");
        fake("ct timeout");
        let without = load(&program, &rules);
        assert!(
            matches!(&without, Err(LabError::Unsupported(what)) if what.contains("NF_CONNTRACK_TIMEOUT")),
            "{without:?}"
        );
        assert!(load(&program, "table inet filter { }\n").is_ok());
        // Other rules are refused for what they are.
        fake("wrong");
        assert!(matches!(load(&program, &rules), Err(LabError::Command { .. })));
        fake("nothing");
        assert!(load(&program, &rules).is_ok());
        remove_file(&program).unwrap();
    }
}
