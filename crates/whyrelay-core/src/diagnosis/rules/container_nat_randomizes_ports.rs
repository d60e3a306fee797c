//! The host's own NAT, or that of its container network, gives each destination a random port.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::source_rewritten_here::around;
use super::{Examination, Fault, Fix, Need, Rule, need};
use crate::diagnosis::finding::{Blame, Remedy};
use crate::diagnosis::network::{Network, told};
use crate::diagnosis::session::{Path, Session};
use crate::host::Subject;
use crate::trace::event::Vantage;

use super::wording::quoted_firewall;

/// UDP's number (RFC 768).
const UDP: u8 = 17;

pub(super) const RULE: Rule = Rule {
    code: "WR209",
    name: "container-nat-randomizes-ports",
    title: "the host's own NAT gives each destination a random port",
    meaning: "The program runs in a container or pod whose network masquerades with random ports (--random-fully, as flannel, Calico and EKS do). The node's own sockets are easy to reach and the container's are not: its mapping depends on the destination. The same happens to a host whose own firewall masquerades what it sends itself.",
    detection: "The host's connection table has one of the session's sockets with another port for each destination. Or the mapping depends on the destination, and a rule that masquerades with random ports is seen. From inside of a container the host's rules are not: then the mapping may as well be that of a router outside, and is told as such.",
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
    needs: &[Need::Other(unread)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    let of_side = |vantage| own_translation(session, vantage).or_else(|| fault(session, vantage));
    Examination::of(session.recorded().filter_map(of_side).collect())
}

/// What this host's own translation shows in, where packets are mapped by destination and it cannot be read.
fn unread(session: &Session<'_>, vantage: Vantage) -> Option<String> {
    let dependent = [false, true].map(|is_ipv6| Network::of(session, vantage, is_ipv6).is_dependent() == Some(true));
    let subjects = [Subject::Nftables, Subject::LegacyIptables, Subject::Conntrack];
    dependent
        .contains(&true)
        .then(|| subjects.into_iter().find_map(|subject| need::host_lacks(session, vantage, subject)))?
}

/// This host itself gives the packets of one of the session's sockets another port for each destination: its own
/// connection table says so.
pub(in crate::diagnosis) fn own_translation(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let bases: BTreeSet<SocketAddr> = side.local_candidates.iter().map(|local| local.base).collect();
    let translated = side.host.conntrack.iter().filter(|entry| {
        let entry = &entry.fact;
        entry.protocol == UDP
            && bases.contains(&entry.original_source)
            && entry.reply_destination.port() != entry.original_source.port()
    });
    let translated: Vec<_> = translated.collect();
    let (first, other) = translated.iter().find_map(|first| {
        let other = translated.iter().find(|other| {
            other.fact.original_source == first.fact.original_source
                && other.fact.original_destination != first.fact.original_destination
                && other.fact.reply_destination.port() != first.fact.reply_destination.port()
        })?;
        Some((first, other))
    })?;
    let source = first.fact.original_source;
    if Network::of(session, vantage, source.is_ipv6()).is_dependent() != Some(true) {
        return None;
    }
    let mut rules = side.host.firewall_rules.iter().filter(|rule| {
        let is_translation =
            |word: &str| matches!(word.to_ascii_lowercase().as_str(), "masquerade" | "snat" | "netmap");
        rule.fact.hook.as_deref() == Some("postrouting") && rule.fact.rule.split_whitespace().any(is_translation)
    });
    // Of several it is not known which one it was.
    let rule = rules.next().filter(|_| rules.next().is_none());
    let by = rule.map_or_else(String::new, |rule| format!(", by {}", quoted_firewall(&rule.fact)));
    let mut advice = match rule {
        Some(rule) => around(&rule.fact, &side.host, source.port()),
        None => vec![Remedy::safe("Find the rule").run("nft -a list ruleset | grep -n -E 'snat|masquerade'")],
    };
    advice.push(Remedy::firewall(
        "Or let the rule keep ports: masquerade and snat without random, fully-random and --random-fully",
    ));
    Some(Fault {
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!(
            "{} translates its own packets on their way out: {source} leaves from port {} towards {} and from port {} towards {}{by}",
            vantage.name(),
            first.fact.reply_destination.port(),
            first.fact.original_destination,
            other.fact.reply_destination.port(),
            other.fact.original_destination
        ),
        evidence: [first.seq, other.seq].into_iter().chain(rule.map(|rule| rule.seq)).collect(),
        advice,
        advice_is_all: true,
        doubt: Some("The same mapping once the rule is out: then a NAT in front does it as well.".to_owned()),
        ..Fault::default()
    })
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
