//! Predicted against observed: the best path that both sides' networks allow.

use serde::Serialize;

use super::finding::{Blame, Finding, Severity};
use super::network::{Network, has_way_in, port_to_forward};
use super::rules::{
    checks_rejected_on_the_way, container_nat_randomizes_ports, endpoint_dependent_mapping, input_firewall_drops,
    nat_behind_nat, udp_blocked,
};
use super::session::{Break, Path, Session};
use crate::ice::candidate::CandidateType;
use crate::nat::behavior::{FilteringBehavior, MappingBehavior, can_connect};
use crate::trace::address::AddressClass;
use crate::trace::event::Vantage;

/// The path that two networks allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expected {
    /// Peer to peer.
    Direct,
    /// Through a relay.
    Relayed,
    /// No path at all.
    None,
    /// Not evident from what was measured.
    Unknown,
}

/// What the account comes to, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Direct and healthy.
    Direct,
    /// Direct, and something is wrong all the same, or it is so over TCP alone.
    DirectBut,
    /// The relay is the best that these networks allow, or what was asked for.
    RelayedAsItMustBe,
    /// The networks allow a direct path and it is relayed: there is a fault.
    RelayedShouldBeDirect,
    /// Relayed; what the networks allow is not evident.
    Relayed,
    /// No path, and without a relay these networks allow none.
    NoPathAsItMustBe,
    /// No path.
    NoPath,
}

/// What can be said of one address family: whether a direct path is possible.
fn family(session: &Session<'_>, is_ipv6: bool) -> Option<bool> {
    if [Vantage::A, Vantage::B].into_iter().any(|vantage| lacks(session, vantage, is_ipv6)) {
        return Some(false);
    }
    let networks = [Vantage::A, Vantage::B].map(|vantage| Network::of(session, vantage, is_ipv6));
    let [a, b] = &networks;
    if a.public.is_empty() || b.public.is_empty() {
        return None;
    }
    if behind_one_nat(session, &networks) {
        // The servers' view says nothing here: packets to the common public address have to turn around in the NAT.
        return on_one_network(session);
    }
    // What the host's own firewall takes, the network let in.
    let lets_in = |vantage, (mapping, filtering): (_, FilteringBehavior)| {
        let comes =
            input_firewall_drops::stranger(session, vantage).is_some_and(|it| it.fact.source.is_ipv6() == is_ipv6);
        (mapping, if comes { filtering.min(FilteringBehavior::AddressDependent) } else { filtering })
    };
    let [worst_a, worst_b] = [lets_in(Vantage::A, pessimistic(a)), lets_in(Vantage::B, pessimistic(b))];
    if can_connect(worst_a, worst_b) {
        return Some(true);
    }
    let best = can_connect(optimistic(session, Vantage::A, a), optimistic(session, Vantage::B, b));
    (!best).then_some(false)
}

/// Whether a side is known to have addresses that mean something elsewhere, and none of this family.
fn lacks(session: &Session<'_>, vantage: Vantage, is_ipv6: bool) -> bool {
    let candidates = session.evidence.side(vantage).local_candidates.iter();
    let hosts = candidates.filter(|local| local.candidate.kind == CandidateType::Host).map(|local| local.base.ip());
    let mut usable = hosts
        .filter(|ip| match AddressClass::of(*ip) {
            AddressClass::Public => true,
            AddressClass::Private | AddressClass::CarrierGrade => ip.is_ipv4(),
            _ => false,
        })
        .peekable();
    session.evidence.is_complete(vantage) && usable.peek().is_some() && !usable.any(|ip| ip.is_ipv6() == is_ipv6)
}

fn behind_one_nat(session: &Session<'_>, networks: &[&Network; 2]) -> bool {
    let [a, b] = networks;
    let translated = a.translates == Some(true) && b.translates == Some(true);
    translated && a.public.iter().any(|address| b.public.contains(address)) && session.recorded().count() == 2
}

/// Both have an address on one network, behind one NAT: then they should reach each other there, unless every check
/// between those addresses was lost both ways: the network keeps its hosts apart.
fn on_one_network(session: &Session<'_>) -> Option<bool> {
    let common = session.pairs.iter().filter(|pair| !pair.relayed).filter(|pair| {
        pair.a.as_ref().is_some_and(|side| {
            AddressClass::of(side.pair.remote.ip()) == AddressClass::Private
                && session.evidence.side(Vantage::A).known.is_near(side.pair.local.ip(), side.pair.remote.ip())
        })
    });
    let mut any = false;
    for pair in common {
        any = true;
        let lost = |from| pair.from(from).broken == Some(Break::OnTheWay);
        if !(lost(Vantage::A) && lost(Vantage::B)) {
            return Some(true);
        }
    }
    any.then_some(false)
}

