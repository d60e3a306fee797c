//! the TURN server rejects the credentials.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::evidence::SideEvidence;
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::trace::event::{ServerFailure, Vantage};
use crate::trace::measurement::Measurement;

pub(super) const RULE: Rule = Rule {
    code: "WR401",
    name: "turn-credentials-rejected",
    title: "the TURN server rejects the credentials",
    meaning: "The TURN server answered 401 to a request that carried credentials: user name, password or realm are wrong, or time-limited credentials have expired. Or they were made with another secret than the one that is to be the server's. (The first 401, to a request without credentials, is normal.)",
    detection: "An error response 401 to a request with USERNAME. Or time-limited credentials that are not signed with the secret of check --turn-secret-file.",
    proof: "The second 401, to a request with USERNAME; the first is normal.",
    doubt: "The same credentials accepted by the server for another client.",
    fixes: &[
        Fix::safe("Check user name and password; TURN_PASSWORD must hold the password of this server."),
        Fix::safe("For time-limited credentials: compare the clocks, the number in the user name is when they expire."),
        Fix::safe("On coturn: set realm, and the same static-auth-secret as the one who hands out credentials."),
    ],
    threads: &["coturn/coturn#1453", "coturn/coturn#459", "coturn/coturn#493", "coturn/coturn#1534"],
    depends_on: &["WR406", "WR410"],
    needs: &[],
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
        let Some((server, seq)) = told.clone().or(on_wire.clone()) else {
            faults.extend(made_with_another_secret(side, vantage));
            continue;
        };
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

/// Credentials that the secret which was given did not make, by looking at them; whichever of the two is wrong.
fn made_with_another_secret(side: &SideEvidence, vantage: Vantage) -> Option<Fault> {
    let (seq, server) = side.measured.facts.iter().find_map(|(seq, fact)| match fact {
        Measurement::TimedCredentials { server, signed: Some(false), .. } => Some((*seq, server)),
        _ => None,
    })?;
    let accepted = side.servers.values().find_map(|path| path.allocation.as_ref());
    let doubt = "The server's own secret, read on its machine: it accepts these credentials, so that it is rather the file that holds another one.";
    Some(Fault {
        blame: Blame::side(vantage),
        severity: Severity::Warning,
        summary: format!(
            "The credentials of {} for {server} are not signed with the secret of --turn-secret-file: a server that has this secret rejects them",
            vantage.name()
        ),
        evidence: vec![seq],
        doubt: accepted.map(|_| doubt.to_owned()),
        ..Fault::default()
    })
}
