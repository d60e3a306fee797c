//! Where others than servers see a socket come from, and what that says of the NAT in front of it.
//!
//! A port that differs from the one that the server told has two explanations. The NAT may map by destination. Or it is
//! endpoint-independent, and an early packet of the destination had the port (rule WR202): that is a Linux router that takes
//! unsolicited packets for packets to itself. It then draws one other port and keeps to that: also destinations that had
//! sent nothing see it afterwards, and it draws another one only where somebody is ahead of the socket at that port, too
//! (netfilter's `find_appropriate_src`; seen in namespaces, and `nat::table` does the same). So what counts is who had sent to
//! the mapped address before the socket's packet came there, and how many other ports were seen:
//!
//! | other ports | seen by one that had sent nothing there | anybody else of the peer had | the router refused it | mapping |
//! |---|---|---|---|---|
//! | any, of a NAT that keeps no ports | - | - | - | by destination |
//! | one | yes | no | - | by destination |
//! | one | yes | yes | no | by destination |
//! | one | yes | yes | yes | an early packet, of whoever it was |
//! | one | no | - | yes | an early packet |
//! | one | no | - | no | not known |
//! | several, nobody was ahead at one of them | - | - | - | by destination |
//! | several, somebody was ahead at one of them | as for one | | | |
//!
//! "Refused" is port unreachable from the mapped address itself, which a router that took the packet for one to itself
//! answers to the peer's own socket; where that had sent nothing, nothing is known of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::evidence::{Check, SideEvidence};
use super::network::{Told, told};
use super::session::Session;
use crate::ice::candidate::CandidateTransport;
use crate::trace::event::Vantage;

/// How an opener ahead of the checks is told of that a side tries for one session.
pub const OPENER: &str = "a packet of TTL";

/// How the words of a port mapping that is tried begin.
pub const MAPPING: &str = "a port mapping";

/// Most that see a socket at another port and are looked at: a peer has a handful of addresses.
const MAX_VIEWS: usize = 16;

/// Where somebody who is no STUN server saw the checks of one of our sockets come from: the peer, or a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Number of the event.
    pub seq: u64,
    /// Our socket.
    pub local: SocketAddr,
    /// Who saw it, as we address it.
    pub observer: SocketAddr,
    /// Whether that is a relayed address.
    pub by_relay: bool,
    /// The address that it saw.
    pub seen: SocketAddr,
    /// What the other side had sent to the mapped addresses before; `None`: it was not recorded.
    before: Option<Before>,
}

/// What the other side had sent before a check of ours came to it, by its own order of events: no clock is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Before {
    /// The observer, to the mapped address that the server told.
    observer: bool,
    /// Any of its sockets, there.
    anybody: bool,
    /// One of its own sockets, there, without a relay: a refusal would have come back to it.
    directly: bool,
    /// One that we had not been heard at, to another port of the mapped address.
    elsewhere: bool,
}

/// A socket that servers see at one port and others at another, where no early packet can have made the difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Otherwise {
    /// The server's word.
    pub told: Told,
    /// Who saw another port.
    pub view: View,
    /// Who saw yet another one, where that is the proof.
    pub second: Option<View>,
}

/// A socket whose mapping depends on the destination by what others than servers saw of it (see the table above).
///
/// Where servers at several addresses tell the same, only two other ports prove that: what differs for the peer alone has
/// another cause.
pub fn mapped_otherwise(session: &Session<'_>, vantage: Vantage) -> Option<Otherwise> {
    let told = told(session.evidence.side(vantage));
    let rivals = session.rivals(vantage);
    told.iter().find_map(|first| {
        let alike = || told.iter().filter(|other| other.local == first.local);
        let competes = rivals.of(first.local).is_some() && !rivals.others_vary();
        if first.mapped.ip() == first.local.ip() || competes {
            return None;
        }
        let one_server = alike().all(|it| it.server.ip() == first.server.ip());
        let views = otherwise(session, vantage, first);
        let kept = first.mapped.port() == first.local.port();
        let refused = refused(session, vantage, first.mapped).is_some();
        let alone = views.iter().find(|view| !kept || no_early_packet(view, refused)).filter(|_| one_server);
        let two = || {
            let same = alike().all(|it| it.mapped == first.mapped || it.mapped.is_ipv4() != first.mapped.is_ipv4());
            two_ports(&views).filter(|_| same || one_server)
        };
        let (view, second) = two().map(|(one, two)| (one, Some(*two))).or_else(|| alone.map(|view| (view, None)))?;
        Some(Otherwise { told: *first, view: *view, second })
    })
}

/// A socket that others see at another port than servers, whatever the cause.
pub fn differs(session: &Session<'_>, vantage: Vantage) -> Option<(Told, View)> {
    let told = told(session.evidence.side(vantage));
    let translated = told.iter().filter(|told| told.mapped.ip() != told.local.ip());
    translated.into_iter().find_map(|told| Some((*told, *otherwise(session, vantage, told).first()?)))
}

