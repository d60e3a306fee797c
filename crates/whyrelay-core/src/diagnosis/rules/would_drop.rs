//! A firewall rule that no packet of the session came to, because something else stopped them all before, and that would
//! stop them once that is mended. That it took packets of probes, or of others, is no proof against it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::errno::EPERM;
use super::wording::{against, quoted_firewall};
use super::{Fault, input_firewall_drops};
use crate::diagnosis::evidence::{HostEvidence, SideEvidence, Taken};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::network::{seen_at, told};
use crate::diagnosis::routes::{Untold, diversions, is_refused, reachable_candidates, untold_addresses};
use crate::diagnosis::session::{Path, Session};
use crate::host::{Filter, FilteredPacket, FirewallRule, Moment, OwnPacket, ProbeOutcome, RouteAnswer};
use crate::trace::address::AddressClass;
use crate::trace::event::{Transport, Vantage};

/// Most candidates of the peer, and sockets, that rules are tried on.
const MAX_TRIED: usize = 16;

const ON_OUTPUT: [&str; 2] = ["output", "postrouting"];
const ON_INPUT: [&str; 2] = ["prerouting", "input"];

/// One on output.
pub(super) fn on_output(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let filter = filter(&side.host, &ON_OUTPUT)?;
    let packets = of_peer(session, vantage)?;
    // A full connection table keeps packets from the filter and looks the same to who sends.
    let is_full = side.host.counters.iter().any(|(name, (_, by))| name == "nf_conntrack.drop" && *by > 0);
    if !is_full && side.send_failures.keys().any(|(.., errno)| *errno == EPERM) {
        return None;
    }
    // What goes by a relay of ours goes to the server.
    let direct = side.sent.values().filter(|check| !side.is_relayed(check.pair.local));
    let left = direct.filter(|check| check.refused < check.transmissions);
    let passed: BTreeSet<SocketAddr> = left.map(|check| check.pair.remote).collect();
    let told = packets.into_iter().filter(|(_, remote)| !passed.contains(remote)).find_map(|(own, remote)| {
        let packet = FilteredPacket { source: own, destination: remote, in_device: None, out_device: None };
        // What goes another way comes to the filter all the same.
        let kept_back = kept_back(session, vantage, is_refused, |to| to == remote.ip())?;
        // A probe from a socket bound to a device may have come to it: then that is what was counted.
        let probe = refused_probe(side, remote).filter(|_| !is_full);
        let rule = stopping(&side.host, &filter, &ON_OUTPUT, &packet)?;
        Some((rule, own, remote.to_string(), probe.unwrap_or(kept_back)))
    });
    let untold = || {
        of_untold_peer(session, vantage).into_iter().find_map(|(own, untold)| {
            let rule = whatever_the_port(|port| {
                let destination = SocketAddr::new(untold.address, port);
                let packet = FilteredPacket { source: own, destination, in_device: None, out_device: None };
                stopping(&side.host, &filter, &ON_OUTPUT, &packet)
            })?;
            Some((rule, own, untold.words(), untold.seq))
        })
    };
    let (rule, own, to, kept_back) = told.or_else(untold)?;
    Some(Fault {
        blame: Blame::side(vantage),
        severity: Severity::Warning,
        summary: format!(
            "The firewall of {} drops what goes to the peer ({to}), by {}: that comes to light once what keeps these packets from it is mended",
            vantage.name(),
            quoted_firewall(&rule.fact)
        ),
        evidence: vec![rule.seq, kept_back],
        advice: against(&rule.fact, &side.host, Some(own.port()), false),
        hidden: true,
        ..Fault::default()
    })
}

