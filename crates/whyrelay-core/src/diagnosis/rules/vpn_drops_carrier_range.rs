//! A VPN's firewall rule drops the carrier-grade range.

use std::net::IpAddr;

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::Blame;
use crate::diagnosis::session::{Path, Session};
use crate::trace::address::AddressClass;
use crate::trace::event::Vantage;

use super::wording::{against, quoted_firewall};
use crate::host::Subject;

pub(super) const RULE: Rule = Rule {
    code: "WR120",
    name: "vpn-drops-carrier-range",
    title: "a VPN's firewall rule drops the carrier-grade range",
    meaning: "A VPN on this host drops packets from 100.64.0.0/10 that do not come by its own interface, to protect its overlay. A peer, gateway or provider that uses that range (carrier-grade NAT) is cut off.",
    detection: "A firewall rule that names 100.64.0.0/10 and drops counted packets during the checks, in a session of which an address of that range is part: the peer's, the host's own, or one from which packets arrived that no socket got.",
    proof: "The counter of that rule before and after a check.",
    doubt: "The counter standing still.",
    fixes: &[Fix::firewall(
        "For Tailscale: --netfilter-mode=nodivert, or accept the peer's address ahead of ts-input.",
    )],
    threads: &[
        "tailscale/tailscale#12555",
        "tailscale/tailscale#3837",
        "tailscale/tailscale#12829",
        "tailscale/tailscale#12828",
        "tailscale/tailscale#3104",
        "tailscale/tailscale#1381",
    ],
    depends_on: &["WR801"],
    needs: &[Need::Host(Subject::Nftables), Need::Host(Subject::LegacyIptables), Need::Host(Subject::OwnPackets)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let rule = side.host.firewall_rules.iter().find(|rule| {
        rule.fact.rule.contains("100.64.0.0/10")
            && rule.fact.stops()
            && rule.fact.packets_since.is_some_and(|packets| packets > 0)
    })?;
    // Of the session it is only where the peer, or a router on its way, has such an address.
    let is_carrier = |address: IpAddr| AddressClass::of(address) == AddressClass::CarrierGrade;
    let arrived = side.unheard().map(|unheard| unheard.iter().any(|(source, ..)| is_carrier(source.ip())));
    let told =
        || side.remote_candidates.iter().filter_map(|remote| remote.address).any(|address| is_carrier(address.ip()));
    let own = || side.local_candidates.iter().any(|local| is_carrier(local.base.ip()));
    if !arrived.unwrap_or_else(|| told() || own()) {
        return None;
    }
    let port = side.local_candidates.first().map(|local| local.base.port());
    Some(Fault {
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!(
            "On {} {} dropped {} packets",
            vantage.name(),
            quoted_firewall(&rule.fact),
            rule.fact.packets_since.unwrap_or_default()
        ),
        evidence: vec![rule.seq],
        advice: against(&rule.fact, &side.host, port, true),
        ..Fault::default()
    })
}
