//! TLS with the TURN server fails.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::evidence::SideEvidence;
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::trace::event::ServerFailure;
use crate::trace::measurement::Measurement;

pub(super) const RULE: Rule = Rule {
    code: "WR409",
    name: "turn-tls-failed",
    title: "TLS with the TURN server fails",
    meaning: "The connection to a turns: server was made and its TLS handshake failed: the certificate is for another name (or the URL has an address instead of the name), has expired, is self-signed, or the server sends no intermediate certificate.",
    detection: "The connection failed with what TLS said; or the certificate was looked at and is refused.",
    proof: "openssl s_client -connect SERVER:PORT -servername NAME shows the chain, the names and the dates.",
    doubt: "The same certificate accepted by another client on another machine: then this machine lacks the authority, or its clock is wrong.",
    fixes: &[
        Fix::safe("Use the name of the certificate in the turns: URL, not the address."),
        Fix::safe(
            "Give the server its full chain (fullchain.pem) and a certificate that has not expired, then restart it.",
        ),
    ],
    threads: &["coturn/coturn#113", "matrix-org/synapse#11686", "coturn/coturn#1539", "processone/eturnal#70"],
    depends_on: &["WR303"],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults: Vec<Fault> = Vec::new();
    for vantage in session.recorded() {
        let Some((server, what, seq)) = refused(session.evidence.side(vantage)) else { continue };
        // Both sides see the same certificate: one finding.
        if let Some(fault) = faults.iter_mut().find(|fault| fault.summary.contains(&server)) {
            fault.evidence.push(seq);
            continue;
        }
        faults.push(Fault {
            blame: Blame::Relay,
            severity: if session.path == Path::Failed { Severity::Error } else { Severity::Warning },
            summary: format!("TLS with {server} fails: {what}"),
            evidence: vec![seq],
            ..Fault::default()
        });
    }
    Examination::of(faults)
}

fn refused(side: &SideEvidence) -> Option<(String, String, u64)> {
    let looked_at = side.measured.facts.iter().find_map(|(seq, fact)| match fact {
        Measurement::Certificate { server, refused: Some(refused), .. } => {
            Some((server.clone(), refused.clone(), *seq))
        }
        _ => None,
    });
    looked_at.or_else(|| {
        side.server_failures.iter().find_map(|failed| match &failed.failure {
            ServerFailure::ConnectionFailed { detail }
                if failed.server.starts_with("turns:") && is_about_tls(detail) =>
            {
                Some((failed.server.clone(), detail.clone(), failed.seq))
            }
            _ => None,
        })
    })
}

pub(super) fn is_about_tls(detail: &str) -> bool {
    let detail = detail.to_ascii_lowercase();
    ["tls", "certificate", "handshake", "unknownissuer", "alert"].iter().any(|word| detail.contains(word))
}
