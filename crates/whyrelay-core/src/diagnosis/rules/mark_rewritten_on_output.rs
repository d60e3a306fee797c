//! A firewall rule changes the mark after the route was chosen, and the packet is routed again.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::Taken;
use crate::diagnosis::finding::{Blame, Remedy};
use crate::diagnosis::routes::reachable_candidates;
use crate::diagnosis::session::{Path, Session};
use crate::host::{OwnPacket, Subject};
use crate::trace::event::Vantage;

use super::wording::quoted_firewall;

pub(super) const RULE: Rule = Rule {
    code: "WR109",
    name: "mark-rewritten-on-output",
    title: "a firewall rule changes the mark after the route was chosen, and the packet is routed again",
    meaning: "A chain of type route on output (or iptables' mangle OUTPUT) changes the mark of the session's packets; the kernel then routes them again with the new mark. Everything that asks for the route sees the right one, and the packets leave by another interface.",
    detection: "Our own packets were seen to leave by another interface than the kernel had answered for them.",
    proof: "A capture on both interfaces, and nft list ruleset with the rule that sets a mark in a hook output chain.",
    doubt: "The packets leaving by the interface that the kernel answered.",
    fixes: &[Fix::firewall("Exempt the application's mark or port in that chain, or take the rule out.")],
    threads: &["avatarDD/zapret-gui#67"],
    depends_on: &[],
    needs: &[Need::Host(Subject::OwnPackets), Need::Host(Subject::RouteAnswers)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let candidates: Vec<_> = reachable_candidates(side, peer).collect();
    let host = &side.host;
    let left = |packet: &&Taken<OwnPacket>| !packet.fact.arrived && candidates.contains(&packet.fact.destination.ip());
    let strayed = host.own_packets.iter().filter(left).find_map(|packet| {
        let answers = host.routes_to(packet.fact.destination.ip()).filter(|answer| {
            let question = &answer.fact.question;
            question.out_device.is_none()
                && question.source.is_none_or(|source| source == packet.fact.source.ip())
                && question.source_port.is_none_or(|port| port == packet.fact.source.port())
        });
        let mut answers: Vec<_> = answers.collect();
        // What the kernel said of exactly these packets outweighs what it said of others to the same place.
        let exact = |question: &crate::host::RouteQuestion| question.source_port == Some(packet.fact.source.port());
        if answers.iter().any(|answer| exact(&answer.fact.question)) {
            answers.retain(|answer| exact(&answer.fact.question));
        }
        let first = answers.first()?;
        let expected = |device: &str| answers.iter().any(|answer| answer.fact.device() == Some(device));
        // Frames of a bridge or bond are seen on its members, too.
        let link = host.link(&packet.fact.device);
        let member = link.and_then(|link| link.fact.master.as_deref()).is_some_and(expected);
        (first.fact.device().is_some() && !expected(&packet.fact.device) && !member).then_some((packet, *first))
    });
    let (packet, answer) = strayed?;
    let rule = host
        .firewall_rules
        .iter()
        .find(|rule| rule.fact.sets_mark && rule.fact.hook.as_deref().is_none_or(|hook| hook == "output"));
    let by = rule.map(|rule| format!("; {} sets a mark", quoted_firewall(&rule.fact))).unwrap_or_default();
    let mut advice = Vec::new();
    if let Some((rule, handle)) = rule.and_then(|rule| Some((&rule.fact, rule.fact.handle?))) {
        let (family, table, chain) = (&rule.table_family, &rule.table, &rule.chain);
        let port = packet.fact.source.port();
        advice.push(
            Remedy::firewall("Exempt this traffic ahead of the rule")
                .run(format!("nft insert rule {family} {table} {chain} udp sport {port} return")),
        );
        advice.push(
            Remedy::firewall("Or take the rule out")
                .run(format!("nft delete rule {family} {table} {chain} handle {handle}")),
        );
    }
    Some(Fault {
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!(
            "On {} packets to {} leave by {} (source {}), though the kernel chose {} for them{by}",
            vantage.name(),
            packet.fact.destination,
            packet.fact.device,
            packet.fact.source.ip(),
            answer.fact.device().unwrap_or_default()
        ),
        evidence: [packet.seq, answer.seq].into_iter().chain(rule.map(|rule| rule.seq)).collect(),
        advice,
        ..Fault::default()
    })
}
