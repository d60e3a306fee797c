//! What a simulated kernel tells of itself, as the facts that a real one's collector records.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use whyrelay_core::host::{
    FirewallChain, FirewallFramework, FirewallRule, HostFact, Link, Neighbor, NeighborState, OwnPacket, RoutePurpose,
    Subject,
};

use crate::scenario::file::{Hook, InterfaceKind, Protocol, Verdict};
use crate::scenario::topology::{self, HostChain};

use super::kernel::{Copied, Kernel};

/// Ethernet's, unless the link says otherwise.
const USUAL_MTU: u32 = 1500;
/// What WireGuard's tools set.
const TUNNEL_MTU: u32 = 1420;
/// Linux's limit on a host of this size.
const CONNTRACK_MAX: u64 = 262_144;

/// Facts from before the checks.
pub(super) fn before(kernel: &Kernel) -> Vec<HostFact> {
    let mut facts = Vec::new();
    for (number, interface) in kernel.host.interfaces.iter().enumerate() {
        facts.push(HostFact::Link(link(number, interface)));
    }
    facts.extend(kernel.addresses.iter().cloned().map(HostFact::Address));
    facts.extend(kernel.routes.iter().filter(|route| route.table != 255).cloned().map(HostFact::Route));
    facts.extend(kernel.rules.iter().cloned().map(HostFact::PolicyRule));
    for (name, value) in &kernel.host.sysctls {
        // An interface's name may hold dots.
        let (rest, sysctl) = name.rsplit_once('.').unwrap_or(("", name));
        let interface = ["net.ipv4.conf.", "net.ipv6.conf."].into_iter().find_map(|family| rest.strip_prefix(family));
        let (sysctl, interface) = (sysctl.to_owned(), interface.map(str::to_owned));
        facts.push(HostFact::Sysctl { sysctl, interface, value: value.to_string() });
    }
    // A real collector tells each of these of every interface; here they are 0 where nobody set them.
    let settings = ["rp_filter", "src_valid_mark"];
    let is_set = |name: &str| kernel.host.sysctls.contains_key(name);
    let devices = kernel.host.interfaces.iter().map(|interface| interface.name.as_str()).chain(["all"]);
    for device in devices.filter(|_| kernel.host.sysctls.keys().any(|name| name.ends_with(".rp_filter"))) {
        for sysctl in settings.into_iter().filter(|name| !is_set(&format!("net.ipv4.conf.{device}.{name}"))) {
            let (sysctl, interface) = (sysctl.to_owned(), Some(device.to_owned()));
            facts.push(HostFact::Sysctl { sysctl, interface, value: "0".to_owned() });
        }
    }
    facts.push(HostFact::ConntrackUse {
        entries: if kernel.host.conntrack_full { CONNTRACK_MAX } else { 12 },
        max: CONNTRACK_MAX,
    });
    let effective = ["CAP_NET_ADMIN", "CAP_NET_RAW"].map(str::to_owned);
    let effective = if kernel.uid == 0 { effective.to_vec() } else { Vec::new() };
    facts.push(HostFact::Capabilities { user: kernel.uid, effective, container: None });
    facts
}

/// What routing answers for one other end, from each socket of its family.
pub(super) fn routes(kernel: &Kernel, purpose: RoutePurpose, sockets: &[SocketAddr], to: SocketAddr) -> Vec<HostFact> {
    let own = sockets.iter().filter(|local| local.is_ipv4() == to.is_ipv4());
    own.map(|local| HostFact::RouteAnswer(kernel.ask(&kernel.question(purpose, Some(*local), to)))).collect()
}