fn pessimistic(network: &Network) -> (MappingBehavior, FilteringBehavior) {
    let mapping = network.mapping.unwrap_or(MappingBehavior::AddressAndPortDependent);
    (mapping, network.filtering.unwrap_or(FilteringBehavior::AddressAndPortDependent))
}

/// What is not known may be as good as it gets, but for what the checks show: a NAT that maps by destination is not
/// known to let strangers in, and one that dropped the peer's checks from its second port filters by port.
fn optimistic(session: &Session<'_>, vantage: Vantage, network: &Network) -> (MappingBehavior, FilteringBehavior) {
    let mapping = network.mapping.unwrap_or(MappingBehavior::EndpointIndependent);
    let dropped = session.pairs.iter().any(|pair| {
        session.could_arrive(pair, vantage.other()) && pair.from(vantage.other()).broken == Some(Break::OnTheWay)
    });
    let open = mapping == MappingBehavior::EndpointIndependent && !dropped;
    let guess = if open { FilteringBehavior::EndpointIndependent } else { FilteringBehavior::AddressAndPortDependent };
    (mapping, network.filtering.unwrap_or(guess))
}

/// The best path that both networks allow.
pub fn expected(session: &Session<'_>, findings: &[Finding]) -> Expected {
    let relay_only = session.recorded().any(|vantage| session.evidence.side(vantage).options.relay_only);
    let relays = session.recorded().any(|vantage| session.evidence.side(vantage).knows_relay()) || has_relay(session);
    let without_direct = if has_relay(session) { Expected::Relayed } else { Expected::None };
    let first = findings.iter().find(|finding| finding.severity != Severity::Info && !finding.hidden);
    // A host that sends wrongly or not at all looks like a network that allows nothing, and like a NAT that varies.
    let of_host = first.is_some_and(|first| first.code.starts_with("WR1"));
    let blocked = !of_host && findings.iter().any(|finding| is_blocked(session, finding));
    match session.path {
        Path::Direct => return Expected::Direct,
        // Without any server that relays, not even that.
        _ if relay_only && !relays => return Expected::None,
        _ if relay_only => return Expected::Relayed,
        _ if blocked => return without_direct,
        _ => {}
    }
    // What a host does to its own packets is no network's doing, and hides what that one would allow.
    if session.recorded().any(|vantage| container_nat_randomizes_ports::own_translation(session, vantage).is_some()) {
        return Expected::Unknown;
    }
    // Both mappings vary by the findings: from what the peer saw as well as from the servers.
    let varies = |blame| findings.iter().any(|finding| finding.code == "WR201" && finding.blame == blame);
    if !of_host && varies(Blame::A) && varies(Blame::B) {
        return without_direct;
    }
    // What the NATs would allow, a router between the two, or in front of one, does not: then more is to be known of it.
    let by_router = |first: &Finding| match first.code {
        "WR501" => true,
        "WR513" => checks_rejected_on_the_way::is_on_the_way(session),
        _ => false,
    };
    let refuted = first.is_some_and(by_router);
    // What they allowed until the path broke is not what they allow now.
    let refuted = refuted || session.direct_until().is_some();
    match (family(session, false), family(session, true)) {
        (Some(true), _) | (_, Some(true)) if refuted => Expected::Unknown,
        (Some(true), _) | (_, Some(true)) => Expected::Direct,
        _ if of_host => Expected::Unknown,
        (Some(false), Some(false)) => without_direct,
        _ => Expected::Unknown,
    }
}

/// Whether a finding says that UDP does not get out to peers.
fn is_blocked(session: &Session<'_>, finding: &Finding) -> bool {
    finding.code == "WR304" || finding.code == "WR302" && udp_blocked::is_of_every_port(session, finding.blame)
}

fn has_relay(session: &Session<'_>) -> bool {
    [Vantage::A, Vantage::B].into_iter().any(|vantage| {
        let (own, other) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
        own.local_candidates.iter().any(|local| local.candidate.kind == CandidateType::Relayed)
            || other.remote_candidates.iter().any(|remote| remote.candidate.kind == CandidateType::Relayed)
    })
}

