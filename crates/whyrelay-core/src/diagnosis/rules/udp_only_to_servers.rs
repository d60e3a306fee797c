//! UDP is let out to servers and not to peers.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::how_far::{self, Lost};
use super::need::BY_CHECK;
use super::relayed_checks_lost::measured_closed;
use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::{SideEvidence, Taken};
use crate::diagnosis::finding::Blame;
use crate::diagnosis::network::{Told, told};
use crate::diagnosis::session::{Break, JoinedPair, Path, Session};
use crate::host::RouteAnswer;
use crate::trace::address::AddressClass;
use crate::trace::event::{Pair, Vantage};
use crate::trace::measurement::Measurement;

pub(super) const RULE: Rule = Rule {
    code: "WR304",
    name: "udp-only-to-servers",
    title: "UDP is let out to servers and not to peers",
    meaning: "A firewall between a side and the Internet lets UDP out to known servers or ports only (an allow-list, an application filter, endpoint security). STUN works and every tester is content, but checks to a peer's random port never leave the network. It looks like a hard NAT and is none.",
    detection: "STUN answers arrive, and what the side sends to a third party on a high port (the peer's relayed address, or a server's probe port) does not, while the other side's packets to such ports do. In a check: not where such packets get as far as those to the server's own port, by the routers on the way.",
    proof: "A packet from this host to a UDP port of your own machine elsewhere: a capture there sees nothing, while STUN on port 3478 works.",
    doubt: "One packet of this side that arrives at any high UDP port outside. To one host alone, a firewall in front of the server's own relayed ports looks the same.",
    fixes: &[
        Fix::firewall("Allow outbound UDP from this host to any destination port (or to 1024-65535)."),
        Fix::firewall("Where every host has this: let UDP in to the server's relayed ports (49152-65535 by default)."),
        Fix::owner("On a company network: ask for an egress rule for UDP of this host, or accept the relay."),
    ],
    threads: &["netbirdio/docs#908"],
    depends_on: &["WR801", "WR305", "WR302", "WR109", "WR112", "WR113", "WR115", "WR116", "WR129", "WR130"],
    needs: &[Need::OtherSide, Need::Other(unasked)],
    examine,
};

/// How long after the peer's first check its permission for this side may still be on the way to its server: it asked
/// for it before it sent that check.
const PERMITTED_AFTER: Duration = Duration::from_millis(200);

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    let found =
        [Vantage::A, Vantage::B].map(|vantage| measured(session, vantage).or_else(|| to_relay(session, vantage)));
    match found {
        // Both at once: more likely the relay's ports are closed, and that has a rule of its own.
        [Some((.., true)), Some((.., true))] | [None, None] => Examination::Clear,
        found => {
            let faults = [Vantage::A, Vantage::B].into_iter().zip(found).filter_map(|(vantage, found)| {
                let (summary, evidence, _) = found?;
                let (blame, severity) = (Blame::side(vantage), session.harm());
                Some(Fault { blame, severity, summary, evidence, ..Fault::default() })
            });
            Examination::of(faults.collect())
        }
    }
}

/// Whether packets to another port than the servers' get out, where none was asked and no relayed path tells.
fn unasked(session: &Session<'_>, vantage: Vantage) -> Option<String> {
    let side = session.evidence.side(vantage);
    let asked = side.measured.facts.iter().any(|(_, fact)| matches!(fact, Measurement::ThirdParty { .. }));
    let peer = session.evidence.side(vantage.other());
    let mut sent = side.sent.values().map(|check| check.pair).filter(|pair| !side.is_relayed(pair.local));
    let to_relay = session.path == Path::Relayed && sent.any(|pair| peer.is_relayed(pair.remote));
    let untold = !to_relay && !asked && !told(side).is_empty();
    untold.then(|| BY_CHECK.to_owned())
}

/// A server's probe port never saw the side. What is found: text, events, whether it is by the relay's port.
pub(super) fn measured(session: &Session<'_>, vantage: Vantage) -> Option<(String, Vec<u64>, bool)> {
    let side = session.evidence.side(vantage);
    let answered = told(side).into_iter().next()?;
    let arrived = |fact: &Measurement| matches!(fact, Measurement::ThirdParty { observed: Some(_), .. });
    // The server's own ports are closed: packets from there come, which this network would not let in unasked.
    if side.measured.facts.iter().any(|(_, fact)| arrived(fact)) || measured_closed(side).is_some() {
        return None;
    }
    side.measured.facts.iter().find_map(|(seq, fact)| match fact {
        // Of a relay with a private address it shows nothing: from here nobody can reach that.
        Measurement::ThirdParty { remote, observed: None, sent, .. }
            if *sent >= 3 && AddressClass::of(remote.ip()) == AddressClass::of(answered.server.ip()) =>
        {
            let lost = how_far::lost(side, *remote);
            let how = match lost {
                Lost::Behind(_) => return None,
                Lost::InFrontOf(hop) => {
                    format!(": it is lost in front of {hop}, which packets to the server's own port reach")
                }
                Lost::Untold => String::new(),
            };
            let hop = if let Lost::InFrontOf(hop) = lost { Some(hop.seq) } else { None };
            let text = format!(
                "{} gets answers from {} over UDP, and nothing that it sends to {remote} arrives{how}",
                vantage.name(),
                answered.server
            );
            Some((text, [answered.seq, *seq].into_iter().chain(hop).collect(), false))
        }
        _ => None,
    })
}

