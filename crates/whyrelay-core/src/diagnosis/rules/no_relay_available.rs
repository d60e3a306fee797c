//! there is no relay to fall back to.

use super::{Examination, Fault, Fix, Rule, stun_server_silent, turn_server_unreachable, udp_blocked};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::diagnosis::session::{Path, SideOutcome};
use crate::ice::candidate::CandidateType;

pub(super) const RULE: Rule = Rule {
    code: "WR802",
    name: "no-relay-available",
    title: "there is no relay to fall back to",
    meaning: "No direct pair worked and neither side has a relayed candidate, so nothing was left to try.",
    detection: "The session failed and no candidate of type relay was gathered or received.",
    proof: "The list of servers and of what they answered in both recordings.",
    doubt: "A relayed candidate on either side.",
    fixes: &[Fix::safe("Give both sides a TURN server (--turn), or drop --no-turn.")],
    threads: &["screensy/screensy#3", "dennisivy/PeerChat#1"],
    depends_on: &[
        "WR801", "WR401", "WR402", "WR405", "WR406", "WR701", "WR702", "WR703", "WR601", "WR602", "WR409", "WR410",
    ],
    needs: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let never =
        session.outcomes.iter().any(|outcome| matches!(outcome, SideOutcome::Failed { was_connected: false, .. }));
    if session.path != Path::Failed || !never {
        return Examination::Clear;
    }
    let relay = session.recorded().any(|vantage| {
        let side = session.evidence.side(vantage);
        let local = side.local_candidates.iter().any(|local| local.candidate.kind == CandidateType::Relayed);
        local || side.remote_candidates.iter().any(|remote| remote.candidate.kind == CandidateType::Relayed)
    });
    let no_turn: Vec<_> =
        session.recorded().filter(|&vantage| session.evidence.side(vantage).options.no_turn).collect();
    let checked = session.pairs.iter().any(|pair| pair.was_checked());
    // That a server is dead, its relay included, is told already.
    let dead = session.recorded().any(|vantage| {
        let mut silent = stun_server_silent::silent_for(session, vantage).into_iter();
        silent.any(|server| !turn_server_unreachable::at_server(session, vantage, server).is_empty())
    });
    // A relay over TCP helps where UDP is blocked, unless none was wanted.
    let blocked = no_turn.is_empty() && matches!(udp_blocked::examine(session), Examination::Found(_));
    if relay || !checked || dead || blocked {
        return Examination::Clear;
    }
    let why = if no_turn.is_empty() { "" } else { " (--no-turn was asked for)" };
    Examination::Found(vec![Fault {
        blame: Blame::Both,
        severity: Severity::Warning,
        summary: format!("Neither side has a relayed candidate{why}, so there was nothing to fall back to"),
        evidence: no_turn.iter().map(|vantage| vantage.first_seq()).collect(),
        ..Fault::default()
    }])
}
