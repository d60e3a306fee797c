//! the DTLS handshake failed.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::trace::event::DtlsState;

pub(super) const RULE: Rule = Rule {
    code: "WR602",
    name: "dtls-handshake-failed",
    title: "the DTLS handshake failed",
    meaning: "A path was found and the DTLS handshake over it failed: large datagrams do not pass (certificates are bigger than checks), the versions do not match, or the peer stopped.",
    detection: "The handshake ended with an error or ran into its time limit.",
    proof: "The same session with a lower MTU, or with the other DTLS version.",
    doubt: "A capture with a complete handshake.",
    fixes: &[
        Fix::safe("Try --dtls 1.2 on both sides."),
        Fix::safe("Try a lower MTU on the interface: if that helps, large datagrams get lost on the path."),
    ],
    threads: &["coder/coder#13327"],
    depends_on: &["WR601", "WR705", "WR603"],
    needs: &[],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults = Vec::new();
    for vantage in session.recorded() {
        let side = session.evidence.side(vantage);
        let Some((seq, DtlsState::Failed { detail })) = side.dtls.last() else { continue };
        faults.push(Fault {
            blame: Blame::Path,
            severity: Severity::Error,
            summary: format!("The DTLS handshake of {} failed: {detail}", vantage.name()),
            evidence: vec![*seq],
            ..Fault::default()
        });
    }
    Examination::of(faults)
}
