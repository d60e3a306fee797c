//! The checklist as the wire shows it, to be compared with the agent's own.

use std::collections::BTreeMap;

use super::check::Check;
use super::side::SideEvidence;
use crate::trace::event::{Pair, PairState};

/// The state of a pair as far as the wire can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FoldedState {
    /// A check on it was answered with success, the way it went.
    Succeeded,
    /// The last answer was an error other than 487, or came another way than the check went.
    Failed,
    /// No check on it was answered, or the last answer was 487: in progress, or failed by silence. Silence alone does
    /// not say which, because the schedule of the agent is not on the wire.
    Unanswered,
}

impl FoldedState {
    /// Whether the agent's own state of the pair is one that this wire allows.
    ///
    /// A pair that succeeded may be checked again (a triggered check, a nomination) and may lose consent.
    pub const fn agrees_with(self, state: PairState) -> bool {
        match self {
            Self::Succeeded => !matches!(state, PairState::Frozen),
            Self::Failed => matches!(state, PairState::Failed),
            Self::Unanswered => !matches!(state, PairState::Succeeded),
        }
    }
}

/// A pair that was checked, as the wire shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoldedPair {
    /// The pair.
    pub pair: Pair,
    /// Its state.
    pub state: FoldedState,
    /// A check with USE-CANDIDATE was answered with success: sent by a controlling side, or received by a controlled
    /// side and the pair succeeded (RFC 8445 §8.1.1, §7.3.1.5).
    pub nominated: bool,
    /// Checks sent.
    pub sent: u32,
    /// Checks received.
    pub received: u32,
}

pub(super) fn fold(side: &SideEvidence) -> Vec<FoldedPair> {
    let mut pairs: BTreeMap<Pair, (Vec<&Check>, Vec<&Check>)> = BTreeMap::new();
    let current = |check: &&Check| check.generation == side.generation;
    for check in side.sent.values().filter(current) {
        pairs.entry(check.pair).or_default().0.push(check);
    }
    for check in side.received.values().filter(current) {
        pairs.entry(check.pair).or_default().1.push(check);
    }
    pairs.into_iter().map(|(pair, (sent, received))| fold_pair(pair, &sent, &received)).collect()
}

fn fold_pair(pair: Pair, sent: &[&Check], received: &[&Check]) -> FoldedPair {
    let succeeded = sent.iter().any(|check| check.succeeded());
    let last_answered = sent.iter().filter(|check| check.answer.is_some()).max_by_key(|check| check.seq);
    let state = match last_answered {
        _ if succeeded => FoldedState::Succeeded,
        Some(check) if check.error() != Some(487) => FoldedState::Failed,
        _ => FoldedState::Unanswered,
    };
    let by_us = sent.iter().any(|check| check.use_candidate && check.succeeded());
    let by_peer = succeeded && received.iter().any(|check| check.use_candidate && check.succeeded());
    FoldedPair {
        pair,
        state,
        nominated: by_us || by_peer,
        sent: u32::try_from(sent.len()).unwrap_or(u32::MAX),
        received: u32::try_from(received.len()).unwrap_or(u32::MAX),
    }
}
