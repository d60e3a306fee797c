//! Virtual interfaces crowd the checklist.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::host::leads_to_guests;
use crate::ice::candidate::CandidateType;
use crate::trace::event::{PruneReason, RefuseReason};

/// Fewer candidates of this kind harm nobody.
const MANY: usize = 6;

pub(super) const RULE: Rule = Rule {
    code: "WR122",
    name: "virtual-interfaces-crowd",
    title: "virtual interfaces crowd the checklist",
    meaning: "Container and virtual machine bridges (docker0, br-…, veth…, virbr…, cni…) give this side candidates that no peer can reach. Each is paired with each candidate of the peer, so that checks take longer, or the checklist overflows and pairs that would work are dropped.",
    detection: "Candidates on interfaces whose names are those of virtual bridges, and a checklist that was full, or more of them than of others.",
    proof: "The list of candidates by interface.",
    doubt: "A session without those interfaces that is no better.",
    fixes: &[
        Fix::safe("Leave those interfaces out: whyrelay --exclude-interface docker0 (and so on)."),
        Fix::cuts(
            "For NetBird: netbird down && netbird up --extra-iface-blacklist docker0,br- (names by their beginning).",
        ),
    ],
    threads: &["netbirdio/netbird#390", "netbirdio/netbird#721", "netbirdio/netbird#7353"],
    depends_on: &["WR801"],
    needs: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        let hosts = side.local_candidates.iter().filter(|local| local.candidate.kind == CandidateType::Host);
        let is_virtual = |local: &&crate::diagnosis::evidence::LocalCandidate| {
            local.interface.as_deref().is_some_and(leads_to_guests)
        };
        let (crowd, others): (Vec<_>, Vec<_>) = hosts.partition(is_virtual);
        let full = side.pairs.values().find(|pair| matches!(pair.pruned, Some(PruneReason::ChecklistFull { .. })));
        let refused =
            side.refused_candidates.iter().find(|(.., reason)| matches!(reason, RefuseReason::TooMany { .. }));
        let overflowed = full.map(|pair| pair.seq).or(refused.map(|(seq, ..)| *seq));
        if crowd.len() < MANY || crowd.len() <= others.len() {
            continue;
        }
        let mut names: Vec<_> = crowd.iter().filter_map(|local| local.interface.clone()).collect();
        names.dedup();
        names.truncate(5);
        // Dead pairs alone only cost time; pairs that were dropped for them may cost the path.
        let harmful = overflowed.is_some() && session.path != Path::Direct;
        faults.push(Fault {
            blame: Blame::side(vantage),
            severity: if harmful { Severity::Warning } else { Severity::Info },
            summary: format!(
                "{} of {}'s host candidates are on virtual interfaces ({}){}",
                crowd.len(),
                vantage.name(),
                names.join(", "),
                if overflowed.is_some() { ", and its checklist overflowed" } else { "" }
            ),
            evidence: crowd.iter().map(|local| local.seq).take(4).chain(overflowed).collect(),
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
