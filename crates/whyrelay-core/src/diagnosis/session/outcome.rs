//! What came out: on each side, and together.

use serde::Serialize;

use super::JoinedPair;
use crate::diagnosis::evidence::{Evidence, SideEvidence};
use crate::trace::event::{DtlsState, EndReason, IceState, Pair, Vantage};

/// The path of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Path {
    /// Peer to peer.
    Direct,
    /// Through a TURN server.
    Relayed,
    /// No path, or the path broke.
    Failed,
}

/// How a session ended for one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SideOutcome {
    /// Data goes over this pair.
    Connected {
        /// Number of the event that says so.
        seq: u64,
        /// The pair.
        pair: Pair,
    },
    /// No path was found, or it broke.
    Failed {
        /// Number of the event that says so.
        seq: u64,
        /// Whether there had been a path.
        was_connected: bool,
    },
    /// The recording stops before that is decided.
    Undecided,
    /// There is no recording.
    NotRecorded,
}

pub(super) fn of_side(side: &SideEvidence) -> SideOutcome {
    if side.events == 0 {
        return SideOutcome::NotRecorded;
    }
    let selected = side.selected_pair();
    let was_connected = selected.is_some();
    let finished = matches!(side.ended, Some((_, EndReason::Finished)));
    let dtls_failed = side.dtls.iter().rev().find_map(|(seq, state)| match state {
        DtlsState::FingerprintMismatch { .. } | DtlsState::Failed { .. } => Some(Some(*seq)),
        DtlsState::Connected { .. } => Some(None),
        _ => None,
    });
    if let Some(Some(seq)) = dtls_failed {
        return SideOutcome::Failed { seq, was_connected };
    }
    // A session may end in good order after its path broke: what ICE restarted for and did not get back is gone.
    if let Some(outage) = side.outage().filter(|outage| !finished || outage.restarts > 0) {
        return SideOutcome::Failed { seq: outage.seq, was_connected };
    }
    match (side.ice_state(), selected, side.ended) {
        (_, Some((seq, pair)), _) if finished => SideOutcome::Connected { seq, pair },
        (Some((seq, IceState::Failed, _)), ..) => SideOutcome::Failed { seq, was_connected },
        (_, Some((seq, pair)), _) => SideOutcome::Connected { seq, pair },
        (_, None, Some((seq, EndReason::Failed | EndReason::TimeLimit | EndReason::PeerLeft | EndReason::Error))) => {
            SideOutcome::Failed { seq, was_connected }
        }
        _ => SideOutcome::Undecided,
    }
}

pub(super) fn path(evidence: &Evidence, outcomes: &[SideOutcome; 2], pairs: &[JoinedPair]) -> Path {
    let finished = [Vantage::A, Vantage::B].into_iter().zip(outcomes).any(|(vantage, outcome)| {
        let ended = evidence.side(vantage).ended;
        matches!(outcome, SideOutcome::Connected { .. }) && matches!(ended, Some((_, EndReason::Finished)))
    });
    if !finished && outcomes.iter().any(|outcome| matches!(outcome, SideOutcome::Failed { .. })) {
        return Path::Failed;
    }
    let connected: Vec<_> = [Vantage::A, Vantage::B]
        .into_iter()
        .zip(outcomes)
        .filter_map(|(vantage, outcome)| match outcome {
            SideOutcome::Connected { pair, .. } => Some(super::is_relayed(evidence, vantage, *pair)),
            _ => None,
        })
        .collect();
    match connected.as_slice() {
        // Neither side says so itself; the wire may.
        [] => match pairs.iter().find(|pair| pair.selected) {
            Some(pair) if pair.relayed => Path::Relayed,
            Some(_) => Path::Direct,
            None => Path::Failed,
        },
        relayed if relayed.contains(&true) => Path::Relayed,
        _ => Path::Direct,
    }
}
