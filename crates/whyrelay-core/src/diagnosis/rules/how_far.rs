//! How far packets to a third party's port get, by the routers that say where packets of few hops died: in front of the
//! routers that packets to the server's own port reach, or as far as those.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::diagnosis::evidence::SideEvidence;
use crate::trace::address::AddressClass;
use crate::trace::measurement::Measurement;

/// A router's place on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) ttl: u8,
    pub(super) router: IpAddr,
    pub(super) seq: u64,
}

/// Where packets to a third party's port are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// Behind this router, which is outside of the side's own network, and the last that packets to the server's own port
    /// are known to reach.
    Behind(Hop),
    /// In front of this router, which packets to the server's own port reach.
    InFrontOf(Hop),
    /// The routers do not tell.
    Untold,
}

/// Nothing that the side sent to `third`, a port that a server opened for it, arrived.
pub(super) fn lost(side: &SideEvidence, third: SocketAddr) -> Lost {
    let facts = || side.measured.facts.iter();
    let thirds: BTreeSet<SocketAddr> = facts()
        .filter_map(|(_, fact)| match fact {
            Measurement::ThirdParty { remote, .. } => Some(*remote),
            _ => None,
        })
        .collect();
    let to = |is: &dyn Fn(SocketAddr) -> bool| -> Vec<(u8, Option<Hop>)> {
        let hops = facts().filter_map(|(seq, fact)| match fact {
            Measurement::Hop { remote, ttl, router } if is(*remote) => {
                Some((*ttl, router.map(|router| Hop { ttl: *ttl, router, seq: *seq })))
            }
            _ => None,
        });
        hops.collect()
    };
    let here = to(&|remote| remote == third);
    let known = to(&|remote| remote.ip() == third.ip() && !thirds.contains(&remote));
    let known: BTreeMap<u8, Hop> = known.into_iter().filter_map(|(ttl, hop)| Some((ttl, hop?))).collect();
    let reached: BTreeMap<u8, Hop> = here.iter().filter_map(|(ttl, hop)| Some((*ttl, (*hop)?))).collect();
    let farthest = reached.values().next_back();
    // The first router has answered other questions of this host, and may have said as much as it will in a second.
    let next = farthest.map_or(2, |hop| hop.ttl + 1).max(2);
    if let Some((ttl, hop)) = known.range(next..).next() {
        let asked = here.iter().any(|(asked, _)| asked == ttl);
        return if asked { Lost::InFrontOf(*hop) } else { Lost::Untold };
    }
    // A packet that dies at the second of them was let out by the first, which may be the network's own firewall.
    let public = reached.values().filter(|hop| AddressClass::of(hop.router) == AddressClass::Public);
    match farthest {
        Some(farthest) if !known.is_empty() && public.count() >= 2 => Lost::Behind(*farthest),
        _ => Lost::Untold,
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, the router at hop {}", self.router, self.ttl)
    }
}
