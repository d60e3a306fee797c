//! What other programs have put into this host's network, by the marks, tables and names that are theirs.

use std::collections::{BTreeMap, BTreeSet};

use whyrelay_core::diagnosis::rules::quoted;
use whyrelay_core::host::{Installed, InstalledPart, Link, PolicyRule, Route, SoftwareName, bounded};

use super::questions::MAIN;

/// Most things that are listed for one program.
const MAX_INSTALLED: usize = 32;

/// Most chains of one table that are listed by name; a table that is a program's own is told as one.
const MAX_CHAINS: usize = 8;

/// By a part of the name of a firewall table or chain, in lower case.
const FIREWALL_NAMES: [(&str, SoftwareName); 14] = [
    ("netbird", SoftwareName::Netbird),
    ("ts-", SoftwareName::Tailscale),
    ("docker", SoftwareName::Docker),
    ("kube-", SoftwareName::Kubernetes),
    ("ufw", SoftwareName::Ufw),
    ("firewalld", SoftwareName::Firewalld),
    ("mwan3", SoftwareName::Mwan3),
    ("libvirt", SoftwareName::Libvirt),
    ("crowdsec", SoftwareName::Crowdsec),
    ("f2b-", SoftwareName::Fail2ban),
    ("cilium", SoftwareName::Cilium),
    ("cali-", SoftwareName::Calico),
    ("flannel", SoftwareName::Flannel),
    ("wg-quick", SoftwareName::Wireguard),
];

/// What there is to look through.
pub(super) struct Host<'a> {
    pub(super) rules: &'a [PolicyRule],
    /// Family, table and chain of every chain; empty where the firewall cannot be read.
    pub(super) chains: BTreeSet<(&'static str, &'a str, &'a str)>,
    /// Routes by table and device.
    pub(super) routes: &'a BTreeMap<(u32, String), u64>,
}

/// Whose a firewall table or chain is, by its name.
pub(super) fn by_firewall_name(name: &str) -> Option<SoftwareName> {
    let lower = name.to_ascii_lowercase();
    // "ts-" alone would be in many a name.
    let fits = |part: &str| if part.len() > 4 { lower.contains(part) } else { lower.starts_with(part) };
    FIREWALL_NAMES.iter().find(|(part, _)| fits(part)).map(|(_, software)| *software)
}

/// Whose a policy rule is, by marks and tables that only one program uses.
pub(super) fn by_rule(rule: &PolicyRule) -> Option<SoftwareName> {
    let (mark, mask) = (rule.mark.filter(|mark| *mark != 0), rule.mask.unwrap_or(u32::MAX));
    match (mark, mask, rule.table) {
        // NetBird: 0x1bd00 to 0x1bdff, table 7120. A rule that lets such packets have the main table is who mends it.
        (Some(mark), _, table) if mark & !0xFF == 0x1BD00 && (rule.invert || table != Some(MAIN)) => {
            Some(SoftwareName::Netbird)
        }
        (.., Some(7120)) => Some(SoftwareName::Netbird),
        // Tailscale: bypass mark and table 52.
        (Some(0x80000), 0x00FF_0000, _) | (.., Some(52)) => Some(SoftwareName::Tailscale),
        // mwan3: its mask by default.
        (Some(_), 0x3F00, _) => Some(SoftwareName::Mwan3),
        // Cilium: proxy traffic.
        (Some(0x200 | 0xA00), 0xF00, _) | (.., Some(2004 | 2005)) => Some(SoftwareName::Cilium),
        (.., Some(65_743)) => Some(SoftwareName::Warp),
        // strongSwan.
        (None, _, Some(220)) if rule.priority == 220 => Some(SoftwareName::Ipsec),
        // wg-quick takes one number as mark and table.
        (Some(mark), u32::MAX, Some(table)) if mark == table && rule.invert => Some(SoftwareName::Wireguard),
        _ => None,
    }
}

