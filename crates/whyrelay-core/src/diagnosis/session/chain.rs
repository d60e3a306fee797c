//! The chain of a pair's checks in one direction: sent, seen, answered, answer seen. Where it breaks is where the
//! fault is.

mod counted;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::Serialize;

use crate::diagnosis::evidence::{Check, Evidence, SideEvidence};
use crate::trace::event::{Pair, Vantage};
use crate::wire::stun::TransactionId;

/// Most distinct addresses that a chain lists.
const MAX_ADDRESSES: usize = 8;

/// Fewer transmissions after a restart may be lost by themselves, or on their way when the session ended.
const ENOUGH: u32 = 3;

/// The chain of a pair's checks in one direction, joined by transaction id. A step that was not measured is `None`,
/// never zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Chain {
    /// Sent by the one side.
    pub sent: Option<Sent>,
    /// Seen by the other.
    pub seen: Option<Seen>,
    /// How many checks it answered.
    pub answered: Option<u32>,
    /// How many of the answers the one side saw.
    pub answer_seen: Option<u32>,
    /// Error codes of the answers, with their number.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<u16, u32>,
    /// Whether any of the checks carried USE-CANDIDATE.
    pub nominating: bool,
    /// Shortest round trip of a check that was sent once, in microseconds: the others waited for something beside the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_trip_us: Option<u64>,
    /// Where it broke; `None` when it did not, or nothing was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<Break>,
    /// Events that show it: first check sent, first seen, first answers.
    pub evidence: Vec<u64>,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sent {
    /// Checks, each with its own transaction id.
    pub checks: u32,
    /// Transmissions, repeated ones included.
    pub transmissions: u32,
    /// Transmissions that the system refused.
    pub refused: u32,
    /// First transmission, in microseconds since the recording of that side began.
    pub first_us: u64,
    /// Last transmission, likewise.
    pub last_us: u64,
}

/// What arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Checks.
    pub checks: u32,
    /// Transmissions.
    pub transmissions: u32,
    /// Where they came from, at most eight addresses.
    pub from: Vec<SocketAddr>,
    /// Where they arrived, at most eight addresses.
    pub at: Vec<SocketAddr>,
}

/// Where a chain broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Break {
    /// The sender's own system refused to send.
    AtSending,
    /// Sent, never seen by the other side.
    OnTheWay,
    /// Seen, not answered.
    AtAnswering,
    /// Answered, the answer never seen.
    OnTheWayBack,
    /// Answered with errors only.
    Refused,
    /// Not answered; where it broke was not measured.
    Somewhere,
}

/// Checks of one pair with their transaction ids.
pub(super) type Checks<'a> = Vec<(TransactionId, &'a Check)>;

/// The chain from `from` to the other side. `pairs`: that side's pair and its mirror image; `sent`: that side's checks
/// on its pair; `received`: what the other side received on its mirror image.
pub(super) fn build(
    evidence: &Evidence,
    from: Vantage,
    pairs: [Option<Pair>; 2],
    sent: &Checks<'_>,
    received: &Checks<'_>,
) -> Chain {
    let (sender, receiver) = (evidence.side(from), evidence.side(from.other()));
    let mut chain = Chain::default();
    let mut late = false;
    if sender.is_counted() || receiver.is_counted() {
        return counted::build(evidence, from, pairs, sent, received);
    }
    if evidence.is_recorded(from) {
        fill_sent(&mut chain, sent, sender.first_at.as_micros());
        let seen: Checks<'_> = sent.iter().filter_map(|(id, _)| Some((*id, receiver.received.get(id)?))).collect();
        if !seen.is_empty() || evidence.is_complete(from.other()) {
            fill_seen(&mut chain, &seen);
            late = all_after_close(&seen);
        }
    } else {
        fill_seen(&mut chain, received);
        late = all_after_close(received);
    }
    chain.broken = broken(&chain, late);
    chain.evidence.sort_unstable();
    chain.evidence.dedup();
    chain
}

