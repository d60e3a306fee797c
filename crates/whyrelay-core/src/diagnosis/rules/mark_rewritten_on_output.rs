//! A firewall rule changes the mark after the route was chosen, and the packet is routed again.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::{Examination, Fault, Fix, Need, Rule, would_drop};
use crate::diagnosis::evidence::Taken;
use crate::diagnosis::finding::{Blame, Remedy};
use crate::diagnosis::routes::{is_refused, reachable_candidates, untold_ways, with_mark};
use crate::diagnosis::session::{Path, Session};
use crate::host::{FilteredPacket, FirewallRule, OwnPacket, RouteAnswer, Subject};
use crate::trace::event::Vantage;

use super::wording::quoted_firewall;

pub(super) const RULE: Rule = Rule {
    code: "WR109",
    name: "mark-rewritten-on-output",
    title: "a firewall rule changes the mark after the route was chosen, and the packet is routed again",
    meaning: "A chain of type route on output (or iptables' mangle OUTPUT) changes the mark of the session's packets; the kernel then routes them again with the new mark. Everything that asks for the route sees the right one, and the packets leave by another interface.",
    detection: "Our own packets were seen to leave by another interface than the kernel had answered for them. Where something else keeps them from leaving: a rule on output that surely sets their mark, while the rules and routes that the host told send packets with that mark by another interface than those to the servers.",
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
    let of_side = |vantage| fault(session, vantage).or_else(|| would_stray(session, vantage));
    Examination::of(session.recorded().filter_map(of_side).collect())
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
    let advice = rule.map(|rule| without(&rule.fact, packet.fact.source.port())).unwrap_or_default();
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

/// What else keeps the packets from leaving, the rule would send them another way.
fn would_stray(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let host = &side.host;
    host.saw_all_packets()?;
    let left: BTreeSet<IpAddr> = host
        .own_packets
        .iter()
        .filter(|packet| !packet.fact.arrived)
        .map(|packet| packet.fact.destination.ip())
        .collect();
    let candidates: BTreeSet<IpAddr> = reachable_candidates(side, peer).filter(|to| !left.contains(to)).collect();
    let filter = would_drop::told_last(host);
    let servers = &session.mended_ways(vantage).to_servers;
    let asked = host.route_answers.iter().filter(|answer| {
        let question = &answer.fact.question;
        question.out_device.is_none() && candidates.contains(&question.destination)
    });
    let asked = asked.map(|answer| (Cow::Borrowed(answer), None));
    let untold = untold_ways(session, vantage).into_iter().map(|(answer, untold)| (Cow::Owned(answer), Some(untold)));
    let (rule, mark, answer, seen, new) = asked.chain(untold).take(MAX_ASKED).find_map(|(answer, seen)| {
        let question = &answer.fact.question;
        let source = SocketAddr::new(question.source?, question.source_port?);
        let marks = |port: u16| {
            let destination = SocketAddr::new(question.destination, port);
            let packet = FilteredPacket { source, destination, in_device: None, out_device: None };
            filter.surely_marks("output", &packet).filter(|(_, mark)| *mark != question.mark)
        };
        let (rule, mark) = match seen {
            None => marks(question.destination_port)?,
            Some(_) => would_drop::whatever_the_port(marks)?,
        };
        let new = with_mark(host, &answer.fact, mark).filter(|new| !is_refused(new))?;
        let alike = |server: &&Taken<RouteAnswer>| {
            let asked = &server.fact.question;
            (asked.source, asked.mark) == (question.source, question.mark) && asked.out_device.is_none()
        };
        // Where those to the servers are kept back as well, it is where they would go.
        let mended = || servers.iter().find(|server| alike(&server.seen)).and_then(|server| server.way.device());
        let usual = host.routes_to_servers().find(alike)?.fact.device().or_else(mended)?;
        let rule = host.firewall_rules.iter().rfind(|told| told.fact == *rule)?;
        let strays = new.device().is_some_and(|device| device != usual);
        strays.then_some((rule, mark, answer, seen, new))
    })?;
    let question = &answer.fact.question;
    Some(Fault {
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!(
            "On {} {} gives packets to the peer ({}) the mark {mark:#x}, and with that they leave by {}: that comes to light once what keeps them from leaving is mended",
            vantage.name(),
            quoted_firewall(&rule.fact),
            seen.map_or_else(|| question.destination.to_string(), |untold| untold.words()),
            new.device().unwrap_or_default()
        ),
        evidence: [rule.seq, answer.seq].into_iter().chain(seen.map(|untold| untold.seq)).collect(),
        advice: without(&rule.fact, question.source_port.unwrap_or_default()),
        hidden: true,
        ..Fault::default()
    })
}

/// Most answers of routing that are looked at.
const MAX_ASKED: usize = 32;

/// What takes packets from a port out of a rule, or the rule away.
fn without(rule: &FirewallRule, port: u16) -> Vec<Remedy> {
    let Some(handle) = rule.handle else { return Vec::new() };
    let (family, table, chain) = (&rule.table_family, &rule.table, &rule.chain);
    vec![
        Remedy::firewall("Exempt this traffic ahead of the rule")
            .run(format!("nft insert rule {family} {table} {chain} udp sport {port} return")),
        Remedy::firewall("Or take the rule out")
            .run(format!("nft delete rule {family} {table} {chain} handle {handle}")),
    ]
}