/// What a program has installed. `links`: its interfaces.
pub(super) fn of(software: SoftwareName, links: &[&Link], host: &Host<'_>) -> Vec<Installed> {
    let mut installed = Vec::new();
    let mut add = |part, name: String| {
        let entry = Installed { part, which: bounded(name) };
        if installed.len() < MAX_INSTALLED && !installed.contains(&entry) {
            installed.push(entry);
        }
    };
    for link in links {
        let kind = link.link_kind.as_ref().map(|kind| format!(" ({kind})")).unwrap_or_default();
        add(InstalledPart::Interface, format!("{}{kind}", link.device));
    }
    let own: Vec<&PolicyRule> = host.rules.iter().filter(|rule| by_rule(rule) == Some(software)).collect();
    for rule in &own {
        if let Some(mark) = rule.mark.filter(|mark| *mark != 0) {
            let mask = rule.mask.filter(|mask| *mask != u32::MAX).map(|mask| format!("/{mask:#x}")).unwrap_or_default();
            add(InstalledPart::Mark, format!("{mark:#x}{mask}"));
        }
    }
    for rule in own.iter().copied().chain(suppressing(software, &own, host.rules)) {
        add(InstalledPart::PolicyRule, quoted(rule));
    }
    // The tables of routes that only its rules look up, and its interfaces' routes in any other.
    let tables: BTreeSet<u32> =
        own.iter().filter_map(|rule| rule.table).filter(|table| !matches!(table, 0 | 253..=255)).collect();
    for table in &tables {
        let count: u64 =
            host.routes.iter().filter(|((in_table, _), _)| in_table == table).map(|(_, count)| count).sum();
        add(InstalledPart::Routes, format!("table {table}: {count}"));
    }
    for ((table, device), count) in host.routes {
        if !tables.contains(table) && *table != 255 && links.iter().any(|link| link.device == *device) {
            let table = if *table == MAIN { "main".to_owned() } else { table.to_string() };
            add(InstalledPart::Routes, format!("dev {device} table {table}: {count}"));
        }
    }
    let mut by_table: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for (family, table, chain) in &host.chains {
        by_table.entry((family, table)).or_default().push(chain);
    }
    for ((family, table), chains) in by_table {
        if by_firewall_name(table) == Some(software) {
            add(InstalledPart::FirewallTable, format!("{family} {table} ({} chains)", chains.len()));
            continue;
        }
        let theirs: Vec<&str> = chains.into_iter().filter(|chain| by_firewall_name(chain) == Some(software)).collect();
        for chain in theirs.iter().take(MAX_CHAINS) {
            add(InstalledPart::FirewallChain, format!("{family} {table} {chain}"));
        }
        if theirs.len() > MAX_CHAINS {
            add(InstalledPart::FirewallChain, format!("{family} {table}: {} more", theirs.len() - MAX_CHAINS));
        }
    }
    installed
}

/// The rules "lookup main suppress_prefixlength 0" before a program's own, which let everything but the default route
/// of the main table come first: NetBird and wg-quick add one each.
fn suppressing<'a>(
    software: SoftwareName,
    own: &[&PolicyRule],
    rules: &'a [PolicyRule],
) -> impl Iterator<Item = &'a PolicyRule> + use<'a> {
    let adds = matches!(software, SoftwareName::Netbird | SoftwareName::Wireguard);
    let first = own.iter().map(|rule| rule.priority).min().filter(|_| adds).unwrap_or(0);
    // wg-quick's is next to its own, NetBird's a few numbers before.
    let near = first.saturating_sub(10)..=first.saturating_add(1);
    rules.iter().filter(move |rule| {
        rule.suppress_prefix_length == Some(0) && rule.table == Some(MAIN) && near.contains(&rule.priority) && first > 0
    })
}

