//! Whether a fault left any trace: the world again with nothing wrong in its place, and what happened in both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use whyrelay_core::diagnosis::evidence::Evidence;
use whyrelay_core::host::{HostFact, ProbeOutcome};
use whyrelay_core::trace::event::{Datagram, Event, EventKind, Transport, Vantage};
use whyrelay_core::wire::stun::Message;

use crate::fuzz::World;
use crate::run::{Observed, run_virtual};
use crate::scenario::Scenario;

/// Whether anything happened otherwise because of a planted fault: a packet, an answer, an error, a counter. Where nothing
/// did, no rule can tell whether it does harm. True as well where the world without it cannot be made.
pub fn leaves_trace(world: &World, observed: &Observed, planted: usize) -> bool {
    let Some(without) = world.without(planted) else { return true };
    let Ok(Scenario { topology, .. }) = Scenario::of("fuzz", without.file) else { return true };
    happened(&observed.events) != happened(&run_virtual(&topology).events)
}

/// What happened and how often, without when, and without the addresses: another place has others.
fn happened(events: &[Event]) -> BTreeMap<String, usize> {
    let evidence = Evidence::of(events);
    let mut happened: BTreeMap<String, usize> = BTreeMap::new();
    let seen = events.iter().filter_map(|event| Some(format!("{} {}", event.vantage.name(), of_kind(&event.kind)?)));
    for what in seen.chain([Vantage::A, Vantage::B].into_iter().flat_map(|vantage| addresses(&evidence, vantage))) {
        *happened.entry(what).or_default() += 1;
    }
    happened
}

/// What the addresses of a side come to: how many a server or the peer saw of each socket, whether the one saw what the
/// other did not, and whether ports are kept.
fn addresses(evidence: &Evidence, vantage: Vantage) -> Vec<String> {
    let (side, other) = (evidence.side(vantage), evidence.side(vantage.other()));
    let mut seen: BTreeMap<SocketAddr, BTreeSet<SocketAddr>> = BTreeMap::new();
    for ((transport, local, _), path) in &side.servers {
        if *transport == Transport::Udp {
            seen.entry(*local).or_default().extend(path.mapped.keys());
        }
    }
    for (id, check) in &side.sent {
        let by_peer = other.received.get(id).map(|received| received.pair.remote);
        seen.entry(check.pair.local).or_default().extend(by_peer);
    }
    for probe in &side.host.probes {
        if let ProbeOutcome::Answered { mapped, .. } = probe.fact.result {
            seen.entry(probe.fact.local).or_default().extend(mapped);
        }
    }
    seen.values().map(|seen| format!("{} socket seen at {} addresses", vantage.name(), seen.len())).collect()
}

/// An event in words, without addresses; `None`: how a host is configured.
fn of_kind(kind: &EventKind) -> Option<String> {
    match kind {
        EventKind::HostFact { fact, .. } => of_fact(fact),
        EventKind::Datagram(datagram) => Some(of_datagram(datagram)),
        EventKind::SendFailed { errno, .. } => Some(format!("not sent: {errno}")),
        EventKind::IcmpError { icmp_type, icmp_code, .. } => Some(format!("ICMP {icmp_type}/{icmp_code}")),
        EventKind::LocalCandidate { candidate, .. } => Some(format!("own {}", candidate.kind)),
        EventKind::RemoteCandidate { candidate, .. } => Some(format!("the peer's {}", candidate.kind)),
        EventKind::PairStateChanged { to, .. } => Some(format!("a pair is {to:?}")),
        EventKind::IceStateChanged { to, .. } => Some(format!("ICE is {to:?}")),
        EventKind::ServerFailed { method, .. } => Some(format!("{method} failed")),
        // Its tag alone.
        other => serde_json::to_value(other).ok()?.get("kind").map(ToString::to_string),
    }
}

fn of_datagram(datagram: &Datagram) -> String {
    let what = Message::decode(&datagram.data).map_or_else(
        |_| format!("{} bytes", datagram.length),
        |message| {
            format!("{:?} {:?} {:?}", message.class, message.method, message.error_code().map(|error| error.code))
        },
    );
    format!("{:?} {:?} {what} {:?}", datagram.direction, datagram.transport, datagram.integrity)
}

fn of_fact(fact: &HostFact) -> Option<String> {
    match fact {
        // A rule that matched nothing is configuration.
        HostFact::FirewallRule(rule) => {
            let packets = rule.packets_since.filter(|packets| *packets > 0)?;
            Some(format!("{packets} packets: {}", rule.rule))
        }
        HostFact::Counters { moved, .. } => Some(format!("{moved:?}")),
        HostFact::OwnPacket(packet) => Some(format!("{} {} {}", packet.device, packet.arrived, packet.packets)),
        HostFact::Neighbor(neighbor) => Some(format!("{} {:?}", neighbor.device, neighbor.neighbor_state)),
        // A route that is asked about: packets are to be sent there.
        HostFact::RouteAnswer(answer) => {
            let failure = answer.failure.as_ref().map(|failure| failure.errno);
            Some(format!("{:?} {failure:?} {:?}", answer.device(), answer.rule))
        }
        _ => None,
    }
}
