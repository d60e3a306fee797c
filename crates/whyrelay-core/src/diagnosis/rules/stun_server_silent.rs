//! a STUN or TURN server does not answer.

use super::{Examination, Fault, Fix, Rule, udp_blocked};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::diagnosis::evidence::ServerPath;
use crate::trace::event::Transport;
use crate::trace::measurement::Measurement;

pub(super) const RULE: Rule = Rule {
    code: "WR301",
    name: "stun-server-silent",
    title: "a STUN or TURN server does not answer",
    meaning: "A server never answered over UDP. A side that reaches no STUN server does not learn the address that its NAT gives it, so the peer has nothing to send to from outside.",
    detection: "At least three transmissions to the server from every socket, and no answer to any; a port that a server opened for a probe is none.",
    proof: "The same server asked from another network.",
    doubt: "An answer of the server to another host: then the fault lies in front of this side.",
    fixes: &[
        Fix::firewall("Check that the server runs and that its UDP port is open."),
        Fix::safe("Try the server from another network to see which end is at fault."),
    ],
    threads: &[],
    depends_on: &[
        "WR305", "WR208", "WR302", "WR103", "WR106", "WR108", "WR110", "WR111", "WR112", "WR115", "WR113", "WR129",
        "WR130",
    ],
    examine,
};

pub(super) fn examine(session: &Session<'_>) -> Examination {
    let (mut faults, mut asked_any) = (Vec::new(), false);
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        let mut servers: BTreeMap<SocketAddr, Vec<&ServerPath>> = BTreeMap::new();
        for ((transport, _, server), path) in &side.servers {
            if *transport == Transport::Udp {
                servers.entry(*server).or_default().push(path);
            }
        }
        asked_any |= !servers.is_empty();
        let asked = side.asked();
        // A port that a server opened for a probe: whether packets get there has a rule of its own.
        let third_parties: BTreeSet<SocketAddr> = side
            .measured
            .facts
            .iter()
            .filter_map(|(_, fact)| match fact {
                Measurement::ThirdParty { remote, .. } => Some(*remote),
                _ => None,
            })
            .collect();
        // A side that hears nothing at all over UDP may itself be the cause.
        let hears = !side.received.is_empty()
            || side.sent.values().any(|check| check.answer.is_some())
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
        let both = udp_blocked::is_silent_for_both(session);
        for (server, paths) in servers {
            let transmissions = asked.get(&server).copied().unwrap_or_default();
            if transmissions < 3 || third_parties.contains(&server) || paths.iter().any(|path| path.has_answered()) {
                continue;
            }
            let refused = closed.get(&server);
            // It is there, and only its UDP says nothing, to neither side.
            let only_udp = both && answers_streams(session, server.ip());
            let how = match refused {
                Some(_) => ": its host says that nothing listens there",
                None if only_udp => ", and it answers over TCP: its UDP port is closed, to both sides",
                None => "",
            };
            let doubt =
                "Another server at another address that is silent for both sides, too: then both networks block UDP.";
            let asked = paths.iter().filter_map(|path| path.first_seq());
            faults.push(Fault {
                blame: if hears || refused.is_some() || only_udp { Blame::Relay } else { Blame::Path },
                doubt: only_udp.then(|| doubt.to_owned()),
                severity: Severity::Warning,
                summary: format!(
                    "{} asked {server} {transmissions} times over UDP and got no answer{how}",
                    vantage.name()
                ),
                evidence: asked.chain(refused.copied()).collect(),
                seen_by: Some(vantage),
                ..Fault::default()
            });
        }
    }
    if asked_any {
        Examination::of(faults)
    } else {
        Examination::Inconclusive { missing: "no server was asked over UDP".to_owned() }
    }
}

/// Whether a server's address answered either side over TCP or TLS.
fn answers_streams(session: &Session<'_>, server: IpAddr) -> bool {
    session.recorded().flat_map(|vantage| &session.evidence.side(vantage).servers).any(
        |((transport, _, remote), path)| *transport != Transport::Udp && remote.ip() == server && path.has_answered(),
    )
}
