//! Each check of a pair with its own chain.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;

use super::timeline::Scale;
use crate::diagnosis::evidence::{Check, Evidence};
use crate::diagnosis::session::JoinedPair;
use crate::trace::event::{Pair, Vantage};
use crate::wire::stun::TransactionId;

/// Most checks of a pair that a report lists, each way.
pub const MAX_CHECKS: usize = 40;

/// One check: sent, seen, answered, answer seen. A step that did not happen or was not measured is `null`; which of
/// the two, the chain of the pair says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckRow {
    /// Who sent it.
    pub from: Vantage,
    /// When it was first sent, in microseconds on the time line.
    pub sent_us: Option<u64>,
    /// Transmissions, as the sender counts them; as the receiver does where the sender was not recorded.
    pub transmissions: u32,
    /// Transmissions that the sender's system refused.
    pub refused: u32,
    /// When the other side saw it first, on the time line.
    pub seen_us: Option<u64>,
    /// Where it came from.
    pub seen_from: Option<SocketAddr>,
    /// When it was answered.
    pub answered_us: Option<u64>,
    /// When the answer came.
    pub answer_seen_us: Option<u64>,
    /// The error code of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<u16>,
    /// Whether it carried USE-CANDIDATE.
    pub nominating: bool,
    /// Round trip in microseconds, where it was sent once.
    pub round_trip_us: Option<u64>,
    /// Number of the event: sent, or seen where the sender was not recorded.
    pub seq: u64,
}

/// One side's checks by pair.
type ByPair<'a> = BTreeMap<Pair, Vec<(TransactionId, &'a Check)>>;

/// Every check of both sides, by the pair of the side that is looked at.
pub(super) struct Checks<'a> {
    evidence: &'a Evidence,
    sent: [ByPair<'a>; 2],
    received: [ByPair<'a>; 2],
}

const fn index(vantage: Vantage) -> usize {
    match vantage {
        Vantage::A => 0,
        Vantage::B => 1,
    }
}

impl<'a> Checks<'a> {
    pub(super) fn of(evidence: &'a Evidence) -> Self {
        let by_pair = |checks: &'a BTreeMap<TransactionId, Check>| {
            let mut pairs: ByPair<'a> = BTreeMap::new();
            for (id, check) in checks {
                pairs.entry(check.pair).or_default().push((*id, check));
            }
            pairs.values_mut().for_each(|checks| checks.sort_by_key(|(_, check)| check.seq));
            pairs
        };
        let sides = [Vantage::A, Vantage::B].map(|vantage| evidence.side(vantage));
        Self {
            evidence,
            sent: sides.map(|side| by_pair(&side.sent)),
            received: sides.map(|side| by_pair(&side.received)),
        }
    }

    /// The checks of a pair, A's first, and how many more there were.
    pub(super) fn rows(&self, pair: &JoinedPair, scale: &Scale) -> (Vec<CheckRow>, usize) {
        let (mut rows, mut left_out) = (Vec::new(), 0);
        for from in [Vantage::A, Vantage::B] {
            let to = from.other();
            let recorded = self.evidence.is_recorded(from);
            let (checks, whose) = if recorded { (&self.sent, from) } else { (&self.received, to) };
            let checks = pair.side(whose).and_then(|side| checks[index(whose)].get(&side.pair));
            let Some(checks) = checks else { continue };
            left_out += checks.len().saturating_sub(MAX_CHECKS);
            for (id, check) in checks.iter().take(MAX_CHECKS) {
                rows.push(if recorded {
                    let seen = self.evidence.side(to).received.get(id);
                    row(from, Some(check), seen, scale)
                } else {
                    row(from, None, Some(check), scale)
                });
            }
        }
        (rows, left_out)
    }
}

fn row(from: Vantage, sent: Option<&Check>, seen: Option<&Check>, scale: &Scale) -> CheckRow {
    let to = from.other();
    let first = sent.or(seen);
    let answered = seen.and_then(|seen| seen.answer.as_ref());
    CheckRow {
        from,
        sent_us: sent.map(|sent| scale.us(from, sent.first)),
        transmissions: first.map_or(0, |check| check.transmissions),
        refused: sent.map_or(0, |sent| sent.refused),
        seen_us: seen.map(|seen| scale.us(to, seen.first)),
        seen_from: seen.map(|seen| seen.pair.remote),
        answered_us: answered.map(|answer| scale.us(to, answer.at)),
        answer_seen_us: sent.and_then(|sent| Some(scale.us(from, sent.answer.as_ref()?.at))),
        error: sent.and_then(Check::error).or_else(|| seen.and_then(Check::error)),
        nominating: first.is_some_and(|check| check.use_candidate),
        round_trip_us: sent.and_then(Check::round_trip_us),
        seq: first.map_or(0, |check| check.seq),
    }
}
