//! there are no credentials for the TURN server.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::trace::event::ServerFailure;

pub(super) const RULE: Rule = Rule {
    code: "WR406",
    name: "turn-credentials-missing",
    title: "there are no credentials for the TURN server",
    meaning: "A TURN server is configured and this side has no user name or password for it, so it was not used.",
    detection: "The TURN client gave up before its authenticated request.",
    proof: "The configuration of this side.",
    doubt: "A request with credentials.",
    fixes: &[Fix::safe("Give --turn-user, and the password in TURN_PASSWORD or a file.")],
    threads: &["Kurento/bugtracker#294"],
    depends_on: &[],
    needs: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        let missing = side.server_failures.iter().find(|failed| failed.failure == ServerFailure::NoCredentials);
        let Some(failed) = missing else { continue };
        faults.push(Fault {
            blame: Blame::side(vantage),
            severity: Severity::Error,
            summary: format!("{} has no credentials for {}", vantage.name(), failed.server),
            evidence: vec![failed.seq],
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
