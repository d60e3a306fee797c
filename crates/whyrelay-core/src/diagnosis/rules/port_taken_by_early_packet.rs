//! An early packet took the port in the NAT.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::counterfactual::is_server;
use super::need::BY_CHECK;
use super::{Examination, Fault, Fix, Need, Rule};

use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::network::{Network, Told, asked_plainly, told, why_plainly};
use crate::diagnosis::routes::diversions;
use crate::diagnosis::session::{Break, JoinedPair, Path, Session};
use crate::diagnosis::views::{mapped_otherwise, refused};
use crate::host::{ProbeAim, ProbeOutcome};
use crate::ice::candidate::CandidateTransport;
use crate::trace::event::Vantage;
use crate::trace::measurement::Measurement;

pub(super) const RULE: Rule = Rule {
    code: "WR202",
    name: "port-taken-by-early-packet",
    title: "an early packet took the port in the NAT",
    meaning: "The router in front of a side takes unsolicited packets for packets to itself and notes them in its connection table. When the peer speaks first, its packet occupies the mapped port towards that peer, so that the side's own packets to the peer leave from another port, which the peer's NAT does not let in. Every tester calls such a NAT endpoint-independent, and two of them never connect.",
    detection: "The mapping is the same for all servers (or the NAT keeps the port towards the only one), yet the peer, or its relay, sees the side come from another port than that: in its checks, or in a third party's view after it had sent first. Or nothing arrives either way and the peer gets \"port unreachable\" from the router's own public address. Where the packets for the peer are led past that router: that, and what the peer's relay sees. Where no server answers the session's own sockets, plain ones are tried so.",
    proof: "The router's connection table (conntrack -L) has an unreplied entry from the peer to the mapped port, and the side's flow with another port in its reply direction.",
    doubt: "The same session with this side speaking first, or after an opener with a low TTL from each side: if that is direct, the early packet was the cause; if the port still differs, the mapping depends on the destination after all.",
    fixes: &[
        Fix::firewall(
            "On that router, drop unsolicited UDP from outside that is for the router itself instead of accepting or rejecting it; with nftables in a table of its own, which the finding shows.",
        ),
        OPENER,
        FORWARD,
    ],
    threads: &["libp2p/specs#512", "libp2p/specs#487"],
    depends_on: &["WR801", "WR105", "WR106", "WR107", "WR109", "WR115", "WR118"],
    needs: &[Need::OtherSide, Need::Other(untested)],
    examine,
};

/// A packet of the own side's is ahead then.
const OPENER: Fix = Fix::safe(
    "Let each side first send an opener with a TTL that ends before the peer's router (whyrelay --try opener).",
);

/// What is forwarded is no packet to the router itself.
const FORWARD: Fix = Fix::owner(
    "Or forward a UDP port on that router to the same port of that host, and run there with --port: an early packet then goes to the host, and takes nothing.",
);

/// What helps against a router that has this address outside. Unsolicited packets to it are dropped before its connection
/// table keeps them, whatever the router's own rules say of them; in a table of its own, so that nothing is presumed of the
/// others, and all of it is taken back at once.
fn advice(outside: SocketAddr) -> Vec<Remedy> {
    let family = if outside.is_ipv4() { "ip" } else { "ip6" };
    let drop = Remedy::firewall(format!(
        "On the router that has the address {0}, where it is Linux: drop UDP from outside that nobody asked for and that is for the router itself, instead of accepting or rejecting it (leave out ports on which the router itself listens; undo: nft delete table {family} whyrelay)",
        outside.ip()
    ));
    let rule = format!("{family} daddr {} udp dport 1024-65535 ct state new drop", outside.ip());
    let drop = drop
        .run(format!("nft add table {family} whyrelay"))
        .run(format!("nft 'add chain {family} whyrelay early {{ type filter hook input priority -5; }}'"))
        .run(format!("nft add rule {family} whyrelay early {rule}"));
    let fix = |fix: Fix| Remedy { effect: fix.effect, ..Remedy::safe(fix.text) };
    vec![drop, fix(OPENER), fix(FORWARD)]
}

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    Examination::of(
        session
            .recorded()
            .filter_map(|vantage| {
                measured(session, vantage).or_else(|| probed(session, vantage)).or_else(|| seen(session, vantage))
            })
            .collect(),
    )
}

