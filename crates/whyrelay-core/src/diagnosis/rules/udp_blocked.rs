//! UDP is blocked.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::checks_rejected_on_the_way::{is_own, meaning};
use super::replies_dropped_in_front::{probes_of, takes_arrivals};
use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::{Check, ServerPath, SideEvidence};
use crate::diagnosis::finding::{Blame, MAX_CITED, Severity};
use crate::diagnosis::network::{asked_plainly, told_plainly, why_plainly};
use crate::diagnosis::routes::mark_keeps_from_servers;
use crate::diagnosis::session::Session;
use crate::host::{ProbeAim, ProbeOutcome, Subject};
use crate::ice::candidate::CandidateTransport;
use crate::trace::event::{Transport, Vantage};

pub(super) const RULE: Rule = Rule {
    code: "WR302",
    name: "udp-blocked",
    title: "UDP is blocked",
    meaning: "Nothing that a side sends over UDP is answered, by servers that are known to work: its network lets no UDP out, or none back in. No direct path is possible, and of relays only one over TCP or TLS.",
    detection: "Every STUN and TURN server that was asked over UDP stayed silent (and, where a relayed address was had over TCP or TLS, so did that address, to which others get through), without an ICMP error from its host (a router's is cited), and one of them answered over TCP or TLS, or answers the other side over UDP. Not where both sides asked this one server alone and neither heard it: that is the server's fault rather than two networks'. Where a mark keeps the session's own packets from the servers: the same of a plain program's sockets, none of which is heard by the peer either.",
    proof: "UDP to three servers at different addresses and ports unanswered, TCP to one of them answered, from the same host.",
    doubt: "One answer over UDP from anywhere. Where one port was asked alone, others may be open: then only that one is blocked.",
    fixes: &[
        Fix::firewall("Allow outbound UDP for this host, at least to the peers' ports."),
        Fix::safe("Offer a turns: server on port 443 as long as UDP stays blocked."),
    ],
    threads: &["slackhq/nebula#760", "netbirdio/netbird#4715", "webrtc/testrtc#214"],
    depends_on: &["WR305", "WR208", "WR108", "WR110", "WR111", "WR112", "WR115", "WR113", "WR129", "WR130"],
    needs: &[Need::Sockets],
    examine,
};

/// A router that says that it refuses what goes by one of these ways, from our address to a server: in words, and its
/// event.
fn refusing(side: &SideEvidence, ways: &BTreeSet<(IpAddr, SocketAddr)>) -> Option<(String, u64)> {
    let said = side.icmp_errors.iter().filter(|((local, remote, icmp_type, code), error)| {
        let unreachable = if remote.is_ipv4() { *icmp_type == 3 && *code != 4 } else { *icmp_type == 1 };
        unreachable && ways.contains(&(local.ip(), *remote)) && error.offender.is_some_and(|ip| !is_own(side, ip))
    });
    let ((_, _, icmp_type, code), error) = said.min_by_key(|(_, error)| error.seq)?;
    let (by, meaning) = (error.offender?, meaning(*icmp_type, *code));
    Some((format!("; {by}, on the way, refuses it (ICMP {icmp_type}/{code}: {meaning})"), error.seq))
}

/// Whether a side heard anything directly over UDP.
fn hears(side: &SideEvidence) -> bool {
    let direct = |check: &Check| check.pair.transport == CandidateTransport::Udp && !side.is_relayed(check.pair.local);
    side.servers.iter().any(|((transport, ..), path)| *transport == Transport::Udp && path.has_answered())
        || side.received.values().any(direct)
        || side.sent.values().any(|check| check.answer.is_some() && direct(check))
}

/// Both sides asked one and the same server and no other, heard nothing over UDP, and no router says that it refuses
/// it: then it is likelier the server's port that is closed than UDP in two networks.
pub(super) fn is_silent_for_both(session: &Session<'_>) -> bool {
    let asked = |vantage| {
        let (side, servers) = (session.evidence.side(vantage), servers_asked(session.evidence.side(vantage)));
        let ways = side.servers.keys().filter(|(transport, ..)| *transport == Transport::Udp);
        let ways = ways.map(|(_, local, server)| (local.ip(), *server)).collect();
        (!hears(side) && refusing(side, &ways).is_none()).then_some(servers)
    };
    let (Some(a), Some(b)) = (asked(Vantage::A), asked(Vantage::B)) else { return false };
    a.intersection(&b).next().is_some() && is_one_server(a.union(&b))
}