/// The verdict. `but`: whether a direct session has a finding that would be a warning on another, or goes over TCP alone.
pub fn verdict(session: &Session<'_>, expected: Expected, but: bool) -> Verdict {
    match (session.path, expected) {
        (Path::Direct, _) if but => Verdict::DirectBut,
        (Path::Direct, _) => Verdict::Direct,
        (Path::Relayed, Expected::Relayed) => Verdict::RelayedAsItMustBe,
        (Path::Relayed, Expected::Direct) => Verdict::RelayedShouldBeDirect,
        (Path::Relayed, _) => Verdict::Relayed,
        (Path::Failed, Expected::None) => Verdict::NoPathAsItMustBe,
        (Path::Failed, _) => Verdict::NoPath,
    }
}

/// What would make a direct path possible where the networks allow none, the likeliest first.
pub fn would_allow_direct(session: &Session<'_>, expected: Expected, findings: &[Finding]) -> Vec<String> {
    if session.path == Path::Direct {
        return Vec::new();
    }
    let relay_only = |vantage: Vantage| session.evidence.side(vantage).options.relay_only;
    let without_udp = |vantage: &Vantage| {
        let blame = Blame::side(*vantage);
        let of_side = findings.iter().filter(|finding| finding.blame == blame);
        !relay_only(*vantage) && of_side.into_iter().any(|finding| matches!(finding.code, "WR302" | "WR304"))
    };
    let without_udp: Vec<_> = [Vantage::A, Vantage::B].into_iter().filter(without_udp).collect();
    let out = |vantage: &Vantage| format!("UDP let out of the network of {}, to any port", vantage.name());
    let mut ways: Vec<String> = match without_udp.as_slice() {
        [_, _] => vec!["UDP let out of both networks, to any port".to_owned()],
        of_one => of_one.iter().map(out).collect(),
    };
    if !matches!(expected, Expected::Relayed | Expected::None) {
        return ways;
    }
    for vantage in [Vantage::A, Vantage::B] {
        let side = session.evidence.side(vantage);
        if side.options.relay_only {
            ways.push(format!("{} without --relay-only", vantage.name()));
            continue;
        }
        if Network::of(session, vantage, false).is_dependent() == Some(true) {
            if let Some(device) = endpoint_dependent_mapping::other_uplink(session, vantage) {
                ways.push(format!("the uplink {device} of {} as the one that it sends by", vantage.name()));
            }
            if let Some(closed) = endpoint_dependent_mapping::closed_port(session, vantage) {
                let (there, ip, port) = (vantage.other().name(), closed.ip(), closed.port());
                ways.push(format!("UDP port {port} let in to {ip} by the firewall in front of {there}"));
            }
            if nat_behind_nat::is_behind_two(session, vantage) {
                ways.push(format!(
                    "a public IPv4 address for {} instead of the second NAT in front of its router",
                    vantage.name()
                ));
                continue;
            }
            let (here, whole) = (vantage.name(), "an endpoint-independent (static-port) mapping");
            if has_way_in(session, vantage) {
                ways.push(format!("{whole} on the router of {here}: a port of it leads in to {here} already"));
                continue;
            }
            let which = port_to_forward(side).map_or_else(|| "a port".to_owned(), |port| format!("UDP port {port}"));
            ways.push(format!(
                "{whole} on the router of {here}; or a forward of {which} to {here} there by PCP, NAT-PMP or UPnP (--try mapping), so that the peer is told of it: one by hand helps only where the router also sends from the forwarded port"
            ));
        }
    }
    // A session that may only use relays is not direct over IPv6 either.
    if session.recorded().any(|vantage| session.evidence.side(vantage).options.relay_only) {
        return ways;
    }
    let lacks_ipv6 = |vantage| Network::of(session, vantage, true).public.is_empty();
    let without: Vec<_> = [Vantage::A, Vantage::B].into_iter().filter(|&vantage| lacks_ipv6(vantage)).collect();
    match without.as_slice() {
        [] => {}
        [one] => ways.push(format!("IPv6 for {}; {} has it", one.name(), one.other().name())),
        _ => ways.push("IPv6 on both sides".to_owned()),
    }
    ways
}
