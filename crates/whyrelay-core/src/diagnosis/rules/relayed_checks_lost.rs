//! checks through the relay get lost.

use std::net::{IpAddr, SocketAddr};

use super::how_far::{self, Lost};
use super::{Examination, Fault, Fix, Need, Rule, input_firewall_drops};
use crate::diagnosis::evidence::SideEvidence;
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::network::{Network, told};
use crate::diagnosis::session::{Break, Path, Session};
use crate::ice::candidate::CandidateTransport;
use crate::trace::address::AddressClass;
use crate::trace::event::{Transport, Vantage};
use crate::trace::measurement::Measurement;

pub(super) const RULE: Rule = Rule {
    code: "WR407",
    name: "relayed-checks-lost",
    title: "checks through the relay get lost",
    meaning: "A side has a relayed address and the checks through it do not arrive: the port range of the relay is closed in its firewall, or the relay cannot reach the peer.",
    detection: "Checks on relayed pairs were sent and never seen on the other side, and no relayed pair worked, though both sides reach a STUN server over UDP. Or only a pair from relay to relay worked, inside of the server, and nothing that a side sent to a relayed address itself got in. In a check: nothing that was sent to a relayed address got in, and what the relay sent from there arrived, or packets to it get as far as those to the server's own port, by the routers on the way. Where neither is known the path is blamed, not the relay. Or what is sent there gets in, and nothing that is sent back from there arrives.",
    proof: "A datagram sent from outside to the relayed address, with a permission in place: nothing arrives.",
    doubt: "A capture on the relay that shows the check leave towards the peer: then it is lost between relay and peer.",
    fixes: &[
        Fix::firewall("Open the relay's port range (min-port to max-port) for UDP in its firewall."),
        Fix::safe("Check that the relay itself can reach the peer's address."),
    ],
    threads: &["coturn/coturn#731", "coturn/coturn#1081"],
    depends_on: &["WR403", "WR404", "WR401", "WR110", "WR112", "WR702", "WR703"],
    needs: &[Need::OtherSide],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.evidence.is_alone() {
        let side = session.evidence.side(Vantage::A);
        return Examination::of(measured_closed(side).or_else(|| measured_unechoed(side)).into_iter().collect());
    }
    match session.path {
        Path::Failed => {}
        Path::Relayed => return Examination::of(closed_ports(session).into_iter().collect()),
        Path::Direct => return Examination::Clear,
    }
    let relayed: Vec<_> = session.pairs.iter().filter(|pair| pair.relayed).collect();
    let chains = || relayed.iter().flat_map(|pair| [(Vantage::A, *pair), (Vantage::B, *pair)]);
    if chains().any(|(from, pair)| pair.from(from).answer_seen.is_some_and(|count| count > 0)) {
        return Examination::Clear;
    }
    // Who hears no server over UDP would not hear a relay, and would not reach one.
    let hears = [Vantage::A, Vantage::B]
        .map(|vantage| !session.evidence.is_recorded(vantage) || !told(session.evidence.side(vantage)).is_empty());
    if hears.contains(&false) {
        return Examination::Clear;
    }
    let lost: Vec<_> = chains().filter(|(from, pair)| pair.from(*from).broken == Some(Break::OnTheWay)).collect();
    let Some((from, pair)) = lost.first() else { return Examination::Clear };
    let Some(side) = pair.side(*from) else { return Examination::Clear };
    let (here, there) = (from.name(), from.other().name());
    Examination::Found(vec![Fault {
        blame: Blame::Relay,
        severity: Severity::Error,
        summary: format!(
            "Checks of {here} from {} to {} through the relay never reach {there}",
            side.pair.local, side.pair.remote
        ),
        evidence: lost.iter().flat_map(|(from, pair)| pair.from(*from).evidence.clone()).collect(),
        ..Fault::default()
    }])
}

