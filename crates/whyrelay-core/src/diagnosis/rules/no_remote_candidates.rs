//! no candidate of the peer arrived.

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::trace::event::Side;

pub(super) const RULE: Rule = Rule {
    code: "WR703",
    name: "no-remote-candidates",
    title: "no candidate of the peer arrived",
    meaning: "A side got the peer's description and no candidate, so it has nowhere to send checks to. Signaling lost them, or the peer gathered none.",
    detection: "A side with the peer's description never saw a remote candidate. Whose fault that is shows in the other side's recording: whether it had any to send.",
    proof: "The candidates that one side recorded as sent, and that are absent from the other's recording.",
    doubt: "The missing side's recording, if it shows that nothing was gathered.",
    fixes: &[
        Fix::safe("Look at what carries signaling: a proxy that cuts long polls or streams loses late messages."),
        Fix::safe("See the other side's recording for why it gathered nothing."),
    ],
    threads: &["opnsense/plugins#5396", "netbirdio/netbird#5404"],
    depends_on: &["WR701", "WR702", "WR704", "WR102", "WR512"],
    needs: &[Need::OtherSide],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    // A side without remote candidates may still be found by its peer's checks.
    if session.path != Path::Failed {
        return Examination::Clear;
    }
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let (side, other) = (session.evidence.side(vantage), session.evidence.side(vantage.other()));
        let description = side.descriptions.iter().find(|description| description.side == Side::Remote);
        let Some(description) = description.filter(|_| side.remote_candidates.is_empty()) else { continue };
        let (here, there) = (vantage.name(), vantage.other().name());
        let had = other.local_candidates.len();
        let (blame, what) = match (other.events > 0, had) {
            // It wanted its relay only: what kept it from that is the fault.
            (true, 0) if other.options.relay_only => continue,
            (true, 0) => (Blame::side(vantage.other()), format!("{there} gathered none")),
            (true, _) => (Blame::Signaling, format!("{there} had {had}, and signaling did not carry them")),
            // Whether it had any, only its recording tells.
            (false, _) => continue,
        };
        faults.push(Fault {
            blame,
            severity: Severity::Error,
            summary: format!("No candidate of {there} reached {here}: {what}"),
            evidence: other.local_candidates.iter().map(|local| local.seq).chain([description.seq]).collect(),
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