/// Facts from after the checks, with `sockets`, the candidates and servers that the session had to do with.
pub(super) fn after(kernel: &Kernel, sockets: &[SocketAddr], others: &BTreeSet<SocketAddr>) -> Vec<HostFact> {
    let read = ["Ip", "Ip6", "Icmp", "Udp", "Udp6", "TcpExt", "nf_conntrack"].map(str::to_owned).to_vec();
    let mut facts = vec![HostFact::Counters { moved: kernel.counters.clone(), read }];
    facts.extend(firewall(kernel, sockets, others));
    // As a real collector's copy has it: from or to a port of the session's own sockets, whoever's it is.
    let ports: BTreeSet<u16> = sockets.iter().map(SocketAddr::port).collect();
    for (arrived, seen) in [(false, &kernel.left), (true, &kernel.arrived)] {
        let copied = |((_, source, destination), _): &(&(usize, SocketAddr, SocketAddr), &Copied)| {
            ports.contains(&source.port()) || ports.contains(&destination.port())
        };
        for ((interface, source, destination), Copied { packets, wrong_checksums }) in seen.iter().filter(copied) {
            let device = kernel.host.interfaces[*interface].name.clone();
            let (source, destination) = (*source, *destination);
            let (packets, wrong_checksums) = (*packets, *wrong_checksums);
            facts.push(HostFact::OwnPacket(OwnPacket {
                device,
                source,
                destination,
                packets,
                arrived,
                wrong_checksums,
            }));
        }
    }
    let failed: BTreeSet<_> = kernel.failed_neighbors.iter().collect();
    facts.extend(failed.into_iter().map(|(interface, address)| {
        HostFact::Neighbor(Neighbor {
            device: kernel.host.interfaces[*interface].name.clone(),
            address: *address,
            mac: None,
            neighbor_state: NeighborState::Failed,
        })
    }));
    // What of each there is nothing of is told, too, as a real collector does.
    facts.extend(
        [
            Subject::Routes,
            Subject::Neighbors,
            Subject::Nftables,
            Subject::LegacyIptables,
            Subject::Conntrack,
            Subject::Sockets,
            Subject::Software,
            Subject::OwnPackets,
        ]
        .map(|subject| {
            let is_of_it = |fact: &&HostFact| {
                matches!(
                    (subject, fact),
                    (Subject::Neighbors, HostFact::Neighbor(_))
                        | (Subject::Nftables, HostFact::FirewallRule(_))
                        | (Subject::OwnPackets, HostFact::OwnPacket(_))
                )
            };
            let recorded = facts.iter().filter(is_of_it).count() as u64;
            match subject {
                Subject::Routes => {
                    let total = kernel.routes.len() as u64;
                    HostFact::Counted { subject, total, recorded: total }
                }
                Subject::Nftables => {
                    let own = kernel.host.firewall.iter().map(|rule| rule.hook).collect::<BTreeSet<_>>().len();
                    HostFact::Counted { subject, total: (kernel.host.firewall.len() + own) as u64, recorded }
                }
                _ => HostFact::Counted { subject, total: recorded, recorded },
            }
        }),
    );
    facts
}

fn link(number: usize, interface: &topology::Interface) -> Link {
    let (kind, usual) = match interface.kind {
        InterfaceKind::Ethernet => (None, USUAL_MTU),
        InterfaceKind::Tunnel => (Some("wireguard"), TUNNEL_MTU),
        InterfaceKind::Bridge => (Some("bridge"), USUAL_MTU),
    };
    Link {
        device: interface.name.clone(),
        index: number as u32 + 2,
        link_kind: kind.map(str::to_owned),
        loopback: false,
        up: true,
        running: true,
        mtu: interface.link.mtu.map_or(usual, u32::from),
        mac: None,
        master: None,
        vrf_table: None,
    }
}

