//! Every kind of network and fault that the laboratory knows has a scenario; docs/scenarios.md names them, and says what
//! each preset is. `UPDATE_SCHEMA=1` writes both tables there.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use whyrelay_core::nat::behavior::{
    Behavior, FilteringBehavior, Hairpinning, MappingBehavior, Pooling, PortAllocation, Refresh, Unsolicited,
};
use whyrelay_lab::scenario::file::{
    Alg, Certificate, Credentials, Hook, InterfaceKind, Ipv6, Path as Outcome, PortMapping, Protocol, Refusal,
    RouteKind, RuleAction, Verdict,
};
use whyrelay_lab::scenario::topology::{
    FirewallRule, Host, INTERNET, Interface, Link, Route, Router, Rule, Server, Translation,
};
use whyrelay_lab::scenario::{PRESETS, Scenario, TERMS, Topology};

/// Whether a topology is of a kind.
type Is = Box<dyn Fn(&Topology) -> bool>;

/// Names of scenarios in a cell.
const NAMED: usize = 3;

fn of(is: impl Fn(&Topology) -> bool + 'static) -> Is {
    Box::new(is)
}

fn router(is: impl Fn(&Router) -> bool + 'static) -> Is {
    of(move |topology: &Topology| topology.routers.iter().any(&is))
}

fn nat(is: impl Fn(&Behavior) -> bool + 'static) -> Is {
    router(move |router| matches!(&router.translation, Translation::Nat(behavior) if is(behavior)))
}

fn link(is: impl Fn(&Link) -> bool + 'static) -> Is {
    of(move |topology: &Topology| {
        let hosts = topology.hosts.iter().flat_map(|host| host.interfaces.iter().map(|interface| &interface.link));
        hosts.chain(topology.routers.iter().map(|router| &router.link)).chain([&topology.server.link]).any(&is)
    })
}

fn host(is: impl Fn(&Host) -> bool + 'static) -> Is {
    of(move |topology: &Topology| topology.hosts.iter().any(&is))
}

/// Of one side, by its number.
fn at(side: usize, is: impl Fn(&Host) -> bool + 'static) -> Is {
    of(move |topology: &Topology| is(&topology.hosts[side]))
}

fn rule(is: impl Fn(&Rule) -> bool + 'static) -> Is {
    host(move |host| host.rules.iter().any(&is))
}

fn route(is: impl Fn(&Route) -> bool + 'static) -> Is {
    host(move |host| host.routes.iter().any(&is))
}

fn filter(is: impl Fn(&FirewallRule) -> bool + 'static) -> Is {
    host(move |host| host.firewall.iter().any(&is))
}

fn server(is: impl Fn(&Server) -> bool + 'static) -> Is {
    of(move |topology: &Topology| is(&topology.server))
}

fn finds(name: &'static str) -> Is {
    of(move |topology: &Topology| topology.expect.finding.iter().any(|finding| finding.name == name))
}

fn sysctl(parameter: &'static str, value: i64) -> Is {
    host(move |host| host.sysctls.iter().any(|(name, set)| name.ends_with(parameter) && *set == value))
}

fn has(host: &Host, ipv4: bool) -> bool {
    host.addresses().any(|address| address.is_ipv4() == ipv4)
}

fn is_faulty(host: &Host) -> bool {
    !(host.rules.is_empty() && host.routes.is_empty() && host.firewall.is_empty() && host.silent_neighbors.is_empty())
}

/// A network where nothing may be blamed, although it is strange in some way.
fn harmless(is: impl Fn(&Topology) -> bool + 'static) -> Is {
    of(move |topology: &Topology| {
        let expect = &topology.expect;
        expect.path == Outcome::Direct && expect.finding.is_empty() && expect.also.is_empty() && is(topology)
    })
}

