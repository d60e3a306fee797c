//! a STUN or TURN server does not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::relayed_checks_lost::is_firewalled;
use super::turn_server_unreachable::{Unusable, at_server};
use super::{Alike, Examination, Fault, Fix, Need, Rule, udp_blocked, udp_only_to_servers};
use crate::diagnosis::evidence::{Check, ServerPath, SideEvidence};
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::routes::mark_keeps_from_servers;
use crate::diagnosis::session::Session;
use crate::host::{Family, ProbeAim, ProbeOutcome};
use crate::trace::event::{Transport, Vantage};
use crate::trace::measurement::Measurement;

pub(super) const RULE: Rule = Rule {
    code: "WR301",
    name: "stun-server-silent",
    title: "a STUN or TURN server does not answer",
    meaning: "A server never answered over UDP. A side that reaches no STUN server does not learn the address that its NAT gives it, so the peer has nothing to send to from outside.",
    detection: "At least three transmissions to the server from every socket, and no answer to any; a port that a server opened for a probe is none. Where another UDP port of the same host answers (a relayed address that was had over TCP, say), it is the one port that is blocked: in front of this side if the server answers the other; not where other high ports are not reached either.",
    proof: "The same server asked from another network.",
    doubt: "An answer of the server to another host: then the fault lies in front of this side.",
    fixes: &[
        Fix::firewall("Check that the server runs and that its UDP port is open."),
        Fix::safe("Try the server from another network to see which end is at fault."),
    ],
    threads: &["amark/gun#1381", "InnovateAsterisk/Browser-Phone#424"],
    depends_on: &["WR305", "WR208", "WR302", "WR108", "WR110", "WR111", "WR112", "WR115", "WR113", "WR129", "WR130"],
    needs: &[Need::Sockets],
    examine,
};

pub(super) fn examine(session: &Session<'_>) -> Examination {
    let asks = |vantage: Vantage| {
        session.evidence.side(vantage).servers.keys().any(|(transport, ..)| *transport == Transport::Udp)
    };
    if session.recorded().any(asks) {
        Examination::of(silent(session).into_iter().map(|(_, fault)| fault).collect())
    } else {
        Examination::Inconclusive { missing: "no server was asked over UDP".to_owned() }
    }
}

/// The servers that are silent for a side, where it is not that side's network that keeps it from them.
pub(super) fn silent_for(session: &Session<'_>, vantage: Vantage) -> BTreeSet<IpAddr> {
    let silent = silent(session).into_iter();
    let not_own = |fault: &Fault| fault.seen_by == Some(vantage) && fault.blame != Blame::side(vantage);
    silent.filter(|(_, fault)| not_own(fault)).map(|(server, _)| server.ip()).collect()
}

