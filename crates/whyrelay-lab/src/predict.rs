//! What a pair of networks should reach, by theory: RFC 4787's terms and who speaks first (LINUX.md §3, CAUSES.md L1).

use whyrelay_core::nat::behavior::{FilteringBehavior, MappingBehavior, PortAllocation, Unsolicited, can_connect};

use crate::scenario::Topology;
use crate::scenario::file::Path;
use crate::scenario::topology::Translation;
use crate::scenario::value::Span32;

/// How a host's place looks from the Internet over IPv4: all its routers as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which destinations share a mapping.
    pub mapping: MappingBehavior,
    /// Who is let in.
    pub filtering: FilteringBehavior,
    /// UDP to arbitrary peers does not get out, or what comes back does not get in.
    pub blocked: bool,
    /// An early packet takes the port: it gets to a router that accepts what comes to itself.
    pub tracks: bool,
}

impl Place {
    /// The place of the host at an index of a topology.
    pub fn of(topology: &Topology, host: usize) -> Self {
        let mut place = Self {
            mapping: MappingBehavior::EndpointIndependent,
            filtering: FilteringBehavior::EndpointIndependent,
            blocked: false,
            tracks: false,
        };
        let Some(segment) = topology.hosts[host].interfaces.first().and_then(|eth0| eth0.segment) else {
            return Self { blocked: true, ..place };
        };
        let mut port = topology.sessions.get(host).map(|session| session.port);
        for router in topology.way_out(segment) {
            if matches!(&router.translation, Translation::Nat(nat) if nat.ports != PortAllocation::Preserving) {
                port = None;
            }
            // Of a port that nobody knows ahead, all that a NAT may give must be let in.
            let lets = |ports: &Vec<Span32>| match port {
                Some(port) => ports.iter().any(|ports| ports.contains(port.into())),
                None => ports.iter().any(|ports| ports.contains(1024) && ports.contains(u16::MAX.into())),
            };
            place.blocked |= router.egress.udp.is_some() || !router.stateless_inbound.as_ref().is_none_or(lets);
        }
        // From the outermost inward: a packet that nobody asked for gets as far as every filter on its way lets it.
        let mut exposed = true;
        for router in topology.way_out(segment).into_iter().rev() {
            match &router.translation {
                Translation::Nat(behavior) => {
                    place.mapping = place.mapping.max(behavior.mapping);
                    place.filtering = place.filtering.max(behavior.filtering);
                    place.tracks |= exposed && behavior.unsolicited == Unsolicited::Tracked;
                    exposed &= behavior.filtering == FilteringBehavior::EndpointIndependent;
                }
                Translation::OneToOne { filtering, .. } | Translation::Nothing { filtering, .. } => {
                    place.filtering = place.filtering.max(*filtering);
                    exposed &= *filtering == FilteringBehavior::EndpointIndependent;
                }
            }
        }
        place
    }
}

/// Who speaks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum First {
    /// The offerer: its candidates reach b late.
    A,
    /// The answerer.
    B,
}

/// The path that two places should reach when there is a relay and nothing else is wrong.
pub fn predict(a: Place, b: Place, first: First) -> Path {
    if a.blocked || b.blocked {
        return Path::Relayed;
    }
    // A packet that comes before the host has sent takes the port: from then on the host has another toward this peer.
    let mapping = |place: Place, late: bool| {
        let stolen = place.tracks && late && place.filtering == FilteringBehavior::AddressAndPortDependent;
        if stolen { MappingBehavior::AddressAndPortDependent } else { place.mapping }
    };
    let a = (mapping(a, first == First::B), a.filtering);
    let b = (mapping(b, first == First::A), b.filtering);
    if can_connect(a, b) { Path::Direct } else { Path::Relayed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::run_virtual;
    use crate::scenario::Scenario;

    /// The first of two routers is the inner one.
    #[test]
    fn an_early_packet_takes_no_port_behind_a_router_that_drops_it() {
        for (behind, tracks) in [
            (&["linux-input-accept"][..], true),
            (&["linux-input-accept", "home-router"], false),
            (&["linux-input-accept", "home-router-address-restricted"], false),
            (&["linux-input-accept", "home-router-open"], true),
            (&["linux-input-accept", "cloud-security-group"], false),
            (&["home-router", "linux-input-accept"], true),
        ] {
            let text = format!(
                "title = \"t\"\n[host.a]\nbehind = {behind:?}\n[host.b]\nbehind = \"home-router\"\n\
                 [signaling.b]\ncandidates-delay = \"400ms\"\n[expect]\npath = \"direct\"\n"
            );
            let Scenario { topology, .. } = Scenario::parse("test", &text).unwrap_or_else(|error| panic!("{error}"));
            let place = Place::of(&topology, 0);
            assert_eq!(place.tracks, tracks, "{behind:?}");
            let expected = predict(place, Place::of(&topology, 1), First::B);
            assert_eq!(expected, if tracks { Path::Relayed } else { Path::Direct }, "{behind:?}");
            assert_eq!(run_virtual(&topology).path, Some(expected), "{behind:?}");
        }
    }
}