/// What of a direct pair's chain came after ICE restarted, where the pair worked before and does not any more: the whole
/// of its checks would say that it works. Both sides must have taken part in the restart: what one of them did not see
/// because it was gone tells nothing of the way.
pub(super) fn after_restart(evidence: &Evidence, from: Vantage, whole: &Chain, sent: &Checks<'_>) -> Option<Chain> {
    let (sender, receiver) = (evidence.side(from), evidence.side(from.other()));
    let takes_part = |side: &SideEvidence| {
        side.generation > 0 && side.sent.values().any(|check| check.generation == side.generation)
    };
    if whole.broken.is_some() || !takes_part(sender) || !takes_part(receiver) {
        return None;
    }
    let last: Checks<'_> = sent.iter().filter(|(_, check)| check.generation == sender.generation).copied().collect();
    let chain = build(evidence, from, [None, None], &last, &Vec::new());
    let sent = chain.sent.filter(|sent| sent.transmissions >= ENOUGH)?;
    (chain.broken.is_some() && sent.refused == 0).then_some(chain)
}

fn fill_sent(chain: &mut Chain, checks: &Checks<'_>, start: u64) {
    let first = checks.iter().map(|(_, check)| check.first.as_micros()).min().unwrap_or(start);
    let last = checks.iter().map(|(_, check)| check.last.as_micros()).max().unwrap_or(start);
    chain.sent = Some(Sent {
        checks: count(checks.len()),
        transmissions: checks.iter().map(|(_, check)| check.transmissions).sum(),
        refused: checks.iter().map(|(_, check)| check.refused).sum(),
        first_us: first.saturating_sub(start),
        last_us: last.saturating_sub(start),
    });
    chain.answer_seen = Some(count(checks.iter().filter(|(_, check)| check.answer.is_some()).count()));
    for code in checks.iter().filter_map(|(_, check)| check.error()) {
        *chain.errors.entry(code).or_default() += 1;
    }
    chain.nominating |= checks.iter().any(|(_, check)| check.use_candidate);
    chain.round_trip_us = checks.iter().filter_map(|(_, check)| check.round_trip_us()).min();
    cite(chain, checks);
}

fn fill_seen(chain: &mut Chain, checks: &Checks<'_>) {
    let distinct = |address: fn(&Pair) -> SocketAddr| {
        let addresses: BTreeSet<_> = checks.iter().map(|(_, check)| address(&check.pair)).collect();
        addresses.into_iter().take(MAX_ADDRESSES).collect()
    };
    chain.seen = Some(Seen {
        checks: count(checks.len()),
        transmissions: checks.iter().map(|(_, check)| check.transmissions).sum(),
        from: distinct(|pair| pair.remote),
        at: distinct(|pair| pair.local),
    });
    chain.answered = Some(count(checks.iter().filter(|(_, check)| check.answer.is_some()).count()));
    if chain.sent.is_none() {
        for code in checks.iter().filter_map(|(_, check)| check.error()) {
            *chain.errors.entry(code).or_default() += 1;
        }
    }
    chain.nominating |= checks.iter().any(|(_, check)| check.use_candidate);
    cite(chain, checks);
}

fn cite(chain: &mut Chain, checks: &Checks<'_>) {
    let first = checks.iter().map(|(_, check)| check).min_by_key(|check| check.seq);
    let answered = checks.iter().filter_map(|(_, check)| check.answer.as_ref()).min_by_key(|answer| answer.seq);
    chain.evidence.extend(first.map(|check| check.seq));
    chain.evidence.extend(answered.map(|answer| answer.seq));
}

/// Whether there are checks and each arrived when the receiver's agent had closed.
fn all_after_close(checks: &Checks<'_>) -> bool {
    !checks.is_empty() && checks.iter().all(|(_, check)| check.after_close)
}

/// Where a chain broke. `late`: what was seen came when nobody was there any more to answer it, and that is no fault.
fn broken(chain: &Chain, late: bool) -> Option<Break> {
    let all_errors = |answers: u32| chain.errors.values().sum::<u32>() >= answers;
    match (chain.sent, &chain.seen, chain.answered, chain.answer_seen) {
        (Some(sent), ..) if sent.checks == 0 => None,
        (_, _, _, Some(answers)) if answers > 0 => all_errors(answers).then_some(Break::Refused),
        (Some(sent), seen, ..)
            if sent.refused == sent.transmissions && seen.as_ref().is_none_or(|seen| seen.checks == 0) =>
        {
            Some(Break::AtSending)
        }
        (_, Some(seen), ..) if seen.checks == 0 => chain.sent.map(|_| Break::OnTheWay),
        (_, Some(_), Some(0), _) => (!late).then_some(Break::AtAnswering),
        (Some(_), Some(_), ..) => Some(Break::OnTheWayBack),
        (Some(_), None, ..) => Some(Break::Somewhere),
        // Only the receiver was recorded: what became of its answers is not known.
        (None, ..) => None,
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
