//! The chain where a side's agent shows no packets and only counts: a browser's statistics.
//!
//! There are no transaction ids to join by, so each step is what the one side or the other says of its own pair, and
//! a number that it does not tell was not measured.

use super::{Break, Chain, Checks, Seen, Sent, all_after_close, broken, fill_seen, fill_sent};
use crate::diagnosis::evidence::Evidence;
use crate::trace::event::{Pair, Vantage};

pub(super) fn build(
    evidence: &Evidence,
    from: Vantage,
    pairs: [Option<Pair>; 2],
    sent: &Checks<'_>,
    received: &Checks<'_>,
) -> Chain {
    let (sender, receiver) = (evidence.side(from), evidence.side(from.other()));
    let counts_of = |side: &crate::diagnosis::evidence::SideEvidence, pair: Option<Pair>| {
        pair.and_then(|pair| side.counts.get(&pair).copied())
    };
    let mut chain = Chain::default();
    let mut late = false;
    if sender.is_counted() {
        if let Some((seq, counts)) = counts_of(sender, pairs[0]) {
            chain.sent = counts.requests_sent.map(|checks| Sent { checks, transmissions: checks, ..Sent::default() });
            chain.answer_seen = counts.responses_received;
            chain.round_trip_us = counts.rtt_us;
            chain.evidence.push(seq);
        }
    } else if evidence.is_recorded(from) {
        fill_sent(&mut chain, sent, sender.first_at.as_micros());
    }
    if receiver.is_counted() {
        if let Some((seq, counts)) = counts_of(receiver, pairs[1]) {
            let seen = |checks| Seen { checks, transmissions: checks, ..Seen::default() };
            chain.seen = counts.requests_received.map(seen);
            chain.answered = counts.responses_sent;
            chain.evidence.push(seq);
        }
    } else if !received.is_empty() || evidence.is_complete(from.other()) {
        fill_seen(&mut chain, received);
        late = all_after_close(received);
    }
    chain.broken = match (chain.answer_seen, broken(&chain, late)) {
        // Whether an answer came back was not told: only what is known to be lost before that is broken.
        (None, Some(Break::Somewhere | Break::OnTheWayBack)) => None,
        (_, broken) => broken,
    };
    chain.evidence.sort_unstable();
    chain.evidence.dedup();
    chain
}
