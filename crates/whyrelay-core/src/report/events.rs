//! The events that the account cites, in words.

use std::collections::BTreeMap;

use serde::Serialize;

use super::describe::describe;
use super::timeline::Scale;
use super::{CandidateRow, PairRow};
use crate::diagnosis::finding::Finding;
use crate::trace::event::{Event, Vantage};

/// Most events that a report spells out; those that findings cite come first.
const MAX_EVENTS: usize = 2000;

/// An event that something in the account cites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventRow {
    /// Its number.
    pub seq: u64,
    /// Who saw it.
    pub side: Vantage,
    /// When, in microseconds on the time line.
    pub at_us: u64,
    /// What it says, in one line.
    pub text: String,
    /// Codes of the findings that cite it.
    pub cited_by: Vec<&'static str>,
}

pub(super) fn rows(
    events: &[&Event],
    findings: &[Finding],
    pairs: &[PairRow],
    candidates: &[CandidateRow],
    scale: &Scale,
) -> Vec<EventRow> {
    let mut cited: BTreeMap<u64, Vec<&'static str>> = BTreeMap::new();
    for finding in findings {
        for seq in &finding.evidence {
            let codes = cited.entry(*seq).or_default();
            if !codes.contains(&finding.code) {
                codes.push(finding.code);
            }
        }
    }
    let of_chains = pairs.iter().flat_map(|pair| pair.a_to_b.evidence.iter().chain(&pair.b_to_a.evidence)).copied();
    for seq in of_chains.chain(candidates.iter().map(|candidate| candidate.seq)) {
        if cited.len() >= MAX_EVENTS {
            break;
        }
        cited.entry(seq).or_default();
    }
    let mut rows: Vec<EventRow> = Vec::new();
    for event in events {
        if let Some(cited_by) = cited.remove(&event.seq) {
            let at_us = scale.us(event.vantage, event.at);
            rows.push(EventRow { seq: event.seq, side: event.vantage, at_us, text: describe(event), cited_by });
        }
    }
    rows.sort_by_key(|row| row.seq);
    rows
}
