//! The container network's NAT gives each destination a random port.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::Blame;
use crate::diagnosis::network::told;
use crate::diagnosis::session::{Path, Session};
use crate::trace::event::Vantage;

use super::wording::quoted_firewall;

pub(super) const RULE: Rule = Rule {
    code: "WR209",
    name: "container-nat-randomizes-ports",
    title: "the container network's NAT gives each destination a random port",
    meaning: "The program runs in a container or pod whose network masquerades with random ports (--random-fully, as flannel, Calico and EKS do). The node's own sockets are easy to reach and the container's are not: its mapping depends on the destination.",
    detection: "The mapping depends on the destination, and a rule that masquerades with random ports is seen. From inside of a container the host's rules are not: then the mapping may as well be that of a router outside, and is told as such.",
    proof: "The same STUN requests from the node itself (host networking) show one mapping.",
    doubt: "The same dependence from the node: then the router outside does it.",
    fixes: &[
        Fix::safe("Use host networking for this pod and a fixed port."),
        Fix::safe(
            "Or turn random ports off: flannel without --random-fully, on EKS AWS_VPC_K8S_CNI_RANDOMIZESNAT=none.",
        ),
    ],
    threads: &[
        "tailscale/tailscale#3822",
        "tailscale/tailscale#6157",
        "tailscale/tailscale#11427",
        "flannel-io/flannel#2281",
        "tailscale/tailscale#11908",
    ],
    depends_on: &["WR801", "WR206", "WR207"],
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
    let told = told(side);
    let (first, other) = told.iter().find_map(|first| {
        let other = told.iter().find(|other| {
            other.local == first.local
                && other.mapped.ip() == first.mapped.ip()
                && other.mapped.port() != first.mapped.port()
        })?;
        Some((first, other))
    })?;
    let rule = side
        .host
        .firewall_rules
        .iter()
        .find(|rule| rule.fact.rule.contains("fully-random") || rule.fact.rule.contains("random-fully"))?;
    let how = quoted_firewall(&rule.fact);
    Some(Fault {
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!(
            "{} is mapped to {} and to {}, by destination: {how}",
            vantage.name(),
            first.mapped,
            other.mapped
        ),
        evidence: [first.seq, other.seq]
            .into_iter()
            .chain([rule.seq])
            .chain(side.host.capabilities.iter().map(|(seq, ..)| *seq))
            .collect(),
        ..Fault::default()
    })
}
