//! What routers make of packets whose checksum is wrong.

use std::net::IpAddr;

use whyrelay_core::nat::behavior::FilteringBehavior;

use super::{Network, Packet, RouterId};
use crate::scenario::file::Ipv6;
use crate::scenario::topology::{self, Translation};

/// What becomes of them at a router, over one family. Linux's connection tracking calls them invalid: they are of no
/// connection, so that nothing translates them and no filter remembers them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::world) enum Invalid {
    /// Nobody looks: they are translated as others are, and stay wrong.
    #[default]
    Translated,
    /// They are not translated, and so nobody gets them.
    Lost,
    /// They get out, and none gets in.
    Outbound,
    /// They pass.
    Untracked,
}

impl Invalid {
    /// The same of a router's IPv4 and of its IPv6. Which of them Linux makes is what namespaces have, too.
    pub(in crate::world) fn of(router: &topology::Router) -> [Self; 2] {
        let filtered = |filtering| match filtering {
            FilteringBehavior::EndpointIndependent => Self::Untracked,
            // Nothing of Linux's own remembers addresses without ports.
            FilteringBehavior::AddressDependent => Self::Translated,
            FilteringBehavior::AddressAndPortDependent => Self::Outbound,
        };
        let ipv4 = match &router.translation {
            Translation::Nat(behavior) if behavior.overloading => Self::Lost,
            Translation::Nat(_) => Self::Translated,
            Translation::OneToOne { filtering, .. } => match filtered(*filtering) {
                Self::Translated => Self::Translated,
                _ => Self::Lost,
            },
            Translation::Nothing { filtering, .. } => filtered(*filtering),
        };
        [ipv4, if router.ipv6 == Ipv6::Open { Self::Untracked } else { Self::Outbound }]
    }
}

impl Network {
    /// What a router makes of a packet with a wrong checksum; nothing to be said of one with a right one.
    pub(super) fn invalid(&self, RouterId(router): RouterId, packet: &Packet) -> Invalid {
        let of_family = |address: IpAddr| self.routers[router].extras.invalid[usize::from(address.is_ipv6())];
        if packet.wrong_checksum { of_family(packet.destination.ip()) } else { Invalid::Translated }
    }
}
