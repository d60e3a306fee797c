//! The next hop towards the peer does not answer on the link.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::{Examination, Fault, Fix, Need, Rule, input_firewall_drops};
use crate::diagnosis::evidence::Taken;
use crate::diagnosis::finding::{Blame, Remedy};
use crate::diagnosis::network::{Network, told_anyhow};
use crate::diagnosis::routes::{MendedWay, is_refused};
use crate::diagnosis::session::{Path, Session};
use crate::host::{Family, Neighbor, NeighborState, Subject};
use crate::trace::address::AddressClass;
use crate::trace::event::Vantage;

use super::checks_rejected_on_the_way::is_own;
use super::wording::way;

pub(super) const RULE: Rule = Rule {
    code: "WR113",
    name: "next-hop-silent",
    title: "the next hop towards the peer does not answer on the link",
    meaning: "The gateway, or the peer where it should be on the own link, does not answer ARP (or neighbor discovery): a dead gateway, a peer that is expected on the wrong segment, a wrong netmask, isolated clients. After three seconds the kernel says \"host unreachable\" from its own address.",
    detection: "ICMP 3/1 came from an address of this host itself for a check, or the session ended before and the neighbor table has the next hop as incomplete or failed. Where something else keeps packets from the next hop that the host's routes name for the peer: the kernel was asked to look for it all the same, and has it as incomplete or failed.",
    proof: "ip neigh show ADDRESS says FAILED; arping gets no answer.",
    doubt: "A neighbor entry that is reachable.",
    fixes: &[Fix::safe("Check gateway, netmask and cable or Wi-Fi isolation of that interface.")],
    threads: &["openwrt/openwrt#9555"],
    depends_on: &["WR105", "WR106", "WR107", "WR114", "WR118"],
    needs: &[Need::Sockets, Need::Host(Subject::RouteAnswers), Need::Host(Subject::Neighbors)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    let of = |vantage, family| {
        // A next hop that packets would come to once they are not diverted is no effect of that.
        let found = would_be_silent(session, vantage, family, true)
            .or_else(|| fault(session, vantage, family).filter(|_| !is_taken(session, vantage, family)))
            .or_else(|| set_by_hand(session, vantage, family))
            .or_else(|| would_be_silent(session, vantage, family, false))?;
        Some(Fault { family: Some(family), ..found })
    };
    let of_side = |vantage| [Family::V4, Family::V6].into_iter().filter_map(move |family| of(vantage, family));
    Examination::of(session.recorded().flat_map(of_side).collect())
}

/// The hardware address of a next hop was set by hand, and nothing that was sent there is answered: the kernel asks
/// nobody whether it is right.
fn set_by_hand(session: &Session<'_>, vantage: Vantage, family: Family) -> Option<Fault> {
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let candidates: BTreeSet<_> = crate::diagnosis::routes::reachable_candidates(side, peer).collect();
    let by_hand = side
        .host
        .neighbors
        .iter()
        .filter(|neighbor| neighbor.fact.neighbor_state == NeighborState::Permanent && neighbor.fact.mac.is_some())
        .filter(|neighbor| Family::of(neighbor.fact.address) == family);
    let by_hand: Vec<_> = by_hand.take(MAX_BY_HAND).collect();
    if by_hand.is_empty() {
        return None;
    }
    let mut hops: BTreeMap<IpAddr, IpAddr> = BTreeMap::new();
    for answer in side.host.route_answers.iter().filter(|answer| answer.fact.question.out_device.is_none()) {
        let to = answer.fact.question.destination;
        if let Some(route) = &answer.fact.route {
            hops.entry(to).or_insert(route.gateway.unwrap_or(to));
        }
    }
    let hop_of = |to: IpAddr| hops.get(&to).copied();
    by_hand.into_iter().find_map(|neighbor| {
        let hop = neighbor.fact.address;
        let servers: Vec<_> = side.servers.iter().filter(|((.., server), _)| hop_of(server.ip()) == Some(hop)).collect();
        // What goes by a relay of ours goes to the server.
        let direct = side.sent.iter().filter(|(_, check)| !side.is_relayed(check.pair.local));
        let checks: Vec<_> = direct
            .filter(|(_, check)| {
                let to = check.pair.remote.ip();
                candidates.contains(&to) && hop_of(to) == Some(hop)
            })
            .collect();
        let heard = servers.iter().any(|(_, path)| path.has_answered())
            || checks.iter().any(|(id, check)| check.answer.is_some() || peer.received.contains_key(*id));
        let asked: u32 = servers.iter().map(|(_, path)| path.transmissions()).sum();
        let sent: u32 = checks.iter().map(|(_, check)| check.transmissions - check.refused.min(check.transmissions)).sum();
        if heard || asked + sent < 3 || !side.send_failures.is_empty() {
            return None;
        }
        let ip = super::wording::ip(family);
        let (device, mac) = (&neighbor.fact.device, neighbor.fact.mac.as_deref().unwrap_or_default());
        Some(Fault {
            blame: Blame::side(vantage),
            severity: session.harm(),
            summary: format!(
                "{} sends all for {hop} on {device} to {mac}, an address that was set by hand, and nothing that goes there is answered",
                vantage.name()
            ),
            evidence: [neighbor.seq]
                .into_iter()
                .chain(servers.iter().filter_map(|(_, path)| path.first_seq()).take(2))
                .chain(checks.iter().map(|(_, check)| check.seq).take(2))
                .collect(),
            advice: vec![
                Remedy::safe("See who has the address").run(ping(hop, Some(device))),
                Remedy::safe(format!(
                    "If somebody else answers: let the kernel ask (undo: {ip} neigh replace {hop} lladdr {mac} dev {device} nud permanent)"
                ))
                .run(format!("{ip} neigh del {hop} dev {device}")),
            ],
            doubt: Some(format!("An answer of {hop} from {mac} to arping.")),
            ..Fault::default()
        })
    })
}

fn fault(session: &Session<'_>, vantage: Vantage, family: Family) -> Option<Fault> {
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let candidates: BTreeSet<_> = crate::diagnosis::routes::reachable_candidates(side, peer)
        .filter(|candidate| Family::of(*candidate) == family)
        .collect();
    let own = side.icmp_errors.iter().filter(|((_, remote, icmp_type, code), error)| {
        let unreachable = if remote.is_ipv4() { (*icmp_type, *code) == (3, 1) } else { (*icmp_type, *code) == (1, 3) };
        unreachable
            && error.offender.is_some_and(|offender| is_own(side, offender))
            && candidates.contains(&remote.ip())
    });
    let by_icmp = own.min_by_key(|(_, error)| error.seq).map(|((_, remote, ..), error)| (remote, error.seq));
    let (remote, seq) = by_icmp.or_else(|| waiting(session, vantage, &candidates))?;
    // Neighbors behind one NAT that do not reach each other are kept apart: that has a rule of its own.
    let apart = is_own(peer, remote.ip())
        && told_anyhow(side)
            .iter()
            .any(|mine| told_anyhow(peer).iter().any(|theirs| theirs.mapped.ip() == mine.mapped.ip()));
    if apart {
        return None;
    }
    // A private address of the peer that happens to lie in an own network answers nobody, and that is no fault.
    let counts = session.pairs.iter().any(|pair| {
        pair.side(vantage).is_some_and(|own| own.pair.remote == *remote) && session.could_arrive(pair, vantage)
    });
    if !counts || AddressClass::of(remote.ip()) == AddressClass::Private && !shares_network(session) {
        return None;
    }
    let answer = side.host.routes_to(remote.ip()).find(|answer| answer.fact.question.out_device.is_none());
    let hop = answer
        .and_then(|answer| answer.fact.route.as_ref())
        .map_or(remote.ip(), |route| route.gateway.unwrap_or(remote.ip()));
    let neighbor = side.host.neighbors.iter().rfind(|neighbor| {
        neighbor.fact.address == hop
            && matches!(neighbor.fact.neighbor_state, NeighborState::Failed | NeighborState::Incomplete)
    });
    let ip = super::wording::ip(family);
    let device = answer.and_then(|answer| answer.fact.device());
    let by = answer.map(|answer| format!(" ({})", way(&answer.fact))).unwrap_or_default();
    Some(Fault {
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!("{} gets no answer on the link from {hop}, the next hop to {remote}{by}", vantage.name()),
        evidence: [seq]
            .into_iter()
            .chain(answer.map(|answer| answer.seq))
            .chain(neighbor.map(|neighbor| neighbor.seq))
            .collect(),
        advice: vec![Remedy::safe("Look at the next hop").run(format!("{ip} neigh show {hop}")).run(ping(hop, device))],
        ..Fault::default()
    })
}

/// The next hop to a public address of the peer that the kernel looks for in vain: it, that address, and what the neighbor
/// table has of it.
pub(super) fn unanswered<'a>(
    session: &'a Session<'_>,
    vantage: Vantage,
    family: Family,
) -> Option<(IpAddr, SocketAddr, &'a Taken<Neighbor>)> {
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let candidates: BTreeSet<_> = crate::diagnosis::routes::reachable_candidates(side, peer)
        .filter(|candidate| Family::of(*candidate) == family)
        .collect();
    let (remote, seq) = waiting(session, vantage, &candidates)?;
    let neighbor = side.host.neighbors.iter().find(|neighbor| neighbor.seq == seq)?;
    Some((neighbor.fact.address, *remote, neighbor))
}

