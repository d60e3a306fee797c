//! The path that a world must come to: what its networks, its server and signaling allow, which its scenario says, and
//! what its hosts' faults leave of that.

use whyrelay_core::nat::behavior::{FilteringBehavior, Hairpinning};

use super::{Leaves, World};
use crate::predict::{First, Place, predict};
use crate::scenario::file::{Alg, Credentials, Hook, Path, Protocol, Verdict};
use crate::scenario::topology::{FirewallRule, Host, Router, Translation};
use crate::scenario::value::Span32;
use crate::scenario::{STUN_PORT, Topology};

/// The paths that a world may come to: one, or two where its faults may leave either ([`Leaves::OtherAddresses`]).
pub(super) fn paths(world: &World, topology: &Topology) -> Vec<Path> {
    let sides = [0, 1].map(|side| Side::of(world, topology, side));
    let [a, b] = &sides;
    if sides.iter().any(|side| side.leaves == Leaves::Nothing) {
        return vec![Path::Failed];
    }
    let is_relayed = is_relayed(topology, a, b) || is_relayed(topology, b, a);
    let without = if is_relayed { Path::Relayed } else { Path::Failed };
    if !is_direct(topology, a, b) || sides.iter().any(|side| side.leaves == Leaves::Relay) {
        return vec![without];
    }
    let refused = |side: &Side, peer: &Side| side.leaves == Leaves::OtherAddresses && !peer.has_several_addresses;
    if refused(a, b) || refused(b, a) {
        return vec![without];
    }
    match sides.iter().any(|side| side.leaves == Leaves::OtherAddresses) {
        true => vec![Path::Direct, without],
        false => vec![Path::Direct],
    }
}

/// What a side reaches, and what the other one learns of it.
struct Side {
    place: Place,
    /// What its host's faults leave.
    leaves: Leaves,
    /// The network that it is in.
    segment: Option<usize>,
    /// It uses its relayed address alone.
    relay_only: bool,
    /// Its candidates reach the other side.
    is_told: bool,
    /// An address of it at which packets from outside arrive is among them.
    is_known: bool,
    /// Packets that it did not ask for get in.
    is_open: bool,
    /// Those of an address that it has sent to do, from any port.
    is_open_to_the_server: bool,
    /// What it is seen at may be one of several addresses.
    has_several_addresses: bool,
    /// Its datagrams pass unchanged.
    is_whole: bool,
    /// It has a relayed address.
    has_relay: bool,
}

impl Side {
    fn of(world: &World, topology: &Topology, side: usize) -> Self {
        let host = &topology.hosts[side];
        let session = &topology.sessions[side];
        let faults = &topology.server.faults;
        let place = Place::of(topology, side);
        let segment = host.interfaces.first().and_then(|eth0| eth0.segment);
        let way = segment.map(|segment| topology.way_out(segment)).unwrap_or_default();
        let planted = world.planted.iter().filter(|planted| planted.side == side && planted.fault.is_of_side());
        // Rewritten answers and checks fail their integrity.
        let is_whole = !way.iter().any(|router| router.alg == Some(Alg::Stun));
        let serves_udp = faults.answers && faults.udp && !faults.udp_filtered;
        let asks = serves_udp && is_whole && way.iter().all(|router| asks_through(router, session.port));
        let connects = faults.answers
            && faults.tcp
            && way.iter().all(|router| lets(router.egress.tcp.as_deref()))
            && !host.firewall.iter().any(stops_connections);
        let is_public = way.iter().all(|router| matches!(router.translation, Translation::Nothing { .. }));
        let signaling = &topology.signaling[side];
        let is_told = !signaling.lose_all && !signaling.lose_candidates;
        let pooled =
            |router: &&&Router| matches!(router.translation, Translation::Nat(_)) && router.external().count() > 1;
        let may_allocate = faults.turn && !session.no_turn && faults.credentials == Credentials::Right;
        let takes_unsolicited = !drops_unsolicited(host);
        Self {
            place,
            leaves: planted.map(|planted| planted.fault.leaves).max().unwrap_or(Leaves::All),
            segment,
            relay_only: session.relay_only,
            is_told,
            is_known: is_told && (asks || is_public),
            is_open: place.filtering == FilteringBehavior::EndpointIndependent && takes_unsolicited,
            is_open_to_the_server: place.filtering != FilteringBehavior::AddressAndPortDependent && takes_unsolicited,
            has_several_addresses: way.last().filter(pooled).is_some(),
            is_whole,
            has_relay: may_allocate && (asks || connects),
        }
    }