/// A host that looked at itself sent to a relayed address of its own and nothing got in. That is the relay's doing where
/// packets came from there, where those to another port like it arrive, or where they get as far as those to the server's
/// own port; it may as well be this network's where none of that is known. `None`: this network's, or all got in.
pub(super) fn measured_closed(side: &SideEvidence) -> Option<Fault> {
    let echoes = side.measured.facts.iter().filter_map(|(seq, fact)| match fact {
        Measurement::RelayEcho { server, relayed, rtt_us: None, sent, came_from_relay } => {
            let whose = whose_firewall(side, *relayed, *came_from_relay)?;
            let nothing = format!("Nothing of {sent} packets to {relayed}, a relayed port of {server}, got in");
            Some((*seq, nothing, whose))
        }
        _ => None,
    });
    let echoes: Vec<_> = echoes.collect();
    if let Some((seq, nothing, how, more)) = echoes.iter().find_map(|(seq, nothing, whose)| match whose {
        Whose::Relay { how, more } => Some((*seq, nothing, how, *more)),
        _ => None,
    }) {
        return Some(Fault {
            blame: Blame::Relay,
            severity: Severity::Error,
            summary: format!("{nothing}, although {how}: the relay's ports are closed"),
            evidence: [seq].into_iter().chain(more).collect(),
            ..Fault::default()
        });
    }
    // One relay is enough to tell it of the network.
    if echoes.iter().any(|(.., whose)| matches!(whose, Whose::Network)) {
        return None;
    }
    let doubt = "An echo through this relay from another network: then this network lets UDP out to known ports only.";
    echoes.first().map(|(seq, nothing, _)| Fault {
        blame: Blame::Path,
        severity: Severity::Warning,
        summary: format!("{nothing}: the relay's ports are closed, or this network lets UDP out to known ports only"),
        evidence: vec![*seq],
        doubt: Some(doubt.to_owned()),
        ..Fault::default()
    })
}

/// Whether a host that looked at itself knows that a server's firewall keeps packets from its relayed ports: then it is that
/// which keeps them from other ports of it, too.
pub(super) fn is_firewalled(side: &SideEvidence, server: IpAddr) -> bool {
    side.measured.facts.iter().any(|(_, fact)| match fact {
        Measurement::RelayEcho { relayed, rtt_us: None, came_from_relay, .. } if relayed.ip() == server => {
            matches!(whose_firewall(side, *relayed, *came_from_relay), Some(Whose::Relay { .. }))
        }
        _ => false,
    })
}

/// Whose firewall keeps packets from a relayed port.
enum Whose {
    /// The relay's: why, in words, and an event that shows it.
    Relay { how: String, more: Option<u64> },
    /// This host's network's.
    Network,
    /// One of both.
    Unknown,
}

/// Whose firewall it is that nothing gets in at a relayed port; `None`: it is none.
fn whose_firewall(side: &SideEvidence, relayed: SocketAddr, came_from_relay: Option<bool>) -> Option<Whose> {
    if came_from_relay == Some(true) {
        return Some(Whose::Relay { how: "packets come from there".to_owned(), more: None });
    }
    let third_parties = || {
        side.measured.facts.iter().filter_map(|(seq, fact)| match fact {
            Measurement::ThirdParty { remote, observed, .. } => Some((*seq, *remote, observed.is_some())),
            _ => None,
        })
    };
    // What got in and did not come back has another fault; and who hears no server over UDP has another, too, as has a
    // relay whose address is inside of a network.
    let got_in = !third_parties().any(|(_, remote, arrived)| remote == relayed && !arrived);
    let class = AddressClass::of(relayed.ip());
    if got_in || !told(side).iter().any(|told| AddressClass::of(told.server.ip()) == class) {
        return None;
    }
    if let Some((seq, other, _)) = third_parties().find(|(.., arrived)| *arrived) {
        return Some(Whose::Relay { how: format!("packets to {other}, another high port, arrive"), more: Some(seq) });
    }
    Some(match how_far::lost(side, relayed) {
        Lost::Behind(hop) => {
            let how = format!("they get as far as those to the server's own port, to {hop}");
            Whose::Relay { how, more: Some(hop.seq) }
        }
        Lost::Untold if came_from_relay.is_none() => Whose::Unknown,
        Lost::InFrontOf(_) | Lost::Untold => Whose::Network,
    })
}