/// The side's checks to the peer's relayed address are lost, while it reaches the same server's STUN port.
fn to_relay(session: &Session<'_>, vantage: Vantage) -> Option<(String, Vec<u64>, bool)> {
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    // Without any relayed path it may as well be the relay whose ports are closed.
    if !session.evidence.is_complete(vantage.other()) || session.path != Path::Relayed {
        return None;
    }
    let told = told(side);
    // Nor do the peer's packets get into this side's relayed ports: then it is those that are closed.
    let closed = |pair: &JoinedPair| {
        let theirs = pair
            .side(vantage.other())
            .is_some_and(|own| side.is_relayed(own.pair.remote) && !peer.is_relayed(own.pair.local));
        theirs && pair.from(vantage.other()).broken == Some(Break::OnTheWay)
    };
    if session.pairs.iter().any(closed) {
        return None;
    }
    // From which address it reaches the relay is not known where that varies: another than the permission is for.
    let varies = |one: &Told| told.iter().any(|two| two.local == one.local && two.mapped.ip() != one.mapped.ip());
    if told.iter().any(varies) {
        return None;
    }
    let to_relay = |pair: &&JoinedPair| {
        pair.side(vantage).is_some_and(|own| peer.is_relayed(own.pair.remote) && !side.is_relayed(own.pair.local))
    };
    // When the peer was permitted this side's packets at a relayed address of its own, by its clock.
    let permitted = |address: SocketAddr| {
        let allocations = peer.servers.values().filter_map(|path| path.allocation.as_ref());
        let here: BTreeSet<IpAddr> = told.iter().map(|told| told.mapped.ip()).collect();
        let allocation = allocations.into_iter().find(|allocation| allocation.relayed.contains(&address))?;
        allocation.permissions.iter().filter(|(to, _)| here.contains(to)).map(|(_, at)| *at).min()
    };
    let mut lost = Vec::new();
    for pair in session.pairs.iter().filter(to_relay) {
        let chain = pair.from(vantage);
        let Some(own) = pair.side(vantage) else { continue };
        // What comes from the relayed address could not, had nothing been let out to it.
        let heard = side.received.values().any(|check| check.pair == own.pair);
        if heard
            || chain.seen.as_ref().is_some_and(|seen| seen.checks > 0)
            || chain.answer_seen.is_some_and(|answers| answers > 0)
        {
            return None;
        }
        let Some(permitted) = permitted(own.pair.remote) else { continue };
        let sent = || side.sent.values().filter(|check| check.pair == own.pair);
        let (Some(first), Some(last)) = (sent().map(|check| check.first).min(), sent().map(|check| check.last).max())
        else {
            continue;
        };
        // Before its check arrives here, the peer may not have known of this side, and so not have asked for a permission.
        let heard = side.received.values().map(|check| check.first).min();
        let by_hearing = heard.is_some_and(|heard| last >= heard + PERMITTED_AFTER);
        // Or by how long it took, on either clock: this side learned of the relayed address after the peer had it, and
        // was still sending to it when the permission was as old as that.
        let gathered = peer.local_candidates.iter().find(|local| local.base == own.pair.remote).map(|local| local.at);
        let by_waiting = gathered
            .filter(|gathered| *gathered <= permitted)
            .is_some_and(|gathered| last - first > permitted - gathered + PERMITTED_AFTER);
        // What the host sends elsewhere itself, or the filter keeps, says nothing of the network.
        if !goes_as_to_servers(side, own.pair) {
            continue;
        }
        let public = AddressClass::of(own.pair.remote.ip()) == AddressClass::Public;
        let left = chain.sent.is_some_and(|sent| sent.transmissions >= 3 && sent.refused == 0);
        if public && left && (by_hearing || by_waiting) {
            lost.push((own.pair, chain.evidence.clone()));
        }
    }
    let (pair, evidence) = lost.into_iter().next()?;
    let answered = told
        .iter()
        .find(|told| told.local == pair.local && told.server.ip() == pair.remote.ip())
        .or_else(|| told.iter().find(|told| told.local == pair.local))?;
    // Nothing else of it reaches the peer either.
    let reached = session
        .pairs
        .iter()
        .any(|pair| !pair.relayed && pair.from(vantage).seen.as_ref().is_some_and(|seen| seen.checks > 0));
    let here = vantage.name();
    (!reached).then(|| {
        let text = format!(
            "{here} reaches {} over UDP and not {}, the relayed address of {}: UDP to high ports does not get out",
            answered.server,
            pair.remote,
            vantage.other().name()
        );
        (text, evidence.into_iter().chain([answered.seq]).collect(), true)
    })
}

/// Whether the kernel sends a pair's packets by the device by which it sends those for a server; so it is taken to be
/// where it was not asked.
fn goes_as_to_servers(side: &SideEvidence, pair: Pair) -> bool {
    let of_socket = |answer: &&Taken<RouteAnswer>| {
        let question = &answer.fact.question;
        question.out_device.is_none() && question.source.is_none_or(|source| source == pair.local.ip())
    };
    let to_servers: BTreeSet<_> =
        side.host.routes_to_servers().filter(of_socket).filter_map(|answer| answer.fact.device()).collect();
    let mut there = side.host.routes_to(pair.remote.ip()).filter(of_socket);
    there.all(|answer| answer.fact.device().is_some_and(|device| to_servers.contains(device)))
}