/// One on arrival.
pub(super) fn on_input(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let filter = filter(&side.host, &ON_INPUT)?;
    let packets = of_peer(session, vantage)?;
    let arrived = side.host.own_packets.iter().filter(|packet| packet.fact.arrived);
    let arrived = arrived.map(|packet| packet.fact.source.ip());
    let came: BTreeSet<IpAddr> = arrived.chain(side.delivered.keys().map(|(_, other)| other.ip())).collect();
    let of_own: BTreeSet<IpAddr> = reachable_candidates(session.evidence.side(vantage.other()), side).collect();
    let any_way = |_: &RouteAnswer| true;
    // What keeps packets of an address away.
    let kept = |remote: SocketAddr| {
        if came.contains(&remote.ip()) {
            return dropped_between(side, remote);
        }
        // What the peer does not send, or what a NAT here lets nobody in for, because nothing was sent out.
        kept_back(session, vantage.other(), any_way, |to| of_own.contains(&to))
            .or_else(|| kept_back(session, vantage, any_way, |to| to == remote.ip()))
            .or_else(|| nothing_came(session, vantage, &came).filter(|_| is_seen_at(session, vantage, remote)))
    };
    // A rule without a counter may have taken what did come, or what nobody saw come.
    let is_seen = |remote: SocketAddr| side.host.saw_all_packets().is_some() && !came.contains(&remote.ip());
    let stopped = |own: SocketAddr, remote: SocketAddr| {
        let in_device = side.host.addresses.iter().find(|known| known.fact.address == own.ip());
        let in_device = in_device.map(|known| known.fact.device.as_str());
        let packet = FilteredPacket { source: remote, destination: own, in_device, out_device: None };
        let rule = stopping(&side.host, &filter, &ON_INPUT, &packet)?;
        (rule.fact.packets_since.is_some() || is_seen(remote)).then_some(rule)
    };
    let told = packets.into_iter().find_map(|(own, remote)| {
        let kept_back = kept(remote)?;
        Some((stopped(own, remote)?, own, remote.to_string(), kept_back))
    });
    let untold = || {
        let none_came = |(_, untold): &(SocketAddr, Untold)| !came.contains(&untold.address);
        of_untold_peer(session, vantage).into_iter().filter(none_came).find_map(|(own, untold)| {
            let rule = whatever_the_port(|port| stopped(own, SocketAddr::new(untold.address, port)))?;
            Some((rule, own, untold.words(), untold.seq))
        })
    };
    const BEHIND: &str = "that comes to light once what keeps these packets from arriving is mended";
    let found = told.or_else(untold).map(|found| (found, BEHIND)).or_else(|| {
        let (rule, packet) = taken(session, vantage, &filter)?;
        let OwnPacket { source, destination, .. } = packet.fact;
        Some(((rule, destination, source.to_string(), packet.seq), "its probes reached an interface and no program"))
    });
    let ((rule, own, from, kept_back), why) = found?;
    Some(Fault {
        blame: Blame::side(vantage),
        severity: Severity::Warning,
        summary: format!(
            "The firewall of {} drops what comes from the peer ({from}), by {}: {why}",
            vantage.name(),
            quoted_firewall(&rule.fact)
        ),
        evidence: vec![rule.seq, kept_back],
        advice: input_firewall_drops::advice(&side.host, Some(rule), Some(own.port())),
        hidden: true,
        ..Fault::default()
    })
}

/// A rule that surely took packets of the peer that an interface saw come from where no socket heard anything: where
/// nothing of the session's own comes, those of probes.
fn taken<'a>(
    session: &Session<'a>,
    vantage: Vantage,
    filter: &Filter<'_>,
) -> Option<(&'a Taken<FirewallRule>, &'a Taken<OwnPacket>)> {
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let of_peer: BTreeSet<IpAddr> = seen_at(peer).into_keys().chain(reachable_candidates(side, peer)).collect();
    let delivered = side.delivered.keys().map(|(_, other)| other.ip());
    let heard: BTreeSet<IpAddr> = side.heard_from().iter().map(SocketAddr::ip).chain(delivered).collect();
    let is_lost = |source: IpAddr| of_peer.contains(&source) && !heard.contains(&source);
    let lost = side.host.own_packets.iter().filter(|packet| packet.fact.arrived && is_lost(packet.fact.source.ip()));
    // What reverse path filtering dropped, between the hooks, came to the first alone.
    let between = side.host.counter("TcpExt.IPReversePathFilter").is_some_and(|(_, by)| by > 0);
    let hooks = if between { &ON_INPUT[..1] } else { &ON_INPUT[..] };
    lost.take(MAX_TRIED).find_map(|packet| {
        let OwnPacket { source, destination, device, .. } = &packet.fact;
        let (source, destination, in_device) = (*source, *destination, Some(device.as_str()));
        let arrival = FilteredPacket { source, destination, in_device, out_device: None };
        let rule = stopping(&side.host, filter, hooks, &arrival)?;
        rule.fact.packets_since.is_some_and(|packets| packets > 0).then_some((rule, packet))
    })
}

/// The event that shows what keeps a side from sending to some addresses of the other: a send that the system refused, an
/// answer of its routing that `keeps` them back, or that only relays may be used.
fn kept_back(
    session: &Session<'_>,
    vantage: Vantage,
    keeps: impl Fn(&RouteAnswer) -> bool,
    is_there: impl Fn(IpAddr) -> bool,
) -> Option<u64> {
    let side = session.evidence.side(vantage);
    if !session.evidence.is_recorded(vantage) {
        return None;
    }
    let failed = side.send_failures.iter().filter(|((_, remote, _), _)| is_there(remote.ip()));
    let failed = failed.map(|(_, failure)| failure.seq).min();
    let diverted = || {
        let found = diversions(session, vantage).into_iter().map(|diversion| diversion.answer);
        let found = found.filter(|answer| keeps(&answer.fact) && is_there(answer.fact.question.destination));
        found.map(|answer| answer.seq).min()
    };
    failed.or_else(diverted).or_else(|| side.options.relay_only.then(|| vantage.first_seq()))
}