/// Whether a side heard nothing over UDP from the one server that it asked, and what that says to the other side is not
/// known, because that was not recorded. A host that looks at itself has nobody else to ask.
pub(super) fn is_untold(session: &Session<'_>, vantage: Vantage) -> bool {
    let (side, evidence) = (session.evidence.side(vantage), session.evidence);
    let asked = servers_asked(side);
    let one_sided = !evidence.is_alone() && !evidence.is_recorded(vantage.other());
    one_sided && !asked.is_empty() && is_one_server(asked.iter()) && !hears(side)
}

/// Servers that a side asked over UDP and must have heard, had they been reached. Its own relayed address is one where
/// others get in.
fn servers_asked(side: &SideEvidence) -> BTreeSet<SocketAddr> {
    let lets_in = |relayed: SocketAddr| {
        let mut received = side.received.values().map(|check| check.pair);
        received.any(|pair| pair.local == relayed && pair.remote.ip() != relayed.ip())
    };
    let asked = side.asked().into_iter().filter(|(_, sent)| *sent >= 3).map(|(server, _)| server);
    asked.filter(|server| !side.is_relayed(*server) || lets_in(*server)).collect()
}

/// The one port at which a side asked servers over UDP: of others nothing is known.
fn only_port(side: &SideEvidence) -> Option<u16> {
    let ports: BTreeSet<u16> = servers_asked(side).iter().map(SocketAddr::port).collect();
    ports.first().copied().filter(|_| ports.len() == 1)
}

/// Whether what this rule found holds for all of UDP, and not just for the one port that was asked.
pub(crate) fn is_of_every_port(session: &Session<'_>, blame: Blame) -> bool {
    let blamed = session.recorded().filter(|vantage| Blame::side(*vantage).may_concern(blame));
    blamed.into_iter().all(|vantage| only_port(session.evidence.side(vantage)).is_none())
}

/// Whether these are one server's addresses: one of each family at most.
fn is_one_server<'a>(servers: impl Iterator<Item = &'a SocketAddr>) -> bool {
    let addresses: BTreeSet<IpAddr> = servers.map(SocketAddr::ip).collect();
    [false, true].into_iter().all(|is_ipv6| addresses.iter().filter(|ip| ip.is_ipv6() == is_ipv6).count() <= 1)
}

