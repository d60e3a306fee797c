//! TLS with the TURN server fails.

use super::clock_wrong::explains_certificate;
use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::evidence::SideEvidence;
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::engine::server_url::{ServerHost, ServerUrl};
use crate::trace::event::ServerFailure;
use crate::trace::measurement::Measurement;

pub(super) const RULE: Rule = Rule {
    code: "WR409",
    name: "turn-tls-failed",
    title: "TLS with the TURN server fails",
    meaning: "The connection to a turns: server was made and its TLS handshake failed: the certificate is for another name (or the URL has an address instead of the name), has expired, is self-signed, or the server sends no intermediate certificate, or an authority's (CA:TRUE) in place of its own.",
    detection: "The connection failed with what TLS said; or the certificate was looked at and is refused.",
    proof: "openssl s_client -connect SERVER:PORT -servername NAME shows the chain, the names and the dates.",
    doubt: "The same certificate accepted by another client on another machine: then this machine lacks the authority, or its clock is wrong.",
    fixes: &[
        Fix::safe("Use the name of the certificate in the turns: URL, not the address."),
        Fix::cuts(
            "Give the server its full chain (fullchain.pem) and a certificate that has not expired, then restart it.",
        ),
    ],
    threads: &["coturn/coturn#113", "matrix-org/synapse#11686", "coturn/coturn#1539", "processone/eturnal#70"],
    depends_on: &["WR303"],
    needs: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults: Vec<Fault> = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        let Some((server, what, seq)) = refused(side) else { continue };
        // The fault is this side's clock then, which has a rule of its own.
        if explains_certificate(side) {
            continue;
        }
        // Both sides see the same certificate: one finding.
        if let Some(fault) = faults.iter_mut().find(|fault| fault.summary.contains(&server)) {
            fault.evidence.push(seq);
            continue;
        }
        faults.push(Fault {
            blame: Blame::Relay,
            severity: if session.path == Path::Failed { Severity::Error } else { Severity::Warning },
            summary: format!("TLS with {server} fails: {}", in_words(&what)),
            evidence: vec![seq],
            advice: advice(&server, &what),
            advice_is_all: is_authority(&what),
            ..Fault::default()
        });
    }
    Examination::of(faults)
}

/// Whether the server shows an authority's certificate as its own (RFC 5280 §4.2.1.9: basicConstraints with cA), which is
/// what `openssl req -x509` makes unless it is told otherwise.
fn is_authority(detail: &str) -> bool {
    // As rustls has it, and as a client says it in words.
    detail.contains("CaUsedAsEndEntity") || detail.contains("certificate of an authority (CA:TRUE)")
}

/// What helps where the certificate is an authority's: one of the server's own.
fn advice(server: &str, detail: &str) -> Vec<Remedy> {
    if !is_authority(detail) {
        return Vec::new();
    }
    let host = server.parse::<ServerUrl>().ok().map(|url| url.host().clone());
    let name = match host {
        Some(ServerHost::Ip(ip)) => format!("IP:{ip}"),
        Some(ServerHost::Name(name)) => format!("DNS:{name}"),
        None => "DNS:localhost".to_owned(),
    };
    vec![
        Remedy::cuts(
            "Give the server a certificate of its own that is no authority's (CA:FALSE), then restart it with it; clients trust this one by --tls-ca",
        )
        .run(format!(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=turn -addext subjectAltName={name} -addext basicConstraints=critical,CA:FALSE -keyout turn.key -out turn.pem"
        )),
        Remedy::cuts(
            "Or keep the authority and have it sign a certificate for the server, with CA:FALSE: the server shows that one, and clients trust the authority by --tls-ca",
        ),
    ]
}

/// A certificate of a TURN server that this side refuses: the server, what TLS said, and the event.
pub(super) fn refused(side: &SideEvidence) -> Option<(String, String, u64)> {
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

/// What rustls says of a certificate, without its seconds since 1970 and its own names for things.
pub(crate) fn in_words(detail: &str) -> String {
    let detail = detail.strip_prefix("invalid peer certificate: ").unwrap_or(detail);
    let first = detail.split(": verification time").next().unwrap_or(detail);
    match first {
        "certificate expired" => "the certificate expired, or this host's clock is ahead".to_owned(),
        "certificate not valid yet" => "the certificate is not valid yet, or this host's clock is behind".to_owned(),
        "UnknownIssuer" => "nobody whom this host trusts signed the certificate (UnknownIssuer)".to_owned(),
        other if is_authority(other) => {
            "the certificate is an authority's (CA:TRUE), which is no server's own (CaUsedAsEndEntity)".to_owned()
        }
        other => other.to_owned(),
    }
}

pub(super) fn is_about_tls(detail: &str) -> bool {
    let detail = detail.to_ascii_lowercase();
    ["tls", "certificate", "handshake", "unknownissuer", "alert"].iter().any(|word| detail.contains(word))
}

#[cfg(test)]
mod tests {
    use super::in_words;

    #[test]
    fn what_tls_says_of_a_certificate_is_said_without_seconds_since_1970() {
        let expired = "invalid peer certificate: certificate expired: verification time 1795933873 (UNIX), \
                       but certificate is not valid after 1763965852 (31968021 seconds ago)";
        assert_eq!(in_words(expired), "the certificate expired, or this host's clock is ahead");
        let early = "invalid peer certificate: certificate not valid yet: verification time 1 (UNIX), but …";
        assert_eq!(in_words(early), "the certificate is not valid yet, or this host's clock is behind");
        let authority = "invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))";
        assert!(in_words(authority).starts_with("the certificate is an authority's (CA:TRUE)"));
        assert!(in_words("invalid peer certificate: UnknownIssuer").contains("UnknownIssuer"));
        assert_eq!(in_words("Connection refused (os error 111)"), "Connection refused (os error 111)");
    }
}