/// The event that says which packets reached an interface, where none of the peer's did: whatever keeps them from here, a
/// rule that takes them all does so once they come.
fn nothing_came(session: &Session<'_>, vantage: Vantage, came: &BTreeSet<IpAddr>) -> Option<u64> {
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let seq = side.host.saw_all_packets()?;
    let mut of_peer = reachable_candidates(side, peer);
    (!of_peer.any(|address| came.contains(&address))).then_some(seq)
}

/// The event that says that reverse path filtering, or a full connection table, which come between the hooks, dropped
/// packets.
pub(super) fn dropped_by_others(side: &SideEvidence) -> Option<u64> {
    let counters = ["TcpExt.IPReversePathFilter", "nf_conntrack.drop"];
    let moved = counters.into_iter().filter_map(|name| side.host.counter(name)).find(|(_, by)| *by > 0);
    moved.map(|(seq, _)| seq)
}

/// The same where some reached an interface from an address and none a socket.
fn dropped_between(side: &SideEvidence, remote: SocketAddr) -> Option<u64> {
    let was_heard = side.delivered.keys().any(|(_, other)| other.ip() == remote.ip());
    dropped_by_others(side).filter(|_| !was_heard)
}

/// Whether the peer is known to send to everybody from there: it is a public address, or servers saw it.
fn is_seen_at(session: &Session<'_>, vantage: Vantage, remote: SocketAddr) -> bool {
    let peer = session.evidence.side(vantage.other());
    AddressClass::of(remote.ip()) == AddressClass::Public
        || told(peer).iter().any(|told| told.mapped.ip() == remote.ip())
}

/// A rule that surely stops a packet.
fn stopping<'a>(
    host: &'a HostEvidence,
    filter: &Filter<'_>,
    hooks: &[&str],
    packet: &FilteredPacket<'_>,
) -> Option<&'a Taken<FirewallRule>> {
    let stopping = filter.surely_stops(hooks, packet)?;
    after(&host.firewall_rules).find(|rule| rule.fact == *stopping)
}

/// A probe to an address that the firewall refused, while the session's own packets were refused before they came there.
fn refused_probe(side: &SideEvidence, remote: SocketAddr) -> Option<u64> {
    let refused = ProbeOutcome::Refused { errno: EPERM };
    let mut probes = side.host.probes.iter().filter(|probe| probe.fact.remote.ip() == remote.ip());
    probes.find(|probe| probe.fact.result == refused).map(|probe| probe.seq)
}

/// The sockets of a side, each with every address of the peer that could be reached directly; `None`: the session is
/// direct, or nobody could see what was sent.
fn of_peer(session: &Session<'_>, vantage: Vantage) -> Option<Vec<(SocketAddr, SocketAddr)>> {
    if session.path == Path::Direct || session.evidence.is_alone() || !session.evidence.is_recorded(vantage) {
        return None;
    }
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let reachable: Vec<_> = reachable_candidates(side, peer).collect();
    let remotes = side.remote_candidates.iter().filter_map(|remote| remote.address);
    let remotes = remotes.filter(|remote| reachable.contains(&remote.ip())).take(MAX_TRIED);
    let pairs = remotes.flat_map(|remote| own_sockets(side, remote).map(move |own| (own, remote)));
    Some(pairs.collect())
}

/// The same with addresses at which the peer was seen, where this side was told none that it could reach.
fn of_untold_peer(session: &Session<'_>, vantage: Vantage) -> Vec<(SocketAddr, Untold)> {
    let side = session.evidence.side(vantage);
    let untold = untold_addresses(session, vantage).into_iter();
    let with_own = |untold: Untold| own_sockets(side, SocketAddr::new(untold.address, 0)).map(move |own| (own, untold));
    untold.flat_map(with_own).take(MAX_TRIED).collect()
}

/// What comes out for the lowest and the highest port alike: a rule that tells ports apart does not take both.
pub(super) fn whatever_the_port<T: PartialEq>(of: impl Fn(u16) -> Option<T>) -> Option<T> {
    let one = of(1)?;
    (of(u16::MAX)? == one).then_some(one)
}

fn own_sockets(side: &SideEvidence, remote: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let udp = side.sockets.keys().filter(|(transport, _)| *transport == Transport::Udp).map(|(_, own)| *own);
    udp.filter(move |own| own.is_ipv4() == remote.is_ipv4() && !own.ip().is_unspecified()).take(MAX_TRIED)
}

/// The chains and rules of a host as they were told last; `None`: none of them stops anything at one of these hooks.
fn filter<'a>(host: &'a HostEvidence, hooks: &[&str]) -> Option<Filter<'a>> {
    Some(told_last(host)).filter(|filter| filter.stops_at(hooks))
}

/// The chains and rules of a host as they were told last.
pub(super) fn told_last(host: &HostEvidence) -> Filter<'_> {
    let chains = after(&host.firewall_chains).map(|chain| &chain.fact);
    Filter::new(chains, after(&host.firewall_rules).map(|rule| &rule.fact))
}

fn after<T>(facts: &[Taken<T>]) -> impl Iterator<Item = &Taken<T>> {
    facts.iter().filter(|fact| fact.moment == Moment::After)
}