/// Each silent server of each side.
fn silent(session: &Session<'_>) -> Vec<(SocketAddr, Fault)> {
    let mut faults = Vec::new();
    // What a mark leads away from the servers says nothing of them.
    for vantage in session.recorded().filter(|&vantage| !mark_keeps_from_servers(session, vantage)) {
        let side = session.evidence.side(vantage);
        let mut servers: BTreeMap<SocketAddr, Vec<&ServerPath>> = BTreeMap::new();
        for ((transport, _, server), path) in &side.servers {
            if *transport == Transport::Udp {
                servers.entry(*server).or_default().push(path);
            }
        }
        let asked = side.asked();
        // A side that hears nothing at all over UDP may itself be the cause.
        let direct = |check: &Check| !side.is_relayed(check.pair.local);
        let hears = side.received.values().any(direct)
            || side.sent.values().any(|check| check.answer.is_some() && direct(check))
            || side.servers.iter().any(|((transport, ..), path)| *transport == Transport::Udp && path.has_answered());
        let closed: BTreeMap<SocketAddr, u64> = side
            .icmp_errors
            .iter()
            .filter(|((_, remote, icmp_type, code), error)| {
                let closed = if remote.is_ipv4() { (3, 3) } else { (1, 4) };
                (*icmp_type, *code) == closed && error.offender == Some(remote.ip())
            })
            .map(|((_, remote, ..), error)| (*remote, error.seq))
            .collect();
        // A check did not wait as long as answers take here.
        let is_slow = session.evidence.is_alone() && side.is_slow();
        let (both, blocked) = (udp_blocked::is_silent_for_both(session), blocked_ports(side));
        for (server, paths) in servers {
            let transmissions = asked.get(&server).copied().unwrap_or_default();
            if transmissions < 3 || is_for_probes(side, server) || paths.iter().any(|path| path.has_answered()) {
                continue;
            }
            // A server that answers a plain socket of this host is not silent: it is not asked, or not heard, here.
            if answers_plainly(side, server) {
                continue;
            }
            let refused = closed.get(&server);
            if is_slow && refused.is_none() {
                continue;
            }
            // It is there, and only its UDP says nothing, to neither side.
            let only_udp = both && answers_streams(session, server.ip());
            let few_ports = || udp_only_to_servers::measured(session, vantage).is_some();
            let (one_port, elsewhere) = (other_port(side, server), answers_udp(session, vantage.other(), server));
            let (here, there, port) = (vantage.name(), vantage.other().name(), server.port());
            // The same port of another host: said already.
            if one_port.is_none() && elsewhere && blocked.contains_key(&port) {
                continue;
            }
            // A network that lets UDP out to known ports only has a rule of its own, as has a relay that lets it in to such.
            if one_port.is_some() && refused.is_none() && (few_ports() || is_firewalled(side, server.ip())) {
                continue;
            }
            let how = match (refused, one_port) {
                (Some(_), _) => ": its host says that nothing listens there".to_owned(),
                (None, Some((other, _))) if elsewhere => format!(
                    ", though it answers {there}, and port {other} of the same host answers {here}: UDP to port {port} is blocked in front of {here}"
                ),
                (None, Some((other, _))) => {
                    format!(
                        ", though port {other} of the same host answers: it is port {port} that is closed or blocked"
                    )
                }
                (None, None) if only_udp => {
                    ", and it answers over TCP: its UDP port is closed, to both sides".to_owned()
                }
                (None, None) => String::new(),
            };
            let in_front = refused.is_none() && one_port.is_some() && elsewhere;
            // The server runs: which end blocks the port is not known to one side alone.
            let either_end = refused.is_none() && one_port.is_some() && !session.evidence.is_recorded(vantage.other());
            let open = format!("Let UDP to port {port} out of the network of {here}");
            let mut advice =
                vec![Remedy::firewall(open), Remedy::safe("Or name a server at a port that gets out, such as 443")];
            if either_end {
                advice.insert(1, Remedy::firewall(format!("Let UDP to port {port} in at {}", server.ip())));
            }
            let blame = if in_front {
                Blame::side(vantage)
            } else if !either_end && (hears || refused.is_some() || only_udp) {
                Blame::Relay
            } else {
                Blame::Path
            };
            let doubt =
                "Another server at another address that is silent for both sides, too: then both networks block UDP.";
            let asked = paths.iter().filter_map(|path| path.first_seq());
            let unusable = if blame == Blame::side(vantage) || session.evidence.is_alone() {
                Vec::new()
            } else {
                at_server(session, vantage, server.ip())
            };
            let alike = Alike {
                side: vantage,
                verb: "asked",
                what: server.to_string(),
                times: Some(transmissions),
                after: format!(" over UDP and got no answer{how}"),
                also: unusable.iter().map(Unusable::words).collect(),
            };
            let fault = Fault {
                blame,
                family: Some(Family::of(server.ip())),
                doubt: only_udp.then(|| doubt.to_owned()),
                severity: Severity::Warning,
                summary: Alike::summary(&[&alike]),
                evidence: asked
                    .chain(refused.copied())
                    .chain(one_port.map(|(_, seq)| seq))
                    .chain(unusable.iter().map(|failed| failed.seq))
                    .collect(),
                advice: if in_front || either_end { advice } else { Vec::new() },
                advice_is_all: in_front || either_end,
                seen_by: Some(vantage),
                alike: Some(alike),
                ..Fault::default()
            };
            faults.push((server, fault));
        }
    }
    faults
}

/// Another UDP port of a server's host that answered a side, such as its own relayed address, and the answer's event.
fn other_port(side: &SideEvidence, server: SocketAddr) -> Option<(u16, u64)> {
    side.servers.iter().find_map(|((transport, _, remote), path)| {
        let other = *transport == Transport::Udp && remote.ip() == server.ip() && *remote != server;
        other.then(|| Some((remote.port(), *path.mapped.values().min()?)))?
    })
}

/// A port that a server opened for a probe, or a relayed address of one's own: whether packets get there has rules of
/// its own.
fn is_for_probes(side: &SideEvidence, server: SocketAddr) -> bool {
    let mut facts = side.measured.facts.iter();
    let third = |fact: &Measurement| matches!(fact, Measurement::ThirdParty { remote, .. } if *remote == server);
    side.is_relayed(server) || facts.any(|(_, fact)| third(fact))
}

/// The ports at which servers are silent over UDP while another port of the same host answers, and that answer's event.
pub(super) fn blocked_ports(side: &SideEvidence) -> BTreeMap<u16, u64> {
    let asked = side.asked();
    let silent = side.servers.iter().filter(|((transport, _, server), path)| {
        let silent = asked.get(server) >= Some(&3) && !path.has_answered();
        *transport == Transport::Udp && silent && !is_for_probes(side, *server)
    });
    silent.filter_map(|((.., server), _)| Some((server.port(), other_port(side, *server)?.1))).collect()
}

/// Whether a server answered a side over UDP.
fn answers_udp(session: &Session<'_>, vantage: Vantage, server: SocketAddr) -> bool {
    let servers = &session.evidence.side(vantage).servers;
    servers
        .iter()
        .any(|((transport, _, remote), path)| *transport == Transport::Udp && *remote == server && path.has_answered())
}

/// Whether a server answered a plain program's socket of a side.
fn answers_plainly(side: &SideEvidence, server: SocketAddr) -> bool {
    let asked = side.host.probes_with(|aim| *aim == ProbeAim::PlainServer).filter(|probe| probe.fact.remote == server);
    asked.into_iter().any(|probe| matches!(probe.fact.result, ProbeOutcome::Answered { .. }))
}

/// Whether a server's address answered either side over TCP or TLS.
fn answers_streams(session: &Session<'_>, server: IpAddr) -> bool {
    session.recorded().flat_map(|vantage| &session.evidence.side(vantage).servers).any(
        |((transport, _, remote), path)| *transport != Transport::Udp && remote.ip() == server && path.has_answered(),
    )
}
