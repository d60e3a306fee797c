//! checks arrive and are not answered.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::diagnosis::session::{Break, Path, likeliest_first};
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR502",
    name: "checks-not-answered",
    title: "checks arrive and are not answered",
    meaning: "Checks reach the other side's socket and it does not answer them: it does not know the session, has another password, or is stuck.",
    detection: "Checks that the receiver recorded as received have no answer in its own recording. Those that came when its agent had closed do not count.",
    proof: "The receiver's log around the cited events.",
    doubt: "A gap in the receiver's recording: the answers may have been sent and not recorded.",
    fixes: &[Fix::safe("Look at the receiver's own log and events around the cited ones.")],
    threads: &["paullouisageneau/libjuice#223"],
    depends_on: &["WR507", "WR129"],
    needs: &[Need::OtherSide],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for from in [Vantage::A, Vantage::B].into_iter().filter(|_| session.path != Path::Direct) {
        let broken = session.pairs.iter().filter(|pair| pair.from(from).broken == Some(Break::AtAnswering));
        let chains = likeliest_first(broken);
        let Some(seen) = chains.iter().find_map(|pair| pair.from(from).seen.as_ref()) else { continue };
        let (here, there) = (from.name(), from.other().name());
        let (at, source) = (seen.at.first(), seen.from.first());
        let place = at.zip(source).map(|(at, source)| format!(" at {at} from {source}")).unwrap_or_default();
        faults.push(Fault {
            blame: Blame::side(from.other()),
            severity: if session.path == Path::Failed { Severity::Error } else { Severity::Warning },
            summary: format!("Checks of {here} reach {there}{place}, and {there} does not answer them"),
            evidence: chains.iter().flat_map(|pair| pair.from(from).evidence.iter().copied()).collect(),
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