    /// Whether it sends to any address of the Internet, and hears what comes back.
    const fn reaches_any(&self) -> bool {
        self.is_whole && !self.place.blocked
    }
}

fn is_direct(topology: &Topology, a: &Side, b: &Side) -> bool {
    if a.relay_only || b.relay_only {
        return false;
    }
    let shared = a.segment.filter(|segment| b.segment == Some(*segment));
    if let Some(router) = shared.and_then(|segment| topology.router_of(segment)) {
        // Neighbors find each other by their own addresses, which need no server.
        let hairpins =
            matches!(&router.translation, Translation::Nat(nat) if nat.hairpinning != Hairpinning::Unsupported);
        return (a.is_told || b.is_told) && (!topology.segments[router.inside].isolated || hairpins);
    }
    if !a.reaches_any() || !b.reaches_any() {
        return false;
    }
    match (a.is_known, b.is_known) {
        (true, true) => predict(a.place, b.place, first(topology)) == Path::Direct,
        // The other one is learned from its own check.
        (true, false) => a.is_open,
        (false, true) => b.is_open,
        (false, false) => false,
    }
}

/// Whether the relayed address of one side leads to the other.
fn is_relayed(topology: &Topology, own: &Side, peer: &Side) -> bool {
    let faults = &topology.server.faults;
    if !own.has_relay || !own.is_told || !peer.is_told {
        return false;
    }
    // Both on one server: what goes from relay to relay does not leave it.
    if peer.has_relay && faults.relay_address.is_none() {
        return true;
    }
    // The relay takes packets from an address only that its client knows.
    if peer.relay_only || !peer.is_known || !peer.reaches_any() {
        return false;
    }
    match faults.relay_address {
        // The peer finds no way to it, but gets checks from it where its filter knows the server's address.
        Some(_) => peer.is_open_to_the_server && !faults.relay_ports_closed,
        None => !faults.relay_ports_closed,
    }
}

/// Who speaks first: whose candidates are later.
fn first(topology: &Topology) -> First {
    let [a, b] = &topology.signaling;
    if a.candidates_delay >= b.candidates_delay { First::A } else { First::B }
}

fn lets(ports: Option<&[Span32]>) -> bool {
    ports.is_none_or(|ports| ports.iter().any(|ports| ports.contains(STUN_PORT.into())))
}

/// Whether a host's requests of the server pass a router, and the answers.
fn asks_through(router: &Router, port: u16) -> bool {
    let answered = |ports: &Vec<Span32>| ports.iter().any(|ports| ports.contains(port.into()));
    lets(router.egress.udp.as_deref()) && router.stateless_inbound.as_ref().is_none_or(answered)
}

/// Whether a rule of a host's packet filter stops its connections to the server.
fn stops_connections(rule: &FirewallRule) -> bool {
    let is_of_all = rule.from.is_none() && rule.to.is_none() && rule.dev.is_none() && rule.fwmark.is_none();
    let is_of_tcp = rule.ipproto != Some(Protocol::Udp) && rule.sport.is_none();
    // What answers was asked for.
    let is_of_these = match rule.hook {
        Hook::Output => rule.dport.as_ref().is_none_or(|ports| ports.contains(STUN_PORT.into())),
        Hook::Prerouting | Hook::Input => rule.dport.is_none() && !rule.unsolicited,
    };
    matches!(rule.verdict, Verdict::Drop | Verdict::Reject) && is_of_all && is_of_tcp && is_of_these
}

/// Whether a host takes no packets but those of connections that it began.
fn drops_unsolicited(host: &Host) -> bool {
    host.firewall.iter().any(|rule| rule.unsolicited && rule.hook == Hook::Input && rule.verdict == Verdict::Drop)
}
