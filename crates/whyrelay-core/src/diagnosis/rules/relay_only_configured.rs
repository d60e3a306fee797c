//! the session was told to use a relay.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Path;
use crate::diagnosis::session::Session;

pub(super) const RULE: Rule = Rule {
    code: "WR801",
    name: "relay-only-configured",
    title: "the session was told to use a relay",
    meaning: "A side was started with --relay-only (other programs: iceTransportPolicy relay, NB_FORCE_RELAY), so it offers and uses relayed candidates only. A direct path was never tried.",
    detection: "The options at the start of the recording.",
    proof: "The options at the start of the recording.",
    doubt: "A session without the option.",
    fixes: &[Fix::safe("Leave out --relay-only to try a direct path.")],
    threads: &[],
    depends_on: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let asked: Vec<_> =
        session.recorded().filter(|&vantage| session.evidence.side(vantage).options.relay_only).collect();
    let (blame, who) = match asked.as_slice() {
        [] => return Examination::Clear,
        [one] => (Blame::side(*one), one.name().to_owned()),
        _ => (Blame::Both, "both sides".to_owned()),
    };
    // Where not even the relay works, that is the fault to look for.
    let severity = if session.path == Path::Failed { Severity::Info } else { Severity::Warning };
    Examination::Found(vec![Fault {
        blame,
        severity,
        summary: format!("--relay-only was asked for on {who}, so no direct path was tried"),
        evidence: asked.iter().map(|vantage| vantage.first_seq()).collect(),
        ..Fault::default()
    }])
}
