//! The candidate table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::Serialize;

use crate::diagnosis::evidence::Evidence;
use crate::ice::candidate::{Candidate, CandidateTransport, CandidateType};
use crate::trace::event::Vantage;

/// Most candidates of a side that a report lists.
const MAX_CANDIDATES: usize = 500;

/// One candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CandidateRow {
    /// Whose.
    pub side: Vantage,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: CandidateType,
    /// Its transport.
    pub transport: CandidateTransport,
    /// Its address as signaled.
    pub address: String,
    /// What a name resolved to, on the other side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved: Option<SocketAddr>,
    /// Its base, where its side was recorded.
    pub base: Option<SocketAddr>,
    /// The interface of the base.
    pub interface: Option<String>,
    /// The server that it was learned from.
    pub server: Option<String>,
    /// Whether it reached the other side over signaling, where that side was recorded.
    pub received: Option<bool>,
    /// Number of the event.
    pub seq: u64,
}

pub(super) fn rows(evidence: &Evidence) -> Vec<CandidateRow> {
    [Vantage::A, Vantage::B].into_iter().flat_map(|vantage| rows_of(evidence, vantage)).collect()
}

fn rows_of(evidence: &Evidence, vantage: Vantage) -> Vec<CandidateRow> {
    let (own, other) = (evidence.side(vantage), evidence.side(vantage.other()));
    let signature = |candidate: &Candidate| (candidate.address.to_string(), candidate.transport);
    let mut theirs = BTreeMap::new();
    for remote in &other.remote_candidates {
        theirs.entry(signature(&remote.candidate)).or_insert(remote);
    }
    let ours: BTreeSet<_> = own.local_candidates.iter().map(|local| signature(&local.candidate)).collect();
    let mut rows: Vec<CandidateRow> = Vec::new();
    for local in &own.local_candidates {
        let remote = theirs.get(&signature(&local.candidate)).copied();
        rows.push(CandidateRow {
            side: vantage,
            kind: local.candidate.kind,
            transport: local.candidate.transport,
            address: local.candidate.address.to_string(),
            resolved: remote.filter(|remote| remote.candidate.address.ip().is_none()).and_then(|remote| remote.address),
            // A browser hides it.
            base: Some(local.base).filter(|base| !base.ip().is_unspecified()),
            interface: local.interface.clone(),
            server: local.server.clone(),
            received: (other.events > 0).then_some(remote.is_some()),
            seq: local.seq,
        });
    }
    // What the other side knows of us: all there is without our recording, and peer-reflexive ones.
    for remote in &other.remote_candidates {
        if ours.contains(&signature(&remote.candidate)) {
            continue;
        }
        rows.push(CandidateRow {
            side: vantage,
            kind: remote.candidate.kind,
            transport: remote.candidate.transport,
            address: remote.candidate.address.to_string(),
            resolved: remote.address.filter(|_| remote.candidate.address.ip().is_none()),
            base: None,
            interface: None,
            server: None,
            received: (remote.candidate.kind != CandidateType::PeerReflexive).then_some(true),
            seq: remote.seq,
        });
    }
    let mut known = BTreeSet::new();
    rows.retain(|row| known.insert((row.kind, row.transport, row.address.clone(), row.base)));
    rows.truncate(MAX_CANDIDATES);
    rows
}
