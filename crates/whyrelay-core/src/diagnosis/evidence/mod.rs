//! What the events of both sides add up to.
//!
//! [`Evidence::apply`] is the only way in, for live sessions, replay and tests alike. Checks, nominations, allocations
//! and permissions are rebuilt from the STUN and TURN messages at the socket, those that TURN carries included. The
//! two sides are folded apart and joined by transaction id, never by clock, so that the order in which their events
//! come does not matter.

mod check;
mod checklist;
mod fold;
mod host;
mod known;
mod measured;
mod seen;
mod server;
mod side;
mod sizes;
mod wire;

pub use check::{Answer, Check, Outcome};
pub use checklist::{FoldedPair, FoldedState};
pub use host::{HostEvidence, Taken};
pub use known::Known;
pub use measured::{EarlyPacket, Measured, NatBehavior};
pub use seen::{
    AgentPair, Damaged, Description, FailedServer, IcmpError, LocalCandidate, Outage, RemoteCandidate, RoundTrips,
    SendFailure, Traffic,
};
pub use server::{Allocation, ServerPath, ServerRequest};
pub use side::{LEAST_SILENCE, LateAnswer, NO_TIME, SideEvidence};
pub use sizes::{LARGE, Sizes};

use crate::trace::event::{EndReason, Event, Vantage};

/// Both sides' events, folded.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    a: SideEvidence,
    b: SideEvidence,
}

impl Evidence {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Folds a whole recording.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut evidence = Self::new();
        events.into_iter().for_each(|event| evidence.apply(event));
        evidence
    }

    /// Takes one event. Events of one side come in their order; a repeated one is ignored.
    pub fn apply(&mut self, event: &Event) {
        match event.vantage {
            Vantage::A => self.a.apply(event),
            Vantage::B => self.b.apply(event),
        }
    }

    /// What one side saw.
    pub const fn side(&self, vantage: Vantage) -> &SideEvidence {
        match vantage {
            Vantage::A => &self.a,
            Vantage::B => &self.b,
        }
    }

    /// Whether there is a recording of a side at all.
    pub const fn is_recorded(&self, vantage: Vantage) -> bool {
        self.side(vantage).events > 0
    }

    /// The event that says that a side was interrupted by its user or system: its own end, or its word to the other side.
    pub fn interrupted(&self, vantage: Vantage) -> Option<u64> {
        let own = self.side(vantage).ended.filter(|(_, reason)| *reason == EndReason::Interrupted);
        own.map(|(seq, _)| seq).or(self.side(vantage.other()).peer_interrupted)
    }

    /// Whether this is the recording of one host that looked at its own network.
    pub const fn is_alone(&self) -> bool {
        self.a.measured.alone.is_some()
    }

    /// Whether "this side did not see it" can be said: it was recorded, to the end and without gaps.
    pub fn is_complete(&self, vantage: Vantage) -> bool {
        let side = self.side(vantage);
        let whole = matches!(self.side(vantage.other()).peer_recording, Some((_, None)));
        side.events > 0 && side.dropped == 0 && (side.ended.is_some() || whole)
    }

    /// The checklist of one side as the wire shows it, in the current generation: every pair that was checked.
    pub fn folded_checklist(&self, vantage: Vantage) -> Vec<FoldedPair> {
        checklist::fold(self.side(vantage))
    }
}
