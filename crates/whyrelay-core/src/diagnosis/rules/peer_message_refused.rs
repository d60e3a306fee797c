//! what the peer sent over signaling cannot be used.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::SideEvidence;
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::trace::event::{RefuseReason, Side};

pub(super) const RULE: Rule = Rule {
    code: "WR704",
    name: "peer-message-refused",
    title: "what the peer sent over signaling cannot be used",
    meaning: "A description or candidate of the peer is garbled or asks for something that this side cannot do.",
    detection: "A message or candidate line was refused on arrival.",
    proof: "The message as it left the other side, compared with the cited line.",
    doubt: "The same message accepted by another program.",
    fixes: &[
        Fix::safe("Compare what left the other side with what arrived here: something in between may change it."),
        Fix::safe("Update the older of the two programs."),
    ],
    threads: &["rtc-io/rtc-tools#30", "instrumentisto/medea#49"],
    depends_on: &[],
    needs: &[Need::OtherSide],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        // A side that restarts again before its last restart is answered gets two answers: that the second is not taken is
        // nobody's fault, and the next restart brings what is missing.
        let is_own_doing = |seq: u64, message: &str| message == "description" && restarted_unanswered(side, seq);
        let mut refused = side.refused_messages.iter().filter(|(seq, message, _)| !is_own_doing(*seq, message));
        if let Some((seq, message, detail)) = refused.next() {
            faults.push(Fault {
                blame: Blame::side(vantage.other()),
                severity: Severity::Error,
                summary: format!("{} cannot use the {message} of its peer: {detail}", vantage.name()),
                evidence: refused.map(|(seq, ..)| *seq).chain([*seq]).collect(),
                ..Fault::default()
            });
        }
        let malformed: Vec<_> = side
            .refused_candidates
            .iter()
            .filter_map(|(seq, _, reason)| match reason {
                RefuseReason::Malformed { detail } => Some((*seq, detail)),
                _ => None,
            })
            .collect();
        if let Some((_, detail)) = malformed.first() {
            faults.push(Fault {
                blame: Blame::side(vantage.other()),
                severity: Severity::Warning,
                summary: format!(
                    "{} of the peer's candidates cannot be read by {}: {detail}",
                    malformed.len(),
                    vantage.name()
                ),
                evidence: malformed.iter().map(|(seq, _)| *seq).collect(),
                ..Fault::default()
            });
        }
    }
    Examination::of(faults)
}

/// Whether this side had begun its last two generations without a description of the peer's in between.
fn restarted_unanswered(side: &SideEvidence, seq: u64) -> bool {
    let before = || side.descriptions.iter().filter(|description| description.seq < seq);
    let own = || before().filter(|description| description.side == Side::Local);
    let begun = |generation: u32| own().find(|own| own.generation == generation).map(|own| own.seq);
    let Some(last) = own().map(|own| own.generation).max() else { return false };
    let Some(earlier) = own().map(|own| own.generation).filter(|generation| *generation < last).max() else {
        return false;
    };
    let (Some(earlier), Some(last)) = (begun(earlier), begun(last)) else { return false };
    !before().any(|description| description.side == Side::Remote && (earlier..last).contains(&description.seq))
}