pub(super) fn examine(session: &Session<'_>) -> Examination {
    let both = is_silent_for_both(session);
    let (mut faults, mut unproven, mut unasked) = (Vec::new(), false, true);
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        let udp: Vec<_> = side.servers.iter().filter(|((transport, ..), _)| *transport == Transport::Udp).collect();
        let asked = side.asked().values().any(|transmissions| *transmissions >= 3);
        let heard = hears(side);
        unasked &= !asked && !heard;
        let servers: BTreeSet<SocketAddr> = udp.iter().map(|((.., server), _)| *server).collect();
        // An ICMP error of the server's own host says that UDP reaches it: nothing listens there.
        let refused = side
            .icmp_errors
            .iter()
            .any(|((_, remote, ..), error)| error.offender == Some(remote.ip()) && servers.contains(remote));
        // What a mark leads away from the servers says nothing of the network.
        if mark_keeps_from_servers(session, vantage) {
            faults.extend(plainly(session, vantage));
            continue;
        }
        // Nor is it the network's UDP where a plain socket is answered.
        if !asked || heard || refused || both || !told_plainly(side).is_empty() {
            continue;
        }
        let stream =
            side.servers.iter().find(|((transport, ..), path)| *transport != Transport::Udp && path.has_answered());
        // Another way to know that the server answers: the other side hears it over UDP.
        let elsewhere = session.evidence.side(vantage.other()).servers.iter().find(|((transport, _, server), path)| {
            *transport == Transport::Udp && path.has_answered() && servers.contains(server)
        });
        let untold = is_untold(session, vantage);
        let Some(((transport, _, server), path)) = stream.or(elsewhere).filter(|_| !untold) else {
            unproven = true;
            continue;
        };
        let mut ways: BTreeSet<_> = udp.iter().map(|((_, local, server), _)| (local.ip(), *server)).collect();
        // Where this side itself hears a server over TCP, it is that address whose UDP is looked at, not a VPN's.
        let hearing =
            stream.map(|((_, local, _), _)| local.ip()).filter(|ip| ways.iter().any(|(local, _)| local == ip));
        ways.retain(|(local, _)| hearing.is_none_or(|hearing| *local == hearing));
        let refusing = refusing(side, &ways);
        let by = refusing.as_ref().map_or_else(String::new, |(words, _)| words.clone());
        let whom = if stream.is_some() { String::new() } else { format!(" {}", vantage.other().name()) };
        let which = only_port(side).map_or_else(
            || "any server".to_owned(),
            |port| format!("port {port} of any server, the only one that was asked"),
        );
        // What arrives and is dropped by this host's own firewall looks the same to who may not look at its interfaces.
        let unseen = side.host.why_not_measured(Subject::OwnPackets).is_some();
        let doubt = "One answer over UDP from anywhere; or answers that reach an interface of this host, which its own firewall then drops: run whyrelay as root to see that.";
        faults.push(Fault {
            doubt: unseen.then(|| doubt.to_owned()),
            blame: Blame::side(vantage),
            severity: Severity::Warning,
            summary: format!(
                "{} gets no answer over UDP from {which}, and {server} answers{whom} over {}{by}",
                vantage.name(),
                transport.name()
            ),
            evidence: refusing
                .map(|(_, seq)| seq)
                .into_iter()
                .chain(udp.iter().filter_map(|(_, path)| path.first_seq()).take(MAX_CITED / 2))
                .chain(path.first_seq())
                .collect(),
            ..Fault::default()
        });
    }
    match (faults.is_empty(), unproven) {
        (true, _) if unasked => Examination::Inconclusive { missing: "no server was asked over UDP".to_owned() },
        (true, true) => Examination::Inconclusive {
            missing: "no server is known to work: none answers over TCP or TLS, nor the other side over UDP".to_owned(),
        },
        _ => Examination::of(faults),
    }
}

/// The same of plain sockets, where the host keeps the session's own packets from the servers.
fn plainly(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let (side, other) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let asked: Vec<_> = asked_plainly(side).filter(|probe| probe.fact.transmissions >= 3).collect();
    let by_plain = |aim: &ProbeAim| matches!(aim, ProbeAim::Plain | ProbeAim::PlainServer | ProbeAim::WithoutMark);
    let silent = side.host.probes_with(by_plain).all(|probe| match probe.fact.result {
        ProbeOutcome::Silent => true,
        // A router on the way that refuses it.
        ProbeOutcome::Icmp { offender: Some(offender), .. } => {
            offender != probe.fact.remote.ip() && !is_own(side, offender)
        }
        _ => false,
    });
    // What arrives gets out.
    let arrives = probes_of(other).next().is_some() || !side.host.probes_seen.is_empty();
    if asked.is_empty() || hears(side) || !silent || arrives || takes_arrivals(session, vantage) {
        return None;
    }
    let (probe, seq) = asked.iter().find_map(|probe| {
        let stream = |((transport, _, server), path): (&(Transport, SocketAddr, SocketAddr), &ServerPath)| {
            let answered = *transport != Transport::Udp && server.ip() == probe.fact.remote.ip();
            (answered && path.has_answered()).then(|| path.first_seq()).flatten()
        };
        let udp = |((transport, _, server), path): (&(Transport, SocketAddr, SocketAddr), &ServerPath)| {
            let answered = *transport == Transport::Udp && *server == probe.fact.remote;
            (answered && path.has_answered()).then(|| path.first_seq()).flatten()
        };
        let works = side.servers.iter().find_map(stream).or_else(|| other.servers.iter().find_map(udp))?;
        Some((probe, works))
    })?;
    Some(Fault {
        blame: Blame::side(vantage),
        severity: Severity::Warning,
        summary: format!(
            "{} gets no answer over UDP from any server, and {} is known to work{}",
            vantage.name(),
            probe.fact.remote,
            why_plainly(side)
        ),
        evidence: asked.iter().map(|probe| probe.seq).take(MAX_CITED / 2).chain([seq]).collect(),
        hidden: true,
        ..Fault::default()
    })
}
