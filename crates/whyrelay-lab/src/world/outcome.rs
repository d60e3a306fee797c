//! What became of a world.

use std::time::Duration;

use whyrelay_core::ice::candidate::CandidateType;
use whyrelay_core::ice::{PairSnapshot, SelectedPair};
use whyrelay_core::trace::event::{Event, IceState, Role};

use super::{START, World, peer};

/// How the peers were connected in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// From host to host.
    Direct,
    /// Through a relay on at least one side.
    Relayed,
    /// Not at all.
    Failed,
}

/// What became of one peer.
#[derive(Clone, Debug)]
pub struct PeerOutcome {
    /// How it is connected.
    pub path: Path,
    /// The agent's state.
    pub state: IceState,
    /// The agent's role.
    pub role: Option<Role>,
    /// The agent's generation.
    pub generation: u32,
    /// The selected pair.
    pub selected: Option<SelectedPair>,
    /// The agent's checklist.
    pub checklist: Vec<PairSnapshot>,
    /// When data could first be sent, from the beginning of the world.
    pub usable_after: Option<Duration>,
    /// When a pair was first selected.
    pub selected_after: Option<Duration>,
    /// When it failed, if it did.
    pub failed_after: Option<Duration>,
    /// Datagrams of data that arrived.
    pub data_received: u64,
    /// What it recorded, to the end.
    pub events: Vec<Event>,
    /// How many of these events there were when the rest of this outcome was taken, before it closed.
    pub observed: usize,
    /// The same as it would stand in a file.
    pub recording: String,
}

/// What became of a world.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The offerer.
    pub a: PeerOutcome,
    /// The answerer.
    pub b: PeerOutcome,
    /// Datagrams of data that passed the relay while data was tried.
    pub relayed_data: u64,
    /// Whether the server was cut off while data was tried: where both sides had selected a direct pair by then.
    pub relay_cut: bool,
    /// Allocations left at the server after both sides closed.
    pub allocations_left: usize,
    /// Datagrams of data that each side sent.
    pub data_sent: u64,
}

impl Outcome {
    /// How the two are connected; `None` when they disagree.
    pub fn path(&self) -> Option<Path> {
        (self.a.path == self.b.path).then_some(self.a.path)
    }
}

impl World {
    pub(super) fn outcome(&self, index: usize) -> PeerOutcome {
        let peer = &self.peers[index];
        PeerOutcome {
            path: self.path(index),
            state: peer.state(),
            role: peer.role(),
            generation: peer.generation(),
            selected: peer.selected(),
            checklist: peer.checklist(),
            usable_after: peer::after(START, peer.first_usable),
            selected_after: peer::after(START, peer.first_selected),
            failed_after: peer::after(START, peer.failed),
            data_received: peer.data_received,
            events: Vec::new(),
            observed: peer.events.len(),
            recording: String::new(),
        }
    }

    /// Whether both peers are connected directly now.
    pub(super) fn is_direct(&self) -> bool {
        (0..2).all(|index| self.path(index) == Path::Direct)
    }

    /// How a peer is connected now.
    pub(super) fn path(&self, index: usize) -> Path {
        let peer = &self.peers[index];
        let relayed = |pair: &SelectedPair| {
            let ends = [pair.local.kind, pair.remote.kind];
            ends.contains(&CandidateType::Relayed) || self.server.is_relay(pair.pair.remote)
        };
        match peer.selected() {
            Some(_) if peer.state() == IceState::Failed => Path::Failed,
            Some(pair) if relayed(&pair) => Path::Relayed,
            Some(_) => Path::Direct,
            None => Path::Failed,
        }
    }
}
