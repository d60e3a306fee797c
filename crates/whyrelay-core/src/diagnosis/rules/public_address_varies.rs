//! The public address depends on the destination.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::need::SECOND_SERVER;
use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::network::{Told, told, told_all_plainly, told_plainly, why_plainly};
use crate::diagnosis::routes::{diversions, mark_keeps_from_servers};
use crate::diagnosis::session::{Path, Session};
use crate::trace::event::Vantage;

use super::peer_sees_other_port::unadvertised;

pub(super) const RULE: Rule = Rule {
    code: "WR206",
    name: "public-address-varies",
    title: "the public address depends on the destination",
    meaning: "One socket of a side comes out at different public addresses for different destinations: its router balances the load over several uplinks, or the provider's NAT has a pool of addresses. The address that the STUN server reports is then not the one from which the peer is addressed.",
    detection: "Two servers, or a server and the peer, see the same socket at different public IP addresses. Where no server answers the session's own sockets, or they ask a relay alone, a plain program's socket was asked.",
    proof: "Two STUN servers asked again and again from one socket: which address each sees.",
    doubt: "The same address for all destinations once a destination or source is pinned to one uplink.",
    fixes: &[
        Fix::owner(
            "On the router, pin this host, or UDP from its port, to one uplink (mwan3: a sticky rule or policy; \"source-based\" balancing elsewhere).",
        ),
        Fix::owner(
            "With a carrier's NAT: ask for paired address pooling (RFC 4787 REQ-2) or a public address, or use IPv6.",
        ),
    ],
    threads: &["juanfont/headscale#2564"],
    depends_on: &["WR108", "WR109", "WR115", "WR119"],
    needs: &[Need::OtherSide, Need::Other(seen_by_one)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

/// Whether anybody but one server told where a side's packets come from.
fn seen_by_one(session: &Session<'_>, vantage: Vantage) -> Option<String> {
    let (side, peer) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let told = told(side);
    // A check has many sockets, some of which ask one server only: of each address, one that asked two is enough.
    let mut servers: BTreeMap<SocketAddr, BTreeSet<IpAddr>> = BTreeMap::new();
    for one in &told {
        servers.entry(one.local).or_default().insert(one.server.ip());
    }
    let by_peer = side.sent.iter().filter(|(id, check)| check.mapped().is_some() || peer.received.contains_key(id));
    let by_peer: BTreeSet<SocketAddr> =
        by_peer.map(|(_, check)| check.pair.local).filter(|local| servers.contains_key(local)).collect();
    let compared = servers.iter().filter(|(local, servers)| servers.len() > 1 || by_peer.contains(*local));
    let compared: BTreeSet<IpAddr> = compared.map(|(local, _)| local.ip()).collect();
    let untold = told.iter().any(|one| one.mapped.ip() != one.local.ip() && !compared.contains(&one.local.ip()));
    untold.then(|| SECOND_SERVER.to_owned())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    // What a mark leads away from its usual path says nothing of the network.
    if mark_keeps_from_servers(session, vantage) {
        return plainly(session, vantage);
    }
    let told = told(session.evidence.side(vantage));
    let by_servers = by_servers(&told);
    let by_peer = || {
        // A host that sends what is for the peer another way comes from elsewhere there; servers tell of the network.
        let (seen, seq, base) = unadvertised(session, vantage).filter(|_| diversions(session, vantage).is_empty())?;
        let first = told.iter().find(|told| told.local == base && told.mapped.is_ipv4() == seen.is_ipv4())?;
        let differs = first.mapped.ip() != seen.ip() && first.mapped.ip() != first.local.ip();
        differs.then(|| (base, first.mapped.ip(), seen.ip(), vantage.other().name().to_owned(), vec![first.seq, seq]))
    };
    let Some(differing) = by_servers.or_else(by_peer) else { return plainly(session, vantage) };
    Some(told_of(session, vantage, differing))
}

/// The same of a plain socket.
pub(super) fn plainly(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let told = told_plainly(side);
    let fault = match by_servers(&told) {
        Some(differing) => told_of(session, vantage, differing),
        None => from_pool(session, vantage, &told)?,
    };
    Some(Fault { summary: format!("{}{}", fault.summary, why_plainly(side)), hidden: true, ..fault })
}

/// A socket that is mapped for each destination, and others from the same address that come from another one outside: each
/// mapping gets any of them.
fn from_pool(session: &Session<'_>, vantage: Vantage, told: &[Told]) -> Option<Fault> {
    let (first, other) = told.iter().find_map(|first| {
        let differs = |other: &&Told| other.local == first.local && other.mapped != first.mapped;
        Some((first, told.iter().find(differs)?))
    })?;
    let all = told_all_plainly(session.evidence.side(vantage));
    let elsewhere = all.iter().find(|told| {
        let same_family = told.mapped.is_ipv4() == first.mapped.is_ipv4();
        same_family && told.local.ip() == first.local.ip() && told.mapped.ip() != first.mapped.ip()
    })?;
    let who = format!("the server {}", elsewhere.server);
    let (one, another) = (first.mapped.ip(), elsewhere.mapped.ip());
    Some(Fault {
        summary: format!(
            "{} comes from {one} with one socket, mapped for each destination, and from {another} with another for {who}: each mapping gets one of several addresses",
            vantage.name()
        ),
        ..told_of(session, vantage, (first.local, one, another, who, vec![first.seq, other.seq, elsewhere.seq]))
    })
}

/// A socket, two of its addresses, who saw the second, and the events.
type Differing = (SocketAddr, IpAddr, IpAddr, String, Vec<u64>);

/// Two servers that saw one socket at different addresses.
fn by_servers(told: &[Told]) -> Option<Differing> {
    told.iter().find_map(|first| {
        let differs = |other: &&Told| {
            let same_socket = other.local == first.local && other.mapped.is_ipv4() == first.mapped.is_ipv4();
            same_socket && other.seq > first.seq && other.mapped.ip() != first.mapped.ip()
        };
        let other = told.iter().find(differs)?;
        let (who, evidence) = (format!("the server {}", other.server), vec![first.seq, other.seq]);
        Some((first.local, first.mapped.ip(), other.mapped.ip(), who, evidence))
    })
}

fn told_of(session: &Session<'_>, vantage: Vantage, (local, first, other, who, evidence): Differing) -> Fault {
    Fault {
        blame: Blame::side(vantage),
        severity: if session.path == Path::Direct { Severity::Info } else { Severity::Warning },
        summary: format!(
            "{} comes from {first} for one server and from {other} for {who}, with the same socket {local}",
            vantage.name()
        ),
        evidence,
        ..Fault::default()
    }
}