/// What a real collector records of the packet filter that a lab builds from a scenario: the rules that counted packets of
/// the session, or that stop or mark some that it can have; and of each chain that may do so every rule that decides about
/// them. The others are only counted there.
fn firewall(kernel: &Kernel, sockets: &[SocketAddr], others: &BTreeSet<SocketAddr>) -> Vec<HostFact> {
    let rules: Vec<_> = kernel.host.firewall.iter().zip(&kernel.matched).collect();
    let decides = |rule: &topology::FirewallRule| can_touch(rule, sockets, others);
    let (mut facts, mut own, mut chains) = (Vec::new(), Vec::new(), Vec::new());
    let hooks: BTreeSet<Hook> = rules.iter().map(|(rule, _)| rule.hook).collect();
    for hook in hooks {
        let name = Name(HostChain::of(&kernel.host, hook));
        let of_chain: Vec<_> = rules.iter().enumerate().filter(|(_, (rule, _))| rule.hook == hook).collect();
        let may_stop = of_chain.iter().any(|(_, (rule, _))| decides(rule) && rule.verdict != Verdict::Accept);
        // What a host says to itself comes first.
        let (word, accept) = (if hook == Hook::Output { "oifname" } else { "iifname" }, Some("accept"));
        if may_stop {
            own.push(HostFact::FirewallRule(FirewallRule {
                position: Some(0),
                packets: None,
                packets_since: None,
                verdict: accept.map(str::to_owned),
                ..name.rule(format!("{word} \"lo\" accept"), None)
            }));
            let count = of_chain.iter().filter(|(_, (rule, _))| decides(rule)).count() as u64 + 1;
            chains.push(HostFact::FirewallChain(name.chain(count)));
        }
        for ((number, (rule, matched)), position) in of_chain.into_iter().zip(1..) {
            let acts = rule.verdict != Verdict::Accept && can_touch(rule, sockets, others);
            if **matched == 0 && !acts && !(may_stop && decides(rule)) {
                continue;
            }
            let verdict = match rule.verdict {
                Verdict::Accept => accept,
                Verdict::Drop => Some("drop"),
                Verdict::Reject => Some("reject"),
                Verdict::SetMark => None,
            };
            facts.push(HostFact::FirewallRule(FirewallRule {
                position: Some(position),
                verdict: verdict.map(str::to_owned),
                sets_mark: rule.verdict == Verdict::SetMark,
                ..name.rule(text(rule), Some((number as u64 + 4, **matched)))
            }));
        }
    }
    [facts, own, chains].concat()
}

/// A chain that a lab makes for rules of a scenario.
#[derive(Clone, Copy, Debug)]
struct Name(HostChain);

impl Name {
    /// One with so many rules that decide, all of which are recorded.
    fn chain(self, rules: u64) -> FirewallChain {
        let HostChain { name: chain, hook_name: hook, kind: chain_type, priority } = self.0;
        FirewallChain {
            framework: FirewallFramework::Nftables,
            table_family: "inet".to_owned(),
            table: "host".to_owned(),
            chain: chain.to_owned(),
            hook: Some(hook.to_owned()),
            chain_type: Some(chain_type.to_owned()),
            priority: Some(priority),
            drops: false,
            rules,
            recorded: rules,
        }
    }

    /// A rule in it; `counted`: its handle and what it counted.
    fn rule(self, rule: String, counted: Option<(u64, u64)>) -> FirewallRule {
        let HostChain { name: chain, hook_name: hook, kind: chain_type, priority } = self.0;
        FirewallRule {
            framework: FirewallFramework::Nftables,
            table_family: "inet".to_owned(),
            table: "host".to_owned(),
            chain: chain.to_owned(),
            hook: Some(hook.to_owned()),
            chain_type: Some(chain_type.to_owned()),
            priority: Some(priority),
            handle: Some(counted.map_or(3, |(handle, _)| handle)),
            position: None,
            rule,
            verdict: None,
            target: None,
            sets_mark: false,
            packets: counted.map(|(_, packets)| packets),
            packets_since: counted.map(|(_, packets)| packets),
        }
    }
}

/// Whether the session can have packets that a rule takes, as far as a real collector judges it.
fn can_touch(rule: &topology::FirewallRule, sockets: &[SocketAddr], others: &BTreeSet<SocketAddr>) -> bool {
    let takes = |source: &SocketAddr, to: &SocketAddr| {
        source.is_ipv4() == to.is_ipv4()
            && rule.ipproto.is_none_or(|protocol| protocol == Protocol::Udp)
            && rule.from.is_none_or(|from| from.contains(source.ip()))
            && rule.to.is_none_or(|wanted| wanted.contains(to.ip()))
            && rule.sport.as_ref().is_none_or(|ports| ports.contains(source.port().into()))
            && rule.dport.as_ref().is_none_or(|ports| ports.contains(to.port().into()))
    };
    sockets.iter().any(|own| others.iter().any(|other| takes(own, other) || takes(other, own)))
}