/// Whether this host's own firewall takes what the next hop answers.
fn is_taken(session: &Session<'_>, vantage: Vantage, family: Family) -> bool {
    unanswered(session, vantage, family).is_some_and(|(hop, _, neighbor)| {
        let side = session.evidence.side(vantage);
        input_firewall_drops::taking_neighbor(side, hop, Some(&neighbor.fact.device)).is_some()
    })
}

/// The kernel was asked to look for the next hop, as nothing is sent there: something else keeps the packets back, or leads
/// them another way. `diverted`: only what is known to do so.
fn would_be_silent(session: &Session<'_>, vantage: Vantage, family: Family, diverted: bool) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let left: BTreeSet<IpAddr> = side
        .sent
        .values()
        .filter(|check| !side.is_relayed(check.pair.local) && check.refused < check.transmissions)
        .map(|check| check.pair.remote.ip())
        .collect();
    let of_family = |way: &MendedWay<'_>| {
        let to = way.way.question.destination;
        Family::of(to) == family && AddressClass::of(to) == AddressClass::Public
    };
    let ways = session.mended_ways(vantage).to_peer.iter().filter(|way| of_family(way));
    // What goes where it would go shows by itself.
    let hidden =
        ways.filter(|way| !way.behind.is_empty() || !diverted && !left.contains(&way.way.question.destination));
    let (way, hop, neighbor) = hidden.filter(|way| !is_refused(&way.way)).find_map(|way| {
        let route = way.way.route.as_ref()?;
        let hop = route.gateway.unwrap_or(way.way.question.destination);
        let neighbor =
            side.host.neighbors.iter().rfind(|neighbor| {
                neighbor.fact.address == hop && Some(&neighbor.fact.device) == route.device.as_ref()
            })?;
        let silent = matches!(neighbor.fact.neighbor_state, NeighborState::Failed | NeighborState::Incomplete);
        silent.then_some((way, hop, neighbor))
    })?;
    let (ip, to) = (super::wording::ip(family), way.way.question.destination);
    let device = way.way.device();
    let first = way.mended();
    Some(Fault {
        blame: Blame::side(vantage),
        severity: session.harm(),
        summary: format!(
            "{} gets no answer on the link from {hop}, the next hop to {to} ({}): that comes to light once {first} is mended",
            vantage.name(),
            super::wording::way(&way.way)
        ),
        evidence: [neighbor.seq, way.seen.seq].into_iter().chain(way.behind.iter().map(|(_, seq)| *seq)).collect(),
        advice: vec![Remedy::safe("Look at the next hop").run(format!("{ip} neigh show {hop}")).run(ping(hop, device))],
        hidden: true,
        ..Fault::default()
    })
}