/// Whether an early packet takes the port of a side that is behind a NAT, where nobody tried and the peer saw none of
/// its checks.
fn untested(session: &Session<'_>, vantage: Vantage) -> Option<String> {
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let told = told(side);
    let first = told.iter().find(|told| told.mapped.ip() != told.local.ip())?;
    let measured = side.measured.facts.iter().any(|(_, fact)| matches!(fact, Measurement::EarlyArrival { .. }));
    let probed = side.host.probes.iter().any(|probe| probe.fact.aim == ProbeAim::EarlyArrival);
    let mut sent = side.sent.iter().filter(|(_, check)| check.pair.local == first.local);
    let seen = sent.any(|(id, _)| peer.received.contains_key(id));
    let untested = !measured && !probed && !seen;
    untested.then(|| BY_CHECK.to_owned())
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
                advice: advice(*mapped),
                advice_is_all: true,
                ..Fault::default()
            })
        }
        _ => None,
    })
}

/// A check that waited for the peer's packets is not answered, or is seen from another port than servers see; one after
/// an opener of low TTL, which the peer's packets could not precede, is answered.
fn probed(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    // Then these were made as a plain program's: what the host does to the session's own packets is not theirs.
    let is_plain = !side.options.relay_only && asked_plainly(side).next().is_some();
    let mapped_of = |outcome: &ProbeOutcome| match outcome {
        ProbeOutcome::Answered { mapped, .. } => *mapped,
        _ => None,
    };
    let early = |aim: &ProbeAim| *aim == ProbeAim::EarlyArrival;
    let (mut told_to, mut opened_to) = (BTreeMap::new(), BTreeMap::new());
    for told in side.host.probes_with(early).filter(|told| is_server(side, told.fact.remote)) {
        if let Some(mapped) = mapped_of(&told.fact.result) {
            told_to.entry(told.fact.local).or_insert(mapped);
        }
    }
    for opened in side.host.probes_with(|aim| matches!(aim, ProbeAim::AfterOpener { .. })) {
        if matches!(opened.fact.result, ProbeOutcome::Answered { .. }) {
            opened_to.entry(opened.fact.remote).or_insert(opened);
        }
    }
    side.host.probes_with(early).filter(|probe| !is_server(side, probe.fact.remote)).find_map(|probe| {
        let told = *told_to.get(&probe.fact.local)?;
        if told == probe.fact.local {
            // No NAT: nothing to give up.
            return None;
        }
        // Where the peer's router refused it, it was not lost here.
        let opened = opened_to.get(&probe.fact.remote).filter(|_| probe.fact.result == ProbeOutcome::Silent);
        let (how, more) = match (mapped_of(&probe.fact.result), opened) {
            (Some(seen), _) if seen.ip() == told.ip() && seen.port() != told.port() => {
                (format!("it then sends from port {}", seen.port()), None)
            }
            (None, Some(opened)) => {
                ("a check is then not answered, and one after an opener of low TTL is".to_owned(), Some(opened.seq))
            }
            _ => return None,
        };
        let (here, there) = (vantage.name(), vantage.other().name());
        Some(Fault {
            blame: Blame::side(vantage),
            severity: session.harm(),
            summary: format!(
                "The router of {here} gives up port {} towards {there} when {there}'s packets come first: {how}{}",
                told.port(),
                if is_plain { why_plainly(side) } else { "" }
            ),
            evidence: [probe.seq].into_iter().chain(more).collect(),
            advice: advice(told),
            advice_is_all: true,
            hidden: is_plain,
            ..Fault::default()
        })
    })
}

/// The mapping is the same for servers at different addresses, and somebody who sent first sees another port, or was
/// told by the router itself that nobody listens there.
fn seen(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let told = told(session.evidence.side(vantage));
    let translated = told.iter().filter(|told| told.mapped.ip() != told.local.ip());
    translated.clone().find_map(|first| {
        let alike: Vec<&Told> = told
            .iter()
            .filter(|told| told.local == first.local && told.mapped.is_ipv4() == first.mapped.is_ipv4())
            .collect();
        alike.iter().all(|told| told.mapped == first.mapped).then(|| at_socket(session, vantage, first, &alike))?
    })
}