/// Sections 1 to 3 of what the laboratory was asked for, kind by kind.
fn kinds() -> Vec<(String, Is)> {
    let mut kinds: Vec<(String, Is)> = Vec::new();
    let mut kind = |name: &str, is: Is| kinds.push((name.to_owned(), is));
    for mapping in MappingBehavior::ALL {
        for filtering in FilteringBehavior::ALL {
            let name = format!("mapping {mapping}, filtering {filtering}");
            kind(&name, nat(move |nat| nat.mapping == mapping && nat.filtering == filtering));
        }
    }
    for (name, is) in [
        ("ports preserved", nat(|nat| nat.ports == PortAllocation::Preserving)),
        ("ports random", nat(|nat| nat.ports == PortAllocation::Random)),
        ("ports sequential", nat(|nat| nat.ports == PortAllocation::Sequential)),
        ("ports by hash", nat(|nat| nat.ports == PortAllocation::Hash)),
        ("ports contiguous", nat(|nat| matches!(nat.ports, PortAllocation::Contiguous { .. }))),
        ("one port of two hosts behind one NAT", {
            let place = |topology: &Topology, side: usize| topology.hosts[side].interfaces[0].segment;
            of(move |topology: &Topology| {
                let [a, b] = &topology.sessions;
                a.port == b.port && place(topology, 0) == place(topology, 1) && place(topology, 0) != Some(INTERNET)
            })
        }),
        (
            "pooling paired",
            router(|router| {
                let paired = matches!(&router.translation, Translation::Nat(nat) if nat.pooling == Pooling::Paired);
                paired && router.external().count() > 1
            }),
        ),
        (
            "pooling arbitrary",
            router(|router| {
                let any = matches!(&router.translation, Translation::Nat(nat) if nat.pooling == Pooling::Arbitrary);
                any && router.external().count() > 1
            }),
        ),
        ("a short mapping lifetime", nat(|nat| nat.lifetime.as_secs() < 30)),
        ("refresh by outbound packets only", nat(|nat| nat.refresh == Refresh::Outbound)),
        ("refresh both ways", nat(|nat| nat.refresh == Refresh::Both)),
        ("hairpinning", nat(|nat| nat.hairpinning == Hairpinning::ExternalSource)),
        ("hairpinning with the inside source", nat(|nat| nat.hairpinning == Hairpinning::InternalSource)),
        ("unsolicited inbound dropped", nat(|nat| nat.unsolicited == Unsolicited::Dropped)),
        ("unsolicited inbound tracked", nat(|nat| nat.unsolicited == Unsolicited::Tracked)),
        ("double NAT", {
            let translates = |router: &&Router| matches!(router.translation, Translation::Nat(_));
            of(move |topology: &Topology| {
                let mut segments = topology.hosts.iter().filter_map(|host| host.interfaces[0].segment);
                segments.any(|segment| topology.way_out(segment).into_iter().filter(translates).count() > 1)
            })
        }),
        ("1:1", router(|router| matches!(router.translation, Translation::OneToOne { .. }))),
        ("port forwards", router(|router| !router.forwards.is_empty())),
        ("UPnP", router(|router| router.port_mapping.contains(&PortMapping::Upnp))),
        ("NAT-PMP", router(|router| router.port_mapping.contains(&PortMapping::NatPmp))),
        ("PCP", router(|router| router.port_mapping.contains(&PortMapping::Pcp))),
        ("ICMP errors of a router", router(|router| router.icmp && router.link.mtu.is_some())),
        ("a router without ICMP errors", router(|router| !router.icmp)),
        ("ALG that rewrites addresses", router(|router| router.alg == Some(Alg::Addresses))),
        ("ALG that rewrites STUN", router(|router| router.alg == Some(Alg::Stun))),
        ("delay", link(|link| link.delay.as_millis() >= 100)),
        ("jitter", link(|link| !link.jitter.is_zero())),
        ("loss", link(|link| link.loss > 0)),
        ("loss in bursts", link(|link| link.burst.is_some())),
        ("reordering", link(|link| link.reordering > 0)),
        ("duplication", link(|link| link.duplication > 0)),
        ("rate", link(|link| link.rate.is_some())),
        ("MTU with ICMP", router(|router| router.link.mtu.is_some() && router.icmp)),
        ("MTU without ICMP", router(|router| router.link.mtu.is_some() && !router.icmp)),
        (
            "stateful firewall",
            router(|router| {
                let by_port = FilteringBehavior::AddressAndPortDependent;
                matches!(&router.translation, Translation::Nothing { filtering, .. } if *filtering == by_port)
            }),
        ),
        ("stateless firewall", router(|router| router.stateless_inbound.is_some())),
        (
            "UDP to the STUN port only",
            router(|router| matches!(router.egress.udp.as_deref(), Some([only]) if only.to_string() == "3478")),
        ),
        (
            "TCP to 443 only",
            router(|router| matches!(router.egress.tcp.as_deref(), Some([only]) if only.to_string() == "443")),
        ),
        ("no UDP", router(|router| router.egress.udp.as_ref().is_some_and(Vec::is_empty))),
        ("refused as prohibited", router(|router| router.rejects == Some(Refusal::Prohibited))),
        ("refused as closed ports", router(|router| router.rejects == Some(Refusal::PortUnreachable))),
        ("IPv6 behind a stateful firewall", {
            let six = |topology: &Topology| topology.hosts[..2].iter().all(|host| has(host, false));
            of(move |topology: &Topology| {
                six(topology) && topology.routers.iter().any(|own| own.ipv6 == Ipv6::Stateful)
            })
        }),
        ("IPv6 alone", host(|host| has(host, false) && !has(host, true))),
        ("dual stack", host(|host| has(host, false) && has(host, true))),
        ("IPv6 address without route", router(|router| router.ipv6 == Ipv6::NoRoute)),
        ("rule by destination", rule(|rule| rule.to.is_some())),
        ("rule by mark", rule(|rule| rule.fwmark.is_some())),
        ("rule by user", rule(|rule| rule.uidrange.is_some())),
        ("rule by source port", rule(|rule| rule.sport.is_some())),
        ("rule by destination port", rule(|rule| rule.dport.is_some())),
        ("rule by the socket's device", rule(|rule| rule.oif.is_some())),
        ("rule by where a packet came in", rule(|rule| rule.iif.is_some())),
        ("rule by source", rule(|rule| rule.from.is_some())),
        ("rule that blackholes", rule(|rule| rule.action == RuleAction::Blackhole)),
        ("rule that says unreachable", rule(|rule| rule.action == RuleAction::Unreachable)),
        ("rule that prohibits", rule(|rule| rule.action == RuleAction::Prohibit)),
        ("rules of IPv6", rule(|rule| rule.to.is_some_and(|to| to.address.is_ipv6()))),
        ("wrong source on two uplinks", finds("source-leaves-by-other-interface")),
        ("strict rp_filter", sysctl("rp_filter", 1)),
        ("loose rp_filter", sysctl("rp_filter", 2)),
        ("mark rewritten", filter(|rule| rule.verdict == Verdict::SetMark && rule.hook == Hook::Output)),
        ("mark missing", {
            let marked = |host: &Host| host.rules.iter().any(|rule| rule.not && rule.fwmark.is_some());
            of(move |topology: &Topology| {
                (0..2).any(|side| marked(&topology.hosts[side]) && topology.sessions[side].mark.is_none())
            })
        }),
        ("blackhole route", route(|route| route.kind == RouteKind::Blackhole)),
        ("unreachable route", route(|route| route.kind == RouteKind::Unreachable)),
        ("prohibit route", route(|route| route.kind == RouteKind::Prohibit)),
        ("throw route", route(|route| route.kind == RouteKind::Throw)),
        ("routes of IPv6", route(|route| route.to.address.is_ipv6() && route.kind != RouteKind::Unicast)),
        ("nftables drops in", filter(|rule| rule.hook == Hook::Input && rule.verdict == Verdict::Drop)),
        ("nftables rejects in", filter(|rule| rule.hook == Hook::Input && rule.verdict == Verdict::Reject)),
        (
            "nftables drops ahead of routing",
            filter(|rule| rule.hook == Hook::Prerouting && rule.verdict == Verdict::Drop),
        ),
        ("nftables drops out", filter(|rule| rule.hook == Hook::Output && rule.verdict == Verdict::Drop)),
        ("nftables rejects out", filter(|rule| rule.hook == Hook::Output && rule.verdict == Verdict::Reject)),
        (
            "nftables drops TCP",
            filter(|rule| {
                rule.ipproto == Some(Protocol::Tcp) && matches!(rule.verdict, Verdict::Drop | Verdict::Reject)
            }),
        ),
        ("nftables drops IPv6", filter(|rule| rule.from.or(rule.to).is_some_and(|net| net.address.is_ipv6()))),
        ("neighbor failure", host(|host| !host.silent_neighbors.is_empty())),
        ("neighbor failure of IPv6", host(|host| host.silent_neighbors.iter().any(|address| address.is_ipv6()))),
        ("a bridge that shadows the peer", finds("bridge-shadows-peer")),
        ("a VPN that took the default route", finds("vpn-carries-everything")),
        ("a full table of connections", host(|host| host.conntrack_full)),
        ("a checksum for another source address", host(|host| host.wrong_checksum.is_some())),
        ("MTU black hole", finds("mtu-black-hole")),
        ("faults of the offerer's host", at(0, is_faulty)),
        ("faults of the answerer's host", at(1, is_faulty)),
        (
            "containers' bridges",
            host(|host| host.interfaces.iter().any(|interface| interface.kind == InterfaceKind::Bridge)),
        ),
        ("TURN with a wrong relayed address", server(|server| server.faults.relay_address.is_some())),
        ("TURN with wrong credentials", server(|server| server.credentials() == Credentials::Wrong)),
        ("TURN with expired credentials", server(|server| server.credentials() == Credentials::Expired)),
        ("TURN without credentials", server(|server| server.credentials() == Credentials::Missing)),
        ("relayed ports closed", server(|server| server.faults.relay_ports_closed)),
        ("a certificate by nobody known", server(|server| server.faults.certificate == Some(Certificate::SelfSigned))),
        ("an expired certificate", server(|server| server.faults.certificate == Some(Certificate::Expired))),
        ("a certificate for another name", server(|server| server.faults.certificate == Some(Certificate::WrongName))),
        ("a server that answers nothing", server(|server| !server.faults.answers)),
        ("a server without TURN", server(|server| !server.faults.turn)),
        ("a server without UDP", server(|server| !server.faults.udp)),
        ("a server without TCP", server(|server| !server.faults.tcp)),
        ("a server whose UDP port is filtered", server(|server| server.faults.udp_filtered)),
        ("a late server", server(|server| !server.faults.answers_after.0.is_zero())),
        ("harmless: rules by policy", harmless(|topology| topology.hosts.iter().any(|host| !host.rules.is_empty()))),
        ("harmless: a packet filter", harmless(|topology| topology.hosts.iter().any(|host| !host.firewall.is_empty()))),
        (
            "harmless: bridges and tunnels",
            harmless(|topology| {
                let leads_nowhere = |own: &Interface| own.segment.is_none();
                topology.hosts.iter().any(|host| host.interfaces.iter().any(leads_nowhere))
            }),
        ),
        (
            "harmless: an application-layer gateway",
            harmless(|topology| topology.routers.iter().any(|router| router.alg.is_some())),
        ),
        (
            "harmless: a server with a fault",
            harmless(|topology| {
                let faults = &topology.server.faults;
                faults.credentials != Credentials::Right || !faults.turn || !faults.answers
            }),
        ),
        (
            "harmless: a link that is bad",
            harmless(|topology| {
                let hosts = topology.hosts.iter().flat_map(|host| host.interfaces.iter().map(|own| &own.link));
                let mut links = hosts.chain(topology.routers.iter().map(|router| &router.link));
                links.any(|link| link.loss > 0 || link.reordering > 0 || link.duplication > 0)
            }),
        ),
    ] {
        kind(name, is);
    }
    for (side, name) in ["the offerer", "the answerer"].into_iter().enumerate() {
        let late = move |topology: &Topology| topology.signaling[side].delay.as_millis() > 500;
        kind(&format!("late signaling of {name}"), of(late));
        let late = move |topology: &Topology| !topology.signaling[side].candidates_delay.is_zero();
        kind(&format!("late candidates of {name}"), of(late));
        let lost = move |topology: &Topology| topology.signaling[side].lose_candidates;
        kind(&format!("lost candidates of {name}"), of(lost));
    }
    kind(
        "signaling that loses everything",
        of(|topology: &Topology| topology.signaling.iter().any(|own| own.lose_all)),
    );
    kinds
}

