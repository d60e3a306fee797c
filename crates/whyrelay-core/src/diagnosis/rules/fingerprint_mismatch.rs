//! the peer's certificate is not the announced one.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::trace::event::{DtlsState, Side};

pub(super) const RULE: Rule = Rule {
    code: "WR601",
    name: "fingerprint-mismatch",
    title: "the peer's certificate is not the announced one",
    meaning: "The DTLS certificate that the peer shows does not match the fingerprint in its description. Somebody changed the description, or somebody else answers: the connection was refused.",
    detection: "The fingerprint of the certificate was compared with a=fingerprint of the description.",
    proof: "The certificate's fingerprint computed on the peer's own machine.",
    doubt: "The peer started again between its description and the handshake: then a fresh session agrees.",
    fixes: &[Fix::safe("Find out what changed the description on its way; do not ignore it.")],
    threads: &["sipwise/rtpengine#647"],
    depends_on: &[],
    needs: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        let mismatch = side.dtls.iter().find_map(|(seq, state)| match state {
            DtlsState::FingerprintMismatch { found } => Some((*seq, found)),
            _ => None,
        });
        let Some((seq, found)) = mismatch else { continue };
        let announced = side.descriptions.iter().rfind(|description| description.side == Side::Remote);
        let announced_text = announced.map_or("nothing", |description| description.fingerprint.as_str());
        faults.push(Fault {
            blame: Blame::Signaling,
            severity: Severity::Error,
            summary: format!(
                "{} was told the fingerprint {announced_text} and got a certificate with {found}",
                vantage.name()
            ),
            evidence: announced.map(|description| description.seq).into_iter().chain([seq]).collect(),
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
