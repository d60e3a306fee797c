//! Candidates come after the agent has given up.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::ice::candidate::CandidateType;
use crate::trace::event::IceState;

pub(super) const RULE: Rule = Rule {
    code: "WR706",
    name: "candidates-come-too-late",
    title: "candidates come after the agent has given up",
    meaning: "Signaling carries the peer's candidates or description so late that the checks had already failed, or the time limit was near.",
    detection: "A remote candidate was received after the agent had declared failure.",
    proof: "The times of the cited events on one side's own clock.",
    doubt: "Candidates that come early and a session that fails all the same.",
    fixes: &[
        Fix::safe("Look at what delays signaling: a proxy that buffers long polls or streams, an overloaded server."),
        Fix::safe("Raise --timeout, or run with --patient."),
    ],
    threads: &["feross/simple-peer#590"],
    depends_on: &["WR701", "WR702", "WR801"],
    needs: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded().filter(|_| session.path != Path::Direct) {
        let side = session.evidence.side(vantage);
        let failed = side.ice_states.iter().find(|(_, state, _)| *state == IceState::Failed).map(|(seq, ..)| *seq);
        let Some(failed) = failed else { continue };
        // A path that broke later had its candidates in time: those that come then are of a restart.
        if side.selected.first().is_some_and(|(selected, _)| *selected < failed) {
            continue;
        }
        let late = side
            .remote_candidates
            .iter()
            .find(|remote| remote.seq > failed && remote.candidate.kind != CandidateType::PeerReflexive);
        let Some(late) = late else { continue };
        faults.push(Fault {
            blame: Blame::Signaling,
            severity: if session.path == Path::Failed { Severity::Error } else { Severity::Warning },
            summary: format!(
                "Candidates of {} reached {} after it had given up",
                vantage.other().name(),
                vantage.name()
            ),
            evidence: vec![failed, late.seq],
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