fn all() -> Vec<Topology> {
    let scenarios = Scenario::embedded().iter().map(|(name, text)| Scenario::parse(name, text));
    scenarios.map(|scenario| scenario.unwrap_or_else(|error| panic!("{error}")).topology).collect()
}

#[test]
fn every_kind_has_a_scenario() {
    let (topologies, kinds) = (all(), kinds());
    let missing: Vec<_> = kinds.iter().filter(|(_, is)| !topologies.iter().any(is)).map(|(kind, _)| kind).collect();
    assert!(missing.is_empty(), "no scenario has {missing:?}");
    let different: BTreeSet<&String> = kinds.iter().map(|(kind, _)| kind).collect();
    assert_eq!(different.len(), kinds.len(), "a kind is there twice");
}

#[test]
fn the_manual_names_a_scenario_of_each_kind_and_says_what_each_preset_is() {
    keep(&[("kinds", kinds_table()), ("presets", presets_table())]);
}

fn kinds_table() -> String {
    let (topologies, kinds) = (all(), kinds());
    let mut table = "| kind | scenarios |\n|---|---|\n".to_owned();
    for (kind, is) in &kinds {
        // What is of many kinds says little of this one.
        let of = |one: &Topology| kinds.iter().filter(|(_, is)| is(one)).count();
        let mut names: Vec<(usize, &str)> =
            topologies.iter().filter(|one| is(one)).map(|one| (of(one), &*one.name)).collect();
        names.sort_unstable();
        let more = if names.len() > NAMED { " and others" } else { "" };
        let first: Vec<&str> = names.iter().take(NAMED).map(|(_, name)| *name).collect();
        let _ = writeln!(table, "| {kind} | {}{more} |", first.join(", "));
    }
    table
}

fn presets_table() -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = std::iter::once("preset").chain(TERMS).map(str::to_owned).collect();
    let mut table = line(&head) + &"|---".repeat(head.len()) + "|\n";
    for preset in PRESETS {
        let terms = preset.terms();
        assert!(terms[..TERMS.len() - 1].iter().all(|term| !term.is_empty()), "{}: {terms:?}", preset.name);
        table += &line(&[&[format!("`{}`", preset.name)][..], &terms].concat());
    }
    table
}

/// Compares tables with those of docs/scenarios.md, or writes them there.
fn keep(tables: &[(&str, String)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/scenarios.md");
    let kept = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{error}"));
    let mut page = kept.clone();
    for (name, table) in tables {
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
        let split = page.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
        let (before, after) = split.unwrap_or_else(|| panic!("docs/scenarios.md has no table of {name}"));
        page = format!("{before}{begin}{table}{end}{after}");
    }
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &page).unwrap_or_else(|error| panic!("{error}"));
    } else {
        assert!(kept == page, "the tables in docs/scenarios.md are old: run this test with UPDATE_SCHEMA=1");
    }
}
