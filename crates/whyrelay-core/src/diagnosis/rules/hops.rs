//! The way to the peer by packets of low TTL: how far they come, and whose the routers are that tell of them.

use std::net::IpAddr;

use crate::diagnosis::evidence::SideEvidence;
use crate::diagnosis::finding::Remedy;
use crate::diagnosis::network::told_anyhow;
use crate::diagnosis::session::Session;
use crate::host::{Family, Probe, ProbeAim, ProbeOutcome};
use crate::trace::address::AddressClass;
use crate::trace::event::Vantage;

/// How far packets of a side come on their way to the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// The last router that told of one, and the event.
    Hop {
        /// Its number, 1 for the first.
        ttl: u8,
        /// Its address, as it told it.
        router: IpAddr,
        /// Number of the event.
        seq: u64,
        /// The side whose router it is; `None`: it stands between the two, or is in front of both.
        of: Option<Vantage>,
    },
    /// Not even the first router told of one, and the one in front of the side does of packets for a server.
    Nowhere {
        /// That router.
        router: IpAddr,
        /// The events.
        seqs: [u64; 2],
    },
}

/// How far packets of a side come, of one address family or of any. `None`: nobody tried, or no router tells at all.
pub(super) fn reached(session: &Session<'_>, vantage: Vantage, family: Option<Family>) -> Option<Reached> {
    let side = session.evidence.side(vantage);
    let hops: Vec<_> =
        hops(side).filter(|(.., probe)| !side.known.is_server(probe.remote) && is_of(probe, family)).collect();
    if let Some(&(ttl, router, seq, _)) = hops.iter().max_by_key(|(ttl, ..)| *ttl) {
        // Behind a router of the Internet private addresses are whoever's.
        let outside = |(other, address, ..): &(u8, IpAddr, u64, &Probe)| *other < ttl && !is_inside(*address);
        let of = whose(session, vantage, router).filter(|owner| *owner != vantage || !hops.iter().any(outside));
        return Some(Reached::Hop { ttl, router, seq, of });
    }
    nowhere(session, vantage, family)
}

fn is_of(probe: &Probe, family: Option<Family>) -> bool {
    family.is_none_or(|family| Family::of(probe.remote.ip()) == family)
}

/// The first router tells of packets for a server that end there, and of none for the peer.
fn nowhere(session: &Session<'_>, vantage: Vantage, family: Option<Family>) -> Option<Reached> {
    let side = session.evidence.side(vantage);
    let first = |probe: &Probe| probe.aim == ProbeAim::TimeToLive { ttl: 1 };
    let silent = side.host.probes.iter().find(|taken| {
        let (probe, to) = (&taken.fact, taken.fact.remote.ip());
        first(probe) && is_of(probe, family) && probe.result == ProbeOutcome::Silent && !side.known.is_server(probe.remote)
            // On the own link no router stands between, and at the own router's address the way ends.
            && !is_on_link(side, to)
            && !told_anyhow(side).iter().any(|told| told.mapped.ip() == to)
    })?;
    let alike = |probe: &Probe| probe.local == silent.fact.local && side.known.is_server(probe.remote);
    let (_, router, seq, _) = hops(side).find(|(.., probe)| first(probe) && alike(probe))?;
    Some(Reached::Nowhere { router, seqs: [silent.seq, seq] })
}

/// The routers that told of packets which ended there: how many hops these were allowed, the router, the event.
fn hops(side: &SideEvidence) -> impl Iterator<Item = (u8, IpAddr, u64, &Probe)> {
    side.host.probes.iter().filter_map(|taken| match (&taken.fact.aim, &taken.fact.result) {
        // Time exceeded: type 11 (RFC 792), in ICMPv6 3 (RFC 4443 §3.3), which in ICMP means unreachable.
        (ProbeAim::TimeToLive { ttl }, ProbeOutcome::Icmp { offender: Some(router), icmp_type, .. }) => {
            let is_exceeded = matches!((router.is_ipv4(), icmp_type), (true, 11) | (false, 3));
            is_exceeded.then_some((*ttl, *router, taken.seq, &taken.fact))
        }
        _ => None,
    })
}

