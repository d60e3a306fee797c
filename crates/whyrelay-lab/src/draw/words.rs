//! What is special about the parts of a network, a line for each.
//!
//! Every struct is taken apart by name: what is added to one must be drawn, or left out on purpose.

use std::time::Duration;

use whyrelay_core::nat::behavior::{Behavior, Hairpinning, Pooling, PortAllocation, Refresh, Unsolicited};

use crate::scenario::Topology;
use crate::scenario::file::{
    Alg, Certificate, Credentials, Hook, InterfaceKind, Ipv6, PortMapping, Protocol, Refusal, RouteKind, RuleAction,
    Server, Verdict,
};
use crate::scenario::topology::{
    self, Egress, FirewallRule, Host, Interface, Link, MAIN, Route, Router, Rule, Session, Signaling, Translation,
    WrongChecksum,
};
use crate::scenario::value::{Rate, Span, Span32};

/// How long a NAT remembers unless said (RFC 4787 §4.3).
const USUAL_LIFETIME: Duration = Duration::from_secs(120);
/// What messages take unless said.
const USUAL_SIGNALING: Duration = Duration::from_millis(20);
/// The ports of the peers unless said.
const USUAL_PORTS: [u16; 2] = [40_000, 40_001];

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// Lines that are there when something is so.
fn when<const N: usize>(those: [(bool, &str); N]) -> impl Iterator<Item = String> {
    those.into_iter().filter(|(so, _)| *so).map(|(_, words)| words.to_owned())
}

pub(super) fn router(topology: &Topology, router: &Router) -> Vec<String> {
    let Router {
        name: _,
        inside,
        outside: _,
        inside_addresses: _,
        outside_addresses,
        translation,
        ipv6,
        egress: Egress { udp, tcp },
        rejects,
        stateless_inbound,
        forwards,
        port_mapping,
        alg,
        icmp,
        link: own_link,
    } = router;
    let segment = &topology.segments[*inside];
    let outside = list(outside_addresses.iter().map(|cidr| cidr.address));
    let mut lines = vec![format!("{outside} outside, {} inside", list(&segment.ipv4))];
    lines.extend(translation_words(translation));
    let only = |what: &str, ports: &Option<Vec<Span32>>| match ports.as_deref() {
        None => None,
        Some([]) => Some(format!("lets no {what} out")),
        Some(ports) => Some(format!("lets {what} out to {} only", list(ports))),
    };
    lines.extend(only("UDP", udp));
    lines.extend(only("TCP", tcp));
    lines.extend(stateless_inbound.as_ref().map(|ports| match ports.is_empty() {
        true => "stateless: no UDP in".to_owned(),
        false => format!("stateless: UDP in to {} only", list(ports)),
    }));
    lines.extend(forwards.iter().map(|(outside, inside)| format!("forwards {outside} to {inside}")));
    if !port_mapping.is_empty() {
        let names = port_mapping.iter().map(|protocol| match protocol {
            PortMapping::Upnp => "UPnP",
            PortMapping::NatPmp => "NAT-PMP",
            PortMapping::Pcp => "PCP",
        });
        lines.push(format!("maps ports by {}", list(names)));
    }
    lines.extend(when([
        (*rejects == Some(Refusal::Prohibited), "refuses what it does not let out"),
        (*rejects == Some(Refusal::PortUnreachable), "calls ports unreachable that it does not let out"),
        (segment.isolated, "hosts inside do not reach each other"),
        (*ipv6 == Ipv6::None, "no IPv6"),
        (*ipv6 == Ipv6::NoRoute, "IPv6 addresses without a route"),
        (*ipv6 == Ipv6::Open, "lets all IPv6 in"),
        (*alg == Some(Alg::Addresses), "rewrites addresses in UDP"),
        (*alg == Some(Alg::Stun), "rewrites addresses in STUN"),
        (!icmp, "sends no ICMP errors"),
    ]));
    lines.extend(link(own_link, Duration::from_millis(1)));
    lines
}

