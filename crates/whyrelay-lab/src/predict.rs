//! What a pair of networks should reach, by theory: RFC 4787's terms and who speaks first (LINUX.md §3, CAUSES.md L1).

use whyrelay_core::nat::behavior::{FilteringBehavior, MappingBehavior, Unsolicited, can_connect};

use crate::scenario::Topology;
use crate::scenario::file::Path;
use crate::scenario::topology::Translation;

/// How a host's place looks from the Internet over IPv4: all its routers as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which destinations share a mapping.
    pub mapping: MappingBehavior,
    /// Who is let in.
    pub filtering: FilteringBehavior,
    /// UDP to arbitrary peers does not get out, or what comes back does not get in.
    pub blocked: bool,
    /// An early packet takes the port.
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
        let port = topology.sessions.get(host).map_or(0, |session| session.port);
        for router in topology.way_out(segment) {
            match &router.translation {
                Translation::Nat(behavior) => {
                    place.mapping = place.mapping.max(behavior.mapping);
                    place.filtering = place.filtering.max(behavior.filtering);
                    place.tracks |= behavior.unsolicited == Unsolicited::Tracked;
                }
                Translation::OneToOne { filtering, .. } | Translation::Nothing { filtering, .. } => {
                    place.filtering = place.filtering.max(*filtering);
                }
            }
            let closed = router
                .stateless_inbound
                .as_ref()
                .is_some_and(|ports| !ports.iter().any(|ports| ports.contains(port.into())));
            place.blocked |= router.egress.udp.is_some() || closed;
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