/// Whose a router is that told of packets of a side, by the address that it told: it has the address that servers see a
/// side at, a host's routes lead by it, or it is on a side's own network. A private address is in a network that the
/// packets came through before they were on the Internet. `None`: it stands between the two, or in front of both.
pub(super) fn whose(session: &Session<'_>, from: Vantage, router: IpAddr) -> Option<Vantage> {
    let sides = [from, from.other()];
    let is_seen = |vantage: &Vantage| {
        let told = told_anyhow(session.evidence.side(*vantage));
        told.iter().any(|told| told.mapped.ip() == router && told.local.ip() != router)
    };
    match sides.map(|vantage| is_seen(&vantage)) {
        [true, true] => return None,
        [true, false] => return Some(from),
        [false, true] => return Some(from.other()),
        [false, false] => {}
    }
    let leads = |vantage: &Vantage| {
        let side = session.evidence.side(*vantage);
        is_gateway(side, router) || is_inside(router) && side.known.shares_network(router)
    };
    match sides.map(|vantage| leads(&vantage)) {
        // The routers of two homes mostly have the same address.
        [true, true] if is_behind_one_nat(session) => None,
        [false, true] => Some(from.other()),
        [true, _] => Some(from),
        [false, false] => is_inside(router).then_some(from),
    }
}

/// The same of a router that refuses packets of a side, whose place on the way nobody knows: behind a router of the Internet
/// private addresses are whoever's, so that one is the sender's only by its routes, its network, what servers see it at, or
/// where it told of packets that ended ahead of the first public one.
pub(super) fn whose_refusal(session: &Session<'_>, from: Vantage, router: IpAddr) -> Option<Vantage> {
    let side = session.evidence.side(from);
    let is_near = || {
        is_gateway(side, router)
            || side.known.shares_network(router)
            || told_anyhow(side).iter().any(|told| told.mapped.ip() == router)
            || is_ahead_of_the_internet(side, router)
    };
    whose(session, from, router).filter(|owner| *owner != from || is_near())
}

/// Whether a router told of packets of a side that ended there before any that has a public address.
fn is_ahead_of_the_internet(side: &SideEvidence, router: IpAddr) -> bool {
    let outside = |ttl: u8, to: IpAddr| {
        hops(side).any(|(other, address, _, probe)| other < ttl && probe.remote.ip() == to && !is_inside(address))
    };
    is_inside(router)
        && hops(side).any(|(ttl, address, _, probe)| address == router && !outside(ttl, probe.remote.ip()))
}

/// Whether servers see both sides at one address.
fn is_behind_one_nat(session: &Session<'_>) -> bool {
    let [a, b] = [Vantage::A, Vantage::B].map(|vantage| told_anyhow(session.evidence.side(vantage)));
    a.iter().any(|mine| b.iter().any(|theirs| theirs.mapped.ip() == mine.mapped.ip()))
}

/// Where to look on a side's own router.
pub(super) fn at_router(from: Vantage, router: IpAddr, to: IpAddr) -> Remedy {
    let ip = super::wording::ip(Family::of(to));
    Remedy::safe(format!(
        "On {router}, the router of {}, look for the route or firewall rule that takes what is for {to}; where it is Linux",
        from.name()
    ))
    .run(format!("{ip} route get {to}"))
    .run("nft list ruleset")
}

/// Whether a router is one that a side's routes lead by.
pub(super) fn is_gateway(side: &SideEvidence, router: IpAddr) -> bool {
    let answers = side.host.route_answers.iter().chain(&side.host.probe_answers);
    answers.filter_map(|answer| answer.fact.route.as_ref()).any(|route| route.gateway == Some(router))
}

/// Whether what is sent to an address meets no router: its network is one of this host's own, or a route says so.
fn is_on_link(side: &SideEvidence, to: IpAddr) -> bool {
    let direct = |gateway: Option<IpAddr>| gateway.is_none();
    let mut ways = side.host.routes_to(to).filter_map(|answer| answer.fact.route.as_ref());
    side.known.shares_network(to) || ways.any(|route| direct(route.gateway))
}

/// Whether an address is one of a network behind a NAT, a provider's included (RFC 1918, RFC 6598, RFC 4193).
fn is_inside(address: IpAddr) -> bool {
    matches!(AddressClass::of(address), AddressClass::Private | AddressClass::CarrierGrade | AddressClass::LinkLocal)
}