fn translation_words(translation: &Translation) -> Vec<String> {
    let (mut lines, lifetime) = match translation {
        Translation::Nat(behavior) => (nat(behavior), behavior.lifetime),
        Translation::OneToOne { filtering, lifetime, pairs } => {
            let pairs = list(pairs.iter().map(|(inside, outside)| format!("{inside} = {outside}")));
            let pairs = if pairs.is_empty() { "of nobody".to_owned() } else { pairs };
            (vec![format!("1:1 {pairs}, filters {filtering}")], *lifetime)
        }
        Translation::Nothing { filtering, lifetime } => {
            (vec![format!("no translation, filters {filtering}")], *lifetime)
        }
    };
    if lifetime != USUAL_LIFETIME {
        lines.push(format!("forgets after {}", Span(lifetime)));
    }
    lines
}

fn nat(behavior: &Behavior) -> Vec<String> {
    let Behavior { mapping, filtering, ports, overloading, pooling, lifetime: _, refresh, hairpinning, unsolicited } =
        behavior;
    let mut lines = vec![format!("maps {mapping}, filters {filtering}")];
    lines.extend(match ports {
        PortAllocation::Preserving => None,
        PortAllocation::Random => Some("random ports".to_owned()),
        PortAllocation::Sequential => Some("one port after the other".to_owned()),
        PortAllocation::Hash => Some("ports by hash".to_owned()),
        PortAllocation::Contiguous { block } => Some(format!("blocks of {block} ports")),
    });
    lines.extend(when([
        (!overloading, "hosts share no port"),
        (*pooling == Pooling::Arbitrary, "any of its addresses for each mapping"),
        (*refresh == Refresh::Outbound, "only what goes out keeps a mapping"),
        (*hairpinning == Hairpinning::ExternalSource, "hairpins"),
        (*hairpinning == Hairpinning::InternalSource, "hairpins with the inside source"),
        (*unsolicited == Unsolicited::Tracked, "an early packet takes the port"),
    ]));
    lines
}

