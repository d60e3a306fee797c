//! checks are answered with errors.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::diagnosis::session::{Break, Path, likeliest_first};
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR509",
    name: "checks-refused",
    title: "checks are answered with errors",
    meaning: "The other side answers checks with an error other than 487 (role conflict, which is settled by itself): 400 it cannot read them, 401 the password is wrong, 420 it does not know an attribute.",
    detection: "All answers to the checks on a pair are error responses.",
    proof: "The error code and reason phrase in the cited answers.",
    doubt: "Success answers on the same pair.",
    fixes: &[
        Fix::safe("400, 420: update the older of the two programs."),
        Fix::safe("401: start both sides afresh, so that they have the same descriptions."),
    ],
    threads: &["sipwise/rtpengine#1117", "onsip/SIP.js#883"],
    depends_on: &["WR507"],
    needs: &[Need::OtherSide],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for from in [Vantage::A, Vantage::B].into_iter().filter(|_| session.path != Path::Direct) {
        let refused = session.pairs.iter().filter(|pair| {
            pair.from(from).broken == Some(Break::Refused) && pair.from(from).errors.keys().any(|code| *code != 487)
        });
        let chains = likeliest_first(refused);
        let Some(pair) = chains.first() else { continue };
        let codes: Vec<_> = pair.from(from).errors.keys().map(ToString::to_string).collect();
        faults.push(Fault {
            blame: Blame::side(from.other()),
            severity: if session.path == Path::Failed { Severity::Error } else { Severity::Warning },
            summary: format!(
                "{} answers the checks of {} with error {}",
                from.other().name(),
                from.name(),
                codes.join(", ")
            ),
            evidence: chains.iter().flat_map(|pair| pair.from(from).evidence.iter().copied()).collect(),
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