/// A rule in the words of nft.
pub(crate) fn text(rule: &topology::FirewallRule) -> String {
    let mut words = Vec::new();
    if let Some(dev) = &rule.dev {
        words.push(format!("{} {dev}", if rule.hook == Hook::Output { "oifname" } else { "iifname" }));
    }
    let family = |cidr: &crate::scenario::value::Cidr| if cidr.address.is_ipv4() { "ip" } else { "ip6" };
    words.extend(rule.from.map(|from| format!("{} saddr {from}", family(&from))));
    words.extend(rule.to.map(|to| format!("{} daddr {to}", family(&to))));
    let protocol = match rule.ipproto {
        Some(Protocol::Tcp) => "tcp",
        _ => "udp",
    };
    if rule.ipproto.is_some() && rule.sport.is_none() && rule.dport.is_none() {
        words.push(format!("meta l4proto {protocol}"));
    }
    words.extend(rule.sport.as_ref().map(|ports| format!("{protocol} sport {ports}")));
    words.extend(rule.dport.as_ref().map(|ports| format!("{protocol} dport {ports}")));
    words.extend(rule.fwmark.map(|mark| match mark.mask {
        u32::MAX => format!("meta mark {:#010x}", mark.value),
        mask => format!("meta mark & {mask:#010x} == {:#010x}", mark.value),
    }));
    if rule.unsolicited {
        words.push("ct state new".to_owned());
    }
    words.push("counter".to_owned());
    words.push(match (rule.verdict, rule.mark, rule.hook) {
        (Verdict::Accept, ..) => "accept".to_owned(),
        (Verdict::Drop, ..) => "drop".to_owned(),
        (Verdict::Reject, _, Hook::Output) => "reject".to_owned(),
        (Verdict::Reject, ..) => "reject with icmpx admin-prohibited".to_owned(),
        (Verdict::SetMark, mark, _) => format!("meta mark set {:#010x}", mark.map_or(0, |mark| mark.value)),
    });
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use whyrelay_core::trace::event::EventKind;

    use super::*;
    use crate::run::run_virtual;
    use crate::scenario::Scenario;

    /// How many firewall rules host A has, and how many of them it told after the checks.
    fn counted(rules: &str) -> (u64, u64) {
        let text = format!(
            "title = \"Test\"\n[host.a]\nbehind = \"home-router\"\n{rules}\n[host.b]\nbehind = \"home-router\"\n[expect]\npath = \"direct\"\n"
        );
        let scenario = Scenario::parse("test", &text).unwrap_or_else(|error| panic!("{error}"));
        let events = run_virtual(&scenario.topology).events;
        let counted = events.iter().find_map(|event| match &event.kind {
            EventKind::HostFact { fact, .. } => match fact.as_ref() {
                HostFact::Counted { subject: Subject::Nftables, total, recorded } => Some((*total, *recorded)),
                _ => None,
            },
            _ => None,
        });
        counted.expect("a host with rules of its own tells how many")
    }

    #[test]
    fn rules_that_neither_act_nor_count_nor_decide_are_told_by_their_number_alone_as_on_a_real_host() {
        let rule = |words: &str| format!("[[host.a.firewall]]\nhook = \"output\"\n{words}\n");
        let drops = rule("verdict = \"drop\"\nto = \"peer/26\"\n");
        let of_others = "to = \"100.64.9.0/24\"\n";
        // Each chain begins with a rule for what the host says to itself.
        assert_eq!(counted(&drops), (2, 2));
        assert_eq!(counted(&(drops.clone() + &rule(&format!("verdict = \"accept\"\n{of_others}")))), (3, 2));
        assert_eq!(counted(&(drops.clone() + &rule(&format!("verdict = \"drop\"\n{of_others}")))), (3, 2));
        // What may let packets through ahead of one that drops them decides, whether or not any came to it.
        assert_eq!(counted(&(drops.clone() + &rule("verdict = \"accept\"\nsport = \"1\""))), (3, 2));
        assert_eq!(counted(&(rule("verdict = \"accept\"\nunsolicited = true") + &drops)), (3, 3));
        assert_eq!(counted(&(rule("verdict = \"accept\"") + &drops)), (3, 3));
        // Where nothing stops any, a rule that counted none is not told.
        assert_eq!(counted(&rule("verdict = \"accept\"\nto = \"198.51.100.99\"")), (2, 0));
    }
}