/// What is not usual about a link.
fn link(link: &Link, usual: Duration) -> Option<String> {
    let Link { delay, jitter, loss, burst, reordering, duplication, rate, mtu } = link;
    let percent = |of_10_000: u32| f64::from(of_10_000) / 100.0;
    let share = |of_10_000: u32, what: &str| (of_10_000 > 0).then(|| format!("{} % {what}", percent(of_10_000)));
    let parts = [
        (*delay != usual).then(|| format!("{} ms", delay.as_micros() as f64 / 1000.0)),
        (!jitter.is_zero()).then(|| format!("up to {} more", Span(*jitter))),
        share(*loss, "lost"),
        burst.map(|burst| {
            let loss = burst.loss.map(|loss| format!(" that lose {loss} %")).unwrap_or_default();
            format!("{} % bad in bursts of {} packets{loss}", burst.bad, burst.length)
        }),
        share(*reordering, "overtaken"),
        share(*duplication, "twice"),
        rate.map(|rate| Rate(rate).to_string()),
        mtu.map(|mtu| format!("MTU {mtu}")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("link: {}", parts.join(", ")))
}

pub(super) fn host(topology: &Topology, index: usize) -> Vec<String> {
    let Host {
        name: _,
        interfaces,
        routes,
        rules,
        sysctls,
        firewall,
        silent_neighbors,
        conntrack_full,
        wrong_checksum,
    } = &topology.hosts[index];
    let mut lines: Vec<String> =
        interfaces.iter().enumerate().flat_map(|(number, own)| interface(own, number)).collect();
    lines.extend(rules.iter().map(rule));
    lines.extend(routes.iter().map(route));
    lines.extend(sysctls.iter().map(|(name, value)| format!("{name} = {value}")));
    lines.extend(firewall.iter().map(firewall_rule));
    if !silent_neighbors.is_empty() {
        lines.push(format!("no ARP from {}", list(silent_neighbors)));
    }
    if let Some(WrongChecksum { port, to }) = wrong_checksum {
        lines.push(format!("its port {port} sends with wrong checksums to {}", list(to)));
    }
    lines.extend(when([(*conntrack_full, "its table of connections is full")]));
    lines.extend(topology.sessions.get(index).and_then(|own| session(own, USUAL_PORTS[index])));
    lines
}

fn interface(own: &Interface, number: usize) -> Vec<String> {
    let Interface { name, kind, segment, addresses, gateways, link: own_link } = own;
    let kind = match kind {
        InterfaceKind::Ethernet => "",
        InterfaceKind::Tunnel => " tunnel",
        InterfaceKind::Bridge => " bridge",
    };
    // That of eth0 is always there.
    let metric = gateways.first().filter(|_| number > 0).map(|(_, metric)| format!(", default metric {metric}"));
    let nowhere = if segment.is_none() { ", leads nowhere" } else { "" };
    let first = format!("{name}{kind} {}{}{nowhere}", list(addresses), metric.unwrap_or_default());
    let rest = link(own_link, Duration::from_micros(500)).map(|words| format!("{name} {words}"));
    std::iter::once(first).chain(rest).collect()
}

/// `name value`, when there is a value.
fn said<T: ToString>(name: &str, value: Option<T>) -> Option<String> {
    value.map(|value| format!("{name} {}", value.to_string()))
}

fn sentence(parts: impl IntoIterator<Item = Option<String>>) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn protocol(protocol: Option<Protocol>) -> Option<String> {
    protocol.map(|protocol| match protocol {
        Protocol::Udp => "udp".to_owned(),
        Protocol::Tcp => "tcp".to_owned(),
    })
}

fn rule(rule: &Rule) -> String {
    let Rule {
        priority,
        not,
        from,
        to,
        fwmark,
        oif,
        iif,
        ipproto,
        sport,
        dport,
        uidrange,
        action,
        table,
        suppress_prefixlength,
    } = rule;
    let action = match action {
        RuleAction::Lookup => format!("-> {table}"),
        RuleAction::Blackhole => "-> blackhole".to_owned(),
        RuleAction::Unreachable => "-> unreachable".to_owned(),
        RuleAction::Prohibit => "-> prohibit".to_owned(),
    };
    sentence([
        Some(format!("rule {priority}:")),
        not.then(|| "not".to_owned()),
        said("from", *from),
        said("to", *to),
        said("fwmark", *fwmark),
        said("oif", oif.as_ref()),
        said("iif", iif.as_ref()),
        protocol(*ipproto),
        said("sport", sport.as_ref()),
        said("dport", dport.as_ref()),
        said("uid", uidrange.as_ref()),
        Some(action),
        said("without prefixes up to", *suppress_prefixlength),
    ])
}

fn route(route: &Route) -> String {
    let Route { to, kind, dev, via, src, table, metric, mtu } = route;
    let kind = match kind {
        RouteKind::Unicast => "route",
        RouteKind::Blackhole => "blackhole",
        RouteKind::Unreachable => "unreachable",
        RouteKind::Prohibit => "prohibit",
        RouteKind::Throw => "throw",
    };
    sentence([
        Some(format!("{kind} {to}")),
        said("via", *via),
        said("dev", dev.as_ref()),
        said("src", *src),
        said("table", (*table != MAIN).then_some(*table)),
        said("metric", (*metric > 0).then_some(*metric)),
        said("mtu", *mtu),
    ])
}

fn firewall_rule(rule: &FirewallRule) -> String {
    let FirewallRule { hook, verdict, mark, fwmark, ipproto, from, to, sport, dport, dev, unsolicited } = rule;
    let hook = match hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Output => "output",
    };
    let verdict = match verdict {
        Verdict::Accept => "-> accept".to_owned(),
        Verdict::Drop => "-> drop".to_owned(),
        Verdict::Reject => "-> reject".to_owned(),
        Verdict::SetMark => format!("-> mark {}", list(*mark)),
    };
    sentence([
        Some(format!("nft {hook}:")),
        protocol(*ipproto),
        said("from", *from),
        said("to", *to),
        said("sport", sport.as_ref()),
        said("dport", dport.as_ref()),
        said("dev", dev.as_ref()),
        said("mark", *fwmark),
        unsolicited.then(|| "unsolicited".to_owned()),
        Some(verdict),
    ])
}