/// The same for one socket, which servers see at one address.
fn at_socket(session: &Session<'_>, vantage: Vantage, first: &Told, told: &[&Told]) -> Option<Fault> {
    let shifted = shifted(session, vantage, first);
    // The router itself refused what the peer sent first: it took the packet for one to itself.
    let refused = refused(session, vantage, first.mapped);
    // Servers at several addresses show that the mapping does not depend on the destination. One alone does not; but a
    // NAT that keeps the port, and whose own address says that nothing listens there, has given it away.
    let several = told.iter().any(|told| told.server.ip() != first.server.ip());
    let kept = first.mapped.port() == first.local.port();
    // A router that maps by destination refuses packets to the port that the server saw as well.
    if mapped_otherwise(session, vantage).is_some() {
        return None;
    }
    let lost = || {
        let both_ways = |pair: &JoinedPair| {
            session.could_arrive(pair, vantage.other())
                && [&pair.a_to_b, &pair.b_to_a].iter().all(|chain| chain.broken == Some(Break::OnTheWay))
        };
        session.pairs.iter().any(both_ways)
    };
    let (to, seq) = match (shifted, refused) {
        (Some((port, to, seq)), refused) if several || refused.is_some() => (Some((port, to)), seq),
        (None, Some(error)) if (several || kept) && lost() => (None, error),
        _ => return None,
    };
    let (here, there) = (vantage.name(), vantage.other().name());
    let what = match to {
        Some((port, To::Peer)) => format!("but to port {port} towards {there}, whose packet had come first"),
        Some((port, To::Relay)) => {
            format!("but to port {port} towards the relay of {there}, since a packet of {there} had come first")
        }
        None => format!("and gave that port away to {there}, whose packet came first"),
    };
    let icmp = refused.map_or(String::new(), |_| format!("; it answered {there}'s packet itself (port unreachable)"));
    // Behind a NAT that maps by destination, the other side would not be reached anyhow.
    let hopeless = Network::of(session, vantage.other(), first.mapped.is_ipv6()).is_dependent() == Some(true);
    let doubt = (!several).then(|| {
        "A second server at another address that is told another port: then the mapping depends on the destination."
            .to_owned()
    });
    // Where the packets for the peer are led past this router, those for its relay are not: what became of them, and that
    // the router answered the peer itself, is no effect of that.
    let diverted = matches!(to, Some((_, To::Relay))) && refused.is_some() && !diversions(session, vantage).is_empty();
    let behind = if diverted { "; that comes to light once what goes to the peer leaves by it" } else { "" };
    let servers = if several { "every server".to_owned() } else { format!("the server {}", first.server) };
    Some(Fault {
        blame: Blame::side(vantage),
        severity: if hopeless { Severity::Info } else { session.harm() },
        hidden: diverted,
        doubt,
        summary: format!(
            "The router of {here} maps {} to {} for {servers}, {what}{icmp}{behind}",
            first.local, first.mapped
        ),
        evidence: told.iter().map(|told| told.seq).chain([seq]).chain(refused).collect(),
        advice: advice(first.mapped),
        advice_is_all: true,
        ..Fault::default()
    })
}

/// Who saw the other port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Peer,
    Relay,
}

/// Another port of the mapped address from which somebody saw checks of a socket come, and the event.
fn shifted(session: &Session<'_>, vantage: Vantage, first: &Told) -> Option<(u16, To, u64)> {
    let (side, other) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let sent = side
        .sent
        .iter()
        .filter(|(_, check)| check.pair.transport == CandidateTransport::Udp && check.pair.local == first.local);
    let seen = sent.filter_map(|(id, check)| {
        let to = if other.is_relayed(check.pair.remote) || side.known.is_told_as_relayed(check.pair.remote) {
            To::Relay
        } else {
            To::Peer
        };
        let by_peer = other.received.get(id).map(|received| (received.pair.remote, received.seq));
        let (from, seq) = by_peer.or_else(|| Some((check.mapped()?, check.answer.as_ref()?.seq)))?;
        (from.ip() == first.mapped.ip() && from.port() != first.mapped.port()).then_some((from.port(), to, seq))
    });
    seen.min_by_key(|(_, to, seq)| (*to == To::Relay, *seq))
}
