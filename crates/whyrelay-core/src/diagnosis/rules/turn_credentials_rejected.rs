//! the TURN server rejects the credentials.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::trace::event::ServerFailure;

pub(super) const RULE: Rule = Rule {
    code: "WR401",
    name: "turn-credentials-rejected",
    title: "the TURN server rejects the credentials",
    meaning: "The TURN server answered 401 to a request that carried credentials: user name, password or realm are wrong, or time-limited credentials have expired. (The first 401, to a request without credentials, is normal.)",
    detection: "An error response 401 to a request with USERNAME.",
    proof: "The second 401, to a request with USERNAME; the first is normal.",
    doubt: "The same credentials accepted by the server for another client.",
    fixes: &[
        Fix::safe("Check user name and password; TURN_PASSWORD must hold the password of this server."),
        Fix::safe("For time-limited credentials: compare the clocks, the number in the user name is when they expire."),
        Fix::safe("On coturn: set realm, and the same static-auth-secret as the one who hands out credentials."),
    ],
    threads: &["coturn/coturn#1453", "coturn/coturn#459", "coturn/coturn#493", "coturn/coturn#1534"],
    depends_on: &["WR406", "WR410"],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        let on_wire = side.servers.iter().find_map(|((_, _, server), path)| {
            let rejected = path.errors.iter().find(|((_, code, authenticated), _)| *code == 401 && *authenticated);
            rejected.filter(|_| path.allocation.is_none()).map(|(_, (_, seq))| (server.to_string(), *seq))
        });
        let told = side.server_failures.iter().find_map(|failed| match &failed.failure {
            ServerFailure::ErrorResponse { code: 401, expected: false, .. } => {
                Some((failed.server.clone(), failed.seq))
            }
            _ => None,
        });
        let Some((server, seq)) = told.clone().or(on_wire.clone()) else { continue };
        faults.push(Fault {
            blame: Blame::side(vantage),
            severity: Severity::Error,
            summary: format!(
                "{server} rejects the credentials of {} (401 to a request that carries them)",
                vantage.name()
            ),
            evidence: [Some(seq), on_wire.map(|(_, seq)| seq)].into_iter().flatten().collect(),
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
