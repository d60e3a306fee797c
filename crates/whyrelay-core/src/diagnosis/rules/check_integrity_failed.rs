//! checks fail their integrity check.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Path;
use crate::diagnosis::session::Session;
use crate::wire::integrity::Integrity;

pub(super) const RULE: Rule = Rule {
    code: "WR507",
    name: "check-integrity-failed",
    title: "checks fail their integrity check",
    meaning: "Checks arrive whose message integrity does not match the password: they belong to another session or generation, the description was changed on its way, or a stranger sends them.",
    detection: "The receiver verified the integrity of a check or an answer and it was wrong.",
    proof: "Both descriptions, as sent and as received, side by side: ice-ufrag or ice-pwd differ.",
    doubt: "A check with the right integrity from the same address: then the wrong ones are a stranger's.",
    fixes: &[
        Fix::safe("Start both sides afresh, so that they have the same descriptions."),
        Fix::safe("Look at what carries signaling: it must not change ice-ufrag and ice-pwd."),
    ],
    threads: &["sipwise/rtpengine#1626"],
    depends_on: &[],
    needs: &[Need::Sockets],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded().filter(|_| session.path != Path::Direct) {
        let side = session.evidence.side(vantage);
        let wrong = side.received.values().filter(|check| check.integrity == Some(Integrity::Invalid));
        let wrong: Vec<_> = wrong.map(|check| (check.seq, check.pair.remote)).collect();
        let right = side.received.values().any(|check| check.integrity == Some(Integrity::Valid));
        let Some((_, from)) = wrong.iter().min().filter(|_| !right) else { continue };
        faults.push(Fault {
            blame: Blame::Signaling,
            severity: Severity::Error,
            summary: format!("{} checks reached {} with a wrong integrity, from {from}", wrong.len(), vantage.name()),
            evidence: wrong.iter().map(|(seq, _)| *seq).collect(),
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