fn session(session: &Session, usual_port: u16) -> Option<String> {
    let Session { port, mark, uid, relay_only, no_turn, patient, map_port, silence, starts } = session;
    let parts = [
        said("port", (*port != usual_port).then_some(*port)),
        mark.map(|mark| format!("mark {mark:#x}")),
        said("uid", (*uid != 0).then_some(*uid)),
        relay_only.then(|| "relay only".to_owned()),
        no_turn.then(|| "no TURN".to_owned()),
        patient.then(|| "patient".to_owned()),
        map_port.then(|| "asks for a port mapping".to_owned()),
        said("silent for", (!silence.is_zero()).then_some(Span(*silence))),
        said("starts after", (!starts.is_zero()).then_some(Span(*starts))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("session: {}", parts.join(", ")))
}

pub(super) fn server(topology: &Topology) -> Vec<String> {
    let topology::Server { addresses, faults, link: own_link } = &topology.server;
    let Server {
        answers,
        turn,
        udp,
        tcp,
        // By its addresses and its link.
        ipv6: _,
        second_address: _,
        udp_filtered,
        link: _,
        relay_address,
        credentials,
        relay_ports_closed,
        certificate,
        tls_port,
        answers_after,
    } = faults;
    let mut lines = vec![list(addresses.iter().map(|cidr| cidr.address))];
    lines.extend(when([
        (!answers, "answers nothing"),
        (!turn, "no TURN"),
        (!udp, "no UDP"),
        (*udp_filtered, "its UDP port filtered"),
        (!tcp, "no TURN over TCP"),
        (*relay_ports_closed, "relayed ports closed"),
        (*credentials == Credentials::Wrong, "the peers' password is wrong"),
        (*credentials == Credentials::Expired, "the peers' credentials have expired"),
        (*credentials == Credentials::Missing, "the peers have no credentials"),
        (*certificate == Some(Certificate::Good), "TURN over TLS"),
        (*certificate == Some(Certificate::SelfSigned), "TURN over TLS, self-signed certificate"),
        (*certificate == Some(Certificate::Expired), "TURN over TLS, expired certificate"),
        (*certificate == Some(Certificate::WrongName), "TURN over TLS, certificate for another name"),
    ]));
    lines.extend(said("serves TLS on port", *tls_port));
    lines.extend(said("announces the wrong relayed address", *relay_address));
    lines.extend(said("answers after", (!answers_after.0.is_zero()).then_some(*answers_after)));
    lines.extend(link(own_link, Duration::from_millis(5)));
    for (way, faults) in ["from a to b", "from b to a"].iter().zip(&topology.signaling) {
        lines.extend(signaling(faults).map(|words| format!("signaling {way}: {words}")));
    }
    lines
}

fn signaling(faults: &Signaling) -> Option<String> {
    let Signaling { delay, candidates_delay, lose_candidates, lose_all } = faults;
    let parts = [
        (*delay != USUAL_SIGNALING).then(|| format!("takes {}", Span(*delay))),
        (!candidates_delay.is_zero()).then(|| format!("candidates {} later", Span(*candidates_delay))),
        lose_candidates.then(|| "loses candidates".to_owned()),
        lose_all.then(|| "loses everything".to_owned()),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}
