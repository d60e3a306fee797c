//! What a NAT does, in the words of RFC 4787.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Which destinations share one external address and port (RFC 4787 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MappingBehavior {
    /// All of them.
    EndpointIndependent,
    /// Those with the same IP address.
    AddressDependent,
    /// Those with the same IP address and port: every destination has its own. Often called "symmetric".
    AddressAndPortDependent,
}

impl MappingBehavior {
    /// Every behavior, in the RFC's order.
    pub const ALL: [Self; 3] = [Self::EndpointIndependent, Self::AddressDependent, Self::AddressAndPortDependent];
}

impl fmt::Display for MappingBehavior {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent => "address-dependent",
            Self::AddressAndPortDependent => "address-and-port-dependent",
        })
    }
}

/// From whom packets are let in to a mapped address (RFC 4787 §5). What was sent counts for the mapping that it was
/// sent from: with several mappings, each has permissions of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilteringBehavior {
    /// From anyone.
    EndpointIndependent,
    /// From IP addresses that were sent to.
    AddressDependent,
    /// From IP addresses and ports that were sent to.
    AddressAndPortDependent,
}

impl FilteringBehavior {
    /// Every behavior, in the RFC's order.
    pub const ALL: [Self; 3] = [Self::EndpointIndependent, Self::AddressDependent, Self::AddressAndPortDependent];
}

impl fmt::Display for FilteringBehavior {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent => "address-dependent",
            Self::AddressAndPortDependent => "address-and-port-dependent",
        })
    }
}

/// How the external port of a new mapping is chosen (RFC 4787 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortAllocation {
    /// The internal port if it is free, else a random one (RFC 4787 §4.2.1: port preservation).
    Preserving,
    /// Any free port.
    Random,
    /// One above the last, skipping those in use.
    Sequential,
    /// A function of the internal endpoint and of what the mapping depends on; the next free one when it is taken.
    Hash,
    /// Every internal host has a contiguous block of its own, as carriers do (RFC 7422); within it, in order.
    Contiguous {
        /// Ports in a block.
        block: u16,
    },
}

/// Which of several external addresses a mapping gets (RFC 4787 §4.1, "IP address pooling").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// All mappings of an internal host have the same external address.
    Paired,
    /// Each mapping has any of them.
    Arbitrary,
}

/// What keeps a mapping alive (RFC 4787 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refresh {
    /// Outbound packets only.
    Outbound,
    /// Outbound packets and inbound packets that are let in.
    Both,
}

/// What happens to a packet from the inside to a mapped address of the same NAT (RFC 4787 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hairpinning {
    /// It is dropped.
    Unsupported,
    /// It arrives from the sender's mapped address, as REQ-9 demands.
    ExternalSource,
    /// It arrives from the sender's internal address, which confuses both ends.
    InternalSource,
}

/// What an inbound packet that is not let in leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unsolicited {
    /// Nothing.
    Dropped,
    /// An entry in the connection table: the NAT took the packet for one to itself. As long as it lives, a mapping
    /// toward that sender cannot have the port that the packet was sent to. This is a Linux router that accepts
    /// input from outside: endpoint-independent for every tester, and never reached by a peer that spoke first.
    Tracked,
}

/// All that a simulated NAT needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behavior {
    /// Which destinations share a mapping.
    pub mapping: MappingBehavior,
    /// Who is let in.
    pub filtering: FilteringBehavior,
    /// How ports are chosen.
    pub ports: PortAllocation,
    /// Whether two internal endpoints may have the same external address and port as long as their destinations
    /// differ (RFC 4787 §4.2.1, "port overloading", as Linux does). A clash of destinations gives the
    /// flow that came later another port, which the later ones of its source have, too.
    pub overloading: bool,
    /// Which external address is chosen.
    pub pooling: Pooling,
    /// How long an idle mapping and its permissions live (RFC 4787 §4.3 asks for two minutes or more).
    pub lifetime: Duration,
    /// What keeps them alive.
    pub refresh: Refresh,
    /// Packets from the inside to a mapped address.
    pub hairpinning: Hairpinning,
    /// Packets that are not let in.
    pub unsolicited: Unsolicited,
}

impl Behavior {
    /// A NAT of one of the nine kinds that is otherwise as RFC 4787 asks: ports preserved where the mapping does not
    /// depend on the destination and random where it does, two minutes, refreshed by outbound packets, no hairpinning.
    pub const fn new(mapping: MappingBehavior, filtering: FilteringBehavior) -> Self {
        let ports = match mapping {
            MappingBehavior::EndpointIndependent => PortAllocation::Preserving,
            MappingBehavior::AddressDependent | MappingBehavior::AddressAndPortDependent => PortAllocation::Random,
        };
        Self {
            mapping,
            filtering,
            ports,
            overloading: false,
            pooling: Pooling::Paired,
            lifetime: Duration::from_secs(120),
            refresh: Refresh::Outbound,
            hairpinning: Hairpinning::Unsupported,
            unsolicited: Unsolicited::Dropped,
        }
    }

    /// A Linux router with `masquerade`: endpoint-independent as long as no flow clashes with another.
    pub const fn linux(unsolicited: Unsolicited) -> Self {
        let (mapping, filtering) = (MappingBehavior::EndpointIndependent, FilteringBehavior::AddressAndPortDependent);
        Self { overloading: true, refresh: Refresh::Both, unsolicited, ..Self::new(mapping, filtering) }
    }
}

/// Whether two peers behind such NATs can connect directly with ICE, each NAT having one external address and neither
/// losing a port to an early packet ([`Unsolicited::Tracked`]).
///
/// A host without a NAT is endpoint-independent in both; one behind a stateful firewall maps endpoint-independently
/// and filters by address and port. A check succeeds when it is let in and its answer comes from where the check went
/// (RFC 8445 §7.2.5.2.1). The address it goes to was learned either from a STUN server, which is right only if the
/// receiver's mapping is endpoint-independent, or from a packet of the receiver itself (a peer-reflexive candidate).
pub fn can_connect(a: (MappingBehavior, FilteringBehavior), b: (MappingBehavior, FilteringBehavior)) -> bool {
    use FilteringBehavior as F;
    use MappingBehavior as M;
    // The receiver's address from the server: it lets the sender in if it knows from where the sender comes.
    let to_reflexive = |sender: (M, F), receiver: (M, F)| {
        receiver.0 == M::EndpointIndependent
            && (receiver.1 != F::AddressAndPortDependent || sender.0 == M::EndpointIndependent)
    };
    // The receiver's address from its own packet: one side hears the other at the address that the server told, because
    // it filters nothing, and lets itself be heard; the one that maps by address is then found where it was heard from.
    let filters = [a.1, b.1];
    let to_peer_reflexive = (a.0 == M::AddressDependent || b.0 == M::AddressDependent)
        && !filters.contains(&F::AddressAndPortDependent)
        && filters.contains(&F::EndpointIndependent);
    to_reflexive(a, b) || to_reflexive(b, a) || to_peer_reflexive
}