/// What a host that looked at itself sent to a relayed address got in, and nothing came that was sent back from there; nor
/// is it this host's own firewall that dropped it.
fn measured_unechoed(side: &SideEvidence) -> Option<Fault> {
    let (seq, relayed) = input_firewall_drops::unechoed(side).next()?;
    if matches!(input_firewall_drops::of_one_host(side), Examination::Found(_)) {
        return None;
    }
    Some(Fault {
        blame: Blame::Path,
        severity: Severity::Warning,
        summary: format!(
            "What this host sends to the relayed address {relayed} gets in, and nothing that is sent back from there arrives"
        ),
        evidence: vec![seq],
        doubt: Some(
            "A capture on the relay that shows it leave: then it is lost between relay and this host.".to_owned(),
        ),
        ..Fault::default()
    })
}

/// The path goes from relay to relay, inside of the server, and what either side sends to a relayed port itself gets
/// lost. The port is closed where packets come from it and none gets in; or where neither side gets in, and the sides'
/// own networks do not promise a direct path that is as silent (which two networks that let UDP out to known ports only
/// would explain as well).
fn closed_ports(session: &Session<'_>) -> Option<Fault> {
    let sides = [Vantage::A, Vantage::B];
    let hears = |vantage| session.evidence.is_complete(vantage) && !told(session.evidence.side(vantage)).is_empty();
    // Its own relayed address answered a side: they are open.
    let is_open = |vantage: &Vantage| {
        let side = session.evidence.side(*vantage);
        let mut servers = side.servers.iter();
        servers.any(|((transport, _, server), path)| {
            *transport == Transport::Udp && side.is_relayed(*server) && path.has_answered()
        })
    };
    if !sides.into_iter().all(hears) || sides.iter().any(is_open) {
        return None;
    }
    let to_relay = |from: Vantage| {
        let (side, peer) = (session.evidence.side(from), session.evidence.side(from.other()));
        session.pairs.iter().filter_map(move |pair| {
            let own = pair.side(from)?;
            let outside = peer.is_relayed(own.pair.remote) && !side.is_relayed(own.pair.local);
            let udp = own.pair.transport == CandidateTransport::Udp;
            (outside && udp).then(|| (own.pair, pair.from(from)))
        })
    };
    let arrived = |from| to_relay(from).any(|(_, chain)| chain.seen.as_ref().is_some_and(|seen| seen.checks > 0));
    if sides.into_iter().any(arrived) {
        return None;
    }
    let lost = |from: Vantage| {
        to_relay(from).find(|(_, chain)| {
            let left = chain.sent.is_some_and(|sent| sent.transmissions >= 3 && sent.refused == 0);
            left && chain.broken == Some(Break::OnTheWay)
        })
    };
    let heard = |from: Vantage| {
        let side = session.evidence.side(from);
        lost(from).filter(|(pair, _)| side.received.values().any(|check| check.pair == *pair))
    };
    let promised = |vantage| Network::of(session, vantage, false).is_dependent() == Some(false);
    let proven = sides.into_iter().find_map(|from| Some((from, heard(from)?)));
    let likely = || {
        let both = lost(Vantage::B).and(lost(Vantage::A)).filter(|_| !sides.into_iter().all(promised));
        both.map(|lost| (Vantage::A, lost))
    };
    let doubt = "Another relay whose ports either side reaches: then both networks let UDP out to known ports only.";
    let (from, (pair, chain), doubt) = match proven {
        Some((from, lost)) => (from, lost, None),
        None => likely().map(|(from, lost)| (from, lost, Some(doubt.to_owned())))?,
    };
    let how = match doubt {
        None => ", although packets come from there: nothing gets in at the relay's ports".to_owned(),
        Some(_) => format!(", nor do those of {} to a relayed address get in", from.other().name()),
    };
    Some(Fault {
        blame: Blame::Relay,
        severity: Severity::Warning,
        summary: format!(
            "Checks of {} to {}, the relayed address of {}, get lost{how}",
            from.name(),
            pair.remote,
            from.other().name()
        ),
        evidence: chain.evidence.clone(),
        doubt,
        ..Fault::default()
    })
}