/// The event by which the router at a mapped address refused a packet of the other side: it took that for one to itself.
pub fn refused(session: &Session<'_>, vantage: Vantage, mapped: SocketAddr) -> Option<u64> {
    let other = session.evidence.side(vantage.other());
    // Behind one NAT the other side's packet came from inside: its router has no port of the outside to give away.
    if told(other).iter().any(|theirs| theirs.mapped.ip() == mapped.ip()) {
        return None;
    }
    let by_router = other.icmp_errors.iter().find(|((_, remote, icmp_type, code), error)| {
        *remote == mapped
            && (*icmp_type, *code) == (3, 3)
            && error.offender.is_none_or(|offender| offender == remote.ip())
    });
    by_router.map(|(_, error)| error.seq)
}

/// Whether one view alone says that it was no early packet: that of one that had sent nothing, where nobody else had either,
/// or the router was asked directly and refused nothing.
fn no_early_packet(view: &View, refused: bool) -> bool {
    let Some(before) = view.before.filter(|before| !before.observer) else { return false };
    !before.anybody || before.directly && !refused
}

/// Two views of different ports, neither of which saw anybody ahead of the socket at another port: of early packets there is
/// one other port.
fn two_ports(views: &[View]) -> Option<(&View, &View)> {
    let sound = |view: &&View| view.before.is_some_and(|before| !before.elsewhere);
    let one = views.iter().find(sound)?;
    let other = views.iter().filter(sound).find(|two| two.seen.port() != one.seen.port())?;
    Some((one, other))
}

/// Where others saw a socket come from at another port of its mapped address: the first view of each, in the order of the
/// events.
fn otherwise(session: &Session<'_>, vantage: Vantage, told: &Told) -> Vec<View> {
    let (side, other) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
    let sent = side
        .sent
        .iter()
        .filter(|(_, check)| check.pair.transport == CandidateTransport::Udp && check.pair.local == told.local);
    let mut views: Vec<_> = sent
        .filter_map(|(id, check)| {
            let observer = check.pair.remote;
            let received = other.received.get(id);
            let by_observer = received.map(|received| (received.pair.remote, received.seq));
            let (seen, seq) = by_observer.or_else(|| Some((check.mapped()?, check.answer.as_ref()?.seq)))?;
            let by_relay = other.is_relayed(observer) || side.known.is_told_as_relayed(observer);
            Some((View { seq, local: told.local, observer, by_relay, seen, before: None }, received))
        })
        .collect();
    views.sort_unstable_by_key(|(view, _)| view.seq);
    let mut known = BTreeSet::new();
    views.retain(|(view, _)| known.insert(view.observer));
    views.retain(|(view, _)| view.seen.ip() == told.mapped.ip() && view.seen.port() != told.mapped.port());
    views.truncate(MAX_VIEWS);
    if views.is_empty() {
        return Vec::new();
    }
    // When the other side first heard an address at one of its own.
    let mut heard: BTreeMap<(SocketAddr, SocketAddr), u64> = BTreeMap::new();
    for ours in other.received.values() {
        let first = heard.entry((ours.pair.local, ours.pair.remote)).or_insert(ours.seq);
        *first = (*first).min(ours.seq);
    }
    let with_before = |(view, received): (View, Option<&Check>)| View {
        before: received.map(|received| before(other, told.mapped, received, &heard)),
        ..view
    };
    views.into_iter().map(with_before).collect()
}

/// What the other side had sent to a mapped address before it received a check.
fn before(
    other: &SideEvidence,
    mapped: SocketAddr,
    received: &Check,
    heard: &BTreeMap<(SocketAddr, SocketAddr), u64>,
) -> Before {
    // An opener ahead of the checks is none of them, and may have got as far as the router.
    let opened = other.options.tried.iter().any(|what| what.starts_with(OPENER));
    let mut before = Before { anybody: opened, directly: opened, ..Before::default() };
    // Nor are probes, which go from sockets of their own to every address that is known.
    let to_other_port = |remote: &SocketAddr| remote.ip() == mapped.ip() && remote.port() != mapped.port();
    before.elsewhere = other.probed.iter().any(|(remote, seq)| *seq < received.seq && to_other_port(remote));
    let udp = other.sent.values().filter(|theirs| theirs.pair.transport == CandidateTransport::Udp);
    for theirs in udp.filter(|theirs| theirs.seq < received.seq && theirs.pair.remote.ip() == mapped.ip()) {
        let (local, remote) = (theirs.pair.local, theirs.pair.remote);
        if remote == mapped {
            before.anybody = true;
            before.observer |= local == received.pair.local;
            before.directly |= !other.is_relayed(local);
        } else {
            before.elsewhere |= heard.get(&(local, remote)).is_none_or(|first| *first > theirs.seq);
        }
    }
    before
}
