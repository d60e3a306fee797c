//! An early packet took the port in the NAT.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::network::told;
use crate::diagnosis::session::{Path, Session};
use crate::trace::event::Vantage;
use crate::trace::measurement::Measurement;

use super::peer_sees_other_port::unadvertised;

pub(super) const RULE: Rule = Rule {
    code: "WR202",
    name: "port-taken-by-early-packet",
    title: "an early packet took the port in the NAT",
    meaning: "The router in front of a side takes unsolicited packets for packets to itself and notes them in its connection table. When the peer speaks first, its packet occupies the mapped port towards that peer, so that the side's own packets to the peer leave from another port, which the peer's NAT does not let in. Every tester calls such a NAT endpoint-independent, and two of them never connect.",
    detection: "The mapping is the same for all servers, yet the peer sees the side come from another port than that: in its checks, or in a third party's view after it had sent first. Often the peer also gets \"port unreachable\" from the router's own public address.",
    proof: "The router's connection table (conntrack -L) has an unreplied entry from the peer to the mapped port, and the side's flow with another port in its reply direction.",
    doubt: "The same session with this side speaking first, or after an opener with a low TTL from each side: if that is direct, the early packet was the cause; if the port still differs, the mapping depends on the destination after all.",
    fixes: &[
        Fix::owner(
            "On that router, drop unsolicited UDP from outside on input instead of accepting or rejecting it: nft add rule inet filter input iifname WAN udp dport 1024-65535 ct state new drop.",
        ),
        Fix::safe(
            "Let each side first send an opener with a TTL that ends before the peer's router (whyrelay --try opener).",
        ),
        Fix::safe(
            "Give the two peers different ports, so that the mapped port is not the one that the early packet took.",
        ),
    ],
    threads: &["tailscale/tailscale#16300", "tailscale/tailscale#14308", "libp2p/specs#512", "libp2p/specs#487"],
    depends_on: &["WR801", "WR105", "WR106", "WR107", "WR109", "WR115", "WR118"],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    Examination::of(
        session
            .recorded()
            .filter_map(|vantage| measured(session, vantage).or_else(|| seen(session, vantage)))
            .collect(),
    )
}

/// A third party that had sent first saw another port than one that had not.
fn measured(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    session.evidence.side(vantage).measured.facts.iter().find_map(|(seq, fact)| match fact {
        Measurement::EarlyArrival { mapped, observed, control, .. } if control == mapped && observed != mapped => {
            Some(Fault {
                blame: Blame::side(vantage),
                severity: Severity::Warning,
                summary: format!(
                    "The router of {} gives up port {} towards whoever sends to it first: it then sends from port {}",
                    vantage.name(),
                    mapped.port(),
                    observed.port()
                ),
                evidence: vec![*seq],
                ..Fault::default()
            })
        }
        _ => None,
    })
}

/// The mapping is the same for servers at different addresses, and the peer sees another port.
fn seen(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let (side, other) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let (from, seq, base) = unadvertised(session, vantage)?;
    let told: Vec<_> =
        told(side).into_iter().filter(|told| told.local == base && told.mapped.is_ipv4() == from.is_ipv4()).collect();
    let first = told.first()?;
    if told.iter().any(|told| told.mapped != first.mapped) || first.mapped.ip() != from.ip() {
        return None;
    }
    // The router itself refused what the peer sent first: it took the packet for one to itself.
    let refused = other.icmp_errors.iter().find(|((_, remote, icmp_type, code), error)| {
        *remote == first.mapped
            && (*icmp_type, *code) == (3, 3)
            && error.offender.is_none_or(|offender| offender == remote.ip())
    });
    let several = told.iter().any(|told| told.server.ip() != first.server.ip());
    if !several && refused.is_none() {
        return None;
    }
    let (here, there) = (vantage.name(), vantage.other().name());
    let icmp =
        refused.map_or(String::new(), |_| format!(", and answered {there}'s first packet itself (port unreachable)"));
    Some(Fault {
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!(
            "The router of {here} maps {base} to {} for every server, but to port {} towards {there}, whose packet had come first{icmp}",
            first.mapped,
            from.port()
        ),
        evidence: told.iter().map(|told| told.seq).chain([seq]).chain(refused.map(|(_, error)| error.seq)).collect(),
        ..Fault::default()
    })
}