/// Most next hops with an address set by hand that are looked at.
const MAX_BY_HAND: usize = 16;

/// Asks a neighbor on its link.
fn ping(hop: IpAddr, device: Option<&str>) -> String {
    let on = device.map(|device| format!(" -I {device}")).unwrap_or_default();
    match hop {
        IpAddr::V4(_) => format!("arping -c 3{on} {hop}"),
        IpAddr::V6(_) => format!("ping -6 -c 3{on} {hop}"),
    }
}

/// The peer's address whose next hop the kernel still looks for: it gives up after three seconds, and a session that
/// has a relay may end before.
fn waiting<'a>(
    session: &'a Session<'_>,
    vantage: Vantage,
    candidates: &BTreeSet<IpAddr>,
) -> Option<(&'a SocketAddr, u64)> {
    let host = &session.evidence.side(vantage).host;
    let pairs = session.pairs.iter().filter(|pair| session.could_arrive(pair, vantage));
    let remotes = pairs.filter_map(|pair| pair.side(vantage)).map(|own| &own.pair.remote);
    let mut answers = BTreeMap::new();
    for answer in host.route_answers.iter().filter(|answer| answer.fact.question.out_device.is_none()) {
        answers.entry(answer.fact.question.destination).or_insert(answer);
    }
    // The last that was told of each.
    let neighbors: BTreeMap<(&str, IpAddr), _> =
        host.neighbors.iter().map(|known| ((known.fact.device.as_str(), known.fact.address), known)).collect();
    remotes.filter(|remote| candidates.contains(&remote.ip())).find_map(|remote| {
        let answer = &answers.get(&remote.ip())?.fact;
        let hop = answer.route.as_ref()?.gateway.unwrap_or(remote.ip());
        // The same address on another link is not where these packets go.
        let neighbor = neighbors.get(&(answer.device()?, hop))?;
        let silent = matches!(neighbor.fact.neighbor_state, NeighborState::Failed | NeighborState::Incomplete);
        silent.then_some((remote, neighbor.seq))
    })
}

/// Whether both sides have the same public address: then private addresses of one network are on one network. Where no
/// server was asked at all, one network is what the session is for.
fn shares_network(session: &Session<'_>) -> bool {
    let [a, b] = [Vantage::A, Vantage::B].map(|vantage| &Network::of(session, vantage, false).public);
    let unasked = session.recorded().all(|vantage| session.evidence.side(vantage).servers.is_empty());
    unasked && a.is_empty() && b.is_empty() || a.iter().any(|address| b.contains(address))
}