/// Counts a route.
pub(super) fn count(routes: &mut BTreeMap<(u32, String), u64>, route: &Route) {
    // A host of many tables or devices has no more of a program's than fit.
    const MAX_KEYS: usize = 4096;
    let key = (route.table, route.device.clone().unwrap_or_default());
    if routes.len() < MAX_KEYS || routes.contains_key(&key) {
        *routes.entry(key).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use whyrelay_core::host::Family;

    use super::*;

    fn rule(priority: u32, mark: Option<u32>, mask: Option<u32>, table: Option<u32>) -> PolicyRule {
        PolicyRule { table, mark, mask, ..PolicyRule::lookup(Family::V4, priority, 0) }
    }

    fn names(software: SoftwareName, links: &[&Link], host: &Host<'_>) -> Vec<String> {
        of(software, links, host).into_iter().map(|entry| format!("{} {}", entry.part.name(), entry.which)).collect()
    }

    #[test]
    fn each_program_has_what_bears_its_marks_tables_and_names() {
        let inverted = |rule: PolicyRule| PolicyRule { invert: true, ..rule };
        let main = |priority| PolicyRule { suppress_prefix_length: Some(0), ..rule(priority, None, None, Some(254)) };
        let rules = [
            main(105),
            inverted(rule(110, Some(0x1BD00), None, Some(7120))),
            rule(2061, Some(0x3D00), Some(0x3F00), None),
            rule(5210, Some(0x80000), Some(0xFF_0000), Some(254)),
            rule(5270, None, None, Some(52)),
            inverted(rule(32_764, Some(51_820), None, Some(51_820))),
            main(32_763),
            rule(32_766, None, None, Some(254)),
        ];
        let routes = BTreeMap::from([
            ((7120, "wt0".to_owned()), 3),
            ((254, "wt0".to_owned()), 1),
            ((254, "eth0".to_owned()), 2),
            ((52, "tailscale0".to_owned()), 5),
        ]);
        let chains = BTreeSet::from([
            ("ip", "netbird", "netbird-acl-input"),
            ("ip", "netbird", "netbird-rt-fwd"),
            ("ip", "filter", "ts-input"),
            ("ip", "filter", "DOCKER-USER"),
            ("ip", "filter", "INPUT"),
            ("ip", "nat", "KUBE-SERVICES"),
            ("ip", "nat", "ufw-before-input"),
            ("inet", "firewalld", "filter_INPUT"),
            // A name that only begins alike inside a word.
            ("inet", "mine", "guests-in"),
        ]);
        let host = Host { rules: &rules, chains, routes: &routes };
        let wt0 = Link {
            device: "wt0".into(),
            index: 7,
            link_kind: Some("wireguard".into()),
            loopback: false,
            up: true,
            running: true,
            mtu: 1280,
            mac: None,
            master: None,
            vrf_table: None,
        };
        assert_eq!(
            names(SoftwareName::Netbird, &[&wt0], &host),
            [
                "interface wt0 (wireguard)",
                "mark 0x1bd00",
                "policy rule ip rule 110: not from all fwmark 0x1bd00 lookup 7120",
                "policy rule ip rule 105: from all lookup main suppress_prefixlength 0",
                "routes table 7120: 3",
                "routes dev wt0 table main: 1",
                "firewall table ip netbird (2 chains)",
            ]
        );
        assert_eq!(
            names(SoftwareName::Tailscale, &[], &host),
            [
                "mark 0x80000/0xff0000",
                "policy rule ip rule 5210: from all fwmark 0x80000/0xff0000 lookup main",
                "policy rule ip rule 5270: from all lookup 52",
                "routes table 52: 5",
                "firewall chain ip filter ts-input",
            ]
        );
        assert_eq!(
            names(SoftwareName::Wireguard, &[], &host),
            [
                "mark 0xca6c",
                "policy rule ip rule 32764: not from all fwmark 0xca6c lookup 51820",
                "policy rule ip rule 32763: from all lookup main suppress_prefixlength 0",
                "routes table 51820: 0",
            ]
        );
        assert_eq!(names(SoftwareName::Mwan3, &[], &host)[0], "mark 0x3d00/0x3f00");
        assert_eq!(names(SoftwareName::Docker, &[], &host), ["firewall chain ip filter DOCKER-USER"]);
        assert_eq!(names(SoftwareName::Kubernetes, &[], &host), ["firewall chain ip nat KUBE-SERVICES"]);
        assert_eq!(names(SoftwareName::Ufw, &[], &host), ["firewall chain ip nat ufw-before-input"]);
        assert_eq!(names(SoftwareName::Firewalld, &[], &host), ["firewall table inet firewalld (1 chains)"]);
        assert_eq!(by_firewall_name("guests-in"), None);
        assert_eq!(by_rule(&rules[7]), None, "the kernel's own");
        assert_eq!(by_rule(&rule(999, Some(0x1BD00), None, Some(MAIN))), None, "what mends a collision of marks");
    }

    #[test]
    fn what_is_listed_is_bounded() {
        let own: Vec<String> = (0..100).map(|number| format!("DOCKER-{number}")).collect();
        let chains = own.iter().map(|name| ("ip", "filter", name.as_str())).collect();
        let host = Host { rules: &[], chains, routes: &BTreeMap::new() };
        let listed = names(SoftwareName::Docker, &[], &host);
        assert_eq!((listed.len(), listed[8].as_str()), (9, "firewall chain ip filter: 92 more"));
    }
}
