//! A firewall in front lets packets out and no answers in.

use super::{
    Examination, Fault, Fix, Need, Rule, conntrack_table_full, input_firewall_drops, ipsec_policy_drops,
    next_hop_silent, output_firewall_drops, reverse_path_filter_drops,
};
use crate::diagnosis::evidence::{SideEvidence, Taken};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::network::{asked_plainly, why_plainly};
use crate::diagnosis::session::Break;
use crate::diagnosis::session::{Path, Session};
use crate::host::{Probe, ProbeAim, ProbeOutcome};
use crate::trace::event::{Transport, Vantage};

pub(super) const RULE: Rule = Rule {
    code: "WR208",
    name: "replies-dropped-in-front",
    title: "a firewall in front lets packets out and no answers in",
    meaning: "What a side sends over UDP arrives, and nothing comes back to it: a stateless firewall in front of it (a provider's or a cloud's: Hetzner, network ACLs) does not let answers in, because it does not know that they were asked for.",
    detection: "Checks of the side arrived at the peer and were answered, and not one UDP packet reached the side, from no peer and from no server, although one of those answers the other side. Where none of the session's own packets leaves the host: the same of a plain program's sockets.",
    proof: "A capture on the host shows packets out and none in; the firewall has no rule for the host's ephemeral ports.",
    doubt: "One UDP packet that reaches the side.",
    fixes: &[Fix::firewall(
        "In the provider's firewall allow inbound UDP to the ports that this host sends from (net.ipv4.ip_local_port_range, and the VPN's port).",
    )],
    threads: &["netbirdio/netbird#390", "netbirdio/netbird#2120", "netbirdio/netbird#2567"],
    depends_on: &["WR110", "WR111"],
    needs: &[Need::OtherSide],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let (mut faults, mut unproven) = (Vec::new(), false);
    for vantage in session.recorded().filter(|_| session.path != Path::Direct) {
        let side = session.evidence.side(vantage);
        // What comes by a relay comes over the connection to it.
        let deaf = !side.received.values().any(|check| !side.is_relayed(check.pair.local))
            && !side.sent.values().any(|check| check.answer.is_some() && !side.is_relayed(check.pair.local))
            && !side.servers.iter().any(|((transport, ..), path)| *transport == Transport::Udp && path.has_answered());
        let answered = session.pairs.iter().filter(|pair| pair.from(vantage).broken == Some(Break::OnTheWayBack));
        let evidence: Vec<u64> = answered.flat_map(|pair| pair.from(vantage).evidence.iter().copied()).collect();
        if deaf && evidence.is_empty() {
            faults.extend(plainly(session, vantage));
        }
        if !deaf || evidence.is_empty() {
            continue;
        }
        // The peer's answers alone may be lost on the peer's own side; a server that others hear is not.
        if !is_answered_elsewhere(session, vantage) {
            unproven = true;
            continue;
        }
        faults.push(Fault {
            blame: Blame::side(vantage),
            severity: if session.path == Path::Failed { Severity::Error } else { Severity::Warning },
            summary: format!(
                "What {} sends over UDP arrives at {}, and nothing that is sent to {0} over UDP reaches it",
                vantage.name(),
                vantage.other().name()
            ),
            evidence,
            ..Fault::default()
        });
    }
    if faults.is_empty() && unproven {
        return Examination::Inconclusive { missing: "no server that answers the other side was asked".to_owned() };
    }
    Examination::of(faults)
}

/// The same of sockets as a plain program has them: none of the session's own packets leaves the host.
fn plainly(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let (side, other) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let arrived = probes_of(other).next()?;
    let is_silent = |probe: &Taken<Probe>| matches!(probe.fact.result, ProbeOutcome::Silent);
    let asked: Vec<_> = asked_plainly(side).collect();
    let plain = side.host.probes_with(|aim| matches!(aim, ProbeAim::Plain | ProbeAim::WithoutMark));
    let all_silent = asked.iter().copied().chain(plain).all(is_silent) && side.host.probes_seen.is_empty();
    let unanswered = asked.iter().find(|probe| {
        let heard_there = other.servers.iter().any(|((transport, _, server), path)| {
            *transport == Transport::Udp && *server == probe.fact.remote && path.has_answered()
        });
        heard_there && probe.fact.transmissions >= 3
    })?;
    let (here, there) = (vantage.name(), vantage.other().name());
    (all_silent && !takes_arrivals(session, vantage)).then(|| Fault {
        blame: Blame::side(vantage),
        severity: if session.path == Path::Failed { Severity::Error } else { Severity::Warning },
        summary: format!(
            "What {here} sends over UDP from a plain program's socket arrives at {there}, and nothing comes back to it, from {there} or from {}, which answers {there}{}",
            unanswered.fact.remote,
            why_plainly(side)
        ),
        evidence: vec![arrived, unanswered.seq],
        hidden: true,
        ..Fault::default()
    })
}

/// Whether a side's own host may be what takes a plain socket's packets, or the answers to them: its filters, a full table,
/// a next hop that is silent.
pub(super) fn takes_arrivals(session: &Session<'_>, vantage: Vantage) -> bool {
    let of_host = [
        reverse_path_filter_drops::RULE,
        input_firewall_drops::RULE,
        output_firewall_drops::RULE,
        conntrack_table_full::RULE,
        next_hop_silent::RULE,
        ipsec_policy_drops::RULE,
    ];
    of_host.iter().any(|rule| match (rule.examine)(session) {
        Examination::Found(faults) => faults.iter().any(|fault| Blame::side(vantage).may_concern(fault.blame)),
        _ => false,
    })
}

/// Events of a side that tell of probes which arrived from a plain socket of the other, and were answered.
pub(super) fn probes_of(side: &SideEvidence) -> impl Iterator<Item = u64> {
    let plain = side.host.probes_seen.iter().filter(|seen| matches!(seen.fact.0.as_str(), "plain" | "without-mark"));
    plain.map(|seen| seen.seq)
}

/// Whether a server that a side asks over UDP answers the other side.
fn is_answered_elsewhere(session: &Session<'_>, vantage: Vantage) -> bool {
    let (own, other) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let asked = own.asked();
    other.servers.iter().any(|((transport, _, server), path)| {
        *transport == Transport::Udp
            && path.has_answered()
            && asked.get(server).is_some_and(|transmissions| *transmissions >= 3)
    })
}
