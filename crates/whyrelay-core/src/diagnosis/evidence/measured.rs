//! What a side measured of its own network, folded.

use std::net::{IpAddr, SocketAddr};

use crate::nat::behavior::{FilteringBehavior, MappingBehavior};
use crate::trace::event::EventKind;
use crate::trace::measurement::Measurement;

/// Most measurements that are kept, and most that are missing.
const MAX_MEASURED: usize = 2000;

/// What one side measured, in the order in which it did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// The recording is of one host alone: number of its event, and what was consented to.
    pub alone: Option<(u64, Vec<String>)>,
    /// Measurements with the numbers of their events.
    pub facts: Vec<(u64, Measurement)>,
    /// What was not measured and why.
    pub missing: Vec<(u64, String, String)>,
}

/// What discovery found for one local address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatBehavior {
    /// The local address.
    pub local: IpAddr,
    /// The mapped address of one socket, with that socket; equal where there is no NAT.
    pub mapped: Option<(SocketAddr, SocketAddr)>,
    /// How it maps; false: at least so.
    pub mapping: Option<(MappingBehavior, bool)>,
    /// Whom it lets in.
    pub filtering: Option<FilteringBehavior>,
}

/// A packet that came to a socket unasked because this side wanted to see what its NAT makes of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlyPacket {
    local: SocketAddr,
    from: SocketAddr,
    /// The address that the socket got in exchange for its own, if it lost that.
    instead: Option<SocketAddr>,
}

impl EarlyPacket {
    /// Whether a socket may have another mapped address towards a server because of this packet.
    pub fn may_have_changed(&self, local: SocketAddr, server: SocketAddr, mapped: SocketAddr) -> bool {
        local == self.local && (server == self.from || self.instead == Some(mapped))
    }
}

impl Measured {
    /// Takes an event in; answers whether it found room.
    pub(super) fn apply(&mut self, seq: u64, kind: &EventKind) -> bool {
        match kind {
            EventKind::CheckStarted { consents } => self.alone = Some((seq, consents.clone())),
            EventKind::Measured(fact) if self.facts.len() < MAX_MEASURED => self.facts.push((seq, fact.clone())),
            EventKind::NotMeasured { what, why } if self.missing.len() < MAX_MEASURED => {
                self.missing.push((seq, what.clone(), why.clone()));
            }
            _ => return false,
        }
        true
    }

    /// What discovery found, for each local address that it looked from.
    pub fn nats(&self) -> Vec<NatBehavior> {
        let mut nats: Vec<NatBehavior> = Vec::new();
        for (_, fact) in &self.facts {
            let local = match fact {
                Measurement::MappedAddress { local, .. } | Measurement::Mapping { local, .. } => local.ip(),
                Measurement::Filtering { local, .. } => *local,
                _ => continue,
            };
            let position = nats.iter().position(|nat| nat.local == local).unwrap_or_else(|| {
                nats.push(NatBehavior { local, mapped: None, mapping: None, filtering: None });
                nats.len() - 1
            });
            let nat = &mut nats[position];
            match fact {
                Measurement::MappedAddress { local, mapped, .. } => {
                    nat.mapped.get_or_insert((*local, *mapped));
                }
                Measurement::Mapping { local, behavior, exact, mapped, .. } => {
                    nat.mapped = Some((*local, *mapped));
                    nat.mapping = Some((*behavior, *exact));
                }
                Measurement::Filtering { behavior, .. } => nat.filtering = Some(*behavior),
                _ => {}
            }
        }
        nats
    }

    /// The early packets that this side had sent to itself.
    pub fn early_packets(&self) -> Vec<EarlyPacket> {
        let early = |(_, fact): &(u64, Measurement)| match fact {
            // Where the control differs already, it is not the packet's doing.
            Measurement::EarlyArrival { local, remote, mapped, observed, control, .. } => Some(EarlyPacket {
                local: *local,
                from: *remote,
                instead: (control == mapped && observed != mapped).then_some(*observed),
            }),
            _ => None,
        };
        self.facts.iter().filter_map(early).collect()
    }

    /// The NAT in front of one local address.
    pub fn nat(&self, local: IpAddr) -> Option<NatBehavior> {
        self.nats().into_iter().find(|nat| nat.local == local)
    }
}

impl NatBehavior {
    /// Whether addresses are translated; `None` where no server told.
    pub fn translates(&self) -> Option<bool> {
        self.mapped.map(|(local, mapped)| local != mapped)
    }
}
