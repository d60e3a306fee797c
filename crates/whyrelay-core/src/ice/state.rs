//! The agent's state, and when it has nothing left to try; and its timers.

use crate::time::Timestamp;
use crate::trace::event::{EventKind, IceState, IceStateReason};

use super::agent::Agent;
use super::check::Schedule;
use super::io::Output;

/// Everything that happens by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A check is due: Ta passed.
    Check,
    /// A request is sent again or given up.
    Transaction,
    /// A TCP connection is given up.
    Connection,
    /// The wait for a better pair ends.
    Nomination,
    /// A consent check is due, consent becomes doubtful, or it expires.
    Consent,
    /// Nothing is left to try but what the peer could start.
    Grace,
}

impl Agent {
    /// Each timer that runs.
    pub(super) fn timers(&self) -> impl Iterator<Item = (Timer, Timestamp)> {
        [
            (Timer::Check, self.next_check_at()),
            (Timer::Transaction, self.transactions.next_at()),
            (Timer::Connection, self.next_connection_at()),
            (Timer::Nomination, self.next_nomination_at()),
            (Timer::Consent, self.next_consent_at()),
            (Timer::Grace, self.grace_ends().filter(|_| self.state != IceState::Failed)),
        ]
        .into_iter()
        .filter_map(|(timer, at)| Some((timer, at?)))
    }

    pub(super) fn next_timeout(&self) -> Timestamp {
        if self.state == IceState::Closed {
            return Timestamp::from_micros(u64::MAX);
        }
        self.timers().map(|(_, at)| at).min().unwrap_or(Timestamp::from_micros(u64::MAX))
    }

    pub(super) fn set_state(&mut self, to: IceState, reason: IceStateReason) {
        if self.state == to {
            return;
        }
        let from = std::mem::replace(&mut self.state, to);
        self.event(EventKind::IceStateChanged { from, to, reason });
        self.push(Output::StateChanged(to));
    }

    pub(super) fn update_state(&mut self, now: Timestamp) {
        let Some((to, reason)) = self.next_state(now) else { return };
        // Nobody should see Completed without Connected before it.
        if to == IceState::Completed && matches!(self.state, IceState::New | IceState::Checking | IceState::Failed) {
            self.set_state(IceState::Connected, IceStateReason::PairSucceeded);
        }
        self.set_state(to, reason);
    }

    fn next_state(&self, now: Timestamp) -> Option<(IceState, IceStateReason)> {
        use IceState::{Checking, Completed, Connected, Disconnected, Failed};
        let open = self.generation.checklist.iter().any(|(_, pair)| pair.is_open());
        let here = self.carrier.as_ref().filter(|carrier| carrier.generation == self.generation.number);
        if let Some(carrier) = here {
            if carrier.consent.is_silent() {
                return Some((Disconnected, IceStateReason::ConsentSilent));
            }
            let settled = carrier.selected_at.is_some() && !open && !self.is_replacing();
            return Some(match self.state {
                Disconnected if settled => (Completed, IceStateReason::ConsentBack),
                Disconnected => (Connected, IceStateReason::ConsentBack),
                Connected if settled && self.selected_just_now(now) => (Completed, IceStateReason::PairSelected),
                Connected if settled => (Completed, IceStateReason::NothingBetter),
                // Once completed, a late candidate does not undo it.
                Connected | Completed => return None,
                _ if settled => (Completed, IceStateReason::PairSelected),
                _ => (Connected, IceStateReason::PairSucceeded),
            });
        }
        if self.is_replacing() {
            return Some((Disconnected, IceStateReason::ConsentExpired));
        }
        if self.lost && !open {
            return Some((Failed, IceStateReason::ConsentExpired));
        }
        if open {
            return Some(match self.state {
                Failed => (Checking, IceStateReason::PeerChecked),
                _ => (Checking, IceStateReason::FirstPair),
            });
        }
        // After a restart, the old pair's silence is not the new generation's failure.
        if self.grace_ends().is_some_and(|at| self.heard >= at) {
            let none = self.generation.checklist.is_empty();
            return Some((Failed, if none { IceStateReason::NoPairs } else { IceStateReason::NothingLeft }));
        }
        None
    }

    fn selected_just_now(&self, now: Timestamp) -> bool {
        self.carrier.as_ref().and_then(|carrier| carrier.selected_at) == Some(now)
    }

    /// When an agent with nothing left to try fails; `None` while something is left.
    ///
    /// At once when pairs were tried and failed. Without any pair, or with a TCP port open for the peer, the peer's own
    /// checks may still come: they get one whole schedule from the moment when both sides had said end-of-candidates.
    fn grace_ends(&self) -> Option<Timestamp> {
        let generation = &self.generation;
        let done_at = generation.done_at.filter(|_| !generation.expects_candidates() && generation.remote.is_some())?;
        let carried = self.carrier.as_ref().is_some_and(|carrier| carrier.generation == generation.number);
        if carried || generation.checklist.iter().any(|(_, pair)| pair.is_open() || pair.is_valid()) {
            return None;
        }
        let patience = Schedule::new(self.conditions(false)).give_up();
        let alone = generation.checklist.is_empty() || generation.awaits_connection;
        Some(if alone { done_at + patience } else { done_at })
    }
}
