//! There is a second NAT between the router and the Internet.

use super::need::BY_CHECK;
use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::SideEvidence;
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::network::told;
use crate::diagnosis::session::{Path, Session};
use crate::host::{ProbeAim, ProbeOutcome};
use crate::trace::address::AddressClass;
use crate::trace::event::Vantage;
use crate::trace::measurement::Measurement;

pub(super) const RULE: Rule = Rule {
    code: "WR203",
    name: "nat-behind-nat",
    title: "there is a second NAT between the router and the Internet",
    meaning: "The router in front of a side has no public address itself: its provider (carrier-grade NAT, 100.64.0.0/10) or another router translates once more. A port that is mapped or forwarded on the inner router is not reachable from the Internet.",
    detection: "The external address by the router's own word (UPnP, NAT-PMP, PCP) is not the one that servers see; or the host itself has an address of 100.64.0.0/10; or a hop behind the gateway has a private address, one of 100.64.0.0/10 where probes of low TTL on the way to the peer show it.",
    proof: "The router's WAN address on its own status page, next to the public address that a server sees.",
    doubt: "A router whose WAN address equals the public one.",
    fixes: &[
        Fix::owner("Ask the provider for a public IPv4 address, or use IPv6."),
        Fix::owner("With two routers at home: put the inner one into bridge mode, or forward the port on both."),
    ],
    threads: &[
        "tailscale/tailscale#5236",
        "tailscale/tailscale#12249",
        "tailscale/tailscale#14308",
        "tailscale/tailscale#18658",
        "netbirdio/netbird#3936",
        "netbirdio/netbird#3949",
    ],
    depends_on: &["WR801"],
    needs: &[Need::Other(unlooked)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

/// The second router on the way to the peer is a provider's (RFC 6598): it answered a packet of low TTL. Routers behind
/// it may be of the peer's side.
fn carrier_hop(side: &SideEvidence) -> Option<(u64, String)> {
    side.host.probes.iter().find_map(|probe| match (&probe.fact.aim, &probe.fact.result) {
        (ProbeAim::TimeToLive { ttl: 2 }, ProbeOutcome::Icmp { offender: Some(router), icmp_type: 11, .. })
            if AddressClass::of(*router) == AddressClass::CarrierGrade
                && AddressClass::of(probe.fact.remote.ip()) == AddressClass::Public =>
        {
            Some((probe.seq, format!("hop 2 on its way out is {router}")))
        }
        _ => None,
    })
}

/// Whether a second NAT is in front of a side: then a forward on its own router does not lead in.
pub(in crate::diagnosis) fn is_behind_two(session: &Session<'_>, vantage: Vantage) -> bool {
    fault(session, vantage).is_some()
}

/// What is behind the router of a side that has a NAT, where neither the router nor a hop beyond it told.
fn unlooked(session: &Session<'_>, vantage: Vantage) -> Option<String> {
    let side = session.evidence.side(vantage);
    told(side).iter().find(|told| told.mapped.is_ipv4() && told.mapped.ip() != told.local.ip())?;
    let measured = side.measured.facts.iter().any(|(_, fact)| match fact {
        Measurement::PortMapper { external, .. } => external.is_some(),
        Measurement::Hop { router, ttl, .. } => *ttl > 1 && router.is_some(),
        _ => false,
    });
    let probed = side.host.probes.iter().any(|probe| {
        let second = matches!(probe.fact.aim, ProbeAim::TimeToLive { ttl: 2 });
        second && matches!(probe.fact.result, ProbeOutcome::Icmp { offender: Some(_), .. })
    });
    let untold = !measured && !probed;
    untold.then(|| BY_CHECK.to_owned())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let seen = told(side).into_iter().find(|told| told.mapped.is_ipv4() && told.mapped != told.local)?;
    let inner = side.measured.facts.iter().find_map(|(seq, fact)| match fact {
        Measurement::PortMapper { external: Some(external), protocol, .. } if *external != seen.mapped.ip() => {
            Some((*seq, format!("its router says by {} that its external address is {external}", protocol.name())))
        }
        Measurement::Hop { router: Some(router), ttl, .. }
            if *ttl > 1 && matches!(AddressClass::of(*router), AddressClass::Private | AddressClass::CarrierGrade) =>
        {
            Some((*seq, format!("hop {ttl} on its way out is {router}")))
        }
        _ => None,
    });
    let inner = inner.or_else(|| carrier_hop(side));
    let carrier = side
        .local_candidates
        .iter()
        .find(|local| AddressClass::of(local.base.ip()) == AddressClass::CarrierGrade && local.base == seen.local);
    let (seq, why) = inner.or_else(|| Some((carrier?.seq, format!("its own address is {}", carrier?.base.ip()))))?;
    // By itself it keeps nothing from being direct: what the mapping does decides.
    Some(Fault {
        blame: Blame::side(vantage),
        severity: Severity::Info,
        summary: format!("{} is behind two NATs: servers see {}, and {why}", vantage.name(), seen.mapped.ip()),
        evidence: vec![seen.seq, seq],
        ..Fault::default()
    })
}
